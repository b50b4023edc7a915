//! Rules are replaced while rows flow through Kafka, in two lanes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::deploy::{free_port, hash, rule, start_deploy, version};
use crate::harness::kafka::{Candle, Pipeline, candles, shared};
use crate::harness::{Outcome, RULES, Running, start};

/// How many rows are sent at once, and how long until the next: 100,000 rows a second, or what the machine can do.
const ROWS: u64 = 2_000;
const PAUSE: Duration = Duration::from_millis(20);

/// A pipeline whose last rule is replaced.
struct Deploying {
    pipeline: Pipeline,
    port: u16,
}

impl Deploying {
    /// After the rules of the tests a rule that remembers.
    fn new(partitions: i32) -> Deploying {
        let rule = "  - { name: r, component: ./r.wasm, settings: { remembers: true } }\n";
        Deploying::with(partitions, "500ms", &format!("{}{rule}", RULES.replace(", max_jump_factor: 3", "")))
    }

    fn with(partitions: i32, probation: &str, rules: &str) -> Deploying {
        let port = free_port();
        let rest = format!(
            "lanes: 2\nbatch: {{ rows: 1000 }}\nhttp: 127.0.0.1:{port}\ndeploy: {{ probation: {probation} }}"
        );
        let pipeline = Pipeline::new(&shared(), partitions, &rest);
        pipeline.folder.write("r.wasm", version("keep", 0));
        let file = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
        let (source, others) = file.split_once("rules:\n").unwrap();
        let (_, sink) = others.split_once("sink:").unwrap();
        pipeline.folder.write("p.yaml", format!("{source}{rules}sink:{sink}"));
        Deploying { pipeline, port }
    }

    fn start(&self) -> Running {
        let mut host =
            start(self.pipeline.command("a").env("TIDEGATE_STATE", self.pipeline.folder.path("state")));
        host.wait_until(|| std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        host
    }

    fn deploy(&self, component: &[u8]) -> Outcome {
        start_deploy(&self.pipeline.folder, component, &["--wait"]).finish()
    }

    fn rule(&self) -> Value {
        rule(self.port)
    }

    /// Every row names in its header the version that has decided it, which wrote its number beside it, and was shown every
    /// row of the partition once. Gives the numbers.
    fn versions_of_rows(&self) -> BTreeSet<i64> {
        let mut seen: BTreeMap<i32, i64> = BTreeMap::new();
        let mut marks = BTreeSet::new();
        let mut hashes: BTreeMap<i64, String> = BTreeMap::new();
        for message in self.pipeline.kafka.read(&self.pipeline.validated) {
            let row: Value = serde_json::from_slice(message.payload.as_deref().unwrap()).unwrap();
            let mark = row["mark"].as_i64().unwrap();
            let hash = hashes.entry(mark).or_insert_with(|| hash(&version("keep", mark))[..12].to_owned());
            let header = &message.headers["tidegate-rule-versions"];
            assert!(header.ends_with(&format!(" r={hash}")), "{header}: {mark}");
            let next = seen.entry(message.partition).or_default();
            assert_eq!(row["seen"], *next, "partition {}, offset {}", message.partition, message.offset);
            *next += 1;
            marks.insert(mark);
        }
        marks
    }
}

/// Sends candles until it is told to stop; gives them.
fn send_until(deploying: &Deploying, partitions: i32, stop: &AtomicBool) -> Vec<Candle> {
    let mut sent = Vec::new();
    for first in (0..).step_by(ROWS as usize) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let rows = candles(first..first + ROWS, partitions);
        deploying.pipeline.kafka.send_candles(&deploying.pipeline.raw, &rows);
        sent.extend(rows);
        thread::sleep(PAUSE);
    }
    sent
}

/// Ends the sending also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn good_and_broken_versions_are_deployed_while_rows_flow() {
    let deploying = Deploying::new(4);
    let mut host = deploying.start();
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&deploying, 4, &stop));
        let sending = StopAtEnd(&stop);
        deploying.pipeline.kafka.wait_for_rows(&deploying.pipeline.validated, 1_000);
        let broken = ["trap", "reject", "lies", "half", "drop", "forgets"];
        for number in 1..=12 {
            let outcome = deploying.deploy(&version("keep", number));
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
            if number % 2 == 0 {
                let word = broken[number as usize / 2 - 1];
                let outcome = deploying.deploy(&version(word, 1000 + number));
                assert!(
                    outcome.code == Some(1) && outcome.stderr.contains("was taken back"),
                    "{word}: {:?} {}",
                    outcome.code,
                    outcome.stderr
                );
                assert_eq!(deploying.rule()["current"], *hash(&version("keep", number)));
            }
        }
        drop(sending);
        sender.join().unwrap()
    });
    deploying.pipeline.wait_until_read(4, &mut host);
    host.interrupt();
    host.finish().summary();
    deploying.pipeline.compare(&sent);
    assert_eq!(deploying.versions_of_rows(), (0..=12).collect());
}

/// As long as it is on probation, however many rows it has decided; those that count stay as they are.
#[test]
fn a_version_that_traps_after_a_million_rows_is_taken_back() {
    const FORMER: u64 = 1_000;
    const ROWS: u64 = 1_010_000;
    let deploying = Deploying::with(1, "5m", "rules:\n  - { name: r, component: ./r.wasm }\n");
    let mut host = deploying.start();
    send_counting(&deploying, 0..FORMER);
    deploying.pipeline.wait_until_read(1, &mut host);
    let late = version("late", 1_000_000);
    let deploy = start_deploy(&deploying.pipeline.folder, &late, &["--wait"]);
    host.wait_until(|| {
        let rule = deploying.rule();
        rule["current"] == *hash(&late) && rule["is_in_all_lanes"] == true
    });
    send_counting(&deploying, FORMER..FORMER + ROWS);
    let outcome = deploy.finish();
    assert!(
        outcome.code == Some(1) && outcome.stderr.contains("was taken back: it failed"),
        "{}",
        outcome.stderr
    );
    deploying.pipeline.wait_until_read(1, &mut host);
    host.interrupt();
    host.finish().summary();
    let mut of_late = 0;
    let messages = deploying.pipeline.kafka.read(&deploying.pipeline.validated);
    for (number, message) in (0..).zip(&messages) {
        let row: Value = serde_json::from_slice(message.payload.as_deref().unwrap()).unwrap();
        assert_eq!(row["close"].as_f64(), Some(number as f64), "offset {}", message.offset);
        of_late += u64::from(row["mark"] == 1_000_000);
    }
    assert_eq!(messages.len() as u64, FORMER + ROWS);
    // Those of its last transaction were decided again.
    assert!((500_000..=1_000_000).contains(&of_late), "{of_late}");
    assert!(deploying.pipeline.kafka.read(&deploying.pipeline.rejected).is_empty());
}

/// Sends small rows whose closes count on.
fn send_counting(deploying: &Deploying, mut numbers: std::ops::Range<u64>) {
    while !numbers.is_empty() {
        let rows: Vec<String> = numbers
            .by_ref()
            .take(100_000)
            .map(|number| {
                let time = 1_760_000_400_000 + number;
                format!(
                    "{{\"timestamp\":{time},\"open\":1,\"high\":1,\"low\":1,\"close\":{number},\"volume\":1,\
                     \"source\":\"a\",\"symbol\":\"b\",\"timeframe\":\"1m\"}}"
                )
            })
            .collect();
        let messages = rows.iter().map(|row| (0, None, Some(row.as_bytes())));
        deploying.pipeline.kafka.send(&deploying.pipeline.raw, &[("compression.type", "lz4")], messages);
    }
}

/// Whenever it is killed, the next start runs one version in all lanes, and no row is lost or doubled.
#[test]
fn a_host_that_is_killed_around_deploys_goes_on_with_one_version() {
    let deploying = Deploying::new(2);
    let stop = AtomicBool::new(false);
    let (sent, mut host) = thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&deploying, 2, &stop));
        let sending = StopAtEnd(&stop);
        let mut host = deploying.start();
        for number in 1..=5 {
            let deploy = start_deploy(&deploying.pipeline.folder, &version("keep", number), &[]);
            thread::sleep(Duration::from_millis(40 * number.unsigned_abs()));
            host.child.kill().unwrap();
            host.child.wait().unwrap();
            drop(deploy);
            host = deploying.start();
            let current = deploying.rule()["current"].as_str().unwrap().to_owned();
            assert!((0..=number).any(|known| current == hash(&version("keep", known))), "{current}");
        }
        drop(sending);
        (sender.join().unwrap(), host)
    });
    deploying.pipeline.wait_until_read(2, &mut host);
    host.interrupt();
    host.finish().summary();
    deploying.pipeline.compare(&sent);
    deploying.versions_of_rows();
}
