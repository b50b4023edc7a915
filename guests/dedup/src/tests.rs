use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_guest::{BatchBuilder, Instance, Outcome};

use super::*;

/// A row of a test. The values are all `value`, or missing.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    source: Option<&'static str>,
    symbol: &'static str,
    timeframe: &'static str,
    timestamp: i64,
    value: Option<f64>,
    revision: Option<i64>,
}

fn row(timestamp: i64, value: f64) -> Row {
    Row {
        source: Some("s"),
        symbol: "BTC/USDT",
        timeframe: "1m",
        timestamp,
        value: Some(value),
        revision: None,
    }
}

fn revised(timestamp: i64, value: f64, revision: i64) -> Row {
    Row { revision: Some(revision), ..row(timestamp, value) }
}

fn batch_with(rows: &[Row], has_revision: bool) -> Batch {
    let mut builder = BatchBuilder::new(rows.len())
        .texts_or_null("source", rows.iter().map(|row| row.source))
        .texts("symbol", rows.iter().map(|row| row.symbol))
        .texts("timeframe", rows.iter().map(|row| row.timeframe))
        .timestamps("timestamp", rows.iter().map(|row| row.timestamp));
    for name in values::COLUMNS {
        builder = builder.floats_or_null(name, rows.iter().map(|row| row.value));
    }
    if has_revision {
        builder = builder.integers_or_null("revision", rows.iter().map(|row| row.revision));
    }
    builder.build()
}

fn batch(rows: &[Row]) -> Batch {
    batch_with(rows, rows.iter().any(|row| row.revision.is_some()))
}

fn rule(settings: Settings) -> Dedup {
    Dedup::new(settings).unwrap()
}

fn revisions(outcome: &Outcome) -> Vec<i64> {
    outcome.column("revision").unwrap().integers().unwrap().values().to_vec()
}

/// What a rule says of each row when none is in the future: the revision, `dropped`, or the reason.
fn decisions(rule: &mut Dedup, rows: &[Row]) -> Vec<String> {
    decisions_at(i64::MAX, rule, rows)
}

fn decisions_at(now: i64, rule: &mut Dedup, rows: &[Row]) -> Vec<String> {
    let batch = batch(rows);
    let outcome = rule.transform(now, &batch).unwrap();
    outcome.check::<Dedup>(&batch).unwrap();
    let mut decisions: Vec<String> = revisions(&outcome).iter().map(i64::to_string).collect();
    for row in &outcome.dropped {
        decisions[*row as usize] = "dropped".to_owned();
    }
    for reject in &outcome.rejected {
        decisions[reject.row as usize] =
            ["correction", "stale_revision", "too_many_revisions"][reject.reason as usize].to_owned();
    }
    decisions
}

/// The rows that were kept, as a sink has them.
fn kept(rows: &[Row], decisions: &[String]) -> Vec<Row> {
    rows.iter()
        .zip(decisions)
        .filter_map(|(row, decision)| {
            decision.parse().ok().map(|revision| Row { revision: Some(revision), ..row.clone() })
        })
        .collect()
}

#[test]
fn duplicates_are_dropped_and_corrections_pass() {
    let mut rule = rule(Settings::default());
    let rows = [row(0, 1.0), row(0, 1.0), row(60_000, 1.0), row(0, 2.0), row(0, 2.0), row(0, 1.0)];
    assert_eq!(decisions(&mut rule, &rows), ["0", "dropped", "0", "1", "dropped", "2"]);
    assert_eq!(decisions(&mut rule, &rows[..2]), ["dropped", "dropped"], "across batches");
    assert_eq!(decisions(&mut rule, &[row(0, 3.0)]), ["3"]);
}

#[test]
fn corrections_can_be_rejected() {
    let mut rule = rule(Settings { corrections: Corrections::Reject, ..Settings::default() });
    let rows = [row(0, 1.0), row(0, 2.0), row(0, 1.0), revised(0, 2.0, 7), revised(0, 2.0, 0)];
    let outcome = rule.transform(0, &batch(&rows)).unwrap();
    assert_eq!(
        outcome.verdicts::<Reason>(),
        [
            "1 correction: candle 0 of `s` `BTC/USDT` `1m` has other values than revision 0, which has been \
             seen: open 2, high 2, low 2, close 2, volume 2",
            "2 dropped",
            "3 correction: candle 0 of `s` `BTC/USDT` `1m` has other values than revision 0, which has been \
             seen: open 2, high 2, low 2, close 2, volume 2",
            "4 stale_revision: candle 0 of `s` `BTC/USDT` `1m` has revision 0 but other values than revision \
             0, which has been seen: open 2, high 2, low 2, close 2, volume 2",
        ]
    );
}

#[test]
fn given_revisions_count() {
    let mut rule = rule(Settings::default());
    let rows = [
        revised(0, 1.0, 5),
        revised(0, 2.0, 5),
        revised(0, 2.0, 4),
        revised(0, 1.0, 4),
        revised(0, 2.0, 9),
        row(0, 3.0),
    ];
    assert_eq!(decisions(&mut rule, &rows), ["5", "stale_revision", "stale_revision", "dropped", "9", "10"]);
}

#[test]
fn a_candle_can_be_corrected_every_second_of_a_day() {
    let mut rule = rule(Settings::default());
    let seconds = 86_400;
    let rows: Vec<Row> = (0..seconds).map(|second| row(0, second as f64)).collect();
    let outcome = rule.transform(0, &batch(&rows)).unwrap();
    assert_eq!((outcome.rejected, outcome.dropped), (vec![], vec![]));
    assert_eq!(decisions(&mut rule, &[row(0, -1.0)]), [seconds.to_string()]);
}

#[test]
fn revisions_have_an_end() {
    let mut rule = rule(Settings::default());
    let rows = [
        revised(0, 1.0, 16_777_215),
        row(0, 2.0),
        revised(1, 1.0, 16_777_216),
        revised(1, 1.0, -1),
        revised(1, 1.0, i64::MIN),
        revised(0, 1.0, i64::MAX),
        row(1, 1.0),
    ];
    let outcome = rule.transform(0, &batch(&rows)).unwrap();
    assert_eq!(
        outcome.verdicts::<Reason>(),
        [
            "1 too_many_revisions: candle 0 of `s` `BTC/USDT` `1m` has been corrected 16777215 times and has \
             other values again: open 2, high 2, low 2, close 2, volume 2",
            "2 too_many_revisions: candle 1 of `s` `BTC/USDT` `1m` has revision 16777216, above 16777215",
            "3 stale_revision: candle 1 of `s` `BTC/USDT` `1m` has revision -1, below 0",
            "4 stale_revision: candle 1 of `s` `BTC/USDT` `1m` has revision -9223372036854775808, below 0",
            "5 too_many_revisions: candle 0 of `s` `BTC/USDT` `1m` has revision 9223372036854775807, above \
             16777215",
        ]
    );
    assert_eq!(revisions(&outcome)[6], 0, "a rejected row is not remembered");
}

#[test]
fn a_row_without_a_part_of_its_key_passes() {
    let mut rule = rule(Settings::default());
    let nameless = Row { source: None, ..row(0, 1.0) };
    assert_eq!(decisions(&mut rule, &[nameless.clone(), nameless.clone()]), ["0", "0"]);
    assert_eq!(decisions(&mut rule, &[Row { revision: Some(3), ..nameless }]), ["3"]);
    let timeless = BatchBuilder::new(2)
        .texts("source", ["s"; 2])
        .texts_or_null("symbol", [Some("x"), None])
        .texts_or_null("timeframe", [None, Some("1m")])
        .timestamps_or_null("timestamp", [None, None])
        .floats("open", [1.0; 2])
        .floats("high", [1.0; 2])
        .floats("low", [1.0; 2])
        .floats("close", [1.0; 2])
        .floats("volume", [1.0; 2])
        .build();
    rule.remember(&timeless);
    let outcome = rule.transform(0, &timeless).unwrap();
    assert_eq!((outcome.rejected.len(), outcome.dropped.len(), revisions(&outcome)), (0, 0, vec![0, 0]));
}

#[test]
fn missing_values_are_values() {
    let mut rule = rule(Settings::default());
    let empty = Row { value: None, ..row(0, 0.0) };
    let rows = [empty.clone(), empty, row(0, 0.0), row(0, -0.0), row(0, f64::NAN), row(0, -f64::NAN)];
    assert_eq!(decisions(&mut rule, &rows), ["0", "dropped", "1", "dropped", "2", "dropped"]);
}

#[test]
fn series_are_apart() {
    let mut rule = rule(Settings::default());
    let other_symbol = Row { symbol: "ETH/USDT", ..row(0, 1.0) };
    let other_source = Row { source: Some("t"), ..row(0, 1.0) };
    let rows = [row(0, 1.0), other_symbol, other_source, row(0, 1.0)];
    assert_eq!(decisions(&mut rule, &rows), ["0", "0", "0", "dropped"]);
}

#[test]
fn the_same_text_twice_in_a_dictionary_is_one_series() {
    let mut rule = rule(Settings::default());
    let mut batch = batch(&[row(0, 1.0), row(0, 1.0)]);
    for column in &mut batch.columns {
        if let (true, tidegate_guest::Values::Texts(texts)) = (column.name == "symbol", &mut column.values) {
            texts.dictionary = vec!["BTC/USDT".to_owned(), "BTC/USDT".to_owned()];
            texts.indexes = vec![0, 1];
        }
    }
    assert_eq!(rule.transform(0, &batch).unwrap().dropped, [1]);
}

#[test]
fn the_window_has_a_boundary() {
    let mut rule = rule(Settings { window: Duration::from_ms(100), ..Settings::default() });
    let row = |timestamp| Row { timeframe: "tick", ..row(timestamp, 1.0) };
    assert_eq!(decisions(&mut rule, &[row(0), row(100), row(0)]), ["0", "0", "dropped"]);
    assert_eq!(decisions(&mut rule, &[row(101), row(0), row(0)]), ["0", "0", "0"]);
}

#[test]
fn the_window_has_at_least_three_candles() {
    let day = 86_400_000;
    for (timeframe, candle) in [("3d", 3 * day), ("1w", 7 * day), ("1M", 31 * day)] {
        let mut rule = rule(Settings::default());
        let row = |number: i64, value| Row { timeframe, ..row(number * candle, value) };
        let rows =
            [row(0, 1.0), row(1, 1.0), row(0, 1.0), row(0, 2.0), row(0, 2.0), row(3, 1.0), row(0, 2.0)];
        let expected = ["0", "0", "dropped", "1", "dropped", "0", "dropped"];
        assert_eq!(decisions(&mut rule, &rows), expected, "{timeframe}");
        assert_eq!(decisions(&mut rule, &[row(4, 1.0), row(0, 2.0), row(0, 2.0)]), ["0"; 3], "{timeframe}");
    }
}

#[test]
fn a_row_in_the_future_does_not_move_the_window_past_the_others() {
    let mut rule = rule(Settings { window: Duration::from_ms(100), ..Settings::default() });
    let row = |timestamp| Row { timeframe: "tick", ..row(timestamp, 1.0) };
    let rows = [row(5_000), row(900), row(900), row(899), row(899), row(5_000)];
    let expected = ["0", "0", "dropped", "0", "0", "dropped"];
    assert_eq!(decisions_at(1_000, &mut rule, &rows), expected);
    assert_eq!(decisions_at(1_001, &mut rule, &[row(900), row(900), row(5_000)]), ["0", "0", "dropped"]);
}

#[test]
fn what_is_read_back_is_remembered_at_any_time() {
    let mut rule = rule(Settings { window: Duration::from_ms(100), ..Settings::default() });
    let row = |timestamp| Row { timeframe: "tick", revision: Some(0), ..row(timestamp, 1.0) };
    rule.remember(&batch(&[row(5_000), row(900), row(950)]));
    assert_eq!(decisions_at(1_000, &mut rule, &[row(900), row(950), row(5_000)]), ["dropped"; 3]);
}

#[test]
fn written_rows_are_remembered_once_or_twice() {
    let written = [revised(0, 1.0, 0), revised(0, 2.0, 1), revised(60_000, 1.0, 0), revised(0, 1.0, 0)];
    for times in 1..3 {
        let mut rule = rule(Settings::default());
        for _ in 0..times {
            rule.remember(&batch(&written));
        }
        let rows = [row(0, 2.0), row(60_000, 1.0), row(0, 1.0)];
        assert_eq!(decisions(&mut rule, &rows), ["dropped", "dropped", "2"]);
    }
}

#[test]
fn foreign_rows_in_the_sink_do_no_harm() {
    let mut rule = rule(Settings::default());
    rule.remember(&BatchBuilder::new(2).floats("price", [1.0, 2.0]).build());
    rule.remember(&batch(&[revised(0, 1.0, i64::MAX), revised(1, 1.0, i64::MIN)]));
    rule.remember(&batch(&[]));
    assert_eq!(decisions(&mut rule, &[row(0, 2.0), row(1, 2.0)]), ["too_many_revisions", "1"]);
}

#[test]
fn an_empty_batch_has_an_empty_column() {
    let mut rule = rule(Settings::default());
    assert_eq!(decisions(&mut rule, &[]), [""; 0]);
}

#[test]
fn a_batch_without_a_column_is_an_error() {
    let mut rule = rule(Settings::default());
    let error = rule.transform(0, &BatchBuilder::new(0).build()).unwrap_err();
    assert!(error.contains("`source`"), "{error}");
}

#[test]
fn more_series_than_the_memory_holds() {
    let mut rule = rule(Settings { rows: 1_000, ..Settings::default() });
    let names: Vec<String> = (0..5_000).map(|number| format!("COIN{number}")).collect();
    let batch = |names: &[String]| {
        let mut builder = BatchBuilder::new(names.len())
            .texts("source", names.iter().map(|_| "s"))
            .texts("symbol", names)
            .texts("timeframe", names.iter().map(|_| "1m"))
            .timestamps("timestamp", names.iter().map(|_| 0));
        for name in values::COLUMNS {
            builder = builder.floats(name, names.iter().map(|_| 1.0));
        }
        builder.build()
    };
    assert_eq!(rule.transform(0, &batch(&names)).unwrap().dropped, [0; 0]);
    assert_eq!(rule.transform(0, &batch(&names[4_950..])).unwrap().dropped.len(), 50, "the last are known");
    assert_eq!(rule.transform(0, &batch(&names[..50])).unwrap().dropped.len(), 0, "the first are forgotten");
}

#[test]
fn a_series_with_a_huge_name_does_not_push_the_others_out() {
    let mut rule = rule(Settings { rows: 1_000, ..Settings::default() });
    let huge = Row { symbol: Box::leak("X".repeat(16 << 10).into_boxed_str()), ..row(0, 1.0) };
    let rows = [row(0, 1.0), huge.clone(), Row { revision: Some(3), ..huge.clone() }, row(0, 1.0)];
    rule.remember(&batch(&[huge]));
    assert_eq!(decisions(&mut rule, &rows), ["0", "0", "3", "dropped"]);
}

#[test]
fn settings_are_checked() {
    let mut instance = Instance::<Dedup>::unconfigured();
    instance.configure("{}").unwrap();
    instance.configure(r#"{"window": "7d", "rows": 1000, "corrections": "reject"}"#).unwrap();
    for (settings, part) in [
        (r#"{"window": "24"}"#, "setting `window`: `24` is not a duration"),
        (r#"{"rows": 999}"#, "setting `rows` is 999: set at least 1000"),
        (r#"{"rows": -1}"#, "`rows`"),
        (r#"{"corrections": "drop"}"#, "expected `pass` or `reject`"),
        (r#"{"windows": "24h"}"#, "unknown field `windows`"),
    ] {
        let error = instance.configure(settings).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_rule_describes_itself() {
    let description = tidegate_guest::describe::<Dedup>();
    assert_eq!(description.reasons, ["correction", "stale_revision", "too_many_revisions"]);
    let revision = description.reads.iter().find(|column| column.name == "revision").unwrap();
    assert!(revision.optional);
    assert_eq!(description.reads.iter().filter(|column| !column.optional).count(), 9);
    assert!(description.settings.contains("1000000") || description.settings.contains("1_000"));
}

/// Source, symbol and timeframe.
type SeriesName = [&'static str; 3];

/// What the rule should do, without bounds and cleverness.
#[derive(Default)]
struct Model {
    newest: HashMap<SeriesName, i64>,
    seen: HashMap<(SeriesName, i64), (Option<u64>, i64)>,
}

impl Model {
    fn decide(&mut self, row: &Row, now: i64, window: i64, corrections: Corrections) -> String {
        let Some(source) = row.source else { return row.revision.unwrap_or(0).to_string() };
        match row.revision {
            Some(revision) if revision < 0 => return "stale_revision".to_owned(),
            Some(revision) if revision > 16_777_215 => return "too_many_revisions".to_owned(),
            _ => {}
        }
        let series = [source, row.symbol, row.timeframe];
        let newest = self.newest.entry(series).or_insert(i64::MIN);
        *newest = (*newest).max(row.timestamp);
        let window = if row.timeframe == "1s" { window.max(3_000) } else { window };
        if row.timestamp < (*newest).min(now).saturating_sub(window) {
            return row.revision.unwrap_or(0).to_string();
        }
        let value = row.value.map(|value| if value == 0.0 { 0 } else { value.to_bits() });
        let key = (series, row.timestamp);
        let revision = match self.seen.get(&key) {
            None => row.revision.unwrap_or(0),
            Some((known, _)) if *known == value => return "dropped".to_owned(),
            Some((_, last)) => match row.revision {
                Some(given) if given <= *last => return "stale_revision".to_owned(),
                _ if corrections == Corrections::Reject => return "correction".to_owned(),
                None if *last == 16_777_215 => return "too_many_revisions".to_owned(),
                given => given.unwrap_or(last + 1),
            },
        };
        self.seen.insert(key, (value, revision));
        revision.to_string()
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    (
        prop_oneof![8 => Just(Some("s")), 4 => Just(Some("t")), 1 => Just(None)],
        prop::sample::select(vec!["BTC/USDT", "ETH/USDT", "SOL/USDT"]),
        prop_oneof![4 => Just("tick"), 1 => Just("1s")],
        prop_oneof![6 => 0..40_i64, 2 => 0..600_i64, 1 => -50..5_000_i64],
        prop::sample::select(vec![Some(1.0), Some(2.0), Some(0.0), Some(-0.0), Some(f64::INFINITY), None]),
        prop_oneof![12 => Just(None), 4 => (0..5_i64).prop_map(Some),
            1 => prop::sample::select(vec![Some(-1), Some(16_777_214), Some(16_777_215), Some(16_777_216)])],
    )
        .prop_map(|(source, symbol, timeframe, timestamp, value, revision)| Row {
            source,
            symbol,
            timeframe,
            timestamp,
            value,
            revision,
        })
}

/// Mostly in order of time, as a source sends it, with some of everything between.
fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    (vec(any_row(), 0..800), any::<bool>(), 1..8_i64).prop_map(|(mut rows, is_ordered, step)| {
        if is_ordered {
            for (number, row) in rows.iter_mut().enumerate() {
                row.timestamp = row.timestamp.rem_euclid(20) + number as i64 * step;
            }
        }
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the rows are divided into batches, and however often the instance is thrown away between
    /// them, the rule decides as the model does without restarts.
    #[test]
    fn it_decides_as_the_model_does(
        rows in any_rows(),
        sizes in vec((0..120_usize, prop::bool::weighted(0.3), 1..3_usize), 1..40),
        window in prop_oneof![Just(0), 1..60_i64, 60..3_000_i64, Just(i64::MAX)],
        is_reject in any::<bool>(),
        first_now in prop_oneof![Just(i64::MAX), -100..3_000_i64],
        nows in vec(0..200_i64, 0..20),
    ) {
        let corrections = if is_reject { Corrections::Reject } else { Corrections::Pass };
        let settings = Settings { window: Duration::from_ms(window), corrections, ..Settings::default() };
        let mut model = Model::default();
        let mut current = rule(settings.clone());
        let mut written: Vec<Row> = Vec::new();
        let mut sizes = sizes.iter().cycle();
        let mut nows = nows.iter();
        let mut now = first_now;
        let mut rest = rows.as_slice();
        let mut steps = 0;
        while !rest.is_empty() && steps < 10_000 {
            steps += 1;
            let (size, is_restarted, times) = *sizes.next().unwrap();
            if is_restarted {
                current = rule(settings.clone());
                for _ in 0..times {
                    for part in written.chunks(50) {
                        current.remember(&batch_with(part, true));
                    }
                }
            }
            let (part, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            now = now.saturating_add(*nows.next().unwrap_or(&0));
            let expected: Vec<String> =
                part.iter().map(|row| model.decide(row, now, window, corrections)).collect();
            let actual = decisions_at(now, &mut current, part);
            prop_assert_eq!(&actual, &expected);
            written.extend(kept(part, &actual));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// Beyond its limit a memory forgets by the rows alone: not by batches, and not by restarts.
    #[test]
    fn forgetting_does_not_depend_on_batches_and_restarts(
        steps in vec((0..40_usize, 0..200_i64), 2_000..4_000),
        size in 150..700_usize,
    ) {
        let symbols: Vec<&'static str> = vec!["A", "B", "C", "D", "E", "F", "G", "H"];
        let rows: Vec<Row> = steps
            .iter()
            .enumerate()
            .map(|(number, (symbol, offset))| Row {
                symbol: symbols[symbol % symbols.len()],
                ..row(number as i64 + offset, 1.0)
            })
            .collect();
        let settings = Settings { rows: 1_000, window: Duration::from_ms(i64::MAX), ..Settings::default() };
        let whole = decisions(&mut rule(settings.clone()), &rows);
        let mut parts = Vec::new();
        let mut written: Vec<Row> = Vec::new();
        for part in rows.chunks(size) {
            let mut fresh = rule(settings.clone());
            fresh.remember(&batch_with(&written, true));
            let decided = decisions(&mut fresh, part);
            written.extend(kept(part, &decided));
            parts.extend(decided);
        }
        prop_assert_eq!(whole, parts);
    }
}

#[test]
fn the_fixtures_pass() {
    tidegate_guest::fixture::check::<Dedup>("fixtures");
}
