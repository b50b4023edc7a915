//! `tidegate rules`

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use super::deploy::{Target, comparison};
use super::report::grouped;
use super::{FILES_ARE_WRONG, Global, pretty, print};
use crate::error::Result;
use crate::life::{PartStatus, VersionStatus, short};

/// Show the rules and the exchanges of a running pipeline: their versions, and what these have decided
///
/// Of each version: since when it runs, how many rows it has decided since the host began, which it rejected and why, how
/// long it takes for a row, and on how many it failed; and of a candidate that is tried what it would have decided otherwise. Of
/// the adapter of an exchange the rows are candles that it has read, and `rejected` are tasks without any.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate rules pipelines/validate.yaml
  tidegate rules pipelines/validate.yaml --json | jq '.[] | {name, current}'")]
pub struct Arguments {
    /// The pipeline file of the running pipeline
    #[arg(value_name = "FILE")]
    pipeline: PathBuf,
    /// Print what the host answers as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let Some((_, host)) = arguments.target.host(global, &arguments.pipeline)? else {
        return Ok(FILES_ARE_WRONG);
    };
    let mut parts: Vec<PartStatus> = host.get("/rules")?;
    let exchanges: Vec<PartStatus> = host.get("/exchanges")?;
    parts.extend(exchanges);
    print(&if arguments.json { pretty(&serde_json::json!(parts)) } else { text(&parts) })?;
    Ok(0)
}

fn text(parts: &[PartStatus]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "name", "version", "state", "since", "rows", "rejected", "dropped", "failed", "ns a row",
    ]);
    for part in parts {
        for version in part.versions.iter().rev() {
            let (time, state) = (at(version.record.since_ms), state(part, version));
            let rejected: u64 = version.rejected.values().sum();
            table.add_row([
                part.name.clone(),
                short(&version.record.sha256).into(),
                state,
                time,
                grouped(version.rows),
                grouped(rejected),
                grouped(version.dropped),
                grouped(version.failed_rows),
                format!("{:.0}", version.ns_per_row),
            ]);
        }
    }
    for number in 4..9 {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{table}\n");
    for part in parts {
        for version in &part.versions {
            for (reason, rows) in &version.rejected {
                let version = short(&version.record.sha256);
                text += &format!("{} {version}: rejected {} rows as {reason}\n", part.name, grouped(*rows));
            }
            if let Some(why) = &version.record.taken_back {
                text += &format!("{} {}: taken back: it {why}\n", part.name, short(&version.record.sha256));
            }
        }
        if let Some(candidate) = &part.candidate {
            text += &comparison(&part.name, candidate);
        }
    }
    text
}

fn state(part: &PartStatus, version: &VersionStatus) -> String {
    let is = |sha256: &str| version.record.sha256 == sha256;
    if version.record.taken_back.is_some() {
        "taken back".into()
    } else if is(&part.current) {
        match (part.probation_until_ms, part.is_in_all_lanes) {
            (_, false) => "begins".into(),
            (Some(until_ms), true) => format!("on probation until {}", at(until_ms)),
            (None, true) => "decides".into(),
        }
    } else if part.previous.as_deref().is_some_and(is) {
        "before".into()
    } else {
        "earlier".into()
    }
}

/// A time, to the second.
fn at(time_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(time_ms)
        .map_or_else(|_| time_ms.to_string(), |time| time.strftime("%FT%TZ").to_string())
}
