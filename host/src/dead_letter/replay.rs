//! Dead letters once more through the rules as they are now, into the output of the pipeline.
//!
//! Nothing is there twice, whoever replays how often: the transactions of all replays of a pipeline have one name,
//! and a replay begins with it before it looks for the markers of earlier ones. So an earlier one either has
//! committed its markers, which are then seen, or can commit nothing any more.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Serialize;

use super::letters::{At, Filter, Found, Id, Letter, Letters};
use super::topic::{First, Topic};
use crate::attribution;
use crate::batch::{Batch, Decoded, Partition, Payload, Position, RawBatch, RawRow, Reject};
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::kafka::Patience;
use crate::lane::{self, Place, RunOptions};
use crate::pipeline_file::{Format, KafkaSink as Config, Loaded, Pipeline, Remember};
use crate::rule::{Rules, Slot, warm};
use crate::shutdown::Shutdown;
use crate::sink::kafka::KafkaSink;
use crate::sink::kafka::replay::Replayed;

/// Each chosen row costs some 200 bytes until it is replayed, because rows are replayed in the order of their source.
const CHOSEN_MAX: usize = 4_000_000;

/// Which dead letters are replayed.
#[derive(Debug, Clone)]
pub enum Choice {
    /// These.
    Ids(Vec<Id>),
    /// All that fit, the first so many of them in the order of their source.
    All(Filter, Option<usize>),
}

/// A dead letter, and what became or would become of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The dead letter.
    pub id: Id,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the output.
    Written,
    /// This rule dropped it.
    Dropped(Arc<str>),
    /// It is rejected again.
    Rejected(Reject),
    /// It was replayed before.
    Already,
    /// It cannot be replayed, for this reason.
    Cannot(String),
}

/// What a replay has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Dead letters that were asked for.
    pub chosen: u64,
    /// Rows that are in the output now.
    pub written: u64,
    /// Rows that a rule has dropped.
    pub dropped: u64,
    /// Rows that are rejected as before; their dead letters stay.
    pub rejected_again: u64,
    /// Rows of an earlier replay.
    pub already_replayed: u64,
    /// Rows of which there is not enough to replay them.
    pub cannot: u64,
    /// Rows that were not reached when a signal stopped the replay.
    pub left: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
}

impl Tally {
    /// Whether every chosen row is accounted for.
    pub fn is_conserved(&self) -> bool {
        let Tally { chosen, written, dropped, rejected_again, already_replayed, cannot, left, .. } = *self;
        chosen == written + dropped + rejected_again + already_replayed + cannot + left
    }

    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Written => self.written += 1,
            Verdict::Dropped(_) => self.dropped += 1,
            Verdict::Rejected(_) => self.rejected_again += 1,
            Verdict::Already => self.already_replayed += 1,
            Verdict::Cannot(_) => self.cannot += 1,
        }
    }
}

/// Replays dead letters of a pipeline; `tell` hears what became of each.
///
/// # Errors
/// What the user must mend. What was committed before it counts, and the next replay skips it.
pub fn run(
    loaded: &Loaded,
    options: &RunOptions,
    choice: &Choice,
    dry_run: bool,
    shutdown: &Shutdown,
    tell: &mut dyn FnMut(&Decision) -> Result<()>,
) -> Result<Tally> {
    let config = replayable(loaded)?;
    let components = Rules::open_rules(loaded, options)?.running();
    let decoder = Decoder::new(&loaded.pipeline.decode)?;
    let rules = lane::open_rules(loaded, &components, &decoder)?;
    let schema = rules.last().map_or(decoder.schema(), Slot::schema).clone();
    let patience = Patience { forever: options.wait, shutdown: shutdown.clone(), lane: None };
    let Letters::Kafka(topic) = Letters::open(loaded, &patience)? else {
        unreachable!("a `kafka` sink has its dead letters in a topic")
    };
    let place = Place {
        folder: &loaded.folder,
        guests: &options.guests,
        state: &options.state,
        instance: &options.instance,
        lane: 0,
        until_end: true,
        backfill: None,
        adapters: None,
        patience: patience.clone(),
    };
    // Before the markers are looked for: what another replay has not committed until now, it never will.
    let sink = KafkaSink::open_replay(config, &loaded.pipeline, &schema, !dry_run, &place)?;
    let mut tally = Tally { dry_run, ..Tally::default() };
    let mut decide = |id, verdict| {
        tally.count(&verdict);
        tell(&Decision { id, verdict })
    };
    let Chosen { rows, already, cannot } = choose(&topic, choice, &loaded.pipeline.name)?;
    let chosen = rows.len() + already.len() + cannot.len();
    already.into_iter().try_for_each(|at| decide(Id::Message(at), Verdict::Already))?;
    cannot.into_iter().try_for_each(|(at, why)| decide(Id::Message(at), Verdict::Cannot(why)))?;
    let mut replay = Replay {
        pipeline: &loaded.pipeline,
        now_ms: options.now_ms,
        decoder,
        versions: attribution::text(rules.iter().map(|rule| (rule.name(), rule.version()))),
        rules,
        sink,
        host_version: env!("CARGO_PKG_VERSION").into(),
        remembered: AtomicU64::new(0),
    };
    let mut left = rows.len();
    for batch in batches(&rows, &loaded.pipeline) {
        if shutdown.is_requested() {
            break;
        }
        for (row, verdict) in batch.iter().zip(replay.batch(&topic, batch)?) {
            decide(Id::Message(row.at), verdict)?;
        }
        left -= batch.len();
    }
    tally.chosen = chosen as u64;
    tally.left = left as u64;
    assert!(
        tally.is_conserved(),
        "chosen = written + dropped + rejected again + already replayed + cannot + left"
    );
    Ok(tally)
}

/// The sink, when its rows can be replayed.
fn replayable(loaded: &Loaded) -> Result<&Config> {
    let Some(sink) = loaded.pipeline.sink.kafka() else {
        return Err(Error::Files(format!(
            "`{}` does not write to Kafka, and only there a replay can be kept from being doubled: run the pipeline \
             over a file of the rows instead, which `tidegate dlq list --json` gives",
            loaded.pipeline.name
        )));
    };
    match loaded.pipeline.decode.format {
        Format::Json | Format::Ccxt => Ok(sink),
        Format::Csv | Format::Parquet => Err(Error::Files(
            "rows of the formats `csv` and `parquet` cannot be read without their file, so they cannot be replayed"
                .into(),
        )),
    }
}

/// A chosen row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    source_partition: i32,
    source_topic: Arc<str>,
    source_offset: u64,
    at: At,
    bytes: usize,
}

/// What was chosen.
#[derive(Default)]
struct Chosen {
    /// In the order of their source.
    rows: Vec<Row>,
    already: Vec<At>,
    cannot: Vec<(At, String)>,
}

/// Finds the dead letters, and which of them were replayed.
fn choose(topic: &Topic, choice: &Choice, pipeline: &str) -> Result<Chosen> {
    let mut finder =
        Finder { pipeline, rows: BTreeMap::new(), topics: HashSet::new(), chosen: Chosen::default() };
    match choice {
        Choice::All(filter, _) => {
            for partition in 0..topic.partitions() {
                let first = First::Since(filter.since_ms);
                topic.each_settled(partition, first, &mut |found| {
                    finder.take(found, &mut |letter| filter.takes(letter))
                })?;
            }
        }
        Choice::Ids(ids) => {
            let mut wanted = places(topic, ids)?;
            for partition in 0..topic.partitions() {
                let offsets = wanted.iter().filter(|at| at.partition == partition).map(|at| at.offset);
                let Some(first) = offsets.min() else { continue };
                topic.each_settled(partition, First::Offset(first), &mut |found| {
                    finder.take(found, &mut |letter| match letter.id {
                        Id::Message(at) => wanted.remove(&at),
                        Id::Row(_) => false,
                    })
                })?;
            }
            if let Some(missing) = wanted.iter().min() {
                return Err(none(topic, &missing.to_string()));
            }
        }
    }
    let mut chosen = finder.chosen;
    chosen.rows.extend(finder.rows.into_values());
    chosen.rows.sort_unstable();
    if let Choice::All(_, Some(limit)) = choice {
        chosen.rows.truncate(*limit);
    }
    Ok(chosen)
}

fn places(topic: &Topic, ids: &[Id]) -> Result<HashSet<At>> {
    let place = |id: &Id| match id {
        Id::Message(at) if at.partition < topic.partitions() => Ok(*at),
        other => Err(none(topic, &other.to_string())),
    };
    ids.iter().map(place).collect()
}

fn none(topic: &Topic, id: &str) -> Error {
    Error::Files(format!(
        "there is no dead letter `{id}` in topic `{}`; `tidegate dlq list` shows them",
        topic.name()
    ))
}

/// Gathers what is chosen while a topic is read.
struct Finder<'a> {
    pipeline: &'a str,
    rows: BTreeMap<At, Row>,
    topics: HashSet<Arc<str>>,
    chosen: Chosen,
}

impl Finder<'_> {
    fn take(&mut self, found: Found, is_wanted: &mut dyn FnMut(&Letter) -> bool) -> Result<()> {
        match found {
            Found::Letter(letter) if is_wanted(&letter) => self.choose(&letter),
            Found::Replayed(of, _) => {
                // A marker comes after its dead letter.
                if self.rows.remove(&of).is_some() {
                    self.chosen.already.push(of);
                }
                Ok(())
            }
            Found::Letter(_) | Found::Foreign => Ok(()),
        }
    }

    fn choose(&mut self, letter: &Letter) -> Result<()> {
        let Id::Message(at) = letter.id else { return Ok(()) };
        if let Some(why) = why_not(letter, self.pipeline) {
            self.chosen.cannot.push((at, why));
            return Ok(());
        }
        if self.rows.len() >= CHOSEN_MAX {
            return Err(Error::Files(format!(
                "more than {CHOSEN_MAX} rows are chosen: choose fewer with `--since` and `--until`, and replay the \
                 others after them"
            )));
        }
        let source_topic = match self.topics.get(letter.source_topic.as_str()) {
            Some(topic) => Arc::clone(topic),
            None => {
                let topic: Arc<str> = letter.source_topic.as_str().into();
                self.topics.insert(Arc::clone(&topic));
                topic
            }
        };
        let row = Row {
            source_partition: letter.source_partition,
            source_topic,
            source_offset: letter.source_offset,
            at,
            bytes: letter.payload.len(),
        };
        self.rows.insert(at, row);
        Ok(())
    }
}

/// Why a dead letter cannot be replayed.
fn why_not(letter: &Letter, pipeline: &str) -> Option<String> {
    if letter.pipeline != pipeline {
        return Some(format!("it is of the pipeline `{}`", letter.pipeline));
    }
    let cut = letter.cut.as_ref()?;
    Some(format!("only {} of its {} bytes were kept", letter.payload.len(), cut.bytes))
}

/// The rows in batches as a source would make them.
fn batches<'r>(rows: &'r [Row], pipeline: &Pipeline) -> Vec<&'r [Row]> {
    let limit_bytes = usize::try_from(pipeline.batch.bytes.0).unwrap_or(usize::MAX);
    let (mut count, mut bytes) = (0, 0);
    let is_same_batch = |a: &Row, b: &Row| {
        count += 1;
        bytes += a.bytes;
        let is_full = count >= pipeline.batch.rows || bytes >= limit_bytes;
        let is_same =
            a.source_partition == b.source_partition && a.source_topic == b.source_topic && !is_full;
        if !is_same {
            (count, bytes) = (0, 0);
        }
        is_same
    };
    rows.chunk_by(is_same_batch).collect()
}

/// What rows are replayed with.
struct Replay<'a> {
    pipeline: &'a Pipeline,
    now_ms: Option<i64>,
    decoder: Decoder,
    /// The versions of the rules.
    versions: String,
    rules: Vec<Slot>,
    sink: KafkaSink,
    /// What decides the rows that do not decode.
    host_version: Arc<str>,
    remembered: AtomicU64,
}

impl Replay<'_> {
    /// Decides the rows of one source partition, and writes what comes of them.
    fn batch(&mut self, topic: &Topic, rows: &[Row]) -> Result<Vec<Verdict>> {
        let places: Vec<At> = rows.iter().map(|row| row.at).collect();
        let mut payloads = topic.payloads(&places)?;
        let mut verdicts: Vec<Option<Verdict>> = vec![None; rows.len()];
        let mut indexes = Vec::with_capacity(rows.len());
        let (mut bytes, mut raw_rows) = (Vec::new(), Vec::with_capacity(rows.len()));
        for (index, row) in rows.iter().enumerate() {
            let Some(payload) = payloads.remove(&row.at) else {
                verdicts[index] = Some(Verdict::Cannot("the broker has deleted it meanwhile".into()));
                continue;
            };
            let start = bytes.len();
            bytes.extend_from_slice(&payload);
            raw_rows.push(RawRow {
                offset: row.source_offset,
                start,
                end: bytes.len(),
                cut_from: self.too_long(payload.len()),
            });
            indexes.push(index);
        }
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let raw = RawBatch {
            partition: Partition { topic: Arc::clone(&first.source_topic), number: first.source_partition },
            payload: Payload::Rows { bytes, rows: raw_rows },
            next: Position::default(),
        };
        let now_ms = self.now_ms.unwrap_or_else(lane::clock_ms);
        let mut decided = vec![Verdict::Written; raw.len()];
        let kept = self.decide(&raw, now_ms, &mut decided)?;
        let at = |row: usize| rows[indexes[row]].at;
        let dropped: Vec<At> = (decided.iter().enumerate())
            .filter(|(_, verdict)| matches!(verdict, Verdict::Dropped(_)))
            .map(|(row, _)| at(row))
            .collect();
        let kept_from: Vec<At> = kept.rows.iter().map(|row| at(*row as usize)).collect();
        let too_large = self.sink.replay(&Replayed {
            pipeline: &self.pipeline.name,
            partition: &raw.partition,
            versions: &self.versions,
            kept: &kept.columns,
            kept_from: &kept_from,
            dropped: &dropped,
            now_ms,
        })?;
        for (row, detail) in too_large {
            let row = kept.rows[row];
            decided[row as usize] = Verdict::Rejected(Reject {
                row,
                rule: "sink".into(),
                version: Arc::clone(&self.host_version),
                reason: "too_large".into(),
                detail,
            });
        }
        for (index, verdict) in indexes.into_iter().zip(decided) {
            verdicts[index] = Some(verdict);
        }
        Ok(verdicts.into_iter().flatten().collect())
    }

    /// A row that was short enough when it was rejected can be too long today.
    fn too_long(&self, length: usize) -> Option<u64> {
        (length as u64 > self.pipeline.decode.row.0).then_some(length as u64)
    }

    /// Decodes the rows and applies the rules; gives the rows that are kept.
    fn decide(&mut self, raw: &RawBatch, now_ms: i64, verdicts: &mut [Verdict]) -> Result<Batch> {
        let Replay { pipeline, decoder, rules, sink, host_version, remembered, .. } = self;
        let remember: &Remember = &pipeline.remember;
        let mut read_back = |partition: i32, columns: &[String], each: &mut dyn FnMut(_) -> Result<()>| {
            sink.read_back(partition, columns, remember, each)
        };
        let mut slots: Vec<&mut Slot> = rules.iter_mut().collect();
        warm(&mut slots, raw.partition.number, &mut read_back, remembered)?;
        let Decoded { batch: mut kept, rejects, .. } = decoder.decode(raw, host_version);
        let all: Vec<u32> = (0..).take(raw.len()).collect();
        note(verdicts, &all, &kept.rows, rejects, &|| Verdict::Cannot("it is an empty row".into()));
        for rule in rules {
            let before = kept.rows.clone();
            let applied = rule.apply(raw.partition.number, now_ms, kept, &mut read_back)?;
            kept = applied.kept;
            let name: Arc<str> = rule.name().into();
            note(verdicts, &before, &kept.rows, applied.rejects, &|| Verdict::Dropped(Arc::clone(&name)));
        }
        Ok(kept)
    }
}

/// Notes which rows of `before` were rejected, and that those which were neither rejected nor kept are `gone`.
fn note(
    verdicts: &mut [Verdict],
    before: &[u32],
    kept: &[u32],
    rejects: Vec<Reject>,
    gone: &dyn Fn() -> Verdict,
) {
    for row in before.iter().filter(|row| kept.binary_search(row).is_err()) {
        verdicts[*row as usize] = gone();
    }
    for reject in rejects {
        let row = reject.row as usize;
        verdicts[row] = Verdict::Rejected(reject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::letters::Cut;

    fn row(partition: i32, topic: &str, offset: u64, bytes: usize) -> Row {
        let at = At { partition, offset: offset as i64 };
        Row { source_partition: partition, source_topic: topic.into(), source_offset: offset, at, bytes }
    }

    #[test]
    fn a_batch_is_of_one_source_partition_and_has_its_limits() {
        let file = tempfile::TempDir::new().unwrap();
        let path = file.path().join("p.yaml");
        let text =
            "name: p\nsource: { file: { path: in.jsonl } }\nsink: stdout\nbatch: { rows: 3, bytes: 100B }\n";
        std::fs::write(&path, text).unwrap();
        let pipeline = crate::pipeline_file::read(&path).unwrap().pipeline;
        let small = (0..5).map(|offset| row(0, "a", offset, 1));
        let large = (5..8).map(|offset| row(0, "a", offset, 100));
        let others = [row(0, "b", 0, 1), row(1, "a", 0, 1), row(1, "a", 1, 1)];
        let rows: Vec<Row> = small.chain(large).chain(others).collect();
        let lengths: Vec<usize> = batches(&rows, &pipeline).into_iter().map(<[Row]>::len).collect();
        assert_eq!(lengths, [3, 3, 1, 1, 1, 2]);
        assert!(batches(&[], &pipeline).is_empty());
    }

    #[test]
    fn every_row_is_kept_rejected_or_gone() {
        let mut verdicts = vec![Verdict::Written; 4];
        let reject = Reject {
            row: 2,
            rule: "r".into(),
            version: "v".into(),
            reason: "why".into(),
            detail: String::new(),
        };
        note(&mut verdicts, &[0, 2, 3], &[3], vec![reject.clone()], &|| Verdict::Dropped("r".into()));
        let expected =
            [Verdict::Dropped("r".into()), Verdict::Written, Verdict::Rejected(reject), Verdict::Written];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn what_is_not_whole_or_of_another_pipeline_cannot_be_replayed() {
        let mut letter = Letter {
            id: Id::Row(1),
            pipeline: "p".into(),
            rule: "r".into(),
            rule_version: "v".into(),
            reason: "why".into(),
            detail: String::new(),
            source_topic: "in".into(),
            source_partition: 0,
            source_offset: 0,
            rejected_at_ms: 0,
            payload: b"begin".to_vec(),
            cut: None,
            replayed: None,
        };
        assert_eq!(why_not(&letter, "p"), None);
        assert_eq!(why_not(&letter, "q").unwrap(), "it is of the pipeline `p`");
        letter.cut = Some(Cut { bytes: 100, sha256: None });
        assert_eq!(why_not(&letter, "p").unwrap(), "only 5 of its 100 bytes were kept");
    }

    #[test]
    fn a_tally_adds_up() {
        let mut tally = Tally { chosen: 3, ..Tally::default() };
        tally.count(&Verdict::Written);
        tally.count(&Verdict::Already);
        assert!(!tally.is_conserved());
        tally.count(&Verdict::Cannot(String::new()));
        assert!(tally.is_conserved());
    }
}
