//! What stops a pipeline. The variant is the exit code; the text is one sentence for whoever must act.

use std::process::ExitCode;
use std::sync::Arc;

/// A failure that ends a command.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Something failed while data was flowing: exit code 1.
    #[error("{0}")]
    Running(String),
    /// A file that the user wrote is wrong (a pipeline file, a component): exit code 2.
    #[error("{0}")]
    Files(String),
    /// The surroundings are wrong (a missing input, a locked database): exit code 3.
    #[error("{0}")]
    Surroundings(String),
    /// What was written since the last checkpoint does not count, or nobody knows whether it does: the lane goes
    /// back to what is known to be written and does the rest again. It ends no pipeline; exit code 1 if it
    /// nevertheless comes to that.
    #[error("{0}")]
    Rewind(String),
    /// A rule fails, and it is not its rows' fault: a version on probation is taken back, any other ends the pipeline with
    /// exit code 1. Nothing of the batch was written.
    #[error("the rule `{rule}` {what}")]
    Rule {
        /// The rule's name in the pipeline file.
        rule: Arc<str>,
        /// What it does, as the rest of a sentence.
        what: String,
    },
}

/// The result of everything that can end a command.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The exit code: 1 failed while running, 2 the files are wrong, 3 the surroundings are wrong.
    pub fn code(&self) -> u8 {
        match self {
            Error::Running(_) | Error::Rewind(_) | Error::Rule { .. } => 1,
            Error::Files(_) => 2,
            Error::Surroundings(_) => 3,
        }
    }

    /// The same failure with `context` (which pipeline, which rule) in front of its sentence.
    #[must_use]
    pub fn in_context(self, context: &str) -> Error {
        match self {
            Error::Running(text) => Error::Running(format!("{context}: {text}")),
            Error::Files(text) => Error::Files(format!("{context}: {text}")),
            Error::Surroundings(text) => Error::Surroundings(format!("{context}: {text}")),
            Error::Rewind(text) => Error::Rewind(format!("{context}: {text}")),
            Error::Rule { .. } => Error::Running(format!("{context}: {self}")),
        }
    }
}

impl From<&Error> for ExitCode {
    fn from(error: &Error) -> ExitCode {
        ExitCode::from(error.code())
    }
}
