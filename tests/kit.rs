//! Projects of rules and exchange adapters: made, built, and run as a user would.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rusqlite::types::Value as Stored;
use serde_json::json;
use tidegate_kit::Language;

use crate::harness::{Database, Folder, Outcome, start, text, workspace};

/// A rule in JavaScript or Python sees thousands of rows in a call, on a machine that does other things.
const LIMITS: &str = "limits: { call: 20s }";

/// Columns of all kinds; `note` is one that the rules can do without.
const KINDS: &str = "decode: { columns: [{ name: id, type: integer }, { name: price, type: float }, { name: closed, type: \
                     boolean }, { name: at, type: timestamp }, { name: symbol, type: text }] }\n";

/// `id` null throws, a known `id` is rejected, what is not closed is dropped; the others show how values come and go.
const KINDS_IN_JAVASCRIPT: &str = "
import { drop, keep, reject, rule } from './sdk/tidegate.js';

export default rule({
    name: 'kinds',
    version: '0.1.0',
    summary: 'Shows values of all kinds',
    settings: { suffix: { type: 'string', default: '!' } },
    reasons: ['seen'],
    reads: { id: 'integer', price: 'float', closed: 'boolean', at: 'timestamp', symbol: 'text', note: 'text?' },
    writes: { id: 'integer', price: 'float', opened: 'boolean', later: 'timestamp', label: 'text' },
    memory: () => new Set(),
    remember: ({ id }, seen) => seen.add(id),
    decide({ id, price, closed, at, symbol, note }, { suffix }, now, seen) {
        if (id === null) {
            throw new Error('no id');
        }
        if (seen.has(id)) {
            return reject('seen', `id ${id}`);
        }
        seen.add(id);
        if (closed === false) {
            return drop();
        }
        if (price === null) {
            return keep();
        }
        const label = symbol === null ? null : `${symbol} ${note === null}${suffix}`;
        return keep({ price: price > 100 ? null : price, opened: closed === null, later: at + 1, label });
    },
});
";

const KINDS_IN_PYTHON: &str = "
from sdk.tidegate import Drop, Keep, Reject, Rule


def decide(row, settings, now, seen):
    if row['id'] is None:
        raise ValueError('no id')
    if row['id'] in seen:
        return Reject('seen', f\"id {row['id']}\")
    seen.add(row['id'])
    if row['closed'] is False:
        return Drop()
    price, symbol = row['price'], row['symbol']
    if price is None:
        return Keep()
    label = None if symbol is None else f\"{symbol} {str(row['note'] is None).lower()}{settings['suffix']}\"
    written = {'opened': row['closed'] is None, 'later': row['at'] + 1, 'label': label}
    return Keep({'price': None if price > 100 else price, **written})


rule = Rule(
    name='kinds',
    version='0.1.0',
    summary='Shows values of all kinds',
    settings={'suffix': {'type': 'string', 'default': '!'}},
    reasons=['seen'],
    reads={
        'id': 'integer', 'price': 'float', 'closed': 'boolean', 'at': 'timestamp', 'symbol': 'text', 'note': 'text?'
    },
    writes={'id': 'integer', 'price': 'float', 'opened': 'boolean', 'later': 'timestamp', 'label': 'text'},
    memory=lambda settings: set(),
    remember=lambda row, seen, settings: seen.add(row['id']),
    decide=decide,
)
";

/// What a fixture can say, for the rules above.
const KINDS_FIXTURE: &str = r#"{
  "settings": { "suffix": "?" },
  "now": "2026-01-02T00:00:00Z",
  "remember": [{ "id": 3, "at": "2026-01-01T00:00:00.500Z", "label": "x" }],
  "rows": [
    {
      "in": { "id": 1, "price": "NaN", "closed": true, "at": "1970-01-01T00:00:01Z", "symbol": "BTC" },
      "out": { "id": 1, "price": "NaN", "opened": false, "later": 1001, "label": "BTC true?" }
    },
    { "in": { "id": 2, "price": 1.0, "closed": false }, "dropped": true },
    { "in": { "id": 3 }, "rejected": "seen", "detail": "id 3" },
    {
      "in": { "id": 4, "price": "Infinity", "at": 0, "note": "n" },
      "out": { "id": 4, "opened": true, "later": "1970-01-01T00:00:00.001Z" }
    }
  ]
}"#;

/// A project that was made and built by the binary.
struct Project {
    folder: Folder,
    /// One at a time changes its files or builds it.
    changes: Mutex<()>,
    took: Duration,
}

impl Project {
    fn component(&self) -> PathBuf {
        self.folder.path("wide_range/wide_range.wasm")
    }
}

/// The project of a rule, with the example as it is.
fn project(language: Language) -> &'static Project {
    static PROJECTS: [OnceLock<Project>; 3] = [const { OnceLock::new() }; 3];
    PROJECTS[language as usize].get_or_init(|| {
        let started = Instant::now();
        let folder = Folder::new();
        let lang = language.name().to_lowercase();
        let made = tidegate(&folder, &["new", "rule", "wide_range", "--lang", &lang]);
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        assert!(made.stdout.contains("tidegate build wide_range\n"), "{}", made.stdout);
        let built = tidegate(&folder, &["build", "wide_range"]);
        assert_eq!(built.code, Some(0), "{}", built.stderr);
        assert!(
            built.stdout.starts_with("wide_range 0.1.0: wide_range/wide_range.wasm ("),
            "{}",
            built.stdout
        );
        let took = started.elapsed();
        println!("{}: from nothing to a component in {:.1} s", language.name(), took.as_secs_f64());
        Project { folder, changes: Mutex::new(()), took }
    })
}

/// Any command of the binary, without the guests of the workspace; projects in Rust share what they compile.
fn tidegate(folder: &Folder, arguments: &[&str]) -> Outcome {
    start(command(folder).args(arguments)).finish()
}

fn command(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(folder.path(".")).env("CARGO_TARGET_DIR", workspace().join("target/kit"));
    command
}

/// Runs a file through one rule; gives the folder of what came out.
fn run(component: &Path, settings: &str, decode: &str, input: &str) -> Folder {
    let folder = Folder::new();
    folder.write("in.jsonl", input);
    let component = component.display();
    let rule = format!("{{ name: rule, component: {component}, settings: {settings}, {LIMITS} }}");
    folder.pipeline(
        "in.jsonl",
        &format!("{decode}rules: [{rule}]\nsink: {{ sqlite: {{ path: out.db, table: rows, key: [] }} }}\n"),
    );
    folder.summary();
    folder
}

/// The rows that were kept, as they were read.
fn kept(folder: &Folder) -> Vec<Vec<Stored>> {
    Database::open(&folder.path("out.db")).query("SELECT * FROM rows ORDER BY rowid")
}

/// Offset, reason and detail of the others.
fn rejected(folder: &Folder) -> Vec<Vec<Stored>> {
    let query = "SELECT source_offset, reason, detail FROM dead_letter ORDER BY source_offset";
    Database::open(&folder.path("out.db")).query(query)
}

/// Candles of which some are too wide and some lack values.
fn candles() -> String {
    let candle = |number: i64| {
        let low = [9.25, 10.5, 100.125][number as usize % 3];
        let high = low * [1.25, 2.75, 3.5][number as usize / 3 % 3];
        let symbol = ["BTC/USDT", "ETH/USDT", "Ä\u{1F600}"][number as usize % 3];
        let mut candle = json!({ "timestamp": number * 60_000, "high": high, "low": low, "symbol": symbol });
        if number % 7 == 0 {
            candle["high"] = json!(null);
        }
        if number % 11 == 0 {
            candle.as_object_mut().unwrap().remove("symbol");
        }
        format!("{candle}\n")
    };
    (0..400).map(candle).collect()
}

#[test]
fn the_same_rule_in_three_languages_decides_the_same() {
    let columns = "decode: { columns: [{ name: timestamp, type: timestamp }, { name: high, type: float }, { name: low, \
                   type: float }, { name: symbol, type: text }] }\n";
    let outcome = |language| {
        let folder = run(&project(language).component(), "{ factor: 3 }", columns, &candles());
        (kept(&folder), rejected(&folder))
    };
    let rust = outcome(Language::Rust);
    assert!(rust.0.len() > 200 && rust.1.len() > 100, "{} {}", rust.0.len(), rust.1.len());
    for language in [Language::Javascript, Language::Python] {
        assert_eq!(outcome(language), rust, "{}", language.name());
    }
}

#[test]
fn a_component_comes_soon_and_has_its_fixtures() {
    for language in [Language::Rust, Language::Javascript, Language::Python] {
        let project = project(language);
        // On a machine that does nothing else it is a fraction of that.
        assert!(project.took < Duration::from_secs(120), "{}: {:?}", language.name(), project.took);
        let component = std::fs::read(project.component()).unwrap();
        let fixtures = tidegate_kit::component::embedded(&component).unwrap().unwrap();
        let file: serde_json::Value =
            serde_json::from_slice(&project.folder.read("wide_range/fixtures/ranges.json")).unwrap();
        assert_eq!(fixtures["ranges"], file);
        assert_eq!(fixtures.len(), 2);
    }
}

#[test]
fn the_tests_of_a_project_pass_and_fail_where_the_rule_is_another() {
    let rules = [
        (Language::Javascript, "rule.js", KINDS_IN_JAVASCRIPT),
        (Language::Python, "rule.py", KINDS_IN_PYTHON),
    ];
    for (language, file, kinds) in rules {
        let folder = Folder::new();
        let lang = language.name().to_lowercase();
        tidegate(&folder, &["new", "rule", "wide_range", "--lang", &lang]);
        let place = folder.path("wide_range");
        tidegate_kit::native_tests(&place, &|_| {}).unwrap();
        let rule = String::from_utf8(folder.read(&format!("wide_range/{file}"))).unwrap();
        folder.write(&format!("wide_range/{file}"), rule.replace("high - low", "high + low"));
        let failing = |what: &str| {
            let error = tidegate_kit::native_tests(&place, &|_| {}).unwrap_err();
            assert!(matches!(error, tidegate_kit::Error::Tests { .. }), "{what}: {error}");
        };
        failing("another rule");

        for fixture in ["ranges", "without_settings"] {
            std::fs::remove_file(folder.path(&format!("wide_range/fixtures/{fixture}.json"))).unwrap();
        }
        failing("no fixtures");
        folder.write(&format!("wide_range/{file}"), kinds);
        folder.write("wide_range/fixtures/kinds.json", KINDS_FIXTURE);
        tidegate_kit::native_tests(&place, &|_| {}).unwrap();
        for (right, wrong) in [
            ("\"dropped\": true", "\"out\": {}"),
            ("\"later\": 1001", "\"later\": 1002"),
            ("\"note\"", "\"nota\""),
            ("\"detail\"", "\"details\""),
        ] {
            folder.write("wide_range/fixtures/kinds.json", KINDS_FIXTURE.replace(right, wrong));
            failing(wrong);
        }
    }
}

/// `tidegate test` builds a project, runs its fixtures in the component, and its own tests in its own language.
#[test]
fn a_project_is_tested_in_wasm_and_natively() {
    for (language, file) in
        [(Language::Rust, "src/lib.rs"), (Language::Javascript, "rule.js"), (Language::Python, "rule.py")]
    {
        let folder = Folder::new();
        let lang = language.name().to_lowercase();
        tidegate(&folder, &["new", "rule", "wide_range", "--lang", &lang]);
        let passed = tidegate(&folder, &["test", "wide_range"]);
        assert_eq!(passed.code, Some(0), "{lang}: {} {}", passed.stdout, passed.stderr);
        for line in
            ["ok wide_range/ranges", "ok wide_range/without_settings", "ok wide_range (natively)", "3 passed"]
        {
            assert!(passed.stdout.contains(line), "{lang}: {line}: {}", passed.stdout);
        }
        let rule = String::from_utf8(folder.read(&format!("wide_range/{file}"))).unwrap();
        folder.write(&format!("wide_range/{file}"), rule.replace("high - low", "high + low"));
        let failed = tidegate(&folder, &["test", "wide_range"]);
        assert_eq!(failed.code, Some(1), "{lang}: {} {}", failed.stdout, failed.stderr);
        for line in ["FAILED wide_range/ranges", "FAILED wide_range (natively)"] {
            assert!(failed.stdout.contains(line), "{lang}: {line}: {}", failed.stdout);
        }
    }
}

#[test]
fn values_of_all_kinds_pass_and_what_is_thrown_is_a_rejected_row() {
    let input = [
        json!({ "id": 1, "price": 1.5, "closed": true, "at": 1000, "symbol": "BTC" }),
        json!({ "id": 9_007_199_254_740_993_i64, "price": 101.5, "at": 2000, "symbol": "ETH" }),
        json!({ "id": -5, "price": null, "closed": true, "at": 3000 }),
        json!({ "id": null, "price": 1.5, "closed": true, "at": 4000, "symbol": "BTC" }),
        json!({ "id": 7, "price": 1.5, "closed": false, "at": 5000, "symbol": "BTC" }),
        json!({ "id": 1, "price": 2.5, "closed": true, "at": 6000, "symbol": "BTC" }),
        json!({ "id": 8, "price": 0.25, "closed": true, "at": 7000 }),
    ];
    let input: String = input.iter().map(|row| format!("{row}\n")).collect();
    let rules = [
        (Language::Javascript, "rule.js", KINDS_IN_JAVASCRIPT, "Error: no id"),
        (Language::Python, "rule.py", KINDS_IN_PYTHON, "ValueError: no id"),
    ];
    for (language, file, rule, thrown) in rules {
        let component = changed(project(language), file, rule);
        let folder = run(&component, "{ suffix: '?' }", KINDS, &input);
        let label = |text: &str| Stored::Text(text.to_owned());
        let (null, is, is_not) = (Stored::Null, Stored::Integer(1), Stored::Integer(0));
        let columns = "SELECT id, price, opened, later, label FROM rows ORDER BY rowid";
        let kept = Database::open(&folder.path("out.db")).query(columns);
        let integer = Stored::Integer;
        let expected = [
            vec![integer(1), Stored::Real(1.5), is_not.clone(), integer(1001), label("BTC true?")],
            vec![integer(9_007_199_254_740_993), null.clone(), is, integer(2001), label("ETH true?")],
            vec![integer(-5), null.clone(), null.clone(), null.clone(), null.clone()],
            vec![integer(8), Stored::Real(0.25), is_not, integer(7001), null],
        ];
        assert_eq!(kept, expected, "{}", language.name());
        let letters = rejected(&folder);
        assert_eq!(letters.len(), 2, "{letters:?}");
        assert_eq!(letters[0][0], integer(3));
        assert!(text(&letters[0][2]).contains(thrown), "{letters:?}");
        assert_eq!(letters[1], [integer(5), label("seen"), label("id 1")]);

        // Another process remembers what the first has written.
        folder.append("in.jsonl", format!("{}\n", json!({ "id": 8, "price": 1, "closed": true, "at": 1 })));
        let summary = folder.summary();
        assert_eq!((&summary["read"], &summary["rejected"]), (&1.into(), &1.into()), "{summary}");

        let unknown = folder.path("p.yaml");
        let yaml = std::fs::read_to_string(&unknown).unwrap().replace("suffix: '?'", "suffx: '?'");
        std::fs::write(unknown, yaml).unwrap();
        folder.refused(2, "there is no setting `suffx`, but `suffix`");
    }
}

/// The component of a project whose rule is another; the project is as before afterwards.
fn changed(project: &Project, file: &str, rule: &str) -> PathBuf {
    let _one_at_a_time = project.changes.lock().unwrap();
    let file = format!("wide_range/{file}");
    let before = project.folder.read(&file);
    project.folder.write(&file, rule);
    let built = tidegate(&project.folder, &["build", "wide_range", "--out", "changed/kinds.wasm"]);
    project.folder.write(&file, before);
    assert!(
        built.stdout.starts_with("kinds 0.1.0: changed/kinds.wasm ("),
        "{} {}",
        built.stdout,
        built.stderr
    );
    project.folder.path("changed/kinds.wasm")
}

#[test]
fn the_folder_and_an_old_sdk_do_not_show_in_the_bytes() {
    let first = std::fs::read(project(Language::Rust).component()).unwrap();
    let folder = Folder::new();
    let made = tidegate(&folder, &["new", "rule", "wide_range", "--folder", "else where/deep/rule"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let contract = "else where/deep/rule/sdk/wit/rule.wit";
    let old = String::from_utf8(folder.read(contract)).unwrap().replace("rule@0.1.0", "rule@0.0.9");
    folder.write(contract, old);
    folder.write("else where/deep/rule/sdk/src/lib.rs", "compile_error!(\"old\");");
    let built = tidegate(&folder, &["build", "else where/deep/rule", "--out", "x.wasm"]);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    assert!(built.stderr.contains("replaced 2 files of `sdk` by those of this version"), "{}", built.stderr);
    assert!(folder.read("x.wasm") == first, "the bytes differ");
}

#[test]
fn an_exchange_adapter_is_made_built_and_tested() {
    let folder = Folder::new();
    let made = tidegate(&folder, &["new", "exchange", "my-exchange"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let built = start(command(&folder).arg("build").current_dir(folder.path("my-exchange"))).finish();
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    assert!(built.stdout.starts_with("my-exchange 0.1.0: ./my-exchange.wasm ("), "{}", built.stdout);
    let inspected = tidegate(&folder, &["inspect", "my-exchange/my-exchange.wasm"]);
    assert!(inspected.stdout.contains("exchange   my_exchange (my-exchange)"), "{}", inspected.stdout);
    assert!(inspected.stdout.contains("hosts      api.example.com"), "{}", inspected.stdout);
    let mut tests = Command::new("cargo");
    tests.args(["test", "--quiet"]).env("CARGO_TARGET_DIR", workspace().join("target/kit"));
    let tested = start(tests.current_dir(folder.path("my-exchange"))).finish();
    assert!(tested.stdout.contains("1 passed"), "{} {}", tested.stdout, tested.stderr);
}

#[test]
fn what_cannot_be_made_is_one_sentence() {
    let folder = Folder::new();
    let refused = |arguments: &[&str], words: &str| {
        let outcome = tidegate(&folder, arguments);
        outcome.refused(2, words);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    };
    refused(
        &["new", "rule", "../up"],
        "`../up` cannot be the name of a rule: it must have 1 to 64 of `a-z 0-9 - _`",
    );
    refused(&["new", "rule", "Wide"], "`Wide` cannot be the name of a rule");
    refused(
        &["new", "exchange", "x", "--lang", "python"],
        "an exchange adapter is written in Rust, not in Python",
    );
    folder.write("mine/notes.txt", "");
    refused(&["new", "rule", "mine"], "`mine` is there and not empty");
    refused(&["build", "mine"], "is no project");
    assert!(!folder.path("mine/sdk").exists());
    tidegate(&folder, &["build", "absent"]).refused(3, "cannot open `absent`");

    tidegate(&folder, &["new", "rule", "large", "--lang", "python"]);
    folder.write("large/fixtures/large.json", json!({ "rows": "x".repeat(1 << 20) }).to_string());
    folder.write("large/fixtures/wrong.json", "{");
    refused(&["build", "large"], "wrong.json` is not JSON");
}

#[test]
fn a_missing_tool_is_named_with_the_line_that_installs_it() {
    for (lang, words) in [
        ("rust", "this machine lacks Rust; run `curl "),
        ("javascript", "this machine lacks Node.js 18 or newer with npm; run `"),
        ("python", "this machine lacks Python 3.10 or newer with venv; run `"),
    ] {
        let folder = Folder::new();
        tidegate(&folder, &["new", "rule", "x", "--lang", lang]);
        let mut build = command(&folder);
        build.args(["build", "x"]).env("PATH", folder.path(".")).env_remove("CARGO").env_remove("RUSTC");
        start(&mut build).finish().refused(3, words);
    }
}

#[test]
fn what_does_not_compile_says_so_and_leaves_the_component() {
    let project = project(Language::Javascript);
    let before = std::fs::read(project.component()).unwrap();
    let _one_at_a_time = project.changes.lock().unwrap();
    let rule = project.folder.read("wide_range/rule.js");
    project.folder.write("wide_range/rule.js", "export default {");
    let built = tidegate(&project.folder, &["build", "wide_range"]);
    project.folder.write("wide_range/rule.js", rule);
    built.refused(2, "the project does not build: `node sdk/build.mjs");
    assert!(built.stderr.contains("rule.js:1:16"), "{}", built.stderr);
    assert!(std::fs::read(project.component()).unwrap() == before, "the component is another");
}
