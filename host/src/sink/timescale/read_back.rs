//! Reads the newest rows back.

use std::error::Error as StdError;
use std::pin::pin;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures_util::TryStreamExt;
use tokio_postgres::binary_copy::{BinaryCopyOutRow, BinaryCopyOutStream};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Error as ServerError};

use super::encode::milliseconds;
use super::failed;
use super::failure::Answer;
use super::schema::{Cell, Column, TableName, quoted};
use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::Remember;
use crate::sink::server::Server;
use crate::sink::values::{Builder, Rows, Value};

/// How long the server may take to find the rows: without an index on `timestamp` it looks at the whole table.
const FIND: Duration = Duration::from_secs(3_600);

/// What is read back.
pub struct Asked {
    /// Where the server is, for messages.
    pub address: String,
    /// The table.
    pub table: TableName,
    /// The columns, with what they are in the table.
    pub columns: Vec<Column>,
    /// The column `timestamp`, when the rows have it.
    pub timestamp: Option<Column>,
    /// The columns of the rows.
    pub schema: SchemaRef,
}

/// Why reading ended early.
enum Ended {
    /// The server.
    Server(ServerError),
    /// A value that the column of the rows cannot have.
    Value(String),
    /// The one who takes the rows, or the stop.
    Other(Error),
}

impl From<ServerError> for Ended {
    fn from(error: ServerError) -> Ended {
        Ended::Server(error)
    }
}

impl Asked {
    /// The rows with the newest times, oldest first; any rows where they have no time.
    fn statement(&self, remember: &Remember) -> String {
        let names: Vec<String> = self.columns.iter().map(selected).collect();
        let names = if names.is_empty() { "NULL::bigint".to_owned() } else { names.join(", ") };
        let (table, limit) = (self.table.quoted(), i64::try_from(remember.rows).unwrap_or(i64::MAX));
        let Some(timestamp) = &self.timestamp else {
            return format!("COPY (SELECT {names} FROM {table} LIMIT {limit}) TO STDOUT BINARY");
        };
        let since = match remember.window {
            None => String::new(),
            Some(window) => {
                let newest = format!("(SELECT max(timestamp) FROM {table})");
                let window_ms = i64::try_from(window.0.as_millis()).unwrap_or(i64::MAX);
                match timestamp.cell {
                    Cell::Int8 => format!(" WHERE timestamp >= {newest} - {window_ms}"),
                    _ => format!(" WHERE timestamp >= {newest} - {window_ms} * interval '1 millisecond'"),
                }
            }
        };
        format!(
            "COPY (SELECT {names} FROM (SELECT * FROM {table}{since} ORDER BY timestamp DESC LIMIT {limit}) AS newest \
             ORDER BY timestamp) TO STDOUT BINARY"
        )
    }

    /// Gives the rows in batches.
    pub fn read(
        &self,
        server: &Server,
        client: &Client,
        remember: &Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.try_read(server, client, remember, each).map_err(|ended| match ended {
            Ended::Server(error) => failed(&self.address, &error),
            Ended::Other(error) => error,
            Ended::Value(column) => Error::Surroundings(format!(
                "column `{column}` of table `{}` in `{}` has a time without a date (`infinity`), which no row can have: \
                 correct the rows that something else has written there",
                self.table, self.address
            )),
        })
    }

    fn try_read(
        &self,
        server: &Server,
        client: &Client,
        remember: &Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> std::result::Result<(), Ended> {
        let mut types: Vec<Type> = self.columns.iter().map(type_of).collect();
        if types.is_empty() {
            types.push(Type::INT8);
        }
        let start = async { client.copy_out(&self.statement(remember)).await };
        let stream = server.run(None, FIND, start).map_err(Ended::Other)??;
        let mut stream = pin!(BinaryCopyOutStream::new(stream, &types));
        let mut rows = Rows::new(&self.schema);
        loop {
            let next = async {
                while let Some(row) = stream.try_next().await? {
                    self.push(&row, &mut rows)?;
                    if let Some(batch) = rows.full() {
                        return Ok(Some(batch));
                    }
                }
                Ok::<_, Ended>(None)
            };
            match server.run(None, FIND, next).map_err(Ended::Other)?? {
                Some(batch) => each(batch).map_err(Ended::Other)?,
                None => return rows.rest().map_or(Ok(()), each).map_err(Ended::Other),
            }
        }
    }

    fn push(&self, row: &BinaryCopyOutRow, rows: &mut Rows) -> std::result::Result<(), Ended> {
        for (index, (builder, column)) in rows.next_row().iter_mut().zip(&self.columns).enumerate() {
            if !push(builder, column, row, index)? {
                return Err(Ended::Value(column.name.clone()));
            }
        }
        Ok(())
    }
}

/// Says `false` when the rows cannot have the value.
fn push(builder: &mut Builder, column: &Column, row: &BinaryCopyOutRow, index: usize) -> Answer<bool> {
    let value = match column.kind {
        Kind::Integer => row.try_get::<Option<i64>>(index)?.map(Value::Integer),
        Kind::Float => row.try_get::<Option<f64>>(index)?.map(Value::Float),
        Kind::Boolean => row.try_get::<Option<bool>>(index)?.map(Value::Boolean),
        Kind::Text => row.try_get::<Option<&str>>(index)?.map(Value::Text),
        Kind::Timestamp if column.cell == Cell::Int8 => {
            row.try_get::<Option<i64>>(index)?.map(Value::Timestamp)
        }
        Kind::Timestamp => match row.try_get::<Option<Microseconds>>(index)? {
            None => None,
            Some(Microseconds(at)) => match milliseconds(at) {
                Some(at) => Some(Value::Timestamp(at)),
                // One of the two infinities.
                None => return Ok(false),
            },
        },
    };
    Ok(builder.push(value.unwrap_or(Value::Null)))
}

/// Microseconds since 2000.
struct Microseconds(i64);

impl<'a> FromSql<'a> for Microseconds {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Microseconds, Box<dyn StdError + Sync + Send>> {
        Ok(Microseconds(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(type_: &Type) -> bool {
        *type_ == Type::TIMESTAMPTZ
    }
}

/// A column in the type of [`type_of`].
fn selected(column: &Column) -> String {
    let name = quoted(&column.name);
    match column.cell {
        Cell::Int4 | Cell::Int2 => format!("{name}::bigint"),
        Cell::Numeric if column.kind == Kind::Integer => format!("{name}::bigint"),
        Cell::Numeric => format!("{name}::double precision"),
        _ => name,
    }
}

/// The type in which a column comes; the two of times have the same bytes.
fn type_of(column: &Column) -> Type {
    match column.kind {
        Kind::Timestamp if column.cell != Cell::Int8 => Type::TIMESTAMPTZ,
        Kind::Integer | Kind::Timestamp => Type::INT8,
        Kind::Float => Type::FLOAT8,
        Kind::Boolean => Type::BOOL,
        Kind::Text => Type::TEXT,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Schema;

    use super::*;
    use crate::pipeline_file::Span;

    #[test]
    fn the_newest_rows_are_asked_for_oldest_first() {
        let time =
            Column { name: "timestamp".into(), kind: Kind::Timestamp, cell: Cell::Time, is_required: true };
        let close =
            Column { name: "close".into(), kind: Kind::Float, cell: Cell::Numeric, is_required: false };
        let mut remember = Remember { rows: 5, window: None };
        let statement = |timestamp: Option<&Column>, remember: &Remember| {
            let asked = Asked {
                address: "db.example:5432/market".into(),
                table: TableName::new("c"),
                columns: vec![close.clone()],
                timestamp: timestamp.cloned(),
                schema: Arc::new(Schema::empty()),
            };
            asked.statement(remember)
        };
        assert_eq!(
            statement(Some(&time), &remember),
            "COPY (SELECT \"close\"::double precision FROM (SELECT * FROM \"c\" ORDER BY timestamp DESC LIMIT 5) AS newest \
             ORDER BY timestamp) TO STDOUT BINARY"
        );
        assert_eq!(
            statement(None, &remember),
            "COPY (SELECT \"close\"::double precision FROM \"c\" LIMIT 5) TO STDOUT BINARY"
        );
        remember.window = Some(Span(Duration::from_secs(60)));
        assert!(statement(Some(&time), &remember).contains(
            " WHERE timestamp >= (SELECT max(timestamp) FROM \"c\") - 60000 * interval '1 millisecond' ORDER BY"
        ));
    }
}
