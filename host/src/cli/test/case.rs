//! A case of a pipeline: a file of rows, and what must come out when the pipeline reads it.
//!
//! The pipeline's own decode and rules run, in the one loop that every pipeline runs in; only its ends are others: the
//! source is the case's file, sink and dead letter are files in a temporary folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};
use tempfile::TempDir;
use tidegate_guest::fixture::shortened;

use super::Verdict;
use crate::error::{Error, Result};
use crate::lane::{self, RunOptions};
use crate::pipeline_file::finding::{Finding, hint};
use crate::pipeline_file::{
    self, DeadLetter, DeadLetterFile, Delivery, FileFormat, FileSink, FileSource, Format, Loaded, Sink,
    Source, Span,
};
use crate::shutdown::Shutdown;
use crate::summary::Progress;

/// After so long a difference is found with less care: thousands of lines, all of them others.
const DIFFERENCE: Duration = Duration::from_secs(2);

/// What of the summary a new case says.
const SUMMARY_KEYS: [&str; 8] =
    ["pipeline", "read", "written", "rejected", "dropped", "tombstones", "rejected_by", "dropped_by"];

/// The keys of a line of `rejected.jsonl`.
const REJECTED_KEYS: [&str; 4] = ["offset", "rule", "reason", "detail"];

/// `case.yaml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// The file of rows, relative to the case; `input.jsonl`, `input.csv` or `input.parquet` unless given.
    input: Option<String>,
    /// The time that the rules are told; the clock's unless given.
    now: Option<String>,
    /// What the case needs that a file cannot be, such as a database that decides about keys: it is skipped.
    needs: Option<String>,
}

/// What has come out.
struct Came {
    rows: String,
    rejected: Vec<Map<String, Value>>,
    summary: Map<String, Value>,
}

/// The case folders of a pipeline file, in the order of their names.
pub fn folders(pipeline: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(pipeline.with_extension("cases")) else { return Vec::new() };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()));
    let mut folders: Vec<PathBuf> = folders.collect();
    folders.sort();
    folders
}

/// Runs a case, and writes what came out into its files when `update` says so.
///
/// # Errors
/// What is wrong with the case's files, or with what the pipeline needs.
pub fn run(
    loaded: &Loaded,
    case: &Path,
    guests: &Path,
    update: bool,
    shutdown: &Shutdown,
) -> Result<Verdict> {
    let settings = settings(case)?;
    if let Some(needs) = settings.needs {
        return Ok(Verdict::Skipped(format!("it needs {needs}")));
    }
    let now = settings.now.as_deref().map(|now| {
        now.parse::<jiff::Timestamp>().map_err(|error| {
            let file = case.join("case.yaml");
            Error::Files(format!(
                "{}: `now` must be a time such as 2026-01-02T03:04:05Z: {error}",
                file.display()
            ))
        })
    });
    let now = now.transpose()?;
    let expected = Expected::read(case)?;
    if expected.is_nothing() && !update {
        return Err(Error::Files(format!(
            "the case `{}` says nothing of what must come out: write `rows.jsonl`, `rejected.jsonl` or `summary.json`, or \
             let `--update` write them",
            case.display()
        )));
    }
    let input = input(loaded, case, settings.input)?;
    // The same time for the rules and for the new case, which says it so that the next run comes to the same.
    let now_ms = now.map_or_else(lane::clock_ms, jiff::Timestamp::as_millisecond);
    let came = match came(loaded, &input, guests, now_ms, shutdown) {
        Ok(came) => came,
        Err(Error::Running(sentence)) => return Ok(Verdict::Failed(sentence)),
        Err(error) => return Err(error),
    };
    let lines = expected.difference(&came)?;
    if !update {
        return Ok(match lines.is_empty() {
            true => Verdict::Passed,
            false => Verdict::Failed(shortened(&lines)),
        });
    }
    if expected.is_nothing() && now.is_none() {
        say_now(case, now_ms)?;
    }
    Ok(match expected.update(&came)? {
        true => Verdict::Updated,
        false => Verdict::Passed,
    })
}

fn settings(case: &Path) -> Result<Settings> {
    let path = case.join("case.yaml");
    if !path.exists() {
        return Ok(Settings::default());
    }
    let wrong = |findings: Vec<Finding>| {
        let sentences: Vec<String> = findings.iter().map(ToString::to_string).collect();
        Error::Files(sentences.join("\n"))
    };
    let at = |faults: Vec<pipeline_file::tree::Fault>| {
        wrong(faults.into_iter().map(|(mark, sentence)| Finding::at(&path, mark, sentence)).collect())
    };
    let text = pipeline_file::read_text(&path).map_err(|finding| wrong(vec![finding]))?;
    let values =
        pipeline_file::interpolate::Values { variable: &|name| std::env::var(name).ok(), folder: case };
    let tree = pipeline_file::tree::parse(&text, &values).map_err(at)?;
    pipeline_file::build::build(&tree.root).map_err(at)
}

/// The file that the pipeline reads.
fn input(loaded: &Loaded, case: &Path, named: Option<String>) -> Result<PathBuf> {
    let name = named.unwrap_or_else(|| {
        let extension = match loaded.pipeline.decode.format {
            Format::Json | Format::Ccxt => "jsonl",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
        };
        format!("input.{extension}")
    });
    let path = case.join(&name);
    if !path.is_file() {
        return Err(Error::Files(format!(
            "the case `{}` has no file `{name}` that the pipeline could read; `input` in its `case.yaml` names another",
            case.display()
        )));
    }
    std::path::absolute(&path).map_err(|error| cannot("read", &path, &error))
}

/// Runs the pipeline between files.
fn came(loaded: &Loaded, input: &Path, guests: &Path, now_ms: i64, shutdown: &Shutdown) -> Result<Came> {
    let folder = TempDir::new()
        .map_err(|error| Error::Surroundings(format!("cannot make a temporary folder: {error}")))?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let mut loaded = loaded.clone();
    let pipeline = &mut loaded.pipeline;
    pipeline.source = Source::File(FileSource { path: input.to_string_lossy().into_owned() });
    pipeline.sink = Sink::File(FileSink { path: path("rows.jsonl"), format: FileFormat::Jsonl });
    pipeline.dead_letter = Some(DeadLetter::File(DeadLetterFile { path: path("rejected.jsonl") }));
    (pipeline.delivery, pipeline.lanes) = (Delivery::default(), 1);
    // Nobody asks, nothing is replaced, and hashes would differ with every build.
    (pipeline.http, pipeline.rule_versions) = (None, None);
    pipeline.deploy.watch = Span(Duration::ZERO);
    let options = RunOptions {
        guests: guests.into(),
        now_ms: Some(now_ms),
        instance: "test".into(),
        until_end: true,
        state: folder.path().into(),
        ..RunOptions::default()
    };
    let summary = lane::run(&loaded, &options, shutdown, &Progress::default())?;
    if summary.stopped {
        return Err(Error::Running("a signal has stopped it".into()));
    }
    let text = |name: &str| {
        let path = folder.path().join(name);
        std::fs::read_to_string(&path).map_err(|error| cannot("read", &path, &error))
    };
    let rejected = text("rejected.jsonl")?;
    let rejected = rejected.lines().map(|line| {
        let letter: Value = serde_json::from_str(line).expect("the host writes JSON");
        let keys = ["source_offset", "rule", "reason", "detail"];
        REJECTED_KEYS
            .iter()
            .zip(keys)
            .map(|(key, stored)| ((*key).to_owned(), letter[stored].clone()))
            .collect()
    });
    let Value::Object(summary) = json!(summary) else { unreachable!("a summary is an object") };
    Ok(Came { rows: text("rows.jsonl")?, rejected: rejected.collect(), summary })
}

/// What a case says, file by file; `None` for a file that is not there.
struct Expected {
    case: PathBuf,
    rows: Option<String>,
    rejected: Option<String>,
    summary: Option<Map<String, Value>>,
}

impl Expected {
    fn read(case: &Path) -> Result<Expected> {
        let text = |name: &str| {
            let path = case.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::Files(format!("{}: cannot be read: {error}", path.display()))),
            }
        };
        let (rows, rejected) = (text("rows.jsonl")?, text("rejected.jsonl")?);
        let summary = text("summary.json")?.map(|text| {
            serde_json::from_str(&text)
                .map_err(|error| Error::Files(format!("{}: {error}", case.join("summary.json").display())))
        });
        Ok(Expected { case: case.into(), rows, rejected, summary: summary.transpose()? })
    }

    fn is_nothing(&self) -> bool {
        self.rows.is_none() && self.rejected.is_none() && self.summary.is_none()
    }

    /// Lines that say what is different.
    fn difference(&self, came: &Came) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        if let Some(rows) = &self.rows {
            let name = "rows.jsonl";
            compare_lines(name, &self.objects(name, rows)?, &objects_of(&came.rows), &mut lines);
        }
        if let Some(rejected) = &self.rejected {
            let name = "rejected.jsonl";
            let expected = self.rejected_lines(rejected)?;
            compare_lines(name, &expected, &rejects(came, &expected), &mut lines);
        }
        for (key, expected) in self.summary.iter().flatten() {
            let Some(actual) = came.summary.get(key) else {
                let known: Vec<&str> = came.summary.keys().map(String::as_str).collect();
                let path = self.case.join("summary.json");
                let hint = hint(key, &known);
                return Err(Error::Files(format!("{}: a summary has no `{key}`; {hint}", path.display())));
            };
            compare_values(key, expected, actual, &mut lines);
        }
        Ok(lines)
    }

    /// Writes what is different, and says whether anything was.
    fn update(&self, came: &Came) -> Result<bool> {
        let is_new = self.is_nothing();
        let mut is_changed = false;
        let mut write = |name: &str, text: String| {
            let path = self.case.join(name);
            is_changed = true;
            std::fs::write(&path, text).map_err(|error| cannot("write", &path, &error))
        };
        let differs = |name: &str, expected: &[Map<String, Value>], actual: &[Map<String, Value>]| {
            let mut lines = Vec::new();
            compare_lines(name, expected, actual, &mut lines);
            !lines.is_empty()
        };
        let rows = self.rows.as_ref().map(|rows| self.objects("rows.jsonl", rows)).transpose()?;
        if is_new || rows.is_some_and(|rows| differs("rows.jsonl", &rows, &objects_of(&came.rows))) {
            write("rows.jsonl", came.rows.clone())?;
        }
        let rejected = self.rejected.as_ref().map(|text| self.rejected_lines(text)).transpose()?;
        let actual = rejects(came, rejected.as_deref().unwrap_or_default());
        if is_new || rejected.is_some_and(|rejected| differs("rejected.jsonl", &rejected, &actual)) {
            write(
                "rejected.jsonl",
                actual.into_iter().map(|line| format!("{}\n", Value::Object(line))).collect(),
            )?;
        }
        let keys: Vec<&str> = match &self.summary {
            Some(summary) => summary.keys().map(String::as_str).collect(),
            None if is_new => SUMMARY_KEYS.to_vec(),
            None => Vec::new(),
        };
        let mut lines = Vec::new();
        let actual = |key: &str| came.summary.get(key).cloned().unwrap_or_default();
        for (key, expected) in self.summary.iter().flatten() {
            compare_values(key, expected, &actual(key), &mut lines);
        }
        if is_new || !lines.is_empty() {
            let summary: Map<String, Value> =
                keys.into_iter().map(|key| (key.to_owned(), actual(key))).collect();
            write("summary.json", super::super::pretty(&Value::Object(summary)))?;
        }
        Ok(is_changed)
    }

    /// The objects of a file, one a line.
    fn objects(&self, name: &str, text: &str) -> Result<Vec<Map<String, Value>>> {
        let object = |(index, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| {
                let path = self.case.join(name);
                Error::Files(format!(
                    "{}:{}: this line is no JSON object: {error}",
                    path.display(),
                    index + 1
                ))
            })
        };
        text.lines().enumerate().map(object).collect()
    }

    fn rejected_lines(&self, text: &str) -> Result<Vec<Map<String, Value>>> {
        let lines = self.objects("rejected.jsonl", text)?;
        for (index, line) in lines.iter().enumerate() {
            let unknown = line.keys().find(|key| !REJECTED_KEYS.contains(&key.as_str()));
            let missing = REJECTED_KEYS[..3].iter().find(|key| !line.contains_key(**key));
            let sentence = match (unknown, missing) {
                (Some(key), _) => format!("unknown key `{key}`; {}", hint(key, &REJECTED_KEYS)),
                (None, Some(key)) => format!("missing key `{key}`"),
                (None, None) => continue,
            };
            let path = self.case.join("rejected.jsonl");
            return Err(Error::Files(format!("{}:{}: {sentence}", path.display(), index + 1)));
        }
        Ok(lines)
    }
}

/// Lines that the host has written.
fn objects_of(text: &str) -> Vec<Map<String, Value>> {
    text.lines().map(|line| serde_json::from_str(line).expect("the host writes JSON objects")).collect()
}

/// The rejected rows that came, with a detail where the expected line of the row has one.
fn rejects(came: &Came, expected: &[Map<String, Value>]) -> Vec<Map<String, Value>> {
    let with_detail: HashSet<u64> = (expected.iter())
        .filter(|line| line.contains_key("detail"))
        .filter_map(|line| line["offset"].as_u64())
        .collect();
    let keeps = |line: &Map<String, Value>| {
        line["offset"].as_u64().is_some_and(|offset| with_detail.contains(&offset))
    };
    let mut rejected = came.rejected.clone();
    for line in rejected.iter_mut().filter(|line| !keeps(line)) {
        line.shift_remove("detail");
    }
    rejected
}

/// The case says at which time its rules were run.
fn say_now(case: &Path, now_ms: i64) -> Result<()> {
    let path = case.join("case.yaml");
    let before = match std::fs::read_to_string(&path) {
        Ok(text) if !text.is_empty() && !text.ends_with('\n') => format!("{text}\n"),
        Ok(text) => text,
        Err(_) => String::new(),
    };
    let now = jiff::Timestamp::from_millisecond(now_ms).expect("the clock's time is one");
    std::fs::write(&path, format!("{before}now: {now}\n")).map_err(|error| cannot("write", &path, &error))
}

/// Appends how lines differ: pairs by column, others whole.
fn compare_lines(
    name: &str,
    expected: &[Map<String, Value>],
    actual: &[Map<String, Value>],
    lines: &mut Vec<String>,
) {
    let texts = |objects: &[Map<String, Value>]| -> Vec<String> { objects.iter().map(comparable).collect() };
    let deadline = Some(Instant::now() + DIFFERENCE);
    let operations =
        capture_diff_slices_deadline(Algorithm::Myers, &texts(expected), &texts(actual), deadline);
    for operation in operations {
        let (old, new) = (operation.old_range(), operation.new_range());
        if matches!(operation, DiffOp::Equal { .. }) {
            continue;
        }
        let pairs = old.len().min(new.len());
        for (old, new) in old.clone().zip(new.clone()) {
            compare_objects(&format!("{name}:{}", old + 1), &expected[old], &actual[new], lines);
        }
        let missing = &expected[old.start + pairs..old.end];
        let more = &actual[new.start + pairs..new.end];
        if !missing.is_empty() || !more.is_empty() {
            lines.push(format!("{name}:{}", old.start + pairs + 1));
            lines.extend(missing.iter().map(|line| format!("- {}", json!(line))));
            lines.extend(more.iter().map(|line| format!("+ {}", json!(line))));
        }
    }
}

/// Appends which values of two lines differ.
fn compare_objects(
    place: &str,
    expected: &Map<String, Value>,
    actual: &Map<String, Value>,
    lines: &mut Vec<String>,
) {
    let more = actual.keys().filter(|key| !expected.contains_key(*key));
    for key in expected.keys().chain(more) {
        let shown = |object: &Map<String, Value>| object.get(key).map(|value| format!("{value}"));
        let same = |object: &Map<String, Value>| object.get(key).cloned().map(comparable_value);
        if same(expected) != same(actual) {
            lines.push(format!("{place} {key}"));
            lines.extend(shown(expected).map(|value| format!("- {value}")));
            lines.extend(shown(actual).map(|value| format!("+ {value}")));
        }
    }
}

/// Appends how a value of the summary differs; lists are compared without their order.
fn compare_values(key: &str, expected: &Value, actual: &Value, lines: &mut Vec<String>) {
    let place = format!("summary.json {key}");
    match (expected, actual) {
        (Value::Array(expected), Value::Array(actual)) => {
            let texts = |list: &[Value]| {
                let mut texts: Vec<String> =
                    list.iter().map(|value| comparable_value(value.clone()).to_string()).collect();
                texts.sort();
                texts
            };
            let (expected, actual) = (texts(expected), texts(actual));
            if expected != actual {
                lines.push(place);
                lines.extend(
                    expected.iter().filter(|text| !actual.contains(text)).map(|text| format!("- {text}")),
                );
                lines.extend(
                    actual.iter().filter(|text| !expected.contains(text)).map(|text| format!("+ {text}")),
                );
            }
        }
        _ if comparable_value(expected.clone()) == comparable_value(actual.clone()) => {}
        _ => lines.extend([place, format!("- {expected}"), format!("+ {actual}")]),
    }
}

/// A line as a text that is the same for the same values, in whatever order and form they are written.
fn comparable(object: &Map<String, Value>) -> String {
    comparable_value(Value::Object(object.clone())).to_string()
}

fn comparable_value(mut value: Value) -> Value {
    value.sort_all_objects();
    whole_numbers(&mut value);
    value
}

/// `10.0` and `10` are one number.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            // Up to 2^53 every whole number is a float, so none is mistaken for another.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT);
            if let Some(float) = whole {
                *value = json!(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(entries) => entries.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Surroundings(format!("cannot {what} `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(text: &str) -> Vec<Map<String, Value>> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn difference(expected: &str, actual: &str) -> Vec<String> {
        let mut lines = Vec::new();
        compare_lines("rows.jsonl", &objects(expected), &objects(actual), &mut lines);
        lines
    }

    #[test]
    fn lines_are_the_same_in_any_order_of_keys_and_form_of_numbers() {
        let expected = "{\"a\":1,\"b\":{\"c\":2.0}}\n{\"a\":\"1\"}\n";
        assert_eq!(difference(expected, "{\"b\":{\"c\":2},\"a\":1.0}\n{\"a\":\"1\"}\n"), [""; 0]);
        assert_eq!(difference("{\"a\":1}", "{\"a\":\"1\"}"), ["rows.jsonl:1 a", "- 1", "+ \"1\""]);
    }

    #[test]
    fn a_changed_line_is_shown_by_column_and_others_whole() {
        let expected = "{\"a\":1,\"b\":1}\n{\"a\":2}\n{\"a\":3}\n";
        let changed = "{\"a\":1,\"b\":9,\"c\":0}\n{\"a\":2}\n{\"a\":3}\n";
        assert_eq!(difference(expected, changed), ["rows.jsonl:1 b", "- 1", "+ 9", "rows.jsonl:1 c", "+ 0"]);
        assert_eq!(difference(expected, "{\"a\":1,\"b\":1}\n{\"a\":3}\n"), ["rows.jsonl:2", "- {\"a\":2}"]);
        let more = format!("{expected}{{\"a\":4}}\n");
        assert_eq!(difference(expected, &more), ["rows.jsonl:4", "+ {\"a\":4}"]);
    }

    #[test]
    fn lists_of_the_summary_have_no_order() {
        let mut lines = Vec::new();
        let by = |reason: &str, count: u64| json!({ "reason": reason, "count": count });
        let expected = json!([by("a", 1), by("b", 2)]);
        compare_values("rejected_by", &expected, &json!([by("b", 2), by("a", 1)]), &mut lines);
        assert_eq!(lines, [""; 0]);
        compare_values("rejected_by", &expected, &json!([by("b", 3), by("a", 1)]), &mut lines);
        assert_eq!(
            lines,
            [
                "summary.json rejected_by",
                "- {\"count\":2,\"reason\":\"b\"}",
                "+ {\"count\":3,\"reason\":\"b\"}"
            ]
        );
    }
}
