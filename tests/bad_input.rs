//! Whatever is put in, there is a sentence and an exit code, never a panic. (The harness refuses the word
//! `panicked` on standard error.)

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::harness::{Database, Folder, Outcome, RULES, guests, integer, start};

const DATABASE: &str = "sink: { sqlite: { path: out.db } }\n";

/// A candle that every rule keeps; its minute tells it from others.
fn candle(minute: i64) -> String {
    candle_with(minute, "close", "100")
}

/// A candle in which a field has this value.
fn candle_with(minute: i64, name: &str, value: &str) -> String {
    let timestamp = (1_767_571_200_000 + minute * 60_000).to_string();
    let fields = [
        ("timestamp", timestamp.as_str()),
        ("open", "100"),
        ("high", "101"),
        ("low", "99"),
        ("close", "100"),
        ("volume", "5"),
        ("source", "\"kraken\""),
        ("symbol", "\"BTC/USD\""),
        ("timeframe", "\"1m\""),
    ];
    let written = fields.map(|(field, usual)| {
        let value = if field == name { value } else { usual };
        format!("\"{field}\":{value}")
    });
    format!("{{{}}}", written.join(","))
}

/// A folder whose pipeline reads `in.jsonl` through the rules into `out.db`.
fn folder(content: impl AsRef<[u8]>) -> Folder {
    let folder = Folder::new();
    folder.write("in.jsonl", content);
    folder.pipeline("in.jsonl", &format!("{RULES}{DATABASE}"));
    folder
}

/// The reason for which each of these rows is rejected; the good rows between them must be kept.
fn reasons(rows: &[String]) -> Vec<String> {
    let mut lines = candle(0);
    for (row, minute) in rows.iter().zip(1..) {
        lines += &format!("\n{row}\n{}", candle(minute));
    }
    let folder = folder(lines);
    let summary = folder.summary();
    assert_eq!(summary["written"], rows.len() + 1, "{summary}");
    let rejects = folder.rejects();
    let offsets: Vec<i64> = rejects.iter().map(|(offset, _)| *offset).collect();
    let expected: Vec<i64> = (0..).map(|row| 2 * row + 1).take(rows.len()).collect();
    assert_eq!(offsets, expected);
    rejects.into_iter().map(|(_, reason)| reason).collect()
}

#[test]
fn sources_that_are_no_file() {
    let folder = Folder::new();
    folder.pipeline("none.jsonl", DATABASE);
    folder.refused(3, "there is no such file; `source.file.path` is relative to the pipeline file");
    std::fs::create_dir(folder.path("folder")).unwrap();
    folder.pipeline("folder", DATABASE);
    folder.refused(3, "is a folder; name a file in it");
}

#[test]
fn an_empty_file_has_no_rows() {
    let folder = folder("");
    assert_eq!(folder.summary()["read"], 0);
    assert_eq!(folder.table("candles").len(), 0);
}

#[test]
fn an_empty_packed_file_has_no_rows() {
    let folder = Folder::new();
    for name in ["empty.jsonl.gz", "empty.jsonl.zst"] {
        folder.write(name, "");
        folder.pipeline(name, DATABASE);
        assert_eq!(folder.summary()["read"], 0, "{name}");
    }
}

/// Bytes without any order, the same in each run.
fn random_bytes(count: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn a_binary_file_is_all_dead_letters() {
    let bytes = random_bytes(64 << 10);
    for format in ["json", "ccxt", "csv"] {
        let folder = Folder::new();
        folder.write("in.bin", &bytes);
        folder.pipeline("in.bin", &format!("decode: {{ format: {format} }}\n{RULES}{DATABASE}"));
        let summary = folder.summary();
        assert_eq!(summary["written"], 0, "{format}: {summary}");
        assert!(summary["rejected"].as_u64().unwrap() > 100, "{format}: {summary}");
    }
    for (name, format, code, words) in [
        ("in.jsonl.gz", "json", 3, "is not gzip data, as its name says"),
        ("in.jsonl.zst", "json", 3, "is not zstd data, as its name says"),
        ("in.parquet", "parquet", 3, "is not a whole Parquet file"),
    ] {
        let folder = Folder::new();
        folder.write(name, &bytes);
        folder.pipeline(name, &format!("decode: {{ format: {format} }}\n{RULES}{DATABASE}"));
        folder.refused(code, words);
    }
}

#[test]
fn a_packed_file_that_ends_too_early_keeps_its_whole_rows() {
    let lines: String = (0..5_000).map(|minute| candle(minute) + "\n").collect();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(lines.as_bytes()).unwrap();
    let whole = encoder.finish().unwrap();
    let folder = Folder::new();
    folder.write("in.jsonl.gz", &whole[..whole.len() / 2]);
    folder.pipeline("in.jsonl.gz", &format!("{RULES}{DATABASE}batch: {{ rows: 100 }}\n"));
    folder.refused(1, "is not whole gzip data");
    let kept = folder.table("candles").len();
    assert!(0 < kept && kept < 5_000, "{kept}");
    // The whole file goes on where the cut one ended.
    folder.write("in.jsonl.gz", &whole);
    assert_eq!(folder.summary()["read"], 5_000 - kept);
    assert_eq!(folder.table("candles").len(), 5_000);
}

#[test]
fn a_row_of_a_hundred_mebibytes_costs_itself() {
    let folder = folder("");
    let mut file = BufWriter::new(std::fs::File::create(folder.path("in.jsonl")).unwrap());
    writeln!(file, "{}", candle(0)).unwrap();
    for _ in 0..100 {
        file.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    writeln!(file, "\n{}", candle(1)).unwrap();
    file.into_inner().unwrap();

    let outcome = folder.run();
    assert_eq!(outcome.summary()["written"], 2);
    assert_eq!(folder.rejects(), [(1, "too_long".into())]);
    assert!(outcome.peak_kib < 300 << 10, "{} KiB", outcome.peak_kib);
    let payload = "SELECT length(payload) FROM dead_letter";
    let stored = integer(&Database::open(&folder.path("out.db")).query(payload)[0][0]);
    assert!(stored < 1 << 20, "the dead letter has {stored} bytes of it");
}

#[test]
fn bytes_that_are_not_utf8_cost_their_row() {
    let lines =
        [candle(0).as_bytes(), b"\n{\"close\":1,\"symbol\":\"\xff\xfe\"}\n", candle(1).as_bytes()].concat();
    let folder = folder(lines);
    assert_eq!(folder.summary()["written"], 2);
    assert_eq!(folder.rejects(), [(1, "invalid_utf8".into())]);
}

#[test]
fn deep_json_costs_its_row() {
    let deep = |open: &str, close: &str| {
        format!("{{\"unknown\":{}1{},\"close\":1}}", open.repeat(1_000), close.repeat(1_000))
    };
    let rows = [
        deep("[", "]"),
        deep("{\"a\":", "}"),
        // Never closed, and too deep before that shows.
        format!("{{\"close\":{}", "[".repeat(100_000)),
        "[".repeat(100_000),
    ];
    let reasons = reasons(&rows);
    assert_eq!(reasons[..2], ["too_deep", "too_deep"]);
    for reason in &reasons[2..] {
        let known = ["too_deep", "malformed", "wrong_type", "not_a_row"];
        assert!(known.contains(&reason.as_str()), "{reason}");
    }
}

#[test]
fn a_key_that_is_there_twice_costs_its_row() {
    let twice = candle(50).replace("\"close\":100", "\"close\":100,\"close\":100");
    let by_another_name = candle(50).replace("\"close\":100", "\"close\":100,\"c\":100");
    assert_eq!(reasons(&[twice, by_another_name]), ["duplicate_field", "duplicate_field"]);
}

#[test]
fn numbers_that_are_none_never_reach_the_table() {
    let bare =
        ["NaN", "nan", "NAN", "-NaN", "Infinity", "-Infinity", "+Infinity", "inf", "-inf", "1.#INF", "0x1p3"];
    let rows: Vec<String> = bare.iter().map(|value| candle_with(50, "close", value)).collect();
    assert_eq!(reasons(&rows), vec!["malformed"; bare.len()]);

    let words =
        ["NaN", "nan", "-nan", "Infinity", "-Infinity", "+Infinity", "infinity", "inf", "-inf", "INF"];
    let quoted = |name: &str| -> Vec<String> {
        words.iter().map(|word| candle_with(50, name, &format!("\"{word}\""))).collect()
    };
    assert_eq!(reasons(&quoted("close")), vec!["price_not_finite"; words.len()]);
    assert_eq!(reasons(&quoted("volume")), vec!["volume_not_finite"; words.len()]);
    // A time that is no time does not decode.
    assert_eq!(reasons(&quoted("timestamp")), vec!["wrong_type"; words.len()]);

    let too_large = ["1e400", "-1e400", "\"1e400\""].map(|value| candle_with(50, "close", value));
    assert_eq!(reasons(&too_large), vec!["out_of_range"; 3]);
}

#[test]
fn a_locked_database() {
    let folder = folder(candle(0));
    folder.summary();
    folder.append("in.jsonl", format!("\n{}", candle(1)));
    let other = Connection::open(folder.path("out.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    folder.refused(3, "is locked by another process, which did not let go within 5 s");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(folder.summary()["written"], 1);
    assert_eq!(folder.table("candles").len(), 2);
}

#[test]
fn sinks_that_cannot_be_written() {
    let folder = folder(candle(0));
    std::fs::create_dir(folder.path("folder")).unwrap();
    folder.write("text.db", "this is not a database, but it is long enough to be taken for one\n".repeat(20));
    for (sink, words) in [
        (
            "sqlite: { path: none/out.db }",
            "of the database does not exist: make it, or change `sink.sqlite.path`",
        ),
        ("sqlite: { path: folder }", "is a folder: give the path of a database file in `sink.sqlite.path`"),
        ("sqlite: { path: text.db }", "is not a SQLite database: move it away"),
        (
            "file: { path: none/out.jsonl }",
            "its folder does not exist; make the folder, or give another path",
        ),
        ("file: { path: folder }", "it is a folder; give the path of a file"),
        ("file: { path: text.db }", "exists already and nothing says that this pipeline wrote it"),
        ("file: { path: text.db, format: parquet }", "cannot make the folder"),
    ] {
        folder.pipeline("in.jsonl", &format!("sink: {{ {sink} }}\n"));
        folder.refused(3, words);
    }
    assert!(folder.read("text.db").starts_with(b"this is not a database"));
}

#[test]
fn a_disk_that_is_full() {
    // In a namespace of its own a user may mount a small disk, if the system allows it.
    let unshare = ["--user", "--map-root-user", "--mount"];
    let mount = "mount -t tmpfs -o size=1m tidegate disk && exec \"$@\" > disk/stdout";
    for (sink, words) in [
        ("{ sqlite: { path: disk/out.db } }", "the disk is full"),
        ("{ file: { path: disk/out.jsonl } }", "the disk is full; free some space and start again"),
        ("stdout", "cannot write to standard output"),
    ] {
        let lines: String = (0..40_000).map(|minute| candle(minute) + "\n").collect();
        let folder = folder(lines);
        std::fs::create_dir(folder.path("disk")).unwrap();
        folder.pipeline("in.jsonl", &format!("sink: {sink}\n"));
        let run = folder.command();
        let mut command = Command::new("unshare");
        command.current_dir(folder.path("")).args(unshare).args(["sh", "-c", mount, "sh"]);
        command.arg(run.get_program()).args(run.get_args());
        if !can_mount(&folder) {
            eprintln!("did nothing: a disk cannot be mounted here");
            return;
        }
        start(command.stdin(Stdio::null())).finish().refused(1, words);
    }
}

fn can_mount(folder: &Folder) -> bool {
    let mount = "mount -t tmpfs -o size=1m tidegate disk";
    let mut command = Command::new("unshare");
    command.current_dir(folder.path("")).args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_reader_of_standard_output_that_goes_away() {
    let lines: String = (0..40_000).map(|minute| candle(minute) + "\n").collect();
    let folder = folder(lines);
    folder.pipeline("in.jsonl", "sink: stdout\nbatch: { rows: 100 }\n");
    let mut command = folder.command();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(line.starts_with('{'), "{line}");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("standard output was closed by the program that read it"), "{stderr}");
}

/// `tidegate check p.yaml`, with more arguments.
fn check(folder: &Folder, arguments: &[&str]) -> Outcome {
    let mut check = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    check.current_dir(folder.path("")).args(["check", "p.yaml", "--guests"]).arg(guests()).args(arguments);
    start(check.env("TIDEGATE_TEST_PASSWORD", CANARY)).finish()
}

/// A password that no output may have.
const CANARY: &str = "canary-8d21";

#[test]
fn pipeline_files_that_are_wrong() {
    let folder = folder(candle(0));
    let source = "source: { file: { path: in.jsonl } }\n";
    for (text, words) in [
        (
            format!("name: test\nsorce: {{}}\n{DATABASE}"),
            "p.yaml:2:1: unknown key `sorce`; did you mean `source`?",
        ),
        (format!("name: test\n{source}"), "p.yaml:1:1: missing key `sink`"),
        (
            format!("name: test\n{source}{DATABASE}batch: {{ rows: many }}\n"),
            "`batch.rows` must be a whole number",
        ),
        (format!("name: test\n{source}{DATABASE}batch: {{ bytes: 4 }}\n"), "must be a size with a unit"),
        (format!("name: [a]\n{source}{DATABASE}"), "`name` must be a text"),
        (
            format!("name: ${{TIDEGATE_TEST_UNSET}}\n{source}{DATABASE}"),
            "the variable `TIDEGATE_TEST_UNSET` is not set",
        ),
        (
            format!("name: test\n{source}{DATABASE}rules: [{{ name: a, component: nobody }}]\n"),
            "nobody.wasm` does not exist",
        ),
        (
            format!("name: test\n{source}{DATABASE}rules: [{{ name: a, component: ./in.jsonl }}]\n"),
            "in.jsonl` is not WebAssembly",
        ),
        (
            format!(
                "name: test\n{source}{DATABASE}rules: [{{ name: v, component: validate, settings: {{ sourcs: [] }} }}]\n"
            ),
            "the rule `v` refuses its settings: it said: settings: unknown field `sourcs`",
        ),
        (
            format!(
                "name: test\n{source}{DATABASE}decode: {{ columns: [{{ name: price, type: float }}] }}\n\
                 rules: [{{ name: v, component: validate }}]\n"
            ),
            "the rule `v` reads the column `timestamp`, which neither `decode` nor an earlier rule gives",
        ),
        ("name: [test\n".into(), "this is not YAML"),
        (String::new(), "p.yaml:1:1: the file is empty; a pipeline needs `name`, `source` and `sink`"),
        ("\u{0}\u{1}".into(), "p.yaml:1:1: this is not YAML"),
    ] {
        folder.write("p.yaml", &text);
        folder.refused(2, words);
        check(&folder, &[]).refused(2, words);
        assert!(!folder.path("out.db").exists(), "nothing is made for a pipeline that is wrong: {text}");
    }
    folder.write("p.yaml", [0xff, 0xfe, 0x00]);
    folder.refused(2, "this is not UTF-8 text; save the file as UTF-8");
    std::fs::remove_file(folder.path("p.yaml")).unwrap();
    folder.refused(2, "there is no such file");
    std::fs::create_dir(folder.path("p.yaml")).unwrap();
    folder.refused(2, "this is a folder, not a pipeline file");
}

/// The table's key is the last to notice them, and nothing that it does not store is counted as written.
#[test]
fn rows_that_the_table_has_already_are_accounted_for() {
    let other = candle_with(0, "close", "1.5");
    let folder = folder([candle(0), other, candle(0), candle(1)].join("\n"));
    folder.pipeline("in.jsonl", DATABASE);
    let summary = folder.summary();
    assert_eq!((&summary["written"], &summary["rejected"]), (&2.into(), &1.into()), "{summary}");
    assert_eq!(summary["dropped_by"], serde_json::json!([{ "rule": "sink", "count": 1 }]));
    let rejected_by = serde_json::json!([{ "rule": "sink", "reason": "key_taken", "count": 1 }]);
    assert_eq!(summary["rejected_by"], rejected_by);
    assert_eq!(folder.table("candles").len(), 2);
    assert_eq!(folder.rejects(), [(1, "key_taken".to_owned())]);
}

#[test]
fn a_packed_file_that_is_damaged_is_refused_before_its_first_row() {
    let lines: String = (0..5_000).map(|minute| candle(minute) + "\n").collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    let mut zstandard = zstd::Encoder::new(Vec::new(), 0).unwrap();
    zstandard.include_checksum(true).unwrap();
    zstandard.write_all(lines.as_bytes()).unwrap();
    for (name, whole) in
        [("in.jsonl.gz", gzip.finish().unwrap()), ("in.jsonl.zst", zstandard.finish().unwrap())]
    {
        let folder = Folder::new();
        folder.pipeline(name, &format!("{RULES}{DATABASE}"));
        for part in 1..8 {
            let mut damaged = whole.clone();
            damaged[whole.len() * part / 8] ^= 1;
            folder.write(name, damaged);
            folder.refused(3, "is damaged");
            assert!(!folder.path("out.db").exists(), "{name}");
        }
        folder.write(name, &whole);
        assert_eq!(folder.summary()["written"], 5_000, "{name}");
    }
}

const KAFKA: &str = "\
name: test
source:
  kafka:
    brokers: localhost:9092
    topic: in
    sasl: { mechanism: PLAIN, username: tidegate, password: \"@\" }
sink:
  kafka: { topic: out }
";

#[test]
fn pipeline_files_that_are_wrong_about_kafka() {
    let folder = Folder::new();
    folder.write("p.yaml", KAFKA);
    let good = check(&folder, &[]);
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""));
    for (old, new, words) in [
        (
            "localhost:9092",
            "localhost",
            "p.yaml:4:14: the broker must be `host:port` with a port of 1 to 65535",
        ),
        (
            "{ topic: out }",
            "{ topic: out, brokers: 'elsewhere:9092' }",
            "p.yaml:8:33: rows and the position in the source can be one transaction on one cluster only",
        ),
        (
            "topic: in\n",
            "topic: in\n    options: { group.id: a }\n",
            "p.yaml:6:26: unknown key `group.id` in `source.kafka.options`; give `source.kafka.group` instead",
        ),
        ("{ topic: out }", "{ topic: in }", "p.yaml:8:19: the topic `in` is also the source's"),
    ] {
        folder.write("p.yaml", KAFKA.replace(old, new));
        check(&folder, &[]).refused(2, words);
        folder.refused(2, words);
    }
}

/// A password from a file, from a variable or in the file itself, with mistakes in and around it.
#[test]
fn no_output_of_check_has_a_password() {
    let folder = Folder::new();
    folder.write("password", format!("{CANARY}\n"));
    let mistakes = [
        ("mechanism: PLAIN", "mechanism: plain"),
        ("mechanism: PLAIN, ", ""),
        ("username: tidegate", "username: ''"),
        ("password: ", "passwort: "),
        ("password: \"@\"", "password: [\"@\"]"),
        ("password: \"@\"", "password: { is: \"@\" }"),
        ("password: \"@\"", "password: @"),
        ("password: \"@\"", "password: \"@"),
        ("{ mechanism: PLAIN, username: tidegate, password: \"@\" }", "\"@\""),
        (
            "    sasl: { mechanism: PLAIN, username: tidegate, password: \"@\" }",
            "    tls: { key_password: \"@\" }",
        ),
        (
            "    sasl: { mechanism: PLAIN, username: tidegate, password: \"@\" }",
            "    options: { sasl.password: \"@\" }",
        ),
        ("    sasl: { mechanism: PLAIN, username: tidegate, password: \"@\" }", "    options: \"@\""),
        ("localhost:9092", "localhost"),
        ("topic: out", "topic: in"),
    ];
    let numeric = "5318008531800853";
    for password in ["${file:password}", "${TIDEGATE_TEST_PASSWORD}", CANARY, numeric] {
        for (old, new) in mistakes {
            assert!(KAFKA.contains(old), "{old}");
            let text = KAFKA.replace(old, new).replace('@', password);
            folder.write("p.yaml", &text);
            for arguments in [&[][..], &["--json"]] {
                let outcome = check(&folder, arguments);
                // Without quotes it is right where it is a text and needs none.
                if new != "password: @" {
                    assert_eq!(outcome.code, Some(2), "{text}");
                }
                let output = outcome.stdout + &outcome.stderr;
                assert!(!output.contains(CANARY) && !output.contains(numeric), "{text}: {output}");
            }
        }
    }
}
