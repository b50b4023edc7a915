//! Values of the host's columns, one at a time: for sinks that store rows.

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int64Builder, StringDictionaryBuilder, TimestampMillisecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow_schema::{Schema, SchemaRef};
use std::fmt;
use std::sync::Arc;

use crate::batch::Kind;
use crate::error::{Error, Result};

/// The most rows of a batch that is read back: what a rule is used to from the live batches.
pub const READ_BACK_ROWS: usize = 10_000;

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// Of an integer column.
    Integer(i64),
    /// Of a float column.
    Float(f64),
    /// Of a boolean column.
    Boolean(bool),
    /// Milliseconds since 1970.
    Timestamp(i64),
    /// Of a text column.
    Text(&'a str),
}

/// For a person.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Integer(value) | Value::Timestamp(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Text(text) => write!(f, "`{text}`"),
        }
    }
}

/// A column whose type is known.
pub enum Values<'a> {
    /// An integer column.
    Integers(&'a Int64Array),
    /// A float column.
    Floats(&'a Float64Array),
    /// A boolean column.
    Booleans(&'a BooleanArray),
    /// A timestamp column.
    Timestamps(&'a TimestampMillisecondArray),
    /// A text column: for each row the key of its text, and the texts.
    Texts(&'a DictionaryArray<UInt32Type>, &'a StringArray),
}

impl<'a> Values<'a> {
    /// The columns of a batch of the host.
    pub fn of_batch(batch: &'a RecordBatch) -> Vec<Values<'a>> {
        batch.columns().iter().map(Values::of).collect()
    }

    /// A column of a batch of the host.
    pub fn of(column: &'a ArrayRef) -> Values<'a> {
        match Kind::of(column.data_type()) {
            Kind::Integer => Values::Integers(column.as_primitive::<Int64Type>()),
            Kind::Float => Values::Floats(column.as_primitive::<Float64Type>()),
            Kind::Boolean => Values::Booleans(column.as_boolean()),
            Kind::Timestamp => Values::Timestamps(column.as_primitive::<TimestampMillisecondType>()),
            Kind::Text => {
                let texts = column.as_dictionary::<UInt32Type>();
                Values::Texts(texts, texts.values().as_string::<i32>())
            }
        }
    }

    /// The value of a row.
    pub fn at(&self, row: usize) -> Value<'a> {
        match self {
            Values::Integers(array) if array.is_valid(row) => Value::Integer(array.value(row)),
            Values::Floats(array) if array.is_valid(row) => Value::Float(array.value(row)),
            Values::Booleans(array) if array.is_valid(row) => Value::Boolean(array.value(row)),
            Values::Timestamps(array) if array.is_valid(row) => Value::Timestamp(array.value(row)),
            Values::Texts(array, texts) if array.is_valid(row) => {
                let key = array.keys().value(row) as usize;
                if texts.is_valid(key) { Value::Text(texts.value(key)) } else { Value::Null }
            }
            _ => Value::Null,
        }
    }
}

/// The part of `schema` that is asked for, in the order of `columns`.
pub fn project(schema: &SchemaRef, columns: &[String]) -> Result<SchemaRef> {
    let fields = columns
        .iter()
        .map(|name| {
            schema.field_with_name(name).cloned().map_err(|_| {
                Error::Files(format!(
                    "column `{name}` cannot be read back, because the sink does not have it"
                ))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Whether the schema has the column by whose time rows are remembered.
pub fn has_timestamp(schema: &Schema) -> bool {
    schema.field_with_name("timestamp").is_ok_and(|field| Kind::of(field.data_type()) == Kind::Timestamp)
}

/// The time from which on rows are within `window` of the newest.
pub fn window_start(newest_ms: i64, window: std::time::Duration) -> i64 {
    newest_ms.saturating_sub(i64::try_from(window.as_millis()).unwrap_or(i64::MAX))
}

/// Rows on their way into a [`RecordBatch`].
pub struct Rows {
    schema: SchemaRef,
    columns: Vec<Builder>,
    len: usize,
}

/// The builder of a column.
pub enum Builder {
    /// Of an integer column.
    Integers(Int64Builder),
    /// Of a float column.
    Floats(Float64Builder),
    /// Of a boolean column.
    Booleans(BooleanBuilder),
    /// Of a timestamp column.
    Timestamps(TimestampMillisecondBuilder),
    /// Of a text column.
    Texts(StringDictionaryBuilder<UInt32Type>),
}

impl Builder {
    fn new(kind: Kind) -> Builder {
        match kind {
            Kind::Integer => Builder::Integers(Int64Builder::new()),
            Kind::Float => Builder::Floats(Float64Builder::new()),
            Kind::Boolean => Builder::Booleans(BooleanBuilder::new()),
            Kind::Timestamp => {
                Builder::Timestamps(TimestampMillisecondBuilder::new().with_data_type(kind.data_type()))
            }
            Kind::Text => Builder::Texts(StringDictionaryBuilder::new()),
        }
    }

    /// What the column's values are.
    pub fn kind(&self) -> Kind {
        match self {
            Builder::Integers(_) => Kind::Integer,
            Builder::Floats(_) => Kind::Float,
            Builder::Booleans(_) => Kind::Boolean,
            Builder::Timestamps(_) => Kind::Timestamp,
            Builder::Texts(_) => Kind::Text,
        }
    }

    /// Appends a value; says `false`, and appends nothing, when it is of another kind.
    pub fn push(&mut self, value: Value<'_>) -> bool {
        match (self, value) {
            (Builder::Integers(builder), Value::Integer(value)) => builder.append_value(value),
            (Builder::Floats(builder), Value::Float(value)) => builder.append_value(value),
            (Builder::Booleans(builder), Value::Boolean(value)) => builder.append_value(value),
            (Builder::Timestamps(builder), Value::Timestamp(value)) => builder.append_value(value),
            (Builder::Texts(builder), Value::Text(value)) => builder.append_value(value),
            (Builder::Integers(builder), Value::Null) => builder.append_null(),
            (Builder::Floats(builder), Value::Null) => builder.append_null(),
            (Builder::Booleans(builder), Value::Null) => builder.append_null(),
            (Builder::Timestamps(builder), Value::Null) => builder.append_null(),
            (Builder::Texts(builder), Value::Null) => builder.append_null(),
            _ => return false,
        }
        true
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Integers(builder) => Arc::new(builder.finish()),
            Builder::Floats(builder) => Arc::new(builder.finish()),
            Builder::Booleans(builder) => Arc::new(builder.finish()),
            Builder::Timestamps(builder) => Arc::new(builder.finish()),
            Builder::Texts(builder) => Arc::new(builder.finish()),
        }
    }
}

impl Rows {
    /// No rows yet.
    pub fn new(schema: &SchemaRef) -> Rows {
        let columns = schema.fields().iter().map(|field| Builder::new(Kind::of(field.data_type()))).collect();
        Rows { schema: schema.clone(), columns, len: 0 }
    }

    /// The builders of the next row, each of which takes one value.
    pub fn next_row(&mut self) -> &mut [Builder] {
        self.len += 1;
        &mut self.columns
    }

    /// The rows as a batch, when there are [`READ_BACK_ROWS`] of them.
    pub fn full(&mut self) -> Option<RecordBatch> {
        if self.len < READ_BACK_ROWS { None } else { self.rest() }
    }

    /// The rows as a batch, when there are any.
    pub fn rest(&mut self) -> Option<RecordBatch> {
        let len = std::mem::take(&mut self.len);
        if len == 0 {
            return None;
        }
        let columns = self.columns.iter_mut().map(Builder::finish).collect();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(len));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        Some(batch.expect("each row has pushed one value into each builder of the schema's kinds"))
    }
}
