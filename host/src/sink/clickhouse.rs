//! A table of ClickHouse.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::{Stored, Write};
use crate::batch::Partition;
use crate::error::Result;
use crate::lane::Place;
use crate::pipeline_file::{self, ClickhouseSink as Config, Remember};
use crate::source::{Source, Start};

/// A table of rows, and the dead letter beside it.
pub struct ClickhouseSink {}

impl ClickhouseSink {
    /// Connects, and compares the tables with the rows, or makes them.
    pub fn open(
        _config: &Config,
        _pipeline: &pipeline_file::Pipeline,
        _schema: &SchemaRef,
        _place: &Place<'_>,
    ) -> Result<ClickhouseSink> {
        unimplemented!()
    }

    /// Where to go on with a partition, and what must be inserted again.
    pub fn start(&mut self, _partition: &Partition) -> Result<Start> {
        unimplemented!()
    }

    /// Adds rows and dead letters to the blocks of their partition.
    pub fn write(&mut self, _write: &Write<'_>) -> Result<Stored> {
        unimplemented!()
    }

    /// Whether rows wait that are not inserted.
    pub fn has_waiting(&self) -> bool {
        unimplemented!()
    }

    /// Whether the blocks are to be inserted.
    pub fn is_due(&self) -> bool {
        unimplemented!()
    }

    /// Plans the blocks, inserts them, and keeps the positions after them.
    pub fn checkpoint(&mut self, _source: &mut Source) -> Result<()> {
        unimplemented!()
    }

    /// After an [`crate::error::Error::Rewind`]: nothing waits any more.
    pub fn recover(&mut self, _source: &mut Source) -> Result<()> {
        unimplemented!()
    }

    /// Reads the newest rows back.
    pub fn read_back(
        &mut self,
        _columns: &[String],
        _remember: &Remember,
        _each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        unimplemented!()
    }
}
