//! A candidate beside the version that decides: it sees the same batches, and its verdicts are only compared.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::slot::{Applied, Slot};
use super::version::{Version, lock};
use crate::batch::RawBatch;
use crate::sink::values::{Value, Values};

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

/// What a version says of a row.
#[derive(Debug, Clone, Copy)]
enum Verdict<'a> {
    /// It is kept, as this row of the kept ones.
    Kept(usize),
    Rejected(&'a str, &'a str),
    Dropped,
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
        let columns = Columns::new(written, &current.kept.columns, &candidate.kept.columns);
        let (ours, theirs) = (Verdicts::new(current), Verdicts::new(candidate));
        let mut found = lock(&self.comparison);
        found.rows += rows.len() as u64;
        if columns.are_equal
            && current.kept.rows == candidate.kept.rows
            && rows.len() == current.kept.rows.len()
        {
            found.same += rows.len() as u64;
            return;
        }
        for &row in rows {
            let (our, their) = (ours.of(row), theirs.of(row));
            let (current, candidate) = match (our, their) {
                (Verdict::Kept(one), Verdict::Kept(other)) => match columns.difference(one, other) {
                    None => {
                        found.same += 1;
                        continue;
                    }
                    Some((name, one, other)) => {
                        (format!("kept with `{name}` {one}"), format!("kept with `{name}` {other}"))
                    }
                },
                (Verdict::Rejected(one, _), Verdict::Rejected(other, _)) if one == other => {
                    found.same += 1;
                    continue;
                }
                (Verdict::Dropped, Verdict::Dropped) => {
                    found.same += 1;
                    continue;
                }
                (one, other) => (one.text(), other.text()),
            };
            let kinds = format!("{} -> {}", our.kind(), their.kind());
            *found.different.entry(kinds).or_default() += 1;
            if found.samples.len() < SAMPLES_MAX {
                found.samples.push(Sample {
                    topic: raw.partition.topic.to_string(),
                    partition: raw.partition.number,
                    offset: raw.offset(row),
                    current,
                    candidate,
                });
            }
        }
    }
}

impl Verdict<'_> {
    /// Without what differs from row to row.
    fn kind(&self) -> String {
        match self {
            Verdict::Kept(_) => "kept".into(),
            Verdict::Rejected(reason, _) => format!("rejected as {reason}"),
            Verdict::Dropped => "dropped".into(),
        }
    }

    fn text(&self) -> String {
        match self {
            Verdict::Rejected(reason, detail) => format!("rejected as {reason}: {detail}"),
            other => other.kind(),
        }
    }
}

/// The verdicts of a version, by row.
struct Verdicts<'a> {
    kept: HashMap<u32, usize>,
    rejected: HashMap<u32, (&'a str, &'a str)>,
}

impl<'a> Verdicts<'a> {
    fn new(applied: &'a Applied) -> Verdicts<'a> {
        Verdicts {
            kept: applied.kept.rows.iter().enumerate().map(|(index, row)| (*row, index)).collect(),
            rejected: (applied.rejects.iter())
                .map(|reject| (reject.row, (&*reject.reason, reject.detail.as_str())))
                .collect(),
        }
    }

    fn of(&self, row: u32) -> Verdict<'a> {
        if let Some(&index) = self.kept.get(&row) {
            return Verdict::Kept(index);
        }
        match self.rejected.get(&row) {
            Some((reason, detail)) => Verdict::Rejected(reason, detail),
            None => Verdict::Dropped,
        }
    }
}

/// The columns that both have written.
struct Columns<'a> {
    pairs: Vec<(&'a str, Values<'a>, Values<'a>)>,
    are_equal: bool,
}

impl<'a> Columns<'a> {
    fn new(
        names: impl Iterator<Item = &'a str>,
        current: &'a RecordBatch,
        candidate: &'a RecordBatch,
    ) -> Columns<'a> {
        let mut pairs = Vec::new();
        let mut are_equal = true;
        for name in names {
            let (Some(one), Some(other)) = (current.column_by_name(name), candidate.column_by_name(name))
            else {
                continue;
            };
            are_equal &= one == other;
            pairs.push((name, Values::of(one), Values::of(other)));
        }
        Columns { pairs, are_equal }
    }

    /// The first column in which a row of one differs from a row of the other, with both values.
    fn difference(&self, one: usize, other: usize) -> Option<(&'a str, String, String)> {
        self.pairs.iter().find_map(|(name, ours, theirs)| {
            let (our, their) = (ours.at(one), theirs.at(other));
            let is_same = match (our, their) {
                // NaN too is what it is.
                (Value::Float(our), Value::Float(their)) => our.to_bits() == their.to_bits(),
                _ => our == their,
            };
            (!is_same).then(|| (*name, our.to_string(), their.to_string()))
        })
    }
}

/// A candidate in a lane.
pub struct Shadow {
    /// What is tried.
    pub candidate: Arc<Candidate>,
    /// Its instances.
    pub slot: Slot,
}
