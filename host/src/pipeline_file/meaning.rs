//! What a pipeline file can say wrong although every key and type is right.

mod database;
mod deploy;
mod exchange;
mod kafka;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::{
    Column, ColumnSet, Columns, DeadLetter, FileFormat, FileSource, Format, Loaded, Pipeline, Rule, Scalar,
    Sink, Source, resolve,
};
use crate::batch::Kind;

/// The columns of the set `ohlcv`.
const OHLCV: [(&str, Kind); 9] = [
    ("timestamp", Kind::Timestamp),
    ("open", Kind::Float),
    ("high", Kind::Float),
    ("low", Kind::Float),
    ("close", Kind::Float),
    ("volume", Kind::Float),
    ("source", Kind::Text),
    ("symbol", Kind::Text),
    ("timeframe", Kind::Text),
];

/// What the set `candles` has beside those.
const CANDLES: [(&str, Kind); 4] = [
    ("trades", Kind::Integer),
    ("quote_volume", Kind::Float),
    ("vwap", Kind::Float),
    ("revision", Kind::Integer),
];

/// A rule costs an instance with its memory for every partition; nobody has needed more than 10.
const RULES: usize = 32;

/// As many columns as a rule may read.
const COLUMNS: usize = 64;

/// The longest name: it becomes a label of metrics and a part of file names.
const NAME_BYTES: usize = 64;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// All that is wrong with the meaning of a pipeline file.
pub fn check(loaded: &Loaded) -> Vec<Finding> {
    let mut check = Check { loaded, findings: Vec::new() };
    let Pipeline { name, rules, batch, remember, .. } = &loaded.pipeline;
    if !is_name(name) {
        check.add(&["name"], format!("the name `{name}` must be 1 to {NAME_BYTES} of `a-z 0-9 - _`"));
    }
    check.decode();
    check.rules(rules);
    check.ends();
    check.kafka();
    check.exchanges();
    check.deploy();
    check.range(&["batch", "rows"], batch.rows as u64, 1, 1_000_000, "");
    check.range(&["batch", "bytes"], batch.bytes.0, 1, GIB, " bytes");
    check.range(&["remember", "rows"], remember.rows as u64, 0, 100_000_000, "");
    check.findings
}

/// The columns that the rows of a pipeline have before any rule, with their kinds.
pub fn columns(columns: &Columns) -> Vec<(&str, Kind)> {
    match columns {
        Columns::Named(ColumnSet::Ohlcv) => OHLCV.to_vec(),
        Columns::Named(ColumnSet::Candles) => OHLCV.into_iter().chain(CANDLES).collect(),
        Columns::List(list) => list.iter().map(|column| (column.name.as_str(), column.kind)).collect(),
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

fn is_column_name(name: &str) -> bool {
    is_name(name) && !name.contains('-') && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// A table's name needs no quotes in any query that a user writes later.
fn is_table_name(name: &str) -> bool {
    is_column_name(&name.to_ascii_lowercase()) && !name.to_ascii_lowercase().starts_with("sqlite_")
}

struct Check<'a> {
    loaded: &'a Loaded,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn add(&mut self, path: &[&str], message: impl AsRef<str>) {
        self.findings.push(self.loaded.finding(path, message.as_ref()));
    }

    fn range(&mut self, path: &[&str], value: u64, least: u64, most: u64, unit: &str) {
        if !(least..=most).contains(&value) {
            let name = path.last().copied().unwrap_or_default();
            self.add(path, format!("`{name}` must be {least} to {most}{unit}, but is {value}"));
        }
    }

    fn decode(&mut self) {
        let decode = &self.loaded.pipeline.decode;
        self.range(&["decode", "row"], decode.row.0, 1, 64 * MIB, " bytes");
        if let Columns::List(list) = &decode.columns {
            self.column_list(list);
        }
        let columns = columns(&decode.columns);
        if decode.format == Format::Ccxt {
            for (name, _) in &OHLCV[..6] {
                if !columns.iter().any(|(column, _)| column == name) {
                    self.add(&["decode", "columns"], format!("the format `ccxt` needs a column `{name}`"));
                }
            }
        }
        for (name, value) in &decode.constants {
            let path = ["decode", "constants", name];
            let Some((_, kind)) = columns.iter().find(|(column, _)| column == name) else {
                let known: Vec<&str> = columns.iter().map(|(column, _)| *column).collect();
                let hint = super::finding::hint(name, &known);
                self.add(&path, format!("the constant `{name}` is no column; {hint}"));
                continue;
            };
            if !fits(value, *kind) {
                self.add(
                    &path,
                    format!("the constant `{name}` must be of the column's type `{}`", kind.name()),
                );
            }
        }
    }

    fn column_list(&mut self, list: &[Column]) {
        if list.is_empty() || list.len() > COLUMNS {
            let message = format!("there must be 1 to {COLUMNS} columns, but there are {}", list.len());
            self.add(&["decode", "columns"], message);
        }
        let mut taken: HashMap<&str, &str> = HashMap::new();
        for (index, column) in list.iter().enumerate() {
            let index = index.to_string();
            let path = ["decode", "columns", &index, "name"];
            let name = column.name.as_str();
            if !is_column_name(name) {
                self.add(
                    &path,
                    format!(
                        "the column name `{name}` must be 1 to {NAME_BYTES} of `a-z 0-9 _` and not start with a digit"
                    ),
                );
            }
            if taken.insert(name, name).is_some() {
                self.add(&path, format!("the column `{name}` is there twice"));
            }
        }
        for (index, column) in list.iter().enumerate() {
            for (alias_index, alias) in column.from.iter().enumerate() {
                let (index, alias_index) = (index.to_string(), alias_index.to_string());
                let path = ["decode", "columns", &index, "from", &alias_index];
                if alias.is_empty() {
                    self.add(&path, format!("a name in `from` of the column `{}` is empty", column.name));
                } else if let Some(owner) = taken.insert(alias, &column.name) {
                    let message = if owner == column.name {
                        format!("the name `{alias}` is there twice for the column `{owner}`")
                    } else {
                        format!("the name `{alias}` is already a name of the column `{owner}`")
                    };
                    self.add(&path, message);
                }
            }
        }
    }

    fn rules(&mut self, rules: &[Rule]) {
        if rules.len() > RULES {
            let message = format!("there can be at most {RULES} rules, but there are {}", rules.len());
            self.add(&["rules"], message);
        }
        for (index, rule) in rules.iter().enumerate() {
            let index_text = index.to_string();
            let path = ["rules", &index_text, "name"];
            if !is_name(&rule.name) {
                let message =
                    format!("the rule name `{}` must be 1 to {NAME_BYTES} of `a-z 0-9 - _`", rule.name);
                self.add(&path, message);
            } else if rule.name == "decode" {
                self.add(
                    &path,
                    "the rule name `decode` is taken: rows that do not decode are counted under it",
                );
            } else if rule.name == "sink" {
                self.add(
                    &path,
                    "the rule name `sink` is taken: rows that the sink does not store are counted under it",
                );
            } else if rules[..index].iter().any(|earlier| earlier.name == rule.name) {
                self.add(&path, format!("the rule name `{}` is there twice; each needs its own", rule.name));
            }
            if rule.component.is_empty() {
                self.add(
                    &["rules", &index_text, "component"],
                    "the component is empty; it is a path or a name",
                );
            }
            self.limits(&index_text, rule);
        }
    }

    fn limits(&mut self, rule: &str, Rule { limits, .. }: &Rule) {
        let ranges = [
            // The least that WebAssembly can have is one page.
            ("memory", limits.memory.0, 64 << 10, 4 * GIB),
            ("output", limits.output.0, 1, 4 * GIB),
            ("file", limits.file.0, 1, 4 * GIB),
        ];
        for (key, value, least, most) in ranges {
            self.range(&["rules", rule, "limits", key], value, least, most, " bytes");
        }
        for (key, time) in [("call", limits.call), ("compile", limits.compile)] {
            if time.0.is_zero() {
                self.add(&["rules", rule, "limits", key], format!("`{key}` must be longer than 0"));
            }
        }
    }

    /// The source, the sink and the dead letter.
    fn ends(&mut self) {
        let Pipeline { source, decode, sink, dead_letter, .. } = &self.loaded.pipeline;
        if let Source::File(input) = source {
            self.input_file(input, decode.format);
        }
        match sink {
            Sink::Sqlite(sink) => self.sqlite(sink),
            Sink::File(sink) => self.output_path(&["sink", "file", "path"], &sink.path),
            Sink::Timescale(sink) => self.timescale(sink),
            Sink::Clickhouse(sink) => self.clickhouse(sink),
            Sink::Kafka(_) | Sink::Stdout(_) => {}
        }
        match dead_letter {
            // That it is none has its sentence.
            _ if matches!(sink, Sink::Kafka(_) | Sink::Timescale(_) | Sink::Clickhouse(_)) => {}
            Some(DeadLetter::Sqlite(table)) => {
                let path = ["dead_letter", "sqlite", "table"];
                let Sink::Sqlite(sink) = sink else {
                    let message = "a `sqlite` dead letter is a table of the sink's database, and this sink is not `sqlite`; use `file`";
                    return self.add(&["dead_letter"], message);
                };
                self.table(&path, &table.table);
                if table.table.eq_ignore_ascii_case(&sink.table) {
                    self.add(&path, format!("the table `{}` is the sink's own", table.table));
                }
            }
            Some(DeadLetter::File(file)) => self.output_path(&["dead_letter", "file", "path"], &file.path),
            Some(DeadLetter::Timescale(_) | DeadLetter::Clickhouse(_)) => self.add(
                &["dead_letter"],
                "a dead letter in a database is a table beside the rows, and this sink has another place; use `file`",
            ),
            Some(DeadLetter::Kafka(_) | DeadLetter::Stdout(_)) | None => {}
        }
        self.same_files();
    }

    fn input_file(&mut self, input: &FileSource, format: Format) {
        let path = &["source", "file", "path"];
        if input.path.is_empty() {
            self.add(path, "the path is empty; `-` is standard input");
        }
        if format == Format::Parquet {
            if input.path == "-" {
                self.add(path, "Parquet is read from its end, so it cannot come from standard input");
            } else if input.path.ends_with(".gz") || input.path.ends_with(".zst") {
                self.add(
                    path,
                    "Parquet compresses by itself; a file that is compressed again cannot be read",
                );
            }
        }
    }

    fn sqlite(&mut self, sink: &super::SqliteSink) {
        self.output_path(&["sink", "sqlite", "path"], &sink.path);
        self.table(&["sink", "sqlite", "table"], &sink.table);
        if let Some(key) = &sink.key {
            self.key(&["sink", "sqlite", "key"], key);
        }
    }

    /// The columns of a sink's key, which is at `path`.
    fn key(&mut self, path: &[&str; 3], key: &[String]) {
        let columns = columns(&self.loaded.pipeline.decode.columns);
        for (index, name) in key.iter().enumerate() {
            let index_text = index.to_string();
            let path = [path[0], path[1], path[2], &index_text];
            if key[..index].contains(name) {
                self.add(&path, format!("the column `{name}` is twice in the key"));
            }
            // Columns that rules write are known only once the rules are loaded.
            let known: Vec<&str> = columns.iter().map(|(column, _)| *column).collect();
            if self.loaded.pipeline.rules.is_empty() && !known.contains(&name.as_str()) {
                let hint = super::finding::hint(name, &known);
                self.add(&path, format!("the key's column `{name}` does not exist; {hint}"));
            }
        }
    }

    fn table(&mut self, path: &[&str], name: &str) {
        if !is_table_name(name) {
            self.add(
                path,
                format!(
                    "the table name `{name}` must be 1 to {NAME_BYTES} of `a-z A-Z 0-9 _`, not start with a digit and not with `sqlite_`"
                ),
            );
        } else if name.eq_ignore_ascii_case("tidegate_positions") {
            self.add(path, format!("the table name `{name}` is taken: positions are kept there"));
        }
    }

    fn output_path(&mut self, path: &[&str], value: &str) {
        if value.is_empty() {
            self.add(path, "the path is empty");
        } else if value == "-" {
            self.add(path, "`-` is not a file; for standard output write `stdout` in the place of `file`");
        }
    }

    /// No file may be two of source, sink, its position and dead letter, also where the sink names the file.
    fn same_files(&mut self) {
        let Pipeline { source, sink, dead_letter, .. } = &self.loaded.pipeline;
        let mut files: Vec<(&str, [&str; 3], String)> = Vec::new();
        if let Source::File(input) = source
            && input.path != "-"
        {
            files.push(("the source", ["source", "file", "path"], input.path.clone()));
        }
        match sink {
            Sink::Sqlite(sink) => files.push(("the sink", ["sink", "sqlite", "path"], sink.path.clone())),
            Sink::File(sink) => {
                let path = ["sink", "file", "path"];
                files.push(("the sink", path, sink.path.clone()));
                files.push(("the sink's position", path, sink.position_file()));
                if dead_letter.is_none() {
                    files.push(("the sink's dead letter", path, sink.default_dead_letter()));
                }
            }
            Sink::Kafka(_) | Sink::Timescale(_) | Sink::Clickhouse(_) | Sink::Stdout(_) => {}
        }
        if let Some(DeadLetter::File(file)) = dead_letter {
            files.push(("the dead letter", ["dead_letter", "file", "path"], file.path.clone()));
        }
        let mut seen: HashMap<PathBuf, &str> = HashMap::new();
        for (what, path, file) in files {
            let real = real_path(&resolve(&self.loaded.folder, &file));
            match seen.get(&real) {
                Some(other) => self.add(&path, format!("{what} `{file}` is the same file as {other}")),
                None => drop(seen.insert(real, what)),
            }
        }
        if let (Sink::File(sink), Some(DeadLetter::File(file))) = (sink, dead_letter)
            && sink.format == FileFormat::Parquet
        {
            let folder = real_path(&resolve(&self.loaded.folder, &sink.path));
            let real = real_path(&resolve(&self.loaded.folder, &file.path));
            if real != folder && real.starts_with(&folder) {
                let message = "the dead letter is inside the sink's folder, which holds Parquet files only";
                self.add(&["dead_letter", "file", "path"], message);
            }
        }
    }
}

/// The path without links and dots, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => real_path(parent).join(name),
        _ => path.into(),
    }
}

/// Whether a constant can be a value of a column. Variables are texts, so a text that reads as the type
/// will do, as it does in a row.
fn fits(value: &Scalar, kind: Kind) -> bool {
    match (kind, value) {
        (Kind::Text | Kind::Timestamp, Scalar::Text(_)) => true,
        (Kind::Integer, Scalar::Text(text)) => text.parse::<i64>().is_ok(),
        (Kind::Float, Scalar::Text(text)) => text.parse::<f64>().is_ok(),
        (Kind::Boolean, Scalar::Text(text)) => text.parse::<bool>().is_ok(),
        (Kind::Integer | Kind::Timestamp | Kind::Float, Scalar::Integer(_)) => true,
        (Kind::Float, Scalar::Float(_)) | (Kind::Boolean, Scalar::Boolean(_)) => true,
        _ => false,
    }
}
