//! A real PostgreSQL on this machine, for tests, measurements and `cargo xtask services`.
//!
//! A [`Server`] listens on 127.0.0.1 only, lets everybody in, and ends with the process that started it. Root cannot be
//! a PostgreSQL, so under root it is the user `postgres` of the package.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::attached;
use crate::detached::{self, STOP};
use crate::kafka::{address, free_port, last_lines};

/// The line of the log that says that the server takes connections.
const READY: &str = "database system is ready to accept connections";

/// A busy machine is slow; a server that needs longer than this hangs.
const START: Duration = Duration::from_secs(60);

/// The role that the server begins with, which may do everything.
pub const USER: &str = "postgres";

/// A role of this name must give its password, when somebody makes it; all others are believed.
pub const USER_WITH_PASSWORD: &str = "needs_password";

/// What a server is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The folder for its data and its log; made when absent, kept afterwards. Under root it becomes the property of
    /// the server's user, who must be able to reach it.
    pub folder: PathBuf,
    /// The port; a free one when not given.
    pub port: Option<u16>,
    /// Settings as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// Does not wait for the disk, so that a power cut loses data: for tests.
    pub fast: bool,
}

/// A running server, or one that has been killed and can be started again. It ends with this value, and with this
/// process however that ends.
#[derive(Debug)]
pub struct Server {
    files: Files,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// The server ends when this is closed.
    _stdin: ChildStdin,
}

impl Server {
    /// Starts a server and waits until it takes connections.
    pub fn start(options: Options) -> Result<Server> {
        let mut server = Server { files: Files::prepare(options)?, process: None };
        server.restart()?;
        Ok(server)
    }

    /// Starts a server that outlives this process, waits until it takes connections, and gives the number of its
    /// process. See [`detached_process`] and [`stop_detached`].
    pub fn detached(options: Options) -> Result<u32> {
        std::fs::create_dir_all(&options.folder)?;
        let mut lock = detached::lock(&pid_file(&options.folder))?;
        let files = Files::prepare(options)?;
        let log_start = files.log_length();
        let mut command = files.command();
        lock.hand_to(&mut command)?;
        let mut child = files.spawn(&mut command)?;
        lock.keep(&child)?;
        let ready = files.wait_until_ready(&mut child, log_start);
        detached::started(child, ready)
    }

    /// Where it listens, such as `127.0.0.1:20123`.
    pub fn address(&self) -> String {
        address(self.files.port)
    }

    /// What a pipeline file has as `url` for this database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@{}/{database}", self.address())
    }

    /// The number of the process, unless it has been killed or stopped.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// Ends the server at once, as a crash would: it begins with its recovery the next time.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::QUIT)
    }

    /// Ends its connections and the server.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::INT)
    }

    /// Starts the server again, with the same port and the same data, and waits until it takes connections. One that
    /// still runs is killed first.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let log_start = self.files.log_length();
        // With this signal the server takes its shared memory with it.
        let mut command = attached::command(&self.files.command(), "QUIT");
        self.files.as_user(&mut command);
        let mut child = self.files.spawn(&mut command)?;
        let stdin = child.stdin.take().context("the standard input is piped")?;
        let process = self.process.insert(Process { child, _stdin: stdin });
        let ready = self.files.wait_until_ready(&mut process.child, log_start);
        if ready.is_err() {
            self.kill()?;
        }
        ready
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let started = Instant::now();
        let Some(mut process) = self.process.take() else { return Ok(()) };
        // It can have ended by itself.
        let _ = kill_process(Pid::from_child(&process.child), signal);
        while process.child.try_wait()?.is_none() {
            if started.elapsed() > STOP {
                process.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
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
    detached::stop(&pid_file(folder), Signal::INT)
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("process.pid")
}

/// The folder with the programs of the newest version on this machine: Debian keeps them out of the path.
pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/initdb").is_file())
        .max_by_key(number)
        .map(|path| path.join("bin"));
    newest.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file())
    })
}

/// The folder, or one in `/var/tmp` in its place where the server could not get to it: it does not run as root, and
/// root's home is closed to others.
pub fn reachable(folder: PathBuf) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let is_closed = |above: &Path| {
        std::fs::metadata(above).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
    };
    if !geteuid().is_root() || !folder.ancestors().skip(1).any(is_closed) {
        return folder;
    }
    let name = folder.to_string_lossy().replace('/', "-");
    Path::new("/var/tmp").join(format!("tidegate{name}"))
}

/// The user who is the server, when this process is root's.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let mut ids = line.context("there is no user `postgres`")?.split(':').skip(1).map(str::parse);
    match (ids.next(), ids.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok(Some((user, group))),
        _ => bail!("`/etc/passwd` has no number for the user `postgres`"),
    }
}

/// A server's folder, with all that is decided before it starts.
#[derive(Debug)]
struct Files {
    options: Options,
    programs: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
}

impl Files {
    /// Chooses the port, and makes the data when the folder has none.
    fn prepare(options: Options) -> Result<Files> {
        let programs = programs().context("this machine has no PostgreSQL")?;
        let folder = &options.folder;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let user = unprivileged()?;
        if let Some((user, group)) = user {
            std::os::unix::fs::chown(folder, Some(user), Some(group))?;
        }
        let port = options.port.map_or_else(free_port, Ok)?;
        let files = Files { options, programs, port, user };
        if !files.data().join("PG_VERSION").exists() {
            files.make_data()?;
        }
        Ok(files)
    }

    fn data(&self) -> PathBuf {
        self.options.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.options.folder.join("postgres.log")
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    fn as_user(&self, command: &mut Command) {
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
    }

    fn make_data(&self) -> Result<()> {
        let mut initdb = Command::new(self.programs.join("initdb"));
        initdb.args([
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--username",
            USER,
            "--pgdata",
        ]);
        initdb.arg(self.data()).current_dir(&self.options.folder).stdin(Stdio::null());
        self.as_user(&mut initdb);
        let output = initdb.output().context("cannot start `initdb`")?;
        if !output.status.success() {
            bail!(
                "`initdb` ended with {}:\n{}",
                output.status,
                last_lines(&String::from_utf8_lossy(&output.stderr))
            );
        }
        let rules = self.data().join("pg_hba.conf");
        let trusting = std::fs::read_to_string(&rules)?;
        let with_password = format!("host all {USER_WITH_PASSWORD} all scram-sha-256\n");
        Ok(std::fs::write(&rules, with_password + &trusting)?)
    }

    /// The command that is the server.
    fn command(&self) -> Command {
        let mut command = Command::new(self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).current_dir(&self.options.folder).env("LC_ALL", "C");
        let port = self.port.to_string();
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", ""),
            ("lc_messages", "C"),
            // A checkpoint in the middle of a measurement or a test would be taken for something else.
            ("max_wal_size", "4GB"),
            ("checkpoint_timeout", "30min"),
        ];
        if self.options.fast {
            settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
        }
        let own = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in settings.into_iter().chain(own) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        self.as_user(&mut command);
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let log = File::options().append(true).create(true).open(self.log())?;
        command.stdout(log.try_clone()?).stderr(log).spawn().context("cannot start postgres")
    }

    /// Waits until the log says so. What it says before `log_start` is of another process.
    fn wait_until_ready(&self, child: &mut Child, log_start: u64) -> Result<()> {
        let started = Instant::now();
        loop {
            // Looked at before the log is read, so that the last lines of a process that has ended are in it.
            let ended = child.try_wait()?;
            let mut log = File::open(self.log())?;
            log.seek(std::io::SeekFrom::Start(log_start))?;
            let mut words = Vec::new();
            log.read_to_end(&mut words)?;
            let words = String::from_utf8_lossy(&words);
            if ended.is_none() && words.contains(READY) {
                return Ok(());
            }
            if ended.is_some() || started.elapsed() > START {
                let why = match ended {
                    Some(status) => format!("postgres ended with {status} before it was ready"),
                    None => format!("postgres was not ready within {} s", START.as_secs()),
                };
                bail!("{why}; the end of `{}`:\n{}", self.log().display(), last_lines(&words));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_closed_to_others_is_not_used_by_root() {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir().unwrap();
        let (folder, closed) = (above.path().join("data"), above.path());
        std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(reachable(folder.clone()), folder);
        std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let elsewhere = reachable(folder.clone());
        assert_eq!(elsewhere.starts_with("/var/tmp"), geteuid().is_root());
    }
    use crate::kafka::answers;

    fn options(folder: &Path) -> Options {
        Options { folder: folder.to_owned(), fast: true, ..Default::default() }
    }

    /// What `psql` answers to a statement.
    fn ask(url: &str, statement: &str) -> String {
        let mut psql = Command::new(programs().unwrap().join("psql"));
        let output = psql.args(["--no-psqlrc", "-At", url, "-c", statement]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn a_server_comes_back_with_its_port_and_data_and_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let settings = vec![("max_connections".to_owned(), "7".to_owned())];
        let mut server = Server::start(Options { settings, ..options(folder.path()) }).unwrap();
        let url = server.url("postgres");
        assert_eq!(ask(&url, "SHOW max_connections"), "7");
        ask(&url, "CREATE TABLE kept (number int)");
        server.kill().unwrap();
        assert!(!answers(&server.address()) && server.process_id().is_none());
        server.restart().unwrap();
        assert_eq!(ask(&url, "SELECT count(*) FROM kept"), "0");
        server.stop().unwrap();
        server.restart().unwrap();
        assert_eq!(ask(&url, "SELECT count(*) FROM kept"), "0");
        let id = Pid::from_child(&server.process.as_ref().unwrap().child);
        drop(server);
        assert!(rustix::process::test_kill_process(id).is_err(), "the process is still there");
    }

    #[test]
    fn a_detached_server_runs_until_it_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(detached_process(folder.path()).unwrap(), None);
        let port = free_port().unwrap();
        let id = Server::detached(Options { port: Some(port), ..options(folder.path()) }).unwrap();
        let found = detached_process(folder.path());
        let answered = answers(&address(port));
        assert!(stop_detached(folder.path()).unwrap());
        assert!(answered && found.unwrap() == Some(id));
        assert!(!answers(&address(port)) && !stop_detached(folder.path()).unwrap());
    }

    #[test]
    fn a_server_that_cannot_start_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let settings = vec![("no_such_setting".to_owned(), "7".to_owned())];
        let error = Server::start(Options { settings, ..options(folder.path()) }).unwrap_err().to_string();
        assert!(error.contains("before it was ready") && error.contains("no_such_setting"), "{error}");
    }
}
