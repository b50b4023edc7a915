//! `cargo xtask e2e`: the whole system as processes of their own, from simulated exchanges into both databases, through
//! faults and deploys. It is a test of the workspace, here longer.

use anyhow::Result;

use crate::{cargo, guests, packages, run};

/// The test, which is also in `cargo xtask test`.
const TEST: &str = "system::candles_of_exchanges_are_in_both_databases_once_whatever_fails_on_the_way";

/// Arguments of `cargo xtask e2e`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many minutes it takes, of which two are the start, the latency without faults, and the end
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..))]
    pub minutes: u32,
    /// Makes the order of faults and the candles of an earlier run [default: taken from the clock]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Builds what is needed, runs the system, and fails when a row is lost or doubled.
pub fn command(arguments: &Arguments) -> Result<()> {
    packages::for_tests()?;
    guests::command(&guests::Arguments::default())?;
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos();
    let seed = arguments.seed.unwrap_or(u64::from(clock));
    let mut test = cargo();
    test.args([
        "test",
        "--quiet",
        "--workspace",
        "--test",
        "end_to_end",
        "--",
        "--nocapture",
        "--exact",
        TEST,
    ]);
    test.env("TIDEGATE_E2E_MINUTES", arguments.minutes.to_string());
    run(test.env("TIDEGATE_E2E_SEED", seed.to_string()))
}
