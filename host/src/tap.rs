//! Rows as they go by, for whoever wants to see them. A lane gives what it has just decided to those who look and have room,
//! and never waits for them: who is too slow does not see all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::DictionaryArray;
use arrow_array::types::UInt32Type;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::batch::{Batch, Partition, RawBatch, Reject};
use crate::dead_letter::DeadLetter;
use crate::life::lock;
use crate::metrics::DECODE;
use crate::rule::Applied;
use crate::sink::json::RowWriter;
use crate::sink::values::Values;

/// The most that look at once: each can hold the rows of [`BATCHES_MAX`] batches of every lane.
const TAPS_MAX: usize = 4;

/// Batches that wait for one who looks.
const BATCHES_MAX: usize = 2;

/// The most rows a second that are shown: more than a person reads, and a hundredth of a core to write.
pub const ROWS_PER_SECOND_MAX: u32 = 1_000;

/// The most bytes that are shown of a row that does not decode.
const TEXT_BYTES_MAX: usize = 512;

/// Rows that do not decode are shown so many of a batch: each is copied.
const UNDECODED_MAX: usize = 100;

/// Those who look at the rows of a pipeline.
#[derive(Default)]
pub struct Taps {
    /// How many there are, for lanes to see without a lock.
    count: AtomicUsize,
    all: Mutex<Vec<Arc<Looking>>>,
}

/// One who looks.
struct Looking {
    rule: Option<String>,
    sender: Sender<Arc<Shown>>,
    /// Batches that it was given and has not looked at.
    waiting: AtomicUsize,
    /// Rows that it was not given.
    skipped: AtomicU64,
}

/// The end of one who looks; dropping it ends the looking.
pub struct Tap {
    taps: Arc<Taps>,
    looking: Arc<Looking>,
    receiver: Receiver<Arc<Shown>>,
}

/// What became of a batch in a rule.
pub struct Shown {
    rule: Arc<str>,
    version: Arc<str>,
    partition: Partition,
    rows: What,
}

enum What {
    /// Rows that a rule was given, with the offset of each, those that it kept, and those that it rejected.
    Decided { before: Batch, offsets: Vec<u64>, kept: Batch, rejects: Vec<Reject> },
    /// Rows that did not decode, with their offsets and texts.
    Undecoded(Vec<(u64, Reject, String)>),
}

/// Which rows somebody wants to see.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The rule at which to look; all when absent. `decode` shows rows that do not decode.
    pub rule: Option<String>,
    /// What became of the rows.
    pub verdict: Option<Verdict>,
    /// Why they were rejected.
    pub reason: Option<String>,
    /// Columns with the value that they must have.
    pub columns: Vec<(String, String)>,
    /// The most rows a second.
    pub rows_per_second: u32,
}

/// What became of a row in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It went on.
    Kept,
    /// It went to the dead letter.
    Rejected,
    /// It was left out on purpose.
    Dropped,
}

/// A line of what is shown.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Line {
    /// A row.
    Row(Box<Row>),
    /// Rows that were too many.
    LeftOut(LeftOut),
}

/// Rows that would have been looked at, or shown, but were too many.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many.
    pub left_out: u64,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &[u8]) -> serde_json::Result<Line> {
        match serde_json::from_slice(text) {
            Ok(left_out) => Ok(Line::LeftOut(left_out)),
            Err(_) => serde_json::from_slice(text).map(|row| Line::Row(Box::new(row))),
        }
    }
}

/// A row, and what became of it in a rule.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// The rule; `decode` when the row did not decode.
    pub rule: String,
    /// SHA-256 of the rule's component in hexadecimal.
    pub version: String,
    /// Topic, or file.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is wrong, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The row before the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<RawValue>>,
    /// The row after the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Box<RawValue>>,
    /// The beginning of a row that did not decode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Taps {
    /// Begins to look; `None` when too many do.
    pub fn open(self: &Arc<Self>, rule: Option<String>) -> Option<Tap> {
        let mut all = lock(&self.all);
        if all.len() >= TAPS_MAX {
            return None;
        }
        let (sender, receiver) = channel();
        let (waiting, skipped) = (AtomicUsize::new(0), AtomicU64::new(0));
        let looking = Arc::new(Looking { rule, sender, waiting, skipped });
        all.push(Arc::clone(&looking));
        self.count.store(all.len(), Ordering::Relaxed);
        Some(Tap { taps: Arc::clone(self), looking, receiver })
    }

    /// Whether somebody wants to see what becomes of so many rows in a rule, and has room.
    pub fn wants(&self, rule: &str, rows: usize) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 || rows == 0 {
            return false;
        }
        let mut is_wanted = false;
        for looking in lock(&self.all).iter().filter(|looking| looking.is_at(rule)) {
            match looking.has_room() {
                true => is_wanted = true,
                false => _ = looking.skipped.fetch_add(rows as u64, Ordering::Relaxed),
            }
        }
        is_wanted
    }

    /// Shows what became of the rows `before` in a rule.
    pub fn show(
        &self,
        raw: &RawBatch,
        rule: &Arc<str>,
        version: &Arc<str>,
        before: Batch,
        applied: &Applied,
    ) {
        let offsets = before.rows.iter().map(|row| raw.offset(*row)).collect();
        let (kept, rejects) = (applied.kept.clone(), applied.rejects.clone());
        self.give(raw, rule, version, What::Decided { before, offsets, kept, rejects });
    }

    /// Shows rows that did not decode.
    pub fn show_undecoded(&self, raw: &RawBatch, rejects: &[Reject]) {
        let Some(first) = rejects.first() else { return };
        let text = |reject: &Reject| {
            let payload = DeadLetter::new("", raw, std::borrow::Cow::Borrowed(reject), 0).payload;
            let text = String::from_utf8_lossy(&payload[..payload.len().min(TEXT_BYTES_MAX)]).into_owned();
            (raw.offset(reject.row), reject.clone(), text)
        };
        let rows = What::Undecoded(rejects.iter().take(UNDECODED_MAX).map(text).collect());
        self.give(raw, &DECODE.into(), &first.version, rows);
    }

    fn give(&self, raw: &RawBatch, rule: &Arc<str>, version: &Arc<str>, rows: What) {
        let (rule, version, partition) = (Arc::clone(rule), Arc::clone(version), raw.partition.clone());
        let shown = Arc::new(Shown { rule, version, partition, rows });
        for looking in lock(&self.all).iter().filter(|looking| looking.is_at(&shown.rule)) {
            // One who has just gone sees nothing any more.
            if looking.has_room() && looking.sender.send(Arc::clone(&shown)).is_ok() {
                looking.waiting.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Looking {
    fn is_at(&self, rule: &str) -> bool {
        self.rule.as_deref().is_none_or(|wanted| wanted == rule)
    }

    fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < BATCHES_MAX
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut all = lock(&self.taps.all);
        all.retain(|looking| !Arc::ptr_eq(looking, &self.looking));
        self.taps.count.store(all.len(), Ordering::Relaxed);
    }
}

impl Tap {
    /// Gives lines to `write` until it says that nobody reads them; at least an empty text every half second.
    pub fn follow(self, filter: &Filter, mut write: impl FnMut(Vec<u8>) -> bool) {
        let mut budget = Budget { rows: filter.rows_per_second, since: Instant::now(), left_out: 0 };
        loop {
            let mut text = Vec::new();
            match self.receiver.recv_timeout(Duration::from_millis(500)) {
                Ok(shown) => {
                    filter.write(&shown, &mut budget, &mut text);
                    self.looking.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            budget.left_out += self.looking.skipped.swap(0, Ordering::Relaxed);
            if budget.since.elapsed() >= Duration::from_secs(1) {
                if budget.left_out > 0 {
                    append(&Line::LeftOut(LeftOut { left_out: budget.left_out }), &mut text);
                }
                budget = Budget { rows: filter.rows_per_second, since: Instant::now(), left_out: 0 };
            }
            if !write(text) {
                return;
            }
        }
    }
}

/// What may be shown within a second.
struct Budget {
    rows: u32,
    since: Instant,
    left_out: u64,
}

impl Budget {
    fn takes(&mut self) -> bool {
        let has_room = self.rows > 0;
        if has_room {
            self.rows -= 1;
        } else {
            self.left_out += 1;
        }
        has_room
    }
}

impl Filter {
    /// Appends the lines of the rows that are wanted.
    fn write(&self, shown: &Shown, budget: &mut Budget, out: &mut Vec<u8>) {
        match &shown.rows {
            What::Decided { before, offsets, kept, rejects } => {
                let Some(columns) = self.columns_of(before) else { return };
                let rejects: HashMap<u32, &Reject> =
                    rejects.iter().map(|reject| (reject.row, reject)).collect();
                if self.is_of_rejected() && rejects.is_empty() {
                    return;
                }
                let writers = (RowWriter::new(&before.columns), RowWriter::new(&kept.columns));
                let mut next_kept = 0;
                for (index, row) in before.rows.iter().enumerate() {
                    let kept_at = (kept.rows.get(next_kept) == Some(row)).then_some(next_kept);
                    next_kept += usize::from(kept_at.is_some());
                    if !columns.iter().all(|column| column.is_wanted(index)) {
                        continue;
                    }
                    let reject = if kept_at.is_none() { rejects.get(row).copied() } else { None };
                    let verdict = match (kept_at, reject) {
                        (Some(_), _) => Verdict::Kept,
                        (None, Some(_)) => Verdict::Rejected,
                        (None, None) => Verdict::Dropped,
                    };
                    if self.wants(verdict, reject) && budget.takes() {
                        let line = Row {
                            before: json(&writers.0, index),
                            after: kept_at.and_then(|index| json(&writers.1, index)),
                            ..shown.row(offsets[index], verdict, reject)
                        };
                        append(&Line::Row(line.into()), out);
                    }
                }
            }
            What::Undecoded(rows) if self.columns.is_empty() => {
                for (offset, reject, text) in rows {
                    if self.wants(Verdict::Rejected, Some(reject)) && budget.takes() {
                        let line = Row {
                            text: Some(text.clone()),
                            ..shown.row(*offset, Verdict::Rejected, Some(reject))
                        };
                        append(&Line::Row(line.into()), out);
                    }
                }
            }
            What::Undecoded(_) => {}
        }
    }

    /// Whether only rejected rows are wanted.
    fn is_of_rejected(&self) -> bool {
        self.verdict == Some(Verdict::Rejected) || self.reason.is_some()
    }

    fn wants(&self, verdict: Verdict, reject: Option<&Reject>) -> bool {
        let is_reason = |wanted: &str| reject.is_some_and(|reject| *reject.reason == *wanted);
        self.verdict.is_none_or(|wanted| wanted == verdict) && self.reason.as_deref().is_none_or(is_reason)
    }

    /// The columns with a value that is wanted; `None` when no row of the batch can have it.
    fn columns_of<'b>(&'b self, batch: &'b Batch) -> Option<Vec<Wanted<'b>>> {
        let wanted = |(name, value): &'b (String, String)| {
            let values = Values::of(batch.columns.column_by_name(name)?);
            match values {
                Values::Texts(keys, texts) => {
                    let are_equal: Vec<bool> = texts.iter().map(|text| text == Some(value)).collect();
                    are_equal.contains(&true).then_some(Wanted::Text { keys, are_equal })
                }
                values => Some(Wanted::Value { values, value }),
            }
        };
        self.columns.iter().map(wanted).collect()
    }
}

/// A column with the value that it must have.
enum Wanted<'b> {
    /// A text: the keys of the rows, and which of them are of the text.
    Text { keys: &'b DictionaryArray<UInt32Type>, are_equal: Vec<bool> },
    /// Another value, as it is shown.
    Value { values: Values<'b>, value: &'b str },
}

impl Wanted<'_> {
    fn is_wanted(&self, row: usize) -> bool {
        match self {
            Wanted::Text { keys, are_equal } => keys.key(row).is_some_and(|key| are_equal[key]),
            Wanted::Value { values, value } => values.at(row).to_string() == *value,
        }
    }
}

impl Shown {
    fn row(&self, offset: u64, verdict: Verdict, reject: Option<&Reject>) -> Row {
        Row {
            rule: self.rule.to_string(),
            version: self.version.to_string(),
            topic: self.partition.topic.to_string(),
            partition: self.partition.number,
            offset,
            verdict,
            reason: reject.map(|reject| reject.reason.to_string()),
            detail: reject.map(|reject| reject.detail.clone()),
            before: None,
            after: None,
            text: None,
        }
    }
}

/// A row as JSON.
fn json(writer: &RowWriter<'_>, row: usize) -> Option<Box<RawValue>> {
    let mut text = Vec::new();
    writer.append(row, &mut text);
    RawValue::from_string(String::from_utf8(text).ok()?).ok()
}

fn append(line: &Line, out: &mut Vec<u8>) {
    // Nothing of it can fail: keys are texts.
    if serde_json::to_writer(&mut *out, line).is_ok() {
        out.push(b'\n');
    }
}
