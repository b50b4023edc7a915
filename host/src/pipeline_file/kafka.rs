//! What a pipeline file says about Kafka: source, sink, dead letter, and how to connect.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::{DeadLetter, Pipeline, Span};

/// Topics of Kafka or Redpanda, shared with the other members of a consumer group.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSource {
    /// Brokers to begin with: `host:port`, several with commas between them.
    pub brokers: String,
    /// The topic, or a list of topics.
    pub topic: Topics,
    /// The consumer group whose members share the partitions; `tidegate-` and the pipeline's name unless given.
    pub group: Option<String>,
    /// Where a partition starts that the group has not read yet.
    #[serde(default)]
    pub start: Start,
    /// What happens when rows were deleted from the log before they were read.
    #[serde(default)]
    pub deleted: Deleted,
    /// After this time without a sign of life a host's partitions are given to others; a host that is back
    /// before goes on with them. The broker sets bounds, unless told otherwise 6 s to 30 m.
    #[serde(default = "default_session")]
    pub session: Span,
    /// TLS; without it the connection is not encrypted.
    pub tls: Option<Tls>,
    /// A user and a password.
    pub sasl: Option<Sasl>,
    /// Settings of librdkafka, from the list that `tidegate schema` gives.
    #[serde(default)]
    pub options: Options,
}

fn default_session() -> Span {
    // Long enough for a host to be restarted, short enough that nobody waits for one that is not.
    Span(Duration::from_secs(10))
}

/// One topic or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics(pub Vec<String>);

/// Where a partition starts that the group has not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// At the oldest row.
    #[default]
    Earliest,
    /// After the newest row. What arrives from the first start on is read, also when that start is interrupted.
    Latest,
    /// Nowhere: it is an error when the group has no position.
    Committed,
    /// At the first row whose message time is not before this one, milliseconds since 1970.
    Time(i64),
}

/// What happens when rows were deleted from the log before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deleted {
    /// The pipeline stops and says how many rows are gone.
    #[default]
    Stop,
    /// It goes on with the oldest row that is left.
    Earliest,
    /// It goes on after the newest row.
    Latest,
}

/// A topic of Kafka or Redpanda. A row goes to the partition with the number of the one that it came from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSink {
    /// The topic. It needs as many partitions as the source's.
    pub topic: String,
    /// Brokers; the source's, with its `tls`, `sasl` and `options`, unless given.
    pub brokers: Option<String>,
    /// The columns whose values, with `|` between them, are a message's key: `[source, symbol, timeframe]` as far
    /// as the pipeline has them unless given. A row that lacks one of the values has no key.
    pub key: Option<Vec<String>>,
    /// How messages are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Make the topics of sink and dead letter when they do not exist, with as many partitions as the source's.
    #[serde(default)]
    pub create: bool,
    /// How many partitions a topic gets that is made, where the source has none itself: exchanges and files. One unless given.
    pub partitions: Option<i32>,
    /// When written rows become visible, together with the position in the source.
    #[serde(default)]
    pub commit: Commit,
    /// TLS; without it the connection is not encrypted.
    pub tls: Option<Tls>,
    /// A user and a password.
    pub sasl: Option<Sasl>,
    /// Settings of librdkafka, from the list that `tidegate schema` gives.
    #[serde(default)]
    pub options: Options,
}

/// How messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// With LZ4: the least work.
    #[default]
    Lz4,
    /// With Zstandard: the fewest bytes.
    Zstd,
}

impl Compression {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// When written rows become visible. Whichever comes first counts.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Commit {
    /// After so many rows; 1 to 10,000,000.
    pub rows: usize,
    /// After this time, or a tenth of it when no more rows are waiting; 10 ms to 10 s.
    pub wait: Span,
}

impl Default for Commit {
    fn default() -> Commit {
        // A commit costs some 30 ms whatever its size: a thirtieth of a second of work, and what a crash makes
        // the next start do again is no more than a second of it.
        Commit { rows: 500_000, wait: Span(Duration::from_secs(1)) }
    }
}

/// A topic on the sink's brokers, in the same transaction as the rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterTopic {
    /// The topic.
    pub topic: String,
}

/// TLS.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates of the authorities that are trusted (PEM), relative to the pipeline file; the system's unless
    /// given.
    pub ca: Option<String>,
    /// The client's certificate (PEM), relative to the pipeline file.
    pub certificate: Option<String>,
    /// The client's private key (PEM), relative to the pipeline file.
    pub key: Option<String>,
    /// The password of the private key: `${NAME}` or `${file:path}`.
    pub key_password: Option<Secret>,
}

/// A user and a password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is proven.
    pub mechanism: Mechanism,
    /// The user.
    pub username: String,
    /// The password: `${NAME}` or `${file:path}`.
    pub password: Secret,
}

/// How a password is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// It is sent as it is: with `tls` only, unless the network is trusted.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Salted challenge, SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Salted challenge, SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A text that no message shows.
// Not transparent for serde: `build` knows by the type's name what it must not show.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Settings of librdkafka that a pipeline file may give: none that loads code or reads files, none on which
/// delivery depends, and none that has a name of its own here.
pub const OPTIONS: [&str; 24] = [
    "batch.num.messages",
    "broker.address.family",
    "broker.address.ttl",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "connections.max.idle.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "linger.ms",
    "metadata.max.age.ms",
    "queue.buffering.max.kbytes",
    "queued.max.messages.kbytes",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "socket.keepalive.enable",
    "socket.timeout.ms",
    "ssl.endpoint.identification.algorithm",
];

/// Settings of librdkafka by their names there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(pub BTreeMap<String, String>);

/// How to reach a cluster, from a source or a sink.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// `source.kafka` or `sink.kafka`: where the file says it.
    pub setting: &'static str,
    /// Brokers.
    pub brokers: &'a str,
    /// TLS.
    pub tls: Option<&'a Tls>,
    /// User and password.
    pub sasl: Option<&'a Sasl>,
    /// Settings of librdkafka.
    pub options: &'a Options,
}

impl KafkaSource {
    /// How to reach the source.
    pub fn connection(&self) -> Connection<'_> {
        Connection {
            setting: "source.kafka",
            brokers: &self.brokers,
            tls: self.tls.as_ref(),
            sasl: self.sasl.as_ref(),
            options: &self.options,
        }
    }

    /// The consumer group of the pipeline `pipeline`.
    pub fn group(&self, pipeline: &str) -> String {
        self.group.clone().unwrap_or_else(|| default_group(pipeline))
    }
}

/// The consumer group of a pipeline whose file does not give one.
pub fn default_group(pipeline: &str) -> String {
    format!("tidegate-{pipeline}")
}

impl KafkaSink {
    /// The topic of rejected rows unless the pipeline file says it: on the same brokers.
    pub fn default_dead_letter(&self) -> String {
        format!("{}-rejected", self.topic)
    }

    /// The topic of rejected rows of the pipeline whose sink this is.
    pub fn dead_letter_topic(&self, pipeline: &Pipeline) -> String {
        match &pipeline.dead_letter {
            Some(DeadLetter::Kafka(dead_letter)) => dead_letter.topic.clone(),
            _ => self.default_dead_letter(),
        }
    }

    /// How to reach the sink: as the source unless it has brokers of its own.
    pub fn connection<'a>(&'a self, source: Option<&'a KafkaSource>) -> Connection<'a> {
        match (&self.brokers, source) {
            (None, Some(source)) => source.connection(),
            (brokers, _) => Connection {
                setting: "sink.kafka",
                brokers: brokers.as_deref().unwrap_or_default(),
                tls: self.tls.as_ref(),
                sasl: self.sasl.as_ref(),
                options: &self.options,
            },
        }
    }
}

/// Serde's own untagged enums say only that nothing fits; this says what is expected.
impl<'de> Deserialize<'de> for Topics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Topics, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Topics;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a topic or a list of topics")
            }

            fn visit_str<E>(self, topic: &str) -> Result<Topics, E> {
                Ok(Topics(vec![topic.into()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Topics, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(items)).map(Topics)
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Topics {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Topics".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A topic, or a list of topics.",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }]
        })
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
        struct Word;

        impl Visitor<'_> for Word {
            type Value = Start;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`earliest`, `latest`, `committed` or a time such as `2026-01-02T03:04:05Z`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Start, E> {
                match text {
                    "earliest" => Ok(Start::Earliest),
                    "latest" => Ok(Start::Latest),
                    "committed" => Ok(Start::Committed),
                    _ => text
                        .parse::<jiff::Timestamp>()
                        .map(|time| Start::Time(time.as_millisecond()))
                        .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(Word)
    }
}

impl JsonSchema for Start {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Start".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Where a partition starts that the group has not read yet: at the oldest row, after the \
                            newest, at the first one not before a time, or nowhere (`committed`: it is an error).",
            "anyOf": [
                { "enum": ["earliest", "latest", "committed"] },
                { "type": "string", "format": "date-time" }
            ]
        })
    }
}

/// Values are texts, numbers or booleans; librdkafka knows texts only.
impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Options, D::Error> {
        // `build` knows by this name that the values are not to be shown: a password may be among them, which
        // is wrong there.
        #[derive(Deserialize)]
        #[serde(rename = "Options")]
        struct Scalars(BTreeMap<String, super::Scalar>);

        let Scalars(scalars) = Scalars::deserialize(deserializer)?;
        let text = |scalar| match scalar {
            super::Scalar::Boolean(value) => value.to_string(),
            super::Scalar::Integer(value) => value.to_string(),
            super::Scalar::Float(value) => value.to_string(),
            super::Scalar::Text(value) => value,
        };
        Ok(Options(scalars.into_iter().map(|(name, value)| (name, text(value))).collect()))
    }
}

impl JsonSchema for Options {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Options".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Settings of librdkafka by their names there.",
            "type": "object",
            "propertyNames": { "enum": OPTIONS },
            "additionalProperties": { "type": ["string", "integer", "number", "boolean"] }
        })
    }
}
