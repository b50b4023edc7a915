//! The calls of the commands into the loop and the rules, in one place.

use std::path::{Path, PathBuf};

use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::{Limits, Loaded, Rule};
use crate::shutdown::Shutdown;
use crate::summary::{Progress, Summary};

/// How a pipeline is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Folder of the rules that are given by name.
    pub guests: PathBuf,
    /// The time that rules see, for tests and reproductions; the clock's when absent.
    pub now_ms: Option<i64>,
}

/// A column that a rule reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputColumn {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
    /// Whether the rule works without it.
    pub optional: bool,
}

/// What a rule says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// The columns that it reads.
    pub reads: Vec<InputColumn>,
    /// The columns that it writes.
    pub writes: Vec<(String, Kind)>,
    /// Why it rejects rows.
    pub reasons: Vec<String>,
    /// Whether it keeps anything between calls.
    pub remembers: bool,
    /// JSON Schema of its settings, or empty.
    pub settings: String,
}

/// A component's file and what it says.
#[derive(Debug, Clone)]
pub struct Component {
    /// What it says about itself.
    pub description: Description,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// What it imports.
    pub imports: Vec<String>,
}

/// Runs a pipeline to the end of its source or until the shutdown.
pub fn run(loaded: &Loaded, _: &RunOptions, _: &Shutdown, _: &Progress) -> Result<Summary> {
    Err(Error::Running(format!("the pipeline `{}` cannot run: the loop is absent", loaded.pipeline.name)))
}

/// Loads a component.
pub fn load(path: &Path, _: &Limits) -> Result<Component> {
    Err(Error::Files(format!("the component `{}` cannot be loaded: the engine is absent", path.display())))
}

/// Hands a rule its settings; an error is the rule's own sentence.
pub fn check_settings(_: &Component, _: &Rule) -> std::result::Result<(), String> {
    Ok(())
}
