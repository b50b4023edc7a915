//! Topics of Kafka or Redpanda, as a member of a consumer group.
//!
//! The group gives partitions and takes them back while the consumer is polled; both are noted and become
//! [`Next::Assigned`] and [`Next::Revoked`], and count only once the lane has said so with
//! [`KafkaSource::assign`] and [`KafkaSource::release`]. So a partition is given up after its rows are committed,
//! and taken when its position is known.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Broker;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};

use super::{CUT_BYTES, Lag, Limits, Next, Plan, Start};
use crate::batch::{Partition, Payload, Position, RawBatch, RawRow};
use crate::error::{Error, Result};
use crate::kafka::{ASK, Cluster, Heard, OUTCOME, client_config, is_lost, list, partitions, refused};
use crate::lane::{Place, clock_ms};
use crate::metrics::{Metrics, PartitionStatus};
use crate::pipeline_file::{Deleted, KafkaSource as Config, Pipeline, Sink, Start as StartAt};

/// Messages that librdkafka fetches ahead for a lane: a second of work at 80,000 rows a second.
const FETCHED_AHEAD_KIB: &str = "16384";

/// How long a sink may keep the lane waiting before the fetching is paused: pausing throws away what was fetched.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// With `--until-end`, a lane that the group has given nothing for so long gets nothing any more.
const NOTHING_GIVEN: Duration = Duration::from_secs(10);

/// A member that is refused so soon after its broker was away, or after it slept longer than its session, need not
/// have a rival: librdkafka has joined again, and a request under its former identity is what is refused.
const REFUSED_AFTER: Duration = Duration::from_secs(60);

/// How long the end of a member may take.
const CLOSE: Duration = Duration::from_secs(5);

/// How long a topic may be unknown to the broker, which can be still starting.
const UNKNOWN_TOPIC: Duration = Duration::from_secs(15);

/// In the metadata of a committed offset: the end of the rows that are planned from there, [`AS`] and the plan's id.
const PLANNED: &str = "planned to ";

/// See [`PLANNED`].
const AS: &str = " as ";

/// How often librdkafka says how far it is: a person does not look more often, and for 64 partitions each time is a
/// millisecond.
const STATISTICS_MS: &str = "2000";

/// A member of a consumer group.
pub struct KafkaSource {
    consumer: BaseConsumer<Member>,
    /// Makes a consumer.
    config: ClientConfig,
    topics: Vec<String>,
    session: Duration,
    /// When the lane last polled, and when it had last slept for longer than its session.
    polled: Instant,
    slept: Option<Instant>,
    /// When this member was last refused: once in a while it has no rival, whatever was heard of the broker.
    refused: Option<Instant>,
    brokers: String,
    start: StartAt,
    deleted: Deleted,
    limits: Limits,
    /// The most partitions that one of the topics has.
    partition_count: i32,
    assigned: Vec<Assigned>,
    /// Which of them the last message was from; messages come in runs.
    last: usize,
    /// Since when the sink keeps the lane waiting.
    waiting_since: Option<Instant>,
    is_paused: bool,
    until_end: bool,
    opened: Instant,
}

/// A partition of this lane.
struct Assigned {
    partition: Partition,
    /// Where to go back to when the group has no position for it.
    start_offset: u64,
    /// The offset after the last row that was taken from the broker.
    next_offset: u64,
    /// Rows that are not yet a batch.
    bytes: Vec<u8>,
    rows: Vec<RawRow>,
    /// When the first of them came.
    since: Option<Instant>,
    /// When the broker got the first row of the newest batch, milliseconds since 1970.
    sent_ms: Option<i64>,
    is_at_end: bool,
    /// See [`Start::planned`].
    plan: Option<Plan>,
    /// The end of the plan, until it is reached.
    planned: Option<u64>,
}

/// The offset of a partition's next row, and what is planned from there.
type Known = (u64, Option<Plan>);

/// What a message has made of a batch.
enum Pushed {
    /// It has room for more.
    More,
    /// It is full.
    Full,
    /// It ends before the message: the rows that were planned before it are gone from the log.
    Ends,
}

impl KafkaSource {
    /// Reaches the brokers, and gives the most partitions that one of the topics has.
    pub fn check(config: &Config, place: &Place<'_>) -> Result<i32> {
        let connection = config.connection();
        let topics = &config.topic.0;
        let cluster = Cluster::reach(
            connection,
            topics.first().map_or("", String::as_str),
            place.folder,
            &place.patience,
        )?;
        let mut partition_count = 0;
        for topic in topics {
            let count = cluster.partitions_of_existing(topic, "topic", &place.patience)?;
            partition_count = partition_count.max(count);
        }
        Ok(partition_count)
    }

    /// Reaches the brokers and joins the group.
    pub fn open(config: &Config, pipeline: &Pipeline, place: &Place<'_>) -> Result<KafkaSource> {
        let partition_count = KafkaSource::check(config, place)?;
        let (connection, topics) = (config.connection(), &config.topic.0);
        let member = member_config(config, pipeline, place);
        let hears = Member { lane: place.patience.lane.clone(), ..Member::default() };
        let consumer = join(&member, topics, hears).map_err(|error| refused(connection, &error))?;
        Ok(KafkaSource {
            consumer,
            config: member,
            topics: topics.clone(),
            session: config.session.0,
            polled: Instant::now(),
            slept: None,
            refused: None,
            brokers: config.brokers.clone(),
            start: config.start,
            deleted: config.deleted,
            limits: Limits::new(&pipeline.batch, &pipeline.decode),
            partition_count,
            assigned: Vec::new(),
            last: 0,
            waiting_since: None,
            is_paused: false,
            until_end: place.until_end,
            opened: Instant::now(),
        })
    }

    /// The most partitions that one of the topics has.
    pub fn partition_count(&self) -> i32 {
        self.partition_count
    }

    /// Rows of one partition, or what the group has decided; `None` at the end, which only `--until-end` has.
    pub fn receive(&mut self) -> Result<Option<Next>> {
        self.resume()?;
        self.note_poll();
        let deadline = Instant::now() + self.limits.wait;
        loop {
            if let Some(rebalance) = self.consumer.context().take() {
                return Ok(Some(self.rebalanced(rebalance)));
            }
            let now = Instant::now();
            if let Some(index) = self.due(now) {
                return Ok(Some(Next::Batch(self.take(index))));
            }
            let is_idle = now >= deadline && self.assigned.iter().all(|assigned| assigned.rows.is_empty());
            if is_idle && self.is_at_end() {
                return Ok(None);
            }
            if is_idle {
                return Ok(Some(Next::Idle));
            }
            if let Some(index) = self.fill(deadline.saturating_duration_since(now))? {
                return Ok(Some(Next::Batch(self.take(index))));
            }
        }
    }

    /// Takes messages until a batch is full (its partition's index), none is there for now, or it is time to look
    /// at the clock.
    fn fill(&mut self, patience: Duration) -> Result<Option<usize>> {
        // How many messages go by between two looks at the clock: some 100 µs.
        const BETWEEN_LOOKS: usize = 256;
        let mut timeout = self.until_due(patience);
        let KafkaSource { consumer, assigned, last, limits, .. } = self;
        for _ in 0..BETWEEN_LOOKS {
            match consumer.poll(timeout) {
                Some(Ok(message)) => match push(&message, assigned, last, limits) {
                    Pushed::More => timeout = Duration::ZERO,
                    Pushed::Full => return Ok(Some(*last)),
                    Pushed::Ends => {
                        let index = *last;
                        self.seek_again(index)?;
                        return Ok(Some(index));
                    }
                },
                Some(Err(error)) => {
                    self.react(&error)?;
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// How long there is nothing to do but wait for a message.
    fn until_due(&self, patience: Duration) -> Duration {
        let oldest = self.assigned.iter().filter_map(|assigned| assigned.since).min();
        match oldest {
            Some(since) => self.limits.wait.saturating_sub(since.elapsed()),
            None => patience,
        }
    }

    /// The partition whose rows have waited for `batch.wait`.
    fn due(&self, now: Instant) -> Option<usize> {
        let is_due = |assigned: &Assigned| {
            assigned.since.is_some_and(|since| now.saturating_duration_since(since) >= self.limits.wait)
        };
        (0..self.assigned.len())
            .filter(|&index| is_due(&self.assigned[index]))
            .min_by_key(|&index| self.assigned[index].since)
    }

    fn take(&mut self, index: usize) -> RawBatch {
        let assigned = &mut self.assigned[index];
        let (bytes_len, rows_len) = (assigned.bytes.len(), assigned.rows.len());
        assigned.since = None;
        // The next batch of a busy partition is as large as this one.
        let bytes = std::mem::replace(&mut assigned.bytes, Vec::with_capacity(bytes_len));
        let rows = std::mem::replace(&mut assigned.rows, Vec::with_capacity(rows_len));
        RawBatch {
            partition: assigned.partition.clone(),
            next: Position { next_offset: assigned.next_offset, fingerprint: String::new() },
            payload: Payload::Rows { bytes, rows },
        }
    }

    fn is_at_end(&self) -> bool {
        if !self.until_end {
            return false;
        }
        match self.assigned.is_empty() {
            true => self.opened.elapsed() > NOTHING_GIVEN,
            false => self.assigned.iter().all(|assigned| assigned.is_at_end),
        }
    }

    fn rebalanced(&mut self, rebalance: Rebalance) -> Next {
        match rebalance {
            Rebalance::Assigned(partitions) => Next::Assigned(partitions),
            Rebalance::Revoked(partitions) => {
                Next::Revoked { partitions, is_lost: self.consumer.assignment_lost() }
            }
            Rebalance::Lost(partitions) => Next::Revoked { partitions, is_lost: true },
        }
    }

    /// Starts to read partitions: where the sink says, else where the group was, else where the pipeline file says.
    /// When a broker does not answer, they are assigned again by [`KafkaSource::receive`].
    pub fn assign(&mut self, starts: &[Start]) -> Result<()> {
        let before = self.assigned.len();
        self.start_at(starts).inspect_err(|_| {
            self.assigned.truncate(before);
            let partitions = starts.iter().map(|start| start.partition.clone()).collect();
            self.consumer.context().put_back(Rebalance::Assigned(partitions));
        })
    }

    /// See [`super::Source::put_back`].
    pub fn put_back(&self, partitions: &[Partition]) {
        self.consumer.context().put_back(Rebalance::Assigned(partitions.to_vec()));
    }

    fn start_at(&mut self, starts: &[Start]) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let mut to_commit = TopicPartitionList::new();
        for (start, known) in starts.iter().zip(self.known(starts)?) {
            let partition = &start.partition;
            let (offset, plan) = match known {
                Some((offset, plan)) => (self.checked(partition, offset)?, plan),
                None => {
                    let offset = self.first_offset(partition)?;
                    // Else a crash before the first commit would start after what arrives until then.
                    if start.position.is_none() && self.start == StartAt::Latest {
                        add(&mut to_commit, partition, offset)?;
                    }
                    (offset, None)
                }
            };
            add(&mut list, partition, offset)?;
            self.assigned.push(Assigned {
                partition: partition.clone(),
                start_offset: offset,
                next_offset: offset,
                bytes: Vec::new(),
                rows: Vec::new(),
                since: None,
                sent_ms: None,
                is_at_end: false,
                plan,
                planned: plan.map(|plan| plan.end),
            });
        }
        self.consumer
            .incremental_assign(&list)
            .map_err(|error| self.failed("cannot take partitions", &error))?;
        if to_commit.count() > 0 {
            self.consumer
                .commit(&to_commit, CommitMode::Sync)
                .map_err(|error| self.failed("cannot commit where partitions start", &error))?;
        }
        Ok(())
    }

    /// Gives partitions back to the group. Rows of theirs that are not yet a batch are for their next owner.
    pub fn release(&mut self, partitions: &[Partition]) -> Result<()> {
        let before = self.assigned.len();
        self.assigned.retain(|assigned| !partitions.contains(&assigned.partition));
        if self.assigned.len() == before {
            // They went with the consumer that had them.
            return Ok(());
        }
        self.consumer
            .incremental_unassign(&list(partitions))
            .map_err(|error| self.failed("cannot give partitions back", &error))
    }

    /// Goes back to where the sink or the group says, or to where this lane has started.
    pub fn rewind(&mut self, starts: &[Start]) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (start, known) in starts.iter().zip(self.known(starts)?) {
            let of_start = |assigned: &&mut Assigned| assigned.partition == start.partition;
            let Some(assigned) = self.assigned.iter_mut().find(of_start) else { continue };
            let (offset, plan) = known.unwrap_or((assigned.start_offset, None));
            assigned.restart(offset, plan);
            add(&mut list, &assigned.partition, offset)?;
        }
        if list.count() > 0 { self.seek(list) } else { Ok(()) }
    }

    /// For each start the offset and what is planned from there, as the sink or the group has them; `None` where nobody
    /// has read the partition yet.
    fn known(&self, starts: &[Start]) -> Result<Vec<Option<Known>>> {
        let of_group = starts.iter().filter(|start| start.position.is_none()).map(|start| &start.partition);
        let committed = self.committed(of_group)?;
        let known = |start: &Start| match &start.position {
            Some(position) => (position.next_offset > 0).then_some((position.next_offset, start.planned)),
            None => committed.get(&start.partition).copied(),
        };
        Ok(starts.iter().map(known).collect())
    }

    /// For a sink that keeps the lane waiting: shows the group that this member lives. After a second the fetching
    /// is paused, so that nothing piles up.
    pub fn keep_alive(&mut self) -> Result<()> {
        self.note_poll();
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if since.elapsed() > self.session {
            // A broker that says nothing for so long has lost this member too.
            self.slept = Some(Instant::now());
        }
        if since.elapsed() < PAUSE_AFTER {
            return Ok(());
        }
        if !self.is_paused && !self.assigned.is_empty() {
            let all = list(self.assigned.iter().map(|assigned| &assigned.partition));
            self.consumer.pause(&all).map_err(|error| self.failed("cannot pause", &error))?;
            self.is_paused = true;
        }
        let KafkaSource { consumer, assigned, last, limits, .. } = self;
        match consumer.poll(Duration::ZERO) {
            Some(Ok(message)) => {
                if let Pushed::Ends = push(&message, assigned, last, limits) {
                    let index = *last;
                    self.seek_again(index)?;
                }
                Ok(())
            }
            Some(Err(error)) => self.react(&error),
            None => Ok(()),
        }
    }

    /// Fetches a partition's next row anew, which was passed over.
    fn seek_again(&mut self, index: usize) -> Result<()> {
        let Assigned { partition, next_offset, .. } = &self.assigned[index];
        let mut list = TopicPartitionList::new();
        add(&mut list, partition, *next_offset)?;
        self.seek(list)
    }

    fn seek(&self, list: TopicPartitionList) -> Result<()> {
        let sought = self
            .consumer
            .seek_partitions(list, ASK)
            .map_err(|error| self.failed("cannot go back", &error))?;
        for element in sought.elements() {
            element.error().map_err(|error| self.failed("cannot go back", &error))?;
        }
        Ok(())
    }

    fn note_poll(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.polled) > self.session {
            self.slept = Some(now);
        }
        self.polled = now;
    }

    fn resume(&mut self) -> Result<()> {
        self.waiting_since = None;
        if std::mem::take(&mut self.is_paused) {
            let all = list(self.assigned.iter().map(|assigned| &assigned.partition));
            self.consumer.resume(&all).map_err(|error| self.failed("cannot resume", &error))?;
        }
        Ok(())
    }

    /// For displays of lag: the sink has the rows before these offsets.
    pub fn note_written(&self, partition: &Partition, position: &Position) {
        let mut list = TopicPartitionList::new();
        if add(&mut list, partition, position.next_offset).is_ok() {
            // The position in the sink is the truth, so nothing depends on this one.
            drop(self.consumer.store_offsets(&list));
        }
    }

    /// What a transaction needs to know of the group, unless the group has taken one of the partitions away.
    ///
    /// The answer is asked for after the metadata were taken: members that were thrown out have new metadata before
    /// they notice, and would commit for partitions that are no longer theirs.
    pub fn group_metadata<'p>(
        &self,
        partitions: impl IntoIterator<Item = &'p Partition>,
    ) -> Option<ConsumerGroupMetadata> {
        let metadata = self.consumer.group_metadata()?;
        self.owns(partitions).then_some(metadata)
    }

    /// Commits positions without a transaction.
    pub fn commit<'p>(
        &self,
        offsets: &TopicPartitionList,
        partitions: impl IntoIterator<Item = &'p Partition>,
    ) -> KafkaResult<()> {
        if !self.owns(partitions) {
            return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::AssignmentLost));
        }
        self.consumer.commit(offsets, CommitMode::Sync)
    }

    /// See [`super::Source::commit`].
    pub fn commit_starts(&mut self, starts: &[Start]) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for Start { partition, position, planned } in starts {
            let Some(position) = position else { continue };
            let offset = i64::try_from(position.next_offset).unwrap_or(i64::MAX);
            let mut element = list.add_partition(&partition.topic, partition.number);
            element.set_offset(Offset::Offset(offset)).map_err(|error| of_partition(partition, &error))?;
            if let Some(plan) = planned {
                element.set_metadata(metadata(plan));
            }
        }
        let asked = Instant::now();
        loop {
            match self.commit(&list, starts.iter().map(|start| &start.partition)) {
                Ok(()) => return Ok(()),
                Err(error) if is_lost(&error) || asked.elapsed() > OUTCOME => {
                    return Err(self.failed("the positions are not committed", &error));
                }
                Err(_) => self.keep_alive()?,
            }
        }
    }

    /// See [`super::Source::plan`].
    pub fn plan(&self, partition: &Partition) -> Option<Plan> {
        self.assigned.iter().find(|assigned| assigned.partition == *partition)?.plan
    }

    fn owns<'p>(&self, partitions: impl IntoIterator<Item = &'p Partition>) -> bool {
        let is_assigned =
            |partition: &Partition| self.assigned.iter().any(|assigned| assigned.partition == *partition);
        !self.consumer.assignment_lost() && partitions.into_iter().all(is_assigned)
    }

    /// Replaces a member that has ended for good: another process has its name, or seems to.
    pub fn check_member(&mut self) -> Result<()> {
        match self.consumer.client().fatal_error() {
            Some((code, reason)) => self.replace_member(code, &reason),
            None => Ok(()),
        }
    }

    /// Joins the group anew. Whatever this lane had is lost.
    fn replace_member(&mut self, code: RDKafkaErrorCode, reason: &str) -> Result<()> {
        let is_recent = |time: Instant| time.elapsed() < REFUSED_AFTER;
        let is_excused = self.slept.is_some_and(is_recent)
            || self.consumer.context().heard.outage().is_some_and(is_recent)
            || !self.refused.is_some_and(is_recent);
        self.refused = Some(Instant::now());
        if !is_excused || code != RDKafkaErrorCode::FencedInstanceId {
            return Err(fatal(code, reason));
        }
        let hears = Member { lane: self.consumer.context().lane.clone(), ..Member::default() };
        let consumer = join(&self.config, &self.topics, hears)
            .map_err(|error| self.failed("cannot join the group", &error))?;
        self.close_member();
        let outage = self.consumer.context().heard.outage();
        self.consumer = consumer;
        self.consumer.context().heard.keep_outage(outage);
        let lost: Vec<Partition> = self.assigned.drain(..).map(|assigned| assigned.partition).collect();
        self.is_paused = false;
        if !lost.is_empty() {
            self.consumer.context().put_back(Rebalance::Lost(lost));
        }
        Ok(())
    }

    /// Before a consumer is dropped: what it has is given back, and answered for, while librdkafka still listens. A
    /// consumer that is closed while it joins asks for an answer and then waits for ever to take it.
    fn close_member(&self) {
        let member = self.consumer.context();
        member.closing.store(true, Ordering::Relaxed);
        while let Some(rebalance) = member.take() {
            rebalance.answer(&self.consumer);
        }
        self.consumer.unsubscribe();
        let start = Instant::now();
        let mut quiet = 0;
        while quiet < 2 && start.elapsed() < CLOSE {
            let heard = self.consumer.poll(Duration::from_millis(50)).is_some();
            let is_empty = self.consumer.assignment().is_ok_and(|list| list.count() == 0);
            quiet = if heard || !is_empty { 0 } else { quiet + 1 };
        }
    }

    /// Offsets that the group has committed. Transactions under way are waited for.
    fn committed<'p>(
        &self,
        partitions: impl IntoIterator<Item = &'p Partition>,
    ) -> Result<HashMap<Partition, Known>> {
        let asked = list(partitions);
        if asked.count() == 0 {
            return Ok(HashMap::new());
        }
        self.committed_of(&asked).map(|list| offsets(&list))
    }

    /// The same for the partitions of a list of librdkafka.
    pub fn committed_of(&self, asked: &TopicPartitionList) -> Result<TopicPartitionList> {
        let start = Instant::now();
        loop {
            let error = match self.consumer.committed_offsets(asked.clone(), ASK) {
                Ok(list) => return Ok(list),
                Err(error) => error,
            };
            if start.elapsed() > 12 * ASK {
                return Err(self.failed("cannot ask for the group's positions", &error));
            }
        }
    }

    /// Where a partition starts that nobody has read yet.
    fn first_offset(&self, partition: &Partition) -> Result<u64> {
        let (low, high) = self.bounds(partition)?;
        Ok(match self.start {
            StartAt::Earliest => low,
            StartAt::Latest => high,
            StartAt::Committed => {
                return Err(Error::Surroundings(format!(
                    "the group has no position for partition {} of `{}`, and `source.kafka.start` is `committed`; \
                     `earliest` or `latest` would start it",
                    partition.number, partition.topic
                )));
            }
            StartAt::Time(time_ms) => {
                let mut asked = TopicPartitionList::new();
                asked
                    .add_partition_offset(&partition.topic, partition.number, Offset::Offset(time_ms))
                    .map_err(|error| self.failed("cannot ask for a time", &error))?;
                let found = self
                    .consumer
                    .offsets_for_times(asked, 2 * ASK)
                    .map_err(|error| self.failed("cannot ask for a time", &error))?;
                offsets(&found).get(partition).map_or(high, |(offset, _)| *offset)
            }
        })
    }

    /// The offset, unless the log does not have it.
    fn checked(&self, partition: &Partition, offset: u64) -> Result<u64> {
        let (low, high) = self.bounds(partition)?;
        if (low..=high).contains(&offset) {
            return Ok(offset);
        }
        let Partition { topic, number } = partition;
        let what = if offset < low {
            let gone = low - offset;
            format!("{gone} rows from offset {offset} on were deleted from the log before they were read")
        } else {
            format!(
                "the log ends at offset {high}, and the next one to read is {offset}: the topic was deleted and made \
                 anew, or has lost its end"
            )
        };
        let goes_on = match self.deleted {
            Deleted::Stop => {
                return Err(Error::Surroundings(format!(
                    "partition {number} of `{topic}`: {what}; `source.kafka.deleted: earliest` goes on with the oldest \
                     row that is left"
                )));
            }
            Deleted::Earliest => low,
            Deleted::Latest => high,
        };
        tracing::warn!(%topic, partition = number, "{what}; going on at offset {goes_on}");
        Ok(goes_on)
    }

    /// The first offset of a partition and the one after its last committed row.
    fn bounds(&self, partition: &Partition) -> Result<(u64, u64)> {
        let (low, high) = self
            .consumer
            .fetch_watermarks(&partition.topic, partition.number, 2 * ASK)
            .map_err(|error| self.failed("cannot ask where a partition starts and ends", &error))?;
        Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)))
    }

    /// An error that the consumer reports instead of a message.
    fn react(&mut self, error: &KafkaError) -> Result<()> {
        match error {
            KafkaError::PartitionEOF(number) => {
                // The event does not say of which topic.
                let ended = self.assigned.iter_mut().filter(|assigned| assigned.partition.number == *number);
                ended.for_each(|assigned| assigned.is_at_end = true);
                Ok(())
            }
            KafkaError::MessageConsumptionFatal(code) => {
                let reason = self.consumer.client().fatal_error().map_or_else(String::new, |(_, reason)| reason);
                self.replace_member(*code, &reason)
            }
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => self.skip_deleted(),
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => self.check_topics(),
            KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed),
            ) => Err(Error::Surroundings(format!(
                "the brokers at `{}` do not let this user read the topics or use the group: {code}",
                self.brokers
            ))),
            KafkaError::MessageConsumption(RDKafkaErrorCode::InconsistentGroupProtocol) => {
                Err(Error::Surroundings(
                    "another member of the group shares partitions in another way than `cooperative-sticky`; \
                     give `source.kafka.group` a name that nobody else uses"
                        .into(),
                ))
            }
            // Connections come back by themselves; the context has logged it.
            _ => Ok(()),
        }
    }

    /// Looks for partitions whose next row was deleted, and goes on as `source.kafka.deleted` says.
    fn skip_deleted(&mut self) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for index in 0..self.assigned.len() {
            let Assigned { partition, next_offset, .. } = &self.assigned[index];
            let goes_on = self.checked(partition, *next_offset)?;
            if goes_on != *next_offset {
                add(&mut list, partition, goes_on)?;
                self.assigned[index].next_offset = goes_on;
            }
        }
        if list.count() == 0 {
            // Seen before its bounds were: the position is right again, or has been lost to another cause.
            for assigned in &self.assigned {
                add(&mut list, &assigned.partition, assigned.next_offset)?;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.consumer
            .seek_partitions(list, ASK)
            .map_err(|error| self.failed("cannot skip rows", &error))
            .map(drop)
    }

    /// Whether the topics are really gone: a broker that has just started does not know them yet.
    fn check_topics(&self) -> Result<()> {
        let start = Instant::now();
        let topics: Vec<_> = self.assigned.iter().map(|assigned| &assigned.partition.topic).collect();
        for topic in topics {
            while !self.knows(topic) {
                if start.elapsed() > UNKNOWN_TOPIC {
                    return Err(Error::Surroundings(format!(
                        "the topic `{topic}` does not exist at `{}` any more",
                        self.brokers
                    )));
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        Ok(())
    }

    /// Whether the topic exists, or cannot be asked for.
    fn knows(&self, topic: &str) -> bool {
        match self.consumer.fetch_metadata(Some(topic), ASK) {
            Ok(metadata) => metadata.topics().iter().any(|found| found.error().is_none()),
            Err(_) => true,
        }
    }

    /// How far its partitions are behind, of those of which the broker has said how long they are.
    pub fn lags(&self) -> Vec<Lag> {
        let heard = self.consumer.context().reported();
        let now_ms = clock_ms();
        let lag = |assigned: &Assigned| {
            let waiting = heard.waiting.get(&assigned.partition)?;
            // What is behind the last row can be the end of a transaction, and no row.
            let in_log = if waiting.is_any { waiting.end.saturating_sub(assigned.next_offset) } else { 0 };
            let rows = in_log + assigned.rows.len() as u64;
            let age_ms = assigned.sent_ms.map_or(0, |sent_ms| u64::try_from(now_ms - sent_ms).unwrap_or(0));
            let age_ms = if rows > 0 { age_ms } else { 0 };
            Some(Lag { partition: assigned.partition.clone(), rows, age_ms })
        };
        self.assigned.iter().filter_map(lag).collect()
    }

    /// That no broker can be reached, when that is so.
    pub fn obstacle(&self) -> Option<String> {
        let is_cut = self.consumer.context().reported().is_cut;
        is_cut.then(|| format!("no broker of `{}` can be reached", self.brokers))
    }

    /// Connections to brokers that were lost or ended.
    pub fn reconnects(&self) -> u64 {
        self.consumer.context().reported().disconnects
    }

    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        Error::Rewind(format!("{what} at `{}`: {error}", self.brokers))
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.close_member();
    }
}

impl Assigned {
    /// Takes a row.
    fn push(&mut self, message: &BorrowedMessage<'_>, limits: &Limits) -> Pushed {
        let offset = u64::try_from(message.offset()).unwrap_or(0);
        if let Some(planned) = self.planned.filter(|planned| offset >= *planned) {
            self.planned = None;
            if !self.rows.is_empty() {
                self.next_offset = planned;
                return Pushed::Ends;
            }
        }
        let payload = message.payload().unwrap_or_default();
        let cut_from = (payload.len() as u64 > limits.row_bytes).then_some(payload.len() as u64);
        let kept = if cut_from.is_some() { &payload[..payload.len().min(CUT_BYTES)] } else { payload };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(kept);
        self.rows.push(RawRow { offset, start, end: self.bytes.len(), cut_from });
        self.next_offset = offset + 1;
        self.is_at_end = false;
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.sent_ms = message.timestamp().to_millis();
        }
        let is_full = self.rows.len() >= limits.rows || self.bytes.len() >= limits.bytes;
        if is_full || self.planned == Some(self.next_offset) { Pushed::Full } else { Pushed::More }
    }

    fn restart(&mut self, offset: u64, plan: Option<Plan>) {
        self.next_offset = offset;
        self.plan = plan;
        self.planned = plan.map(|plan| plan.end);
        self.bytes.clear();
        self.rows.clear();
        self.since = None;
        self.is_at_end = false;
    }
}

/// Gives a message to its partition, whose index is noted in `last`. One of a partition that is not this lane's
/// any more is left to its owner.
fn push(
    message: &BorrowedMessage<'_>,
    assigned: &mut [Assigned],
    last: &mut usize,
    limits: &Limits,
) -> Pushed {
    let (topic, number) = (message.topic(), message.partition());
    let is_it =
        |assigned: &Assigned| assigned.partition.number == number && *assigned.partition.topic == *topic;
    if !assigned.get(*last).is_some_and(is_it) {
        let Some(index) = assigned.iter().position(is_it) else { return Pushed::More };
        *last = index;
    }
    assigned[*last].push(message, limits)
}

fn add(list: &mut TopicPartitionList, partition: &Partition, offset: u64) -> Result<()> {
    let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
    list.add_partition_offset(&partition.topic, partition.number, offset)
        .map_err(|error| of_partition(partition, &error))
}

fn of_partition(partition: &Partition, error: &KafkaError) -> Error {
    Error::Running(format!("partition {} of `{}`: {error}", partition.number, partition.topic))
}

/// The offsets of a list of librdkafka with what is planned from there, without the partitions that have none.
fn offsets(list: &TopicPartitionList) -> HashMap<Partition, Known> {
    let elements = list.elements();
    let with_offset =
        elements.iter().zip(partitions(list)).filter_map(|(element, partition)| match element.offset() {
            Offset::Offset(offset) => {
                let offset = u64::try_from(offset).ok()?;
                Some((partition, (offset, plan(offset, element.metadata()))))
            }
            _ => None,
        });
    with_offset.collect()
}

fn metadata(plan: &Plan) -> String {
    format!("{PLANNED}{}{AS}{:016x}", plan.end, plan.id)
}

/// What the metadata of a committed offset say is planned from there; nothing when it ends before it begins.
fn plan(first: u64, metadata: &str) -> Option<Plan> {
    let (end, id) = metadata.strip_prefix(PLANNED)?.split_once(AS)?;
    let (end, id) = (end.parse().ok()?, u64::from_str_radix(id, 16).ok()?);
    (end > first).then_some(Plan { first, end, id })
}

fn fatal(code: RDKafkaErrorCode, reason: &str) -> Error {
    match code {
        RDKafkaErrorCode::FencedInstanceId => Error::Running(
            "another process has joined the group under this one's name, and this one stops; give each host its own \
             `--instance` (or `TIDEGATE_INSTANCE`)"
                .into(),
        ),
        _ => Error::Running(format!("the consumer cannot go on: {reason} ({code})")),
    }
}

/// A member of the group, which has not yet been given anything.
fn join(config: &ClientConfig, topics: &[String], hears: Member) -> KafkaResult<BaseConsumer<Member>> {
    let consumer: BaseConsumer<Member> = config.create_with_context(hears)?;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&names)?;
    Ok(consumer)
}

/// The settings of a lane's consumer.
fn member_config(source: &Config, pipeline: &Pipeline, place: &Place<'_>) -> ClientConfig {
    let session_ms = source.session.0.as_millis();
    // librdkafka refuses a session that is longer than the time between two polls.
    let poll_ms = session_ms.max(300_000);
    let mut config = client_config(source.connection(), place.folder);
    let group_keeps_positions = matches!(pipeline.sink, Sink::Kafka(_) | Sink::Clickhouse(_));
    config
        .set("group.id", source.group(&pipeline.name))
        // A host that is back before its session has ended goes on with its partitions at once.
        .set("group.instance.id", place.member())
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session_ms.to_string())
        .set("max.poll.interval.ms", poll_ms.to_string())
        .set("heartbeat.interval.ms", (session_ms / 4).clamp(1, 3000).to_string())
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.auto.offset.store", "false")
        // Where the sink keeps the positions, the group's are for displays of lag alone.
        .set("enable.auto.commit", if group_keeps_positions { "false" } else { "true" })
        .set("enable.partition.eof", if place.until_end { "true" } else { "false" });
    let ours = [
        ("queued.max.messages.kbytes", FETCHED_AHEAD_KIB),
        // Else a full queue makes the fetching rest for a second.
        ("fetch.queue.backoff.ms", "20"),
        ("fetch.wait.max.ms", "100"),
    ];
    for (name, value) in ours.into_iter().filter(|(name, _)| !source.options.0.contains_key(*name)) {
        config.set(name, value);
    }
    if pipeline.http.is_some() {
        config.set("statistics.interval.ms", STATISTICS_MS);
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// What the group has decided.
enum Rebalance {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
    /// With the consumer that had them.
    Lost(Vec<Partition>),
}

impl Rebalance {
    /// Agrees, for a consumer that is about to be dropped: librdkafka waits for an answer. A failure leaves nothing to
    /// do either.
    fn answer(self, consumer: &BaseConsumer<Member>) {
        drop(match self {
            Rebalance::Assigned(partitions) => consumer.incremental_assign(&list(&partitions)),
            Rebalance::Revoked(partitions) => consumer.incremental_unassign(&list(&partitions)),
            Rebalance::Lost(_) => Ok(()),
        });
    }
}

/// What a consumer says of itself once in a while.
#[derive(Debug, Default)]
struct Reported {
    waiting: HashMap<Partition, Log>,
    /// Whether no broker can be reached.
    is_cut: bool,
    disconnects: u64,
}

/// The end of a partition's log.
#[derive(Debug, Clone, Copy)]
struct Log {
    /// The offset after the last row that may be read.
    end: u64,
    /// Whether anything before it has not been given to the lane.
    is_any: bool,
}

impl Reported {
    /// Shows how far partitions are behind while the lane itself cannot: a sink keeps it waiting.
    fn show(&self, partitions: &mut [PartitionStatus]) {
        for partition in partitions {
            let key = Partition { topic: partition.topic.as_str().into(), number: partition.number };
            if let Some(log) = self.waiting.get(&key).filter(|log| log.is_any) {
                partition.lag_rows = Some(log.end.saturating_sub(partition.next_offset));
            }
        }
    }

    fn new(statistics: &Statistics) -> Reported {
        let mut waiting = HashMap::new();
        for topic in statistics.topics.values() {
            for partition in topic.partitions.values().filter(|partition| partition.ls_offset >= 0) {
                let end = u64::try_from(partition.ls_offset).unwrap_or(0);
                let is_any = partition.fetchq_cnt > 0 || partition.next_offset < partition.ls_offset;
                let key = Partition { topic: topic.topic.as_str().into(), number: partition.partition };
                waiting.insert(key, Log { end, is_any });
            }
        }
        let is_up = |broker: &Broker| matches!(broker.state.as_str(), "UP" | "UPDATE");
        let disconnects = statistics.brokers.values().filter_map(|broker| broker.disconnects).sum::<i64>();
        Reported {
            waiting,
            is_cut: !statistics.brokers.values().any(is_up),
            disconnects: u64::try_from(disconnects).unwrap_or(0),
        }
    }
}

/// What a consumer hears.
#[derive(Default)]
struct Member {
    heard: Heard,
    /// Who is shown how far its partitions are behind.
    lane: Option<(Arc<Metrics>, usize)>,
    reported: Mutex<Reported>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// The consumer is being dropped: nobody is left to act on what the group decides.
    closing: AtomicBool,
}

impl Member {
    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn take(&self) -> Option<Rebalance> {
        self.rebalances.lock().unwrap_or_else(|poison| poison.into_inner()).pop_front()
    }

    /// What could not be done now comes again before anything else.
    fn put_back(&self, rebalance: Rebalance) {
        self.rebalances.lock().unwrap_or_else(|poison| poison.into_inner()).push_front(rebalance);
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Heard::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let reported = Reported::new(&statistics);
        if let Some((metrics, lane)) = &self.lane {
            metrics.show(*lane, |status| reported.show(&mut status.partitions));
        }
        *self.reported() = reported;
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Member>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let is_assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let partitions = partitions(list);
        let rebalance =
            if is_assigned { Rebalance::Assigned(partitions) } else { Rebalance::Revoked(partitions) };
        if self.closing.load(Ordering::Relaxed) {
            return rebalance.answer(consumer);
        }
        self.rebalances.lock().unwrap_or_else(|poison| poison.into_inner()).push_back(rebalance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_from_the_metadata_that_it_was_written_to() {
        let planned = Plan { first: 7, end: 1_000, id: 0x0123_4567_89ab_cdef };
        assert_eq!(plan(7, &metadata(&planned)), Some(planned));
        for other in ["", "of another program", "planned to 1000", "planned to x as 1", "planned to 7 as 1"] {
            assert_eq!(plan(7, other), None, "{other}");
        }
    }
}
