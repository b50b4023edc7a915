//! Pipelines that collect from simulated exchanges, and what their databases must hold.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use exchanges_simulator::{Clock, Config, Exchange, Expected, MINUTE_MS, Market, Misbehaviour, Simulator};
use rusqlite::types::Value as Stored;

use super::{Database, Folder, guests, integer, text};

/// 2026-01-02T00:00:00Z: where the simulated time of most tests begins.
pub const START_MS: i64 = 1_767_312_000_000;

/// What `pipelines/ingest.yaml` collects.
pub const SHIPPED: [(Exchange, &[&str]); 3] = [
    (
        Exchange::Binance,
        &[
            "BTC/USDT",
            "ETH/USDT",
            "SOL/USDT",
            "XRP/USDT",
            "DOGE/USDT",
            "ADA/USDT",
            "LTC/USDT",
            "LINK/USDT",
            "DOT/USDT",
            "ETH/BTC",
        ],
    ),
    (Exchange::Coinbase, &DOLLARS),
    (Exchange::Kraken, &DOLLARS),
];

const DOLLARS: [&str; 10] = [
    "BTC/USD", "ETH/USD", "SOL/USD", "XRP/USD", "DOGE/USD", "ADA/USD", "LTC/USD", "LINK/USD", "DOT/USD",
    "ETH/BTC",
];

/// The variables that make the shipped pipelines ask a simulator.
pub fn ask_simulator(command: &mut Command, simulator: &Simulator) {
    for (exchange, _) in SHIPPED {
        command.env(format!("{}_URL", exchange.id().to_uppercase()), simulator.url(exchange));
    }
}

/// A simulator whose time passes `rate` times faster than the machine's.
pub fn simulator(rate: f64, misbehaviour: Misbehaviour) -> Simulator {
    simulator_of(rate, misbehaviour, Market::usual())
}

pub fn simulator_of(rate: f64, misbehaviour: Misbehaviour, markets: Vec<Market>) -> Simulator {
    let clock = Clock::starting_at(START_MS, rate);
    // On a busy machine a request is on its way for long. A ban of five minutes has two seconds and a half at the rate of
    // the fastest tests.
    let on_its_way = Duration::from_secs(1);
    Simulator::start(Config { clock, markets, misbehaviour, on_its_way, ..Config::default() }).unwrap()
}

/// The component of an exchange's adapter is one of its own, or CCXT.
fn entry(simulator: &Simulator, exchange: Exchange, symbols: &[&str], more: &str) -> String {
    format!(
        "      - {{ exchange: {}, symbols: [{}], url: \"{}\", timeout: 2s{}{more} }}\n",
        exchange.id(),
        symbols.join(", "),
        simulator.url(exchange),
        if exchange == Exchange::CoinbaseExchange { ", component: coinbase" } else { "" },
    )
}

/// A source of exchanges and their symbols; `settings` are its other keys, `more` those of each exchange.
pub fn source(
    simulator: &Simulator,
    exchanges: &[(Exchange, &[&str])],
    settings: &str,
    more: &str,
) -> String {
    let entries: String =
        exchanges.iter().map(|(exchange, symbols)| entry(simulator, *exchange, symbols, more)).collect();
    format!("source:\n  exchange:\n{settings}    exchanges:\n{entries}")
}

/// Writes `p.yaml` with a source, `rules` or other keys, and the database `out.db` as the sink.
pub fn write_pipeline(folder: &Folder, source: &str, rest: &str) {
    folder.write(
        "p.yaml",
        format!(
            "name: test\n{source}decode: {{ columns: candles }}\n{rest}sink: {{ sqlite: {{ path: out.db }} }}\n"
        ),
    );
}

/// A command of the binary in the time of a simulator, with a state folder of its own.
pub fn command(folder: &Folder, simulator: &Simulator, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(folder.path(".")).args(arguments).arg("--guests").arg(guests());
    command.arg("--state").arg(folder.path("state"));
    command.env("TIDEGATE_CLOCK", clock_of(simulator));
    command.stdin(std::process::Stdio::null());
    command
}

/// The variable `TIDEGATE_CLOCK` that gives a process the time of a simulator.
pub fn clock_of(simulator: &Simulator) -> String {
    let Clock { start_ms, origin_ms, rate } = simulator.clock();
    format!("{start_ms},{origin_ms},{rate}")
}

/// The newest revision of each candle, by exchange and symbol and open time: its values and its revision.
pub type Candles = BTreeMap<(String, String, i64), ([f64; 5], i64)>;

/// What `out.db` has. A key that is there twice with one revision is an error.
pub fn stored(folder: &Folder) -> Candles {
    let rows = Database::open(&folder.path("out.db")).query(
        "SELECT source, symbol, timestamp, open, high, low, close, volume, COALESCE(revision, 0) FROM candles",
    );
    let number = |value: &Stored| match value {
        Stored::Real(number) => *number,
        Stored::Integer(number) => *number as f64,
        other => panic!("{other:?} is no number"),
    };
    let mut candles = Candles::new();
    for row in rows {
        let key = (text(&row[0]), text(&row[1]), integer(&row[2]));
        let values = [3, 4, 5, 6, 7].map(|index| number(&row[index]));
        let before = candles.insert(key.clone(), (values, integer(&row[8])));
        assert!(before.is_none(), "{key:?} is there twice");
    }
    candles
}

/// How many rows `out.db` has; none while it or its table is not there.
pub fn rows(folder: &Folder) -> i64 {
    let path = folder.path("out.db");
    if !path.is_file() {
        return 0;
    }
    let database = Database::open(&path);
    match database.columns("candles").is_empty() {
        true => 0,
        false => integer(&database.query("SELECT count(*) FROM candles")[0][0]),
    }
}

/// What is wrong with the candles from `from_ms` to before `to_ms`, in sentences: nothing lost, nothing wrong, nothing
/// made up.
pub fn faults(
    simulator: &Simulator,
    exchanges: &[(Exchange, &[&str])],
    candles: &Candles,
    from_ms: i64,
    to_ms: i64,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (exchange, symbols) in exchanges {
        for symbol in *symbols {
            for open_ms in (from_ms..to_ms).step_by(MINUTE_MS as usize) {
                let key = (exchange.id().to_owned(), (*symbol).to_owned(), open_ms);
                let minute = (open_ms - START_MS) / MINUTE_MS;
                let found = candles.get(&key).map(|(values, _)| *values);
                let wanted = match simulator.expected(*exchange, symbol, open_ms) {
                    Expected::Candle(candle) => Some(
                        [candle.open, candle.high, candle.low, candle.close, candle.volume]
                            .map(|value| value.value()),
                    ),
                    Expected::Quiet | Expected::Missing => None,
                };
                if found != wanted {
                    let revision = candles.get(&key).map(|(_, revision)| *revision);
                    faults.push(format!(
                        "{} {symbol} minute {minute}: {found:?} (revision {revision:?}), expected {wanted:?}",
                        exchange.id()
                    ));
                }
            }
        }
    }
    let made_up = candles.keys().filter(|(.., open_ms)| open_ms % MINUTE_MS != 0);
    faults.extend(made_up.map(|key| format!("{key:?} is made up")));
    faults
}
