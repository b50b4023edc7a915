//! `cargo xtask services`: the servers that pipelines talk to during development. Tests start their own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::kafka::{self, Broker, Options};
use crate::{Missing, packages, root, run, target_folder};

/// Names the servers that are used instead of one that is started here.
const BROKERS: &str = "KAFKA_BROKERS";
const PORT: u16 = 9092;
const ADDRESS: &str = "127.0.0.1:9092";

/// Arguments of `cargo xtask services`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
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

/// Who runs the broker.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// Somebody else, at these addresses.
    Given(String),
    /// This machine's Java.
    Java,
    /// Docker, by `docker-compose.yml`.
    Docker,
}

/// Starts, stops, or looks.
pub fn command(arguments: &Arguments) -> Result<()> {
    match arguments.action {
        Action::Up => up(),
        Action::Down { remove } => down(remove),
        Action::Status => status(),
    }
}

impl Way {
    /// The way that this machine has without installing anything.
    fn present() -> Option<Way> {
        match std::env::var(BROKERS) {
            Ok(brokers) if !brokers.is_empty() => Some(Way::Given(brokers)),
            _ if packages::has_java_and_maven() => Some(Way::Java),
            _ if has_docker() => Some(Way::Docker),
            _ => None,
        }
    }

    /// The first way that this machine has; what Java needs is installed when that needs nobody's consent.
    fn choose() -> Result<Way> {
        match Way::present() {
            Some(Way::Docker) | None => {}
            Some(way) => return Ok(way),
        }
        match packages::for_broker() {
            Ok(()) => Ok(Way::Java),
            Err(_) if has_docker() => Ok(Way::Docker),
            Err(error) => Err(error),
        }
    }
}

fn up() -> Result<()> {
    let brokers = match Way::choose()? {
        Way::Given(brokers) => {
            check(&brokers)?;
            brokers
        }
        Way::Java => {
            start()?;
            ADDRESS.to_owned()
        }
        Way::Docker => {
            run(docker_compose().args(["up", "--detach", "--wait", "kafka"]))?;
            ADDRESS.to_owned()
        }
    };
    println!("{BROKERS}={brokers}");
    Ok(())
}

/// Starts a broker with this machine's Java, unless it runs already.
fn start() -> Result<()> {
    if let Some(id) = kafka::detached_process(&folder())? {
        eprintln!("services: kafka runs already as process {id}");
        return Ok(());
    }
    if !kafka::is_free(PORT) {
        let text = format!("{ADDRESS} is taken by another program; stop it, or set {BROKERS} to use it");
        return Err(Missing(text).into());
    }
    let options = Options { folder: folder(), port: Some(PORT), ..Options::default() };
    let id = Broker::detached(options)?;
    eprintln!("services: kafka {} runs as process {id}, data in `{}`", kafka::VERSION, folder().display());
    Ok(())
}

fn down(remove: bool) -> Result<()> {
    // Whatever the environment says now, what was started here is stopped here.
    if kafka::stop_detached(&folder())? {
        eprintln!("services: kafka is stopped");
    } else if Way::present() == Some(Way::Docker) {
        let mut down = docker_compose();
        down.args(["down"]);
        if remove {
            down.arg("--volumes");
        }
        run(&mut down)?;
    } else {
        eprintln!("services: no kafka of this command runs");
    }
    if remove && folder().exists() {
        std::fs::remove_dir_all(folder())?;
        eprintln!("services: `{}` is deleted", folder().display());
    }
    Ok(())
}

fn status() -> Result<()> {
    if let Some(id) = kafka::detached_process(&folder())? {
        let state = if kafka::answers(ADDRESS) { "answers" } else { "does not answer" };
        println!("kafka {ADDRESS} process {id}: {state}");
        return Ok(());
    }
    match Way::present() {
        Some(Way::Given(brokers)) => {
            for address in brokers.split(',') {
                let state = if kafka::answers(address) { "answers" } else { "does not answer" };
                println!("kafka {address} from {BROKERS}: {state}");
            }
        }
        Some(Way::Docker) => run(docker_compose().arg("ps"))?,
        Some(Way::Java) | None => println!("kafka {ADDRESS}: not running"),
    }
    Ok(())
}

/// Whether one of the servers takes connections: a client needs one to find the others.
fn check(brokers: &str) -> Result<()> {
    if brokers.split(',').any(kafka::answers) {
        return Ok(());
    }
    Err(Missing(format!("nobody answers at {brokers}, which is in {BROKERS}; start it, or unset {BROKERS}"))
        .into())
}

fn folder() -> PathBuf {
    target_folder().join("services/kafka")
}

fn docker_compose() -> Command {
    let mut command = Command::new("docker");
    command.current_dir(root()).arg("compose");
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
        check(&format!("127.0.0.1:1,{address}")).unwrap();
        let error = check("127.0.0.1:1").unwrap_err();
        assert!(error.is::<Missing>());
        assert!(error.to_string().starts_with("nobody answers at 127.0.0.1:1"), "{error}");
    }
}
