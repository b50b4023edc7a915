//! A table of an embedded SQLite database.
//!
//! The database is in WAL mode with `synchronous = NORMAL`: what was committed survives the end of the process,
//! and a power cut can only take the last commits away whole. A position is in the same database as its rows,
//! so the rows of a lost commit are simply written again.
//!
//! Rows are read back in the order of their rowids, which is the order of writing: the last million of a
//! hundred million rows is one range of the table's own tree, and no index on `timestamp` must be paid for by
//! each insert. So the table cannot be `WITHOUT ROWID`.
//!
//! The index of the key has its columns in the order of `sink.sqlite.key`, and that order decides the speed.
//! Measured once on two busy cores, with the same statements outside of the host, 700 series, 14 columns, a
//! million rows and batches of 10,000: rows that come in the order of time are stored at 195,000 rows a second
//! with the series first in the key, and at 669,000 with `timestamp` first; rows that come series by series at
//! 440,000 and 90,000. The series comes first unless the pipeline file says otherwise, because candles are
//! asked for by series.
//!
//! SQLite stores NaN as NULL, so a NaN comes back as no value; the infinities are kept. A row without a value
//! in a column of the key equals no other row, so it is always stored.

pub mod letters;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Statement, ToSql, Transaction, TransactionBehavior,
};

use super::appended::AppendedFile;
use super::table::{self, is_revised};
use super::values::{Builder, Rows, Value, Values, has_timestamp, project, window_start};
use super::{Reading, Stored, Write, resolve};
use crate::batch::{Kind, Partition, Position};
use crate::dead_letter::{DeadLetter, DeadLetterLines};
use crate::error::{Error, Result};
use crate::pipeline_file::{self, meaning};

/// Another process that holds the database for a commit is done within milliseconds; one that holds it for
/// longer than this is not going to let go.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// 64 MiB: the pages that 10,000 rows of a thousand series touch in the index of the key stay in memory.
const CACHE_KIB: u32 = 64 << 10;

/// 64 MiB of 4 KiB pages: a page that many batches change is copied into the database once and not once a
/// batch, which makes inserts 1.3 to 2.1 times as fast as SQLite's own 1,000 pages.
const CHECKPOINT_PAGES: u32 = 16_000;

/// What the names of this program's own tables start with.
const OWN_TABLES: &str = "tidegate_";

const POSITIONS: &str = "CREATE TABLE IF NOT EXISTS tidegate_positions (
    pipeline TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    PRIMARY KEY (pipeline, topic, partition))";

/// The committed length of a dead-letter file. It belongs to the file and not to a source partition, because
/// the partitions of a pipeline share the file and the file can be changed without changing the source.
const DEAD_LETTER_FILES: &str = "CREATE TABLE IF NOT EXISTS tidegate_dead_letter_files (
    pipeline TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (pipeline, path))";

const DEAD_LETTER_COLUMNS: [(&str, &str); 10] = [
    ("pipeline", "TEXT"),
    ("rule", "TEXT"),
    ("rule_version", "TEXT"),
    ("reason", "TEXT"),
    ("detail", "TEXT"),
    ("source_topic", "TEXT"),
    ("source_partition", "INTEGER"),
    ("source_offset", "INTEGER"),
    ("rejected_at", "INTEGER"),
    ("payload", "BLOB"),
];

/// A table of rows, the positions, and the dead letter beside it.
pub struct SqliteSink {
    connection: Connection,
    path: PathBuf,
    pipeline: String,
    schema: SchemaRef,
    table: String,
    statements: Statements,
    dead_letters: DeadLetters,
}

/// What is asked for each row; its columns are the parameters, in their order.
struct Statements {
    /// Stores the row.
    insert: String,
    /// Whether the stored row with the same key is equal in the columns that came from the source: what rules add,
    /// such as a time, differs each time. None when there is no key.
    is_equal: Option<String>,
    /// What a stored row with the same key and other values means, for a person.
    key_taken: String,
}

/// Where dead letters go.
enum DeadLetters {
    /// A table; the statement that inserts one.
    Table { insert: String },
    /// A file; its path as the pipeline file has it, under which its length is kept.
    File { name: String, lines: DeadLetterLines },
    /// Standard output.
    Stdout(DeadLetterLines),
}

impl SqliteSink {
    /// Opens the database and makes the tables that it lacks.
    pub fn open(
        config: &pipeline_file::SqliteSink,
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        folder: &Path,
    ) -> Result<SqliteSink> {
        let dead_letter = pipeline.dead_letter.as_ref();
        check_names(config, dead_letter)?;
        let key = table::key(config.key.as_ref(), "sink.sqlite.key", &pipeline.decode.columns, schema)?;
        let path = resolve(folder, &config.path);
        let mut connection = connect(&path)?;
        let say = |error| sqlite_error(&path, &error);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(say)?;
        transaction.execute_batch(POSITIONS).map_err(say)?;
        let columns = columns_of(schema);
        make_table(&transaction, &path, &config.table, &columns, &key)?;
        let dead_letters = open_dead_letters(&transaction, &path, &pipeline.name, dead_letter, folder)?;
        transaction.commit().map_err(say)?;
        let decoded = meaning::columns(&pipeline.decode.columns);
        let statements = Statements::new(&config.table, schema, &key, &decoded);
        Ok(SqliteSink {
            pipeline: pipeline.name.clone(),
            schema: schema.clone(),
            table: config.table.clone(),
            connection,
            path,
            statements,
            dead_letters,
        })
    }

    /// Whether the tables of an existing database can take the rows; they are made within a transaction that ends without
    /// a commit.
    pub fn check(
        config: &pipeline_file::SqliteSink,
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        folder: &Path,
    ) -> Result<()> {
        let dead_letter = pipeline.dead_letter.as_ref();
        check_names(config, dead_letter)?;
        let key = table::key(config.key.as_ref(), "sink.sqlite.key", &pipeline.decode.columns, schema)?;
        let path = resolve(folder, &config.path);
        if !path.exists() {
            return check_folder(&path);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let say = |error| sqlite_error(&path, &error);
        let mut connection = Connection::open_with_flags(&path, flags).map_err(say)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(say)?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(say)?;
        make_table(&transaction, &path, &config.table, &columns_of(schema), &key)?;
        let dead_letter = match dead_letter {
            None => DEFAULT_DEAD_LETTER_TABLE,
            Some(pipeline_file::DeadLetter::Sqlite(dead_letter)) => &dead_letter.table,
            Some(_) => return Ok(()),
        };
        make_dead_letter_table(&transaction, &path, dead_letter).map(drop)
    }

    /// The position that the database has.
    pub fn position(&mut self, partition: &Partition) -> Result<Position> {
        let select = "SELECT next_offset, fingerprint FROM tidegate_positions
            WHERE pipeline = ?1 AND topic = ?2 AND partition = ?3";
        let key = (&self.pipeline, &*partition.topic, partition.number);
        let found = self
            .connection
            .query_row(select, key, |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
            .optional()
            .map_err(|error| sqlite_error(&self.path, &error))?;
        let Some((next_offset, fingerprint)) = found else { return Ok(Position::default()) };
        let next_offset = u64::try_from(next_offset).map_err(|_| {
            Error::Surroundings(format!(
                "`tidegate_positions` of `{}` has the offset {next_offset} for `{}`, which is below zero: set \
                 it right, or delete that row to read from the start",
                self.path.display(),
                partition.topic
            ))
        })?;
        Ok(Position { next_offset, fingerprint })
    }

    /// One transaction: position, rows, dead letters. The position comes first, so that a process that does
    /// not own the partition has written nothing.
    pub fn write(&mut self, write: &Write<'_>) -> Result<Stored> {
        let say = |error| sqlite_error(&self.path, &error);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(say)?;
        if !move_position(&transaction, &self.pipeline, write).map_err(say)? {
            return Err(Error::Running(format!(
                "the position of `{}` partition {} in `{}` is no longer {}: another process runs pipeline `{}`; \
                 stop one of the two",
                write.partition.topic,
                write.partition.number,
                self.path.display(),
                write.expected.next_offset,
                self.pipeline
            )));
        }
        let (duplicates, refused) = insert_rows(&transaction, &self.statements, write).map_err(say)?;
        let rejected: Vec<_> = write.rejected.iter().chain(&refused).collect();
        let length = match &mut self.dead_letters {
            DeadLetters::Table { insert } => {
                insert_dead_letters(&transaction, insert, &rejected).map_err(say)?;
                0
            }
            DeadLetters::Stdout(lines) => lines.write(rejected)?,
            DeadLetters::File { name, lines } => {
                let any = !rejected.is_empty();
                let length = lines.write(rejected)?;
                if any {
                    keep_length(&transaction, &self.pipeline, name, length).map_err(say)?;
                }
                length
            }
        };
        transaction.commit().map_err(say)?;
        match &mut self.dead_letters {
            DeadLetters::File { lines, .. } | DeadLetters::Stdout(lines) => lines.commit(length),
            DeadLetters::Table { .. } => {}
        }
        let refused = refused.into_iter().map(|dead_letter| dead_letter.reject.into_owned()).collect();
        Ok(Stored { duplicates, refused, bytes: 0 })
    }

    /// Reads the last rows back.
    pub fn read_back(
        &mut self,
        columns: &[String],
        remember: &pipeline_file::Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.stored(columns)?.read_back(&self.connection, remember, each)
    }

    /// What [`SqliteSink::read_back`] would read now: the other connection stays in a transaction that begins here.
    pub fn reading(&self, columns: &[String]) -> Result<Reading> {
        let stored = self.stored(columns)?;
        let say = |error| sqlite_error(&self.path, &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(say)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(say)?;
        connection
            .execute_batch(&format!(
                "BEGIN; SELECT count(*) FROM (SELECT 1 FROM {} LIMIT 1)",
                quoted(&self.table)
            ))
            .map_err(say)?;
        Ok(Box::new(move |remember, each| {
            stored.read_back(&connection, remember, &mut |rows| each(None, rows))
        }))
    }

    fn stored(&self, columns: &[String]) -> Result<StoredRows> {
        Ok(StoredRows {
            path: self.path.clone(),
            table: self.table.clone(),
            schema: Arc::clone(&self.schema),
            asked: project(&self.schema, columns)?,
        })
    }
}

/// The rows of the table, some columns of which are asked for.
struct StoredRows {
    path: PathBuf,
    table: String,
    schema: SchemaRef,
    asked: SchemaRef,
}

impl StoredRows {
    /// Reads the last rows. The range of rowids is found by a walk over the last `remember.rows` rows, so the cost does not
    /// depend on the size of the table.
    fn read_back(
        &self,
        connection: &Connection,
        remember: &pipeline_file::Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let say = |error: rusqlite::Error| sqlite_error(&self.path, &error);
        let (table, rowid) = (quoted(&self.table), rowid_name(&self.schema));
        let window = remember.window.filter(|_| has_timestamp(&self.schema));
        let timed = window.is_some();
        let newest = if timed { "max(timestamp)" } else { "NULL" };
        let fields = if timed { format!("{rowid} AS row, timestamp") } else { format!("{rowid} AS row") };
        let range = format!(
            "SELECT min(row), {newest} FROM (SELECT {fields} FROM {table} ORDER BY {rowid} DESC LIMIT ?1)"
        );
        let limit = i64::try_from(remember.rows).unwrap_or(i64::MAX);
        let (first, newest): (Option<i64>, Option<i64>) =
            connection.query_row(&range, [limit], |row| Ok((row.get(0)?, row.get(1)?))).map_err(say)?;
        let Some(first) = first else { return Ok(()) };
        let since = newest.zip(window).map(|(newest, window)| window_start(newest, window.0));
        let condition = if since.is_some() { "AND timestamp >= ?2" } else { "AND ?2 IS NULL" };
        let names =
            self.asked.fields().iter().map(|field| quoted(field.name())).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "NULL".to_owned() } else { names };
        let select = format!("SELECT {names} FROM {table} WHERE {rowid} >= ?1 {condition} ORDER BY {rowid}");
        let mut statement = connection.prepare(&select).map_err(say)?;
        let mut stored = statement.query((first, since)).map_err(say)?;
        let mut rows = Rows::new(&self.asked);
        while let Some(row) = stored.next().map_err(say)? {
            for (index, builder) in rows.next_row().iter_mut().enumerate() {
                let value = row.get_ref(index).map_err(say)?;
                if !read_value(builder, value) {
                    return Err(self.wrong_value(self.asked.field(index).name(), builder.kind(), value));
                }
            }
            if let Some(batch) = rows.full() {
                each(batch)?;
            }
        }
        rows.rest().map_or(Ok(()), each)
    }

    fn wrong_value(&self, column: &str, kind: Kind, value: ValueRef<'_>) -> Error {
        Error::Surroundings(format!(
            "column `{column}` of table `{}` in `{}` has a value of the type {} where {} is expected: correct \
             the rows that something else has written there",
            self.table,
            self.path.display(),
            value.data_type(),
            kind.name()
        ))
    }
}

/// Opens the database file and sets what holds for the connection.
fn connect(path: &Path) -> Result<Connection> {
    let shown = path.display();
    if path.is_dir() {
        return Err(Error::Surroundings(format!(
            "`{shown}` is a folder: give the path of a database file in `sink.sqlite.path`"
        )));
    }
    check_folder(path)?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let say = |error| sqlite_error(path, &error);
    let connection = Connection::open_with_flags(path, flags).map_err(say)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(say)?;
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(say)?;
    if mode != "wal" {
        return Err(Error::Surroundings(format!(
            "`{shown}` cannot keep a write-ahead log (its journal mode stays `{mode}`): put the database on a \
             local disk"
        )));
    }
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{CACHE_KIB}; \
             PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"
        ))
        .map_err(say)?;
    Ok(connection)
}

fn check_folder(path: &Path) -> Result<()> {
    match path.parent().filter(|folder| !folder.is_dir()) {
        Some(folder) => Err(Error::Surroundings(format!(
            "the folder `{}` of the database does not exist: make it, or change `sink.sqlite.path`",
            folder.display()
        ))),
        None => Ok(()),
    }
}

/// Refuses names of tables that cannot be or that would meet in one table.
fn check_names(
    config: &pipeline_file::SqliteSink,
    dead_letter: Option<&pipeline_file::DeadLetter>,
) -> Result<()> {
    let table = &config.table;
    check_name("sink.sqlite.table", table)?;
    let dead_letter = match dead_letter {
        None => DEFAULT_DEAD_LETTER_TABLE,
        Some(pipeline_file::DeadLetter::Sqlite(dead_letter)) => &dead_letter.table,
        Some(_) => return Ok(()),
    };
    check_name("dead_letter.sqlite.table", dead_letter)?;
    if table.eq_ignore_ascii_case(dead_letter) {
        return Err(Error::Files(format!(
            "rows and dead letters cannot share the table `{table}`: change `sink.sqlite.table` or \
             `dead_letter.sqlite.table`"
        )));
    }
    Ok(())
}

const DEFAULT_DEAD_LETTER_TABLE: &str = "dead_letter";

fn check_name(setting: &str, table: &str) -> Result<()> {
    let taken =
        |prefix: &str| table.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if table.is_empty() || table.contains('\0') || taken("sqlite_") || taken(OWN_TABLES) {
        return Err(Error::Files(format!(
            "`{setting}` is `{}`, which cannot be a table of rows: give a name that is not empty and does not \
             start with `sqlite_` or `{OWN_TABLES}`",
            table.escape_default()
        )));
    }
    Ok(())
}

/// A name within a statement.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// A name of the rowid that no column takes.
fn rowid_name(schema: &Schema) -> &'static str {
    let free = ["rowid", "_rowid_", "oid"].into_iter().find(|name| schema.field_with_name(name).is_err());
    free.unwrap_or("rowid")
}

fn columns_of(schema: &Schema) -> Vec<(&str, &'static str)> {
    let declared = |kind| match kind {
        Kind::Integer | Kind::Boolean | Kind::Timestamp => "INTEGER",
        Kind::Float => "REAL",
        Kind::Text => "TEXT",
    };
    schema
        .fields()
        .iter()
        .map(|field| (field.name().as_str(), declared(Kind::of(field.data_type()))))
        .collect()
}

/// Makes a table, or checks that the one that exists can take the rows.
fn make_table(
    connection: &Connection,
    path: &Path,
    table: &str,
    columns: &[(&str, &str)],
    key: &[String],
) -> Result<()> {
    let say = |error| sqlite_error(path, &error);
    let exists: Option<(String, bool)> = connection
        .query_row(
            "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
            [table],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
        .map_err(say)?;
    match exists {
        Some((kind, without_rowid)) => {
            if kind != "table" || without_rowid {
                let what = if without_rowid { "table WITHOUT ROWID" } else { &kind };
                return Err(Error::Surroundings(format!(
                    "`{table}` in `{}` is a {what}: rows need an ordinary table, so give another one in \
                     `sink.sqlite.table`",
                    path.display()
                )));
            }
            check_columns(connection, path, table, columns)?;
            check_key(connection, path, table, key)
        }
        None => {
            let mut parts: Vec<_> =
                columns.iter().map(|(name, declared)| format!("{} {declared}", quoted(name))).collect();
            match key {
                [] => {}
                // A single INTEGER PRIMARY KEY would be the rowid itself, and rowids must count the writing.
                [column] => parts.push(format!("UNIQUE ({})", quoted(column))),
                _ => parts.push(format!("PRIMARY KEY ({})", quoted_list(key))),
            }
            let create = format!("CREATE TABLE {} ({})", quoted(table), parts.join(", "));
            connection.execute_batch(&create).map_err(say)
        }
    }
}

/// Checks that an existing table has the columns, with types that keep the values as they are.
fn check_columns(connection: &Connection, path: &Path, table: &str, columns: &[(&str, &str)]) -> Result<()> {
    let say = |error| sqlite_error(path, &error);
    let mut statement =
        connection.prepare("SELECT name, upper(type) FROM pragma_table_info(?1)").map_err(say)?;
    let existing = statement
        .query_map([table], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .map_err(say)?;
    let path = path.display();
    let missing: Vec<_> = columns
        .iter()
        .filter(|(name, _)| !existing.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)))
        .collect();
    if let Some((first, _)) = missing.first() {
        let mend: Vec<_> = missing
            .iter()
            .map(|(name, declared)| {
                format!("ALTER TABLE {} ADD COLUMN {} {declared};", quoted(table), quoted(name))
            })
            .collect();
        return Err(Error::Surroundings(format!(
            "table `{table}` in `{path}` has no column `{first}`: run `{}`",
            mend.join(" ")
        )));
    }
    for (name, declared) in columns {
        let other = existing.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        if let Some((_, other)) = other
            && !keeps(other, declared)
        {
            return Err(Error::Surroundings(format!(
                "column `{name}` of table `{table}` in `{path}` is {other}, which would change the values, \
                 expected {declared}: run `ALTER TABLE {} RENAME TO {};` and the table is made anew",
                quoted(table),
                quoted(&format!("{table}_old"))
            )));
        }
    }
    unfilled_column(connection, table, columns).map_err(say)?.map_or(Ok(()), |name| {
        Err(Error::Surroundings(format!(
            "column `{name}` of table `{table}` in `{path}` must have a value, and the pipeline has no such column: \
             give it a default, or add the column to the pipeline"
        )))
    })
}

/// A column without which no row can be stored, and that the rows do not have.
fn unfilled_column(
    connection: &Connection,
    table: &str,
    columns: &[(&str, &str)],
) -> rusqlite::Result<Option<String>> {
    // A single INTEGER in the primary key is the rowid, which fills itself.
    let required = "SELECT name FROM pragma_table_xinfo(?1) AS each WHERE \"notnull\" AND dflt_value IS NULL AND hidden = 0 \
         AND NOT (pk = 1 AND upper(type) = 'INTEGER' AND (SELECT max(pk) FROM pragma_table_info(?1)) = 1)";
    let mut statement = connection.prepare(required)?;
    let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
    for name in names {
        let name = name?;
        if !columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(&name)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether a column declared as `existing` keeps the values of `declared` apart, by SQLite's rules of
/// affinity: texts only in TEXT and BLOB columns, numbers only in others than TEXT.
fn keeps(existing: &str, declared: &str) -> bool {
    let integer = existing.contains("INT");
    let text = !integer && ["CHAR", "CLOB", "TEXT"].iter().any(|part| existing.contains(part));
    let blob = !integer && !text && (existing.is_empty() || existing.contains("BLOB"));
    match declared {
        "TEXT" => text || blob,
        "BLOB" => blob || text,
        _ => !text,
    }
}

/// Checks that an existing table has a unique index of exactly the key's columns, in any order.
fn check_key(connection: &Connection, path: &Path, table: &str, key: &[String]) -> Result<()> {
    if key.is_empty() {
        return Ok(());
    }
    let lower = |name: &str| name.to_ascii_lowercase();
    let mut expected: Vec<_> = key.iter().map(|name| lower(name)).collect();
    expected.sort_unstable();
    let say = |error| sqlite_error(path, &error);
    let names = |sql: &str, of: &str| -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(sql)?;
        let names =
            statement.query_map([of], |row| Ok(row.get::<_, Option<String>>(0)?.unwrap_or_default()))?;
        names.collect()
    };
    let unique = "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND NOT partial";
    let matches = |mut columns: Vec<String>| {
        columns.iter_mut().for_each(|name| name.make_ascii_lowercase());
        columns.sort_unstable();
        columns == expected
    };
    if matches(names("SELECT name FROM pragma_table_info(?1) WHERE pk > 0", table).map_err(say)?) {
        return Ok(());
    }
    for index in names(unique, table).map_err(say)? {
        if matches(names("SELECT name FROM pragma_index_info(?1)", &index).map_err(say)?) {
            return Ok(());
        }
    }
    Err(Error::Surroundings(format!(
        "table `{table}` in `{}` has no unique index of the key ({}): run `CREATE UNIQUE INDEX {} ON {} ({});`, \
         or give the table's own key in `sink.sqlite.key`",
        path.display(),
        key.join(", "),
        quoted(&format!("{table}_key")),
        quoted(table),
        quoted_list(key)
    )))
}

impl Statements {
    fn new(table: &str, schema: &Schema, key: &[String], decoded: &[(&str, Kind)]) -> Statements {
        let columns = schema.fields().iter().zip(1..).map(|(field, number)| (field.name(), number));
        let same = |columns: Vec<(&String, usize)>| {
            let parts = columns.into_iter().map(|(name, number)| format!("{} IS ?{number}", quoted(name)));
            parts.collect::<Vec<_>>().join(" AND ")
        };
        let is_decoded = |name: &str| decoded.iter().any(|(decoded, _)| *decoded == name);
        let is_equal = same(columns.clone().filter(|(name, _)| is_decoded(name)).collect());
        let is_key = same(columns.filter(|(name, _)| key.contains(name)).collect());
        let newer = if is_revised(schema) { ", whose `revision` is not older" } else { "" };
        Statements {
            insert: insert_statement(table, schema, key),
            is_equal: (!key.is_empty())
                .then(|| format!("SELECT {is_equal} FROM {} WHERE {is_key}", quoted(table))),
            key_taken: format!(
                "table `{table}` has a row with the same key ({}) and other values{newer}",
                key.join(", ")
            ),
        }
    }

    /// Whether the stored row with the key of this one is equal to it; none when there is no such row.
    fn is_equal_to_stored(
        &self,
        transaction: &Transaction<'_>,
        columns: &[Values<'_>],
        row: usize,
    ) -> rusqlite::Result<Option<bool>> {
        let Some(is_equal) = &self.is_equal else { return Ok(None) };
        let mut statement = transaction.prepare_cached(is_equal)?;
        bind(&mut statement, columns, row)?;
        statement.raw_query().next()?.map(|stored| stored.get(0)).transpose()
    }
}

/// The statement that stores a row. A row whose key is stored already replaces that one when its `revision` is
/// newer (none counts as 0); without a `revision` nothing says which is newer, so the stored one stays.
fn insert_statement(table: &str, schema: &Schema, key: &[String]) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let marks = vec!["?"; names.len()].join(", ");
    let insert = format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(table), quoted_list(&names));
    if key.is_empty() {
        return insert;
    }
    let changed: Vec<_> = names
        .iter()
        .filter(|name| !key.contains(name))
        .map(|name| format!("{0} = excluded.{0}", quoted(name)))
        .collect();
    let conflict = quoted_list(key);
    if !is_revised(schema) || changed.is_empty() {
        return format!("{insert} ON CONFLICT ({conflict}) DO NOTHING");
    }
    format!(
        "{insert} ON CONFLICT ({conflict}) DO UPDATE SET {} \
         WHERE coalesce(excluded.revision, 0) > coalesce({}.revision, 0)",
        changed.join(", "),
        quoted(table)
    )
}

/// Makes the place of the dead letters within the transaction that makes the tables.
fn open_dead_letters(
    transaction: &Transaction<'_>,
    path: &Path,
    pipeline: &str,
    config: Option<&pipeline_file::DeadLetter>,
    folder: &Path,
) -> Result<DeadLetters> {
    match config {
        None => make_dead_letter_table(transaction, path, DEFAULT_DEAD_LETTER_TABLE),
        Some(pipeline_file::DeadLetter::Sqlite(table)) => {
            make_dead_letter_table(transaction, path, &table.table)
        }
        Some(pipeline_file::DeadLetter::Stdout(_)) => Ok(DeadLetters::Stdout(DeadLetterLines::Stdout)),
        Some(pipeline_file::DeadLetter::File(file)) => {
            let say = |error| sqlite_error(path, &error);
            transaction.execute_batch(DEAD_LETTER_FILES).map_err(say)?;
            let place = resolve(folder, &file.path);
            let known = if place.exists() {
                transaction
                    .query_row(
                        "SELECT bytes FROM tidegate_dead_letter_files WHERE pipeline = ?1 AND path = ?2",
                        (pipeline, &file.path),
                        |row| row.get::<_, i64>(0),
                    )
                    .optional()
                    .map_err(say)?
            } else {
                // Somebody has put the file away; a new one begins.
                None
            };
            // A length below zero is none that this program wrote; the file is then taken for unknown.
            let known = known.and_then(|bytes| u64::try_from(bytes).ok());
            let opened = AppendedFile::open(&place, known)?;
            keep_length(transaction, pipeline, &file.path, opened.committed_bytes()).map_err(say)?;
            Ok(DeadLetters::File { name: file.path.clone(), lines: DeadLetterLines::File(opened) })
        }
        Some(_) => Err(super::dead_letter_elsewhere("sqlite")),
    }
}

fn make_dead_letter_table(connection: &Connection, path: &Path, table: &str) -> Result<DeadLetters> {
    make_table(connection, path, table, &DEAD_LETTER_COLUMNS, &[])?;
    let names: Vec<_> = DEAD_LETTER_COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let marks = vec!["?"; names.len()].join(", ");
    let insert = format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(table), quoted_list(&names));
    Ok(DeadLetters::Table { insert })
}

fn keep_length(
    transaction: &Transaction<'_>,
    pipeline: &str,
    name: &str,
    bytes: u64,
) -> rusqlite::Result<()> {
    let keep = "INSERT INTO tidegate_dead_letter_files VALUES (?1, ?2, ?3)
        ON CONFLICT (pipeline, path) DO UPDATE SET bytes = excluded.bytes";
    transaction.execute(keep, (pipeline, name, bytes as i64)).map(|_| ())
}

/// Moves the position on, when it is still the expected one.
fn move_position(transaction: &Transaction<'_>, pipeline: &str, write: &Write<'_>) -> rusqlite::Result<bool> {
    let (topic, partition) = (&*write.partition.topic, write.partition.number);
    let (expected, next) = (write.expected.next_offset as i64, write.next.next_offset as i64);
    let moved = transaction
        .prepare_cached(
            "UPDATE tidegate_positions SET next_offset = ?1, fingerprint = ?2
             WHERE pipeline = ?3 AND topic = ?4 AND partition = ?5 AND next_offset = ?6",
        )?
        .execute((next, &write.next.fingerprint, pipeline, topic, partition, expected))?;
    if moved > 0 || expected != 0 {
        return Ok(moved > 0);
    }
    let begun = transaction
        .prepare_cached(
            "INSERT INTO tidegate_positions (pipeline, topic, partition, next_offset, fingerprint)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        )?
        .execute((pipeline, topic, partition, next, &write.next.fingerprint))?;
    Ok(begun > 0)
}

/// Stores the rows. Gives how many were there already, and the dead letters of those that the table does not take.
fn insert_rows<'w>(
    transaction: &Transaction<'_>,
    statements: &Statements,
    write: &Write<'w>,
) -> rusqlite::Result<(u64, Vec<DeadLetter<'w>>)> {
    let columns = Values::of_batch(write.kept);
    let mut insert = transaction.prepare_cached(&statements.insert)?;
    let (mut duplicates, mut refused) = (0, Vec::new());
    for row in 0..write.kept.num_rows() {
        bind(&mut insert, &columns, row)?;
        match insert.raw_execute() {
            Ok(0) => match statements.is_equal_to_stored(transaction, &columns, row)? {
                Some(true) => duplicates += 1,
                Some(false) => refused.push((write.refuse)(row, "key_taken", statements.key_taken.clone())),
                None => refused.push((write.refuse)(row, "constraint", LEFT_OUT.to_owned())),
            },
            Ok(_) => {}
            // A constraint that the user made to roll back has ended the transaction with all other rows.
            Err(error) if is_constraint(&error) && !transaction.is_autocommit() => {
                refused.push((write.refuse)(row, "constraint", error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((duplicates, refused))
}

/// The detail of a row that was neither stored nor met its key.
const LEFT_OUT: &str = "a trigger of the table left the row out";

fn bind(statement: &mut Statement<'_>, columns: &[Values<'_>], row: usize) -> rusqlite::Result<()> {
    // A statement that does not ask for the last columns has fewer parameters.
    for (index, column) in columns.iter().enumerate().take(statement.parameter_count()) {
        statement.raw_bind_parameter(index + 1, column.at(row))?;
    }
    Ok(())
}

fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

fn insert_dead_letters(
    transaction: &Transaction<'_>,
    insert: &str,
    rejected: &[&DeadLetter<'_>],
) -> rusqlite::Result<()> {
    if rejected.is_empty() {
        return Ok(());
    }
    let mut statement = transaction.prepare_cached(insert)?;
    for dead_letter in rejected {
        let reject = &dead_letter.reject;
        statement.execute(rusqlite::params![
            dead_letter.pipeline,
            &*reject.rule,
            &*reject.version,
            &*reject.reason,
            reject.detail,
            dead_letter.topic,
            dead_letter.partition,
            dead_letter.offset as i64,
            dead_letter.rejected_at_ms,
            &*dead_letter.payload,
        ])?;
    }
    Ok(())
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(value) | Value::Timestamp(value) => ValueRef::Integer(*value),
            Value::Float(value) => ValueRef::Real(*value),
            Value::Boolean(value) => ValueRef::Integer(i64::from(*value)),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
        }))
    }
}

/// Appends what the database has; says `false` when that is nothing the column can be.
fn read_value(builder: &mut Builder, value: ValueRef<'_>) -> bool {
    let value = match (builder.kind(), value) {
        (_, ValueRef::Null) => Value::Null,
        (Kind::Integer, ValueRef::Integer(value)) => Value::Integer(value),
        (Kind::Timestamp, ValueRef::Integer(value)) => Value::Timestamp(value),
        (Kind::Boolean, ValueRef::Integer(value)) => Value::Boolean(value != 0),
        (Kind::Float, ValueRef::Real(value)) => Value::Float(value),
        // A column that the user declared NUMERIC keeps whole floats as integers.
        (Kind::Float, ValueRef::Integer(value)) => Value::Float(value as f64),
        (Kind::Text, ValueRef::Text(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text),
            Err(_) => return false,
        },
        _ => return false,
    };
    builder.push(value)
}

/// What a failure of SQLite means for whoever must act.
fn sqlite_error(path: &Path, error: &rusqlite::Error) -> Error {
    let path = path.display();
    let surroundings = |text: String| Error::Surroundings(text);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            surroundings(format!(
                "database `{path}` is locked by another process, which did not let go within {} s: end that \
                 process or its transaction, and start again",
                BUSY_TIMEOUT.as_secs()
            ))
        }
        Some(ErrorCode::ReadOnly) => surroundings(format!(
            "database `{path}` cannot be written: make the file and its folder writable for this user, or change \
             `sink.sqlite.path`"
        )),
        Some(ErrorCode::NotADatabase) => surroundings(format!(
            "`{path}` is not a SQLite database: move it away, or change `sink.sqlite.path`"
        )),
        Some(ErrorCode::DatabaseCorrupt) => surroundings(format!(
            "database `{path}` is damaged ({error}): recover it with `sqlite3 {path} .recover`, or move it away"
        )),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => surroundings(format!(
            "database `{path}` cannot be opened: check that its folder exists and that this user may write there"
        )),
        Some(ErrorCode::DiskFull) => Error::Running(format!(
            "cannot write to database `{path}`: the disk is full, or the database has its largest size; free \
             some space and start again"
        )),
        _ => Error::Running(format!("database `{path}` failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::{Connection, ffi};
    use tempfile::TempDir;

    use super::super::Sink;
    use super::super::test_rows::{
        at, candles, minutes, open_sink, partition, pipeline, read_minutes, remember, write,
    };
    use super::{Error, sqlite_error};
    use crate::pipeline_file::Remember;

    const SINK: &str = r#"{ "sqlite": { "path": "out.db" } }"#;

    fn open(folder: &TempDir) -> Result<Sink, Error> {
        open_with(folder, SINK, None)
    }

    fn open_with(folder: &TempDir, sink: &str, dead_letter: Option<&str>) -> Result<Sink, Error> {
        open_sink(&pipeline(sink, dead_letter), folder.path())
    }

    fn failure<T>(result: Result<T, Error>) -> (u8, String) {
        let error = result.err().expect("this must fail");
        (error.code(), error.to_string())
    }

    fn database(folder: &TempDir) -> Connection {
        Connection::open(folder.path().join("out.db")).expect("the database opens")
    }

    fn count(folder: &TempDir, from: &str) -> i64 {
        let select = format!("SELECT count(*) FROM {from}");
        database(folder).query_row(&select, [], |row| row.get(0)).expect("the table can be counted")
    }

    #[test]
    fn rows_dead_letters_and_position_are_one_step() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder).unwrap();
        assert_eq!(sink.start(&partition()).unwrap().position.unwrap(), at(0));
        write(&mut sink, 0, 5, &minutes(0..3), &[b"\xff\0raw", b"two"]).unwrap();
        drop(sink);
        let mut sink = open(&folder).unwrap();
        assert_eq!(sink.start(&partition()).unwrap().position.unwrap(), at(5));
        assert_eq!(count(&folder, "candles"), 3);
        let letters = "dead_letter WHERE rule = 'validate' AND rule_version = 'abc' AND reason = 'price'
            AND source_topic = 'in.jsonl' AND source_offset = 7 AND rejected_at = 1000";
        assert_eq!(count(&folder, letters), 2);
        let payload: Vec<u8> = database(&folder)
            .query_row("SELECT payload FROM dead_letter ORDER BY rowid", [], |row| row.get(0))
            .unwrap();
        assert_eq!(payload, b"\xff\0raw");
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let folder = TempDir::new().unwrap();
        let mut sink = open_with(&folder, SINK, Some(r#"{ "file": { "path": "bad.jsonl" } }"#)).unwrap();
        write(&mut sink, 0, 2, &minutes(0..2), &[b"one"]).unwrap();
        let length = std::fs::metadata(folder.path().join("bad.jsonl")).unwrap().len();
        database(&folder)
            .execute_batch("CREATE TRIGGER no BEFORE INSERT ON candles WHEN new.close = 4 BEGIN SELECT raise(ROLLBACK, 'no'); END")
            .unwrap();
        let (code, text) = failure(write(&mut sink, 2, 5, &minutes(2..5), &[b"two"]));
        assert_eq!((code, text.contains("failed: no")), (1, true), "{text}");
        assert_eq!(sink.start(&partition()).unwrap().position.unwrap(), at(2));
        assert_eq!(count(&folder, "candles"), 2);
        assert_eq!(std::fs::metadata(folder.path().join("bad.jsonl")).unwrap().len(), length);
    }

    #[test]
    fn the_second_owner_of_a_partition_is_stopped() {
        let folder = TempDir::new().unwrap();
        let (mut first, mut second) = (open(&folder).unwrap(), open(&folder).unwrap());
        write(&mut first, 0, 2, &minutes(0..2), &[]).unwrap();
        let (code, text) = failure(write(&mut second, 0, 2, &minutes(5..7), &[b"x"]));
        assert_eq!((code, text.contains("another process runs pipeline `test`")), (1, true), "{text}");
        assert_eq!((count(&folder, "candles"), count(&folder, "dead_letter")), (2, 0));
        assert_eq!(failure(write(&mut second, 1, 3, &minutes(5..7), &[])).0, 1);
        write(&mut first, 2, 3, &minutes(2..3), &[]).unwrap();
        assert_eq!(count(&folder, "candles"), 3);
    }

    #[test]
    fn only_a_newer_revision_replaces_a_row() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder).unwrap();
        write(&mut sink, 0, 1, &candles(&[(1, 10.0, None), (2, 20.0, Some(3))]), &[]).unwrap();
        write(&mut sink, 1, 2, &candles(&[(1, 11.0, None), (2, 21.0, Some(2))]), &[]).unwrap();
        assert_eq!(count(&folder, "candles WHERE close IN (10, 20)"), 2);
        assert_eq!(count(&folder, "dead_letter WHERE rule = 'sink' AND reason = 'key_taken'"), 2);
        write(&mut sink, 2, 3, &candles(&[(1, 12.0, Some(1)), (2, 22.0, Some(4))]), &[]).unwrap();
        assert_eq!(count(&folder, "candles WHERE close IN (12, 22)"), 2);
        assert_eq!(count(&folder, "candles"), 2);
    }

    #[test]
    fn a_row_whose_key_is_taken_is_a_duplicate_or_a_dead_letter() {
        for dead_letter in [None, Some(r#"{ "file": { "path": "bad.jsonl" } }"#)] {
            let folder = TempDir::new().unwrap();
            let mut sink = open_with(&folder, SINK, dead_letter).unwrap();
            let rows = candles(&[(1, 5.0, None), (1, 6.0, None), (1, 5.0, None), (2, f64::NAN, None)]);
            let stored = write(&mut sink, 0, 4, &rows, &[b"bad"]).unwrap();
            let refused: Vec<_> =
                stored.refused.iter().map(|reject| (reject.row, &*reject.reason, &*reject.detail)).collect();
            let detail = "table `candles` has a row with the same key (source, symbol, timeframe, timestamp) and \
                 other values, whose `revision` is not older";
            assert_eq!((stored.duplicates, refused), (1, vec![(1, "key_taken", detail)]));
            assert_eq!(count(&folder, "candles"), 2);
            let again =
                write(&mut sink, 4, 6, &candles(&[(2, f64::NAN, None), (3, 1.0, None)]), &[]).unwrap();
            assert_eq!((again.duplicates, again.refused.len()), (1, 0));
            match dead_letter {
                None => assert_eq!(count(&folder, "dead_letter"), 2),
                Some(_) => {
                    let lines = std::fs::read_to_string(folder.path().join("bad.jsonl")).unwrap();
                    assert_eq!(lines.lines().count(), 2);
                    drop(sink);
                    open_with(&folder, SINK, dead_letter).expect("the length of the file is known");
                }
            }
        }
    }

    #[test]
    fn columns_that_fill_themselves_are_no_obstacle() {
        let folder = TempDir::new().unwrap();
        let create = "CREATE TABLE candles (id INTEGER PRIMARY KEY NOT NULL, desk TEXT NOT NULL DEFAULT 'a',
            timestamp INT, close REAL, source TEXT, symbol TEXT, timeframe TEXT, revision INT, closed INT,
            UNIQUE (source, symbol, timeframe, timestamp))";
        database(&folder).execute_batch(create).unwrap();
        let mut sink = open(&folder).unwrap();
        write(&mut sink, 0, 2, &minutes(0..2), &[]).unwrap();
        assert_eq!(count(&folder, "candles WHERE desk = 'a'"), 2);
    }

    #[test]
    fn a_row_that_differs_only_in_what_rules_add_is_a_duplicate() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder).unwrap();
        let rows = candles(&[(1, 5.0, Some(3)), (1, 5.0, Some(2)), (1, 6.0, Some(2))]);
        let stored = write(&mut sink, 0, 3, &rows, &[]).unwrap();
        assert_eq!((stored.duplicates, stored.refused.len()), (1, 1));
        assert_eq!(count(&folder, "candles WHERE close = 5 AND revision = 3"), 1);
    }

    #[test]
    fn a_row_that_the_table_does_not_take_is_a_dead_letter() {
        let folder = TempDir::new().unwrap();
        let create =
            "CREATE TABLE candles (timestamp INT, close REAL NOT NULL CHECK (close < 100), source TEXT,
            symbol TEXT, timeframe TEXT, revision INT, closed INT,
            UNIQUE (source, symbol, timeframe, timestamp));
            CREATE TRIGGER out BEFORE INSERT ON candles WHEN new.close = 4 BEGIN SELECT raise(IGNORE); END";
        database(&folder).execute_batch(create).unwrap();
        let mut sink = open(&folder).unwrap();
        let rows = [(1, 1.0, None), (2, f64::NAN, None), (3, 100.0, None), (4, 4.0, None), (5, 5.0, None)];
        let stored = write(&mut sink, 0, 5, &candles(&rows), &[]).unwrap();
        let refused: Vec<_> =
            stored.refused.iter().map(|reject| (reject.row, &*reject.reason, &*reject.detail)).collect();
        let expected = [
            (1, "constraint", "NOT NULL constraint failed: candles.close"),
            (2, "constraint", "CHECK constraint failed: close < 100"),
            (3, "constraint", "a trigger of the table left the row out"),
        ];
        assert_eq!((stored.duplicates, refused), (0, expected.to_vec()));
        assert_eq!((count(&folder, "candles"), count(&folder, "dead_letter")), (2, 3));
        assert_eq!(sink.start(&partition()).unwrap().position.unwrap(), at(5));
    }

    #[test]
    fn without_a_key_every_row_is_stored() {
        let folder = TempDir::new().unwrap();
        let mut sink = open_with(&folder, r#"{ "sqlite": { "path": "out.db", "key": [] } }"#, None).unwrap();
        write(
            &mut sink,
            0,
            1,
            &candles(&[(1, 1.0, None), (1, f64::NAN, None), (1, f64::INFINITY, None)]),
            &[],
        )
        .unwrap();
        assert_eq!(count(&folder, "candles"), 3);
        assert_eq!(count(&folder, "candles WHERE close IS NULL"), 1);
        assert_eq!(count(&folder, "candles WHERE close = 9e999"), 1);
    }

    #[test]
    fn a_key_of_one_integer_does_not_become_the_rowid() {
        let folder = TempDir::new().unwrap();
        let sink = r#"{ "sqlite": { "path": "out.db", "key": ["timestamp"] } }"#;
        let mut sink = open_with(&folder, sink, None).unwrap();
        write(&mut sink, 0, 3, &candles(&[(9, 1.0, None), (3, 1.0, None), (9, 1.0, None)]), &[]).unwrap();
        assert_eq!(read_minutes(&mut sink, &remember(10, 100)), [9, 3]);
    }

    #[test]
    fn the_newest_rows_are_read_back_oldest_first() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder).unwrap();
        assert!(read_minutes(&mut sink, &remember(10, 10)).is_empty());
        write(&mut sink, 0, 1, &minutes(0..25_000), &[]).unwrap();
        assert_eq!(read_minutes(&mut sink, &remember(5, 1_000)), [24_995, 24_996, 24_997, 24_998, 24_999]);
        assert_eq!(read_minutes(&mut sink, &remember(5, 2)), [24_997, 24_998, 24_999]);
        assert_eq!(read_minutes(&mut sink, &remember(1 << 20, 1 << 20)), (0..25_000).collect::<Vec<_>>());
        assert!(read_minutes(&mut sink, &remember(0, 10)).is_empty());
        let by_rows = Remember { rows: 3, window: None };
        assert_eq!(read_minutes(&mut sink, &by_rows), [24_997, 24_998, 24_999]);
        let unknown = sink.read_back(0, &["nothing".into()], &remember(1, 1), &mut |_| Ok(()));
        assert!(failure(unknown).1.contains("`nothing` cannot be read back"));
    }

    #[test]
    fn an_existing_table_that_does_not_fit_is_refused_with_the_cure() {
        let all = "timestamp INTEGER, close REAL, source TEXT, symbol TEXT, timeframe TEXT, revision INTEGER";
        let cases = [
            (
                format!("CREATE TABLE candles ({all})"),
                "run `ALTER TABLE \"candles\" ADD COLUMN \"closed\" INTEGER;`",
            ),
            (
                format!("CREATE TABLE candles ({all}, closed INTEGER)"),
                "run `CREATE UNIQUE INDEX \"candles_key\" ON \"candles\" (\"source\", \"symbol\", \"timeframe\", \
                 \"timestamp\");`",
            ),
            (
                format!("CREATE TABLE candles ({}, closed INTEGER)", all.replace("REAL", "TEXT")),
                "run `ALTER TABLE \"candles\" RENAME TO \"candles_old\";`",
            ),
            ("CREATE VIEW candles AS SELECT 1".into(), "is a view"),
            (
                format!("CREATE TABLE candles ({all}, closed INTEGER, desk TEXT NOT NULL)"),
                "column `desk` of table `candles`",
            ),
            (
                format!(
                    "CREATE TABLE candles ({all}, closed INTEGER, PRIMARY KEY (timestamp)) WITHOUT ROWID"
                ),
                "is a table WITHOUT ROWID",
            ),
        ];
        for (create, cure) in cases {
            let folder = TempDir::new().unwrap();
            database(&folder).execute_batch(&create).unwrap();
            let (code, text) = failure(open(&folder));
            assert_eq!((code, text.contains(cure)), (3, true), "{text}");
            let statement = text.split("run `").nth(1).and_then(|rest| rest.split('`').next());
            if let Some(statement) = statement {
                database(&folder).execute_batch(statement).expect("the cure is a statement that runs");
            }
        }
    }

    #[test]
    fn a_table_made_by_hand_with_the_key_in_another_order_is_taken() {
        let folder = TempDir::new().unwrap();
        let create = "CREATE TABLE Candles (id INTEGER PRIMARY KEY, closed INT, Timestamp INT, close NUMERIC,
            source VARCHAR(9), symbol TEXT, timeframe TEXT, revision INT,
            UNIQUE (timestamp, symbol, source, timeframe))";
        database(&folder).execute_batch(create).unwrap();
        let mut sink = open(&folder).unwrap();
        write(&mut sink, 0, 1, &minutes(0..3), &[]).unwrap();
        assert_eq!(read_minutes(&mut sink, &remember(2, 9)), [1, 2]);
    }

    #[test]
    fn names_and_places_that_cannot_be_are_refused() {
        let folder = TempDir::new().unwrap();
        let refused = |sink: &str, dead_letter| failure(open_with(&folder, sink, dead_letter));
        let key = refused(r#"{ "sqlite": { "path": "out.db", "key": ["nix"] } }"#, None);
        assert_eq!((key.0, key.1.contains("names `nix`")), (2, true), "{}", key.1);
        for table in ["", "sqlite_x", "Tidegate_positions", "Dead_Letter"] {
            let sink = format!(r#"{{ "sqlite": {{ "path": "out.db", "table": "{table}" }} }}"#);
            assert_eq!(refused(&sink, None).0, 2, "{table}");
        }
        let absent = refused(r#"{ "sqlite": { "path": "none/out.db" } }"#, None);
        assert_eq!((absent.0, absent.1.contains("does not exist: make it")), (3, true), "{}", absent.1);
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let directory = refused(r#"{ "sqlite": { "path": "sub" } }"#, None);
        assert_eq!((directory.0, directory.1.contains("is a folder")), (3, true), "{}", directory.1);
        std::fs::write(folder.path().join("text.db"), "timestamp,open\n".repeat(100)).unwrap();
        let text = refused(r#"{ "sqlite": { "path": "text.db" } }"#, None);
        assert_eq!((text.0, text.1.contains("is not a SQLite database")), (3, true), "{}", text.1);
        let readonly = refused(r#"{ "sqlite": { "path": "/proc/out.db" } }"#, None);
        assert_eq!((readonly.0, readonly.1.contains("cannot be opened")), (3, true), "{}", readonly.1);
    }

    #[test]
    fn a_locked_database_is_waited_for_and_then_refused() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder).unwrap();
        let other = database(&folder);
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let started = std::time::Instant::now();
        let (code, text) = failure(write(&mut sink, 0, 1, &minutes(0..1), &[]));
        assert_eq!((code, text.contains("locked by another process")), (3, true), "{text}");
        assert!(started.elapsed() >= super::BUSY_TIMEOUT);
        other.execute_batch("COMMIT").unwrap();
        write(&mut sink, 0, 1, &minutes(0..1), &[]).unwrap();
    }

    #[test]
    fn a_full_disk_stops_the_run_and_keeps_what_was_written() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder).unwrap();
        write(&mut sink, 0, 1, &minutes(0..10), &[]).unwrap();
        if let Sink::Sqlite(sink) = &sink {
            sink.connection.query_row("PRAGMA max_page_count = 1", [], |_| Ok(())).unwrap();
        }
        let (code, text) = failure(write(&mut sink, 1, 2, &minutes(10..9_000), &[]));
        assert_eq!((code, text.contains("the disk is full")), (1, true), "{text}");
        assert_eq!(
            (sink.start(&partition()).unwrap().position.unwrap(), count(&folder, "candles")),
            (at(1), 10)
        );
    }

    #[test]
    fn a_database_that_cannot_be_written_is_refused() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder).unwrap();
        if let Sink::Sqlite(sink) = &sink {
            sink.connection.execute_batch("PRAGMA query_only = ON").unwrap();
        }
        let (code, text) = failure(write(&mut sink, 0, 1, &minutes(0..1), &[]));
        assert_eq!((code, text.contains("cannot be written")), (3, true), "{text}");
        let codes = [
            (ffi::SQLITE_READONLY_DIRECTORY, 3),
            (ffi::SQLITE_CANTOPEN_ISDIR, 3),
            (ffi::SQLITE_PERM, 3),
            (ffi::SQLITE_CORRUPT, 3),
            (ffi::SQLITE_IOERR_WRITE, 1),
            (ffi::SQLITE_TOOBIG, 1),
        ];
        for (code, expected) in codes {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(sqlite_error(Path::new("out.db"), &error).code(), expected, "{error}");
        }
    }

    #[test]
    fn a_dead_letter_file_is_cut_to_what_was_committed() {
        let folder = TempDir::new().unwrap();
        let dead_letter = Some(r#"{ "file": { "path": "bad.jsonl" } }"#);
        let path = folder.path().join("bad.jsonl");
        let mut sink = open_with(&folder, SINK, dead_letter).unwrap();
        let second = failure(open_with(&folder, SINK, dead_letter));
        assert_eq!((second.0, second.1.contains("by another process")), (3, true), "{}", second.1);
        drop(sink);
        std::fs::write(&path, "left by a crash before the first commit").unwrap();
        sink = open_with(&folder, SINK, dead_letter).unwrap();
        write(&mut sink, 0, 1, &minutes(0..1), &[b"one", b"two"]).unwrap();
        drop(sink);
        let committed = std::fs::read(&path).unwrap();
        assert_eq!(committed.iter().filter(|&&byte| byte == b'\n').count(), 2);
        std::fs::write(&path, [&committed[..], b"{\"half\":"].concat()).unwrap();
        drop(open_with(&folder, SINK, dead_letter).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), committed);
        std::fs::write(&path, "short").unwrap();
        assert_eq!(failure(open_with(&folder, SINK, dead_letter)).0, 3);
        std::fs::remove_file(&path).unwrap();
        sink = open_with(&folder, SINK, dead_letter).unwrap();
        write(&mut sink, 1, 2, &minutes(1..2), &[b"one"]).unwrap();
        std::fs::write(folder.path().join("mine.jsonl"), "mine").unwrap();
        let mine = failure(open_with(&folder, SINK, Some(r#"{ "file": { "path": "mine.jsonl" } }"#)));
        assert_eq!((mine.0, mine.1.contains("exists already")), (3, true), "{}", mine.1);
        assert_eq!(std::fs::read(folder.path().join("mine.jsonl")).unwrap(), b"mine");
    }
}
