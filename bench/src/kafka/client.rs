//! The programs that the host is compared with: what one would write by hand with the same library, with the same
//! settings of it as the host's.
//!
//! `copy` moves messages and does nothing else. `twin` does what the host does, with the rules compiled in. Both
//! commit the group's offsets once a second, after all that was sent is acknowledged.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tidegate::batch::{Batch, Decoded, Partition, Payload, Position, RawBatch, RawRow};
use tidegate::decode::Decoder;
use tidegate::pipeline_file::Decode;
use tidegate::sink::json::RowWriter;
use tidegate::sink::values::{Value, Values};
use tidegate_dedup::Dedup;
use tidegate_enrich::Enrich;
use tidegate_validate::Validate;

use super::{DEDUP, PARTITIONS, VALIDATE};
use crate::twin::Twin;

/// The host's `batch.rows` and `batch.wait`.
const BATCH_ROWS: usize = 10_000;
const BATCH_WAIT: Duration = Duration::from_millis(50);

/// The host's `commit.wait`.
const COMMIT_WAIT: Duration = Duration::from_secs(1);

/// How many messages go by between two looks at the clock.
const BETWEEN_LOOKS: usize = 256;

/// What to do, and with which topics.
#[derive(clap::Args)]
pub struct Arguments {
    kind: Kind,
    #[arg(long)]
    brokers: String,
    #[arg(long)]
    from: String,
    #[arg(long)]
    to: String,
    #[arg(long)]
    rejected: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    clients: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Copy,
    Twin,
}

/// Runs so many clients, each in a thread of its own, until the topic's end.
pub fn run(arguments: &Arguments) -> Result<()> {
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..arguments.clients).map(|number| scope.spawn(move || client(arguments, number))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })
}

fn client(arguments: &Arguments, number: usize) -> Result<()> {
    let share = PARTITIONS as usize / arguments.clients;
    let consumer = consumer(arguments, number, share)?;
    let output = Output {
        producer: producer(arguments)?,
        to: arguments.to.clone(),
        rejected: arguments.rejected.clone(),
    };
    match arguments.kind {
        Kind::Copy => work(&consumer, &output, share, Copy),
        Kind::Twin => work(&consumer, &output, share, ByHand::new(&arguments.from)?),
    }
}

fn consumer(arguments: &Arguments, number: usize, share: usize) -> Result<BaseConsumer<Member>> {
    let consumer: BaseConsumer<Member> = ClientConfig::new()
        .set("bootstrap.servers", &arguments.brokers)
        .set("group.id", &arguments.group)
        .set("group.instance.id", number.to_string())
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "2500")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.wait.max.ms", "100")
        .create_with_context(Member { share, owned: Mutex::default() })?;
    consumer.subscribe(&[&arguments.from])?;
    Ok(consumer)
}

fn producer(arguments: &Arguments) -> Result<BaseProducer<Deliveries>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", &arguments.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("delivery.report.only.error", "true")
        .set("linger.ms", "20")
        .set("batch.num.messages", "10000")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.kbytes", "32768")
        .set("queue.buffering.max.messages", "0")
        .create_with_context(Deliveries::default())?)
}

/// Reads until all partitions of this client have ended.
fn work(consumer: &BaseConsumer<Member>, output: &Output, share: usize, mut work: impl Work) -> Result<()> {
    let mut next = vec![None; PARTITIONS as usize];
    let mut ended = vec![false; PARTITIONS as usize];
    let mut committed = Instant::now();
    while ended.iter().filter(|ended| **ended).count() < share {
        // Waiting costs looks at the clock, so only the first message is waited for.
        let mut timeout = BATCH_WAIT;
        for _ in 0..BETWEEN_LOOKS {
            match consumer.poll(timeout) {
                Some(Ok(message)) => {
                    work.take(&message, output, &mut next)?;
                    timeout = Duration::ZERO;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ended[partition as usize] = true;
                    break;
                }
                Some(Err(error)) => return Err(error.into()),
                None => break,
            }
        }
        work.look(output, &mut next)?;
        if committed.elapsed() >= COMMIT_WAIT {
            commit(consumer, output, &mut next)?;
            committed = Instant::now();
        }
    }
    work.finish(output, &mut next)?;
    commit(consumer, output, &mut next)
}

/// The offset after the last row of each partition that was dealt with since the last commit.
type Offsets = Vec<Option<i64>>;

fn commit(consumer: &BaseConsumer<Member>, output: &Output, next: &mut Offsets) -> Result<()> {
    while output.producer.in_flight_count() > 0 {
        output.producer.poll(Duration::from_millis(1));
    }
    if let Some(error) = output.producer.context().failure.lock().expect("nobody panics").take() {
        bail!("a row is not taken: {error}");
    }
    let mut list = TopicPartitionList::new();
    for element in consumer.assignment()?.elements() {
        if let Some(offset) = next[element.partition() as usize].take() {
            list.add_partition_offset(element.topic(), element.partition(), Offset::Offset(offset))?;
        }
    }
    if list.count() > 0 {
        consumer.commit(&list, CommitMode::Sync)?;
    }
    Ok(())
}

/// What is done with messages.
trait Work {
    fn take(&mut self, message: &BorrowedMessage<'_>, output: &Output, next: &mut Offsets) -> Result<()>;

    /// Some time has passed.
    fn look(&mut self, _: &Output, _: &mut Offsets) -> Result<()> {
        Ok(())
    }

    /// No more messages come.
    fn finish(&mut self, _: &Output, _: &mut Offsets) -> Result<()> {
        Ok(())
    }
}

/// Moves messages.
struct Copy;

impl Work for Copy {
    fn take(&mut self, message: &BorrowedMessage<'_>, output: &Output, next: &mut Offsets) -> Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&output.to).partition(message.partition());
        record.key = message.key();
        record.payload = message.payload();
        next[message.partition() as usize] = Some(message.offset() + 1);
        output.send(record)
    }
}

/// What the host does, without the host.
struct ByHand {
    decoder: Decoder,
    rules: Vec<Twin>,
    topic: String,
    key: Vec<usize>,
    partitions: Vec<Gathered>,
}

/// Rows of a partition that are not yet a batch.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    rows: Vec<RawRow>,
    since: Option<Instant>,
}

impl ByHand {
    fn new(topic: &str) -> Result<ByHand> {
        let decoder = Decoder::new(&Decode::default())?;
        let validate = Twin::new::<Validate>(VALIDATE, decoder.schema())?;
        let dedup = Twin::new::<Dedup>(DEDUP, validate.schema())?;
        let enrich = Twin::new::<Enrich>("{}", dedup.schema())?;
        let key = ["source", "symbol", "timeframe"].iter().map(|name| enrich.schema().index_of(name));
        Ok(ByHand {
            key: key.collect::<Result<_, _>>()?,
            decoder,
            rules: vec![validate, dedup, enrich],
            topic: topic.into(),
            partitions: (0..PARTITIONS).map(|_| Gathered::default()).collect(),
        })
    }

    fn process(&mut self, partition: usize, output: &Output, next: &mut Offsets) -> Result<()> {
        let gathered = &mut self.partitions[partition];
        let Some(last) = gathered.rows.last() else { return Ok(()) };
        next[partition] = Some(last.offset as i64 + 1);
        gathered.since = None;
        let (bytes_len, rows_len) = (gathered.bytes.len(), gathered.rows.len());
        let raw = RawBatch {
            partition: Partition { topic: self.topic.as_str().into(), number: partition as i32 },
            next: Position::default(),
            payload: Payload::Rows {
                bytes: std::mem::replace(&mut gathered.bytes, Vec::with_capacity(bytes_len)),
                rows: std::mem::replace(&mut gathered.rows, Vec::with_capacity(rows_len)),
            },
        };
        let now_ms = SystemTime::UNIX_EPOCH.elapsed()?.as_millis() as i64;
        let Decoded { batch: Batch { mut columns, mut rows }, rejects, .. } =
            self.decoder.decode(&raw, &"0".into());
        for reject in rejects {
            let why = ("decode", &*reject.reason, reject.detail.as_str());
            send_dead_letter(&raw, reject.row, why, now_ms, output)?;
        }
        for rule in &mut self.rules {
            let decided = rule.decide(now_ms, &columns);
            columns = decided.kept;
            for (row, reason, detail) in decided.rejected {
                send_dead_letter(&raw, rows[row as usize], (rule.name, reason, &detail), now_ms, output)?;
            }
            if let Some(is_kept) = decided.is_kept {
                let mut is_kept = is_kept.into_iter();
                rows.retain(|_| is_kept.next().unwrap_or(false));
            }
        }
        let writer = RowWriter::new(&columns);
        let key: Vec<Values<'_>> = self.key.iter().map(|&index| Values::of(columns.column(index))).collect();
        let (mut value, mut name) = (Vec::with_capacity(512), Vec::with_capacity(64));
        for row in 0..columns.num_rows() {
            value.clear();
            writer.append(row, &mut value);
            append_key(&key, row, &mut name);
            let record = BaseRecord::<[u8], [u8]>::to(&output.to).partition(partition as i32);
            output.send(record.key(&name).payload(&value))?;
        }
        output.producer.poll(Duration::ZERO);
        Ok(())
    }
}

impl Work for ByHand {
    fn take(&mut self, message: &BorrowedMessage<'_>, output: &Output, next: &mut Offsets) -> Result<()> {
        let partition = message.partition() as usize;
        let gathered = &mut self.partitions[partition];
        let start = gathered.bytes.len();
        gathered.bytes.extend_from_slice(message.payload().unwrap_or_default());
        let end = gathered.bytes.len();
        gathered.rows.push(RawRow { offset: message.offset() as u64, start, end, cut_from: None });
        gathered.since.get_or_insert_with(Instant::now);
        if gathered.rows.len() >= BATCH_ROWS {
            return self.process(partition, output, next);
        }
        Ok(())
    }

    fn look(&mut self, output: &Output, next: &mut Offsets) -> Result<()> {
        for partition in 0..self.partitions.len() {
            if self.partitions[partition].since.is_some_and(|since| since.elapsed() >= BATCH_WAIT) {
                self.process(partition, output, next)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, output: &Output, next: &mut Offsets) -> Result<()> {
        (0..self.partitions.len()).try_for_each(|partition| self.process(partition, output, next))
    }
}

fn append_key(columns: &[Values<'_>], row: usize, key: &mut Vec<u8>) {
    key.clear();
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            key.push(b'|');
        }
        if let Value::Text(text) = column.at(row) {
            key.extend_from_slice(text.as_bytes());
        }
    }
}

/// Sends the row with the rule, the reason and the detail.
fn send_dead_letter(
    raw: &RawBatch,
    row: u32,
    (rule, reason, detail): (&str, &str, &str),
    now_ms: i64,
    output: &Output,
) -> Result<()> {
    let Payload::Rows { bytes, rows } = &raw.payload else { bail!("a message is a row") };
    let raw_row = rows.get(row as usize).context("a row that is not in the batch")?;
    let (number, offset, now) =
        (raw.partition.number.to_string(), raw_row.offset.to_string(), now_ms.to_string());
    let headers = [
        ("tidegate-pipeline", "bench"),
        ("tidegate-rule", rule),
        ("tidegate-rule-version", env!("CARGO_PKG_VERSION")),
        ("tidegate-reason", reason),
        ("tidegate-detail", detail),
        ("tidegate-source-topic", &raw.partition.topic),
        ("tidegate-source-partition", &number),
        ("tidegate-source-offset", &offset),
        ("tidegate-rejected-at", &now),
    ];
    let headers = headers.into_iter().fold(OwnedHeaders::new_with_capacity(9), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    });
    let record = BaseRecord::<[u8], [u8]>::to(&output.rejected).partition(raw.partition.number);
    output.send(record.payload(&bytes[raw_row.start..raw_row.end]).headers(headers))
}

/// Where messages go.
struct Output {
    producer: BaseProducer<Deliveries>,
    to: String,
    rejected: String,
}

impl Output {
    fn send(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<()> {
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
                Err((error, _)) => return Err(error.into()),
            };
            self.producer.poll(Duration::from_millis(1));
        }
    }
}

/// The first message that was not taken.
#[derive(Default)]
struct Deliveries {
    failure: Mutex<Option<KafkaError>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failure.lock().expect("nobody panics").get_or_insert_with(|| error.clone());
        }
    }
}

/// Reads nothing before all members of the group have joined: what a member has read would else be taken from it
/// before it is committed.
struct Member {
    share: usize,
    owned: Mutex<usize>,
}

impl ClientContext for Member {}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Member>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let is_assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let mut owned = self.owned.lock().expect("nobody panics");
        let changed = if is_assigned {
            *owned += list.count();
            consumer.incremental_assign(list)
        } else {
            *owned -= list.count();
            consumer.incremental_unassign(list)
        };
        changed.expect("the group's own list is taken");
        if is_assigned {
            let all = consumer.assignment().expect("the consumer knows it");
            let changed = if *owned == self.share { consumer.resume(&all) } else { consumer.pause(&all) };
            changed.expect("these are assigned");
        }
    }
}
