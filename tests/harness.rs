//! What the end-to-end tests share: a folder with a pipeline file in it, and the real binary that runs it.

pub mod clickhouse;
pub mod deploy;
pub mod exchanges;
pub mod kafka;
pub mod postgres;
pub mod proxy;
pub mod system;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The time that rules are told: later than all rows of the tests.
pub const NOW: &str = "2026-02-01T00:00:00Z";

/// A busy machine is slow; a run that takes longer than this hangs.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The three rules, for candles of the three exchanges.
pub const RULES: &str = "\
rules:
  - name: validate
    component: validate
    settings: { sources: [binance, coinbase, kraken], max_future: 5m, max_jump_factor: 3 }
  - { name: dedup, component: dedup, settings: { window: 24h } }
  - { name: enrich, component: enrich }
";

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder of the rules.
pub fn guests() -> PathBuf {
    let guests = workspace().join("target/guests");
    for name in ["validate", "dedup", "enrich", "binance", "coinbase", "kraken"] {
        assert!(guests.join(format!("{name}.wasm")).is_file(), "run `cargo xtask guests` first");
    }
    guests
}

/// A component of the one world of a contract (`rule.wit`), out of the text of its core module.
pub fn component(module: &str, contract: &str) -> Vec<u8> {
    let mut module = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_file(workspace().join("wit").join(contract)).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A temporary folder for a pipeline and all of its files.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Adds to the end of a file.
    pub fn append(&self, name: &str, content: impl AsRef<[u8]>) {
        let mut file = File::options().append(true).open(self.path(name)).unwrap();
        std::io::Write::write_all(&mut file, content.as_ref()).unwrap();
    }

    /// Writes the pipeline file `p.yaml`: its name is `test`, its source `source`, and the rest is `rest`.
    pub fn pipeline(&self, source: &str, rest: &str) {
        self.write("p.yaml", format!("name: test\nsource: {{ file: {{ path: {source} }} }}\n{rest}"));
    }

    /// `tidegate run p.yaml`, ready to start.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.current_dir(self.0.path()).args(["run", "p.yaml", "--json", "--now", NOW, "--guests"]);
        command.arg(guests());
        command
    }

    /// Runs the pipeline file to its end.
    pub fn run(&self) -> Outcome {
        start(self.command().stdin(Stdio::null())).finish()
    }

    /// Runs the pipeline file to its end, which must be a good one; gives its summary.
    pub fn summary(&self) -> Value {
        self.run().summary()
    }

    /// Runs the pipeline file, which must fail with this code and a sentence that contains `words`.
    pub fn refused(&self, code: i32, words: &str) {
        self.run().refused(code, words);
    }

    /// All rows of a table of `out.db`, in the order of their columns' values.
    pub fn table(&self, table: &str) -> Vec<Vec<Stored>> {
        let database = Database::open(&self.path("out.db"));
        let columns = database.columns(table).len();
        let order: Vec<String> = (1..=columns).map(|number| number.to_string()).collect();
        database.query(&format!("SELECT * FROM {table} ORDER BY {}", order.join(", ")))
    }

    /// `source_offset` and `reason` of the dead letters in `out.db`.
    pub fn rejects(&self) -> Vec<(i64, String)> {
        let rows = Database::open(&self.path("out.db"))
            .query("SELECT source_offset, reason FROM dead_letter ORDER BY source_offset");
        rows.into_iter().map(|row| (integer(&row[0]), text(&row[1]))).collect()
    }
}

pub fn integer(value: &Stored) -> i64 {
    match value {
        Stored::Integer(integer) => *integer,
        other => panic!("{other:?} is no integer"),
    }
}

pub fn text(value: &Stored) -> String {
    match value {
        Stored::Text(text) => text.clone(),
        other => panic!("{other:?} is no text"),
    }
}

/// A database that a pipeline has written, open for reading.
pub struct Database(Connection);

impl Database {
    pub fn open(path: &Path) -> Database {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = Connection::open_with_flags(path, flags)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        Database(connection)
    }

    pub fn query(&self, query: &str) -> Vec<Vec<Stored>> {
        let mut statement = self.0.prepare(query).unwrap();
        let columns = statement.column_count();
        statement
            .query_map([], |row| (0..columns).map(|index| row.get(index)).collect())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    }

    pub fn columns(&self, table: &str) -> Vec<String> {
        self.query(&format!("SELECT name FROM pragma_table_info('{table}')"))
            .iter()
            .map(|row| text(&row[0]))
            .collect()
    }
}

/// A process that runs. Its output goes to files, because a pipe that nobody reads would stop it.
pub struct Running {
    pub child: Child,
    stdout: File,
    stderr: File,
}

pub fn start(command: &mut Command) -> Running {
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    Running { child: command.spawn().unwrap(), stdout, stderr }
}

impl Drop for Running {
    /// A test that fails leaves no process behind.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    /// Waits for the end.
    pub fn finish(mut self) -> Outcome {
        let started = Instant::now();
        let mut peak_kib = 0;
        let status = loop {
            peak_kib = peak_kib.max(memory_peak_kib(self.child.id()));
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > TIMEOUT {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("the process hangs: {}", content(&mut self.stderr));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let outcome = Outcome {
            code: status.code(),
            stdout: content(&mut self.stdout),
            stderr: content(&mut self.stderr),
            peak_kib,
        };
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        outcome
    }

    /// Waits until `done` says so; the process must not end before.
    pub fn wait_until(&mut self, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the process ended with {status}: {}", content(&mut self.stderr));
            }
            assert!(started.elapsed() < TIMEOUT, "the process does not come so far: {}", self.messages());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `done` says so, however long; the process must not end before.
    pub fn wait_until_slow(&mut self, mut done: impl FnMut() -> bool) {
        while !done() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the process ended with {status}: {}", content(&mut self.stderr));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// What it has written to standard error so far.
    pub fn messages(&mut self) -> String {
        content(&mut self.stderr)
    }
}

/// The most memory that a process has had, where the system says so; 0 elsewhere.
fn memory_peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    /// Absent when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub peak_kib: u64,
}

/// `tidegate run` of a shipped pipeline file to its end, with a port that nobody has and a state folder of its own.
pub fn shipped(folder: &Folder, name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("run").arg(workspace().join("pipelines").join(name)).args(["--until-end", "--json"]);
    command.args(["--now", NOW, "--guests"]).arg(guests()).env("TIDEGATE_STATE", folder.path("state"));
    command.env("TIDEGATE_HTTP", format!("127.0.0.1:{}", deploy::free_port()));
    command
}

/// Any command of the binary.
pub fn tidegate(folder: &Folder, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(folder.path(".")).args(arguments).arg("--guests").arg(guests());
    start(&mut command).finish()
}

impl Outcome {
    /// The summary of a run that succeeded, in which every row is accounted for.
    pub fn summary(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let summary: Value = serde_json::from_str(&self.stdout).expect("one JSON object");
        let of = |key: &str| summary[key].as_u64().unwrap();
        assert_eq!(
            of("read"),
            of("written") + of("rejected") + of("dropped") + of("tombstones"),
            "{summary}"
        );
        summary
    }

    pub fn refused(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert!(self.stderr.contains(words), "{:?} is not in {:?}", words, self.stderr);
    }
}
