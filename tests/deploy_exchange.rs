//! Adapters that are replaced while candles come: the real binary, and an exchange that is simulated over HTTP.

use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use exchanges_simulator::{Exchange, Fault, MINUTE_MS, Misbehaviour, Simulator};
use serde_json::Value;

use crate::harness::deploy::{free_port, request};
use crate::harness::exchanges::{START_MS, command, rows, simulator, stored, write_pipeline};
use crate::harness::{Folder, Outcome, Running, guests, start, workspace};

/// The adapter `versions_adapter` of tests/guests as the version that does `word` and has this number.
fn adapter(word: &str, number: i64) -> Vec<u8> {
    let path = workspace().join("target/guests-test/versions_adapter.wasm");
    let component = std::fs::read(path).expect("`cargo xtask guests --tests` builds the guests of the tests");
    tidegate_versions::changed(component, word, number)
}

/// A pipeline `test` from the exchange `v` into `out.db`, in which a minute is over in a second.
struct Collecting {
    folder: Folder,
    simulator: Simulator,
    port: u16,
    running: Option<Running>,
}

impl Collecting {
    /// Starts with the version `keep` 0; `settings` are keys of the source, `more` of the pipeline file.
    fn start(settings: &str, more: &str) -> Collecting {
        let simulator = simulator(60.0, Misbehaviour::default());
        let folder = Folder::new();
        let port = free_port();
        folder.write("v.wasm", adapter("keep", 0));
        let source = format!(
            "source:\n  exchange:\n    history: 1h\n    spread: 1s\n{settings}    exchanges:\n      \
             - {{ exchange: versions, name: v, component: ./v.wasm, symbols: [A/USD, B/USD], url: \"{}\" }}\n",
            simulator.url(Exchange::Binance)
        );
        write_pipeline(&folder, &source, &format!("http: 127.0.0.1:{port}\n{more}"));
        let mut collecting = Collecting { folder, simulator, port, running: None };
        collecting.run();
        collecting
    }

    fn run(&mut self) {
        let mut command = command(&self.folder, &self.simulator, &["run", "p.yaml", "--json"]);
        let mut running = start(command.env("TIDEGATE_INSTANCE", "a").stdin(Stdio::null()));
        let port = self.port;
        running.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        self.running = Some(running);
        self.go_on();
    }

    /// Waits until candles have come that were not there.
    fn go_on(&mut self) {
        let before = rows(&self.folder);
        let mut running = self.running.take().expect("the pipeline runs");
        running.wait_until(|| rows(&self.folder) > before);
        self.running = Some(running);
    }

    fn tidegate(&self, arguments: &[&str]) -> Outcome {
        let mut command = command(&self.folder, &self.simulator, arguments);
        start(command.env("TIDEGATE_INSTANCE", "a")).finish()
    }

    fn deploy(&self, component: &[u8], more: &[&str]) -> Outcome {
        self.folder.write("candidate.wasm", component);
        let arguments = ["deploy", "candidate.wasm", "--pipeline", "p.yaml", "--exchange", "v"];
        self.tidegate(&[&arguments, more].concat())
    }

    /// What the API says of the exchange.
    fn status(&self) -> Value {
        let (status, body) = request(self.port, "GET", "/api/v1/exchanges/v", "", b"");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Ends it, and looks whether every minute of an hour ago until shortly before the end is there, once and as it is.
    fn finish(mut self) {
        self.go_on();
        let end_ms = self.simulator.clock().now_ms() - 10 * MINUTE_MS;
        let running = self.running.take().expect("the pipeline runs");
        running.interrupt();
        running.finish().summary();
        let candles = stored(&self.folder);
        for symbol in ["A/USD", "B/USD"] {
            for open_ms in (START_MS - 50 * MINUTE_MS..end_ms).step_by(MINUTE_MS as usize) {
                let found = candles.get(&("v".to_owned(), symbol.to_owned(), open_ms));
                let close = (open_ms / MINUTE_MS % 1_000 + 1) as f64;
                assert_eq!(found, Some(&([close; 5], 0)), "{symbol} at {open_ms}");
            }
        }
    }
}

fn refused(outcome: &Outcome, code: i32, words: &str) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(words), "{words:?} is not in {}", outcome.stderr);
}

#[test]
fn a_new_adapter_is_asked_from_the_next_task_on_and_goes_back() {
    let mut collecting = Collecting::start("", "deploy: { probation: 1s }\n");
    // What the version before it wanted to have back is none of its business.
    let outcome = collecting.deploy(&adapter("new", 1), &["--wait"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.ends_with("in all lanes\n"), "{}", outcome.stdout);
    let (_, listed) = request(collecting.port, "GET", "/api/v1/exchanges", "", b"");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["what"]), (&"v".into(), &"exchange".into()));
    let versions = collecting.status()["versions"].clone();
    assert_eq!(versions.as_array().unwrap().len(), 2);
    assert!(versions[1]["rows"].as_u64().unwrap() > 0, "{versions}");
    let table = collecting.tidegate(&["rules", "p.yaml"]).stdout;
    assert!(table.contains("decides") && table.contains("before"), "{table}");
    collecting.go_on();
    let back = collecting.tidegate(&["rollback", "--pipeline", "p.yaml", "--exchange", "v", "--wait"]);
    assert_eq!(back.code, Some(0), "{}", back.stderr);
    assert_eq!(collecting.status()["current"], versions[0]["sha256"]);
    let same = collecting.deploy(&adapter("keep", 0), &[]);
    assert!(same.stdout.contains("this version decides already"), "{}", same.stdout);
    collecting.finish();
}

#[test]
fn an_adapter_that_fails_on_probation_is_taken_back_and_its_tasks_are_done_again() {
    let mut collecting = Collecting::start("", "");
    let first = collecting.status()["current"].clone();
    for (word, words) in [
        ("trap", "fails with "),
        ("unknown", ", of which there are some: the symbol is unknown there: this version knows no symbol"),
        ("unread", "has failed 3 times with "),
        ("lies", " otherwise than they are known, or not at all"),
        ("none", " otherwise than they are known, or not at all"),
        // Its memo is another, which the one before would refuse: it gets none.
        ("new", ""),
    ] {
        let candidate = adapter(word, 1);
        if word == "new" {
            let outcome = collecting.deploy(&candidate, &[]);
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
            collecting.go_on();
            continue;
        }
        refused(&collecting.deploy(&candidate, &["--wait"]), 1, words);
        assert_eq!(collecting.status()["current"], first, "{word}");
        collecting.go_on();
    }
    collecting.finish();
}

#[test]
fn what_a_version_answers_wrongly_is_not_written_although_another_has_replaced_it_meanwhile() {
    let mut collecting = Collecting::start("", "");
    // Its tasks are on their way while it is replaced.
    (0..40).for_each(|_| collecting.simulator.next(Exchange::Binance, Fault::Slow { wall_ms: 1_500 }));
    for (word, number) in [("lies", 1), ("keep", 2)] {
        let outcome = collecting.deploy(&adapter(word, number), &[]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        while collecting.status()["is_in_all_lanes"] == false {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(1_200));
    }
    assert!(
        collecting.status()["versions"][1]["taken_back"].is_null(),
        "it was replaced before it was judged"
    );
    collecting.go_on();
    collecting.finish();
}

#[test]
fn what_is_no_such_adapter_is_refused_and_nothing_changes() {
    let collecting = Collecting::start("", "");
    let before = collecting.status()["current"].clone();
    let rule = std::fs::read(guests().join("validate.wasm")).unwrap();
    for (candidate, words) in [
        (
            adapter("strays", 1),
            "the adapter asks for `https://elsewhere.example/api/v3/time`, but it has declared",
        ),
        (adapter("hosts", 1), "would reach the host `elsewhere.example`, and the running pipeline reaches"),
        (adapter("hours", 1), "`versions` has no candles of `1m`; it has `1h`"),
        (adapter("atonce", 1), "the adapter failed when it was asked for a candle of A/USD: it trapped"),
        (rule, "but an exchange adapter exports `tidegate:exchange/exchange@0.1.0`"),
        (b"text".to_vec(), "is not WebAssembly"),
    ] {
        refused(&collecting.deploy(&candidate, &[]), 2, words);
    }
    let other = collecting.tidegate(&["rollback", "--pipeline", "p.yaml", "--exchange", "kraken"]);
    refused(&other, 2, "the pipeline has no exchange `kraken`; its exchanges are `v`");
    let none = collecting.tidegate(&["rollback", "--pipeline", "p.yaml", "--exchange", "v"]);
    refused(&none, 1, "the exchange `v` has no version to go back to");
    let both = collecting.tidegate(&["rollback", "--pipeline", "p.yaml", "--exchange", "v", "--rule", "r"]);
    refused(&both, 2, "cannot be used with");
    let (status, _) = request(collecting.port, "POST", "/api/v1/exchanges/v/versions", "", b"");
    assert_eq!(status, 401);
    assert_eq!(collecting.status()["current"], before);
    collecting.finish();
}

#[test]
fn a_candidate_gets_the_answers_of_the_adapter_that_decides() {
    let mut collecting = Collecting::start("", "");
    let requests = || collecting.simulator.requests().exchanges[&Exchange::Binance].requests;
    assert!(requests() > 0);
    for (word, code, words) in [
        ("keep", 0, "as the current version does"),
        ("lies", 1, "candle -> another: "),
        ("none", 1, "candle -> none: "),
        ("asks", 1, "candles -> other requests: "),
        ("trap", 1, "has failed: it fails with "),
    ] {
        let outcome = collecting.deploy(&adapter(word, 1), &["--shadow", "2s", "--wait"]);
        assert_eq!(outcome.code, Some(code), "{word}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stdout.contains(words), "{word}: {}", outcome.stdout);
    }
    let refused_promotion = collecting.tidegate(&["promote", "--pipeline", "p.yaml", "--exchange", "v"]);
    refused(&refused_promotion, 1, "the candidate of the exchange `v` has failed");
    let tried = adapter("keep", 2);
    assert_eq!(collecting.deploy(&tried, &["--shadow", "1s", "--wait"]).code, Some(0));
    let promoted = collecting.tidegate(&["promote", "--pipeline", "p.yaml", "--exchange", "v"]);
    assert_eq!(promoted.code, Some(0), "{}", promoted.stderr);
    collecting.go_on();
    assert_eq!(collecting.status()["versions"].as_array().unwrap().len(), 2);
    collecting.finish();
}

#[test]
fn a_restart_and_a_backfill_run_the_adapter_that_was_deployed() {
    // Nothing is read again, so the host cannot see that this version lies.
    let mut collecting = Collecting::start("    reread: 0\n", "deploy: { probation: 0s }\n");
    let outcome = collecting.deploy(&adapter("lies", 1), &["--wait"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let mut running = collecting.running.take().unwrap();
    running.kill();
    let restarted_ms = collecting.simulator.clock().now_ms();
    collecting.run();
    let status = collecting.status();
    assert_ne!(status["current"], status["previous"]);
    let lies = |open_ms: i64| Some([2.0 * (open_ms / MINUTE_MS % 1_000 + 1) as f64; 5]);
    let value = |collecting: &Collecting, open_ms: i64| {
        stored(&collecting.folder).get(&("v".into(), "A/USD".into(), open_ms)).map(|(values, _)| *values)
    };
    let open_ms = restarted_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
    while value(&collecting, open_ms).is_none() {
        collecting.go_on();
    }
    assert_eq!(value(&collecting, open_ms), lies(open_ms));
    collecting.running.take().unwrap().kill();
    let (from_ms, to_ms) = (START_MS - 300 * MINUTE_MS, START_MS - 200 * MINUTE_MS);
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
    let past =
        collecting.tidegate(&["backfill", "p.yaml", "--from", &time(from_ms), "--until", &time(to_ms)]);
    assert_eq!(past.code, Some(0), "{}", past.stderr);
    assert_eq!(value(&collecting, from_ms), lies(from_ms));
}

#[test]
fn a_changed_file_of_an_adapter_is_deployed() {
    let mut collecting = Collecting::start("", "deploy: { watch: 50ms, probation: 0s }\n");
    collecting.folder.write("v.wasm", adapter("new", 1));
    let before = collecting.status()["current"].clone();
    while collecting.status()["current"] == before {
        std::thread::sleep(Duration::from_millis(20));
    }
    collecting.go_on();
    assert_eq!(collecting.status()["versions"][1]["origin"], "file");
    collecting.finish();
}
