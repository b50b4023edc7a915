//! How long a candle takes from an exchange's answer into both databases, and where.
//!
//! All times are of the wall clock of one machine: when the simulator gave the first answer with the closed candle; when a
//! reader of committed rows saw it in a topic; when PostgreSQL committed it (`track_commit_timestamp`); when ClickHouse began
//! to insert its block (a column with `DEFAULT now64(3)`), which is some milliseconds before it is visible there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::harness::exchanges::SHIPPED;
use crate::harness::kafka::Kafka;
use crate::harness::system::{PARTITIONS, System};

const TOPICS: [&str; 2] = ["ohlcv-raw", "ohlcv-validated"];

/// When candles were somewhere, in milliseconds since 1970, by source, symbol and open time.
type Times = HashMap<(String, String, i64), i64>;

/// Looks at both topics until it is asked what came when.
pub struct Watch {
    thread: JoinHandle<[Times; 2]>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    pub fn start(kafka: &Kafka) -> Watch {
        let mut config = kafka.config();
        config.set("group.id", "latency").set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed").set("fetch.wait.max.ms", "20");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for topic in TOPICS {
            for partition in 0..PARTITIONS {
                list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            }
        }
        consumer.assign(&list).unwrap();
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut times = [Times::new(), Times::new()];
            while !stopped.load(Ordering::Relaxed) {
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
                let now_ms = wall_ms();
                let row: Value = serde_json::from_slice(message.payload().unwrap_or_default()).unwrap();
                let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
                let key = (text("source"), text("symbol"), row["timestamp"].as_i64().unwrap_or(0));
                let topic = usize::from(message.topic() == TOPICS[1]);
                times[topic].entry(key).or_insert(now_ms);
            }
            times
        });
        Watch { thread, stop }
    }

    fn finish(self) -> [Times; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// The table for the candles that opened from one time to before another, which both databases have.
pub fn table(system: &System, watch: Watch, from_ms: i64, to_ms: i64) -> String {
    let [raw, validated] = watch.finish();
    let mut answered = Times::new();
    for (exchange, _) in SHIPPED {
        let first = system.simulator.first_answers(exchange).into_iter();
        answered.extend(
            first.map(|((symbol, open_ms), at_ms)| ((exchange.id().to_owned(), symbol, open_ms), at_ms)),
        );
    }
    let (in_postgres, in_clickhouse) = (of_postgres(system, from_ms), of_clickhouse(system, from_ms));
    // A candle that is late is not measured; whether it comes is compared at the end.
    let is_asked = |open_ms: i64| (from_ms..to_ms).contains(&open_ms);
    let times_of = |key| {
        let places = [&answered, &raw, &validated, &in_postgres, &in_clickhouse];
        places.into_iter().map(|times| times.get(key).copied()).collect()
    };
    let rows: Vec<Vec<i64>> = answered.keys().filter(|key| is_asked(key.2)).filter_map(times_of).collect();
    assert!(!rows.is_empty(), "there are candles without faults");
    let line = |name: &str, from: usize, to: usize| {
        let mut times_ms: Vec<i64> = rows.iter().map(|row| row[to] - row[from]).collect();
        times_ms.sort_unstable();
        let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share).round() as usize];
        format!("{name:<34} | {:>6} | {:>6}\n", at(0.5), at(0.99))
    };
    let mut table = format!("latency ms of {} rows without faults | p50    | p99\n", rows.len());
    table += &line("answer to ohlcv-raw", 0, 1);
    table += &line("ohlcv-raw to ohlcv-validated", 1, 2);
    table += &line("ohlcv-validated to PostgreSQL", 2, 3);
    table += &line("ohlcv-validated to ClickHouse", 2, 4);
    table += &line("answer to PostgreSQL", 0, 3);
    table += &line("answer to ClickHouse", 0, 4);
    table
}

fn of_postgres(system: &System, from_ms: i64) -> Times {
    let ms = |time: &str| format!("(extract(epoch FROM {time}) * 1000)::bigint");
    let (opened, committed) = (ms("timestamp"), ms("pg_xact_commit_timestamp(xmin)"));
    let rows = format!(
        "SELECT source, symbol, {opened}, {committed} FROM candles WHERE timestamp >= to_timestamp({from_ms} / 1000)"
    );
    times(system.postgres.query(&rows).into_iter().map(|row| row.into_iter().map(Option::unwrap).collect()))
}

fn of_clickhouse(system: &System, from_ms: i64) -> Times {
    let rows = format!(
        "SELECT source, symbol, toUnixTimestamp64Milli(timestamp), toUnixTimestamp64Milli(inserted_at) FROM candles \
         WHERE timestamp >= fromUnixTimestamp64Milli({from_ms})"
    );
    times(system.clickhouse.clickhouse.query(&rows).into_iter())
}

fn times(rows: impl Iterator<Item = Vec<String>>) -> Times {
    rows.map(|row| ((row[0].clone(), row[1].clone(), row[2].parse().unwrap()), row[3].parse().unwrap()))
        .collect()
}
