//! A version of a component, and what it has done: shared by the lanes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Code;
use super::shelf::Origin;
use crate::wasm;

/// What a version may refuse without a version before it to compare with: everything.
const ALL: f64 = 1.0;

/// A version of a rule, or of an exchange's adapter.
pub struct Version<C> {
    /// Its component.
    pub component: C,
    /// Where it came from.
    pub origin: Origin,
    /// When it began to run, milliseconds since 1970.
    pub since_ms: i64,
    /// The share of rows that it may reject or drop while it is on probation.
    pub refused_max: f64,
    /// What it has done.
    pub tally: Arc<Tally>,
    is_on_probation: AtomicBool,
    is_taken_back: AtomicBool,
    /// The component's file, which may be nowhere else any more when the version is to be kept.
    pub file: wasm::File,
}

/// What a version has done since the process began.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of which version.
    pub sha256: Arc<str>,
    rows: AtomicU64,
    ns: AtomicU64,
    failed_rows: AtomicU64,
    pause_us: AtomicU64,
    decided: Mutex<Decided>,
}

/// What was decided of rows that count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// Rows that it was given.
    pub rows: u64,
    /// Rows that it rejected, by reason.
    pub rejected: BTreeMap<Arc<str>, u64>,
    /// Rows that it dropped.
    pub dropped: u64,
}

/// Calls of a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Calls {
    /// Rows of all calls.
    pub rows: u64,
    /// Time of all calls, the border included.
    pub seconds: f64,
}

impl<C: Code> Version<C> {
    /// A version that is trusted. `file` is the component's.
    pub fn trusted(component: C, origin: Origin, since_ms: i64, file: wasm::File) -> Version<C> {
        Version {
            tally: Arc::new(Tally { sha256: Arc::clone(component.sha256()), ..Tally::default() }),
            component,
            origin,
            since_ms,
            refused_max: ALL,
            is_on_probation: AtomicBool::new(false),
            is_taken_back: AtomicBool::new(false),
            file,
        }
    }

    /// The same, on probation: it may refuse this share of the rows.
    #[must_use]
    pub fn on_probation(self, refused_max: f64) -> Version<C> {
        Version { refused_max: refused_max.min(ALL), is_on_probation: AtomicBool::new(true), ..self }
    }

    /// The same, with what another process or an earlier time of this version has counted.
    #[must_use]
    pub fn counted_in(self, tally: Arc<Tally>) -> Version<C> {
        Version { tally, ..self }
    }

    /// SHA-256 of the component in hexadecimal.
    pub fn sha256(&self) -> &Arc<str> {
        self.component.sha256()
    }

    /// Whether it is taken back when it fails.
    pub fn is_on_probation(&self) -> bool {
        self.is_on_probation.load(Ordering::Relaxed)
    }

    /// From now on it is trusted.
    pub fn trust(&self) {
        self.is_on_probation.store(false, Ordering::Relaxed);
    }

    /// Whether what it has decided should not be written.
    pub fn is_taken_back(&self) -> bool {
        self.is_taken_back.load(Ordering::Relaxed)
    }

    /// What it has decided should not be written.
    pub fn take_back(&self) {
        self.is_taken_back.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    /// Calls have taken so long for so many rows, on so many of which the rule failed.
    pub fn add_calls(&self, rows: u64, time: Duration, failed_rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.failed_rows.fetch_add(failed_rows, Ordering::Relaxed);
    }

    /// A lane has stood still for so long to go over to the version.
    pub fn note_pause(&self, time: Duration) {
        self.pause_us.fetch_max(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The longest time that a lane has stood still to go over to the version, in microseconds.
    pub fn pause_us(&self) -> u64 {
        self.pause_us.load(Ordering::Relaxed)
    }

    /// What was decided counts.
    pub fn add(&self, more: &Decided) {
        lock(&self.decided).add(more);
    }

    /// What was decided of rows that count.
    pub fn decided(&self) -> Decided {
        lock(&self.decided).clone()
    }

    /// Its calls.
    pub fn calls(&self) -> Calls {
        let (ns, rows) = (self.ns.load(Ordering::Relaxed), self.rows.load(Ordering::Relaxed));
        Calls { rows, seconds: ns as f64 / 1e9 }
    }

    /// Mean time of its calls, the border included, in nanoseconds a row.
    pub fn ns_per_row(&self) -> f64 {
        let Calls { rows, seconds } = self.calls();
        if rows == 0 { 0.0 } else { seconds * 1e9 / rows as f64 }
    }

    /// Rows on which it failed, also those that were decided again.
    pub fn failed_rows(&self) -> u64 {
        self.failed_rows.load(Ordering::Relaxed)
    }
}

impl Decided {
    /// Adds what was decided of other rows.
    pub fn add(&mut self, more: &Decided) {
        self.rows += more.rows;
        self.dropped += more.dropped;
        for (reason, rows) in &more.rejected {
            *self.rejected.entry(Arc::clone(reason)).or_default() += rows;
        }
    }

    /// The share of the rows that were rejected or dropped; 0 of none.
    pub fn refused_share(&self) -> f64 {
        let refused = self.dropped + self.rejected.values().sum::<u64>();
        if self.rows == 0 { 0.0 } else { refused as f64 / self.rows as f64 }
    }
}

/// The most rows of so many that a version may refuse while it is on probation, where this share is what is expected: three
/// standard deviations and three rows more could be chance.
pub fn refused_rows_max(rows: u64, share: f64) -> f64 {
    let rows = rows as f64;
    rows * share + 3.0 * (rows * share * (1.0 - share)).sqrt() + 3.0
}

/// What a thread that panicked has left is whole: each of these locks is held for single assignments.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
