//! What a running pipeline shows: numbers, readiness, its rows, and lines.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::deploy::{Live, free_port, request, version};
use crate::harness::kafka::{candles, shared};
use crate::harness::postgres::{FilePipeline, Pipeline, candle, database};
use crate::harness::proxy::Proxy;
use crate::harness::{Outcome, Running, start};

/// The samples of a text of metrics: name with labels, and value.
fn samples(text: &str) -> HashMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn metrics(port: u16) -> HashMap<String, f64> {
    let (status, text) = request(port, "GET", "/metrics", "", b"");
    assert_eq!(status, 200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`cargo xtask test` installs promtool");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    samples(&text)
}

fn readiness(port: u16) -> (u16, String) {
    let (status, body) = request(port, "GET", "/readyz", "", b"");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ready"] == true, status == 200, "{body}");
    let why = body["why"].as_array().unwrap().iter().map(|why| why.as_str().unwrap()).collect::<Vec<_>>();
    (status, why.join("; "))
}

#[test]
fn numbers_are_those_of_the_summary() {
    let mut live = Live::start("");
    live.send(100);
    live.deployed(&version("turned", 3));
    live.send(50);
    let shown = metrics(live.port);
    let rows = |stage: &str, outcome: &str| {
        shown.get(&format!(
            "messages_processed_total{{outcome=\"{outcome}\",stage=\"{stage}\",pipeline=\"test\"}}"
        ))
    };
    assert_eq!(rows("source", "ok"), Some(&150.0));
    assert_eq!(rows("decode", "ok"), Some(&150.0));
    assert_eq!(rows("r", "ok"), Some(&150.0));
    assert_eq!(rows("sink", "ok"), Some(&150.0));
    let versions = shown.keys().filter(|name| name.starts_with("tidegate_rule_rows_total")).count();
    assert_eq!(versions, 2, "the current version and the one before: {shown:?}");
    let probation = shown.keys().find(|name| name.contains("state=\"probation\""));
    assert!(probation.is_some(), "{shown:?}");
    let latency = "processing_latency_seconds_count{outcome=\"ok\",stage=\"r\",pipeline=\"test\"}";
    assert!(shown[latency] >= 2.0);
    assert_eq!(shown["tidegate_position_offset{partition=\"0\",topic=\"-\",pipeline=\"test\"}"], 150.0);
    assert!(shown["tidegate_written_bytes_total{pipeline=\"test\"}"] > 10_000.0);
    assert!(shown["process_resident_memory_bytes"] > 1e6);
    let summary = live.finish().summary();
    assert_eq!(summary["written"], 150);
}

#[test]
fn a_version_that_is_taken_back_and_rejects_are_counted() {
    let mut live = Live::start("");
    live.send(20);
    live.deployed(&version("trap", 1));
    live.send(10);
    let shown = metrics(live.port);
    assert_eq!(shown["tidegate_versions_taken_back_total{part=\"r\",pipeline=\"test\"}"], 1.0);
    let failed = "processing_latency_seconds_count{outcome=\"failed\",stage=\"r\",pipeline=\"test\"}";
    assert_eq!(shown[failed], 1.0, "{shown:?}");
    live.finish().summary();
}

fn health(port: u16, more: &[&str]) -> Outcome {
    let address = format!("127.0.0.1:{port}");
    start(Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["health", &address]).args(more)).finish()
}

#[test]
fn a_database_that_is_not_up_yet_is_waited_for_and_said() {
    let postgres = database();
    let proxy = Proxy::to(postgres.address());
    proxy.set_closed(true);
    let port = free_port();
    let pipeline = FilePipeline::new(&postgres, "", "");
    health(port, &[]).refused(3, "does not answer");
    pipeline.write_file(
        &postgres.url_by(proxy.address()),
        ", create: true",
        &format!("http: 127.0.0.1:{port}"),
    );
    pipeline.rows(&[candle(0, 1.0, "")]);
    // More comes until the test has looked.
    let text = String::from_utf8(pipeline.folder.read("p.yaml")).unwrap();
    pipeline.folder.write("p.yaml", text.replace("in.jsonl", "'-'"));
    let mut command = pipeline.folder.command();
    let mut running = start(command.arg("--wait").stdin(Stdio::piped()));
    let mut input = running.child.stdin.take().unwrap();
    running.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    running.wait_until(|| readiness(port).1.contains("connection"));
    let (status, why) = readiness(port);
    assert!(status == 503 && why.starts_with("lane 0 opens its source and its sink: "), "{why}");
    assert_eq!(request(port, "GET", "/livez", "", b"").0, 200);
    health(port, &[]).refused(1, "lane 0 opens its source and its sink: ");
    assert_eq!(health(port, &["--live"]).code, Some(0));
    assert_eq!(metrics(port)["tidegate_lanes{state=\"opening\",pipeline=\"test\"}"], 1.0);
    proxy.set_closed(false);
    running.wait_until(|| readiness(port).0 == 200);
    assert_eq!(health(port, &[]).code, Some(0));
    writeln!(input, "{}", candle(0, 1.0, "")).unwrap();
    drop(input);
    assert_eq!(running.finish().summary()["written"], 1);
}

#[test]
fn how_far_a_topic_is_ahead_is_shown_also_while_the_database_is_away() {
    let (kafka, postgres) = (shared(), database());
    let proxy = Proxy::to(postgres.address());
    let port = free_port();
    let pipeline = Pipeline::new(&kafka, &postgres, 2, "");
    pipeline.write_file(&postgres.url_by(proxy.address()), "", &format!("http: 127.0.0.1:{port}"));
    let mut sent = candles(0..2_000, 2);
    kafka.send_candles(&pipeline.topic, &sent);
    let mut host = pipeline.start("a");
    pipeline.wait_until_written(&sent, &mut host);
    let topic = &pipeline.topic;
    let lag = |partition: i32| {
        let labels = format!("{{partition=\"{partition}\",topic=\"{topic}\",pipeline=\"test\"}}");
        metrics(port).get(&format!("tidegate_lag_rows{labels}")).copied()
    };
    host.wait_until(|| [lag(0), lag(1)] == [Some(0.0), Some(0.0)]);
    proxy.set_closed(true);
    proxy.cut();
    // More than is fetched ahead.
    let more = candles(2_000..200_000, 2);
    kafka.send_candles(&pipeline.topic, &more);
    sent.extend(more);
    host.wait_until(|| lag(0).is_some_and(|rows| rows > 50_000.0));
    assert!(readiness(port).1.contains("has failed and tries to go on: "), "{}", readiness(port).1);
    proxy.set_closed(false);
    pipeline.wait_until_written(&sent, &mut host);
    host.wait_until(|| [lag(0), lag(1)] == [Some(0.0), Some(0.0)]);
    let shown = metrics(port);
    let counted = |name: &str| shown[&format!("{name}{{pipeline=\"test\"}}")];
    assert_eq!(counted("tidegate_lag_seconds"), 0.0);
    assert!(counted("tidegate_rewinds_total") >= 1.0 && counted("tidegate_reconnects_total") >= 1.0);
    assert_eq!(readiness(port).0, 200);
    host.interrupt();
    host.finish().summary();
    postgres.compare(&sent);
}

#[test]
fn a_secret_file_that_is_not_there_is_one_sentence() {
    let postgres = database();
    let pipeline = FilePipeline::new(&postgres, "", "");
    pipeline.write_file("${URL}", ", create: true", "");
    pipeline.rows(&[candle(0, 1.0, "")]);
    let run = |file: &str| start(pipeline.folder.command().env("URL_FILE", file)).finish();
    run("no/such")
        .refused(2, "the file `no/such`, which the variable `URL_FILE` names: No such file or directory");
    pipeline.folder.write("url", postgres.url() + "\n");
    assert_eq!(run("url").summary()["written"], 1);
}

/// `tidegate tap p.yaml`, until it has shown as many rows as it is told.
fn tap(live: &Live, more: &[&str]) -> Running {
    start(&mut live.tidegate(&[&["tap", "p.yaml", "--json"], more].concat()))
}

/// Sends rows until the process has ended.
fn send_until_end(live: &mut Live, mut running: Running) -> Outcome {
    while running.child.try_wait().unwrap().is_none() {
        live.send(10);
        std::thread::sleep(Duration::from_millis(20));
    }
    running.finish()
}

/// Sends rows until whoever looks has seen what it wants.
fn seen(live: &mut Live, running: Running) -> Vec<Value> {
    let outcome = send_until_end(live, running);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let rows = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row.get("left_out").is_none()).collect()
}

#[test]
fn rows_are_shown_before_and_after_a_rule() {
    let mut live = Live::start("");
    live.send(10);
    let running = tap(&live, &["--rule", "r", "--where", "symbol=BTC/USDT", "--limit", "3"]);
    let rows = seen(&mut live, running);
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert_eq!(
            (&row["rule"], &row["verdict"], &row["topic"]),
            (&"r".into(), &"kept".into(), &"-".into())
        );
        assert_eq!(row["before"]["close"], row["offset"].as_f64().unwrap());
        assert_eq!(row["after"]["symbol"], "BTC/USDT");
    }
    let running = tap(&live, &["--where", "volume=1", "--where", "source=binance", "--limit", "1"]);
    assert_eq!(seen(&mut live, running)[0]["before"]["volume"], 1.0);
    // Nobody gets to see what is not there.
    let none = start(&mut live.tidegate(&["tap", "p.yaml", "--where", "symbol=NO/SUCH"]));
    live.send(50);
    none.interrupt();
    let outcome = none.finish();
    assert_eq!((outcome.code, &*outcome.stdout), (Some(0), ""), "{}", outcome.stderr);
    live.finish().summary();
}

#[test]
fn what_cannot_be_watched_is_one_sentence() {
    let mut live = Live::start("");
    live.send(1);
    let refused = |arguments: &[&str], code: i32, words: &str| {
        start(&mut live.tidegate(&[&["tap", "p.yaml"], arguments].concat())).finish().refused(code, words);
    };
    refused(&["--rule", "nope"], 2, "the pipeline has no rule `nope`; its rules are `r`");
    refused(&["--where", "symbol"], 2, "`symbol` is not `column=value`");
    refused(&["--token-file", "no"], 3, "the token in `no` cannot be read");
    assert_eq!(live.request("GET", "/api/v1/tap", "", b"").0, 401);
    let authorization = format!("authorization: Bearer {}\r\n", live.token());
    let (status, body) = live.request("GET", "/api/v1/tap?rows_per_second=5000", &authorization, b"");
    assert!(status == 400 && body.contains("must be 1 to 1000"), "{body}");
    let (status, body) = live.request("GET", "/api/v1/tap?colour=red", &authorization, b"");
    assert!(status == 400 && body.contains("`colour` means nothing here"), "{body}");
    live.finish().summary();
}

#[test]
fn those_who_look_are_few_and_never_waited_for() {
    let mut live = Live::start("");
    live.send(1);
    // None of them reads what it is sent.
    let mut looking = Vec::new();
    for _ in 0..4 {
        let mut stream = live.connection();
        let token = live.token();
        write!(stream, "GET /api/v1/tap HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {token}\r\n\r\n")
            .unwrap();
        looking.push(stream);
    }
    let authorization = format!("authorization: Bearer {}\r\n", live.token());
    live.wait_until(|live| live.request("GET", "/api/v1/tap", &authorization, b"").0 == 429);
    live.send(200_000);
    drop(looking);
    // Soon there is room again.
    let is_seen = |live: &mut Live| {
        let running = tap(live, &["--limit", "1"]);
        send_until_end(live, running).code == Some(0)
    };
    while !is_seen(&mut live) {}
    live.finish().summary();
}

/// Connections that say nothing, and many who ask at once, keep rows from nothing.
#[test]
fn idle_connections_and_many_questions_do_not_stop_the_rows() {
    let mut live = Live::start("");
    let connect =
        |_| TcpStream::connect_timeout(&([127, 0, 0, 1], live.port).into(), Duration::from_secs(1)).ok();
    let idle: Vec<_> = (0..300).map_while(connect).collect();
    assert!(idle.len() > 64, "more than are served at once");
    live.send(100_000);
    drop(idle);
    let port = live.port;
    let storm: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || (0..50).all(|_| request(port, "GET", "/metrics", "", b"").0 == 200))
        })
        .collect();
    live.send(100_000);
    assert!(storm.into_iter().all(|thread| thread.join().unwrap()));
    live.finish().summary();
}

#[test]
fn pipelines_are_shown_at_a_glance() {
    let mut live = Live::start("");
    live.send(40);
    live.deployed(&version("keep", 1));
    live.send(10);
    let outcome = start(&mut live.tidegate(&["top", "p.yaml"])).finish();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let line = |start: &str| -> Vec<Vec<&str>> {
        let lines = lines.iter().filter(|line| line.starts_with(start));
        lines.map(|line| line.split_whitespace().collect()).collect()
    };
    assert_eq!(line("test ")[0][..3], ["test", "1", "ready"], "{}", outcome.stdout);
    let versions = line("test/r ");
    assert_eq!(versions.len(), 2, "{}", outcome.stdout);
    assert_eq!((versions[0][2], versions[0][3]), ("probation", "10"));
    assert_eq!((versions[1][2], versions[1][3]), ("before", "40"));
    live.finish().summary();
    let outcome = start(&mut live.tidegate(&["top", "p.yaml", "--once"])).finish();
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("nobody answers there"), "{}", outcome.stdout);
}

#[test]
fn every_line_says_of_which_pipeline_it_is() {
    let mut live = Live::prepare("");
    let mut command = live.command();
    command.args(["--log", "json"]);
    live.run_as(command);
    live.send(10);
    live.deployed(&version("trap", 1));
    live.send(10);
    let outcome = live.finish();
    let lines = outcome.stderr.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let lines: Vec<Value> = lines.collect();
    assert!(lines.iter().all(|line| line["span"]["pipeline"] == "test"), "{}", outcome.stderr);
    let taken_back = lines.iter().find(|line| line["message"].as_str().unwrap().starts_with("taken back"));
    let taken_back = taken_back.unwrap_or_else(|| panic!("{}", outcome.stderr));
    assert_eq!((&taken_back["name"], taken_back["version"].as_str().unwrap().len()), (&"r".into(), 12));
}
