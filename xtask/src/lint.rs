//! `cargo xtask lint`: how the code must look.

use std::process::Command;

use anyhow::Result;

use crate::{Missing, cargo, packages, run, sample};

/// Checks format, clippy's opinions, the sample, and the licences and advisories of the dependencies.
pub fn command() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !cargo_has(subcommand) {
            let text = format!("cargo has no `{subcommand}`; run\n    rustup component add {component}");
            return Err(Missing(text).into());
        }
    }
    packages::for_build()?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    sample::command(&sample::Arguments { check: true })?;
    let unchecked = deny()?;
    match unchecked {
        None => eprintln!("lint: all is right"),
        Some(unchecked) => eprintln!("lint: all is right that was checked; NOT checked: {unchecked}"),
    }
    Ok(())
}

/// Checks the dependencies; says what could not be checked.
fn deny() -> Result<Option<&'static str>> {
    if !cargo_has("deny") {
        return Ok(Some(
            "the dependencies' licences and advisories; run `cargo install cargo-deny --locked`",
        ));
    }
    run(cargo().args(["deny", "--workspace", "check", "bans", "licenses", "sources"]))?;
    if !cargo().args(["deny", "--log-level", "off", "fetch", "db"]).status()?.success() {
        return Ok(Some("the dependencies' advisories, because their database cannot be reached"));
    }
    run(cargo().args(["deny", "--workspace", "check", "advisories"]))?;
    Ok(None)
}

fn cargo_has(subcommand: &str) -> bool {
    let mut command: Command = cargo();
    command.args([subcommand, "--version"]).output().is_ok_and(|answer| answer.status.success())
}
