//! What tables of rows have in common, in whichever database they are.

use arrow_schema::Schema;

use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::{ColumnSet, Columns};

/// The columns of a table of dead letters, in their order. All are texts but `source_partition`, `source_offset` and
/// `rejected_at` (milliseconds since 1970, or the database's own type for times), and `payload`, which is bytes.
pub const DEAD_LETTER_COLUMNS: [&str; 10] = [
    "pipeline",
    "rule",
    "rule_version",
    "reason",
    "detail",
    "source_topic",
    "source_partition",
    "source_offset",
    "rejected_at",
    "payload",
];

/// The columns that tell rows apart; none when every row is stored. `given` is what the pipeline file has at `setting`.
pub fn key(
    given: Option<&Vec<String>>,
    setting: &str,
    columns: &Columns,
    schema: &Schema,
) -> Result<Vec<String>> {
    let has = |name: &str| schema.field_with_name(name).is_ok();
    if let Some(key) = given {
        return match key.iter().find(|name| !has(name)) {
            Some(name) => Err(Error::Files(format!(
                "`{setting}` names `{name}`, which is not a column of the rows: they have {}",
                schema
                    .fields()
                    .iter()
                    .map(|field| format!("`{}`", field.name()))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))),
            None => Ok(key.clone()),
        };
    }
    let candle = ["source", "symbol", "timeframe", "timestamp"];
    let is_named = matches!(columns, Columns::Named(ColumnSet::Ohlcv | ColumnSet::Candles));
    let key: &[&str] = if is_named && candle.into_iter().all(has) { &candle } else { &[] };
    Ok(key.iter().map(|&name| name.to_owned()).collect())
}

/// Whether the rows say which of two with one key is newer.
pub fn is_revised(schema: &Schema) -> bool {
    schema.field_with_name("revision").is_ok_and(|field| Kind::of(field.data_type()) == Kind::Integer)
}
