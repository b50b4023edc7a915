//! What a lane has done: rows that count, and rows that the next checkpoint makes count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMillisecondType;
use arrow_array::{Array, RecordBatch};

use crate::batch::RawBatch;
use crate::lane::Decided;
use crate::metrics::{DECODE, Metrics, Outcome, SINK, SOURCE};
use crate::rule::OfVersion;
use crate::sink::Stored;
use crate::source::Source;
use crate::summary::{DroppedBy, Progress, RejectedBy, Summary};

/// What a lane has done.
pub struct Account<'a> {
    progress: &'a Progress,
    metrics: &'a Metrics,
    /// What counts.
    committed: Counts,
    /// What a checkpoint will make count.
    pending: Counts,
}

#[derive(Default)]
struct Counts {
    read: u64,
    written: u64,
    rejected: u64,
    dropped: u64,
    tombstones: u64,
    rejected_by: BTreeMap<(Arc<str>, Arc<str>), u64>,
    dropped_by: BTreeMap<Arc<str>, u64>,
    /// Of what is pending only: what counts is in the versions' own tallies.
    by_version: Vec<OfVersion>,
    read_bytes: u64,
    written_bytes: u64,
    /// The newest value of the column `timestamp` among written rows, milliseconds since 1970.
    newest_ms: Option<i64>,
}

impl<'a> Account<'a> {
    /// Of a lane that has done nothing yet.
    pub fn new(progress: &'a Progress, metrics: &'a Metrics) -> Account<'a> {
        Account { progress, metrics, committed: Counts::default(), pending: Counts::default() }
    }

    /// Takes a batch that was written.
    pub fn add(&mut self, raw: &RawBatch, decided: &Decided, stored: &Stored) {
        let Stored { duplicates, refused, bytes } = stored;
        let pending = &mut self.pending;
        pending.read += raw.len() as u64;
        pending.written += decided.kept.rows.len() as u64 - duplicates - refused.len() as u64;
        pending.rejected += (decided.rejects.len() + refused.len()) as u64;
        pending.dropped += decided.dropped_rows() + duplicates;
        pending.tombstones += decided.tombstones;
        pending.read_bytes += raw.bytes() as u64;
        pending.written_bytes += bytes;
        pending.newest_ms = pending.newest_ms.max(newest_ms(&decided.kept.columns));
        for reject in decided.rejects.iter().chain(refused) {
            let key = (Arc::clone(&reject.rule), Arc::clone(&reject.reason));
            *pending.rejected_by.entry(key).or_default() += 1;
        }
        for (rule, rows) in &decided.dropped {
            *pending.dropped_by.entry(Arc::clone(rule)).or_default() += rows;
        }
        for more in &decided.by_version {
            match pending.by_version.iter_mut().find(|known| Arc::ptr_eq(&known.version, &more.version)) {
                Some(known) => known.decided.add(&more.decided),
                None => pending.by_version.push(more.clone()),
            }
        }
        if *duplicates > 0 {
            *pending.dropped_by.entry(SINK.into()).or_default() += duplicates;
        }
    }

    /// What was added counts.
    pub fn commit(&mut self, source: &Source) {
        let pending = std::mem::take(&mut self.pending);
        pending.show(self.metrics);
        let Progress { rows_read, written, rejected, dropped, tombstones, .. } = self.progress;
        let count = |total: &mut u64, shown: &AtomicU64, rows: u64| {
            *total += rows;
            shown.fetch_add(rows, Ordering::Relaxed);
        };
        let sum = &mut self.committed;
        count(&mut sum.read, rows_read, pending.read);
        count(&mut sum.written, written, pending.written);
        count(&mut sum.rejected, rejected, pending.rejected);
        count(&mut sum.dropped, dropped, pending.dropped);
        count(&mut sum.tombstones, tombstones, pending.tombstones);
        sum.newest_ms = sum.newest_ms.max(pending.newest_ms);
        pending
            .rejected_by
            .into_iter()
            .for_each(|(key, rows)| *sum.rejected_by.entry(key).or_default() += rows);
        pending
            .dropped_by
            .into_iter()
            .for_each(|(rule, rows)| *sum.dropped_by.entry(rule).or_default() += rows);
        pending.by_version.iter().for_each(|of| of.version.tally.add(&of.decided));
        let (done, total) = source.progress();
        self.progress.bytes_done.store(done, Ordering::Relaxed);
        self.progress.bytes_total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    /// What was added since the last checkpoint does not count.
    pub fn discard(&mut self) {
        self.pending = Counts::default();
    }

    /// Whether something waits for a checkpoint.
    pub fn has_pending(&self) -> bool {
        self.pending.read > 0
    }

    /// The newest time of a row that counts, milliseconds since 1970.
    pub fn newest_ms(&self) -> Option<i64> {
        self.committed.newest_ms
    }

    /// For the progress display: rows that were read back for rules that remember.
    pub fn remembered(&self) -> &'a AtomicU64 {
        &self.progress.remembered
    }

    /// What counts.
    pub fn summary(self) -> Summary {
        let Counts { read, written, rejected, dropped, tombstones, rejected_by, dropped_by, .. } =
            self.committed;
        Summary {
            read,
            written,
            rejected,
            dropped,
            tombstones,
            rejected_by: (rejected_by.into_iter())
                .map(|((rule, reason), count)| RejectedBy {
                    rule: rule.to_string(),
                    reason: reason.to_string(),
                    count,
                })
                .collect(),
            dropped_by: (dropped_by.into_iter())
                .map(|(rule, count)| DroppedBy { rule: rule.to_string(), count })
                .collect(),
            ..Summary::default()
        }
    }
}

impl Counts {
    /// Shows what counts now.
    fn show(&self, metrics: &Metrics) {
        let rejected_by = |rule: &str| {
            let theirs = self.rejected_by.iter().filter(|((by, _), _)| &**by == rule);
            theirs.map(|(_, rows)| rows).sum::<u64>()
        };
        let refused = rejected_by(DECODE);
        metrics.count(SOURCE, Outcome::Ok, self.read);
        metrics.count(DECODE, Outcome::Ok, self.read - refused - self.tombstones);
        metrics.count(DECODE, Outcome::Rejected, refused);
        metrics.count(DECODE, Outcome::Empty, self.tombstones);
        for OfVersion { rule, decided, .. } in &self.by_version {
            let rejected = decided.rejected.values().sum();
            metrics.count(rule, Outcome::Ok, decided.rows - rejected - decided.dropped);
            metrics.count(rule, Outcome::Rejected, rejected);
            metrics.count(rule, Outcome::Dropped, decided.dropped);
        }
        metrics.count(SINK, Outcome::Ok, self.written);
        metrics.count(SINK, Outcome::Rejected, rejected_by(SINK));
        metrics.count(SINK, Outcome::Dropped, self.dropped_by.get(SINK).copied().unwrap_or(0));
        for ((rule, reason), rows) in &self.rejected_by {
            metrics.count_rejected(rule, reason, *rows);
        }
        metrics.count_bytes(self.read_bytes, self.written_bytes);
    }
}

/// The newest value of the column `timestamp`.
fn newest_ms(columns: &RecordBatch) -> Option<i64> {
    let times = columns.column_by_name("timestamp")?.as_primitive_opt::<TimestampMillisecondType>()?;
    match times.null_count() {
        0 => times.values().iter().copied().max(),
        _ => times.iter().flatten().max(),
    }
}
