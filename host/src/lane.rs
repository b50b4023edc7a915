//! THE LOOP: read, decode, apply the rules, write, checkpoint.
//!
//! A lane owns its partitions, its rule instances and its sink. What a checkpoint has made visible counts, together
//! with its positions; whatever happens before it costs only the work since the checkpoint before. Most sinks make
//! one of every batch.

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::attribution::Attribution;
use crate::batch::{Batch, Decoded, Partition, Position, RawBatch, Reject};
use crate::clock::Clock;
use crate::crash;
use crate::dead_letter::DeadLetter;
use crate::decode::Decoder;
use crate::error::{Error, Result};
pub use crate::kafka::Patience;
use crate::metrics::{BATCH, CHECKPOINT, DECODE, LaneState, Metrics, PartitionStatus, SINK};
use crate::pipeline_file::{self, BatchLimits, Loaded, Remember};
use crate::rule::{Beside, Component, OfVersion, Rules, Slot, Stage, Version, fit, warm};
use crate::service::{Parts, Service};
use crate::shutdown::Shutdown;
use crate::sink::{Sink, Stored, Write};
use crate::source::exchange::adapters::Adapters;
use crate::source::exchange::backfill::Backfill;
use crate::source::{Next, Source, Start};
use crate::summary::{Progress, Summary};
use crate::tap::Taps;

/// The longest pause between two attempts to go on after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often a lane says where it is: what looks at it asks once a second at most.
const SHOW_EVERY: Duration = Duration::from_secs(1);

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
    // Lines of this thread and of those that it starts say of which pipeline they are.
    let _span = tracing::error_span!("run", pipeline = loaded.pipeline.name).entered();
    let parts = Parts::open(loaded, options)?;
    let service = Service::open(loaded, options)?;
    let stop = shutdown.child();
    let results = thread::scope(|scope| -> Result<Vec<Result<Summary>>> {
        let _service = service.start(scope, &parts, loaded)?;
        let lanes: Vec<_> = (0..loaded.pipeline.lanes)
            .map(|number| {
                let (parts, stop) = (&parts, &stop);
                scope.spawn(move || {
                    let pipeline = &*loaded.pipeline.name;
                    let _span = tracing::error_span!("lane", pipeline, lane = number).entered();
                    // One lane that cannot go on ends the others: the pipeline is wrong, not the lane.
                    let result = run_lane(number, loaded, parts, options, stop, progress);
                    parts.rules.has_left(number);
                    parts.metrics.show(number, |lane| lane.state = LaneState::Ended);
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
    lane.show();
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
    metrics: &'a Metrics,
    taps: &'a Taps,
    /// When the lane last said where it is.
    shown: Option<Instant>,
    /// What decides the rows that do not decode.
    host_version: Arc<str>,
    /// How often in a row the lane had to go back.
    rewinds: u32,
}

/// A batch after the rules.
pub(crate) struct Decided {
    /// Rows to write.
    pub kept: Batch,
    /// Rows for the dead letter.
    pub rejects: Vec<Reject>,
    /// Rows that each rule dropped.
    pub dropped: Vec<(Arc<str>, u64)>,
    /// What each version has decided.
    pub by_version: Vec<OfVersion>,
    /// Empty rows.
    pub tombstones: u64,
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
            patience: Patience {
                forever: options.wait,
                shutdown: shutdown.clone(),
                lane: Some((Arc::clone(&parts.metrics), number)),
            },
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
            account: Account::new(progress, &parts.metrics),
            metrics: &parts.metrics,
            taps: &parts.taps,
            shown: None,
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
                let start = Instant::now();
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
                self.metrics.note_batch(raw.len());
                self.metrics.note_time(BATCH, start, true);
            }
            Next::Assigned(partitions) => self.take(&partitions)?,
            Next::Revoked { partitions, is_lost } => self.give_up(&partitions, is_lost)?,
            Next::Idle => self.follow()?,
        }
        if self.sink.is_due(has_more) {
            self.checkpoint()?;
        }
        self.show();
        Ok(true)
    }

    /// Says where it is, unless it has just said it and will have another turn.
    fn show(&mut self) {
        let is_recent = self.shown.is_some_and(|shown| shown.elapsed() < SHOW_EVERY);
        if is_recent && self.source.has_idle_turns() {
            return;
        }
        self.shown = Some(Instant::now());
        let lags = self.source.lags();
        let status = |(partition, position): (&Partition, &Position)| {
            let lag = lags.iter().find(|lag| lag.partition == *partition);
            PartitionStatus {
                topic: partition.topic.to_string(),
                number: partition.number,
                next_offset: position.next_offset,
                lag_rows: lag.map(|lag| lag.rows),
                lag_ms: lag.map_or(0, |lag| lag.age_ms),
            }
        };
        let partitions = self.positions.iter().map(status).collect();
        let obstacle = self.source.obstacle();
        self.metrics.show(self.number, |lane| {
            lane.state = if obstacle.is_some() { LaneState::Failing } else { LaneState::Ready };
            lane.why = obstacle;
            lane.partitions = partitions;
            lane.exchanges = self.source.asked();
            lane.newest_ms = self.account.newest_ms();
            lane.reconnects = self.source.reconnects() + self.sink.reconnects();
        });
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
            let start = Instant::now();
            let decoded = self.decoder.decode(raw, &self.host_version);
            self.metrics.note_time(DECODE, start, true);
            if self.taps.wants(DECODE, decoded.rejects.len()) {
                self.taps.show_undecoded(raw, &decoded.rejects);
            }
            let (rule, what) = match self.apply_rules(raw, decoded, now_ms) {
                Err(Error::Rule { rule, what }) => (rule, what),
                result => return result,
            };
            let stage = self.rules.iter().find(|stage| **stage.name() == *rule);
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
        let (start, has_pending) = (Instant::now(), self.account.has_pending());
        let result = self.sink.checkpoint(&mut self.source);
        if has_pending {
            self.metrics.note_time(CHECKPOINT, start, result.is_ok());
        }
        result?;
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
        self.note_failure(why);
        self.account.discard();
        self.rules.iter_mut().for_each(Stage::forget_all);
        while !shutdown.is_requested() {
            match self.pause(shutdown).and_then(|()| self.go_back()) {
                Err(Error::Rewind(again)) => {
                    tracing::warn!("{again}; trying again");
                    self.note_failure(&again);
                }
                result => {
                    self.shown = None;
                    return result;
                }
            }
        }
        Ok(())
    }

    fn note_failure(&self, why: &str) {
        self.metrics.count_rewind();
        self.metrics.show(self.number, |lane| {
            (lane.state, lane.why) = (LaneState::Failing, Some(why.to_owned()));
        });
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
        let Lane { rules, sink, remember, source, account, metrics, taps, .. } = self;
        let (remembered, metrics) = (account.remembered(), *metrics);
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
            let before = taps.wants(rule.name(), kept.rows.len()).then(|| kept.clone());
            let start = Instant::now();
            let applied = rule.apply(raw, now_ms, kept, &mut read_back);
            metrics.note_time(rule.name(), start, applied.is_ok());
            let applied = applied?;
            if let Some(before) = before {
                taps.show(raw, rule.name(), rule.version().sha256(), before, &applied);
            }
            by_version.push(rule.decided(rows, &applied));
            kept = applied.kept;
            rejects.extend(applied.rejects);
            if applied.dropped > 0 {
                dropped.push((Arc::clone(rule.name()), applied.dropped));
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
        let start = Instant::now();
        let stored = self.sink.write(&write, &mut self.source);
        self.metrics.note_time(SINK, start, stored.is_ok());
        let stored = stored?;
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
    /// Rows that the rules dropped.
    pub fn dropped_rows(&self) -> u64 {
        self.dropped.iter().map(|(_, rows)| rows).sum()
    }

    /// Every row that was read is accounted for.
    fn assert_conserved(&self, raw: &RawBatch) {
        let decided =
            self.kept.rows.len() as u64 + self.rejects.len() as u64 + self.dropped_rows() + self.tombstones;
        assert_eq!(raw.len() as u64, decided, "read = written + rejected + dropped + tombstones");
    }
}
