//! `tidegate deploy`, `promote` and `rollback`

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::{FILES_ARE_WRONG, Global, list, print};
use crate::error::{Error, Result};
use crate::http::Change;
use crate::http::client::Host;
use crate::life::lifecycle::CandidateStatus;
use crate::life::{Outcome, PartStatus, What, short};
use crate::pipeline_file::{self, AdapterLimits, Limits, Loaded, Span};
use crate::wasm;

/// How often `--wait` asks.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long `--wait` waits for a lane that has no rows and no time, beyond the probation.
const LANES_TIME: Duration = Duration::from_secs(120);

/// How long after a probation the host is given to say that rows have passed: commits to Kafka come once a second, and
/// later on a busy machine.
const PROOF_MS: i64 = 3_000;

/// Which running pipeline is meant.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// Where the pipeline answers, when it is not what the pipeline file says
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<String>,
    /// The file of the token, when it is not where the pipeline file or the state folder has it
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

impl Target {
    /// The host that runs the pipeline of a file; none when the file is wrong, which is said.
    pub fn host(&self, global: &Global, pipeline: &Path) -> Result<Option<(Loaded, Host)>> {
        match pipeline_file::read(pipeline) {
            Ok(loaded) => {
                let (address, token) = (self.address.as_deref(), self.token_file.as_deref());
                let host = Host::of(&loaded, address, token, &global.state_folder())?;
                Ok(Some((loaded, host)))
            }
            Err(findings) => {
                list(&findings);
                Ok(None)
            }
        }
    }
}

/// What is replaced: one of both is given.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Part {
    /// The rule's name in the pipeline file
    #[arg(long)]
    rule: Option<String>,
    /// The exchange's name in the pipeline file: its adapter is replaced
    #[arg(long)]
    exchange: Option<String>,
}

impl Part {
    fn what(&self) -> What {
        if self.exchange.is_some() { What::Exchange } else { What::Rule }
    }

    fn name(&self) -> &str {
        self.exchange.as_ref().or(self.rule.as_ref()).map_or("", String::as_str)
    }

    /// Where it is in the API. Whatever is in its name, it is one part of the path.
    fn path(&self) -> String {
        let name = percent_encoding::utf8_percent_encode(self.name(), percent_encoding::NON_ALPHANUMERIC);
        format!("/{}s/{name}", self.what())
    }

    /// How large its component may be, of what the pipeline file has: of what it does not have the host says so.
    fn file_limit_bytes(&self, loaded: &Loaded) -> u64 {
        let pipeline = &loaded.pipeline;
        let rule =
            || pipeline.rules.iter().find(|rule| rule.name == self.name()).map(|rule| rule.limits.file);
        let exchange = || {
            let exchanges = &pipeline.source.exchange()?.exchanges;
            exchanges.iter().find(|known| known.name() == self.name()).map(|exchange| exchange.limits.file)
        };
        match self.what() {
            What::Rule => rule().unwrap_or(Limits::default().file).0,
            What::Exchange => exchange().unwrap_or(AdapterLimits::default().file).0,
        }
    }
}

/// Replace a rule of a running pipeline, or the adapter of an exchange, or try the new version beside it
///
/// The host checks the component, runs its fixtures, and lets its lanes go over to it between two batches. For the time of
/// `deploy.probation` of the pipeline file it is watched: when it fails on a row, or refuses many more rows than the version
/// before it, that one comes back by itself. With `--shadow` it sees the same batches for a time, its verdicts are compared
/// with those of the version that decides, and nothing of it is written.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate deploy validate.wasm --pipeline pipelines/validate.yaml --rule validate --wait
  tidegate deploy validate.wasm --pipeline pipelines/validate.yaml --rule validate --shadow 10m
  tidegate rules pipelines/validate.yaml            # what it would have decided otherwise
  tidegate promote --pipeline pipelines/validate.yaml --rule validate
  tidegate deploy kraken.wasm --pipeline pipelines/ingest.yaml --exchange kraken --wait

EXIT CODES:
  0  deployed; with --wait also in all lanes and no longer on probation, or tried without a difference
  1  with --wait: taken back, replaced by another version, or tried with differences; without: another change is under way
  2  the component is refused, or the pipeline has no such rule or exchange
  3  the host cannot be reached, or does not take the token")]
pub struct DeployArguments {
    /// The component
    #[arg(value_name = "FILE")]
    component: PathBuf,
    /// The pipeline file of the running pipeline
    #[arg(long, value_name = "FILE")]
    pipeline: PathBuf,
    #[command(flatten)]
    part: Part,
    /// Try it for this time beside the version that decides, such as `10m`
    #[arg(long, value_name = "TIME")]
    shadow: Option<Span>,
    /// Wait until it is known what became of it
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    target: Target,
}

/// Put the candidate that was tried in the place of the current version
///
/// It is on probation like any new version.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate promote --pipeline pipelines/validate.yaml --rule validate --wait")]
pub struct PromoteArguments {
    #[command(flatten)]
    change: ChangeArguments,
}

/// Put the version before the current one in its place again
///
/// Lanes follow between two batches, as with `deploy`. The version that was current is what the next rollback brings back.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate rollback --pipeline pipelines/validate.yaml --rule validate --wait")]
pub struct RollbackArguments {
    #[command(flatten)]
    change: ChangeArguments,
}

#[derive(Debug, Args)]
struct ChangeArguments {
    /// The pipeline file of the running pipeline
    #[arg(long, value_name = "FILE")]
    pipeline: PathBuf,
    #[command(flatten)]
    part: Part,
    /// Wait until it is known what became of it
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    target: Target,
}

pub fn deploy(global: &Global, arguments: &DeployArguments) -> Result<u8> {
    let DeployArguments { component, pipeline, part, shadow, wait, target } = arguments;
    let Some((loaded, host)) = target.host(global, pipeline)? else { return Ok(FILES_ARE_WRONG) };
    // The host would refuse a larger one after all of it was sent.
    let bytes = wasm::read(component, part.file_limit_bytes(&loaded))?;
    let query = shadow.map_or_else(String::new, |time| format!("?shadow={time}"));
    let change: Change = host.change(&format!("{}/versions{query}", part.path()), bytes)?;
    let (name, version) = (part.name(), short(&change.sha256));
    print(&match change.outcome {
        Outcome::Unchanged => format!("{name} {version}: this version decides already\n"),
        Outcome::Shadowed => format!("{name} {version}: tried beside the version that decides\n"),
        Outcome::Deployed => format!("{name} {version}: deployed\n"),
    })?;
    match change.outcome {
        _ if !wait => Ok(0),
        Outcome::Shadowed => wait_for_trial(&host, part),
        Outcome::Unchanged | Outcome::Deployed => wait_for_version(&host, part, &change.sha256),
    }
}

pub fn promote(global: &Global, arguments: &PromoteArguments) -> Result<u8> {
    change(global, &arguments.change, "promote", "promoted")
}

pub fn rollback(global: &Global, arguments: &RollbackArguments) -> Result<u8> {
    change(global, &arguments.change, "rollback", "rolled back")
}

fn change(global: &Global, arguments: &ChangeArguments, action: &str, done: &str) -> Result<u8> {
    let ChangeArguments { pipeline, part, wait, target } = arguments;
    let Some((_, host)) = target.host(global, pipeline)? else { return Ok(FILES_ARE_WRONG) };
    let change: Change = host.change(&format!("{}/{action}", part.path()), Vec::new())?;
    print(&format!("{} {}: {done}\n", part.name(), short(&change.sha256)))?;
    if *wait { wait_for_version(&host, part, &change.sha256) } else { Ok(0) }
}

/// Waits until a version is in all lanes and no longer on probation.
fn wait_for_version(host: &Host, part: &Part, sha256: &str) -> Result<u8> {
    let (what, name, version) = (part.what(), part.name(), short(sha256));
    let mut overdue = None;
    loop {
        let status: PartStatus = host.get(&part.path())?;
        let record =
            status.versions.iter().map(|version| &version.record).find(|record| record.sha256 == sha256);
        if let Some(why) = record.and_then(|record| record.taken_back.as_ref()) {
            return Err(Error::Running(format!(
                "the version {version} of the {what} `{name}` was taken back: it {why}; {} decides",
                short(&status.current)
            )));
        }
        if status.current != sha256 {
            return Err(Error::Running(format!(
                "the version {version} of the {what} `{name}` was replaced: {} decides",
                short(&status.current)
            )));
        }
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let is_over = status.probation_until_ms.is_none_or(|until_ms| until_ms <= now_ms);
        // What has been decided counts up to a second later.
        let is_proved = status.probation_until_ms.is_none_or(|until_ms| until_ms + PROOF_MS <= now_ms);
        if is_over && is_proved && status.is_in_all_lanes {
            let rest = match status.probation_until_ms {
                None => "in all lanes",
                Some(_) => "in all lanes; it stays on probation until it has decided a row",
            };
            print(&format!("{name} {version}: {rest}\n"))?;
            return Ok(0);
        }
        if is_over && overdue.get_or_insert_with(Instant::now).elapsed() > LANES_TIME {
            return Err(Error::Running(format!(
                "not all lanes run the version {version} of the {what} `{name}` yet: they go over with their next batches"
            )));
        }
        thread::sleep(ASK_AGAIN);
    }
}

/// Waits until a trial has ended, and says what differs.
fn wait_for_trial(host: &Host, part: &Part) -> Result<u8> {
    loop {
        let status: PartStatus = host.get(&part.path())?;
        let Some(candidate) = status.candidate else {
            let (what, name) = (part.what(), part.name());
            return Err(Error::Running(format!("the candidate of the {what} `{name}` was replaced")));
        };
        if !candidate.is_running {
            print(&comparison(part.name(), &candidate))?;
            let is_same = candidate.comparison.failed.is_none() && candidate.comparison.different.is_empty();
            return Ok(u8::from(!is_same));
        }
        thread::sleep(ASK_AGAIN);
    }
}

/// What a candidate would have decided otherwise, for a person.
pub(super) fn comparison(rule: &str, candidate: &CandidateStatus) -> String {
    let found = &candidate.comparison;
    let state = match (&found.failed, candidate.is_running) {
        (Some(why), _) => format!("has failed: it {why}"),
        (None, true) => "is tried".into(),
        (None, false) => "was tried".into(),
    };
    let mut text = format!(
        "{rule} {}: {state}; of {} rows it decides {} as the current version does, at {:.0} ns a row\n",
        short(&candidate.sha256),
        found.rows,
        found.same,
        candidate.ns_per_row
    );
    for (verdicts, rows) in &found.different {
        text += &format!("  {verdicts}: {rows} rows\n");
    }
    for sample in &found.samples {
        text += &format!(
            "  {}:{}:{}\n    - {}\n    + {}\n",
            sample.topic, sample.partition, sample.offset, sample.current, sample.candidate
        );
    }
    text
}
