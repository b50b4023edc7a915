//! The whole system: simulated exchanges, a broker, two databases, and the four shipped pipelines as processes.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use exchanges_simulator::Simulator;
use rustix::process::Signal;
use serde_json::Value;
use xtask::clickhouse::Engine;

use super::clickhouse::{self, Between};
use super::deploy::{free_port, request};
use super::exchanges::{Candles, SHIPPED, ask_simulator, clock_of};
use super::kafka::{self, OwnBroker};
use super::postgres::{self, Postgres};
use super::{Folder, Outcome, Running, guests, start, workspace};

/// The pipelines, in the order in which rows go through them.
pub const SERVICES: [&str; 4] = ["ingest", "validate", "timescale", "clickhouse"];

/// Two for each lane.
pub const PARTITIONS: i32 = 4;

/// A busy machine is slow; a system in which nothing happens for so long hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// A candle in a database or a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Source, symbol and open time.
    pub key: (String, String, i64),
    /// Open, high, low, close and volume.
    pub values: [f64; 5],
    pub revision: i64,
    /// The versions of the rules that have decided it.
    pub versions: String,
}

/// A pipeline and the process that runs it.
struct Service {
    port: u16,
    running: Option<Running>,
}

/// All of it. The pipelines end before what they need.
pub struct System {
    services: BTreeMap<&'static str, Service>,
    pub simulator: Simulator,
    pub broker: OwnBroker,
    pub postgres_server: postgres::OwnServer,
    pub postgres: Postgres,
    pub clickhouse: clickhouse::OwnServer,
    /// The way of the pipeline to ClickHouse.
    pub between: Between,
    folder: Folder,
}

impl System {
    /// Starts everything at once, as `docker compose up` does.
    pub fn start(simulator: Simulator) -> System {
        let (broker, postgres_server, clickhouse) = std::thread::scope(|scope| {
            let broker = scope.spawn(|| kafka::own_broker(&[]));
            let postgres = scope.spawn(|| postgres::own_server(&[("track_commit_timestamp", "on")]));
            let clickhouse = clickhouse::own_server(Engine::Chdb);
            (broker.join().unwrap(), postgres.join().unwrap(), clickhouse)
        });
        broker.kafka.create("ohlcv-raw", PARTITIONS);
        let services = SERVICES.map(|name| (name, Service { port: free_port(), running: None }));
        let mut system = System {
            services: services.into(),
            simulator,
            broker,
            postgres: postgres_server.database(),
            postgres_server,
            between: Between::to(clickhouse.clickhouse.address),
            clickhouse,
            folder: Folder::new(),
        };
        system.write_files();
        system.make_tables();
        SERVICES.into_iter().for_each(|name| system.start_service(name));
        system
    }

    /// The shipped files. Only the probation is shorter than five minutes.
    fn write_files(&self) {
        for name in SERVICES {
            let path = workspace().join("pipelines").join(format!("{name}.yaml"));
            let file = std::fs::read_to_string(path).unwrap();
            let more = if name == "validate" { "deploy: { probation: 2s }\n" } else { "" };
            self.folder.write(&format!("{name}.yaml"), file + more);
        }
    }

    /// ClickHouse's table is there before the pipeline, with a column that the pipeline has not: when the row came.
    fn make_tables(&self) {
        let mut command =
            self.command("clickhouse", &["schema", "sql", "--sink", "clickhouse", "clickhouse.yaml"]);
        let outcome = start(&mut command).finish();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let statements = outcome.stdout.split(';').map(str::trim).filter(|statement| !statement.is_empty());
        statements.for_each(|statement| drop(self.clickhouse.clickhouse.query(statement)));
        let column = "ALTER TABLE candles ADD COLUMN inserted_at DateTime64(3, 'UTC') DEFAULT now64(3)";
        self.clickhouse.clickhouse.query(column);
    }

    /// `tidegate` with the variables of a service.
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.current_dir(self.folder.path(".")).args(arguments).stdin(Stdio::null());
        command.arg("--state").arg(self.folder.path(&format!("state/{name}"))).arg("--guests").arg(guests());
        ask_simulator(&mut command, &self.simulator);
        command.env("TIDEGATE_CLOCK", clock_of(&self.simulator));
        command.env("TIDEGATE_INSTANCE", "a").env_remove("TIDEGATE_TOKEN_FILE");
        command.env("TIDEGATE_HTTP", format!("127.0.0.1:{}", self.services[name].port));
        command.env("KAFKA_BROKERS", &self.broker.kafka.address);
        command.env("POSTGRES_URL", self.postgres.url());
        command.env("CLICKHOUSE_URL", format!("http://{}", self.between.address));
        command
    }

    pub fn start_service(&mut self, name: &'static str) {
        let file = format!("{name}.yaml");
        let running = start(&mut self.command(name, &["run", &file, "--json", "--wait"]));
        self.services.get_mut(name).unwrap().running = Some(running);
    }

    /// `kill -9`, and a new start.
    pub fn kill(&mut self, name: &'static str) {
        let mut running = self.services.get_mut(name).unwrap().running.take().expect("the service runs");
        running.kill();
        self.start_service(name);
    }

    /// Ctrl-C, after which it must end well; gives what it says at the end.
    pub fn interrupt(&mut self, name: &'static str) -> Value {
        let running = self.services.get_mut(name).unwrap().running.take().expect("the service runs");
        running.signal(Signal::INT);
        running.finish().summary()
    }

    /// Waits until `done` says so. Every service must go on meanwhile.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&System) -> bool) {
        let started = Instant::now();
        while !done(self) {
            let is_too_late = started.elapsed() > PATIENCE;
            for (name, service) in &mut self.services {
                let Some(running) = &mut service.running else { continue };
                if let Some(status) = running.child.try_wait().unwrap() {
                    panic!("{name} ended with {status}: {}", running.messages());
                }
                if is_too_late {
                    eprintln!("{name}: {}", running.messages());
                }
            }
            assert!(!is_too_late, "it takes too long until {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Deploys a component as the rule `validate` and waits until it is known what became of it.
    pub fn deploy(&self, component: &[u8]) -> Outcome {
        self.folder.write("candidate.wasm", component);
        let arguments =
            ["deploy", "candidate.wasm", "--pipeline", "validate.yaml", "--rule", "validate", "--wait"];
        start(&mut self.command("validate", &arguments)).finish()
    }

    /// What the running pipeline says of the rule `validate`.
    pub fn rule(&self) -> Value {
        let (status, body) =
            request(self.services["validate"].port, "GET", "/api/v1/rules/validate", "", b"");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// How many series have a candle that opens at this time or later, in PostgreSQL and in ClickHouse.
    pub fn series_since(&self, open_ms: i64) -> [u64; 2] {
        if self.postgres.stored() == 0 {
            return [0, 0];
        }
        let from = "FROM (SELECT max(timestamp) AS newest FROM candles GROUP BY source, symbol) AS series WHERE newest";
        let of_postgres = format!("SELECT count(*) {from} >= to_timestamp({open_ms} / 1000)");
        let of_clickhouse = format!("SELECT count() {from} >= fromUnixTimestamp64Milli({open_ms})");
        let in_postgres = self.postgres.lines(&of_postgres)[0].parse().unwrap();
        [in_postgres, self.clickhouse.clickhouse.number(&of_clickhouse)]
    }

    /// Waits until all series have a candle that opens at this time or later, in both tables.
    pub fn wait_for_all_series(&mut self, open_ms: i64) {
        let all: usize = SHIPPED.iter().map(|(_, symbols)| symbols.len()).sum();
        self.wait_until("all series have come so far", |system| {
            system.series_since(open_ms).iter().all(|series| *series == all as u64)
        });
    }

    /// Waits until rows flow into both tables again.
    pub fn wait_for_new_rows(&mut self) {
        let now_ms = self.simulator.clock().now_ms();
        self.wait_until("rows flow again", |system| {
            system.series_since(now_ms).iter().all(|series| *series > 0)
        });
    }

    pub fn rows_in_postgres(&self) -> Vec<Row> {
        let columns =
            "source, symbol, (extract(epoch FROM timestamp) * 1000)::bigint, open, high, low, close, volume";
        let rows = format!("SELECT {columns}, revision, rule_versions FROM candles");
        let texts = |row: Vec<Option<String>>| row.into_iter().map(Option::unwrap).collect();
        self.postgres.query(&rows).into_iter().map(|row| Row::of_texts(texts(row))).collect()
    }

    /// Each as often as it is stored, and all revisions that were not merged yet.
    pub fn rows_in_clickhouse(&self) -> Vec<Row> {
        let columns = "source, symbol, toUnixTimestamp64Milli(timestamp), open, high, low, close, volume";
        let rows = format!("SELECT {columns}, revision, rule_versions FROM candles");
        self.clickhouse.clickhouse.query(&rows).into_iter().map(Row::of_texts).collect()
    }

    /// The rows of a topic. What has decided a row is said in a header, and in a column.
    pub fn rows_in_topic(&self, topic: &str) -> Vec<Row> {
        let row = |message: kafka::Message| {
            let row: Value = serde_json::from_slice(message.payload.as_deref().unwrap()).unwrap();
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let versions = text("rule_versions");
            assert_eq!(message.headers.get("tidegate-rule-versions").map_or("", String::as_str), versions);
            Row {
                key: (text("source"), text("symbol"), row["timestamp"].as_i64().unwrap()),
                values: ["open", "high", "low", "close", "volume"].map(|name| row[name].as_f64().unwrap()),
                revision: row["revision"].as_i64().unwrap(),
                versions,
            }
        };
        self.broker.kafka.read(topic).into_iter().map(row).collect()
    }
}

impl Row {
    fn of_texts(texts: Vec<String>) -> Row {
        let number = |index: usize| texts[index].parse().unwrap();
        Row {
            key: (texts[0].clone(), texts[1].clone(), texts[2].parse().unwrap()),
            values: [3, 4, 5, 6, 7].map(number),
            revision: texts[8].parse().unwrap(),
            versions: texts[9].clone(),
        }
    }
}

/// The newest revision of each candle.
pub fn newest(rows: &[Row]) -> Candles {
    let mut candles = Candles::new();
    for row in rows {
        let candle = candles.entry(row.key.clone()).or_insert((row.values, row.revision));
        if row.revision > candle.1 {
            *candle = (row.values, row.revision);
        }
    }
    candles
}

/// How many rows are there again, with the same revision.
pub fn doubled(rows: &[Row]) -> usize {
    let mut seen = std::collections::HashSet::new();
    rows.iter().filter(|row| !seen.insert((&row.key, row.revision))).count()
}
