//! Rejected rows with their original bytes, and why they were rejected.
//!
//! - `letters`: what is stored, wherever it is, and which of it is asked for
//! - `topic`: what is stored in Kafka
//! - `replay`: stored rows once more through the rules

pub mod letters;
pub mod replay;
pub mod topic;

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::batch::{Payload, RawBatch, Reject};
use crate::error::{Error, Result};
use crate::sink::appended::AppendedFile;
use crate::sink::json;

/// The headers of rows and dead letters in Kafka, of the markers that say which of these were replayed, and of replayed
/// rows.
pub mod header {
    /// In a row: the versions of the rules that have decided it, such as `validate=1f0c33a9d2b4 dedup=77ab01ce5f20`.
    pub const RULE_VERSIONS: &str = "tidegate-rule-versions";
    /// Name of the pipeline.
    pub const PIPELINE: &str = "tidegate-pipeline";
    /// The rule that rejected the row.
    pub const RULE: &str = "tidegate-rule";
    /// What decided: SHA-256 of the rule's component, or the host's version.
    pub const RULE_VERSION: &str = "tidegate-rule-version";
    /// One of the rule's reasons.
    pub const REASON: &str = "tidegate-reason";
    /// What is wrong, for a person.
    pub const DETAIL: &str = "tidegate-detail";
    /// Where the row is from.
    pub const SOURCE_TOPIC: &str = "tidegate-source-topic";
    /// Where the row is from.
    pub const SOURCE_PARTITION: &str = "tidegate-source-partition";
    /// Where the row is from.
    pub const SOURCE_OFFSET: &str = "tidegate-source-offset";
    /// Milliseconds since 1970.
    pub const REJECTED_AT: &str = "tidegate-rejected-at";
    /// How many bytes the row has, where the message has only its beginning.
    pub const PAYLOAD_BYTES: &str = "tidegate-payload-bytes";
    /// SHA-256 of all bytes of the row, where the sink has cut it.
    pub const PAYLOAD_SHA256: &str = "tidegate-payload-sha256";
    /// In a marker: partition and offset of the dead letter that was replayed, with `:` between them.
    pub const REPLAYED: &str = "tidegate-replayed";
    /// In a marker: milliseconds since 1970.
    pub const REPLAYED_AT: &str = "tidegate-replayed-at";
    /// In a marker: `written` or `dropped`.
    pub const OUTCOME: &str = "tidegate-outcome";
    /// In a replayed row: topic, partition and offset of its dead letter, with `/` between them.
    pub const REPLAYED_FROM: &str = "tidegate-replayed-from";
}

/// A rejected row as it is stored: the original bytes untouched, and beside them where they are from and why
/// they were rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// Name of the pipeline.
    pub pipeline: &'a str,
    /// The rejected row.
    pub reject: Cow<'a, Reject>,
    /// Topic, or the file as the pipeline file names it.
    pub topic: &'a str,
    /// Partition number.
    pub partition: i32,
    /// The row's position; a file's first row has 0.
    pub offset: u64,
    /// The row's original bytes; of a row that came as columns, its JSON.
    pub payload: Cow<'a, [u8]>,
    /// How many bytes the row has at its source, which keeps only the beginning of one that is too long.
    pub whole_bytes: u64,
    /// When the host read the batch, milliseconds since 1970.
    pub rejected_at_ms: i64,
}

impl<'a> DeadLetter<'a> {
    /// The dead letter of `reject`, a row of `raw`.
    pub fn new(pipeline: &'a str, raw: &'a RawBatch, reject: Cow<'a, Reject>, now_ms: i64) -> DeadLetter<'a> {
        let (payload, cut_from) = match &raw.payload {
            Payload::Rows { bytes, rows } => {
                let row = &rows[reject.row as usize];
                (Cow::Borrowed(&bytes[row.start..row.end]), row.cut_from)
            }
            Payload::Columns { columns, .. } => {
                (Cow::Owned(json::row_of_any_type(columns, reject.row as usize)), None)
            }
        };
        DeadLetter {
            pipeline,
            topic: &raw.partition.topic,
            partition: raw.partition.number,
            offset: raw.offset(reject.row),
            reject,
            whole_bytes: cut_from.unwrap_or(payload.len() as u64),
            payload,
            rejected_at_ms: now_ms,
        }
    }

    /// Appends the dead letter as a line of JSON. Its bytes are the text `payload`, or `payload_base64` when
    /// they are not UTF-8.
    pub fn append_line(&self, out: &mut Vec<u8>) {
        let texts = [
            ("{\"pipeline\":", self.pipeline),
            (",\"rule\":", &self.reject.rule),
            (",\"rule_version\":", &self.reject.version),
            (",\"reason\":", &self.reject.reason),
            (",\"detail\":", &self.reject.detail),
            (",\"source_topic\":", self.topic),
        ];
        for (key, text) in texts {
            out.extend_from_slice(key.as_bytes());
            json::append_text(text, out);
        }
        let (partition, offset, at) = (self.partition, self.offset, self.rejected_at_ms);
        let numbers =
            format!(",\"source_partition\":{partition},\"source_offset\":{offset},\"rejected_at\":{at}");
        out.extend_from_slice(numbers.as_bytes());
        match std::str::from_utf8(&self.payload) {
            Ok(text) => {
                out.extend_from_slice(b",\"payload\":");
                json::append_text(text, out);
            }
            Err(_) => {
                out.extend_from_slice(b",\"payload_base64\":");
                json::append_text(&BASE64_STANDARD.encode(&self.payload), out);
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

/// JSON lines of dead letters outside of a database.
#[derive(Debug)]
pub enum DeadLetterLines {
    /// A file. Its rows count when the sink has committed its length, so it is exactly as full as the sink
    /// when the sink keeps positions.
    File(AppendedFile),
    /// Standard output. It cannot be taken back: rows of a batch that failed after this are written again.
    Stdout,
    /// Standard error, as standard output.
    Stderr,
}

impl DeadLetterLines {
    /// A file without positions: each run appends to what is there.
    pub fn append_to(path: &Path) -> Result<DeadLetterLines> {
        let mut file = AppendedFile::lock(path)?;
        let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        file.recover(Some(length))?;
        Ok(DeadLetterLines::File(file))
    }

    /// Writes dead letters. Those in a file do not count before [`DeadLetterLines::commit`] is given the
    /// length that this returns; it is 0 for the others.
    pub fn write<'d>(&mut self, rejected: impl IntoIterator<Item = &'d DeadLetter<'d>>) -> Result<u64> {
        let mut lines = Vec::new();
        for dead_letter in rejected {
            dead_letter.append_line(&mut lines);
        }
        match self {
            DeadLetterLines::File(file) => file.append(&lines),
            DeadLetterLines::Stdout => write_stdout(&lines).map(|()| 0),
            DeadLetterLines::Stderr => {
                write_stream(&mut std::io::stderr().lock(), "error", &lines).map(|()| 0)
            }
        }
    }

    /// What [`DeadLetterLines::write`] has written counts.
    pub fn commit(&mut self, bytes: u64) {
        if let DeadLetterLines::File(file) = self {
            file.commit(bytes);
        }
    }
}

/// Writes whole lines to standard output.
pub fn write_stdout(lines: &[u8]) -> Result<()> {
    write_stream(&mut std::io::stdout().lock(), "output", lines)
}

fn write_stream(stream: &mut impl Write, name: &str, lines: &[u8]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    stream.write_all(lines).and_then(|()| stream.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => {
            Error::Running(format!("standard {name} was closed by the program that read it"))
        }
        _ => Error::Running(format!("cannot write to standard {name}: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use serde_json::{Value, json};

    use super::{DeadLetter, write_stream};
    use crate::batch::{Partition, Payload, Position, RawBatch, RawRow, Reject};

    fn reject(row: u32) -> Reject {
        let (rule, version, reason) = ("validate".into(), "abc".into(), "price".into());
        Reject { row, rule, version, reason, detail: "open is \"-1\"".into() }
    }

    fn raw(payload: Payload) -> RawBatch {
        let partition = Partition { topic: "in.jsonl".into(), number: 3 };
        RawBatch { partition, payload, next: Position::default() }
    }

    fn line(dead_letter: &DeadLetter<'_>) -> Value {
        let mut out = Vec::new();
        dead_letter.append_line(&mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        assert!(!out.contains(&b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_line_has_the_original_bytes_and_where_they_are_from() {
        let row = |offset, start, end| RawRow { offset, start, end, cut_from: None };
        let rows = vec![row(40, 0, 4), row(41, 5, 9)];
        let raw = raw(Payload::Rows { bytes: b"{\"\n}\n\xff\0\x80a\n".to_vec(), rows });
        let first = DeadLetter::new("p", &raw, Cow::Owned(reject(0)), 5);
        let expected = json!({
            "pipeline": "p", "rule": "validate", "rule_version": "abc", "reason": "price",
            "detail": "open is \"-1\"", "source_topic": "in.jsonl", "source_partition": 3,
            "source_offset": 40, "rejected_at": 5, "payload": "{\"\n}"
        });
        assert_eq!(line(&first), expected);
        let second = line(&DeadLetter::new("p", &raw, Cow::Owned(reject(1)), 5));
        assert_eq!((&second["payload_base64"], &second["source_offset"]), (&json!("/wCAYQ=="), &json!(41)));
        assert_eq!(second.get("payload"), None);
    }

    #[test]
    fn a_row_of_columns_is_kept_as_json() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let columns = RecordBatch::try_from_iter([("open", column)]).unwrap();
        let raw = raw(Payload::Columns { columns, first_offset: 100 });
        let dead_letter = DeadLetter::new("p", &raw, Cow::Owned(reject(1)), 5);
        assert_eq!((&*dead_letter.payload, dead_letter.offset), (&b"{\"open\":2}"[..], 101));
    }

    #[test]
    fn a_reader_that_went_away_is_said_so() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        drop(reader);
        let error = write_stream(&mut writer, "output", b"row\n").unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("was closed by the program")), (1, true));
        assert!(write_stream(&mut writer, "output", b"").is_ok());
    }
}
