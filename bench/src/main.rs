//! What a rule costs, beside the same code compiled in, in one process and interleaved.
//!
//! `cargo xtask bench` prints a table; the ratios are what counts, the nanoseconds are this machine's. `cargo xtask
//! bench border` measures calls of rules alone, `path` the way from a file through three rules. What starts a broker
//! takes minutes and runs only when it is asked for: `kafka`, `kafka-memory`, `kafka-recovery`, `deploys`, `timescale`,
//! `clickhouse`. `shadow` is a candidate beside the version that decides, `show` a pipeline that is looked at. `exchange-parse`, `exchange-poll` and `exchange-backfill` are the host and simulated exchanges.

mod border;
mod clickhouse;
mod exchange;
mod kafka;
mod path;
mod shadow;
mod show;
mod timescale;
mod twin;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// The time that the rules are told: after all rows of the sample's generator.
const NOW_MS: i64 = 1_769_904_000_000;

/// Measures what Tidegate costs.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Calls of rules alone
    Border,
    /// The way from a file through three rules
    Path,
    /// From a topic through three rules into a topic, beside the same written by hand
    Kafka(kafka::throughput::Arguments),
    /// The memory that the host takes for a long topic
    KafkaMemory(kafka::memory::Arguments),
    /// How long the host needs to write again after a crash
    KafkaRecovery(kafka::recovery::Arguments),
    /// Good and broken versions of a rule, deployed while rows flow through Kafka
    Deploys(kafka::deploys::Arguments),
    /// A candidate beside the version that decides
    Shadow,
    /// A pipeline that is looked at: metrics, tap
    Show(show::Arguments),
    /// Into PostgreSQL, beside the same bytes sent by hand, and from a topic into it
    Timescale(timescale::Arguments),
    /// Into ClickHouse: blocks beside buffers that were made before, and from a topic into a table
    Clickhouse(clickhouse::Arguments),
    /// Pages of exchanges: an adapter's component, beside the same code compiled in
    ExchangeParse,
    /// What the host takes while it polls thousands of series
    ExchangePoll(exchange::poll::Arguments),
    /// Candles a second of the past, from exchanges without limits
    ExchangeBackfill(exchange::backfill::Arguments),
    /// A program that was written by hand, as a process of its own
    #[command(hide = true)]
    KafkaClient(kafka::client::Arguments),
}

fn main() -> Result<()> {
    let part = Arguments::parse().part;
    if let Some(Part::KafkaClient(arguments)) = &part {
        return kafka::client::run(arguments);
    }
    println!("machine: {}", machine());
    match part {
        None => {
            border::run()?;
            path::run()
        }
        Some(Part::Border) => border::run(),
        Some(Part::Path) => path::run(),
        Some(Part::Kafka(arguments)) => kafka::throughput::run(&arguments),
        Some(Part::KafkaMemory(arguments)) => kafka::memory::run(&arguments),
        Some(Part::KafkaRecovery(arguments)) => kafka::recovery::run(&arguments),
        Some(Part::Deploys(arguments)) => kafka::deploys::run(&arguments),
        Some(Part::Shadow) => shadow::run(),
        Some(Part::Show(arguments)) => show::run(&arguments),
        Some(Part::Timescale(arguments)) => timescale::run(&arguments),
        Some(Part::Clickhouse(arguments)) => clickhouse::run(&arguments),
        Some(Part::ExchangeParse) => exchange::parse::run(),
        Some(Part::ExchangePoll(arguments)) => exchange::poll::run(&arguments),
        Some(Part::ExchangeBackfill(arguments)) => exchange::backfill::run(&arguments),
        Some(Part::KafkaClient(_)) => unreachable!("it has run"),
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
