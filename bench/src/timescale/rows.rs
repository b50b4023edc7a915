//! Candles of some hundred series, minute by minute, as the columns of a batch and as the bytes of binary COPY.

use anyhow::{Context, Result};
use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use bytes::Bytes;
use tidegate::batch::Kind;
use tidegate::sink::values::{Rows as Builders, Value};

const SERIES: usize = 400;
const START_MS: i64 = 1_735_689_600_000;
const MINUTE_MS: i64 = 60_000;
/// From 1970 to 2000, from where PostgreSQL counts.
const EPOCH_MS: i64 = 946_684_800_000;

const COLUMNS: [(&str, Kind); 16] = [
    ("timestamp", Kind::Timestamp),
    ("open", Kind::Float),
    ("high", Kind::Float),
    ("low", Kind::Float),
    ("close", Kind::Float),
    ("volume", Kind::Float),
    ("source", Kind::Text),
    ("symbol", Kind::Text),
    ("timeframe", Kind::Text),
    ("revision", Kind::Integer),
    ("exchange", Kind::Text),
    ("exchange_country", Kind::Text),
    ("exchange_kind", Kind::Text),
    ("base", Kind::Text),
    ("quote", Kind::Text),
    ("validated_at", Kind::Timestamp),
];

/// The rows of one connection.
pub struct Rows {
    /// Their columns.
    pub schema: SchemaRef,
    /// For the sink.
    pub batches: Vec<RecordBatch>,
    /// The same for whoever sends them as they are.
    pub encoded: Vec<Bytes>,
}

impl Rows {
    /// Batches of rows with different keys, of series that no other client has.
    pub fn new(client: usize, revision: i64, batches: usize, size: usize) -> Result<Rows> {
        let fields = COLUMNS.map(|(name, kind)| Field::new(name, kind.data_type(), true));
        let schema = std::sync::Arc::new(Schema::new(fields.to_vec()));
        let mut rows = Rows { schema, batches: Vec::new(), encoded: Vec::new() };
        let symbols: Vec<(String, String)> = (0..SERIES)
            .map(|number| {
                let base = format!("COIN{}", number * 8 + client);
                (format!("{base}/USDT"), base)
            })
            .collect();
        for batch in 0..batches {
            let mut builders = Builders::new(&rows.schema);
            let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
            let mut built: Option<RecordBatch> = None;
            for number in batch * size..(batch + 1) * size {
                let (symbol, base) = &symbols[number % SERIES];
                let values = row(number, revision, symbol, base);
                bytes.extend_from_slice(&16_i16.to_be_bytes());
                for (builder, value) in builders.next_row().iter_mut().zip(values) {
                    builder.push(value);
                    encode(value, &mut bytes);
                }
                if let Some(full) = builders.full() {
                    // Builders hold at most 10,000 rows; larger batches are not measured.
                    built = Some(full);
                }
            }
            bytes.extend_from_slice(&(-1_i16).to_be_bytes());
            rows.batches.push(built.or_else(|| builders.rest()).context("a batch has rows")?);
            rows.encoded.push(bytes.into());
        }
        Ok(rows)
    }
}

fn row<'r>(number: usize, revision: i64, symbol: &'r str, base: &'r str) -> [Value<'r>; 16] {
    let at = START_MS + (number / SERIES) as i64 * MINUTE_MS;
    let price = 100.0 + (number % 9_973) as f64 / 100.0;
    [
        Value::Timestamp(at),
        Value::Float(price),
        Value::Float(price + 1.25),
        Value::Float(price - 1.25),
        Value::Float(price + 0.01),
        Value::Float((number % 5_000) as f64 / 16.0),
        Value::Text(["binance", "coinbase", "kraken"][number % SERIES % 3]),
        Value::Text(symbol),
        Value::Text("1m"),
        Value::Integer(revision),
        Value::Text(["Binance", "Coinbase", "Kraken"][number % SERIES % 3]),
        Value::Null,
        Value::Null,
        Value::Text(base),
        Value::Text("USDT"),
        Value::Timestamp(at + 61_000),
    ]
}

fn encode(value: Value<'_>, bytes: &mut Vec<u8>) {
    let mut put = |value: &[u8]| {
        bytes.extend_from_slice(&(value.len() as i32).to_be_bytes());
        bytes.extend_from_slice(value);
    };
    match value {
        Value::Null => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
        Value::Integer(value) => put(&value.to_be_bytes()),
        Value::Float(value) => put(&value.to_be_bytes()),
        Value::Boolean(value) => put(&[u8::from(value)]),
        Value::Timestamp(at) => put(&((at - EPOCH_MS) * 1_000).to_be_bytes()),
        Value::Text(text) => put(text.as_bytes()),
    }
}
