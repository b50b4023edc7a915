//! Into a real PostgreSQL, or a TimescaleDB where `TIDEGATE_POSTGRES_URL` names one: what is written, what is read back,
//! and what is refused.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::kafka::{Fate, candles, own_broker, shared, unique};
use crate::harness::postgres::{FilePipeline, Pipeline, REVISED, candle, database};
use crate::harness::{Database, Folder, shipped, start, tidegate, workspace};

const CREATE: &str = ", create: true";
const KEYED: &str = ", create: true, key: [source, symbol, timeframe, timestamp]";

/// `minute|close|revision` of all rows.
const STORED: &str = "SELECT (extract(epoch FROM timestamp)::bigint - 1767571200) / 60, close, revision FROM candles \
                      ORDER BY timestamp";

#[test]
fn a_file_is_written_once_and_goes_on_where_it_stopped() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, CREATE, "batch: { rows: 100 }");
    pipeline.rows(&(0..1_000).map(|minute| candle(minute, minute as f64, "")).collect::<Vec<_>>());
    let summary = pipeline.folder.summary();
    assert_eq!((&summary["read"], &summary["written"]), (&1_000.into(), &1_000.into()));
    assert_eq!(pipeline.folder.summary()["read"], 0);
    pipeline.append(&[candle(1_000, 5.0, ""), "{".into()]);
    let summary = pipeline.folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&1.into(), &1.into()));
    assert_eq!(postgres.count("candles"), 1_001);
    let sums =
        postgres.lines("SELECT sum(close), min(timestamp AT TIME ZONE 'UTC'), max(volume) FROM candles");
    assert_eq!(sums, ["499505|2026-01-05 00:00:00|2"]);
    let letter = "SELECT pipeline, rule, reason, source_topic, source_partition, source_offset, \
                  convert_from(payload, 'UTF8'), rejected_at AT TIME ZONE 'UTC' FROM dead_letter";
    assert_eq!(postgres.lines(letter), ["test|decode|malformed|in.jsonl|0|1001|{|2026-02-01 00:00:00"]);
}

#[test]
fn two_hosts_with_two_lanes_each_write_what_was_sent() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 8, "lanes: 2\nbatch: { rows: 2000 }");
    // Both begin without tables.
    let (mut one, other) = (pipeline.start("one"), pipeline.start("other"));
    let sent = candles(0..200_000, 8);
    kafka.send_candles(&pipeline.topic, &sent);
    pipeline.wait_until_written(&sent, &mut one);
    for host in [one, other] {
        host.interrupt();
        host.finish().summary();
    }
    postgres.compare(&sent);
}

#[test]
fn every_row_is_counted_and_none_is_read_again() {
    let (kafka, postgres) = (shared(), database());
    let pipeline = Pipeline::new(&kafka, &postgres, 2, "");
    let sent = candles(0..50_000, 2);
    kafka.send_candles(&pipeline.topic, &sent);
    let summary = pipeline.run_to_end();
    let count = |fate: Fate| sent.iter().filter(|candle| candle.fate == fate).count() as u64;
    assert_eq!(summary["written"], count(Fate::Kept));
    assert_eq!(summary["rejected"], count(Fate::Rejected));
    assert_eq!(summary["dropped"], count(Fate::Dropped));
    postgres.compare(&sent);
    assert_eq!(pipeline.run_to_end()["read"], 0);
    // What the rules remember is read back: the same rows again are all there already.
    kafka.send_candles(&pipeline.topic, &sent);
    let again = pipeline.run_to_end();
    assert_eq!((&again["read"], &again["written"]), (&50_000.into(), &0.into()), "{again}");
    assert!(!again["dropped_by"].to_string().contains("sink"), "the rule has dropped them: {again}");
    assert_eq!(postgres.count("candles"), count(Fate::Kept) as i64);
}

#[test]
fn a_newer_revision_replaces_an_older_one_is_refused_and_an_equal_row_is_dropped() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, KEYED, &format!("{REVISED}batch: {{ rows: 4 }}"));
    let revision = |minute, close, revision: i64| candle(minute, close, &format!(",\"revision\":{revision}"));
    pipeline.rows(&[
        revision(0, 1.0, 0),
        candle(1, 1.0, ""),
        revision(2, 1.0, 5),
        candle(3, 1.0, ""),
        // Of another batch: newer, equal, older, without a revision and different.
        revision(0, 2.0, 1),
        candle(1, 1.0, ""),
        revision(2, 3.0, 4),
        candle(3, 9.0, ""),
        // Within one batch: each is compared with what the one before has left.
        revision(9, 1.0, 0),
        revision(9, 2.0, 2),
        revision(9, 2.0, 1),
        revision(9, 3.0, 3),
    ]);
    let summary = pipeline.folder.summary();
    assert_eq!(postgres.lines(STORED), ["0|2|1", "1|1|NULL", "2|1|5", "3|1|NULL", "9|3|3"]);
    assert_eq!(postgres.reasons(), ["6|key_taken", "7|key_taken", "10|key_taken"]);
    assert_eq!(
        (&summary["written"], &summary["rejected"], &summary["dropped"]),
        (&8.into(), &3.into(), &1.into()),
        "{summary}"
    );
    let detail = &postgres.lines("SELECT detail FROM dead_letter ORDER BY source_offset")[0];
    let expected = "table `candles` has a row with the same key (source, symbol, timeframe, timestamp) and other \
                    values, whose `revision` is not older";
    assert_eq!(detail, expected);
}

/// The same as SQLite's, row by row, whatever the order.
#[test]
fn rows_with_the_same_keys_end_as_in_sqlite() {
    let postgres = database();
    let mut numbers = xtask::sample::Numbers::new(11);
    let rows: Vec<String> = (0..3_000)
        .map(|_| {
            let (minute, close) = (numbers.below(60), numbers.below(3) as f64);
            candle(minute, close, &format!(",\"revision\":{}", numbers.below(4)))
        })
        .collect();
    let rest = format!("{REVISED}batch: {{ rows: 250 }}");
    let pipeline = FilePipeline::new(&postgres, KEYED, &rest);
    pipeline.rows(&rows);
    let found = pipeline.folder.summary();
    let embedded = Folder::new();
    embedded.write("in.jsonl", rows.join("\n") + "\n");
    let key = "key: [source, symbol, timeframe, timestamp]";
    embedded.pipeline(
        "in.jsonl",
        &format!("sink: {{ sqlite: {{ path: out.db, table: candles, {key} }} }}\n{rest}"),
    );
    let expected = embedded.summary();
    for key in ["written", "rejected", "dropped"] {
        assert_eq!(found[key], expected[key], "{key}");
    }
    let rejects: Vec<String> =
        embedded.rejects().into_iter().map(|(offset, reason)| format!("{offset}|{reason}")).collect();
    assert_eq!(postgres.reasons(), rejects);
    let database = Database::open(&embedded.path("out.db"));
    let stored = database
        .query("SELECT (timestamp / 1000 - 1767571200) / 60, close, revision FROM candles ORDER BY 1");
    let stored: Vec<String> = stored
        .into_iter()
        .map(|row| match &row[..] {
            [
                rusqlite::types::Value::Integer(minute),
                rusqlite::types::Value::Real(close),
                rusqlite::types::Value::Integer(revision),
            ] => {
                format!("{minute}|{close}|{revision}")
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(postgres.lines(STORED), stored);
}

#[test]
fn rows_that_a_table_cannot_have_are_dead_letters_and_the_others_are_stored() {
    let postgres = database();
    postgres.run(
        "CREATE TABLE candles (\"timestamp\" timestamptz, open numeric(12,4), high double precision, low double \
         precision, close double precision NOT NULL CHECK (close < 1000), volume double precision, trades smallint, \
         revision integer, source varchar(8), symbol text, timeframe text, \
         PRIMARY KEY (source, symbol, timeframe, \"timestamp\"))",
    );
    let rest = REVISED.replace("columns: [", "columns: [{ name: trades, type: integer }, ");
    let pipeline = FilePipeline::new(&postgres, KEYED, &rest);
    let with = |minute: i64, name: &str, value: &str| {
        let row: serde_json::Value = serde_json::from_str(&candle(minute, 1.0, "")).unwrap();
        let mut row = row.as_object().unwrap().clone();
        row.insert(name.into(), serde_json::from_str(value).unwrap());
        serde_json::to_string(&row).unwrap()
    };
    pipeline.rows(&[
        candle(0, 1.0, ""),
        with(1, "symbol", "\"a\\u0000b\""),
        with(2, "timestamp", "9224318016000000"),
        with(3, "trades", "40000"),
        with(4, "source", "\"much too long\""),
        with(5, "close", "null"),
        with(6, "close", "2000"),
        with(7, "open", "123456789"),
        with(8, "symbol", "null"),
        with(9, "open", "1.25"),
        with(10, "revision", "3000000000"),
        candle(11, 1.0, ""),
    ]);
    let summary = pipeline.folder.summary();
    let reasons = [
        "1|text_nul",
        "2|out_of_range",
        "3|out_of_range",
        "4|too_long",
        "5|missing",
        "6|constraint",
        "7|out_of_range",
        "8|missing",
        "10|out_of_range",
    ];
    assert_eq!(postgres.reasons(), reasons);
    assert_eq!((&summary["written"], &summary["rejected"]), (&3.into(), &9.into()));
    assert_eq!(
        postgres.lines("SELECT open, symbol FROM candles ORDER BY timestamp"),
        ["1.5000|BTC/USD", "1.2500|BTC/USD", "1.5000|BTC/USD"]
    );
    let payload = postgres.lines("SELECT position('\\u0000' IN convert_from(payload, 'UTF8')) > 0, detail FROM dead_letter WHERE source_offset = 1");
    assert_eq!(payload, ["t|column `symbol` has a text with a NUL in it, which PostgreSQL cannot keep"]);
}

#[test]
fn floats_arrive_as_they_are_also_as_numerics() {
    let postgres = database();
    let kinds = "decode: { columns: [{ name: number, type: integer }, { name: float, type: float }, \
                 { name: exact, type: float }, { name: whole, type: integer }] }";
    postgres
        .run("CREATE TABLE candles (number bigint, float double precision, exact numeric, whole numeric)");
    let pipeline = FilePipeline::new(&postgres, CREATE, kinds);
    let values = [
        "0",
        "1",
        "-1",
        "0.1",
        "123456.789",
        "1e-7",
        "5e-324",
        "1.7976931348623157e308",
        "9999",
        "10000",
        "100000000",
        "0.00001234",
        "12345678.00009",
        "-0.5",
        "\"NaN\"",
    ];
    let rows: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(number, value)| {
            format!(
                "{{\"number\":{number},\"float\":{value},\"exact\":{value},\"whole\":{}}}",
                i64::MIN + number as i64
            )
        })
        .collect();
    pipeline.rows(&rows);
    let summary = pipeline.folder.summary();
    // Whether a text `NaN` is a float is decode's to say.
    let is_nan_decoded = summary["rejected"] == 0;
    assert_eq!(postgres.count("candles"), if is_nan_decoded { 15 } else { 14 });
    assert_eq!(postgres.count("candles WHERE exact::double precision IS DISTINCT FROM float"), 0);
    assert_eq!(postgres.count("candles WHERE whole <> -9223372036854775808 + number"), 0);
    assert_eq!(
        postgres.lines("SELECT exact FROM candles WHERE number IN (3, 4, 12) ORDER BY number"),
        ["0.1", "123456.789", "12345678.00009"]
    );
}

#[test]
fn an_empty_key_stores_every_row() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, ", create: true, key: []", "");
    pipeline.rows(&[candle(0, 1.0, ""), candle(0, 1.0, ""), candle(0, 2.0, "")]);
    assert_eq!(pipeline.folder.summary()["written"], 3);
    assert_eq!(postgres.count("candles"), 3);
    // Of a table with an index of its own the refused rows are known one by one.
    postgres.run("TRUNCATE candles; CREATE UNIQUE INDEX ON candles (timestamp, close)");
    pipeline.append(&[candle(5, 1.0, ""), candle(5, 1.0, ""), candle(5, 2.0, "")]);
    assert_eq!(pipeline.folder.summary()["written"], 2);
    assert_eq!(postgres.reasons(), ["4|constraint"]);
}

#[test]
fn times_can_be_in_other_types() {
    for (own, expected) in [
        ("timestamp", "2026-01-05 00:01:00"),
        ("timestamp with time zone", "2026-01-05 00:01:00+00"),
        ("bigint", "1767571260000"),
    ] {
        let postgres = database();
        postgres.run(&format!(
            "ALTER DATABASE {} SET timezone = 'UTC'; CREATE TABLE candles (\"timestamp\" {own} PRIMARY KEY, close float8)",
            postgres.database
        ));
        let columns = "decode: { columns: [{ name: timestamp, type: timestamp }, { name: close, type: float }] }\n\
                       rules: [{ name: dedup, component: dedup, settings: { window: 24h } }]";
        let pipeline =
            FilePipeline::new(&postgres, ", key: [timestamp], create: true", columns.lines().next().unwrap());
        pipeline.rows(&[candle(1, 1.0, "")]);
        assert_eq!(pipeline.folder.summary()["written"], 1, "{own}");
        assert_eq!(postgres.another().lines("SELECT timestamp FROM candles"), [expected]);
        // A row that is there already is met by way of the temporary table.
        pipeline.append(&[candle(1, 1.0, ""), candle(2, 1.0, "")]);
        let summary = pipeline.folder.summary();
        assert_eq!((&summary["written"], &summary["dropped"]), (&1.into(), &1.into()), "{own}");
    }
}

#[test]
fn what_is_wrong_with_the_tables_is_said_with_the_statement_that_mends_it() {
    let postgres = database();
    let pipeline = FilePipeline::new(
        &postgres,
        "",
        "decode: { columns: [{ name: a, type: integer }, { name: b, type: text }] }",
    );
    let keyed = FilePipeline::new(
        &postgres,
        ", key: [a]",
        "decode: { columns: [{ name: a, type: integer }, { name: b, type: text }] }",
    );
    for pipeline in [&pipeline, &keyed] {
        pipeline.rows(&["{\"a\":1,\"b\":\"x\"}".into()]);
    }
    let shown = postgres.shown();
    let refused = |pipeline: &FilePipeline, sentence: String| {
        let outcome = pipeline.folder.run();
        outcome.refused(3, &sentence);
        // What it says is what mends it.
        let rest = outcome.stderr.split_once(&sentence).unwrap().1;
        let mend =
            format!("{sentence}{rest}").split_once("run `").unwrap().1.split_once('`').unwrap().0.to_owned();
        postgres.run(&mend);
    };
    refused(
        &pipeline,
        format!(
            "the table `candles` does not exist in `{shown}`: run `CREATE TABLE IF NOT EXISTS \"candles\" (\"a\" bigint, \"b\" text);`, or give `create: true`"
        ),
    );
    refused(&pipeline, format!("the table `dead_letter` does not exist in `{shown}`: run `"));
    assert_eq!(pipeline.folder.summary()["written"], 1);
    refused(
        &keyed,
        format!(
            "table `candles` in `{shown}` has no unique index of the key (a): run `CREATE UNIQUE INDEX ON \"candles\" (\"a\");`"
        ),
    );
    postgres.run("ALTER TABLE candles DROP COLUMN b");
    refused(
        &keyed,
        format!(
            "table `candles` in `{shown}` has no column `b`: run `ALTER TABLE \"candles\" ADD COLUMN \"b\" text;`"
        ),
    );
    postgres.run("ALTER TABLE candles ALTER b TYPE character(5)");
    refused(
        &keyed,
        format!(
            "column `b` of table `candles` in `{shown}` is `character(5)`, which does not keep texts as they are, expected `text`: run `"
        ),
    );
    postgres.run("ALTER TABLE candles ALTER a TYPE real");
    refused(
        &keyed,
        format!(
            "column `a` of table `candles` in `{shown}` is `real`, which does not keep integers as they are, expected `bigint`: run `"
        ),
    );
    postgres.run("ALTER TABLE candles ADD COLUMN c integer; UPDATE candles SET c = 0; ALTER TABLE candles ALTER c SET NOT NULL");
    refused(
        &keyed,
        format!(
            "column `c` of table `candles` in `{shown}` must have a value, and the pipeline has no such column: run `"
        ),
    );
    postgres.run("ALTER TABLE dead_letter DROP COLUMN payload");
    refused(
        &keyed,
        format!(
            "table `dead_letter` in `{shown}`, which is for dead letters, has no column `payload`: run `"
        ),
    );
    // The position is of the pipeline, so there is nothing left to read.
    assert_eq!(keyed.folder.summary()["read"], 0);
    postgres.run("CREATE VIEW seen AS SELECT * FROM candles");
    keyed.write_file(&postgres.url(), ", table: seen", "decode: { columns: [{ name: a, type: integer }] }");
    keyed.folder.refused(3, "`seen` in `");
    if postgres.count("pg_extension WHERE extname = 'timescaledb'") == 0 {
        keyed.write_file(&postgres.url(), ", create: true, hypertable: { chunk: 1d }", "");
        keyed.folder.refused(3, "has no TimescaleDB: run `CREATE EXTENSION timescaledb;`");
    }
}

#[test]
fn a_schema_before_the_table_has_its_positions_and_dead_letters_too() {
    let postgres = database();
    postgres.run("CREATE SCHEMA market");
    let pipeline = FilePipeline::new(&postgres, ", table: market.Candles, create: true", "");
    pipeline.rows(&[candle(0, 1.0, ""), "{".into()]);
    pipeline.folder.summary();
    for (table, rows) in [("candles", 1), ("dead_letter", 1), ("tidegate_positions", 1)] {
        assert_eq!(postgres.count(&format!("market.{table}")), rows, "{table}");
    }
}

#[test]
fn rows_are_read_back_by_their_time() {
    let postgres = database();
    let rules =
        "rules: [{ name: dedup, component: dedup, settings: { window: 24h } }]\nremember: { rows: 10 }";
    let pipeline = FilePipeline::new(&postgres, CREATE, rules);
    let rows: Vec<String> = (0..25_000).map(|minute| candle(minute, 1.0, "")).collect();
    pipeline.rows(&rows);
    assert_eq!(pipeline.folder.summary()["written"], 25_000);
    // Of the last ten the rule knows; the one before them is met by the table.
    pipeline.append(&[candle(24_990, 1.0, ""), candle(24_989, 1.0, "")]);
    let summary = pipeline.folder.summary();
    let mut dropped: Vec<String> =
        summary["dropped_by"].as_array().unwrap().iter().map(ToString::to_string).collect();
    dropped.sort();
    assert_eq!(dropped, [r#"{"rule":"dedup","count":1}"#, r#"{"rule":"sink","count":1}"#]);
    // All of them, which is more than one batch.
    pipeline.write_file(&postgres.url(), CREATE, &rules.replace("rows: 10", "rows: 1000000"));
    pipeline.append(&rows[..20_000]);
    let summary = pipeline.folder.summary();
    assert_eq!(summary["dropped"], 20_000);
}

#[test]
fn who_is_not_let_in_is_told_so() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, CREATE, "");
    pipeline.rows(&[candle(0, 1.0, "")]);
    let address = postgres.address();
    let url = |user: &str, database: &str| format!("postgres://{user}@{address}/{database}");
    let role = "needs_password";
    drop(postgres.try_run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'right'")));
    pipeline.write_file(&url(role, &postgres.database), ", create: true, password: secret-and-wrong", "");
    let outcome = pipeline.folder.run();
    outcome.refused(3, &format!("`{}` of `sink.timescale.url` does not let this program do its work: password authentication failed for user \"{role}\" (28P01)", postgres.shown()));
    assert!(!outcome.stderr.contains("secret-and-wrong"), "{}", outcome.stderr);
    pipeline.write_file(&url(role, &postgres.database), ", create: true", "");
    pipeline.folder.refused(3, "password missing");
    pipeline.write_file(&url("postgres", "nowhere"), CREATE, "");
    pipeline.folder.refused(3, "database \"nowhere\" does not exist (3D000)");
    // A role without privileges.
    pipeline.write_file(&url(&format!("{role}:right"), &postgres.database), CREATE, "");
    pipeline.folder.refused(3, "permission denied for schema public (42501)");
    pipeline.write_file("postgres://user:hidden-word@127.0.0.1:x/db", CREATE, "");
    let outcome = pipeline.folder.run();
    outcome.refused(2, "`sink.timescale.url` cannot be read");
    assert!(!outcome.stderr.contains("hidden-word"), "{}", outcome.stderr);
}

#[test]
fn tables_can_be_made_beforehand_by_the_printed_statements() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, "", "rules: [{ name: enrich, component: enrich }]");
    pipeline.rows(&[candle(0, 1.0, ""), "{".into()]);
    let printed = tidegate(&pipeline.folder, &["schema", "sql", "--sink", "timescale", "p.yaml"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let has_timescale = postgres.count("pg_extension WHERE extname = 'timescaledb'") > 0;
    let statements: Vec<&str> = printed.stdout.split(";\n").collect();
    for statement in statements {
        let needs_timescale = statement.contains("create_hypertable");
        if has_timescale || !needs_timescale {
            postgres.run(statement);
        }
    }
    let checked = tidegate(&pipeline.folder, &["check", "--connect", "p.yaml"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert_eq!(pipeline.folder.summary()["written"], 1);
    // Without a file: what validate, dedup and enrich write into the built-in columns.
    let printed = tidegate(&Folder::new(), &["schema", "sql", "--sink", "timescale"]);
    assert!(printed.stdout.contains("\"validated_at\" timestamp with time zone"), "{}", printed.stdout);
    assert!(printed.stdout.contains("PRIMARY KEY (\"source\", \"symbol\", \"timeframe\", \"timestamp\")"));
}

#[test]
fn a_check_that_connects_says_what_is_wrong_and_changes_nothing() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, CREATE, "");
    pipeline.rows(&[candle(0, 1.0, "")]);
    assert_eq!(tidegate(&pipeline.folder, &["check", "p.yaml"]).code, Some(0));
    let checked = tidegate(&pipeline.folder, &["check", "--connect", "p.yaml"]);
    assert_eq!(checked.code, Some(0), "what is to be made is nothing wrong: {}", checked.stderr);
    assert_eq!(postgres.count("pg_tables WHERE schemaname = 'public'"), 0);
    pipeline.write_file(&postgres.url(), "", "");
    tidegate(&pipeline.folder, &["check", "--connect", "p.yaml"])
        .refused(3, "the table `candles` does not exist in `");
    postgres.run("CREATE TABLE candles (close text)");
    let checked = tidegate(&pipeline.folder, &["check", "--connect", "p.yaml"]);
    checked.refused(3, "has no columns `timestamp`, `open`");
    checked.refused(3, "column `close` of table `candles`");
    checked.refused(3, "has no unique index of the key");
    pipeline.write_file("postgres://postgres@127.0.0.1:1/db", "", "");
    tidegate(&pipeline.folder, &["check", "--connect", "p.yaml"]).refused(3, "Connection refused");
}

#[test]
fn other_sinks_are_checked_too() {
    let kafka = shared();
    let topic = unique("checked");
    kafka.create(&topic, 2);
    let folder = Folder::new();
    let source = format!("source: {{ kafka: {{ brokers: \"{}\", topic: {topic} }} }}", kafka.address);
    let check = |sink: &str| {
        folder.write("p.yaml", format!("name: test\n{source}\nsink: {sink}\n"));
        tidegate(&folder, &["check", "--connect", "p.yaml"])
    };
    let missing = unique("missing");
    check(&format!("{{ kafka: {{ topic: {missing} }} }}"))
        .refused(3, &format!("the topic `{missing}` (`sink.kafka.topic`) does not exist"));
    assert_eq!(check(&format!("{{ kafka: {{ topic: {missing}, create: true }} }}")).code, Some(0));
    check("{ kafka: { topic: x, brokers: \"127.0.0.1:1\" }, delivery: at_least_once }")
        .refused(2, "delivery");
    assert_eq!(check("{ sqlite: { path: out.db } }").code, Some(0));
    assert!(!folder.path("out.db").exists());
    let database = rusqlite::Connection::open(folder.path("out.db")).unwrap();
    database.execute_batch("CREATE TABLE candles (close TEXT)").unwrap();
    check("{ sqlite: { path: out.db } }").refused(3, "has no column `timestamp`");
    let tables: i64 = database.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn the_shipped_pipeline_has_the_expected_outcome() {
    let (own, postgres) = (own_broker(&[]), database());
    own.kafka.create("ohlcv-validated", 4);
    let pipelines = workspace().join("pipelines");
    let case =
        |name: &str| std::fs::read_to_string(pipelines.join("timescale.cases/day").join(name)).unwrap();
    let rows = case("input.jsonl");
    own.kafka.send("ohlcv-validated", &[], rows.lines().map(|line| (0, None, Some(line.as_bytes()))));
    let folder = Folder::new();
    let mut command = shipped(&folder, "timescale.yaml");
    command.env("KAFKA_BROKERS", &own.kafka.address).env("POSTGRES_URL", postgres.url());
    let summary = start(&mut command).finish().summary();
    let expected: Value = serde_json::from_str(&case("summary.json")).unwrap();
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&summary[key], value, "{key}");
    }
    let rejected: Vec<String> = case("rejected.jsonl")
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            format!("{}|{}|{}", row["offset"], row["rule"].as_str().unwrap(), row["reason"].as_str().unwrap())
        })
        .collect();
    assert_eq!(postgres.lines("SELECT source_offset, rule, reason FROM dead_letter ORDER BY 1"), rejected);
    let payloads =
        postgres.lines("SELECT convert_from(payload, 'UTF8') FROM dead_letter ORDER BY source_offset");
    let offsets = rejected.iter().map(|row| row.split_once('|').unwrap().0.parse::<usize>().unwrap());
    assert_eq!(payloads, offsets.map(|offset| rows.lines().nth(offset).unwrap()).collect::<Vec<_>>());
    // The rows that must be there: the newest of each key.
    let mut newest: BTreeMap<String, Value> = BTreeMap::new();
    for line in rows.lines() {
        let Ok(row) = serde_json::from_str::<Value>(line) else { continue };
        let key = format!("{}|{}|{}", row["timestamp"], row["source"], row["symbol"]);
        if row["symbol"].is_null() || key.contains("\\u0000") {
            continue;
        }
        let is_newer =
            newest.get(&key).is_none_or(|other| other["revision"].as_i64() < row["revision"].as_i64());
        if is_newer {
            newest.insert(key, row);
        }
    }
    let stored = postgres.lines(
        "SELECT jsonb_build_object('timestamp', (extract(epoch FROM timestamp) * 1000)::bigint, 'validatedAt', \
         (extract(epoch FROM validated_at) * 1000)::bigint) || (to_jsonb(candles) - 'timestamp' - 'validated_at') FROM candles",
    );
    let mut found: Vec<String> =
        stored.iter().map(|row| sorted(&serde_json::from_str(row).unwrap())).collect();
    let mut right: Vec<String> = newest.values().map(sorted).collect();
    found.sort();
    right.sort();
    assert_eq!(found, right);
}

/// A row with its columns in the order of their names and its numbers as floats.
fn sorted(row: &Value) -> String {
    let columns: BTreeMap<&String, Value> = (row.as_object().unwrap().iter())
        .map(|(name, value)| (name, value.as_f64().map_or_else(|| value.clone(), Value::from)))
        .collect();
    serde_json::to_string(&columns).unwrap()
}
