//! Bytes to columns.

use std::sync::Arc;

use arrow_schema::SchemaRef;

use crate::batch::{Decoded, RawBatch};
use crate::error::Result;
use crate::pipeline_file::{Column, Decode};

/// The columns of the built-in set `ohlcv`.
pub fn ohlcv() -> Vec<Column> {
    unimplemented!()
}

/// Decodes the rows of one pipeline.
pub struct Decoder {}

impl Decoder {
    /// A decoder for a pipeline file's `decode`.
    pub fn new(_decode: &Decode) -> Result<Decoder> {
        unimplemented!()
    }

    /// The columns, in the order in which the pipeline file declares them.
    pub fn schema(&self) -> &SchemaRef {
        unimplemented!()
    }

    /// Rows that do not decode become rejects of the rule `decode`; nothing else fails.
    pub fn decode(&mut self, _raw: &RawBatch, _version: &Arc<str>) -> Decoded {
        unimplemented!()
    }
}
