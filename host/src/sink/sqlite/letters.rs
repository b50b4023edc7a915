//! Reads the dead letters of a database.

use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::{BUSY_TIMEOUT, DEAD_LETTER_COLUMNS, DEFAULT_DEAD_LETTER_TABLE, quoted, sqlite_error};
use crate::dead_letter::letters::{Id, Letter};
use crate::error::{Error, Result};
use crate::pipeline_file::{self, DeadLetter};

/// A table of dead letters.
pub struct LetterTable {
    connection: Connection,
    path: PathBuf,
    table: String,
}

impl LetterTable {
    /// Opens the database for reading.
    pub fn open(path: &Path, dead_letter: Option<&DeadLetter>) -> Result<LetterTable> {
        let table = match dead_letter {
            Some(DeadLetter::Sqlite(config)) => config.table.clone(),
            _ => DEFAULT_DEAD_LETTER_TABLE.into(),
        };
        let connection = connect(path)?;
        let has_table = has_table(&connection, &table).map_err(|error| sqlite_error(path, &error))?;
        if !has_table {
            return Err(Error::Surroundings(format!(
                "`{}` has no table `{table}`: the pipeline has not run yet",
                path.display()
            )));
        }
        Ok(LetterTable { connection, path: path.into(), table })
    }

    /// What it is called in messages.
    pub fn name(&self) -> String {
        format!("table `{}` of `{}`", self.table, self.path.display())
    }

    /// Shows all dead letters in the order in which they were written.
    pub fn each(&self, each: &mut dyn FnMut(Letter) -> Result<()>) -> Result<()> {
        let say = |error| sqlite_error(&self.path, &error);
        let mut statement =
            self.connection.prepare(&format!("{} ORDER BY rowid", self.select())).map_err(say)?;
        let mut rows = statement.query([]).map_err(say)?;
        while let Some(row) = rows.next().map_err(say)? {
            each(letter(row).map_err(say)?)?;
        }
        Ok(())
    }

    /// The dead letter with this rowid.
    pub fn find(&self, rowid: i64) -> Result<Option<Letter>> {
        self.connection
            .query_row(&format!("{} WHERE rowid = ?1", self.select()), [rowid], letter)
            .optional()
            .map_err(|error| sqlite_error(&self.path, &error))
    }

    fn select(&self) -> String {
        let names: Vec<_> = DEAD_LETTER_COLUMNS.iter().map(|(name, _)| quoted(name)).collect();
        format!("SELECT rowid, {} FROM {}", names.join(", "), quoted(&self.table))
    }
}

/// How much of a dead-letter file counts, which a database keeps for the file beside it.
pub fn committed_bytes(
    path: &Path,
    pipeline: &str,
    file: &pipeline_file::DeadLetterFile,
) -> Result<Option<u64>> {
    let say = |error| sqlite_error(path, &error);
    let connection = connect(path)?;
    if !has_table(&connection, "tidegate_dead_letter_files").map_err(say)? {
        return Ok(None);
    }
    let select = "SELECT bytes FROM tidegate_dead_letter_files WHERE pipeline = ?1 AND path = ?2";
    let bytes: Option<i64> =
        connection.query_row(select, (pipeline, &file.path), |row| row.get(0)).optional().map_err(say)?;
    Ok(bytes.and_then(|bytes| u64::try_from(bytes).ok()))
}

fn connect(path: &Path) -> Result<Connection> {
    if !path.is_file() {
        return Err(Error::Surroundings(format!(
            "there is no database `{}`: the pipeline has not run yet",
            path.display()
        )));
    }
    let say = |error| sqlite_error(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(say)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(say)?;
    Ok(connection)
}

fn has_table(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let select = "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    connection.query_row(select, [table], |row| Ok(row.get::<_, i64>(0)? > 0))
}

/// A user may have changed a value to another type; it is shown all the same.
fn letter(row: &Row<'_>) -> rusqlite::Result<Letter> {
    let bytes = |index| -> rusqlite::Result<Vec<u8>> {
        Ok(match row.get_ref(index)? {
            ValueRef::Null => Vec::new(),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.into(),
            ValueRef::Integer(number) => number.to_string().into_bytes(),
            ValueRef::Real(number) => number.to_string().into_bytes(),
        })
    };
    let text = |index| bytes(index).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let number = |index| row.get_ref(index).map(|value| value.as_i64().unwrap_or(0));
    Ok(Letter {
        id: Id::Row(row.get(0)?),
        pipeline: text(1)?,
        rule: text(2)?,
        rule_version: text(3)?,
        reason: text(4)?,
        detail: text(5)?,
        source_topic: text(6)?,
        source_partition: i32::try_from(number(7)?).unwrap_or(0),
        source_offset: u64::try_from(number(8)?).unwrap_or(0),
        rejected_at_ms: number(9)?,
        payload: bytes(10)?,
        cut: None,
        replayed: None,
    })
}
