//! What can be wrong with a project, or with the machine.

use std::path::{Path, PathBuf};

/// A failure, as one sentence for whoever must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks a tool.
    #[error("this machine lacks {what}; run `{install}`")]
    Missing {
        /// What is missing, with its version.
        what: String,
        /// The line that installs it.
        install: String,
    },
    /// A project cannot have this name.
    #[error("`{name}` cannot be the name of a {kind}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What was to be made.
        kind: &'static str,
        /// What is wrong with the name.
        why: &'static str,
    },
    /// There is no template for this.
    #[error("an exchange adapter is written in Rust, not in {language}: leave `--lang` away")]
    NoTemplate {
        /// The language.
        language: &'static str,
    },
    /// The folder of a new project has something in it.
    #[error("`{}` is there and not empty, but a new project needs a folder of its own", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder is no project.
    #[error(
        "`{}` is no project: it has neither `Cargo.toml` nor `package.json` with `rule.js` nor `pyproject.toml` with \
         `rule.py`; `tidegate new rule NAME` makes one",
        folder.display()
    )]
    NoProject {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of the project is wrong.
    #[error("`{}` {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The fixtures are too large to be part of a component.
    #[error(
        "the fixtures have {bytes} bytes together, but at most {max} become part of a component; make them fewer"
    )]
    FixturesTooLarge {
        /// Their size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The project does not build; the tool has said why.
    #[error("the project does not build: `{command}` {end}")]
    Build {
        /// The command.
        command: String,
        /// How it ended, and what it said where that was not shown.
        end: String,
    },
    /// What was built does not become a component.
    #[error("what was built does not become a component: {0}")]
    NoComponent(String),
    /// The project's own tests failed; they have said why.
    #[error("the project's own tests failed: `{command}`")]
    Tests {
        /// The command.
        command: String,
    },
    /// A tool could not install what the project needs.
    #[error("`{command}` {end}")]
    Install {
        /// The command.
        command: String,
        /// How it ended, and what it said.
        end: String,
    },
    /// The file system refused something.
    #[error("cannot {action} `{}`: {error}", path.display())]
    Io {
        /// What was to be done, such as `write`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

/// The result of what can fail here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the machine is wrong rather than the project.
    pub fn is_of_the_machine(&self) -> bool {
        matches!(self, Error::Missing { .. } | Error::Install { .. } | Error::Io { .. })
    }

    /// Makes errors of an action on a path.
    pub(crate) fn cannot(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |error| Error::Io { action, path, error }
    }
}
