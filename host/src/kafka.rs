//! How to reach Kafka or Redpanda: what source and sink share. Only this module, `source::kafka`, `sink::kafka`
//! and `dead_letter::topic` know rdkafka.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::batch::Partition;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::pipeline_file::Connection;
use crate::shutdown::Shutdown;

/// How long one question to a broker may take before it is asked again.
pub const ASK: Duration = Duration::from_secs(5);

/// How long a broker may stay silent at the start: below the 30 seconds that a person waits for a sentence.
const REACH: Duration = Duration::from_secs(20);

/// More log lines and errors than a second of failing connections makes.
const QUEUED: usize = 100;

/// One step of waiting for the broker, between two signs of life to the group.
pub const STEP: Duration = Duration::from_millis(250);

/// What is waited for at most before the outcome counts as unknown: longer than the broker keeps a transaction.
pub const OUTCOME: Duration = Duration::from_secs(30);

/// How long an open transaction of another producer is waited for: brokers end most after a minute.
const OPEN_TRANSACTION: Duration = Duration::from_secs(60);

/// The same trouble is logged once in this time: librdkafka says it at every attempt.
const REPEATED_AFTER: Duration = Duration::from_secs(10);

/// Whether to wait for what is not there yet, and until when.
#[derive(Clone)]
pub struct Patience {
    /// Keep trying (`--wait`).
    pub forever: bool,
    /// Ends the waiting.
    pub shutdown: Shutdown,
    /// Who is shown what is waited for: a lane of a pipeline.
    pub lane: Option<(Arc<Metrics>, usize)>,
}

impl Patience {
    /// Shows what is waited for.
    pub fn say(&self, why: &str) {
        if let Some((metrics, lane)) = &self.lane {
            metrics.show(*lane, |lane| lane.why = Some(why.to_owned()));
        }
    }

    /// Whether something that has been tried since `start` is to be tried again.
    pub fn lasts(&self, start: Instant) -> bool {
        !self.shutdown.is_requested() && (self.forever || start.elapsed() < REACH)
    }
}

/// The settings of a client for this connection. Paths are relative to `folder`.
pub fn client_config(connection: Connection<'_>, folder: &Path) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", connection.brokers).set("client.id", "tidegate");
    // Reconnects within a second of the broker's return.
    config.set("reconnect.backoff.max.ms", "1000");
    for (name, value) in &connection.options.0 {
        config.set(name, value);
    }
    let protocol = match (connection.tls, connection.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(tls) = connection.tls {
        let files = [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.certificate),
            ("ssl.key.location", &tls.key),
        ];
        for (name, path) in files.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?))) {
            config.set(name, folder.join(path).to_string_lossy());
        }
        if let Some(password) = &tls.key_password {
            config.set("ssl.key.password", password.reveal());
        }
    }
    if let Some(sasl) = connection.sasl {
        config.set("sasl.mechanism", sasl.mechanism.name());
        config.set("sasl.username", &sasl.username).set("sasl.password", sasl.password.reveal());
    }
    config
}

/// The settings of a client that reads what is committed to the end, in no group: `name` is for the broker's log.
pub fn reader_config(connection: Connection<'_>, folder: &Path, name: &str) -> ClientConfig {
    let mut reader = client_config(connection, folder);
    reader
        .set("group.id", name)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "5")
        // At the end of a partition the broker is not to wait for more.
        .set("fetch.wait.max.ms", "5")
        .set("queued.max.messages.kbytes", "16384")
        .set_log_level(RDKafkaLogLevel::Warning);
    reader
}

/// What a client says of itself while nobody asks.
#[derive(Debug, Default)]
pub struct Heard {
    last: Mutex<Option<Trouble>>,
    outage: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone)]
struct Trouble {
    code: Option<RDKafkaErrorCode>,
    reason: String,
    logged: Instant,
}

impl Heard {
    /// Keeps the error, and logs it unless it was just logged.
    pub fn error(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let is_outage =
            matches!(code, Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure));
        if is_outage {
            self.keep_outage(Some(Instant::now()));
        }
        // The first says less than the error of a connection before it, the others are no errors.
        if matches!(
            code,
            Some(
                RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::PartitionEOF
                    | RDKafkaErrorCode::NoOffset
            )
        ) {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(|poison| poison.into_inner());
        let logged = match &*last {
            Some(trouble) if trouble.code == code && trouble.logged.elapsed() < REPEATED_AFTER => {
                trouble.logged
            }
            _ => {
                tracing::warn!("Kafka: {reason}");
                Instant::now()
            }
        };
        *last = Some(Trouble { code, reason: reason.into(), logged });
    }

    /// When a connection to a broker was last lost or not made.
    pub fn outage(&self) -> Option<Instant> {
        *self.outage.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Keeps when a connection was last lost.
    pub fn keep_outage(&self, outage: Option<Instant>) {
        *self.outage.lock().unwrap_or_else(|poison| poison.into_inner()) = outage;
    }

    /// What librdkafka logs beside errors.
    pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, "librdkafka: {message}");
    }

    /// What was said last.
    pub fn last(&self) -> Option<String> {
        self.last.lock().ok()?.as_ref().map(|trouble| trouble.reason.clone())
    }

    /// Whether user, password or certificate were refused: trying again soon would not help.
    fn is_refused(&self) -> bool {
        let code = self.last.lock().ok().and_then(|last| last.as_ref()?.code);
        matches!(
            code,
            Some(
                RDKafkaErrorCode::Authentication
                    | RDKafkaErrorCode::SaslAuthenticationFailed
                    | RDKafkaErrorCode::UnsupportedSASLMechanism
                    | RDKafkaErrorCode::IllegalSASLState
                    | RDKafkaErrorCode::SSL
            )
        )
    }
}

/// A client that only asks.
#[derive(Debug, Default)]
pub struct Asking(Heard);

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Heard::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is asked for, and an error in name only.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            self.0.error(&error, reason);
        }
    }
}

impl ConsumerContext for Asking {}

/// A cluster that has been reached.
pub struct Cluster {
    consumer: BaseConsumer<Asking>,
    setting: &'static str,
    brokers: String,
}

impl Cluster {
    /// Connects, by asking for `topic`, or says within half a minute why not.
    ///
    /// # Errors
    /// [`Error::Surroundings`] that names the setting and the brokers.
    pub fn reach(
        connection: Connection<'_>,
        topic: &str,
        folder: &Path,
        patience: &Patience,
    ) -> Result<Cluster> {
        let config = client_config(connection, folder);
        let consumer: BaseConsumer<Asking> =
            config.create_with_context(Asking::default()).map_err(|error| refused(connection, &error))?;
        let cluster = Cluster { consumer, setting: connection.setting, brokers: connection.brokers.into() };
        let start = Instant::now();
        loop {
            match cluster.consumer.fetch_metadata(Some(topic), Duration::from_secs(1)) {
                Ok(_) => return Ok(cluster),
                Err(error) => {
                    // Errors of connections wait in the queue, among log lines, until somebody polls.
                    (0..QUEUED).for_each(|_| drop(cluster.consumer.poll(Duration::ZERO)));
                    let heard = &cluster.consumer.context().0;
                    if heard.is_refused() && !patience.forever {
                        return Err(not_let_in(connection, &heard.last().unwrap_or_default()));
                    }
                    if !patience.lasts(start) {
                        let reason = heard.last().unwrap_or_else(|| error.to_string());
                        return Err(not_there(connection, &reason));
                    }
                    patience.say(&heard.last().unwrap_or_else(|| error.to_string()));
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// How many partitions a topic has; `None` when it does not exist.
    pub fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        let cannot = |reason: String| {
            Error::Surroundings(format!(
                "cannot ask for the topic `{topic}` at `{}` (`{}.brokers`): {reason}",
                self.brokers, self.setting
            ))
        };
        let metadata =
            self.consumer.fetch_metadata(Some(topic), 2 * ASK).map_err(|error| cannot(error.to_string()))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(i32::try_from(found.partitions().len()).ok().filter(|count| *count > 0)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(cannot(
                "the user may not read its description; the broker's access lists decide that".into(),
            )),
            Some(error) => Err(cannot(error.to_string())),
        }
    }

    /// The partitions of a topic that must exist.
    pub fn partitions_of_existing(&self, topic: &str, key: &str, patience: &Patience) -> Result<i32> {
        let start = Instant::now();
        loop {
            if let Some(count) = self.partitions(topic)? {
                return Ok(count);
            }
            // A topic that was just made is not known to every broker at once.
            let is_young = start.elapsed() < Duration::from_secs(1);
            if !(is_young || patience.forever) || patience.shutdown.is_requested() {
                return Err(Error::Surroundings(format!(
                    "the topic `{topic}` (`{}.{key}`) does not exist at `{}`; make it, or start with `--wait` to wait \
                     for it",
                    self.setting, self.brokers
                )));
            }
            patience.say(&format!("the topic `{topic}` does not exist at `{}`", self.brokers));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The first offset of a partition and the one after its last, as far as the client may see.
///
/// A client that has met a partition without a leader does not find the new one by asking for offsets, so it is told to
/// look.
pub fn watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> KafkaResult<(i64, i64)> {
    consumer.fetch_metadata(Some(topic), timeout)?;
    consumer.fetch_watermarks(topic, partition, timeout)
}

/// The offsets after the last of partitions, as far as the client may see, by one question to each of their leaders.
pub fn ends<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
) -> KafkaResult<Vec<(i32, i64)>> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, Offset::End)?;
    }
    let found = consumer.offsets_for_times(asked, ASK)?;
    let elements = found.elements();
    let end = |element: &TopicPartitionListElem<'_>| {
        element.error()?;
        let end = element.offset().to_raw().filter(|offset| *offset >= 0);
        let nowhere = KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset);
        end.map(|end| (element.partition(), end)).ok_or(nowhere)
    };
    elements.iter().map(end).collect()
}

/// A partition, of which what is committed is read.
pub struct Committed<'a> {
    /// Sees what is committed only, and says where a partition ends.
    pub consumer: &'a BaseConsumer<Asking>,
    /// Says where the partition ends with all that is not committed.
    pub asking: &'a BaseConsumer<Asking>,
    /// The topic.
    pub topic: &'a str,
    /// The partition's number.
    pub partition: i32,
    /// For messages.
    pub brokers: &'a str,
    /// Ends the waiting.
    pub shutdown: &'a Shutdown,
}

impl Committed<'_> {
    /// The first offset and the one after the last, once no transaction is open before it.
    pub fn settled(&self) -> Result<(i64, i64)> {
        let (_, end) = watermarks(self.asking, self.topic, self.partition, ASK)
            .map_err(|error| self.failed("cannot ask where a partition ends", &error))?;
        self.settled_before(end)
    }

    /// The same, once no transaction is open before `end`.
    pub fn settled_before(&self, end: i64) -> Result<(i64, i64)> {
        let Committed { topic, partition, .. } = *self;
        let cannot = |error: KafkaError| self.failed("cannot ask where a partition ends", &error);
        let start = Instant::now();
        let mut said = false;
        loop {
            let (low, settled) = watermarks(self.consumer, topic, partition, ASK).map_err(cannot)?;
            if settled >= end {
                return Ok((low, settled));
            }
            if self.shutdown.is_requested() || start.elapsed() > OPEN_TRANSACTION {
                return Err(Error::Rewind(format!(
                    "a transaction of another producer is open in partition {partition} of `{topic}`, and what is \
                     behind it cannot be read back; if it stays, see `A transaction that stays open` in docs/kafka.md"
                )));
            }
            if !std::mem::replace(&mut said, true) {
                tracing::info!(%topic, partition, "waiting for a transaction of another producer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Reads messages from `start` to before `end`, or to where the partition ends.
    pub fn read(
        &self,
        start: i64,
        end: i64,
        each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
        let Committed { consumer, topic, partition, .. } = *self;
        let cannot = |error: KafkaError| self.failed("cannot read back", &error);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(cannot)?;
        consumer.assign(&list).map_err(cannot)?;
        let mut heard = Instant::now();
        loop {
            match consumer.poll(STEP) {
                // Of what was read before.
                Some(Ok(message)) if message.partition() != partition => {}
                Some(Err(KafkaError::PartitionEOF(number))) if number != partition => {}
                Some(Ok(message)) if message.offset() >= end => break,
                Some(Ok(message)) => {
                    heard = Instant::now();
                    each(&message)?;
                    if message.offset() + 1 == end {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                // Connections come back by themselves; when they do not, the silence ends it.
                Some(Err(error)) if heard.elapsed() > OUTCOME => return Err(cannot(error)),
                None if heard.elapsed() > OUTCOME || self.shutdown.is_requested() => {
                    return Err(Error::Rewind(format!(
                        "`{}` is silent while rows are read back",
                        self.brokers
                    )));
                }
                Some(Err(_)) | None => {}
            }
        }
        consumer.unassign().map_err(cannot)
    }

    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        // Errors of connections wait in the queue, among log lines, until somebody polls.
        (0..QUEUED).for_each(|_| drop(self.asking.poll(Duration::ZERO)));
        let code = error.rdkafka_error_code();
        let heard = match code {
            Some(RDKafkaErrorCode::OperationTimedOut) => self.asking.context().0.last(),
            _ => None,
        };
        let reason = code.map_or_else(|| error.to_string(), |code| code.to_string());
        let heard = heard.map_or_else(String::new, |heard| format!(" ({heard})"));
        Error::Rewind(format!("{what} at `{}`: {reason}{heard}", self.brokers))
    }
}

/// The error of a client that cannot be made: one of its settings is wrong.
pub fn refused(connection: Connection<'_>, error: &KafkaError) -> Error {
    let reason = match error {
        KafkaError::ClientConfig(_, reason, name, _) => format!("`{name}`: {reason}"),
        KafkaError::ClientCreation(reason) => reason.clone(),
        other => other.to_string(),
    };
    Error::Files(format!("a setting of `{}` is refused: {reason}", connection.setting))
}

fn not_there(connection: Connection<'_>, reason: &str) -> Error {
    Error::Surroundings(format!(
        "no broker of `{}.brokers` (`{}`) answers: {reason}; `--wait` keeps trying",
        connection.setting, connection.brokers
    ))
}

fn not_let_in(connection: Connection<'_>, reason: &str) -> Error {
    let how = match connection.sasl {
        Some(sasl) => format!("user `{}` with {}", sasl.username, sasl.mechanism.name()),
        None => "without `sasl`".into(),
    };
    Error::Surroundings(format!(
        "the brokers of `{}.brokers` (`{}`) do not let this program in ({how}): {reason}",
        connection.setting, connection.brokers
    ))
}

/// A list of partitions for librdkafka.
pub fn list<'p>(partitions: impl IntoIterator<Item = &'p Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(&partition.topic, partition.number);
    }
    list
}

/// The partitions of a list of librdkafka.
pub fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    let partition = |element: TopicPartitionListElem<'_>| Partition {
        topic: element.topic().into(),
        number: element.partition(),
    };
    list.elements().into_iter().map(partition).collect()
}

/// Whether the group has given the partitions to others.
pub fn is_lost(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AssignmentLost
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::FencedInstanceId
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline_file::{Mechanism, Options, Sasl, Tls};

    fn error(code: RDKafkaErrorCode) -> KafkaError {
        KafkaError::Global(code)
    }

    #[test]
    fn the_last_trouble_and_the_last_outage_are_kept() {
        let heard = Heard::default();
        heard.error(&error(RDKafkaErrorCode::BrokerTransportFailure), "connection refused");
        heard.error(&error(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        heard.error(&error(RDKafkaErrorCode::PartitionEOF), "no more messages");
        assert_eq!(heard.last().as_deref(), Some("connection refused"));
        assert!(heard.outage().is_some() && !heard.is_refused());
        heard.error(&error(RDKafkaErrorCode::Authentication), "invalid password");
        assert!(heard.is_refused());
        assert!(Heard::default().outage().is_none());
    }

    #[test]
    fn a_connection_has_the_protocol_of_its_settings() {
        let (tls, options) = (Tls { ca: Some("ca.pem".into()), ..Tls::default() }, Options::default());
        let password = serde_json::from_str("\"secret\"").unwrap();
        let sasl = Sasl { mechanism: Mechanism::ScramSha256, username: "alice".into(), password };
        for (tls, sasl, protocol) in [
            (None, None, "plaintext"),
            (Some(&tls), None, "ssl"),
            (None, Some(&sasl), "sasl_plaintext"),
            (Some(&tls), Some(&sasl), "sasl_ssl"),
        ] {
            let connection =
                Connection { setting: "source.kafka", brokers: "b:1", tls, sasl, options: &options };
            let config = client_config(connection, Path::new("/folder"));
            assert_eq!(config.get("security.protocol"), Some(protocol));
            assert_eq!(config.get("ssl.ca.location"), tls.map(|_| "/folder/ca.pem"));
            assert_eq!(config.get("sasl.mechanism"), sasl.map(|_| "SCRAM-SHA-256"));
            assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        }
    }

    #[test]
    fn patience_ends_with_the_stop() {
        let patience = |forever| Patience { forever, shutdown: Shutdown::default(), lane: None };
        let long_ago = Instant::now().checked_sub(2 * REACH).unwrap();
        assert!(patience(true).lasts(long_ago) && !patience(false).lasts(long_ago));
        assert!(patience(false).lasts(Instant::now()));
        let stopped = patience(true);
        stopped.shutdown.request();
        assert!(!stopped.lasts(Instant::now()));
    }
}
