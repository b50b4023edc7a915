//! A topic of Kafka or Redpanda.
//!
//! Rows are handed to the producer batch by batch and become visible at a checkpoint, about once a second. With
//! `exactly_once` the checkpoint is a transaction of rows, dead letters and the group's offsets; with
//! `at_least_once` the offsets are committed once all rows are acknowledged.
//!
//! Whatever fails in between is undone as a whole: [`KafkaSink::recover`] makes a new producer, which ends what its
//! predecessor has begun, and the lane goes back to the committed offsets.

mod hanging;
mod message;
mod read_back;
pub mod replay;
mod topics;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use self::hanging::Begun;
use self::message::{Key, key_columns};
use self::read_back::{Extent, ReadBack};
use self::topics::{Target, Topics, limit_bytes, set_limits};
use super::json::RowWriter;
use super::{Preparation, Prepared, Reading, Stored, Write};
use crate::batch::{Partition, Position};
use crate::dead_letter::DeadLetter;
use crate::error::{Error, Result};
use crate::kafka::{
    ASK, Asking, Cluster, Committed, Heard, OUTCOME, Patience, STEP, client_config, ends, is_lost,
    reader_config, refused,
};
use crate::lane::Place;
use crate::pipeline_file::{
    self, Commit, Connection, Delivery, KafkaSink as Config, Remember, default_group,
};
use crate::shutdown::Shutdown;
use crate::source::Source;

/// How long the broker keeps a transaction whose producer is gone. Until then readers of committed rows see nothing
/// behind it, so it is short; a checkpoint every second is far below it.
const TRANSACTION_MS: &str = "15000";

/// How long a stop waits for the last checkpoint.
const LAST_CHECKPOINT: Duration = Duration::from_secs(10);

/// Rows on their way to the broker, for a lane: two batches.
const ON_THE_WAY_KIB: &str = "32768";

/// Between the fingerprint and the name of a file, in the metadata of the offset that is its position.
const SEPARATOR: char = ' ';

/// A topic.
pub struct KafkaSink {
    producer: BaseProducer<Deliveries>,
    /// Reaches the brokers.
    client: ClientConfig,
    /// Makes a producer.
    config: ClientConfig,
    /// Makes a consumer that reads back.
    reader: ClientConfig,
    /// Reads back, once it was needed.
    reading: Option<BaseConsumer<Asking>>,
    /// Says where partitions end with all that is not committed.
    asking: Arc<BaseConsumer<Asking>>,
    brokers: String,
    is_transactional: bool,
    topic: Target,
    dead_letter: Target,
    schema: SchemaRef,
    /// The columns of a message's key.
    key: Vec<usize>,
    commit: Commit,
    step: Option<Step>,
    begun: Begun,
    positions: Positions,
    shutdown: Shutdown,
}

/// Rows since the last checkpoint.
struct Step {
    since: Instant,
    rows: usize,
    next: HashMap<Partition, Position>,
}

/// Where the positions of the source are kept.
enum Positions {
    /// With the group of a Kafka source.
    Group,
    /// With a group of their own, as the offset of the topic's partition 0, for a source that has no group.
    Own(Box<BaseConsumer<Asking>>),
}

impl KafkaSink {
    /// Reaches the brokers, checks the topics, and ends what an earlier process has left unfinished.
    pub fn open(
        config: &Config,
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        source: &Source,
        place: &Place<'_>,
    ) -> Result<KafkaSink> {
        let partitions = source.partition_count();
        KafkaSink::open_as(config, pipeline, schema, partitions, transactional_id(pipeline, place), place)
    }

    /// With transactions of this name, or without any. The source has so many partitions, where that is known.
    fn open_as(
        config: &Config,
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        partitions: Option<i32>,
        transactional_id: Option<String>,
        place: &Place<'_>,
    ) -> Result<KafkaSink> {
        let connection = config.connection(pipeline.source.kafka());
        let cluster = Cluster::reach(connection, &config.topic, place.folder, &place.patience)?;
        let client = client_config(connection, place.folder);
        let topics = Topics { cluster: &cluster, connection, client: &client, config, partitions, place };
        let topic = topics.target(&config.topic, "sink.kafka.topic")?;
        let dead_letter = topics.target(&config.dead_letter_topic(pipeline), "dead_letter.kafka.topic")?;
        check_partitions(&topic, partitions)?;
        let is_transactional = transactional_id.is_some();
        let mut producer_config = producer_config(client.clone(), config, connection, transactional_id);
        set_limits(&mut producer_config, [&topic, &dead_letter]);
        let reader =
            reader_config(connection, place.folder, &format!("{}-read-back", default_group(&pipeline.name)));
        let positions = match pipeline.source {
            pipeline_file::Source::Kafka(_) => Positions::Group,
            pipeline_file::Source::File(_) | pipeline_file::Source::Exchange(_) => {
                let mut own = reader.clone();
                own.set("group.id", default_group(&pipeline.name));
                let consumer = own.create_with_context(Asking::default());
                Positions::Own(Box::new(consumer.map_err(|error| refused(connection, &error))?))
            }
        };
        let asking: BaseConsumer<Asking> = (client.clone())
            .set("isolation.level", "read_uncommitted")
            .create_with_context(Asking::default())
            .map_err(|error| refused(connection, &error))?;
        let producer: BaseProducer<Deliveries> = producer_config
            .create_with_context(Deliveries::of(topic.partitions))
            .map_err(|error| refused(connection, &error))?;
        let mut sink = KafkaSink {
            producer,
            client,
            config: producer_config,
            reader,
            reading: None,
            asking: asking.into(),
            brokers: connection.brokers.into(),
            is_transactional,
            key: key_columns(config, schema)?,
            topic,
            dead_letter,
            schema: schema.clone(),
            commit: config.commit,
            step: None,
            begun: Begun::default(),
            positions,
            shutdown: place.patience.shutdown.clone(),
        };
        sink.begin_with(&place.patience)?;
        Ok(sink)
    }

    /// Whether the brokers answer and the topics are there, unless they are to be made.
    pub fn check(
        config: &Config,
        pipeline: &pipeline_file::Pipeline,
        partitions: Option<i32>,
        place: &Place<'_>,
    ) -> Result<()> {
        let connection = config.connection(pipeline.source.kafka());
        let cluster = Cluster::reach(connection, &config.topic, place.folder, &place.patience)?;
        let client = client_config(connection, place.folder);
        let topics = Topics { cluster: &cluster, connection, client: &client, config, partitions, place };
        let dead_letter = config.dead_letter_topic(pipeline);
        for (name, setting) in
            [(&*config.topic, "sink.kafka.topic"), (&*dead_letter, "dead_letter.kafka.topic")]
        {
            if !config.create || cluster.partitions(name)?.is_some() {
                let target = topics.target(name, setting)?;
                if setting == "sink.kafka.topic" {
                    check_partitions(&target, partitions)?;
                }
            }
        }
        Ok(())
    }

    /// The first `init_transactions`, whose failure is the user's to mend.
    fn begin_with(&mut self, patience: &Patience) -> Result<()> {
        if !self.is_transactional {
            return Ok(());
        }
        self.connect();
        let start = Instant::now();
        loop {
            let Err(error) = self.producer.init_transactions(ASK) else { return Ok(()) };
            let code = error.rdkafka_error_code();
            if code == Some(RDKafkaErrorCode::UnsupportedFeature) {
                return Err(Error::Surroundings(format!(
                    "the brokers at `{}` have no transactions; `delivery: at_least_once` does without, `dlq replay` \
                     cannot",
                    self.brokers
                )));
            }
            let is_over = matches!(&error, KafkaError::Transaction(error) if !error.is_retriable());
            if is_over || !patience.lasts(start) {
                return Err(Error::Surroundings(format!(
                    "cannot begin transactions at `{}`: {}",
                    self.brokers,
                    reason(&error)
                )));
            }
        }
    }

    /// Waits until the producer has a connection: librdkafka rests for half a second when it is to look for the
    /// coordinator of transactions and has none.
    fn connect(&self) {
        // Without a broker the beginning of transactions fails next, and says why.
        drop(self.producer.client().fetch_metadata(Some(&self.topic.name), STEP));
    }

    /// The position that this sink keeps for the partition; `None` when the source's own group keeps it.
    ///
    /// # Errors
    /// [`Error::Files`] when the position is another file's: the pipeline's name has one place for it.
    pub fn position(&mut self, partition: &Partition) -> Result<Option<Position>> {
        // Others may have written to it since this lane has.
        self.producer.context().forget_ends();
        let Positions::Own(consumer) = &self.positions else { return Ok(None) };
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&self.topic.name, 0);
        let start = Instant::now();
        let found = loop {
            match consumer.committed_offsets(asked.clone(), ASK) {
                Ok(found) => break found,
                Err(_) if start.elapsed() < OUTCOME => {}
                Err(error) => return Err(self.rewind("cannot ask for the position", &error)),
            }
        };
        let elements = found.elements();
        let Some((Offset::Offset(offset), metadata)) =
            elements.first().map(|element| (element.offset(), element.metadata()))
        else {
            return Ok(Some(Position::default()));
        };
        let (fingerprint, topic) = metadata.split_once(SEPARATOR).unwrap_or((metadata, ""));
        if topic != &*partition.topic {
            return Err(Error::Files(format!(
                "under this pipeline's name `{topic}` was read into the topic `{}`, and the position is of that; give \
                 the pipeline that reads `{}` another name",
                self.topic.name, partition.topic
            )));
        }
        let next_offset = u64::try_from(offset).unwrap_or(0);
        Ok(Some(Position { next_offset, fingerprint: fingerprint.into() }))
    }

    /// Hands rows and dead letters to the producer. They count from the next checkpoint on.
    pub fn write(&mut self, write: &Write<'_>, source: &mut Source) -> Result<Stored> {
        if self.step.is_none() && self.is_transactional {
            self.producer
                .begin_transaction()
                .map_err(|error| self.rewind("cannot begin a transaction", &error))?;
        }
        self.begun.partitions.insert(write.partition.number);
        let mut stored = Stored::default();
        let partition = self.output_partition(write.partition)?;
        let writer = RowWriter::new(write.kept);
        let key = Key::new(&self.key, write.kept);
        let (mut value, mut key_text) = (Vec::with_capacity(512), Vec::with_capacity(64));
        let headers = message::versions(write.versions);
        let weight = headers.as_ref().map_or(0, message::header_bytes);
        for row in 0..write.kept.num_rows() {
            value.clear();
            writer.append(row, &mut value);
            let has_key = key.append(row, &mut key_text);
            if let Some(detail) = self.topic.too_large(&value, key_text.len() + weight) {
                let refused = (write.refuse)(row, "too_large", detail);
                self.send_dead_letter(&refused, source)?;
                stored.refused.push(refused.reject.into_owned());
                continue;
            }
            let mut record = record(&self.topic.name, ROW).payload(value.as_slice());
            record.partition = partition;
            if has_key {
                record = record.key(key_text.as_slice());
            }
            record.headers = headers.clone();
            stored.bytes += (value.len() + key_text.len() + weight) as u64;
            self.send(record, source)?;
        }
        for dead_letter in write.rejected {
            stored.bytes += dead_letter.payload.len() as u64;
            self.send_dead_letter(dead_letter, source)?;
        }
        self.producer.poll(Duration::ZERO);
        self.check_deliveries()?;
        let step = self.step.get_or_insert_with(Step::new);
        step.rows += write.kept.num_rows() + write.rejected.len();
        step.next.insert(write.partition.clone(), write.next.clone());
        Ok(stored)
    }

    /// The partition for rows of `partition`: the one of the same number; by their keys for a source that has one
    /// partition only.
    fn output_partition(&self, partition: &Partition) -> Result<Option<i32>> {
        match self.positions {
            Positions::Own(_) => Ok(None),
            Positions::Group if partition.number < self.topic.partitions => Ok(Some(partition.number)),
            Positions::Group => Err(Error::Surroundings(format!(
                "`{}` has got a partition {}, and `{}` has {} partitions; give it as many",
                partition.topic, partition.number, self.topic.name, self.topic.partitions
            ))),
        }
    }

    fn send_dead_letter(&self, dead_letter: &DeadLetter<'_>, source: &mut Source) -> Result<()> {
        let (shown, headers) = message::dead_letter(dead_letter, self.dead_letter.limit_bytes);
        let partition = dead_letter.partition.rem_euclid(self.dead_letter.partitions);
        let record =
            record(&self.dead_letter.name, NO_ROW).partition(partition).payload(shown).headers(headers);
        self.send(record, source)
    }

    /// Hands a message to the producer; waits while too many are on the way.
    fn send(&self, mut record: Record<'_>, source: &mut Source) -> Result<()> {
        let start = Instant::now();
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
                Err((error, _)) => return Err(self.rewind("a row is not taken", &error)),
            };
            self.producer.poll(Duration::from_millis(1));
            self.check_deliveries()?;
            self.wait(source, start)?;
        }
    }

    /// Whether a checkpoint is due: soon when the source has no more rows waiting, for then it costs nobody's time.
    pub fn is_due(&self, has_more: bool) -> bool {
        let wait = if has_more { self.commit.wait.0 } else { self.commit.wait.0 / 10 };
        self.step.as_ref().is_some_and(|step| step.rows >= self.commit.rows || step.since.elapsed() >= wait)
    }

    /// Makes what was written visible, together with the positions. Afterwards all of it counts; when it fails,
    /// nothing counts, or nobody knows, until [`KafkaSink::recover`].
    pub fn checkpoint(&mut self, source: &mut Source) -> Result<()> {
        let Some(step) = &self.step else { return Ok(()) };
        let offsets = self.offsets(step)?;
        let partitions: Vec<Partition> = step.next.keys().cloned().collect();
        let start = Instant::now();
        while self.producer.in_flight_count() > 0 {
            // `flush` of this crate waits 100 ms at least, whenever the last acknowledgement comes.
            self.producer.poll(Duration::from_millis(1));
            self.check_deliveries()?;
            self.wait(source, start)?;
        }
        self.check_deliveries()?;
        crate::crash::point("before_commit");
        if self.is_transactional {
            self.commit_transaction(&offsets, &partitions, source)?;
        } else {
            self.commit_offsets(&offsets, &partitions, source)?;
        }
        crate::crash::point("after_commit");
        self.step = None;
        self.begun = Begun::default();
        Ok(())
    }

    fn commit_transaction(
        &mut self,
        offsets: &TopicPartitionList,
        partitions: &[Partition],
        source: &mut Source,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let metadata = self.group_metadata(partitions, source)?;
            match self.producer.send_offsets_to_transaction(offsets, &metadata, STEP) {
                Ok(()) => break,
                Err(error) if is_again(&error) && start.elapsed() < OUTCOME => self.wait(source, start)?,
                Err(error) => {
                    return Err(self.rewind("the offsets are not taken into the transaction", &error));
                }
            }
        }
        crate::crash::point("offsets_sent");
        self.begun.asked = Some(offsets.clone());
        loop {
            match self.producer.commit_transaction(STEP) {
                Ok(()) => return Ok(()),
                // Asking again for the outcome is not committing again: it is the same transaction.
                Err(error) if is_again(&error) && start.elapsed() < OUTCOME => self.wait(source, start)?,
                Err(error) => return Err(self.rewind("the transaction is not committed", &error)),
            }
        }
    }

    fn group_metadata(&self, partitions: &[Partition], source: &Source) -> Result<ConsumerGroupMetadata> {
        let metadata = match (&self.positions, source) {
            (Positions::Own(consumer), _) => consumer.group_metadata(),
            (Positions::Group, Source::Kafka(source)) => source.group_metadata(partitions),
            (Positions::Group, Source::File { .. } | Source::Exchange(_) | Source::Backfill(_)) => None,
        };
        metadata.ok_or_else(|| Error::Rewind("the group has given this lane's partitions to others".into()))
    }

    fn commit_offsets(
        &mut self,
        offsets: &TopicPartitionList,
        partitions: &[Partition],
        source: &mut Source,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let committed = match (&self.positions, &*source) {
                (Positions::Own(consumer), _) => consumer.commit(offsets, CommitMode::Sync),
                (Positions::Group, Source::Kafka(source)) => source.commit(offsets, partitions),
                (Positions::Group, Source::File { .. } | Source::Exchange(_) | Source::Backfill(_)) => Ok(()),
            };
            match committed {
                Ok(()) => return Ok(()),
                Err(error) if is_lost(&error) || start.elapsed() > OUTCOME => {
                    return Err(self.rewind("the positions are not committed", &error));
                }
                Err(_) => self.wait(source, start)?,
            }
        }
    }

    fn offsets(&self, step: &Step) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, position) in &step.next {
            let (topic, number) = match self.positions {
                Positions::Group => (&*partition.topic, partition.number),
                Positions::Own(_) => (self.topic.name.as_str(), 0),
            };
            let offset = Offset::Offset(i64::try_from(position.next_offset).unwrap_or(i64::MAX));
            let mut element = list.add_partition(topic, number);
            element.set_offset(offset).map_err(|error| {
                Error::Running(format!("offset {} of `{topic}`: {error}", position.next_offset))
            })?;
            if matches!(self.positions, Positions::Own(_)) {
                element.set_metadata(format!("{}{SEPARATOR}{}", position.fingerprint, partition.topic));
            }
        }
        Ok(list)
    }

    /// Between two looks at the broker: the source stays in its group; a stop does not wait for ever.
    fn wait(&self, source: &mut Source, start: Instant) -> Result<()> {
        if self.shutdown.is_requested() && start.elapsed() > LAST_CHECKPOINT {
            return Err(Error::Rewind(
                "the broker does not answer, and the stop does not wait for it".into(),
            ));
        }
        source.keep_alive()
    }

    /// Whether all that the broker has answered so far is well.
    fn check_deliveries(&self) -> Result<()> {
        let failure = self.producer.context().take_failure();
        failure.map_or(Ok(()), |error| Err(self.rewind("a row is not taken", &error)))
    }

    /// After an [`Error::Rewind`]: a new producer, which ends what the one before has begun. Returns when the broker
    /// has answered; the positions of the group are then what counts.
    pub fn recover(&mut self, source: &mut Source) -> Result<()> {
        self.step = None;
        // What a topic takes can have become less.
        for target in [&mut self.topic, &mut self.dead_letter] {
            target.limit_bytes = limit_bytes(&self.client, &target.name).unwrap_or(target.limit_bytes);
        }
        set_limits(&mut self.config, [&self.topic, &self.dead_letter]);
        let again = |what: &str, error: &KafkaError| Error::Rewind(format!("{what}: {}", reason(error)));
        let producer: BaseProducer<Deliveries> = self
            .config
            .create_with_context(Deliveries::of(self.topic.partitions))
            .map_err(|error| again("a producer cannot be made", &error))?;
        // What the old one still holds is thrown away.
        self.producer = producer;
        if self.is_transactional {
            self.connect();
            let start = Instant::now();
            loop {
                match self.producer.init_transactions(STEP) {
                    Ok(()) => break,
                    Err(error) if is_again(&error) => self.wait(source, start)?,
                    Err(error) => return Err(again("transactions cannot begin anew", &error)),
                }
            }
            self.end_hanging(source)?;
        }
        Ok(())
    }

    /// A partition of the topic, of which `consumer` sees what is committed.
    fn committed<'a>(&'a self, consumer: &'a BaseConsumer<Asking>, partition: i32) -> Committed<'a> {
        Committed {
            consumer,
            asking: &self.asking,
            topic: &self.topic.name,
            partition,
            brokers: &self.brokers,
            shutdown: &self.shutdown,
        }
    }

    fn rewind(&self, what: &str, error: &KafkaError) -> Error {
        let heard = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::OperationTimedOut) => {
                self.producer.context().heard.last().map(|heard| format!(" ({heard})"))
            }
            _ => None,
        };
        Error::Rewind(format!("{what} at `{}`: {}{}", self.brokers, reason(error), heard.unwrap_or_default()))
    }

    /// Reads back the rows of a partition, of all partitions when the rows of the source are spread by key.
    ///
    /// Committed rows only, so the caller makes a checkpoint before. Transactions that others have left open are
    /// waited for: behind them may be rows that count.
    pub fn read_back(
        &mut self,
        partition: i32,
        columns: &[String],
        remember: &Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let consumer = self.take_reading()?;
        let mut read_back = ReadBack::new(self, columns)?;
        for extent in self.extents(&consumer, partition)? {
            read_back.run(&consumer, extent, remember, each)?;
        }
        self.reading = Some(consumer);
        Ok(())
    }

    /// Reaches the leaders of the partitions, so that [`KafkaSink::reading`] waits for one answer of each.
    pub fn preparation(&self) -> Preparation {
        let (asking, topic) = (Arc::clone(&self.asking), self.topic.name.clone());
        let partitions: Vec<i32> = (0..self.topic.partitions).collect();
        Box::new(move || {
            // What fails here fails again when it is asked in earnest.
            drop(asking.fetch_metadata(Some(&topic), ASK).and_then(|_| ends(&asking, &topic, &partitions)));
            Ok(Prepared::Nothing)
        })
    }

    /// What [`KafkaSink::read_back`] would read now. Since a checkpoint nothing was written, so what counts ends where the
    /// partitions end; where they begin is asked when it is read.
    pub fn reading(&mut self, partitions: &[i32], columns: &[String]) -> Result<Reading> {
        let is_spread = matches!(self.positions, Positions::Own(_));
        let partitions = self.outputs_of(partitions);
        // Nobody is asked for what the delivery reports have said: the lane would wait for the answer.
        let ends = match self.producer.context().ends(&partitions) {
            Some(ends) => ends,
            None => ends(&self.asking, &self.topic.name, &partitions)
                .map_err(|error| self.rewind("cannot ask where partitions end", &error))?,
        };
        let mut read_back = ReadBack::new(self, columns)?;
        let (config, brokers) = (self.reader.clone(), self.brokers.clone());
        Ok(Box::new(move |remember, each| {
            let consumer: BaseConsumer<Asking> =
                config.create_with_context(Asking::default()).map_err(|error| {
                    Error::Rewind(format!("a consumer of `{brokers}` cannot be made: {}", reason(&error)))
                })?;
            ends.into_iter().try_for_each(|(partition, end)| {
                let low = read_back.settle(&consumer, partition, end)?;
                let of = (!is_spread).then_some(partition);
                let extent = Extent { partition, low, end };
                read_back.run(&consumer, extent, remember, &mut |rows| each(of, rows))
            })
        }))
    }

    /// The partitions that have the rows of a partition of the source, up to where they count now.
    fn extents(&self, consumer: &BaseConsumer<Asking>, partition: i32) -> Result<Vec<Extent>> {
        let extent = |partition: i32| {
            let (low, end) = self.committed(consumer, partition).settled()?;
            Ok(Extent { partition, low, end })
        };
        self.outputs_of(&[partition]).into_iter().map(extent).collect()
    }

    /// The partitions of the topic that can have rows of these of the source: all, where rows are spread by their keys.
    fn outputs_of(&self, partitions: &[i32]) -> Vec<i32> {
        match self.positions {
            Positions::Group => partitions.to_vec(),
            Positions::Own(_) => (0..self.topic.partitions).collect(),
        }
    }

    /// A consumer that sees what is committed. It is kept: a new one would have to find the brokers for each partition.
    fn take_reading(&mut self) -> Result<BaseConsumer<Asking>> {
        match self.reading.take() {
            Some(consumer) => Ok(consumer),
            None => (self.reader)
                .create_with_context(Asking::default())
                .map_err(|error| self.rewind("a consumer cannot be made", &error)),
        }
    }

    /// Whether a checkpoint is due before a partition is read back: rows that were written to it would not be seen,
    /// and others would wait until it is done.
    pub fn is_due_before_reading(&self, partition: i32) -> bool {
        let Some(step) = &self.step else { return false };
        let is_spread = matches!(self.positions, Positions::Own(_));
        let is_written = step.next.keys().any(|written| written.number == partition);
        let is_long = || match self.asking.fetch_watermarks(&self.topic.name, partition, ASK) {
            Ok((low, high)) => low < high,
            Err(_) => true,
        };
        is_spread || is_written || is_long()
    }
}

/// Rows go to the partition of the number that they came from.
fn check_partitions(topic: &Target, of_source: Option<i32>) -> Result<()> {
    match of_source.filter(|count| *count > topic.partitions) {
        Some(count) => Err(Error::Surroundings(format!(
            "the topic `{}` (`sink.kafka.topic`) has {} partitions and the source's has {count}; rows go to the \
             partition of the same number, so give it {count}",
            topic.name, topic.partitions
        ))),
        None => Ok(()),
    }
}

impl Step {
    fn new() -> Step {
        Step { since: Instant::now(), rows: 0, next: HashMap::new() }
    }
}

/// The name of a lane's transactions, when it has any. It is the same after a restart: the broker then ends what
/// this lane has left open.
fn transactional_id(pipeline: &pipeline_file::Pipeline, place: &Place<'_>) -> Option<String> {
    let name = || match pipeline.source.kafka() {
        Some(_) => format!("{}-{}", pipeline.group(), place.member()),
        None => pipeline.group(),
    };
    (pipeline.delivery == Delivery::ExactlyOnce).then(name)
}

/// The settings of a lane's producer: those of a client, and its own.
fn producer_config(
    mut producer: ClientConfig,
    config: &Config,
    connection: Connection<'_>,
    transactional_id: Option<String>,
) -> ClientConfig {
    producer
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", config.compression.name())
        // As Java's clients do, so that a series has the same partition whoever writes it.
        .set("partitioner", "murmur2_random")
        // Failures only: a report for each of a million rows a second would be thrown away.
        .set("delivery.report.only.error", "true");
    if let Some(name) = transactional_id {
        producer.set("transactional.id", name).set("transaction.timeout.ms", TRANSACTION_MS);
    }
    let ours = [
        ("linger.ms", "20"),
        ("batch.num.messages", "10000"),
        ("queue.buffering.max.kbytes", ON_THE_WAY_KIB),
        // Else the first transaction of a process waits half a second for its coordinator.
        ("retry.backoff.ms", "20"),
    ];
    for (name, value) in ours.into_iter().filter(|(name, _)| !connection.options.0.contains_key(*name)) {
        producer.set(name, value);
    }
    // Bytes are the bound; the number of small messages is not.
    producer.set("queue.buffering.max.messages", "0");
    producer.set_log_level(RDKafkaLogLevel::Warning);
    producer
}

/// Whether the same question may be asked again.
fn is_again(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable() && !error.txn_requires_abort(),
        _ => false,
    }
}

fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        other => match other.rdkafka_error_code() {
            Some(code) => code.to_string(),
            None => other.to_string(),
        },
    }
}

/// A message of this sink, and what it is.
type Record<'a> = BaseRecord<'a, [u8], [u8], usize>;

/// Of dead letters, and of what only ends a transaction.
const NO_ROW: usize = 0;
const ROW: usize = 1;

fn record(topic: &str, what: usize) -> Record<'_> {
    BaseRecord::with_opaque_to(topic, what)
}

/// What a producer hears.
struct Deliveries {
    heard: Heard,
    /// The first message that was not taken.
    failure: Mutex<Option<KafkaError>>,
    /// Of each partition of the topic the offset after the last row of this producer, or [`UNKNOWN`].
    ends: Vec<AtomicI64>,
}

const UNKNOWN: i64 = -1;

impl Deliveries {
    fn of(partitions: i32) -> Deliveries {
        let ends = (0..partitions).map(|_| AtomicI64::new(UNKNOWN)).collect();
        Deliveries { heard: Heard::default(), failure: Mutex::default(), ends }
    }

    /// The offsets after the last rows of these partitions, when this producer has written to each since it has them.
    fn ends(&self, partitions: &[i32]) -> Option<Vec<(i32, i64)>> {
        let end = |partition: &i32| {
            let end = self.ends.get(usize::try_from(*partition).ok()?)?.load(Ordering::Relaxed);
            (end != UNKNOWN).then_some((*partition, end))
        };
        partitions.iter().map(end).collect()
    }

    fn forget_ends(&self) {
        self.ends.iter().for_each(|end| end.store(UNKNOWN, Ordering::Relaxed));
    }

    fn take_failure(&self) -> Option<KafkaError> {
        self.failure.lock().unwrap_or_else(|poison| poison.into_inner()).take()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Heard::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, what: usize) {
        match result {
            Ok(message) if what == ROW => {
                let partition = usize::try_from(message.partition()).unwrap_or(usize::MAX);
                if let Some(end) = self.ends.get(partition) {
                    end.store(message.offset() + 1, Ordering::Relaxed);
                }
            }
            Ok(_) => {}
            Err((error, _)) => {
                self.failure
                    .lock()
                    .unwrap_or_else(|poison| poison.into_inner())
                    .get_or_insert_with(|| error.clone());
            }
        }
    }
}
