//! `cargo xtask lint`: how the code must look.

use std::process::Command;

use anyhow::Result;

use crate::{Missing, cargo, run, sample};

/// Checks format, clippy's opinions, the sample, and the licences and advisories of the dependencies.
pub fn command() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !cargo_has(subcommand) {
            let text = format!("cargo has no `{subcommand}`; run\n    rustup component add {component}");
            return Err(Missing(text).into());
        }
    }
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    sample::command(&sample::Arguments { check: true })?;
    if cargo_has("deny") {
        run(cargo().args(["deny", "--workspace", "check"]))?;
        eprintln!("lint: format, clippy, sample and dependencies are right");
    } else {
        eprintln!(
            "lint: format, clippy and sample are right; the dependencies' licences and advisories were NOT \
             checked: run `cargo install cargo-deny --locked`"
        );
    }
    Ok(())
}

fn cargo_has(subcommand: &str) -> bool {
    let mut command: Command = cargo();
    command.args([subcommand, "--version"]).output().is_ok_and(|answer| answer.status.success())
}
