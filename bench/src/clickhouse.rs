//! Into a table of ClickHouse.
//!
//! - `formats`: the same rows in one process and on one connection, in three formats. The ceiling is a buffer of the best
//!   format that was made before and is only sent; the others make it from Arrow's columns first.
//! - from a topic into the table with the real binary, as a user runs it.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt32Array,
};
use bytes::Bytes;
use clickhouse::{Client, Compression};
use tempfile::TempDir;
use tidegate::batch::Kind;
use tidegate::sink::clickhouse::{Block, Type};
use tokio::runtime::Runtime;
use xtask::clickhouse::{Options, Server};
use xtask::sample::Numbers;

use crate::kafka::candles::{self, Candles};
use crate::kafka::cluster::Cluster;
use crate::kafka::{VALIDATE, load, process};
use crate::median;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many rows are inserted for a figure, and how many the topic has
    #[arg(long, default_value_t = 2_000_000)]
    rows: u64,
    /// How often each is measured; the medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rows an insert
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    inserts: Vec<usize>,
    /// Numbers of lanes
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    lanes: Vec<usize>,
}

/// The columns and their types, as `create` makes them.
const COLUMNS: [(&str, Kind, &str); 10] = [
    ("timestamp", Kind::Timestamp, "DateTime64(3, 'UTC')"),
    ("open", Kind::Float, "Nullable(Float64)"),
    ("high", Kind::Float, "Nullable(Float64)"),
    ("low", Kind::Float, "Nullable(Float64)"),
    ("close", Kind::Float, "Nullable(Float64)"),
    ("volume", Kind::Float, "Nullable(Float64)"),
    ("source", Kind::Text, "LowCardinality(String)"),
    ("symbol", Kind::Text, "LowCardinality(String)"),
    ("timeframe", Kind::Text, "LowCardinality(String)"),
    ("revision", Kind::Integer, "UInt64"),
];

const SERIES: usize = 400;

/// How the rows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `Native` that was made before.
    Ceiling,
    Native,
    RowBinary,
    RowBinaryWithNamesAndTypes,
}

const WAYS: [Way; 4] = [Way::Ceiling, Way::Native, Way::RowBinary, Way::RowBinaryWithNamesAndTypes];

impl Way {
    fn format(self) -> &'static str {
        match self {
            Way::Ceiling | Way::Native => "Native",
            Way::RowBinary => "RowBinary",
            Way::RowBinaryWithNamesAndTypes => "RowBinaryWithNamesAndTypes",
        }
    }

    fn encode(self, types: &[(String, Type)], batch: &RecordBatch) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Way::Ceiling | Way::Native => {
                let mut block = Block::new(types.iter().map(|(_, column_type)| column_type));
                block.append(types, batch);
                block.pieces(types).for_each(|piece| out.extend_from_slice(&piece));
            }
            Way::RowBinary => push_rows(types, batch, &mut out),
            Way::RowBinaryWithNamesAndTypes => {
                push_length(&mut out, types.len());
                types.iter().for_each(|(name, _)| push_text(&mut out, name));
                types.iter().for_each(|(_, column_type)| push_text(&mut out, &column_type.name));
                push_rows(types, batch, &mut out);
            }
        }
        out
    }
}

/// Prints two tables.
pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = TempDir::new()?;
    let server = match std::env::var("TIDEGATE_CLICKHOUSE_URL") {
        Ok(_) => None,
        Err(_) => {
            Some(Server::start(Options { folder: folder.path().join("clickhouse"), ..Options::default() })?)
        }
    };
    let url = match &server {
        Some(server) => server.url(),
        None => std::env::var("TIDEGATE_CLICKHOUSE_URL")?,
    };
    let bench = Bench {
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        client: Client::default().with_url(&url).with_compression(Compression::Lz4),
    };
    formats(&bench, arguments)?;
    from_kafka(&bench, &url, server.as_ref().and_then(Server::process_id), arguments)
}

/// A connection.
struct Bench {
    runtime: Runtime,
    client: Client,
}

impl Bench {
    fn execute(&self, statement: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.client.query_raw(statement).execute())?)
    }

    fn number(&self, query: &str) -> Result<u64> {
        let request = async { self.client.query_raw(query).fetch_bytes("TabSeparated")?.collect().await };
        let bytes = self.runtime.block_on(request)?;
        String::from_utf8_lossy(&bytes).trim().parse().context("the server gives a number")
    }

    fn make_table(&self) -> Result<()> {
        self.execute("DROP TABLE IF EXISTS bench_candles")?;
        let columns: Vec<String> =
            COLUMNS.iter().map(|(name, _, column_type)| format!("{name} {column_type}")).collect();
        self.execute(&format!(
            "CREATE TABLE bench_candles ({}) ENGINE = ReplacingMergeTree(revision) PARTITION BY toYYYYMM(timestamp) \
             ORDER BY (source, symbol, timeframe, timestamp) SETTINGS non_replicated_deduplication_window = 10000",
            columns.join(", ")
        ))
    }

    /// Sends one body; `token` makes it another block than those before.
    fn insert(&self, format: &str, body: &[u8], token: &str) -> Result<()> {
        let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
        let statement = format!("INSERT INTO bench_candles ({}) FORMAT {format}", names.join(", "));
        self.runtime.block_on(async {
            let mut insert = self
                .client
                .insert_formatted_with(statement)
                .with_setting("async_insert", "0")
                .with_setting("wait_end_of_query", "1")
                .with_setting("insert_deduplication_token", token);
            for part in body.chunks(1 << 20) {
                insert.send(Bytes::copy_from_slice(part)).await?;
            }
            insert.end().await
        })?;
        Ok(())
    }
}

fn formats(bench: &Bench, arguments: &Arguments) -> Result<()> {
    let types: Vec<(String, Type)> = COLUMNS
        .iter()
        .map(|(name, kind, column_type)| Some(((*name).to_owned(), Type::parse(column_type, *kind)?)))
        .collect::<Option<_>>()
        .context("the types are known")?;
    println!(
        "\n{} rows of {} columns into ClickHouse, medians of {}, lz4",
        arguments.rows,
        COLUMNS.len(),
        arguments.rounds
    );
    println!(
        "{:<28} {:>10} {:>10} {:>11} {:>14} {:>6}",
        "", "rows/insert", "rows/s", "of ceiling", "encode ns/row", "MiB"
    );
    for &size in &arguments.inserts {
        let batches = batches(arguments.rows, size);
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let made: Vec<Vec<u8>> = batches.iter().map(|batch| Way::Ceiling.encode(&types, batch)).collect();
        let mut rates = [const { Vec::new() }; WAYS.len()];
        let mut encoding = [const { Vec::new() }; WAYS.len()];
        let mut bytes = [0; WAYS.len()];
        for round in 0..arguments.rounds {
            for (index, way) in WAYS.into_iter().enumerate() {
                bench.make_table()?;
                let (start, mut encoded_s, mut sent) = (Instant::now(), 0.0, 0);
                for (number, batch) in batches.iter().enumerate() {
                    let token = format!("{way:?}/{round}/{number}");
                    if way == Way::Ceiling {
                        sent += made[number].len();
                        bench.insert(way.format(), &made[number], &token)?;
                        continue;
                    }
                    let begun = Instant::now();
                    let body = way.encode(&types, batch);
                    encoded_s += begun.elapsed().as_secs_f64();
                    sent += body.len();
                    bench.insert(way.format(), &body, &token)?;
                }
                rates[index].push(rows as f64 / start.elapsed().as_secs_f64());
                encoding[index].push(encoded_s * 1e9 / rows as f64);
                bytes[index] = sent >> 20;
                let stored = bench.number("SELECT count() FROM bench_candles")?;
                ensure!(stored == rows as u64, "{way:?}: {stored} of {rows} rows are in the table");
            }
        }
        let ceiling = median(rates[0].clone());
        for (index, way) in WAYS.into_iter().enumerate() {
            let rate = median(rates[index].clone());
            println!(
                "{:<28} {size:>10} {rate:>10.0} {:>11.2} {:>14.0} {:>6}",
                format!("{way:?}"),
                rate / ceiling,
                median(encoding[index].clone()),
                bytes[index]
            );
        }
    }
    Ok(())
}

fn from_kafka(bench: &Bench, url: &str, server: Option<u32>, arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start()?;
    let mut made = Candles::new();
    let from = candles::topic(&cluster, &mut made, arguments.rows)?;
    println!(
        "\n{} rows of JSON from 4 partitions into a table, medians of {}",
        arguments.rows, arguments.rounds
    );
    println!(
        "{:<8} {:>10} {:>15} {:>17} {:>10}",
        "lanes", "rows/s", "CPU-s/million", "server's CPU-s", "peak MiB"
    );
    for &lanes in &arguments.lanes {
        let (mut rates, mut cpu, mut server_cpu, mut peak) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..arguments.rounds {
            bench.execute("DROP TABLE IF EXISTS bench_lanes")?;
            bench.execute("DROP TABLE IF EXISTS dead_letter")?;
            let folder = TempDir::new()?;
            let mut command = host(&cluster, &from, url, folder.path(), lanes, round)?;
            let start = Instant::now();
            let taken = process::run(&mut command, server)?;
            let seconds = start.elapsed().as_secs_f64();
            // The group has read everything, so this is the cost of starting and of ending.
            let start = Instant::now();
            let idle = process::run(&mut command, server)?;
            let seconds = seconds - start.elapsed().as_secs_f64();
            let stored = bench.number("SELECT count() FROM bench_lanes")?;
            // Repetitions are rows of one key, of which a part keeps one.
            let kept = made.counts.kept();
            ensure!(
                (kept..=kept + made.counts.dropped).contains(&stored),
                "{stored} rows are in the table, and {kept} are right"
            );
            let millions = made.counts.rows as f64 / 1e6;
            rates.push(made.counts.rows as f64 / seconds.max(1e-3));
            cpu.push((taken.cpu - idle.cpu) / millions);
            server_cpu.push((taken.server_cpu - idle.server_cpu) / millions);
            peak.push(taken.peak_mib as f64);
            eprintln!("bench: round {round}, {lanes} lanes: {:.0} rows/s, load {}", rates[round], load()?);
        }
        println!(
            "{lanes:<8} {:>10.0} {:>15.2} {:>17.2} {:>10.0}",
            median(rates),
            median(cpu),
            median(server_cpu),
            median(peak)
        );
    }
    Ok(())
}

/// The command that is the host, with a pipeline file that it writes into `folder`: the validating rule alone, so that
/// only right rows arrive.
fn host(
    cluster: &Cluster,
    from: &str,
    url: &str,
    folder: &std::path::Path,
    lanes: usize,
    round: usize,
) -> Result<Command> {
    let brokers = &cluster.address;
    let file = format!(
        "name: bench\n\
         source: {{ kafka: {{ brokers: \"{brokers}\", topic: {from}, group: bench-{lanes}-{round} }} }}\n\
         decode: {{ format: json, columns: ohlcv }}\n\
         rules:\n\
         \x20 - {{ name: validate, component: validate, settings: {VALIDATE} }}\n\
         sink: {{ clickhouse: {{ url: \"{url}\", table: bench_lanes, create: true }} }}\n\
         lanes: {lanes}\n"
    );
    let path = folder.join("bench.yaml");
    std::fs::write(&path, file)?;
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let name = format!("{profile}/tidegate{}", std::env::consts::EXE_SUFFIX);
    let mut command = Command::new(xtask::target_folder().join(name));
    command.arg("run").arg(path).args([
        "--json",
        "--instance",
        "bench",
        "--until-end",
        "--quiet",
        "--guests",
    ]);
    command.arg(xtask::target_folder().join("guests"));
    Ok(command)
}

/// Candles of some hundred series, minute by minute, in batches of `size` rows.
fn batches(rows: u64, size: usize) -> Vec<RecordBatch> {
    let mut numbers = Numbers::new(7);
    let dictionary = |texts: Vec<String>, keys: Vec<u32>| -> ArrayRef {
        let texts = Arc::new(StringArray::from(texts));
        Arc::new(DictionaryArray::<UInt32Type>::new(UInt32Array::from(keys), texts))
    };
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let batch = |start: usize| {
        let range = start..(start + size).min(rows);
        let series = |row: usize| (row % SERIES) as u32;
        let mut prices = || -> ArrayRef {
            let price =
                |row: usize| (1_000_000 + 10_000 * series(row) as i64 + numbers.below(2_000)) as f64 / 100.0;
            Arc::new(range.clone().map(price).collect::<Float64Array>())
        };
        let time = |row: usize| 1_735_689_600_000 + 60_000 * (row / SERIES) as i64;
        let sources = ["binance", "coinbase", "kraken"].map(str::to_owned).to_vec();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(
                TimestampMillisecondArray::from_iter_values(range.clone().map(time)).with_timezone("UTC"),
            ),
            prices(),
            prices(),
            prices(),
            prices(),
            prices(),
            dictionary(sources, range.clone().map(|row| series(row) % 3).collect()),
            dictionary(
                (0..SERIES).map(|n| format!("COIN{n}/USDT")).collect(),
                range.clone().map(series).collect(),
            ),
            dictionary(vec!["1m".into()], vec![0; range.len()]),
            Arc::new(Int64Array::from(vec![0; range.len()])),
        ];
        RecordBatch::try_from_iter(COLUMNS.iter().map(|(name, ..)| *name).zip(columns))
            .expect("columns of one length")
    };
    (0..rows).step_by(size).map(batch).collect()
}

/// Rows one after the other, as `RowBinary` has them.
fn push_rows(types: &[(String, Type)], batch: &RecordBatch, out: &mut Vec<u8>) {
    enum Values<'a> {
        Numbers(&'a [i64]),
        Floats(&'a [f64]),
        Texts(&'a [u32], &'a StringArray),
    }
    let columns: Vec<(Values<'_>, bool)> = batch
        .columns()
        .iter()
        .zip(types)
        .map(|(array, (_, column_type))| {
            let values = if let Some(texts) = array.as_dictionary_opt::<UInt32Type>() {
                Values::Texts(texts.keys().values(), texts.values().as_string::<i32>())
            } else if let Some(floats) = array.as_primitive_opt::<Float64Type>() {
                Values::Floats(floats.values())
            } else if let Some(times) = array.as_primitive_opt::<TimestampMillisecondType>() {
                Values::Numbers(times.values())
            } else {
                Values::Numbers(array.as_primitive::<Int64Type>().values())
            };
            (values, column_type.is_nullable)
        })
        .collect();
    for row in 0..batch.num_rows() {
        for (values, is_nullable) in &columns {
            if *is_nullable {
                out.push(0);
            }
            match values {
                Values::Numbers(numbers) => out.extend_from_slice(&numbers[row].to_le_bytes()),
                Values::Floats(floats) => out.extend_from_slice(&floats[row].to_le_bytes()),
                Values::Texts(keys, texts) => push_text(out, texts.value(keys[row] as usize)),
            }
        }
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    push_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn push_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}
