//! `cargo xtask bench`: what it costs, beside what it is compared with.

use anyhow::Result;

use crate::{cargo, guests, packages, run};

/// Arguments of `cargo xtask bench`; all of them go to the program in `bench/`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Arguments for the measuring program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Builds the rules and the measuring program, with all optimisations, and runs it.
pub fn command(arguments: &Arguments) -> Result<()> {
    packages::for_build()?;
    guests::command(&guests::Arguments { tests: true, ..Default::default() })?;
    let mut bench = cargo();
    bench.args(["run", "--quiet", "--release", "--package", "tidegate-bench", "--"]).args(&arguments.rest);
    run(&mut bench)
}
