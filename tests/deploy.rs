//! Rules are replaced while rows flow.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::deploy::{Live, answer, hash, start_deploy, version};
use crate::harness::postgres::database;
use crate::harness::{Outcome, start};

/// A probation that ends within a test.
const SHORT: &str = "deploy: { probation: 1s }\n";

fn refused(outcome: &Outcome, code: i32, words: &str) {
    assert!(
        outcome.code == Some(code) && outcome.stderr.contains(words),
        "{:?} {}",
        outcome.code,
        outcome.stderr
    );
    assert!(outcome.stderr.trim_end().lines().count() == 1, "{}", outcome.stderr);
}

#[test]
fn a_new_version_decides_from_the_next_batch_on() {
    let mut live = Live::start(SHORT);
    live.send(100);
    live.deployed(&version("keep", 1));
    live.send(150);
    let outcome = live.deploy(&version("keep", 2), &["--wait"]);
    // Nothing flows, so nothing is proved.
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    live.send(50);
    live.deployed(&version("turned", 3));
    live.send(7);
    let summary = live.finish().summary();
    assert_eq!(live.marks(), [(0, 100), (1, 150), (2, 50), (3, 7)]);
    let rules = summary["rules"].as_array().unwrap();
    let rows: Vec<_> =
        rules.iter().map(|rule| (rule["sha256"].as_str().unwrap(), rule["rows"].as_u64().unwrap())).collect();
    let hashes = [("keep", 0), ("keep", 1), ("keep", 2), ("turned", 3)]
        .map(|(word, number)| hash(&version(word, number)));
    assert_eq!(rows, [(&*hashes[0], 100), (&*hashes[1], 150), (&*hashes[2], 50), (&*hashes[3], 7)]);
    assert_eq!(summary["written"], 307);
}

/// A pipeline into a sink whose rule remembers, after so many rows and five versions with a hundred rows each; and how many
/// rows that were.
fn deployed_five_times(sink: &str, first_rows: u64) -> (Live, u64) {
    let mut live = Live::prepare("deploy: { probation: 0s }\n");
    live.change_file(&[("remembers: false", "remembers: true"), ("file: { path: out.jsonl }", sink)]);
    live.run();
    live.send(first_rows);
    let mut rows = first_rows;
    for number in 1..=5 {
        live.deployed(&version("keep", number));
        rows += live.settle();
        live.send(100);
        rows += 100;
    }
    (live, rows)
}

#[test]
fn a_rule_that_remembers_is_shown_every_row_once_before_it_decides() {
    for sink in [
        "file: { path: out.jsonl }",
        "file: { path: out, format: parquet }",
        "sqlite: { path: out.db, key: [] }",
    ] {
        let (mut live, mut rows) = deployed_five_times(sink, 5_000);
        live.deployed(&version("forgets", 6));
        rows += live.settle();
        live.send(100);
        rows += 100;
        let rule = live.rule();
        assert_eq!(rule["current"], *hash(&version("keep", 5)), "{sink}");
        let forgets = rule["versions"].as_array().unwrap().last().unwrap();
        let why = forgets["taken_back"].as_str().unwrap();
        assert!(why.contains("failed when it was shown rows"), "{why}");
        live.run_ends(sink, rows);
    }
}

/// Another connection reads what counted when the lane let it begin, while the lane writes on.
#[test]
fn a_version_is_shown_the_rows_of_a_database_beside_the_lane() {
    let postgres = database();
    let sink = format!("timescale: {{ url: \"{}\", create: true, key: [] }}", postgres.url());
    let (mut live, rows) = deployed_five_times(&sink, 25_000);
    let messages = live.messages();
    assert!(!messages.contains("remembered") && !messages.contains("waits for it"), "{messages}");
    assert_eq!(live.finish().summary()["written"], rows);
    let seen = postgres.lines("SELECT seen FROM candles ORDER BY timestamp");
    let expected: Vec<String> = (0..rows).map(|number| number.to_string()).collect();
    assert!(seen == expected, "{:?}", seen.iter().zip(&expected).find(|(one, other)| one != other));
    // Rows with which the lane was brought on can be among them.
    assert!(postgres.count("candles WHERE mark = 5") >= 100);
}

#[test]
fn a_candidate_that_remembers_is_tried_when_it_has_been_shown_every_row() {
    let mut live = Live::prepare("");
    live.change_file(&[("remembers: false", "remembers: true")]);
    live.run();
    live.send(5_000);
    live.deploy(&version("keep", 1), &["--shadow", "10m"]);
    let mut rows = 5_000;
    while live.rule()["candidate"]["rows"] == 0 {
        live.send(1);
        rows += 1;
    }
    live.send(100);
    let candidate = live.rule()["candidate"].clone();
    assert!(!live.messages().contains("remembered"), "{}", live.messages());
    // It differs by its number and by nothing else.
    assert_eq!(candidate["different"]["kept -> kept"], candidate["rows"], "{candidate}");
    let samples = candidate["samples"].as_array().unwrap();
    assert!(samples.iter().all(|sample| sample["candidate"] == "kept with `mark` 1"), "{candidate}");
    live.deploy(&version("forgets", 2), &["--shadow", "10m"]);
    while live.rule()["candidate"]["failed"].is_null() {
        live.send(1);
        rows += 1;
    }
    let why = live.rule()["candidate"]["failed"].as_str().unwrap().to_owned();
    assert!(why.contains("failed when it was shown rows"), "{why}");
    assert_eq!(live.finish().summary()["written"], rows + 100);
}

#[test]
fn identical_content_is_no_new_version() {
    let mut live = Live::start("");
    live.send(10);
    let outcome = live.deploy(&version("keep", 0), &["--wait"]);
    assert_eq!(
        (outcome.code, outcome.stdout.contains("decides already")),
        (Some(0), true),
        "{}",
        outcome.stdout
    );
    // A file that was written anew with the same content, neither.
    live.folder.write("r.wasm", version("keep", 0));
    std::thread::sleep(Duration::from_secs(4));
    live.send(10);
    let rule = live.rule();
    assert_eq!(rule["versions"].as_array().unwrap().len(), 1);
    assert_eq!(rule["probation_until_ms"], json!(null));
    live.finish().summary();
    live.assert_exact(20);
}

#[test]
fn what_is_no_such_rule_is_refused_and_nothing_changes() {
    let mut live = Live::start("");
    live.send(10);
    let core = wat::parse_str("(module)").unwrap();
    let other_contract = wat::parse_str(
        r#"(component (instance $rule) (export "tidegate:rule/rule@0.0.9" (instance $rule)))"#,
    )
    .unwrap();
    let wasi = wat::parse_str(r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#).unwrap();
    let whole = version("keep", 9);
    let cases: [(&[u8], &str); 9] = [
        (b"", "is empty"),
        (b"not WebAssembly", "is not WebAssembly"),
        (&core, "is a core WebAssembly module"),
        (&whole[..whole.len() / 2], "is not valid"),
        (&other_contract, "build it again with `tidegate build`"),
        (&wasi, "imports `wasi:sockets/tcp@0.2.0`"),
        (&version("more", 1), "would write other columns than the running pipeline has: with `more`"),
        (&version("fewer", 1), "would write other columns than the running pipeline has: without `seen`"),
        (&version("refuses", 1), "refuses its settings: it said: this version refuses its settings"),
    ];
    for (component, words) in cases {
        refused(&live.deploy(component, &["--wait"]), 2, words);
    }
    let large = vec![0; 33 << 20];
    refused(&live.deploy(&large, &[]), 2, "but `limits.file` allows 33554432");
    live.send(10);
    assert_eq!(live.rule()["versions"].as_array().unwrap().len(), 1);
    live.finish().summary();
    live.assert_exact(20);
}

/// What a rule remembers is fed from the sink, where it would find what a later rule has made of it.
#[test]
fn a_version_that_writes_what_an_earlier_rule_remembers_is_refused() {
    let mut live = Live::prepare("");
    live.folder.write("first.wasm", version("keep", 7));
    let file = String::from_utf8(live.folder.read("p.yaml")).unwrap();
    let first = "rules:\n  - { name: first, component: ./first.wasm, settings: { remembers: true } }\n";
    live.folder.write("p.yaml", file.replacen("rules:\n", first, 1));
    live.run();
    let words = "writes the column `close`, which the rule `first` before it reads and remembers";
    refused(&live.deploy(&version("closes", 1), &["--wait"]), 2, words);
    live.finish().summary();
}

/// A broken version decides no row that is written, whatever is wrong with it.
#[test]
fn a_version_that_fails_on_probation_is_taken_back_and_its_batch_decided_again() {
    let mut live = Live::start("");
    live.send(200);
    let broken = [
        ("trap", 1, "on trial: it trapped"),
        ("lies", 2, "its answer is wrong"),
        ("forever", 3, "it took more than `limits.call`"),
        ("reject", 4, "refuses 100.0 % of its first 200 rows"),
        ("half", 5, "refuses 50.0 % of its first 200 rows"),
        ("drop", 6, "refuses 100.0 % of its first 200 rows"),
    ];
    let mut rows = 200;
    for (word, number, words) in broken {
        let component = version(word, number);
        live.deployed(&component);
        live.send(200);
        rows += 200;
        let rule = live.rule();
        let taken_back =
            rule["versions"].as_array().unwrap().iter().find(|known| known["sha256"] == *hash(&component));
        let why = taken_back.unwrap()["taken_back"].as_str().unwrap();
        assert!(why.contains(words), "{word}: {why}");
        assert_eq!(rule["current"], *hash(&version("keep", 0)), "{word}");
        assert_eq!(taken_back.unwrap()["rows"], 0, "{word}");
    }
    // A row that only the new version cannot stand.
    live.deployed(&version("one", rows as i64 + 3));
    live.send(200);
    rows += 200;
    assert_eq!(live.rule()["current"], *hash(&version("keep", 0)));
    let summary = live.finish().summary();
    assert_eq!((summary["written"].as_u64(), summary["rejected"].as_u64()), (Some(rows), Some(0)));
    live.assert_exact(rows);
}

#[test]
fn waiting_says_that_a_version_was_taken_back() {
    let mut live = Live::start("");
    live.send(200);
    let mut waiting = start_deploy(&live.folder, &version("trap", 1), &["--wait"]);
    waiting.wait_until(|| live.rule()["current"] == *hash(&version("trap", 1)));
    live.send(10);
    refused(&waiting.finish(), 1, "was taken back: it failed");
    live.finish().summary();
    live.assert_exact(210);
}

#[test]
fn a_version_that_fails_late_is_taken_back_as_long_as_it_is_on_probation() {
    let mut live = Live::start("");
    live.send(200);
    live.deployed(&version("late", 800));
    live.send(400);
    live.send(300);
    live.send(300);
    let summary = live.finish().summary();
    assert_eq!(live.marks(), [(0, 200), (800, 700), (0, 300)]);
    assert_eq!(summary["rejected"], 0);
}

#[test]
fn a_trusted_version_that_fails_on_a_row_costs_that_row() {
    let mut live = Live::start("deploy: { probation: 0s }\n");
    live.send(200);
    live.deployed(&version("one", 300));
    live.send(200);
    let rule = live.rule();
    assert_eq!(rule["versions"][1]["rejected"]["rule_trapped"], 1, "{rule}");
    let summary = live.finish().summary();
    assert_eq!((summary["written"].as_u64(), summary["rejected"].as_u64()), (Some(399), Some(1)));
}

#[test]
fn versions_go_back_and_forth() {
    let mut live = Live::start(SHORT);
    refused(&live.change("rollback", &[]), 1, "the rule `r` has no version to go back to");
    refused(&live.change("promote", &[]), 1, "the rule `r` has no candidate");
    live.send(100);
    live.deployed(&version("keep", 1));
    live.send(100);
    let outcome = live.change("rollback", &["--wait"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    live.send(100);
    live.change("rollback", &[]);
    live.send(100);
    live.finish().summary();
    assert_eq!(live.marks(), [(0, 100), (1, 100), (0, 100), (1, 100)]);
    live.assert_exact(400);
}

#[test]
fn a_candidate_is_tried_without_changing_anything_and_promoted() {
    let mut live = Live::start("");
    live.send(100);
    let half = live.deploy(&version("half", 1), &["--shadow", "10m"]);
    assert!(half.stdout.contains("tried beside the version that decides"), "{}", half.stdout);
    live.send(100);
    let text = start(&mut live.tidegate(&["rules", "p.yaml"])).finish().stdout;
    for words in [
        "of 100 rows it decides 0 as the current",
        "kept -> rejected as refused: 50 rows",
        "+ rejected as refused: it is this version",
        "with `mark` 0",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // One that fails ends its trial, and nothing else.
    live.deploy(&version("trap", 2), &["--shadow", "10m"]);
    live.send(100);
    assert!(live.rule()["candidate"]["failed"].as_str().unwrap().contains("on trial: it trapped"));
    refused(&live.change("promote", &[]), 1, "the candidate of the rule `r` has failed");
    // A trial ends by itself, and can be promoted afterwards too.
    live.deploy(&version("keep", 3), &["--shadow", "1s"]);
    live.send(100);
    live.wait_until(|live| live.rule()["candidate"]["is_running"] == false);
    let rule = live.rule();
    assert_eq!(rule["candidate"]["different"]["kept -> kept"], 100, "{rule}");
    let outcome = live.change("promote", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    live.send(100);
    assert_eq!(live.rule()["candidate"], json!(null));
    live.finish().summary();
    assert_eq!(live.marks(), [(0, 400), (3, 100)]);
    live.assert_exact(500);
}

#[test]
fn waiting_for_a_trial_says_whether_it_differs() {
    let mut live = Live::start("");
    live.send(100);
    let mut waiting = start_deploy(&live.folder, &version("reject", 1), &["--wait", "--shadow", "3s"]);
    waiting.wait_until(|| live.rule()["candidate"] != json!(null));
    live.send(100);
    let outcome = waiting.finish();
    assert!(
        outcome.code == Some(1) && outcome.stdout.contains("kept -> rejected as refused: 100 rows"),
        "{}",
        outcome.stdout
    );
    live.finish().summary();
    live.assert_exact(200);
}

#[test]
fn only_who_has_the_token_changes_something() {
    let live = Live::start("");
    let (status, body) = live.request("POST", "/api/v1/rules/r/rollback", "", b"");
    assert!(status == 401 && body.contains("must show its token"), "{status} {body}");
    let other = "authorization: Bearer 0123456789abcdef0123456789abcdef\r\n";
    for path in ["/api/v1/rules/r/rollback", "/api/v1/rules/r/promote", "/api/v1/rules/r/versions"] {
        let (status, body) = live.request("POST", path, other, &version("keep", 1));
        assert!(
            status == 401 && body.contains("this is not the token of the pipeline `test`"),
            "{status} {body}"
        );
    }
    live.folder.write("other", "0123456789abcdef0123456789abcdef");
    refused(
        &live.deploy(&version("keep", 1), &["--token-file", "other"]),
        3,
        "not the token of the pipeline `test`",
    );
    refused(
        &live.deploy(&version("keep", 1), &["--token-file", "none"]),
        3,
        "the token in `none` cannot be read",
    );
    assert_eq!(live.rule()["versions"].as_array().unwrap().len(), 1);
}

#[test]
fn tricks_with_names_and_requests_are_refused() {
    let live = Live::start("");
    let token = format!("authorization: Bearer {}\r\n", live.token());
    let component = version("keep", 1);
    for rule in ["..%2F..%2Fr", "%2e%2e", "x", "r%00", "R", &"r".repeat(5000)] {
        let (status, body) =
            live.request("POST", &format!("/api/v1/rules/{rule}/versions"), &token, &component);
        assert!(status == 404 || status == 400 || status == 414, "{status} {body}");
    }
    for (method, path, expected) in [
        ("GET", "/api/v1/rules/../../etc/passwd", 404),
        ("GET", "/", 404),
        ("DELETE", "/api/v1/rules/r", 405),
        ("POST", "/api/v1/rules/r/versions?shadow=soon", 400),
        ("POST", "/api/v1/rules/r/versions?shadow=1s&force=true", 400),
    ] {
        let (status, body) = live.request(method, path, &token, &component);
        assert_eq!(status, expected, "{method} {path}: {body}");
    }
    let outcome =
        start(&mut live.tidegate(&["deploy", "r.wasm", "--pipeline", "p.yaml", "--rule", "../../r"]))
            .finish();
    refused(&outcome, 2, "the pipeline has no rule `../../r`; its rules are `r`");
    assert_eq!(live.rule()["versions"].as_array().unwrap().len(), 1);
}

#[test]
fn a_slow_upload_keeps_only_other_uploads_waiting() {
    let mut live = Live::start("");
    let component = version("keep", 1);
    let mut slow = live.connection();
    let (token, length) = (live.token(), component.len());
    write!(
        slow,
        "POST /api/v1/rules/r/versions HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-length: {length}\r\n\r\n"
    )
    .unwrap();
    slow.write_all(&component[..1000]).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    live.send(100);
    refused(
        &live.deploy(&version("keep", 2), &[]),
        1,
        "another change of this pipeline's rules is under way",
    );
    slow.write_all(&component[1000..]).unwrap();
    let (status, body) = answer(&mut slow);
    assert_eq!(status, 200, "{body}");
    live.send(100);
    // One that stops in the middle is forgotten.
    let mut gone = live.connection();
    write!(
        gone,
        "POST /api/v1/rules/r/versions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    gone.write_all(&component[..1000]).unwrap();
    drop(gone);
    live.wait_until(|live| live.deploy(&version("keep", 3), &[]).code == Some(0));
    live.send(100);
    live.finish().summary();
    assert_eq!(live.marks(), [(0, 100), (1, 100), (3, 100)]);
    live.assert_exact(300);
}

#[test]
fn who_comes_while_a_candidate_is_examined_is_told_to_wait() {
    let mut live = Live::prepare("");
    live.change_file(&[("./r.wasm,", "./r.wasm, limits: { call: 5s },")]);
    live.run();
    live.send(100);
    live.deployed(&version("keep", 1));
    let fixture = json!({ "rows": [{ "in": { "close": 1 }, "out": {} }] });
    let fixtures = [("forever".to_owned(), fixture)].into_iter().collect();
    let slow = tidegate_kit::component::embed(version("forever", 2), &fixtures).unwrap();
    let mut examined = start_deploy(&live.folder, &slow, &[]);
    // The rows of the pipeline do not wait.
    live.send(100);
    let busy = "another change of this pipeline's rules is under way";
    examined.wait_until(|| {
        let rollback = live.change("rollback", &[]);
        rollback.code == Some(1) && rollback.stderr.contains(busy)
    });
    refused(&live.deploy(&version("keep", 3), &[]), 1, busy);
    refused(&live.change("promote", &[]), 1, busy);
    let examined = examined.finish();
    assert_eq!(examined.code, Some(2), "{}", examined.stderr);
    assert!(examined.stderr.contains("1 of its 1 fixtures do not pass: `forever`"), "{}", examined.stderr);
    live.deployed(&version("keep", 4));
    live.send(100);
    live.finish().summary();
    live.assert_exact(300);
}

#[test]
fn a_restart_runs_what_was_deployed() {
    let mut live = Live::start(SHORT);
    live.send(100);
    live.deployed(&version("keep", 1));
    live.send(100);
    live.kill();
    live.run();
    assert_eq!(live.rule()["current"], *hash(&version("keep", 1)));
    assert_eq!(live.rule()["previous"], *hash(&version("keep", 0)));
    // So does a command that runs the rules for itself.
    live.folder.write("candidate.wasm", version("keep", 3));
    live.folder.write("rows.jsonl", "");
    let diff =
        ["diff", "candidate.wasm", "--pipeline", "p.yaml", "--rule", "r", "--input", "rows.jsonl", "--json"];
    let outcome = start(live.tidegate(&diff).env("TIDEGATE_INSTANCE", "a")).finish();
    let found: Value = serde_json::from_str(&outcome.stdout).expect(&outcome.stderr);
    assert_eq!(found["current"], *hash(&version("keep", 1)));
    live.change("rollback", &[]);
    live.kill();
    live.run();
    assert_eq!(live.rule()["current"], *hash(&version("keep", 0)));
    live.kill();
    // A component that was replaced meanwhile is the newest version.
    live.folder.write("r.wasm", version("keep", 2));
    live.run();
    assert_eq!(live.rule()["current"], *hash(&version("keep", 2)));
    assert_eq!(live.rule()["previous"], *hash(&version("keep", 0)));
    live.kill();
    // What is no component does not keep the pipeline from running.
    live.folder.write("r.wasm", "half a");
    live.run();
    assert_eq!(live.rule()["current"], *hash(&version("keep", 2)));
    live.finish();
}

#[test]
fn a_version_that_was_taken_back_stays_so_after_a_restart() {
    let mut live = Live::start("deploy: { watch: 200ms }\n");
    live.send(200);
    live.folder.write("r.wasm", version("trap", 1));
    live.wait_until(|live| live.rule()["current"] == *hash(&version("trap", 1)));
    live.send(200);
    assert_eq!(live.rule()["current"], *hash(&version("keep", 0)));
    live.kill();
    live.run();
    assert_eq!(live.rule()["current"], *hash(&version("keep", 0)));
    assert!(live.messages().contains("that was taken back"), "{}", live.messages());
    // Whoever asks for it gets it.
    live.deployed(&version("trap", 1));
    assert_eq!(live.rule()["current"], *hash(&version("trap", 1)));
    live.send(200);
    assert_eq!(live.rule()["current"], *hash(&version("keep", 0)));
    live.finish();
}

#[test]
fn a_state_folder_that_is_newer_full_or_no_folder_is_said() {
    let mut live = Live::prepare("");
    live.folder.write("state/rules/test/a/versions.json", r#"{"format":7}"#);
    let outcome = start(&mut live.command()).finish();
    refused(&outcome, 3, "is of format 7, but this program knows 1");
    live.folder.write("state/rules/test/a/versions.json", r#"{"format":1,"rules":"#);
    refused(&start(&mut live.command()).finish(), 3, "is damaged");
    std::fs::remove_dir_all(live.folder.path("state")).unwrap();
    // A full disk: files of this process can have 64 KiB. The component has more.
    let mut limited = Command::new("bash");
    let command = live.command();
    limited.current_dir(live.folder.path(".")).env("TIDEGATE_STATE", live.folder.path("state"));
    limited.args(["-c", "ulimit -f 64; trap '' XFSZ; exec \"$@\"", "bash"]).arg(command.get_program());
    limited.args(command.get_args());
    live.run_as(limited);
    live.send(100);
    refused(&live.deploy(&version("keep", 1), &["--wait"]), 3, "the version cannot be kept");
    live.send(100);
    assert_eq!(live.rule()["current"], *hash(&version("keep", 0)));
    assert_eq!(live.rule()["versions"].as_array().unwrap().len(), 1);
    live.finish().summary();
    live.assert_exact(200);
}

#[test]
fn a_version_that_a_read_only_state_folder_cannot_keep_is_not_deployed() {
    let mut live = Live::prepare("");
    let set_mode = |name: &str, mode: u32| {
        std::fs::set_permissions(live.folder.path(name), Permissions::from_mode(mode)).unwrap();
    };
    live.folder.write("state/tokens/test", "a-token-of-the-tests");
    set_mode("state/tokens/test", 0o444);
    set_mode("state", 0o555);
    set_mode(".", 0o777);
    let command = live.command();
    // Root may write everywhere.
    let mut host = if rustix::process::geteuid().is_root() {
        std::fs::copy(command.get_program(), live.folder.path("tidegate")).unwrap();
        let mut host = Command::new("setpriv");
        host.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "./tidegate"]);
        host
    } else {
        Command::new(command.get_program())
    };
    host.current_dir(live.folder.path(".")).args(command.get_args());
    host.env("TIDEGATE_STATE", live.folder.path("state"));
    live.run_as(host);
    live.send(100);
    refused(&live.deploy(&version("keep", 1), &["--wait"]), 3, "the version cannot be kept");
    live.send(100);
    assert_eq!(live.rule()["current"], *hash(&version("keep", 0)));
    live.finish().summary();
    live.assert_exact(200);
}

#[test]
fn a_changed_file_is_deployed_when_it_has_stopped_changing() {
    let mut live = Live::start("deploy: { watch: 200ms }\n");
    live.send(100);
    // Written slowly: each part is another file for who looks at it.
    let component = version("keep", 1);
    let path = live.folder.path("r.wasm");
    let mut file = std::fs::File::create(&path).unwrap();
    for part in component.chunks(component.len() / 20 + 1) {
        file.write_all(part).unwrap();
        file.sync_all().unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
    drop(file);
    live.wait_until(|live| live.rule()["current"] == *hash(&component));
    assert!(!live.messages().contains("is not deployed"), "{}", live.messages());
    live.send(100);
    // What is wrong is said once, and what comes after it is taken.
    live.folder.write("r.wasm", "no component");
    while !live.messages().contains("is not deployed") {
        std::thread::sleep(Duration::from_millis(50));
    }
    live.send(100);
    live.folder.write("r.wasm", version("keep", 2));
    live.wait_until(|live| live.rule()["current"] == *hash(&version("keep", 2)));
    live.send(100);
    // Gone, and there again.
    std::fs::remove_file(&path).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    live.send(100);
    live.folder.write("r.wasm", version("keep", 3));
    live.wait_until(|live| live.rule()["current"] == *hash(&version("keep", 3)));
    live.send(100);
    assert_eq!(live.messages().matches("is not deployed").count(), 1, "{}", live.messages());
    live.finish().summary();
    assert_eq!(live.marks(), [(0, 100), (1, 200), (2, 200), (3, 100)]);
    live.assert_exact(600);
}

/// A ConfigMap is a folder of links to `..data`, which is a link that is replaced.
#[test]
fn links_that_are_exchanged_are_followed() {
    let mut live = Live::prepare("deploy: { watch: 200ms }\n");
    let folder = live.folder.path("");
    std::fs::remove_file(live.folder.path("r.wasm")).unwrap();
    for number in 0..3 {
        live.folder.write(&format!("..{number}/r.wasm"), version("keep", number));
    }
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
    link("..0", "..data");
    link("..data/r.wasm", "r.wasm");
    live.run();
    live.send(100);
    for number in 1..3 {
        link(&format!("..{number}"), "..data_tmp");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        live.wait_until(|live| live.rule()["current"] == *hash(&version("keep", number)));
        live.send(100);
    }
    live.finish().summary();
    assert_eq!(live.marks(), [(0, 100), (1, 100), (2, 100)]);
    live.assert_exact(300);
}

#[test]
fn an_address_that_others_reach_needs_a_token_and_a_port_has_one_owner() {
    let mut live = Live::prepare("");
    let file = String::from_utf8(live.folder.read("p.yaml")).unwrap();
    let port = live.port;
    let with = |http: &str| file.replace(&format!("http: 127.0.0.1:{port}"), http);
    let run = |live: &Live| start(live.command().stdin(Stdio::null())).finish();
    for (http, words) in [
        (format!("http: 0.0.0.0:{port}"), "must show a token"),
        ("http: { address: '[::]:9101' }".to_owned(), "must show a token"),
        ("http: 127.0.0.1".to_owned(), "is no address with a port"),
        ("http: 127.0.0.1:0".to_owned(), "has no port"),
        ("http: { address: 127.0.0.1:9101, token: abc }".to_owned(), "token_file"),
    ] {
        live.folder.write("p.yaml", with(&http));
        refused(&run(&live), 2, words);
    }
    live.folder.write("p.yaml", with(&format!("http: {{ address: 0.0.0.0:{port}, token_file: token }}")));
    refused(&run(&live), 3, "the token in");
    live.folder.write("token", "short");
    refused(&run(&live), 3, "has 5 characters and needs at least 16");
    live.folder.write("token", "a token of a person, with spaces");
    refused(&run(&live), 3, "is no line of at most");
    live.folder.write("token", "0123456789abcdef0123\n");
    live.run();
    live.deployed(&version("keep", 1));
    live.send(10);
    live.folder.write("q.yaml", live.folder.read("p.yaml"));
    let second = start(live.tidegate(&["run", "q.yaml"]).stdin(Stdio::null())).finish();
    refused(&second, 3, "has the port");
    live.finish().summary();
    let nobody = live.deploy(&version("keep", 2), &[]);
    refused(&nobody, 3, "nobody answers there");
    live.folder.write("p.yaml", with(""));
    refused(&live.deploy(&version("keep", 2), &[]), 2, "does not say where the pipeline `test` answers");
}

#[test]
fn the_api_describes_itself_as_committed() {
    let live = Live::start("");
    let (status, served) = live.request("GET", "/api/v1/openapi.json", "", b"");
    assert_eq!(status, 200);
    let served: serde_json::Value = serde_json::from_str(&served).unwrap();
    let path = crate::harness::workspace().join("docs/openapi.json");
    let committed: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(served == committed, "`tidegate schema api > docs/openapi.json` writes what is committed");
    for path in committed["paths"].as_object().unwrap().keys() {
        assert!(path.starts_with("/api/v1/"), "{path}");
    }
}
