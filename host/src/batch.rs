//! The shapes that travel through a lane.
//!
//! [`RawBatch`]: rows as the source has them, with positions. [`Batch`]: the rows that decoded, as Arrow
//! columns. [`Reject`]: a row that goes to the dead letter. A row is always named by its index in the
//! `RawBatch`, so its position and its original bytes can be found at any stage.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, TimeUnit};
use arrow_select::dictionary::garbage_collect_dictionary;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pipeline_file::BatchLimits;

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// 64-bit signed integers.
    Integer,
    /// 64-bit floats.
    Float,
    /// true or false.
    Boolean,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    Timestamp,
    /// UTF-8 text, kept as a dictionary.
    Text,
}

impl Kind {
    /// The Arrow type of such a column inside the host. Texts have 32-bit unsigned dictionary keys, so that
    /// they cross the border to a rule as one block.
    pub fn data_type(self) -> DataType {
        match self {
            Kind::Integer => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Boolean => DataType::Boolean,
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Kind::Text => DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8)),
        }
    }

    /// The kind of a column of the host.
    ///
    /// # Panics
    /// On a type that [`Kind::data_type`] never gives: decode makes no others.
    pub fn of(data_type: &DataType) -> Kind {
        match data_type {
            DataType::Int64 => Kind::Integer,
            DataType::Float64 => Kind::Float,
            DataType::Boolean => Kind::Boolean,
            DataType::Timestamp(TimeUnit::Millisecond, _) => Kind::Timestamp,
            DataType::Dictionary(_, _) => Kind::Text,
            other => unreachable!("the host has no columns of type {other}"),
        }
    }

    /// The word for it in pipeline files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Integer => "integer",
            Kind::Float => "float",
            Kind::Boolean => "boolean",
            Kind::Timestamp => "timestamp",
            Kind::Text => "text",
        }
    }
}

/// A column's name in JSON, where it differs from the column's name: the users' existing consumers read
/// `validatedAt`.
pub fn json_name(column: &str) -> &str {
    if column == "validated_at" { "validatedAt" } else { column }
}

/// A source partition. A file is partition 0 of a topic that is named as the pipeline file names the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// Topic, or the file's path as written in the pipeline file.
    pub topic: Arc<str>,
    /// Partition number; 0 for a file.
    pub number: i32,
}

/// How far a partition has been written: kept in the sink, in the same atomic step as the rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// The offset of the first row that has not been decided; for a file, the number of rows before it.
    pub next_offset: u64,
    /// What the source uses to recognise the data that the offset belongs to (a file's first rows, hashed, and
    /// the length of a last row without a line end); empty when it has nothing.
    pub fingerprint: String,
}

/// A row as it came, within [`Payload::Rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRow {
    /// Position of the row in its partition.
    pub offset: u64,
    /// Where its bytes start in `bytes`.
    pub start: usize,
    /// Where its bytes end in `bytes`.
    pub end: usize,
    /// The length in bytes that the row has at the source, when it is over the limit and `bytes` hold only
    /// its beginning. Such a row is not decoded.
    pub cut_from: Option<u64>,
}

/// The rows of a [`RawBatch`].
#[derive(Debug, Clone)]
pub enum Payload {
    /// One encoded row each (a line, a message); an empty one is a tombstone.
    Rows {
        /// The bytes of all rows, with whatever separates them.
        bytes: Vec<u8>,
        /// Where each row is.
        rows: Vec<RawRow>,
    },
    /// Rows that are columns already (Parquet), with the source's own types and names. Row `i` has the offset
    /// `first_offset + i`.
    Columns {
        /// The columns as the file has them.
        columns: RecordBatch,
        /// Offset of row 0.
        first_offset: u64,
    },
}

/// Rows of one partition with contiguous positions, nothing decoded.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// Where they are from.
    pub partition: Partition,
    /// The rows.
    pub payload: Payload,
    /// The position after the last of them.
    pub next: Position,
}

impl RawBatch {
    /// How many rows.
    pub fn len(&self) -> usize {
        match &self.payload {
            Payload::Rows { rows, .. } => rows.len(),
            Payload::Columns { columns, .. } => columns.num_rows(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the batch is as large as its limits allow: the source has more rows waiting.
    pub fn is_full(&self, limits: &BatchLimits) -> bool {
        let bytes = match &self.payload {
            Payload::Rows { bytes, .. } => bytes.len() as u64,
            Payload::Columns { .. } => 0,
        };
        self.len() >= limits.rows || bytes >= limits.bytes.0
    }

    /// Its size in bytes; of columns in main memory.
    pub fn bytes(&self) -> usize {
        match &self.payload {
            Payload::Rows { bytes, .. } => bytes.len(),
            Payload::Columns { columns, .. } => columns.get_array_memory_size(),
        }
    }

    /// The offset of row `row`.
    pub fn offset(&self, row: u32) -> u64 {
        match &self.payload {
            Payload::Rows { rows, .. } => rows[row as usize].offset,
            Payload::Columns { first_offset, .. } => first_offset + u64::from(row),
        }
    }
}

/// Rows that decoded and have not been rejected or dropped, as columns. Their texts are texts of these rows: a rule
/// that fails on one that is gone would fail on all others with it.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The columns; their types are those of [`Kind::data_type`].
    pub columns: RecordBatch,
    /// For each row its index in the raw batch, ascending.
    pub rows: Vec<u32>,
}

/// A row that goes to the dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Index of the row in the raw batch.
    pub row: u32,
    /// The rule that rejected it, by its name in the pipeline file; `decode` when it did not decode.
    pub rule: Arc<str>,
    /// SHA-256 of the rule's component in hexadecimal; the host's version for `decode`.
    pub version: Arc<str>,
    /// One of the rule's closed list of reasons, or of the host's.
    pub reason: Arc<str>,
    /// What is wrong, for a person.
    pub detail: String,
}

/// What [`crate::decode::Decoder::decode`] makes of a raw batch.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The rows that decoded.
    pub batch: Batch,
    /// The rows that did not.
    pub rejects: Vec<Reject>,
    /// Rows without a payload: empty lines, tombstones of a topic.
    pub tombstones: u64,
}

/// The batch without the texts that none of its rows uses.
pub fn compacted(batch: &RecordBatch) -> RecordBatch {
    let columns = batch.columns().iter().map(compact).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
        .expect("only texts that no row uses are gone")
}

/// A column without the texts that none of its rows uses.
pub fn compact(column: &ArrayRef) -> ArrayRef {
    let Some(texts) = column.as_dictionary_opt::<UInt32Type>() else { return Arc::clone(column) };
    // It fails only where texts or keys become more, and here they become fewer; the column is right either way.
    garbage_collect_dictionary(texts).map_or_else(|_| Arc::clone(column), |texts| Arc::new(texts))
}

/// Bytes in hexadecimal, as `sha256sum` prints them.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
