//! Rules that break the contract, and files that are no rules. The host says what is wrong, loses no row, and
//! stays alive.

use std::process::{Command, Stdio};

use crate::harness::{Database, Folder, Outcome, component, integer, start, text, workspace};

/// The close on which the hostile rule misbehaves.
const POISON: f64 = 666.0;

/// Which of the fifty candles has it.
const POISON_ROW: usize = 23;

const START_MS: i64 = 1_767_571_200_000;

/// Limits that only a rule that means it exceeds, however busy the machine is.
const PATIENT: &str = "{ call: 20s }";

/// A test of an endless loop waits for this limit several times.
const IMPATIENT: &str = "{ call: 100ms }";

/// Fifty candles, one of them poisonous.
fn closes() -> Vec<f64> {
    (0..50).map(|row| if row == POISON_ROW { POISON } else { 100.0 + row as f64 }).collect()
}

/// A folder with candles of these closes, a minute apart.
fn folder(closes: &[f64]) -> Folder {
    let folder = Folder::new();
    let mut lines = String::new();
    for (close, timestamp) in closes.iter().zip((START_MS..).step_by(60_000)) {
        lines += &format!(
            "{{\"timestamp\":{timestamp},\"open\":1,\"high\":1,\"low\":1,\"close\":{close},\"volume\":1,\
             \"source\":\"kraken\",\"symbol\":\"BTC/USD\",\"timeframe\":\"1m\"}}\n"
        );
    }
    folder.write("candles.jsonl", lines);
    folder
}

/// Writes a pipeline of one rule.
fn pipeline(folder: &Folder, component: &str, limits: &str, rest: &str) {
    folder.pipeline(
        "candles.jsonl",
        &format!(
            "sink: {{ sqlite: {{ path: out.db }} }}\nrules:\n  - name: hostile\n    component: {component:?}\n    \
             limits: {limits}\n{rest}"
        ),
    );
}

/// Writes a pipeline of the hostile rule.
fn hostile(folder: &Folder, mode: &str, limits: &str, batch_rows: usize) {
    let component = workspace().join("target/guests-test/hostile.wasm");
    assert!(component.is_file(), "run `cargo xtask guests --tests` first");
    let rest = format!("    settings: {{ mode: {mode} }}\nbatch: {{ rows: {batch_rows}, bytes: 64MiB }}\n");
    pipeline(folder, component.to_str().unwrap(), limits, &rest);
}

/// `tidegate run p.yaml` or `tidegate check p.yaml`; the project's own rules are not needed for it.
fn tidegate(folder: &Folder, command: &str) -> Outcome {
    let mut tidegate = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    tidegate.current_dir(folder.path(".")).args([command, "p.yaml"]).stdin(Stdio::null());
    start(&mut tidegate).finish()
}

/// The numbers of the candles that the sink has.
fn written(folder: &Folder) -> Vec<usize> {
    let rows =
        Database::open(&folder.path("out.db")).query("SELECT timestamp FROM candles ORDER BY timestamp");
    rows.iter().map(|row| ((integer(&row[0]) - START_MS) / 60_000) as usize).collect()
}

fn count(folder: &Folder, table: &str) -> i64 {
    let rows = Database::open(&folder.path("out.db")).query(&format!("SELECT count(*) FROM {table}"));
    integer(&rows[0][0])
}

/// Runs the rule over fifty candles; only the poisonous one is rejected. Gives the detail.
fn rejects_one(mode: &str, limits: &str, reason: &str) -> String {
    let folder = folder(&closes());
    hostile(&folder, mode, limits, 50);
    let summary = folder.summary();
    assert_eq!((&summary["read"], &summary["written"]), (&50.into(), &49.into()), "{mode}: {summary}");
    assert_eq!(folder.rejects(), [(POISON_ROW as i64, reason.to_owned())], "{mode}");
    let others: Vec<usize> = (0..50).filter(|row| *row != POISON_ROW).collect();
    assert_eq!(written(&folder), others, "{mode}");
    let rows = Database::open(&folder.path("out.db")).query("SELECT rule, detail FROM dead_letter");
    assert_eq!(text(&rows[0][0]), "hostile");
    text(&rows[0][1])
}

/// Runs the rule over candles that are all poisonous: the run fails, and nothing has happened.
fn fails(mode: &str, limits: &str, rows: usize, words: &str) {
    let folder = folder(&vec![POISON; rows]);
    hostile(&folder, mode, limits, rows);
    let outcome = folder.run();
    // A crash of the process would be a signal, which has no code.
    outcome.refused(1, words);
    let sentences = outcome.stderr.lines().filter(|line| line.starts_with("tidegate: "));
    assert_eq!(sentences.count(), 1, "{mode}: {}", outcome.stderr);
    for table in ["candles", "dead_letter", "tidegate_positions"] {
        assert_eq!(count(&folder, table), 0, "{mode}: {table}");
    }
    hostile(&folder, "fine", PATIENT, rows);
    assert_eq!(folder.summary()["written"], rows, "{mode}: no row is lost");
}

#[test]
fn a_fine_rule_writes_every_row() {
    let folder = folder(&closes());
    hostile(&folder, "fine", PATIENT, 50);
    assert_eq!(tidegate(&folder, "check").code, Some(0));
    assert_eq!(folder.summary()["written"], 50);
    let notes = Database::open(&folder.path("out.db")).query("SELECT DISTINCT note FROM candles");
    assert_eq!((notes.len(), text(&notes[0][0])), (1, "seen".to_owned()));
}

#[test]
fn a_row_on_which_a_rule_breaks_down_is_rejected_and_the_others_are_written() {
    let cases = [
        ("trap_on_row", PATIENT, "rule_trapped", "it trapped: "),
        ("loop_on_row", IMPATIENT, "rule_too_slow", "it took more than `limits.call` (100 ms)"),
        ("eat_memory", PATIENT, "rule_out_of_memory", "`limits.memory` (67108864 bytes)"),
        ("recurse", PATIENT, "rule_stack_overflow", "its stack exceeded "),
        ("huge_answer", PATIENT, "rule_out_of_memory", "`limits.memory` (67108864 bytes)"),
        (
            "huge_answer",
            "{ call: 20s, memory: 512MiB }",
            "rule_answer_too_large",
            "`limits.output` (67108864 bytes)",
        ),
        ("refuse", PATIENT, "rule_refused", "it said: it will not decide this"),
    ];
    for (mode, limits, reason, words) in cases {
        let detail = rejects_one(mode, limits, reason);
        assert!(detail.contains(words), "{mode}: {detail}");
    }
}

#[test]
fn a_row_on_which_a_rule_answers_nonsense_is_rejected_and_the_others_are_written() {
    let cases = [
        ("reject_too_many_rows", "it rejects row 1 of a batch of 1"),
        ("same_row_twice", "it names row 0 twice"),
        ("reject_and_drop", "it names row 0 twice"),
        ("wrong_length", "its column `note` has 2 indexes, expected 1"),
        ("wrong_kind", "its column `note` is float, but it said text"),
        ("unknown_column", "it answers the column `nobody_knows`, which it does not write"),
        ("same_column_twice", "it answers the column `note` twice"),
        ("bad_index", "its column `note` has index 7 at row 0, but its dictionary has 1 texts"),
        ("bad_presence", "its column `note` has 2 presence bits in bytes, expected 1"),
        ("unknown_reason", "it rejects row 0 for reason 999, but it has 1 reasons"),
    ];
    for (mode, words) in cases {
        let detail = rejects_one(mode, PATIENT, "rule_answer_wrong");
        assert_eq!(detail, format!("its answer is wrong: {words}"), "{mode}");
    }
}

#[test]
fn a_detail_that_no_person_reads_is_cut() {
    let detail = rejects_one("huge_detail", PATIENT, "poison");
    assert_eq!(detail, "x".repeat(1024) + "…");
}

#[test]
fn a_rule_that_always_breaks_down_stops_the_pipeline_and_nothing_is_written() {
    let every = "the rule `hostile` fails on every row of a batch of 8: ";
    for (mode, limits, how) in [
        ("trap_always", PATIENT, "it trapped: "),
        ("loop_for_ever", IMPATIENT, "it took more than `limits.call` (100 ms)"),
        ("eat_memory", PATIENT, "it wanted more memory than `limits.memory`"),
        ("recurse", PATIENT, "its stack exceeded "),
        ("refuse", PATIENT, "it said: it will not decide this"),
    ] {
        fails(mode, limits, 8, &format!("{every}{how}"));
    }
    fails(
        "trap_always",
        PATIENT,
        50,
        "the rule `hostile` fails on more than 16 rows of a batch of 50: it trapped",
    );
}

#[test]
fn a_rule_that_always_answers_nonsense_stops_the_pipeline_and_nothing_is_written() {
    for mode in [
        "reject_too_many_rows",
        "same_row_twice",
        "reject_and_drop",
        "wrong_length",
        "wrong_kind",
        "unknown_column",
        "same_column_twice",
        "bad_index",
        "bad_presence",
        "unknown_reason",
    ] {
        fails(
            mode,
            PATIENT,
            8,
            "the rule `hostile` fails on every row of a batch of 8: its answer is wrong: ",
        );
    }
}

#[test]
fn the_batches_before_the_one_that_fails_stay_written() {
    let closes: Vec<f64> = (0..32).map(|row| if row < 16 { f64::from(row) } else { POISON }).collect();
    let folder = folder(&closes);
    hostile(&folder, "trap_on_row", PATIENT, 16);
    folder.refused(1, "fails on every row of a batch of 16");
    assert_eq!((written(&folder), count(&folder, "dead_letter")), ((0..16).collect(), 0));
    hostile(&folder, "fine", PATIENT, 16);
    assert_eq!(folder.summary()["read"], 16);
    assert_eq!(written(&folder), (0..32).collect::<Vec<_>>());
}

/// A batch of one row cannot tell a bad row from a bad rule; many of them can.
#[test]
fn a_rule_that_fails_on_every_batch_of_one_row_stops_the_pipeline() {
    let folder = folder(&[POISON; 50]);
    hostile(&folder, "trap_on_row", PATIENT, 1);
    folder.refused(1, "fails on more than one row in 100 for too long");
    assert_eq!((written(&folder), count(&folder, "dead_letter")), (vec![], 16));
}

/// No batch has many of the rows on which it fails, and between them it decides ten times as many.
#[test]
fn a_rule_that_fails_on_a_tenth_of_the_rows_stops_the_pipeline() {
    let closes: Vec<f64> = (0..400).map(|row| if row % 10 == 0 { POISON } else { f64::from(row) }).collect();
    let folder = folder(&closes);
    hostile(&folder, "trap_on_row", PATIENT, 20);
    folder.refused(1, "fails on more than one row in 100 for too long: it trapped");
    // The batches before stay: two dead letters in each, which the rows around them paid for in part.
    assert_eq!((written(&folder).len(), count(&folder, "dead_letter")), (8 * 18, 16));
}

/// The rule has seen the whole batch when it panics. Only what was decided may be remembered after that.
#[test]
fn what_a_rule_remembers_is_after_a_trap_as_if_nothing_had_happened() {
    let mut closes: Vec<f64> = (0..48).map(f64::from).collect();
    closes[POISON_ROW] = POISON;
    // A row, and the earlier one whose close it repeats: in the batch before, in the same one before the poison,
    // across it, after it, and in the batch after.
    let repeats = [(18, 2), (19, 16), (24, 17), (26, 25), (27, 3), (32, 25), (33, 22)];
    for (row, earlier) in repeats {
        closes[row] = closes[earlier];
    }
    let folder = folder(&closes);
    hostile(&folder, "remembers", PATIENT, 16);
    let summary = folder.summary();
    assert_eq!((&summary["dropped"], &summary["rejected"]), (&repeats.len().into(), &1.into()), "{summary}");
    assert_eq!(folder.rejects(), [(POISON_ROW as i64, "rule_trapped".to_owned())]);
    let is_left_out = |row: &usize| *row == POISON_ROW || repeats.iter().any(|(repeat, _)| repeat == row);
    assert_eq!(written(&folder), (0..48).filter(|row| !is_left_out(row)).collect::<Vec<_>>());
}

/// What was written before stays, and the rows that came since wait for a rule that can be told about them.
#[test]
fn a_rule_that_breaks_down_when_it_is_shown_what_was_written_stops_the_pipeline() {
    for (mode, limits, how) in [
        ("trap_on_memory", PATIENT, "it trapped: "),
        ("loop_on_memory", IMPATIENT, "it took more than `limits.call` (100 ms)"),
    ] {
        let folder = folder(&closes()[..10]);
        hostile(&folder, mode, limits, 50);
        assert_eq!(folder.summary()["written"], 10, "{mode}: at first there is nothing to show");
        folder.append("candles.jsonl", folder.read("candles.jsonl"));
        folder.refused(1, &format!("the rule `hostile` failed when it was shown rows: {how}"));
        assert_eq!((written(&folder).len(), count(&folder, "dead_letter")), (10, 0), "{mode}");
        hostile(&folder, "fine", PATIENT, 50);
        assert_eq!(folder.summary()["read"], 10, "{mode}");
    }
}

/// `run` and `check` refuse the pipeline file with this sentence, and no database is made.
fn is_refused(folder: &Folder, words: &[&str]) {
    for command in ["run", "check"] {
        let outcome = tidegate(folder, command);
        for words in words {
            outcome.refused(2, words);
        }
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    assert!(!folder.path("out.db").exists());
}

#[test]
fn settings_that_a_rule_refuses_are_said_before_anything_runs() {
    let folder = folder(&closes());
    hostile(&folder, "refuse_settings", PATIENT, 50);
    is_refused(&folder, &["the rule `hostile` refuses its settings: ", "no setting is good enough"]);
    hostile(&folder, "friendly", PATIENT, 50);
    is_refused(&folder, &["the rule `hostile` refuses its settings: ", "mode", "friendly"]);
}

/// The pipeline's component is a file with this content.
fn content_is_refused(content: &[u8], limits: &str, what: &str) {
    let folder = folder(&closes());
    folder.write("rule.wasm", content);
    pipeline(&folder, "./rule.wasm", limits, "");
    is_refused(&folder, &["rule.wasm` ", what]);
}

/// The pipeline's component is this WebAssembly text.
fn wasm_is_refused(wat: &str, what: &str) {
    content_is_refused(&wat::parse_str(wat).unwrap(), PATIENT, what);
}

#[test]
fn files_that_are_no_component_are_named_with_what_they_are() {
    wasm_is_refused("(module)", "is a core WebAssembly module, not a component");
    content_is_refused(b"", PATIENT, "is empty");
    content_is_refused(b"a rule in the language of the land\n", PATIENT, "is not WebAssembly");
    content_is_refused(b"\0as", PATIENT, "is not WebAssembly");
    content_is_refused(
        b"\0asm\x07\0\0\0",
        PATIENT,
        "is WebAssembly of a version that this host does not know",
    );
    content_is_refused(b"\0asm\x0d\0\x01\0\xff\xff\xff", PATIENT, "is not valid");
    content_is_refused(&[0; 2048], "{ file: 1KiB }", "has 2048 bytes, but `limits.file` allows 1024");
}

#[test]
fn a_component_that_is_missing_or_a_folder_is_named() {
    let folder = folder(&closes());
    pipeline(&folder, "./missing.wasm", PATIENT, "");
    is_refused(&folder, &["missing.wasm` does not exist"]);
    std::fs::create_dir(folder.path("rules.wasm")).unwrap();
    pipeline(&folder, "./rules.wasm", PATIENT, "");
    is_refused(&folder, &["rules.wasm` is not a file"]);
}

#[test]
fn components_that_are_no_rule_are_named_with_what_they_are() {
    wasm_is_refused("(component)", "exports nothing, but a rule exports `tidegate:rule/rule@0.1.0`");
    wasm_is_refused(
        r#"(component (instance $run) (export "wasi:cli/run@0.2.0" (instance $run)))"#,
        "is a component of another world: it exports `wasi:cli/run@0.2.0`",
    );
    wasm_is_refused(
        r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#,
        "imports `wasi:sockets/tcp@0.2.0`, but a rule imports nothing",
    );
    wasm_is_refused(
        r#"(component (instance $rule) (export "tidegate:rule/rule@9.0.0" (instance $rule)))"#,
        "was built for `tidegate:rule/rule@9.0.0`, but this host speaks `tidegate:rule/rule@0.1.0`; build it again \
         with `tidegate build`",
    );
}

#[test]
fn a_rule_with_functions_of_other_types_does_not_fit() {
    wasm_is_refused(
        r#"(component (instance $rule) (export "tidegate:rule/rule@0.1.0" (instance $rule)))"#,
        "does not fit `tidegate:rule/rule@0.1.0`",
    );
    wasm_is_refused(
        r#"(component
            (core module $code (func (export "nothing")))
            (core instance $code (instantiate $code))
            (func $nothing (canon lift (core func $code "nothing")))
            (instance $rule
                (export "describe" (func $nothing))
                (export "configure" (func $nothing))
                (export "transform" (func $nothing))
                (export "remember" (func $nothing)))
            (export "tidegate:rule/rule@0.1.0" (instance $rule)))"#,
        "does not fit `tidegate:rule/rule@0.1.0`",
    );
}

/// A component with the types of a rule, whose `describe` has this body and whose other functions trap.
fn rule_that_describes_itself(body: &str, start: &str) -> Vec<u8> {
    let interface = "tidegate:rule/rule@0.1.0";
    let module = format!(
        r#"(module
            (memory (export "memory") 1)
            (func $deeper (result i32) (i32.add (call $deeper) (i32.const 1)))
            (func $trap unreachable)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "{interface}#describe") (result i32) {body})
            (func (export "{interface}#configure") (param i32 i32) (result i32) unreachable)
            (func (export "{interface}#transform") (param i64 i32 i32 i32) (result i32) unreachable)
            (func (export "{interface}#remember") (param i32 i32 i32) unreachable)
            {start})"#
    );
    component(&module, "rule.wit")
}

#[test]
fn a_component_that_breaks_down_before_it_is_a_rule_is_refused() {
    let asked = "failed when it was asked what it is: ";
    let no_start = "";
    for (body, start, limits, how) in [
        ("unreachable", no_start, PATIENT, "it trapped: "),
        (
            "(loop $again (br $again)) unreachable",
            no_start,
            IMPATIENT,
            "it took more than `limits.call` (100 ms)",
        ),
        ("(call $deeper)", no_start, PATIENT, "its stack exceeded "),
        (
            "(drop (memory.grow (i32.const 60000))) unreachable",
            no_start,
            PATIENT,
            "it wanted more memory than `limits.memory`",
        ),
        ("(i32.const -4)", no_start, PATIENT, "it trapped: "),
        ("(i32.const 0)", "(start $trap)", PATIENT, "it trapped: "),
    ] {
        let component = rule_that_describes_itself(body, start);
        content_is_refused(&component, limits, &format!("{asked}{how}"));
    }
}

#[test]
fn a_component_that_describes_itself_wrongly_is_refused() {
    // Zeros are empty texts and lists.
    let component = rule_that_describes_itself("(i32.const 0)", "");
    content_is_refused(
        &component,
        PATIENT,
        "describes itself wrongly: the rule's name is ``, but it must have 1 to 64",
    );
}

/// Two thousand candles in one batch, of which one has a symbol that the rule cannot stand, and this instead of
/// its `field`.
fn poisonous_text(field: &str, instead: &str) -> Folder {
    let folder = folder(&vec![1.0; 2_000]);
    let lines = String::from_utf8(folder.read("candles.jsonl")).unwrap();
    let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
    assert!(lines[700].contains(field));
    lines[700] = lines[700].replace("BTC/USD", "POISON").replace(field, instead);
    folder.write("candles.jsonl", lines.join("\n") + "\n");
    folder
}

/// A text is beside the rows of a batch, so each part of it must have only the texts of its own rows.
#[test]
fn a_text_on_which_a_rule_breaks_down_costs_its_row() {
    let folder = poisonous_text("1m", "1m");
    hostile(&folder, "trap_on_text", PATIENT, 2_000);
    assert_eq!(folder.summary()["written"], 1_999);
    assert_eq!(folder.rejects(), [(700, "rule_trapped".to_owned())]);
}

#[test]
fn a_text_of_a_row_that_is_gone_reaches_no_rule() {
    let folder = poisonous_text("\"1m\"", "{}");
    hostile(&folder, "trap_on_text", PATIENT, 2_000);
    let summary = folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&1_999.into(), &1.into()));
    assert_eq!(
        Database::open(&folder.path("out.db"))
            .query("SELECT * FROM dead_letter WHERE rule <> 'decode'")
            .len(),
        0
    );

    let folder = poisonous_text("\"close\":1,", "\"close\":9,");
    hostile(&folder, "trap_on_text", PATIENT, 2_000);
    // The first rule rejects the row, because its close is above its high.
    let yaml = String::from_utf8(folder.read("p.yaml")).unwrap();
    let first = "rules:\n  - { name: validate, component: validate, settings: { sources: [kraken] } }\n";
    folder.write("p.yaml", yaml.replace("rules:\n", first));
    let summary = folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&1_999.into(), &1.into()), "{summary}");
    assert_eq!(summary["rejected_by"][0]["rule"], "validate");
}

/// Two poisonous rows, so that an instance is made after a part without rows.
#[test]
fn a_rule_is_shown_at_most_ten_thousand_rows_at_once() {
    let mut closes = vec![1.0; 50_000];
    closes[44_000] = POISON;
    closes[44_001] = POISON;
    let folder = folder(&closes);
    hostile(&folder, "small_memory", PATIENT, 50_000);
    let summary = folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&49_998.into(), &2.into()));
}

/// The text is in the answer once, and in what a sink writes once for each row.
#[test]
fn a_long_text_for_many_rows_is_too_large_an_answer() {
    let limits = "{ call: 20s, output: 1MiB }";
    let few = folder(&[1.0; 10]);
    hostile(&few, "long_text", limits, 10);
    assert_eq!(few.summary()["written"], 10);
    let many = folder(&[1.0; 100]);
    hostile(&many, "long_text", limits, 100);
    many.refused(1, "answers more than 4194304 bytes of text for a batch of 100 rows");
    assert_eq!(count(&many, "candles"), 0);
}

/// Sixteen rows make some two hundred parts.
#[test]
fn texts_that_no_row_uses_are_not_kept() {
    let mut closes = vec![1.0; 4_096];
    closes.iter_mut().step_by(256).for_each(|close| *close = POISON);
    let folder = folder(&closes);
    hostile(&folder, "unused_texts", PATIENT, 4_096);
    // The C library gives large blocks back at once, so that the peak is what the host holds.
    let mut command = folder.command();
    let outcome = start(command.env("MALLOC_MMAP_THRESHOLD_", "1000000").stdin(Stdio::null())).finish();
    assert_eq!(outcome.summary()["written"], 4_080);
    assert!(outcome.peak_kib < 512 << 10, "{} KiB", outcome.peak_kib);
}
