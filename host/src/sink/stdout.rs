//! Standard output: JSON lines, and no positions.

use std::path::Path;

use super::{Write, json, resolve};
use crate::dead_letter::{DeadLetterLines, write_stdout};
use crate::error::{Error, Result};
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
            Some(pipeline_file::DeadLetter::Sqlite(_)) => {
                return Err(Error::Files(
                    "`dead_letter.sqlite` needs `sink.sqlite`: give `dead_letter.file` or \
                     `dead_letter.stdout` beside `sink.stdout`"
                        .into(),
                ));
            }
        };
        Ok(StdoutSink { dead_letters })
    }

    /// Writes the dead letters and then the rows, each whole batch at once.
    pub fn write(&mut self, write: &Write<'_>) -> Result<()> {
        let length = self.dead_letters.write(write.rejected)?;
        self.dead_letters.commit(length);
        let mut lines = Vec::new();
        json::append_lines(write.kept, &mut lines);
        write_stdout(&lines)
    }
}
