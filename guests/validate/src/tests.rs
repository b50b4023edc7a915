//! Every reason, their order, and the boundaries of every limit.

use tidegate_guest::{BatchBuilder, Column, Instance, Reasons, describe};

use super::*;

/// 2023-11-14T22:13:00Z, on the grid of a minute.
const TIME: i64 = 1_699_999_980_000;
const NOW: i64 = TIME + 60_000;

#[derive(Clone)]
struct Candle {
    timestamp: Option<i64>,
    open: Option<f64>,
    high: Option<f64>,
    low: Option<f64>,
    close: Option<f64>,
    volume: Option<f64>,
    source: Option<&'static str>,
    symbol: Option<&'static str>,
    timeframe: Option<&'static str>,
}

const GOOD: Candle = Candle {
    timestamp: Some(TIME),
    open: Some(10.0),
    high: Some(12.0),
    low: Some(9.0),
    close: Some(11.0),
    volume: Some(5.0),
    source: Some("binance"),
    symbol: Some("BTC/USDT"),
    timeframe: Some("1m"),
};

fn batch(candles: &[Candle]) -> Batch {
    let all = || candles.iter().cloned();
    BatchBuilder::new(candles.len())
        .timestamps_or_null("timestamp", all().map(|candle| candle.timestamp))
        .floats_or_null("open", all().map(|candle| candle.open))
        .floats_or_null("high", all().map(|candle| candle.high))
        .floats_or_null("low", all().map(|candle| candle.low))
        .floats_or_null("close", all().map(|candle| candle.close))
        .floats_or_null("volume", all().map(|candle| candle.volume))
        .texts_or_null("source", all().map(|candle| candle.source))
        .texts_or_null("symbol", all().map(|candle| candle.symbol))
        .texts_or_null("timeframe", all().map(|candle| candle.timeframe))
        .build()
}

fn instance(settings: &str) -> Instance<Validate> {
    let mut instance = Instance::unconfigured();
    instance.configure(settings).unwrap();
    instance
}

fn verdicts_with(settings: &str, candles: &[Candle]) -> Vec<String> {
    let batch = batch(candles);
    let outcome = instance(settings).transform(NOW, &batch).unwrap();
    outcome.check::<Validate>(&batch).unwrap();
    outcome.verdicts::<Reason>()
}

/// What is said about one row: between good ones, as its neighbours must not matter.
fn verdict_with(settings: &str, candle: Candle) -> Option<String> {
    let verdicts = verdicts_with(settings, &[GOOD, candle, GOOD]);
    assert!(verdicts.len() <= 1, "{verdicts:?}");
    verdicts.into_iter().next().map(|verdict| verdict.strip_prefix("1 ").unwrap().to_owned())
}

fn verdict(candle: Candle) -> Option<String> {
    verdict_with("{}", candle)
}

fn is_rejected(candle: Candle, reason: &str) -> bool {
    verdict(candle).is_some_and(|verdict| verdict.starts_with(&format!("{reason}: ")))
}

fn ms(day: &str) -> i64 {
    day.parse::<Date>().unwrap().ms()
}

#[test]
fn a_right_row_is_kept() {
    assert_eq!(verdict(GOOD), None);
}

#[test]
fn every_field_is_required() {
    let without: [(&str, Candle); 9] = [
        ("timestamp", Candle { timestamp: None, ..GOOD }),
        ("open", Candle { open: None, ..GOOD }),
        ("high", Candle { high: None, ..GOOD }),
        ("low", Candle { low: None, ..GOOD }),
        ("close", Candle { close: None, ..GOOD }),
        ("volume", Candle { volume: None, ..GOOD }),
        ("source", Candle { source: None, ..GOOD }),
        ("symbol", Candle { symbol: None, ..GOOD }),
        ("timeframe", Candle { timeframe: None, ..GOOD }),
    ];
    for (name, candle) in without {
        assert_eq!(verdict(candle).unwrap(), format!("missing_field: {name} is missing"));
    }
    let candle = Candle { open: None, close: None, volume: None, ..GOOD };
    assert_eq!(verdict(candle).unwrap(), "missing_field: open, close and volume are missing");
}

#[test]
fn a_row_without_anything_has_one_fault() {
    let nothing = Candle {
        timestamp: None,
        open: None,
        high: None,
        low: None,
        close: None,
        volume: None,
        source: None,
        symbol: None,
        timeframe: None,
    };
    // All texts are null, so the dictionaries are empty.
    let verdicts = verdicts_with("{}", &[nothing.clone(), nothing]);
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts[1].starts_with("1 missing_field: timestamp, open, high, low, close, volume, source"));
    assert!(!verdicts[1].contains("faults"));
}

#[test]
fn sources() {
    assert!(is_rejected(Candle { source: Some("bin ance"), ..GOOD }, "malformed_source"));
    assert!(is_rejected(Candle { source: Some(""), ..GOOD }, "malformed_source"));
    let settings = r#"{"sources": ["binance", "kraken"]}"#;
    assert_eq!(verdict_with(settings, Candle { source: Some("kraken"), ..GOOD }), None);
    assert_eq!(
        verdict_with(settings, Candle { source: Some("mtgox"), ..GOOD }).unwrap(),
        "unknown_source: source \"mtgox\" is not one of the setting `sources`"
    );
}

#[test]
fn symbols_and_timeframes() {
    assert_eq!(
        verdict(Candle { symbol: Some("btc-usd"), ..GOOD }).unwrap(),
        "malformed_symbol: symbol \"btc-usd\" is not BASE/QUOTE or BASE/QUOTE:SETTLE"
    );
    assert_eq!(
        verdict(Candle { timeframe: Some("1 minute"), ..GOOD }).unwrap(),
        "malformed_timeframe: timeframe \"1 minute\" is not a number and one of s, m, h, d, w, M"
    );
}

#[test]
fn timestamps_in_other_units() {
    let at = |timestamp| Candle { timestamp: Some(timestamp), ..GOOD };
    assert_eq!(
        verdict(at(TIME / 1_000)).unwrap(),
        "timestamp_in_seconds: timestamp 1699999980 is not in milliseconds but looks like seconds \
         (2023-11-14T22:13:00Z)"
    );
    assert!(is_rejected(at(TIME * 1_000), "timestamp_in_microseconds"));
    assert!(is_rejected(at(TIME * 1_000_000), "timestamp_in_nanoseconds"));
}

#[test]
fn timestamps_out_of_range() {
    let at = |timestamp| Candle { timestamp: Some(timestamp), ..GOOD };
    let earliest = ms("2009-01-03");
    assert_eq!(verdict(at(earliest)), None);
    assert!(is_rejected(at(earliest - 60_000), "timestamp_too_early"));
    assert!(is_rejected(at(0), "timestamp_too_early"));
    assert!(is_rejected(at(-1), "timestamp_too_early"));
    assert!(is_rejected(at(i64::MIN), "timestamp_too_early"));
    assert_eq!(verdict(at(NOW + 300_000)), None);
    assert!(is_rejected(at(NOW + 300_001), "timestamp_in_future"));
    assert!(is_rejected(at(NOW + 360_000), "timestamp_in_future"));
    assert!(is_rejected(at(i64::MAX), "timestamp_in_future"));
    assert_eq!(verdict_with(r#"{"max_future": "6m"}"#, at(NOW + 360_000)), None);
    assert_eq!(verdicts_with(r#"{"earliest": "2023-11-15"}"#, &[at(TIME)]).len(), 1);
}

#[test]
fn timestamps_off_the_grid() {
    let at = |timestamp, timeframe| Candle { timestamp: Some(timestamp), timeframe: Some(timeframe), ..GOOD };
    assert_eq!(
        verdict(at(TIME + 1, "1m")).unwrap(),
        "off_grid: timestamp 1699999980001 (2023-11-14T22:13:00.001Z) is not at the start of a candle of 1m"
    );
    assert!(is_rejected(at(TIME, "1h"), "off_grid"));
    assert_eq!(verdict(at(ms("2023-11-13"), "1w")), None);
    assert!(is_rejected(at(ms("2023-11-12"), "1w"), "off_grid"));
    assert_eq!(verdict(at(ms("2023-11-01"), "1M")), None);
    assert!(is_rejected(at(ms("2023-11-02"), "1M"), "off_grid"));
}

#[test]
fn prices_are_finite_and_positive() {
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(is_rejected(Candle { open: Some(wrong), ..GOOD }, "price_not_finite"));
        assert!(is_rejected(Candle { high: Some(wrong), ..GOOD }, "price_not_finite"));
        assert!(is_rejected(Candle { low: Some(wrong), ..GOOD }, "price_not_finite"));
        assert!(is_rejected(Candle { close: Some(wrong), ..GOOD }, "price_not_finite"));
    }
    assert_eq!(verdict(Candle { high: Some(f64::NAN), ..GOOD }).unwrap(), "price_not_finite: high is NaN");
    for wrong in [0.0, -0.0, -1.0, -f64::MIN_POSITIVE] {
        assert!(is_rejected(Candle { low: Some(wrong), ..GOOD }, "price_not_positive"), "{wrong}");
    }
    let flat =
        |price| Candle { open: Some(price), high: Some(price), low: Some(price), close: Some(price), ..GOOD };
    assert_eq!(verdict(flat(f64::from_bits(1))), None);
    assert_eq!(verdict(flat(f64::MAX)), None);
    assert_eq!(verdict(flat(0.0)).unwrap(), "price_not_positive: open is 0, high is 0, low is 0, close is 0");
    let zero_allowed = r#"{"allow_zero_price": true}"#;
    assert_eq!(verdict_with(zero_allowed, flat(0.0)), None);
    assert_eq!(verdict_with(zero_allowed, flat(-0.0)), None);
    assert!(verdict_with(zero_allowed, flat(-f64::from_bits(1))).unwrap().contains("open is -5e-324"));
}

#[test]
fn high_and_low_enclose_open_and_close() {
    let of = |open, high, low, close| Candle {
        open: Some(open),
        high: Some(high),
        low: Some(low),
        close: Some(close),
        ..GOOD
    };
    assert_eq!(verdict(of(1.0, 1.0, 1.0, 1.0)), None);
    assert_eq!(verdict(of(9.0, 12.0, 9.0, 12.0)), None);
    assert_eq!(verdict(of(10.0, 9.5, 9.0, 9.5)).unwrap(), "high_below_body: high 9.5 is below open 10");
    assert_eq!(verdict(of(9.0, 9.5, 9.0, 10.0)).unwrap(), "high_below_body: high 9.5 is below close 10");
    assert_eq!(
        verdict(of(9.0, 12.0, 9.5, 8.0)).unwrap(),
        "low_above_body: low 9.5 is above open 9, low 9.5 is above close 8"
    );
    assert_eq!(
        verdict(of(1.5, 1.0, 2.0, 1.5)).unwrap(),
        "high_below_low: high 1 is below low 2 (1 of 3 faults: high_below_low, high_below_body, low_above_body)"
    );
}

#[test]
fn volumes() {
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(is_rejected(Candle { volume: Some(wrong), ..GOOD }, "volume_not_finite"));
    }
    assert_eq!(verdict(Candle { volume: Some(-0.5), ..GOOD }).unwrap(), "negative_volume: volume is -0.5");
    for right in [0.0, -0.0, f64::from_bits(1), f64::MAX] {
        assert_eq!(verdict(Candle { volume: Some(right), ..GOOD }), None, "{right}");
    }
}

#[test]
fn the_first_fault_is_reported_and_all_are_counted() {
    let candle = Candle {
        timestamp: Some(TIME + 1),
        open: Some(f64::NAN),
        low: Some(-1.0),
        close: None,
        volume: Some(-1.0),
        source: Some("?"),
        symbol: Some("?"),
        ..GOOD
    };
    assert_eq!(
        verdict(candle).unwrap(),
        "missing_field: close is missing (1 of 7 faults: missing_field, malformed_source, malformed_symbol, \
         off_grid, price_not_finite, price_not_positive, negative_volume)"
    );
}

/// A candle that is all one price, so many minutes after [`TIME`].
fn priced(minute: i64, price: f64) -> Candle {
    let price = Some(price);
    let timestamp = Some(TIME + minute * 60_000);
    Candle { timestamp, open: price, high: price, low: price, close: price, ..GOOD }
}

#[test]
fn only_closes_are_remembered() {
    for (settings, remembers) in [("{}", false), (r#"{"max_jump_factor": 2}"#, true)] {
        let mut instance = Instance::<Validate>::unconfigured();
        assert_eq!(instance.configure(settings), Ok(remembers));
    }
}

#[test]
fn prices_that_jump() {
    let other = Candle { symbol: Some("ETH/USDT"), ..priced(-7, 1_000.0) };
    // Twice and half are still right; a rejected row is not the next one's previous close.
    let closes = [10.0, 20.0, 40.1, 39.0, 19.5, 9.7, 19.0];
    let mut candles: Vec<Candle> = (-9..).zip(closes).map(|(minute, close)| priced(minute, close)).collect();
    candles.insert(3, other);
    assert_eq!(
        verdicts_with(r#"{"max_jump_factor": 2}"#, &candles),
        [
            "2 price_jump: close 40.1 differs from the previous close 20 by more than a factor of 2",
            "6 price_jump: close 9.7 differs from the previous close 19.5 by more than a factor of 2",
        ]
    );
}

#[test]
fn jumps_are_found_across_batches_and_after_remembering() {
    let mut instance = instance(r#"{"max_jump_factor": 1.5}"#);
    instance.remember(&batch(&[priced(-9, 50.0), priced(-8, 100.0)]));
    let mut verdicts = |candle| instance.transform(NOW, &batch(&[candle])).unwrap().verdicts::<Reason>();
    assert_eq!(verdicts(priced(-7, 50.0)).len(), 1);
    assert_eq!(verdicts(priced(-6, 150.0)), [""; 0]);
    assert_eq!(verdicts(priced(-5, 100.0)), [""; 0]);
    assert_eq!(verdicts(priced(-4, 10.0)).len(), 1);
    assert_eq!(verdicts(Candle { source: Some("kraken"), ..priced(-3, 10.0) }), [""; 0]);
}

#[test]
fn a_series_that_began_with_a_wrong_price_recovers() {
    let settings = r#"{"max_jump_factor": 3, "max_jump_candles": 5}"#;
    let mut candles = vec![priced(-20, 931_425.0)];
    candles.extend((-19..-10).map(|minute| priced(minute, 93_142.0)));
    let rejected: Vec<u32> = instance(settings)
        .transform(NOW, &batch(&candles))
        .unwrap()
        .rejected
        .iter()
        .map(|row| row.row)
        .collect();
    assert_eq!(rejected, [1, 2, 3, 4, 5], "the five candles after the wrong one");
}

#[test]
fn a_row_is_compared_with_an_earlier_candle_whatever_came_in_between() {
    let settings = r#"{"max_jump_factor": 2}"#;
    // The first candle comes again after the second, as a duplicate that another rule drops.
    let candles = [
        priced(-9, 100.0),
        priced(-8, 190.0),
        priced(-9, 100.0),
        priced(-7, 300.0),
        priced(-10, 1.0),
        // A correction is compared with what it corrects.
        priced(-7, 3_000.0),
    ];
    let jump = "price_jump: close 3000 differs from the previous close 300 by more than a factor of 2";
    assert_eq!(verdicts_with(settings, &candles), [format!("5 {jump}")]);
    // What is remembered after a restart lacks the duplicate, and must decide the same.
    let mut restarted = instance(settings);
    restarted.remember(&batch(&candles[..2]));
    let rest = restarted.transform(NOW, &batch(&candles[3..])).unwrap();
    assert_eq!(rest.verdicts::<Reason>(), [format!("2 {jump}")]);
}

#[test]
fn more_series_than_are_remembered_do_no_harm() {
    let settings = r#"{"max_jump_factor": 2}"#;
    let mut instance = instance(settings);
    let names: Vec<String> = (0..110_000).map(|number| format!("S{number}/USD")).collect();
    for minute in [-9, -8] {
        let rows = names.len();
        let price = || std::iter::repeat_n(if minute == -9 { 10.0 } else { 100.0 }, rows);
        let text = |text: &'static str| std::iter::repeat_n(text, rows);
        let batch = BatchBuilder::new(rows)
            .timestamps("timestamp", std::iter::repeat_n(TIME + minute * 60_000, rows))
            .floats("open", price())
            .floats("high", price())
            .floats("low", price())
            .floats("close", price())
            .floats("volume", price())
            .texts("source", text("kraken"))
            .texts("symbol", &names)
            .texts("timeframe", text("1m"))
            .build();
        let outcome = instance.transform(NOW, &batch).unwrap();
        let rejected = outcome.rejected.len();
        // The second minute begins with series that are forgotten, and forgets the others before it comes to them.
        assert!(minute == -9 && rejected == 0 || rejected < names.len(), "{rejected}");
    }
}

#[test]
fn seconds_are_known_even_where_every_time_is_allowed() {
    let candle = Candle { timestamp: Some(TIME / 1_000), timeframe: Some("1s"), ..GOOD };
    let verdicts = verdicts_with(r#"{"earliest": "1970-01-01"}"#, &[candle]);
    assert!(verdicts[0].starts_with("0 timestamp_in_seconds: "), "{verdicts:?}");
    let early = Candle { timestamp: Some(ms("1971-02-03")), timeframe: Some("1d"), ..GOOD };
    assert_eq!(verdicts_with(r#"{"earliest": "1970-01-01"}"#, &[early]), [""; 0]);
}

#[test]
fn a_text_that_is_in_the_dictionary_twice_is_one_series() {
    let mut input = batch(&[priced(-2, 10.0), priced(-1, 8.0)]);
    let symbol = input.columns.iter_mut().find(|column| column.name == "symbol").unwrap();
    let twice = vec!["BTC/USDT".to_owned(), "BTC/USDT".to_owned()];
    *symbol = Column::of_dictionary("symbol", twice, vec![0, 1], None);
    let outcome = instance(r#"{"max_jump_factor": 1.1}"#).transform(NOW, &input).unwrap();
    assert_eq!(outcome.rejected.len(), 1);
}

#[test]
fn an_empty_batch_has_no_faults() {
    assert_eq!(verdicts_with("{}", &[]), [""; 0]);
    assert_eq!(verdicts_with(r#"{"max_jump_factor": 2}"#, &[]), [""; 0]);
}

#[test]
fn a_large_batch_names_exactly_the_wrong_rows() {
    let mut candles = vec![GOOD; 10_000];
    for row in (0..10_000).step_by(997) {
        candles[row] = match row % 3 {
            0 => Candle { close: None, ..GOOD },
            1 => Candle { volume: Some(-1.0), ..GOOD },
            _ => Candle { symbol: Some("?"), ..GOOD },
        };
    }
    let input = batch(&candles);
    for settings in ["{}", r#"{"max_jump_factor": 2}"#] {
        let outcome = instance(settings).transform(NOW, &input).unwrap();
        let rows: Vec<u32> = outcome.rejected.iter().map(|reject| reject.row).collect();
        assert_eq!(rows, (0..10_000).step_by(997).collect::<Vec<u32>>());
    }
}

#[test]
fn a_long_text_is_cut_in_the_detail() {
    let long: &'static str = "x\u{7}".repeat(100_000).leak();
    let verdict = verdict(Candle { symbol: Some(long), ..GOOD }).unwrap();
    assert!(verdict.len() < 512 && verdict.contains("…"), "{verdict}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let error = |settings| Instance::<Validate>::unconfigured().configure(settings).unwrap_err();
    assert_eq!(error(r#"{"max_jump_factor": 1}"#), "`max_jump_factor` is 1: write a number above 1");
    assert!(error(r#"{"sources": ["a b"]}"#).starts_with("`sources` has \"a b\""));
    assert!(error(r#"{"max_future": 5}"#).starts_with("setting `max_future`: invalid type"));
    assert!(error(r#"{"earliest": "soon"}"#).starts_with("setting `earliest`: `soon` is not a day"));
    assert!(error(r#"{"max_futur": "5m"}"#).contains("unknown field `max_futur`"));
}

#[test]
fn the_description_is_complete() {
    let description = describe::<Validate>();
    assert_eq!(description.reads.len(), 9);
    assert_eq!(description.reasons.len(), Reason::NAMES.len());
    for setting in
        ["earliest", "max_future", "sources", "allow_zero_price", "max_jump_factor", "max_jump_candles"]
    {
        assert!(description.settings.contains(&format!("\"{setting}\"")), "{setting}");
    }
}

#[test]
fn the_fixtures_pass() {
    tidegate_guest::fixture::check::<Validate>("fixtures");
}
