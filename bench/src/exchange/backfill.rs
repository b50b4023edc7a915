//! Candles a second of the past: from simulated exchanges through three rules into a file.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use exchanges_simulator::{Exchange, MINUTE_MS};
use tempfile::TempDir;

use super::{Simulated, host, shares};
use crate::kafka::load;
use crate::kafka::process::{self, Taken};
use crate::median;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Series of each exchange
    #[arg(long, default_value_t = 20)]
    series: usize,
    /// Candles of each series; a simulator keeps the pages of a million candles, so 20 series can have 50,000
    #[arg(long, default_value_t = 40_000)]
    candles: i64,
    /// How often it is fetched; the medians are printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The sink, as in a pipeline file
    #[arg(long, default_value = "{ file: { path: out.jsonl } }")]
    sink: String,
}

/// Which exchanges are asked at once.
const CASES: [&[Exchange]; 3] =
    [&[Exchange::Binance], &[Exchange::Coinbase], &[Exchange::Binance, Exchange::Coinbase]];

/// All runs of a case.
#[derive(Default)]
struct Runs {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    simulators_cpu: Vec<f64>,
    others: Vec<f64>,
    peak_mib: u64,
    threads: BTreeMap<String, f64>,
    seconds: f64,
}

/// Prints candles a second, what they cost, and where the time goes.
pub fn run(arguments: &Arguments) -> Result<()> {
    println!(
        "\n{} series of {} candles an exchange into `{}`, medians of {}",
        arguments.series, arguments.candles, arguments.sink, arguments.rounds
    );
    println!("exchanges           candles/s  CPU-s/million  simulators'  peak MiB  others' cores");
    for case in CASES {
        let exchanges: Vec<Simulated> = case
            .iter()
            .map(|exchange| Simulated::start(*exchange, arguments.series))
            .collect::<Result<_>>()?;
        // Afterwards the simulators have the pages, and cost as little as they can.
        Runs::default().measure(&exchanges, arguments)?;
        let mut runs = Runs::default();
        for _ in 0..arguments.rounds {
            runs.measure(&exchanges, arguments)?;
        }
        let names: Vec<&str> = case.iter().map(|exchange| exchange.id()).collect();
        println!(
            "{:<18} {:>10.0} {:>14.2} {:>12.2} {:>9} {:>14.2}   load {}",
            names.join(", "),
            median(runs.rates),
            median(runs.cpu),
            median(runs.simulators_cpu),
            runs.peak_mib,
            median(runs.others),
            load()?
        );
        println!("  threads: {}", shares(&runs.threads, runs.seconds));
    }
    Ok(())
}

impl Runs {
    fn measure(&mut self, exchanges: &[Simulated], arguments: &Arguments) -> Result<()> {
        let Arguments { series, candles, sink, .. } = arguments;
        let folder = TempDir::new()?;
        let mut command = host(folder.path(), "backfill", exchanges, *series, "", sink)?;
        // Whole days, the last of which is over long ago, so that the pages do not change any more.
        let day_ms = 1_440 * MINUTE_MS;
        let now_ms = i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
        let until_ms = (now_ms / day_ms - 1) * day_ms;
        let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).map(|time| time.to_string());
        command.args(["--from", &time(until_ms - candles * MINUTE_MS)?, "--until", &time(until_ms)?]);
        let servers = exchanges.iter().map(|simulated| simulated.process.id());
        let Taken { cpu, server_cpu, others, peak_mib, output, threads, .. } =
            process::run(&mut command, servers)?;
        let summary: serde_json::Value = serde_json::from_str(&output)?;
        let count = |key: &str| summary[key].as_u64().with_context(|| format!("the summary has no `{key}`"));
        let written = count("written")?;
        let of_series = summary["series"].as_array().context("the summary has no series")?;
        let number = |series: &serde_json::Value, key: &str| series[key].as_u64().unwrap_or(0);
        let wanted: u64 = of_series.iter().map(|series| number(series, "wanted")).sum();
        let missing: u64 = of_series.iter().map(|series| number(series, "missing")).sum();
        ensure!(
            missing == 0 && written * 10 > wanted * 9,
            "{written} of {wanted} were written, {missing} are missing"
        );
        let seconds = summary["seconds"].as_f64().context("the summary has no time")?;
        let millions = written as f64 / 1e6;
        eprintln!(
            "bench: {written} candles, {:.0} a second, {:.2} CPU-s per million, load {}",
            written as f64 / seconds,
            cpu / millions,
            load()?
        );
        self.rates.push(written as f64 / seconds);
        self.cpu.push(cpu / millions);
        self.simulators_cpu.push(server_cpu / millions);
        self.others.push(others);
        self.peak_mib = self.peak_mib.max(peak_mib);
        self.seconds += seconds;
        threads.into_iter().for_each(|(name, cpu)| *self.threads.entry(name).or_default() += cpu);
        Ok(())
    }
}
