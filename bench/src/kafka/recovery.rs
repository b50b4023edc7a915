//! How long after a crash the host writes again, when it has a million candles to remember.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;
use xtask::sample::Numbers;

use super::candles::{self, Candles};
use super::cluster::Cluster;
use super::{PARTITIONS, Route, host, load, process};
use crate::median;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many candles there are to remember
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// How often the host is killed
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Lanes of the host
    #[arg(long, default_value_t = 2)]
    lanes: usize,
}

/// All candles of the topic are within the window.
const DEDUP: &str = "{ window: 8760h }";

/// Four rows, one of each partition, in this time.
const TRICKLE: Duration = Duration::from_millis(20);

/// A host that has not written for so long will not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Milliseconds from the kill to what happened then.
struct Round {
    /// The host had its first partition.
    assigned: f64,
    /// It had read back the first partition, and the last one.
    remembered: [f64; 2],
    /// A reader of committed rows had a new row, and one of every partition.
    written: [f64; 2],
}

/// Prints the times from a kill to the first row that is committed afterwards.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start()?;
    let mut candles = Candles::new();
    // One row in a hundred is rejected and one is dropped.
    let from = candles::topic(&cluster, &mut candles, arguments.rows * 100 / 98 + 1)?;
    let route = Route::new(&cluster, &from)?;
    let folder = TempDir::new()?;
    let mut command = host(&cluster, &route, folder.path(), arguments.lanes, "exactly_once", DEDUP)?;
    process::run(command.args(["--until-end", "--quiet"]), cluster.process_id())?;
    ensure!(candles.counts.kept() >= arguments.rows, "there are fewer candles to remember");

    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let trickle = scope.spawn(|| trickle(&cluster, &mut candles, &from, &stop));
        let mut command = host(&cluster, &route, folder.path(), arguments.lanes, "exactly_once", DEDUP)?;
        command.args(["--log", "json"]);
        let rounds = rounds(&cluster, &route, folder.path(), &mut command, arguments.rounds);
        stop.store(true, Ordering::Relaxed);
        trickle.join().expect("the trickle does not panic")?;
        rounds
    })?;
    print(&rounds, arguments)
}

/// Sends rows until it is told to stop.
fn trickle(cluster: &Cluster, candles: &mut Candles, topic: &str, stop: &AtomicBool) -> Result<()> {
    let producer = candles::producer(cluster)?;
    while !stop.load(Ordering::Relaxed) {
        candles.send(&producer, topic, PARTITIONS as u64)?;
        thread::sleep(TRICKLE);
    }
    Ok(producer.flush(PATIENCE)?)
}

fn rounds(
    cluster: &Cluster,
    route: &Route,
    folder: &Path,
    command: &mut Command,
    count: usize,
) -> Result<Vec<Round>> {
    let reader = Reader::new(cluster, &route.to)?;
    let log = folder.join("log");
    let mut numbers = Numbers::new(11);
    let mut running = Running::start(command, &log)?;
    reader.wait_for_rows_since(now_ms()?)?;
    let mut rounds = Vec::new();
    for round in 1..=count {
        // At any moment between two commits.
        thread::sleep(numbers.duration_below(Duration::from_secs(1)));
        let (killed, killed_ms) = (Instant::now(), now_ms()?);
        running.kill()?;
        // Nothing that has a later time is of the host that was killed.
        let dead_ms = now_ms()?;
        running = Running::start(command, &log)?;
        let written = reader.wait_for_rows_since(dead_ms + 1)?;
        let written = written.map(|moment| (moment - killed).as_secs_f64() * 1000.0);
        // The host writes what it has done before it commits.
        let assigned = logged(&log, "assigned")?;
        let remembered = logged(&log, "remembered")?;
        ensure!(remembered.len() == PARTITIONS as usize, "not every partition was read back");
        let since = |time_ms: f64| time_ms - killed_ms as f64;
        let round_times = Round {
            assigned: since(assigned[0]),
            remembered: [since(remembered[0]), since(remembered[remembered.len() - 1])],
            written,
        };
        eprintln!(
            "bench: round {round}: written again after {:.0} ms, all partitions after {:.0} ms, load {}",
            written[0],
            written[1],
            load()?
        );
        rounds.push(round_times);
    }
    running.kill()?;
    Ok(rounds)
}

fn print(rounds: &[Round], arguments: &Arguments) -> Result<()> {
    let Arguments { rows, lanes, .. } = arguments;
    println!("\nms after a kill, {rows} candles to remember, {lanes} lanes, {} kills", rounds.len());
    println!("                                      p50     p99");
    let line = |what: &str, of: fn(&Round) -> f64| {
        let times: Vec<f64> = rounds.iter().map(of).collect();
        // Of fewer than a hundred times, the longest.
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
        println!("  {what:<32} {:>6.0}  {p99:>6.0}", median(times));
    };
    line("the first partition is assigned", |round| round.assigned);
    line("the first is read back", |round| round.remembered[0]);
    line("the first row is committed", |round| round.written[0]);
    line("the last partition is read back", |round| round.remembered[1]);
    line("a row of each is committed", |round| round.written[1]);
    println!("  load {}", load()?);
    Ok(())
}

/// A host that is killed when this ends.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> Result<Running> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?).spawn();
        Ok(Running(child.context("cannot start `tidegate`")?))
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It can have ended before.
        let _ = self.kill();
    }
}

/// Reads committed rows as soon as they are there.
struct Reader(BaseConsumer);

impl Reader {
    fn new(cluster: &Cluster, topic: &str) -> Result<Reader> {
        let consumer: BaseConsumer = cluster
            .config()
            .set("group.id", "bench")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "5")
            .create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::End)?;
        }
        consumer.assign(&list)?;
        Ok(Reader(consumer))
    }

    /// When the first row came that was read by the host since then, and when one of every partition was there.
    fn wait_for_rows_since(&self, since_ms: i64) -> Result<[Instant; 2]> {
        let start = Instant::now();
        let mut first = None;
        let mut missing: Vec<i32> = (0..PARTITIONS).collect();
        while start.elapsed() < PATIENCE {
            let message = match self.0.poll(Duration::from_millis(5)) {
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(_))) | None => continue,
                Some(Err(error)) => return Err(error.into()),
            };
            let row: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
            let read_ms = row["validatedAt"].as_i64().context("a row has no `validatedAt`")?;
            if read_ms < since_ms {
                continue;
            }
            let now = Instant::now();
            let first = *first.get_or_insert(now);
            missing.retain(|partition| *partition != message.partition());
            if missing.is_empty() {
                return Ok([first, now]);
            }
        }
        bail!("the host wrote nothing for {} s", PATIENCE.as_secs())
    }
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?)
}

/// When a line with this message was logged, in milliseconds since 1970.
fn logged(log: &Path, message: &str) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for line in std::fs::read_to_string(log)?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if line["fields"]["message"] == message {
            let time: jiff::Timestamp = line["timestamp"].as_str().context("no time")?.parse()?;
            times.push(time.as_microsecond() as f64 / 1000.0);
        }
    }
    ensure!(!times.is_empty(), "the host has not logged `{message}`");
    Ok(times)
}
