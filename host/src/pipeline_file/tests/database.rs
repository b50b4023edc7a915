//! What a pipeline file can say about TimescaleDB, PostgreSQL and ClickHouse, right and wrong.

use super::*;

fn with_sink(sink: &str) -> String {
    format!("name: demo\nsource:\n  file: {{ path: in.jsonl }}\nsink:\n  {sink}\n")
}

const TIMESCALE: &str = "timescale: { url: \"postgres://u:canary-5f3a@db/market\" }";
const CLICKHOUSE: &str = "clickhouse: { url: \"http://localhost:8123\" }";

#[test]
fn every_setting_is_read() {
    let file = with_sink(
        "timescale: { url: \"postgres://u@db/market\", password: \"${file:token}\", table: market.candles, \
         key: [symbol, timestamp], create: true, hypertable: { chunk: 1d, compress_after: 30d, retain: 365d }, \
         tls: { ca: ca.pem } }\ndead_letter: { timescale: { table: wrong } }",
    );
    let loaded = read_as(file).unwrap();
    let Sink::Timescale(sink) = &loaded.pipeline.sink else { panic!("a table of PostgreSQL") };
    let hypertable = sink.hypertable.as_ref().unwrap();
    assert_eq!((sink.table.as_str(), sink.create), ("market.candles", true));
    assert_eq!(sink.password.as_ref().unwrap().reveal(), "canary-5f3a");
    assert_eq!(hypertable.chunk, Span(Duration::from_secs(86_400)));
    assert_eq!(hypertable.retain, Some(Span(Duration::from_secs(365 * 86_400))));
    assert_eq!(loaded.pipeline.dead_letter_table(), "wrong");
    assert!(!format!("{:?}", loaded.pipeline).contains("canary"));

    let file = with_sink(
        "clickhouse: { url: \"https://ch:8443\", user: u, password: \"${TOKEN}\", database: market, table: t, \
         key: [symbol, timestamp], create: true, partition: day, compression: zstd, \
         insert: { rows: 5000, bytes: 1MiB, wait: 2s }, tls: {} }",
    );
    let loaded = read_as(file).unwrap();
    let Sink::Clickhouse(sink) = &loaded.pipeline.sink else { panic!("a table of ClickHouse") };
    assert_eq!((sink.partition, sink.compression.name()), (PartitionBy::Day, "zstd"));
    assert_eq!(
        (sink.insert.rows, sink.insert.bytes, sink.insert.wait.0.as_secs()),
        (5_000, ByteSize(1 << 20), 2)
    );
    assert_eq!(loaded.pipeline.dead_letter_table(), "dead_letter");
    assert!(!format!("{:?}", loaded.pipeline).contains("canary"));
}

#[test]
fn little_is_needed() {
    let loaded = read_as(with_sink(TIMESCALE)).unwrap();
    let Sink::Timescale(sink) = &loaded.pipeline.sink else { panic!("a table of PostgreSQL") };
    assert_eq!((sink.table.as_str(), sink.create, sink.hypertable.is_none()), ("candles", false, true));
    let loaded = read_as(with_sink(CLICKHOUSE)).unwrap();
    let Sink::Clickhouse(sink) = &loaded.pipeline.sink else { panic!("a table of ClickHouse") };
    assert_eq!((sink.database.as_str(), sink.table.as_str()), ("default", "candles"));
    assert_eq!((sink.insert.rows, sink.partition), (100_000, PartitionBy::Month));
}

#[test]
fn what_is_wrong_has_its_sentence_and_shows_no_password() {
    let timescale = |rest: &str| with_sink(&TIMESCALE.replace(" }", &format!(", {rest} }}")));
    let clickhouse = |rest: &str| with_sink(&CLICKHOUSE.replace(" }", &format!(", {rest} }}")));
    for (file, words) in [
        (
            with_sink("timescale: { url: \"mysql://u:canary-5f3a@db\" }"),
            "`url` must be `postgres://user@host:5432/database`",
        ),
        (timescale("table: tidegate_positions"), "positions are kept there"),
        (timescale("table: a.b.c"), "the table name `b.c` must be"),
        (timescale("key: [nothing]"), "the key's column `nothing` does not exist"),
        (timescale("hypertable: {}"), "`hypertable` is for the table that `create: true` makes"),
        (timescale("create: true, hypertable: { chunk: 1s }"), "`chunk` must be 1h to"),
        (timescale("tls: { certificate: c.pem }"), "`certificate` needs `key` beside it"),
        (timescale("tls:"), "`tls` is empty, which is no TLS"),
        (
            timescale("tls: { key: k, certificate: c, key_password: canary-5f3a }"),
            "a key with a password is for `kafka` only",
        ),
        (
            timescale("create: true") + "dead_letter: { file: { path: x } }",
            "is a table beside its rows; use `timescale`",
        ),
        (
            timescale("create: true") + "dead_letter: { timescale: { table: candles } }",
            "the table `candles` is the sink's own",
        ),
        (timescale("create: true") + "delivery: at_least_once", "`at_least_once` is for a `kafka` sink only"),
        (timescale("create: true") + "lanes: 2", "more than one lane needs a `kafka` source"),
        (with_sink("clickhouse: { url: \"localhost:8123\" }"), "`url` must be `http://host:8123`"),
        (with_sink("clickhouse: { url: \"http://u:canary-5f3a@h:1\" }"), "`url` has a user in it"),
        (clickhouse("key: []"), "the key is empty; a table of ClickHouse is ordered by its key"),
        (clickhouse("tls: {}"), "`tls` needs a `url` that starts with `https://`"),
        (clickhouse("insert: { rows: 0 }"), "`rows` must be 1 to 1000000, but is 0"),
        (clickhouse("insert: { wait: 1ms }"), "`wait` must be 10ms to 10m"),
        (clickhouse("database: \"a b\""), "the table name `a b` must be"),
        (clickhouse("create: true") + "dead_letter: { timescale: {} }", "use `clickhouse`, or leave it out"),
        (good_and("dead_letter: { clickhouse: {} }"), "this sink has another place; use `file`"),
    ] {
        let all = findings(&file).join("\n");
        assert!(all.contains(words), "{file}\n{all}");
        assert!(!all.contains("canary"), "{all}");
    }
}
