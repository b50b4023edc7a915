//! `tidegate backfill`, and the shipped pipelines of exchanges, against simulated exchanges.

use std::collections::HashMap;

use exchanges_simulator::{Exchange, Fault, MINUTE_MS, Misbehaviour, Simulator};
use serde_json::Value;

use crate::harness::deploy::free_port;
use crate::harness::exchanges::{
    SHIPPED, START_MS, ask_simulator, command, faults, rows, simulator, source, stored, write_pipeline,
};
use crate::harness::kafka::own_broker;
use crate::harness::{Folder, RULES, start, workspace};

const EXCHANGES: [(Exchange, &[&str]); 3] = [
    (Exchange::Binance, &["BTC/USDT", "LTC/USDT"]),
    (Exchange::Coinbase, &["BTC/USD", "LTC/USD"]),
    (Exchange::Kraken, &["DOGE/USD"]),
];

/// Ten hours that end a quarter of an hour before the simulated time begins: as far back as Kraken goes.
const FROM: &str = "2026-01-01T13:45:00Z";
const UNTIL: &str = "2026-01-01T23:45:00Z";
const UNTIL_MS: i64 = START_MS - 15 * MINUTE_MS;
const MINUTES: i64 = 600;

fn backfill(folder: &Folder, simulator: &Simulator, more: &[&str]) -> std::process::Command {
    let arguments = [&["backfill", "p.yaml", "--from", FROM, "--until", UNTIL, "--json"], more].concat();
    command(folder, simulator, &arguments)
}

/// Of each series, by exchange and symbol.
fn series(summary: &Value) -> HashMap<(String, String), Value> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = summary["series"].as_array().unwrap();
    all.iter().map(|series| ((text(&series["source"]), text(&series["symbol"])), series.clone())).collect()
}

#[test]
fn a_backfill_fetches_each_candle_once_however_often_it_is_stopped() {
    let simulator = simulator(60.0, Misbehaviour::default());
    let folder = Folder::new();
    write_pipeline(&folder, &source(&simulator, &EXCHANGES, "", ", concurrency: 1"), RULES);
    // Pages are written one by one, and there is time to stop between them.
    folder.append("p.yaml", "batch: { rows: 300 }\n");
    let slow = Misbehaviour { faults: vec![(Fault::Slow { wall_ms: 150 }, 0.8)], ..Misbehaviour::default() };
    EXCHANGES.iter().for_each(|(exchange, _)| simulator.set_misbehaviour(*exchange, slow.clone()));
    for stop in 0..3 {
        let before = rows(&folder);
        let mut running = start(&mut backfill(&folder, &simulator, &[]));
        running.wait_until(|| rows(&folder) > before);
        if stop == 1 {
            running.interrupt();
            let outcome = running.finish();
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        } else {
            running.kill();
        }
    }
    assert!(rows(&folder) < 5 * MINUTES, "it was stopped before its end");
    let outcome = start(&mut backfill(&folder, &simulator, &[])).finish();
    let summary = outcome.summary();
    let candles = stored(&folder);
    assert_eq!(
        faults(&simulator, &EXCHANGES, &candles, UNTIL_MS - MINUTES * MINUTE_MS, UNTIL_MS),
        Vec::<String>::new()
    );
    assert_eq!((summary["dropped"].as_u64(), summary["rejected"].as_u64()), (Some(0), Some(0)), "{summary}");
    for ((exchange, symbol), series) in series(&summary) {
        let of = |key: &str| series[key].as_u64().unwrap();
        let parts = of("received") + of("quiet") + of("missing") + of("before");
        assert_eq!((of("wanted"), of("done"), parts), (600, 600, 600), "{exchange} {symbol}: {series}");
        assert_eq!(of("missing"), 0, "{series}");
    }
    let again = start(&mut backfill(&folder, &simulator, &[])).finish().summary();
    assert_eq!(again["read"], 0, "all is there");
    // A later time is a stretch after the one that is done.
    EXCHANGES.iter().for_each(|(exchange, _)| simulator.set_misbehaviour(*exchange, Misbehaviour::default()));
    let arguments = ["backfill", "p.yaml", "--from", FROM, "--until", "2026-01-01T23:55:00Z", "--json"];
    let more = start(&mut command(&folder, &simulator, &arguments)).finish().summary();
    let later_ms = UNTIL_MS + 10 * MINUTE_MS;
    let wrong = faults(&simulator, &EXCHANGES, &stored(&folder), UNTIL_MS - MINUTES * MINUTE_MS, later_ms);
    assert_eq!((wrong, more["dropped"].as_u64()), (Vec::<String>::new(), Some(0)));
    assert!((40..=50).contains(&more["read"].as_u64().unwrap()), "ten minutes of five series: {more}");
    for series in series(&more).values() {
        assert_eq!((series["wanted"].as_u64(), series["done"].as_u64()), (Some(610), Some(610)), "{series}");
    }
}

#[test]
fn a_backfill_says_what_an_exchange_does_not_give() {
    let simulator = simulator(60.0, Misbehaviour { maintenance: true, ..Misbehaviour::default() });
    let folder = Folder::new();
    write_pipeline(&folder, &source(&simulator, &EXCHANGES, "", ""), "");
    let arguments = ["backfill", "p.yaml", "--from", "2026-01-01", "--until", UNTIL];
    let outcome = start(&mut command(&folder, &simulator, &arguments)).finish();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("kraken DOGE/USD: the exchange gives the last 720 candles only"),
        "{}",
        outcome.stdout
    );
    let from_ms = START_MS - 1_440 * MINUTE_MS;
    let missing = (from_ms..UNTIL_MS)
        .step_by(MINUTE_MS as usize)
        .filter(|open_ms| simulator.truth().in_maintenance(Exchange::Binance, *open_ms))
        .count();
    let line =
        outcome.stdout.lines().find(|line| line.contains("binance") && line.contains("BTC/USDT")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(numbers[5], missing.to_string(), "{}", outcome.stdout);
    let wrong = faults(&simulator, &EXCHANGES[..2], &stored(&folder), from_ms, UNTIL_MS);
    assert_eq!(wrong, Vec::<String>::new());
}

/// A case beside a shipped pipeline file, with the counts that a run has.
fn case(name: &str) -> Value {
    let path = workspace().join("pipelines").join(format!("{name}.cases/hours/summary.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_shipped_live_pipeline_has_the_expected_outcome() {
    let simulator = simulator(10.0, Misbehaviour::default());
    let folder = Folder::new();
    let shipped = std::fs::read_to_string(workspace().join("pipelines/live.yaml")).unwrap();
    folder.write("p.yaml", shipped.replace("../target/live/live.db", "out.db"));
    let mut command = command(&folder, &simulator, &["run", "p.yaml", "--until-end", "--json"]);
    ask_simulator(&mut command, &simulator);
    let summary = start(&mut command).finish().summary();
    let expected = case("live");
    for key in ["pipeline", "rejected", "dropped", "tombstones"] {
        assert_eq!(summary[key], expected[key], "{key}");
    }
    let symbols = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|symbol| symbol.as_str().unwrap().to_owned()).collect()
    };
    for (id, of_case) in expected["minutes"].as_object().unwrap() {
        let exchange = Exchange::of_id(id).unwrap();
        let symbols = symbols(of_case);
        let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
        // Six hours, but what goes by until the first question.
        let from_ms = START_MS - 300 * MINUTE_MS;
        let wrong =
            faults(&simulator, &[(exchange, &symbols)], &stored(&folder), from_ms, START_MS - MINUTE_MS);
        assert_eq!(wrong, Vec::<String>::new());
    }
}

#[test]
fn the_shipped_ingest_pipeline_fills_a_topic_with_each_candle_once_however_often_it_is_killed() {
    let own = own_broker(&[]);
    own.kafka.create("ohlcv-raw", 3);
    let simulator = simulator(30.0, Misbehaviour { corrected: 0.05, ..Misbehaviour::default() });
    let folder = Folder::new();
    std::fs::copy(workspace().join("pipelines/ingest.yaml"), folder.path("p.yaml")).unwrap();
    let port = free_port();
    let run = |more: &[&str]| {
        let mut command = command(&folder, &simulator, &[&["run", "p.yaml", "--json"], more].concat());
        ask_simulator(&mut command, &simulator);
        command.env("KAFKA_BROKERS", &own.kafka.address);
        command.env("TIDEGATE_HTTP", format!("127.0.0.1:{port}"));
        start(&mut command)
    };
    let mut running = run(&[]);
    for kill in 0..4_i64 {
        // In the middle of the history at first, then among the polls.
        own.kafka.wait_for_rows("ohlcv-raw", 1 + 2_500 * kill);
        running.kill();
        running = run(&[]);
    }
    let end_ms = simulator.clock().now_ms() + 6 * MINUTE_MS;
    running.wait_until(|| simulator.clock().now_ms() >= end_ms);
    running.interrupt();
    running.finish().summary();

    let mut candles: HashMap<(String, String, i64), (i64, [f64; 5])> = HashMap::new();
    let mut revisions = 0;
    for message in own.kafka.read("ohlcv-raw") {
        let row: Value = serde_json::from_slice(message.payload.as_deref().unwrap()).unwrap();
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        let key = (text("source"), text("symbol"), row["timestamp"].as_i64().unwrap());
        let values = ["open", "high", "low", "close", "volume"].map(|name| row[name].as_f64().unwrap());
        let revision = row["revision"].as_i64().unwrap();
        match candles.insert(key.clone(), (revision, values)) {
            None => assert_eq!(revision, 0, "{key:?}"),
            Some((before, old)) => {
                assert!(revision == before + 1 && old != values, "{key:?} twice: {before}, then {revision}");
                revisions += 1;
            }
        }
    }
    assert!(revisions > 0);
    let stored = candles.into_iter().map(|(key, (revision, values))| (key, (values, revision))).collect();
    // Six hours, but what goes by until the first question.
    let (from_ms, to_ms) = (START_MS - 300 * MINUTE_MS, end_ms - 4 * MINUTE_MS);
    assert_eq!(faults(&simulator, &SHIPPED, &stored, from_ms, to_ms), Vec::<String>::new());
}
