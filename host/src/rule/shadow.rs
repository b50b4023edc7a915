//! A candidate of a rule in a lane: it sees the same batches as the version that decides.

use std::sync::Arc;

use super::Candidate;
use super::compare::{Difference, Verdict, each_difference};
use super::slot::{Applied, Slot};
use crate::batch::RawBatch;
use crate::life::Sample;

impl Candidate {
    /// Compares what both have made of `rows` of a batch.
    pub fn compare(&self, raw: &RawBatch, rows: &[u32], current: (&Slot, &Applied), candidate: &Applied) {
        let (slot, current) = current;
        let written = slot.description().writes.iter().map(|(name, _)| name.as_str());
        self.note(|found| {
            let mut same = rows.len() as u64;
            each_difference(rows, written, current, candidate, |difference| {
                same -= 1;
                let kinds = format!("{} -> {}", kind(&difference.current), kind(&difference.candidate));
                found.differ(kinds, || {
                    let (current, candidate) = both(&difference);
                    Sample {
                        topic: raw.partition.topic.to_string(),
                        partition: raw.partition.number,
                        offset: raw.offset(difference.row),
                        current,
                        candidate,
                    }
                });
            });
            found.rows += rows.len() as u64;
            found.same += same;
        });
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
