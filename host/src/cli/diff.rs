//! `tidegate diff`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::report::grouped;
use super::run::deployed_here;
use super::{FILES_ARE_WRONG, Global, list, pretty, print};
use crate::batch::{Batch, RawBatch};
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::kafka::Patience;
use crate::lane::{self, Place, RunOptions};
use crate::life::short;
use crate::pipeline_file::finding::hint;
use crate::pipeline_file::{self, FileSource, Loaded, Source};
use crate::rule::compare::{Difference, Verdict, each_difference};
use crate::rule::{Applied, Component, Rules, Slot};
use crate::shutdown::Shutdown;
use crate::sink::values::{Value, Values};
use crate::source::tail::{self, Tail};

/// How many rows that differ are shown: enough to see what kind of rows they are.
const SAMPLES_MAX: usize = 10;

/// The columns that say which row it is, where the pipeline has them.
const KEY: [&str; 4] = ["source", "symbol", "timeframe", "timestamp"];

/// Compare a rule with a new version of it, over rows of a pipeline
///
/// The last rows of the pipeline's source go through decode and the rules before, then through the rule that the pipeline
/// file names and through the candidate, with the same settings. Verdicts and the columns that either of them writes are
/// compared; the sentences of rejected rows are not. Nothing is written, and no position is moved. Both versions begin without
/// memory.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate diff new/validate.wasm --pipeline pipelines/quickstart.yaml --rule validate
  tidegate diff enrich.wasm --pipeline pipelines/validate.yaml --rule enrich --rows 1000000 --json
  tidegate diff dedup.wasm --pipeline pipelines/live.yaml --rule dedup --input yesterday.jsonl

The exit code is 0 when no row differs, and 1 when one does.")]
pub struct Arguments {
    /// The new version
    #[arg(value_name = "CANDIDATE")]
    candidate: PathBuf,
    /// The pipeline file
    #[arg(long, value_name = "FILE")]
    pipeline: PathBuf,
    /// The rule's name in the pipeline file
    #[arg(long, value_name = "NAME")]
    rule: String,
    /// At most so many rows, the last ones; of a topic as many of each partition
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Rows of this file in the pipeline's format, in the place of its source
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The time that the rules see
    #[arg(long, value_name = "RFC3339")]
    now: Option<jiff::Timestamp>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Differences {
    /// SHA-256 of the version that runs here: what was deployed, or the component that the pipeline file names.
    current: String,
    /// SHA-256 of the candidate.
    candidate: String,
    /// Rows that came to the rule.
    rows: u64,
    /// Rows about which the versions differ.
    differing: u64,
    /// How many rows have which verdicts.
    verdicts: Vec<VerdictCount>,
    /// How many rows, kept by both, have another value in which column.
    columns: BTreeMap<String, u64>,
    /// The first rows that differ.
    samples: Vec<Sample>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct VerdictCount {
    current: String,
    candidate: String,
    count: u64,
}

/// A row that differs.
#[derive(Debug, PartialEq, Serialize)]
struct Sample {
    topic: String,
    partition: i32,
    offset: u64,
    /// The columns of [`KEY`].
    key: Map<String, Json>,
    current: Side,
    candidate: Side,
}

/// What a version says of a row.
#[derive(Debug, PartialEq, Serialize)]
struct Side {
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The columns that differ.
    #[serde(skip_serializing_if = "Map::is_empty")]
    values: Map<String, Json>,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let mut loaded = match pipeline_file::read(&arguments.pipeline) {
        Ok(loaded) => loaded,
        Err(findings) => {
            list(&findings);
            return Ok(FILES_ARE_WRONG);
        }
    };
    let Some(index) = loaded.pipeline.rules.iter().position(|rule| rule.name == arguments.rule) else {
        let known: Vec<&str> = loaded.pipeline.rules.iter().map(|rule| rule.name.as_str()).collect();
        let hint = hint(&arguments.rule, &known);
        return Err(Error::Files(
            loaded
                .finding(&["rules"], &format!("the pipeline has no rule `{}`; {hint}", arguments.rule))
                .to_string(),
        ));
    };
    if let Some(input) = &arguments.input {
        let path = std::path::absolute(input)
            .map_err(|error| Error::Files(format!("`{}` is no file: {error}", input.display())))?;
        loaded.pipeline.source = Source::File(FileSource { path: path.to_string_lossy().into_owned() });
    }
    let differences = compare(global, arguments, &loaded, index)?;
    print(&match arguments.json {
        true => pretty(&json!(differences)),
        false => text(&arguments.rule, &differences),
    })?;
    Ok(u8::from(differences.differing > 0))
}

fn compare(global: &Global, arguments: &Arguments, loaded: &Loaded, index: usize) -> Result<Differences> {
    let guests = global.guests_folder();
    let options = RunOptions {
        guests: guests.clone(),
        state: global.state_folder(),
        deployed_in: Some(deployed_here(loaded)),
        ..RunOptions::default()
    };
    let mut decoder = Decoder::new(&loaded.pipeline.decode)?;
    let mut components = Rules::open_rules(loaded, &options)?.running();
    let mut before = lane::open_rules(loaded, &components, &decoder)?;
    let current = components[index].sha256.to_string();
    components[index] = Component::load(&arguments.candidate, &loaded.pipeline.rules[index].limits)?;
    let mut candidate = lane::open_rules(loaded, &components, &decoder)?.swap_remove(index);
    before.truncate(index + 1);
    let Some(mut rule) = before.pop() else { unreachable!("the rule is one of the pipeline's") };
    let place = Place {
        folder: &loaded.folder,
        guests: &guests,
        state: &std::env::temp_dir(),
        instance: "diff",
        lane: 0,
        until_end: true,
        backfill: None,
        adapters: None,
        patience: Patience { forever: false, shutdown: Shutdown::on_signals()?, lane: None },
    };
    let Tail { batches, header } = tail::read(&loaded.pipeline, &place, arguments.rows as usize)?;
    if let Some(header) = header {
        decoder.set_header(&header);
    }
    let now_ms = arguments.now.map_or_else(lane::clock_ms, jiff::Timestamp::as_millisecond);
    let mut found =
        Differences { current, candidate: candidate.version().to_owned(), ..Differences::default() };
    let columns = written(&rule, &candidate);
    let version: Arc<str> = env!("CARGO_PKG_VERSION").into();
    for raw in &batches {
        let partition = raw.partition.number;
        let mut kept = decoder.decode(raw, &version).batch;
        for earlier in &mut before {
            kept = earlier.apply(partition, now_ms, kept, &mut |_, _, _| Ok(()))?.kept;
        }
        let apply = |rule: &mut Slot| rule.apply(partition, now_ms, kept.clone(), &mut |_, _, _| Ok(()));
        let one = apply(&mut rule).map_err(|error| error.in_context("the current version"))?;
        let other = apply(&mut candidate).map_err(|error| error.in_context("the candidate"))?;
        found.add(raw, &kept, &one, &other, &columns);
    }
    Ok(found)
}

/// The columns that either version writes.
fn written(current: &Slot, candidate: &Slot) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in current.description().writes.iter().chain(&candidate.description().writes) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

impl Differences {
    /// Adds a batch that came to the rule as `input`.
    fn add(
        &mut self,
        raw: &RawBatch,
        input: &Batch,
        current: &Applied,
        candidate: &Applied,
        columns: &[String],
    ) {
        self.rows += input.rows.len() as u64;
        let columns = columns.iter().map(String::as_str);
        each_difference(&input.rows, columns, current, candidate, |difference| {
            let Difference { place, row, current, candidate, values } = difference;
            self.differing += 1;
            for (name, ..) in &values {
                *self.columns.entry((*name).to_owned()).or_default() += 1;
            }
            if !current.is_same(&candidate) {
                let (one, other) = (verdict(&current), verdict(&candidate));
                let is_same = |known: &&mut VerdictCount| known.current == one && known.candidate == other;
                match self.verdicts.iter_mut().find(is_same) {
                    Some(known) => known.count += 1,
                    None => self.verdicts.push(VerdictCount { current: one, candidate: other, count: 1 }),
                }
            }
            if self.samples.len() < SAMPLES_MAX {
                let key = KEY.iter().filter_map(|name| {
                    let values = column(&input.columns, name)?;
                    Some(((*name).to_owned(), shown(values.at(place))))
                });
                let of = |side: fn((Value<'_>, Value<'_>)) -> Json| -> Map<String, Json> {
                    values
                        .iter()
                        .map(|(name, one, other)| ((*name).to_owned(), side((*one, *other))))
                        .collect()
                };
                self.samples.push(Sample {
                    topic: raw.partition.topic.to_string(),
                    partition: raw.partition.number,
                    offset: raw.offset(row),
                    key: key.collect(),
                    current: Side::new(&current, of(|(one, _)| shown(one))),
                    candidate: Side::new(&candidate, of(|(_, other)| shown(other))),
                });
            }
        });
    }
}

impl Side {
    fn new(said: &Verdict<'_>, values: Map<String, Json>) -> Side {
        let detail = match said {
            Verdict::Rejected { detail, .. } => Some((*detail).to_owned()),
            Verdict::Kept | Verdict::Dropped => None,
        };
        Side { verdict: verdict(said), detail, values }
    }
}

fn verdict(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Kept => "kept".to_owned(),
        Verdict::Rejected { reason, .. } => format!("rejected: {reason}"),
        Verdict::Dropped => "dropped".to_owned(),
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Option<Values<'a>> {
    batch.column_by_name(name).map(Values::of)
}

fn shown(value: Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(value) => json!(value),
        Value::Timestamp(ms) => {
            jiff::Timestamp::from_millisecond(ms).map_or_else(|_| json!(ms), |time| json!(time.to_string()))
        }
        Value::Float(value) if value.is_finite() => json!(value),
        Value::Float(value) => json!(value.to_string()),
        Value::Boolean(value) => json!(value),
        Value::Text(text) => json!(text),
    }
}

fn text(rule: &str, found: &Differences) -> String {
    let (rows, differing) = (grouped(found.rows), grouped(found.differing));
    let mut text = format!(
        "{rule}: {differing} of {rows} rows differ between {} and the candidate {}\n",
        short(&found.current),
        short(&found.candidate)
    );
    if found.differing == 0 {
        return text;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["what", "current", "candidate", "rows"]);
    for VerdictCount { current, candidate, count } in &found.verdicts {
        table.add_row(["verdict", current, candidate, &grouped(*count)]);
    }
    for (column, count) in &found.columns {
        table.add_row([&format!("column {column}"), "", "", &grouped(*count)]);
    }
    text += &format!("{table}\n");
    for Sample { topic, partition, offset, key, current, candidate } in &found.samples {
        let key: Vec<String> = key
            .values()
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect();
        text += &format!("{topic}/{partition}@{offset} {}\n", key.join(" "));
        for (sign, side) in [('-', current), ('+', candidate)] {
            let values = side.values.iter().map(|(name, value)| format!("{name} {value}"));
            let more = values.chain(side.detail.clone()).collect::<Vec<_>>().join(", ");
            let colon = if more.is_empty() { "" } else { ": " };
            text += &format!("{sign} {}{colon}{more}\n", side.verdict);
        }
    }
    match found.differing - found.samples.len() as u64 {
        0 => text,
        more => text + &format!("… and {} more rows\n", grouped(more)),
    }
}
