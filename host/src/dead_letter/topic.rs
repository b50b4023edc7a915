//! Dead letters in a topic of Kafka or Redpanda.
//!
//! Beside a dead letter that was replayed, in the same partition and after it, is a marker: a message without
//! payload that has its partition and offset. It is in the transaction of the replayed row.

use std::collections::HashMap;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::header;
use super::letters::{At, Cut, Found, Id, Letter, Outcome, Replay};
use crate::error::{Error, Result};
use crate::kafka::{ASK, Asking, Cluster, Committed, Patience, client_config, reader_config, refused};
use crate::pipeline_file::{KafkaSink, Loaded, default_group};
use crate::shutdown::Shutdown;

/// A row is rejected before its message is made. Brokers that put their own time into messages can have another
/// clock.
const CLOCKS_DIFFER_MS: i64 = 10 * 60 * 1000;

/// Passing over so many messages is cheaper than asking the broker for another place in the log.
const PASSED_OVER: i64 = 1000;

/// A topic of dead letters.
pub struct Topic {
    consumer: BaseConsumer<Asking>,
    asking: BaseConsumer<Asking>,
    name: String,
    partitions: i32,
    brokers: String,
    shutdown: Shutdown,
}

impl Topic {
    /// Reaches the brokers of the sink.
    pub fn open(loaded: &Loaded, sink: &KafkaSink, patience: &Patience) -> Result<Topic> {
        let pipeline = &loaded.pipeline;
        let connection = sink.connection(pipeline.source.kafka());
        let name = sink.dead_letter_topic(pipeline);
        let cluster = Cluster::reach(connection, &name, &loaded.folder, patience)?;
        let partitions = cluster.partitions(&name)?.ok_or_else(|| {
            Error::Surroundings(format!(
                "the topic `{name}` (`dead_letter.kafka.topic`) does not exist at `{}`: the pipeline has not run yet, or \
                 the topic was deleted",
                connection.brokers
            ))
        })?;
        let group = format!("{}-dlq", default_group(&pipeline.name));
        let refused = |error| refused(connection, &error);
        Ok(Topic {
            consumer: reader_config(connection, &loaded.folder, &group)
                .create_with_context(Asking::default())
                .map_err(refused)?,
            asking: client_config(connection, &loaded.folder)
                .set("isolation.level", "read_uncommitted")
                .create_with_context(Asking::default())
                .map_err(refused)?,
            name,
            partitions,
            brokers: connection.brokers.into(),
            shutdown: patience.shutdown.clone(),
        })
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Shows what is committed now, partition by partition.
    pub fn each(&self, since_ms: Option<i64>, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
        for partition in 0..self.partitions {
            let (low, end) = self.watermarks(partition)?;
            self.read(partition, self.start(partition, since_ms, low, end)?, end, each)?;
        }
        Ok(())
    }

    /// Shows what is committed in a partition from an offset on. A transaction that is open now is waited for:
    /// behind it may be markers that count.
    pub fn each_settled(
        &self,
        partition: i32,
        first: First,
        each: &mut dyn FnMut(Found) -> Result<()>,
    ) -> Result<()> {
        let (low, end) = self.committed(partition).settled()?;
        let start = match first {
            First::Offset(offset) => offset.max(low),
            First::Since(since_ms) => self.start(partition, since_ms, low, end)?,
        };
        self.read(partition, start, end, each)
    }

    /// A dead letter, and what has become of it.
    pub fn find(&self, place: At) -> Result<Option<Letter>> {
        if place.partition >= self.partitions {
            return Ok(None);
        }
        let (low, end) = self.watermarks(place.partition)?;
        if !(low..end).contains(&place.offset) {
            return Ok(None);
        }
        let mut wanted: Option<Letter> = None;
        self.read(place.partition, place.offset, end, &mut |found| {
            match (found, &mut wanted) {
                (Found::Letter(letter), None) if letter.id == Id::Message(place) => wanted = Some(*letter),
                (Found::Replayed(of, replay), Some(letter)) if of == place => letter.replayed = Some(replay),
                _ => {}
            }
            Ok(())
        })?;
        Ok(wanted)
    }

    /// The payloads at these places, as far as the broker still has them.
    pub fn payloads(&self, places: &[At]) -> Result<HashMap<At, Vec<u8>>> {
        let mut sorted = places.to_vec();
        sorted.sort_unstable();
        let mut payloads = HashMap::with_capacity(sorted.len());
        let is_near = |a: &At, b: &At| a.partition == b.partition && b.offset - a.offset <= PASSED_OVER;
        for run in sorted.chunk_by(is_near) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            self.committed(first.partition).read(first.offset, last.offset + 1, &mut |message| {
                let place = At { partition: message.partition(), offset: message.offset() };
                if run.binary_search(&place).is_ok() {
                    payloads.insert(place, message.payload().unwrap_or_default().to_vec());
                }
                Ok(())
            })?;
        }
        Ok(payloads)
    }

    fn committed(&self, partition: i32) -> Committed<'_> {
        Committed {
            consumer: &self.consumer,
            asking: &self.asking,
            topic: &self.name,
            partition,
            brokers: &self.brokers,
            shutdown: &self.shutdown,
        }
    }

    fn read(
        &self,
        partition: i32,
        start: i64,
        end: i64,
        each: &mut dyn FnMut(Found) -> Result<()>,
    ) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        self.committed(partition).read(start, end, &mut |message| {
            if self.shutdown.is_requested() {
                return Err(Error::Running("stopped by a signal before all dead letters were read".into()));
            }
            each(found(message))
        })
    }

    fn watermarks(&self, partition: i32) -> Result<(i64, i64)> {
        self.consumer.fetch_watermarks(&self.name, partition, 2 * ASK).map_err(|error| self.failed(&error))
    }

    /// The first offset at which there can be a row that was rejected at `since_ms` or later.
    fn start(&self, partition: i32, since_ms: Option<i64>, low: i64, end: i64) -> Result<i64> {
        let Some(since_ms) = since_ms else { return Ok(low) };
        let mut asked = TopicPartitionList::new();
        // librdkafka takes the times -1 and -2 for the end and the beginning.
        let since = Offset::Offset((since_ms - CLOCKS_DIFFER_MS).max(0));
        asked.add_partition_offset(&self.name, partition, since).map_err(|error| self.failed(&error))?;
        let found = self.consumer.offsets_for_times(asked, 2 * ASK).map_err(|error| self.failed(&error))?;
        let element = found.find_partition(&self.name, partition);
        Ok(element.and_then(|element| element.offset().to_raw()).filter(|offset| *offset >= 0).unwrap_or(end))
    }

    fn failed(&self, error: &KafkaError) -> Error {
        Error::Surroundings(format!("cannot ask for `{}` at `{}`: {error}", self.name, self.brokers))
    }
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
pub enum First {
    /// At an offset.
    Offset(i64),
    /// Before all rows that were rejected at this time or later; at the oldest without a time.
    Since(Option<i64>),
}

fn found(message: &BorrowedMessage<'_>) -> Found {
    let place = At { partition: message.partition(), offset: message.offset() };
    let Some(headers) = message.headers() else { return Found::Foreign };
    let value = |key: &str| {
        let header = headers.iter().find(|header| header.key == key)?;
        Some(String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
    };
    let payload = message.payload().unwrap_or_default();
    of_headers(place, &value, payload).unwrap_or(Found::Foreign)
}

fn of_headers(place: At, value: &dyn Fn(&str) -> Option<String>, payload: &[u8]) -> Option<Found> {
    if let Some(of) = value(header::REPLAYED) {
        let outcome = Outcome::of(&value(header::OUTCOME)?)?;
        let at_ms = value(header::REPLAYED_AT)?.parse().ok()?;
        return Some(Found::Replayed(of.parse().ok()?, Replay { at_ms, outcome }));
    }
    let cut = match value(header::PAYLOAD_BYTES) {
        Some(bytes) => Some(Cut { bytes: bytes.parse().ok()?, sha256: value(header::PAYLOAD_SHA256) }),
        None => None,
    };
    Some(Found::Letter(Box::new(Letter {
        id: Id::Message(place),
        pipeline: value(header::PIPELINE)?,
        rule: value(header::RULE)?,
        rule_version: value(header::RULE_VERSION)?,
        reason: value(header::REASON)?,
        detail: value(header::DETAIL)?,
        source_topic: value(header::SOURCE_TOPIC)?,
        source_partition: value(header::SOURCE_PARTITION)?.parse().ok()?,
        source_offset: value(header::SOURCE_OFFSET)?.parse().ok()?,
        rejected_at_ms: value(header::REJECTED_AT)?.parse().ok()?,
        payload: payload.into(),
        cut,
        replayed: None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(headers: &[(&str, &str)]) -> Option<Found> {
        let value = |key: &str| {
            let header = headers.iter().find(|(name, _)| *name == key);
            header.map(|(_, value)| (*value).to_owned())
        };
        of_headers(At { partition: 1, offset: 7 }, &value, b"\xff")
    }

    const LETTER: [(&str, &str); 9] = [
        ("tidegate-pipeline", "p"),
        ("tidegate-rule", "validate"),
        ("tidegate-rule-version", "abc"),
        ("tidegate-reason", "price"),
        ("tidegate-detail", ""),
        ("tidegate-source-topic", "in"),
        ("tidegate-source-partition", "3"),
        ("tidegate-source-offset", "40"),
        ("tidegate-rejected-at", "5"),
    ];

    #[test]
    fn a_message_is_a_dead_letter_a_marker_or_neither() {
        let Some(Found::Letter(letter)) = parsed(&LETTER) else { panic!() };
        assert_eq!((letter.id.to_string(), letter.source_partition), ("1:7".to_owned(), 3));
        assert_eq!((letter.source_offset, letter.rejected_at_ms, &letter.payload[..]), (40, 5, &b"\xff"[..]));

        let cut = [&LETTER[..], &[("tidegate-payload-bytes", "100")]].concat();
        let Some(Found::Letter(letter)) = parsed(&cut) else { panic!() };
        assert_eq!(letter.cut, Some(Cut { bytes: 100, sha256: None }));

        let marker = [
            ("tidegate-replayed", "1:4"),
            ("tidegate-replayed-at", "9"),
            ("tidegate-outcome", "dropped"),
            ("tidegate-pipeline", "p"),
        ];
        let Some(Found::Replayed(of, replay)) = parsed(&marker) else { panic!() };
        assert_eq!((of.to_string(), replay.at_ms, replay.outcome), ("1:4".to_owned(), 9, Outcome::Dropped));

        assert!(parsed(&LETTER[1..]).is_none());
        assert!(parsed(&marker[..2]).is_none());
        assert!(parsed(&[]).is_none());
    }
}
