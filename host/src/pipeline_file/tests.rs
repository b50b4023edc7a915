//! Every way in which a pipeline file can be wrong, with the sentence it gets.

mod database;
mod kafka;

use super::*;

/// Reads `text` as a pipeline file `p.yaml`; findings come back as printed, without the folder.
fn read_as(bytes: impl AsRef<[u8]>) -> Result<Loaded, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "canary-5f3a\n").unwrap();
    std::fs::write(folder.path().join("p.yaml"), bytes).unwrap();
    let variable = |name: &str| match name {
        "TOKEN" => Some("canary-5f3a".to_owned()),
        "ROWS" => Some("500".to_owned()),
        _ => None,
    };
    let prefix = format!("{}/", folder.path().display());
    read_with(&folder.path().join("p.yaml"), &variable)
        .map_err(|findings| findings.iter().map(|f| f.to_string().replace(&prefix, "")).collect())
}

fn findings(bytes: impl AsRef<[u8]>) -> Vec<String> {
    read_as(bytes).expect_err("the file is wrong")
}

const GOOD: &str = "\
name: demo
source:
  file: { path: in.jsonl }
sink:
  sqlite: { path: out.db }
";

/// The good file with `more` after it.
fn good_and(more: &str) -> String {
    format!("{GOOD}{more}")
}

#[test]
fn a_whole_pipeline_is_read() {
    let loaded = read_as(
        r#"
name: quick-start
source: { file: { path: "in.jsonl" } }
decode:
  format: csv
  columns:
    - { name: timestamp, type: timestamp, from: [ts, t] }
    - name: price
      type: float
  constants: { price: 1.5 }
  row: 2MiB
rules:
  - name: validate
    component: validate
    settings: { sources: [a, b], factor: 1.5, deep: { on: true, nothing: null } }
    limits: { memory: 32MiB, call: 100ms }
  - { name: dedup, component: ./dedup.wasm }
sink: { sqlite: { path: out.db, table: trades, key: [timestamp] } }
dead_letter: { file: { path: rejected.jsonl } }
batch: { rows: "${ROWS}", wait: 5ms }
remember:
"#,
    )
    .unwrap();
    let pipeline = &loaded.pipeline;
    assert_eq!(pipeline.name, "quick-start");
    assert_eq!(pipeline.batch.rows, 500);
    assert_eq!(pipeline.batch.bytes, ByteSize(4 << 20));
    assert_eq!(pipeline.remember.rows, 1_000_000);
    assert_eq!(pipeline.decode.constants["price"], Scalar::Float(1.5));
    assert_eq!(
        serde_json::to_value(&pipeline.rules[0].settings).unwrap(),
        serde_json::json!({ "sources": ["a", "b"], "factor": 1.5, "deep": { "on": true, "nothing": null } })
    );
    assert_eq!(pipeline.rules[0].limits.call, Span(Duration::from_millis(100)));
    assert_eq!(resolve(&loaded.folder, "x/y"), loaded.folder.join("x/y"));
    assert_eq!(resolve(&loaded.folder, "-"), PathBuf::from("-"));
}

#[test]
fn a_bare_name_is_enough_for_what_has_nothing_to_set() {
    for sink in ["stdout", "{ stdout: {} }", "{ stdout: }"] {
        let loaded =
            read_as(format!("name: a\nsource: {{ file: {{ path: '-' }} }}\nsink: {sink}\n")).unwrap();
        assert!(matches!(loaded.pipeline.sink, Sink::Stdout(_)));
    }
    assert_eq!(
        findings("name: a\nsource: { file: { path: '-' } }\nsink: file\n"),
        ["p.yaml:3:7: missing key `path` in `sink.file`"]
    );
}

#[test]
fn what_is_no_pipeline_file_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let of = |path: &Path| read(path).unwrap_err().remove(0).message;
    assert_eq!(of(&folder.path().join("missing.yaml")), "there is no such file");
    assert_eq!(of(folder.path()), "this is a folder, not a pipeline file");
    let large = folder.path().join("large.yaml");
    std::fs::write(&large, vec![b'#'; 10 << 20]).unwrap();
    assert_eq!(of(&large), "this has more than 1 MiB, which no pipeline file has");
    for empty in ["", "\n\n", "# nothing\n"] {
        assert_eq!(
            findings(empty),
            ["p.yaml:1:1: the file is empty; a pipeline needs `name`, `source` and `sink`"]
        );
    }
    assert_eq!(
        findings(b"name: demo\nsource: \xff\n"),
        ["p.yaml:2:9: this is not UTF-8 text; save the file as UTF-8"]
    );
    assert_eq!(findings("- a\n"), ["p.yaml:1:1: a pipeline file must be a mapping, but is a list"]);
    assert_eq!(findings("a"), ["p.yaml:1:1: a pipeline file must be a mapping, but is the text `a`"]);
    assert_eq!(findings("\0\0\0ELF").len(), 1);
}

#[test]
fn faults_of_syntax_have_their_place() {
    for (text, expected) in [
        ("name: demo\nsource:\n\tfile: x\n", "p.yaml:3:2: a tab cannot indent YAML; use spaces"),
        ("name: a\nname: b\n", "p.yaml:2:1: the key `name` is there twice; first in line 1"),
        ("name: *nobody\n", "p.yaml:1:7: this alias has no anchor before it"),
        ("name: &a [*a]\n", "p.yaml:1:11: this alias refers to what contains it"),
        ("a: &a { b: { c: *a } }\n", "p.yaml:1:17: this alias refers to what contains it"),
        ("name: !!str a\n", "p.yaml:1:13: tags (`!…`) are not supported; quote the value if it is a text"),
        (
            "a: &a { b: 1 }\nc: { <<: *a }\n",
            "p.yaml:2:6: merge keys (`<<`) are not supported; use an alias for the whole value",
        ),
        ("name: a\n---\nname: b\n", "p.yaml:2:1: a second document starts here; one file holds one pipeline"),
        ("? [a]\n: b\n", "p.yaml:1:3: a key must be a text"),
    ] {
        assert_eq!(findings(text), [expected], "{text}");
    }
    assert_eq!(
        findings("a: { b: ${TOKEN} }\n"),
        ["p.yaml:1:10: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}'; \
          inside `{ }` and `[ ]` put `${…}` in quotes"]
    );
    for text in ["name: [a\n", "name: \"a\n", "a: b: c\n", "{", "}", "a:\n  b\n c: d\n"] {
        let found = findings(text);
        assert!(found[0].contains(": this is not YAML: "), "{found:?}");
    }
}

#[test]
fn a_file_that_multiplies_or_nests_itself_is_stopped() {
    let mut laughs = String::from("a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n");
    for level in 1..12 {
        let last = level - 1;
        laughs +=
            &format!("a{level}: &a{level} [*a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}]\n");
    }
    assert!(findings(&laughs)[0].ends_with("the aliases of this file multiply it beyond 64 MiB"));
    let mut texts = format!("a: &a \"{}\"\nb: [", "x".repeat(100_000));
    texts += &"*a, ".repeat(10_000);
    texts += "]\n";
    assert!(findings(&texts)[0].ends_with("the aliases of this file multiply it beyond 64 MiB"));
    let mut chain = String::from("a0: &a0 [x]\n");
    for level in 1..10_000 {
        chain += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
    }
    assert!(findings(&chain)[0].ends_with("this is nested deeper than 64 levels"));
    let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(findings(&deep).len(), 1);
}

#[test]
fn unknown_keys_have_a_hint_and_all_are_found() {
    assert_eq!(
        findings(
            "name: demo\nsorce: { file: { path: a } }\nsink: { sqlite: { path: b, tabel: c } }\nzzz: 1\n"
        ),
        [
            "p.yaml:2:1: unknown key `sorce`; did you mean `source`?",
            "p.yaml:3:28: unknown key `tabel` in `sink.sqlite`; did you mean `table`?",
            "p.yaml:4:1: unknown key `zzz`; known are `name`, `source`, `decode`, `rules`, `sink`, \
             `dead_letter`, `batch`, `remember`, `delivery`, `lanes`, `http`, `deploy`, `rule_versions`",
        ]
    );
    assert_eq!(
        findings(good_and("batch:\n  rows_max: 5\n")),
        ["p.yaml:7:3: unknown key `rows_max` in `batch`; did you mean `rows`?"]
    );
    assert_eq!(
        findings("name: a\nsource: { fil: { path: a } }\nsink: { sqlite: { path: a }, file: { path: b } }\n"),
        [
            "p.yaml:2:11: unknown key `fil` in `source`; did you mean `file`?",
            "p.yaml:3:30: `sink` has both `sqlite` and `file`; it can be one of them only",
        ]
    );
    assert_eq!(
        findings("name: a\nsource: {}\nsink: 5\n"),
        [
            "p.yaml:2:9: `source`: it needs one of the keys `file`, `kafka`, `exchange`",
            "p.yaml:3:7: `sink` must be one of `sqlite`, `file`, `kafka`, `timescale`, `clickhouse`, \
             `stdout`, but is the number 5",
        ]
    );
}

#[test]
fn wrong_types_say_what_is_expected_and_what_is_there() {
    let text = good_and(
        "\
decode: { format: jsn, columns: bananas, constants: { source: [a] }, row: 5 }
rules:
  - { name: 5, component: a, settings: [], limits: { memory: 64, call: 5 parsecs, file: xy } }
  - { component: b }
batch: { rows: many, bytes: { a: 1 }, wait: 250ms }
remember: []
",
    );
    assert_eq!(
        findings(text),
        [
            "p.yaml:6:19: `decode.format`: `jsn` is unknown; did you mean `json`?",
            "p.yaml:6:33: `decode.columns` must be `ohlcv`, `candles` or a list of columns, but is the text `bananas`",
            "p.yaml:6:63: `decode.constants.source` must be a text, a number or a boolean, but is a list",
            "p.yaml:6:75: `decode.row` must be a size with a unit, such as `64MiB`, but is the number 5",
            "p.yaml:8:13: `rules[0].name` must be a text, but is the number 5; put it in quotes",
            "p.yaml:8:40: `rules[0].settings` must be a mapping, but is a list",
            "p.yaml:8:62: `rules[0].limits.memory` must be a size with a unit, such as `64MiB`, but is the \
             number 64",
            "p.yaml:8:72: `rules[0].limits.call`: `5 parsecs` needs a unit: ms, s, m, h or d",
            "p.yaml:8:89: `rules[0].limits.file`: `xy` does not start with a whole number",
            "p.yaml:9:5: missing key `name` in `rules[1]`",
            "p.yaml:10:16: `batch.rows` must be a whole number, but is the text `many`",
            "p.yaml:10:29: `batch.bytes` must be a size with a unit, such as `64MiB`, but is a mapping",
            "p.yaml:11:11: `remember` must be a mapping, but is a list",
        ]
    );
    for (rows, actual) in
        [("-1", "the number -1"), ("1.5", "the number 1.5"), ("\"5\"", "the text `5`"), ("", "empty")]
    {
        assert_eq!(
            findings(good_and(&format!("batch: {{ rows: {rows} }}\n"))),
            [format!(
                "p.yaml:6:{}: `batch.rows` must be a whole number, but is {actual}",
                if rows.is_empty() { 14 } else { 16 }
            )]
        );
    }
    assert_eq!(findings("name: a\nsource: { file: { path: a } }\n"), ["p.yaml:1:1: missing key `sink`"]);
}

#[test]
fn undefined_variables_are_all_found() {
    assert_eq!(
        findings("name: ${NAME}\nsource: { file: { path: \"${IN:?say where}\" } }\nsink: stdout\n"),
        [
            "p.yaml:1:7: the variable `NAME` is not set; set it, or write `${NAME:-default}`",
            "p.yaml:2:25: the variable `IN` is not set: say where",
        ]
    );
}

#[test]
fn meaning_is_checked_after_form() {
    let cases = [
        ("name: Demo!\n", "name", "1:7: the name `Demo!` must be 1 to 64 of `a-z 0-9 - _`"),
        ("batch: { rows: 0 }\n", "", "6:16: `rows` must be 1 to 1000000, but is 0"),
        ("batch: { bytes: 2GiB }\n", "", "6:17: `bytes` must be 1 to 1073741824 bytes, but is 2147483648"),
        ("remember: { rows: 100000001 }\n", "", "6:19: `rows` must be 0 to 100000000, but is 100000001"),
        ("decode: { row: 65MiB }\n", "", "6:16: `row` must be 1 to 67108864 bytes, but is 68157440"),
        ("decode: { columns: [] }\n", "", "6:20: there must be 1 to 64 columns, but there are 0"),
        (
            "decode: { columns: [{ name: A, type: float }] }\n",
            "",
            "6:29: the column name `A` must be 1 to 64 of `a-z 0-9 _` and not start with a digit",
        ),
        (
            "decode: { columns: [{ name: a, type: float }, { name: a, type: text }] }\n",
            "",
            "6:55: the column `a` is there twice",
        ),
        (
            "decode: { columns: [{ name: a, type: float, from: [b] }, { name: b, type: text }] }\n",
            "",
            "6:52: the name `b` is already a name of the column `b`",
        ),
        (
            "decode: { constants: { symbl: BTC } }\n",
            "",
            "6:31: the constant `symbl` is no column; did you mean `symbol`?",
        ),
        (
            "decode: { constants: { open: x } }\n",
            "",
            "6:30: the constant `open` must be of the column's type `float`",
        ),
        (
            "rules: [{ name: decode, component: a }]\n",
            "",
            "6:17: the rule name `decode` is taken: rows that do not decode are counted under it",
        ),
        (
            "rules: [{ name: a, component: a }, { name: a, component: b }]\n",
            "",
            "6:44: the rule name `a` is there twice; each needs its own",
        ),
        (
            "rules: [{ name: a, component: a, limits: { memory: 5GiB } }]\n",
            "",
            "6:52: `memory` must be 65536 to 4294967296 bytes, but is 5368709120",
        ),
        ("dead_letter: { sqlite: { table: Candles } }\n", "", "6:33: the table `Candles` is the sink's own"),
        (
            "dead_letter: { file: { path: ./out.db } }\n",
            "",
            "6:30: the dead letter `./out.db` is the same file as the sink",
        ),
        (
            "dead_letter: { file: { path: '-' } }\n",
            "",
            "6:30: `-` is not a file; for standard output write `stdout` in the place of `file`",
        ),
    ];
    for (line, replaces, expected) in cases {
        let text = match replaces {
            "" => good_and(line),
            _ => good_and("").replace("name: demo\n", line),
        };
        assert_eq!(findings(text), [format!("p.yaml:{expected}")], "{line}");
    }
    assert_eq!(
        findings("name: a\nsource: { file: { path: a } }\nsink: stdout\ndead_letter: { sqlite: {} }\n"),
        ["p.yaml:4:14: a `sqlite` dead letter is a table of the sink's database, and this sink is not \
          `sqlite`; use `file`"]
    );
    assert_eq!(
        findings(
            "name: a\nsource: { file: { path: a } }\ndecode: { format: ccxt, columns: [{ name: timestamp, \
             type: timestamp }] }\nsink: { sqlite: { path: b, key: [timestmp] } }\n"
        )
        .len(),
        6
    );
    let many: String = (0..33).map(|n| format!("  - {{ name: r{n}, component: a }}\n")).collect();
    assert_eq!(
        findings(good_and(&format!("rules:\n{many}"))),
        ["p.yaml:7:3: there can be at most 32 rules, but there are 33"]
    );
}

/// No message shows what a variable or a secret file stands for.
#[test]
fn secrets_stay_out_of_messages() {
    let places = [
        "decode: { format: \"@\" }\n",
        "decode: { columns: \"@\" }\n",
        "decode: { columns: [{ name: \"@!\", type: float }] }\n",
        "decode: { columns: [{ name: a, type: \"@\" }] }\n",
        "decode: { row: \"@\" }\n",
        "decode: { constants: { open: \"@\" } }\n",
        "decode: \"@\"\n",
        "rules: \"@\"\n",
        "rules: [{ name: \"@ \", component: a }]\n",
        "rules: [{ name: a, component: a, settings: \"@\" }]\n",
        "rules: [{ name: a, component: a, limits: { call: \"1@\" } }]\n",
        "dead_letter: \"@\"\n",
        "dead_letter: { sqlite: { table: \"@\" } }\n",
        "dead_letter: { file: \"@\" }\n",
        "batch: { rows: \"@\" }\n",
        "batch: { wait: \"@\" }\n",
        "remember: { window: \"@\" }\n",
    ];
    for reference in ["${TOKEN}", "${file:token}"] {
        for place in places {
            let found = findings(good_and(&place.replace('@', reference))).join("\n");
            assert!(!found.contains("canary"), "{found}");
        }
        let found = findings(good_and(&format!("batch: {{ rows: \"{reference}\" }}\n")));
        assert_eq!(
            found,
            [format!(
                "p.yaml:6:16: `batch.rows` must be a whole number, but what `{reference}` stands for is not"
            )]
        );
    }
    let loaded =
        read_as(good_and("rules: [{ name: a, component: a, settings: { key: \"${TOKEN}\" } }]\n")).unwrap();
    assert_eq!(loaded.pipeline.rules[0].settings["key"], "canary-5f3a");
    assert!(!format!("{loaded:?}").contains("canary"));
    let message = loaded.finding(&["rules", "0", "settings"], "`canary-5f3a` is no key").to_string();
    assert!(message.ends_with(":6:44: `${TOKEN}` is no key"), "{message}");
}

#[test]
fn the_schema_is_for_editors() {
    let schema = json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["title"], "Tidegate pipeline");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["name", "source", "sink"]));
    assert!(schema["properties"]["name"]["description"].as_str().unwrap().contains("at most 64"));
    assert_eq!(schema["$defs"]["ByteSize"]["type"], "string");
}

/// A source that is a file of the sink would never end, or would be written over.
#[test]
fn the_source_is_no_file_that_the_sink_makes() {
    let cases = [
        (
            "out.rejected.jsonl",
            "jsonl",
            "the sink's dead letter `out.rejected.jsonl` is the same file as the source",
        ),
        (
            "./out.jsonl.position",
            "jsonl",
            "the sink's position `out.jsonl.position` is the same file as the source",
        ),
        (
            "out.jsonl/_rejected.jsonl",
            "parquet",
            "the sink's dead letter `out.jsonl/_rejected.jsonl` is the same file",
        ),
        (
            "out.jsonl/_position.json",
            "parquet",
            "the sink's position `out.jsonl/_position.json` is the same file",
        ),
    ];
    for (source, format, sentence) in cases {
        let found = findings(format!(
            "name: a\nsource: {{ file: {{ path: {source} }} }}\nsink: {{ file: {{ path: out.jsonl, format: {format} }} }}\n"
        ));
        assert_eq!((found.len(), found[0].contains(sentence)), (1, true), "{found:?}");
    }
    let elsewhere = "name: a\nsource: { file: { path: out.rejected.jsonl } }\nsink: { file: { path: out.jsonl } }\n\
                     dead_letter: stdout\n";
    assert!(read_as(elsewhere).is_ok());
    assert_eq!(
        findings(good_and("rules: [{ name: sink, component: a }]\n")),
        [
            "p.yaml:6:17: the rule name `sink` is taken: rows that the sink does not store are counted under it"
        ]
    );
}

#[test]
fn what_replacing_rules_and_http_cannot_be_is_said() {
    let cases = [
        ("deploy: { refused: 1.5 }", "6:20: `refused` must be 0 to 1, but is 1.5"),
        ("deploy: { probation: 5 }", "6:22: `deploy.probation` must be a time with a unit, such as `250ms`"),
        ("rule_versions: close", "6:16: the column `close` is one of `decode` already"),
        ("rule_versions: Who", "6:16: the column name `Who` must be 1 to 64 of `a-z 0-9 _`"),
        (
            "http: 9101",
            "6:7: `http` must be an address such as `127.0.0.1:9101`, or `address` and `token_file`",
        ),
        ("http: example.com:9101", "6:7: `example.com:9101` is no address with a port"),
        ("http: { address: 10.0.0.1:9101 }", "6:18: `10.0.0.1:9101` can be reached from other machines"),
        (
            "http: { address: 0.0.0.0:9101, token_file: '' }",
            "6:18: `0.0.0.0:9101` can be reached from other machines",
        ),
    ];
    for (more, sentence) in cases {
        let found = findings(good_and(&format!("{more}\n")));
        assert!(found.len() == 1 && found[0].contains(sentence), "{more}: {found:?}");
    }
    let loaded = read_as(good_and("http: { address: '[::1]:9101' }\nrule_versions: decided_by\n")).unwrap();
    assert_eq!(loaded.pipeline.http.unwrap().address(), "[::1]:9101");
}
