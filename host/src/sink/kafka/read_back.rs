//! Reads the end of a partition of the output again, for rules that remember.

use std::time::Duration;

use arrow_array::RecordBatch;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::{KafkaSink, reason};
use crate::batch::{Kind, Partition, Payload, Position, RawBatch, RawRow, json_name};
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::kafka::{ASK, Asking, Committed};
use crate::pipeline_file::{Column, Columns, Decode, Format, Remember};
use crate::shutdown::Shutdown;
use crate::sink::values::{READ_BACK_ROWS, project, window_start};

/// How many offsets from the end the newest message time is looked for.
const NEWEST_AMONG: i64 = 1000;

/// Reads the end of partitions of the topic.
pub struct ReadBack {
    topic: String,
    brokers: String,
    shutdown: Shutdown,
    decoder: Decoder,
}

/// A partition up to where it counts.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// The partition's number.
    pub partition: i32,
    /// Its first offset.
    pub low: i64,
    /// The offset after the last that counts.
    pub end: i64,
}

impl ReadBack {
    /// The columns with these names.
    pub fn new(sink: &KafkaSink, columns: &[String]) -> Result<ReadBack> {
        let columns = project(&sink.schema, columns)?
            .fields()
            .iter()
            .map(|field| Column {
                name: field.name().clone(),
                kind: Kind::of(field.data_type()),
                from: match json_name(field.name()) {
                    name if name == field.name() => Vec::new(),
                    name => vec![name.into()],
                },
            })
            .collect();
        let decode = Decode { format: Format::Json, columns: Columns::List(columns), ..Decode::default() };
        Ok(ReadBack {
            topic: sink.topic.name.clone(),
            brokers: sink.brokers.clone(),
            shutdown: sink.shutdown.clone(),
            decoder: Decoder::new(&decode)?,
        })
    }

    /// Waits until no transaction is open before the end of a partition. Gives its first offset.
    pub fn settle(&self, consumer: &BaseConsumer<Asking>, partition: i32, end: i64) -> Result<i64> {
        let ReadBack { topic, brokers, shutdown, .. } = self;
        let committed = Committed { consumer, asking: consumer, topic, partition, brokers, shutdown };
        committed.settled_before(end).map(|(low, _)| low)
    }

    /// Shows the rows of a partition, oldest first.
    pub fn run(
        &mut self,
        consumer: &BaseConsumer<Asking>,
        extent: Extent,
        remember: &Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let Extent { partition, low, end } = extent;
        let rows = i64::try_from(remember.rows).unwrap_or(i64::MAX);
        let mut start = low.max(end.saturating_sub(rows));
        if let Some(window) = remember.window {
            start = start.max(self.first_within(consumer, extent, window.0)?);
        }
        let mut gathered = Gathered::default();
        let mut not_rows = 0;
        if start < end {
            let ReadBack { topic, brokers, shutdown, decoder } = self;
            let committed = Committed { consumer, asking: consumer, topic, partition, brokers, shutdown };
            committed.read(start, end, &mut |message| {
                gathered.push(message);
                if gathered.rows.len() < READ_BACK_ROWS {
                    return Ok(());
                }
                not_rows += gathered.hand_over(decoder, each)?;
                Ok(())
            })?;
            not_rows += gathered.hand_over(decoder, each)?;
        }
        if not_rows > 0 {
            let topic = &self.topic;
            tracing::warn!(%topic, partition, "{not_rows} messages are no rows of this pipeline, and are not remembered");
        }
        Ok(())
    }

    /// The first offset whose message time is within `window` of the newest.
    fn first_within(&self, consumer: &BaseConsumer<Asking>, extent: Extent, window: Duration) -> Result<i64> {
        let Extent { partition, low, end } = extent;
        let ReadBack { topic, brokers, shutdown, .. } = self;
        let mut newest = None;
        let start = low.max(end - NEWEST_AMONG);
        if start < end {
            let committed = Committed { consumer, asking: consumer, topic, partition, brokers, shutdown };
            committed.read(start, end, &mut |message| {
                newest = newest.max(message.timestamp().to_millis());
                Ok(())
            })?;
        }
        let Some(newest) = newest else { return Ok(end) };
        let cannot = |error: KafkaError| {
            Error::Rewind(format!("cannot ask `{topic}` at `{brokers}` for a time: {}", reason(&error)))
        };
        let mut asked = TopicPartitionList::new();
        let since = Offset::Offset(window_start(newest, window));
        asked.add_partition_offset(topic, partition, since).map_err(cannot)?;
        let found = consumer.offsets_for_times(asked, 2 * ASK).map_err(cannot)?;
        let element = found.find_partition(topic, partition);
        Ok(element.and_then(|element| element.offset().to_raw()).filter(|offset| *offset >= 0).unwrap_or(end))
    }
}

/// Rows that are read back, as far as they are not handed over.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    rows: Vec<RawRow>,
}

impl Gathered {
    fn push(&mut self, message: &BorrowedMessage<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(message.payload().unwrap_or_default());
        let offset = u64::try_from(message.offset()).unwrap_or(0);
        self.rows.push(RawRow { offset, start, end: self.bytes.len(), cut_from: None });
    }

    /// Shows the rows; says how many are none.
    fn hand_over(
        &mut self,
        decoder: &mut Decoder,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<usize> {
        let (bytes, rows) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.rows));
        if rows.is_empty() {
            return Ok(0);
        }
        let raw = RawBatch {
            partition: Partition { topic: "".into(), number: 0 },
            payload: Payload::Rows { bytes, rows },
            next: Position::default(),
        };
        let decoded = decoder.decode(&raw, &"".into());
        each(decoded.batch.columns)?;
        Ok(decoded.rejects.len())
    }
}
