//! From a topic into the table, with the real binary.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Arguments;
use super::database::{Database, Table, connect};
use crate::kafka::candles::{self, Candles};
use crate::kafka::cluster::Cluster;
use crate::kafka::process::{self, Taken};
use crate::median;

struct Runs {
    lanes: usize,
    rates: Vec<f64>,
    cpu: Vec<f64>,
    peak_mib: u64,
    others: Vec<f64>,
}

/// Prints rows a second, seconds of processors and memory for each number of lanes.
pub fn run(database: &Database, arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start()?;
    let mut candles = Candles::right();
    let topic = candles::topic(&cluster, &mut candles, arguments.topic_rows)?;
    let mut all: Vec<Runs> = (arguments.clients.iter())
        .map(|&lanes| Runs { lanes, rates: Vec::new(), cpu: Vec::new(), peak_mib: 0, others: Vec::new() })
        .collect();
    for round in 1..=arguments.rounds {
        for runs in &mut all {
            runs.measure(database, &cluster, &topic, arguments.topic_rows)?;
            let (rate, cpu) = (runs.rates[round - 1], runs.cpu[round - 1]);
            eprintln!(
                "bench: round {round}, {} lanes: {rate:.0} rows/s, {cpu:.2} CPU-s per million",
                runs.lanes
            );
        }
    }
    println!(
        "\nfrom Kafka into PostgreSQL, {} rows of JSON in 4 partitions, medians of {}",
        arguments.topic_rows, arguments.rounds
    );
    println!("lanes     rows/s  CPU-s/million  peak MiB  others' cores");
    for runs in &all {
        println!(
            "{:>5} {:>10.0} {:>14.2} {:>9} {:>14.2}",
            runs.lanes,
            median(runs.rates.clone()),
            median(runs.cpu.clone()),
            runs.peak_mib,
            median(runs.others.clone())
        );
    }
    Ok(())
}

impl Runs {
    fn measure(&mut self, database: &Database, cluster: &Cluster, topic: &str, rows: u64) -> Result<()> {
        let source = format!(
            "kafka: {{ brokers: \"{}\", topic: {topic}, group: bench-{} }}",
            cluster.address,
            std::process::id()
        );
        let table = database.table_for(&source, "columns: ohlcv", self.lanes, "table: candles")?;
        let name = format!("release/tidegate{}", std::env::consts::EXE_SUFFIX);
        let mut command = Command::new(xtask::target_folder().join(name));
        command.arg("run").arg(table.file()).args([
            "--json",
            "--instance",
            "bench",
            "--until-end",
            "--quiet",
        ]);
        let ended = AtomicBool::new(false);
        let (taken, seconds) = thread::scope(|scope| {
            let watching = scope.spawn(|| watch(&table, &ended));
            let taken = process::run(&mut command, database.process_id());
            ended.store(true, Ordering::Relaxed);
            (taken, watching.join().expect("the one who watches does not panic"))
        });
        let Taken { cpu, peak_mib, others, output, .. } = taken?;
        // The group has read everything, so this is the cost of starting and of ending.
        let start = process::run(&mut command, database.process_id())?;
        let summary: serde_json::Value = serde_json::from_str(&output)?;
        let written = summary["written"].as_u64().context("the summary has no `written`")?;
        let stored = table.count()?;
        ensure!(written == rows && stored == rows, "{written} rows were written, {stored} are stored");
        self.rates.push(rows as f64 / seconds?);
        self.cpu.push((cpu - start.cpu) / (rows as f64 / 1e6));
        self.peak_mib = self.peak_mib.max(peak_mib);
        self.others.push(others);
        Ok(())
    }
}

/// The time from the first position to the last: so starting and ending do not count.
fn watch(table: &Table<'_>, ended: &AtomicBool) -> Result<f64> {
    let (runtime, client) = connect(&table.url())?;
    let query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidegate_positions";
    let (mut first, mut last) = (None, None);
    let mut seen = 0;
    while !ended.load(Ordering::Relaxed) {
        // The table is not there at once.
        if let Ok(row) = runtime.block_on(client.query_one(query, &[])) {
            let written: i64 = row.try_get(0)?;
            if written > seen {
                seen = written;
                first.get_or_insert_with(Instant::now);
                last = Some(Instant::now());
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    let time = first.zip(last).map(|(first, last)| last.duration_since(first).as_secs_f64());
    time.filter(|seconds| *seconds > 0.0).context("too few rows to take the time")
}
