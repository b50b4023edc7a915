//! `cargo xtask services`: the servers that pipelines talk to during development. Tests start their own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::clickhouse;
use crate::kafka::{self, Broker};
use crate::postgres::{self, Server};
use crate::{Missing, packages, root, run, target_folder};

/// Arguments of `cargo xtask services`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
    /// Only this server
    #[arg(long, value_enum, global = true)]
    pub only: Option<Service>,
}

/// What to do with the servers.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Start those that do not run, and print how they are reached
    Up,
    /// Stop them
    Down {
        /// Delete what they have stored
        #[arg(long)]
        remove: bool,
    },
    /// Say where they are and whether they run
    Status,
}

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Service {
    /// Kafka
    Kafka,
    /// PostgreSQL, which by Docker is TimescaleDB
    Postgres,
    /// ClickHouse, of which Docker has a server and PyPI the engine
    Clickhouse,
}

/// The servers by Docker. `docker-compose.yml` is the whole system, with passwords and other ports.
const COMPOSE_FILE: &str = "docker-compose.servers.yml";

const SERVICES: [Service; 3] = [Service::Kafka, Service::Postgres, Service::Clickhouse];

/// Who runs a server.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Somebody else; what the variable says.
    Given(String),
    /// The programs of this machine.
    Here,
    /// Docker, by [`COMPOSE_FILE`].
    Docker,
}

/// Starts, stops, or looks.
pub fn command(arguments: &Arguments) -> Result<()> {
    let is_meant = |service: &Service| arguments.only.is_none_or(|only| only == *service);
    SERVICES.into_iter().filter(is_meant).try_for_each(|service| match arguments.action {
        Action::Up => service.up(),
        Action::Down { remove } => service.down(remove),
        Action::Status => service.status(),
    })
}

impl Service {
    /// Its name, also in [`COMPOSE_FILE`].
    fn name(self) -> &'static str {
        match self {
            Service::Kafka => "kafka",
            Service::Postgres => "postgres",
            Service::Clickhouse => "clickhouse",
        }
    }

    /// Names a server that is used instead of one that is started here.
    fn variable(self) -> &'static str {
        match self {
            Service::Kafka => "KAFKA_BROKERS",
            Service::Postgres => "POSTGRES_URL",
            Service::Clickhouse => "CLICKHOUSE_URL",
        }
    }

    fn port(self) -> u16 {
        match self {
            Service::Kafka => 9092,
            Service::Postgres => 5432,
            Service::Clickhouse => 8123,
        }
    }

    fn address(self) -> String {
        kafka::address(self.port())
    }

    /// What the variable must have for the server that is started here.
    fn value(self) -> String {
        match self {
            Service::Kafka => self.address(),
            Service::Postgres => format!("postgres://{}@{}/postgres", postgres::USER, self.address()),
            Service::Clickhouse => format!("http://{}", self.address()),
        }
    }

    fn folder(self) -> PathBuf {
        let folder = target_folder().join("services").join(self.name());
        if self == Service::Postgres { postgres::reachable(folder) } else { folder }
    }

    fn process(self) -> Result<Option<u32>> {
        match self {
            Service::Kafka => kafka::detached_process(&self.folder()),
            Service::Postgres => postgres::detached_process(&self.folder()),
            Service::Clickhouse => clickhouse::detached_process(&self.folder()),
        }
    }

    fn has_programs(self) -> bool {
        match self {
            Service::Kafka => packages::has_java_and_maven(),
            Service::Postgres => postgres::programs().is_some(),
            Service::Clickhouse => packages::has_python(),
        }
    }

    /// The way that this machine has without installing anything.
    fn present(self) -> Option<Way> {
        match std::env::var(self.variable()) {
            Ok(given) if !given.is_empty() => Some(Way::Given(given)),
            _ if self.has_programs() => Some(Way::Here),
            _ if has_docker() => Some(Way::Docker),
            _ => None,
        }
    }

    /// The first way that this machine has; programs are installed when that needs nobody's consent.
    fn choose(self) -> Result<Way> {
        match self.present() {
            Some(Way::Docker) | None => {}
            Some(way) => return Ok(way),
        }
        let installed = match self {
            Service::Kafka => packages::for_broker(),
            Service::Postgres => packages::for_postgres(),
            Service::Clickhouse => packages::for_clickhouse(),
        };
        match installed {
            Ok(()) => Ok(Way::Here),
            Err(_) if has_docker() => Ok(Way::Docker),
            Err(error) => Err(error),
        }
    }

    fn up(self) -> Result<()> {
        let value = match self.choose()? {
            Way::Given(given) => {
                check(self.variable(), &given)?;
                given
            }
            Way::Here => {
                self.start()?;
                self.value()
            }
            Way::Docker => {
                run(docker_compose().args(["up", "--detach", "--wait", self.name()]))?;
                self.value()
            }
        };
        println!("{}={value}", self.variable());
        Ok(())
    }

    /// Starts the server with this machine's programs, unless it runs already.
    fn start(self) -> Result<()> {
        let name = self.name();
        if let Some(id) = self.process()? {
            eprintln!("services: {name} runs already as process {id}");
            return Ok(());
        }
        if !kafka::is_free(self.port()) {
            let (address, variable) = (self.address(), self.variable());
            let text = format!("{address} is taken by another program; stop it, or set {variable} to use it");
            return Err(Missing(text).into());
        }
        let (folder, port) = (self.folder(), Some(self.port()));
        let id = match self {
            Service::Kafka => Broker::detached(kafka::Options { folder, port, ..Default::default() })?,
            Service::Postgres => Server::detached(postgres::Options { folder, port, ..Default::default() })?,
            Service::Clickhouse => {
                clickhouse::Server::detached(clickhouse::Options { folder, port, ..Default::default() })?
            }
        };
        eprintln!("services: {name} runs as process {id}, data in `{}`", self.folder().display());
        Ok(())
    }

    fn down(self, remove: bool) -> Result<()> {
        let (name, folder) = (self.name(), self.folder());
        // Whatever the environment says now, what was started here is stopped here.
        let is_stopped = match self {
            Service::Kafka => kafka::stop_detached(&folder)?,
            Service::Postgres => postgres::stop_detached(&folder)?,
            Service::Clickhouse => clickhouse::stop_detached(&folder)?,
        };
        if is_stopped {
            eprintln!("services: {name} is stopped");
        } else if self.present() == Some(Way::Docker) {
            let mut down = docker_compose();
            down.args(["rm", "--stop", "--force"]);
            if remove {
                down.arg("--volumes");
            }
            run(down.arg(name))?;
        } else {
            eprintln!("services: no {name} of this command runs");
        }
        if remove && folder.exists() {
            std::fs::remove_dir_all(&folder)?;
            eprintln!("services: `{}` is deleted", folder.display());
        }
        Ok(())
    }

    fn status(self) -> Result<()> {
        let (name, address) = (self.name(), self.address());
        let state = |address: &str| if kafka::answers(address) { "answers" } else { "does not answer" };
        if let Some(id) = self.process()? {
            println!("{name} {address} process {id}: {}", state(&address));
            return Ok(());
        }
        match self.present() {
            Some(Way::Given(given)) => {
                for address in addresses(&given) {
                    println!("{name} {address} from {}: {}", self.variable(), state(&address));
                }
            }
            Some(Way::Docker) => run(docker_compose().arg("ps").arg(name))?,
            Some(Way::Here) | None => println!("{name} {address}: not running"),
        }
        Ok(())
    }
}

/// The addresses of what a variable says: `host:port` with commas between them, or a URL of them.
fn addresses(given: &str) -> Vec<String> {
    let hosts = given.split_once("://").map_or(given, |(_, rest)| rest);
    let hosts = hosts.split('/').next().unwrap_or_default();
    let hosts = hosts.rsplit('@').next().unwrap_or_default();
    hosts.split(',').map(str::to_owned).collect()
}

/// Whether one of the servers takes connections: a client needs one to find the others.
fn check(variable: &str, given: &str) -> Result<()> {
    let addresses = addresses(given);
    if addresses.iter().any(|address| kafka::answers(address)) {
        return Ok(());
    }
    let addresses = addresses.join(",");
    Err(Missing(format!(
        "nobody answers at {addresses}, which is in {variable}; start it, or unset {variable}"
    ))
    .into())
}

fn docker_compose() -> Command {
    let mut command = Command::new("docker");
    command.current_dir(root()).args(["compose", "--file", COMPOSE_FILE]);
    command
}

/// Whether Docker's server answers, which the program alone does not tell.
fn has_docker() -> bool {
    let mut docker = Command::new("docker");
    docker.arg("info").stdin(Stdio::null());
    docker.output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_servers_are_enough_when_one_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        check("KAFKA_BROKERS", &format!("127.0.0.1:1,{address}")).unwrap();
        check("POSTGRES_URL", &format!("postgres://user:secret@{address}/market")).unwrap();
        let error = check("POSTGRES_URL", "postgres://user:secret@127.0.0.1:1/market").unwrap_err();
        assert!(error.is::<Missing>());
        assert!(
            error.to_string().starts_with("nobody answers at 127.0.0.1:1, which is in POSTGRES_URL"),
            "{error}"
        );
    }
}
