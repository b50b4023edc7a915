//! The commands.

mod backfill;
mod build;
mod check;
mod completions;
mod deploy;
mod diff;
mod dlq;
mod gaps;
mod health;
mod inspect;
mod new;
mod report;
mod rules;
mod run;
mod schema;
mod tap;
mod test;
mod top;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use crate::error::{Error, Result};
use crate::pipeline_file::finding::Finding;

/// Move market data through rules that check and enrich it.
///
/// A pipeline file names one source, an ordered list of rules and one sink. Rules are WebAssembly
/// components: they see columns, reach nothing outside, and cannot stop the host. Rows that a rule rejects
/// go to the dead letter with their original bytes and the reason.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_long_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The exit code of [`Error::Files`].
const FILES_ARE_WRONG: u8 = 2;

/// The exit code of [`Error::Surroundings`].
const SURROUNDINGS_ARE_WRONG: u8 = 3;

const EXIT_CODES: &str = "\
EXIT CODES:
  0    done; also when one signal asked to stop
  1    failed while data was flowing; of `test` and `diff`: something differs
  2    a pipeline file, a component or the command line is wrong
  3    the surroundings are wrong: a missing input, a locked database
  130  stopped by a second SIGINT; 143 by a second SIGTERM";

/// What every command accepts.
#[derive(Debug, Args)]
struct Global {
    /// Folder of the rules that pipeline files give by name
    ///
    /// Without it: the folder `guests` beside the binary, or beside the binary's folder.
    #[arg(long, global = true, value_name = "DIR", env = "TIDEGATE_GUESTS")]
    guests: Option<PathBuf>,
    /// Folder of what outlives a run and is no data, such as until when an exchange wants no requests
    ///
    /// Without it: `tidegate` in `$XDG_STATE_HOME`, or in `.local/state` of the user's home.
    #[arg(long, global = true, value_name = "DIR", env = "TIDEGATE_STATE")]
    state: Option<PathBuf>,
    /// How log lines are written to standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    /// The least urgent log lines that are written
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Info, env = "TIDEGATE_LOG_LEVEL")]
    log_level: LogLevel,
    /// Show errors only: no progress, no summary as text
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    /// What ends a pipeline or takes a version back
    Error,
    /// What is done again, or goes to the dead letter for a failure
    Warn,
    /// What changes: partitions, versions, connections
    Info,
    /// What librdkafka says, and more
    Debug,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Backfill(backfill::Arguments),
    Gaps(gaps::Arguments),
    Deploy(deploy::DeployArguments),
    Promote(deploy::PromoteArguments),
    Rollback(deploy::RollbackArguments),
    Rules(rules::Arguments),
    Top(top::Arguments),
    Tap(tap::Arguments),
    Health(health::Arguments),
    Check(check::Arguments),
    Inspect(inspect::Arguments),
    Test(test::Arguments),
    Diff(diff::Arguments),
    New(new::Arguments),
    Build(build::Arguments),
    Dlq(dlq::Arguments),
    Schema(schema::Arguments),
    Completions(completions::Arguments),
}

impl Global {
    fn guests_folder(&self) -> PathBuf {
        self.guests.clone().unwrap_or_else(guests_beside_the_binary)
    }

    fn state_folder(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(state_of_the_user)
    }
}

/// Where a user's programs keep such things; beside temporary files for one without a home.
fn state_of_the_user() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("tidegate")
}

/// `guests` beside the binary, or, as in a build, beside the binary's folder.
fn guests_beside_the_binary() -> PathBuf {
    let Some(folder) = std::env::current_exe().ok().and_then(|binary| Some(binary.parent()?.to_owned()))
    else {
        return "guests".into();
    };
    let beside = folder.join("guests");
    let above = folder.join("../guests");
    if !beside.is_dir() && above.is_dir() { above } else { beside }
}

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    begin_log(&global, &command);
    let result = match command {
        Command::Run(arguments) => run::run(&global, &arguments),
        Command::Backfill(arguments) => backfill::run(&global, &arguments),
        Command::Gaps(arguments) => gaps::run(&global, &arguments),
        Command::Deploy(arguments) => deploy::deploy(&global, &arguments),
        Command::Promote(arguments) => deploy::promote(&global, &arguments),
        Command::Rollback(arguments) => deploy::rollback(&global, &arguments),
        Command::Rules(arguments) => rules::run(&global, &arguments),
        Command::Top(arguments) => top::run(&global, &arguments),
        Command::Tap(arguments) => tap::run(&global, &arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Check(arguments) => check::run(&global, &arguments),
        Command::Inspect(arguments) => inspect::run(&global, &arguments),
        Command::Test(arguments) => test::run(&global, &arguments),
        Command::Diff(arguments) => diff::run(&global, &arguments),
        Command::New(arguments) => new::run(&arguments),
        Command::Build(arguments) => build::run(&global, &arguments),
        Command::Dlq(arguments) => dlq::run(&global, &arguments),
        Command::Schema(arguments) => schema::run(&global, &arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            ExitCode::from(&error)
        }
    }
}

fn begin_log(global: &Global, command: &Command) {
    let level = match command {
        _ if global.quiet => LevelFilter::ERROR,
        // A case starts and ends a pipeline, and its verdict is what matters.
        Command::Test(_) => LevelFilter::WARN,
        _ => match global.log_level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        },
    };
    crate::log::begin(level, global.log == LogFormat::Json);
}

/// Writes an error for people. A closed standard error leaves nobody to tell.
fn complain(error: &Error) {
    drop(writeln!(std::io::stderr(), "tidegate: {error}"));
}

impl From<tidegate_kit::Error> for Error {
    fn from(error: tidegate_kit::Error) -> Error {
        let text = error.to_string();
        if error.is_of_the_machine() { Error::Surroundings(text) } else { Error::Files(text) }
    }
}

/// Writes findings, each in a line that starts with its place, as editors expect.
fn list(findings: &[Finding]) {
    let mut err = std::io::stderr().lock();
    for finding in findings {
        drop(writeln!(err, "{finding}"));
    }
}

/// Writes to standard output. A reader that has gone, such as `head`, is no failure.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Surroundings(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A value as pretty JSON and a line end.
fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_every_file_command_needs_a_file() {
        let cli = Cli::command();
        let commands: Vec<_> = cli.get_subcommands().collect();
        for command in commands.iter().flat_map(|command| command.get_subcommands()).chain(commands.clone()) {
            let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.starts_with("EXAMPLES:"), "{}", command.get_name());
        }
        for command in ["run", "check", "inspect", "diff", "completions"] {
            assert_eq!(Cli::try_parse_from(["tidegate", command]).unwrap_err().exit_code(), 2, "{command}");
        }
        for action in ["list", "show", "replay"] {
            let error = Cli::try_parse_from(["tidegate", "dlq", action]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{action}");
        }
    }

    #[test]
    fn rows_are_replayed_by_id_or_all_of_them() {
        let replay = |arguments: &[&str]| {
            Cli::try_parse_from([&["tidegate", "dlq", "replay", "p.yaml"], arguments].concat()).is_ok()
        };
        assert!(
            replay(&["0:1", "0:2"]) && replay(&["--all", "--limit", "3", "--reason", "a", "--reason", "b"])
        );
        assert!(!replay(&["0:1", "--all"]) && !replay(&["x"]) && !replay(&["--all", "--since", "yesterday"]));
    }

    #[test]
    fn the_time_of_a_run_is_a_timestamp() {
        let cli = |now| Cli::try_parse_from(["tidegate", "run", "p.yaml", "--now", now]);
        assert!(cli("2026-01-02T03:04:05Z").is_ok());
        assert!(cli("yesterday").is_err());
    }
}
