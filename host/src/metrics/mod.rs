//! What a pipeline shows of itself while it runs.
//!
//! - here: numbers that lanes raise, once a batch or once a checkpoint
//! - `status`: what a lane, a partition and an exchange are at the moment
//! - `text`: all of it for Prometheus, put together when somebody asks
//!
//! The number of series has a bound ([docs/metrics.md](../../../docs/metrics.md)): no label has a value that rows can choose
//! but the reasons of rules, and those that are too many share one series.

mod status;
mod text;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, core::Collector,
};

use crate::life::lock;
use crate::pipeline_file::Pipeline;
pub use status::{ExchangeStatus, LaneState, LaneStatus, PartitionStatus, PipelineStatus, Rows};

/// Rows that were read.
pub const SOURCE: &str = "source";
/// Bytes to columns.
pub const DECODE: &str = "decode";
/// Columns, dead letters and position to the sink.
pub const SINK: &str = "sink";
/// What makes rows count.
pub const CHECKPOINT: &str = "checkpoint";
/// All that happens to a batch between the source and the end of its write.
pub const BATCH: &str = "batch";

/// What has a series of its own no more.
const OTHER: &str = "other";

/// The most rules that have a stage of their own: each has three counters and eighteen series of its latency. A pipeline of
/// more is read at its log.
const RULES_MAX: usize = 8;

/// The most pairs of a rule and a reason that have a series of their own: more than a person tells apart. A rule can have 64
/// reasons.
const REASONS_MAX: usize = 64;

/// Bounds of latencies in seconds: a small batch takes a stage 100 microseconds, and a transaction of Kafka lasts a second.
const SECONDS: [f64; 6] = [0.001, 0.01, 0.05, 0.2, 1.0, 5.0];

/// Bounds of rows in a batch.
const BATCH_ROWS: [f64; 5] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];

/// What became of a row in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It went on.
    Ok,
    /// It is in the dead letter.
    Rejected,
    /// It was left out on purpose; at the sink: it was there already.
    Dropped,
    /// It was an empty row.
    Empty,
}

impl Outcome {
    /// The value of the label.
    fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Rejected => "rejected",
            Outcome::Dropped => "dropped",
            Outcome::Empty => "empty",
        }
    }
}

/// The numbers of a pipeline, which its lanes share.
pub struct Metrics {
    pipeline: String,
    registry: Registry,
    /// The rules that have a stage of their own.
    rules: Vec<String>,
    messages: IntCounterVec,
    latency: HistogramVec,
    batch_rows: Histogram,
    rejected: IntCounterVec,
    read_bytes: IntCounter,
    written_bytes: IntCounter,
    rewinds: IntCounter,
    /// The pairs of a rule and a reason that have a series.
    reasons: Mutex<HashSet<(Arc<str>, Arc<str>)>>,
    lanes: Vec<Mutex<LaneStatus>>,
}

impl Metrics {
    /// Of a pipeline that has done nothing yet.
    ///
    /// # Panics
    /// Never: the names of metrics and labels are written here.
    pub fn new(pipeline: &Pipeline) -> Metrics {
        let registry = registry(&pipeline.name);
        let latency = HistogramOpts::new(
            "processing_latency_seconds",
            "Time that a stage has taken for a batch: `decode`, each rule, `sink`, `checkpoint`, and `batch` for all but the last.",
        );
        let latency =
            HistogramVec::new(latency.buckets(SECONDS.to_vec()), &["stage", "outcome"]).expect("named here");
        let rows = HistogramOpts::new("tidegate_batch_rows", "Rows of a batch as it was read.");
        let rows = Histogram::with_opts(rows.buckets(BATCH_ROWS.to_vec())).expect("named here");
        Metrics {
            messages: counters(
                &registry,
                "messages_processed_total",
                "Rows that count, by what became of them in a stage: `source`, `decode`, each rule, `sink`.",
                &["stage", "outcome"],
            ),
            latency: register(&registry, latency),
            batch_rows: register(&registry, rows),
            rejected: counters(
                &registry,
                "tidegate_rejected_rows_total",
                "Rows in the dead letter, by the rule that rejected them and its reason.",
                &["rule", "reason"],
            ),
            read_bytes: counter(&registry, "tidegate_read_bytes_total", "Bytes of the rows that were read."),
            written_bytes: counter(
                &registry,
                "tidegate_written_bytes_total",
                "Bytes that the sink was given for rows and dead letters; none of SQLite.",
            ),
            rewinds: counter(
                &registry,
                "tidegate_rewinds_total",
                "How often a lane went back to what counts because a step had failed.",
            ),
            reasons: Mutex::default(),
            rules: pipeline.rules.iter().take(RULES_MAX).map(|rule| rule.name.clone()).collect(),
            lanes: (0..pipeline.lanes).map(|_| Mutex::default()).collect(),
            pipeline: pipeline.name.clone(),
            registry,
        }
    }

    /// A stage has worked on a batch since `start`.
    pub fn note_time(&self, stage: &str, start: Instant, is_done: bool) {
        let outcome = if is_done { "ok" } else { "failed" };
        self.latency.with_label_values(&[self.stage(stage), outcome]).observe(start.elapsed().as_secs_f64());
    }

    /// A batch was read.
    pub fn note_batch(&self, rows: usize) {
        self.batch_rows.observe(rows as f64);
    }

    /// So many rows count, of which this became in a stage.
    pub fn count(&self, stage: &str, outcome: Outcome, rows: u64) {
        if rows > 0 {
            self.messages.with_label_values(&[self.stage(stage), outcome.name()]).inc_by(rows);
        }
    }

    /// So many rows are in the dead letter.
    pub fn count_rejected(&self, rule: &Arc<str>, reason: &Arc<str>, rows: u64) {
        let pair = (Arc::clone(rule), Arc::clone(reason));
        let mut known = lock(&self.reasons);
        let has_series = known.contains(&pair) || known.len() < REASONS_MAX && known.insert(pair);
        let labels: [&str; 2] = if has_series { [rule, reason] } else { [OTHER, OTHER] };
        self.rejected.with_label_values(&labels).inc_by(rows);
    }

    /// So many bytes count.
    pub fn count_bytes(&self, read: u64, written: u64) {
        self.read_bytes.inc_by(read);
        self.written_bytes.inc_by(written);
    }

    /// A lane goes back to what counts.
    pub fn count_rewind(&self) {
        self.rewinds.inc();
    }

    /// Changes what is shown of a lane.
    pub fn show(&self, lane: usize, change: impl FnOnce(&mut LaneStatus)) {
        change(&mut lock(&self.lanes[lane]));
    }

    /// What the pipeline is, with these rules and exchanges.
    pub fn status(&self, rules: Vec<String>, exchanges: Vec<String>) -> PipelineStatus {
        PipelineStatus {
            pipeline: self.pipeline.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            rules,
            exchanges,
            rows: self.rows(),
            lanes: self.lanes.iter().map(|lane| lock(lane).clone()).collect(),
            memory_bytes: text::memory_bytes(),
        }
    }

    /// Rows that count since the process began.
    fn rows(&self) -> Rows {
        let of =
            |stage: &str, outcome: Outcome| self.messages.with_label_values(&[stage, outcome.name()]).get();
        let read = of(SOURCE, Outcome::Ok);
        let (written, rejected) = (of(SINK, Outcome::Ok), self.rejected_rows());
        let empty = of(DECODE, Outcome::Empty);
        // Lanes raise the counters one after the other.
        Rows { read, written, rejected, empty, dropped: read.saturating_sub(written + rejected + empty) }
    }

    fn rejected_rows(&self) -> u64 {
        let families = self.rejected.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        metrics.map(|metric| metric.get_counter().get_value() as u64).sum()
    }

    /// The stage under which something is shown.
    fn stage<'s>(&self, stage: &'s str) -> &'s str {
        match stage {
            SOURCE | DECODE | SINK | CHECKPOINT | BATCH => stage,
            rule if self.rules.iter().any(|known| known == rule) => rule,
            _ => OTHER,
        }
    }
}

/// What is registered here has the label `pipeline`.
fn registry(pipeline: &str) -> Registry {
    let labels = HashMap::from([("pipeline".to_owned(), pipeline.to_owned())]);
    Registry::new_custom(None, Some(labels)).expect("the label is named here")
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help).expect("named here"))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels).expect("named here"))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
    collector
}
