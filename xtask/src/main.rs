//! `cargo xtask`: the project's chores.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{Failed, Missing, bench, chaos, e2e, guests, lint, quickstart, sample, services, test};

#[derive(Parser)]
#[command(name = "cargo xtask", about, bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build everything and run the sample through the rules into a database
    Quickstart,
    /// Build everything and run all tests
    Test(test::Arguments),
    /// Build the rules into components
    Guests(guests::Arguments),
    /// Check format, clippy, the sample and the dependencies
    Lint,
    /// Measure what it costs
    Bench(bench::Arguments),
    /// Write the sample and what must come out of it
    Sample(sample::Arguments),
    /// Kill running pipelines and look for rows that are lost or doubled
    Chaos(chaos::Arguments),
    /// Run the whole system through faults and deploys and compare both databases with the exchanges
    E2e(e2e::Arguments),
    /// Start and stop the servers that pipelines talk to during development
    Services(services::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Chore::Quickstart => quickstart::command(),
        Chore::Test(arguments) => test::command(&arguments),
        Chore::Guests(arguments) => guests::command(&arguments),
        Chore::Lint => lint::command(),
        Chore::Bench(arguments) => bench::command(&arguments),
        Chore::Sample(arguments) => sample::command(&arguments),
        Chore::Chaos(arguments) => chaos::command(&arguments),
        Chore::E2e(arguments) => e2e::command(&arguments),
        Chore::Services(arguments) => services::command(&arguments),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(Failed(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    eprintln!("error: {error:#}");
    if error.is::<Missing>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
