//! Standard output: JSON lines, and no positions.

use std::path::Path;

use super::{Write, json, resolve};
use crate::dead_letter::{DeadLetterLines, write_stdout};
use crate::error::Result;
use crate::pipeline_file;

/// JSON lines on standard output. Dead letters go to standard error unless the pipeline file says otherwise.
pub struct StdoutSink {
    dead_letters: DeadLetterLines,
}

impl StdoutSink {
    /// Opens the dead letter. A file is appended to by each run, because no position says what a run before
    /// has written.
    pub fn open(dead_letter: Option<&pipeline_file::DeadLetter>, folder: &Path) -> Result<StdoutSink> {
        let dead_letters = match dead_letter {
            None => DeadLetterLines::Stderr,
            Some(pipeline_file::DeadLetter::Stdout(_)) => DeadLetterLines::Stdout,
            Some(pipeline_file::DeadLetter::File(file)) => {
                DeadLetterLines::append_to(&resolve(folder, &file.path))?
            }
            Some(_) => return Err(super::dead_letter_elsewhere("stdout")),
        };
        Ok(StdoutSink { dead_letters })
    }

    /// Writes the dead letters and then the rows, each whole batch at once.
    pub fn write(&mut self, write: &Write<'_>) -> Result<u64> {
        let length = self.dead_letters.write(write.rejected)?;
        self.dead_letters.commit(length);
        let mut lines = Vec::new();
        json::append_lines(write.kept, &mut lines);
        write_stdout(&lines)?;
        Ok(lines.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_rows::{at, minutes, open_sink, partition, pipeline, remember, write};

    #[test]
    fn nothing_is_kept_but_the_dead_letter_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let config = pipeline(r#"{ "stdout": {} }"#, Some(r#"{ "file": { "path": "bad.jsonl" } }"#));
        for lines in 1..3 {
            let mut sink = open_sink(&config, folder.path()).unwrap();
            write(&mut sink, 0, 1, &minutes(0..0), &[b"bad"]).unwrap();
            assert_eq!(sink.start(&partition()).unwrap().position.unwrap(), at(0));
            sink.read_back(0, &[], &remember(9, 9), &mut |_| panic!("nothing is read back")).unwrap();
            let text = std::fs::read_to_string(folder.path().join("bad.jsonl")).unwrap();
            assert_eq!(text.lines().count(), lines);
        }
    }

    #[test]
    fn a_table_of_dead_letters_needs_a_database() {
        let config = pipeline(r#"{ "stdout": {} }"#, Some(r#"{ "sqlite": {} }"#));
        let error = open_sink(&config, std::path::Path::new(".")).err().unwrap();
        assert_eq!((error.code(), error.to_string().contains("beside the rows of its own sink")), (2, true));
    }
}
