//! The tables: what they must be, the statements that make them, and what is wrong with those that exist.

use std::fmt;

use arrow_schema::SchemaRef;
use futures_util::future::try_join4;
use tokio_postgres::Client;

use super::failure::Answer;
use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::{Hypertable, Pipeline, TimescaleSink as Config};
use crate::sink::table::{self, DEAD_LETTER_COLUMNS};
use crate::sink::values::has_timestamp;

/// Where positions are kept.
const POSITIONS: &str = "tidegate_positions";

/// Lets one of those that start at once make the tables: any number that nobody else takes, in ASCII "tidegate".
const MAKING_TABLES: i64 = 0x7469_6465_6761_7465;

/// A table as statements name it. Names are folded to lower case, as the server folds those without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    schema: Option<String>,
    name: String,
}

impl TableName {
    /// `table` or `schema.table`.
    pub fn new(text: &str) -> TableName {
        let text = text.to_ascii_lowercase();
        match text.split_once('.') {
            Some((schema, name)) => TableName { schema: Some(schema.into()), name: name.into() },
            None => TableName { schema: None, name: text },
        }
    }

    /// Another table in the same schema.
    fn beside(&self, name: &str) -> TableName {
        TableName { schema: self.schema.clone(), name: name.into() }
    }

    /// As in a statement.
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A name within a statement.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names within a statement.
pub fn quoted_list<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    names.into_iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// A text within a statement.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The tables that a pipeline needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The rows.
    pub table: TableName,
    /// The rejected rows.
    pub dead_letter: TableName,
    /// The positions, in the schema of the rows.
    pub positions: TableName,
    /// The columns of the rows.
    pub columns: Vec<(String, Kind)>,
    /// The columns that tell rows apart; none when every row is stored.
    pub key: Vec<String>,
    /// Whether tables that do not exist are made.
    pub create: bool,
    /// How TimescaleDB is to keep the rows, where the pipeline file says so.
    pub hypertable: Option<Hypertable>,
}

impl Wanted {
    /// What the pipeline file and the columns of the rows say.
    ///
    /// # Errors
    /// [`Error::Files`] when they contradict each other.
    pub fn new(config: &Config, pipeline: &Pipeline, schema: &SchemaRef) -> Result<Wanted> {
        let key = table::key(config.key.as_ref(), "sink.timescale.key", &pipeline.decode.columns, schema)?;
        if config.hypertable.is_some() && !has_timestamp(schema) {
            return Err(Error::Files(
                "`sink.timescale.hypertable` needs a column `timestamp` in the rows, by which TimescaleDB parts them"
                    .into(),
            ));
        }
        if config.hypertable.is_some() && !key.is_empty() && !key.iter().any(|name| name == "timestamp") {
            return Err(Error::Files(format!(
                "`sink.timescale.key` ({}) must have `timestamp` in it: a hypertable is parted by it, and TimescaleDB \
                 knows no unique index without it",
                key.join(", ")
            )));
        }
        let table = TableName::new(&config.table);
        let dead_letter = match &pipeline.dead_letter {
            Some(_) => TableName::new(pipeline.dead_letter_table()),
            None => table.beside(pipeline.dead_letter_table()),
        };
        let columns = schema.fields().iter();
        Ok(Wanted {
            positions: table.beside(POSITIONS),
            dead_letter,
            table,
            columns: columns.map(|field| (field.name().clone(), Kind::of(field.data_type()))).collect(),
            key,
            create: config.create,
            hypertable: config.hypertable.clone(),
        })
    }

    /// All statements that make the tables, for a server with TimescaleDB or without.
    pub fn statements(&self, has_timescale: bool) -> Vec<String> {
        let mut statements = vec![self.create_positions(), self.create_dead_letter()];
        statements.extend(self.create_table(has_timescale));
        statements
    }

    fn create_positions(&self) -> String {
        // Each batch changes a row, which stays within its page while there is room.
        format!(
            "CREATE TABLE IF NOT EXISTS {} (\n    pipeline text NOT NULL,\n    topic text NOT NULL,\n    \
             partition integer NOT NULL,\n    next_offset bigint NOT NULL,\n    fingerprint text NOT NULL,\n    \
             PRIMARY KEY (pipeline, topic, partition)\n) WITH (fillfactor = 20)",
            self.positions.quoted()
        )
    }

    fn create_dead_letter(&self) -> String {
        let columns = DEAD_LETTER_COLUMNS.map(|name| format!("    {name} {}", dead_letter_type(name)));
        format!("CREATE TABLE IF NOT EXISTS {} (\n{}\n)", self.dead_letter.quoted(), columns.join(",\n"))
    }

    fn create_table(&self, has_timescale: bool) -> Vec<String> {
        let column = |(name, kind): &(String, Kind)| format!("    {} {}", quoted(name), own_type(*kind));
        let mut parts: Vec<String> = self.columns.iter().map(column).collect();
        if !self.key.is_empty() {
            parts.push(format!("    PRIMARY KEY ({})", quoted_list(&self.key)));
        }
        let table = self.table.quoted();
        let mut statements = vec![format!("CREATE TABLE IF NOT EXISTS {table} (\n{}\n)", parts.join(",\n"))];
        if has_timescale && self.can_be_hypertable() {
            statements.extend(self.hypertable_statements(&self.hypertable.clone().unwrap_or_default()));
        }
        statements
    }

    /// Whether TimescaleDB can part the rows by their time.
    pub fn can_be_hypertable(&self) -> bool {
        self.columns.iter().any(|(name, kind)| name == "timestamp" && *kind == Kind::Timestamp)
            && (self.key.is_empty() || self.key.iter().any(|name| name == "timestamp"))
    }

    /// The statements that TimescaleDB alone understands; of those with the same meaning the ones that all versions of
    /// it have.
    fn hypertable_statements(&self, hypertable: &Hypertable) -> Vec<String> {
        let table = literal(&self.table.quoted());
        let interval = |span: crate::pipeline_file::Span| format!("INTERVAL '{} seconds'", span.0.as_secs());
        let mut statements = vec![format!(
            "SELECT create_hypertable({table}, 'timestamp', chunk_time_interval => {}, create_default_indexes => false, \
             if_not_exists => true)",
            interval(hypertable.chunk)
        )];
        if let Some(after) = hypertable.compress_after {
            let is_series = |name: &&String| {
                let kind = self.columns.iter().find(|(other, _)| other == *name).map(|(_, kind)| *kind);
                kind == Some(Kind::Text)
            };
            let series: Vec<&String> = self.key.iter().filter(is_series).collect();
            let segments = match series.is_empty() {
                true => String::new(),
                false => format!(", timescaledb.compress_segmentby = {}", literal(&quoted_list(series))),
            };
            statements.push(format!(
                "ALTER TABLE {} SET (timescaledb.compress, timescaledb.compress_orderby = '\"timestamp\"'{segments})",
                self.table.quoted()
            ));
            statements.push(format!(
                "SELECT add_compression_policy({table}, {}, if_not_exists => true)",
                interval(after)
            ));
        }
        if let Some(retain) = hypertable.retain {
            statements.push(format!(
                "SELECT add_retention_policy({table}, {}, if_not_exists => true)",
                interval(retain)
            ));
        }
        statements
    }

    /// What comes before a sentence is wrong with the tables that exist, and with which columns the rows are written.
    fn compare(&self, found: &Found, address: &str) -> Comparison {
        let mut complaints = Vec::new();
        let mut absent = |table: &TableName, statements: Vec<String>| {
            complaints.push(format!(
                "the table `{table}` does not exist in `{address}`: run `{};`, or give `create: true` in \
                 `sink.timescale`",
                one_line(&statements.join("; "))
            ));
        };
        if found.table.is_none() {
            absent(&self.table, self.create_table(found.has_timescale));
        }
        if found.dead_letter.is_none() {
            absent(&self.dead_letter, vec![self.create_dead_letter()]);
        }
        let mut columns = Vec::new();
        if let Some(table) = &found.table {
            self.compare_table(table, address, &mut complaints, &mut columns);
        }
        let mut rejected_at = "timestamp with time zone".to_owned();
        if let Some(table) = &found.dead_letter {
            rejected_at = self.compare_dead_letter(table, address, &mut complaints);
        }
        Comparison { complaints, columns, rejected_at_is_number: rejected_at == "bigint" }
    }

    fn compare_table(
        &self,
        found: &FoundTable,
        address: &str,
        complaints: &mut Vec<String>,
        columns: &mut Vec<Column>,
    ) {
        let (table, quoted_table) = (&self.table, self.table.quoted());
        if !found.is_table {
            complaints.push(format!(
                "`{table}` in `{address}` is no table: rows need one, so give another in `sink.timescale.table`"
            ));
            return;
        }
        let missing: Vec<&(String, Kind)> = (self.columns.iter())
            .filter(|(name, _)| !found.columns.iter().any(|column| column.name == *name))
            .collect();
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|(name, _)| format!("`{name}`")).collect();
            let add =
                |(name, kind): &&(String, Kind)| format!("ADD COLUMN {} {}", quoted(name), own_type(*kind));
            let adds: Vec<String> = missing.iter().map(add).collect();
            let word = if names.len() == 1 { "column" } else { "columns" };
            complaints.push(format!(
                "table `{table}` in `{address}` has no {word} {}: run `ALTER TABLE {quoted_table} {};`",
                names.join(", "),
                adds.join(", ")
            ));
        }
        for (name, kind) in &self.columns {
            let Some(other) = found.columns.iter().find(|column| column.name == *name) else { continue };
            if other.is_generated {
                complaints.push(format!(
                    "column `{name}` of table `{table}` in `{address}` is generated by the database: run `ALTER TABLE \
                     {quoted_table} ALTER COLUMN {} DROP EXPRESSION;`, or leave the column out of the pipeline",
                    quoted(name)
                ));
                continue;
            }
            match cell(*kind, other) {
                Some(cell) => columns.push(Column {
                    name: name.clone(),
                    kind: *kind,
                    cell,
                    is_required: other.is_required,
                }),
                None => complaints.push(format!(
                    "column `{name}` of table `{table}` in `{address}` is `{}`, which does not keep {} as they are, \
                     expected `{}`: run `ALTER TABLE {quoted_table} ALTER COLUMN {} TYPE {}{};`",
                    other.type_name,
                    plural(*kind),
                    own_type(*kind),
                    quoted(name),
                    own_type(*kind),
                    using(*kind, other, name)
                )),
            }
        }
        for other in found.columns.iter().filter(|column| column.must_be_given()) {
            if !self.columns.iter().any(|(name, _)| *name == other.name) {
                complaints.push(format!(
                    "column `{}` of table `{table}` in `{address}` must have a value, and the pipeline has no such \
                     column: run `ALTER TABLE {quoted_table} ALTER COLUMN {} DROP NOT NULL;`, or give it a default, or \
                     add the column to the pipeline",
                    other.name,
                    quoted(&other.name)
                ));
            }
        }
        let mut key = self.key.clone();
        key.sort_unstable();
        if !key.is_empty() && !found.unique.contains(&key) {
            complaints.push(format!(
                "table `{table}` in `{address}` has no unique index of the key ({}): run `CREATE UNIQUE INDEX ON \
                 {quoted_table} ({});`, or give the table's own key in `sink.timescale.key`",
                self.key.join(", "),
                quoted_list(&self.key)
            ));
        }
        if self.hypertable.is_some() && !found.is_hypertable {
            complaints.push(format!(
                "table `{table}` in `{address}` exists and is no hypertable, so `sink.timescale.hypertable` changes \
                 nothing: run `SELECT create_hypertable({}, 'timestamp', migrate_data => true);`, or leave it out",
                literal(&quoted_table)
            ));
        }
    }

    /// Gives the type of `rejected_at`.
    fn compare_dead_letter(&self, found: &FoundTable, address: &str, complaints: &mut Vec<String>) -> String {
        let (table, quoted_table) = (&self.dead_letter, self.dead_letter.quoted());
        let mut rejected_at = String::new();
        for name in DEAD_LETTER_COLUMNS {
            let own = dead_letter_type(name);
            match found.columns.iter().find(|column| column.name == name) {
                None => complaints.push(format!(
                    "table `{table}` in `{address}`, which is for dead letters, has no column `{name}`: run `ALTER \
                     TABLE {quoted_table} ADD COLUMN {name} {own};`"
                )),
                Some(column) if !takes_dead_letters(name, column) => complaints.push(format!(
                    "column `{name}` of table `{table}` in `{address}` is `{}`, expected `{own}`: run `ALTER TABLE \
                     {quoted_table} ALTER COLUMN {name} TYPE {own};`, or give another table in \
                     `dead_letter.timescale.table`",
                    column.type_name
                )),
                Some(column) if name == "rejected_at" => rejected_at.clone_from(&column.type_name),
                Some(_) => {}
            }
        }
        for other in found.columns.iter().filter(|column| column.must_be_given()) {
            if !DEAD_LETTER_COLUMNS.contains(&other.name.as_str()) {
                complaints.push(format!(
                    "column `{}` of table `{table}` in `{address}` must have a value, and dead letters have none: run \
                     `ALTER TABLE {quoted_table} ALTER COLUMN {} DROP NOT NULL;`",
                    other.name,
                    quoted(&other.name)
                ));
            }
        }
        rejected_at
    }
}

/// What a statement is within a sentence.
fn one_line(statement: &str) -> String {
    statement.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(").replace(" )", ")")
}

/// The type of a column in the tables that this program makes.
fn own_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer => "bigint",
        Kind::Float => "double precision",
        Kind::Boolean => "boolean",
        Kind::Timestamp => "timestamp with time zone",
        Kind::Text => "text",
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer => "integers",
        Kind::Float => "floats",
        Kind::Boolean => "booleans",
        Kind::Timestamp => "timestamps",
        Kind::Text => "texts",
    }
}

/// How the values of a column come into its new type, where the server does not know it.
fn using(kind: Kind, column: &FoundColumn, name: &str) -> String {
    let name = quoted(name);
    match (kind, column.type_id) {
        (Kind::Float, REAL | BIGINT | INTEGER | SMALLINT) | (Kind::Text, _) => String::new(),
        (Kind::Timestamp, DATE) => format!(" USING {name} AT TIME ZONE 'UTC'"),
        (Kind::Timestamp, INTEGER | NUMERIC | DOUBLE) => format!(" USING to_timestamp({name} / 1000.0)"),
        _ => format!(" USING {name}::text::{}", own_type(kind)),
    }
}

fn dead_letter_type(name: &str) -> &'static str {
    match name {
        "source_partition" => "integer",
        "source_offset" => "bigint",
        "rejected_at" => "timestamp with time zone",
        "payload" => "bytea",
        _ => "text",
    }
}

fn takes_dead_letters(name: &str, column: &FoundColumn) -> bool {
    match name {
        "source_partition" => matches!(column.type_id, INTEGER | BIGINT),
        "source_offset" => column.type_id == BIGINT,
        "rejected_at" => matches!(column.type_id, TIMESTAMPTZ | TIMESTAMP | BIGINT),
        "payload" => column.type_id == BYTEA,
        _ => matches!(column.type_id, TEXT) || (column.type_id == VARCHAR && column.type_modifier < 0),
    }
}

/// Identifiers of types, which are the same in every server: `src/include/catalog/pg_type.dat` of PostgreSQL.
const BOOLEAN: u32 = 16;
const BYTEA: u32 = 17;
const BIGINT: u32 = 20;
const SMALLINT: u32 = 21;
const INTEGER: u32 = 23;
const TEXT: u32 = 25;
const REAL: u32 = 700;
const DOUBLE: u32 = 701;
const VARCHAR: u32 = 1043;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const NUMERIC: u32 = 1700;

/// What a column of the table takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// `bigint`; of timestamps the milliseconds since 1970.
    Int8,
    /// `integer`.
    Int4,
    /// `smallint`.
    Int2,
    /// `double precision`.
    Float8,
    /// `numeric`, of which a scale rounds.
    Numeric,
    /// `boolean`.
    Bool,
    /// `timestamp with time zone`, or `timestamp`, which is then in UTC.
    Time,
    /// `text`, or `varchar` with its length.
    Text {
        /// The most characters.
        most_characters: Option<usize>,
    },
}

/// The cell of a column, when it keeps the values as they are. A `real` does not, and `character` adds blanks.
fn cell(kind: Kind, column: &FoundColumn) -> Option<Cell> {
    Some(match (kind, column.type_id) {
        (Kind::Integer | Kind::Timestamp, BIGINT) => Cell::Int8,
        (Kind::Integer, INTEGER) => Cell::Int4,
        (Kind::Integer, SMALLINT) => Cell::Int2,
        (Kind::Integer | Kind::Float, NUMERIC) => Cell::Numeric,
        (Kind::Float, DOUBLE) => Cell::Float8,
        (Kind::Boolean, BOOLEAN) => Cell::Bool,
        // A precision below milliseconds would round the time.
        (Kind::Timestamp, TIMESTAMP | TIMESTAMPTZ) if !(0..3).contains(&column.type_modifier) => Cell::Time,
        (Kind::Text, TEXT) => Cell::Text { most_characters: None },
        (Kind::Text, VARCHAR) => {
            // The modifier of a varchar is its length and 4, or -1.
            Cell::Text { most_characters: usize::try_from(column.type_modifier - 4).ok() }
        }
        _ => return None,
    })
}

/// A column of the rows and of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name in both.
    pub name: String,
    /// What it is in the rows.
    pub kind: Kind,
    /// What it is in the table.
    pub cell: Cell,
    /// Whether the table takes no row without a value.
    pub is_required: bool,
}

/// What the database has.
#[derive(Debug)]
struct Found {
    has_timescale: bool,
    has_positions: bool,
    table: Option<FoundTable>,
    dead_letter: Option<FoundTable>,
}

#[derive(Debug, Default)]
struct FoundTable {
    is_table: bool,
    is_hypertable: bool,
    columns: Vec<FoundColumn>,
    /// Of each unique index that can be a key its columns, sorted.
    unique: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
struct FoundColumn {
    name: String,
    type_id: u32,
    /// For a person, such as `character varying(10)`.
    type_name: String,
    type_modifier: i32,
    is_required: bool,
    has_default: bool,
    is_generated: bool,
}

impl FoundColumn {
    fn must_be_given(&self) -> bool {
        self.is_required && !self.has_default && !self.is_generated
    }
}

/// The tables beside what is wanted of them.
#[derive(Debug)]
pub struct Comparison {
    /// What is wrong, a sentence each.
    pub complaints: Vec<String>,
    /// How the rows are written, in the order of the rows' columns; all of them only when nothing is wrong.
    pub columns: Vec<Column>,
    /// Whether the dead letters' `rejected_at` is a number of milliseconds.
    pub rejected_at_is_number: bool,
}

/// Compares the tables with what is wanted, and changes nothing. That there are no positions is nothing wrong.
pub async fn check(client: &Client, wanted: &Wanted, address: &str) -> Answer<Comparison> {
    let found = look(client, wanted).await?;
    let mut comparison = wanted.compare(&found, address);
    if wanted.hypertable.is_some() && !found.has_timescale {
        comparison.complaints.push(format!(
            "`sink.timescale.hypertable` is given and `{address}` has no TimescaleDB: run `CREATE EXTENSION \
             timescaledb;`, or leave `hypertable` out"
        ));
    }
    Ok(comparison)
}

/// What is wrong with the tables, beside what [`make`] would do about it.
pub async fn complaints(client: &Client, wanted: &Wanted, address: &str) -> Answer<Vec<String>> {
    let found = look(client, wanted).await?;
    let mut complaints = check(client, wanted, address).await?.complaints;
    if wanted.create && (wanted.hypertable.is_none() || found.has_timescale) {
        let is_made = |table: &TableName| format!("the table `{table}` does not exist in `{address}`");
        let made =
            [(&wanted.table, found.table.is_none()), (&wanted.dead_letter, found.dead_letter.is_none())];
        for (table, _) in made.into_iter().filter(|(_, is_absent)| *is_absent) {
            complaints.retain(|complaint| !complaint.starts_with(&is_made(table)));
        }
    }
    Ok(complaints)
}

/// Makes the tables that do not exist: the positions always, the others when `create` says so.
pub async fn make(client: &mut Client, wanted: &Wanted) -> Answer<()> {
    let found = look(client, wanted).await?;
    if found.has_positions && (!wanted.create || found.table.is_some() && found.dead_letter.is_some()) {
        return Ok(());
    }
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MAKING_TABLES]).await?;
    // Another one can have made them while this one waited for the lock.
    let found = look(transaction.client(), wanted).await?;
    let mut statements = Vec::new();
    if !found.has_positions {
        statements.push(wanted.create_positions());
    }
    // Whoever asked for a hypertable gets that or a sentence, never an ordinary table.
    if wanted.create && (wanted.hypertable.is_none() || found.has_timescale) {
        if found.dead_letter.is_none() {
            statements.push(wanted.create_dead_letter());
        }
        if found.table.is_none() {
            statements.extend(wanted.create_table(found.has_timescale));
        }
    }
    for statement in &statements {
        transaction.batch_execute(statement).await?;
    }
    transaction.commit().await
}

async fn look(client: &Client, wanted: &Wanted) -> Answer<Found> {
    let (has_timescale, has_positions, table, dead_letter) = try_join4(
        has_timescale(client),
        exists(client, &wanted.positions),
        look_at(client, &wanted.table),
        look_at(client, &wanted.dead_letter),
    )
    .await?;
    let mut found = Found { has_timescale, has_positions, table, dead_letter };
    if let Some(table) = &mut found.table
        && has_timescale
    {
        let query = "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables WHERE \
                     format('%I.%I', hypertable_schema, hypertable_name)::regclass = to_regclass($1))";
        table.is_hypertable = client.query_one(query, &[&wanted.table.quoted()]).await?.get(0);
    }
    Ok(found)
}

async fn has_timescale(client: &Client) -> Answer<bool> {
    let query = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')";
    Ok(client.query_one(query, &[]).await?.get(0))
}

async fn exists(client: &Client, table: &TableName) -> Answer<bool> {
    Ok(client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table.quoted()]).await?.get(0))
}

async fn look_at(client: &Client, table: &TableName) -> Answer<Option<FoundTable>> {
    let name = table.quoted();
    let kind = "SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = to_regclass($1)";
    let Some(row) = client.query_opt(kind, &[&name]).await? else { return Ok(None) };
    let mut found = FoundTable { is_table: row.get(0), ..FoundTable::default() };
    let columns = "SELECT attname::text, atttypid, format_type(atttypid, atttypmod), atttypmod, attnotnull, \
                   atthasdef OR attidentity <> '', attgenerated <> '' FROM pg_attribute \
                   WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    for row in client.query(columns, &[&name]).await? {
        found.columns.push(FoundColumn {
            name: row.get(0),
            type_id: row.get(1),
            type_name: row.get(2),
            type_modifier: row.get(3),
            is_required: row.get(4),
            has_default: row.get(5),
            is_generated: row.get(6),
        });
    }
    let unique = "SELECT array_agg(attname::text ORDER BY attname::text COLLATE \"C\") FROM pg_index \
                  JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1]) \
                  WHERE indrelid = to_regclass($1) AND indisunique AND indisvalid AND indimmediate \
                  AND indpred IS NULL AND indexprs IS NULL GROUP BY indexrelid";
    found.unique = client.query(unique, &[&name]).await?.iter().map(|row| row.get(0)).collect();
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::test_rows;

    fn wanted(sink: serde_json::Value) -> Result<Wanted> {
        let mut with_url = serde_json::json!({ "url": "postgres://h/d" });
        with_url.as_object_mut().unwrap().extend(sink.as_object().unwrap().clone());
        let pipeline = test_rows::pipeline(&serde_json::json!({ "timescale": with_url }).to_string(), None);
        let crate::pipeline_file::Sink::Timescale(config) = &pipeline.sink else { unreachable!() };
        Wanted::new(config, &pipeline, &test_rows::schema())
    }

    fn lines(wanted: &Wanted, has_timescale: bool) -> Vec<String> {
        wanted.statements(has_timescale).iter().map(|statement| one_line(statement)).collect()
    }

    #[test]
    fn tables_are_made_in_the_schema_of_the_rows() {
        let made = lines(&wanted(serde_json::json!({ "table": "Market.Candles" })).unwrap(), false);
        assert_eq!(
            made[2],
            "CREATE TABLE IF NOT EXISTS \"market\".\"candles\" (\"timestamp\" timestamp with time zone, \"close\" double \
             precision, \"source\" text, \"symbol\" text, \"timeframe\" text, \"revision\" bigint, \"closed\" boolean, \
             PRIMARY KEY (\"source\", \"symbol\", \"timeframe\", \"timestamp\"))"
        );
        assert!(
            made[0].starts_with("CREATE TABLE IF NOT EXISTS \"market\".\"tidegate_positions\" ("),
            "{}",
            made[0]
        );
        assert!(
            made[1].starts_with("CREATE TABLE IF NOT EXISTS \"market\".\"dead_letter\" (pipeline text,"),
            "{}",
            made[1]
        );
        assert_eq!(made.len(), 3);
    }

    #[test]
    fn a_hypertable_has_its_chunks_and_policies() {
        let made = lines(&wanted(serde_json::json!({})).unwrap(), true);
        assert_eq!(
            made[3..],
            [
                "SELECT create_hypertable('\"candles\"', 'timestamp', chunk_time_interval => INTERVAL '604800 seconds', \
              create_default_indexes => false, if_not_exists => true)"
            ]
        );
        let hypertable = serde_json::json!({ "chunk": "1d", "compress_after": "7d", "retain": "365d" });
        let made =
            lines(&wanted(serde_json::json!({ "create": true, "hypertable": hypertable })).unwrap(), true);
        assert!(made[3].contains("INTERVAL '86400 seconds'"), "{}", made[3]);
        assert_eq!(
            made[4..],
            [
                "ALTER TABLE \"candles\" SET (timescaledb.compress, timescaledb.compress_orderby = '\"timestamp\"', \
                 timescaledb.compress_segmentby = '\"source\", \"symbol\", \"timeframe\"')",
                "SELECT add_compression_policy('\"candles\"', INTERVAL '604800 seconds', if_not_exists => true)",
                "SELECT add_retention_policy('\"candles\"', INTERVAL '31536000 seconds', if_not_exists => true)",
            ]
        );
    }

    #[test]
    fn a_hypertable_has_its_time_in_the_key() {
        let hypertable = |key: serde_json::Value| {
            wanted(serde_json::json!({ "create": true, "hypertable": {}, "key": key }))
        };
        let error = hypertable(serde_json::json!(["symbol"])).unwrap_err();
        assert!(
            error.to_string().starts_with("`sink.timescale.key` (symbol) must have `timestamp` in it"),
            "{error}"
        );
        assert!(
            hypertable(serde_json::json!([])).is_ok() && hypertable(serde_json::json!(["timestamp"])).is_ok()
        );
        // Nobody has asked for one, so the table is an ordinary one.
        assert_eq!(lines(&wanted(serde_json::json!({ "key": ["symbol"] })).unwrap(), true).len(), 3);
    }

    #[test]
    fn only_types_that_keep_the_values_are_taken() {
        let column = |type_id, type_modifier| FoundColumn {
            name: "c".into(),
            type_id,
            type_name: String::new(),
            type_modifier,
            is_required: false,
            has_default: false,
            is_generated: false,
        };
        let taken = |kind, type_id, type_modifier| cell(kind, &column(type_id, type_modifier));
        assert_eq!(taken(Kind::Text, VARCHAR, 14), Some(Cell::Text { most_characters: Some(10) }));
        assert_eq!(taken(Kind::Text, VARCHAR, -1), Some(Cell::Text { most_characters: None }));
        assert_eq!(taken(Kind::Timestamp, TIMESTAMPTZ, -1), Some(Cell::Time));
        assert_eq!(taken(Kind::Timestamp, TIMESTAMPTZ, 3), Some(Cell::Time));
        assert_eq!(taken(Kind::Timestamp, TIMESTAMPTZ, 0), None);
        assert_eq!(taken(Kind::Timestamp, DATE, -1), None);
        assert_eq!(taken(Kind::Float, REAL, -1), None);
        assert_eq!(taken(Kind::Float, BIGINT, -1), None);
        assert_eq!(taken(Kind::Integer, DOUBLE, -1), None);
    }
}
