//! A broker, and its topics.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;
use xtask::kafka::{Broker, Options};

use super::PARTITIONS;

/// How long a question to the broker may take.
const ASK: Duration = Duration::from_secs(20);

/// The broker of `KAFKA_BROKERS`, or one that ends with this value.
pub struct Cluster {
    /// Where it listens.
    pub address: String,
    broker: Option<Broker>,
    _folder: TempDir,
}

/// What a reader of committed rows sees of a topic.
#[derive(Debug, Default)]
pub struct Seen {
    pub rows: u64,
    /// Between the times at which the broker took the first row and the last.
    pub time: Duration,
}

impl Cluster {
    /// Starts a broker with the settings of a server, unless there is one.
    pub fn start() -> Result<Cluster> {
        let folder = TempDir::new()?;
        if let Ok(address) = std::env::var("KAFKA_BROKERS") {
            return Ok(Cluster { address, broker: None, _folder: folder });
        }
        // All members of a group join before it shares the partitions, so that none reads alone at first.
        let properties = vec![("group.initial.rebalance.delay.ms".into(), "1000".into())];
        let options = Options { folder: folder.path().join("kafka"), properties, ..Options::default() };
        let broker = Broker::start(options)?;
        Ok(Cluster { address: broker.address(), broker: Some(broker), _folder: folder })
    }

    /// The process that is the broker, when it was started here.
    pub fn process_id(&self) -> Option<u32> {
        self.broker.as_ref()?.process_id()
    }

    /// The settings of a client.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    /// Makes a topic, whose name begins with `name`. Its messages have the time at which the broker took them.
    pub fn create(&self, name: &str) -> Result<String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{name}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime");
        for answer in block_on(self.admin()?.create_topics([&topic], &AdminOptions::new()))? {
            answer.map_err(|(topic, code)| anyhow::anyhow!("cannot make the topic `{topic}`: {code}"))?;
        }
        let consumer: BaseConsumer = self.config().create()?;
        let start = Instant::now();
        while start.elapsed() < ASK {
            let metadata = consumer.fetch_metadata(Some(&name), ASK)?;
            if metadata.topics().iter().any(|topic| topic.partitions().len() == PARTITIONS as usize) {
                return Ok(name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the broker does not know the topic `{name}` although it was made")
    }

    /// Deletes topics, whose data would fill the disk.
    pub fn delete(&self, topics: &[&str]) -> Result<()> {
        for answer in block_on(self.admin()?.delete_topics(topics, &AdminOptions::new()))? {
            answer.map_err(|(topic, code)| anyhow::anyhow!("cannot delete the topic `{topic}`: {code}"))?;
        }
        Ok(())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }

    /// Counts the rows of a topic.
    pub fn read(&self, topic: &str) -> Result<Seen> {
        let (mut rows, mut first, mut last) = (0, i64::MAX, i64::MIN);
        self.each(topic, |message| {
            let time = message.timestamp().to_millis().context("a message has no time")?;
            (rows, first, last) = (rows + 1, first.min(time), last.max(time));
            Ok(())
        })?;
        let time = Duration::from_millis(u64::try_from(last.saturating_sub(first)).unwrap_or(0));
        Ok(Seen { rows, time })
    }

    /// Shows the committed messages of a topic.
    pub fn each(&self, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<()>) -> Result<()> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let mut ended = HashSet::new();
        while ended.len() < PARTITIONS as usize {
            match consumer.poll(ASK).with_context(|| format!("`{topic}` cannot be read to its end"))? {
                Ok(message) => each(&message)?,
                Err(KafkaError::PartitionEOF(partition)) => drop(ended.insert(partition)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
