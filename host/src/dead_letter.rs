//! Rejected rows with their original bytes, and why they were rejected.

use crate::batch::{RawBatch, Reject};

/// A rejected row as it is stored: the original bytes untouched, and beside them where they are from and why
/// they were rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// Name of the pipeline.
    pub pipeline: &'a str,
    /// The rejected row.
    pub reject: &'a Reject,
    /// Topic, or the file as the pipeline file names it.
    pub topic: &'a str,
    /// Partition number.
    pub partition: i32,
    /// The row's position; a file's first row has 0.
    pub offset: u64,
    /// The row's original bytes.
    pub payload: std::borrow::Cow<'a, [u8]>,
    /// When the host read the batch, milliseconds since 1970.
    pub rejected_at_ms: i64,
}

impl<'a> DeadLetter<'a> {
    /// The dead letter of `reject`, a row of `raw`.
    pub fn new(_pipeline: &'a str, _raw: &'a RawBatch, _reject: &'a Reject, _now_ms: i64) -> DeadLetter<'a> {
        unimplemented!()
    }
}
