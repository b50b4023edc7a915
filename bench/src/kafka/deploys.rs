//! Versions of a rule, good and broken ones, one after another while rows flow: is a row lost, doubled, or decided by a broken
//! version, and how long does a lane stand still to go over to another?

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tempfile::TempDir;
use xtask::sample::Numbers;

use super::candles;
use super::cluster::Cluster;
use super::{PARTITIONS, Route, load};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many good versions are deployed
    #[arg(long, default_value_t = 1_000)]
    good: i64,
    /// How many broken ones, between them
    #[arg(long, default_value_t = 200)]
    broken: i64,
    /// Rows a second that are sent meanwhile
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Lanes of the host
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// How many rows of each partition a new version is shown before it decides
    #[arg(long, default_value_t = 20_000)]
    remember: u64,
}

/// What broken versions do: see tests/guests/versions.
const BROKEN: [&str; 5] = ["trap", "reject", "lies", "drop", "forgets"];

/// How often rows are sent.
const BEAT: Duration = Duration::from_millis(10);

/// A deploy that takes longer never ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints what came of it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start()?;
    let route = Route::new(&cluster, &cluster.create("raw")?)?;
    let folder = TempDir::new()?;
    let host = Host::start(&cluster, &route, folder.path(), arguments)?;
    let stop = AtomicBool::new(false);
    let (sent, deployed, seconds) = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| send(&cluster, &route.from, arguments.rate, &stop));
        let started = Instant::now();
        let deployed = host.deploy_all(arguments);
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("sending does not panic")?;
        Ok((sent, deployed?, started.elapsed().as_secs_f64()))
    })?;
    let rows: u64 = sent.iter().sum();
    let found = host.finish(&cluster, &route, &sent)?;
    let wrong = found.marks.iter().filter(|mark| !deployed.good.contains(mark)).count();
    println!(
        "\n{} good and {} broken versions in {seconds:.0} s, {} lanes, {} rows remembered, {rows} rows ({:.0} a second)",
        deployed.good.len() - 1,
        deployed.broken,
        arguments.lanes,
        arguments.remember,
        rows as f64 / seconds
    );
    println!(
        "  lost {}, doubled {}, in the dead letter {}, rows of broken versions: of {wrong} of them",
        found.lost, found.doubled, found.rejected
    );
    let mut pauses = deployed.pauses_ms;
    pauses.sort_by(f64::total_cmp);
    let at = |part: f64| pauses[((pauses.len() as f64 * part).ceil() as usize).clamp(1, pauses.len()) - 1];
    println!(
        "  the longest pause of a lane for a version: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms; load {}",
        at(0.5),
        at(0.99),
        at(1.0),
        load()?
    );
    ensure!(found.lost + found.doubled + found.rejected == 0 && wrong == 0, "not every row is there once");
    Ok(())
}

/// Sends rows that count on in each partition; says how many each has got.
fn send(cluster: &Cluster, topic: &str, rate: u64, stop: &AtomicBool) -> Result<[u64; PARTITIONS as usize]> {
    let producer = candles::producer(cluster)?;
    let mut sent = [0; PARTITIONS as usize];
    let started = Instant::now();
    let mut rows = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        while rows < due {
            let partition = (rows % PARTITIONS as u64) as usize;
            send_row(&producer, topic, partition, sent[partition])?;
            sent[partition] += 1;
            rows += 1;
        }
        producer.poll(Duration::ZERO);
        thread::sleep(BEAT);
    }
    producer.flush(PATIENCE)?;
    Ok(sent)
}

fn send_row(producer: &BaseProducer, topic: &str, partition: usize, number: u64) -> Result<()> {
    let time = 1_735_689_600_000 + number * 60_000;
    let payload = format!(
        "{{\"timestamp\":{time},\"open\":{number},\"high\":{number},\"low\":{number},\"close\":{number},\"volume\":1.5,\
         \"source\":\"binance\",\"symbol\":\"COIN{partition}/USDT\",\"timeframe\":\"1m\"}}"
    );
    let mut record = BaseRecord::<(), str>::to(topic).partition(partition as i32).payload(&payload);
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
            Err((error, _)) => return Err(error.into()),
        };
        producer.poll(Duration::from_millis(5));
    }
}

/// What was deployed.
struct Deployed {
    good: HashSet<i64>,
    broken: i64,
    /// The longest pause of a lane, of each version that took over.
    pauses_ms: Vec<f64>,
}

/// What is in the output.
#[derive(Default)]
struct Found {
    lost: u64,
    doubled: u64,
    rejected: u64,
    marks: HashSet<i64>,
}

/// A host that is killed when this ends.
struct Host<'a> {
    child: std::process::Child,
    folder: &'a Path,
    port: u16,
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        // It can have ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Host<'_> {
    fn start<'a>(
        cluster: &Cluster,
        route: &Route,
        folder: &'a Path,
        arguments: &Arguments,
    ) -> Result<Host<'a>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let Route { from, to, rejected, group } = route;
        let (brokers, Arguments { lanes, remember, .. }) = (&cluster.address, arguments);
        std::fs::write(folder.join("r.wasm"), version("keep", 0)?)?;
        // A version begins to be shown rows after a commit, so a short time between commits makes many deploys possible.
        std::fs::write(
            folder.join("bench.yaml"),
            format!(
                "name: bench\nsource: {{ kafka: {{ brokers: \"{brokers}\", topic: {from}, group: {group} }} }}\n\
                 rules:\n  - {{ name: r, component: ./r.wasm, settings: {{ remembers: true }} }}\n\
                 sink: {{ kafka: {{ topic: {to}, commit: {{ wait: 100ms }} }} }}\ndead_letter: {{ kafka: {{ topic: {rejected} }} }}\n\
                 lanes: {lanes}\nremember: {{ rows: {remember} }}\nhttp: 127.0.0.1:{port}\n\
                 deploy: {{ probation: 100ms, watch: 0s }}\n"
            ),
        )?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = tidegate(folder);
        command.args(["run", "bench.yaml", "--instance", "bench"]).stdout(Stdio::null()).stderr(log);
        let host = Host { child: command.spawn().context("cannot start `tidegate`")?, folder, port };
        let started = Instant::now();
        while host.rule().is_err() {
            ensure!(started.elapsed() < PATIENCE, "the host does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(host)
    }

    /// What the API says of the rule.
    fn rule(&self) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "GET /api/v1/rules/r HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok(serde_json::from_str(body)?)
    }

    fn deploy_all(&self, arguments: &Arguments) -> Result<Deployed> {
        let mut deployed = Deployed { good: HashSet::from([0]), broken: 0, pauses_ms: Vec::new() };
        // Before rows flow nothing can be proved.
        let started = Instant::now();
        while self.rule()?["versions"][0]["rows"].as_u64() < Some(10_000) {
            ensure!(started.elapsed() < PATIENCE, "no rows flow");
            thread::sleep(Duration::from_millis(50));
        }
        let mut numbers = Numbers::new(5);
        for number in 1..=arguments.good {
            self.deploy(&version("keep", number)?)?;
            deployed.good.insert(number);
            deployed.pauses_ms.push(self.settled()?);
            let is_due = deployed.broken * arguments.good < arguments.broken * number;
            if is_due {
                let word = BROKEN[numbers.below(BROKEN.len() as i64) as usize];
                let good = self.rule()?["current"].clone();
                self.deploy(&version(word, 1_000_000 + number)?)?;
                self.wait_until(|rule| rule["current"] != good || is_taken_back(rule))?;
                self.wait_until(is_taken_back)?;
                self.settled()?;
                deployed.broken += 1;
            }
            if number % 100 == 0 {
                eprintln!("bench: {number} good and {} broken versions, load {}", deployed.broken, load()?);
            }
        }
        Ok(deployed)
    }

    fn deploy(&self, component: &[u8]) -> Result<()> {
        std::fs::write(self.folder.join("candidate.wasm"), component)?;
        let arguments = ["deploy", "candidate.wasm", "--pipeline", "bench.yaml", "--rule", "r", "--quiet"];
        let output = tidegate(self.folder).args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Waits until all lanes run what they should; gives the longest pause for the newest version in milliseconds.
    fn settled(&self) -> Result<f64> {
        let rule = self.wait_until(|rule| rule["is_in_all_lanes"] == true)?;
        let newest =
            rule["versions"].as_array().and_then(|versions| versions.last()).context("no version")?;
        Ok(newest["pause_us"].as_f64().context("no pause")? / 1e3)
    }

    fn wait_until(&self, done: impl Fn(&Value) -> bool) -> Result<Value> {
        let started = Instant::now();
        loop {
            let rule = self.rule()?;
            if done(&rule) {
                return Ok(rule);
            }
            ensure!(started.elapsed() < PATIENCE, "the rule stays as it is: {rule}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets the host read the rest, and compares.
    fn finish(mut self, cluster: &Cluster, route: &Route, sent: &[u64]) -> Result<Found> {
        let rows: u64 = sent.iter().sum();
        let started = Instant::now();
        let decided = |rule: &Value| -> u64 {
            let versions = rule["versions"].as_array().map_or(&[][..], Vec::as_slice);
            versions.iter().filter_map(|version| version["rows"].as_u64()).sum()
        };
        // Versions that are long gone are not counted any more, so the end is when nothing more comes.
        let mut last = (0, Instant::now());
        while last.1.elapsed() < Duration::from_secs(5) {
            ensure!(started.elapsed() < 10 * PATIENCE, "the host does not come to the end of {rows} rows");
            let now = decided(&self.rule()?);
            if now != last.0 {
                last = (now, Instant::now());
            }
            thread::sleep(Duration::from_millis(200));
        }
        self.child.kill()?;
        self.child.wait()?;
        let mut found = Found { rejected: cluster.read(&route.rejected)?.rows, ..Found::default() };
        let mut next: BTreeMap<i32, u64> = BTreeMap::new();
        cluster.each(&route.to, |message| {
            let partition = message.partition();
            let row: Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
            let close = row["close"].as_f64().context("no close")? as u64;
            found.marks.insert(row["mark"].as_i64().context("no mark")?);
            let next = next.entry(partition).or_default();
            found.lost += close.saturating_sub(*next);
            found.doubled += u64::from(close < *next);
            *next = (*next).max(close + 1);
            Ok(())
        })?;
        for (partition, sent) in (0..).zip(sent) {
            found.lost += sent.saturating_sub(next.get(&partition).copied().unwrap_or(0));
        }
        Ok(found)
    }
}

fn is_taken_back(rule: &Value) -> bool {
    let newest = rule["versions"].as_array().and_then(|versions| versions.last());
    newest.is_some_and(|newest| !newest["taken_back"].is_null())
}

fn tidegate(folder: &Path) -> Command {
    let name = format!("release/tidegate{}", std::env::consts::EXE_SUFFIX);
    let mut command = Command::new(xtask::target_folder().join(name));
    command.current_dir(folder).env("TIDEGATE_STATE", folder.join("state")).stdin(Stdio::null());
    command
}

/// The rule `versions` of tests/guests as the version that does `word` and has this number.
fn version(word: &str, number: i64) -> Result<Vec<u8>> {
    let component = std::fs::read(xtask::target_folder().join("guests-test/versions.wasm"))?;
    Ok(tidegate_versions::changed(component, word, number))
}
