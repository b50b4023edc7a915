//! Whatever a pipeline file or the command line says about exchanges, there is a sentence with its place and an exit
//! code.

use exchanges_simulator::{Exchange, Misbehaviour};
use serde_json::Value;

use crate::harness::exchanges::{command, simulator, source, stored, write_pipeline};
use crate::harness::{Folder, Outcome, guests, start, tidegate};

const KRAKEN: (Exchange, &[&str]) = (Exchange::Kraken, &["BTC/USD"]);

const GOOD: &str = "\
name: test
source:
  exchange:
    exchanges:
      - exchange: kraken
        symbols: [BTC/USD]
decode: { columns: candles }
sink: { sqlite: { path: out.db } }
";

/// Instead of what, what, and which sentence about which place.
const WRONG: [(&str, &str, &str); 36] = [
    (
        "    exchanges:",
        "    hisstory: 1h\n    exchanges:",
        "4:5: unknown key `hisstory` in `source.exchange`; did you mean `history`?",
    ),
    (
        "        symbols",
        "        simbols: [A/B]\n        symbols",
        "6:9: unknown key `simbols` in `source.exchange.exchanges[0]`; did you mean `symbols`?",
    ),
    (
        "    exchanges:\n      - exchange: kraken\n        symbols: [BTC/USD]",
        "    exchanges: []",
        "4:16: there must be 1 to 128 exchanges, but there are 0",
    ),
    (
        "    exchanges:\n      - exchange: kraken\n        symbols: [BTC/USD]",
        "    timeframe: 1m",
        "4:5: missing key `exchanges` in `source.exchange`",
    ),
    (
        "kraken",
        "krakn\n        component: kraken",
        "5:19: the adapter `kraken` does not know the exchange `krakn`; did you mean `kraken`?",
    ),
    (
        "kraken",
        "nobody\n        component: kraken",
        "5:19: the adapter `kraken` does not know the exchange `nobody`; known are `kraken`",
    ),
    ("kraken", "../kraken", "5:19: the exchange `../kraken` must be a name of `a-z 0-9 - _`"),
    (
        "[BTC/USD]",
        "[BTC/USD]\n      - { exchange: kraken, symbols: [ETH/USD] }",
        "7:21: the exchange `kraken` is there twice; give one of them a `name`",
    ),
    (
        "    exchanges:",
        "    timeframe: 7m\n    exchanges:",
        "4:16: the timeframe `7m` is none of `1m`, `3m`, `5m`, ",
    ),
    (
        "    exchanges:",
        "    timeframe: 3m\n    exchanges:",
        "6:19: `kraken` has no candles of `3m`; it has `1m`, `5m`, ",
    ),
    ("[BTC/USD]", "[ETH/USD, BTCUSD]", "6:28: the symbol `BTCUSD` must have base and quote: `BTC/USDT`"),
    ("[BTC/USD]", "[/USD]", "6:19: the symbol `/USD` must have base and quote: `BTC/USDT`"),
    ("[BTC/USD]", "[BTC/USD, ETH/USD, BTC/USD]", "6:37: the symbol `BTC/USD` is there twice"),
    ("[BTC/USD]", "[]", "6:18: there must be 1 to 10000 symbols, but there are 0"),
    ("[BTC/USD]", "BTC/USD", "6:18: `source.exchange.exchanges[0].symbols` must be a list"),
    ("decode", "lanes: 2\ndecode", "7:8: the source `exchange` is one lane: it has a thread for each"),
    (
        "[BTC/USD]",
        "[BTC/USD]\n        hosts: [api.kraken.com, evil.example]",
        "7:16: the host `evil.example` is none of those that the adapter needs: `api.kraken.com`, `ws.kraken.com`",
    ),
    ("[BTC/USD]", "[BTC/USD]\n        hosts: []", "7:16: without any host nothing can be asked"),
    ("[BTC/USD]", "[BTC/USD]\n        url: here", "7:14: `url` must be like `http://127.0.0.1:9400/binance`"),
    ("[BTC/USD]", "[BTC/USD]\n        url: ftp://a.example/b", "7:14: `url` must be like "),
    ("[BTC/USD]", "[BTC/USD]\n        url: file:///etc/passwd", "7:14: `url` must be like "),
    ("[BTC/USD]", "[BTC/USD]\n        component: validate", "7:20: the component `"),
    (
        "[BTC/USD]",
        "[BTC/USD]\n        component: validate",
        "validate.wasm` is a component of another world: it exports `tidegate:rule/rule@0.1.0`, but an exchange adapter \
         exports `tidegate:exchange/exchange@0.1.0`",
    ),
    ("[BTC/USD]", "[BTC/USD]\n        component: ./none.wasm", "none.wasm` does not exist"),
    ("[BTC/USD]", "[BTC/USD]\n        component: ./p.yaml", "p.yaml` is not WebAssembly"),
    ("sink", "rules: [{ name: a, component: kraken }]\nsink", "8:31: the component `"),
    (
        "sink",
        "rules: [{ name: a, component: kraken }]\nsink",
        "kraken.wasm` is a component of another world: it exports `tidegate:exchange/exchange@0.1.0`, but a rule exports \
         `tidegate:rule/rule@0.1.0`",
    ),
    (
        "kraken\n        symbols: [BTC/USD]",
        "coinbase\n        symbols: [BTC/USD]\n        live: true",
        "7:15: the adapter `coinbase` knows no live feed of `1m` candles",
    ),
    (
        "    exchanges:",
        "    grace: 30s\n    spread: 40s\n    exchanges:",
        "5:13: `grace` and `spread` together must be shorter than a candle of `1m`",
    ),
    (
        "    exchanges:",
        "    history: 400d\n    exchanges:",
        "4:14: `history` is longer than a year; `tidegate backfill` fetches what is older",
    ),
    ("    exchanges:", "    reread: 61\n    exchanges:", "4:13: `reread` must be 0 to 60, but is 61"),
    (
        "[BTC/USD]",
        "[BTC/USD]\n        budget: { units: 0, window: 1s }",
        "7:17: `budget` must have units, a window of at most 49 days, and a burst above 0",
    ),
    ("[BTC/USD]", "[BTC/USD]\n        concurrency: 65", "7:22: `concurrency` must be 1 to 64, but is 65"),
    ("[BTC/USD]", "[BTC/USD]\n        timeout: 0s", "7:18: `timeout` must be longer than 0"),
    (
        "[BTC/USD]",
        "[BTC/USD]\n        limits: { memory: 1KiB }",
        "7:27: `memory` must be 65536 to 4294967296 bytes, but is 1024",
    ),
    (
        "columns: candles",
        "columns: [{ name: timestamp, type: timestamp }, { name: close, type: float }]",
        "7:20: candles of exchanges need the columns `source`, `symbol`, `timeframe`: they say where to go on",
    ),
];

#[test]
fn pipeline_files_that_are_wrong_about_exchanges() {
    let folder = Folder::new();
    folder.write("p.yaml", GOOD);
    let good = tidegate(&folder, &["check", "p.yaml"]);
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""));
    for (old, new, words) in WRONG {
        assert!(GOOD.contains(old), "{old}");
        folder.write("p.yaml", GOOD.replacen(old, new, 1));
        let is_place = words.starts_with(|c: char| c.is_ascii_digit());
        let words = if is_place { format!("p.yaml:{words}") } else { words.to_owned() };
        tidegate(&folder, &["check", "p.yaml"]).refused(2, &words);
    }
    assert!(!folder.path("out.db").exists(), "nothing is made for a pipeline that is wrong");
}

/// What only the adapters know is refused by `run` too, before anything is asked of an exchange.
#[test]
fn a_run_of_what_no_adapter_knows_asks_nobody() {
    let simulator = simulator(1.0, Misbehaviour::default());
    let folder = Folder::new();
    for (settings, more, words) in [
        ("    timeframe: 3m\n", "", "`kraken` has no candles of `3m`"),
        ("", ", hosts: [evil.example]", "the host `evil.example` is none of those that the adapter needs"),
        ("    timeframe: 5m\n", ", live: true", "the adapter `kraken` knows no live feed of `5m` candles"),
    ] {
        write_pipeline(&folder, &source(&simulator, &[KRAKEN], settings, more), "");
        start(&mut command(&folder, &simulator, &["run", "p.yaml"])).finish().refused(2, words);
    }
    assert_eq!(simulator.requests().exchanges[&Exchange::Kraken].requests, 0);
}

#[test]
fn backfills_that_cannot_be() {
    let simulator = simulator(1.0, Misbehaviour::default());
    let folder = Folder::new();
    write_pipeline(&folder, &source(&simulator, &[KRAKEN], "", ""), "");
    folder.write("f.yaml", "name: f\nsource: { file: { path: in } }\nsink: { sqlite: { path: out.db } }\n");
    let day = ["--from", "2026-01-01", "--until", "2026-01-02"];
    let backfill = |file: &str, more: &[&str]| -> Outcome {
        start(&mut command(&folder, &simulator, &[&["backfill", file], more].concat())).finish()
    };
    let none = "there is no closed candle between `--from` and `--until`; `--from` must be before `--until`, and in the past";
    backfill("p.yaml", &["--from", "2026-01-02", "--until", "2026-01-01"]).refused(2, none);
    backfill("p.yaml", &["--from", "2026-01-01", "--until", "2026-01-01"]).refused(2, none);
    backfill("p.yaml", &["--from", "2026-01-03"]).refused(2, none);
    backfill("p.yaml", &["--from", "yesterday"])
        .refused(2, "it must be like `2026-01-01` or `2026-01-01T12:00:00Z`");
    backfill("p.yaml", &[]).refused(2, "--from <TIME>");
    backfill("none.yaml", &day).refused(2, "none.yaml: there is no such file");
    backfill("f.yaml", &day).refused(2, "`f.yaml` names no exchanges; give `--exchange` and `--symbol`");
    for (more, words) in [
        (
            &["--exchange", "binance"][..],
            "`p.yaml` does not have the exchange `binance`; give `--symbol` too",
        ),
        (
            &["--symbol", "BTCUSD"],
            "`p.yaml` with this command line: the symbol `BTCUSD` must have base and quote",
        ),
        (&["--symbol", "A/B", "--symbol", "A/B"], "the symbol `A/B` is there twice"),
        (&["--timeframe", "7m"], "`p.yaml` with this command line: the timeframe `7m` is none of `1m`"),
        (&["--timeframe", "3m"], "`kraken` has no candles of `3m`; it has `1m`"),
        (&["--exchange", "kraken", "--exchange", "kraken"], "the exchange `kraken` is there twice"),
        (
            &["--exchange", "Kraken!", "--symbol", "A/B"],
            "the exchange `Kraken!` must be a name of `a-z 0-9 - _`",
        ),
    ] {
        backfill("p.yaml", &[&day, more].concat()).refused(2, words);
    }
    // Whether CCXT is there or not.
    let unknown = backfill("p.yaml", &[&day[..], &["--exchange", "krakn", "--symbol", "A/B"]].concat());
    unknown.refused(2, "krakn");
    assert!(!folder.path("out.db").exists());
    assert_eq!(simulator.requests().exchanges[&Exchange::Kraken].requests, 0);
}

#[test]
fn a_backfill_of_an_unknown_symbol_fails_with_what_the_exchange_says() {
    let simulator = simulator(30.0, Misbehaviour::default());
    let folder = Folder::new();
    write_pipeline(&folder, &source(&simulator, &[KRAKEN], "", ""), "");
    let times = ["--from", "2026-01-01T22:00:00Z", "--until", "2026-01-01T23:00:00Z", "--json"];
    let backfill = |symbols: &[&str]| {
        start(&mut command(&folder, &simulator, &[&["backfill", "p.yaml"], &times[..], symbols].concat()))
            .finish()
    };
    let outcome = backfill(&["--symbol", "NOBODY/USD"]);
    outcome.refused(1, "no candles: the symbol is unknown there: ");
    let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(summary["series"][0]["received"], 0, "{summary}");
    assert!(summary["series"][0]["refused"].as_str().unwrap().contains("NOBODY/USD"), "{summary}");
    // The others are fetched all the same.
    let outcome = backfill(&["--symbol", "NOBODY/USD", "--symbol", "BTC/USD"]);
    outcome.refused(1, "no candles: the symbol is unknown there: ");
    assert_eq!(stored(&folder).len(), 60);
}

#[test]
fn gaps_of_what_has_no_ledger() {
    let simulator = simulator(1.0, Misbehaviour::default());
    let folder = Folder::new();
    write_pipeline(&folder, &source(&simulator, &[KRAKEN], "", ""), "");
    folder.write("f.yaml", "name: f\nsource: { file: { path: in } }\nsink: { sqlite: { path: out.db } }\n");
    let gaps = |file: &str| start(&mut command(&folder, &simulator, &["gaps", file])).finish();
    gaps("p.yaml").refused(3, "there is no ledger of `test` in `");
    gaps("f.yaml").refused(2, "the source of `f.yaml` is no exchange, and has no ledger");
    gaps("none.yaml").refused(2, "none.yaml: there is no such file");
    folder.write("state/ledgers/test/kraken.json", "{ this is none");
    gaps("p.yaml").refused(3, "there is no ledger of `test` in `");
}

#[test]
fn inspect_shows_an_adapter_as_well_as_a_rule() {
    let folder = Folder::new();
    let text = tidegate(&folder, &["inspect", "binance"]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    for line in [
        "imports    nothing",
        "exchange   binance (Binance)",
        "quiet      a candle without volume",
        "live       yes",
    ] {
        assert!(text.stdout.lines().any(|is| is == line), "{line:?} is not in {}", text.stdout);
    }
    let json = |component: &str| -> Value {
        let outcome = tidegate(&folder, &["inspect", component, "--json"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let adapter = json("kraken");
    assert_eq!((&adapter["name"], &adapter["imports"]), (&"kraken".into(), &serde_json::json!([])));
    assert_eq!(adapter["contract"], "tidegate:exchange/exchange@0.1.0");
    assert_eq!(adapter["bytes"], guests().join("kraken.wasm").metadata().unwrap().len());
    let exchange = &adapter["exchanges"][0];
    assert_eq!((&exchange["id"], &exchange["depth"]), (&"kraken".into(), &720.into()));
    assert_eq!(exchange["hosts"], serde_json::json!(["api.kraken.com", "ws.kraken.com"]));
    assert_eq!(exchange["timeframes"][0], "1m");
    assert_eq!((&exchange["quiet"], &exchange["has_feed"]), (&"absent".into(), &true.into()));
    assert!(exchange["budget"]["units"].as_u64().unwrap() > 0);
    let rule = json("validate");
    assert_eq!(rule["contract"], "tidegate:rule/rule@0.1.0");
    assert!(rule.get("exchanges").is_none() && rule["reasons"].is_array(), "{rule}");
    folder.write("a.wasm", wat::parse_str("(component)").unwrap());
    tidegate(&folder, &["inspect", "./a.wasm"])
        .refused(2, "exports nothing, but a rule exports `tidegate:rule/rule@0.1.0`");
}
