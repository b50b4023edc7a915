//! Where rows come from.

pub mod exchange;
pub mod file;
mod kafka;
pub mod tail;

use std::time::Duration;

use arrow_array::RecordBatch;

use crate::batch::{Partition, Position, RawBatch};
use crate::error::{Error, Result};
use crate::lane::Place;
use crate::metrics::ExchangeStatus;
use crate::pipeline_file::{self, BatchLimits, Decode, Pipeline};
use crate::summary::ExchangeRun;
use exchange::ExchangeSource;
use exchange::backfill::BackfillSource;
use file::FileSource;
use kafka::KafkaSource;

/// What is kept of a row that is longer than `decode.row`: enough for a person to see what it was.
const CUT_BYTES: usize = 64 << 10;

/// What bounds a batch and a row.
#[derive(Debug, Clone, Copy)]
struct Limits {
    rows: usize,
    bytes: usize,
    row_bytes: u64,
    wait: Duration,
}

impl Limits {
    fn new(batch: &BatchLimits, decode: &Decode) -> Limits {
        Limits {
            rows: batch.rows.max(1),
            bytes: usize::try_from(batch.bytes.0).unwrap_or(usize::MAX),
            row_bytes: decode.row.0,
            wait: batch.wait.0,
        }
    }
}

/// A source of rows.
pub enum Source {
    /// A file, standard input or a pipe.
    File {
        /// The file.
        file: Box<FileSource>,
        /// Whether its one partition has been given to the lane.
        is_assigned: bool,
    },
    /// Topics of Kafka or Redpanda.
    Kafka(Box<KafkaSource>),
    /// Closed candles of exchanges.
    Exchange(Box<ExchangeSource>),
    /// Candles of the past.
    Backfill(Box<BackfillSource>),
}

/// What a source has next.
#[derive(Debug)]
pub enum Next {
    /// Partitions that are this lane's from now on; they are read once [`Source::assign`] has said from where.
    Assigned(Vec<Partition>),
    /// Partitions that are to be given to others, with [`Source::release`].
    Revoked {
        /// The partitions.
        partitions: Vec<Partition>,
        /// Whether others may have them already: nothing of them can be committed any more.
        is_lost: bool,
    },
    /// Rows of one partition, at least one.
    Batch(RawBatch),
    /// Nothing came within `batch.wait`.
    Idle,
}

/// From where a partition is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: Partition,
    /// The position that the sink keeps; `None` when the source's own group keeps it.
    pub position: Option<Position>,
    /// What the sink has begun to write from there. A group that keeps positions keeps it beside them.
    pub planned: Option<Plan>,
}

/// Rows that a sink has begun to write, and must write again as they were: no batch goes across the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The offset of the first row.
    pub first: u64,
    /// The offset after the last row.
    pub end: u64,
    /// Tells it from plans for the same offsets of other data, such as those of a topic that was deleted and made anew.
    pub id: u64,
}

/// How far a partition is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// The partition.
    pub partition: Partition,
    /// Rows that the source has and this lane has not been given as a batch.
    pub rows: u64,
    /// How old the rows are that are read now while others wait, in milliseconds; 0 when none wait.
    pub age_ms: u64,
}

impl Source {
    /// Opens the source without reading rows.
    pub fn open(pipeline: &Pipeline, place: &Place<'_>) -> Result<Source> {
        match &pipeline.source {
            pipeline_file::Source::File(config) => {
                let file = FileSource::open(&config.path, &pipeline.decode, &pipeline.batch, place.folder)?;
                Ok(Source::File { file: Box::new(file), is_assigned: false })
            }
            pipeline_file::Source::Kafka(config) => {
                KafkaSource::open(config, pipeline, place).map(|kafka| Source::Kafka(Box::new(kafka)))
            }
            pipeline_file::Source::Exchange(_) => match place.backfill {
                Some(wanted) => BackfillSource::open(pipeline, place, wanted)
                    .map(|backfill| Source::Backfill(Box::new(backfill))),
                None => {
                    ExchangeSource::open(pipeline, place).map(|exchange| Source::Exchange(Box::new(exchange)))
                }
            },
        }
    }

    /// Whether the brokers answer and the topics are there; gives what [`Source::partition_count`] would. Files are not
    /// looked at: a pipe could be waited for.
    pub fn check(pipeline: &Pipeline, place: &Place<'_>) -> Result<Option<i32>> {
        match &pipeline.source {
            pipeline_file::Source::File(_) | pipeline_file::Source::Exchange(_) => Ok(None),
            pipeline_file::Source::Kafka(config) => KafkaSource::check(config, place).map(Some),
        }
    }

    /// The rows that come next, or what has happened to the partitions; `None` at the end.
    pub fn receive(&mut self) -> Result<Option<Next>> {
        match self {
            Source::File { file, is_assigned } => {
                if !std::mem::replace(is_assigned, true) {
                    return Ok(Some(Next::Assigned(vec![file.partition().clone()])));
                }
                Ok(file.next_batch()?.map(|raw| if raw.is_empty() { Next::Idle } else { Next::Batch(raw) }))
            }
            Source::Kafka(kafka) => kafka.receive(),
            Source::Exchange(exchange) => exchange.receive(),
            Source::Backfill(backfill) => backfill.receive(),
        }
    }

    /// Begins to read partitions. A position that the data do not have, or whose fingerprint is another file's, is
    /// an error. Standard input and pipes begin anew each time: their positions are not worth keeping.
    pub fn assign(&mut self, starts: &[Start]) -> Result<()> {
        match self {
            Source::File { file, .. } => starts.iter().try_for_each(|start| {
                let Some(position) = &start.position else { return Ok(()) };
                file.seek(position)?;
                file.set_planned(start.planned);
                Ok(())
            }),
            Source::Kafka(kafka) => kafka.assign(starts),
            Source::Exchange(exchange) => {
                exchange.assign(starts);
                Ok(())
            }
            Source::Backfill(backfill) => backfill.assign(starts),
        }
    }

    /// Gives partitions to the lane once more with [`Source::receive`]: where they start is not known yet.
    pub fn put_back(&mut self, partitions: &[Partition]) {
        match self {
            Source::File { is_assigned, .. } => *is_assigned = false,
            Source::Kafka(kafka) => kafka.put_back(partitions),
            Source::Exchange(exchange) => exchange.put_back(),
            Source::Backfill(backfill) => backfill.put_back(),
        }
    }

    /// Gives partitions back.
    pub fn release(&mut self, partitions: &[Partition]) -> Result<()> {
        match self {
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => Ok(()),
            Source::Kafka(kafka) => kafka.release(partitions),
        }
    }

    /// Goes back to what counts as written: to the positions of the sink, or of the group where there are none.
    pub fn rewind(&mut self, starts: &[Start]) -> Result<()> {
        match self {
            Source::File { file, .. } if !file.is_resumable() => Err(Error::Running(format!(
                "`{}` cannot be read again, and what came since the last checkpoint is not written",
                file.partition().topic
            ))),
            Source::File { .. } => self.assign(starts),
            Source::Kafka(kafka) => kafka.rewind(starts),
            Source::Exchange(exchange) => exchange.rewind(starts),
            Source::Backfill(backfill) => backfill.assign(starts),
        }
    }

    /// Whether the lane has turns while no rows come. A file or a pipe is waited for.
    pub fn has_idle_turns(&self) -> bool {
        !matches!(self, Source::File { .. })
    }

    /// For a sink that keeps the lane waiting: what the source must do to stay what it is.
    pub fn keep_alive(&mut self) -> Result<()> {
        match self {
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => Ok(()),
            Source::Kafka(kafka) => kafka.keep_alive(),
        }
    }

    /// Keeps positions in the group, with what is planned from there, for a sink that cannot keep them with its rows.
    /// Afterwards they survive the end of this process, and the group is known to be this lane's still.
    ///
    /// # Errors
    /// [`Error::Rewind`] when the group has given a partition to others, or does not answer.
    pub fn commit(&mut self, starts: &[Start]) -> Result<()> {
        match self {
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => Ok(()),
            Source::Kafka(kafka) => kafka.commit_starts(starts),
        }
    }

    /// What was planned for a partition when this lane last began or went back to read it, whether its rows are still
    /// there or not.
    pub fn plan(&self, partition: &Partition) -> Option<Plan> {
        match self {
            Source::File { file, .. } => file.plan(),
            Source::Kafka(kafka) => kafka.plan(partition),
            // What was planned cannot come again as it was; what the sink has of it is read back.
            Source::Exchange(_) => None,
            Source::Backfill(backfill) => backfill.plan(),
        }
    }

    /// The sink has the rows before this position, and keeps it.
    pub fn note_written(&self, partition: &Partition, position: &Position) {
        if let Source::Kafka(kafka) = self {
            kafka.note_written(partition, position);
        }
    }

    /// Joins its group anew if it was replaced there; an error when another process has taken its place for good.
    pub fn check_member(&mut self) -> Result<()> {
        match self {
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => Ok(()),
            Source::Kafka(kafka) => kafka.check_member(),
        }
    }

    /// How many partitions the source has, where it has more than one.
    pub fn partition_count(&self) -> Option<i32> {
        match self {
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => None,
            Source::Kafka(kafka) => Some(kafka.partition_count()),
        }
    }

    /// The first line of a CSV file, once [`Source::assign`] has gone past it: for
    /// [`crate::decode::Decoder::set_header`]. Otherwise it comes as the row with offset 0.
    pub fn header(&self) -> Option<&[u8]> {
        match self {
            Source::File { file, .. } => file.header(),
            Source::Kafka(_) | Source::Exchange(_) | Source::Backfill(_) => None,
        }
    }

    /// The columns of the sink's rows that say where to go on, of those that they have; none for a source whose
    /// position says it.
    pub fn remembers(&self, has: &dyn Fn(&str) -> bool) -> Vec<String> {
        match self {
            Source::File { .. } | Source::Kafka(_) | Source::Backfill(_) => Vec::new(),
            Source::Exchange(exchange) => exchange.remembers(has).into_iter().map(str::to_owned).collect(),
        }
    }

    /// Takes rows of the sink, with the columns of [`Source::remembers`], between [`Source::assign`] or
    /// [`Source::rewind`] and [`Source::receive`].
    pub fn remember(&mut self, rows: &RecordBatch) {
        if let Source::Exchange(exchange) = self {
            exchange.remember(rows);
        }
    }

    /// Ends asking exchanges, and says how each was asked and what is known of its candles.
    pub fn exchanges(&mut self) -> Result<Vec<ExchangeRun>> {
        match self {
            Source::Exchange(exchange) => exchange.finish(),
            Source::File { .. } | Source::Kafka(_) | Source::Backfill(_) => Ok(Vec::new()),
        }
    }

    /// How each exchange is asked, and what is known of its candles.
    pub fn asked(&self) -> Vec<ExchangeStatus> {
        match self {
            Source::Exchange(exchange) => exchange.asked(),
            Source::File { .. } | Source::Kafka(_) | Source::Backfill(_) => Vec::new(),
        }
    }

    /// How far its partitions are behind, where the source says it.
    pub fn lags(&self) -> Vec<Lag> {
        match self {
            Source::Kafka(kafka) => kafka.lags(),
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => Vec::new(),
        }
    }

    /// Why nothing can be read at the moment, in a sentence.
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Source::Kafka(kafka) => kafka.obstacle(),
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => None,
        }
    }

    /// Connections that were lost or ended, and made again.
    pub fn reconnects(&self) -> u64 {
        match self {
            Source::Kafka(kafka) => kafka.reconnects(),
            Source::File { .. } | Source::Exchange(_) | Source::Backfill(_) => 0,
        }
    }

    /// Bytes read so far and in all, where that is known: for a progress bar.
    pub fn progress(&self) -> (u64, Option<u64>) {
        match self {
            Source::File { file, .. } => file.progress(),
            Source::Kafka(_) | Source::Exchange(_) | Source::Backfill(_) => (0, None),
        }
    }
}
