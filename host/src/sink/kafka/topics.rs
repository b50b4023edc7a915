//! The topics of a sink: found, made where that is allowed, and what they take.

use std::time::{Duration, Instant};

use super::Config;
use crate::error::{Error, Result};
use crate::kafka::{ASK, Cluster, refused};
use crate::lane::Place;
use crate::pipeline_file::Connection;
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

/// What a message weighs beside its key and value, in a batch of one: headers of record and batch, rounded up.
pub const AROUND_A_MESSAGE_BYTES: usize = 256;

/// The broker's limit of a message, where it does not say.
const MESSAGE_BYTES: usize = 1_000_000;

/// A topic to write to.
pub struct Target {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// What a message may weigh.
    pub limit_bytes: usize,
}

impl Target {
    /// Why a row cannot be a message of the topic, beside a key and headers of so many bytes.
    pub fn too_large(&self, value: &[u8], others_bytes: usize) -> Option<String> {
        let Target { name, limit_bytes, .. } = self;
        let bytes = value.len();
        (bytes + others_bytes + AROUND_A_MESSAGE_BYTES > *limit_bytes).then(|| {
            format!("the row has {bytes} bytes of JSON, and `{name}` takes messages of {limit_bytes} bytes at most")
        })
    }
}

/// The topics of a sink, while it is opened.
pub struct Topics<'a> {
    /// Where they are.
    pub cluster: &'a Cluster,
    /// For messages.
    pub connection: Connection<'a>,
    /// Reaches the brokers.
    pub client: &'a ClientConfig,
    /// Whether topics may be made.
    pub config: &'a Config,
    /// How many partitions a topic gets that is made.
    pub partitions: Option<i32>,
    /// Whether to wait for a topic.
    pub place: &'a Place<'a>,
}

impl Topics<'_> {
    /// A topic that exists, or is made when the pipeline file allows it.
    pub fn target(&self, name: &str, setting: &str) -> Result<Target> {
        let partitions = match self.cluster.partitions(name)? {
            Some(count) => count,
            None if self.config.create => self.create(name)?,
            None => {
                let key = setting.rsplit('.').next().unwrap_or(setting);
                self.cluster.partitions_of_existing(name, key, &self.place.patience).map_err(|error| {
                    match error {
                        Error::Surroundings(_) => Error::Surroundings(format!(
                            "the topic `{name}` (`{setting}`) does not exist at `{}`; make it, or set \
                         `sink.kafka.create: true`",
                            self.connection.brokers
                        )),
                        other => other,
                    }
                })?
            }
        };
        // The usual one when the user may not ask.
        let limit_bytes = limit_bytes(self.client, name).unwrap_or(MESSAGE_BYTES);
        Ok(Target { name: name.into(), partitions, limit_bytes })
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        self.client.create().map_err(|error| refused(self.connection, &error))
    }

    /// Makes a topic with as many partitions as the source's, or as the pipeline file says, and as many replicas as the broker likes.
    fn create(&self, name: &str) -> Result<i32> {
        let cannot = |reason: String| {
            Error::Surroundings(format!(
                "cannot make the topic `{name}` at `{}` (`sink.kafka.create`): {reason}",
                self.connection.brokers
            ))
        };
        let partitions = self.partitions.or(self.config.partitions).unwrap_or(1);
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(2 * ASK)).request_timeout(Some(2 * ASK));
        let answers = block_on(self.admin()?.create_topics([&topic], &options));
        match answers.map_err(|error| cannot(error.to_string()))?.pop() {
            // Another host of the group was faster.
            Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => return Err(cannot(code.to_string())),
            None => return Err(cannot("the broker says nothing".into())),
        }
        tracing::info!(topic = name, partitions, "made a topic");
        let start = Instant::now();
        loop {
            match self.cluster.partitions(name)? {
                Some(count) => return Ok(count),
                None if start.elapsed() < 2 * ASK => std::thread::sleep(Duration::from_millis(50)),
                None => return Err(cannot("the broker does not know it although it was made".into())),
            }
        }
    }
}

/// The largest message of a topic, if the brokers say so.
pub fn limit_bytes(client: &ClientConfig, topic: &str) -> Option<usize> {
    let admin: AdminClient<DefaultClientContext> = client.create().ok()?;
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let answers = block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options)).ok()?;
    let answer = answers.into_iter().next()?.ok()?;
    answer.get("max.message.bytes")?.value.as_ref()?.parse().ok()
}

/// Messages and batches of them that both topics take.
pub fn set_limits(producer: &mut ClientConfig, topics: [&Target; 2]) {
    let limits = topics.map(|topic| topic.limit_bytes.clamp(1_000, 1_000_000_000));
    producer.set("message.max.bytes", limits[0].max(limits[1]).to_string());
    producer.set("batch.size", limits[0].min(limits[1]).min(MESSAGE_BYTES).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_fit_the_larger_topic_and_batches_of_them_the_smaller() {
        let target = |limit_bytes| Target { name: "t".into(), partitions: 1, limit_bytes };
        let limits = |one, other| {
            let mut config = ClientConfig::new();
            set_limits(&mut config, [&target(one), &target(other)]);
            ["message.max.bytes", "batch.size"].map(|name| config.get(name).unwrap().to_owned())
        };
        assert_eq!(limits(5_000, 2_000), ["5000", "2000"]);
        assert_eq!(limits(50_000_000, 20_000_000), ["50000000", "1000000"]);
        assert_eq!(limits(0, usize::MAX), ["1000000000", "1000"]);
    }
}
