//! Where rows go, together with their positions.
//!
//! A sink keeps the position of each source partition with the rows themselves and changes both in one atomic
//! step, so a crash at any moment neither loses nor doubles a row: [`Sink::position`] says where to go on.
//! Standard output is the exception: it keeps nothing.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::batch::{Partition, Position, Reject};
use crate::dead_letter::DeadLetter;
use crate::error::{Error, Result};
use crate::pipeline_file;

pub mod appended;
pub mod file;
pub mod json;
pub mod sqlite;
pub mod stdout;
#[cfg(test)]
mod test_rows;
pub mod values;

/// What one turn of the loop writes, as one atomic step.
pub struct Write<'a> {
    /// The partition of the rows.
    pub partition: &'a Partition,
    /// The position that the sink must still have; when it has another one, another process owns the partition.
    pub expected: &'a Position,
    /// The position after this step.
    pub next: &'a Position,
    /// Rows to keep; columns as in the schema that the sink was opened with.
    pub kept: &'a RecordBatch,
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
}

/// A place for rows.
pub enum Sink {
    /// A table of an embedded database.
    Sqlite(Box<sqlite::SqliteSink>),
    /// A JSON lines file, or a folder of Parquet files.
    File(Box<file::FileSink>),
    /// Standard output.
    Stdout(stdout::StdoutSink),
}

impl Sink {
    /// Opens or makes the place. `schema` has the columns of [`Write::kept`]. `folder` is the pipeline file's.
    pub fn open(pipeline: &pipeline_file::Pipeline, schema: &SchemaRef, folder: &Path) -> Result<Sink> {
        match &pipeline.sink {
            pipeline_file::Sink::Sqlite(config) => sqlite::SqliteSink::open(config, pipeline, schema, folder)
                .map(|sink| Sink::Sqlite(sink.into())),
            pipeline_file::Sink::File(config) => {
                file::FileSink::open(config, pipeline, schema, folder).map(|sink| Sink::File(sink.into()))
            }
            pipeline_file::Sink::Kafka(_) => todo_kafka(),
            pipeline_file::Sink::Stdout(_) => {
                stdout::StdoutSink::open(pipeline.dead_letter.as_ref(), folder).map(Sink::Stdout)
            }
        }
    }

    /// The position up to which rows of this partition have been written; zero for a new one, and always for
    /// standard output.
    pub fn position(&mut self, partition: &Partition) -> Result<Position> {
        match self {
            Sink::Sqlite(sink) => sink.position(partition),
            Sink::File(sink) => Ok(sink.position(partition)),
            Sink::Stdout(_) => Ok(Position::default()),
        }
    }

    /// Reads back what was written, oldest first, at most as `remember` allows, in batches of at most
    /// 10,000 rows with `columns` of the schema in that order.
    ///
    /// These sinks do not keep apart from which partition a row was, so each partition is given the rows of
    /// all. The last `remember.rows` are read back; when `remember.window` is given and the rows have a
    /// `timestamp`, only those within it of the newest among them. Last means written last.
    pub fn read_back(
        &mut self,
        _partition: i32,
        columns: &[String],
        remember: &pipeline_file::Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        match self {
            Sink::Sqlite(sink) => sink.read_back(columns, remember, each),
            Sink::File(sink) => sink.read_back(columns, remember, each),
            Sink::Stdout(_) => Ok(()),
        }
    }

    /// Writes rows, dead letters and position in one atomic step. When it returns `Ok` all of it survives the
    /// end of this process; otherwise nothing of it counts.
    pub fn write(&mut self, write: &Write<'_>) -> Result<Stored> {
        match self {
            Sink::Sqlite(sink) => sink.write(write),
            Sink::File(sink) => sink.write(write).map(|()| Stored::default()),
            Sink::Stdout(sink) => sink.write(write).map(|()| Stored::default()),
        }
    }
}

fn todo_kafka<T>() -> Result<T> {
    Err(Error::Files("kafka".into()))
}

/// A dead letter in Kafka is in the transaction of a sink in Kafka.
fn kafka_dead_letter(sink: &str) -> Error {
    Error::Files(format!(
        "`dead_letter.kafka` needs `sink.kafka`: give `dead_letter.file` or `dead_letter.stdout` beside `sink.{sink}`"
    ))
}

/// A path of the pipeline file. It is absolute, so that SQLite takes no name for anything but a file.
fn resolve(folder: &Path, path: &str) -> PathBuf {
    let path = folder.join(path);
    std::path::absolute(&path).unwrap_or(path)
}
