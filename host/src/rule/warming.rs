//! An instance that is shown what the sink has on a thread of its own, while the version before it decides.
//!
//! What the sink had when it began comes from a [`Reading`]; what the lane has written since, the lane hands over, in its
//! order. So the instance has been shown every row once when it takes over, and the lane waits for no more than a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use arrow_array::RecordBatch;

use super::instance::Instance;
use crate::batch::compacted;
use crate::error::{Error, Result};
use crate::pipeline_file::Remember;
use crate::sink::Reading;
use crate::sink::values::READ_BACK_ROWS;

/// An instance has caught up when so many rows wait: less than a millisecond of work.
const CAUGHT_UP_ROWS: usize = READ_BACK_ROWS;

/// Rows that may wait, beyond what is remembered at all: each has some 50 bytes in columns.
const WAITING_ROWS_MIN: usize = 1_000_000;

/// An instance that is being warmed for a partition.
pub struct Warming {
    rule: Arc<str>,
    rows: Sender<RecordBatch>,
    state: Arc<State>,
    waiting_max: usize,
    thread: JoinHandle<Result<Instance>>,
}

#[derive(Default)]
struct State {
    /// Rows that the lane has handed over and the instance was not shown.
    waiting: AtomicUsize,
    has_read: AtomicBool,
}

impl Warming {
    /// Begins.
    ///
    /// # Errors
    /// [`Error::Running`] when a thread cannot be started.
    pub fn start(
        rule: &Arc<str>,
        instance: Instance,
        reading: Reading,
        remember: &Remember,
    ) -> Result<Warming> {
        let (rows, received) = channel();
        let state = Arc::<State>::default();
        let waiting_max = remember.rows.max(WAITING_ROWS_MIN);
        let thread = {
            let (rule, state, remember) = (Arc::clone(rule), Arc::clone(&state), remember.clone());
            std::thread::Builder::new()
                .name("rule-warming".into())
                .spawn(move || warm(&rule, instance, reading, &remember, &received, &state))
                .map_err(|error| Error::Running(format!("a thread cannot be started: {error}")))?
        };
        Ok(Warming { rule: Arc::clone(rule), rows, state, waiting_max, thread })
    }

    /// The lane has written these rows.
    pub fn show(&self, rows: RecordBatch) {
        self.state.waiting.fetch_add(rows.num_rows(), Ordering::AcqRel);
        // A thread that has ended has a failure, which is found when it takes over.
        drop(self.rows.send(rows));
    }

    /// Whether the instance can take over, or has failed.
    pub fn is_ready(&self) -> bool {
        let waiting = self.state.waiting.load(Ordering::Acquire);
        let has_caught_up = self.state.has_read.load(Ordering::Acquire) && waiting <= CAUGHT_UP_ROWS;
        has_caught_up || self.thread.is_finished()
    }

    /// Whether more rows wait than are worth to be kept: the lane is faster than the instance.
    pub fn is_hopeless(&self) -> bool {
        self.state.waiting.load(Ordering::Acquire) > self.waiting_max
    }

    /// The instance, when it has been shown everything.
    ///
    /// # Errors
    /// [`Error::Rule`] when it failed, or what reading failed with.
    pub fn finish(self) -> Result<Instance> {
        drop(self.rows);
        self.thread.join().unwrap_or_else(|_| {
            Err(Error::Rule { rule: self.rule, what: "could not be warmed, by a defect of tidegate".into() })
        })
    }
}

fn warm(
    rule: &Arc<str>,
    mut instance: Instance,
    reading: Reading,
    remember: &Remember,
    received: &Receiver<RecordBatch>,
    state: &State,
) -> Result<Instance> {
    let mut show = |rows: &RecordBatch| {
        instance.remember(rows).map_err(|failure| Error::Rule {
            rule: Arc::clone(rule),
            what: format!("failed when it was shown rows: {failure}"),
        })
    };
    reading(remember, &mut |rows| show(&rows))?;
    state.has_read.store(true, Ordering::Release);
    for rows in received {
        for start in (0..rows.num_rows()).step_by(READ_BACK_ROWS) {
            let part = rows.slice(start, READ_BACK_ROWS.min(rows.num_rows() - start));
            show(&compacted(&part))?;
        }
        state.waiting.fetch_sub(rows.num_rows(), Ordering::AcqRel);
    }
    Ok(instance)
}
