//! What the host takes while it polls series of three exchanges into SQLite, once a minute each.

use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use exchanges_simulator::{Exchange, MINUTE_MS};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidegate::source::exchange::ledgers::{self, Ledgers};
use tidegate::state;

use super::{Simulated, host, shares};
use crate::kafka::load;
use crate::kafka::process::{Threads, cpu_seconds, peak_memory_mib};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Series of each exchange
    #[arg(long, default_value_t = 1_000)]
    series: usize,
    /// Whole minutes that are measured
    #[arg(long, default_value_t = 3)]
    minutes: u32,
    /// The past that is fetched before; 24h fills the memory of the rule that remembers a day
    #[arg(long, default_value = "1h")]
    history: String,
}

const EXCHANGES: [Exchange; 3] = [Exchange::Binance, Exchange::Coinbase, Exchange::Kraken];

/// How long the past may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// A series is at the present when its newest candle is not older: some minutes have no trades, and what is known of
/// the series is written every ten seconds.
const PRESENT_MS: i64 = 5 * MINUTE_MS;
/// The second of a minute from which on the polls of that minute are over, and what is known of them is written.
const QUIET_SECOND_MS: i64 = 50_000;

/// Prints the share of a core, the memory, and where the time goes.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { series, minutes, history } = arguments;
    let exchanges: Vec<Simulated> =
        EXCHANGES.iter().map(|exchange| Simulated::start(*exchange, *series)).collect::<Result<_>>()?;
    let folder = TempDir::new()?;
    let settings = format!("    history: {history}\n");
    let sink = "{ sqlite: { path: out.db } }";
    let mut command = host(folder.path(), "run", &exchanges, *series, &settings, sink)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let start = Instant::now();
    let host = Host(command.spawn().context("cannot start `tidegate`")?);
    let process = host.0.id();
    while !is_present(folder.path())? {
        ensure!(start.elapsed() < PATIENCE, "the series have not reached the present");
        sleep(Duration::from_secs(1));
    }
    let past_seconds = start.elapsed().as_secs_f64();
    let past_mib = peak_memory_mib(process).context("the host has ended")?;
    eprintln!("bench: at the present after {past_seconds:.0} s, peak {past_mib} MiB, load {}", load()?);

    sleep_until_quiet()?;
    let before = (Seen::of(process, folder.path())?, Instant::now());
    sleep(Duration::from_secs(60 * u64::from(*minutes)));
    let after = Seen::of(process, folder.path())?;
    let seconds = before.1.elapsed().as_secs_f64();
    let before = before.0;
    let peak_mib = peak_memory_mib(process).context("the host has ended")?;
    let summary = host.stop()?;

    let cpu = after.cpu - before.cpu;
    let a_minute = |count: u64| count as f64 / f64::from(*minutes);
    let reached = a_minute((after.reached - before.reached).unsigned_abs());
    let wanted = (EXCHANGES.len() * series) as f64;
    ensure!(reached >= 0.98 * wanted, "{reached} series went on in a minute, and {wanted} are wanted");
    let mut threads = after.threads.by_name();
    before.threads.by_name().iter().for_each(|(name, cpu)| *threads.entry(name.clone()).or_default() -= cpu);
    println!("\n3 exchanges, {series} series of 1m each, {history} of history, {minutes} minutes");
    println!("  CPU               {:>8.1} % of a core ({cpu:.2} s)", 100.0 * cpu / seconds);
    println!("  peak memory       {peak_mib:>8} MiB, {past_mib} MiB when the past was there");
    println!("  series a minute   {reached:>8.0}");
    println!("  requests a minute {:>8.0}", a_minute(after.requests - before.requests));
    println!("  threads           {}", shares(&threads, seconds));
    println!("  rows in all       {:>8}, load {}", summary["written"], load()?);
    Ok(())
}

/// What is seen of the host.
struct Seen {
    cpu: f64,
    threads: Threads,
    requests: u64,
    /// The minutes that all series have reached, together.
    reached: i64,
}

impl Seen {
    fn of(process: u32, folder: &Path) -> Result<Seen> {
        let mut threads = Threads::default();
        threads.look(process);
        let ledgers = ledgers(folder).context("the host does not say what it knows")?;
        let minutes = |ledgers: &Ledgers| {
            let next_ms = ledgers.series.iter().filter_map(|series| series.next_ms);
            next_ms.map(|next_ms| next_ms / MINUTE_MS).sum::<i64>()
        };
        Ok(Seen {
            cpu: cpu_seconds(process)?,
            threads,
            requests: ledgers.iter().map(|ledgers| ledgers.requests).sum(),
            reached: ledgers.iter().map(minutes).sum(),
        })
    }
}

/// What the host knows of the series, once it has said it of all exchanges.
fn ledgers(folder: &Path) -> Option<Vec<Ledgers>> {
    let of = |exchange: &Exchange| state::read(&ledgers::path(&folder.join("state"), "bench", exchange.id()));
    EXCHANGES.iter().map(of).collect()
}

fn is_present(folder: &Path) -> Result<bool> {
    let Some(ledgers) = ledgers(folder) else { return Ok(false) };
    let since_ms = now_ms()? - PRESENT_MS;
    let mut series = ledgers.iter().flat_map(|ledgers| &ledgers.series);
    if let Some(series) = series.clone().find(|series| series.refused.is_some()) {
        bail!("`{}` is refused: {:?}", series.symbol, series.refused);
    }
    Ok(series.all(|series| series.next_ms.is_some_and(|next_ms| next_ms >= since_ms)))
}

/// Sleeps to the next time at which a minute's polls are over.
fn sleep_until_quiet() -> Result<()> {
    let into_ms = now_ms()?.rem_euclid(MINUTE_MS);
    let wait_ms = (QUIET_SECOND_MS - into_ms).rem_euclid(MINUTE_MS);
    sleep(Duration::from_millis(u64::try_from(wait_ms)?));
    Ok(())
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?)
}

/// A host that is killed when this ends.
struct Host(Child);

impl Host {
    /// Lets it finish what it does; gives its summary.
    fn stop(mut self) -> Result<serde_json::Value> {
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        let mut output = String::new();
        let from = self.0.stdout.take().context("the host has no output")?;
        std::io::Read::read_to_string(&mut { from }, &mut output)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "`tidegate` ended with {status}");
        Ok(serde_json::from_str(&output)?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It can have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
