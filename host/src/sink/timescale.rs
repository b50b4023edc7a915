//! A table of TimescaleDB or PostgreSQL.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::{Stored, Write};
use crate::batch::{Partition, Position};
use crate::error::Result;
use crate::lane::Place;
use crate::pipeline_file::{self, Remember, TimescaleSink as Config};
use crate::source::Source;

/// A table of rows, the positions, and the dead letter beside it.
pub struct TimescaleSink {}

impl TimescaleSink {
    /// Connects, and compares the tables with the rows, or makes them.
    pub fn open(
        _config: &Config,
        _pipeline: &pipeline_file::Pipeline,
        _schema: &SchemaRef,
        _place: &Place<'_>,
    ) -> Result<TimescaleSink> {
        unimplemented!()
    }

    /// The position that the database has.
    pub fn position(&mut self, _partition: &Partition) -> Result<Position> {
        unimplemented!()
    }

    /// One transaction: position, rows, dead letters.
    pub fn write(&mut self, _write: &Write<'_>, _source: &mut Source) -> Result<Stored> {
        unimplemented!()
    }

    /// After an [`crate::error::Error::Rewind`]: a new connection.
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
