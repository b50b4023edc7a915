//! What a run has done: counters while it goes on, and the account at its end.

use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Counters that a lane raises and a progress display reads.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows that the source gave.
    pub rows_read: AtomicU64,
    /// Rows that the sink has.
    pub written: AtomicU64,
    /// Rows in the dead letter.
    pub rejected: AtomicU64,
    /// Rows left out on purpose.
    pub dropped: AtomicU64,
    /// Empty rows.
    pub tombstones: AtomicU64,
    /// Rows that were read back from the sink for rules that remember.
    pub remembered: AtomicU64,
    /// Bytes of the source that have been read.
    pub bytes_done: AtomicU64,
    /// Bytes of the source in all; 0 when that is not known.
    pub bytes_total: AtomicU64,
}

/// The account of one pipeline's run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Rows that the source gave.
    pub read: u64,
    /// Rows that the sink has.
    pub written: u64,
    /// Rows in the dead letter.
    pub rejected: u64,
    /// Rows left out on purpose.
    pub dropped: u64,
    /// Empty rows.
    pub tombstones: u64,
    /// How many rows decode, each rule and the sink rejected, and for which reason.
    pub rejected_by: Vec<RejectedBy>,
    /// How many rows each rule dropped, and how many the sink had already.
    pub dropped_by: Vec<DroppedBy>,
    /// Wall-clock time.
    pub seconds: f64,
    /// Whether a signal ended the run before the source's end.
    pub stopped: bool,
    /// The versions of rules that ran, in the rules' order.
    pub rules: Vec<RuleRun>,
    /// The exchanges that were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exchanges: Vec<ExchangeRun>,
}

/// An exchange that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExchangeRun {
    /// What the column `source` says.
    pub exchange: String,
    /// Requests that were sent.
    pub requests: u64,
    /// Tasks that failed, and were begun again.
    pub failures: u64,
    /// Candles that came, as far back as the ledger goes.
    pub received: u64,
    /// Candles in which nothing was traded.
    pub quiet: u64,
    /// Candles that did not come, and are asked for again.
    pub absent: u64,
    /// Candles that did not come although they were asked for with patience.
    pub missing: u64,
    /// Candles that came again with other values.
    pub corrected: u64,
}

/// How many rows a rule rejected for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedBy {
    /// The rule's name in the pipeline file; `decode` for rows that did not decode, `sink` for rows that the sink
    /// cannot store.
    pub rule: String,
    /// The reason.
    pub reason: String,
    /// Rows.
    pub count: u64,
}

/// How many rows a rule dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedBy {
    /// The rule's name in the pipeline file; `sink` for rows that the sink had already.
    pub rule: String,
    /// Rows.
    pub count: u64,
}

/// A version of a rule that ran.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleRun {
    /// The rule's name in the pipeline file.
    pub rule: String,
    /// SHA-256 of its component in hexadecimal.
    pub sha256: String,
    /// Mean time of its calls, in nanoseconds a row.
    pub ns_per_row: f64,
    /// Rows that it has decided.
    pub rows: u64,
    /// How many of them it rejected.
    pub rejected: u64,
    /// How many of them it dropped.
    pub dropped: u64,
}

impl Summary {
    /// Adds what another lane of the same pipeline has done.
    pub fn add(&mut self, other: Summary) {
        self.exchanges.extend(other.exchanges);
        self.read += other.read;
        self.written += other.written;
        self.rejected += other.rejected;
        self.dropped += other.dropped;
        self.tombstones += other.tombstones;
        for by in other.rejected_by {
            let is_same = |known: &&mut RejectedBy| known.rule == by.rule && known.reason == by.reason;
            match self.rejected_by.iter_mut().find(is_same) {
                Some(known) => known.count += by.count,
                None => self.rejected_by.push(by),
            }
        }
        for by in other.dropped_by {
            match self.dropped_by.iter_mut().find(|known| known.rule == by.rule) {
                Some(known) => known.count += by.count,
                None => self.dropped_by.push(by),
            }
        }
    }

    /// Whether every row that was read is accounted for.
    pub fn is_conserved(&self) -> bool {
        self.read == self.written + self.rejected + self.dropped + self.tombstones
    }

    /// Rows a second; 0 for a run too short to measure.
    pub fn rows_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.read as f64 / self.seconds } else { 0.0 }
    }
}
