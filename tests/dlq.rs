//! Rejected rows are listed and shown wherever they are, and replayed in Kafka: once, whatever happens.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::kafka::shared;
use crate::harness::{Folder, NOW, Outcome, guests, start};

/// Brokers for these tests.
fn brokers() -> String {
    shared().address
}

/// `tidegate dlq …` in a folder.
fn dlq(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(folder.path(".")).arg("dlq").args(arguments).arg("--guests").arg(guests());
    command.stdin(Stdio::null());
    command
}

/// What it says when all is well.
fn said(folder: &Folder, arguments: &[&str]) -> Outcome {
    let outcome = start(&mut dlq(folder, arguments)).finish();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome
}

/// The JSON objects that it prints.
fn objects(folder: &Folder, arguments: &[&str]) -> Vec<Value> {
    let outcome = said(folder, &[arguments, &["--json"]].concat());
    outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The bytes that it prints.
fn bytes(folder: &Folder, arguments: &[&str]) -> Vec<u8> {
    let output = dlq(folder, arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A candle of 2026, `minute` minutes after its start.
fn candle(source: &str, minute: i64, close: f64) -> String {
    let timestamp = 1_767_225_600_000 + minute * 60_000;
    format!(
        "{{\"timestamp\":{timestamp},\"open\":1,\"high\":9,\"low\":1,\"close\":{close:?},\"volume\":1,\
         \"source\":\"{source}\",\"symbol\":\"BTC/USD\",\"timeframe\":\"1m\"}}"
    )
}

const NOT_TEXT: &[u8] = b"{\"close\":\"\xff\x1b[31m\"}";

/// Five rows, of which the first is right.
fn rows() -> Vec<u8> {
    let lines = [
        candle("kraken", 0, 2.0).into_bytes(),
        candle("binance", 1, 2.0).into_bytes(),
        NOT_TEXT.to_vec(),
        candle("kraken", 2, -1.0).into_bytes(),
        candle("binance", 3, 2.0).into_bytes(),
    ];
    lines.map(|line| [line, b"\n".to_vec()].concat()).concat()
}

fn rules(sources: &str) -> String {
    format!("rules:\n  - {{ name: validate, component: validate, settings: {{ sources: [{sources}] }} }}\n")
}

/// What a list of the dead letters of [`rows`] is, whose ids are `ids`.
fn list_and_show(folder: &Folder, ids: [&str; 4]) {
    let table = said(folder, &["list", "p.yaml"]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    for (line, id) in lines[1..].iter().zip(ids) {
        assert!(line.starts_with(&format!("{id} ")) && line.contains("2026-02-01T00:00:00Z"), "{table}");
    }
    assert!(lines[1].contains("unknown_source") && lines[1].contains("rows.jsonl/0@1"), "{table}");

    let reasons = |filters: &[&str]| -> Vec<String> {
        let rows = objects(folder, &[&["list", "p.yaml"], filters].concat());
        rows.iter().map(|row| row["reason"].as_str().unwrap().to_owned()).collect()
    };
    let unknown = ["unknown_source", "unknown_source"];
    assert_eq!(reasons(&["--reason", "unknown_source"]), unknown);
    assert_eq!(reasons(&["--rule", "decode"]), ["invalid_utf8"]);
    assert_eq!(reasons(&["--rule", "decode", "--rule", "validate"]).len(), 4);
    assert_eq!(reasons(&["--source-topic", "rows.jsonl"]).len(), 4);
    assert!(reasons(&["--source-topic", "other"]).is_empty());
    assert!(reasons(&["--since", "2026-02-01T00:00:01Z"]).is_empty());
    assert_eq!(reasons(&["--since", NOW]).len(), 4);
    assert!(reasons(&["--until", NOW]).is_empty());

    let last = said(folder, &["list", "p.yaml", "--limit", "1"]);
    assert!(last.stdout.contains("rows.jsonl/0@4") && last.stderr.contains("3 older ones"), "{last:?}");
    let counts = said(folder, &["list", "p.yaml", "--count"]).stdout;
    assert!(counts.lines().any(|line| line.split_whitespace().eq(["validate", "unknown_source", "2"])));
    let none = said(folder, &["list", "p.yaml", "--reason", "none"]);
    assert!(none.stdout.is_empty() && none.stderr.contains("no rejected rows"), "{none:?}");

    assert_eq!(bytes(folder, &["show", "p.yaml", ids[1], "--raw"]), NOT_TEXT);
    let shown = said(folder, &["show", "p.yaml", ids[1]]).stdout;
    assert!(shown.contains("invalid_utf8") && shown.contains("|{\"close\":\"..[31m|"), "{shown}");
    let shown = said(folder, &["show", "p.yaml", ids[0]]).stdout;
    assert!(shown.ends_with(&format!("\n\n{}\n", candle("binance", 1, 2.0))), "{shown}");
    start(&mut dlq(folder, &["show", "p.yaml", "4711"])).finish().refused(2, "no dead letter `4711`");
    start(&mut dlq(folder, &["show", "p.yaml", "0:1"])).finish().refused(2, "no dead letter `0:1`");
    start(&mut dlq(folder, &["replay", "p.yaml", "--all"])).finish().refused(2, "does not write to Kafka");
}

#[test]
fn rejected_rows_of_databases_and_files_are_listed_and_shown() {
    let sinks = [
        "sink: { sqlite: { path: out.db } }\n",
        "sink: { sqlite: { path: out.db } }\ndead_letter: { sqlite: { table: rejected } }\n",
        "sink: { sqlite: { path: out.db } }\ndead_letter: { file: { path: bad.jsonl } }\n",
        "sink: { file: { path: out.jsonl } }\n",
        "sink: { file: { path: out.jsonl } }\ndead_letter: { file: { path: bad.jsonl } }\n",
        "sink: { file: { path: out, format: parquet } }\n",
    ];
    for sink in sinks {
        let folder = Folder::new();
        folder.write("rows.jsonl", rows());
        folder.pipeline("rows.jsonl", &format!("{}{sink}", rules("kraken")));
        start(&mut dlq(&folder, &["list", "p.yaml"])).finish().refused(3, "has not run yet");
        assert_eq!(folder.summary()["rejected"], 4, "{sink}");
        if sink.contains("bad.jsonl") {
            // What a crash has left behind what counts.
            folder.append("bad.jsonl", b"{\"pipeline\":");
        }
        list_and_show(&folder, ["1", "2", "3", "4"]);
    }
}

#[test]
fn a_file_can_have_lines_of_others() {
    let folder = Folder::new();
    folder.write("rows.jsonl", rows());
    folder.write("bad.jsonl", "");
    folder.pipeline(
        "rows.jsonl",
        &format!("{}sink: stdout\ndead_letter: {{ file: {{ path: bad.jsonl }} }}\n", rules("kraken")),
    );
    assert_eq!(folder.run().code, Some(0));
    let own = folder.read("bad.jsonl");
    let other = String::from_utf8(own.clone()).unwrap().replace("\"test\"", "\"other\"");
    folder.write("bad.jsonl", [&b"no dead letter\n"[..], &own, other.as_bytes()].concat());
    let listed = said(&folder, &["list", "p.yaml"]);
    assert_eq!(listed.stdout.lines().count(), 5, "{}", listed.stdout);
    assert!(
        listed.stderr.contains("4 of other pipelines") && listed.stderr.contains("1 in `"),
        "{}",
        listed.stderr
    );
}

#[test]
fn standard_output_has_nothing_to_list() {
    let folder = Folder::new();
    folder.pipeline("rows.jsonl", "sink: stdout\n");
    for action in [&["list", "p.yaml"][..], &["show", "p.yaml", "1"]] {
        start(&mut dlq(&folder, action)).finish().refused(2, "where nothing is kept to be listed");
    }
    for (arguments, words) in [
        (&[][..], "which rows?"),
        (&["--reason", "a"], "give `--all` with them"),
        (&["0:1", "--since", "2h"], "give `--all` with them"),
        (&["0:1", "--limit", "2"], "give `--all` with them"),
    ] {
        let arguments = [&["replay", "p.yaml"], arguments].concat();
        start(&mut dlq(&folder, &arguments)).finish().refused(2, words);
    }
    start(&mut dlq(&folder, &["list", "absent.yaml"])).finish().refused(2, "no such file");
}

/// A pipeline from one topic to another.
struct Pipeline {
    folder: Folder,
    name: String,
}

/// A message of a topic.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    partition: i32,
    payload: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Row {
    fn header(&self, key: &str) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl Pipeline {
    /// Makes the topics.
    fn new(partitions: i32) -> Pipeline {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let name = format!("dlq-{}-{now}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let pipeline = Pipeline { folder: Folder::new(), name };
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
        let topics = [pipeline.source(), pipeline.output(), pipeline.rejected()];
        let topics: Vec<NewTopic<'_>> =
            topics.iter().map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1))).collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        for made in block_on(admin.create_topics(&topics, &options)).unwrap() {
            made.unwrap();
        }
        pipeline
    }

    fn source(&self) -> String {
        format!("{}-in", self.name)
    }

    fn output(&self) -> String {
        format!("{}-out", self.name)
    }

    fn rejected(&self) -> String {
        format!("{}-out-rejected", self.name)
    }

    /// Writes the pipeline file, with these settings of `validate` and more keys.
    fn write(&self, sources: &str, more: &str) {
        let (name, brokers, source, output) = (&self.name, brokers(), self.source(), self.output());
        self.folder.write(
            "p.yaml",
            format!(
                "name: {name}\nsource: {{ kafka: {{ brokers: \"{brokers}\", topic: {source} }} }}\n{}  - {{ name: dedup, \
                 component: dedup, settings: {{ window: 24h }} }}\nsink: {{ kafka: {{ topic: {output} }} }}\n{more}",
                rules(sources)
            ),
        );
    }

    /// Sends rows to a partition of the source.
    fn send(&self, partition: i32, rows: &[&[u8]]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
        let topic = self.source();
        for row in rows {
            let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(partition).payload(row);
            producer.send(record).unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();
    }

    /// Runs the pipeline until nothing is left to read; gives its summary.
    fn run(&self) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.current_dir(self.folder.path(".")).stdin(Stdio::null());
        command
            .args(["run", "p.yaml", "--json", "--until-end", "--instance", "one", "--guests"])
            .arg(guests());
        start(&mut command).finish().summary()
    }

    /// What is committed in the output.
    fn written(&self) -> Vec<Row> {
        read(&self.output())
    }

    /// Replays, and gives the summary.
    fn replay(&self, arguments: &[&str]) -> Value {
        objects(&self.folder, &[&["replay", "p.yaml"], arguments].concat()).pop().unwrap()
    }

    /// What the list says that became of the rows.
    fn replayed(&self) -> Vec<Option<String>> {
        let rows = objects(&self.folder, &["list", "p.yaml", "--limit", "1000"]);
        rows.iter().map(|row| row["replayed"].as_str().map(str::to_owned)).collect()
    }
}

/// What is committed in a topic, partition by partition.
fn read(topic: &str) -> Vec<Row> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", "dlq-tests")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20)).unwrap();
    let mut list = TopicPartitionList::new();
    let mut open = metadata.topics()[0].partitions().len();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut rows = Vec::new();
    let started = Instant::now();
    while open > 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "`{topic}` does not end");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                let text =
                    |value: Option<&[u8]>| String::from_utf8(value.unwrap_or_default().into()).unwrap();
                let headers = message.headers().map(|headers| {
                    headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
                });
                rows.push(Row {
                    partition: message.partition(),
                    payload: message.payload().unwrap_or_default().into(),
                    headers: headers.unwrap_or_default(),
                });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    rows.sort_by_key(|row| row.partition);
    rows
}

/// The minutes of the rows, with the partitions that they are in.
fn minutes(rows: &[Row]) -> Vec<(i32, i64)> {
    let minute = |row: &Row| {
        let value: Value = serde_json::from_slice(&row.payload).unwrap();
        (row.partition, (value["timestamp"].as_i64().unwrap() - 1_767_225_600_000) / 60_000)
    };
    rows.iter().map(minute).collect()
}

#[test]
fn rejected_rows_in_kafka_are_listed_and_shown() {
    let pipeline = Pipeline::new(2);
    pipeline.write("kraken", "");
    let (good, other) = (candle("kraken", 0, 2.0), candle("binance", 1, 2.0));
    pipeline.send(0, &[good.as_bytes(), other.as_bytes(), NOT_TEXT]);
    assert_eq!(pipeline.run()["rejected"], 2);
    std::thread::sleep(Duration::from_millis(20));
    let between = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let between = jiff::Timestamp::from_millisecond(between as i64).unwrap().to_string();
    std::thread::sleep(Duration::from_millis(20));
    pipeline.send(1, &[candle("kraken", 2, -1.0).as_bytes()]);
    assert_eq!(pipeline.run()["rejected"], 1);

    let folder = &pipeline.folder;
    let table = said(folder, &["list", "p.yaml"]).stdout;
    let ids: Vec<&str> = table.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ids, ["0:0", "0:1", "1:0"], "{table}");
    let reasons = |filters: &[&str]| -> Vec<String> {
        let rows = objects(folder, &[&["list", "p.yaml"], filters].concat());
        rows.iter().map(|row| row["reason"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(reasons(&["--reason", "unknown_source"]), ["unknown_source"]);
    assert_eq!(reasons(&["--rule", "decode"]), ["invalid_utf8"]);
    assert_eq!(reasons(&["--source-topic", &pipeline.source()]).len(), 3);
    assert!(reasons(&["--source-topic", "other"]).is_empty());
    assert_eq!(reasons(&["--since", &between]), ["price_not_positive"]);
    assert_eq!(reasons(&["--until", &between]), ["unknown_source", "invalid_utf8"]);
    assert_eq!(reasons(&["--since", "1h"]).len(), 3);
    assert!(reasons(&["--until", "1h"]).is_empty());
    assert_eq!(reasons(&["--limit", "1"]), ["price_not_positive"]);
    let last = said(folder, &["list", "p.yaml", "--limit", "1"]);
    assert!(last.stderr.contains("2 older ones are not shown"), "{}", last.stderr);
    let counts = objects(folder, &["list", "p.yaml", "--count"]);
    assert!(counts.contains(&json!({ "rule": "decode", "reason": "invalid_utf8", "count": 1 })));

    assert_eq!(bytes(folder, &["show", "p.yaml", "0:1", "--raw"]), NOT_TEXT);
    let shown = said(folder, &["show", "p.yaml", "0:1"]).stdout;
    assert!(shown.contains("|{\"close\":\"..[31m|") && !shown.contains('\u{1b}'), "{shown}");
    for id in ["0:7", "9:0", "3"] {
        let refused = start(&mut dlq(folder, &["show", "p.yaml", id])).finish();
        refused.refused(2, &format!("no dead letter `{id}`"));
    }
}

#[test]
fn rows_that_pass_today_are_replayed_once() {
    let pipeline = Pipeline::new(2);
    pipeline.write("kraken", "");
    let row = |source: &str, minute, close| candle(source, minute, close).into_bytes();
    pipeline.send(0, &[&row("binance", 1, 2.0), &row("kraken", 2, 2.0), &row("kraken", 3, -1.0)]);
    pipeline.send(1, &[&row("binance", 4, 2.0), NOT_TEXT, &row("binance", 5, 2.0)]);
    assert_eq!(pipeline.run()["rejected"], 5);
    pipeline.write("kraken, binance", "");
    // The first one has come again meanwhile.
    pipeline.send(0, &[&row("binance", 1, 2.0)]);
    assert_eq!(pipeline.run()["written"], 1);
    let before = pipeline.written();
    assert_eq!(minutes(&before), [(0, 2), (0, 1)]);

    let dry = objects(&pipeline.folder, &["replay", "p.yaml", "--all", "--dry-run"]);
    let outcomes: Vec<&str> = dry.iter().filter_map(|row| row["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["dropped", "rejected_again", "kept", "rejected_again", "kept"]);
    assert_eq!((&dry[0]["rule"], &dry[1]["reason"]), (&json!("dedup"), &json!("price_not_positive")));
    let tally = json!({
        "chosen": 5, "written": 2, "dropped": 1, "rejected_again": 2, "already_replayed": 0, "cannot": 0, "left": 0,
        "dry_run": true
    });
    assert_eq!(dry[5], tally);
    assert_eq!(pipeline.written(), before);
    assert_eq!(pipeline.replayed(), [None, None, None, None, None]);

    let first = pipeline.replay(&["--all"]);
    assert_eq!(
        (&first["written"], &first["dropped"], &first["rejected_again"]),
        (&json!(2), &json!(1), &json!(2))
    );
    let after = pipeline.written();
    assert_eq!(minutes(&after), [(0, 2), (0, 1), (1, 4), (1, 5)]);
    let from: Vec<Option<&str>> = after.iter().map(|row| row.header("tidegate-replayed-from")).collect();
    let rejected = pipeline.rejected();
    let place = |offset| format!("{rejected}/1/{offset}");
    assert_eq!(from, [None, None, Some(&*place(0)), Some(&*place(2))]);
    let mut replayed = pipeline.replayed();
    replayed.sort();
    let written = || Some("written".to_owned());
    assert_eq!(replayed, [None, None, Some("dropped".into()), written(), written()]);
    let shown = said(&pipeline.folder, &["show", "p.yaml", "1:2"]).stdout;
    assert!(shown.contains("replayed ") && shown.contains(", written\n"), "{shown}");

    let markers: Vec<Row> =
        read(&rejected).into_iter().filter(|row| row.header("tidegate-replayed").is_some()).collect();
    assert_eq!(markers.len(), 3);
    assert!(markers.iter().all(|row| row.payload.is_empty()));
    assert_eq!(markers[0].header("tidegate-pipeline"), Some(&*pipeline.name));

    for arguments in [&["--all"][..], &["0:0", "1:0", "1:2"], &["--all", "--reason", "unknown_source"]] {
        let again = pipeline.replay(arguments);
        assert_eq!((&again["written"], &again["already_replayed"]), (&json!(0), &json!(3)), "{again}");
    }
    assert_eq!(pipeline.written(), after);
    let none = start(&mut dlq(&pipeline.folder, &["replay", "p.yaml", "1:2", "1:77"])).finish();
    none.refused(2, "no dead letter `1:77`");
    // The host goes on beside it.
    pipeline.send(1, &[&row("kraken", 6, 2.0)]);
    assert_eq!(pipeline.run()["written"], 1);
    let text = said(&pipeline.folder, &["replay", "p.yaml", "--all"]).stdout;
    assert!(text.contains("0:1  rejected again by validate: price_not_positive"), "{text}");
    assert!(
        text.ends_with(
            "5 chosen = 0 written + 0 dropped + 2 rejected again + 3 already replayed + 0 cannot be replayed\n"
        ),
        "{text}"
    );
}

/// A pipeline with so many rejected rows that would pass today.
fn rejected(rows: i64, more: &str) -> Pipeline {
    let pipeline = Pipeline::new(2);
    pipeline.write("kraken", more);
    for partition in 0..2 {
        let rows: Vec<String> = (0..rows)
            .filter(|row| row % 2 == i64::from(partition))
            .map(|row| candle("binance", row, 2.0))
            .collect();
        let rows: Vec<&[u8]> = rows.iter().map(String::as_bytes).collect();
        pipeline.send(partition, &rows);
    }
    assert_eq!(pipeline.run()["rejected"], rows);
    pipeline.write("kraken, binance", more);
    pipeline
}

/// Each of the rows is in the output once, and was replayed.
fn assert_once(pipeline: &Pipeline, rows: i64) {
    let mut found: Vec<i64> = minutes(&pipeline.written()).into_iter().map(|(_, minute)| minute).collect();
    found.sort_unstable();
    assert_eq!(found, (0..rows).collect::<Vec<_>>());
    assert!(pipeline.replayed().iter().all(|replayed| replayed.as_deref() == Some("written")));
}

#[test]
fn a_kill_in_between_neither_loses_nor_doubles_a_row() {
    for (point, committed) in [
        ("before_replay_commit:1", 0),
        ("after_replay_commit:1", 4),
        ("before_replay_commit:2", 4),
        ("after_replay_commit:3", 12),
    ] {
        let pipeline = rejected(16, "batch: { rows: 4 }\n");
        let mut command = dlq(&pipeline.folder, &["replay", "p.yaml", "--all"]);
        let killed = start(command.env("TIDEGATE_CRASH", point)).finish();
        assert_eq!(killed.code, None, "{point}: {}", killed.stderr);
        let rest = pipeline.replay(&["--all"]);
        let expected = (json!(16 - committed), json!(committed), json!(0));
        let found =
            (rest["written"].clone(), rest["already_replayed"].clone(), rest["rejected_again"].clone());
        assert_eq!(found, expected, "{point}");
        assert_once(&pipeline, 16);
    }
}

/// Without `dedup`, which would hide a row that is there twice.
fn rejected_without_memory(rows: i64, more: &str) -> Pipeline {
    let pipeline = rejected(rows, more);
    let text = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
    let without = text.lines().filter(|line| !line.contains("dedup")).map(|line| format!("{line}\n"));
    pipeline.folder.write("p.yaml", without.collect::<String>());
    pipeline
}

const FENCED: &str = "another replay of this pipeline has begun";

#[test]
fn replays_at_once_write_each_row_once() {
    let pipeline = rejected_without_memory(200, "batch: { rows: 10 }\n");
    let begin = || start(&mut dlq(&pipeline.folder, &["replay", "p.yaml", "--all", "--json"]));
    let all: Vec<_> = (0..3).map(|_| begin()).collect();
    for running in all {
        let outcome = running.finish();
        if outcome.code != Some(0) {
            outcome.refused(1, FENCED);
        }
    }
    assert_eq!(pipeline.replay(&["--all"])["chosen"], 200);
    assert_once(&pipeline, 200);
}

#[test]
fn a_replay_that_slept_while_another_ran_writes_nothing_more() {
    let pipeline = rejected_without_memory(300, "batch: { rows: 1 }\n");
    let mut slow = start(&mut dlq(&pipeline.folder, &["replay", "p.yaml", "--all"]));
    slow.wait_until(|| !pipeline.written().is_empty());
    let process = Pid::from_raw(i32::try_from(slow.child.id()).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let rest = pipeline.replay(&["--all"]);
    let (written, already) = (rest["written"].as_u64().unwrap(), rest["already_replayed"].as_u64().unwrap());
    assert!(written > 0 && already > 0 && written + already == 300, "{rest}");
    kill_process(process, Signal::CONT).unwrap();
    slow.finish().refused(1, FENCED);
    assert_once(&pipeline, 300);
}

#[test]
fn a_limit_takes_the_first_rows_and_the_next_replay_the_others() {
    let pipeline = rejected(10, "");
    assert_eq!(pipeline.replay(&["--all", "--limit", "3"])["written"], 3);
    assert_eq!(minutes(&pipeline.written()), [(0, 0), (0, 2), (0, 4)]);
    assert_eq!(pipeline.replay(&["--all"])["written"], 7);
    assert_once(&pipeline, 10);
}

#[test]
fn a_row_of_which_only_the_beginning_was_kept_cannot_be_replayed() {
    let pipeline = Pipeline::new(1);
    pipeline.write("kraken", "decode: { row: 100B }\n");
    let spaces = |count: usize| format!("{}{}", candle("kraken", count as i64, 2.0), " ".repeat(count));
    pipeline.send(0, &[spaces(1).as_bytes(), spaces(100_000).as_bytes()]);
    assert_eq!(pipeline.run()["rejected"], 2);
    pipeline.write("kraken", "decode: { row: 1MiB }\n");
    let said = objects(&pipeline.folder, &["replay", "p.yaml", "--all"]);
    assert_eq!((&said[0]["id"], &said[0]["outcome"]), (&json!("0:1"), &json!("cannot")));
    assert!(said[0]["detail"].as_str().unwrap().starts_with("only 65536 of its 100"), "{}", said[0]);
    assert_eq!((&said[1]["written"], &said[1]["cannot"]), (&json!(1), &json!(1)));
    assert_eq!(minutes(&pipeline.written()), [(0, 1)]);
}

#[test]
fn pipelines_without_transactions_and_from_files_are_replayed_too() {
    let pipeline = rejected(4, "delivery: at_least_once\n");
    assert_eq!(pipeline.replay(&["--all"])["written"], 4);
    assert_eq!(pipeline.replay(&["--all"])["already_replayed"], 4);
    assert_once(&pipeline, 4);

    let pipeline = Pipeline::new(3);
    let (brokers, output) = (brokers(), pipeline.output());
    let sink = format!("sink: {{ kafka: {{ brokers: \"{brokers}\", topic: {output} }} }}\n");
    let write = |sources: &str| {
        let source = "source: { file: { path: rows.jsonl } }\n";
        pipeline.folder.write("p.yaml", format!("name: {}\n{source}{}{sink}", pipeline.name, rules(sources)));
    };
    pipeline.folder.write("rows.jsonl", rows());
    write("kraken");
    assert_eq!(pipeline.run()["rejected"], 4);
    write("kraken, binance");
    let tally = pipeline.replay(&["--all"]);
    assert_eq!((&tally["written"], &tally["rejected_again"]), (&json!(2), &json!(2)));
    // The series `kraken` and `binance`, each in its partition.
    let written = pipeline.written();
    let replayed: Vec<i32> = (written.iter())
        .filter(|row| row.header("tidegate-replayed-from").is_some())
        .map(|row| row.partition)
        .collect();
    assert_eq!((written.len(), replayed.len()), (3, 2));
    assert_eq!(replayed[0], replayed[1]);
}

#[test]
fn what_is_not_there_is_said() {
    let folder = Folder::new();
    let write = |brokers: &str| {
        let text = format!(
            "name: absent\nsource: {{ kafka: {{ brokers: \"{brokers}\", topic: dlq-absent }} }}\nsink: {{ kafka: {{ topic: \
             dlq-absent-out, create: true }} }}\n"
        );
        folder.write("p.yaml", text);
    };
    write(&brokers());
    for action in [&["list", "p.yaml"][..], &["show", "p.yaml", "0:1"], &["replay", "p.yaml", "--all"]] {
        let words = "the topic `dlq-absent-out-rejected` (`dead_letter.kafka.topic`) does not exist";
        start(&mut dlq(&folder, action)).finish().refused(3, words);
    }
    write("127.0.0.1:1");
    start(&mut dlq(&folder, &["list", "p.yaml"])).finish().refused(3, "no broker of `source.kafka.brokers`");
}
