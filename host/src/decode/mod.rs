//! Bytes to columns.
//!
//! - `column`: builders of the declared columns; a row that fails midway is undone
//! - `json`: an object a line, CCXT's arrays
//! - `csv`: a row a line under a header
//! - `parquet`: columns of any type to columns of the declared kinds
//! - `value`: texts to numbers and times
//!
//! A row that does not decode becomes a reject with one of [`REASONS`]; its neighbours are not touched.

mod column;
mod csv;
mod json;
mod parquet;
mod value;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};

use crate::batch::{Batch, Decoded, Kind, Payload, RawBatch, RawRow, Reject, compacted};
use crate::error::{Error, Result};
use crate::metrics::DECODE;
use crate::pipeline_file::{Column, ColumnSet, Columns, Decode, Format};
use column::{ColumnBuilder, Rows};

/// A table of 64 columns is wider than any market data; the border to a rule allows no more.
const COLUMNS_MAX: usize = 64;

/// Objects and arrays within each other. A candle has one level; 64 leaves the stack untouched.
const DEPTH_MAX: usize = 64;

/// Characters of a value that a detail quotes: enough to recognise it, too few to fill a log.
const QUOTE_CHARS_MAX: usize = 64;

/// CCXT's candle arrays have six elements.
const CCXT_ELEMENTS: usize = 6;

/// Why a row does not decode: the closed list of reasons of the rule `decode`.
pub const REASONS: [&str; 8] = [
    "malformed",
    "invalid_utf8",
    "wrong_type",
    "out_of_range",
    "duplicate_field",
    "too_long",
    "too_deep",
    "not_a_row",
];

/// An index into [`REASONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Malformed,
    InvalidUtf8,
    WrongType,
    OutOfRange,
    DuplicateField,
    TooLong,
    TooDeep,
    NotARow,
}

/// Why a row does not decode, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    reason: Reason,
    detail: String,
}

impl Fault {
    #[cold]
    fn new(reason: Reason, detail: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { reason, detail: detail.into() })
    }
}

/// A row was read, or why not. The fault is boxed because this result travels through each value of each row.
type RowResult = std::result::Result<(), Box<Fault>>;

/// The columns of the built-in set `ohlcv`.
pub fn ohlcv() -> Vec<Column> {
    let column = |name: &str, kind, from: &[&str]| Column {
        name: name.into(),
        kind,
        from: from.iter().map(|&alias| alias.into()).collect(),
    };
    vec![
        column(
            "timestamp",
            Kind::Timestamp,
            &["time", "ts", "t", "date", "datetime", "open_time", "openTime"],
        ),
        column("open", Kind::Float, &["o"]),
        column("high", Kind::Float, &["h"]),
        column("low", Kind::Float, &["l"]),
        column("close", Kind::Float, &["c"]),
        column("volume", Kind::Float, &["v", "vol", "baseVolume"]),
        column("source", Kind::Text, &["exchange_id", "exchangeId"]),
        column("symbol", Kind::Text, &["s", "pair", "market"]),
        column("timeframe", Kind::Text, &["interval", "tf"]),
    ]
}

/// The columns of the built-in set `candles`.
pub fn candles() -> Vec<Column> {
    let column = |name: &str, kind, from: &[&str]| Column {
        name: name.into(),
        kind,
        from: from.iter().map(|&alias| alias.into()).collect(),
    };
    let more = [
        column("trades", Kind::Integer, &["count"]),
        column("quote_volume", Kind::Float, &["quoteVolume"]),
        column("vwap", Kind::Float, &[]),
        column("revision", Kind::Integer, &[]),
    ];
    ohlcv().into_iter().chain(more).collect()
}

/// Decodes the rows of one pipeline.
pub struct Decoder {
    format: Format,
    /// How long a row of columns may be; the source cuts the others.
    row_bytes: u64,
    schema: SchemaRef,
    rows: Rows,
    keys: Keys,
    csv: csv::Csv,
    rule: Arc<str>,
    reasons: [Arc<str>; REASONS.len()],
}

impl Decoder {
    /// A decoder for a pipeline file's `decode`.
    pub fn new(decode: &Decode) -> Result<Decoder> {
        let columns = match &decode.columns {
            Columns::Named(ColumnSet::Ohlcv) => ohlcv(),
            Columns::Named(ColumnSet::Candles) => candles(),
            Columns::List(list) => list.clone(),
        };
        check_columns(&columns)?;
        let mut builders: Vec<ColumnBuilder> =
            columns.iter().map(|column| ColumnBuilder::new(&column.name, column.kind)).collect();
        for (name, value) in &decode.constants {
            let builder = builders.iter_mut().find(|builder| builder.name() == name).ok_or_else(|| {
                let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                Error::Files(format!(
                    "`decode.constants` has `{name}`, which is not a column; the columns are `{}`",
                    names.join("`, `")
                ))
            })?;
            builder.set_constant(value)?;
        }
        let fields: Vec<Field> =
            columns.iter().map(|column| Field::new(&column.name, column.kind.data_type(), true)).collect();
        Ok(Decoder {
            format: decode.format,
            row_bytes: decode.row.0,
            schema: Arc::new(Schema::new(fields)),
            rows: Rows::new(builders),
            keys: Keys::new(&columns, decode.format)?,
            csv: csv::Csv::default(),
            rule: DECODE.into(),
            reasons: REASONS.map(Arc::from),
        })
    }

    /// The columns, in the order in which the pipeline file declares them.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Takes the first line of a CSV file whose rows go on further down; see
    /// [`crate::source::Source::header`]. A decoder that is given the row with offset 0 needs no call.
    pub fn set_header(&mut self, header: &[u8]) {
        self.csv.set_header(without_byte_order_mark(header), &self.keys);
    }

    /// Rows that do not decode become rejects of the rule `decode`; nothing else fails.
    pub fn decode(&mut self, raw: &RawBatch, version: &Arc<str>) -> Decoded {
        self.rows.start(raw.len());
        let mut outcome = Outcome::default();
        match &raw.payload {
            Payload::Rows { bytes, rows } => self.decode_rows(bytes, rows, &mut outcome),
            Payload::Columns { columns, .. } => {
                parquet::decode(columns, self.row_bytes, &self.keys, &mut self.rows, &mut outcome);
            }
        }
        let mut columns = self.rows.finish(&self.schema);
        if !outcome.faults.is_empty() {
            columns = compacted(&columns);
        }
        let rejects = outcome.faults.into_iter().map(|(row, fault)| Reject {
            row,
            rule: self.rule.clone(),
            version: version.clone(),
            reason: self.reasons[fault.reason as usize].clone(),
            detail: fault.detail,
        });
        Decoded {
            rejects: rejects.collect(),
            tombstones: outcome.tombstones,
            batch: Batch { columns, rows: outcome.kept },
        }
    }

    fn decode_rows(&mut self, bytes: &[u8], rows: &[RawRow], outcome: &mut Outcome) {
        // Checked once for all rows; only where it fails each row is checked by itself.
        let text = std::str::from_utf8(bytes).ok();
        outcome.kept.reserve(rows.len());
        for (index, row) in (0..).zip(rows) {
            match self.decode_row(bytes, text, row) {
                Ok(true) => outcome.kept.push(index),
                Ok(false) => outcome.tombstones += 1,
                Err(fault) => outcome.faults.push((index, fault)),
            }
        }
    }

    /// Whether the row is one, and not a tombstone.
    fn decode_row(
        &mut self,
        bytes: &[u8],
        text: Option<&str>,
        row: &RawRow,
    ) -> std::result::Result<bool, Box<Fault>> {
        if let Some(length) = row.cut_from {
            return Err(Fault::new(
                Reason::TooLong,
                format!("the row has {length} bytes; `decode.row` allows fewer"),
            ));
        }
        let mut line = &bytes[row.start..row.end];
        if row.offset == 0 {
            line = without_byte_order_mark(line);
            if self.format == Format::Csv {
                self.csv.set_header(line, &self.keys);
                return Ok(false);
            }
        }
        if line.first().is_none_or(u8::is_ascii_whitespace) && line.trim_ascii().is_empty() {
            return Ok(false);
        }
        let line = match text.and_then(|text| text.get(row.end - line.len()..row.end)) {
            Some(line) => line,
            None => std::str::from_utf8(line).map_err(|error| {
                Fault::new(Reason::InvalidUtf8, format!("byte {} is not UTF-8", error.valid_up_to()))
            })?,
        };
        let read = match self.format {
            Format::Json => json::read(line, &mut self.keys, &mut self.rows, json::Shape::Object),
            Format::Ccxt => json::read(line, &mut self.keys, &mut self.rows, json::Shape::Candle),
            Format::Csv => self.csv.read(line, &mut self.rows),
            Format::Parquet => Err(Fault::new(Reason::NotARow, "the row is bytes, not a row of Parquet")),
        };
        read.and_then(|()| self.rows.end_row()).inspect_err(|_| self.rows.undo_row())?;
        Ok(true)
    }
}

/// What became of the rows of a batch.
#[derive(Default)]
struct Outcome {
    kept: Vec<u32>,
    faults: Vec<(u32, Box<Fault>)>,
    tombstones: u64,
}

fn without_byte_order_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

fn check_columns(columns: &[Column]) -> Result<()> {
    if columns.is_empty() || columns.len() > COLUMNS_MAX {
        return Err(Error::Files(format!(
            "`decode.columns` has {} columns; it takes 1 to {COLUMNS_MAX}",
            columns.len()
        )));
    }
    match columns.iter().find(|column| !is_column_name(&column.name)) {
        Some(column) => Err(Error::Files(format!(
            "`decode.columns` has the name `{}`; a column's name is at most 64 of `a-z 0-9 _` and does not \
             start with a digit",
            column.name
        ))),
        None => Ok(()),
    }
}

fn is_column_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= 64
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

/// Which column a key of a row is.
struct Keys {
    by_name: HashMap<Box<str>, usize>,
    /// The keys of the previous row in its order: most rows have the same ones, and comparing is cheaper than
    /// hashing.
    previous: Vec<(String, Option<usize>)>,
    /// How many elements an array has at most.
    elements: usize,
}

impl Keys {
    /// Keys remembered of a row, and bytes remembered of a key: a hostile row must not grow the memory.
    const PREVIOUS_MAX: usize = 128;
    const PREVIOUS_BYTES_MAX: usize = 64;

    fn new(columns: &[Column], format: Format) -> Result<Keys> {
        let mut by_name = HashMap::new();
        for (slot, column) in columns.iter().enumerate() {
            for name in std::iter::once(&column.name).chain(&column.from) {
                let before: Option<usize> = by_name.insert(name.as_str().into(), slot);
                if let Some(before) = before {
                    return Err(Error::Files(format!(
                        "`decode.columns` gives the key `{name}` to `{}` and to `{}`; a key belongs to one column",
                        columns[before].name, column.name
                    )));
                }
            }
        }
        let elements = columns.len().min(CCXT_ELEMENTS);
        if format == Format::Ccxt {
            for slot in 0..elements {
                by_name.entry(slot.to_string().into()).or_insert(slot);
            }
        }
        Ok(Keys { by_name, previous: Vec::new(), elements })
    }

    /// The column of `key`, whatever came before it.
    fn find(&self, key: &str) -> Option<usize> {
        self.by_name.get(key).copied()
    }

    /// The column of `key`, which is the row's key number `position`.
    #[inline]
    fn find_at(&mut self, position: usize, key: &str) -> Option<usize> {
        match self.previous.get(position) {
            Some((previous, slot)) if previous == key => *slot,
            _ => self.find_and_remember(position, key),
        }
    }

    fn find_and_remember(&mut self, position: usize, key: &str) -> Option<usize> {
        let slot = self.find(key);
        if key.len() <= Self::PREVIOUS_BYTES_MAX {
            let known = self.previous.len();
            if position < known {
                let (previous, previous_slot) = &mut self.previous[position];
                previous.clear();
                previous.push_str(key);
                *previous_slot = slot;
            } else if position == known && known < Self::PREVIOUS_MAX {
                self.previous.push((key.into(), slot));
            }
        }
        slot
    }
}

/// `text` between backticks, cut after [`QUOTE_CHARS_MAX`] characters.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests;
