//! From Kafka to Kafka with a real broker: what is read, what is written, and what is refused.

use std::time::{Duration, Instant};

use rdkafka::producer::Producer;
use serde_json::Value;

use crate::harness::kafka::{Fate, Kafka, Pipeline, candles, flush, own_broker, send, shared, unique};
use crate::harness::{Folder, shipped, start, workspace};

#[test]
fn a_million_rows_are_written_rejected_or_dropped_once_each() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 4, "lanes: 2");
    let sent = candles(0..1_000_000, 4);
    kafka.send_candles(&pipeline.raw, &sent);
    let summary = pipeline.run_to_end();
    let count = |fate: Fate| sent.iter().filter(|candle| candle.fate == fate).count() as u64;
    assert_eq!(summary["read"], 1_000_000);
    assert_eq!(summary["written"], count(Fate::Kept));
    assert_eq!(summary["rejected"], count(Fate::Rejected));
    assert_eq!(summary["dropped"], count(Fate::Dropped));
    pipeline.compare(&sent);
}

#[test]
fn a_topic_that_is_made_for_a_file_has_as_many_partitions_as_the_pipeline_says() {
    let kafka = shared();
    let (topic, folder) = (unique("made"), Folder::new());
    let rows: Vec<String> = candles(0..400, 1).into_iter().map(|candle| candle.payload).collect();
    folder.write("in.jsonl", rows.join("\n") + "\n");
    let brokers = &kafka.address;
    folder.pipeline(
        "in.jsonl",
        &format!(
            "sink: {{ kafka: {{ brokers: \"{brokers}\", topic: {topic}, create: true, partitions: 3 }} }}\n"
        ),
    );
    assert_eq!(folder.summary()["written"], 400);
    let mut read = kafka.read(&topic);
    assert_eq!(read.len(), 400);
    read.sort_by_key(|message| message.partition);
    read.dedup_by_key(|message| message.partition);
    assert_eq!(read.iter().map(|message| message.partition).collect::<Vec<_>>(), [0, 1, 2]);
}

/// The shipped pipeline file with the quickstart's rows gives exactly what its case says.
#[test]
fn the_day_has_the_expected_outcome() {
    let own = own_broker(&[]);
    own.kafka.create("ohlcv-raw", 4);
    let pipelines = workspace().join("pipelines");
    let sample = std::fs::read(pipelines.join("quickstart.jsonl")).unwrap();
    let lines: Vec<&[u8]> = sample.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
    // A series has one partition: here by the name of its coin.
    let coins = ["BTC/", "ETH/", "SOL/"];
    let partition = |line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        coins.iter().position(|coin| text.contains(coin)).unwrap_or(3) as i32
    };
    own.kafka.send("ohlcv-raw", &[], lines.iter().map(|line| (partition(line), None, Some(*line))));
    let folder = Folder::new();
    let mut command = shipped(&folder, "validate.yaml");
    let summary = start(command.env("KAFKA_BROKERS", &own.kafka.address)).finish().summary();
    let case = |name: &str| std::fs::read_to_string(pipelines.join("validate.cases/day").join(name)).unwrap();
    let expected: Value = serde_json::from_str(&case("summary.json")).unwrap();
    let sorted = |list: &Value| {
        let mut list: Vec<String> =
            list.as_array().map(|list| list.iter().map(Value::to_string).collect()).unwrap_or_default();
        list.sort();
        list
    };
    for (key, value) in expected.as_object().unwrap() {
        match value {
            Value::Array(_) => assert_eq!(sorted(&summary[key]), sorted(value), "{key}"),
            _ => assert_eq!(&summary[key], value, "{key}"),
        }
    }
    assert_eq!(own.kafka.read("ohlcv-validated").len() as u64, expected["written"].as_u64().unwrap());
    let letters = own.kafka.read("ohlcv-rejected");
    let mut found: Vec<(Vec<u8>, String, String)> = letters
        .into_iter()
        .map(|letter| {
            let header = |name: &str| letter.headers[name].clone();
            (letter.payload.clone().unwrap(), header("tidegate-rule"), header("tidegate-reason"))
        })
        .collect();
    let mut rejected: Vec<(Vec<u8>, String, String)> = case("rejected.jsonl")
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            (lines[row["offset"].as_u64().unwrap() as usize].to_vec(), text("rule"), text("reason"))
        })
        .collect();
    found.sort();
    rejected.sort();
    assert_eq!(found, rejected);
}

#[test]
fn tombstones_null_keys_compressed_batches_and_aborted_transactions_are_what_they_are() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 1, "");
    let sent = candles(0..40, 1);
    let rows: Vec<_> = sent.iter().filter(|candle| candle.fate == Fate::Kept).cloned().collect();
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for (row, codec) in rows.iter().zip(codecs) {
        let message = (0, None, Some(row.payload.as_bytes()));
        kafka.send(&pipeline.raw, &[("compression.type", codec)], [message]);
    }
    kafka.send(
        &pipeline.raw,
        &[],
        [(0, Some(&b"key"[..]), None), (0, None, Some(&b""[..])), (0, None, Some(&b"\x00\x01schema"[..]))],
    );
    let aborted = kafka.producer(&[("transactional.id", &unique("aborted"))]);
    aborted.init_transactions(Duration::from_secs(20)).unwrap();
    aborted.begin_transaction().unwrap();
    send(&aborted, &pipeline.raw, 0, None, Some(rows[codecs.len()].payload.as_bytes()));
    flush(&aborted);
    aborted.abort_transaction(Duration::from_secs(20)).unwrap();
    let committed = kafka.producer(&[("transactional.id", &unique("committed"))]);
    committed.init_transactions(Duration::from_secs(20)).unwrap();
    committed.begin_transaction().unwrap();
    send(&committed, &pipeline.raw, 0, None, Some(rows[codecs.len() + 1].payload.as_bytes()));
    flush(&committed);
    committed.commit_transaction(Duration::from_secs(20)).unwrap();

    let summary = pipeline.run_to_end();
    assert_eq!(summary["read"], 9, "{summary}");
    assert_eq!((&summary["tombstones"], &summary["rejected"]), (&2.into(), &1.into()), "{summary}");
    let written = kafka.read(&pipeline.validated);
    let symbol = |payload: &[u8]| serde_json::from_slice::<Value>(payload).unwrap()["symbol"].clone();
    let found: Vec<Value> = written.iter().map(|message| symbol(message.payload.as_ref().unwrap())).collect();
    let expected: Vec<Value> =
        [0, 1, 2, 3, 4, 6].iter().map(|&row: &usize| symbol(rows[row].payload.as_bytes())).collect();
    assert_eq!(found, expected);
    let letter = kafka.read(&pipeline.rejected).remove(0);
    assert_eq!(letter.payload.unwrap(), b"\x00\x01schema");
    let header = |name: &str| letter.headers[name].as_str();
    assert_eq!(header("tidegate-pipeline"), "test");
    assert_eq!((header("tidegate-rule"), header("tidegate-reason")), ("decode", "malformed"));
    assert_eq!(header("tidegate-source-topic"), pipeline.raw);
    assert_eq!((header("tidegate-source-partition"), header("tidegate-source-offset")), ("0", "7"));
    // Nothing is read a second time, also behind the markers of transactions.
    assert_eq!(pipeline.run_to_end()["read"], 0);
}

#[test]
fn a_restart_remembers_what_was_written() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 2, "");
    let sent = candles(0..4_000, 2);
    kafka.send_candles(&pipeline.raw, &sent);
    let first = pipeline.run_to_end();
    kafka.send_candles(&pipeline.raw, &sent);
    let second = pipeline.run_to_end();
    assert_eq!((&second["read"], &second["written"]), (&first["read"], &0.into()), "{second}");
    assert_eq!(second["dropped"], 4_000 - second["rejected"].as_u64().unwrap());

    // With less to remember the older ones are not known any more.
    pipeline.write_file("", "", "remember: { rows: 500 }");
    kafka.send_candles(&pipeline.raw, &sent);
    let third = pipeline.run_to_end();
    let written = third["written"].as_u64().unwrap();
    assert!((2_800..3_200).contains(&written), "{third}");

    pipeline.write_file("", "", "remember: { window: 1d }");
    kafka.send_candles(&pipeline.raw, &sent);
    assert_eq!(pipeline.run_to_end()["written"], 0);
    pipeline.write_file("", "", "remember: { rows: 0 }");
    kafka.send_candles(&pipeline.raw, &sent);
    assert_eq!(pipeline.run_to_end()["written"], first["written"]);
}

#[test]
fn a_group_without_a_position_starts_where_the_file_says() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 1, "");
    let sent = candles(0..400, 1);
    kafka.send_candles(&pipeline.raw, &sent[..200]);
    let read = |source: &str| {
        pipeline.folder.write("p.yaml", "");
        let fresh = Pipeline { group: unique("group"), folder: Folder::new(), ..pipeline_of(&pipeline) };
        fresh.write_file(source, "", "");
        fresh
    };
    assert_eq!(read("").run_to_end()["read"], 200);
    assert_eq!(read(", start: earliest").run_to_end()["read"], 200);
    let latest = read(", start: latest");
    assert_eq!(latest.run_to_end()["read"], 0);
    assert_eq!(read(", start: 2001-01-01T00:00:00Z").run_to_end()["read"], 200);
    assert_eq!(read(", start: 2101-01-01T00:00:00Z").run_to_end()["read"], 0);
    let committed = read(", start: committed");
    let refused = start(committed.command("a").arg("--until-end")).finish();
    refused.refused(3, "the group has no position for partition 0 of");

    // What comes after the first start at `latest` is read by the second.
    kafka.send_candles(&pipeline.raw, &sent[200..]);
    assert_eq!(latest.run_to_end()["read"], 200);
}

fn pipeline_of(other: &Pipeline) -> Pipeline {
    Pipeline {
        kafka: other.kafka.clone(),
        folder: Folder::new(),
        raw: other.raw.clone(),
        validated: other.validated.clone(),
        rejected: other.rejected.clone(),
        group: other.group.clone(),
    }
}

#[test]
fn topics_are_made_with_the_sources_partitions_when_the_file_allows_it() {
    let kafka = shared();
    let pipeline = Pipeline::without_topics(&kafka, "", "");
    kafka.create(&pipeline.raw, 3);
    let without = start(pipeline.command("a").arg("--until-end")).finish();
    without.refused(3, &format!("the topic `{}` (`sink.kafka.topic`) does not exist", pipeline.validated));
    let sent = candles(0..3_000, 3);
    kafka.send_candles(&pipeline.raw, &sent);
    pipeline.write_file("", ", create: true", "lanes: 2");
    pipeline.run_to_end();
    pipeline.compare(&sent);

    let narrow = Pipeline::without_topics(&kafka, "", "");
    kafka.create(&narrow.raw, 3);
    kafka.create(&narrow.validated, 2);
    kafka.create(&narrow.rejected, 1);
    let refused = start(narrow.command("a").arg("--until-end")).finish();
    refused.refused(3, "has 2 partitions and the source's has 3");
}

#[test]
fn a_row_too_large_for_the_topic_goes_to_the_dead_letter_and_the_rest_goes_on() {
    let kafka = shared();
    let pipeline = Pipeline::without_topics(&kafka, "", "");
    kafka.create_with(&pipeline.raw, 1, &[("max.message.bytes", "3000000")]);
    kafka.create_with(&pipeline.validated, 1, &[("max.message.bytes", "2000")]);
    kafka.create_with(&pipeline.rejected, 1, &[("max.message.bytes", "4000")]);
    pipeline.write_file(
        "",
        "",
        "decode: { columns: [{ name: timestamp, type: timestamp }, { name: note, type: text }] }",
    );
    let file = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
    let rules = file.find("rules:").unwrap()..file.find("sink:").unwrap();
    pipeline.folder.write("p.yaml", [&file[..rules.start], &file[rules.end..]].concat());
    let note = |bytes: usize| format!("{{\"timestamp\":1760000400000,\"note\":\"{}\"}}", "x".repeat(bytes));
    let rows = [note(10), note(2_500), note(20), note(6_000), note(900_000), note(30)];
    for row in &rows {
        kafka.send(&pipeline.raw, &[("message.max.bytes", "3000000")], [(0, None, Some(row.as_bytes()))]);
    }
    let summary = pipeline.run_to_end();
    assert_eq!((&summary["written"], &summary["rejected"]), (&3.into(), &3.into()), "{summary}");
    assert_eq!(kafka.read(&pipeline.validated).len(), 3);
    let letters = kafka.read(&pipeline.rejected);
    assert!(letters.iter().all(|letter| letter.headers["tidegate-reason"] == "too_large"), "{letters:?}");
    assert_eq!(letters[0].payload.as_deref(), Some(rows[1].as_bytes()));
    let cut = &letters[1];
    let payload = cut.payload.as_ref().unwrap();
    assert!(payload.len() > 2_000 && rows[3].as_bytes().starts_with(payload), "{} bytes", payload.len());
    assert_eq!(cut.headers["tidegate-payload-bytes"], rows[3].len().to_string());
    assert_eq!(cut.headers["tidegate-payload-sha256"].len(), 64);
}

#[test]
fn at_least_once_drops_what_it_has_written_before_a_crash() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 2, "delivery: at_least_once");
    let sent: Vec<_> =
        candles(0..20_000, 2).into_iter().filter(|candle| candle.fate != Fate::Rejected).collect();
    kafka.send_candles(&pipeline.raw, &sent);
    let crashed =
        start(pipeline.command("a").arg("--until-end").env("TIDEGATE_CRASH", "before_commit:1")).finish();
    assert_eq!(crashed.code, None, "{}", crashed.stderr);
    let written = kafka.end(&pipeline.validated);
    assert!(written > 0, "rows were acknowledged before the crash");
    pipeline.run_to_end();
    pipeline.compare(&sent);
}

#[test]
fn a_file_goes_to_a_topic_by_key_and_once() {
    let kafka = shared();
    let folder = Folder::new();
    let sent = candles(0..8_000, 1);
    let lines: Vec<&str> = sent.iter().map(|candle| candle.payload.as_str()).collect();
    let topic = unique("loaded");
    folder.write("in.jsonl", lines[..4_000].join("\n") + "\n");
    let brokers = &kafka.address;
    let name = unique("load");
    folder.write(
        "p.yaml",
        format!(
            "name: {name}\n\
             source: {{ file: {{ path: in.jsonl }} }}\n\
             rules: [{{ name: dedup, component: dedup, settings: {{ window: 24h }} }}]\n\
             sink: {{ kafka: {{ brokers: \"{brokers}\", topic: {topic} }} }}\n\
             batch: {{ rows: 500 }}\n"
        ),
    );
    kafka.create(&topic, 4);
    kafka.create(&format!("{topic}-rejected"), 1);
    let crashed = start(folder.command().env("TIDEGATE_CRASH", "before_commit:1")).finish();
    assert_eq!(crashed.code, None, "{}", crashed.stderr);
    let first = folder.summary();
    assert_eq!(first["read"], 4_000, "{first}");
    folder.append("in.jsonl", lines[4_000..].join("\n") + "\n");
    assert_eq!(folder.summary()["read"], 4_000);
    // Once more from the start: all of it is remembered, from all partitions.
    folder.write("again.jsonl", lines.join("\n") + "\n");
    let file = String::from_utf8(folder.read("p.yaml")).unwrap().replace("in.jsonl", "again.jsonl");
    folder.write("p.yaml", &file);
    folder.refused(2, "`in.jsonl` was read into the topic");
    folder.write("p.yaml", file.replace(&name, &unique("load")));
    assert_eq!(folder.summary()["dropped"], 8_000);

    let messages = kafka.read(&topic);
    let dropped = sent.iter().filter(|candle| candle.fate == Fate::Dropped).count();
    assert_eq!(messages.len(), 8_000 - dropped);
    let mut partitions = std::collections::HashMap::new();
    for message in &messages {
        let partition = partitions.entry(message.key.clone().unwrap()).or_insert(message.partition);
        assert_eq!(*partition, message.partition, "a key has one partition");
    }
    assert!(partitions.values().collect::<std::collections::HashSet<_>>().len() > 1);
}

#[test]
fn a_topic_goes_to_a_database() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 3, "");
    let sent = candles(0..3_000, 3);
    kafka.send_candles(&pipeline.raw, &sent);
    into_database(&pipeline);
    let crashed =
        start(pipeline.command("a").arg("--until-end").env("TIDEGATE_CRASH", "after_write:2")).finish();
    assert_eq!(crashed.code, None, "{}", crashed.stderr);
    pipeline.run_to_end();
    let count = |fate: Fate| sent.iter().filter(|candle| candle.fate == fate).count();
    assert_eq!(pipeline.folder.table("candles").len(), count(Fate::Kept));
    assert_eq!(pipeline.folder.rejects().len(), count(Fate::Rejected));
    assert_eq!(pipeline.run_to_end()["read"], 0);
}

#[test]
fn what_is_not_there_is_said_within_half_a_minute() {
    let kafka = shared();
    let nobody = Kafka { address: "127.0.0.1:1".into() };
    let absent = Pipeline::without_topics(&nobody, "", "");
    let started = Instant::now();
    let outcome = start(&mut absent.command("a")).finish();
    outcome.refused(3, "no broker of `source.kafka.brokers` (`127.0.0.1:1`) answers");
    assert!(started.elapsed() < Duration::from_secs(30));

    let unknown = Pipeline::without_topics(&kafka, "", "");
    let outcome = start(&mut unknown.command("a")).finish();
    outcome.refused(3, &format!("the topic `{}` (`source.kafka.topic`) does not exist", unknown.raw));

    // With `--wait` the same pipeline waits until the topics are there.
    let mut waiting = start(unknown.command("a").args(["--wait", "--until-end"]));
    std::thread::sleep(Duration::from_secs(2));
    assert!(waiting.child.try_wait().unwrap().is_none(), "{}", waiting.messages());
    for topic in [&unknown.validated, &unknown.rejected, &unknown.raw] {
        kafka.create(topic, 1);
    }
    assert_eq!(waiting.finish().summary()["read"], 0);
}

#[test]
fn a_deleted_row_stops_the_pipeline_unless_the_file_says_otherwise() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 1, "");
    let sent = candles(0..400, 1);
    kafka.send_candles(&pipeline.raw, &sent[..100]);
    pipeline.run_to_end();
    kafka.send_candles(&pipeline.raw, &sent[100..300]);
    kafka.delete_records(&pipeline.raw, 0, 200);
    let stopped = start(pipeline.command("a").arg("--until-end")).finish();
    stopped.refused(3, "100 rows from offset 100 on were deleted from the log before they were read");
    pipeline.write_file(", deleted: earliest", "", "");
    let went_on = start(pipeline.command("a").arg("--until-end")).finish();
    assert!(went_on.stderr.contains("100 rows from offset 100 on were deleted"), "{}", went_on.stderr);
    assert_eq!(went_on.summary()["read"], 100);

    // Kafka forgets a group's positions with the topic, so a new one is read from its start.
    kafka.delete(&pipeline.raw);
    std::thread::sleep(Duration::from_secs(1));
    kafka.create(&pipeline.raw, 1);
    kafka.send_candles(&pipeline.raw, &sent[300..]);
    pipeline.write_file("", "", "");
    assert_eq!(pipeline.run_to_end()["read"], 100);
}

#[test]
fn a_topic_that_was_made_anew_is_not_taken_for_the_one_that_a_database_knows() {
    let kafka = shared();
    let pipeline = Pipeline::new(&kafka, 1, "");
    let sent = candles(0..400, 1);
    kafka.send_candles(&pipeline.raw, &sent[..300]);
    into_database(&pipeline);
    assert_eq!(pipeline.run_to_end()["read"], 300);
    kafka.delete(&pipeline.raw);
    std::thread::sleep(Duration::from_secs(1));
    kafka.create(&pipeline.raw, 1);
    kafka.send_candles(&pipeline.raw, &sent[300..]);
    let stopped = start(pipeline.command("a").arg("--until-end")).finish();
    stopped.refused(3, "the log ends at offset 100, and the next one to read is 300");
}

/// Puts a table in the place of the topic.
fn into_database(pipeline: &Pipeline) {
    let file = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
    let sink = file.find("sink:").unwrap();
    pipeline.folder.write("p.yaml", format!("{}sink: {{ sqlite: {{ path: out.db }} }}\n", &file[..sink]));
}
