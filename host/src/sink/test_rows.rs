//! Rows and pipelines that the sinks' tests share.

use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};

use super::values::{Rows, Value};
use super::{Sink, Stored, Write};
use crate::batch::{Kind, Partition, Position, Reject};
use crate::dead_letter::DeadLetter;
use crate::error::Result;
use crate::kafka::Patience;
use crate::lane::Place;
use crate::pipeline_file::{ByteSize, Deploy, Pipeline, Remember, Span};
use crate::shutdown::Shutdown;
use crate::source::Source;
use crate::source::file::FileSource;

/// The columns of [`candles`].
pub fn schema() -> SchemaRef {
    let columns = [
        ("timestamp", Kind::Timestamp),
        ("close", Kind::Float),
        ("source", Kind::Text),
        ("symbol", Kind::Text),
        ("timeframe", Kind::Text),
        ("revision", Kind::Integer),
        ("closed", Kind::Boolean),
    ];
    Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind.data_type(), true)).to_vec()))
}

/// A candle a minute: its minute, its close, its revision.
pub fn candles(rows: &[(i64, f64, Option<i64>)]) -> RecordBatch {
    let mut built = Rows::new(&schema());
    for &(minute, close, revision) in rows {
        let values = [
            Value::Timestamp(minute * 60_000),
            Value::Float(close),
            Value::Text("binance"),
            Value::Text("BTC/USDT"),
            Value::Text("1m"),
            revision.map_or(Value::Null, Value::Integer),
            Value::Boolean(true),
        ];
        for (builder, value) in built.next_row().iter_mut().zip(values) {
            assert!(builder.push(value));
        }
    }
    built.rest().unwrap_or_else(|| RecordBatch::new_empty(schema()))
}

/// Candles of the minutes `range`, whose close is their minute.
pub fn minutes(range: std::ops::Range<i64>) -> RecordBatch {
    candles(&range.map(|minute| (minute, minute as f64, None)).collect::<Vec<_>>())
}

/// A pipeline named `test` with a sink and, perhaps, a dead letter, as its file would have them in JSON.
pub fn pipeline(sink: &str, dead_letter: Option<&str>) -> Pipeline {
    let json = |text: &str| serde_json::from_str(text).expect("the test's JSON is right");
    Pipeline {
        name: "test".into(),
        source: json(r#"{ "file": { "path": "in.jsonl" } }"#),
        decode: crate::pipeline_file::Decode { row: ByteSize(1 << 20), ..Default::default() },
        rules: Vec::new(),
        sink: serde_json::from_str(sink).expect("the test's sink is right"),
        dead_letter: dead_letter.map(|text| serde_json::from_str(text).expect("the dead letter is right")),
        batch: Default::default(),
        remember: Default::default(),
        delivery: Default::default(),
        lanes: 1,
        http: None,
        deploy: Deploy::default(),
        rule_versions: None,
    }
}

/// Opens the sink of a pipeline whose file is in `folder`.
pub fn open_sink(pipeline: &Pipeline, folder: &Path) -> Result<Sink> {
    let patience = Patience { forever: false, shutdown: Shutdown::default(), lane: None };
    let place = Place {
        folder,
        guests: folder,
        state: folder,
        instance: "test",
        lane: 0,
        until_end: false,
        backfill: None,
        adapters: None,
        patience,
    };
    Sink::open(pipeline, &schema(), &standard_input(), &place)
}

/// A source that these sinks do not look at.
fn standard_input() -> Source {
    let file = FileSource::open("-", &Default::default(), &Default::default(), Path::new("."));
    Source::File { file: Box::new(file.expect("nothing is read")), is_assigned: true }
}

/// Partition 0 of the test's file.
pub fn partition() -> Partition {
    Partition { topic: "in.jsonl".into(), number: 0 }
}

/// A position.
pub fn at(next_offset: u64) -> Position {
    let fingerprint = if next_offset == 0 { "" } else { "f" };
    Position { next_offset, fingerprint: fingerprint.into() }
}

/// Writes rows and moves the position from `from` to `to`; with each payload a dead letter.
pub fn write(sink: &mut Sink, from: u64, to: u64, kept: &RecordBatch, payloads: &[&[u8]]) -> Result<Stored> {
    let rejects: Vec<_> = (0..payloads.len() as u32).map(reject).collect();
    let rejected: Vec<_> =
        payloads.iter().zip(rejects).map(|(payload, reject)| letter(payload, reject)).collect();
    let refuse = |row: usize, reason: &str, detail: String| {
        letter(b"kept", Reject { rule: "sink".into(), reason: reason.into(), detail, ..reject(row as u32) })
    };
    let (partition, expected, next) = (partition(), at(from), at(to));
    let write = Write {
        partition: &partition,
        first: from,
        expected: &expected,
        next: &next,
        kept,
        versions: "",
        rejected: &rejected,
        refuse: &refuse,
    };
    sink.write(&write, &mut standard_input())
}

/// A rejected row.
pub fn reject(row: u32) -> Reject {
    Reject {
        row,
        rule: "validate".into(),
        version: "abc".into(),
        reason: "price".into(),
        detail: "open is \"-1\"".into(),
    }
}

/// The dead letter of a rejected row.
pub fn letter(payload: &[u8], reject: Reject) -> DeadLetter<'_> {
    DeadLetter {
        pipeline: "test",
        reject: std::borrow::Cow::Owned(reject),
        topic: "in.jsonl",
        partition: 0,
        offset: 7,
        whole_bytes: payload.len() as u64,
        payload: payload.into(),
        rejected_at_ms: 1_000,
    }
}

/// How much is remembered.
pub fn remember(rows: usize, window_minutes: u64) -> Remember {
    Remember { rows, window: Some(Span(std::time::Duration::from_secs(60 * window_minutes))) }
}

/// The minutes that are read back, checking that each batch has only the asked columns and 10,000 rows at most.
pub fn read_minutes(sink: &mut Sink, remember: &Remember) -> Vec<i64> {
    let mut found = Vec::new();
    let columns = ["symbol".to_owned(), "timestamp".to_owned()];
    sink.read_back(0, &columns, remember, &mut |batch| {
        assert!(batch.num_rows() <= 10_000);
        assert_eq!(batch.num_columns(), 2);
        assert_eq!(batch.schema().field(0).data_type(), &Kind::Text.data_type());
        assert_eq!(batch.schema().field(1).data_type(), &Kind::Timestamp.data_type());
        let values = super::values::Values::of_batch(&batch);
        for row in 0..batch.num_rows() {
            assert_eq!(values[0].at(row), Value::Text("BTC/USDT"));
            match values[1].at(row) {
                Value::Timestamp(at) => found.push(at / 60_000),
                other => panic!("{other:?} is not a timestamp"),
            }
        }
        Ok(())
    })
    .expect("rows are read back");
    found
}
