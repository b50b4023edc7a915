//! Candles of exchanges: the real binary and real adapters, against exchanges that are simulated over HTTP and
//! WebSocket.

use std::time::{Duration, Instant};

use exchanges_simulator::{Exchange, Expected, Fault, MINUTE_MS, Market, Misbehaviour, Simulator};
use rusqlite::types::Value as Stored;
use serde_json::Value;

use crate::harness::exchanges::{
    START_MS, command, faults, rows, simulator, simulator_of, source, stored, write_pipeline,
};
use crate::harness::{Database, Folder, RULES, Running, start};

const BINANCE: (Exchange, &[&str]) = (Exchange::Binance, &["BTC/USDT", "ETH/USDT", "LTC/USDT"]);
const COINBASE: (Exchange, &[&str]) = (Exchange::Coinbase, &["BTC/USD", "LTC/USD"]);
const KRAKEN: (Exchange, &[&str]) = (Exchange::Kraken, &["BTC/USD", "DOGE/USD", "LTC/USD"]);

/// The settings of most tests: polls that are not spread much, and so much history that the two hours before the
/// simulated time begins are in it however long the process takes to start.
const SETTINGS: &str = "    history: 4h\n    spread: 5s\n";

#[test]
fn candles_of_three_exchanges_are_complete_and_closed() {
    let simulator = simulator(30.0, Misbehaviour::default());
    let folder = Folder::new();
    let exchanges = [BINANCE, COINBASE, KRAKEN];
    write_pipeline(&folder, &source(&simulator, &exchanges, SETTINGS, ""), RULES);
    let summary = start(&mut command(&folder, &simulator, &["run", "p.yaml", "--until-end", "--json"]))
        .finish()
        .summary();
    let candles = stored(&folder);
    assert_eq!(summary["written"].as_u64().unwrap() as usize, candles.len());
    // The newest closed minute can be one that was not closed at the start.
    let wrong = faults(&simulator, &exchanges, &candles, START_MS - 119 * MINUTE_MS, START_MS - MINUTE_MS);
    assert_eq!(wrong, Vec::<String>::new());
    assert!(candles.keys().all(|(.., open_ms)| open_ms + MINUTE_MS <= simulator.clock().now_ms()));
    assert_eq!(simulator.violations().count, 0);
}

/// Runs `p.yaml` to the present.
fn run_to_the_present(folder: &Folder, simulator: &Simulator) -> Value {
    start(&mut command(folder, simulator, &["run", "p.yaml", "--until-end", "--json"])).finish().summary()
}

/// Runs `p.yaml` until the simulated time is `until_ms`, then ends it with Ctrl-C.
fn run_until(folder: &Folder, simulator: &Simulator, until_ms: i64) -> Value {
    let mut running = start(&mut command(folder, simulator, &["run", "p.yaml", "--json"]));
    running.wait_until(|| simulator.clock().now_ms() >= until_ms);
    running.interrupt();
    running.finish().summary()
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_restart_goes_on_after_the_rows_of_the_database() {
    let simulator = simulator(60.0, Misbehaviour::default());
    let folder = Folder::new();
    let exchanges = [BINANCE, COINBASE, KRAKEN];
    write_pipeline(&folder, &source(&simulator, &exchanges, SETTINGS, ""), RULES);
    run_to_the_present(&folder, &simulator);
    let before = simulator.requests().exchanges[&Exchange::Binance].rows;
    // Nobody collects for ten minutes.
    let away_ms = simulator.clock().now_ms() + 10 * MINUTE_MS;
    while simulator.clock().now_ms() < away_ms {
        std::thread::sleep(Duration::from_millis(20));
    }
    let end_ms = simulator.clock().now_ms();
    let summary = run_until(&folder, &simulator, end_ms + 5 * MINUTE_MS);
    let candles = stored(&folder);
    let wrong = faults(&simulator, &exchanges, &candles, START_MS - 119 * MINUTE_MS, end_ms + 3 * MINUTE_MS);
    assert_eq!(wrong, nothing());
    assert!(candles.values().all(|(_, revision)| *revision == 0));
    assert_eq!(summary["dropped"], 0, "nothing is fetched that the database has, but what is read again");
    let again = simulator.requests().exchanges[&Exchange::Binance].rows - before;
    assert!(again < 3 * (10 + 6 + 6 * 7), "{again} rows for sixteen minutes of three series");
}

#[test]
fn whatever_an_answer_is_the_candles_come_in_the_end() {
    let faults_of_answers = [
        Fault::TooManyRequests { retry_after_s: Some(5) },
        Fault::ServerError(500),
        Fault::ServerError(502),
        Fault::ServerError(503),
        Fault::Page,
        Fault::Truncated,
        Fault::BrokenGzip,
        Fault::Slow { wall_ms: 100 },
        Fault::Hang,
        Fault::Empty,
        Fault::ErrorBody,
        Fault::Disordered,
        Fault::WrongDate { offset_ms: 600_000 },
        Fault::WrongDate { offset_ms: -600_000 },
    ];
    let simulator = simulator(60.0, Misbehaviour::default());
    let folder = Folder::new();
    let exchanges = [BINANCE, COINBASE, KRAKEN];
    write_pipeline(&folder, &source(&simulator, &exchanges, SETTINGS, ""), RULES);
    for fault in faults_of_answers {
        exchanges.iter().for_each(|(exchange, _)| simulator.next(*exchange, fault));
    }
    let summary = run_until(&folder, &simulator, START_MS + 20 * MINUTE_MS);
    let end_ms = START_MS + 8 * MINUTE_MS;
    let wrong = faults(&simulator, &exchanges, &stored(&folder), START_MS - 119 * MINUTE_MS, end_ms);
    assert_eq!((wrong, summary["rejected"].as_u64()), (nothing(), Some(0)));
    for (exchange, _) in exchanges {
        let faults = &simulator.requests().exchanges[&exchange].faults;
        assert!(faults.len() >= 10, "{exchange:?} did what it was told: {faults:?}");
    }
    assert_eq!(simulator.violations().count, 0);
}

#[test]
fn a_ban_outlives_the_process() {
    let simulator = simulator(10.0, Misbehaviour::default());
    let folder = Folder::new();
    let exchanges = [BINANCE, COINBASE];
    write_pipeline(&folder, &source(&simulator, &exchanges, SETTINGS, ""), RULES);
    simulator.next(Exchange::Binance, Fault::Ban { retry_after_s: 60 });
    let mut running = start(&mut command(&folder, &simulator, &["run", "p.yaml"]));
    running.wait_until(|| folder.path("state/exchanges").is_dir());
    // As many requests as were on their way have come.
    std::thread::sleep(Duration::from_millis(300));
    running.kill();
    let requests = simulator.requests().exchanges[&Exchange::Binance].requests;
    let started = Instant::now();
    let mut running = start(&mut command(&folder, &simulator, &["run", "p.yaml", "--until-end"]));
    running.wait_until(|| started.elapsed() > Duration::from_secs(2));
    assert_eq!(simulator.requests().exchanges[&Exchange::Binance].requests, requests, "the ban is not over");
    let outcome = running.finish();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(simulator.violations().count, 0);
    let wrong =
        faults(&simulator, &exchanges, &stored(&folder), START_MS - 119 * MINUTE_MS, START_MS - MINUTE_MS);
    assert_eq!(wrong, nothing());
}

#[test]
fn candles_that_are_late_or_corrected_end_as_they_are_in_truth() {
    let misbehaviour = Misbehaviour { late: 0.2, corrected: 0.2, delayed: 0.05, ..Misbehaviour::default() };
    let simulator = simulator(120.0, misbehaviour);
    let folder = Folder::new();
    let exchanges = [BINANCE, COINBASE, KRAKEN];
    let settings = "    history: 2h\n    spread: 5s\n    patience: 40m\n";
    write_pipeline(&folder, &source(&simulator, &exchanges, settings, ""), RULES);
    run_until(&folder, &simulator, START_MS + 65 * MINUTE_MS);
    let candles = stored(&folder);
    let end_ms = START_MS + 25 * MINUTE_MS;
    assert_eq!(faults(&simulator, &exchanges, &candles, START_MS - 29 * MINUTE_MS, end_ms), nothing());
    let corrected = candles.values().filter(|(_, revision)| *revision > 0).count();
    assert!(corrected > 10, "{corrected} candles were corrected");
}

#[test]
fn a_symbol_that_is_delisted_stops_no_other() {
    let simulator = simulator(60.0, Misbehaviour::default());
    let folder = Folder::new();
    let exchanges = [BINANCE, COINBASE, KRAKEN];
    write_pipeline(&folder, &source(&simulator, &exchanges, SETTINGS, ""), RULES);
    for (exchange, symbols) in exchanges {
        simulator.delist(exchange, symbols[0]);
    }
    run_until(&folder, &simulator, START_MS + 5 * MINUTE_MS);
    let candles = stored(&folder);
    let others = exchanges.map(|(exchange, symbols)| (exchange, &symbols[1..]));
    let wrong = faults(&simulator, &others, &candles, START_MS - 119 * MINUTE_MS, START_MS + 3 * MINUTE_MS);
    assert_eq!(wrong, nothing());
    for (exchange, symbols) in exchanges {
        let requests = simulator.requests();
        let asked =
            requests.symbols.get(&(exchange, symbols[0].to_owned())).map_or(0, |counts| counts.requests);
        assert!(asked <= 1, "{exchange:?} is asked for it {asked} times");
    }
    let gaps = start(&mut command(&folder, &simulator, &["gaps", "p.yaml"])).finish();
    assert_eq!(gaps.code, Some(0), "{}", gaps.stderr);
    assert!(gaps.stdout.contains("binance BTC/USDT: the symbol is unknown there"), "{}", gaps.stdout);
}

#[test]
fn a_live_feed_brings_candles_at_once_and_may_fall_silent_or_end() {
    let simulator = simulator(20.0, Misbehaviour::default());
    let folder = Folder::new();
    let exchanges = [BINANCE, KRAKEN];
    // Without the feed nothing would come before the minute is nearly over.
    let settings = "    history: 1h\n    grace: 40s\n    spread: 1s\n";
    write_pipeline(&folder, &source(&simulator, &exchanges, settings, ", live: true"), RULES);
    let mut running = start(&mut command(&folder, &simulator, &["run", "p.yaml"]));
    let newest = |exchange: &str| {
        let candles = if rows(&folder) == 0 { Default::default() } else { stored(&folder) };
        candles.keys().filter(|(source, ..)| source == exchange).map(|(.., open_ms)| *open_ms).max()
    };
    running.wait_until(|| {
        let since_close_ms = simulator.clock().now_ms() - MINUTE_MS - newest("binance").unwrap_or(0);
        (0..20_000).contains(&since_close_ms) && newest("kraken").is_some()
    });
    simulator.silence(Exchange::Binance);
    simulator.drop_feeds(Exchange::Kraken);
    let end_ms = simulator.clock().now_ms() + 8 * MINUTE_MS;
    running.wait_until(|| simulator.clock().now_ms() >= end_ms);
    running.interrupt();
    let outcome = running.finish();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let is_told = |why| outcome.stderr.contains(&format!("the live feed has ended: {why}"));
    assert!(is_told("nothing came for 60 s"), "{}", outcome.stderr);
    let wrong =
        faults(&simulator, &exchanges, &stored(&folder), START_MS - 9 * MINUTE_MS, end_ms - 2 * MINUTE_MS);
    assert_eq!(wrong, nothing());
    assert!(simulator.requests().exchanges[&Exchange::Kraken].feeds >= 2);
}

/// Symbols of [`Market::many`].
const SYMBOLS: usize = 30;

/// What a chaos run can be told by variables, with what it does by itself.
fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn exchanges_that_misbehave_and_a_process_that_is_killed_lose_and_double_nothing() {
    let minutes = variable("TIDEGATE_CHAOS_MINUTES", 90) as i64;
    let kills = variable("TIDEGATE_CHAOS_KILLS", 6);
    let mut seed = variable("TIDEGATE_CHAOS_SEED", 1) | 1;
    let simulator = simulator_of(120.0, Misbehaviour::all_at_random(), Market::many(SYMBOLS));
    let names: Vec<String> = Market::many(SYMBOLS).iter().map(Market::symbol).collect();
    let symbols: Vec<&str> = names.iter().map(String::as_str).collect();
    let exchanges =
        [Exchange::Binance, Exchange::Coinbase, Exchange::Kraken].map(|exchange| (exchange, &*symbols));
    let folder = Folder::new();
    let settings = "    history: 3h\n    patience: 45m\n    ledger: 48h\n";
    write_pipeline(&folder, &source(&simulator, &exchanges, settings, ""), RULES);
    let end_ms = START_MS + minutes * MINUTE_MS;
    // Until what was delayed has come, and what has not is given up.
    let settled_ms = end_ms + 80 * MINUTE_MS;
    let life_ms = (settled_ms - START_MS) / (kills as i64 + 1);
    let mut running: Option<Running> = None;
    for _ in 0..kills {
        let mut killed = start(&mut command(&folder, &simulator, &["run", "p.yaml", "--quiet"]));
        // Between nothing and twice the mean.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let until_ms = simulator.clock().now_ms() + (seed % (2 * life_ms.unsigned_abs())) as i64;
        let until_ms = until_ms.min(end_ms + 20 * MINUTE_MS);
        killed.wait_until_slow(|| simulator.clock().now_ms() >= until_ms);
        killed.kill();
    }
    let last = running.insert(start(&mut command(&folder, &simulator, &["run", "p.yaml", "--json"])));
    last.wait_until_slow(|| simulator.clock().now_ms() >= settled_ms);
    last.interrupt();
    running.take().map(Running::finish).unwrap().summary();

    let candles = stored(&folder);
    let wrong = faults(&simulator, &exchanges, &candles, START_MS, end_ms);
    assert_eq!((wrong.len(), wrong.first()), (0, None), "{:?}", &wrong[..wrong.len().min(20)]);
    let rejected = Database::open(&folder.path("out.db")).query("SELECT count(*) FROM dead_letter");
    assert_eq!(rejected, [[Stored::Integer(0)]]);
    let violations = simulator.violations();
    assert_eq!(violations.count, 0, "{:?}", violations.first);
    // The ledger says of every minute what the simulator knows of it.
    let gaps = start(&mut command(&folder, &simulator, &["gaps", "p.yaml", "--json"])).finish();
    let ledgers: Value = serde_json::from_str(&gaps.stdout).unwrap();
    for (exchange, ledger) in
        [Exchange::Binance, Exchange::Coinbase, Exchange::Kraken].iter().zip(ledgers.as_array().unwrap())
    {
        for series in ledger["series"].as_array().unwrap() {
            let symbol = series["symbol"].as_str().unwrap();
            let wanted: Vec<i64> = (START_MS..end_ms)
                .step_by(MINUTE_MS as usize)
                .filter(|open_ms| simulator.expected(*exchange, symbol, *open_ms) == Expected::Missing)
                .collect();
            let is_missing =
                |open_ms: &i64| {
                    series["missing_ms"].as_array().unwrap().iter().any(|range| {
                        (range[0].as_i64().unwrap()..range[1].as_i64().unwrap()).contains(open_ms)
                    })
                };
            let said: Vec<i64> = (START_MS..end_ms).step_by(MINUTE_MS as usize).filter(is_missing).collect();
            assert_eq!(said, wanted, "{exchange:?} {symbol}");
        }
    }
}
