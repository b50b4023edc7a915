//! A candidate beside the version that decides: it sees the same batches, and its verdicts are only compared.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::compare::{Difference, Verdict, each_difference};
use super::slot::{Applied, Slot};
use super::version::{Version, lock};
use crate::batch::RawBatch;

/// Rows that are shown of what differs: a person reads no more.
const SAMPLES_MAX: usize = 20;

/// A version that is tried.
#[derive(Debug)]
pub struct Candidate {
    /// It.
    pub version: Version,
    /// Until when it is tried, milliseconds since 1970.
    pub until_ms: i64,
    comparison: Mutex<Comparison>,
    has_ended: AtomicBool,
}

/// What a candidate would have decided otherwise.
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
    /// Topic, or file.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Position of the row.
    pub offset: u64,
    /// What the version says that decides.
    pub current: String,
    /// What the candidate says.
    pub candidate: String,
}

impl Candidate {
    /// One that nothing is known of.
    pub fn new(version: Version, until_ms: i64) -> Candidate {
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

    /// Compares what both have made of `rows` of a batch.
    pub fn compare(&self, raw: &RawBatch, rows: &[u32], current: (&Slot, &Applied), candidate: &Applied) {
        let (slot, current) = current;
        let written = slot.description().writes.iter().map(|(name, _)| name.as_str());
        let mut found = lock(&self.comparison);
        let mut same = rows.len() as u64;
        each_difference(rows, written, current, candidate, |difference| {
            same -= 1;
            let kinds = format!("{} -> {}", kind(&difference.current), kind(&difference.candidate));
            *found.different.entry(kinds).or_default() += 1;
            if found.samples.len() < SAMPLES_MAX {
                let (current, candidate) = both(&difference);
                found.samples.push(Sample {
                    topic: raw.partition.topic.to_string(),
                    partition: raw.partition.number,
                    offset: raw.offset(difference.row),
                    current,
                    candidate,
                });
            }
        });
        found.rows += rows.len() as u64;
        found.same += same;
    }
}

/// A verdict without what differs from row to row.
fn kind(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Kept => "kept".into(),
        Verdict::Rejected { reason, .. } => format!("rejected as {reason}"),
        Verdict::Dropped => "dropped".into(),
    }
}

/// What the versions say of a row.
fn both(difference: &Difference<'_>) -> (String, String) {
    if let Some((name, one, other)) = difference.values.first() {
        return (format!("kept with `{name}` {one}"), format!("kept with `{name}` {other}"));
    }
    let text = |verdict: &Verdict<'_>| match verdict {
        Verdict::Rejected { detail, .. } => format!("{}: {detail}", kind(verdict)),
        Verdict::Kept | Verdict::Dropped => kind(verdict),
    };
    (text(&difference.current), text(&difference.candidate))
}

/// A candidate in a lane.
pub struct Shadow {
    /// What is tried.
    pub candidate: Arc<Candidate>,
    /// Its instances.
    pub slot: Slot,
}
