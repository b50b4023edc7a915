//! A candidate beside the version that decides: it sees the same, and what it says is only compared.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Code;
use super::version::{Version, lock};

/// Rows that are shown of what differs: a person reads no more.
const SAMPLES_MAX: usize = 20;

/// A version that is tried.
pub struct Candidate<C> {
    /// It.
    pub version: Version<C>,
    /// Until when it is tried, milliseconds since 1970.
    pub until_ms: i64,
    comparison: Mutex<Comparison>,
    has_ended: AtomicBool,
}

/// What a candidate would have decided otherwise. Of an adapter the rows are candles.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Rows that both versions have decided.
    pub rows: u64,
    /// Rows of which they say the same.
    pub same: u64,
    /// How many rows there are of each other pair of verdicts.
    pub different: BTreeMap<String, u64>,
    /// Some of those rows.
    pub samples: Vec<Sample>,
    /// Why the candidate failed, which ended the trial.
    pub failed: Option<String>,
}

/// A row of which two versions say different things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// Topic, or file; of an adapter the symbol.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Position of the row; of an adapter the open time of the candle, milliseconds since 1970.
    pub offset: u64,
    /// What the version says that decides.
    pub current: String,
    /// What the candidate says.
    pub candidate: String,
}

impl<C: Code> Candidate<C> {
    /// One that nothing is known of.
    pub fn new(version: Version<C>, until_ms: i64) -> Candidate<C> {
        Candidate { version, until_ms, comparison: Mutex::default(), has_ended: AtomicBool::new(false) }
    }

    /// What is known until now.
    pub fn comparison(&self) -> Comparison {
        lock(&self.comparison).clone()
    }

    /// The trial has ended, because the candidate fails.
    pub fn fail(&self, why: String) {
        lock(&self.comparison).failed.get_or_insert(why);
    }

    /// Whether it still sees batches.
    pub fn is_running(&self, now_ms: i64) -> bool {
        now_ms < self.until_ms && lock(&self.comparison).failed.is_none()
    }

    /// Whether its time is over, said once.
    pub fn ends(&self, now_ms: i64) -> bool {
        self.until_ms <= now_ms && !self.has_ended.swap(true, Ordering::Relaxed)
    }

    /// Notes what both have made of some rows.
    pub fn note(&self, note: impl FnOnce(&mut Comparison)) {
        note(&mut lock(&self.comparison));
    }
}

impl Comparison {
    /// Notes a row of which they say different things.
    pub fn differ(&mut self, kinds: String, sample: impl FnOnce() -> Sample) {
        *self.different.entry(kinds).or_default() += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(sample());
        }
    }
}
