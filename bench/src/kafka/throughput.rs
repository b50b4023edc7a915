//! Rows a second and what they cost, of the host and of programs that were written by hand.
//!
//! Rows a second: between the times at which the broker took the first row of the output and the last one, for all
//! programs alike; so starting and ending do not count. Seconds of processors: those of the process, less those of
//! another run that finds nothing to read.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::candles::{self, Candles, Counts};
use super::cluster::Cluster;
use super::process::{self, Taken};
use super::{DEDUP, Route, host, load};
use crate::median;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many rows the topic has
    #[arg(long, default_value_t = 2_000_000)]
    rows: u64,
    /// How often each program runs; the medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Numbers of clients, which are threads, or lanes of the host
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    clients: Vec<usize>,
    /// Only programs whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Copy,
    Twin,
    AtLeastOnce,
    ExactlyOnce,
}

const PROGRAMS: [Program; 4] = [Program::Copy, Program::Twin, Program::AtLeastOnce, Program::ExactlyOnce];

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Copy => "copy",
            Program::Twin => "twin",
            Program::AtLeastOnce => "tidegate, at_least_once",
            Program::ExactlyOnce => "tidegate, exactly_once",
        }
    }

    fn command(self, cluster: &Cluster, route: &Route, folder: &TempDir, clients: usize) -> Result<Command> {
        let kind = match self {
            Program::Copy => "copy",
            Program::Twin => "twin",
            Program::AtLeastOnce | Program::ExactlyOnce => {
                let delivery = if self == Program::AtLeastOnce { "at_least_once" } else { "exactly_once" };
                let mut command = host(cluster, route, folder.path(), clients, delivery, DEDUP)?;
                command.args(["--until-end", "--quiet"]);
                return Ok(command);
            }
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["kafka-client", kind, "--brokers", &cluster.address, "--from", &route.from]);
        command.args(["--to", &route.to, "--rejected", &route.rejected, "--group", &route.group]);
        command.args(["--clients", &clients.to_string()]);
        Ok(command)
    }
}

/// All runs of a program with so many clients.
struct Runs {
    program: Program,
    clients: usize,
    rates: Vec<f64>,
    cpu: Vec<f64>,
    start_cpu: Vec<f64>,
    broker_cpu: Vec<f64>,
    others: Vec<f64>,
}

/// Prints a table.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cluster = Cluster::start()?;
    let mut candles = Candles::new();
    let from = candles::topic(&cluster, &mut candles, arguments.rows)?;
    let is_wanted = |program: &Program| {
        arguments.only.is_empty() || arguments.only.iter().any(|name| program.name().contains(name))
    };
    let mut all: Vec<Runs> = Vec::new();
    for &clients in &arguments.clients {
        ensure!([1, 2, 4].contains(&clients), "the partitions are four: 1, 2 or 4 clients share them alike");
        all.extend(PROGRAMS.into_iter().filter(is_wanted).map(|program| Runs {
            program,
            clients,
            rates: Vec::new(),
            cpu: Vec::new(),
            start_cpu: Vec::new(),
            broker_cpu: Vec::new(),
            others: Vec::new(),
        }));
    }
    for round in 1..=arguments.rounds {
        for runs in &mut all {
            runs.measure(&cluster, &from, &candles.counts)?;
            let (rate, cpu) = (runs.rates[round - 1], runs.cpu[round - 1]);
            eprintln!(
                "bench: round {round}, {}, {} clients: {rate:.0} rows/s, {cpu:.2} CPU-s per million, load {}",
                runs.program.name(),
                runs.clients,
                load()?
            );
        }
    }
    print(&all, arguments);
    Ok(())
}

impl Runs {
    fn measure(&mut self, cluster: &Cluster, from: &str, counts: &Counts) -> Result<()> {
        let folder = TempDir::new()?;
        let route = Route::new(cluster, from)?;
        let mut command = self.program.command(cluster, &route, &folder, self.clients)?;
        let Taken { cpu, server_cpu, others, .. } = process::run(&mut command, cluster.process_id())?;
        // The group has read everything, so this is the cost of starting and of ending.
        let start = process::run(&mut command, cluster.process_id())?;
        let seen = cluster.read(&route.to)?;
        let rejected = cluster.read(&route.rejected)?.rows;
        let expected = match self.program {
            Program::Copy => (counts.rows, 0),
            _ => (counts.kept(), counts.rejected),
        };
        ensure!(
            (seen.rows, rejected) == expected,
            "`{}` wrote {} rows and rejected {rejected}, and {} and {} are right",
            self.program.name(),
            seen.rows,
            expected.0,
            expected.1
        );
        let millions = counts.rows as f64 / 1e6;
        self.rates.push(counts.rows as f64 / seen.time.as_secs_f64());
        self.cpu.push((cpu - start.cpu) / millions);
        self.start_cpu.push(start.cpu);
        self.broker_cpu.push(server_cpu / millions);
        self.others.push(others);
        route.delete(cluster).context("the topics of a run stay")
    }
}

fn print(all: &[Runs], arguments: &Arguments) {
    println!("\n{} rows of JSON in 4 partitions, medians of {}", arguments.rows, arguments.rounds);
    println!(
        "{:<24} clients    rows/s  of twin  CPU-s/million  of twin  CPU-s to start  broker's  others' cores",
        "program"
    );
    for runs in all {
        let (rate, cpu) = (median(runs.rates.clone()), median(runs.cpu.clone()));
        let twin = all.iter().find(|other| other.program == Program::Twin && other.clients == runs.clients);
        let ratio = |own: f64, of: fn(&Runs) -> &Vec<f64>| match twin {
            Some(twin) => format!("{:.2}", own / median(of(twin).clone())),
            None => "-".into(),
        };
        println!(
            "{:<24} {:>7} {rate:>9.0} {:>8} {cpu:>14.2} {:>8} {:>15.2} {:>9.2} {:>14.2}",
            runs.program.name(),
            runs.clients,
            ratio(rate, |runs| &runs.rates),
            ratio(cpu, |runs| &runs.cpu),
            median(runs.start_cpu.clone()),
            median(runs.broker_cpu.clone()),
            median(runs.others.clone())
        );
    }
}
