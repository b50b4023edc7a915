//! The border: Arrow's buffers are lent to a rule as flat lists, and its answer is checked and becomes Arrow
//! columns again.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, PrimitiveArray, RecordBatch,
    StringArray, TimestampMillisecondArray,
};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, Buffer, NullBuffer};

use super::bindings::exports::tidegate::rule::rule as wire;
use super::component::Description;
use crate::batch::Kind;
use crate::wasm::cut;

/// What a rule has decided, checked.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Rejected rows, ascending: row, index of the reason, detail.
    pub rejected: Vec<(u32, u32, String)>,
    /// Which rows are kept: neither rejected nor dropped.
    pub kept: BooleanBuffer,
    /// How many rows are dropped.
    pub dropped: u64,
    /// New or changed columns, a value for each row of the input.
    pub columns: Vec<(String, ArrayRef)>,
}

/// Calls `use_batch` with the named columns of the batch, without copying their values. A name that the batch
/// does not have is left out.
pub fn lend<'n, T>(
    batch: &RecordBatch,
    names: impl Iterator<Item = &'n str>,
    use_batch: impl FnOnce(wire::Batch<'_>) -> T,
) -> T {
    let lent: Vec<Lent<'_>> =
        names.filter_map(|name| Some(Lent::new(name, batch.column_by_name(name)?))).collect();
    let columns: Vec<wire::ColumnParam<'_>> = lent.iter().map(Lent::param).collect();
    let rows = u32::try_from(batch.num_rows()).expect("a batch has at most 1,000,000 rows");
    use_batch(wire::Batch { rows, columns: &columns })
}

/// A column with what its flat form needs beside Arrow's buffers.
struct Lent<'a> {
    name: &'a str,
    values: LentValues<'a>,
    present: Option<Cow<'a, [u8]>>,
}

enum LentValues<'a> {
    Integers(&'a [i64]),
    Floats(&'a [f64]),
    Booleans(Cow<'a, [u8]>),
    Timestamps(&'a [i64]),
    Texts { dictionary: Vec<&'a str>, indexes: &'a [u32] },
}

impl<'a> Lent<'a> {
    fn new(name: &'a str, array: &'a ArrayRef) -> Lent<'a> {
        let values = match Kind::of(array.data_type()) {
            Kind::Integer => LentValues::Integers(array.as_primitive::<Int64Type>().values()),
            Kind::Float => LentValues::Floats(array.as_primitive::<Float64Type>().values()),
            Kind::Boolean => LentValues::Booleans(bits(array.as_boolean().values())),
            Kind::Timestamp => {
                LentValues::Timestamps(array.as_primitive::<TimestampMillisecondType>().values())
            }
            Kind::Text => {
                let texts = array.as_dictionary::<UInt32Type>();
                let dictionary = texts.values().as_string::<i32>();
                LentValues::Texts {
                    dictionary: (0..dictionary.len()).map(|index| dictionary.value(index)).collect(),
                    indexes: texts.keys().values(),
                }
            }
        };
        let present = array.nulls().filter(|nulls| nulls.null_count() > 0).map(|nulls| bits(nulls.inner()));
        Lent { name, values, present }
    }

    fn param(&self) -> wire::ColumnParam<'_> {
        let values = match &self.values {
            LentValues::Integers(values) => wire::ValuesParam::Integers(values),
            LentValues::Floats(values) => wire::ValuesParam::Floats(values),
            LentValues::Booleans(values) => wire::ValuesParam::Booleans(values),
            LentValues::Timestamps(values) => wire::ValuesParam::Timestamps(values),
            LentValues::Texts { dictionary, indexes } => {
                wire::ValuesParam::Texts(wire::TextsParam { dictionary, indexes })
            }
        };
        wire::ColumnParam { name: self.name, values, present: self.present.as_deref() }
    }
}

/// Bits from bit 0 of byte 0: as Arrow has them unless the column is a slice that starts within a byte.
pub(super) fn bits(buffer: &BooleanBuffer) -> Cow<'_, [u8]> {
    let bytes = buffer.len().div_ceil(8);
    if buffer.offset().is_multiple_of(8) {
        let start = buffer.offset() / 8;
        Cow::Borrowed(&buffer.values()[start..start + bytes])
    } else {
        Cow::Owned(buffer.sliced().as_slice()[..bytes].to_vec())
    }
}

/// Checks an answer against the contract and the rule's own description.
///
/// # Errors
/// One sentence that says what the answer breaks.
pub fn check(answer: wire::Outcome, description: &Description, rows: usize) -> Result<Outcome, String> {
    let mut kept = BooleanBufferBuilder::new(rows);
    kept.append_n(rows, true);
    let mut name_row = |row: u32, what: &str| {
        if row as usize >= rows {
            return Err(format!("it {what} row {row} of a batch of {rows}"));
        }
        if !kept.get_bit(row as usize) {
            return Err(format!("it names row {row} twice"));
        }
        kept.set_bit(row as usize, false);
        Ok(())
    };
    let mut rejected = Vec::with_capacity(answer.rejected.len());
    for reject in answer.rejected {
        name_row(reject.row, "rejects")?;
        if reject.reason as usize >= description.reasons.len() {
            return Err(format!(
                "it rejects row {} for reason {}, but it has {} reasons",
                reject.row,
                reject.reason,
                description.reasons.len()
            ));
        }
        rejected.push((reject.row, reject.reason, cut(reject.detail)));
    }
    rejected.sort_unstable_by_key(|(row, _, _)| *row);
    for row in &answer.dropped {
        name_row(*row, "drops")?;
    }
    let mut columns: Vec<(String, ArrayRef)> = Vec::with_capacity(answer.columns.len());
    for column in answer.columns {
        let named = |name: &str| columns.iter().any(|(earlier, _)| earlier == name);
        let Some((name, kind)) = description.writes.iter().find(|(name, _)| *name == column.name) else {
            return Err(format!(
                "it answers the column `{}`, which it does not write",
                cut(column.name).escape_debug()
            ));
        };
        if named(name) {
            return Err(format!("it answers the column `{name}` twice"));
        }
        let array = array(column.values, column.present, *kind, rows)
            .map_err(|what| format!("its column `{name}` {what}"))?;
        columns.push((name.clone(), array));
    }
    Ok(Outcome { rejected, kept: kept.finish(), dropped: answer.dropped.len() as u64, columns })
}

/// A column of an answer, checked.
pub(super) fn array(
    values: wire::ValuesResult,
    present: Option<Vec<u8>>,
    kind: Kind,
    rows: usize,
) -> Result<ArrayRef, String> {
    let nulls = present
        .map(|bits| {
            check_length("presence bits in bytes", bits.len(), rows.div_ceil(8))?;
            Ok::<_, String>(NullBuffer::new(BooleanBuffer::new(Buffer::from_vec(bits), 0, rows)))
        })
        .transpose()?;
    match (values, kind) {
        (wire::ValuesResult::Integers(values), Kind::Integer) => {
            check_length("values", values.len(), rows)?;
            Ok(Arc::new(Int64Array::new(values.into(), nulls)))
        }
        (wire::ValuesResult::Floats(values), Kind::Float) => {
            check_length("values", values.len(), rows)?;
            Ok(Arc::new(Float64Array::new(values.into(), nulls)))
        }
        (wire::ValuesResult::Booleans(bits), Kind::Boolean) => {
            check_length("values in bytes", bits.len(), rows.div_ceil(8))?;
            let values = BooleanBuffer::new(Buffer::from_vec(bits), 0, rows);
            Ok(Arc::new(BooleanArray::new(values, nulls)))
        }
        (wire::ValuesResult::Timestamps(values), Kind::Timestamp) => {
            check_length("values", values.len(), rows)?;
            Ok(Arc::new(TimestampMillisecondArray::new(values.into(), nulls).with_timezone("UTC")))
        }
        (wire::ValuesResult::Texts(texts), Kind::Text) => {
            check_length("indexes", texts.indexes.len(), rows)?;
            Ok(Arc::new(dictionary(texts, nulls)?))
        }
        (other, kind) => {
            let given = match other {
                wire::ValuesResult::Integers(_) => Kind::Integer,
                wire::ValuesResult::Floats(_) => Kind::Float,
                wire::ValuesResult::Booleans(_) => Kind::Boolean,
                wire::ValuesResult::Timestamps(_) => Kind::Timestamp,
                wire::ValuesResult::Texts(_) => Kind::Text,
            };
            Err(format!("is {}, but it said {}", given.name(), kind.name()))
        }
    }
}

fn dictionary(
    texts: wire::TextsResult,
    nulls: Option<NullBuffer>,
) -> Result<DictionaryArray<UInt32Type>, String> {
    let count = texts.dictionary.len();
    let mut indexes = texts.indexes;
    for (row, index) in indexes.iter_mut().enumerate() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            // Nothing is meant by it; 0 is what the contract promises to the next rule.
            *index = 0;
        } else if *index as usize >= count {
            return Err(format!("has index {index} at row {row}, but its dictionary has {count} texts"));
        }
    }
    let keys = PrimitiveArray::<UInt32Type>::new(indexes.into(), nulls);
    let values = StringArray::from_iter_values(texts.dictionary);
    DictionaryArray::try_new(keys, Arc::new(values)).map_err(|error| format!("is no dictionary: {error}"))
}

/// How many bytes the texts of answered columns have when each row has its own, as sinks write them.
pub fn text_bytes(columns: &[(String, ArrayRef)]) -> u64 {
    let dictionaries = columns.iter().filter_map(|(_, column)| column.as_dictionary_opt::<UInt32Type>());
    dictionaries
        .map(|column| {
            let texts = column.values().as_string::<i32>();
            column.keys().iter().flatten().map(|key| texts.value_length(key as usize) as u64).sum::<u64>()
        })
        .sum()
}

/// Whether the texts of answered columns have more than so many bytes when each row has its own.
pub fn texts_exceed(columns: &[(String, ArrayRef)], limit_bytes: u64) -> bool {
    // A few short texts for many rows need no look at the rows.
    let at_most = columns.iter().filter_map(|(_, column)| {
        let column = column.as_dictionary_opt::<UInt32Type>()?;
        Some(column.values().as_string::<i32>().value_data().len() as u64 * column.len() as u64)
    });
    at_most.fold(0, u64::saturating_add) > limit_bytes && text_bytes(columns) > limit_bytes
}

fn check_length(what: &str, actual: usize, expected: usize) -> Result<(), String> {
    if actual == expected {
        return Ok(());
    }
    Err(format!("has {actual} {what}, expected {expected}"))
}
