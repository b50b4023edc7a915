//! The quickstart pipeline gives exactly what its case says.

use std::process::{Command, Stdio};

use rusqlite::types::Value as Stored;
use serde_json::{Value, json};

use crate::harness::{Database, Folder, Outcome, guests, integer, start, text, workspace};

/// A copy of the quickstart pipeline, whose database will be `target/quickstart/quickstart.db`.
fn quickstart() -> Folder {
    let folder = Folder::new();
    for name in ["quickstart.yaml", "quickstart.jsonl"] {
        let content = std::fs::read(workspace().join("pipelines").join(name)).unwrap();
        folder.write(&format!("pipelines/{name}"), content);
    }
    std::fs::create_dir_all(folder.path("target/quickstart")).unwrap();
    folder
}

fn run(folder: &Folder) -> Outcome {
    let mut command = folder.command();
    start(command.current_dir(folder.path("pipelines")).stdin(Stdio::null())).finish()
}

/// The summary of a run of `quickstart.yaml`.
fn summary(folder: &Folder) -> Value {
    // The harness runs `p.yaml`.
    let yaml = folder.read("pipelines/quickstart.yaml");
    folder.write("pipelines/p.yaml", yaml);
    run(folder).summary()
}

fn case(name: &str) -> String {
    std::fs::read_to_string(workspace().join("pipelines/quickstart.cases/day").join(name)).unwrap()
}

fn tables(folder: &Folder) -> Vec<Vec<Vec<Stored>>> {
    let database = Database::open(&folder.path("target/quickstart/quickstart.db"));
    ["candles", "dead_letter", "tidegate_positions"]
        .map(|table| database.query(&format!("SELECT * FROM {table} ORDER BY rowid")))
        .into()
}

#[test]
fn the_day_has_the_expected_outcome_and_is_read_once() {
    let folder = quickstart();
    let first = summary(&folder);
    let expected: Value = serde_json::from_str(&case("summary.json")).unwrap();
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&first[key], value, "{key}");
    }
    assert_eq!(first["stopped"], false);

    dead_letters_are_the_expected_ones(&folder);
    the_correction_has_replaced_the_candle(&folder);

    let before = tables(&folder);
    let second = summary(&folder);
    for key in ["read", "written", "rejected", "dropped", "tombstones"] {
        assert_eq!(second[key], 0, "{key}");
    }
    assert_eq!(tables(&folder), before);
}

fn dead_letters_are_the_expected_ones(folder: &Folder) {
    let sample = folder.read("pipelines/quickstart.jsonl");
    let lines: Vec<&[u8]> = sample.split(|byte| *byte == b'\n').collect();
    let database = Database::open(&folder.path("target/quickstart/quickstart.db"));
    let rows =
        database.query("SELECT source_offset, rule, reason, payload FROM dead_letter ORDER BY source_offset");
    let expected = case("rejected.jsonl");
    assert_eq!(rows.len(), expected.lines().count());
    for (row, expected) in rows.iter().zip(expected.lines()) {
        let offset = integer(&row[0]);
        let found = json!({ "offset": offset, "rule": text(&row[1]), "reason": text(&row[2]) });
        assert_eq!(found, serde_json::from_str::<Value>(expected).unwrap());
        let line = lines[usize::try_from(offset).unwrap()];
        assert_eq!(row[3], Stored::Blob(line.into()), "the payload of row {offset}");
    }
}

fn the_correction_has_replaced_the_candle(folder: &Folder) {
    let database = Database::open(&folder.path("target/quickstart/quickstart.db"));
    let revised = database.query("SELECT revision, low, close FROM candles WHERE revision > 0");
    assert_eq!(revised.len(), 1);
    assert_eq!(integer(&revised[0][0]), 1);
    assert_eq!(revised[0][1], revised[0][2], "the exchange has corrected the close to the low");
    // 8,641 rows were written, one of them in the place of another.
    assert_eq!(integer(&database.query("SELECT count(*) FROM candles")[0][0]), 8_640);
}

#[test]
fn the_shipped_pipeline_files_are_right() {
    let pipelines = workspace().join("pipelines");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("check").arg("--guests").arg(guests());
    for entry in std::fs::read_dir(pipelines).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            command.arg(path);
        }
    }
    let outcome = start(&mut command).finish();
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn the_committed_sample_is_what_the_generator_makes() {
    xtask::sample::command(&xtask::sample::Arguments { check: true }).unwrap();
}
