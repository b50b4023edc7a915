//! Reads the newest rows back, row after row as they come.

use arrow_schema::{Schema, SchemaRef};
use bytes::{Buf, BytesMut};

use super::types::{Base, Type};
use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::Remember;
use crate::sink::table::is_revised;
use crate::sink::values::{Builder, Rows, Value};

/// Longer windows are no window: before 1970 some types have no times.
const LONGEST_WINDOW_S: u64 = 50 * 365 * 86_400;

/// The most bytes of a row that has not come whole: the rows that a pipeline writes are shorter.
const ROW_BYTES: usize = 256 << 20;

/// The query for the newest rows of a table, oldest first, in `RowBinary`, each value after a byte that says whether
/// there is none; `columns` are at least one. Of two revisions of a row the newer comes later, so rows need not be
/// merged for it. None when the table does not have a column.
pub fn query(
    table: &str,
    columns: &[String],
    types: &[(String, Type)],
    schema: &Schema,
    remember: &Remember,
) -> Option<String> {
    let type_of = |name: &str| types.iter().find(|(other, _)| other == name).map(|(_, found)| found);
    let order = if is_revised(schema) { "`timestamp`, `revision`" } else { "`timestamp`" };
    let newest_first =
        if is_revised(schema) { "`timestamp` DESC, `revision` DESC" } else { "`timestamp` DESC" };
    let shown: Option<Vec<String>> =
        columns.iter().map(|name| Some(selected(&super::tables::quoted(name), type_of(name)?))).collect();
    let shown = shown?.join(", ");
    let mut inner: Vec<String> = columns.iter().map(|name| super::tables::quoted(name)).collect();
    for name in if is_revised(schema) { &["`timestamp`", "`revision`"][..] } else { &["`timestamp`"] } {
        if !inner.iter().any(|column| column == name) {
            inner.push((*name).into());
        }
    }
    let window = remember.window.map(|window| window.0.as_millis().div_ceil(1000));
    let window = window.filter(|seconds| *seconds <= u128::from(LONGEST_WINDOW_S)).map_or_else(
        String::new,
        |seconds| {
            format!(
                " WHERE `timestamp` >= (SELECT max(`timestamp`) FROM {table}) - INTERVAL {seconds} SECOND"
            )
        },
    );
    Some(format!(
        "SELECT {shown} FROM (SELECT {} FROM {table}{window} ORDER BY {newest_first} LIMIT {}) ORDER BY {order}",
        inner.join(", "),
        remember.rows
    ))
}

/// A column as the host has it.
fn selected(name: &str, column_type: &Type) -> String {
    match column_type.base {
        Base::Integer(_) | Base::Unsigned(_) => format!("toNullable(toInt64({name}))"),
        Base::Boolean => format!("toNullable(toInt64({name}))"),
        Base::Float | Base::Text => format!("toNullable({name})"),
        Base::DateTime => format!("toNullable(toInt64(toUInt32({name})) * 1000)"),
        Base::DateTime64(_) => format!("toNullable(toUnixTimestamp64Milli({name}))"),
    }
}

/// Takes the answer apart.
pub struct Reader {
    schema: SchemaRef,
    rows: Rows,
    /// What has come and is not yet a whole row.
    rest: BytesMut,
    place: String,
}

/// The answer ends within a row, until more of it has come.
struct Ends;

impl Reader {
    /// Of an answer whose columns are those of `schema`; `place` is for messages.
    pub fn new(schema: &SchemaRef, place: &str) -> Reader {
        Reader { schema: schema.clone(), rows: Rows::new(schema), rest: BytesMut::new(), place: place.into() }
    }

    /// Takes a piece of the answer, and gives whole batches to `each`.
    pub fn take(
        &mut self,
        piece: &[u8],
        each: &mut dyn FnMut(arrow_array::RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.rest.extend_from_slice(piece);
        let mut done = 0;
        while let Ok(length) = row_length(&self.schema, &self.rest[done..]) {
            let row = &self.rest[done..done + length];
            done += length;
            if !push_row(row, self.rows.next_row()) {
                return Err(Error::Surroundings(format!(
                    "`{}` has given back a text that is not UTF-8: correct the rows that something else has written",
                    self.place
                )));
            }
            if let Some(batch) = self.rows.full() {
                each(batch)?;
            }
        }
        self.rest.advance(done);
        if self.rest.len() > ROW_BYTES {
            let mib = ROW_BYTES >> 20;
            return Err(Error::Surroundings(format!(
                "`{}` has given back a row of more than {mib} MiB: remove the row that something else has written",
                self.place
            )));
        }
        Ok(())
    }

    /// Gives what is left to `each`.
    pub fn finish(mut self, each: &mut dyn FnMut(arrow_array::RecordBatch) -> Result<()>) -> Result<()> {
        if !self.rest.is_empty() {
            return Err(Error::Rewind(format!("`{}` has ended its answer within a row", self.place)));
        }
        self.rows.rest().map_or(Ok(()), each)
    }
}

/// How many bytes the first row has.
fn row_length(schema: &Schema, bytes: &[u8]) -> std::result::Result<usize, Ends> {
    let mut length = 0_usize;
    for kind in schema.fields().iter().map(|field| Kind::of(field.data_type())) {
        let is_null = *bytes.get(length).ok_or(Ends)? != 0;
        length += 1;
        if is_null {
            continue;
        }
        length = length.saturating_add(match kind {
            Kind::Text => {
                let (text, head) = text_length(bytes.get(length..).ok_or(Ends)?)?;
                text.saturating_add(head)
            }
            _ => 8,
        });
    }
    if length > bytes.len() { Err(Ends) } else { Ok(length) }
}

/// A text's length, and the length of that length.
fn text_length(bytes: &[u8]) -> std::result::Result<(usize, usize), Ends> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((length, index + 1));
        }
    }
    Err(Ends)
}

/// Gives a whole row to the builders; `false` when a text is not UTF-8.
fn push_row(mut row: &[u8], builders: &mut [Builder]) -> bool {
    builders.iter_mut().all(|builder| {
        if row.get_u8() != 0 {
            return builder.push(Value::Null);
        }
        match builder.kind() {
            Kind::Text => {
                let Ok((length, head)) = text_length(row) else { return false };
                let (text, rest) = row[head..].split_at(length);
                row = rest;
                std::str::from_utf8(text).is_ok_and(|text| builder.push(Value::Text(text)))
            }
            Kind::Integer => builder.push(Value::Integer(row.get_i64_le())),
            Kind::Boolean => builder.push(Value::Boolean(row.get_i64_le() != 0)),
            Kind::Timestamp => builder.push(Value::Timestamp(row.get_i64_le())),
            Kind::Float => builder.push(Value::Float(row.get_f64_le())),
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::RecordBatch;

    use super::*;
    use crate::sink::test_rows::{candles, schema};
    use crate::sink::values::Values;

    /// Rows as the server sends them.
    fn answer(rows: &RecordBatch) -> Vec<u8> {
        let columns = Values::of_batch(rows);
        let mut bytes = Vec::new();
        for row in 0..rows.num_rows() {
            for column in &columns {
                let value = column.at(row);
                bytes.push(u8::from(value == Value::Null));
                match value {
                    Value::Null => {}
                    Value::Integer(value) | Value::Timestamp(value) => bytes.extend(value.to_le_bytes()),
                    Value::Boolean(value) => bytes.extend(i64::from(value).to_le_bytes()),
                    Value::Float(value) => bytes.extend(value.to_le_bytes()),
                    Value::Text(text) => {
                        bytes.push(text.len() as u8);
                        bytes.extend(text.as_bytes());
                    }
                }
            }
        }
        bytes
    }

    #[test]
    fn an_answer_may_be_cut_anywhere() {
        let rows = candles(&[(1, 0.5, None), (2, f64::INFINITY, Some(7)), (3, -1.0, Some(0))]);
        let bytes = answer(&rows);
        for length in [1, 2, 7, 64, bytes.len()] {
            let mut found = Vec::new();
            let mut reader = Reader::new(&schema(), "here");
            let mut each = |batch| {
                found.push(batch);
                Ok(())
            };
            for piece in bytes.chunks(length) {
                reader.take(piece, &mut each).unwrap();
            }
            reader.finish(&mut each).unwrap();
            assert_eq!(found, std::slice::from_ref(&rows), "{length}");
        }
    }

    #[test]
    fn an_answer_that_ends_within_a_row_is_asked_for_again() {
        let bytes = answer(&candles(&[(1, 0.5, None)]));
        let mut reader = Reader::new(&schema(), "here");
        reader.take(&bytes[..bytes.len() - 1], &mut |_| Ok(())).unwrap();
        assert!(matches!(reader.finish(&mut |_| Ok(())), Err(Error::Rewind(_))));
        let mut hostile = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        hostile.extend([0xff; 12]);
        let mut reader = Reader::new(&schema(), "here");
        reader.take(&hostile, &mut |_| Ok(())).unwrap();
        assert!(reader.finish(&mut |_| Ok(())).is_err());
    }
}
