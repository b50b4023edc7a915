//! A real ClickHouse for the tests: one server for all that leave it alone, servers of their own for those that kill
//! it, a database for each test, and a way to the server on which requests get lost.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use xtask::clickhouse::{Engine, Options, Server};

use super::kafka::{Candle, Fate, Kafka, unique, wait_until};
use super::{Folder, RULES, Running, start};

/// A server, by its address.
#[derive(Clone)]
pub struct Clickhouse {
    pub address: SocketAddr,
    user: Option<(String, String)>,
}

/// A server of a test's own, and the folder of its data.
pub struct OwnServer {
    pub server: Server,
    pub clickhouse: Clickhouse,
    _folder: TempDir,
}

/// The server that all tests share: that of `TIDEGATE_CLICKHOUSE_URL`, or one that ends with this process.
pub fn shared() -> Clickhouse {
    static SHARED: OnceLock<(Clickhouse, Option<Mutex<OwnServer>>)> = OnceLock::new();
    let (clickhouse, _) = SHARED.get_or_init(|| match std::env::var("TIDEGATE_CLICKHOUSE_URL") {
        Ok(url) => {
            let address = url.strip_prefix("http://").expect("the tests speak HTTP").trim_end_matches('/');
            let address = std::net::ToSocketAddrs::to_socket_addrs(address).unwrap().next().unwrap();
            (Clickhouse { address, user: None }, None)
        }
        Err(_) => {
            let own = own_server(Engine::Chdb);
            (own.clickhouse.clone(), Some(Mutex::new(own)))
        }
    });
    clickhouse.clone()
}

/// A server that a test can kill.
pub fn own_server(engine: Engine) -> OwnServer {
    server_with(Options { engine, ..Options::default() })
}

pub fn server_with(options: Options) -> OwnServer {
    let folder = TempDir::new().unwrap();
    let options = Options { folder: folder.path().join("clickhouse"), ..options };
    let user = options.user.clone();
    let server = Server::start(options).expect("a server starts");
    let clickhouse = Clickhouse { address: server.address(), user };
    OwnServer { clickhouse, server, _folder: folder }
}

impl Clickhouse {
    /// Runs a statement; gives its rows in `TabSeparated`, or what is wrong.
    pub fn run(&self, statement: &str) -> Result<String, String> {
        let mut stream = TcpStream::connect(self.address).map_err(|error| error.to_string())?;
        let user = self.user.as_ref().map_or_else(String::new, |(user, password)| {
            format!("X-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n")
        });
        let head = format!(
            "POST /?default_format=TabSeparated HTTP/1.1\r\nHost: localhost\r\n{user}Content-Length: {}\r\n\r\n",
            statement.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(statement.as_bytes())).unwrap();
        let answer = read_message(&mut stream).ok_or("no answer")?;
        let text = String::from_utf8_lossy(&answer.body).trim_end().to_owned();
        if answer.head.starts_with("HTTP/1.1 200") { Ok(text) } else { Err(text) }
    }

    /// The rows of a query, which must succeed.
    pub fn query(&self, statement: &str) -> Vec<Vec<String>> {
        let text = self.run(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }

    /// The one value of a query.
    pub fn value(&self, statement: &str) -> String {
        let rows = self.query(statement);
        rows.first().and_then(|row| row.first()).cloned().unwrap_or_default()
    }

    /// The one number of a query; 0 when the table does not exist yet.
    pub fn number(&self, statement: &str) -> u64 {
        self.run(statement).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// A message of HTTP, with all of its body.
struct Message {
    head: String,
    body: Vec<u8>,
    raw: Vec<u8>,
}

/// Reads a whole message; `None` when the other side has gone.
fn read_message(stream: &mut TcpStream) -> Option<Message> {
    let mut raw = Vec::new();
    let read = |stream: &mut TcpStream, raw: &mut Vec<u8>, length: usize| -> Option<()> {
        let start = raw.len();
        raw.resize(start + length, 0);
        stream.read_exact(&mut raw[start..]).ok()
    };
    let read_to = |stream: &mut TcpStream, raw: &mut Vec<u8>, end: &[u8]| -> Option<usize> {
        let start = raw.len();
        while !raw[start..].ends_with(end) {
            read(stream, raw, 1)?;
        }
        Some(start)
    };
    read_to(stream, &mut raw, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&raw).into_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
        })
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            let line = read_to(stream, &mut raw, b"\r\n")?;
            let length = std::str::from_utf8(&raw[line..]).ok()?.trim().split(';').next()?.to_owned();
            let length = usize::from_str_radix(&length, 16).ok()?;
            let start = raw.len();
            read(stream, &mut raw, length + 2)?;
            body.extend_from_slice(&raw[start..start + length]);
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length") {
        let start = raw.len();
        read(stream, &mut raw, length.parse().ok()?)?;
        body.extend_from_slice(&raw[start..]);
    }
    Some(Message { head, body, raw })
}

/// What becomes of a request.
#[derive(Clone)]
pub enum Fault {
    /// The server does not get it, and the client gets this instead of an answer.
    Answer(String),
    /// The server gets it, and the client no answer: the connection is cut.
    LoseAnswer,
    /// Nobody hears of it until [`Between::release`]; then the server gets it.
    Hold,
}

/// A way to a server on which requests get lost.
pub struct Between {
    pub address: SocketAddr,
    shared: Arc<(Mutex<Way>, Condvar)>,
}

#[derive(Default)]
struct Way {
    /// What becomes of requests that contain these bytes; so often.
    fault: Option<(String, usize, Fault)>,
    times: usize,
    is_released: bool,
}

impl Between {
    pub fn to(server: SocketAddr) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared: Arc<(Mutex<Way>, Condvar)> = Arc::default();
        let way = Arc::clone(&shared);
        // It lives as long as the test's process: it is only ever asked by the test.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let way = Arc::clone(&way);
                thread::spawn(move || serve(&way, client, server));
            }
        });
        Between { address, shared }
    }

    /// Lets the next `times` requests with `words` in their first line meet a fault.
    pub fn set(&self, words: &str, times: usize, fault: Fault) {
        let mut way = lock(&self.shared.0);
        *way = Way { fault: Some((words.into(), times, fault)), ..Way::default() };
    }

    /// How often it has happened.
    pub fn times(&self) -> usize {
        lock(&self.shared.0).times
    }

    /// Lets what is held go to the server.
    pub fn release(&self) {
        lock(&self.shared.0).is_released = true;
        self.shared.1.notify_all();
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(|poison| poison.into_inner())
}

fn serve(shared: &(Mutex<Way>, Condvar), mut client: TcpStream, server: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(server) else { return };
    while let Some(request) = read_message(&mut client) {
        let fault = fault_of(&mut lock(&shared.0), &request);
        if let Some(Fault::Answer(answer)) = &fault {
            drop(client.write_all(answer.as_bytes()));
            continue;
        }
        if let Some(Fault::Hold) = fault {
            let way = lock(&shared.0);
            drop(shared.1.wait_while(way, |way| !way.is_released));
        }
        if server.write_all(&request.raw).is_err() {
            break;
        }
        let Some(answer) = read_message(&mut server) else { break };
        if matches!(fault, Some(Fault::LoseAnswer)) || client.write_all(&answer.raw).is_err() {
            break;
        }
    }
    drop(client.shutdown(Shutdown::Both));
    drop(server.shutdown(Shutdown::Both));
}

fn fault_of(way: &mut Way, request: &Message) -> Option<Fault> {
    let (words, times, fault) = way.fault.as_mut()?;
    let line = request.head.lines().next().unwrap_or_default();
    if *times == 0 || !line.contains(words.as_str()) {
        return None;
    }
    *times -= 1;
    way.times += 1;
    Some(fault.clone())
}

/// A database of a test, deleted with this value.
pub struct Database {
    pub clickhouse: Clickhouse,
    pub name: String,
}

impl Database {
    pub fn new(clickhouse: &Clickhouse) -> Database {
        let name = unique("test").replace('-', "_");
        clickhouse.query(&format!("CREATE DATABASE {name}"));
        Database { clickhouse: clickhouse.clone(), name }
    }

    /// `sink:` of a pipeline file, with what `rest` adds to the settings.
    pub fn sink(&self, rest: &str) -> String {
        self.sink_by(self.clickhouse.address, rest)
    }

    /// The same, by way of another address.
    pub fn sink_by(&self, address: SocketAddr, rest: &str) -> String {
        let name = &self.name;
        format!(
            "sink: {{ clickhouse: {{ url: \"http://{address}\", database: {name}, table: candles {rest} }} }}\n"
        )
    }

    /// The number of rows, each as often as it is stored.
    pub fn count(&self) -> u64 {
        self.clickhouse.number(&format!("SELECT count() FROM {}.candles", self.name))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.clickhouse.run(&format!("DROP DATABASE IF EXISTS {}", self.name)));
    }
}

/// What settings are tried with: the tables are made, and parted so that blocks are cut.
pub const CREATE: &str = ", create: true, partition: day";

/// A pipeline from a topic into a table.
pub struct Pipeline {
    pub kafka: Kafka,
    pub database: Database,
    pub folder: Folder,
    pub raw: String,
    pub group: String,
    /// Whether a rule remembers the rows, and drops what it knows before the server could.
    remembers: bool,
}

impl Pipeline {
    /// With a topic of so many partitions, and what is added to the sink and the file. No rule remembers, so that it is
    /// the server that must know a block.
    pub fn new(kafka: &Kafka, clickhouse: &Clickhouse, partitions: i32, sink: &str, rest: &str) -> Pipeline {
        Pipeline::of(kafka, clickhouse, partitions, sink, rest, false)
    }

    /// The same, with a rule that remembers.
    pub fn with_memory(
        kafka: &Kafka,
        clickhouse: &Clickhouse,
        partitions: i32,
        sink: &str,
        rest: &str,
    ) -> Pipeline {
        Pipeline::of(kafka, clickhouse, partitions, sink, rest, true)
    }

    fn of(
        kafka: &Kafka,
        clickhouse: &Clickhouse,
        partitions: i32,
        sink: &str,
        rest: &str,
        remembers: bool,
    ) -> Pipeline {
        let database = Database::new(clickhouse);
        let (raw, group) = (unique("raw"), unique("group"));
        kafka.create(&raw, partitions);
        let pipeline =
            Pipeline { kafka: kafka.clone(), database, folder: Folder::new(), raw, group, remembers };
        pipeline.write_file("p.yaml", clickhouse.address, sink, rest);
        pipeline
    }

    /// Writes a pipeline file.
    pub fn write_file(&self, name: &str, address: SocketAddr, sink: &str, rest: &str) {
        let Pipeline { kafka, raw, group, .. } = self;
        let brokers = &kafka.address;
        let sink = self.database.sink_by(address, &format!("{CREATE} {sink}"));
        let file = format!(
            "name: test\n\
             source: {{ kafka: {{ brokers: \"{brokers}\", topic: {raw}, group: {group}, session: 6s }} }}\n\
             {RULES}{sink}{rest}\n"
        );
        // No rule of the tests may depend on what a partition had before.
        let file = file.replace(", max_jump_factor: 3", "");
        let is_kept = |line: &&str| self.remembers || !line.contains("component: dedup");
        self.folder.write(name, file.lines().filter(is_kept).collect::<Vec<_>>().join("\n"));
    }

    /// Lets a host be thrown out of its group so soon.
    pub fn set_session(&self, name: &str, session: &str) {
        let file = String::from_utf8(self.folder.read(name)).unwrap();
        self.folder.write(name, file.replace("session: 6s", &format!("session: {session}")));
    }

    /// `tidegate run`, ready to start, as the host `instance`.
    pub fn command(&self, instance: &str) -> std::process::Command {
        let mut command = self.folder.command();
        command.args(["--instance", instance]).env_remove("KAFKA_BROKERS");
        command
    }

    /// Starts a host that goes on until it is stopped.
    pub fn start(&self, instance: &str) -> Running {
        start(&mut self.command(instance))
    }

    /// Runs a host until everything is read; gives its summary.
    pub fn run_to_end(&self) -> serde_json::Value {
        start(self.command("a").arg("--until-end")).finish().summary()
    }

    /// Sends candles; repetitions only where a rule drops them.
    pub fn send(&self, range: std::ops::Range<u64>, partitions: i32) -> Vec<Candle> {
        let mut sent = super::kafka::candles(range, partitions);
        sent.retain(|candle| self.remembers || candle.fate != Fate::Dropped);
        self.kafka.send_candles(&self.raw, &sent);
        sent
    }

    /// Waits until the group has written everything.
    pub fn wait_until_read(&self, partitions: i32, host: &mut Running) {
        let ends = super::kafka::ends(&self.kafka, &self.raw, partitions);
        host.wait_until(|| {
            thread::sleep(Duration::from_millis(50));
            let committed = self.kafka.committed(&self.group, &self.raw, partitions);
            committed.len() == ends.len()
                && ends.iter().zip(committed).all(|(end, committed)| *end == 0 || committed == Some(*end))
        });
    }

    /// Waits until so many rows are in the table.
    pub fn wait_for_rows(&self, rows: u64) {
        wait_until("rows are in the table", || self.database.count() >= rows);
    }

    /// Compares the tables with what was sent, row by row, without FINAL: each right row once, each wrong one once in the
    /// dead letter with its bytes, no repetition.
    pub fn compare(&self, sent: &[Candle]) {
        self.compare_with(sent, "");
    }

    /// The same, with FINAL after the table, say.
    pub fn compare_with(&self, sent: &[Candle], after: &str) {
        let Database { clickhouse, name } = &self.database;
        let mut expected: Vec<String> = sent
            .iter()
            .filter(|candle| candle.fate == Fate::Kept)
            .map(|candle| {
                let row: serde_json::Value = serde_json::from_str(&candle.payload).unwrap();
                let close: f64 = row["close"].as_str().unwrap().parse().unwrap();
                format!("{}\t{}\t{close}", candle.symbol, row["timestamp"])
            })
            .collect();
        expected.sort_unstable();
        let rows =
            format!("SELECT symbol, toUnixTimestamp64Milli(timestamp), close FROM {name}.candles {after}");
        let mut found: Vec<String> = clickhouse.query(&rows).into_iter().map(|row| row.join("\t")).collect();
        found.sort_unstable();
        let different = expected.iter().zip(&found).find(|(one, other)| one != other);
        assert!(
            expected == found,
            "{} rows sent, {} in the table, the first that differ: {different:?}",
            expected.len(),
            found.len()
        );

        let mut wrong: Vec<String> = sent
            .iter()
            .filter(|candle| candle.fate == Fate::Rejected)
            .map(|candle| format!("{}\t{}", candle.partition, candle.payload))
            .collect();
        let letters = format!("SELECT source_partition, payload FROM {name}.dead_letter");
        let mut rejected: Vec<String> =
            clickhouse.query(&letters).into_iter().map(|row| row.join("\t")).collect();
        wrong.sort_unstable();
        rejected.sort_unstable();
        assert_eq!(wrong.len(), rejected.len(), "rejected rows");
        assert!(wrong == rejected, "the dead letters are not the wrong rows");
    }
}
