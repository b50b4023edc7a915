//! Where rows go, together with their positions.
//!
//! A sink keeps the position of each source partition with the rows themselves and changes both in one atomic
//! step, so a crash at any moment neither loses nor doubles a row: [`Sink::position`] says where to go on. Kafka
//! and ClickHouse make such a step of many batches, the others of every batch. Standard output keeps nothing.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::batch::{Partition, Position, Reject};
use crate::dead_letter::DeadLetter;
use crate::error::{Error, Result};
use crate::lane::Place;
use crate::pipeline_file;
use crate::source::{Source, Start};

pub mod appended;
pub mod clickhouse;
pub mod file;
pub mod json;
pub(crate) mod kafka;
mod server;
pub mod sqlite;
pub mod stdout;
pub mod table;
#[cfg(test)]
mod test_rows;
pub mod timescale;
pub mod values;

/// What one turn of the loop writes, as one atomic step.
pub struct Write<'a> {
    /// The partition of the rows.
    pub partition: &'a Partition,
    /// The offset of the first row that was read, which may have been rejected or dropped.
    pub first: u64,
    /// The position that the sink must still have; when it has another one, another process owns the partition.
    pub expected: &'a Position,
    /// The position after this step.
    pub next: &'a Position,
    /// Rows to keep; columns as in the schema that the sink was opened with.
    pub kept: &'a RecordBatch,
    /// The versions of the rules that have decided the rows; empty without rules.
    pub versions: &'a str,
    /// Rows for the dead letter.
    pub rejected: &'a [DeadLetter<'a>],
    /// Makes the dead letter of a row of `kept` that can never be stored: its index, the reason, the detail.
    pub refuse: &'a dyn Fn(usize, &str, String) -> DeadLetter<'a>,
}

/// What has become of the rows to keep; the others are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many the sink had already, equal in all columns that came from the source.
    pub duplicates: u64,
    /// Those that can never be stored: they are in the dead letter.
    pub refused: Vec<Reject>,
    /// Bytes of rows and dead letters that went to the sink; none of SQLite, which takes values.
    pub bytes: u64,
}

/// Makes ready, on whatever thread, what [`Sink::reading`] needs, as far as it takes time.
pub type Preparation = Box<dyn FnOnce() -> Result<Prepared> + Send>;

/// What was made ready.
pub enum Prepared {
    /// The sink itself has what it needs.
    Nothing,
    /// A connection of its own to TimescaleDB or PostgreSQL.
    Timescale(Box<timescale::Beside>),
}

/// Reads rows back on whatever thread, oldest first, in batches as [`Sink::read_back`] does, and says which partition they
/// are for, or that they are for all. It sees what counted when it was made, and nothing of what has come since.
pub type Reading = Box<
    dyn FnOnce(&pipeline_file::Remember, &mut dyn FnMut(Option<i32>, RecordBatch) -> Result<()>) -> Result<()>
        + Send,
>;

/// A place for rows.
pub enum Sink {
    /// A table of an embedded database.
    Sqlite(Box<sqlite::SqliteSink>),
    /// A JSON lines file, or a folder of Parquet files.
    File(Box<file::FileSink>),
    /// A topic of Kafka or Redpanda.
    Kafka(Box<kafka::KafkaSink>),
    /// A table of TimescaleDB or PostgreSQL.
    Timescale(Box<timescale::TimescaleSink>),
    /// A table of ClickHouse.
    Clickhouse(Box<clickhouse::ClickhouseSink>),
    /// Standard output.
    Stdout(stdout::StdoutSink),
}

impl Sink {
    /// Opens or makes the place. `schema` has the columns of [`Write::kept`].
    pub fn open(
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        source: &Source,
        place: &Place<'_>,
    ) -> Result<Sink> {
        let folder = place.folder;
        match &pipeline.sink {
            pipeline_file::Sink::Sqlite(config) => sqlite::SqliteSink::open(config, pipeline, schema, folder)
                .map(|sink| Sink::Sqlite(sink.into())),
            pipeline_file::Sink::File(config) => {
                file::FileSink::open(config, pipeline, schema, folder).map(|sink| Sink::File(sink.into()))
            }
            pipeline_file::Sink::Kafka(config) => {
                kafka::KafkaSink::open(config, pipeline, schema, source, place)
                    .map(|sink| Sink::Kafka(sink.into()))
            }
            pipeline_file::Sink::Timescale(config) => {
                timescale::TimescaleSink::open(config, pipeline, schema, place)
                    .map(|sink| Sink::Timescale(sink.into()))
            }
            pipeline_file::Sink::Clickhouse(config) => {
                clickhouse::ClickhouseSink::open(config, pipeline, schema, place)
                    .map(|sink| Sink::Clickhouse(sink.into()))
            }
            pipeline_file::Sink::Stdout(_) => {
                stdout::StdoutSink::open(pipeline.dead_letter.as_ref(), folder).map(Sink::Stdout)
            }
        }
    }

    /// Connects without changing anything, and says what is wrong: what [`Sink::open`] would say, but all of it, and
    /// nothing of what it would make. The source has so many partitions, where that is known.
    pub fn check(
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        partitions: Option<i32>,
        place: &Place<'_>,
    ) -> Result<Vec<String>> {
        match &pipeline.sink {
            pipeline_file::Sink::Timescale(config) => timescale::check(config, pipeline, schema, place),
            pipeline_file::Sink::Kafka(config) => {
                kafka::KafkaSink::check(config, pipeline, partitions, place).map(|()| Vec::new())
            }
            pipeline_file::Sink::Sqlite(config) => {
                sqlite::SqliteSink::check(config, pipeline, schema, place.folder).map(|()| Vec::new())
            }
            pipeline_file::Sink::Clickhouse(config) => clickhouse::check(config, pipeline, schema, place),
            pipeline_file::Sink::File(_) | pipeline_file::Sink::Stdout(_) => Ok(Vec::new()),
        }
    }

    /// Where to go on with a partition: after the rows that have been written; from the beginning for a new one, and
    /// always for standard output. Without a position when the source's own group keeps it for this sink.
    pub fn start(&mut self, partition: &Partition) -> Result<Start> {
        let position = match self {
            Sink::Sqlite(sink) => Some(sink.position(partition)?),
            Sink::File(sink) => Some(sink.position(partition)),
            Sink::Kafka(sink) => sink.position(partition)?,
            Sink::Timescale(sink) => Some(sink.position(partition)?),
            Sink::Clickhouse(sink) => return sink.start(partition),
            Sink::Stdout(_) => Some(Position::default()),
        };
        Ok(Start { partition: partition.clone(), position, planned: None })
    }

    /// Reads back what was written, oldest first, at most as `remember` allows, in batches of at most
    /// 10,000 rows with `columns` of the schema in that order.
    ///
    /// Kafka gives the rows of the partition; the others do not keep apart from which partition a row was, so each
    /// is given the rows of all. The last `remember.rows` are read back; when `remember.window` is given, only those
    /// within it of the newest among them: by the rows' `timestamp`, in Kafka by the time of the message. Last means
    /// written last.
    pub fn read_back(
        &mut self,
        partition: i32,
        columns: &[String],
        remember: &pipeline_file::Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        match self {
            Sink::Sqlite(sink) => sink.read_back(columns, remember, each),
            Sink::File(sink) => sink.read_back(columns, remember, each),
            Sink::Kafka(sink) => sink.read_back(partition, columns, remember, each),
            Sink::Timescale(sink) => sink.read_back(columns, remember, each),
            Sink::Clickhouse(sink) => sink.read_back(columns, remember, each),
            Sink::Stdout(_) => Ok(()),
        }
    }

    /// Makes ready what [`Sink::reading`] needs.
    pub fn preparation(&self) -> Preparation {
        match self {
            Sink::Kafka(sink) => sink.preparation(),
            Sink::Timescale(sink) => sink.preparation(),
            Sink::Sqlite(_) | Sink::File(_) | Sink::Clickhouse(_) | Sink::Stdout(_) => {
                Box::new(|| Ok(Prepared::Nothing))
            }
        }
    }

    /// What [`Sink::read_back`] would read now of these partitions, for another thread; nothing for ClickHouse, where two
    /// questions do not see the same rows. What was written must count, so it is made after a checkpoint. The lane waits for
    /// it, so it takes one question to a server at most.
    pub fn reading(
        &mut self,
        prepared: Prepared,
        partitions: &[i32],
        columns: &[String],
    ) -> Result<Option<Reading>> {
        match (self, prepared) {
            (Sink::Sqlite(sink), _) => sink.reading(columns).map(Some),
            (Sink::File(sink), _) => sink.reading(columns).map(Some),
            (Sink::Kafka(sink), _) => sink.reading(partitions, columns).map(Some),
            (Sink::Timescale(sink), Prepared::Timescale(beside)) => sink.reading(*beside, columns).map(Some),
            (Sink::Timescale(_) | Sink::Clickhouse(_), _) => Ok(None),
            (Sink::Stdout(_), _) => Ok(Some(Box::new(|_, _| Ok(())))),
        }
    }

    /// Writes rows, dead letters and position, which count together from the next checkpoint on. When it fails,
    /// nothing of it counts.
    pub fn write(&mut self, write: &Write<'_>, source: &mut Source) -> Result<Stored> {
        let stored = match self {
            Sink::Kafka(sink) => return sink.write(write, source),
            Sink::Clickhouse(sink) => return sink.write(write, source),
            Sink::Timescale(sink) => sink.write(write, source)?,
            Sink::Sqlite(sink) => sink.write(write)?,
            Sink::File(sink) => Stored { bytes: sink.write(write)?, ..Stored::default() },
            Sink::Stdout(sink) => Stored { bytes: sink.write(write)?, ..Stored::default() },
        };
        source.note_written(write.partition, write.next);
        Ok(stored)
    }

    /// Whether a checkpoint is due before [`Sink::read_back`], which sees only what counts.
    pub fn is_due_before_reading(&self, partition: i32) -> bool {
        match self {
            Sink::Kafka(sink) => sink.is_due_before_reading(partition),
            Sink::Clickhouse(sink) => sink.has_waiting(),
            Sink::Sqlite(_) | Sink::File(_) | Sink::Timescale(_) | Sink::Stdout(_) => false,
        }
    }

    /// Whether a checkpoint is due; `has_more` says that the source has rows waiting.
    pub fn is_due(&self, has_more: bool) -> bool {
        match self {
            Sink::Kafka(sink) => sink.is_due(has_more),
            Sink::Clickhouse(sink) => sink.is_due(),
            Sink::Sqlite(_) | Sink::File(_) | Sink::Timescale(_) | Sink::Stdout(_) => true,
        }
    }

    /// Connections that were lost or ended, and made again.
    pub fn reconnects(&self) -> u64 {
        match self {
            Sink::Timescale(sink) => sink.reconnects(),
            Sink::Kafka(_) | Sink::Clickhouse(_) | Sink::Sqlite(_) | Sink::File(_) | Sink::Stdout(_) => 0,
        }
    }

    /// What was written counts afterwards, and survives the end of this process. The sinks but Kafka and ClickHouse have
    /// done it with every write.
    pub fn checkpoint(&mut self, source: &mut Source) -> Result<()> {
        match self {
            Sink::Kafka(sink) => sink.checkpoint(source),
            Sink::Clickhouse(sink) => sink.checkpoint(source),
            Sink::Sqlite(_) | Sink::File(_) | Sink::Timescale(_) | Sink::Stdout(_) => Ok(()),
        }
    }

    /// After an [`Error::Rewind`]: ends what was begun, so that what counts is known.
    pub fn recover(&mut self, source: &mut Source) -> Result<()> {
        match self {
            Sink::Kafka(sink) => sink.recover(source),
            Sink::Timescale(sink) => sink.recover(source),
            Sink::Clickhouse(sink) => sink.recover(source),
            Sink::Sqlite(_) | Sink::File(_) | Sink::Stdout(_) => Ok(()),
        }
    }
}

/// A dead letter that is not beside the rows of its own sink.
fn dead_letter_elsewhere(sink: &str) -> Error {
    Error::Files(format!(
        "a dead letter in a topic or a table is beside the rows of its own sink: give `dead_letter.file` or \
         `dead_letter.stdout` beside `sink.{sink}`"
    ))
}

/// A path of the pipeline file. It is absolute, so that SQLite takes no name for anything but a file.
fn resolve(folder: &Path, path: &str) -> PathBuf {
    let path = folder.join(path);
    std::path::absolute(&path).unwrap_or(path)
}
