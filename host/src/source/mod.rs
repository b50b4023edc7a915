//! Where rows come from.

use std::path::Path;

use crate::batch::{Partition, Position, RawBatch};
use crate::error::Result;
use crate::pipeline_file;

/// A source of rows.
pub enum Source {}

impl Source {
    /// Opens the source without reading rows. `folder` is the pipeline file's. `limits` bound a batch.
    pub fn open(
        _config: &pipeline_file::Source,
        _decode: &pipeline_file::Decode,
        _limits: &pipeline_file::BatchLimits,
        _folder: &Path,
    ) -> Result<Source> {
        unimplemented!()
    }

    /// The partitions that this source owns.
    pub fn partitions(&self) -> Vec<Partition> {
        unimplemented!()
    }

    /// Goes to the position that the sink has. A position that the data do not have, or whose fingerprint
    /// is another file's, is an error.
    pub fn seek(&mut self, _partition: &Partition, _position: &Position) -> Result<()> {
        unimplemented!()
    }

    /// The next rows; empty when none came within `batch.wait`; `None` at the end.
    pub fn next_batch(&mut self) -> Result<Option<RawBatch>> {
        unimplemented!()
    }

    /// Bytes read so far and in all, where that is known: for a progress bar.
    pub fn progress(&self) -> (u64, Option<u64>) {
        unimplemented!()
    }
}
