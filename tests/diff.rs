//! `tidegate diff`: a rule beside its next version, through the real binary and real components.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::kafka::{shared, unique};
use crate::harness::{Folder, NOW, guests, tidegate, workspace};

/// Candles of two symbols, every tenth with a high that is too low.
fn candles() -> String {
    let candle = |row: u64| {
        let (timestamp, high) = (1_767_571_200_000 + row / 2 * 60_000, if row % 10 == 9 { 1 } else { 12 });
        let symbol = if row.is_multiple_of(2) { "BTC/USDT" } else { "BTCUSDT" };
        format!(
            r#"{{"timestamp":{timestamp},"open":10,"high":{high},"low":9,"close":11,"volume":5,"source":"binance","symbol":"{symbol}","timeframe":"1m"}}"#
        )
    };
    (0..100).map(|row| candle(row) + "\n").collect()
}

const DIFF: &[&str] = &["diff", "new.wasm", "--pipeline", "p.yaml", "--now", NOW];

/// A pipeline of two rules, of which the first is `hostile` with a mode, and as the candidate a component.
fn two_rules(mode: &str, candidate: &Path) -> Folder {
    let folder = Folder::new();
    folder.write("in.jsonl", candles());
    folder.write("new.wasm", std::fs::read(candidate).unwrap());
    let hostile = hostile();
    let rules = format!(
        "rules:\n  - {{ name: first, component: {}, settings: {{ mode: {mode} }} }}\n  - {{ name: second, component: enrich }}\n",
        hostile.display()
    );
    folder.pipeline("in.jsonl", &format!("{rules}sink: stdout\n"));
    folder
}

fn hostile() -> PathBuf {
    workspace().join("target/guests-test/hostile.wasm")
}

#[test]
fn a_version_that_says_the_same_does_not_differ() {
    let folder = two_rules("fine", &hostile());
    let outcome = tidegate(&folder, &[DIFF, &["--rule", "first"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.starts_with("first: 0 of 100 rows differ between "), "{}", outcome.stdout);
    let json = tidegate(&folder, &[DIFF, &["--rule", "first", "--rows", "30", "--json"]].concat());
    let found: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (&found["rows"], &found["differing"], &found["current"]),
        (&30.into(), &0.into(), &found["candidate"])
    );
    assert_eq!(found["samples"], Value::Array(Vec::new()));
}

#[test]
fn verdicts_and_columns_that_differ_are_counted_and_shown() {
    let folder = Folder::new();
    folder.write("in.jsonl", candles());
    folder.write("new.wasm", std::fs::read(guests().join("validate.wasm")).unwrap());
    folder.pipeline("in.jsonl", "rules: [ { name: second, component: enrich } ]\nsink: stdout\n");
    let arguments = [DIFF, &["--rule", "second"]].concat();
    let outcome = tidegate(&folder, &[&arguments[..], &["--json"]].concat());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&found["rows"], &found["differing"]), (&100.into(), &100.into()));
    // Half of the rows are malformed for the candidate; of the others it writes none of the columns.
    let verdicts = &found["verdicts"];
    assert_eq!(
        verdicts.to_string(),
        r#"[{"current":"kept","candidate":"rejected: malformed_symbol","count":50}]"#
    );
    assert_eq!(found["columns"].to_string(), r#"{"base":50,"exchange":50,"quote":50,"validated_at":50}"#);
    let samples = found["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 10);
    assert_eq!(
        samples[0].to_string(),
        r#"{"topic":"in.jsonl","partition":0,"offset":0,"key":{"source":"binance","symbol":"BTC/USDT","timeframe":"1m","timestamp":"2026-01-05T00:00:00Z"},"current":{"verdict":"kept","values":{"exchange":"Binance","base":"BTC","quote":"USDT","validated_at":"2026-02-01T00:00:00Z"}},"candidate":{"verdict":"kept","values":{"exchange":null,"base":null,"quote":null,"validated_at":null}}}"#
    );
    let text = tidegate(&folder, &arguments).stdout;
    for part in [
        "second: 100 of 100 rows differ between ",
        "in.jsonl/0@1 binance BTCUSDT 1m 2026-01-05T00:00:00Z\n- kept\n+ rejected: malformed_symbol: symbol",
        "… and 90 more rows",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_candidate_is_compared_over_the_last_rows_of_another_file_after_the_rules_before() {
    // The first rule puts each row of the poison into the dead letter, so the second never sees it.
    let folder = two_rules("trap_on_row", &guests().join("enrich.wasm"));
    folder.write(
        "more.jsonl",
        candles().replacen("\"close\":11", "\"close\":666", 99).replace("\"open\":10", "\"open\":1"),
    );
    let rows = |more: &[&str]| {
        let outcome = tidegate(&folder, &[DIFF, &["--rule", "second", "--json"], more].concat());
        let found: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:?}"));
        found["rows"].as_u64().unwrap()
    };
    assert_eq!(rows(&[]), 100);
    assert_eq!(rows(&["--input", "more.jsonl", "--rows", "10"]), 1);
}

#[test]
fn the_last_rows_of_a_file_have_its_header() {
    let folder = Folder::new();
    folder.write("new.wasm", std::fs::read(guests().join("validate.wasm")).unwrap());
    let rows: String =
        (0..5_000).map(|row| format!("binance,BTC/USDT,1m,{},1,2,1,2,5\n", row * 60_000)).collect();
    folder.write("in.csv", format!("source,symbol,timeframe,timestamp,open,high,low,close,volume\n{rows}"));
    let rules = "rules: [ { name: second, component: validate, settings: { earliest: 1970-01-03 } } ]\n";
    folder.pipeline(
        "in.csv",
        &format!("decode: {{ format: csv }}\n{rules}sink: stdout\nbatch: {{ rows: 100 }}\n"),
    );
    let outcome = tidegate(&folder, &[DIFF, &["--rule", "second", "--rows", "250", "--json"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&found["rows"], &found["differing"]), (&250.into(), &0.into()));

    crate::formats::write_parquet(&folder.path("in.parquet"), &crate::formats::candles(0, 50));
    folder.pipeline("in.parquet", &format!("decode: {{ format: parquet }}\n{rules}sink: stdout\n"));
    let outcome = tidegate(&folder, &[DIFF, &["--rule", "second", "--rows", "20", "--json"]].concat());
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&found["rows"], &found["differing"]), (&20.into(), &0.into()));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = two_rules("fine", &hostile());
    let refused = |arguments: &[&str], code: i32, words: &str| {
        tidegate(&folder, &[DIFF, arguments].concat()).refused(code, words);
    };
    refused(&["--rule", "frist"], 2, "the pipeline has no rule `frist`; did you mean `first`?");
    // The candidate cannot do without the settings of the rule in whose place it is.
    refused(&["--rule", "second"], 2, "the rule `second` refuses its settings");
    refused(&["--rule", "first", "--input", "none.jsonl"], 3, "none.jsonl");
    refused(&["--rule", "first", "--rows", "0"], 2, "--rows");
    let exchange = "source: { exchange: { exchanges: [ { exchange: kraken, symbols: [BTC/USD] } ] } }";
    let text = String::from_utf8(folder.read("p.yaml")).unwrap();
    folder.write("p.yaml", text.replace("source: { file: { path: in.jsonl } }", exchange));
    refused(&["--rule", "first"], 2, "reads from exchanges, which have no rows that could be read twice");
}

#[test]
fn the_last_rows_of_each_partition_of_a_topic_are_compared_and_no_group_is_joined() {
    let kafka = shared();
    let topic = unique("diffed");
    kafka.create(&topic, 2);
    let candles = candles();
    let rows: Vec<&str> = candles.lines().collect();
    kafka.send(
        &topic,
        &[],
        rows.iter().enumerate().map(|(row, line)| (row as i32 % 2, None, Some(line.as_bytes()))),
    );
    let folder = Folder::new();
    folder.write("new.wasm", std::fs::read(guests().join("validate.wasm")).unwrap());
    let source = format!("kafka: {{ brokers: \"{}\", topic: {topic} }}", kafka.address);
    folder.write(
        "p.yaml",
        format!("name: test\nsource: {{ {source} }}\nrules: [ {{ name: second, component: enrich }} ]\nsink: stdout\n"),
    );
    let arguments = [DIFF, &["--rule", "second", "--json", "--rows", "19"]].concat();
    // A second run sees the same rows: the first one has moved nothing.
    for _ in 0..2 {
        let outcome = tidegate(&folder, &arguments);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!((&found["rows"], &found["verdicts"][0]["count"]), (&20.into(), &10.into()), "{found}");
        let sample = &found["samples"][0];
        assert_eq!((&sample["topic"], &sample["offset"]), (&topic.as_str().into(), &40.into()));
    }
}
