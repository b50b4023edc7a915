//! What a pipeline file can say about Kafka, right and wrong.

use super::*;

const KAFKA: &str = "\
name: demo
source:
  kafka:
    brokers: a:9092
    topic: in
sink:
  kafka:
    topic: out
";

/// Every key.
const FULL: &str = r#"
name: demo
source:
  kafka:
    brokers: "a.example:9092, b.example:9092,[::1]:9093"
    topic: [candles.binance, candles.kraken]
    group: candles
    start: 2026-01-02T03:04:05Z
    deleted: earliest
    session: 30s
    tls: { ca: ca.pem, certificate: client.pem, key: client.key, key_password: "${TOKEN}" }
    sasl: { mechanism: SCRAM-SHA-512, username: tidegate, password: "${file:token}" }
    options: { client.id: tidegate, fetch.min.bytes: 1000, socket.keepalive.enable: true }
decode: { format: ccxt }
rules: [{ name: validate, component: validate }]
sink:
  kafka:
    topic: candles
    brokers: c.example:9092
    key: [symbol]
    compression: zstd
    create: true
    commit: { rows: 10000, wait: 100ms }
    tls: {}
    sasl: { mechanism: PLAIN, username: tidegate, password: "${TOKEN}" }
    options: { linger.ms: 5 }
dead_letter: { kafka: { topic: candles-wrong } }
delivery: at_least_once
lanes: 4
"#;

/// The pipeline with `new` in the place of `old`.
fn with(old: &str, new: &str) -> String {
    assert_eq!(KAFKA.matches(old).count(), 1, "{old}");
    KAFKA.replace(old, new)
}

#[test]
fn every_key_is_read() {
    let loaded = read_as(FULL).unwrap();
    let Pipeline { source, sink, delivery, lanes, .. } = &loaded.pipeline;
    let (source, sink) = (source.kafka().unwrap(), sink.kafka().unwrap());
    assert_eq!(source.topic.0, ["candles.binance", "candles.kraken"]);
    assert_eq!(source.group(&loaded.pipeline.name), "candles");
    assert_eq!(source.start, Start::Time(1_767_323_045_000));
    assert_eq!(source.deleted, Deleted::Earliest);
    assert_eq!(source.session, Span(Duration::from_secs(30)));
    assert_eq!(source.sasl.as_ref().unwrap().password.reveal(), "canary-5f3a");
    assert_eq!(source.options.0["fetch.min.bytes"], "1000");
    assert_eq!(source.options.0["socket.keepalive.enable"], "true");
    assert_eq!(sink.connection(Some(source)).setting, "sink.kafka");
    assert_eq!(sink.connection(Some(source)).brokers, "c.example:9092");
    assert_eq!((sink.compression.name(), sink.create, sink.commit.rows), ("zstd", true, 10_000));
    assert_eq!((*delivery, *lanes), (Delivery::AtLeastOnce, 4));
    assert_eq!(sink.dead_letter_topic(&loaded.pipeline), "candles-wrong");
}

#[test]
fn little_is_needed() {
    let loaded = read_as(KAFKA).unwrap();
    let Pipeline { name, source, sink, delivery, lanes, .. } = &loaded.pipeline;
    let (source, sink) = (source.kafka().unwrap(), sink.kafka().unwrap());
    assert_eq!(source.group(name), "tidegate-demo");
    assert_eq!((source.start, source.deleted), (Start::Earliest, Deleted::Stop));
    assert_eq!(sink.connection(Some(source)).setting, "source.kafka");
    assert_eq!((sink.compression.name(), sink.create), ("lz4", false));
    assert_eq!((*delivery, *lanes), (Delivery::ExactlyOnce, 1));
    assert_eq!(sink.dead_letter_topic(&loaded.pipeline), "out-rejected");
    for (new, name) in [
        ("brokers: a:9092, B:1 ,c_1.example-2:65535", "a name, with spaces around"),
        ("brokers: '[::1]:9092,[2001:db8::1]:1'", "an address"),
        ("brokers: 127.0.0.1:9092", "an address of version 4"),
    ] {
        assert!(read_as(with("brokers: a:9092", new)).is_ok(), "{name}");
    }
    // The same cluster, by another list; and the same topic in another one.
    assert!(read_as(with("topic: out", "topic: out\n    brokers: b:9092,A:9092")).is_ok());
    let elsewhere = with("topic: out", "topic: in\n    brokers: b:9092") + "delivery: at_least_once\n";
    assert!(read_as(elsewhere).is_ok());
}

#[test]
fn what_is_wrong_with_a_source() {
    let many_brokers = ["a:1"; 65].join(",");
    let many_topics: Vec<String> = (0..65).map(|n| format!("t{n}")).collect();
    let long = "x".repeat(250);
    let port = "must be `host:port` with a port of 1 to 65535";
    let key = "p.yaml:4:14:";
    let topic = "must be 1 to 249 of `a-z A-Z 0-9 . _ -`, and not `.` or `..`";
    let group =
        "p.yaml:6:12: the group must be a text of 1 to 249 bytes without control characters".to_owned();
    let hidden = "p.yaml:6:12: `start` must not be before 1970";
    for (old, new, expected) in [
        (
            "a:9092",
            "''".to_owned(),
            format!("{key} the brokers are empty; give `host:port`, several with commas between them"),
        ),
        ("a:9092", many_brokers, format!("{key} there can be at most 64 brokers, but there are 65")),
        ("a:9092", "a".into(), format!("{key} the broker {port}")),
        ("a:9092", "a:9092,".into(), format!("{key} broker 2 {port}")),
        ("a:9092", "a:9092,b:0,c:1".into(), format!("{key} broker 2 {port}")),
        ("a:9092", "a:65536".into(), format!("{key} the broker {port}")),
        ("a:9092", "a:+1".into(), format!("{key} the broker {port}")),
        ("a:9092", "':9092'".into(), format!("{key} the broker {port}")),
        ("a:9092", "::1:9092".into(), format!("{key} the broker {port}")),
        ("a:9092", "'[::g]:9092'".into(), format!("{key} the broker {port}")),
        ("a:9092", "ssl://a:9092".into(), format!("{key} the broker {port}")),
        ("a:9092", "a b:9092".into(), format!("{key} the broker {port}")),
        (
            "topic: in",
            "topic: []".into(),
            "p.yaml:5:12: there must be 1 to 64 topics, but there are 0".into(),
        ),
        (
            "topic: in",
            format!("topic: [{}]", many_topics.join(", ")),
            "p.yaml:5:12: there must be 1 to 64 topics, but there are 65".into(),
        ),
        ("topic: in", "topic: [a, b, a]".into(), "p.yaml:5:19: the topic `a` is there twice".into()),
        ("topic: in", "topic: ''".into(), format!("p.yaml:5:12: the topic `` {topic}")),
        ("topic: in", "topic: ..".into(), format!("p.yaml:5:12: the topic `..` {topic}")),
        ("topic: in", "topic: [a, ^b]".into(), format!("p.yaml:5:16: the topic `^b` {topic}")),
        ("topic: in", format!("topic: {long}"), format!("p.yaml:5:12: the topic `{long}` {topic}")),
        (
            "topic: in",
            "topic: 5".into(),
            "p.yaml:5:12: `source.kafka.topic` must be a topic or a list of topics, but is the number 5"
                .into(),
        ),
        ("topic: in", "topic: in\n    group: ''".into(), group.clone()),
        ("topic: in", format!("topic: in\n    group: {long}"), group.clone()),
        ("topic: in", "topic: in\n    group: \"a\\nb\"".into(), group),
        ("topic: in", "topic: in\n    start: 1969-12-31T23:59:59.999Z".into(), hidden.into()),
        (
            "topic: in",
            "topic: in\n    start: 2026-01-02".into(),
            "p.yaml:6:12: `source.kafka.start` must be `earliest`, `latest`, `committed` or a time such as \
             `2026-01-02T03:04:05Z`, but is the text `2026-01-02`"
                .into(),
        ),
        (
            "topic: in",
            "topic: in\n    session: 999ms".into(),
            "p.yaml:6:14: `session` must be 1s to 30m, but is 999ms".into(),
        ),
        (
            "topic: in",
            "topic: in\n    session: 1h".into(),
            "p.yaml:6:14: `session` must be 1s to 30m, but is 1h".into(),
        ),
    ] {
        assert_eq!(findings(with(old, &new)), [expected], "{new}");
    }
    for format in ["csv", "parquet"] {
        assert_eq!(
            findings(format!("{KAFKA}decode: {{ format: {format} }}\n")),
            [format!(
                "p.yaml:9:19: a message of a `kafka` source is one row, which `{format}` cannot be; use `json` or `ccxt`"
            )]
        );
    }
}

#[test]
fn what_is_wrong_with_a_connection() {
    let sasl = |user: &str, password: &str| {
        format!("sasl: {{ mechanism: PLAIN, username: {user}, password: {password} }}")
    };
    for (line, expected) in [
        ("tls: { key: a }".to_owned(), "17: `key` needs `certificate` beside it"),
        ("tls: { certificate: a }".into(), "25: `certificate` needs `key` beside it"),
        ("tls: { key_password: a }".into(), "26: `key_password` needs `key` beside it"),
        ("tls: { ca: '' }".into(), "16: the path in `ca` is empty"),
        (
            "tls: { ca: \"-----BEGIN CERTIFICATE-----\\ncanary\" }".into(),
            "16: `ca` must be a path, and this is what the file should have; put it into a file",
        ),
        (
            "tls:".into(),
            "8: `tls` is empty, which is no TLS; write `tls: {}` for TLS with the authorities that the system \
             trusts, or leave it out",
        ),
        (sasl("''", "b"), "41: the username is empty"),
        (sasl("a", "''"), "54: the password is empty"),
        (
            sasl("a", "12345"),
            "54: `source.kafka.sasl.password` must be a text, but is a number; put it in quotes",
        ),
        (
            "sasl: { mechanism: SCRAM, username: a, password: b }".into(),
            "24: `source.kafka.sasl.mechanism`: `SCRAM` is unknown; known are `PLAIN`, `SCRAM-SHA-256`, \
             `SCRAM-SHA-512`",
        ),
    ] {
        assert_eq!(
            findings(with("topic: in", &format!("topic: in\n    {line}"))),
            [format!("p.yaml:6:{expected}")],
            "{line}"
        );
    }
}

#[test]
fn settings_of_librdkafka_that_have_no_place_say_where_it_is() {
    let depends = "delivery depends on it, so the host sets it";
    for (name, hint) in [
        ("linger_ms", "did you mean `linger.ms`?"),
        ("fetch.min.byte", "did you mean `fetch.min.bytes`?"),
        ("ssl.endpoint.identification.algoritm", "did you mean `ssl.endpoint.identification.algorithm`?"),
        ("sasl.password", "give `source.kafka.sasl` instead"),
        ("security.protocol", "`source.kafka.tls` and `source.kafka.sasl` decide it, by being there"),
        ("ssl.ca.location", "give `source.kafka.tls` instead"),
        (
            "enable.ssl.certificate.verification",
            "certificates are always verified; give their authority in `source.kafka.tls.ca`",
        ),
        ("group.id", "give `source.kafka.group` instead"),
        ("session.timeout.ms", "give `source.kafka.session` instead"),
        ("bootstrap.servers", "give `source.kafka.brokers` instead"),
        ("metadata.broker.list", "give `source.kafka.brokers` instead"),
        ("auto.offset.reset", "give `source.kafka.start` and `source.kafka.deleted` instead"),
        ("allow.auto.create.topics", "give `sink.kafka.create` instead"),
        ("compression.type", "give `sink.kafka.compression` instead"),
        ("queue.buffering.max.ms", "give `linger.ms`, which is the same"),
        ("enable.auto.commit", depends),
        ("enable.idempotence", depends),
        ("isolation.level", depends),
        ("acks", depends),
        ("transactional.id", depends),
        ("transaction.timeout.ms", depends),
        ("group.instance.id", depends),
        ("partition.assignment.strategy", depends),
        ("retries", depends),
    ] {
        assert_eq!(
            findings(with("topic: in", &format!("topic: in\n    options: {{ {name}: 1 }}"))),
            [format!("p.yaml:6:{}: unknown key `{name}` in `source.kafka.options`; {hint}", 18 + name.len())]
        );
    }
    let unknown = findings(with("topic: in", "topic: in\n    options: { plugin.library.paths: a }"));
    assert!(unknown[0].contains("; known are `batch.num.messages`, "), "{unknown:?}");
    for name in OPTIONS {
        assert!(read_as(with("topic: in", &format!("topic: in\n    options: {{ {name}: 1 }}"))).is_ok());
    }
    let at_the_sink = with("topic: out", "topic: out\n    brokers: a:9092\n    options: { ssl.key.pem: 1 }");
    assert_eq!(
        findings(at_the_sink),
        ["p.yaml:10:29: unknown key `ssl.key.pem` in `sink.kafka.options`; give `sink.kafka.tls` instead"]
    );
}

#[test]
fn what_is_wrong_with_a_sink() {
    let long = "x".repeat(241);
    let topic = "must be 1 to 249 of `a-z A-Z 0-9 . _ -`, and not `.` or `..`";
    let comes = "comes from the source, as `brokers` do; leave it out, or give `brokers` too";
    for (new, expected) in [
        ("topic: a/b".to_owned(), format!("p.yaml:8:12: the topic `a/b` {topic}")),
        (
            format!("topic: {long}"),
            format!(
                "p.yaml:8:12: the dead letter's topic `{long}-rejected` is longer than 249; give \
                 `dead_letter.kafka.topic`"
            ),
        ),
        (
            "topic: out\n    brokers: ''".into(),
            "p.yaml:9:14: the brokers are empty; give `host:port`, several with commas between them".into(),
        ),
        (
            "topic: out\n    brokers: b:9092".into(),
            "p.yaml:9:14: rows and the position in the source can be one transaction on one cluster only, and none \
             of these brokers is the source's; leave `sink.kafka.brokers` out, or use `delivery: at_least_once`"
                .into(),
        ),
        ("topic: out\n    tls: {}".into(), format!("p.yaml:9:10: `tls` {comes}")),
        (
            "topic: out\n    sasl: { mechanism: PLAIN, username: a, password: b }".into(),
            format!("p.yaml:9:11: `sasl` {comes}"),
        ),
        ("topic: out\n    options: { linger.ms: 1 }".into(), format!("p.yaml:9:14: `options` {comes}")),
        ("topic: out\n    key: [close, close]".into(), "p.yaml:9:18: the column `close` is twice in the key".into()),
        (
            "topic: out\n    key: [symbl]".into(),
            "p.yaml:9:11: the key's column `symbl` does not exist; did you mean `symbol`?".into(),
        ),
        (
            "topic: out\n    create: true\n    partitions: 4".into(),
            "p.yaml:10:17: `sink.kafka.partitions`: a topic gets as many as the source's; leave it out".into(),
        ),
        (
            "topic: out\n    commit: { rows: 0 }".into(),
            "p.yaml:9:21: `rows` must be 1 to 10000000, but is 0".into(),
        ),
        (
            "topic: out\n    commit: { wait: 9ms }".into(),
            "p.yaml:9:21: `wait` must be 10ms to 10s, but is 9ms".into(),
        ),
        (
            "topic: out\n    commit: { wait: 10001ms }".into(),
            "p.yaml:9:21: `wait` must be 10ms to 10s, but is 10001ms".into(),
        ),
        (
            "topic: in".into(),
            "p.yaml:8:12: the topic `in` is also the source's, which would never end".into(),
        ),
    ] {
        assert_eq!(findings(with("topic: out", &new)), [expected], "{new}");
    }
    for (more, expected) in [
        ("partitions: 4", "only `create: true` makes a topic; give it, or leave this out"),
        ("create: true, partitions: 0", "must be 1 to 1000, but is 0"),
    ] {
        let file = format!(
            "name: a\nsource: {{ file: {{ path: a }} }}\nsink: {{ kafka: {{ brokers: 'b:1', topic: b, {more} }} }}\n"
        );
        let found = findings(file);
        assert!(found.len() == 1 && found[0].contains(expected), "{more}: {found:?}");
    }
    let from_a_file =
        "name: a\nsource: { file: { path: a } }\nsink: { kafka: { topic: b, tls: { key: c } } }\n";
    assert_eq!(
        findings(from_a_file),
        [
            "p.yaml:3:16: missing key `brokers` in `sink.kafka`",
            "p.yaml:3:40: `key` needs `certificate` beside it",
        ]
    );
    let written_by_a_rule = with("topic: out", "topic: out\n    key: [exchange]");
    assert!(read_as(written_by_a_rule + "rules: [{ name: a, component: enrich }]\n").is_ok());
}

#[test]
fn what_does_not_go_together() {
    let beside = "9:14: the dead letter of a `kafka` sink is a topic beside it, in the same transaction; use `kafka`, \
                  or leave it out";
    for (line, expected) in [
        ("dead_letter: { file: { path: a } }", beside),
        ("dead_letter: stdout", beside),
        ("dead_letter: { sqlite: {} }", beside),
        (
            "dead_letter: { kafka: { topic: a b } }",
            "9:32: the topic `a b` must be 1 to 249 of `a-z A-Z 0-9 . _ -`, and not `.` or `..`",
        ),
        ("dead_letter: { kafka: { topic: out } }", "9:32: the dead letter's topic `out` is the sink's own"),
        (
            "dead_letter: { kafka: { topic: in } }",
            "9:32: the dead letter's topic `in` is also the source's, which would never end",
        ),
        ("lanes: 0", "9:8: `lanes` must be 1 to 64, but is 0"),
        ("lanes: 65", "9:8: `lanes` must be 1 to 64, but is 65"),
    ] {
        assert_eq!(findings(format!("{KAFKA}{line}\n")), [format!("p.yaml:{expected}")], "{line}");
    }
    assert_eq!(
        findings(with("topic: in", "topic: [in, out-rejected]")),
        ["p.yaml:8:12: the dead letter's topic `out-rejected` is also the source's, which would never end"]
    );
    let lanes = "6:8: more than one lane needs a `kafka` source, whose partitions the lanes share, and a sink that takes \
                 rows from several: `kafka`, `timescale` or `clickhouse`; leave `lanes` out";
    for (line, expected) in [
        (
            "dead_letter: { kafka: { topic: a } }",
            "6:14: a `kafka` dead letter is a topic on the sink's brokers, and this sink is not `kafka`; use `file`",
        ),
        ("delivery: at_least_once", "6:11: `at_least_once` is for a `kafka` sink only; leave `delivery` out"),
        ("lanes: 2", lanes),
    ] {
        assert_eq!(findings(good_and(line)), [format!("p.yaml:{expected}")], "{line}");
    }
    assert_eq!(
        findings(KAFKA.replace("  kafka:\n    topic: out\n", "  stdout:\n") + "lanes: 2\n"),
        [format!("p.yaml:8{}", lanes.strip_prefix('6').unwrap())]
    );
}

/// Whatever is wrong with a secret or around it, no message shows it, and `Debug` does not either.
#[test]
fn secrets_are_not_shown() {
    let places = [
        "sasl: { mechanism: PLAIN, username: '', password: @ }",
        "sasl: { mechanism: PLAN, username: a, password: @ }",
        "sasl: { mechanism: PLAIN, password: @ }",
        "sasl: { mechanism: PLAIN, username: a, passwort: @ }",
        "sasl: { mechanism: PLAIN, username: a, password: [@] }",
        "sasl: { mechanism: PLAIN, username: a, password: { a: @ } }",
        "sasl: @",
        "sasl: [@]",
        "tls: { key_password: @ }",
        "tls: { key_password: [@] }",
        "tls: @",
        "options: { sasl.password: @ }",
        "options: { linger.ms: [@] }",
        "options: @",
        "session: 1h\n    sasl: { mechanism: PLAIN, username: a, password: @ }",
    ];
    let literals = ["canary-5f3a", "'canary-5f3a'", "5318008", "53180.08", "53180085318008531800", "true"];
    let references = ["\"${TOKEN}\"", "\"${file:token}\"", "\"user:${TOKEN}\""];
    for secret in literals.iter().chain(&references) {
        for place in places {
            let line = place.replace('@', secret);
            let found = findings(with("topic: in", &format!("topic: in\n    {line}"))).join("\n");
            let is_shown =
                ["canary", "53180", "`true`", "boolean true"].iter().any(|part| found.contains(part));
            assert!(!is_shown, "{line}: {found}");
        }
        let instead_of_a_mapping =
            findings(format!("name: a\nsource: {{ kafka: {secret} }}\nsink: {{ kafka: {secret} }}\n"));
        let found = instead_of_a_mapping.join("\n");
        assert!(!found.contains("canary") && !found.contains("53180"), "{found}");
        let broker = findings(with("a:9092", &format!("[{secret}]"))).join("\n");
        assert!(!broker.contains("canary"), "{broker}");
    }
    for (value, kind) in [("12345", "a number"), ("1.5", "a number"), ("true", "a boolean")] {
        let line = format!("sasl: {{ mechanism: PLAIN, username: a, password: {value} }}");
        assert_eq!(
            findings(with("topic: in", &format!("topic: in\n    {line}"))),
            [format!(
                "p.yaml:6:54: `source.kafka.sasl.password` must be a text, but is {kind}; put it in quotes"
            )]
        );
    }
    // A part of a variable's value is as secret as the whole.
    let found = findings(with("a:9092", "${TOKEN}:x,b")).join("\n");
    assert!(!found.contains("canary"), "{found}");

    let loaded = read_as(FULL).unwrap();
    let shown = format!("{loaded:?} {:?}", loaded.pipeline);
    assert!(!shown.contains("canary"), "{shown}");
}

/// What the schema says about a value that is wrong, as far as this schema has such words.
fn faults(
    schema: &serde_json::Value,
    root: &serde_json::Value,
    value: &serde_json::Value,
    path: &str,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut fault = |what: &str| found.push(format!("{path}: {what}"));
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.trim_start_matches('#')).expect("a reference has its target");
        return faults(target, root, value, path);
    }
    let kind = match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "boolean",
        serde_json::Value::Number(number) if number.is_f64() => "number",
        serde_json::Value::Number(_) => "integer",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Array(_) => "array",
        serde_json::Value::Object(_) => "object",
    };
    let is_kind = |name: &serde_json::Value| name == kind || (name == "number" && kind == "integer");
    match &schema["type"] {
        serde_json::Value::Null => {}
        serde_json::Value::Array(names) if names.iter().any(is_kind) => {}
        name if is_kind(name) => {}
        other => fault(&format!("{kind} is not {other}")),
    }
    if schema.get("const").is_some_and(|only| only != value) {
        fault("is not the constant");
    }
    if schema["enum"].as_array().is_some_and(|some| !some.contains(value)) {
        fault("is not in the enumeration");
    }
    for of in ["anyOf", "oneOf"] {
        let Some(choices) = schema[of].as_array() else { continue };
        let fitting = choices.iter().filter(|choice| faults(choice, root, value, path).is_empty()).count();
        if fitting == 0 || (of == "oneOf" && fitting > 1) {
            fault(&format!("{fitting} choices fit"));
        }
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(name.as_str().unwrap()) {
                fault(&format!("lacks {name}"));
            }
        }
        for (name, inner) in object {
            let path = format!("{path}.{name}");
            let names = &schema["propertyNames"];
            if names.is_object() {
                found.extend(faults(names, root, &name.as_str().into(), &path));
            }
            match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (Some(property), _) => found.extend(faults(property, root, inner, &path)),
                (None, serde_json::Value::Bool(false)) => found.push(format!("{path}: is unknown")),
                (None, other) if other.is_object() => found.extend(faults(other, root, inner, &path)),
                (None, _) => {}
            }
        }
    } else if let Some(items) = value.as_array() {
        for (index, item) in items.iter().enumerate().filter(|_| schema["items"].is_object()) {
            found.extend(faults(&schema["items"], root, item, &format!("{path}[{index}]")));
        }
    }
    found
}

#[test]
fn the_schema_knows_kafka() {
    let schema = json_schema();
    let full = serde_json::json!({
        "name": "demo",
        "source": { "kafka": {
            "brokers": "a:9092", "topic": ["a", "b"], "group": "g", "start": "2026-01-02T03:04:05Z",
            "deleted": "earliest", "session": "30s",
            "tls": { "ca": "a", "certificate": "b", "key": "c", "key_password": "d" },
            "sasl": { "mechanism": "SCRAM-SHA-512", "username": "a", "password": "b" },
            "options": { "client.id": "a", "fetch.min.bytes": 1000, "socket.keepalive.enable": true }
        } },
        "sink": { "kafka": {
            "topic": "c", "brokers": "b:9092", "key": ["symbol"], "compression": "zstd", "create": true,
            "commit": { "rows": 10_000, "wait": "100ms" }, "tls": {},
            "sasl": { "mechanism": "PLAIN", "username": "a", "password": "b" }, "options": { "linger.ms": 5 }
        } },
        "dead_letter": { "kafka": { "topic": "d" } },
        "delivery": "at_least_once",
        "lanes": 4
    });
    assert_eq!(faults(&schema, &schema, &full, ""), Vec::<String>::new());
    // JSON is YAML.
    assert!(read_as(full.to_string()).is_ok());

    for (pointer, wrong) in [
        ("/source/kafka/brokers", serde_json::json!(5)),
        ("/source/kafka/topic", serde_json::json!(5)),
        ("/source/kafka/deleted", serde_json::json!("never")),
        ("/source/kafka/tls/key", serde_json::json!([])),
        ("/source/kafka/sasl", serde_json::json!({ "username": "a", "password": "b" })),
        ("/source/kafka/sasl/mechanism", serde_json::json!("plain")),
        ("/source/kafka/sasl/password", serde_json::json!(12345)),
        ("/source/kafka/options", serde_json::json!({ "group.id": "a" })),
        ("/sink/kafka/compression", serde_json::json!("gzip")),
        ("/sink/kafka/commit", serde_json::json!({ "row": 1 })),
        ("/dead_letter/kafka", serde_json::json!({})),
        ("/delivery", serde_json::json!("at_most_once")),
        ("/lanes", serde_json::json!("4")),
    ] {
        let mut pipeline = full.clone();
        *pipeline.pointer_mut(pointer).unwrap() = wrong;
        assert!(!faults(&schema, &schema, &pipeline, "").is_empty(), "{pointer}");
    }
}

#[test]
fn the_page_about_kafka_is_true() {
    let page = include_str!("../../../../docs/kafka.md");
    let (_, options) = page.split_once("## Settings of librdkafka").unwrap();
    let list = options.split("\n\n").nth(2).unwrap();
    let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert_eq!(named, OPTIONS);
    // Its examples are indented by four; the second one is a source only.
    let examples: Vec<String> = page
        .split("\n\n")
        .filter(|paragraph| paragraph.starts_with("    "))
        .map(|paragraph| paragraph.lines().map(|line| format!("{}\n", &line[4..])).collect())
        .collect();
    let [first, second] = &examples[..] else { panic!("{examples:?}") };
    let second = second.replace("KAFKA_PASSWORD", "TOKEN").replace("/run/secrets/key", "token");
    assert!(read_as(first).is_ok());
    read_as(format!("name: a\nsink: stdout\n{second}")).unwrap();
}
