//! What a pipeline file can say wrong about Kafka.

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::time::Duration;

use super::super::build::shorten;
use super::super::finding::hint;
use super::super::{
    Connection, DeadLetter, Delivery, Format, KafkaSink, KafkaSource, OPTIONS, Options, Pipeline, Sasl, Sink,
    Span, Start, Tls,
};
use super::Check;

/// More brokers than a client needs to find the others.
const BROKERS: usize = 64;

/// A pipeline has one set of columns; nobody has that many topics with the same.
const TOPICS: usize = 64;

/// More partitions than lanes that anybody has: each costs a broker files.
const PARTITIONS_MAX: i32 = 1_000;

/// Loops of one process.
const LANES: u64 = 64;

/// The longest name of a topic, of which brokers make a folder.
const TOPIC_BYTES: usize = 249;

/// As long as a topic's.
const GROUP_BYTES: usize = 249;

/// Settings of librdkafka that decide what is lost or there twice after a crash, by how their names start.
const DELIVERY: [&str; 21] = [
    "acks",
    "auto.commit.",
    "check.crcs",
    "delivery.timeout.ms",
    "enable.",
    "group.",
    "heartbeat.interval.ms",
    "isolation.level",
    "max.in.flight",
    "max.poll.interval.ms",
    "message.send.max.retries",
    "message.timeout.ms",
    "offset.store.",
    "partition.assignment.strategy",
    "partitioner",
    "queuing.strategy",
    "request.required.acks",
    "retries",
    "sticky.partitioning.",
    "transaction.timeout.ms",
    "transactional.id",
];

impl Check<'_> {
    /// Source, sink and dead letter as far as they are Kafka's, and what depends on them.
    pub(super) fn kafka(&mut self) {
        let Pipeline { source, sink, .. } = &self.loaded.pipeline;
        if let Some(source) = source.kafka() {
            self.kafka_source(source);
        }
        if let Some(sink) = sink.kafka() {
            self.kafka_sink(sink);
        }
        self.dead_letter_beside_its_sink();
        self.different_topics();
        self.delivery();
        self.lanes();
    }

    fn kafka_source(&mut self, source: &KafkaSource) {
        let path = |key| ["source", "kafka", key];
        self.connection(&source.connection());
        let topics = &source.topic.0;
        if topics.is_empty() || topics.len() > TOPICS {
            let message = format!("there must be 1 to {TOPICS} topics, but there are {}", topics.len());
            self.add(&path("topic"), message);
        }
        for (index, topic) in topics.iter().enumerate() {
            let index_text = index.to_string();
            let path = ["source", "kafka", "topic", &index_text];
            self.topic(&path, topic);
            if topics[..index].contains(topic) {
                self.add(&path, format!("the topic `{topic}` is there twice"));
            }
        }
        if let Some(group) = &source.group
            && (!(1..=GROUP_BYTES).contains(&group.len()) || group.contains(char::is_control))
        {
            let message =
                format!("the group must be a text of 1 to {GROUP_BYTES} bytes without control characters");
            self.add(&path("group"), message);
        }
        // librdkafka takes the times -1 and -2 for the end and the beginning.
        if matches!(source.start, Start::Time(time) if time < 0) {
            self.add(&path("start"), "`start` must not be before 1970");
        }
        self.time(&path("session"), source.session, 1_000, 1_800_000);
        let format = match self.loaded.pipeline.decode.format {
            Format::Json | Format::Ccxt => return,
            Format::Csv => "csv",
            Format::Parquet => "parquet",
        };
        let message = format!(
            "a message of a `kafka` source is one row, which `{format}` cannot be; use `json` or `ccxt`"
        );
        self.add(&["decode", "format"], message);
    }

    fn kafka_sink(&mut self, sink: &KafkaSink) {
        let path = |key| ["sink", "kafka", key];
        self.topic(&path("topic"), &sink.topic);
        let source = self.loaded.pipeline.source.kafka();
        match (&sink.brokers, source) {
            (Some(_), _) => self.connection(&sink.connection(source)),
            (None, None) => {
                self.add(&["sink", "kafka"], "missing key `brokers` in `sink.kafka`");
                self.access("sink", sink.tls.as_ref(), sink.sasl.as_ref(), &sink.options);
            }
            (None, Some(_)) => {
                let given = [
                    ("tls", sink.tls.is_some()),
                    ("sasl", sink.sasl.is_some()),
                    ("options", !sink.options.0.is_empty()),
                ];
                for (key, _) in given.iter().filter(|(_, is_given)| *is_given) {
                    let message = format!(
                        "`{key}` comes from the source, as `brokers` do; leave it out, or give `brokers` too"
                    );
                    self.add(&path(key), message);
                }
            }
        }
        if let Some(partitions) = sink.partitions {
            let wrong = match source {
                Some(_) => Some("a topic gets as many as the source's; leave it out".into()),
                None if !sink.create => {
                    Some("only `create: true` makes a topic; give it, or leave this out".into())
                }
                None if !(1..=PARTITIONS_MAX).contains(&partitions) => {
                    Some(format!("must be 1 to {PARTITIONS_MAX}, but is {partitions}"))
                }
                None => None,
            };
            if let Some(wrong) = wrong {
                self.add(&path("partitions"), format!("`sink.kafka.partitions`: {wrong}"));
            }
        }
        if let Some(key) = &sink.key {
            self.key(&path("key"), key);
        }
        self.range(&["sink", "kafka", "commit", "rows"], sink.commit.rows as u64, 1, 10_000_000, "");
        self.time(&["sink", "kafka", "commit", "wait"], sink.commit.wait, 10, 10_000);
    }

    /// Brokers, and how they let one in.
    fn connection(&mut self, connection: &Connection<'_>) {
        let section = connection.setting.trim_end_matches(".kafka");
        let path = [section, "kafka", "brokers"];
        let brokers: Vec<&str> = split(connection.brokers).collect();
        // Their texts are parts of what a variable may stand for, so they are not shown.
        if connection.brokers.is_empty() {
            self.add(&path, "the brokers are empty; give `host:port`, several with commas between them");
        } else if brokers.len() > BROKERS {
            let message = format!("there can be at most {BROKERS} brokers, but there are {}", brokers.len());
            self.add(&path, message);
        } else {
            for number in
                (1..).zip(&brokers).filter(|(_, broker)| !is_broker(broker)).map(|(number, _)| number)
            {
                let which = if brokers.len() == 1 { "the broker".into() } else { format!("broker {number}") };
                self.add(&path, format!("{which} must be `host:port` with a port of 1 to 65535"));
            }
        }
        self.access(section, connection.tls, connection.sasl, connection.options);
    }

    /// TLS, the user and the settings of librdkafka in `section`.
    fn access(&mut self, section: &str, tls: Option<&Tls>, sasl: Option<&Sasl>, options: &Options) {
        match tls {
            Some(tls) => self.tls([section, "kafka"], tls),
            None => self.empty_tls([section, "kafka"]),
        }
        if let Some(sasl) = sasl {
            for (key, text) in [("username", sasl.username.as_str()), ("password", sasl.password.reveal())] {
                if text.is_empty() {
                    self.add(&[section, "kafka", "sasl", key], format!("the {key} is empty"));
                }
            }
        }
        for name in options.0.keys().filter(|name| !OPTIONS.contains(&name.as_str())) {
            let instead = instead(section, name).unwrap_or_else(|| hint(name, &OPTIONS));
            let message = format!("unknown key `{}` in `{section}.kafka.options`; {instead}", shorten(name));
            self.add(&[section, "kafka", "options", name], message);
        }
    }

    /// Whoever writes the key wants encryption, which nothing is not.
    pub(super) fn empty_tls(&mut self, [section, kind]: [&str; 2]) {
        if self.is_written(&[section, kind, "tls"]) {
            let message = "`tls` is empty, which is no TLS; write `tls: {}` for TLS with the authorities that the system \
                           trusts, or leave it out";
            self.add(&[section, kind, "tls"], message);
        }
    }

    pub(super) fn tls(&mut self, [section, kind]: [&str; 2], tls: &Tls) {
        let files = [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)];
        for (key, path) in files.iter().filter_map(|(key, path)| Some((*key, path.as_ref()?))) {
            let at = [section, kind, "tls", key];
            if path.is_empty() {
                self.add(&at, format!("the path in `{key}` is empty"));
            } else if path.contains("-----BEGIN") {
                // As a path, a message would show it later.
                let message = format!(
                    "`{key}` must be a path, and this is what the file should have; put it into a file"
                );
                self.add(&at, message);
            }
        }
        let pairs = [
            ("key", tls.key.is_some(), "certificate", tls.certificate.is_some()),
            ("certificate", tls.certificate.is_some(), "key", tls.key.is_some()),
            ("key_password", tls.key_password.is_some(), "key", tls.key.is_some()),
        ];
        for (key, is_given, needed, is_there) in pairs {
            if is_given && !is_there {
                self.add(&[section, kind, "tls", key], format!("`{key}` needs `{needed}` beside it"));
            }
        }
    }

    fn topic(&mut self, path: &[&str], topic: &str) {
        if !is_topic(topic) {
            let message = format!(
                "the topic `{topic}` must be 1 to {TOPIC_BYTES} of `a-z A-Z 0-9 . _ -`, and not `.` or `..`"
            );
            self.add(path, message);
        }
    }

    pub(super) fn time(&mut self, path: &[&str], time: Span, least_ms: u64, most_ms: u64) {
        let [least, most] = [least_ms, most_ms].map(|ms| Span(Duration::from_millis(ms)));
        if !(least..=most).contains(&time) {
            let name = path.last().copied().unwrap_or_default();
            self.add(path, format!("`{name}` must be {least} to {most}, but is {time}"));
        }
    }

    /// A topic of rejected rows is in the transaction of a sink in Kafka, and nothing else is.
    fn dead_letter_beside_its_sink(&mut self) {
        let Pipeline { sink, dead_letter, .. } = &self.loaded.pipeline;
        match (sink, dead_letter) {
            (Sink::Kafka(_), Some(DeadLetter::Kafka(dead_letter))) => {
                self.topic(&["dead_letter", "kafka", "topic"], &dead_letter.topic);
            }
            (Sink::Kafka(sink), None) => {
                // What is wrong with the sink's topic itself has its sentence.
                let topic = sink.default_dead_letter();
                if is_topic(&sink.topic) && !is_topic(&topic) {
                    let message = format!(
                        "the dead letter's topic `{topic}` is longer than {TOPIC_BYTES}; give \
                         `dead_letter.kafka.topic`"
                    );
                    self.add(&["sink", "kafka", "topic"], message);
                }
            }
            (Sink::Kafka(_), Some(_)) => self.add(
                &["dead_letter"],
                "the dead letter of a `kafka` sink is a topic beside it, in the same transaction; use `kafka`, or \
                 leave it out",
            ),
            (_, Some(DeadLetter::Kafka(_))) => self.add(
                &["dead_letter"],
                "a `kafka` dead letter is a topic on the sink's brokers, and this sink is not `kafka`; use `file`",
            ),
            _ => {}
        }
    }

    /// No topic may be two of source, sink and dead letter.
    fn different_topics(&mut self) {
        let pipeline = &self.loaded.pipeline;
        let Some(sink) = pipeline.sink.kafka() else { return };
        let dead_letter = sink.dead_letter_topic(pipeline);
        let is_read = |topic: &str| {
            pipeline.source.kafka().is_some_and(|source| {
                is_one_cluster(source, sink) && source.topic.0.iter().any(|read| read == topic)
            })
        };
        let path = ["sink", "kafka", "topic"];
        if is_read(&sink.topic) {
            let message = format!("the topic `{}` is also the source's, which would never end", sink.topic);
            self.add(&path, message);
        }
        let path = if pipeline.dead_letter.is_some() { ["dead_letter", "kafka", "topic"] } else { path };
        if dead_letter == sink.topic {
            self.add(&path, format!("the dead letter's topic `{dead_letter}` is the sink's own"));
        } else if is_read(&dead_letter) {
            let message = format!(
                "the dead letter's topic `{dead_letter}` is also the source's, which would never end"
            );
            self.add(&path, message);
        }
    }

    fn delivery(&mut self) {
        let Pipeline { source, sink, delivery, .. } = &self.loaded.pipeline;
        match (sink.kafka(), delivery) {
            (None, Delivery::AtLeastOnce) => {
                self.add(&["delivery"], "`at_least_once` is for a `kafka` sink only; leave `delivery` out");
            }
            (Some(sink), Delivery::ExactlyOnce) => {
                let is_elsewhere = source.kafka().is_some_and(|source| !is_one_cluster(source, sink));
                // Brokers that are none have their sentence.
                if is_elsewhere && split(sink.brokers.as_deref().unwrap_or_default()).all(is_broker) {
                    let message = "rows and the position in the source can be one transaction on one cluster only, and \
                                   none of these brokers is the source's; leave `sink.kafka.brokers` out, or use \
                                   `delivery: at_least_once`";
                    self.add(&["sink", "kafka", "brokers"], message);
                }
            }
            _ => {}
        }
    }

    fn lanes(&mut self) {
        let Pipeline { source, sink, lanes, .. } = &self.loaded.pipeline;
        self.range(&["lanes"], *lanes as u64, 1, LANES, "");
        let is_shared = matches!(sink, Sink::Kafka(_) | Sink::Timescale(_) | Sink::Clickhouse(_));
        if *lanes > 1 && (source.kafka().is_none() || !is_shared) {
            let message = "more than one lane needs a `kafka` source, whose partitions the lanes share, and a sink that \
                           takes rows from several: `kafka`, `timescale` or `clickhouse`; leave `lanes` out";
            self.add(&["lanes"], message);
        }
    }

    /// Whether the file has the key, with a value or without.
    fn is_written(&self, path: &[&str]) -> bool {
        path.iter().try_fold(&self.loaded.root, |node, step| node.get(step)).is_some()
    }
}

/// The brokers of a list with commas; librdkafka skips spaces between them, too.
fn split(brokers: &str) -> impl Iterator<Item = &str> {
    brokers.split(',').map(|broker| broker.trim_matches(' '))
}

fn is_broker(broker: &str) -> bool {
    let Some((host, port)) = broker.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(is_of_a_name)
        }
    };
    // A number may also start with a plus.
    let is_port =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_host && is_port
}

fn is_topic(topic: &str) -> bool {
    let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=TOPIC_BYTES).contains(&topic.len())
        && topic.bytes().all(is_of_a_name)
        && !matches!(topic, "." | "..")
}

/// Whether source and sink are known to be on one cluster: they are when they have a broker in common.
fn is_one_cluster(source: &KafkaSource, sink: &KafkaSink) -> bool {
    let Some(brokers) = &sink.brokers else { return true };
    let of_the_source: HashSet<String> = split(&source.brokers).map(str::to_ascii_lowercase).collect();
    split(brokers).any(|broker| of_the_source.contains(&broker.to_ascii_lowercase()))
}

/// What to do instead of giving a setting of librdkafka that is not in the list, where that is known.
fn instead(section: &str, name: &str) -> Option<String> {
    let own = |key: &str| Some(format!("give `{section}.kafka.{key}` instead"));
    let give = |key: &str| Some(format!("give `{key}` instead"));
    match name {
        "bootstrap.servers" | "metadata.broker.list" => own("brokers"),
        "security.protocol" => {
            Some(format!("`{section}.kafka.tls` and `{section}.kafka.sasl` decide it, by being there"))
        }
        "enable.ssl.certificate.verification" => Some(format!(
            "certificates are always verified; give their authority in `{section}.kafka.tls.ca`"
        )),
        "group.id" => give("source.kafka.group"),
        "session.timeout.ms" => give("source.kafka.session"),
        "auto.offset.reset" => Some("give `source.kafka.start` and `source.kafka.deleted` instead".into()),
        "allow.auto.create.topics" => give("sink.kafka.create"),
        "queue.buffering.max.ms" => Some("give `linger.ms`, which is the same".into()),
        _ if name.starts_with("compression.") => give("sink.kafka.compression"),
        _ if name.starts_with("sasl.") => own("sasl"),
        _ if name.starts_with("ssl.") && !name.starts_with("ssl.endpoint.") => own("tls"),
        _ if DELIVERY.iter().any(|start| name.starts_with(start)) => {
            Some("delivery depends on it, so the host sets it".into())
        }
        _ => None,
    }
}
