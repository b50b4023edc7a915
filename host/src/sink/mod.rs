//! Where rows go, together with their positions.

use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::batch::{Partition, Position};
use crate::dead_letter::DeadLetter;
use crate::error::Result;
use crate::pipeline_file;

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
}

/// A place for rows.
pub enum Sink {}

impl Sink {
    /// Opens or makes the place. `schema` has the columns of [`Write::kept`].
    pub fn open(_pipeline: &pipeline_file::Pipeline, _schema: &SchemaRef, _folder: &Path) -> Result<Sink> {
        unimplemented!()
    }

    /// The position up to which rows of this partition have been written; zero for a new one.
    pub fn position(&mut self, _partition: &Partition) -> Result<Position> {
        unimplemented!()
    }

    /// Reads back what was written, oldest first, at most as `remember` allows, in batches of at most
    /// 10,000 rows with `columns` of the schema in that order.
    pub fn read_back(
        &mut self,
        _partition: i32,
        _columns: &[String],
        _remember: &pipeline_file::Remember,
        _each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        unimplemented!()
    }

    /// Writes rows, dead letters and position in one atomic step. When it returns `Ok` all of it is durable;
    /// otherwise nothing of it is.
    pub fn write(&mut self, _write: &Write<'_>) -> Result<()> {
        unimplemented!()
    }
}
