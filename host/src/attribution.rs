//! Which versions of which rules have decided a row: a text like `validate=1f0c33a9d2b4 dedup=77ab01ce5f20`, in a header
//! of messages in Kafka and in a column where the pipeline file names one.

use std::sync::Arc;

use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, DictionaryArray, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{Field, Schema, SchemaRef};

use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::life::short;
use crate::rule::Stage;

/// The columns of rows in the sink: those after the rules, and the one that `rule_versions` names.
///
/// # Errors
/// [`Error::Files`] when a rule writes a column of that name.
pub fn with_column(schema: &SchemaRef, column: Option<&str>) -> Result<SchemaRef> {
    let Some(name) = column else { return Ok(Arc::clone(schema)) };
    if schema.column_with_name(name).is_some() {
        return Err(Error::Files(format!(
            "`rule_versions` names the column `{name}`, which a rule writes already"
        )));
    }
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(name, Kind::Text.data_type(), true)));
    Ok(Arc::new(Schema::new(fields)))
}

/// The text for rules with these names and hashes; empty without rules.
pub fn text<'a>(versions: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let versions: Vec<String> = versions.map(|(rule, sha256)| format!("{rule}={}", short(sha256))).collect();
    versions.join(" ")
}

/// The versions that a lane runs.
pub struct Attribution {
    text: String,
    /// With the column, when there is one.
    schema: SchemaRef,
    has_column: bool,
}

impl Attribution {
    /// For rows with the columns of `schema`, to which `column` is added.
    ///
    /// # Errors
    /// [`Error::Files`] when a rule writes a column of that name.
    pub fn new(schema: &SchemaRef, column: Option<&str>, rules: &[Stage]) -> Result<Attribution> {
        let schema = with_column(schema, column)?;
        let mut attribution = Attribution { text: String::new(), schema, has_column: column.is_some() };
        attribution.follow(rules);
        Ok(attribution)
    }

    /// The columns of rows in the sink.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The text for the rows of the next batches; empty without rules.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Other versions decide from now on.
    pub fn follow(&mut self, rules: &[Stage]) {
        self.text = text(rules.iter().map(|rule| (&**rule.name(), &**rule.version().sha256())));
    }

    /// Rows with the column, when there is one.
    pub fn added_to(&self, rows: RecordBatch) -> RecordBatch {
        if !self.has_column {
            return rows;
        }
        let keys = UInt32Array::from(vec![0; rows.num_rows()]);
        let texts = Arc::new(StringArray::from(vec![self.text.as_str()]));
        let column: ArrayRef = Arc::new(DictionaryArray::<UInt32Type>::new(keys, texts));
        let mut columns = rows.columns().to_vec();
        columns.push(column);
        RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("the column is as long as the others")
    }
}
