//! A real PostgreSQL for the tests: one for all that leave it alone, with a database for each of them, and servers of
//! their own for those that kill or fill it; and pipelines into it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use xtask::postgres::{Options, Server};

use super::kafka::{Candle, Fate, Kafka, unique};
use super::{Folder, Running, start};

/// A database of a test's own.
pub struct Postgres {
    /// `postgres://user@host:port` of the server.
    server: String,
    pub database: String,
    connection: Mutex<(Runtime, Client)>,
}

/// A server of a test's own, and the folder of its data.
pub struct OwnServer {
    pub server: Server,
    folder: TempDir,
}

/// A database on the server that all tests share: that of `TIDEGATE_POSTGRES_URL` (`postgres://user@host:port`), or one
/// that ends with this process.
pub fn database() -> Postgres {
    static SHARED: OnceLock<(String, Option<Mutex<OwnServer>>)> = OnceLock::new();
    let (url, _) = SHARED.get_or_init(|| match std::env::var("TIDEGATE_POSTGRES_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            // Tests that run side by side have several connections each.
            let own = own_server(&[("max_connections", "300")]);
            (own.url(), Some(Mutex::new(own)))
        }
    });
    Postgres::create(url)
}

/// A server that a test can kill.
pub fn own_server(settings: &[(&str, &str)]) -> OwnServer {
    let folder = TempDir::new().unwrap();
    let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let options = Options { folder: folder.path().into(), settings, fast: true, ..Options::default() };
    OwnServer { server: Server::start(options).expect("a server starts"), folder }
}

impl OwnServer {
    pub fn url(&self) -> String {
        self.server.url("").trim_end_matches('/').to_owned()
    }

    /// A folder that the server can reach.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn database(&self) -> Postgres {
        Postgres::create(&self.url())
    }
}

impl Postgres {
    fn create(server: &str) -> Postgres {
        let database = unique("test").replace('-', "_");
        let admin = connect(&format!("{server}/postgres"));
        let (runtime, client) = &admin;
        runtime.block_on(client.batch_execute(&format!("CREATE DATABASE {database}"))).unwrap();
        let connection = connect(&format!("{server}/{database}"));
        // The extension, where the server has it.
        let (runtime, client) = &connection;
        let available = "SELECT FROM pg_available_extensions WHERE name = 'timescaledb'";
        if runtime.block_on(client.query_opt(available, &[])).unwrap().is_some() {
            let create = "CREATE EXTENSION IF NOT EXISTS timescaledb";
            runtime.block_on(client.batch_execute(create)).unwrap();
        }
        Postgres { server: server.into(), database, connection: Mutex::new(connection) }
    }

    /// What a pipeline file has as `url`.
    pub fn url(&self) -> String {
        format!("{}/{}", self.server, self.database)
    }

    /// The same by way of another address, such as a proxy's.
    pub fn url_by(&self, address: SocketAddr) -> String {
        let (user, _) = self.server.split_once('@').unwrap();
        format!("{user}@{address}/{}", self.database)
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.server.split_once('@').unwrap().1.parse().unwrap()
    }

    /// The database's address as messages have it.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.address(), self.database)
    }

    /// Connects again, after the server was gone.
    pub fn reconnect(&self) {
        *self.connection.lock().unwrap() = connect(&self.url());
    }

    /// A second connection.
    pub fn another(&self) -> Postgres {
        let (server, database) = (self.server.clone(), self.database.clone());
        Postgres { connection: Mutex::new(connect(&self.url())), server, database }
    }

    pub fn run(&self, statements: &str) {
        self.try_run(statements).unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    pub fn try_run(&self, statements: &str) -> Result<(), tokio_postgres::Error> {
        let (runtime, client) = &*self.connection.lock().unwrap();
        runtime.block_on(client.batch_execute(statements))
    }

    /// The rows of a query, all values as texts.
    pub fn query(&self, query: &str) -> Vec<Vec<Option<String>>> {
        let (runtime, client) = &*self.connection.lock().unwrap();
        let messages =
            runtime.block_on(client.simple_query(query)).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect())
            }
            _ => None,
        });
        rows.collect()
    }

    /// The rows of a query whose values are all there, with `|` between them.
    pub fn lines(&self, query: &str) -> Vec<String> {
        let line = |row: Vec<Option<String>>| {
            row.into_iter().map(|value| value.unwrap_or_else(|| "NULL".into())).collect::<Vec<_>>().join("|")
        };
        self.query(query).into_iter().map(line).collect()
    }

    pub fn count(&self, from: &str) -> i64 {
        self.lines(&format!("SELECT count(*) FROM {from}"))[0].parse().unwrap()
    }

    /// How many rows `candles` has; none while it does not exist.
    pub fn stored(&self) -> i64 {
        let exists = self.lines("SELECT to_regclass('candles') IS NOT NULL");
        if exists[0] == "t" { self.count("candles") } else { 0 }
    }

    /// Why rows are in the dead letter: offset and reason.
    pub fn reasons(&self) -> Vec<String> {
        self.lines("SELECT source_offset, reason FROM dead_letter ORDER BY source_offset")
    }

    /// Ends all connections of pipelines; says how many.
    pub fn end_connections(&self) -> i64 {
        let count = "count(*) FILTER (WHERE pg_terminate_backend(pid))";
        self.lines(&format!(
            "SELECT {count} FROM pg_stat_activity WHERE application_name = 'tidegate' AND datname = current_database()"
        ))[0]
            .parse()
            .unwrap()
    }

    /// Compares what is in the tables with what was sent, row by row: each row that is right once, each wrong one once
    /// in the dead letter with its bytes, no repetition.
    pub fn compare(&self, sent: &[Candle]) {
        let mut expected: Vec<(String, i64, f64)> = Vec::new();
        for candle in sent.iter().filter(|candle| candle.fate == Fate::Kept) {
            let row: Value = serde_json::from_str(&candle.payload).unwrap();
            let close = row["close"].as_str().unwrap().parse().unwrap();
            expected.push((candle.symbol.clone(), row["timestamp"].as_i64().unwrap(), close));
        }
        let found =
            self.query("SELECT symbol, (extract(epoch FROM timestamp) * 1000)::bigint, close FROM candles");
        let mut found: Vec<(String, i64, f64)> = found
            .into_iter()
            .map(|row| {
                let text = |index: usize| row[index].clone().unwrap();
                (text(0), text(1).parse().unwrap(), text(2).parse().unwrap())
            })
            .collect();
        let order = |one: &(String, i64, f64), other: &(String, i64, f64)| {
            (&one.0, one.1).cmp(&(&other.0, other.1)).then(one.2.total_cmp(&other.2))
        };
        expected.sort_by(order);
        found.sort_by(order);
        let different = expected.iter().zip(&found).position(|(one, other)| one != other);
        assert!(
            expected == found,
            "{} rows sent, {} written, different from number {different:?} on",
            expected.len(),
            found.len()
        );
        self.compare_dead_letters(sent);
    }

    fn compare_dead_letters(&self, sent: &[Candle]) {
        let mut wrong: BTreeMap<&str, usize> = BTreeMap::new();
        for candle in sent.iter().filter(|candle| candle.fate == Fate::Rejected) {
            *wrong.entry(&candle.payload).or_default() += 1;
        }
        let letters = self.lines("SELECT convert_from(payload, 'UTF8') FROM dead_letter");
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        letters.iter().for_each(|payload| *found.entry(payload).or_default() += 1);
        assert!(wrong == found, "{} rows are wrong, {} are in the dead letter", wrong.len(), found.len());
        let places =
            "(SELECT DISTINCT source_topic, source_partition, source_offset FROM dead_letter) AS places";
        assert_eq!(self.count(places), self.count("dead_letter"), "a row is twice in the dead letter");
    }
}

/// Connects, and serves the connection while something is asked.
pub fn connect(url: &str) -> (Runtime, Client) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).unwrap();
    runtime.spawn(connection);
    (runtime, client)
}

/// A pipeline from Kafka into a database.
pub struct Pipeline<'p> {
    pub kafka: Kafka,
    pub postgres: &'p Postgres,
    pub folder: Folder,
    pub topic: String,
    pub group: String,
}

/// Rules that reject the wrong candles and drop the repetitions.
const KEPT_BY: &str = "\
rules:
  - { name: validate, component: validate, settings: { sources: [binance], max_future: 5m } }
  - { name: dedup, component: dedup, settings: { window: 24h } }
";

impl<'p> Pipeline<'p> {
    /// With a topic of so many partitions; `rest` is added to the file.
    pub fn new(kafka: &Kafka, postgres: &'p Postgres, partitions: i32, rest: &str) -> Pipeline<'p> {
        let (topic, group) = (unique("candles"), unique("group"));
        kafka.create(&topic, partitions);
        let pipeline = Pipeline { kafka: kafka.clone(), postgres, folder: Folder::new(), topic, group };
        pipeline.write_file(&postgres.url(), "", rest);
        pipeline
    }

    /// Writes the pipeline file `p.yaml`; `sink` is added to the sink's settings.
    pub fn write_file(&self, url: &str, sink: &str, rest: &str) {
        let (brokers, topic, group) = (&self.kafka.address, &self.topic, &self.group);
        let file = format!(
            "name: test\n\
             source: {{ kafka: {{ brokers: \"{brokers}\", topic: {topic}, group: {group}, session: 6s }} }}\n\
             {KEPT_BY}\
             sink: {{ timescale: {{ url: \"{url}\", create: true {sink} }} }}\n\
             {rest}\n"
        );
        self.folder.write("p.yaml", file);
    }

    /// Lets a host be thrown out of its group so soon.
    pub fn set_session(&self, session: &str) {
        let file = String::from_utf8(self.folder.read("p.yaml")).unwrap();
        self.folder.write("p.yaml", file.replace("session: 6s", &format!("session: {session}")));
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
    pub fn run_to_end(&self) -> Value {
        start(self.command("a").arg("--until-end")).finish().summary()
    }

    /// Waits until the database has a position at the end of each partition.
    pub fn wait_until_written(&self, sent: &[Candle], host: &mut Running) {
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        sent.iter().for_each(|candle| *ends.entry(candle.partition).or_default() += 1);
        let expected: Vec<String> =
            ends.iter().map(|(partition, end)| format!("{partition}|{end}")).collect();
        let query = format!(
            "SELECT partition, next_offset FROM tidegate_positions WHERE topic = '{}' AND next_offset > 0 ORDER BY 1",
            self.topic
        );
        host.wait_until(|| {
            std::thread::sleep(Duration::from_millis(50));
            self.postgres.lines("SELECT to_regclass('tidegate_positions') IS NOT NULL") == ["t"]
                && self.postgres.lines(&query) == expected
        });
    }
}

/// A pipeline from the file `in.jsonl` into a database.
pub struct FilePipeline {
    pub folder: Folder,
}

impl FilePipeline {
    /// `sink` is added to the sink's settings, `rest` to the file.
    pub fn new(postgres: &Postgres, sink: &str, rest: &str) -> FilePipeline {
        let pipeline = FilePipeline { folder: Folder::new() };
        pipeline.write_file(&postgres.url(), sink, rest);
        pipeline
    }

    pub fn write_file(&self, url: &str, sink: &str, rest: &str) {
        self.folder
            .pipeline("in.jsonl", &format!("sink: {{ timescale: {{ url: \"{url}\" {sink} }} }}\n{rest}\n"));
    }

    /// Writes rows into the file.
    pub fn rows(&self, rows: &[String]) {
        self.folder.write("in.jsonl", rows.join("\n") + "\n");
    }

    pub fn append(&self, rows: &[String]) {
        self.folder.append("in.jsonl", rows.join("\n") + "\n");
    }

    pub fn start(&self) -> Running {
        start(&mut self.folder.command())
    }
}

/// The columns of candles with a revision, which the built-in set has not.
pub const REVISED: &str = "decode: { columns: [{ name: timestamp, type: timestamp }, { name: open, type: float }, \
    { name: high, type: float }, { name: low, type: float }, { name: close, type: float }, { name: volume, type: float }, \
    { name: source, type: text }, { name: symbol, type: text }, { name: timeframe, type: text }, \
    { name: revision, type: integer }] }\n";

/// A candle of a minute as a line of JSON; `more` is added to it, such as `,"revision":1`.
pub fn candle(minute: i64, close: f64, more: &str) -> String {
    let timestamp = 1_767_571_200_000 + minute * 60_000;
    format!(
        "{{\"timestamp\":{timestamp},\"open\":1.5,\"high\":1.5,\"low\":1.5,\"close\":{close},\"volume\":2,\
         \"source\":\"kraken\",\"symbol\":\"BTC/USD\",\"timeframe\":\"1m\"{more}}}"
    )
}
