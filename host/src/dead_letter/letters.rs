//! Dead letters as they are stored: in Kafka, in a database, in a file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::DeadLetter;
use super::topic::Topic;
use crate::batch::Reject;
use crate::error::{Error, Result};
use crate::kafka::Patience;
use crate::pipeline_file::{self, Loaded, Sink};
use crate::sink::file::committed_dead_letters;
use crate::sink::sqlite::letters::{LetterTable, committed_bytes};

/// The longest line of a dead-letter file: a row has 64 MiB at most, and an escaped byte six.
const LINE_BYTES: u64 = 512 << 20;

/// Where a message is in a topic of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    /// Number of the partition.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

/// What a dead letter is called on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// A message: `partition:offset`.
    Message(At),
    /// The rowid in a table, or the number of a line, from 1.
    Row(i64),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Id::Message(place) => place.fmt(f),
            Id::Row(number) => number.fmt(f),
        }
    }
}

impl std::str::FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<At, String> {
        let place = text.split_once(':').and_then(|(partition, offset)| {
            let place = At { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            (place.partition >= 0 && place.offset >= 0).then_some(place)
        });
        place.ok_or_else(|| format!("`{text}` is not `partition:offset`, such as `0:17`"))
    }
}

impl std::str::FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Id, String> {
        if text.contains(':') {
            return text.parse().map(Id::Message);
        }
        match text.parse() {
            Ok(number) if number >= 0 => Ok(Id::Row(number)),
            _ => Err(format!(
                "`{text}` is no id, which `tidegate dlq list` shows: `partition:offset` in Kafka, else a number"
            )),
        }
    }
}

/// A dead letter as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// What it is called.
    pub id: Id,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The rule that rejected the row.
    pub rule: String,
    /// What decided.
    pub rule_version: String,
    /// One of the rule's reasons.
    pub reason: String,
    /// What is wrong, for a person.
    pub detail: String,
    /// Where the row is from.
    pub source_topic: String,
    /// Where the row is from.
    pub source_partition: i32,
    /// Where the row is from.
    pub source_offset: u64,
    /// Milliseconds since 1970.
    pub rejected_at_ms: i64,
    /// The original bytes, or their beginning.
    pub payload: Vec<u8>,
    /// What is known of the original bytes when `payload` is only their beginning.
    pub cut: Option<Cut>,
    /// What has become of it since; kept in Kafka only.
    pub replayed: Option<Replay>,
}

/// The original bytes of a dead letter that has only their beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// How many.
    pub bytes: u64,
    /// Their SHA-256 in hexadecimal, where it is known.
    pub sha256: Option<String>,
}

/// That a dead letter was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// What became of the row.
    pub outcome: Outcome,
}

/// What became of a row that was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the output.
    Written,
    /// A rule dropped it.
    Dropped,
}

impl Outcome {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Written => "written",
            Outcome::Dropped => "dropped",
        }
    }

    /// What the word stands for.
    pub fn of(name: &str) -> Option<Outcome> {
        [Outcome::Written, Outcome::Dropped].into_iter().find(|outcome| outcome.name() == name)
    }
}

impl Letter {
    /// Appends it as a line of JSON: that of [`DeadLetter::append_line`], after the `id` and before what became of
    /// it.
    pub fn append_line(&self, out: &mut Vec<u8>) {
        let dead_letter = DeadLetter {
            pipeline: &self.pipeline,
            reject: Cow::Owned(Reject {
                row: 0,
                rule: self.rule.as_str().into(),
                version: self.rule_version.as_str().into(),
                reason: self.reason.as_str().into(),
                detail: self.detail.clone(),
            }),
            topic: &self.source_topic,
            partition: self.source_partition,
            offset: self.source_offset,
            payload: Cow::Borrowed(&self.payload),
            whole_bytes: self.payload.len() as u64,
            rejected_at_ms: self.rejected_at_ms,
        };
        out.extend_from_slice(format!("{{\"id\":\"{}\",", self.id).as_bytes());
        let mut line = Vec::new();
        dead_letter.append_line(&mut line);
        out.extend_from_slice(line[1..].strip_suffix(b"}\n").unwrap_or_default());
        if let Some(Cut { bytes, sha256 }) = &self.cut {
            let sha256 = serde_json::json!(sha256);
            out.extend_from_slice(
                format!(",\"payload_bytes\":{bytes},\"payload_sha256\":{sha256}").as_bytes(),
            );
        }
        if let Some(Replay { at_ms, outcome }) = &self.replayed {
            let replayed = format!(",\"replayed\":\"{}\",\"replayed_at\":{at_ms}", outcome.name());
            out.extend_from_slice(replayed.as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }
}

/// Which dead letters are asked for. An empty list asks for all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Name of the pipeline: several can share a topic, a table or a file.
    pub pipeline: String,
    /// Rules.
    pub rules: Vec<String>,
    /// Reasons.
    pub reasons: Vec<String>,
    /// Topics, or files as the pipeline file names them.
    pub source_topics: Vec<String>,
    /// Rejected at this time or later, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Rejected before this time.
    pub until_ms: Option<i64>,
}

impl Filter {
    /// Whether it asks for this one.
    pub fn takes(&self, letter: &Letter) -> bool {
        let is_among = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        letter.pipeline == self.pipeline
            && is_among(&self.rules, &letter.rule)
            && is_among(&self.reasons, &letter.reason)
            && is_among(&self.source_topics, &letter.source_topic)
            && self.since_ms.is_none_or(|since| letter.rejected_at_ms >= since)
            && self.until_ms.is_none_or(|until| letter.rejected_at_ms < until)
    }
}

/// What is met among dead letters.
#[derive(Debug)]
pub enum Found {
    /// A dead letter.
    Letter(Box<Letter>),
    /// One that was met before has been replayed.
    Replayed(At, Replay),
    /// Something that this program has not written.
    Foreign,
}

/// The newest dead letters, at most so many.
pub struct Newest {
    limit: usize,
    by_time: BTreeMap<(i64, Id), Letter>,
    times: HashMap<Id, i64>,
    /// How many older ones there were.
    pub older: u64,
}

impl Newest {
    /// None yet.
    pub fn new(limit: usize) -> Newest {
        Newest { limit, by_time: BTreeMap::new(), times: HashMap::new(), older: 0 }
    }

    /// Takes one, and lets the oldest go when there are too many.
    pub fn push(&mut self, letter: Letter) {
        let (time, id) = (letter.rejected_at_ms, letter.id);
        self.times.insert(id, time);
        self.by_time.insert((time, id), letter);
        if self.by_time.len() > self.limit
            && let Some(((_, oldest), _)) = self.by_time.pop_first()
        {
            self.times.remove(&oldest);
            self.older += 1;
        }
    }

    /// Notes what became of one. A marker comes after its dead letter, so one that is not known is not wanted.
    pub fn mark(&mut self, of: At, replay: Replay) {
        let id = Id::Message(of);
        if let Some(letter) = self.times.get(&id).and_then(|time| self.by_time.get_mut(&(*time, id))) {
            letter.replayed = Some(replay);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// The newest last.
    pub fn into_letters(self) -> impl Iterator<Item = Letter> {
        self.by_time.into_values()
    }
}

/// Where the dead letters of a pipeline are.
pub enum Letters {
    /// A topic.
    Kafka(Box<Topic>),
    /// A table.
    Sqlite(LetterTable),
    /// JSON lines.
    File(LetterFile),
}

impl Letters {
    /// Opens them for reading, wherever the pipeline file says they are.
    pub fn open(loaded: &Loaded, patience: &Patience) -> Result<Letters> {
        use pipeline_file::DeadLetter as Config;
        let pipeline = &loaded.pipeline;
        let database = |config: &pipeline_file::SqliteSink| loaded.folder.join(&config.path);
        let file = |path: &str, bytes| LetterFile::open(&loaded.folder.join(path), bytes).map(Letters::File);
        match (&pipeline.sink, &pipeline.dead_letter) {
            (Sink::Kafka(sink), _) => {
                Topic::open(loaded, sink, patience).map(|topic| Letters::Kafka(topic.into()))
            }
            (_, Some(Config::Stdout(_))) | (Sink::Stdout(_), None) => Err(Error::Files(format!(
                "the dead letters of `{}` go to standard output or error, where nothing is kept to be listed; \
                 `dead_letter.file` keeps them",
                pipeline.name
            ))),
            (Sink::Sqlite(sink), Some(Config::File(config))) => {
                file(&config.path, committed_bytes(&database(sink), &pipeline.name, config)?)
            }
            (Sink::Sqlite(sink), dead_letter) => {
                LetterTable::open(&database(sink), dead_letter.as_ref()).map(Letters::Sqlite)
            }
            (Sink::File(sink), dead_letter) => {
                let path = match dead_letter {
                    Some(Config::File(config)) => config.path.clone(),
                    _ => sink.default_dead_letter(),
                };
                let bytes = committed_dead_letters(sink, &pipeline.name, &path, &loaded.folder)?;
                file(&path, bytes)
            }
            (Sink::Timescale(_) | Sink::Clickhouse(_), _) => Err(Error::Files(format!(
                "the dead letters of `{}` are rows of the table `{}`: ask the database",
                pipeline.name,
                pipeline.dead_letter_table()
            ))),
            (Sink::Stdout(_), Some(Config::File(config))) => file(&config.path, None),
            (Sink::Stdout(_), Some(_)) => Err(Error::Files(
                "`dead_letter` does not fit to `sink.stdout`; `tidegate check` says how".into(),
            )),
        }
    }

    /// What they are called in messages.
    pub fn name(&self) -> String {
        match self {
            Letters::Kafka(topic) => format!("topic `{}`", topic.name()),
            Letters::Sqlite(table) => table.name(),
            Letters::File(file) => format!("`{}`", file.path.display()),
        }
    }

    /// Shows all that was stored, at least from `since_ms` on, each marker after its dead letter.
    pub fn each(&self, since_ms: Option<i64>, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
        match self {
            Letters::Kafka(topic) => topic.each(since_ms, each),
            Letters::Sqlite(table) => table.each(&mut |letter| each(Found::Letter(letter.into()))),
            Letters::File(file) => file.each(each),
        }
    }

    /// The dead letter with this id.
    ///
    /// # Errors
    /// [`Error::Files`] when there is none.
    pub fn find(&self, id: Id) -> Result<Letter> {
        let found = match (self, id) {
            (Letters::Kafka(topic), Id::Message(place)) => topic.find(place)?,
            (Letters::Sqlite(table), Id::Row(number)) => table.find(number)?,
            (Letters::File(file), Id::Row(_)) => file.find(id)?,
            (Letters::Kafka(_), Id::Row(_)) | (_, Id::Message(_)) => None,
        };
        found.ok_or_else(|| {
            Error::Files(format!(
                "there is no dead letter `{id}` in {}; `tidegate dlq list` shows them",
                self.name()
            ))
        })
    }
}

/// A file of dead letters.
pub struct LetterFile {
    path: PathBuf,
    /// How much of it counts.
    bytes: u64,
}

/// A line of it.
#[derive(Deserialize)]
struct Line {
    pipeline: String,
    rule: String,
    rule_version: String,
    reason: String,
    detail: String,
    source_topic: String,
    source_partition: i32,
    source_offset: u64,
    rejected_at: i64,
    payload: Option<String>,
    payload_base64: Option<String>,
}

impl LetterFile {
    fn open(path: &Path, bytes: Option<u64>) -> Result<LetterFile> {
        if !path.is_file() {
            return Err(Error::Surroundings(format!(
                "there is no file `{}`: the pipeline has not run yet",
                path.display()
            )));
        }
        Ok(LetterFile { path: path.into(), bytes: bytes.unwrap_or(u64::MAX) })
    }

    fn each(&self, each: &mut dyn FnMut(Found) -> Result<()>) -> Result<()> {
        let cannot = |error: std::io::Error| {
            Error::Surroundings(format!("cannot read `{}`: {error}", self.path.display()))
        };
        let file = File::open(&self.path).map_err(cannot)?;
        let mut lines = BufReader::new(file.take(self.bytes));
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut lines).take(LINE_BYTES).read_until(b'\n', &mut line).map_err(cannot)?;
            if read == 0 {
                break;
            }
            if read as u64 == LINE_BYTES {
                return Err(Error::Surroundings(format!(
                    "line {number} of `{}` is longer than any dead letter",
                    self.path.display()
                )));
            }
            each(letter_of(&line, number).map_or(Found::Foreign, |letter| Found::Letter(letter.into())))?;
        }
        Ok(())
    }

    fn find(&self, id: Id) -> Result<Option<Letter>> {
        let mut wanted = None;
        self.each(&mut |found| {
            if let Found::Letter(letter) = found
                && letter.id == id
            {
                wanted = Some(*letter);
            }
            Ok(())
        })?;
        Ok(wanted)
    }
}

fn letter_of(line: &[u8], number: i64) -> Option<Letter> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let payload = match (line.payload, line.payload_base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(text)) => BASE64_STANDARD.decode(text).ok()?,
        (None, None) => return None,
    };
    Some(Letter {
        id: Id::Row(number),
        pipeline: line.pipeline,
        rule: line.rule,
        rule_version: line.rule_version,
        reason: line.reason,
        detail: line.detail,
        source_topic: line.source_topic,
        source_partition: line.source_partition,
        source_offset: line.source_offset,
        rejected_at_ms: line.rejected_at,
        payload,
        cut: None,
        replayed: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: i64, rejected_at_ms: i64) -> Letter {
        Letter {
            id: Id::Message(At { partition: 2, offset: number }),
            pipeline: "p".into(),
            rule: "validate".into(),
            rule_version: "abc".into(),
            reason: "price_jump".into(),
            detail: "a \"jump\"".into(),
            source_topic: "in".into(),
            source_partition: 2,
            source_offset: 40,
            rejected_at_ms,
            payload: b"{}".to_vec(),
            cut: None,
            replayed: None,
        }
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        for text in ["0:17", "12:0", "17"] {
            assert_eq!(text.parse::<Id>().unwrap().to_string(), text);
        }
        for text in ["", "-1", "0:", ":4", "0:-4", "-1:4", "a:1", "1:2:3", "99999999999:1", "x"] {
            let error = text.parse::<Id>().unwrap_err();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn a_filter_takes_what_fits_all_of_its_parts() {
        let all = Filter { pipeline: "p".into(), ..Filter::default() };
        let takes = |filter: &Filter| filter.takes(&letter(1, 1000));
        assert!(takes(&all));
        assert!(!takes(&Filter { pipeline: "q".into(), ..all.clone() }));
        let names = |name: &str| vec!["other".to_owned(), name.to_owned()];
        assert!(takes(&Filter { rules: names("validate"), reasons: names("price_jump"), ..all.clone() }));
        assert!(!takes(&Filter { rules: names("validate"), reasons: names("price"), ..all.clone() }));
        assert!(!takes(&Filter { source_topics: names("out"), ..all.clone() }));
        let between = |since, until| Filter { since_ms: Some(since), until_ms: Some(until), ..all.clone() };
        assert!(takes(&between(1000, 1001)));
        assert!(!takes(&between(1001, 2000)) && !takes(&between(0, 1000)));
    }

    #[test]
    fn the_newest_stay_and_are_marked() {
        let mut newest = Newest::new(2);
        for (number, time) in [(1, 50), (2, 10), (3, 50), (4, 20)] {
            newest.push(letter(number, time));
        }
        let replay = Replay { at_ms: 99, outcome: Outcome::Dropped };
        for offset in [2, 3, 7] {
            newest.mark(At { partition: 2, offset }, replay);
        }
        assert_eq!((newest.older, newest.times.len()), (2, 2));
        let left: Vec<_> =
            newest.into_letters().map(|letter| (letter.id.to_string(), letter.replayed)).collect();
        assert_eq!(left, [("2:1".to_owned(), None), ("2:3".to_owned(), Some(replay))]);
    }

    #[test]
    fn a_line_has_what_the_dead_letter_has_and_reads_back() {
        let mut letter = letter(17, 5);
        letter.payload = b"\xff\0".to_vec();
        letter.replayed = Some(Replay { at_ms: 9, outcome: Outcome::Written });
        letter.cut = Some(Cut { bytes: 100, sha256: None });
        let mut line = Vec::new();
        letter.append_line(&mut line);
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&json["id"], &json["payload_base64"]), (&"2:17".into(), &"/wA=".into()));
        assert_eq!((&json["replayed"], &json["replayed_at"]), (&"written".into(), &9.into()));
        assert_eq!(
            (&json["payload_bytes"], &json["payload_sha256"]),
            (&100.into(), &serde_json::Value::Null)
        );
        let read = letter_of(&line, 1).unwrap();
        assert_eq!(read, Letter { id: Id::Row(1), cut: None, replayed: None, ..letter });
        assert!(letter_of(b"{\"pipeline\":\"p\"}", 1).is_none());
    }
}
