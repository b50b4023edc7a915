//! `tidegate run`

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::report::{self, grouped};
use super::{FILES_ARE_WRONG, Global, complain, list, print};
use crate::error::{Error, Result};
use crate::lane::{self, DeployedIn, RunOptions};
use crate::pipeline_file::{self, DeadLetter, Loaded, Sink};
use crate::shutdown::Shutdown;
use crate::summary::{Progress, Summary};

/// Run pipelines until their sources end
///
/// Each pipeline goes on where its sink says that the last run stopped. Several files run side by side; one
/// that fails does not stop the others, and the worst exit code counts. The first Ctrl-C finishes the
/// batches under way, the second ends at once.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate run pipelines/quickstart.yaml
  tidegate run ingest.yaml validate.yaml --json | jq '{pipeline, read, rejected}'
  zcat candles.jsonl.gz | tidegate run from-stdin.yaml
  tidegate run validate.yaml --now 2026-01-02T03:04:05Z   # the same verdicts as then
  tidegate run validate.yaml --instance b                 # a second process on one host
  tidegate run validate.yaml --until-end --json           # what is there in Kafka now, and no more")]
pub struct Arguments {
    /// Pipeline files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the summary of each pipeline as one JSON object a line
    #[arg(long)]
    json: bool,
    /// The time that rules see, for tests and reproductions
    #[arg(long, value_name = "RFC3339")]
    now: Option<jiff::Timestamp>,
    /// Keep trying to reach brokers and topics that are not there at the start
    #[arg(long)]
    wait: bool,
    /// End when everything has been read that is there, also from Kafka
    #[arg(long)]
    until_end: bool,
    /// What this process is called among those that share a consumer group [default: the host's name]
    ///
    /// It must be the same after a restart, so that the process goes on at once with what it had, and differ from
    /// that of every other process of the group.
    #[arg(long, value_name = "NAME", env = "TIDEGATE_INSTANCE")]
    instance: Option<String>,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let options = RunOptions {
        guests: global.guests_folder(),
        now_ms: arguments.now.map(jiff::Timestamp::as_millisecond),
        instance: arguments.instance.clone().unwrap_or_else(host_name),
        wait: arguments.wait,
        until_end: arguments.until_end,
        state: global.state_folder(),
        backfill: None,
        deployed_in: None,
    };
    let shutdown = Shutdown::on_signals()?;
    let (pipelines, mut worst) = read(&arguments.files);
    let show = !global.quiet && std::io::stderr().is_terminal();
    for (loaded, result) in pipelines.iter().zip(run_all(&pipelines, &options, &shutdown, show)) {
        match result {
            Ok(summary) => tell(global, arguments, loaded, &summary)?,
            Err(error) => {
                complain(&error);
                worst = worst.max(error.code());
            }
        }
    }
    Ok(worst)
}

/// The host's name, which a restart does not change.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What a process of this pipeline on this machine has deployed.
pub(super) fn deployed_here(loaded: &Loaded) -> DeployedIn {
    DeployedIn {
        pipeline: loaded.pipeline.name.clone(),
        instance: std::env::var("TIDEGATE_INSTANCE").unwrap_or_else(|_| host_name()),
    }
}

/// The pipelines that can run, and the exit code of those that cannot.
fn read(files: &[PathBuf]) -> (Vec<Loaded>, u8) {
    let mut names = HashSet::new();
    let mut pipelines = Vec::new();
    let mut worst = 0;
    for path in files {
        let findings = match pipeline_file::read(path) {
            Ok(loaded) if names.insert(loaded.pipeline.name.clone()) => {
                pipelines.push(loaded);
                continue;
            }
            // Two pipelines of one name would move one position.
            Ok(loaded) => {
                let message = format!("another pipeline of this run has the name `{}`", loaded.pipeline.name);
                vec![loaded.finding(&["name"], &message)]
            }
            Err(findings) => findings,
        };
        list(&findings);
        worst = FILES_ARE_WRONG;
    }
    (pipelines, worst)
}

/// Runs every pipeline in a thread of its own, and shows how far they are when `show` says so.
fn run_all(
    pipelines: &[Loaded],
    options: &RunOptions,
    shutdown: &Shutdown,
    show: bool,
) -> Vec<Result<Summary>> {
    let counters: Vec<Progress> = pipelines.iter().map(|_| Progress::default()).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = pipelines
            .iter()
            .zip(&counters)
            .map(|(loaded, progress)| scope.spawn(move || lane::run(loaded, options, shutdown, progress)))
            .collect();
        if show {
            let display = MultiProgress::new();
            let bars: Vec<ProgressBar> = pipelines.iter().map(|loaded| bar(&display, loaded)).collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                bars.iter().zip(&counters).for_each(|(bar, progress)| update(bar, progress));
                thread::sleep(Duration::from_millis(100));
            }
            bars.iter().for_each(ProgressBar::finish_and_clear);
        }
        threads
            .into_iter()
            .zip(pipelines)
            .map(|(thread, loaded)| thread.join().unwrap_or_else(|_| Err(defect(loaded))))
            .collect()
    })
}

fn defect(loaded: &Loaded) -> Error {
    let name = &loaded.pipeline.name;
    Error::Running(format!(
        "the pipeline `{name}` ended by a defect of tidegate; please report the lines above"
    ))
}

fn bar(display: &MultiProgress, loaded: &Loaded) -> ProgressBar {
    display.add(ProgressBar::no_length()).with_prefix(loaded.pipeline.name.clone())
}

fn update(bar: &ProgressBar, progress: &Progress) {
    let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let total = value(&progress.bytes_total);
    // Without a total there is no end to estimate.
    let template = if total == 0 {
        "{prefix} {spinner} {bytes} {msg}"
    } else {
        "{prefix} {wide_bar} {percent}% {msg}, {eta} left"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if total > 0 {
        bar.set_length(total);
    }
    bar.set_position(value(&progress.bytes_done));
    let read = value(&progress.rows_read);
    if read == 0 && value(&progress.remembered) > 0 {
        return bar.set_message(format!("remembering, {} rows", grouped(value(&progress.remembered))));
    }
    let seconds = bar.elapsed().as_secs_f64().max(0.001);
    bar.set_message(format!(
        "{} rows/s, {} kept, {} rejected, {} dropped",
        grouped((read as f64 / seconds) as u64),
        grouped(value(&progress.written)),
        grouped(value(&progress.rejected)),
        grouped(value(&progress.dropped)),
    ));
}

/// Prints the summary: on standard error when rows have standard output.
fn tell(global: &Global, arguments: &Arguments, loaded: &Loaded, summary: &Summary) -> Result<()> {
    let text = match arguments.json {
        true => format!("{}\n", serde_json::json!(summary)),
        false if global.quiet => return Ok(()),
        false => report::text(summary),
    };
    if has_standard_output(loaded) {
        drop(std::io::stderr().write_all(text.as_bytes()));
        return Ok(());
    }
    print(&text)
}

fn has_standard_output(loaded: &Loaded) -> bool {
    matches!(loaded.pipeline.sink, Sink::Stdout(_))
        || matches!(loaded.pipeline.dead_letter, Some(DeadLetter::Stdout(_)))
}
