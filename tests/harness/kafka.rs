//! A real Kafka for the tests: one broker for all that leave it alone, and brokers of their own for those that kill
//! it; topics, rows that are sent and read, and candles of which it is known what must become of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;
use xtask::kafka::{Broker, Options};

use super::{Folder, RULES, Running, start};

/// How long a question to the broker may take.
const ASK: Duration = Duration::from_secs(20);

/// A cluster, by the address of its broker.
#[derive(Clone)]
pub struct Kafka {
    pub address: String,
}

/// A broker of a test's own, and the folder of its data.
pub struct OwnBroker {
    pub broker: Broker,
    pub kafka: Kafka,
    _folder: TempDir,
}

/// The broker that all tests share: that of `KAFKA_BROKERS`, or one that ends with this process.
pub fn shared() -> Kafka {
    static SHARED: OnceLock<(Kafka, Option<Mutex<OwnBroker>>)> = OnceLock::new();
    let (kafka, _) = SHARED.get_or_init(|| match std::env::var("KAFKA_BROKERS") {
        Ok(address) => (Kafka { address }, None),
        Err(_) => {
            let own = own_broker(&[]);
            (own.kafka.clone(), Some(Mutex::new(own)))
        }
    });
    kafka.clone()
}

/// A broker that a test can kill.
pub fn own_broker(properties: &[(&str, &str)]) -> OwnBroker {
    broker_with(Options {
        properties: properties.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ..Options::default()
    })
}

pub fn broker_with(options: Options) -> OwnBroker {
    let folder = TempDir::new().unwrap();
    let options = Options { folder: folder.path().join("kafka"), fast: true, ..options };
    let broker = Broker::start(options).expect("a broker starts");
    OwnBroker { kafka: Kafka { address: broker.address() }, broker, _folder: folder }
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{name}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A message as a reader of committed rows sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

impl Kafka {
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("reconnect.backoff.max.ms", "500");
        config
    }

    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    pub fn create(&self, topic: &str, partitions: i32) {
        self.create_with(topic, partitions, &[]);
    }

    pub fn create_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        self.create_as(topic, &new);
    }

    /// With all partitions on the broker of this number.
    pub fn create_on(&self, topic: &str, partitions: i32, broker: i32) {
        let brokers = [broker];
        let places = vec![&brokers[..]; partitions as usize];
        self.create_as(topic, &NewTopic::new(topic, partitions, TopicReplication::Variable(&places)));
    }

    fn create_as(&self, topic: &str, new: &NewTopic<'_>) {
        let answers = block_on(self.admin().create_topics([new], &AdminOptions::new())).unwrap();
        answers.into_iter().for_each(|answer| drop(answer.unwrap()));
        let consumer: BaseConsumer = self.config().create().unwrap();
        wait_until("the topic is known", || {
            let metadata = consumer.fetch_metadata(Some(topic), ASK).unwrap();
            metadata.topics().iter().any(|found| found.error().is_none() && !found.partitions().is_empty())
        });
    }

    pub fn delete(&self, topic: &str) {
        let answers = block_on(self.admin().delete_topics(&[topic], &AdminOptions::new())).unwrap();
        answers.into_iter().for_each(|answer| drop(answer.unwrap()));
    }

    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        block_on(self.admin().delete_records(&list, &AdminOptions::new())).unwrap();
    }

    pub fn producer(&self, settings: &[(&str, &str)]) -> BaseProducer {
        let mut config = self.config();
        config.set("linger.ms", "20").set("enable.idempotence", "true");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        config.create().unwrap()
    }

    /// Sends messages and waits until all are acknowledged.
    pub fn send<'m>(
        &self,
        topic: &str,
        settings: &[(&str, &str)],
        messages: impl IntoIterator<Item = (i32, Option<&'m [u8]>, Option<&'m [u8]>)>,
    ) {
        let producer = self.producer(settings);
        for (partition, key, payload) in messages {
            send(&producer, topic, partition, key, payload);
        }
        flush(&producer);
    }

    /// Sends candles.
    pub fn send_candles(&self, topic: &str, candles: &[Candle]) {
        self.send(
            topic,
            &[("compression.type", "lz4")],
            candles.iter().map(|candle| {
                (candle.partition, Some(candle.symbol.as_bytes()), Some(candle.payload.as_bytes()))
            }),
        );
    }

    /// All messages of a topic that a reader of committed rows sees, by partition and offset.
    pub fn read(&self, topic: &str) -> Vec<Message> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "tests")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), ASK).unwrap();
        let partitions = metadata.topics()[0].partitions().len();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions as i32 {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut messages = Vec::new();
        let mut ended = HashSet::new();
        while ended.len() < partitions {
            match consumer.poll(ASK) {
                Some(Ok(message)) => messages.push(Message {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                    headers: message.headers().map_or_else(BTreeMap::new, |headers| {
                        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
                        headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
                    }),
                }),
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => panic!("`{topic}` cannot be read to its end: a transaction is open"),
            }
        }
        messages.sort_by_key(|message| (message.partition, message.offset));
        messages
    }

    /// How many rows a reader of committed rows could see at most, from the ends of the partitions.
    pub fn end(&self, topic: &str) -> i64 {
        self.end_for("read_committed", topic)
    }

    /// The same for a reader who also sees what is not committed.
    pub fn uncommitted_end(&self, topic: &str) -> i64 {
        self.end_for("read_uncommitted", topic)
    }

    pub fn wait_for_rows(&self, topic: &str, rows: i64) {
        wait_until("rows are written", || self.end(topic) >= rows);
    }

    fn end_for(&self, isolation: &str, topic: &str) -> i64 {
        let consumer: BaseConsumer = self.config().set("isolation.level", isolation).create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), ASK).unwrap();
        let partitions = metadata.topics()[0].partitions().iter();
        partitions.map(|partition| partition_end(&consumer, topic, partition.id())).sum()
    }

    /// The offsets that a group has committed for a topic.
    pub fn committed(&self, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        // A coordinator that has just started, or a transaction that is open, is asked again by the caller.
        let Ok(found) = consumer.committed_offsets(list, Duration::from_secs(5)) else { return Vec::new() };
        found.elements().iter().map(|element| element.offset().to_raw().filter(|raw| *raw >= 0)).collect()
    }
}

pub fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
) {
    let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
    record.key = key;
    record.payload = payload;
    loop {
        record = match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
            Err((error, _)) => panic!("{topic}: {error}"),
        };
        producer.poll(Duration::from_millis(5));
    }
}

pub fn flush(producer: &BaseProducer) {
    let started = Instant::now();
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(5));
        assert!(started.elapsed() < Duration::from_secs(60), "the broker takes nothing");
    }
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(120), "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A row, and what must become of it.
#[derive(Debug, Clone)]
pub struct Candle {
    pub partition: i32,
    pub symbol: String,
    pub payload: String,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Kept,
    Rejected,
    Dropped,
}

/// Candles over some partitions, each symbol in one of them. One in a hundred is wrong and one in a hundred repeats
/// an earlier one of its symbol.
pub fn candles(range: std::ops::Range<u64>, partitions: i32) -> Vec<Candle> {
    const SYMBOLS: u64 = 40;
    let candle = |number: u64| {
        let symbol = number % SYMBOLS;
        let mut minute = number / SYMBOLS;
        let fate = match number % 100 {
            13 => Fate::Rejected,
            // The candle before of the same symbol, unless that is a wrong one or a repetition itself.
            57 if minute > 0 && !matches!((number - SYMBOLS) % 100, 13 | 57) => {
                minute -= 1;
                Fate::Dropped
            }
            _ => Fate::Kept,
        };
        let time = 1_760_000_400_000 + minute * 60_000;
        let close =
            if fate == Fate::Rejected { "-1.5".to_owned() } else { format!("{}.5", 100 + minute % 50) };
        Candle {
            partition: (symbol % partitions as u64) as i32,
            symbol: format!("S{symbol}/USDT"),
            payload: format!(
                "{{\"timestamp\":{time},\"open\":\"100.5\",\"high\":\"200.25\",\"low\":\"50.125\",\"close\":\"{close}\",\
                 \"volume\":\"12.5\",\"source\":\"binance\",\"symbol\":\"S{symbol}/USDT\",\"timeframe\":\"1m\"}}"
            ),
            fate,
        }
    };
    range.map(candle).collect()
}

/// A pipeline of a test: its topics, its group, its file.
pub struct Pipeline {
    pub kafka: Kafka,
    pub folder: Folder,
    pub raw: String,
    pub validated: String,
    pub rejected: String,
    pub group: String,
}

impl Pipeline {
    /// With topics of so many partitions, and what `rest` adds to the file.
    pub fn new(kafka: &Kafka, partitions: i32, rest: &str) -> Pipeline {
        let pipeline = Pipeline::without_topics(kafka, "", rest);
        for topic in [&pipeline.raw, &pipeline.validated, &pipeline.rejected] {
            kafka.create(topic, partitions);
        }
        pipeline
    }

    /// With names of topics that do not exist; `source` is added to the source's settings.
    pub fn without_topics(kafka: &Kafka, source: &str, rest: &str) -> Pipeline {
        let (raw, validated) = (unique("raw"), unique("validated"));
        let (rejected, group) = (unique("rejected"), unique("group"));
        let pipeline =
            Pipeline { kafka: kafka.clone(), folder: Folder::new(), raw, validated, rejected, group };
        pipeline.write_file(source, "", rest);
        pipeline
    }

    /// Writes the pipeline file `p.yaml`.
    pub fn write_file(&self, source: &str, sink: &str, rest: &str) {
        let Pipeline { kafka, raw, validated, rejected, group, .. } = self;
        let brokers = &kafka.address;
        let file = format!(
            "name: test\n\
             source: {{ kafka: {{ brokers: \"{brokers}\", topic: {raw}, group: {group}, session: 6s {source} }} }}\n\
             {RULES}\
             sink: {{ kafka: {{ topic: {validated} {sink} }} }}\n\
             dead_letter: {{ kafka: {{ topic: {rejected} }} }}\n\
             {rest}\n"
        );
        // No rule of the tests may depend on what a partition had before.
        self.folder.write("p.yaml", file.replace(", max_jump_factor: 3", ""));
    }

    /// `tidegate run`, ready to start, as the host `instance`.
    pub fn command(&self, instance: &str) -> std::process::Command {
        let mut command = self.folder.command();
        command.args(["--instance", instance]).env_remove("KAFKA_BROKERS");
        command
    }

    /// Lets a host be thrown out of its group so soon.
    pub fn set_session(&self, session: &str) {
        let file = String::from_utf8(self.folder.read("p.yaml")).unwrap();
        self.folder.write("p.yaml", file.replace("session: 6s", &format!("session: {session}")));
    }

    /// Starts a host that goes on until it is stopped.
    pub fn start(&self, instance: &str) -> Running {
        start(&mut self.command(instance))
    }

    /// Runs a host until everything is read; gives its summary.
    pub fn run_to_end(&self) -> serde_json::Value {
        start(self.command("a").arg("--until-end")).finish().summary()
    }

    /// Waits until the group has read everything.
    pub fn wait_until_read(&self, partitions: i32, host: &mut Running) {
        let ends = ends(&self.kafka, &self.raw, partitions);
        host.wait_until(|| {
            std::thread::sleep(Duration::from_millis(50));
            let committed = self.kafka.committed(&self.group, &self.raw, partitions);
            committed.len() == ends.len()
                && ends.iter().zip(committed).all(|(end, committed)| *end == 0 || committed == Some(*end))
        });
    }

    /// Compares what is in the topics with what was sent, row by row: each row that is right once and in the order of
    /// its key, each wrong one once in the dead letter with its bytes, no repetition.
    pub fn compare(&self, sent: &[Candle]) {
        let mut expected: HashMap<(i32, String), Vec<(i64, f64)>> = HashMap::new();
        for candle in sent.iter().filter(|candle| candle.fate == Fate::Kept) {
            let row: serde_json::Value = serde_json::from_str(&candle.payload).unwrap();
            let close = row["close"].as_str().unwrap().parse().unwrap();
            let rows = expected.entry((candle.partition, candle.symbol.clone())).or_default();
            rows.push((row["timestamp"].as_i64().unwrap(), close));
        }
        let mut found: HashMap<(i32, String), Vec<(i64, f64)>> = HashMap::new();
        for message in self.kafka.read(&self.validated) {
            let row: serde_json::Value = serde_json::from_slice(&message.payload.unwrap()).unwrap();
            let symbol = row["symbol"].as_str().unwrap().to_owned();
            assert_eq!(message.key.unwrap(), format!("binance|{symbol}|1m").into_bytes());
            let rows = found.entry((message.partition, symbol)).or_default();
            rows.push((row["timestamp"].as_i64().unwrap(), row["close"].as_f64().unwrap()));
        }
        let count = |rows: &HashMap<_, Vec<_>>| rows.values().map(Vec::len).sum::<usize>();
        for (key, rows) in &expected {
            let written = found.get(key).map_or(&[][..], Vec::as_slice);
            let different = rows.iter().zip(written).position(|(one, other)| one != other);
            assert!(
                rows == written,
                "{key:?}: {} rows sent, {} written, different from number {different:?} on",
                rows.len(),
                written.len()
            );
        }
        assert_eq!(count(&expected), count(&found));

        let mut wrong: Vec<(i32, &str)> = sent
            .iter()
            .filter(|candle| candle.fate == Fate::Rejected)
            .map(|candle| (candle.partition, candle.payload.as_str()))
            .collect();
        let letters = self.kafka.read(&self.rejected);
        let mut rejected: Vec<(i32, &str)> = letters
            .iter()
            .map(|letter| (letter.partition, std::str::from_utf8(letter.payload.as_ref().unwrap()).unwrap()))
            .collect();
        wrong.sort_unstable();
        rejected.sort_unstable();
        assert_eq!(wrong.len(), rejected.len(), "rejected rows");
        assert!(wrong == rejected, "the dead letters are not the wrong rows");
        let places: HashSet<_> = letters
            .iter()
            .map(|letter| {
                (&letter.headers["tidegate-source-partition"], &letter.headers["tidegate-source-offset"])
            })
            .collect();
        assert_eq!(places.len(), letters.len(), "a row is twice in the dead letter");
    }
}

pub fn ends(kafka: &Kafka, topic: &str, partitions: i32) -> Vec<i64> {
    let consumer: BaseConsumer = kafka.config().create().unwrap();
    (0..partitions).map(|partition| partition_end(&consumer, topic, partition)).collect()
}

/// A broker that has just come back leads its partitions a moment later, so it is asked until it answers.
fn partition_end(consumer: &BaseConsumer, topic: &str, partition: i32) -> i64 {
    let mut end = None;
    wait_until("a partition has a leader", || {
        end = consumer.fetch_watermarks(topic, partition, ASK).ok();
        end.is_some()
    });
    end.unwrap().1
}
