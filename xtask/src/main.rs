//! `cargo xtask`: the project's chores.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{Missing, guests};

#[derive(Parser)]
#[command(name = "cargo xtask", about, bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build the rules into components
    Guests(guests::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Chore::Guests(arguments) => guests::command(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<Missing>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
