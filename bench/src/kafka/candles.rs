//! Candles of some hundred series, minute by minute. One row in a hundred is wrong and one is an exact duplicate, unless
//! they are those of a topic that was checked.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use xtask::sample::Numbers;

use super::PARTITIONS;
use super::cluster::Cluster;

const SERIES: usize = 400;
const START_MS: i64 = 1_735_689_600_000;
const MINUTE_MS: i64 = 60_000;

/// What must become of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: u64,
    pub rejected: u64,
    pub dropped: u64,
}

impl Counts {
    pub fn kept(&self) -> u64 {
        self.rows - self.rejected - self.dropped
    }
}

struct Series {
    source: &'static str,
    symbol: String,
    /// In hundredths.
    close: i64,
    /// Its last right row.
    last: Vec<u8>,
}

/// An endless row of candles, the same each time.
pub struct Candles {
    numbers: Numbers,
    series: Vec<Series>,
    next: usize,
    timestamp_ms: i64,
    pub counts: Counts,
    wrong: Vec<u8>,
    /// Whether all are right and different.
    is_right: bool,
}

impl Candles {
    /// Rows that are all right and different.
    pub fn right() -> Candles {
        Candles { is_right: true, ..Candles::new() }
    }

    pub fn new() -> Candles {
        let series = |number: usize| Series {
            source: ["binance", "coinbase", "kraken"][number % 3],
            symbol: format!("COIN{number}/USDT"),
            close: 1_000_000 + 10_000 * number as i64,
            last: Vec::new(),
        };
        Candles {
            numbers: Numbers::new(7),
            series: (0..SERIES).map(series).collect(),
            next: 0,
            timestamp_ms: START_MS,
            counts: Counts::default(),
            wrong: Vec::new(),
            is_right: false,
        }
    }

    /// The partition, the key and the bytes of the next row.
    fn row(&mut self) -> (i32, &str, &[u8]) {
        let index = self.next;
        let partition = index as i32 % PARTITIONS;
        let number = self.counts.rows;
        self.counts.rows += 1;
        match number % 100 {
            13 if !self.is_right => {
                self.counts.rejected += 1;
                let mut wrong = std::mem::take(&mut self.wrong);
                self.candle(index, true, &mut wrong);
                self.wrong = wrong;
                (partition, &self.series[index].symbol, &self.wrong)
            }
            57 if !self.is_right && !self.series[index].last.is_empty() => {
                self.counts.dropped += 1;
                (partition, &self.series[index].symbol, &self.series[index].last)
            }
            _ => {
                let mut last = std::mem::take(&mut self.series[index].last);
                self.candle(index, false, &mut last);
                self.series[index].last = last;
                self.next = (index + 1) % SERIES;
                if self.next == 0 {
                    self.timestamp_ms += MINUTE_MS;
                }
                (partition, &self.series[index].symbol, &self.series[index].last)
            }
        }
    }

    /// A candle of 190 bytes: of every other series with its numbers as texts.
    fn candle(&mut self, index: usize, is_wrong: bool, out: &mut Vec<u8>) {
        let Candles { numbers, series, timestamp_ms, .. } = self;
        let series = &mut series[index];
        let start = 1_000_000 + 10_000 * index as i64;
        let step = start / 1_000;
        let open = series.close;
        let close = open + numbers.below(2 * step + 1) - step + (start - open) / 500;
        let high = open.max(close) + numbers.below(step);
        let low = open.min(close) - numbers.below(step);
        let (volume, trades) = (1 + numbers.below(5_000_000), 1 + numbers.below(4_000));
        if !is_wrong {
            series.close = close;
        }
        let sign = if is_wrong { "-" } else { "" };
        let quote = if index.is_multiple_of(2) { "\"" } else { "" };
        out.clear();
        write!(
            out,
            "{{\"timestamp\":{timestamp_ms},\"open\":{quote}{}.{:02}{quote},\"high\":{quote}{}.{:02}{quote},\
             \"low\":{quote}{}.{:02}{quote},\"close\":{quote}{sign}{}.{:02}{quote},\
             \"volume\":{quote}{}.{:04}{quote},\"trades\":{trades},\"source\":\"{}\",\"symbol\":\"{}\",\
             \"timeframe\":\"1m\"}}",
            open / 100,
            open % 100,
            high / 100,
            high % 100,
            low / 100,
            low % 100,
            close / 100,
            close % 100,
            volume / 10_000,
            volume % 10_000,
            series.source,
            series.symbol
        )
        .expect("memory takes every row");
    }

    /// Hands the next rows to a producer.
    pub fn send(&mut self, producer: &BaseProducer, topic: &str, rows: u64) -> Result<()> {
        for _ in 0..rows {
            let (partition, key, payload) = self.row();
            let mut record = BaseRecord::to(topic).partition(partition).key(key).payload(payload);
            loop {
                record = match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
                    Err((error, _)) => return Err(error.into()),
                };
                producer.poll(Duration::from_millis(5));
            }
        }
        producer.poll(Duration::ZERO);
        Ok(())
    }
}

/// A producer for candles.
pub fn producer(cluster: &Cluster) -> Result<BaseProducer> {
    Ok(cluster
        .config()
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("delivery.report.only.error", "true")
        .create()?)
}

/// Makes a topic with so many rows, and says what must become of them.
pub fn topic(cluster: &Cluster, candles: &mut Candles, rows: u64) -> Result<String> {
    let topic = cluster.create("raw")?;
    let producer = producer(cluster)?;
    let start = Instant::now();
    candles.send(&producer, &topic, rows)?;
    producer.flush(Duration::from_secs(60))?;
    // The producer says nothing of a row that it has given up.
    let mut arrived = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = producer.client().fetch_watermarks(&topic, partition, Duration::from_secs(10))?;
        arrived += u64::try_from(high - low)?;
    }
    ensure!(arrived == rows, "of {rows} rows {arrived} have arrived in `{topic}`");
    eprintln!("bench: {rows} rows sent in {:.1} s", start.elapsed().as_secs_f64());
    Ok(topic)
}
