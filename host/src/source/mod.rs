//! Where rows come from.

mod file;

use std::path::Path;

use crate::batch::{Partition, Position, RawBatch};
use crate::error::Result;
use crate::pipeline_file;
use file::FileSource;

/// A source of rows.
pub enum Source {
    /// A file, standard input or a pipe.
    File(Box<FileSource>),
}

impl Source {
    /// Opens the source without reading rows. `folder` is the pipeline file's. `limits` bound a batch.
    pub fn open(
        config: &pipeline_file::Source,
        decode: &pipeline_file::Decode,
        limits: &pipeline_file::BatchLimits,
        folder: &Path,
    ) -> Result<Source> {
        match config {
            pipeline_file::Source::File(config) => FileSource::open(&config.path, decode, limits, folder)
                .map(|file| Source::File(Box::new(file))),
            pipeline_file::Source::Kafka(_) => Err(crate::error::Error::Files("kafka".into())),
        }
    }

    /// The partitions that this source owns.
    pub fn partitions(&self) -> Vec<Partition> {
        match self {
            Source::File(file) => vec![file.partition().clone()],
        }
    }

    /// Whether a later run can go on where this one stops. Standard input and pipes begin anew each time: their
    /// positions are not worth keeping, and [`Source::seek`] does nothing.
    pub fn is_resumable(&self) -> bool {
        match self {
            Source::File(file) => file.is_resumable(),
        }
    }

    /// Goes to the position that the sink has. A position that the data do not have, or whose fingerprint
    /// is another file's, is an error.
    pub fn seek(&mut self, _partition: &Partition, position: &Position) -> Result<()> {
        match self {
            Source::File(file) => file.seek(position),
        }
    }

    /// The first line of a CSV file, once [`Source::seek`] has gone past it: for
    /// [`crate::decode::Decoder::set_header`]. Otherwise it comes as the row with offset 0.
    pub fn header(&self) -> Option<&[u8]> {
        match self {
            Source::File(file) => file.header(),
        }
    }

    /// The next rows; empty when none came within `batch.wait`; `None` at the end.
    pub fn next_batch(&mut self) -> Result<Option<RawBatch>> {
        match self {
            Source::File(file) => file.next_batch(),
        }
    }

    /// Bytes read so far and in all, where that is known: for a progress bar.
    pub fn progress(&self) -> (u64, Option<u64>) {
        match self {
            Source::File(file) => file.progress(),
        }
    }
}
