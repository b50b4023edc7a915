//! What it costs to be looked at: the same pipeline without HTTP, with it, asked for its metrics every second, watched with a
//! filter, and beleaguered.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::kafka::process::{cpu_seconds, has_ended};
use crate::path;

const ROUNDS: usize = 7;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many rows go through three rules
    #[arg(long, default_value_t = 3_000_000)]
    rows: usize,
    /// How many connections say nothing while it is beleaguered; the limit of open files must allow them
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
}

/// Who looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    Served,
    Scraped,
    Watched,
    Beleaguered,
}

const WAYS: [(Way, &str); 5] = [
    (Way::Alone, "without http"),
    (Way::Served, "http, nobody looks"),
    (Way::Scraped, "metrics every second"),
    (Way::Watched, "tap with a filter"),
    (Way::Beleaguered, "metrics without a pause, and idle connections"),
];

/// Prints rows a second and the processor's time of each way, and their ratios to the first.
pub fn run(arguments: &Arguments) -> Result<()> {
    let rows = path::rows(arguments.rows)?;
    let mut seconds: [Vec<f64>; WAYS.len()] = Default::default();
    let mut cpu: [Vec<f64>; WAYS.len()] = Default::default();
    // The first run of a process finds nothing in memory, and what is beside it changes with time: each way has each place.
    measure(rows.path(), Way::Alone, arguments)?;
    for round in 0..ROUNDS {
        for place in 0..WAYS.len() {
            let number = (place + round) % WAYS.len();
            let taken = measure(rows.path(), WAYS[number].0, arguments)?;
            seconds[number].push(taken.0);
            cpu[number].push(taken.1);
        }
    }
    println!(
        "\nfile, three rules, standard output: {} rows of JSON, the best of {ROUNDS} rounds",
        arguments.rows
    );
    // A neighbour on the machine makes a run slower, and nothing makes it faster.
    let best = |times: Vec<f64>| times.into_iter().fold(f64::INFINITY, f64::min);
    let (seconds, cpu) = (seconds.map(best), cpu.map(best));
    for (number, (_, name)) in WAYS.into_iter().enumerate() {
        println!(
            "  {name:<46} {:>9.0} rows/s {:>6.3} of alone, CPU {:>5.2} s/million {:>6.3} of alone",
            arguments.rows as f64 / seconds[number],
            seconds[0] / seconds[number],
            cpu[number] * 1e6 / arguments.rows as f64,
            cpu[number] / cpu[0],
        );
    }
    Ok(())
}

/// Seconds of a run, and of processors.
fn measure(rows: &Path, way: Way, arguments: &Arguments) -> Result<(f64, f64)> {
    let folder = TempDir::new()?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let http = if way == Way::Alone { String::new() } else { format!("http: {address}\n") };
    let rows = rows.to_str().context("the name of the temporary file is no text")?;
    std::fs::write(
        folder.path().join("p.yaml"),
        format!(
            "name: looked_at\nsource: {{ file: {{ path: {rows} }} }}\nrules:\n\
             \x20 - {{ name: validate, component: validate, settings: {{ sources: [binance, coinbase, kraken] }} }}\n\
             \x20 - {{ name: dedup, component: dedup, settings: {{ window: 24h }} }}\n\
             \x20 - {{ name: enrich, component: enrich }}\n\
             sink: {{ stdout: {{}} }}\ndead_letter: {{ file: {{ path: dead.jsonl }} }}\n{http}"
        ),
    )?;
    let messages = std::fs::File::create(folder.path().join("messages"))?;
    let arguments_of_run = ["run", "p.yaml", "--json", "--now", "2026-02-01T00:00:00Z"];
    let mut run = tidegate(folder.path());
    run.args(arguments_of_run).stdout(Stdio::null()).stderr(messages);
    let mut child = run.spawn().context("cannot start `tidegate`")?;
    let has_run = AtomicBool::new(false);
    let cpu = thread::scope(|scope| -> Result<f64> {
        let look = scope.spawn(|| look(folder.path(), address, way, arguments, &has_run));
        while !has_ended(&child)? {
            thread::sleep(Duration::from_millis(5));
        }
        let cpu = cpu_seconds(child.id());
        has_run.store(true, Ordering::Relaxed);
        look.join().expect("it does not panic")?;
        cpu
    })?;
    ensure!(child.wait()?.success(), "the pipeline has failed");
    let said = std::fs::read_to_string(folder.path().join("messages"))?;
    let summary = said.lines().rfind(|line| line.starts_with('{')).context("there is no summary")?;
    let summary: Value = serde_json::from_str(summary)?;
    Ok((summary["seconds"].as_f64().context("the summary has no time")?, cpu))
}

/// Looks at a pipeline until it has run.
fn look(
    folder: &Path,
    address: SocketAddr,
    way: Way,
    arguments: &Arguments,
    has_run: &AtomicBool,
) -> Result<()> {
    let is_over = || has_run.load(Ordering::Relaxed);
    while way != Way::Alone && !is_over() && TcpStream::connect(address).is_err() {
        thread::sleep(Duration::from_millis(2));
    }
    match way {
        Way::Alone | Way::Served => {}
        Way::Scraped => {
            while !is_over() {
                scrape(address);
                (0..100).take_while(|_| !is_over()).for_each(|_| thread::sleep(Duration::from_millis(10)));
            }
        }
        Way::Watched => {
            let wanted = ["tap", "p.yaml", "--where", "symbol=BTC/USDT", "--where", "source=binance"];
            let mut tap =
                tidegate(folder).args(wanted).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            while !is_over() {
                thread::sleep(Duration::from_millis(10));
            }
            tap.kill()?;
            tap.wait()?;
        }
        Way::Beleaguered => {
            let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(20)).ok();
            let idle: Vec<_> = (0..arguments.idle).take_while(|_| !is_over()).filter_map(connect).collect();
            while !is_over() {
                scrape(address);
            }
            drop(idle);
        }
    }
    Ok(())
}

/// Asks for the metrics once; a pipeline that has just ended says nothing.
fn scrape(address: SocketAddr) {
    let asked = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    };
    drop(asked());
}

fn tidegate(folder: &Path) -> Command {
    let name = format!("release/tidegate{}", std::env::consts::EXE_SUFFIX);
    let mut command = Command::new(xtask::target_folder().join(name));
    command.current_dir(folder).env("TIDEGATE_STATE", folder.join("state")).stdin(Stdio::null());
    command
}
