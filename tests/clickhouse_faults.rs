//! From Kafka into ClickHouse while everything breaks: the host, the server, the way between them, the group. After each
//! fault the tables have what was sent, row by row and without FINAL; see [`Pipeline::compare`].

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use xtask::clickhouse::Engine;

use crate::harness::clickhouse::{Between, Fault, Pipeline, own_server, shared};
use crate::harness::kafka::{Fate, own_broker, shared as shared_kafka, wait_until};
use crate::harness::{Running, start};

/// Small batches and many blocks: many moments at which something is half done.
const OFTEN: &str = "batch: { rows: 500 }";
const OFTEN_SINK: &str = ", insert: { wait: 50ms, rows: 2000 }";

/// What every insert of rows has in its first line.
const INSERT: &str = "candles";

fn answer(status: &str, headers: &str, body: &str) -> Fault {
    Fault::Answer(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()))
}

#[test]
fn a_host_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    killed_at_any_step(&Pipeline::new(&shared_kafka(), &shared(), 2, OFTEN_SINK, OFTEN));
}

#[test]
fn a_host_whose_rule_remembers_is_killed_at_any_step_and_loses_and_doubles_nothing() {
    killed_at_any_step(&Pipeline::with_memory(&shared_kafka(), &shared(), 2, OFTEN_SINK, OFTEN));
}

fn killed_at_any_step(pipeline: &Pipeline) {
    let sent = pipeline.send(0..60_000, 2);
    for point in ["after_read", "after_write", "before_plan", "after_plan", "after_insert", "before_position"]
    {
        for times in [1, 3] {
            let crash = format!("{point}:{times}");
            let outcome = start(pipeline.command("a").env("TIDEGATE_CRASH", &crash)).finish();
            assert_eq!(outcome.code, None, "{crash}: {}", outcome.stderr);
        }
    }
    assert!(pipeline.database.count() > 0);
    let rest = pipeline.run_to_end();
    assert!(rest["read"].as_u64().unwrap() > 0, "there was something left to do: {rest}");
    pipeline.compare(&sent);
}

#[test]
fn a_host_from_a_file_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    let pipeline = Pipeline::new(&shared_kafka(), &shared(), 1, OFTEN_SINK, OFTEN);
    let mut sent = crate::harness::kafka::candles(0..40_000, 1);
    sent.retain(|candle| candle.fate != Fate::Dropped);
    let rows: String = sent.iter().map(|candle| format!("{}\n", candle.payload)).collect();
    pipeline.folder.write("in.jsonl", rows);
    let file = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
    let lines = file.lines().map(|line| match line.starts_with("source:") {
        true => "source: { file: { path: in.jsonl } }",
        false => line,
    });
    pipeline.folder.write("p.yaml", lines.collect::<Vec<_>>().join("\n"));
    for point in ["before_plan", "after_plan", "after_insert", "before_position"] {
        for times in [1, 3] {
            let crash = format!("{point}:{times}");
            let outcome = start(pipeline.folder.command().env("TIDEGATE_CRASH", &crash)).finish();
            assert_eq!(outcome.code, None, "{crash}: {}", outcome.stderr);
        }
    }
    pipeline.folder.summary();
    pipeline.compare(&sent);
}

/// `cargo xtask chaos clickhouse` makes it longer.
#[test]
fn hosts_that_are_killed_at_random_lose_and_double_nothing_in_clickhouse() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
    };
    let (hosts, partitions) = (2_usize, 6);
    let kills = number("TIDEGATE_CHAOS_KILLS", 6);
    let seed = number("TIDEGATE_CHAOS_SEED", 1);
    let own = own_broker(&[]);
    let settings = ", insert: { wait: 200ms, rows: 3000 }";
    let pipeline =
        Pipeline::new(&own.kafka, &shared(), partitions, settings, "batch: { rows: 500 }\nlanes: 2");
    pipeline.set_session("p.yaml", "2s");
    let mut numbers = xtask::sample::Numbers::new(seed);
    let name = |host: usize| format!("host-{host}");
    let mut running: Vec<Running> = (0..hosts).map(|host| pipeline.start(&name(host))).collect();
    let mut sent = Vec::new();
    for kill in 1..=kills {
        let first = (kill - 1) * 20_000;
        sent.extend(pipeline.send(first..first + 20_000, partitions));
        thread::sleep(numbers.duration_below(Duration::from_millis(1_500)));
        let host = numbers.below(hosts as i64) as usize;
        running[host].kill();
        // One in four comes back only after the other has its partitions.
        if numbers.below(4) == 0 {
            thread::sleep(Duration::from_millis(2_500));
        }
        running[host] = pipeline.start(&name(host));
        eprintln!("chaos: seed {seed}, kill {kill} of {kills}, {} rows sent", sent.len());
    }
    pipeline.wait_until_read(partitions, &mut running[0]);
    for host in running {
        host.interrupt();
        host.finish().summary();
    }
    pipeline.compare(&sent);
    eprintln!("chaos: kills {kills}, lost 0, doubled 0 of {} rows", sent.len());
}

#[test]
fn an_insert_whose_answer_is_lost_counts_once() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let pipeline = Pipeline::new(&kafka, &clickhouse, 2, OFTEN_SINK, OFTEN);
    let between = Between::to(clickhouse.address);
    pipeline.write_file("p.yaml", between.address, OFTEN_SINK, OFTEN);
    between.set("insert_deduplication_token", 25, Fault::LoseAnswer);
    let sent = pipeline.send(0..60_000, 2);
    let summary = pipeline.run_to_end();
    assert_eq!(between.times(), 25, "{summary}");
    pipeline.compare(&sent);
}

#[test]
fn what_passes_is_waited_for_and_done_again() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let exception = |code: u32, name: &str| {
        let body = format!("Code: {code}. DB::Exception: words. ({name}) (version 26.9 (official build))\n");
        answer("500 Internal Server Error", &format!("X-ClickHouse-Exception-Code: {code}\r\n"), &body)
    };
    let late = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED) (version 26.9 (official build))\n";
    let tagged = "\r\n__exception__\r\nrnywyenlaeqynhmu\r\nCode: 159. DB::Exception: Timeout exceeded. \
         (TIMEOUT_EXCEEDED)\n63 rnywyenlaeqynhmu\r\n__exception__\r\n";
    let faults = [
        ("too many parts", exception(252, "TOO_MANY_PARTS")),
        ("read-only", exception(242, "TABLE_IS_READ_ONLY")),
        ("unknown status", exception(319, "UNKNOWN_STATUS_OF_INSERT")),
        ("a proxy's own page", answer("503 Service Unavailable", "", "<html>down</html>")),
        ("no words", answer("502 Bad Gateway", "", "")),
        ("an exception after the status 200", answer("200 OK", "", late)),
        (
            "an exception after the status 200 with a tag",
            answer("200 OK", "X-ClickHouse-Exception-Tag: rnywyenlaeqynhmu\r\n", tagged),
        ),
        ("something else than HTTP", Fault::Answer("\0\0\0".into())),
    ];
    for (name, fault) in faults {
        let pipeline = Pipeline::new(&kafka, &clickhouse, 1, OFTEN_SINK, OFTEN);
        let between = Between::to(clickhouse.address);
        pipeline.write_file("p.yaml", between.address, OFTEN_SINK, OFTEN);
        between.set(INSERT, 0, fault.clone());
        // The tables are made and looked at first, which name them too.
        between.set("insert_deduplication_token", 2, fault);
        let sent = pipeline.send(0..2_000, 1);
        let outcome = start(pipeline.command("a").arg("--until-end")).finish();
        assert!(outcome.stderr.contains("is done again"), "{name}: {}", outcome.stderr);
        outcome.summary();
        assert_eq!(between.times(), 2, "{name}");
        pipeline.compare(&sent);
    }
}

#[test]
fn a_server_that_hangs_after_the_body_is_given_up_and_asked_again() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let pipeline = Pipeline::new(&kafka, &clickhouse, 1, OFTEN_SINK, OFTEN);
    let between = Between::to(clickhouse.address);
    pipeline.write_file("p.yaml", between.address, OFTEN_SINK, OFTEN);
    between.set("insert_deduplication_token", 1, Fault::Hold);
    let sent = pipeline.send(0..5_000, 1);
    let mut host = pipeline.start("a");
    host.wait_until(|| between.times() == 1);
    pipeline.wait_until_read(1, &mut host);
    assert!(host.messages().contains("the server has said nothing for 30 s"), "{}", host.messages());
    // What was held arrives now, long after the same block was inserted again.
    between.release();
    thread::sleep(Duration::from_millis(500));
    host.interrupt();
    host.finish().summary();
    pipeline.compare(&sent);
}

#[test]
fn a_zombie_whose_insert_comes_late_writes_nothing_twice() {
    let (own, clickhouse) = (own_broker(&[]), shared());
    let pipeline = Pipeline::new(&own.kafka, &clickhouse, 2, OFTEN_SINK, OFTEN);
    let between = Between::to(clickhouse.address);
    pipeline.write_file("p.yaml", between.address, OFTEN_SINK, OFTEN);
    pipeline.set_session("p.yaml", "1500ms");
    let sent = pipeline.send(0..60_000, 2);
    between.set("insert_deduplication_token", 1, Fault::Hold);
    let mut zombie = pipeline.start("zombie");
    // It has planned its first block and sent it, and sleeps past its session.
    zombie.wait_until(|| between.times() == 1);
    zombie.signal(Signal::STOP);
    pipeline.write_file("p.yaml", clickhouse.address, OFTEN_SINK, OFTEN);
    pipeline.set_session("p.yaml", "1500ms");
    let mut other = pipeline.start("other");
    pipeline.wait_until_read(2, &mut other);
    between.release();
    zombie.signal(Signal::CONT);
    let more = pipeline.send(60_000..80_000, 2);
    pipeline.wait_until_read(2, &mut other);
    thread::sleep(Duration::from_secs(2));
    assert!(zombie.child.try_wait().unwrap().is_none(), "{}", zombie.messages());
    zombie.interrupt();
    zombie.finish().summary();
    other.interrupt();
    other.finish().summary();
    pipeline.compare(&[sent, more].concat());
}

#[test]
fn a_server_that_is_killed_and_comes_back_has_each_row_once() {
    let (kafka, mut own) = (shared_kafka(), own_server(Engine::Chdb));
    let pipeline = Pipeline::new(&kafka, &own.clickhouse, 2, OFTEN_SINK, OFTEN);
    let mut sent = pipeline.send(0..40_000, 2);
    let mut host = pipeline.start("a");
    for round in 1..=3 {
        pipeline.wait_for_rows(round * 5_000);
        own.server.kill().unwrap();
        thread::sleep(Duration::from_millis(500));
        own.server.restart().unwrap();
        let first = 30_000 + round * 10_000;
        sent.extend(pipeline.send(first..first + 10_000, 2));
    }
    pipeline.wait_until_read(2, &mut host);
    host.interrupt();
    host.finish().summary();
    pipeline.compare(&sent);
}

#[test]
fn a_server_that_is_not_there_is_said_or_waited_for() {
    let (kafka, mut own) = (shared_kafka(), own_server(Engine::Chdb));
    let pipeline = Pipeline::new(&kafka, &own.clickhouse, 1, "", "");
    let sent = pipeline.send(0..1_000, 1);
    own.server.kill().unwrap();
    let mut waiting = start(pipeline.command("a").args(["--until-end", "--wait"]));
    let outcome = start(pipeline.command("b").arg("--until-end")).finish();
    outcome.refused(3, "give `--wait` to wait for the server");
    assert!(waiting.child.try_wait().unwrap().is_none(), "{}", waiting.messages());
    own.server.restart().unwrap();
    waiting.finish().summary();
    pipeline.compare(&sent);
}

#[test]
fn a_table_with_too_many_parts_is_given_time() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let pipeline = Pipeline::new(&kafka, &clickhouse, 1, OFTEN_SINK, OFTEN);
    let sent = pipeline.send(0..10_000, 1);
    // Makes the tables.
    pipeline.folder.write("empty.yaml", pipeline.folder.read("p.yaml"));
    let name = &pipeline.database.name;
    let mut first = pipeline.start("a");
    pipeline.wait_for_rows(1);
    first.kill();
    clickhouse.query(&format!(
        "ALTER TABLE {name}.candles MODIFY SETTING parts_to_throw_insert = 2, parts_to_delay_insert = 1"
    ));
    clickhouse.query(&format!("SYSTEM STOP MERGES {name}.candles"));
    let more = pipeline.send(10_000..20_000, 1);
    let mut host = pipeline.start("a");
    wait_until("there are too many parts", || host.messages().contains("Code: 252"));
    clickhouse.query(&format!(
        "ALTER TABLE {name}.candles RESET SETTING parts_to_throw_insert, parts_to_delay_insert"
    ));
    clickhouse.query(&format!("SYSTEM START MERGES {name}.candles"));
    pipeline.wait_until_read(1, &mut host);
    host.interrupt();
    host.finish().summary();
    pipeline.compare(&[sent, more].concat());
}

#[test]
fn a_server_without_memory_is_given_time() {
    let (kafka, own) = (shared_kafka(), own_server(Engine::Chdb));
    let pipeline = Pipeline::new(&kafka, &own.clickhouse, 1, "", OFTEN);
    let sent = pipeline.send(0..20_000, 1);
    let mut host = pipeline.start("a");
    pipeline.wait_for_rows(1);
    // All statements of this server share one session.
    own.clickhouse.query("SET max_memory_usage = 1000000");
    own.clickhouse.query("SET max_untracked_memory = 0");
    let more = pipeline.send(20_000..60_000, 1);
    wait_until("there is no memory", || host.messages().contains("Code: 241"));
    own.clickhouse.query("SET max_memory_usage = 0");
    pipeline.wait_until_read(1, &mut host);
    host.interrupt();
    host.finish().summary();
    pipeline.compare(&[sent, more].concat());
}

#[test]
fn past_the_window_the_table_itself_merges_what_is_doubled() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let pipeline = Pipeline::new(&kafka, &clickhouse, 1, "", "");
    let sent = pipeline.send(0..3_000, 1);
    // A crash after the insert, of a table that then forgets the block.
    let outcome = start(pipeline.command("a").env("TIDEGATE_CRASH", "before_position:1")).finish();
    assert_eq!(outcome.code, None, "{}", outcome.stderr);
    let name = &pipeline.database.name;
    clickhouse
        .query(&format!("ALTER TABLE {name}.candles MODIFY SETTING non_replicated_deduplication_window = 1"));
    clickhouse.query(&format!(
        "INSERT INTO {name}.candles (source, symbol, timeframe, timestamp) VALUES ('other', 'other', '1m', 0), \
         ('other', 'other', '1m', 1)"
    ));
    pipeline.run_to_end();
    let distinct = "SELECT uniqExact(symbol, timestamp)";
    let rows = |select: &str, after: &str| {
        clickhouse.number(&format!("{select} FROM {name}.candles {after} WHERE source != 'other'"))
    };
    let once = rows(distinct, "");
    assert!(rows("SELECT count()", "") > once, "outside of the window rows are doubled");
    assert_eq!(rows("SELECT count()", "FINAL"), once, "and one after the merge");
    assert_eq!(once, sent.iter().filter(|candle| candle.fate == Fate::Kept).count() as u64);
}

#[test]
fn a_column_that_is_dropped_while_running_stops_the_pipeline() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let pipeline = Pipeline::new(&kafka, &clickhouse, 1, OFTEN_SINK, OFTEN);
    pipeline.send(0..1_000, 1);
    let host = pipeline.start("a");
    pipeline.wait_for_rows(900);
    clickhouse.query(&format!("ALTER TABLE {}.candles DROP COLUMN close", pipeline.database.name));
    pipeline.send(1_000..2_000, 1);
    host.finish().refused(3, "the table has other columns than at the start");
}

#[test]
fn a_constraint_of_the_table_stops_the_pipeline() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let pipeline = Pipeline::new(&kafka, &clickhouse, 1, OFTEN_SINK, OFTEN);
    pipeline.send(0..1_000, 1);
    let host = pipeline.start("a");
    pipeline.wait_for_rows(900);
    clickhouse.query(&format!(
        "ALTER TABLE {}.candles ADD CONSTRAINT cheap CHECK close < 1",
        pipeline.database.name
    ));
    pipeline.send(1_000..2_000, 1);
    host.finish().refused(3, "a row breaks a constraint of the table");
}

#[test]
fn rows_of_a_plan_that_are_deleted_from_the_log_do_not_make_it_another_block() {
    let (kafka, clickhouse) = (shared_kafka(), shared());
    let pipeline = Pipeline::new(&kafka, &clickhouse, 1, OFTEN_SINK, OFTEN);
    let file = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
    pipeline.folder.write("p.yaml", file.replace("session: 6s", "session: 6s, deleted: earliest"));
    let sent = pipeline.send(0..20_000, 1);
    let outcome = start(pipeline.command("a").env("TIDEGATE_CRASH", "before_position:1")).finish();
    assert_eq!(outcome.code, None, "{}", outcome.stderr);
    // The plan begins at 0, and its block is in the table.
    assert!(pipeline.database.count() > 1_000);
    kafka.delete_records(&pipeline.raw, 0, 700);
    pipeline.run_to_end();
    pipeline.compare(&sent);
}
