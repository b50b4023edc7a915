//! `tidegate test`: cases of pipelines and fixtures of rules, through the real binary and real components.

use std::path::{Path, PathBuf};
use std::process::Command;

use quick_junit::{NonSuccessKind, Report, TestCaseStatus};
use serde_json::Value;
use tidegate::pipeline_file::Limits;
use tidegate::rule::{Component, fixture as component_fixture};
use tidegate_guest::Rule;
use tidegate_guest::fixture::{Fixture, native_answers};
use tidegate_kit::component::FIXTURES_SECTION;

use crate::harness::{Folder, NOW, Outcome, RULES, guests, start, tidegate, workspace};

/// Rows for the three rules: right, repeated, wrong, and not JSON.
const INPUT: &str = r#"{"timestamp":1767571200000,"open":10,"high":12,"low":9,"close":11,"volume":5,"source":"binance","symbol":"BTC/USDT","timeframe":"1m"}
{"timestamp":1767571200000,"open":10,"high":12,"low":9,"close":11,"volume":5,"source":"binance","symbol":"BTC/USDT","timeframe":"1m"}
{"timestamp":1767571200000,"open":10,"high":2,"low":9,"close":11,"volume":5,"source":"kraken","symbol":"BTC/USD","timeframe":"1m"}
{"timestamp":
"#;

const FIXTURE: &str = r#"{
  "now": "2026-01-05T00:10:00Z",
  "rows": [
    {"in": {"source": "binance", "symbol": "BTC/USDT"}, "out": {"exchange": "Binance", "base": "BTC", "quote": "USDT", "validated_at": "2026-01-05T00:10:00Z"}}
  ]
}
"#;

/// A pipeline of the three rules into a Kafka that is not there, with a case that has only its input.
fn pipeline() -> Folder {
    let folder = Folder::new();
    let sink = "sink: { kafka: { brokers: \"127.0.0.1:1\", topic: out } }\n";
    folder.write(
        "p.yaml",
        format!("name: p\nsource: {{ kafka: {{ brokers: \"127.0.0.1:1\", topic: in }} }}\n{RULES}{sink}"),
    );
    folder.write("p.cases/day/input.jsonl", INPUT);
    folder
}

/// The folder of a rule that is built: a component and one fixture.
fn rule(component: &str, fixture: &str) -> Folder {
    let folder = Folder::new();
    folder.write("rule.wasm", std::fs::read(guests().join(format!("{component}.wasm"))).unwrap());
    folder.write("fixtures/one.json", fixture);
    folder
}

fn lines(text: &str) -> Vec<String> {
    // How long something takes is different each time.
    let without_time = |line: &str| match line.split_once(" (") {
        Some((line, rest)) if rest.ends_with(" ms)") => line.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(without_time).collect()
}

fn stdout(outcome: &Outcome, code: i32) -> Vec<String> {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    lines(&outcome.stdout)
}

#[test]
fn the_shipped_cases_and_fixtures_pass() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(workspace()).arg("test").arg("--guests").arg(guests());
    command.args(["pipelines", "guests/validate", "guests/dedup", "guests/enrich"]);
    let outcome = start(&mut command).finish();
    let said = stdout(&outcome, 0);
    for line in [
        "ok clickhouse/columns",
        "ok ingest/columns",
        "ok live/rules",
        "ok load/day",
        "ok quickstart/day",
        "ok timescale/columns",
        "ok validate/day",
        "ok validate/jumps",
        "ok dedup/duplicates",
        "ok enrich/names",
    ] {
        assert!(said.contains(&line.to_owned()), "{line} is not in {said:?}");
    }
    assert_eq!(said.last().unwrap(), "17 passed, 3 skipped");
    // A case of its own for each pipeline file that is shipped.
    for entry in std::fs::read_dir(workspace().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            assert!(path.with_extension("cases").is_dir(), "{}", path.display());
        }
    }
}

fn agrees<R: Rule>() {
    let path = guests().join(format!("{}.wasm", R::NAME));
    let component = Component::load(&path, &Limits::default()).unwrap();
    let folder = workspace().join("guests").join(R::NAME).join("fixtures");
    for (name, path) in tidegate_guest::fixture::files(&folder).unwrap() {
        let fixture = Fixture::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let natively = native_answers::<R>(&fixture).unwrap();
        let in_wasm = component_fixture::answers(&fixture, &component, &Limits::default()).unwrap();
        assert_eq!(natively, in_wasm, "{}/{name}", R::NAME);
    }
}

#[test]
fn rules_answer_the_same_natively_and_in_wasm() {
    agrees::<tidegate_validate::Validate>();
    agrees::<tidegate_dedup::Dedup>();
    agrees::<tidegate_enrich::Enrich>();
}

#[test]
fn a_new_case_is_filled_in_and_then_compared() {
    let folder = pipeline();
    let outcome = tidegate(&folder, &["test"]);
    assert_eq!(stdout(&outcome, 2), ["WRONG p/day", "0 passed, 1 wrong"]);
    outcome.refused(2, "the case `p.cases/day` says nothing of what must come out");

    let updated = tidegate(&folder, &["test", "--update"]);
    assert_eq!(stdout(&updated, 0), ["updated p/day", "0 passed, 1 updated"]);
    let file = |name: &str| String::from_utf8(folder.read(&format!("p.cases/day/{name}"))).unwrap();
    assert!(file("case.yaml").starts_with("now: 20"));
    assert_eq!(
        file("rejected.jsonl"),
        "{\"offset\":2,\"rule\":\"validate\",\"reason\":\"high_below_low\"}\n\
         {\"offset\":3,\"rule\":\"decode\",\"reason\":\"malformed\"}\n"
    );
    let summary: Value = serde_json::from_str(&file("summary.json")).unwrap();
    assert_eq!(
        (&summary["read"], &summary["written"], &summary["dropped"]),
        (&4.into(), &1.into(), &1.into())
    );
    let row: Value = serde_json::from_str(&file("rows.jsonl")).unwrap();
    assert_eq!((&row["exchange"], &row["revision"]), (&"Binance".into(), &0.into()));

    // The time of the new case is kept, so what came comes again.
    let before = ["rows.jsonl", "rejected.jsonl", "summary.json", "case.yaml"].map(file);
    for arguments in [&["test", "p.yaml"][..], &["test", ".", "--update"]] {
        assert_eq!(stdout(&tidegate(&folder, arguments), 0), ["ok p/day", "1 passed"]);
    }
    assert_eq!(["rows.jsonl", "rejected.jsonl", "summary.json", "case.yaml"].map(file), before);
}

#[test]
fn what_differs_is_shown_and_accepted() {
    let folder = pipeline();
    folder.write("p.cases/day/case.yaml", format!("now: {NOW}\n"));
    assert_eq!(tidegate(&folder, &["test", "--update"]).code, Some(0));
    let rows = String::from_utf8(folder.read("p.cases/day/rows.jsonl")).unwrap();
    let changed = rows.replace("\"close\":11.0", "\"close\":12").replace("\"open\":10.0", "\"open\":10");
    folder.write("p.cases/day/rows.jsonl", &changed);
    folder.write(
        "p.cases/day/rejected.jsonl",
        "{\"offset\":2,\"rule\":\"validate\",\"reason\":\"high_below_low\",\"detail\":\"high is too low\"}\n",
    );
    folder.write("p.cases/day/summary.json", "{ \"dropped\": 7, \"dropped_by\": [] }\n");
    let outcome = tidegate(&folder, &["test"]);
    assert_eq!(
        stdout(&outcome, 1),
        [
            "FAILED p/day",
            "    rows.jsonl:1 close",
            "    - 12",
            "    + 11.0",
            "    rejected.jsonl:1 detail",
            "    - \"high is too low\"",
            "    + \"high 2 is below low 9 (1 of 2 faults: high_below_low, high_below_body)\"",
            "    rejected.jsonl:2",
            "    + {\"offset\":3,\"rule\":\"decode\",\"reason\":\"malformed\"}",
            "    summary.json dropped",
            "    - 7",
            "    + 1",
            "    summary.json dropped_by",
            "    + {\"count\":1,\"rule\":\"dedup\"}",
            "0 passed, 1 failed",
        ]
    );
    std::fs::remove_file(folder.path("p.cases/day/rows.jsonl")).unwrap();
    assert_eq!(
        stdout(&tidegate(&folder, &["test", "--update"]), 0),
        ["updated p/day", "0 passed, 1 updated"]
    );
    // What is not there is not compared, and not made where something else is.
    assert!(!folder.path("p.cases/day/rows.jsonl").exists());
    let summary: Value = serde_json::from_slice(&folder.read("p.cases/day/summary.json")).unwrap();
    assert_eq!(summary.to_string(), r#"{"dropped":1,"dropped_by":[{"rule":"dedup","count":1}]}"#);
    assert_eq!(stdout(&tidegate(&folder, &["test"]), 0), ["ok p/day", "1 passed"]);
}

#[test]
fn a_long_difference_is_shortened() {
    let folder = pipeline();
    let right = INPUT.lines().next().unwrap();
    let later =
        |minute: u64| right.replace("1767571200000", &(1_767_571_200_000 + minute * 60_000).to_string());
    let many: Vec<String> = (0..40).map(later).collect();
    folder.write("p.cases/day/input.jsonl", many.join("\n"));
    folder.write("p.cases/day/rows.jsonl", "");
    let said = stdout(&tidegate(&folder, &["test", "p.yaml"]), 1);
    // Its name, twenty lines, how many more, and the count at the end.
    assert_eq!(said.len(), 23, "{said:?}");
    assert_eq!(said[21], "    … and 21 more lines");
}

#[test]
fn a_case_that_is_wrong_is_said_in_one_sentence() {
    let case = |name: &str, text: &str, sentence: &str| {
        let folder = pipeline();
        folder.write("p.cases/day/summary.json", "{}");
        folder.write(&format!("p.cases/day/{name}"), text);
        let outcome = tidegate(&folder, &["test", "p.yaml"]);
        outcome.refused(2, sentence);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    };
    case("case.yaml", "nwo: 1\n", "case.yaml:1:1: unknown key `nwo`");
    case("case.yaml", "now: noon\n", "case.yaml: `now` must be a time such as 2026-01-02T03:04:05Z");
    case("case.yaml", "input: other.jsonl\n", "has no file `other.jsonl` that the pipeline could read");
    case("rows.jsonl", "{}\n[]\n", "rows.jsonl:2: this line is no JSON object");
    case(
        "rejected.jsonl",
        "{\"offset\":1,\"rule\":\"decode\",\"reson\":\"x\"}\n",
        "rejected.jsonl:1: unknown key `reson`; did you mean `reason`?",
    );
    case("rejected.jsonl", "{\"offset\":1,\"rule\":\"decode\"}\n", "rejected.jsonl:1: missing key `reason`");
    case(
        "summary.json",
        "{ \"wirtten\": 1 }",
        "summary.json: a summary has no `wirtten`; did you mean `written`?",
    );
    case("summary.json", "{", "summary.json: EOF while parsing");
}

#[test]
fn a_case_has_its_rows_in_the_format_of_the_pipeline() {
    let folder = Folder::new();
    let columns = "columns: [ { name: price, type: float }, { name: symbol, type: text } ]";
    folder.pipeline("none.csv", &format!("decode: {{ format: csv, {columns} }}\nsink: stdout\n"));
    folder.write("p.cases/two/input.csv", "symbol,price\nBTC/USD,1.5\nETH/USD,x\n");
    folder.write("p.cases/two/rows.jsonl", "{\"symbol\":\"BTC/USD\",\"price\":1.5}\n");
    let reject = "{\"offset\":2,\"rule\":\"decode\",\"reason\":\"wrong_type\"}\n";
    folder.write("p.cases/two/rejected.jsonl", reject);
    assert_eq!(stdout(&tidegate(&folder, &["test", "p.yaml"]), 0), ["ok p/two", "1 passed"]);

    folder.pipeline("none.parquet", &format!("decode: {{ format: parquet }}\n{RULES}sink: stdout\n"));
    let input = folder.path("p.cases/two/input.parquet");
    crate::formats::write_parquet(&input, &crate::formats::candles(0, 50));
    for name in ["rows.jsonl", "rejected.jsonl"] {
        std::fs::remove_file(folder.path(&format!("p.cases/two/{name}"))).unwrap();
    }
    folder.write("p.cases/two/summary.json", r#"{ "read": 50, "written": 50 }"#);
    assert_eq!(stdout(&tidegate(&folder, &["test", "p.yaml"]), 0), ["ok p/two", "1 passed"]);
}

#[test]
fn paths_that_cannot_be_tested_are_refused() {
    let folder = Folder::new();
    let refused = |arguments: &[&str], words: &str| tidegate(&folder, arguments).refused(2, words);
    refused(&["test"], "there is nothing to test in `.`");
    refused(&["test", "none.yaml"], "none.yaml: there is no such file");
    folder.write("notes.md", "");
    refused(&["test", "notes.md"], "notes.md: this is neither a pipeline file");
    folder.write("mine/fixtures/one.json", FIXTURE);
    refused(&["test", "mine"], "the rule in `mine` is not built");
    for name in ["a", "b"] {
        folder.write(&format!("mine/{name}.wasm"), "");
    }
    refused(&["test", "mine"], "the folder `mine` has several components");
    folder.write("p.yaml", "name: p\nsuorce: 1\n");
    folder.write("p.cases/day/input.jsonl", "");
    refused(&["test", "p.yaml"], "p.yaml:2:1: unknown key `suorce`");
}

#[test]
fn a_fixture_that_differs_is_shown_and_accepted() {
    let wrong =
        FIXTURE.replace("\"base\": \"BTC\"", "\"base\": \"ETH\"").replace(", \"quote\": \"USDT\"", "");
    let folder = rule("enrich", &wrong);
    let expected = [
        "FAILED rule/one",
        "    rows[0].out.base",
        "    - \"ETH\"",
        "    + \"BTC\"",
        "    rows[0].out.quote",
        "    - null",
        "    + \"USDT\"",
        "0 passed, 1 failed",
    ];
    for arguments in [&["test"][..], &["test", "rule.wasm"]] {
        assert_eq!(stdout(&tidegate(&folder, arguments), 1), expected);
    }
    assert_eq!(
        stdout(&tidegate(&folder, &["test", "--update"]), 0),
        ["updated rule/one", "0 passed, 1 updated"]
    );
    assert_eq!(stdout(&tidegate(&folder, &["test"]), 0), ["ok rule/one", "1 passed"]);
    let outcome = tidegate(&folder, &["test", "--quiet"]);
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn a_fixture_that_is_wrong_is_said_in_one_sentence() {
    for (from, to, sentence) in [
        (
            "\"symbol\":",
            "\"smybol\":",
            "fixtures/one.json: `rows[0].in` has the column `smybol`, but the rule reads no such column; did you mean `symbol`?",
        ),
        ("\"base\":", "\"bas\":", "fixtures/one.json: `rows[0].out` has the column `bas`"),
        (
            "\"out\":",
            "\"dropped\": true, \"out\":",
            "`rows[0]`: it has several of `out`, `rejected` and `dropped`, of which a row has one",
        ),
        ("}}\n", "}\n", "fixtures/one.json:5:3: expected `,` or `}`"),
        ("\"now\"", "\"nwo\"", "fixtures/one.json:2:7: unknown field `nwo`"),
        (
            ", \"out\":",
            ", \"rejected\": \"x\"}, {\"in\": {}, \"out\":",
            "`rows[0].rejected` is `x`, but the rule has no such reason; it has none",
        ),
        ("\"now\":", "\"settings\": {\"exchange\": 1}, \"now\":", "the rule refuses `settings`"),
    ] {
        assert!(FIXTURE.contains(from), "{from}");
        let folder = rule("enrich", &FIXTURE.replacen(from, to, 1));
        let outcome = tidegate(&folder, &["test"]);
        outcome.refused(2, sentence);
        assert_eq!((outcome.stderr.lines().count(), stdout(&outcome, 2).len()), (1, 2), "{}", outcome.stderr);
    }
}

#[test]
fn a_rule_that_traps_or_hangs_fails_its_fixture_with_the_row() {
    let folder = Folder::new();
    let hostile = std::fs::read(workspace().join("target/guests-test/hostile.wasm")).unwrap();
    folder.write("hostile.wasm", hostile);
    let rows =
        r#"[{"in": {"close": 1}, "out": {"note": "seen"}}, {"in": {"close": 666}, "out": {"note": "seen"}}]"#;
    for (mode, sentence) in
        [("trap_on_row", "it trapped: "), ("loop_on_row", "it took more than `limits.call`")]
    {
        folder.write("fixtures/one.json", format!(r#"{{"settings": {{"mode": "{mode}"}}, "rows": {rows}}}"#));
        let said = stdout(&tidegate(&folder, &["test"]), 1);
        let text = said.join("\n");
        assert!(text.starts_with(&format!("FAILED hostile/one\n    the rule failed: {sentence}")), "{text}");
        assert!(text.contains("(already with `rows[1]` alone)"), "{text}");
    }
}

#[test]
fn the_report_is_one_that_ci_reads() {
    let folder = rule("enrich", &FIXTURE.replace("\"base\": \"BTC\"", "\"base\": \"<ETH> & \\u0001\""));
    folder.write("fixtures/right.json", FIXTURE);
    folder.write("fixtures/wrong.json", "{");
    folder.write("p.yaml", "name: p\nsource: { file: { path: in } }\nsink: stdout\n");
    assert_eq!(tidegate(&folder, &["test", ".", "p.yaml", "--junit", "report.xml"]).code, Some(2));
    let report = Report::deserialize(folder.read("report.xml").as_slice()).unwrap();
    assert_eq!((report.tests, report.failures, report.errors), (4, 1, 1));
    let [rule, pipeline] = report.test_suites.as_slice() else { panic!("{report:?}") };
    assert_eq!((rule.name.as_str(), pipeline.name.as_str()), ("rule.wasm", "p.yaml"));
    let names: Vec<&str> = rule.test_cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names, ["rule/one", "rule/right", "rule/wrong"]);
    let TestCaseStatus::NonSuccess { kind: NonSuccessKind::Failure, description: Some(lines), .. } =
        &rule.test_cases[0].status
    else {
        panic!("{report:?}")
    };
    assert!(lines.as_str().contains("+ \"BTC\""), "{lines:?}");
    assert!(matches!(rule.test_cases[1].status, TestCaseStatus::Success { .. }));
    assert!(matches!(
        rule.test_cases[2].status,
        TestCaseStatus::NonSuccess { kind: NonSuccessKind::Error, .. }
    ));
    assert!(matches!(pipeline.test_cases[0].status, TestCaseStatus::Skipped { .. }));
}

/// A component with fixtures in itself.
fn with_fixtures(component: &Path, fixtures: &str) -> Vec<u8> {
    let leb128 = |mut number: usize| {
        let mut bytes = Vec::new();
        while number >= 128 {
            bytes.push((number % 128) as u8 | 128);
            number /= 128;
        }
        bytes.push(number as u8);
        bytes
    };
    let mut section = leb128(FIXTURES_SECTION.len());
    section.extend_from_slice(FIXTURES_SECTION.as_bytes());
    section.extend_from_slice(fixtures.as_bytes());
    let mut bytes = std::fs::read(component).unwrap();
    bytes.push(0);
    bytes.extend(leb128(section.len()));
    bytes.extend(section);
    bytes
}

#[test]
fn fixtures_in_a_component_are_run() {
    let enrich: PathBuf = guests().join("enrich.wasm");
    let folder = Folder::new();
    let wrong = FIXTURE.replace("Binance", "Bitstamp");
    folder.write("two.wasm", with_fixtures(&enrich, &format!("{{\"a\": {FIXTURE}, \"b\": {wrong}}}")));
    assert_eq!(
        stdout(&tidegate(&folder, &["test", "two.wasm"]), 1),
        [
            "ok two/a",
            "FAILED two/b",
            "    rows[0].out.exchange",
            "    - \"Bitstamp\"",
            "    + \"Binance\"",
            "1 passed, 1 failed",
        ]
    );
    folder.write("none.wasm", std::fs::read(&enrich).unwrap());
    let none = tidegate(&folder, &["test", "none.wasm"]);
    assert_eq!(
        stdout(&none, 0),
        ["skipped none: there are no fixtures beside it or in it", "0 passed, 1 skipped"]
    );
    let limits = Limits::default();
    let run = |name: &str| {
        let component = Component::load(&folder.path(name), &limits).unwrap();
        component_fixture::run_embedded(&folder.read(name), &component, &limits)
    };
    assert_eq!(run("none.wasm"), Ok(0));
    let failed = run("two.wasm").unwrap_err();
    assert_eq!(
        failed,
        "1 of its 2 fixtures do not pass: `b`:\nrows[0].out.exchange\n- \"Bitstamp\"\n+ \"Binance\""
    );
    folder.write("right.wasm", with_fixtures(&enrich, &format!("{{\"a\": {FIXTURE}, \"b\": {FIXTURE}}}")));
    assert_eq!(run("right.wasm"), Ok(2));
}
