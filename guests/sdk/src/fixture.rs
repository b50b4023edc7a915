//! Fixtures: what a rule must say of a few rows, in one JSON file each.
//!
//! ```json
//! {
//!   "settings": {"factor": 3},
//!   "now": "2026-01-02T00:00:00Z",
//!   "rows": [
//!     {"in": {"high": 10.0, "low": 9.0, "symbol": "BTC/USDT"}, "out": {"spread": 1.0}},
//!     {"in": {"high": 30.0, "low": 9.0, "symbol": "ETH/USDT"}, "rejected": "too_wide"}
//!   ]
//! }
//! ```
//!
//! [`check`] runs the fixtures of a folder natively, in a `#[test]`; `tidegate test` runs the same files through the
//! component. Both read, compare and report with the functions here, so that they cannot disagree about a file.
//!
//! A value of a float that JSON has no number for is the text `NaN`, `Infinity` or `-Infinity`; a timestamp is RFC 3339
//! text in UTC or a number of milliseconds since 1970.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::ser::Formatter;
use serde_json::{Map, Value, json};

use crate::exchange::{parse_rfc3339, rfc3339};
use crate::{Batch, Column, Description, Instance, Kind, Outcome, Rule, describe};

/// The most rows of a fixture, and the most that it remembers: as many as a pipeline hands over at once.
const ROWS_MAX: usize = 10_000;

/// What of a detail is compared: as much as the host keeps.
const DETAIL_BYTES_MAX: usize = 1024;

/// How much of a difference is shown: what comes after it is of the same kind.
const LINES_MAX: usize = 20;

/// What a rule must say of a few rows, which are one batch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// The rule's settings.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// The time that the rule is told, in milliseconds since 1970.
    #[serde(default, deserialize_with = "moment")]
    pub now: i64,
    /// Rows that the pipeline has written before: the columns that the rule reads and writes.
    #[serde(default)]
    pub remember: Vec<Map<String, Value>>,
    /// The rows, in their order.
    #[serde(deserialize_with = "rows")]
    pub rows: Vec<Row>,
}

/// A row, and what must come of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The columns that the rule reads; one that is absent has no value.
    pub input: Map<String, Value>,
    /// What must come of it; `None` until it is filled in.
    pub expected: Option<Expected>,
}

/// What comes of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// It is kept, with these values in the columns that the rule writes; one that is absent has no value.
    Out(Map<String, Value>),
    /// It is rejected.
    Rejected {
        /// One of the rule's reasons.
        reason: String,
        /// What is wrong, for a person; not compared when a fixture does not have it.
        detail: Option<String>,
    },
    /// It is dropped.
    Dropped,
}

/// A row as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRow {
    r#in: Map<String, Value>,
    out: Option<Map<String, Value>>,
    rejected: Option<String>,
    detail: Option<String>,
    dropped: Option<bool>,
}

impl TryFrom<WrittenRow> for Row {
    type Error = &'static str;

    fn try_from(written: WrittenRow) -> Result<Row, &'static str> {
        let WrittenRow { r#in: input, out, rejected, detail, dropped } = written;
        let expected = match (out, rejected, dropped) {
            (None, None, None) => None,
            (Some(out), None, None) => Some(Expected::Out(out)),
            (None, Some(reason), None) => {
                return Ok(Row { input, expected: Some(Expected::Rejected { reason, detail }) });
            }
            (None, None, Some(true)) => Some(Expected::Dropped),
            (None, None, Some(false)) => return Err("`dropped` is true or not there"),
            _ => return Err("it has several of `out`, `rejected` and `dropped`, of which a row has one"),
        };
        if detail.is_some() {
            return Err("`detail` stands beside `rejected`");
        }
        Ok(Row { input, expected })
    }
}

impl Expected {
    /// As the keys of a row, such as `"rejected": "too_wide"`.
    fn keys(&self) -> Map<String, Value> {
        let mut keys = Map::new();
        match self {
            Expected::Out(out) => {
                let values = out.iter().filter(|(_, value)| !value.is_null());
                let values = values.map(|(name, value)| (name.clone(), value.clone())).collect();
                keys.insert("out".to_owned(), Value::Object(values));
            }
            Expected::Rejected { reason, detail } => {
                keys.insert("rejected".to_owned(), json!(reason));
                if let Some(detail) = detail {
                    keys.insert("detail".to_owned(), json!(detail));
                }
            }
            Expected::Dropped => drop(keys.insert("dropped".to_owned(), json!(true))),
        }
        keys
    }
}

/// What is wrong with a file of JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1; 0 at the start of a line.
    pub column: usize,
    /// What is wrong, in one sentence.
    pub sentence: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.sentence)
    }
}

impl From<serde_json::Error> for Mistake {
    fn from(error: serde_json::Error) -> Mistake {
        let (line, column) = (error.line(), error.column());
        let sentence = error.to_string();
        let place = format!(" at line {line} column {column}");
        Mistake { line, column, sentence: sentence.strip_suffix(&place).unwrap_or(&sentence).to_owned() }
    }
}

/// Why a fixture has not passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The fixture is wrong: one sentence.
    Wrong(String),
    /// The rule does something else: lines for a person, `-` what is expected and `+` what came.
    Differs(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Wrong(text) | Failure::Differs(text)) = self;
        f.write_str(text)
    }
}

/// What a rule is given for a fixture, in this order.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The settings, a JSON object.
    pub settings: String,
    /// What it is shown of what was written before, if anything.
    pub remember: Option<Batch>,
    /// The time, in milliseconds since 1970.
    pub now: i64,
    /// The rows.
    pub rows: Batch,
}

impl Fixture {
    /// Reads a fixture.
    ///
    /// # Errors
    /// What is not JSON, or not a fixture.
    pub fn parse(text: &str) -> Result<Fixture, Mistake> {
        Ok(serde_json::from_str(text)?)
    }

    /// What a rule is given.
    ///
    /// # Errors
    /// One sentence about a row or a column that does not fit the rule.
    pub fn inputs(&self, description: &Description) -> Result<Inputs, String> {
        for (key, rows) in [("rows", self.rows.len()), ("remember", self.remember.len())] {
            if rows > ROWS_MAX {
                return Err(format!("`{key}` has {rows} rows, at most {ROWS_MAX} are allowed"));
            }
        }
        if self.rows.is_empty() {
            return Err("`rows` is empty".to_owned());
        }
        let reads: Vec<Wanted> = (description.reads.iter())
            .map(|column| Wanted { name: &column.name, kind: column.kind, optional: column.optional })
            .collect();
        let mut remembered = reads.clone();
        for column in &description.writes {
            // After the rule the pipeline has the column, whether or not it had it before.
            match remembered.iter_mut().find(|wanted| wanted.name == column.name) {
                Some(wanted) => wanted.optional = false,
                None => {
                    remembered.push(Wanted { name: &column.name, kind: column.kind, optional: false });
                }
            }
        }
        let rows: Vec<&Map<String, Value>> = self.rows.iter().map(|row| &row.input).collect();
        let before: Vec<&Map<String, Value>> = self.remember.iter().collect();
        Ok(Inputs {
            settings: Value::Object(self.settings.clone()).to_string(),
            remember: match before.is_empty() {
                true => None,
                false => {
                    Some(batch(&before, &remembered, &|row| format!("`remember[{row}]`"), "reads or writes")?)
                }
            },
            now: self.now,
            rows: batch(&rows, &reads, &|row| format!("`rows[{row}].in`"), "reads")?,
        })
    }

    /// What comes of the rows in a rule, whose calls `decide` makes; every row is one of the answers.
    ///
    /// # Errors
    /// When the fixture does not fit the rule, or the rule fails; then with the row that makes it fail alone, if there
    /// is one.
    pub fn answers(
        &self,
        description: &Description,
        decide: &mut dyn FnMut(&Inputs) -> Result<Outcome, Failure>,
    ) -> Result<Vec<Expected>, Failure> {
        let inputs = self.inputs(description).map_err(Failure::Wrong)?;
        let failure = match decide(&inputs) {
            Ok(outcome) => return Ok(answers(&outcome, description, &inputs.rows)),
            Err(failure) => failure,
        };
        let Failure::Differs(sentence) = failure else { return Err(failure) };
        let guilty = (0..self.rows.len()).filter(|_| self.rows.len() > 1).find(|row| {
            let alone = Fixture { rows: vec![self.rows[*row].clone()], ..self.clone() };
            alone.inputs(description).is_ok_and(|inputs| decide(&inputs).is_err())
        });
        Err(Failure::Differs(match guilty {
            Some(row) => format!("{sentence} (already with `rows[{row}]` alone)"),
            None => sentence,
        }))
    }

    /// Compares what came of the rows with what the fixture says.
    ///
    /// # Errors
    /// When the fixture does not fit the rule, or something else came.
    pub fn compare(&self, description: &Description, answers: &[Expected]) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for (index, (row, actual)) in self.rows.iter().zip(answers).enumerate() {
            let Some(expected) = &row.expected else {
                return Err(Failure::Wrong(format!(
                    "`rows[{index}]` does not say what must come of it: write `out`, `rejected` or `dropped`, or let \
                     `tidegate test --update` fill it in"
                )));
            };
            let expected = fitted(expected, description, index).map_err(Failure::Wrong)?;
            compare_row(index, &expected, actual, &mut lines);
        }
        match lines.is_empty() {
            true => Ok(()),
            false => Err(Failure::Differs(shortened(&lines))),
        }
    }

    /// The text of the fixture with these answers in the place of what it says; rows that say the same stay as they
    /// are written. A `detail` is written where one was.
    ///
    /// # Errors
    /// When `text` is not the fixture's.
    pub fn updated(
        &self,
        text: &str,
        description: &Description,
        answers: &[Expected],
    ) -> Result<String, Mistake> {
        let mut tree: Map<String, Value> = serde_json::from_str(text)?;
        let rows = tree.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
        for (index, (written, (row, actual))) in rows.zip(self.rows.iter().zip(answers)).enumerate() {
            let Some(written) = written.as_object_mut() else { continue };
            let expected =
                row.expected.as_ref().and_then(|expected| fitted(expected, description, index).ok());
            let mut lines = Vec::new();
            if let Some(expected) = &expected {
                compare_row(index, expected, actual, &mut lines);
                if lines.is_empty() {
                    continue;
                }
            }
            let has_detail = matches!(row.expected, Some(Expected::Rejected { detail: Some(_), .. }));
            written.retain(|key, _| key == "in");
            let keys = actual.keys().into_iter().filter(|(key, _)| key != "detail" || has_detail);
            written.extend(keys);
        }
        Ok(layout(&tree))
    }
}

/// The fixtures of a folder, by the names of their files without `.json`, in the order of the names.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(folder: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, path));
        }
    }
    files.sort();
    Ok(files)
}

/// For tests: runs every fixture of a folder natively; the folder is relative to the crate's own, so mostly it is
/// `fixtures`.
///
/// # Panics
/// When one does not pass, with the difference, or when there is none.
pub fn check<R: Rule>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let files = files(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    assert!(!files.is_empty(), "{}: there are no fixtures", folder.display());
    let mut failed = Vec::new();
    for (_, path) in &files {
        let result = match std::fs::read_to_string(path) {
            Ok(text) => check_one::<R>(&text),
            Err(error) => Err(Failure::Wrong(error.to_string())),
        };
        if let Err(failure) = result {
            let failure = failure.to_string().replace('\n', "\n  ");
            failed.push(format!("{}\n  {failure}", path.display()));
        }
    }
    assert!(failed.is_empty(), "{} of {} fixtures differ:\n{}", failed.len(), files.len(), failed.join("\n"));
}

fn check_one<R: Rule>(text: &str) -> Result<(), Failure> {
    let fixture = Fixture::parse(text).map_err(|mistake| Failure::Wrong(mistake.to_string()))?;
    let answers = native_answers::<R>(&fixture)?;
    fixture.compare(&describe::<R>(), &answers)
}

/// What comes of a fixture's rows in the rule, natively.
///
/// # Errors
/// As [`Fixture::answers`]. A panic is a failure, as it is a trap in the component.
pub fn native_answers<R: Rule>(fixture: &Fixture) -> Result<Vec<Expected>, Failure> {
    fixture.answers(&describe::<R>(), &mut |inputs| {
        catch_unwind(AssertUnwindSafe(|| decide::<R>(inputs))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Err(Failure::Differs(format!("the rule failed: it panicked: {text}")))
        })
    })
}

fn decide<R: Rule>(inputs: &Inputs) -> Result<Outcome, Failure> {
    let mut instance = Instance::<R>::unconfigured();
    let remembers = instance.configure(&inputs.settings).map_err(refused_settings)?;
    if let Some(rows) = &inputs.remember {
        check_remembers(remembers)?;
        instance.remember(rows);
    }
    let outcome = instance.transform(inputs.now, &inputs.rows);
    let outcome =
        outcome.map_err(|sentence| Failure::Differs(format!("the rule failed: it said: {sentence}")))?;
    outcome
        .check::<R>(&inputs.rows)
        .map_err(|what| Failure::Differs(format!("the rule failed: its answer is wrong: {what}")))?;
    Ok(outcome)
}

/// The rule has refused the settings of a fixture.
pub fn refused_settings(sentence: impl fmt::Display) -> Failure {
    Failure::Wrong(format!("the rule refuses `settings`: {sentence}"))
}

/// Whether a rule that is to be shown rows wants them.
///
/// # Errors
/// When it does not remember with its settings: a pipeline would show it nothing.
pub fn check_remembers(remembers: bool) -> Result<(), Failure> {
    match remembers {
        true => Ok(()),
        false => Err(Failure::Wrong(
            "`remember` has rows, but the rule keeps nothing between calls with these settings".to_owned(),
        )),
    }
}

/// A column that a batch can have.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    name: &'a str,
    kind: Kind,
    /// Whether it is left out when no row has it.
    optional: bool,
}

/// A value of a column.
enum Cell {
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Text(String),
}

fn batch(
    rows: &[&Map<String, Value>],
    wanted: &[Wanted<'_>],
    place: &dyn Fn(usize) -> String,
    what_it_does: &str,
) -> Result<Batch, String> {
    for (index, row) in rows.iter().enumerate() {
        if let Some(name) = row.keys().find(|name| !wanted.iter().any(|wanted| wanted.name == *name)) {
            let known: Vec<&str> = wanted.iter().map(|wanted| wanted.name).collect();
            let place = place(index);
            return Err(format!(
                "{place} has the column `{name}`, but the rule {what_it_does} no such column; {}",
                hint(name, &known)
            ));
        }
    }
    let mut columns = Vec::new();
    for Wanted { name, kind, optional } in wanted {
        if *optional && !rows.iter().any(|row| row.contains_key(*name)) {
            continue;
        }
        let cells = rows.iter().enumerate().map(|(index, row)| {
            cell(row.get(*name).unwrap_or(&Value::Null), *kind)
                .map_err(|what| format!("{}: the column `{name}` {what}", place(index)))
        });
        columns.push(column(name, *kind, cells.collect::<Result<_, _>>()?));
    }
    let rows = u32::try_from(rows.len()).map_err(|_| "there are too many rows".to_owned())?;
    Ok(Batch { rows, columns })
}

/// A value of the file as a value of a column.
fn cell(value: &Value, kind: Kind) -> Result<Option<Cell>, String> {
    let cell = match (kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Integer | Kind::Timestamp, Value::Number(number)) => number.as_i64().map(Cell::Integer),
        (Kind::Timestamp, Value::String(text)) => parse_rfc3339(text).map(Cell::Integer),
        (Kind::Float, Value::Number(number)) => number.as_f64().map(Cell::Float),
        (Kind::Float, Value::String(text)) => match text.as_str() {
            "NaN" => Some(Cell::Float(f64::NAN)),
            "Infinity" => Some(Cell::Float(f64::INFINITY)),
            "-Infinity" => Some(Cell::Float(f64::NEG_INFINITY)),
            _ => None,
        },
        (Kind::Boolean, Value::Bool(value)) => Some(Cell::Boolean(*value)),
        (Kind::Text, Value::String(text)) => Some(Cell::Text(text.clone())),
        _ => None,
    };
    let expected = match kind {
        Kind::Integer => "a 64-bit integer",
        Kind::Float => "a number, `NaN`, `Infinity` or `-Infinity`",
        Kind::Boolean => "true or false",
        Kind::Timestamp => "a time such as `2026-01-02T00:00:00Z` or milliseconds since 1970",
        Kind::Text => "a text",
    };
    cell.map(Some).ok_or_else(|| format!("must be {expected}, but is {value}"))
}

fn column(name: &str, kind: Kind, cells: Vec<Option<Cell>>) -> Column {
    let integers = |cells: Vec<Option<Cell>>| {
        cells.into_iter().map(|cell| match cell {
            Some(Cell::Integer(value)) => Some(value),
            _ => None,
        })
    };
    match kind {
        Kind::Integer => Column::of_integers_or_null(name, integers(cells)),
        Kind::Timestamp => Column::of_timestamps_or_null(name, integers(cells)),
        Kind::Float => Column::of_floats_or_null(
            name,
            cells.into_iter().map(|cell| match cell {
                Some(Cell::Float(value)) => Some(value),
                _ => None,
            }),
        ),
        Kind::Boolean => Column::of_booleans_or_null(
            name,
            cells.into_iter().map(|cell| match cell {
                Some(Cell::Boolean(value)) => Some(value),
                _ => None,
            }),
        ),
        Kind::Text => Column::of_texts_or_null(
            name,
            cells.into_iter().map(|cell| match cell {
                Some(Cell::Text(text)) => Some(text),
                _ => None,
            }),
        ),
    }
}

/// A row's value of a column as JSON: the one form in which values are compared and written.
fn value(column: &Column, row: usize) -> Value {
    let value = match column.kind() {
        Kind::Integer => column.integers().ok().and_then(|values| values.get(row)).map(|value| json!(value)),
        Kind::Timestamp => column.timestamps().ok().and_then(|values| values.get(row)).map(time),
        Kind::Float => column.floats().ok().and_then(|values| values.get(row)).map(float),
        Kind::Boolean => column.booleans().ok().and_then(|values| values.get(row)).map(|value| json!(value)),
        Kind::Text => column.texts().ok().and_then(|values| values.get(row)).map(|text| json!(text)),
    };
    value.unwrap_or(Value::Null)
}

fn float(value: f64) -> Value {
    if value.is_finite() {
        json!(value)
    } else if value.is_nan() {
        json!("NaN")
    } else {
        json!(if value > 0.0 { "Infinity" } else { "-Infinity" })
    }
}

/// As RFC 3339 text, or as the number where such a text has no year for it.
fn time(ms: i64) -> Value {
    let text = rfc3339(ms);
    if parse_rfc3339(&text) == Some(ms) { json!(text) } else { json!(ms) }
}

/// The rows of a fixture; what is wrong with one is said with its number.
fn rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Row>, D::Error> {
    let rows = Vec::<WrittenRow>::deserialize(deserializer)?.into_iter().enumerate();
    rows.map(|(index, row)| {
        Row::try_from(row).map_err(|what| D::Error::custom(format!("`rows[{index}]`: {what}")))
    })
    .collect()
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match cell(&value, Kind::Timestamp) {
        Ok(Some(Cell::Integer(ms))) => Ok(ms),
        Ok(_) => Ok(0),
        Err(what) => Err(D::Error::custom(format!("`now` {what}"))),
    }
}

/// What an answer says of each row. A column that is not answered stays as the row has it.
fn answers(outcome: &Outcome, description: &Description, rows: &Batch) -> Vec<Expected> {
    let kept = |row: usize| {
        let written = description.writes.iter().map(|written| {
            let answered = outcome.column(&written.name);
            let column = answered.or_else(|| rows.columns.iter().find(|column| column.name == written.name));
            (written.name.clone(), column.map_or(Value::Null, |column| value(column, row)))
        });
        Expected::Out(written.collect())
    };
    let mut answers: Vec<Expected> = (0..rows.rows as usize).map(kept).collect();
    for reject in &outcome.rejected {
        answers[reject.row as usize] = Expected::Rejected {
            reason: description.reasons[reject.reason as usize].clone(),
            detail: Some(kept_detail(&reject.detail)),
        };
    }
    for row in &outcome.dropped {
        answers[*row as usize] = Expected::Dropped;
    }
    answers
}

/// A detail as the host keeps it: whole, or its beginning and `…`.
fn kept_detail(detail: &str) -> String {
    match detail.len() > DETAIL_BYTES_MAX {
        true => format!("{}…", &detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)]),
        false => detail.to_owned(),
    }
}

/// What a fixture says of a row, in the form of [`answers`].
fn fitted(expected: &Expected, description: &Description, index: usize) -> Result<Expected, String> {
    match expected {
        Expected::Out(out) => {
            let known: Vec<&str> = description.writes.iter().map(|column| column.name.as_str()).collect();
            if let Some(name) = out.keys().find(|name| !known.contains(&name.as_str())) {
                return Err(format!(
                    "`rows[{index}].out` has the column `{name}`, but the rule writes no such column; {}",
                    hint(name, &known)
                ));
            }
            let fitted = description.writes.iter().map(|written| {
                let given = out.get(&written.name).unwrap_or(&Value::Null);
                let cell = cell(given, written.kind)
                    .map_err(|what| format!("`rows[{index}].out`: the column `{}` {what}", written.name))?;
                let column = column(&written.name, written.kind, vec![cell]);
                Ok((written.name.clone(), value(&column, 0)))
            });
            fitted.collect::<Result<_, String>>().map(Expected::Out)
        }
        Expected::Rejected { reason, .. } if !description.reasons.contains(reason) => {
            let known: Vec<&str> = description.reasons.iter().map(String::as_str).collect();
            let hint = hint(reason, &known);
            Err(format!("`rows[{index}].rejected` is `{reason}`, but the rule has no such reason; {hint}"))
        }
        other => Ok(other.clone()),
    }
}

/// Appends what is different about a row.
fn compare_row(index: usize, expected: &Expected, actual: &Expected, lines: &mut Vec<String>) {
    let mut add = |place: &str, expected: String, actual: String| {
        lines.extend([format!("rows[{index}]{place}"), format!("- {expected}"), format!("+ {actual}")]);
    };
    match (expected, actual) {
        (Expected::Out(expected), Expected::Out(actual)) => {
            for (name, expected) in expected {
                let actual = actual.get(name).unwrap_or(&Value::Null);
                if expected != actual {
                    add(&format!(".out.{name}"), expected.to_string(), actual.to_string());
                }
            }
        }
        (
            Expected::Rejected { reason, detail },
            Expected::Rejected { reason: actual_reason, detail: actual_detail },
        ) if reason == actual_reason => {
            if detail.is_some() && detail != actual_detail {
                add(".detail", json!(detail).to_string(), json!(actual_detail).to_string());
            }
        }
        (expected, actual) if expected == actual => {}
        (expected, actual) => add("", spaced(&expected.keys()), spaced(&actual.keys())),
    }
}

/// The first lines of a difference, and how many more there are.
pub fn shortened(lines: &[String]) -> String {
    let shown = lines.iter().take(LINES_MAX).cloned().collect::<Vec<_>>().join("\n");
    match lines.len().saturating_sub(LINES_MAX) {
        0 => shown,
        more => format!("{shown}\n… and {more} more lines"),
    }
}

/// What was probably meant, otherwise what is known.
fn hint(name: &str, known: &[&str]) -> String {
    // Below that two words have little more than a few letters in common.
    const ALIKE: f64 = 0.6;
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(name, known);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|nearest| likeness(nearest) >= ALIKE) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if known.is_empty() => "it has none".to_owned(),
        None => {
            let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("known are {}", known.join(", "))
        }
    }
}

/// A fixture as people write it: each row on a line of its own.
fn layout(tree: &Map<String, Value>) -> String {
    let entry = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            ("rows" | "remember", Value::Array(rows)) if !rows.is_empty() => {
                let rows: Vec<String> = rows.iter().map(|row| format!("    {}", spaced(row))).collect();
                format!("[\n{}\n  ]", rows.join(",\n"))
            }
            _ => spaced(value),
        };
        format!("  {}: {value}", json!(key))
    };
    let entries: Vec<String> = tree.iter().map(entry).collect();
    format!("{{\n{}\n}}\n", entries.join(",\n"))
}

/// JSON on one line with spaces between its parts.
fn spaced(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Spaced);
    value.serialize(&mut serializer).expect("memory takes all of it, and the keys are texts");
    String::from_utf8(out).expect("JSON is UTF-8")
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
