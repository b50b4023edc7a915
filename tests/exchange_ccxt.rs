//! CCXT as an adapter: the same candles as through the adapters of their own, and an exchange that has none.

use exchanges_simulator::{Exchange, Fault, MINUTE_MS, Misbehaviour, Simulator};
use serde_json::Value;

use crate::harness::exchanges::{
    Candles, START_MS, command, faults, simulator, source, stored, write_pipeline,
};
use crate::harness::{Folder, guests, start, tidegate};

const BYBIT: (Exchange, &[&str]) = (Exchange::Bybit, &["BTC/USDT", "LTC/USDT", "ETH/BTC"]);

const SETTINGS: &str = "    history: 2h\n    spread: 5s\n";

/// Between these all candles are asked for, however soon or late the process begins.
const FROM_MS: i64 = START_MS - 100 * MINUTE_MS;
const TO_MS: i64 = START_MS - MINUTE_MS;

/// A source whose exchanges are all asked through CCXT; `more` are other keys of each.
fn through_ccxt(simulator: &Simulator, exchanges: &[(Exchange, &[&str])], more: &str) -> String {
    assert!(guests().join("ccxt.wasm").is_file(), "run `cargo xtask guests --with ccxt` first");
    let entries: String = exchanges
        .iter()
        .map(|(exchange, symbols)| {
            format!(
                "      - {{ exchange: {}, component: ccxt, symbols: [{}], url: \"{}\", timeout: 2s{more} }}\n",
                exchange.id(),
                symbols.join(", "),
                simulator.url(*exchange),
            )
        })
        .collect();
    format!("source:\n  exchange:\n{SETTINGS}    exchanges:\n{entries}")
}

/// Runs `p.yaml` until everything is there; gives what it has written to standard error.
fn run_to_end(folder: &Folder, simulator: &Simulator) -> String {
    let outcome =
        start(&mut command(folder, simulator, &["run", "p.yaml", "--until-end", "--json"])).finish();
    outcome.summary();
    outcome.stderr
}

/// How often the list of markets was asked for: whatever was not about candles of a symbol.
fn lists(simulator: &Simulator, exchange: Exchange) -> u64 {
    let requests = simulator.requests();
    let of_symbols: u64 = (requests.symbols.iter())
        .filter(|((of, _), _)| *of == exchange)
        .map(|(_, counts)| counts.requests)
        .sum();
    requests.exchanges[&exchange].requests - of_symbols
}

#[test]
fn an_exchange_gives_the_same_candles_through_ccxt_as_through_its_own_adapter() {
    let simulator = simulator(10.0, Misbehaviour::default());
    let exchanges: [(Exchange, &[&str]); 4] = [
        (Exchange::Binance, &["BTC/USDT", "LTC/USDT", "ETH/BTC"]),
        (Exchange::Coinbase, &["BTC/USD", "LTC/USD"]),
        (Exchange::CoinbaseExchange, &["BTC/USD", "LTC/EUR"]),
        (Exchange::Kraken, &["BTC/USD", "DOGE/USD", "LTC/USD"]),
    ];
    let (own, ccxt) = (Folder::new(), Folder::new());
    write_pipeline(&own, &source(&simulator, &exchanges, SETTINGS, ""), "");
    write_pipeline(&ccxt, &through_ccxt(&simulator, &exchanges, ""), "");
    let [own, ccxt] = [own, ccxt].map(|folder| {
        run_to_end(&folder, &simulator);
        let mut candles = stored(&folder);
        candles.retain(|(.., open_ms), _| (FROM_MS..TO_MS).contains(open_ms));
        candles
    });
    let different = |one: &Candles, other: &Candles| -> Vec<_> {
        one.iter()
            .filter(|(key, candle)| other.get(key) != Some(candle))
            .map(|one| format!("{one:?}"))
            .collect()
    };
    let nothing = Vec::<String>::new();
    assert_eq!((different(&own, &ccxt), different(&ccxt, &own)), (nothing.clone(), nothing.clone()));
    assert_eq!(faults(&simulator, &exchanges, &ccxt, FROM_MS, TO_MS), nothing);
    assert_eq!(simulator.violations().count, 0);
}

#[test]
fn an_exchange_without_an_adapter_of_its_own_is_asked_through_ccxt() {
    let simulator = simulator(20.0, Misbehaviour::default());
    let folder = Folder::new();
    // Nobody says that it is to be CCXT.
    let source = through_ccxt(&simulator, &[BYBIT], "").replace("component: ccxt, ", "");
    write_pipeline(&folder, &source.replace("ETH/BTC", "ETH/BTC, NOBODY/USDT"), "");
    let mut running = start(&mut command(&folder, &simulator, &["run", "p.yaml", "--json"]));
    let until_ms = START_MS + 4 * MINUTE_MS;
    let is_there = |symbol: &str| {
        let rows = |counts: &exchanges_simulator::Counts| counts.requests;
        simulator.requests().symbols.get(&(Exchange::Bybit, symbol.to_owned())).map_or(0, rows) >= 3
    };
    running.wait_until(|| {
        simulator.clock().now_ms() > until_ms && BYBIT.1.iter().all(|symbol| is_there(symbol))
    });
    running.interrupt();
    let outcome = running.finish();
    outcome.summary();
    let wrong = faults(&simulator, &[BYBIT], &stored(&folder), FROM_MS, START_MS + MINUTE_MS);
    assert_eq!(wrong, Vec::<String>::new());
    assert!(stored(&folder).keys().all(|(_, symbol, _)| BYBIT.1.contains(&symbol.as_str())));
    let unknown = "the symbol is unknown there: BadSymbol: bybit does not have market symbol NOBODY/USDT";
    assert!(outcome.stderr.contains(unknown), "{}", outcome.stderr);
    assert_eq!(lists(&simulator, Exchange::Bybit), 4, "once a symbol: {:?}", simulator.requests());
    assert_eq!(simulator.violations().count, 0);
}

#[test]
fn an_exchange_that_is_asked_through_ccxt_is_left_alone_for_as_long_as_it_says() {
    let simulator = simulator(10.0, Misbehaviour::default());
    let folder = Folder::new();
    write_pipeline(&folder, &through_ccxt(&simulator, &[BYBIT], ", concurrency: 1"), "");
    let waits = [
        Fault::TooManyRequests { retry_after_s: Some(20) },
        Fault::ServerError(503),
        Fault::Truncated,
        Fault::Page,
        Fault::TooManyRequests { retry_after_s: Some(5) },
        Fault::ErrorBody,
    ];
    waits.into_iter().for_each(|fault| simulator.next(Exchange::Bybit, fault));
    let stderr = run_to_end(&folder, &simulator);
    assert!(stderr.contains("too many requests: "), "{stderr}");
    let wrong = faults(&simulator, &[BYBIT], &stored(&folder), FROM_MS, TO_MS);
    assert_eq!(wrong, Vec::<String>::new());
    let requests = simulator.requests();
    assert_eq!(requests.exchanges[&Exchange::Bybit].faults.len(), 5, "{requests:?}");
    assert_eq!(requests.exchanges[&Exchange::Bybit].statuses[&429], 2, "{requests:?}");
    assert_eq!(simulator.violations().count, 0);
}

#[test]
fn a_backfill_through_ccxt_is_complete() {
    let simulator = simulator(20.0, Misbehaviour::default());
    let folder = Folder::new();
    write_pipeline(&folder, &through_ccxt(&simulator, &[BYBIT], ""), "");
    let arguments =
        ["backfill", "p.yaml", "--from", "2025-12-30", "--until", "2026-01-01T23:00:00Z", "--json"];
    let outcome = start(&mut command(&folder, &simulator, &arguments)).finish();
    let summary = outcome.summary();
    for series in summary["series"].as_array().unwrap() {
        assert_eq!((&series["wanted"], &series["done"]), (&4_260.into(), &4_260.into()), "{summary}");
    }
    let (from_ms, to_ms) = (START_MS - 3 * 1_440 * MINUTE_MS, START_MS - 60 * MINUTE_MS);
    assert_eq!(faults(&simulator, &[BYBIT], &stored(&folder), from_ms, to_ms), Vec::<String>::new());
    assert_eq!(simulator.violations().count, 0);
}

#[test]
fn what_ccxt_does_not_know_is_said() {
    let folder = Folder::new();
    let entry = |keys: &str| {
        folder.write(
            "p.yaml",
            format!(
                "name: test\nsource: {{ exchange: {{ exchanges: [{{ symbols: [BTC/USD], {keys} }}] }} }}\ndecode: {{ columns: \
                 candles }}\nsink: {{ sqlite: {{ path: out.db }} }}\n"
            ),
        );
        tidegate(&folder, &["check", "p.yaml"])
    };
    assert!(guests().join("ccxt.wasm").is_file(), "run `cargo xtask guests --with ccxt` first");
    let unknown = "the adapter `ccxt` does not know the exchange `krakn`; did you mean `kraken`?";
    entry("exchange: krakn").refused(2, unknown);
    entry("exchange: bybit, live: true").refused(2, "the adapter `ccxt` knows no live feed of `1m` candles");
    entry("exchange: bybit, hosts: [evil.example]").refused(2, "the host `evil.example` is none of those");
    let inspected = tidegate(&folder, &["inspect", "ccxt", "--json"]);
    let ccxt: Value = serde_json::from_str(&inspected.stdout).unwrap();
    let exchanges = ccxt["exchanges"].as_array().unwrap();
    assert!(exchanges.len() > 80, "{}", exchanges.len());
    for exchange in exchanges {
        assert!(!exchange["hosts"].as_array().unwrap().is_empty(), "{exchange}");
        assert_eq!(exchange["has_feed"], false, "{exchange}");
    }
}
