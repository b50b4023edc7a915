//! What a rule costs, beside the same code compiled in, in one process and interleaved.
//!
//! `cargo xtask bench` prints a table; the ratios are what counts, the nanoseconds are this machine's. `cargo xtask
//! bench border` measures calls of rules alone, `path` the way from a file through three rules.

mod border;
mod path;
mod twin;

use anyhow::{Context, Result};

/// The time that the rules are told: after all rows of the sample's generator.
const NOW_MS: i64 = 1_769_904_000_000;

fn main() -> Result<()> {
    let part = std::env::args().nth(1);
    println!("machine: {}", machine());
    match part.as_deref() {
        None => {
            border::run()?;
            path::run()
        }
        Some("border") => border::run(),
        Some("path") => path::run(),
        Some(other) => anyhow::bail!("there is no part `{other}`: name `border`, `path`, or nothing for all"),
    }
}

/// A component that `cargo xtask guests` has built, by its path below `target/` without the ending.
fn component(path: &str) -> Result<tidegate::rule::Component> {
    let file = xtask::target_folder().join(format!("{path}.wasm"));
    tidegate::rule::Component::load(&file, &Default::default())
        .with_context(|| format!("the rule `{path}` cannot be measured"))
}

/// The processor's name and the number of cores.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores", model.unwrap_or("unknown processor"))
}

/// The median of some times.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
