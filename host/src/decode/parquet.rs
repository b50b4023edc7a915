//! Columns of a Parquet file to columns of the declared kinds.
//!
//! The file's types are first cast to the few that hold all of their values; then each value goes the same way as
//! one of a JSON row, so that a value which does not fit costs its own row and no other.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMillisecondType, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, TimeUnit};

use super::column::{Rows, Value};
use super::{Fault, Keys, Outcome, Reason, RowResult};

/// A column of the file and the declared column that it is.
struct Input {
    slot: usize,
    values: Values,
}

enum Values {
    Integers(Int64Array),
    Unsigneds(UInt64Array),
    Floats(Float64Array),
    Booleans(BooleanArray),
    /// With the column as the file has it, which tells a missing time from one that milliseconds cannot hold.
    Times(TimestampMillisecondArray, ArrayRef),
    /// For each row the number of its text, and the texts.
    Texts(Int32Array, StringArray),
    /// Of a type that no declared kind takes, in words.
    Other(ArrayRef, String),
}

/// Reads all rows of `columns` into `rows`; the texts of a row have at most `row_bytes` bytes.
pub(super) fn decode(
    columns: &RecordBatch,
    row_bytes: u64,
    keys: &Keys,
    rows: &mut Rows,
    outcome: &mut Outcome,
) {
    let inputs: Vec<Input> = columns
        .schema()
        .fields()
        .iter()
        .zip(columns.columns())
        .filter_map(|(field, column)| {
            keys.find(field.name()).map(|slot| Input { slot, values: Values::of(column) })
        })
        .collect();
    for row in 0..columns.num_rows() {
        // A raw batch names its rows by 32-bit numbers.
        let index = row as u32;
        match read_row(&inputs, row, row_bytes, rows).and_then(|()| rows.end_row()) {
            Ok(()) => outcome.kept.push(index),
            Err(fault) => {
                rows.undo_row();
                outcome.faults.push((index, fault));
            }
        }
    }
}

fn read_row(inputs: &[Input], row: usize, row_bytes: u64, rows: &mut Rows) -> RowResult {
    let mut text_bytes = 0;
    for input in inputs {
        let value = match &input.values {
            Values::Integers(values) if values.is_valid(row) => Value::Integer(values.value(row)),
            Values::Unsigneds(values) if values.is_valid(row) => Value::Unsigned(values.value(row)),
            Values::Floats(values) if values.is_valid(row) => Value::Float(values.value(row)),
            Values::Booleans(values) if values.is_valid(row) => Value::Boolean(values.value(row)),
            Values::Times(values, _) if values.is_valid(row) => Value::Integer(values.value(row)),
            Values::Times(_, original) if original.is_valid(row) => {
                let detail = format!("`{}` has a time that milliseconds cannot hold", rows.name(input.slot));
                return Err(Fault::new(Reason::OutOfRange, detail));
            }
            Values::Texts(numbers, texts) if numbers.is_valid(row) => {
                let number = numbers.value(row) as usize;
                if texts.is_valid(number) { Value::Text(texts.value(number)) } else { Value::Null }
            }
            Values::Other(values, what) if values.is_valid(row) => Value::Other(what),
            _ => Value::Null,
        };
        if let Value::Text(text) = value {
            text_bytes += text.len() as u64;
            if text_bytes > row_bytes {
                let detail =
                    format!("the row's texts have more than the {row_bytes} bytes that `decode.row` allows");
                return Err(Fault::new(Reason::TooLong, detail));
            }
        }
        rows.push(input.slot, value)?;
    }
    Ok(())
}

impl Values {
    fn of(column: &ArrayRef) -> Values {
        let times = |values: ArrayRef| {
            Values::Times(values.as_primitive::<TimestampMillisecondType>().clone(), column.clone())
        };
        let values = match plain_type(column.data_type()) {
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => cast(column, &DataType::Int64)
                .map(|values| Values::Integers(values.as_primitive::<Int64Type>().clone())),
            DataType::UInt64 => cast(column, &DataType::UInt64)
                .map(|values| Values::Unsigneds(values.as_primitive::<UInt64Type>().clone())),
            DataType::Float16
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => cast(column, &DataType::Float64)
                .map(|values| Values::Floats(values.as_primitive::<Float64Type>().clone())),
            DataType::Boolean => {
                cast(column, &DataType::Boolean).map(|values| Values::Booleans(values.as_boolean().clone()))
            }
            DataType::Timestamp(unit, _) => cast(column, &DataType::Int64)
                .and_then(|values| cast(&values, &DataType::Timestamp(*unit, None)))
                .and_then(|values| cast(&values, &MILLISECONDS))
                .map(times),
            DataType::Date32 | DataType::Date64 => cast(column, &MILLISECONDS).map(times),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                cast(column, &dictionary).map(|values| {
                    let values = values.as_dictionary::<Int32Type>();
                    Values::Texts(values.keys().clone(), values.values().as_string().clone())
                })
            }
            _ => None,
        };
        values.unwrap_or_else(|| {
            Values::Other(column.clone(), format!("a value of the type {}", column.data_type()))
        })
    }
}

/// A time has no zone of its own here: the values of all zones count from the same moment.
const MILLISECONDS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

/// `None` when there is no such cast; a value that the type cannot hold is no value.
fn cast(column: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    cast_with_options(column, to, &CastOptions { safe: true, ..CastOptions::default() }).ok()
}

/// The type of the values, whether or not they are kept as a dictionary.
fn plain_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}
