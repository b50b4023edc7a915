//! How much memory the host takes while it reads a long topic.

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::candles::{self, Candles};
use super::cluster::Cluster;
use super::{DEDUP, Route, host, load, process};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many rows the topic has
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// Numbers of lanes
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    lanes: Vec<usize>,
}

/// Prints the peak of the resident memory for each number of lanes.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start()?;
    let mut candles = Candles::new();
    let from = candles::topic(&cluster, &mut candles, arguments.rows)?;
    println!("\npeak resident memory while {} rows are read, exactly_once", arguments.rows);
    for &lanes in &arguments.lanes {
        let folder = TempDir::new()?;
        let route = Route::new(&cluster, &from)?;
        let mut command = host(&cluster, &route, folder.path(), lanes, "exactly_once", DEDUP)?;
        let taken = process::run(command.args(["--until-end", "--quiet"]), cluster.process_id())?;
        let summary: serde_json::Value = serde_json::from_str(&taken.output)?;
        let written = summary["written"].as_u64().context("the summary has no `written`")?;
        ensure!(written == candles.counts.kept(), "{written} rows were written");
        println!("  {lanes} lanes {:>6} MiB   load {}", taken.peak_mib, load()?);
        route.delete(&cluster)?;
    }
    Ok(())
}
