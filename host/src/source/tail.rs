//! The last rows of a source, for a look at them: no position is moved, no group is joined.

use std::collections::VecDeque;

use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;

use super::{CUT_BYTES, Limits, Next, Source};
use crate::batch::{Partition, Payload, Position, RawBatch, RawRow};
use crate::error::{Error, Result};
use crate::kafka::{ASK, Asking, Cluster, Committed, client_config, reader_config, refused, watermarks};
use crate::lane::Place;
use crate::pipeline_file::{self, Format, KafkaSource, Pipeline, default_group};

/// Rows of a source's end.
pub struct Tail {
    /// The rows of each partition in their order.
    pub batches: Vec<RawBatch>,
    /// The first line of a CSV file.
    pub header: Option<Vec<u8>>,
}

/// The last rows of the pipeline's source, at most so many; of a topic as many of each partition.
///
/// # Errors
/// What cannot be read, and [`Error::Files`] for exchanges, which have no rows that could be read twice.
pub fn read(pipeline: &Pipeline, place: &Place<'_>, rows: usize) -> Result<Tail> {
    match &pipeline.source {
        pipeline_file::Source::File(_) => file(pipeline, place, rows),
        pipeline_file::Source::Kafka(config) => {
            Ok(Tail { batches: topics(config, pipeline, place, rows)?, header: None })
        }
        pipeline_file::Source::Exchange(_) => Err(Error::Files(format!(
            "the pipeline `{}` reads from exchanges, which have no rows that could be read twice; name a file with \
             `--input`",
            pipeline.name
        ))),
    }
}

/// Reads to the end and keeps what was read last.
fn file(pipeline: &Pipeline, place: &Place<'_>, rows: usize) -> Result<Tail> {
    let mut source = Source::open(pipeline, place)?;
    let (mut batches, mut header) = (VecDeque::new(), None);
    let mut kept = 0;
    while let Some(next) = source.receive()? {
        let Next::Batch(raw) = next else { continue };
        if pipeline.decode.format == Format::Csv && header.is_none() {
            header = first_line(&raw);
        }
        kept += raw.len();
        batches.push_back(raw);
        while batches.front().is_some_and(|first: &RawBatch| kept - first.len() >= rows) {
            kept -= batches.pop_front().map_or(0, |first| first.len());
        }
    }
    if let Some(first) = batches.front_mut() {
        forget_first(first, kept.saturating_sub(rows));
    }
    Ok(Tail { batches: batches.into(), header })
}

fn first_line(raw: &RawBatch) -> Option<Vec<u8>> {
    match &raw.payload {
        Payload::Rows { bytes, rows } => rows.first().map(|row| bytes[row.start..row.end].to_vec()),
        Payload::Columns { .. } => None,
    }
}

/// Takes the first rows out of a batch.
fn forget_first(raw: &mut RawBatch, count: usize) {
    match &mut raw.payload {
        Payload::Rows { rows, .. } => drop(rows.drain(..count)),
        Payload::Columns { columns, first_offset } => {
            *columns = columns.slice(count, columns.num_rows() - count);
            *first_offset += count as u64;
        }
    }
}

fn topics(
    config: &KafkaSource,
    pipeline: &Pipeline,
    place: &Place<'_>,
    rows: usize,
) -> Result<Vec<RawBatch>> {
    let connection = config.connection();
    let refused = |error| refused(connection, &error);
    let group = format!("{}-diff", default_group(&pipeline.name));
    let consumer: BaseConsumer<Asking> = reader_config(connection, place.folder, &group)
        .create_with_context(Asking::default())
        .map_err(refused)?;
    let asking: BaseConsumer<Asking> = client_config(connection, place.folder)
        .set("isolation.level", "read_uncommitted")
        .create_with_context(Asking::default())
        .map_err(refused)?;
    let mut partitions = Vec::new();
    for topic in &config.topic.0 {
        let cluster = Cluster::reach(connection, topic, place.folder, &place.patience)?;
        let count = cluster.partitions_of_existing(topic, "topic", &place.patience)?;
        partitions.extend((0..count).map(|number| Partition { topic: topic.as_str().into(), number }));
    }
    let each = i64::try_from(rows.div_ceil(partitions.len().max(1))).unwrap_or(i64::MAX);
    let limits = Limits::new(&pipeline.batch, &pipeline.decode);
    let mut batches = Vec::new();
    for partition in &partitions {
        let committed = Committed {
            consumer: &consumer,
            asking: &asking,
            topic: &partition.topic,
            partition: partition.number,
            brokers: connection.brokers,
            shutdown: &place.patience.shutdown,
        };
        let (low, end) =
            watermarks(&consumer, &partition.topic, partition.number, 2 * ASK).map_err(|error| {
                Error::Surroundings(format!(
                    "cannot ask where `{}` ends at `{}`: {error}",
                    partition.topic, connection.brokers
                ))
            })?;
        let start = low.max(end.saturating_sub(each));
        if start >= end {
            continue;
        }
        let mut batch = Growing::default();
        let read = committed.read(start, end, &mut |message| {
            batch.push(message.offset(), message.payload().unwrap_or_default(), limits.row_bytes);
            if batch.rows.len() >= limits.rows || batch.bytes.len() >= limits.bytes {
                batches.push(std::mem::take(&mut batch).finish(partition));
            }
            Ok(())
        });
        read.map_err(|error| Error::Surroundings(error.to_string()))?;
        if !batch.rows.is_empty() {
            batches.push(batch.finish(partition));
        }
    }
    Ok(batches)
}

/// A batch that is being filled.
#[derive(Default)]
struct Growing {
    bytes: Vec<u8>,
    rows: Vec<RawRow>,
}

impl Growing {
    fn push(&mut self, offset: i64, payload: &[u8], row_bytes: u64) {
        let cut_from = (payload.len() as u64 > row_bytes).then_some(payload.len() as u64);
        let kept = if cut_from.is_some() { &payload[..payload.len().min(CUT_BYTES)] } else { payload };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(kept);
        let offset = u64::try_from(offset).unwrap_or_default();
        self.rows.push(RawRow { offset, start, end: self.bytes.len(), cut_from });
    }

    fn finish(self, partition: &Partition) -> RawBatch {
        let next_offset = self.rows.last().map_or(0, |row| row.offset + 1);
        RawBatch {
            partition: partition.clone(),
            payload: Payload::Rows { bytes: self.bytes, rows: self.rows },
            next: Position { next_offset, fingerprint: String::new() },
        }
    }
}
