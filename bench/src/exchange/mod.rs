//! The host and simulated exchanges.
//!
//! - `parse`: an adapter's component beside the same code compiled in
//! - `poll`: what the host takes while it polls thousands of series
//! - `backfill`: candles a second of the past

pub mod backfill;
pub mod parse;
pub mod poll;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use exchanges_simulator::{Exchange, Market};

/// A simulated exchange without limits: a process of its own, which ends with this value.
struct Simulated {
    exchange: Exchange,
    process: Child,
    url: String,
}

impl Simulated {
    /// Starts it with so many made-up markets.
    fn start(exchange: Exchange, markets: usize) -> Result<Simulated> {
        let mut process = Command::new(program("exchanges-simulator"))
            .args(["--port", "0", "--no-limits", "--more-markets", &markets.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `exchanges-simulator`")?;
        let output = process.stdout.as_mut().context("the simulator has no output")?;
        let mut line = String::new();
        // It says the place of one exchange a line, and the output stays open as long as it runs.
        BufReader::new(output).read_line(&mut line)?;
        let (base, _) = line.trim().rsplit_once('/').context("the simulator does not say where it is")?;
        let url = format!("{base}/{exchange}");
        Ok(Simulated { exchange, process, url })
    }

    /// The line of the pipeline file.
    fn entry(&self, series: usize) -> String {
        let symbols: Vec<String> = Market::many(series).iter().map(Market::symbol).collect();
        format!(
            "      - {{ exchange: {}, url: \"{}\", concurrency: 16, budget: {{ units: 1000000, window: 1s }}, \
             symbols: [{}] }}\n",
            self.exchange,
            self.url,
            symbols.join(", ")
        )
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // It can have ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command of the host, with the first series of each exchange, three rules and a sink in a pipeline file that it
/// writes into `folder`. Its state is there too.
fn host(
    folder: &Path,
    command: &str,
    exchanges: &[Simulated],
    series: usize,
    settings: &str,
    sink: &str,
) -> Result<Command> {
    let entries: String = exchanges.iter().map(|simulated| simulated.entry(series)).collect();
    let file = format!(
        "name: bench\n\
         source:\n  exchange:\n{settings}    exchanges:\n{entries}\
         decode: {{ columns: candles }}\n\
         rules:\n\
         \x20 - {{ name: validate, component: validate, settings: {validate} }}\n\
         \x20 - {{ name: dedup, component: dedup, settings: {dedup} }}\n\
         \x20 - {{ name: enrich, component: enrich }}\n\
         sink: {sink}\n",
        validate = crate::kafka::VALIDATE,
        dedup = crate::kafka::DEDUP,
    );
    let path = folder.join("bench.yaml");
    std::fs::write(&path, file)?;
    let mut process = Command::new(program("tidegate"));
    process.arg(command).arg(path).args(["--json", "--quiet", "--state"]).arg(folder.join("state"));
    process.arg("--guests").arg(xtask::target_folder().join("guests"));
    Ok(process)
}

/// A program that was built with all optimisations.
fn program(name: &str) -> std::path::PathBuf {
    xtask::target_folder().join(format!("release/{name}{}", std::env::consts::EXE_SUFFIX))
}

/// The threads that took most, in percent of a core over some seconds.
fn shares(threads: &std::collections::BTreeMap<String, f64>, seconds: f64) -> String {
    let mut threads: Vec<(&String, f64)> =
        threads.iter().map(|(name, cpu)| (name, 100.0 * cpu / seconds)).collect();
    threads.sort_by(|one, other| other.1.total_cmp(&one.1));
    let shown = threads.iter().filter(|(_, share)| *share >= 0.1);
    shown.map(|(name, share)| format!("{name} {share:.1} %")).collect::<Vec<_>>().join(", ")
}
