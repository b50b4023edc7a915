//! `cargo xtask test`: everything that a change must pass.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::guests::{self, Extra};
use crate::{cargo, ccxt, kafka, kit, packages, run};

/// Arguments of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Arguments for `cargo test`, such as a part of a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Sets up, builds the rules and the tests, tests what is not Rust, says how long that took, and runs the tests.
pub fn command(arguments: &Arguments) -> Result<()> {
    packages::for_tests()?;
    let started = Instant::now();
    // The tests would download it while their time is taken.
    kafka::jars()?;
    let kafka_s = started.elapsed().as_secs_f64();

    let started = Instant::now();
    let with = vec![Extra::Ccxt];
    guests::command(&guests::Arguments { tests: true, with, ..Default::default() })?;
    ccxt::test()?;
    let guests_s = started.elapsed().as_secs_f64();

    let started = Instant::now();
    run(cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
    let build_s = started.elapsed().as_secs_f64();

    let started = Instant::now();
    kit::prepare()?;
    let kit_s = started.elapsed().as_secs_f64();
    eprintln!(
        "test: {kafka_s:.1} s for kafka, {guests_s:.1} s for the guests, {build_s:.1} s to build host and tests, \
         {kit_s:.1} s for the kit"
    );

    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]).args(&arguments.rest);
    run_and_count(&mut tests)
}

/// Runs the tests and ends with the sum of their results, because cargo ends with the last crate's.
fn run_and_count(tests: &mut Command) -> Result<()> {
    let mut child = tests.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = BufReader::new(child.stdout.take().context("the output of cargo is piped")?);
    let mut sum = Counts::default();
    for line in output.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(counts) = Counts::of(&line) {
            sum.passed += counts.passed;
            sum.failed += counts.failed;
        }
    }
    let status = child.wait()?;
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if !status.success() {
        bail!("the tests ended with {status}");
    }
    Ok(())
}

/// The results of a test program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// From `test result: ok. 5 passed; 0 failed; …`.
    fn of(line: &str) -> Option<Counts> {
        let words: Vec<&str> = line.strip_prefix("test result: ")?.split([' ', ';', '.']).collect();
        let before = |word: &str| words[..words.iter().position(|w| *w == word)?].last()?.parse().ok();
        Some(Counts { passed: before("passed")?, failed: before("failed")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_other_lines_are_not() {
        let line = "test result: FAILED. 92 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Counts::of(line), Some(Counts { passed: 92, failed: 2 }));
        assert_eq!(Counts::of("test passes ... ok"), None);
    }
}
