//! `tidegate rules`

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use super::deploy::{Target, comparison};
use super::report::grouped;
use super::{FILES_ARE_WRONG, Global, pretty, print};
use crate::error::Result;
use crate::rule::lifecycle::{RuleStatus, VersionStatus, short};

/// Show the rules of a running pipeline: their versions, and what these have decided
///
/// Of each version: since when it runs, how many rows it has decided since the host began, which it rejected and why, how
/// long it takes for a row, and on how many it failed; and of a candidate that is tried what it would have decided otherwise.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate rules pipelines/validate.yaml
  tidegate rules pipelines/validate.yaml --json | jq '.[] | {rule, current}'")]
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
    if arguments.json {
        let rules: serde_json::Value = host.get("/rules")?;
        print(&pretty(&rules))?;
        return Ok(0);
    }
    let rules: Vec<RuleStatus> = host.get("/rules")?;
    print(&text(&rules))?;
    Ok(0)
}

fn text(rules: &[RuleStatus]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "rule", "version", "state", "since", "rows", "rejected", "dropped", "failed", "ns a row",
    ]);
    for rule in rules {
        for version in rule.versions.iter().rev() {
            let (time, state) = (at(version.record.since_ms), state(rule, version));
            let rejected: u64 = version.rejected.values().sum();
            table.add_row([
                rule.rule.clone(),
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
    for rule in rules {
        for version in &rule.versions {
            for (reason, rows) in &version.rejected {
                let version = short(&version.record.sha256);
                text += &format!("{} {version}: rejected {} rows as {reason}\n", rule.rule, grouped(*rows));
            }
            if let Some(why) = &version.record.taken_back {
                text += &format!("{} {}: taken back: it {why}\n", rule.rule, short(&version.record.sha256));
            }
        }
        if let Some(candidate) = &rule.candidate {
            text += &comparison(&rule.rule, candidate);
        }
    }
    text
}

fn state(rule: &RuleStatus, version: &VersionStatus) -> String {
    let is = |sha256: &str| version.record.sha256 == sha256;
    if version.record.taken_back.is_some() {
        "taken back".into()
    } else if is(&rule.current) {
        match (rule.probation_until_ms, rule.is_in_all_lanes) {
            (_, false) => "begins".into(),
            (Some(until_ms), true) => format!("on probation until {}", at(until_ms)),
            (None, true) => "decides".into(),
        }
    } else if rule.previous.as_deref().is_some_and(is) {
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
