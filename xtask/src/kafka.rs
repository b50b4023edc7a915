//! A real Kafka broker on this machine, for tests, measurements and `cargo xtask services`.
//!
//! Its jars come from Maven Central and lie in `target/services`. A [`Broker`] is one process that is broker and
//! controller at once, listens on 127.0.0.1 only, and ends with the process that started it.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Seek};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::attached;
use crate::detached::{self, STOP};
use crate::{packages, target_folder};

/// The newest version of which Maven Central has both the broker and its tools.
pub const VERSION: &str = "4.3.1";

/// What Maven downloads. Kafka writes no log without a binding of slf4j, and this one needs no file of its own.
const JARS: [(&str, &str, &str); 3] = [
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
];

/// The line of the log that says that the broker is known to its controller and serves requests.
const READY: &str = "Kafka Server started";

/// A busy machine is slow; a broker that needs longer than this hangs.
const START: Duration = Duration::from_secs(60);

/// How long to wait for an answer from a port of this machine.
const CONNECT: Duration = Duration::from_secs(2);

/// How many lines of the log an error shows.
const SHOWN_LINES: usize = 12;

/// What a broker is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The folder for its data, its settings and its log; made when absent, kept afterwards.
    pub folder: PathBuf,
    /// The port of the listener without encryption; a free one when not given.
    pub port: Option<u16>,
    /// Listeners beside that one: name and protocol, such as `SASL` and `SASL_PLAINTEXT`. Their ports are free
    /// ones, see [`Broker::address_of`].
    pub listeners: Vec<(String, String)>,
    /// More lines of `server.properties`; one whose key is set in any case counts instead of that line.
    pub properties: Vec<(String, String)>,
    /// Users that exist from the start, in the form of Kafka's tool:
    /// `SCRAM-SHA-256=[name=alice,password=secret]`. Only a new folder gets them.
    pub users: Vec<String>,
    /// Starts sooner, takes less memory, and is slower under load: for tests.
    pub fast: bool,
    /// The cluster of another broker, to which this one belongs as the second.
    pub joins: Option<Cluster>,
}

/// What a second broker must know of the first.
#[derive(Debug, Clone)]
pub struct Cluster {
    id: String,
    controller_port: u16,
}

/// A running broker, or one that has been killed and can be started again. It ends with this value, and with
/// this process however that ends.
#[derive(Debug)]
pub struct Broker {
    files: Files,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// The broker is killed when this is closed.
    _stdin: ChildStdin,
}

impl Broker {
    /// Starts a broker and waits until it is ready. The jars are downloaded when they are not there yet.
    pub fn start(options: Options) -> Result<Broker> {
        let mut broker = Broker { files: Files::prepare(options)?, process: None };
        broker.restart()?;
        Ok(broker)
    }

    /// Starts a broker that outlives this process, waits until it is ready, and gives the number of its process.
    /// See [`detached_process`] and [`stop_detached`].
    pub fn detached(options: Options) -> Result<u32> {
        std::fs::create_dir_all(&options.folder)?;
        let mut lock = detached::lock(&pid_file(&options.folder))?;
        let files = Files::prepare(options)?;
        let log_start = files.log_length();
        let mut command = files.java();
        lock.hand_to(&mut command)?;
        let mut child = files.spawn(&mut command)?;
        lock.keep(&child)?;
        let ready = files.wait_until_ready(&mut child, log_start);
        detached::started(child, ready)
    }

    /// The address of the listener without encryption, such as `127.0.0.1:20123`.
    pub fn address(&self) -> String {
        address(self.files.port)
    }

    /// The address of one of the listeners of the options.
    pub fn address_of(&self, listener: &str) -> Option<String> {
        let place = self.files.options.listeners.iter().position(|(name, _)| name == listener)?;
        Some(address(self.files.listener_ports[place]))
    }

    /// Its cluster, for a broker that [joins](Options::joins) it.
    pub fn cluster(&self) -> Result<Cluster> {
        let path = self.files.data().join("meta.properties");
        let content = std::fs::read_to_string(&path)?;
        let id = content.lines().find_map(|line| line.strip_prefix("cluster.id="));
        let id = id.with_context(|| format!("`{}` has no `cluster.id`", path.display()))?;
        Ok(Cluster { id: id.into(), controller_port: self.files.controller_port })
    }

    /// The file with the warnings and errors of the broker.
    pub fn log(&self) -> PathBuf {
        self.files.log()
    }

    /// The number of the process, unless it has been killed or stopped.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// Ends the broker at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.child.kill()?;
            process.child.wait()?;
        }
        Ok(())
    }

    /// Asks the broker to end and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        let started = Instant::now();
        if self.process.is_some() {
            self.signal(Signal::TERM)?;
        }
        while let Some(process) = &mut self.process {
            if process.child.try_wait()?.is_some() {
                self.process = None;
            } else if started.elapsed() > STOP {
                self.kill()?;
                bail!("kafka did not stop within {} s and was killed", STOP.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Starts the broker again, with the same ports and the same data, and waits until it is ready. One that still
    /// runs is killed first.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let log_start = self.files.log_length();
        let mut command = attached::command(&self.files.java(), "KILL");
        let mut child = self.files.spawn(&mut command)?;
        let stdin = child.stdin.take().context("the standard input is piped")?;
        let process = self.process.insert(Process { child, _stdin: stdin });
        let ready = self.files.wait_until_ready(&mut process.child, log_start);
        if ready.is_err() {
            self.kill()?;
        }
        ready
    }

    /// Makes the broker do nothing; its connections stay open.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Makes a paused broker go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Runs one of Kafka's tools, such as `org.apache.kafka.tools.TopicCommand`, to its end; gives what it writes
    /// on standard output. Most of them want `--bootstrap-server` and [`Broker::address`] among the arguments.
    pub fn run_tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        self.files.run_tool(class, arguments)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref().context("the broker does not run")?;
        kill_process(Pid::from_child(&process.child), signal)?;
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nobody is there to be told; the broker ends with its standard input in any case.
        let _ = self.kill();
    }
}

/// The number of the process of the detached broker that runs in this folder.
pub fn detached_process(folder: &Path) -> Result<Option<u32>> {
    detached::process(&pid_file(folder))
}

/// Stops the detached broker that runs in this folder and waits for its end; says whether there was one.
pub fn stop_detached(folder: &Path) -> Result<bool> {
    detached::stop(&pid_file(folder), Signal::TERM)
}

/// A broker's folder, with all that is decided before it starts.
#[derive(Debug)]
struct Files {
    options: Options,
    jars: PathBuf,
    port: u16,
    controller_port: u16,
    listener_ports: Vec<u16>,
}

impl Files {
    /// Chooses the ports, writes the settings, and makes the storage when the folder has none.
    fn prepare(options: Options) -> Result<Files> {
        let jars = jars()?;
        std::fs::create_dir_all(&options.folder)
            .with_context(|| format!("cannot make `{}`", options.folder.display()))?;
        let port = options.port.map_or_else(free_port, Ok)?;
        let controller_port =
            options.joins.as_ref().map_or_else(free_port, |cluster| Ok(cluster.controller_port))?;
        let listener_ports = options.listeners.iter().map(|_| free_port()).collect::<Result<_>>()?;
        let files = Files { options, jars, port, controller_port, listener_ports };
        std::fs::write(files.properties(), files.settings()?)?;
        if !files.data().join("meta.properties").exists() {
            files.format().context("kafka's storage cannot be made")?;
        }
        Ok(files)
    }

    fn properties(&self) -> PathBuf {
        self.options.folder.join("server.properties")
    }

    fn data(&self) -> PathBuf {
        self.options.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.options.folder.join("kafka.log")
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    /// The content of `server.properties`. Of two lines with the same key the last one counts.
    fn settings(&self) -> Result<String> {
        let mut listeners = vec![format!("PLAINTEXT://{}", address(self.port))];
        let mut protocols = vec!["CONTROLLER:PLAINTEXT".to_owned(), "PLAINTEXT:PLAINTEXT".to_owned()];
        for ((name, protocol), port) in self.options.listeners.iter().zip(&self.listener_ports) {
            listeners.push(format!("{name}://{}", address(*port)));
            protocols.push(format!("{name}:{protocol}"));
        }
        let advertised = listeners.join(",");
        let controller = address(self.controller_port);
        let (roles, id, own_controller) = match self.options.joins {
            None => ("broker,controller", "1", format!(",CONTROLLER://{controller}")),
            Some(_) => ("broker", "2", String::new()),
        };
        let data = self.data();
        let lines = [
            ("process.roles", roles),
            ("node.id", id),
            ("controller.quorum.voters", &format!("1@{controller}")),
            ("controller.listener.names", "CONTROLLER"),
            ("listeners", &format!("{advertised}{own_controller}")),
            ("advertised.listeners", &advertised),
            ("listener.security.protocol.map", &protocols.join(",")),
            ("inter.broker.listener.name", "PLAINTEXT"),
            ("log.dirs", data.to_str().context("a path is UTF-8")?),
            // There is one broker, so nothing can be replicated.
            ("default.replication.factor", "1"),
            ("min.insync.replicas", "1"),
            ("offsets.topic.replication.factor", "1"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
            ("share.coordinator.state.topic.replication.factor", "1"),
            ("share.coordinator.state.topic.min.isr", "1"),
            // Fifty partitions each would be made at the first use, while a client waits.
            ("offsets.topic.num.partitions", "4"),
            ("transaction.state.log.num.partitions", "4"),
            ("share.coordinator.state.topic.num.partitions", "4"),
            // A topic with a wrong name is to be an error.
            ("auto.create.topics.enable", "false"),
            // Nobody else will join a group of a test, and a dead member is to be noticed soon.
            ("group.initial.rebalance.delay.ms", "0"),
            ("group.min.session.timeout.ms", "1000"),
            // A broker that was killed may come back only when the controller has given up its former life.
            ("broker.session.timeout.ms", "2000"),
            ("broker.heartbeat.interval.ms", "500"),
        ];
        let lines = lines.into_iter().map(|(key, value)| line(key, value));
        let own = self.options.properties.iter().map(|(key, value)| line(key, value));
        Ok(lines.chain(own).collect())
    }

    fn format(&self) -> Result<()> {
        let properties = self.properties();
        let properties = properties.to_str().context("a path is UTF-8")?;
        let cluster = self.options.joins.as_ref().map_or_else(cluster_id, |cluster| cluster.id.clone());
        let mut arguments = vec!["format", "--cluster-id", &cluster, "--config", properties];
        for user in &self.options.users {
            arguments.extend(["--add-scram", user]);
        }
        self.run_tool("kafka.tools.StorageTool", &arguments)?;
        Ok(())
    }

    fn run_tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        let mut java = packages::java();
        java.args(["-Xmx256m"]).args(SHORT_LIVED).args(LOG).arg("-cp").arg(self.class_path());
        let output = java.arg(class).args(arguments).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start `{class}`"))?;
        let stdout = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if !output.status.success() {
            let words = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
            bail!("`{class}` ended with {}:\n{}", output.status, last_lines(&words));
        }
        Ok(stdout)
    }

    /// All jars of the folder, as Java reads it.
    fn class_path(&self) -> String {
        format!("{}/*", self.jars.display())
    }

    /// The command that is the broker.
    fn java(&self) -> Command {
        let mut java = packages::java();
        if self.options.fast {
            java.args(["-Xmx256m"]).args(SHORT_LIVED);
        } else {
            java.args(["-Xmx1g"]);
        }
        // This class says when the broker is ready.
        java.args(LOG).arg("-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info");
        java.arg("-cp").arg(self.class_path()).arg("kafka.Kafka").arg(self.properties());
        java
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let log = File::options().append(true).create(true).open(self.log())?;
        command.stdout(log.try_clone()?).stderr(log).spawn().context("cannot start kafka")
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
                bail!("{}; the end of `{}`:\n{}", why(ended), self.log().display(), last_lines(&words));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Compiles less and collects garbage with one thread: what pays in a process of seconds.
const SHORT_LIVED: [&str; 2] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// Warnings and errors go to standard error, with the time of day.
const LOG: [&str; 3] = [
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
];

fn why(ended: Option<ExitStatus>) -> String {
    match ended {
        Some(status) => format!("kafka ended with {status} before it was ready"),
        None => format!("kafka was not ready within {} s", START.as_secs()),
    }
}

/// The last lines of a log, without the places in Java's source that an error came by.
pub(crate) fn last_lines(words: &str) -> String {
    let lines: Vec<&str> = words
        .lines()
        .filter(|line| !line.starts_with('\t') && !line.trim().is_empty())
        .map(|line| line.trim_end())
        .collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// A line of a properties file. Such a file takes a backslash and the end of a line for its own.
fn line(key: &str, value: &str) -> String {
    format!("{key}={}\n", value.replace('\\', "\\\\").replace('\n', "\\n"))
}

/// A name for a new cluster: sixteen bytes, different each time, in the base64 that Kafka writes them in.
fn cluster_id() -> String {
    format!("{:016x}{:05x}A", random(), random() >> 44)
}

/// The standard library's hashes start from random numbers of the system.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

pub(crate) fn address(port: u16) -> String {
    SocketAddr::from(([127, 0, 0, 1], port)).to_string()
}

/// A port on which nobody listens, below those that systems give to outgoing connections. Among those, a client
/// that tries to reach a broker which is down could get the broker's port itself, and then keep it.
pub(crate) fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let port = 15_000 + u16::try_from(random() % 17_000)?;
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 was found")
}

/// Whether nobody listens on this port of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    !answers(&address(port)) && TcpListener::bind(address(port)).is_ok()
}

/// Whether somebody takes connections at this address.
pub fn answers(address: &str) -> bool {
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(address);
    addresses.is_ok_and(|mut addresses| addresses.any(|a| TcpStream::connect_timeout(&a, CONNECT).is_ok()))
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("kafka.pid")
}

/// The folder with the jars of Kafka, which are downloaded when they are not there yet.
pub fn jars() -> Result<PathBuf> {
    let services = target_folder().join("services");
    std::fs::create_dir_all(&services)?;
    let folder = services.join(format!("kafka-{VERSION}"));
    // Two processes may want them at the same time: one downloads, the other waits.
    let lock = detached::open(&services.join("lock"))?;
    lock.lock()?;
    let model = project_object_model();
    // The folder gets its name when it is complete, and is downloaded again when other jars are wanted.
    if std::fs::read_to_string(folder.join("pom.xml")).is_ok_and(|present| present == model) {
        return Ok(folder.join("libs"));
    }
    eprintln!("downloading kafka {VERSION} with mvn");
    // A download that was killed can still be writing into its own folder, so each has a new one.
    let temporary = tempfile::tempdir_in(&services)?;
    let part = temporary.path().join("kafka");
    std::fs::create_dir(&part)?;
    std::fs::write(part.join("pom.xml"), model)?;
    let mut maven = packages::maven();
    maven.current_dir(&part).args(["-q", "-B", "-Dstyle.color=never", "dependency:copy-dependencies"]);
    maven.args(["-DincludeScope=runtime", "-DoutputDirectory=libs"]);
    let output = maven.stdin(Stdio::null()).output().context("cannot start `mvn`")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stdout);
        bail!("kafka {VERSION} cannot be downloaded; `mvn` says\n{}", last_lines(&words));
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::rename(&part, &folder)?;
    Ok(folder.join("libs"))
}

/// What tells Maven to download [`JARS`] and all that they need.
fn project_object_model() -> String {
    let dependencies: String = JARS
        .iter()
        .map(|(group, artifact, version)| {
            format!(
                "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
                 <version>{version}</version></dependency>\n"
            )
        })
        .collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>tidegate</groupId>\n  <artifactId>services</artifactId>\n  <version>1</version>\n  \
         <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn options(folder: &Path) -> Options {
        Options { folder: folder.to_owned(), fast: true, ..Default::default() }
    }

    /// Whether the broker answers the question which requests it knows.
    fn serves(address: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(address) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        // Length, request 18 in version 0, correlation 7, no client name.
        stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255]).unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).is_ok() && answer[4..] == [0, 0, 0, 7]
    }

    #[test]
    fn a_broker_comes_back_with_its_ports_and_data_and_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = Broker::start(Options {
            listeners: vec![("LOGIN".into(), "SASL_PLAINTEXT".into())],
            users: vec!["SCRAM-SHA-256=[name=alice,password=secret]".into()],
            properties: vec![
                ("sasl.enabled.mechanisms".into(), "SCRAM-SHA-256".into()),
                (
                    "listener.name.login.scram-sha-256.sasl.jaas.config".into(),
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;".into(),
                ),
            ],
            ..options(folder.path())
        })
        .unwrap();
        let address = broker.address();
        let login = broker.address_of("LOGIN").unwrap();
        assert!(serves(&address) && serves(&login));
        assert_eq!(broker.address_of("LOGOUT"), None);

        let tool = "org.apache.kafka.tools.TopicCommand";
        let create = ["--bootstrap-server", &address, "--create", "--topic", "candles"];
        assert_eq!(broker.run_tool(tool, &create).unwrap(), "Created topic candles.");
        let error = broker.run_tool(tool, &create).unwrap_err().to_string();
        assert!(error.contains("already exists"), "{error}");

        broker.pause().unwrap();
        assert!(!serves(&address));
        broker.resume().unwrap();
        assert!(serves(&address));

        broker.kill().unwrap();
        assert!(!serves(&address) && broker.process_id().is_none());
        broker.restart().unwrap();
        assert_eq!((broker.address(), broker.address_of("LOGIN")), (address.clone(), Some(login)));
        assert!(serves(&address));
        assert_eq!(broker.run_tool(tool, &["--bootstrap-server", &address, "--list"]).unwrap(), "candles");

        let id = Pid::from_child(&broker.process.as_ref().unwrap().child);
        drop(broker);
        assert!(!serves(&address));
        assert!(rustix::process::test_kill_process(id).is_err(), "the process is still there");
    }

    /// Stops the detached broker when the test fails.
    struct Stopped<'a>(&'a Path);

    impl Drop for Stopped<'_> {
        fn drop(&mut self) {
            let _ = stop_detached(self.0);
        }
    }

    #[test]
    fn a_detached_broker_runs_until_it_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let _stopped = Stopped(folder.path());
        assert_eq!(detached_process(folder.path()).unwrap(), None);
        assert!(!stop_detached(folder.path()).unwrap());
        let port = free_port().unwrap();
        let id = Broker::detached(Options { port: Some(port), ..options(folder.path()) }).unwrap();
        assert!(serves(&address(port)) && !is_free(port));
        assert_eq!(detached_process(folder.path()).unwrap(), Some(id));
        let error = Broker::detached(options(folder.path())).unwrap_err().to_string();
        assert!(error.starts_with("a server runs already in"), "{error}");
        assert!(stop_detached(folder.path()).unwrap());
        assert_eq!(detached_process(folder.path()).unwrap(), None);
        assert!(!serves(&address(port)));
    }

    #[test]
    fn a_broker_that_cannot_start_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let with = |key: &str, value: &str| Options {
            properties: vec![(key.into(), value.into())],
            ..options(folder.path())
        };
        // The tool that makes the storage reads the settings as well.
        let error = format!("{:#}", Broker::start(with("node.id", "one")).unwrap_err());
        assert!(error.contains("kafka's storage cannot be made") && error.contains("value one"), "{error}");
        let error = format!("{:#}", Broker::start(with("authorizer.class.name", "Nobody")).unwrap_err());
        assert!(error.contains("before it was ready") && error.contains("Nobody"), "{error}");
        assert!(!error.contains("\tat "), "{error}");
    }

    #[test]
    fn properties_keep_their_backslashes_and_line_ends() {
        assert_eq!(line("key", "a\\b\nc"), "key=a\\\\b\\nc\n");
    }

    #[test]
    fn names_of_clusters_differ() {
        assert_eq!(cluster_id().len(), 22);
        assert_ne!(cluster_id(), cluster_id());
    }
}
