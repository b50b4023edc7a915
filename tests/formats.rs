//! The same candles give the same table however they are written, and a file is read only once.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rusqlite::types::Value as Stored;
use serde_json::{Value, json};

use crate::harness::{Database, Folder, RULES, integer, start, workspace};

const DATABASE: &str = "sink: { sqlite: { path: out.db } }\n";

/// 2026-01-05T00:00:00Z
const START_MS: i64 = 1_767_571_200_000;

pub struct Candle {
    timestamp: i64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: f64,
}

impl Candle {
    fn prices(&self) -> [f64; 4] {
        [self.open, self.high, self.low, self.close]
    }

    /// The parts that CCXT's array has.
    fn array(&self) -> Value {
        json!([self.timestamp, self.open, self.high, self.low, self.close, self.volume])
    }
}

/// Candles of BTC/USDT on Binance, from the minute `first` on.
pub fn candles(first: i64, count: i64) -> Vec<Candle> {
    let candle = |minute: i64| {
        // A third has no exact decimal form, so every digit has to arrive.
        let close = 93_000.0 + minute as f64 / 3.0;
        Candle {
            timestamp: START_MS + minute * 60_000,
            open: close - 1.25,
            high: close + 2.1,
            low: close - 3.3,
            close,
            volume: minute as f64 / 7.0,
        }
    };
    (first..first + count).map(candle).collect()
}

fn lines(candles: &[Candle], line: impl Fn(&Candle) -> String) -> Vec<u8> {
    candles.iter().map(|candle| line(candle) + "\n").collect::<String>().into_bytes()
}

fn json_lines(candles: &[Candle]) -> Vec<u8> {
    lines(candles, |candle| {
        let [open, high, low, close] = candle.prices();
        let (timestamp, volume) = (candle.timestamp, candle.volume);
        json!({
            "timestamp": timestamp, "open": open, "high": high, "low": low, "close": close, "volume": volume,
            "source": "binance", "symbol": "BTC/USDT", "timeframe": "1m",
        })
        .to_string()
    })
}

fn ccxt_objects(candles: &[Candle]) -> Vec<u8> {
    lines(candles, |candle| {
        let array = candle.array();
        let mut object = json!({ "source": "binance", "symbol": "BTC/USDT", "timeframe": "1m" })
            .as_object()
            .unwrap()
            .clone();
        for (index, value) in array.as_array().unwrap().iter().enumerate() {
            object.insert(index.to_string(), value.clone());
        }
        Value::Object(object).to_string()
    })
}

fn csv(candles: &[Candle]) -> Vec<u8> {
    lines(candles, |candle| {
        let [open, high, low, close] = candle.prices();
        format!("{},{open},{high},{low},{close},{},\"binance\",BTC/USDT,1m", candle.timestamp, candle.volume)
    })
}

const CSV_HEADER: &str = "timestamp,open,high,low,close,volume,source,symbol,timeframe\n";

pub fn write_parquet(path: &Path, candles: &[Candle]) {
    let floats = |value: fn(&Candle) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(candles.iter().map(value)))
    };
    let texts = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value; candles.len()])) };
    let times = TimestampMillisecondArray::from_iter_values(candles.iter().map(|candle| candle.timestamp));
    let batch = RecordBatch::try_from_iter([
        ("timestamp", Arc::new(times) as ArrayRef),
        ("open", floats(|candle| candle.open)),
        ("high", floats(|candle| candle.high)),
        ("low", floats(|candle| candle.low)),
        ("close", floats(|candle| candle.close)),
        ("volume", floats(|candle| candle.volume)),
        ("source", texts("binance")),
        ("symbol", texts("BTC/USDT")),
        ("timeframe", texts("1m")),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The table that a file gives; every row of it must be kept.
fn table_of(file: &str, content: &[u8], decode: &str) -> Vec<Vec<Stored>> {
    let folder = Folder::new();
    folder.write(file, content);
    folder.pipeline(file, &format!("{decode}{RULES}{DATABASE}"));
    let summary = folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&30.into(), &0.into()), "{file}: {summary}");
    folder.table("candles")
}

#[test]
fn every_format_gives_the_same_table() {
    let candles = candles(0, 30);
    let json = json_lines(&candles);
    let table = table_of("in.jsonl", &json, "");
    assert_eq!(table.len(), 30);

    let constants =
        "decode: { format: ccxt, constants: { source: binance, symbol: BTC/USDT, timeframe: 1m } }\n";
    let arrays = lines(&candles, |candle| candle.array().to_string());
    assert_eq!(table_of("arrays.jsonl", &arrays, constants), table);
    let objects = ccxt_objects(&candles);
    assert_eq!(table_of("objects.jsonl", &objects, "decode: { format: ccxt }\n"), table);
    let text = [CSV_HEADER.as_bytes(), &csv(&candles)].concat();
    assert_eq!(table_of("in.csv", &text, "decode: { format: csv }\n"), table);
    let with_returns = String::from_utf8(text).unwrap().replace('\n', "\r\n");
    assert_eq!(table_of("dos.csv", with_returns.as_bytes(), "decode: { format: csv }\n"), table);
    assert_eq!(table_of("in.jsonl.gz", &gzip(&json), ""), table);
    let halves = [gzip(&json[..1_000]), gzip(&json[1_000..])].concat();
    assert_eq!(table_of("two-members.jsonl.gz", &halves, ""), table);
    let packed = zstd::encode_all(json.as_slice(), 0).unwrap();
    assert_eq!(table_of("in.jsonl.zst", &packed, ""), table);
    let without_last_newline = &json[..json.len() - 1];
    assert_eq!(table_of("short.jsonl", without_last_newline, ""), table);

    let folder = Folder::new();
    write_parquet(&folder.path("in.parquet"), &candles);
    folder.pipeline("in.parquet", &format!("decode: {{ format: parquet }}\n{RULES}{DATABASE}"));
    assert_eq!(folder.summary()["written"], 30);
    assert_eq!(folder.table("candles"), table);

    let folder = Folder::new();
    folder.write("in.jsonl", &json);
    folder.pipeline("'-'", &format!("{RULES}{DATABASE}"));
    let input = File::open(folder.path("in.jsonl")).unwrap();
    start(folder.command().stdin(input)).finish().summary();
    assert_eq!(folder.table("candles"), table);
}

#[test]
fn appended_rows_are_read_and_no_others() {
    let (first, more) = (candles(0, 10), candles(10, 20));
    let whole = table_of("in.jsonl", &json_lines(&candles(0, 30)), "");
    let header_and_first = [CSV_HEADER.as_bytes(), &csv(&first)].concat();
    for (file, decode, start, appended) in [
        ("in.jsonl", "", json_lines(&first), json_lines(&more)),
        ("in.jsonl.gz", "", gzip(&json_lines(&first)), gzip(&json_lines(&more))),
        ("in.csv", "decode: { format: csv }\n", header_and_first, csv(&more)),
    ] {
        let folder = Folder::new();
        folder.write(file, start);
        folder.pipeline(file, &format!("{decode}{RULES}{DATABASE}"));
        assert_eq!(folder.summary()["written"], 10, "{file}");
        assert_eq!(folder.summary()["read"], 0, "{file}");
        folder.append(file, appended);
        let second = folder.summary();
        assert_eq!((&second["read"], &second["written"]), (&20.into(), &20.into()), "{file}");
        assert_eq!(folder.summary()["read"], 0, "{file}");
        assert_eq!(folder.table("candles"), whole, "{file}");
    }
}

#[test]
fn a_replaced_file_is_refused() {
    let folder = Folder::new();
    folder.write("in.jsonl", json_lines(&candles(0, 10)));
    folder.pipeline("in.jsonl", &format!("{RULES}{DATABASE}"));
    folder.summary();
    let table = folder.table("candles");
    folder.write("in.jsonl", json_lines(&candles(100, 20)));
    folder.refused(3, "begins with other rows than those that this pipeline has already read");
    folder.write("in.jsonl", json_lines(&candles(0, 5)));
    folder.refused(3, "has 5 rows, but this pipeline has already read 10");
    assert_eq!(folder.table("candles"), table);
}

#[test]
fn the_size_of_batches_changes_nothing() {
    let day = xtask::sample::day();
    let tables = [1, 7, 10_000].map(|batch_rows| {
        let folder = Folder::new();
        folder.write("in.jsonl", &day);
        folder.pipeline("in.jsonl", &format!("{RULES}{DATABASE}batch: {{ rows: {batch_rows} }}\n"));
        let summary = folder.summary();
        let counts =
            ["read", "written", "rejected", "dropped", "rejected_by"].map(|key| summary[key].clone());
        (counts, folder.table("candles"), folder.table("dead_letter"))
    });
    assert!(tables[0] == tables[2], "batches of 1 row");
    assert!(tables[1] == tables[2], "batches of 7 rows");
}

const TRADES: &str = "\
decode:
  columns:
    - { name: price, type: float, from: [p, px] }
    - { name: size, type: float, from: [q] }
    - { name: side, type: text }
    - { name: id, type: integer }
";

fn trades() -> Folder {
    let folder = Folder::new();
    folder.write(
        "trades.jsonl",
        "{\"p\":93000.5,\"q\":\"0.25\",\"side\":\"buy\",\"id\":9007199254740993}\n\
         {\"px\":\"93001\",\"size\":1,\"side\":\"sell\",\"id\":2,\"unknown\":[1]}\n\
         {\"price\":\"much\",\"size\":1,\"side\":\"sell\",\"id\":3}\n\
         {\"price\":93002,\"id\":4}\n",
    );
    folder
}

#[test]
fn columns_of_ones_own_go_into_a_database() {
    let folder = trades();
    folder.pipeline(
        "trades.jsonl",
        &format!("{TRADES}sink: {{ sqlite: {{ path: out.db, table: trades }} }}\n"),
    );
    let summary = folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&3.into(), &1.into()));
    let database = Database::open(&folder.path("out.db"));
    let text = |text: &str| Stored::Text(text.into());
    assert_eq!(
        database.query("SELECT price, size, side, id FROM trades ORDER BY rowid"),
        [
            [Stored::Real(93_000.5), Stored::Real(0.25), text("buy"), Stored::Integer(9_007_199_254_740_993)],
            [Stored::Real(93_001.0), Stored::Real(1.0), text("sell"), Stored::Integer(2)],
            [Stored::Real(93_002.0), Stored::Null, Stored::Null, Stored::Integer(4)],
        ]
    );
    assert_eq!(folder.rejects(), [(2, "wrong_type".into())]);
}

#[test]
fn columns_of_ones_own_go_into_lines() {
    let folder = trades();
    folder.pipeline("trades.jsonl", &format!("{TRADES}sink: {{ file: {{ path: out.jsonl }} }}\n"));
    assert_eq!(folder.summary()["written"], 3);
    let written = String::from_utf8(folder.read("out.jsonl")).unwrap();
    let rows: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        rows[..2],
        [
            json!({ "price": 93_000.5, "size": 0.25, "side": "buy", "id": 9_007_199_254_740_993_i64 }),
            json!({ "price": 93_001.0, "size": 1.0, "side": "sell", "id": 2 }),
        ]
    );
    // A value that is missing is absent or null, never zero.
    assert_eq!((rows[2]["id"].as_i64(), rows[2].get("size").and_then(Value::as_f64)), (Some(4), None));
}

#[test]
fn columns_of_ones_own_go_into_parquet() {
    let folder = trades();
    let sink = "sink: { file: { path: out, format: parquet } }\ndead_letter: { file: { path: bad.jsonl } }\n";
    std::fs::create_dir(folder.path("out")).unwrap();
    folder.pipeline("trades.jsonl", &format!("{TRADES}{sink}"));
    assert_eq!(folder.summary()["written"], 3);
    let mut batches = Vec::new();
    for entry in std::fs::read_dir(folder.path("out")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
            batches.extend(reader.build().unwrap().map(Result::unwrap));
        }
    }
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let schema = batches[0].schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["price", "size", "side", "id"]);
    let prices = batches[0].column(0).as_any().downcast_ref::<Float64Array>().unwrap();
    assert_eq!(prices.values()[..], [93_000.5, 93_001.0, 93_002.0]);

    // What one pipeline has written another one reads.
    let parts: Vec<_> =
        std::fs::read_dir(folder.path("out")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let part = parts.iter().find(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    let again = Folder::new();
    again.write("trades.parquet", std::fs::read(part.unwrap()).unwrap());
    let decode = TRADES.replace("decode:\n", "decode:\n  format: parquet\n");
    again.pipeline(
        "trades.parquet",
        &format!("{decode}sink: {{ sqlite: {{ path: out.db, table: trades }} }}\n"),
    );
    assert_eq!(again.summary()["written"], 3);
    assert_eq!(again.table("trades").len(), 3);
}

/// Candles as an exchange has really sent them are not a part of the project; where they lie beside it, they
/// are read.
#[test]
fn real_candles_are_conserved() {
    let shared = std::env::var_os("TIDEGATE_SHARED").map_or(workspace().join("../shared"), Into::into);
    let file = shared.join("data/candles-1m.jsonl.gz");
    if !file.is_file() {
        eprintln!("did nothing: there is no `{}`", file.display());
        return;
    }
    let folder = Folder::new();
    std::fs::copy(&file, folder.path("in.jsonl.gz")).unwrap();
    let rules = RULES.replace("sources: [binance, coinbase, kraken], ", "");
    folder.pipeline("in.jsonl.gz", &format!("{rules}{DATABASE}"));
    let summary = folder.summary();
    eprintln!("{}", summary["rejected_by"]);
    assert_eq!(summary["read"], 16_150);
    let database = Database::open(&folder.path("out.db"));
    let count = |table: &str| integer(&database.query(&format!("SELECT count(*) FROM {table}"))[0][0]);
    assert_eq!(count("dead_letter"), summary["rejected"].as_i64().unwrap());
    let revised = integer(&database.query("SELECT coalesce(sum(revision), 0) FROM candles")[0][0]);
    assert_eq!(count("candles") + revised, summary["written"].as_i64().unwrap());
}

#[test]
fn a_row_that_was_decided_before_its_end_came_is_named_when_it_goes_on() {
    for (file, decode, content) in [
        ("in.jsonl", "", json_lines(&candles(0, 10))),
        ("one.jsonl", "", json_lines(&candles(0, 1))),
        ("in.csv", "decode: { format: csv }\n", [CSV_HEADER.as_bytes(), &csv(&candles(0, 10))].concat()),
        ("in.jsonl.gz", "", json_lines(&candles(0, 10))),
    ] {
        let pack = |bytes: &[u8]| if file.ends_with(".gz") { gzip(bytes) } else { bytes.to_vec() };
        let folder = Folder::new();
        let cut = content.len() - 3;
        folder.write(file, pack(&content[..cut]));
        folder.pipeline(file, &format!("{decode}{RULES}{DATABASE}"));
        folder.summary();
        let (table, rejects) = (folder.table("candles"), folder.rejects());
        folder.append(file, pack(&content[cut..]));
        folder.refused(3, "and no line end when this pipeline decided it");
        assert_eq!((folder.table("candles"), folder.rejects()), (table, rejects), "{file}");
    }
    // A file without a last line end is common, and more rows after it are no trouble.
    let folder = Folder::new();
    let content = json_lines(&candles(0, 30));
    let cut = json_lines(&candles(0, 10)).len() - 1;
    folder.write("in.jsonl", &content[..cut]);
    folder.pipeline("in.jsonl", &format!("{RULES}{DATABASE}"));
    assert_eq!(folder.summary()["written"], 10);
    folder.append("in.jsonl", &content[cut..]);
    assert_eq!(folder.summary()["written"], 20);
    assert_eq!(folder.table("candles"), table_of("in.jsonl", &content, ""));
}

#[test]
fn the_position_of_a_pipe_does_not_skip_rows_of_a_file() {
    let folder = Folder::new();
    folder.pipeline("/dev/stdin", &format!("{RULES}{DATABASE}"));
    folder.write("first.jsonl", json_lines(&candles(0, 10)));
    folder.write("second.jsonl", json_lines(&candles(100, 20)));
    let mut cat = std::process::Command::new("cat")
        .arg(folder.path("first.jsonl"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pipe = cat.stdout.take().unwrap();
    assert_eq!(start(folder.command().stdin(pipe)).finish().summary()["written"], 10);
    cat.wait().unwrap();
    let second = File::open(folder.path("second.jsonl")).unwrap();
    start(folder.command().stdin(second)).finish().refused(3, "has the position of a pipe");
    assert_eq!(folder.table("candles").len(), 10);
}

#[test]
fn a_csv_header_that_is_too_long_has_the_same_outcome_after_a_restart() {
    let folder = Folder::new();
    let rows = csv(&candles(0, 10));
    folder.write("in.csv", [CSV_HEADER.trim_end().as_bytes(), b",", &[b'x'; 300], b"\n", &rows].concat());
    let decode = "decode: { format: csv, row: 200 B }\n";
    folder.pipeline("in.csv", &format!("{decode}{RULES}{DATABASE}"));
    assert_eq!(folder.summary()["rejected"], 11);
    folder.append("in.csv", csv(&candles(10, 10)));
    let again = folder.summary();
    assert_eq!((&again["rejected"], &again["written"]), (&10.into(), &0.into()));
}
