//! `cargo xtask bench`: what it costs, beside what it is compared with.

use std::process::Command;

use anyhow::Result;

use crate::{cargo, guests, packages, run, target_folder};

/// Arguments of `cargo xtask bench`; all of them go to the program in `bench/`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Arguments for the measuring program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Builds the rules, the measuring program and the host that it starts, with all optimisations, and runs it.
pub fn command(arguments: &Arguments) -> Result<()> {
    match arguments.rest.first().map(String::as_str) {
        Some("timescale") => packages::for_tests()?,
        _ => packages::for_build()?,
    }
    guests::command(&guests::Arguments { tests: true, ..Default::default() })?;
    let mut build = cargo();
    build.args([
        "build",
        "--quiet",
        "--release",
        "--workspace",
        "--bin",
        "tidegate",
        "--bin",
        "tidegate-bench",
        "--bin",
        "exchanges-simulator",
    ]);
    run(&mut build)?;
    let name = format!("release/tidegate-bench{}", std::env::consts::EXE_SUFFIX);
    run(Command::new(target_folder().join(name)).args(&arguments.rest))
}
