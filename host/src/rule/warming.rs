//! A version that is made ready on a thread of its own, for all partitions of a lane, while the version before it decides.
//!
//! The thread makes the instances. What the sink had when nothing waited for a checkpoint comes from a [`Reading`]; what the
//! lane has written since, the lane hands over, in its order. So every instance has been shown every row once when the
//! version takes over. The lane takes the instances at a moment when no row waits: it neither wakes the thread nor waits for
//! it. The instances of the version before are dropped by the thread.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use arrow_array::RecordBatch;

use super::slot::{Slot, those_of};
use crate::batch::compacted;
use crate::error::{Error, Result};
use crate::life::lock;
use crate::pipeline_file::Remember;
use crate::sink::values::READ_BACK_ROWS;
use crate::sink::{Preparation, Prepared, Reading, Sink};

/// So many rows may wait when the lane takes the instances of a thread that never has shown all of them: some milliseconds
/// of work, for which the lane waits.
const CAUGHT_UP_ROWS: usize = READ_BACK_ROWS;

/// How often the lane finds that some rows wait before it is content with few.
const TURNS_MAX: usize = 200;

/// Rows that may wait, beyond what is remembered at all: each has some 50 bytes in columns.
const WAITING_ROWS_MIN: usize = 1_000_000;

/// What a lane has for what is made ready beside it.
pub struct Beside<'a> {
    /// Its sink.
    pub sink: &'a mut Sink,
    /// How much is remembered.
    pub remember: &'a Remember,
    /// Whether nothing that was written waits for a checkpoint.
    pub all_counts: bool,
    /// Whether the lane has turns while no rows come.
    pub has_idle_turns: bool,
}

/// A slot that takes the place of another when it is ready.
pub struct Arrival {
    slot: Slot,
    progress: Progress,
}

/// How far a slot is.
enum Progress {
    /// It is to be made ready for these partitions.
    Wanted(Vec<i32>),
    /// A thread makes it ready.
    Warming(Box<Warming>),
    /// The lane makes it ready with the next batch.
    Cold,
}

impl Arrival {
    /// A slot without instances, which is to have some for these partitions.
    pub fn new(slot: Slot, partitions: Vec<i32>) -> Arrival {
        let progress = match partitions.is_empty() {
            true => Progress::Cold,
            false => Progress::Wanted(partitions),
        };
        Arrival { slot, progress }
    }

    /// Goes on. When all that was written counts, what the sink has is fixed.
    ///
    /// # Errors
    /// [`Error::Running`] when a thread cannot be started.
    pub fn warm(&mut self, beside: &mut Beside<'_>) -> Result<()> {
        let Beside { sink, remember, all_counts, has_idle_turns } = beside;
        match &mut self.progress {
            // With turns for rows only, the version would decide them a batch later than it could.
            Progress::Wanted(_) if !(self.slot.description().remembers || *has_idle_turns) => {
                self.progress = Progress::Cold;
            }
            Progress::Wanted(partitions) => {
                let slot = self.slot.without_instances();
                let warming = Warming::start(slot, std::mem::take(partitions), sink, remember)?;
                self.progress = Progress::Warming(Box::new(warming));
            }
            Progress::Warming(warming) if *all_counts => match warming.read(sink) {
                Ok(true) => {}
                Ok(false) => self.progress = Progress::Cold,
                Err(error) => {
                    warn_cold(&self.slot, &error);
                    self.progress = Progress::Cold;
                }
            },
            Progress::Warming(_) | Progress::Cold => {}
        }
        Ok(())
    }

    /// The lane has written rows of a partition.
    pub fn has_written(&mut self, partition: i32, rows: &RecordBatch) {
        let Progress::Warming(warming) = &mut self.progress else { return };
        warming.show(partition, rows);
        if warming.is_hopeless() {
            warn_cold(&self.slot, &"rows come faster than they can be shown to it");
            self.progress = Progress::Cold;
        }
    }

    /// The lane has given a partition up.
    pub fn forget(&mut self, partition: i32) {
        match &mut self.progress {
            Progress::Wanted(partitions) => partitions.retain(|wanted| *wanted != partition),
            Progress::Warming(warming) => drop(warming.partitions.remove(&partition)),
            Progress::Cold => {}
        }
    }

    /// What has been written does not count.
    pub fn forget_all(&mut self) {
        self.progress = Progress::Cold;
    }

    /// Whether it can take its place, or has failed. Asked once in a turn of the lane.
    pub fn is_ready(&mut self) -> bool {
        match &mut self.progress {
            Progress::Wanted(_) => false,
            Progress::Warming(warming) => warming.is_ready(),
            Progress::Cold => true,
        }
    }

    /// Takes its place. Where something else has failed than the rule, the lane is to make it ready.
    ///
    /// # Errors
    /// [`Error::Rule`] when it failed.
    pub fn take_place_of(self, live: &mut Slot) -> Result<()> {
        if let Progress::Warming(warming) = self.progress {
            match warming.take_place_of(live) {
                Ok(()) => return Ok(()),
                Err(error @ Error::Rule { .. }) => return Err(error),
                Err(error) => warn_cold(&self.slot, &error),
            }
        }
        *live = self.slot;
        Ok(())
    }
}

fn warn_cold(slot: &Slot, why: &dyn std::fmt::Display) {
    let rule = slot.name();
    tracing::warn!(rule, "a new version cannot be warmed beside the lane, which waits for it: {why}");
}

/// What a thread makes ready. When this is gone, the thread ends.
struct Warming {
    rule: Arc<str>,
    columns: Vec<String>,
    /// Those that the lane has had since it began.
    partitions: HashSet<i32>,
    /// Whether what is written has to be shown.
    is_reading: bool,
    work: Sender<Work>,
    state: Arc<State>,
    waiting_max: usize,
    turns: usize,
    thread: JoinHandle<Result<()>>,
}

/// What the thread does after it has made the instances.
enum Work {
    /// Shows what the sink had.
    Read(Reading),
    /// Shows what was written since to a partition.
    Show(i32, RecordBatch),
    /// Drops the instances of the version before.
    Drop(Box<Slot>),
}

#[derive(Default)]
struct State {
    /// What the sink needs for a reading.
    prepared: Mutex<Option<Prepared>>,
    /// Whether the instances have been shown what the sink had.
    has_read: AtomicBool,
    /// Rows that the lane has handed over and the instances were not shown.
    waiting_rows: AtomicUsize,
    /// With the instances, once they are made.
    slot: Mutex<Option<Slot>>,
}

impl Warming {
    /// Begins with instances for these partitions.
    ///
    /// # Errors
    /// [`Error::Running`] when a thread cannot be started.
    fn start(slot: Slot, partitions: Vec<i32>, sink: &Sink, remember: &Remember) -> Result<Warming> {
        let (work, received) = channel();
        let preparation = slot.description().remembers.then(|| sink.preparation());
        let state = Arc::<State>::default();
        let (rule, columns) = (Arc::clone(slot.shared_name()), slot.remembered().to_vec());
        let thread = {
            let (state, remember, partitions) =
                (Arc::downgrade(&state), remember.clone(), partitions.clone());
            std::thread::Builder::new()
                .name("rule-warming".into())
                .spawn(move || {
                    make(slot, &partitions, preparation, &state)?;
                    serve(&received, &remember, &state)
                })
                .map_err(|error| Error::Running(format!("a thread cannot be started: {error}")))?
        };
        Ok(Warming {
            rule,
            columns,
            partitions: partitions.into_iter().collect(),
            is_reading: false,
            work,
            state,
            waiting_max: remember.rows.max(WAITING_ROWS_MIN),
            turns: 0,
            thread,
        })
    }

    /// Shows what the sink has now, when the thread is ready for it; all that was written must count. Then
    /// [`Warming::show`] is for what is written from now on. Says whether the sink can be read beside the lane.
    ///
    /// # Errors
    /// What reading fails with.
    fn read(&mut self, sink: &mut Sink) -> Result<bool> {
        let Some(prepared) = lock(&self.state.prepared).take() else { return Ok(true) };
        let partitions: Vec<i32> = self.partitions.iter().copied().collect();
        let Some(reading) = sink.reading(prepared, &partitions, &self.columns)? else { return Ok(false) };
        self.hand_over(Work::Read(reading));
        self.is_reading = true;
        Ok(true)
    }

    /// The lane has written these rows.
    fn show(&self, partition: i32, rows: &RecordBatch) {
        if self.is_reading && self.partitions.contains(&partition) {
            self.state.waiting_rows.fetch_add(rows.num_rows(), Ordering::AcqRel);
            self.hand_over(Work::Show(partition, those_of(&self.columns, rows)));
        }
    }

    /// A thread that has ended has a failure, which is found when its version is to take over.
    fn hand_over(&self, work: Work) {
        drop(self.work.send(work));
    }

    /// Whether the version can take over, or has failed. Asked once in a turn of the lane.
    fn is_ready(&mut self) -> bool {
        let waiting_rows = self.state.waiting_rows.load(Ordering::Acquire);
        if self.state.has_read.load(Ordering::Acquire) {
            self.turns += 1;
            let is_content = self.turns > TURNS_MAX && waiting_rows <= CAUGHT_UP_ROWS;
            if waiting_rows == 0 || is_content {
                return true;
            }
        }
        self.thread.is_finished()
    }

    /// Whether more rows wait than are worth to be kept: the lane is faster than the instances.
    fn is_hopeless(&self) -> bool {
        self.state.waiting_rows.load(Ordering::Acquire) > self.waiting_max
    }

    /// Puts the slot in the place of the one before it.
    ///
    /// # Errors
    /// [`Error::Rule`] when it failed, or what reading failed with.
    fn take_place_of(self, live: &mut Slot) -> Result<()> {
        let Warming { rule, partitions, work, state, thread, .. } = self;
        let failed = |what: &str| Error::Rule { rule: Arc::clone(&rule), what: what.into() };
        let mut work = Some(work);
        if thread.is_finished() || state.waiting_rows.load(Ordering::Acquire) > 0 {
            // Without more work the thread ends when it has done what waits.
            work = None;
            thread.join().map_err(|_| failed("could not be warmed, by a defect of tidegate"))??;
        }
        let slot = lock(&state.slot).take();
        let mut slot = slot.ok_or_else(|| failed("was not made ready, by a defect of tidegate"))?;
        slot.keep_only(&partitions);
        let former = std::mem::replace(live, slot);
        if let Some(work) = work {
            // A thread that has ended gives it back, and it is dropped here.
            drop(work.send(Work::Drop(Box::new(former))));
        }
        Ok(())
    }
}

/// Makes the instances, and ready what the sink needs.
fn make(
    mut slot: Slot,
    partitions: &[i32],
    preparation: Option<Preparation>,
    state: &Weak<State>,
) -> Result<()> {
    for partition in partitions {
        let instance = slot.new_instance()?;
        slot.put(*partition, instance);
    }
    let prepared = preparation.map(|prepare| prepare()).transpose()?;
    let state = wanted(state)?;
    *lock(&state.slot) = Some(slot);
    state.has_read.store(prepared.is_none(), Ordering::Release);
    *lock(&state.prepared) = prepared;
    Ok(())
}

/// Does what the lane hands over until it hands nothing over any more.
fn serve(received: &Receiver<Work>, remember: &Remember, state: &Weak<State>) -> Result<()> {
    for work in received {
        match work {
            Work::Read(reading) => {
                reading(remember, &mut |partition, rows| show(state, partition, &rows))?;
                wanted(state)?.has_read.store(true, Ordering::Release);
            }
            Work::Show(partition, rows) => {
                for start in (0..rows.num_rows()).step_by(READ_BACK_ROWS) {
                    let part = rows.slice(start, READ_BACK_ROWS.min(rows.num_rows() - start));
                    show(state, Some(partition), &compacted(&part))?;
                }
                wanted(state)?.waiting_rows.fetch_sub(rows.num_rows(), Ordering::AcqRel);
            }
            Work::Drop(former) => drop(former),
        }
    }
    Ok(())
}

/// Shows rows to the instance of a partition, or to all.
fn show(state: &Weak<State>, partition: Option<i32>, rows: &RecordBatch) -> Result<()> {
    let state = wanted(state)?;
    lock(&state.slot).as_mut().map_or(Ok(()), |slot| slot.show(partition, rows))
}

/// What the lane waits for, as long as it does.
fn wanted(state: &Weak<State>) -> Result<Arc<State>> {
    state.upgrade().ok_or_else(|| Error::Running("nobody waits for the version any more".into()))
}
