//! The tables: how they are made, and whether those that exist can take the rows.

use arrow_schema::Schema;

use super::client::{Client, Version};
use super::types::Type;
use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::{ClickhouseSink as Config, PartitionBy, Pipeline};
use crate::sink::table::{self, DEAD_LETTER_COLUMNS, is_revised};

/// The table of positions, for a source whose group does not keep them.
pub const POSITIONS: &str = "tidegate_positions";

/// How many blocks a table without replicas knows. A block that was inserted comes again within seconds of a crash, so
/// a few would do; 10,000 are what ClickHouse keeps for tables with replicas, an hour and more of inserts, and less
/// than a MiB.
const WINDOW: u32 = 10_000;

/// A table that rows are inserted into.
#[derive(Debug)]
pub struct Target {
    /// `INSERT INTO …`, without the rows.
    pub insert: String,
    /// The columns that are inserted.
    pub columns: Vec<(String, Type)>,
    /// How the table is parted.
    pub partition: Partitioning,
}

/// By what a table is parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioning {
    /// By a time of `timestamp`, or not at all.
    Known(PartitionBy),
    /// By something else: the server cuts a block into its parts.
    Other,
}

/// What is wrong with a table, or what it is.
enum Found {
    Target(Target),
    Wrong(Vec<String>),
}

/// The statements that make the tables of a pipeline that do not exist yet, for the newest servers.
///
/// # Errors
/// [`Error::Files`] when the key names a column that the rows do not have.
pub fn statements(config: &Config, pipeline: &Pipeline, schema: &Schema) -> Result<Vec<String>> {
    statements_for(config, pipeline, schema, Version(u32::MAX, 0))
}

/// The same, for a server of this version.
pub fn statements_for(
    config: &Config,
    pipeline: &Pipeline,
    schema: &Schema,
    version: Version,
) -> Result<Vec<String>> {
    let key = table::key(config.key.as_ref(), "sink.clickhouse.key", &pipeline.decode.columns, schema)?;
    let mut statements = vec![
        rows_statement(config, schema, &key, version),
        dead_letter_statement(&config.database, pipeline.dead_letter_table(), version),
    ];
    if pipeline.source.kafka().is_none() {
        statements.push(positions_statement(&config.database));
    }
    Ok(statements)
}

fn rows_statement(config: &Config, schema: &Schema, key: &[String], version: Version) -> String {
    let columns = schema.fields().iter().map(|field| {
        let kind = Kind::of(field.data_type());
        let name = field.name();
        let is_zero_for_none = name == "revision" && kind == Kind::Integer;
        let is_full = key.contains(name) || name == "timestamp" || is_zero_for_none;
        format!("{} {}", quoted(name), declared(kind, is_full, is_zero_for_none, version))
    });
    let columns: Vec<String> = columns.collect();
    let engine = match (key, is_revised(schema)) {
        ([], _) => "MergeTree".to_owned(),
        (_, true) => format!("ReplacingMergeTree({})", quoted("revision")),
        (_, false) => "ReplacingMergeTree".to_owned(),
    };
    let timestamp = quoted("timestamp");
    let has_timestamp = crate::sink::values::has_timestamp(schema);
    let partition = match config.partition {
        _ if !has_timestamp => String::new(),
        PartitionBy::None => String::new(),
        PartitionBy::Day => format!("\nPARTITION BY toYYYYMMDD({timestamp})"),
        PartitionBy::Month => format!("\nPARTITION BY toYYYYMM({timestamp})"),
        PartitionBy::Year => format!("\nPARTITION BY toYear({timestamp})"),
    };
    let order: Vec<String> = key.iter().map(|name| quoted(name)).collect();
    let order = if order.is_empty() { "tuple()".to_owned() } else { format!("({})", order.join(", ")) };
    format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (\n    {}\n)\nENGINE = {engine}{partition}\nORDER BY {order}{}",
        quoted(&config.database),
        quoted(&config.table),
        columns.join(",\n    "),
        window(version)
    )
}

/// The type of a column that `create` makes.
///
/// Times that follow each other at the same distance are next to nothing as differences of differences. Prices have few
/// digits, so that Zstandard finds more in them than Gorilla does.
fn declared(kind: Kind, is_full: bool, is_revision: bool, version: Version) -> String {
    let is_new = version >= Version::LOW_CARDINALITY;
    let (plain, codec) = match kind {
        Kind::Integer if is_revision => ("UInt64", "CODEC(T64, ZSTD(1))"),
        Kind::Integer => ("Int64", "CODEC(T64, ZSTD(1))"),
        Kind::Float => ("Float64", "CODEC(ZSTD(1))"),
        Kind::Boolean if version >= Version::BOOL => ("Bool", ""),
        Kind::Boolean => ("UInt8", ""),
        Kind::Timestamp if version >= Version::DATE_TIME_64 => {
            ("DateTime64(3, 'UTC')", "CODEC(DoubleDelta, ZSTD(1))")
        }
        Kind::Timestamp if is_full => ("DateTime('UTC')", ""),
        // Milliseconds since 1970: the time of a check has fractions of a second.
        Kind::Timestamp => ("Int64", ""),
        Kind::Text => ("String", ""),
    };
    let full = if is_full { plain.to_owned() } else { format!("Nullable({plain})") };
    let full = if kind == Kind::Text && is_new { format!("LowCardinality({full})") } else { full };
    if codec.is_empty() || !is_new { full } else { format!("{full} {codec}") }
}

fn dead_letter_statement(database: &str, table: &str, version: Version) -> String {
    let is_new = version >= Version::LOW_CARDINALITY;
    let columns: Vec<String> = DEAD_LETTER_COLUMNS
        .iter()
        .map(|name| {
            let column_type = match *name {
                "source_partition" => "Int32",
                "source_offset" => "UInt64",
                "rejected_at" if version >= Version::DATE_TIME_64 => "DateTime64(3, 'UTC')",
                "rejected_at" => "DateTime('UTC')",
                "detail" | "payload" => "String",
                _ if is_new => "LowCardinality(String)",
                _ => "String",
            };
            format!("{} {column_type}", quoted(name))
        })
        .collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (\n    {}\n)\nENGINE = MergeTree\nORDER BY ({}, {}, {})\
         {}",
        quoted(database),
        quoted(table),
        columns.join(",\n    "),
        quoted("source_topic"),
        quoted("source_partition"),
        quoted("source_offset"),
        window(version)
    )
}

fn positions_statement(database: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (\n    `pipeline` String,\n    `topic` String,\n    `partition` Int32,\n    \
         `next_offset` UInt64,\n    `planned_end` UInt64,\n    `planned_id` UInt64,\n    `fingerprint` String,\n    \
         `version` UInt64\n)\nENGINE = ReplacingMergeTree(`version`)\nORDER BY (`pipeline`, `topic`, `partition`)",
        quoted(database),
        quoted(POSITIONS)
    )
}

fn window(version: Version) -> String {
    match version >= Version::WINDOW {
        true => format!("\nSETTINGS non_replicated_deduplication_window = {WINDOW}"),
        false => String::new(),
    }
}

/// Everything that keeps the tables from taking the rows; a table that `create` makes is not missing.
///
/// # Errors
/// [`Error::Surroundings`] when the server cannot be asked.
pub fn problems(
    client: &Client,
    version: Version,
    config: &Config,
    pipeline: &Pipeline,
    schema: &Schema,
) -> Result<Vec<String>> {
    // The key is of the file, whatever the tables are.
    table::key(config.key.as_ref(), "sink.clickhouse.key", &pipeline.decode.columns, schema)?;
    let mut wrong = Vec::new();
    for (name, columns) in
        [(config.table.as_str(), columns(schema)), (pipeline.dead_letter_table(), letters())]
    {
        match find(client, version, config, name, &columns)? {
            None if config.create => {}
            None => wrong.push(format!(
                "there is no table `{name}` at `{}`: give `create: true`, or run the statements of \
                 `tidegate schema sql`",
                client.place()
            )),
            Some(Found::Wrong(sentences)) => wrong.extend(sentences),
            Some(Found::Target(_)) => {}
        }
    }
    Ok(wrong)
}

/// The tables of rows and of dead letters, which exist.
pub fn targets(
    client: &Client,
    version: Version,
    config: &Config,
    pipeline: &Pipeline,
    schema: &Schema,
) -> Result<(Target, Target)> {
    let of = |name: &str, columns: &[(String, Kind)]| match find(client, version, config, name, columns)? {
        Some(Found::Target(target)) => Ok(target),
        Some(Found::Wrong(sentences)) => Err(Error::Surroundings(sentences.join("\n"))),
        None => {
            Err(Error::Surroundings(format!("there is no table `{name}` at `{}` any more", client.place())))
        }
    };
    Ok((of(&config.table, &columns(schema))?, of(pipeline.dead_letter_table(), &letters())?))
}

fn columns(schema: &Schema) -> Vec<(String, Kind)> {
    schema.fields().iter().map(|field| (field.name().clone(), Kind::of(field.data_type()))).collect()
}

fn letters() -> Vec<(String, Kind)> {
    let kind = |name: &str| match name {
        "source_partition" | "source_offset" => Kind::Integer,
        "rejected_at" => Kind::Timestamp,
        _ => Kind::Text,
    };
    DEAD_LETTER_COLUMNS.iter().map(|name| ((*name).to_owned(), kind(name))).collect()
}

/// Looks at a table; `None` when there is none.
fn find(
    client: &Client,
    version: Version,
    config: &Config,
    table: &str,
    columns: &[(String, Kind)],
) -> Result<Option<Found>> {
    let database = literal(&config.database);
    let name = literal(table);
    let ask = |query: String| {
        client.ask(None, &query).map_err(|failure| {
            match client.error(&format!("cannot ask for table `{table}`"), failure) {
                Error::Rewind(text) => Error::Surroundings(text),
                other => other,
            }
        })
    };
    let found = ask(format!(
        "SELECT engine, engine_full, partition_key, sorting_key FROM system.tables WHERE database = {database} AND name = {name}"
    ))?;
    let Some([engine, engine_full, partition_key, sorting_key]) = found.first().map(Vec::as_slice) else {
        return Ok(None);
    };
    let existing = ask(format!(
        "SELECT name, type, default_kind FROM system.columns WHERE database = {database} AND table = {name}"
    ))?;
    let existing: Vec<(&str, &str, &str)> = existing
        .iter()
        .filter_map(|row| match row.as_slice() {
            [name, column_type, default] => Some((name.as_str(), column_type.as_str(), default.as_str())),
            _ => None,
        })
        .collect();
    let shown = format!("table `{table}` at `{}`", client.place());
    let path = format!("{}.{}", quoted(&config.database), quoted(table));
    let mut wrong = wrong_engine(engine, &shown).into_iter().collect::<Vec<_>>();
    let default_window = || -> Result<u64> {
        let rows = ask(
            "SELECT value FROM system.merge_tree_settings WHERE name = 'non_replicated_deduplication_window'"
                .into(),
        )?;
        Ok(rows.first().and_then(|row| row.first()?.parse().ok()).unwrap_or(0))
    };
    if wrong.is_empty() && version >= Version::WINDOW && !has_replicas(engine) {
        let own = setting(engine_full, "non_replicated_deduplication_window");
        if own.map_or_else(default_window, Ok)? == 0 {
            wrong.push(format!(
                "{shown} does not know the blocks that were inserted before, so one that is inserted again would be \
                 doubled: run `ALTER TABLE {path} MODIFY SETTING non_replicated_deduplication_window = {WINDOW}`"
            ));
        }
    }
    let is_rows = table == config.table;
    let mut target_columns = Vec::new();
    for (column, kind) in columns {
        match existing.iter().find(|(other, ..)| other == column) {
            None => wrong.push(format!(
                "{shown} has no column `{column}`: run `ALTER TABLE {path} ADD COLUMN {} {}`",
                quoted(column),
                // Key columns cannot be added to a table that has rows, so this one is none of them.
                declared(*kind, *column == "revision" && is_rows, *column == "revision" && is_rows, version)
            )),
            Some((_, _, default @ ("MATERIALIZED" | "ALIAS"))) => wrong.push(format!(
                "column `{column}` of {shown} is {default}, so no value can be stored in it: give it another name"
            )),
            Some((_, column_type, _)) => match Type::parse(column_type, *kind) {
                Some(mut parsed) => {
                    parsed.is_zero_for_none =
                        is_rows && *column == "revision" && *kind == Kind::Integer && !parsed.is_nullable;
                    target_columns.push((column.clone(), parsed));
                }
                None => wrong.push(format!(
                    "column `{column}` of {shown} is {column_type}, which does not keep a value of the kind {} as it \
                     is: run `ALTER TABLE {path} MODIFY COLUMN {} {}`",
                    kind.name(),
                    quoted(column),
                    declared(*kind, true, false, version)
                )),
            },
        }
    }
    if !wrong.is_empty() {
        return Ok(Some(Found::Wrong(wrong)));
    }
    let unfilled: Vec<&str> = existing
        .iter()
        .filter(|(name, _, default)| default.is_empty() && !columns.iter().any(|(column, _)| column == name))
        .map(|(name, ..)| *name)
        .collect();
    if !unfilled.is_empty() {
        tracing::info!(
            "{shown} has columns that the rows do not have, which get their type's zero: `{}`",
            unfilled.join("`, `")
        );
    }
    if is_rows && !engine.contains("Replacing") {
        tracing::warn!(
            "{shown} is a {engine}: a block that is inserted again after more than the blocks that the table knows stays \
             twice, which a ReplacingMergeTree would merge"
        );
    } else if is_rows
        && columns.iter().any(|(name, kind)| name == "revision" && *kind == Kind::Integer)
        && !engine_full.contains("revision")
    {
        tracing::warn!(
            "{shown} does not keep the newest `revision` of a row but the one that was inserted last (its key is \
             {sorting_key}): `ReplacingMergeTree(revision)` would"
        );
    }
    let partition = Partitioning::of(partition_key);
    if is_rows && partition == Partitioning::Other {
        tracing::warn!(
            "{shown} is parted by `{partition_key}`, which is not a time of `timestamp`: the rows of a block become \
             visible part by part"
        );
    }
    let names: Vec<String> = target_columns.iter().map(|(name, _)| quoted(name)).collect();
    let insert = format!("INSERT INTO {path} ({}) FORMAT Native", names.join(", "));
    Ok(Some(Found::Target(Target { insert, columns: target_columns, partition })))
}

fn wrong_engine(engine: &str, shown: &str) -> Option<String> {
    let why = match engine {
        _ if engine.ends_with("MergeTree") => return None,
        "Distributed" => {
            "which passes blocks on without knowing whether they arrived: run one pipeline for each shard, into the \
             shard's own table"
        }
        "View" | "MaterializedView" | "LiveView" | "WindowView" => {
            "which is a view: give the table behind it"
        }
        _ => "which does not know the blocks that were inserted before: give a table of a MergeTree engine",
    };
    Some(format!("{shown} is of the engine {engine}, {why}"))
}

fn has_replicas(engine: &str) -> bool {
    engine.starts_with("Replicated") || engine.starts_with("Shared")
}

/// The value of a setting of a table.
fn setting(engine_full: &str, name: &str) -> Option<u64> {
    let after = engine_full.split_once(name)?.1.trim_start().strip_prefix('=')?.trim_start();
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after[..end].parse().ok()
}

impl Partitioning {
    fn of(expression: &str) -> Partitioning {
        let plain: String = expression.chars().filter(|c| !matches!(c, ' ' | '`' | '(' | ')')).collect();
        Partitioning::Known(match plain.as_str() {
            "" | "tuple" => PartitionBy::None,
            "toYYYYMMtimestamp" | "toStartOfMonthtimestamp" => PartitionBy::Month,
            "toYYYYMMDDtimestamp" | "toDatetimestamp" | "toStartOfDaytimestamp" => PartitionBy::Day,
            "toYeartimestamp" | "toStartOfYeartimestamp" => PartitionBy::Year,
            _ => return Partitioning::Other,
        })
    }
}

/// A name within a statement.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text within a statement.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_by_a_time_are_recognised() {
        let known = Partitioning::Known;
        for (expression, expected) in [
            ("", known(PartitionBy::None)),
            ("tuple()", known(PartitionBy::None)),
            ("toYYYYMM(timestamp)", known(PartitionBy::Month)),
            ("(toYYYYMMDD(`timestamp`))", known(PartitionBy::Day)),
            ("toDate(timestamp)", known(PartitionBy::Day)),
            ("toYear(timestamp)", known(PartitionBy::Year)),
            ("(source, toYYYYMM(timestamp))", Partitioning::Other),
            ("toYYYYMM(validated_at)", Partitioning::Other),
        ] {
            assert_eq!(Partitioning::of(expression), expected, "{expression}");
        }
    }

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(quoted(r"a`b\"), r"`a\`b\\`");
        assert_eq!(literal(r"a'b\"), r"'a\'b\\'");
    }

    #[test]
    fn a_setting_is_found_in_the_engine() {
        let engine = "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100, index_granularity = 8192";
        assert_eq!(setting(engine, "non_replicated_deduplication_window"), Some(100));
        assert_eq!(setting("MergeTree ORDER BY a", "non_replicated_deduplication_window"), None);
    }
}
