//! Builders of the declared columns.
//!
//! A row is written straight into them, value by value. While row `n` is being read a column has `n` values, or
//! `n + 1` when the row has given it one: so a column given twice is noticed without a list, and a row that
//! fails midway is undone by shortening the columns.

use std::hash::BuildHasher;
use std::sync::Arc;

use arrow_array::types::UInt32Type;
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, Buffer, NullBuffer, OffsetBuffer};
use arrow_schema::SchemaRef;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::value::{self, Misfit};
use super::{Fault, Reason, RowResult, quoted};
use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::Scalar;

/// A value as a row gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(&'a str),
    /// Something that no column takes, in words: `an object`.
    Other(&'a str),
}

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Boolean(value) => write!(f, "`{value}`"),
            Value::Integer(value) => write!(f, "the number `{value}`"),
            Value::Unsigned(value) => write!(f, "the number `{value}`"),
            Value::Float(value) => write!(f, "the number `{value:?}`"),
            Value::Text(value) => write!(f, "the text {}", quoted(value)),
            Value::Other(value) => f.write_str(value),
        }
    }
}

/// The columns of a batch in the making.
pub(super) struct Rows {
    columns: Vec<ColumnBuilder>,
    /// Rows that are complete.
    complete: usize,
}

impl Rows {
    pub(super) fn new(columns: Vec<ColumnBuilder>) -> Rows {
        Rows { columns, complete: 0 }
    }

    /// Begins a batch of at most `rows` rows.
    pub(super) fn start(&mut self, rows: usize) {
        self.complete = 0;
        self.columns.iter_mut().for_each(|column| column.start(rows));
    }

    /// Gives the current row a value for the column `slot`.
    #[inline]
    pub(super) fn push(&mut self, slot: usize, value: Value<'_>) -> RowResult {
        self.columns[slot].push(self.complete, value)
    }

    pub(super) fn kind(&self, slot: usize) -> Kind {
        self.columns[slot].kind()
    }

    pub(super) fn name(&self, slot: usize) -> &str {
        self.columns[slot].name()
    }

    /// Completes the current row: columns that it did not give take their constant, or no value.
    #[inline]
    pub(super) fn end_row(&mut self) -> RowResult {
        for column in &mut self.columns {
            column.end_row(self.complete)?;
        }
        self.complete += 1;
        Ok(())
    }

    /// Forgets what the current row has given.
    pub(super) fn undo_row(&mut self) {
        let complete = self.complete;
        self.columns.iter_mut().for_each(|column| column.truncate(complete));
    }

    /// The complete rows.
    pub(super) fn finish(&mut self, schema: &SchemaRef) -> RecordBatch {
        let complete = self.complete;
        let arrays = self.columns.iter_mut().map(|column| column.finish(complete)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(complete));
        RecordBatch::try_new_with_options(schema.clone(), arrays, &options)
            .expect("each builder makes the type of its field, and all have the same length")
    }
}

/// A column in the making.
pub(super) struct ColumnBuilder {
    name: Box<str>,
    values: Values,
    /// Rows without a value, ascending.
    nulls: Vec<u32>,
    constant: Option<Scalar>,
}

enum Values {
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Booleans(Vec<bool>),
    Timestamps(Vec<i64>),
    Texts(Texts),
}

impl ColumnBuilder {
    pub(super) fn new(name: &str, kind: Kind) -> ColumnBuilder {
        let values = match kind {
            Kind::Integer => Values::Integers(Vec::new()),
            Kind::Float => Values::Floats(Vec::new()),
            Kind::Boolean => Values::Booleans(Vec::new()),
            Kind::Timestamp => Values::Timestamps(Vec::new()),
            Kind::Text => Values::Texts(Texts::default()),
        };
        ColumnBuilder { name: name.into(), values, nulls: Vec::new(), constant: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        match &self.values {
            Values::Integers(_) => Kind::Integer,
            Values::Floats(_) => Kind::Float,
            Values::Booleans(_) => Kind::Boolean,
            Values::Timestamps(_) => Kind::Timestamp,
            Values::Texts(_) => Kind::Text,
        }
    }

    /// The value for rows that give none.
    pub(super) fn set_constant(&mut self, constant: &Scalar) -> Result<()> {
        self.start(1);
        self.push(0, scalar_value(constant)).map_err(|fault| {
            Error::Files(format!("`decode.constants` does not fit its column: {}", fault.detail))
        })?;
        self.constant = Some(constant.clone());
        Ok(())
    }

    fn start(&mut self, rows: usize) {
        self.nulls.clear();
        match &mut self.values {
            Values::Integers(values) | Values::Timestamps(values) => *values = Vec::with_capacity(rows),
            Values::Floats(values) => *values = Vec::with_capacity(rows),
            Values::Booleans(values) => *values = Vec::with_capacity(rows),
            Values::Texts(texts) => texts.start(rows),
        }
    }

    fn len(&self) -> usize {
        match &self.values {
            Values::Integers(values) | Values::Timestamps(values) => values.len(),
            Values::Floats(values) => values.len(),
            Values::Booleans(values) => values.len(),
            Values::Texts(texts) => texts.indexes.len(),
        }
    }

    #[inline]
    fn push(&mut self, row: usize, value: Value<'_>) -> RowResult {
        if self.len() > row {
            return Err(Fault::new(
                Reason::DuplicateField,
                format!("the row gives `{}` more than once", self.name),
            ));
        }
        let pushed = match (&mut self.values, value) {
            (_, Value::Null) => {
                self.push_null(row);
                return Ok(());
            }
            (Values::Floats(values), Value::Float(value)) => push(values, Ok(value)),
            (Values::Floats(values), Value::Integer(value)) => push(values, Ok(value as f64)),
            (Values::Floats(values), Value::Unsigned(value)) => push(values, Ok(value as f64)),
            (Values::Floats(values), Value::Text(text)) => push(values, value::float(text)),
            (Values::Integers(values) | Values::Timestamps(values), Value::Integer(value)) => {
                push(values, Ok(value))
            }
            (Values::Integers(values) | Values::Timestamps(values), Value::Unsigned(value)) => {
                push(values, i64::try_from(value).map_err(|_| Misfit::Range))
            }
            (Values::Integers(values) | Values::Timestamps(values), Value::Float(value)) => {
                push(values, value::whole(value))
            }
            (Values::Integers(values), Value::Text(text)) => push(values, value::integer(text)),
            (Values::Timestamps(values), Value::Text(text)) => push(values, value::timestamp_ms(text)),
            (Values::Booleans(values), Value::Boolean(value)) => push(values, Ok(value)),
            (Values::Texts(texts), Value::Text(text)) => texts.push(text),
            _ => Err(Misfit::Type),
        };
        pushed.map_err(|misfit| self.misfit(misfit, value))
    }

    #[cold]
    fn misfit(&self, misfit: Misfit, value: Value<'_>) -> Box<Fault> {
        match misfit {
            Misfit::Type => Fault::new(
                Reason::WrongType,
                format!("`{}` expects {}, got {value}", self.name, expected(self.kind())),
            ),
            Misfit::Range => Fault::new(
                Reason::OutOfRange,
                format!("`{}` cannot hold {value} as {} exactly", self.name, expected(self.kind())),
            ),
        }
    }

    /// No value: the slot holds 0, which is what a rule sees there.
    fn push_null(&mut self, row: usize) {
        // A raw batch names its rows by 32-bit numbers, so a row always fits.
        self.nulls.push(row as u32);
        match &mut self.values {
            Values::Integers(values) | Values::Timestamps(values) => values.push(0),
            Values::Floats(values) => values.push(0.0),
            Values::Booleans(values) => values.push(false),
            Values::Texts(texts) => texts.indexes.push(0),
        }
    }

    #[inline]
    fn end_row(&mut self, row: usize) -> RowResult {
        if self.constant.is_none() {
            if self.len() == row {
                self.push_null(row);
            }
            return Ok(());
        }
        self.end_row_with_constant(row)
    }

    fn end_row_with_constant(&mut self, row: usize) -> RowResult {
        if self.len() > row && self.nulls.last() != Some(&(row as u32)) {
            return Ok(());
        }
        self.truncate(row);
        match self.constant.take() {
            Some(constant) => {
                let pushed = self.push(row, scalar_value(&constant));
                self.constant = Some(constant);
                pushed
            }
            None => Ok(()),
        }
    }

    fn truncate(&mut self, rows: usize) {
        while self.nulls.last().is_some_and(|&row| row as usize >= rows) {
            self.nulls.pop();
        }
        match &mut self.values {
            Values::Integers(values) | Values::Timestamps(values) => values.truncate(rows),
            Values::Floats(values) => values.truncate(rows),
            Values::Booleans(values) => values.truncate(rows),
            Values::Texts(texts) => texts.indexes.truncate(rows),
        }
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        let nulls = self.null_buffer(rows);
        match &mut self.values {
            Values::Integers(values) => Arc::new(Int64Array::new(std::mem::take(values).into(), nulls)),
            Values::Floats(values) => Arc::new(Float64Array::new(std::mem::take(values).into(), nulls)),
            Values::Booleans(values) => {
                Arc::new(BooleanArray::new(BooleanBuffer::from(std::mem::take(values)), nulls))
            }
            Values::Timestamps(values) => Arc::new(
                TimestampMillisecondArray::new(std::mem::take(values).into(), nulls).with_timezone("UTC"),
            ),
            Values::Texts(texts) => texts.finish(nulls),
        }
    }

    fn null_buffer(&self, rows: usize) -> Option<NullBuffer> {
        if self.nulls.is_empty() {
            return None;
        }
        let mut present = BooleanBufferBuilder::new(rows);
        present.append_n(rows, true);
        self.nulls.iter().for_each(|&row| present.set_bit(row as usize, false));
        Some(NullBuffer::new(present.finish()))
    }
}

#[inline]
fn push<T>(values: &mut Vec<T>, value: std::result::Result<T, Misfit>) -> std::result::Result<(), Misfit> {
    values.push(value?);
    Ok(())
}

fn scalar_value(scalar: &Scalar) -> Value<'_> {
    match scalar {
        Scalar::Boolean(value) => Value::Boolean(*value),
        Scalar::Integer(value) => Value::Integer(*value),
        Scalar::Float(value) => Value::Float(*value),
        Scalar::Text(value) => Value::Text(value),
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer => "an integer",
        Kind::Float => "a float",
        Kind::Boolean => "a boolean",
        Kind::Timestamp => "a timestamp (milliseconds or RFC 3339)",
        Kind::Text => "a text",
    }
}

/// A column of texts: each distinct text once, in the order in which they first came.
#[derive(Default)]
struct Texts {
    indexes: Vec<u32>,
    bytes: Vec<u8>,
    /// Where each text ends in `bytes`; the first entry is 0.
    ends: Vec<i32>,
    by_text: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Texts {
    fn start(&mut self, rows: usize) {
        self.indexes = Vec::with_capacity(rows);
        self.bytes = Vec::new();
        self.ends = vec![0];
        self.by_text.clear();
    }

    #[inline]
    fn text<'a>(bytes: &'a [u8], ends: &[i32], index: u32) -> &'a [u8] {
        // The ends ascend from 0 and are those of texts in `bytes`.
        &bytes[ends[index as usize] as usize..ends[index as usize + 1] as usize]
    }

    #[inline]
    fn push(&mut self, text: &str) -> std::result::Result<(), Misfit> {
        // Rows of one series follow each other in most files.
        if let Some(&last) = self.indexes.last()
            && self.ends.len() > 1
            && Self::text(&self.bytes, &self.ends, last) == text.as_bytes()
        {
            self.indexes.push(last);
            return Ok(());
        }
        let index = self.intern(text)?;
        self.indexes.push(index);
        Ok(())
    }

    fn intern(&mut self, text: &str) -> std::result::Result<u32, Misfit> {
        let Texts { bytes, ends, by_text, hasher, .. } = self;
        let hash = hasher.hash_one(text.as_bytes());
        if let Some(&index) = by_text.find(hash, |&index| Self::text(bytes, ends, index) == text.as_bytes()) {
            return Ok(index);
        }
        let end = i32::try_from(bytes.len() + text.len()).map_err(|_| Misfit::Range)?;
        let index = (ends.len() - 1) as u32;
        bytes.extend_from_slice(text.as_bytes());
        ends.push(end);
        by_text.insert_unique(hash, index, |&index| hasher.hash_one(Self::text(bytes, ends, index)));
        Ok(index)
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> ArrayRef {
        let keys = UInt32Array::new(std::mem::take(&mut self.indexes).into(), nulls);
        let ends = OffsetBuffer::new(std::mem::take(&mut self.ends).into());
        let dictionary = StringArray::new(ends, Buffer::from(std::mem::take(&mut self.bytes)), None);
        Arc::new(DictionaryArray::<UInt32Type>::new(keys, Arc::new(dictionary)))
    }
}
