//! `cargo xtask test`: everything that a change must pass.

use std::time::Instant;

use anyhow::Result;

use crate::{cargo, guests, run};

/// Arguments of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Arguments for `cargo test`, such as a part of a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Sets up, builds the rules and the tests, says how long that took, and runs the tests.
pub fn command(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    guests::command(&guests::Arguments { tests: true, ..Default::default() })?;
    let guests_s = started.elapsed().as_secs_f64();

    let started = Instant::now();
    run(cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
    let build_s = started.elapsed().as_secs_f64();
    eprintln!("test: {guests_s:.1} s for the guests, {build_s:.1} s to build host and tests");

    // Last, so that cargo's results are the last lines.
    run(cargo().args(["test", "--workspace", "--no-fail-fast"]).args(&arguments.rest))
}
