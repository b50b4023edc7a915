//! THE LOOP: read, decode, apply the rules, write. The acknowledgement is the return value of `write`.
//!
//! A lane owns its source, its rule instances and its sink. A batch is written in one atomic step with its
//! position, so whatever ends the process between two steps costs only the work of the batch in hand.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use crate::batch::{Batch, Decoded, Partition, Position, RawBatch, Reject};
use crate::dead_letter::DeadLetter;
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::pipeline_file::{self, Loaded, Remember};
use crate::rule::{Component, Slot, fit};
use crate::shutdown::Shutdown;
use crate::sink::{Sink, Stored, Write};
use crate::source::Source;
use crate::summary::{DroppedBy, Progress, RejectedBy, RuleRun, Summary};

/// Under which name rows are counted that the sink rejects or drops.
const SINK: &str = "sink";

/// How a pipeline is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Folder of the rules that are given by name.
    pub guests: PathBuf,
    /// The time that rules see, for tests and reproductions; the clock's when absent.
    pub now_ms: Option<i64>,
}

/// Runs a pipeline to the end of its source or until the shutdown.
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
    let mut lane = Lane::open(loaded, options)?;
    let mut account = Account::default();
    while !shutdown.is_requested() {
        let Some(raw) = lane.source.next_batch()? else { break };
        let now_ms = options.now_ms.unwrap_or_else(clock_ms);
        let decoded = lane.decoder.decode(&raw, &lane.host_version);
        let decided = lane.apply_rules(&raw, decoded, now_ms)?;
        let stored = lane.write(&raw, &decided, now_ms)?;
        account.add(&raw, &decided, &stored, progress, &lane.source);
    }
    Ok(account.summary(&lane, start, shutdown))
}

/// A loop's own things.
struct Lane<'a> {
    pipeline: &'a str,
    remember: &'a Remember,
    source: Source,
    decoder: Decoder,
    rules: Vec<Slot>,
    sink: Sink,
    positions: HashMap<Partition, Position>,
    /// What decides the rows that do not decode.
    host_version: Arc<str>,
}

/// A batch after the rules.
struct Decided {
    kept: Batch,
    rejects: Vec<Reject>,
    /// Rows that each rule dropped.
    dropped: Vec<(Arc<str>, u64)>,
    tombstones: u64,
}

impl<'a> Lane<'a> {
    /// Opens everything, so that whatever is wrong is found before the first row.
    fn open(loaded: &'a Loaded, options: &RunOptions) -> Result<Lane<'a>> {
        let pipeline = &loaded.pipeline;
        let mut decoder = Decoder::new(&pipeline.decode)?;
        let rules = open_rules(loaded, options, &decoder)?;
        let schema = rules.last().map_or(decoder.schema(), Slot::schema);
        let mut source = Source::open(&pipeline.source, &pipeline.decode, &pipeline.batch, &loaded.folder)?;
        let mut sink = Sink::open(pipeline, schema, &loaded.folder)?;
        let mut positions = HashMap::new();
        for partition in source.partitions() {
            let position = sink.position(&partition)?;
            if source.is_resumable() {
                source.seek(&partition, &position)?;
            }
            positions.insert(partition, position);
        }
        if let Some(header) = source.header() {
            decoder.set_header(header);
        }
        let host_version = env!("CARGO_PKG_VERSION").into();
        let remember = &pipeline.remember;
        Ok(Lane { pipeline: &pipeline.name, remember, source, decoder, rules, sink, positions, host_version })
    }

    /// Each rule sees what the one before it kept.
    fn apply_rules(&mut self, raw: &RawBatch, decoded: Decoded, now_ms: i64) -> Result<Decided> {
        let Decoded { batch: mut kept, mut rejects, tombstones } = decoded;
        let mut dropped = Vec::new();
        let Lane { rules, sink, remember, .. } = self;
        for rule in rules {
            let mut read_back =
                |partition: i32, columns: &[String], each: &mut dyn FnMut(_) -> Result<()>| {
                    sink.read_back(partition, columns, remember, each)
                };
            let applied = rule.apply(raw.partition.number, now_ms, kept, &mut read_back)?;
            kept = applied.kept;
            rejects.extend(applied.rejects);
            if applied.dropped > 0 {
                dropped.push((rule.name().into(), applied.dropped));
            }
        }
        // In the order of the source, whichever stage rejected them.
        rejects.sort_by_key(|reject| reject.row);
        let decided = Decided { kept, rejects, dropped, tombstones };
        decided.assert_conserved(raw);
        Ok(decided)
    }

    /// Rows, dead letters and position in one step.
    fn write(&mut self, raw: &RawBatch, decided: &Decided, now_ms: i64) -> Result<Stored> {
        if raw.is_empty() {
            return Ok(Stored::default());
        }
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
        let stored = self.sink.write(&Write {
            partition: &raw.partition,
            expected: position,
            next: &raw.next,
            kept: &decided.kept.columns,
            rejected: &rejected,
            refuse: &refuse,
        })?;
        position.clone_from(&raw.next);
        Ok(stored)
    }
}

/// Loads the rules and checks that they fit the columns and each other.
fn open_rules(loaded: &Loaded, options: &RunOptions, decoder: &Decoder) -> Result<Vec<Slot>> {
    let mut components = Vec::new();
    for rule in &loaded.pipeline.rules {
        let path = pipeline_file::component_path(&loaded.folder, &options.guests, &rule.component);
        components.push(Component::load(&path, &rule.limits)?);
    }
    let mut slots: Vec<Slot> = Vec::new();
    for (rule, component) in loaded.pipeline.rules.iter().zip(components) {
        let schema = slots.last().map_or(decoder.schema(), Slot::schema);
        let slot = Slot::new(rule, component, schema).map_err(|error| match error {
            Error::Files(text) => Error::Files(loaded.redact(&text)),
            other => other,
        })?;
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

fn clock_ms() -> i64 {
    // A clock before 1970 or after the year 292,000,000 is no clock.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
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

/// What a run has done so far.
#[derive(Default)]
struct Account {
    summary: Summary,
    rejected_by: BTreeMap<(Arc<str>, Arc<str>), u64>,
    dropped_by: BTreeMap<Arc<str>, u64>,
}

impl Account {
    fn add(
        &mut self,
        raw: &RawBatch,
        decided: &Decided,
        stored: &Stored,
        progress: &Progress,
        source: &Source,
    ) {
        let Stored { duplicates, refused } = stored;
        let not_written = duplicates + refused.len() as u64;
        let rejected = decided.rejects.len() + refused.len();
        let count = |total: &mut u64, shown: &AtomicU64, rows: u64| {
            *total += rows;
            shown.fetch_add(rows, Ordering::Relaxed);
        };
        let summary = &mut self.summary;
        count(&mut summary.read, &progress.rows_read, raw.len() as u64);
        count(&mut summary.written, &progress.written, decided.kept.rows.len() as u64 - not_written);
        count(&mut summary.rejected, &progress.rejected, rejected as u64);
        count(&mut summary.dropped, &progress.dropped, decided.dropped_rows() + duplicates);
        count(&mut summary.tombstones, &progress.tombstones, decided.tombstones);
        for reject in decided.rejects.iter().chain(refused) {
            let key = (Arc::clone(&reject.rule), Arc::clone(&reject.reason));
            *self.rejected_by.entry(key).or_default() += 1;
        }
        for (rule, rows) in &decided.dropped {
            *self.dropped_by.entry(Arc::clone(rule)).or_default() += rows;
        }
        if *duplicates > 0 {
            *self.dropped_by.entry(SINK.into()).or_default() += duplicates;
        }
        let (done, total) = source.progress();
        progress.bytes_done.store(done, Ordering::Relaxed);
        progress.bytes_total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    fn summary(self, lane: &Lane<'_>, start: Instant, shutdown: &Shutdown) -> Summary {
        let rejected_by = self.rejected_by.into_iter();
        let dropped_by = self.dropped_by.into_iter();
        Summary {
            pipeline: lane.pipeline.into(),
            rejected_by: rejected_by
                .map(|((rule, reason), count)| RejectedBy {
                    rule: rule.to_string(),
                    reason: reason.to_string(),
                    count,
                })
                .collect(),
            dropped_by: dropped_by.map(|(rule, count)| DroppedBy { rule: rule.to_string(), count }).collect(),
            seconds: start.elapsed().as_secs_f64(),
            stopped: shutdown.is_requested(),
            rules: (lane.rules.iter())
                .map(|rule| RuleRun {
                    rule: rule.name().into(),
                    sha256: rule.version().into(),
                    ns_per_row: rule.ns_per_row(),
                })
                .collect(),
            ..self.summary
        }
    }
}
