//! The host between topics of a real broker.
//!
//! - `cluster`: the broker and its topics
//! - `candles`: what the topics are filled with
//! - `client`: the programs that the host is compared with, each a process of its own
//! - `process`: runs a program and says what it took
//! - `throughput`, `memory`, `recovery`, `deploys`: what is measured

pub mod candles;
pub mod client;
pub mod cluster;
pub mod deploys;
pub mod memory;
pub mod process;
pub mod recovery;
pub mod throughput;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use cluster::Cluster;

/// Partitions of every topic.
const PARTITIONS: i32 = 4;

/// The rules' settings, as in `pipelines/validate.yaml`.
pub const VALIDATE: &str = r#"{ "sources": ["binance", "coinbase", "kraken"], "max_future": "5m" }"#;
pub const DEDUP: &str = r#"{ "window": "24h" }"#;

/// The topics of one run, and the group that reads.
#[derive(Debug, Clone)]
struct Route {
    from: String,
    to: String,
    rejected: String,
    group: String,
}

impl Route {
    /// A route from a topic that exists to new ones, with a group that has read nothing.
    fn new(cluster: &Cluster, from: &str) -> Result<Route> {
        let to = cluster.create("validated")?;
        let rejected = cluster.create("rejected")?;
        Ok(Route { from: from.into(), group: format!("group-{to}"), to, rejected })
    }

    fn delete(&self, cluster: &Cluster) -> Result<()> {
        cluster.delete(&[&self.to, &self.rejected])
    }
}

/// The command that is the host, with a pipeline file that it writes into `folder`.
fn host(
    cluster: &Cluster,
    route: &Route,
    folder: &Path,
    lanes: usize,
    delivery: &str,
    dedup: &str,
) -> Result<Command> {
    let Route { from, to, rejected, group } = route;
    let brokers = &cluster.address;
    let file = format!(
        "name: bench\n\
         source: {{ kafka: {{ brokers: \"{brokers}\", topic: {from}, group: {group} }} }}\n\
         decode: {{ format: json, columns: ohlcv }}\n\
         rules:\n\
         \x20 - {{ name: validate, component: validate, settings: {VALIDATE} }}\n\
         \x20 - {{ name: dedup, component: dedup, settings: {dedup} }}\n\
         \x20 - {{ name: enrich, component: enrich }}\n\
         sink: {{ kafka: {{ topic: {to}, commit: {{ wait: 1s }} }} }}\n\
         dead_letter: {{ kafka: {{ topic: {rejected} }} }}\n\
         delivery: {delivery}\n\
         lanes: {lanes}\n"
    );
    let path = folder.join("bench.yaml");
    std::fs::write(&path, file)?;
    let name = format!("release/tidegate{}", std::env::consts::EXE_SUFFIX);
    let mut command = Command::new(xtask::target_folder().join(name));
    command.arg("run").arg(path).args(["--json", "--instance", "bench", "--guests"]);
    command.arg(xtask::target_folder().join("guests"));
    Ok(command)
}

/// How busy the machine is, whoever it is busy for.
pub fn load() -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg").context("this machine does not say its load")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
