//! The twin: the same rules compiled in, called with the same columns.

use std::sync::Arc;

use anyhow::Result;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType, UInt32Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt32Array, new_null_array,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::filter::FilterBuilder;
use tidegate::batch::Kind;
use tidegate_guest::{Batch, Column, Outcome, Reasons, Rule, Texts, Values};

/// One call of a rule: the time, and the columns that it reads.
type Transform = dyn FnMut(i64, &Batch) -> Result<Outcome, String>;

/// A rule that is compiled in.
pub struct Twin {
    /// The rule's name.
    pub name: &'static str,
    transform: Box<Transform>,
    reasons: &'static [&'static str],
    reads: Vec<String>,
    schema: SchemaRef,
}

/// A batch after a rule.
pub struct Decided {
    /// The rows that the rule keeps, with its columns.
    pub kept: RecordBatch,
    /// For each row of the batch whether it is kept; absent when all are.
    pub is_kept: Option<Vec<bool>>,
    /// For each rejected row its index, the reason and the detail.
    pub rejected: Vec<(u32, &'static str, String)>,
}

impl Twin {
    /// The rule `R` with the settings as JSON, after columns of `input`.
    pub fn new<R: Rule>(settings: &str, input: &SchemaRef) -> Result<Twin> {
        let mut rule = tidegate_guest::Instance::<R>::unconfigured();
        rule.configure(settings).map_err(anyhow::Error::msg)?;
        let mut fields: Vec<Arc<Field>> = input.fields().iter().cloned().collect();
        for column in R::writes() {
            if input.column_with_name(&column.name).is_none() {
                fields.push(Arc::new(Field::new(column.name, kind(column.kind).data_type(), true)));
            }
        }
        Ok(Twin {
            name: R::NAME,
            reasons: R::Reason::NAMES,
            transform: Box::new(move |now, batch| rule.transform(now, batch)),
            reads: R::reads().into_iter().map(|column| column.name).collect(),
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// The columns after the rule.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batch as the rule sees it.
    pub fn lend(&self, batch: &RecordBatch) -> Batch {
        let columns = self.reads.iter().filter_map(|name| Some(column(name, batch.column_by_name(name)?)));
        Batch { rows: batch.num_rows() as u32, columns: columns.collect() }
    }

    /// One call.
    pub fn call(&mut self, now_ms: i64, batch: &Batch) -> Outcome {
        (self.transform)(now_ms, batch).expect("the rules refuse no batch")
    }

    /// The rows that the rule keeps, with its columns.
    pub fn apply(&mut self, now_ms: i64, batch: &RecordBatch) -> RecordBatch {
        self.decide(now_ms, batch).kept
    }

    /// What the rule makes of each row.
    pub fn decide(&mut self, now_ms: i64, batch: &RecordBatch) -> Decided {
        let lent = self.lend(batch);
        let outcome = self.call(now_ms, &lent);
        let mut kept = vec![true; batch.num_rows()];
        outcome.rejected.iter().for_each(|reject| kept[reject.row as usize] = false);
        outcome.dropped.iter().for_each(|row| kept[*row as usize] = false);
        let all_kept = outcome.rejected.is_empty() && outcome.dropped.is_empty();
        let mut answered = outcome.columns;
        let columns = self.schema.fields().iter().map(|field| {
            if let Some(index) = answered.iter().position(|column| column.name == *field.name()) {
                return array(answered.swap_remove(index), batch.num_rows());
            }
            let column = batch.column_by_name(field.name()).cloned();
            column.unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
        });
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect()).expect("the schema's");
        if all_kept {
            return Decided { kept: batch, is_kept: None, rejected: Vec::new() };
        }
        let kept = BooleanArray::from(kept);
        let filter = FilterBuilder::new(&kept).optimize().build();
        let reject = |reject: tidegate_guest::Reject| {
            (reject.row, self.reasons[reject.reason as usize], reject.detail)
        };
        Decided {
            rejected: outcome.rejected.into_iter().map(reject).collect(),
            kept: filter.filter_record_batch(&batch).expect("as long as the columns"),
            is_kept: Some(kept.values().iter().collect()),
        }
    }
}

fn kind(kind: tidegate_guest::Kind) -> Kind {
    match kind {
        tidegate_guest::Kind::Integer => Kind::Integer,
        tidegate_guest::Kind::Float => Kind::Float,
        tidegate_guest::Kind::Boolean => Kind::Boolean,
        tidegate_guest::Kind::Timestamp => Kind::Timestamp,
        tidegate_guest::Kind::Text => Kind::Text,
    }
}

fn column(name: &str, array: &ArrayRef) -> Column {
    let values = match Kind::of(array.data_type()) {
        Kind::Integer => Values::Integers(array.as_primitive::<Int64Type>().values().to_vec()),
        Kind::Float => Values::Floats(array.as_primitive::<Float64Type>().values().to_vec()),
        Kind::Boolean => Values::Booleans(array.as_boolean().values().sliced().to_vec()),
        Kind::Timestamp => {
            Values::Timestamps(array.as_primitive::<TimestampMillisecondType>().values().to_vec())
        }
        Kind::Text => {
            let texts = array.as_dictionary::<UInt32Type>();
            let dictionary = texts.values().as_string::<i32>();
            Values::Texts(Texts {
                dictionary: dictionary.iter().flatten().map(str::to_owned).collect(),
                indexes: texts.keys().values().to_vec(),
            })
        }
    };
    let present = array.nulls().filter(|nulls| nulls.null_count() > 0);
    Column { name: name.into(), values, present: present.map(|nulls| nulls.inner().sliced().to_vec()) }
}

fn array(column: Column, rows: usize) -> ArrayRef {
    let bits = |bytes: Vec<u8>| BooleanBuffer::new(Buffer::from_vec(bytes), 0, rows);
    let nulls = column.present.map(|present| NullBuffer::new(bits(present)));
    match column.values {
        Values::Integers(values) => Arc::new(Int64Array::new(values.into(), nulls)),
        Values::Floats(values) => Arc::new(Float64Array::new(values.into(), nulls)),
        Values::Booleans(values) => Arc::new(BooleanArray::new(bits(values), nulls)),
        Values::Timestamps(values) => {
            Arc::new(TimestampMillisecondArray::new(values.into(), nulls).with_timezone("UTC"))
        }
        Values::Texts(texts) => {
            let keys = UInt32Array::new(texts.indexes.into(), nulls);
            let values = StringArray::from_iter_values(texts.dictionary);
            Arc::new(DictionaryArray::new(keys, Arc::new(values)))
        }
    }
}
