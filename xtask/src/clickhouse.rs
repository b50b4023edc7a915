//! Real servers of ClickHouse on this machine, for tests, measurements and `cargo xtask services`.
//!
//! No registry has a server of today. Its engine is in the package `chdb` of PyPI, and `clickhouse_server.py` lets it be
//! asked over HTTP; Debian has a whole server, of 2018. Both listen on 127.0.0.1 only, keep their data in a folder of
//! their own, and end with the process that started them.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::kafka::{free_port, last_lines};
use crate::{attached, detached};
use crate::{packages, root, target_folder};

/// The version of `chdb`, whose engine is that of ClickHouse 26.9.
pub const CHDB_VERSION: &str = "4.4.0";

/// What is installed beside it: the server decompresses with it.
const PYARROW: &str = "pyarrow";

/// A busy machine is slow; a server that needs longer than this hangs.
const START: Duration = Duration::from_secs(60);

/// Which ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The engine of today behind a small server.
    #[default]
    Chdb,
    /// Debian's server 18.16.
    Old,
}

/// What a server is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The folder for its data, its settings and its log; made when absent, kept afterwards.
    pub folder: PathBuf,
    /// The port; a free one when not given.
    pub port: Option<u16>,
    /// Which ClickHouse.
    pub engine: Engine,
    /// The one user and its password; `default` without a password when not given. Not for [`Engine::Old`].
    pub user: Option<(String, String)>,
    /// Speaks TLS only, and with clients alone that have a certificate. Not for [`Engine::Old`].
    pub tls: Option<Tls>,
}

/// Files of TLS, in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
    /// The certificate of the authority that has signed those of the clients.
    pub authority: PathBuf,
}

/// A running server, or one that has been killed and can be started again. It ends with this value, and with this
/// process however that ends.
#[derive(Debug)]
pub struct Server {
    options: Options,
    port: u16,
    process: Option<(Child, ChildStdin)>,
}

impl Server {
    /// Starts a server and waits until it answers. What it needs is downloaded when it is not there yet.
    pub fn start(options: Options) -> Result<Server> {
        let mut server = Server::prepare(options)?;
        server.restart()?;
        Ok(server)
    }

    /// Starts a server that outlives this process, waits until it answers, and gives the number of its process. See
    /// [`detached_process`] and [`stop_detached`].
    pub fn detached(options: Options) -> Result<u32> {
        std::fs::create_dir_all(&options.folder)?;
        let mut lock = detached::lock(&pid_file(&options.folder))?;
        let server = Server::prepare(options)?;
        let log_start = server.log_length();
        let mut command = server.command()?;
        lock.hand_to(&mut command)?;
        let mut child = server.spawn(&mut command)?;
        lock.keep(&child)?;
        let ready = server.wait_until_ready(&mut child, log_start);
        detached::started(child, ready)
    }

    /// Its address, such as `127.0.0.1:20123`.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its address as pipelines want it.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// The file with its warnings and errors.
    pub fn log(&self) -> PathBuf {
        self.options.folder.join("clickhouse.log")
    }

    /// The number of the process, unless it has been killed.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|(child, _)| child.id())
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        if let Some((mut child, _)) = self.process.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts the server again, with the same port and the same data, and waits until it answers. One that still runs
    /// is killed first.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let log_start = self.log_length();
        let mut command = attached::command(&self.command()?, "KILL");
        let mut child = self.spawn(&mut command)?;
        let stdin = child.stdin.take().context("the standard input is piped")?;
        let ready = self.wait_until_ready(&mut child, log_start);
        self.process = Some((child, stdin));
        if ready.is_err() {
            self.kill()?;
        }
        ready
    }

    /// Makes the server do nothing; its connections stay open.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Makes a paused server go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let (child, _) = self.process.as_ref().context("the server does not run")?;
        kill_process(Pid::from_child(child), signal)?;
        Ok(())
    }

    /// Chooses the port and writes the settings.
    fn prepare(options: Options) -> Result<Server> {
        std::fs::create_dir_all(&options.folder)
            .with_context(|| format!("cannot make `{}`", options.folder.display()))?;
        let port = options.port.map_or_else(free_port, Ok)?;
        if options.engine == Engine::Old {
            packages::for_old_clickhouse()?;
            let (config, users) = old_settings(&options.folder, port)?;
            std::fs::write(options.folder.join("config.xml"), config)?;
            std::fs::write(options.folder.join("users.xml"), users)?;
        }
        Ok(Server { options, port, process: None })
    }

    /// The command that is the server.
    fn command(&self) -> Result<Command> {
        let folder = &self.options.folder;
        if self.options.engine == Engine::Old {
            let mut command = Command::new(packages::OLD_CLICKHOUSE);
            command.arg(format!("--config-file={}", folder.join("config.xml").display()));
            return Ok(command);
        }
        let mut command = Command::new(chdb()?);
        command.arg(root().join("xtask/src/clickhouse_server.py"));
        command.arg(folder.join("data")).arg(self.port.to_string());
        if let Some((user, password)) = &self.options.user {
            command.args(["--user", user, "--password", password]);
        }
        if let Some(Tls { certificate, key, authority }) = &self.options.tls {
            command.arg("--tls").args([certificate, key, authority]);
        }
        Ok(command)
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let log = File::options().append(true).create(true).open(self.log())?;
        command.stdout(log.try_clone()?).stderr(log).spawn().context("cannot start ClickHouse")
    }

    /// Waits until it answers.
    fn wait_until_ready(&self, child: &mut Child, log_start: u64) -> Result<()> {
        let started = Instant::now();
        loop {
            let ended = child.try_wait()?;
            // Only its clients could ask one that speaks TLS.
            let is_there = match self.options.tls {
                Some(_) => crate::kafka::answers(&self.address().to_string()),
                None => is_ready(self.address()),
            };
            if ended.is_none() && is_there {
                return Ok(());
            }
            if ended.is_some() || started.elapsed() > START {
                let mut log = File::open(self.log())?;
                log.seek(std::io::SeekFrom::Start(log_start))?;
                let mut words = Vec::new();
                log.read_to_end(&mut words)?;
                let words = String::from_utf8_lossy(&words);
                let why = match ended {
                    Some(status) => format!("ClickHouse ended with {status} before it answered"),
                    None => format!("ClickHouse did not answer within {} s", START.as_secs()),
                };
                bail!("{why}; the end of `{}`:\n{}", self.log().display(), last_lines(&words));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is there to be told; the server ends with its standard input in any case.
        let _ = self.kill();
    }
}

/// The number of the process of the detached server that runs in this folder.
pub fn detached_process(folder: &Path) -> Result<Option<u32>> {
    detached::process(&pid_file(folder))
}

/// Stops the detached server that runs in this folder and waits for its end; says whether there was one.
pub fn stop_detached(folder: &Path) -> Result<bool> {
    detached::stop(&pid_file(folder), Signal::TERM)
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("clickhouse.pid")
}

/// Whether the server says that it is there.
fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return false };
    let asked = stream.set_read_timeout(Some(Duration::from_secs(2))).and_then(|()| {
        stream.write_all(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    });
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("Ok.")
}

/// The Python that has `chdb`, which is installed when it is not there yet.
pub fn chdb() -> Result<PathBuf> {
    let services = target_folder().join("services");
    std::fs::create_dir_all(&services)?;
    let folder = services.join(format!("chdb-{CHDB_VERSION}"));
    let python = folder.join("bin/python");
    // Two processes may want it at the same time: one installs, the other waits.
    let lock = detached::open(&services.join("lock"))?;
    lock.lock()?;
    // Written when all of it is there: half a download is done again.
    let complete = folder.join("complete");
    if complete.is_file() {
        return Ok(python);
    }
    packages::for_clickhouse()?;
    eprintln!("installing chdb {CHDB_VERSION} with pip");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    crate::run(packages::python().args(["-m", "venv"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.arg(format!("chdb=={CHDB_VERSION}")).arg(PYARROW);
    crate::run(&mut pip)?;
    std::fs::write(&complete, "")?;
    Ok(python)
}

/// The settings of the old server: `config.xml` and `users.xml`.
fn old_settings(folder: &Path, port: u16) -> Result<(String, String)> {
    let folder = folder.to_str().context("a path is UTF-8")?;
    let (tcp, interserver) = (free_port()?, free_port()?);
    let config = format!(
        "<yandex>\n\
         <logger><level>warning</level><console>1</console></logger>\n\
         <http_port>{port}</http_port><tcp_port>{tcp}</tcp_port>\n\
         <interserver_http_port>{interserver}</interserver_http_port>\n\
         <interserver_http_host>127.0.0.1</interserver_http_host>\n\
         <listen_host>127.0.0.1</listen_host>\n\
         <path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path>\n\
         <users_config>{folder}/users.xml</users_config>\n\
         <default_profile>default</default_profile><default_database>default</default_database>\n\
         <mark_cache_size>104857600</mark_cache_size>\n\
         </yandex>\n"
    );
    let users = "<yandex>\n\
         <profiles><default/></profiles><quotas><default/></quotas>\n\
         <users><default><password></password><networks><ip>127.0.0.1</ip></networks>\
         <profile>default</profile><quota>default</quota></default></users>\n\
         </yandex>\n";
    Ok((config, users.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_comes_back_with_its_port_and_data() {
        let engines = [Engine::Chdb, Engine::Old];
        for engine in
            engines.into_iter().filter(|engine| *engine == Engine::Chdb || cfg!(target_os = "linux"))
        {
            let folder = tempfile::tempdir().unwrap();
            let options = Options { folder: folder.path().to_owned(), engine, ..Options::default() };
            let mut server = Server::start(options).unwrap();
            let address = server.address();
            server.kill().unwrap();
            assert!(!is_ready(address));
            server.restart().unwrap();
            assert!(is_ready(address), "{engine:?}");
        }
    }
}
