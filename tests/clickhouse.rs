//! Into ClickHouse: what comes out of the table is what was sent, of every type, from files and from Kafka, into
//! tables that are made and into tables that exist.

use crate::harness::clickhouse::{CREATE, Clickhouse, Database, Pipeline, own_server, server_with, shared};
use crate::harness::kafka::shared as shared_kafka;
use crate::harness::{Folder, start, tidegate};
use xtask::clickhouse::{Engine, Options, Tls};

/// The columns of every kind, with names of their own.
const COLUMNS: &str = "decode: { format: json, columns: [\
    { name: timestamp, type: timestamp }, { name: number, type: integer }, { name: price, type: float }, \
    { name: closed, type: boolean }, { name: symbol, type: text }, { name: note, type: text }] }\n";

fn write(folder: &Folder, database: &Database, settings: &str, rows: &str, rest: &str) {
    folder.write("in.jsonl", rows);
    folder.pipeline("in.jsonl", &format!("{COLUMNS}{}{rest}", database.sink(settings)));
}

const SHOWN: &str = "toUnixTimestamp64Milli(timestamp), number, price, closed, symbol, hex(note)";

#[test]
fn values_of_every_type_come_back_as_they_were() {
    let database = Database::new(&shared());
    let folder = Folder::new();
    let rows = [
        r#"{"timestamp":"1900-01-01T00:00:00Z","number":-9223372036854775808,"price":0.1,"closed":true,"symbol":"a","note":"x\u0000y"}"#,
        r#"{"timestamp":1767571200123,"number":9223372036854775807,"price":-1e300,"closed":false,"symbol":"ü\t\n","note":""}"#,
        r#"{"timestamp":1767571200124,"number":null,"price":null,"closed":null,"symbol":"a","note":null}"#,
    ];
    write(&folder, &database, ", create: true, key: [symbol, timestamp]", &rows.join("\n"), "");
    assert_eq!(folder.summary()["written"], 3);
    let query = |name: &str| {
        database.clickhouse.query(&format!("SELECT {SHOWN} FROM {}.{name} ORDER BY timestamp", database.name))
    };
    let expected = [
        ["-2208988800000", "-9223372036854775808", "0.1", "true", "a", "780079"],
        ["1767571200123", "9223372036854775807", "-1e300", "false", "ü\\t\\n", ""],
        ["1767571200124", "\\N", "\\N", "\\N", "a", "\\N"],
    ];
    assert_eq!(query("candles"), expected);
}

#[test]
fn nan_and_infinities_arrive_as_they_are() {
    let database = Database::new(&shared());
    let folder = Folder::new();
    let rows = "timestamp,number,price,closed,symbol,note\n\
         1767571200000,1,NaN,true,a,x\n1767571260000,1,inf,true,a,x\n1767571320000,1,-inf,true,a,x\n";
    folder.write("in.csv", rows);
    let columns = COLUMNS.replace("format: json", "format: csv");
    folder.pipeline(
        "in.csv",
        &format!("{columns}{}", database.sink(", create: true, key: [symbol, timestamp]")),
    );
    let summary = folder.summary();
    let prices =
        database.clickhouse.query(&format!("SELECT price FROM {}.candles ORDER BY timestamp", database.name));
    assert_eq!(prices, [["nan"], ["inf"], ["-inf"]], "{summary}");
}

#[test]
fn columns_of_an_existing_table_may_have_other_types_and_what_they_cannot_hold_is_a_dead_letter() {
    let database = Database::new(&shared());
    let Database { clickhouse, name } = &database;
    clickhouse.query(&format!(
        "CREATE TABLE {name}.candles (timestamp DateTime('UTC'), number Nullable(Int16), price Float64, closed UInt8, \
         symbol LowCardinality(String), note LowCardinality(Nullable(String)), more String DEFAULT 'd', other Int8) \
         ENGINE = ReplacingMergeTree ORDER BY (symbol, timestamp) PARTITION BY toYear(timestamp) \
         SETTINGS non_replicated_deduplication_window = 100"
    ));
    let row = |timestamp: &str, number: &str, price: &str| {
        format!(
            r#"{{"timestamp":{timestamp},"number":{number},"price":{price},"closed":true,"symbol":"a","note":null}}"#
        )
    };
    let rows = [
        row("1767571200000", "32767", "1.5"),
        row("1767571200500", "1", "1.5"),
        row("1767571260000", "32768", "1.5"),
        row("4294967296000", "1", "1.5"),
        row("-1000", "1", "1.5"),
        row("1767571320000", "null", "null"),
        row("1735689600000", "null", "2.5"),
    ];
    let folder = Folder::new();
    write(&folder, &database, ", create: true, key: [symbol, timestamp]", &rows.join("\n"), "");
    let summary = folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&2.into(), &5.into()), "{summary}");
    let found = clickhouse.query(&format!(
        "SELECT number, price, closed, note, more, other FROM {name}.candles ORDER BY timestamp"
    ));
    assert_eq!(found, [["\\N", "2.5", "1", "\\N", "d", "0"], ["32767", "1.5", "1", "\\N", "d", "0"]]);
    let reasons = clickhouse
        .query(&format!("SELECT rule, source_offset, reason FROM {name}.dead_letter ORDER BY source_offset"));
    assert_eq!(
        reasons,
        [
            ["sink", "1", "fraction_of_a_second"],
            ["sink", "2", "out_of_range"],
            ["sink", "3", "time_out_of_range"],
            ["sink", "4", "time_out_of_range"],
            ["sink", "5", "null"],
        ]
    );
}

#[test]
fn texts_of_many_kinds_and_few_fit_their_dictionaries() {
    let database = Database::new(&shared());
    let folder = Folder::new();
    let row = |number: usize| {
        format!(
            r#"{{"timestamp":{},"number":1,"price":1.5,"closed":true,"symbol":"s{}","note":"n{number}"}}"#,
            1_767_571_200_000_u64 + number as u64,
            number % 300,
        )
    };
    let rows: Vec<String> = (0..70_000).map(row).collect();
    write(&folder, &database, ", create: true, key: [timestamp]", &rows.join("\n"), "");
    assert_eq!(folder.summary()["written"], 70_000);
    let right = format!(
        "SELECT countIf(symbol = concat('s', toString(n % 300)) AND note = concat('n', toString(n))) FROM \
         (SELECT *, toUnixTimestamp64Milli(timestamp) - 1767571200000 AS n FROM {}.candles)",
        database.name
    );
    assert_eq!(database.clickhouse.value(&right), "70000");
}

#[test]
fn a_file_is_read_once_and_goes_on_where_it_was() {
    let database = Database::new(&shared());
    let folder = Folder::new();
    let rows = |range: std::ops::Range<u64>| -> String {
        crate::harness::kafka::candles(range, 1)
            .iter()
            .map(|candle| format!("{}\n", candle.payload))
            .collect()
    };
    folder.write("in.jsonl", rows(0..4_000));
    let rest = format!("{}{}batch: {{ rows: 300 }}\n", crate::harness::RULES, database.sink(CREATE));
    folder.pipeline("in.jsonl", &rest.replace(", max_jump_factor: 3", ""));
    let first = folder.summary();
    assert_eq!(first["read"], 4_000);
    assert_eq!(folder.summary()["read"], 0);
    folder.append("in.jsonl", rows(4_000..5_000));
    let second = folder.summary();
    assert_eq!(second["read"], 1_000);
    let written = first["written"].as_u64().unwrap() + second["written"].as_u64().unwrap();
    assert_eq!(database.count(), written);
    assert!(first["dropped"].as_u64().unwrap() > 0, "repetitions are known: {first}");
}

#[test]
fn a_pipe_that_comes_again_is_written_again() {
    let database = Database::new(&shared());
    let folder = Folder::new();
    let row = r#"{"timestamp":1767571200000,"number":1,"price":1.5,"closed":true,"symbol":"a","note":"x"}"#;
    folder.write("in.jsonl", row);
    folder.pipeline(
        "\"-\"",
        &format!("{COLUMNS}{}", database.sink(", create: true, key: [symbol, timestamp]")),
    );
    for _ in 0..2 {
        let input = std::fs::File::open(folder.path("in.jsonl")).unwrap();
        assert_eq!(start(folder.command().stdin(input)).finish().summary()["written"], 1);
    }
    assert_eq!(database.count(), 2, "the second run's block is another one");
}

#[test]
fn two_hosts_of_two_lanes_write_each_row_once() {
    let pipeline =
        Pipeline::with_memory(&shared_kafka(), &shared(), 6, ", insert: { wait: 200ms }", "lanes: 2");
    let mut sent = pipeline.send(0..40_000, 6);
    let mut hosts = [pipeline.start("a"), pipeline.start("b")];
    sent.extend(pipeline.send(40_000..80_000, 6));
    pipeline.wait_until_read(6, &mut hosts[0]);
    for host in hosts {
        host.interrupt();
        host.finish().summary();
    }
    pipeline.compare(&sent);
}

#[test]
fn blocks_are_compressed_as_the_file_says() {
    for compression in ["none", "lz4", "zstd"] {
        let database = Database::new(&shared());
        let folder = Folder::new();
        let row =
            r#"{"timestamp":1767571200000,"number":1,"price":1.5,"closed":true,"symbol":"a","note":"x"}"#;
        let settings = format!(", create: true, key: [symbol], compression: {compression}");
        write(&folder, &database, &settings, row, "");
        assert_eq!(folder.summary()["written"], 1, "{compression}");
        assert_eq!(database.count(), 1, "{compression}");
    }
}

/// What a table says that cannot take the rows.
fn refused(table: &str, sentences: &[&str]) {
    let database = Database::new(&shared());
    database.clickhouse.query(&table.replace("candles", &format!("{}.candles", database.name)));
    let folder = Folder::new();
    write(&folder, &database, ", create: true, key: [symbol, timestamp]", "", "");
    let outcome = folder.run();
    for sentence in sentences {
        outcome.refused(3, &sentence.replace("DATABASE", &format!("`{}`", database.name)));
    }
}

#[test]
fn a_table_that_cannot_take_the_rows_is_said_with_what_mends_it() {
    let columns = "timestamp DateTime64(3, 'UTC'), number Int64, closed Bool, symbol String";
    let engine = "ENGINE = MergeTree ORDER BY symbol SETTINGS non_replicated_deduplication_window = 10";
    refused(
        &format!("CREATE TABLE candles ({columns}, price Float32) {engine}"),
        &[
            "has no column `note`: run `ALTER TABLE DATABASE.`candles` ADD COLUMN `note` LowCardinality(Nullable(String))`",
            "is Float32, which does not keep a value of the kind float as it is: run `ALTER TABLE",
        ],
    );
    let all = format!("{columns}, price Float64, note String");
    refused(
        &format!("CREATE TABLE candles ({all}) ENGINE = MergeTree ORDER BY symbol"),
        &["run `ALTER TABLE DATABASE.`candles` MODIFY SETTING non_replicated_deduplication_window = 10000`"],
    );
    refused(&format!("CREATE TABLE candles ({all}) ENGINE = Memory"), &["is of the engine Memory"]);
    refused(
        &format!("CREATE TABLE candles ({columns}, price Float64, note String ALIAS symbol) {engine}"),
        &["column `note` of table `candles`", "is ALIAS"],
    );
}

#[test]
fn what_is_not_there_is_said_and_not_made() {
    let database = Database::new(&shared());
    let folder = Folder::new();
    write(&folder, &database, "", "", "");
    folder.refused(3, "there is no table `candles`");
    let file = String::from_utf8(folder.read("p.yaml")).unwrap();
    folder.write("p.yaml", file.replace(&database.name, "no_such_database"));
    folder.refused(3, "make the database, or correct `sink.clickhouse.database`");
}

#[test]
fn a_wrong_password_is_said_and_not_shown() {
    let user = Some(("trader".to_owned(), "right-password".to_owned()));
    let own = server_with(Options { user, ..Options::default() });
    let database = Database::new(&own.clickhouse);
    let folder = Folder::new();
    let row = r#"{"timestamp":1767571200000,"number":1,"price":1.5,"closed":true,"symbol":"a","note":"x"}"#;
    let settings = |password: &str| {
        format!(", create: true, key: [symbol], user: trader, password: \"${{file:{password}}}\"")
    };
    folder.write("right", "right-password");
    folder.write("wrong", "wrong-password");
    write(&folder, &database, &settings("wrong"), row, "");
    let outcome = folder.run();
    outcome.refused(3, "correct `sink.clickhouse.user` and `password`");
    assert!(!outcome.stderr.contains("wrong-password"), "{}", outcome.stderr);
    write(&folder, &database, &settings("right"), row, "");
    assert_eq!(folder.summary()["written"], 1);
}

#[test]
fn tables_can_be_made_beforehand_by_the_printed_statements() {
    let database = Database::new(&shared());
    let folder = Folder::new();
    let row = r#"{"timestamp":1767571200000,"number":1,"price":1.5,"symbol":"a"}"#;
    write(&folder, &database, ", key: [symbol, timestamp]", row, "");
    let check = || tidegate(&folder, &["check", "--connect", "p.yaml"]);
    check().refused(3, "there is no table `candles`");
    let printed = tidegate(&folder, &["schema", "sql", "--sink", "clickhouse", "p.yaml"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    for statement in printed.stdout.split(";\n").filter(|statement| !statement.is_empty()) {
        database.clickhouse.query(statement);
    }
    let checked = check();
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert_eq!(folder.summary()["written"], 1);
    tidegate(&folder, &["schema", "sql", "--sink", "timescale", "p.yaml"])
        .refused(2, "has no `timescale` sink");
    // Without a file: what validate, dedup and enrich write into the built-in columns.
    let printed = tidegate(&Folder::new(), &["schema", "sql", "--sink", "clickhouse"]);
    assert!(printed.stdout.contains("validated_at"), "{}", printed.stdout);
}

#[cfg(target_os = "linux")]
#[test]
fn the_old_server_takes_rows_and_goes_on_after_a_restart() {
    let mut own = own_server(Engine::Old);
    let database = Database::new(&own.clickhouse);
    let folder = Folder::new();
    let rows = |range: std::ops::Range<u64>| -> String {
        crate::harness::kafka::candles(range, 1)
            .iter()
            .map(|candle| format!("{}\n", candle.payload))
            .collect()
    };
    folder.write("in.jsonl", rows(0..2_000));
    let rest = format!("{}{}", crate::harness::RULES, database.sink(CREATE));
    folder.pipeline("in.jsonl", &rest.replace(", max_jump_factor: 3", ""));
    let outcome = folder.run();
    assert!(outcome.stderr.contains("knows no tokens"), "{}", outcome.stderr);
    let first = outcome.summary();
    own.server.restart().unwrap();
    folder.append("in.jsonl", rows(2_000..3_000));
    let second = folder.summary();
    assert_eq!(second["read"], 1_000);
    let written = first["written"].as_u64().unwrap() + second["written"].as_u64().unwrap();
    assert_eq!(database.count(), written);
    let Clickhouse { .. } = own.clickhouse;
    let closes =
        own.clickhouse.value(&format!("SELECT min(close) > 99, max(symbol) FROM {}.candles", database.name));
    assert_eq!(closes, "1");
}

#[test]
fn the_candles_of_the_sample_go_through_both_pipelines_into_the_table() {
    let pipelines = crate::harness::workspace().join("pipelines");
    let own = crate::harness::kafka::own_broker(&[]);
    let database = Database::new(&shared());
    let folder = Folder::new();
    own.kafka.create("ohlcv-raw", 2);
    let bytes = std::fs::read(pipelines.join("quickstart.jsonl")).unwrap();
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    own.kafka.send("ohlcv-raw", &[], lines.iter().map(|line| (0, None, Some(*line))));
    let run = |name: &str| {
        let mut command = crate::harness::shipped(&folder, name);
        command.env("KAFKA_BROKERS", &own.kafka.address);
        command.env("CLICKHOUSE_URL", format!("http://{}", database.clickhouse.address));
        command.env("TIDEGATE_CLICKHOUSE_DATABASE", &database.name);
        start(&mut command).finish().summary()
    };
    let validated = run("validate.yaml")["written"].as_u64().unwrap();
    let summary = run("clickhouse.yaml");
    let case = std::fs::read_to_string(pipelines.join("clickhouse.cases/day/summary.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&case).unwrap();
    for (key, value) in expected.as_object().unwrap() {
        // Empty lines of the sample are not sent.
        assert_eq!(&summary[key], value, "{key}");
    }
    assert_eq!(summary["read"], validated);
    let rows = "SELECT count(), uniqExact(source, symbol, timeframe, timestamp), countIf(validated_at > 0)";
    let final_rows =
        database.clickhouse.query(&format!("{rows} FROM {}.candles FINAL", database.name)).swap_remove(0);
    assert!(final_rows.iter().all(|count| *count == final_rows[0]), "{final_rows:?}");
}

#[test]
fn a_server_with_tls_is_reached_with_its_authority_and_a_certificate() {
    let folder = Folder::new();
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(folder.path(""));
        let output = command.output().expect("openssl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    folder.write("names", "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n");
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        ));
    }
    for name in ["server", "client"] {
        openssl(&format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
        ));
    }
    let (certificate, key, authority) =
        (folder.path("server.pem"), folder.path("server.key"), folder.path("ca.pem"));
    let own = server_with(Options { tls: Some(Tls { certificate, key, authority }), ..Options::default() });
    let row = r#"{"timestamp":1767571200000,"number":1,"price":1.5,"closed":true,"symbol":"a","note":"x"}"#;
    folder.write("in.jsonl", row);
    let write = |tls: &str| {
        let url = own.server.url();
        let sink = format!(
            "sink: {{ clickhouse: {{ url: \"{url}\", table: candles, create: true, key: [symbol], tls: {{ {tls} }} }} }}"
        );
        folder.pipeline("in.jsonl", &format!("{COLUMNS}{sink}\n"));
    };
    write("ca: ca.pem, certificate: client.pem, key: client.key");
    assert_eq!(folder.summary()["written"], 1);
    assert_eq!(folder.summary()["read"], 0, "the position is there");
    write("ca: none.pem");
    folder.refused(3, "`sink.clickhouse.tls.ca` names `none.pem`, which cannot be used");
    write("ca: other.pem, certificate: client.pem, key: client.key");
    folder.refused(3, "UnknownIssuer");
    write("ca: ca.pem");
    folder.refused(3, "cannot be used");
}
