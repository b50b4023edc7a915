//! THE LOOP: read, decode, apply the rules, write, checkpoint.
//!
//! A lane owns its partitions, its rule instances and its sink. What a checkpoint has made visible counts, together
//! with its positions; whatever happens before it costs only the work since the checkpoint before. Most sinks make
//! one of every batch.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::attribution::Attribution;
use crate::batch::{Batch, Decoded, Partition, Position, RawBatch, Reject};
use crate::clock::Clock;
use crate::crash;
use crate::dead_letter::DeadLetter;
use crate::decode::Decoder;
use crate::error::{Error, Result};
pub use crate::kafka::Patience;
use crate::life::Decided as DecidedRows;
use crate::pipeline_file::{self, BatchLimits, Loaded, Remember};
use crate::rule::{Beside, Component, Rules, Slot, Stage, Version, fit, warm};
use crate::service::{Parts, Service};
use crate::shutdown::Shutdown;
use crate::sink::{Sink, Stored, Write};
use crate::source::exchange::adapters::Adapters;
use crate::source::exchange::backfill::Backfill;
use crate::source::{Next, Source, Start};
use crate::summary::{DroppedBy, Progress, RejectedBy, Summary};

/// Under which name rows are counted that the sink rejects or drops.
const SINK: &str = "sink";

/// The longest pause between two attempts to go on after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a pipeline is run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Folder of the rules that are given by name.
    pub guests: PathBuf,
    /// The time that rules see, for tests and reproductions; the clock's when absent.
    pub now_ms: Option<i64>,
    /// What this process is called among those that share a group; the same after a restart.
    pub instance: String,
    /// Keep trying to reach what is not there at the start.
    pub wait: bool,
    /// End when everything has been read, also where a source has no end of its own.
    pub until_end: bool,
    /// Folder of what outlives the process and is no data: until when an exchange wants no requests.
    pub state: PathBuf,
    /// What of the past is wanted of the exchanges, instead of what comes.
    pub backfill: Option<Arc<Backfill>>,
    /// Run what was deployed in another process, without a change of what is kept of it. Without this, what is deployed
    /// while the pipeline runs is kept under its own name and instance.
    pub deployed_in: Option<DeployedIn>,
}

/// A process whose deployed versions are run.
#[derive(Debug, Clone)]
pub struct DeployedIn {
    /// The name of its pipeline.
    pub pipeline: String,
    /// See [`RunOptions::instance`].
    pub instance: String,
}

/// What a source or a sink needs to know beside the pipeline file.
#[derive(Clone)]
pub struct Place<'a> {
    /// The folder of the pipeline file.
    pub folder: &'a Path,
    /// See [`RunOptions::guests`].
    pub guests: &'a Path,
    /// See [`RunOptions::state`].
    pub state: &'a Path,
    /// See [`RunOptions::instance`].
    pub instance: &'a str,
    /// Number of the lane, from 0.
    pub lane: usize,
    /// See [`RunOptions::until_end`].
    pub until_end: bool,
    /// See [`RunOptions::backfill`].
    pub backfill: Option<&'a Arc<Backfill>>,
    /// The adapters of the pipeline's exchanges; `None` where none are asked.
    pub adapters: Option<&'a Arc<Adapters>>,
    /// See [`RunOptions::wait`].
    pub patience: Patience,
}

impl Place<'_> {
    /// What the lane is called among all lanes of all processes that share a group.
    pub fn member(&self) -> String {
        format!("{}-{}", self.instance, self.lane)
    }
}

/// Runs a pipeline to the end of its source or until the shutdown, in as many lanes as it says.
///
/// # Errors
/// What the user must mend, as an [`Error`] with its exit code. What was written before it stays written.
pub fn run(
    loaded: &Loaded,
    options: &RunOptions,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<Summary> {
    let start = Instant::now();
    let parts = Parts::open(loaded, options)?;
    let service = Service::open(loaded, options)?;
    let stop = shutdown.child();
    let results = thread::scope(|scope| -> Result<Vec<Result<Summary>>> {
        let _service = service.start(scope, &parts, loaded)?;
        let lanes: Vec<_> = (0..loaded.pipeline.lanes)
            .map(|number| {
                let (parts, stop) = (&parts, &stop);
                scope.spawn(move || {
                    // One lane that cannot go on ends the others: the pipeline is wrong, not the lane.
                    let result = run_lane(number, loaded, parts, options, stop, progress);
                    parts.rules.has_left(number);
                    result.inspect_err(|_| stop.request())
                })
            })
            .collect();
        Ok(lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic))).collect())
    })?;
    let mut sum = Summary { pipeline: loaded.pipeline.name.clone(), ..Summary::default() };
    for summary in results {
        sum.add(summary?);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Summary { seconds, stopped: shutdown.is_requested(), rules: parts.rules.runs(), ..sum })
}

fn run_lane(
    number: usize,
    loaded: &Loaded,
    parts: &Parts,
    options: &RunOptions,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<Summary> {
    let mut lane = Lane::open(number, loaded, parts, options, shutdown, progress)?;
    loop {
        while !shutdown.is_requested() {
            match lane.turn() {
                Ok(true) => {}
                Ok(false) => break,
                Err(Error::Rewind(why)) => lane.rewind(&why, shutdown)?,
                Err(error) => return Err(error),
            }
        }
        crash::point("before_last_checkpoint");
        match lane.checkpoint() {
            Ok(()) => break,
            // What is undone at the end is done again, unless somebody wants it to stop.
            Err(Error::Rewind(why)) if !shutdown.is_requested() => lane.rewind(&why, shutdown)?,
            Err(Error::Rewind(why)) => {
                return Err(Error::Running(format!(
                    "{why}; what was written since the last checkpoint does not count, and the next start does it again"
                )));
            }
            Err(error) => return Err(error),
        }
    }
    let exchanges = lane.source.exchanges()?;
    Ok(Summary { exchanges, ..lane.account.summary() })
}

/// A loop's own things.
struct Lane<'a> {
    pipeline: &'a str,
    remember: &'a Remember,
    limits: &'a BatchLimits,
    now_ms: Option<i64>,
    source: Source,
    decoder: Decoder,
    /// What the pipeline's lanes should run, and what this one runs.
    wanted: &'a Rules,
    generation: u64,
    number: usize,
    rules: Vec<Stage>,
    /// The versions of the rules, for whoever wants to know later what has decided a row.
    versions: Attribution,
    sink: Sink,
    positions: HashMap<Partition, Position>,
    account: Account<'a>,
    /// What decides the rows that do not decode.
    host_version: Arc<str>,
    /// How often in a row the lane had to go back.
    rewinds: u32,
}

/// A batch after the rules.
struct Decided {
    kept: Batch,
    rejects: Vec<Reject>,
    /// Rows that each rule dropped.
    dropped: Vec<(Arc<str>, u64)>,
    /// What each version has decided.
    by_version: Vec<(Arc<Version>, DecidedRows)>,
    tombstones: u64,
}

impl<'a> Lane<'a> {
    /// Opens everything, so that whatever is wrong is found before the first row.
    fn open(
        number: usize,
        loaded: &'a Loaded,
        parts: &'a Parts,
        options: &'a RunOptions,
        shutdown: &Shutdown,
        progress: &'a Progress,
    ) -> Result<Lane<'a>> {
        let pipeline = &loaded.pipeline;
        let wanted = &*parts.rules;
        let place = Place {
            folder: &loaded.folder,
            guests: &options.guests,
            state: &options.state,
            instance: &options.instance,
            lane: number,
            until_end: options.until_end,
            backfill: options.backfill.as_ref(),
            adapters: Some(&parts.adapters),
            patience: Patience { forever: options.wait, shutdown: shutdown.clone() },
        };
        let decoder = Decoder::new(&pipeline.decode)?;
        let (generation, rules) = wanted.stages(number);
        let versions = Attribution::new(wanted.schema(), pipeline.rule_versions.as_deref(), &rules)?;
        let source = Source::open(pipeline, &place)?;
        let sink = Sink::open(pipeline, versions.schema(), &source, &place)?;
        Ok(Lane {
            pipeline: &pipeline.name,
            remember: &pipeline.remember,
            limits: &pipeline.batch,
            now_ms: options.now_ms,
            source,
            decoder,
            wanted,
            generation,
            number,
            rules,
            versions,
            sink,
            positions: HashMap::new(),
            account: Account::new(progress),
            host_version: env!("CARGO_PKG_VERSION").into(),
            rewinds: 0,
        })
    }

    /// One turn of the loop; `false` at the end.
    fn turn(&mut self) -> Result<bool> {
        let Some(next) = self.source.receive()? else { return Ok(false) };
        let has_more = matches!(&next, Next::Batch(raw) if raw.is_full(self.limits));
        match next {
            Next::Batch(raw) => {
                crash::point("after_read");
                self.follow()?;
                let now_ms = self.now_ms.unwrap_or_else(clock_ms);
                let decided = self.decide(&raw, now_ms)?;
                crash::point("after_rules");
                let stored = self.write(&raw, &decided, now_ms)?;
                crash::point("after_write");
                self.account.add(&raw, &decided, &stored);
                let (partition, kept) = (raw.partition.number, &decided.kept.columns);
                self.rules.iter_mut().for_each(|rule| rule.has_written(partition, kept));
            }
            Next::Assigned(partitions) => self.take(&partitions)?,
            Next::Revoked { partitions, is_lost } => self.give_up(&partitions, is_lost)?,
            Next::Idle => self.follow()?,
        }
        if self.sink.is_due(has_more) {
            self.checkpoint()?;
        }
        Ok(true)
    }

    /// Goes over to the versions of the rules that should run, as far as they are warm.
    fn follow(&mut self) -> Result<()> {
        let is_new = self.wanted.generation() != self.generation;
        if !is_new && !self.rules.iter().any(Stage::is_waiting) {
            return Ok(());
        }
        let start = Instant::now();
        if is_new {
            self.follow_wanted()?;
        }
        self.warm()?;
        let nexts: Vec<_> = self.rules.iter().map(|rule| rule.next_version().cloned()).collect();
        let mut is_waiting = false;
        for (index, next) in nexts.iter().enumerate() {
            match self.rules[index].take_over() {
                Ok(()) => is_waiting |= self.rules[index].is_waiting(),
                Err(error) => {
                    self.take_back(next.clone(), error)?;
                    is_waiting = true;
                }
            }
        }
        nexts.iter().flatten().for_each(|version| version.tally.note_pause(start.elapsed()));
        self.versions.follow(&self.rules);
        if !is_waiting {
            self.wanted.has_followed(self.number, self.generation);
        }
        Ok(())
    }

    /// Begins with the versions that should run.
    fn follow_wanted(&mut self) -> Result<()> {
        let (generation, wanted) = self.wanted.wanted();
        let is_taken_back =
            |(stage, wanted): (&Stage, _)| stage.is_another(wanted) && stage.version().is_taken_back();
        if self.account.has_pending() && self.rules.iter().zip(&wanted).any(is_taken_back) {
            return Err(Error::Rewind("a version was taken back that had decided rows".into()));
        }
        self.generation = generation;
        self.rules.iter_mut().zip(&wanted).for_each(|(stage, wanted)| stage.follow(wanted));
        Ok(())
    }

    /// Goes on to make versions ready beside the lane. Where nothing waits for a checkpoint, all that was written can be
    /// read there.
    fn warm(&mut self) -> Result<()> {
        let Lane { rules, sink, source, remember, account, .. } = self;
        let (all_counts, has_idle_turns) = (!account.has_pending(), source.has_idle_turns());
        let mut beside = Beside { sink, remember, all_counts, has_idle_turns };
        rules.iter_mut().try_for_each(|rule| rule.warm(&mut beside))
    }

    /// Goes on without a version that fails before it has decided anything, when there is another.
    fn take_back(&self, version: Option<Arc<Version>>, error: Error) -> Result<()> {
        match (error, version) {
            (Error::Rule { rule, what }, Some(version))
                if self.wanted.take_back(&rule, &version, &what, false) =>
            {
                Ok(())
            }
            (error, _) => Err(error),
        }
    }

    /// Decodes a batch and applies the rules. With a version that fails while it is on probation, the batch is decided
    /// again, by the version before it.
    fn decide(&mut self, raw: &RawBatch, now_ms: i64) -> Result<Decided> {
        loop {
            let decoded = self.decoder.decode(raw, &self.host_version);
            let (rule, what) = match self.apply_rules(raw, decoded, now_ms) {
                Err(Error::Rule { rule, what }) => (rule, what),
                result => return result,
            };
            let stage = self.rules.iter().find(|stage| stage.name() == &*rule);
            let version = stage.map(|stage| Arc::clone(stage.version()));
            if !version.is_some_and(|version| self.wanted.take_back(&rule, &version, &what, true)) {
                return Err(Error::Rule { rule, what });
            }
            if self.account.has_pending() {
                return Err(Error::Rewind(format!("a version of the rule `{rule}` was taken back")));
            }
            self.rules.iter_mut().for_each(Stage::forget_all);
            self.follow()?;
        }
    }

    /// Makes what was written count.
    fn checkpoint(&mut self) -> Result<()> {
        self.sink.checkpoint(&mut self.source)?;
        self.account.commit(&self.source);
        self.rewinds = 0;
        Ok(())
    }

    /// Begins with partitions.
    fn take(&mut self, partitions: &[Partition]) -> Result<()> {
        let starts = self.starts(partitions).inspect_err(|_| self.source.put_back(partitions))?;
        self.source.assign(&starts)?;
        if let Some(header) = self.source.header() {
            self.decoder.set_header(header);
        }
        self.remind_source()?;
        for Start { partition, position, .. } in starts {
            tracing::info!(topic = %partition.topic, partition = partition.number, "assigned");
            self.positions.insert(partition, position.unwrap_or_default());
        }
        Ok(())
    }

    /// The positions that the sink keeps.
    fn starts(&mut self, partitions: &[Partition]) -> Result<Vec<Start>> {
        partitions.iter().map(|partition| self.sink.start(partition)).collect()
    }

    /// Ends with partitions that others get. What was written of lost ones cannot be committed any more.
    fn give_up(&mut self, partitions: &[Partition], is_lost: bool) -> Result<()> {
        let result = match is_lost {
            true if self.account.has_pending() => {
                Err(Error::Rewind("the group has given partitions to others".into()))
            }
            true => Ok(()),
            false => self.checkpoint(),
        };
        for partition in partitions {
            tracing::info!(topic = %partition.topic, partition = partition.number, is_lost, "revoked");
            self.positions.remove(partition);
            self.rules.iter_mut().for_each(|rule| rule.forget(partition.number));
        }
        self.source.release(partitions)?;
        result
    }

    /// Goes back to what counts, and forgets what the rules have seen since. Keeps trying until it has succeeded.
    fn rewind(&mut self, why: &str, shutdown: &Shutdown) -> Result<()> {
        tracing::warn!("{why}; what was written since the last checkpoint is done again");
        self.account.discard();
        self.rules.iter_mut().for_each(Stage::forget_all);
        while !shutdown.is_requested() {
            match self.pause(shutdown).and_then(|()| self.go_back()) {
                Err(Error::Rewind(again)) => tracing::warn!("{again}; trying again"),
                result => return result,
            }
        }
        Ok(())
    }

    fn go_back(&mut self) -> Result<()> {
        self.source.check_member()?;
        self.sink.recover(&mut self.source)?;
        let partitions: Vec<Partition> = self.positions.keys().cloned().collect();
        let starts = self.starts(&partitions)?;
        self.source.rewind(&starts)?;
        self.remind_source()?;
        self.positions =
            starts.into_iter().map(|start| (start.partition, start.position.unwrap_or_default())).collect();
        Ok(())
    }

    /// Shows the rows of the sink to a source that goes on after them.
    fn remind_source(&mut self) -> Result<()> {
        let Lane { wanted, sink, source, remember, .. } = self;
        let schema = wanted.schema();
        let columns = source.remembers(&|name| schema.field_with_name(name).is_ok());
        if columns.is_empty() {
            return Ok(());
        }
        // The partitions of the output together are those of the one partition of such a source.
        sink.read_back(0, &columns, remember, &mut |rows| {
            source.remember(&rows);
            Ok(())
        })
    }

    /// Not at all the first time, then ever longer.
    fn pause(&mut self, shutdown: &Shutdown) -> Result<()> {
        let pause = Duration::from_millis(50 << self.rewinds.min(8)).min(PAUSE_MAX);
        let is_first = self.rewinds == 0;
        self.rewinds += 1;
        let start = Instant::now();
        while !is_first && start.elapsed() < pause && !shutdown.is_requested() {
            thread::sleep(Duration::from_millis(50));
            self.source.keep_alive()?;
        }
        Ok(())
    }

    /// Each rule sees what the one before it kept.
    fn apply_rules(&mut self, raw: &RawBatch, decoded: Decoded, now_ms: i64) -> Result<Decided> {
        let Decoded { batch: mut kept, mut rejects, tombstones } = decoded;
        let (mut dropped, mut by_version) = (Vec::new(), Vec::new());
        let Lane { rules, sink, remember, source, account, .. } = self;
        let remembered = &account.progress.remembered;
        let mut read_back = |partition: i32, columns: &[String], each: &mut dyn FnMut(_) -> Result<()>| {
            if sink.is_due_before_reading(partition) {
                sink.checkpoint(source)?;
                account.commit(source);
            }
            sink.read_back(partition, columns, remember, each)
        };
        let mut slots: Vec<&mut Slot> = rules.iter_mut().flat_map(Stage::slots).collect();
        warm(&mut slots, raw.partition.number, &mut read_back, remembered)?;
        for rule in rules {
            let rows = kept.rows.len() as u64;
            let applied = rule.apply(raw, now_ms, kept, &mut read_back)?;
            by_version.push((Arc::clone(rule.version()), applied.decided(rows)));
            kept = applied.kept;
            rejects.extend(applied.rejects);
            if applied.dropped > 0 {
                dropped.push((rule.name().into(), applied.dropped));
            }
        }
        // In the order of the source, whichever stage rejected them.
        rejects.sort_by_key(|reject| reject.row);
        kept.columns = self.versions.added_to(kept.columns);
        let decided = Decided { kept, rejects, dropped, by_version, tombstones };
        decided.assert_conserved(raw);
        Ok(decided)
    }

    /// Rows, dead letters and position in one step.
    fn write(&mut self, raw: &RawBatch, decided: &Decided, now_ms: i64) -> Result<Stored> {
        let (pipeline, version) = (self.pipeline, &self.host_version);
        let dead_letter = |reject| DeadLetter::new(pipeline, raw, reject, now_ms);
        let refuse = |row: usize, reason: &str, detail: String| {
            dead_letter(Cow::Owned(Reject {
                row: decided.kept.rows[row],
                rule: SINK.into(),
                version: Arc::clone(version),
                reason: reason.into(),
                detail,
            }))
        };
        let position = self.positions.entry(raw.partition.clone()).or_default();
        let rejected: Vec<DeadLetter<'_>> =
            decided.rejects.iter().map(|reject| dead_letter(Cow::Borrowed(reject))).collect();
        let write = Write {
            partition: &raw.partition,
            first: raw.offset(0),
            expected: position,
            next: &raw.next,
            kept: &decided.kept.columns,
            versions: self.versions.text(),
            rejected: &rejected,
            refuse: &refuse,
        };
        let stored = self.sink.write(&write, &mut self.source)?;
        position.clone_from(&raw.next);
        Ok(stored)
    }
}

/// Loads the components that the pipeline file names.
pub(crate) fn load_components(loaded: &Loaded, options: &RunOptions) -> Result<Vec<Component>> {
    let load = |rule: &pipeline_file::Rule| {
        let path = pipeline_file::component_path(&loaded.folder, &options.guests, &rule.component);
        Component::load(&path, &rule.limits)
    };
    loaded.pipeline.rules.iter().map(load).collect()
}

/// Makes a lane's rules and checks that they fit the columns and each other.
pub(crate) fn open_rules(loaded: &Loaded, components: &[Component], decoder: &Decoder) -> Result<Vec<Slot>> {
    let mut slots: Vec<Slot> = Vec::new();
    for (rule, component) in loaded.pipeline.rules.iter().zip(components) {
        let schema = slots.last().map_or(decoder.schema(), Slot::schema);
        let slot = Slot::new(rule, component.clone(), schema).map_err(|error| loaded.redacted(error))?;
        slots.push(slot);
    }
    let descriptions: Vec<_> = slots.iter().map(|slot| Some(slot.description())).collect();
    let findings = fit::rules(loaded, &descriptions);
    if !findings.is_empty() {
        let sentences: Vec<String> = findings.iter().map(ToString::to_string).collect();
        return Err(Error::Files(sentences.join("\n")));
    }
    Ok(slots)
}

pub(crate) fn clock_ms() -> i64 {
    Clock::of_process().now_ms()
}

impl Decided {
    fn dropped_rows(&self) -> u64 {
        self.dropped.iter().map(|(_, rows)| rows).sum()
    }

    /// Every row that was read is accounted for.
    fn assert_conserved(&self, raw: &RawBatch) {
        let decided =
            self.kept.rows.len() as u64 + self.rejects.len() as u64 + self.dropped_rows() + self.tombstones;
        assert_eq!(raw.len() as u64, decided, "read = written + rejected + dropped + tombstones");
    }
}

/// What a lane has done.
struct Account<'a> {
    progress: &'a Progress,
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
    by_version: Vec<(Arc<Version>, DecidedRows)>,
}

impl<'a> Account<'a> {
    fn new(progress: &'a Progress) -> Account<'a> {
        Account { progress, committed: Counts::default(), pending: Counts::default() }
    }

    fn add(&mut self, raw: &RawBatch, decided: &Decided, stored: &Stored) {
        let Stored { duplicates, refused } = stored;
        let pending = &mut self.pending;
        pending.read += raw.len() as u64;
        pending.written += decided.kept.rows.len() as u64 - duplicates - refused.len() as u64;
        pending.rejected += (decided.rejects.len() + refused.len()) as u64;
        pending.dropped += decided.dropped_rows() + duplicates;
        pending.tombstones += decided.tombstones;
        for reject in decided.rejects.iter().chain(refused) {
            let key = (Arc::clone(&reject.rule), Arc::clone(&reject.reason));
            *pending.rejected_by.entry(key).or_default() += 1;
        }
        for (rule, rows) in &decided.dropped {
            *pending.dropped_by.entry(Arc::clone(rule)).or_default() += rows;
        }
        for (version, rows) in &decided.by_version {
            match pending.by_version.iter_mut().find(|(known, _)| Arc::ptr_eq(known, version)) {
                Some((_, sum)) => sum.add(rows),
                None => pending.by_version.push((Arc::clone(version), rows.clone())),
            }
        }
        if *duplicates > 0 {
            *pending.dropped_by.entry(SINK.into()).or_default() += duplicates;
        }
    }

    /// What was added counts.
    fn commit(&mut self, source: &Source) {
        let pending = std::mem::take(&mut self.pending);
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
        pending
            .rejected_by
            .into_iter()
            .for_each(|(key, rows)| *sum.rejected_by.entry(key).or_default() += rows);
        pending
            .dropped_by
            .into_iter()
            .for_each(|(rule, rows)| *sum.dropped_by.entry(rule).or_default() += rows);
        pending.by_version.iter().for_each(|(version, rows)| version.tally.add(rows));
        let (done, total) = source.progress();
        self.progress.bytes_done.store(done, Ordering::Relaxed);
        self.progress.bytes_total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    /// What was added since the last checkpoint does not count.
    fn discard(&mut self) {
        self.pending = Counts::default();
    }

    fn has_pending(&self) -> bool {
        self.pending.read > 0
    }

    fn summary(self) -> Summary {
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
