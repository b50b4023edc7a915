//! `tidegate tap`

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use super::deploy::Target;
use super::report::grouped;
use super::{FILES_ARE_WRONG, Global};
use crate::error::{Error, Result};
use crate::life::short;
use crate::shutdown::Shutdown;
use crate::tap::{LeftOut, Line, ROWS_PER_SECOND_MAX, Row, Verdict};

/// Watch rows of a running pipeline before and after its rules
///
/// Shows each row that a rule is given, and what becomes of it: kept, with the columns that the rule has added; rejected, with
/// the reason; or dropped. The pipeline does not wait for whoever watches: rows that are too many are left out, and counted.
/// What is shown can be undone when a later step fails, and then comes again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate tap pipelines/validate.yaml --where symbol=BTC/USDT --where source=binance
  tidegate tap pipelines/validate.yaml --rule validate --verdict rejected
  tidegate tap pipelines/validate.yaml --reason off_grid --limit 10
  tidegate tap pipelines/validate.yaml --rule enrich --json | jq .after")]
pub struct Arguments {
    /// The pipeline file of the running pipeline
    #[arg(value_name = "FILE")]
    pipeline: PathBuf,
    /// Only at this rule; `decode` shows rows that do not decode
    #[arg(long)]
    rule: Option<String>,
    /// Only rows that have this value in a column; several must all hold
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    columns: Vec<String>,
    /// Only rows of which this became
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Only rows that were rejected for this reason
    #[arg(long)]
    reason: Option<String>,
    /// The most rows a second
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(ROWS_PER_SECOND_MAX)))]
    rows_per_second: u32,
    /// End after so many rows
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print each row as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let Some((_, host)) = arguments.target.host(global, &arguments.pipeline)? else {
        return Ok(FILES_ARE_WRONG);
    };
    let shutdown = Shutdown::on_signals()?;
    let pairs = pairs(arguments);
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut each = |line: &[u8]| {
        if !line.is_empty() {
            let parsed = Line::parse(line).map_err(|error| {
                Error::Running(format!(
                    "the host has sent what is no row ({error}); is it of another version?"
                ))
            })?;
            left -= u64::from(matches!(parsed, Line::Row(_)));
            let text = if arguments.json { line.to_vec() } else { text(&parsed).into_bytes() };
            if !write(&text)? {
                return Ok(false);
            }
        }
        Ok(left > 0 && !shutdown.is_requested())
    };
    // A host ends each answer after a while.
    while host.follow("/tap", &pairs, &mut each)? {}
    Ok(0)
}

fn pairs(arguments: &Arguments) -> Vec<(&'static str, String)> {
    let Arguments { rule, columns, verdict, reason, rows_per_second, .. } = arguments;
    let mut pairs = vec![("rows_per_second", rows_per_second.to_string())];
    pairs.extend(rule.iter().map(|rule| ("rule", rule.clone())));
    pairs.extend(reason.iter().map(|reason| ("reason", reason.clone())));
    pairs.extend(verdict.map(|verdict| ("verdict", word(verdict).into())));
    pairs.extend(columns.iter().map(|column| ("where", column.clone())));
    pairs
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Kept => "kept",
        Verdict::Rejected => "rejected",
        Verdict::Dropped => "dropped",
    }
}

/// A line for a person: what came, and what the rule has made of it.
fn text(line: &Line) -> String {
    let row = match line {
        Line::Row(row) => row,
        Line::LeftOut(LeftOut { left_out }) => {
            return format!("({} rows more went by; `--where` shows fewer)\n", grouped(*left_out));
        }
    };
    let Row { rule, version, topic, partition, offset, verdict, .. } = &**row;
    let mut text = format!("{rule} {} {} {topic}/{partition}@{offset}", short(version), word(*verdict));
    if let Some(before) = &row.before {
        text += &format!(" {before}");
    }
    if let Some(undecoded) = &row.text {
        text += &format!(" {undecoded:?}");
    }
    if let Some(added) = added(row) {
        text += &format!(" + {added}");
    }
    if let (Some(reason), Some(detail)) = (&row.reason, &row.detail) {
        text += &format!(" ! {reason}: {detail}");
    }
    text + "\n"
}

/// The columns that are new or other than before, when there are any.
fn added(row: &Row) -> Option<Value> {
    let parse = |json: &Option<Box<serde_json::value::RawValue>>| {
        json.as_ref().and_then(|json| serde_json::from_str::<Map<String, Value>>(json.get()).ok())
    };
    let (before, after) = (parse(&row.before)?, parse(&row.after)?);
    let added: Map<String, Value> =
        after.into_iter().filter(|(name, value)| before.get(name) != Some(value)).collect();
    (!added.is_empty()).then_some(Value::Object(added))
}

/// Whether somebody reads it still.
fn write(text: &[u8]) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::Surroundings(format!("cannot write to standard output: {error}"))),
    }
}
