//! `exchanges-simulator`: the simulated exchanges for a person.

use clap::Parser;
use exchanges_simulator::{Clock, Config, Exchange, Market, Misbehaviour, Simulator};

/// Answers as Binance, Coinbase, Kraken and Bybit do, on this machine, until Ctrl-C
#[derive(Parser)]
struct Arguments {
    /// Port on 127.0.0.1
    #[arg(long, default_value_t = 9400)]
    port: u16,
    /// Simulated seconds in a second
    #[arg(long, default_value_t = 1.0, value_parser = rate)]
    rate: f64,
    /// The simulated time at the start, such as 2026-01-02T03:04:05Z; now when not given
    #[arg(long, value_name = "RFC3339")]
    start: Option<jiff::Timestamp>,
    /// The chance of everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many made-up markets (T0001/USDT and so on) beside the usual ones
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    more_markets: usize,
    /// Answer also what is beyond the exchanges' budgets
    #[arg(long)]
    no_limits: bool,
    /// Let everything go wrong now and then
    #[arg(long)]
    misbehave: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err(format!("expected a number from 0.001 to 100000, got `{text}`")),
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let start_ms = arguments.start.map_or(Clock::real().start_ms, |start| start.as_millisecond());
    let mut markets = Market::usual();
    markets.extend(Market::many(arguments.more_markets));
    let simulator = Simulator::start(Config {
        port: arguments.port,
        clock: Clock::starting_at(start_ms, arguments.rate),
        seed: arguments.seed,
        markets,
        misbehaviour: if arguments.misbehave {
            Misbehaviour::all_at_random()
        } else {
            Misbehaviour::default()
        },
        enforce_limits: !arguments.no_limits,
        ..Config::default()
    })?;
    for exchange in Exchange::ALL {
        println!("{}", simulator.url(exchange));
    }
    let Clock { start_ms, origin_ms, rate } = simulator.clock();
    println!("clock: start_ms {start_ms}, origin_ms {origin_ms}, rate {rate}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::signal::ctrl_c())?;
    let violations = simulator.violations();
    println!("{} requests came while they were forbidden", violations.count);
    for violation in &violations.first {
        println!("{violation:?}");
    }
    Ok(())
}
