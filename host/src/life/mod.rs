//! The life of components in a running pipeline: of its rules, and of the adapters of its exchanges.
//!
//! - `lifecycle`: which versions should run: deploying, probation, and the way back
//! - `version`: a version of a component, and what it has done
//! - `candidate`: a version that is tried beside the one that decides
//! - `shelf`: versions that outlive the process
//! - `watch`: components' files that change
//!
//! What is particular to rules is in `rule/rules.rs` and `rule/stage.rs`, what is particular to adapters in
//! `source/exchange/adapters.rs` and in the collector.

mod candidate;
pub mod lifecycle;
mod shelf;
mod version;
pub mod watch;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;
use crate::wasm;

pub use candidate::{Candidate, Sample};
pub use lifecycle::{Lives, Outcome, Part, PartStatus, Refusal, VersionStatus, Wanted, short};
pub use shelf::Origin;
pub use version::{Decided, Version, lock, refused_rows_max};

/// A compiled component.
pub trait Code: Clone + Send + Sync + 'static {
    /// SHA-256 of the file in hexadecimal.
    fn sha256(&self) -> &Arc<str>;
    /// Its version, for people.
    fn version(&self) -> &str;
}

/// What has components that can be replaced: the rules of a pipeline, or its exchanges.
pub trait Kind: Send + Sync + 'static {
    /// Its compiled components.
    type Code: Code;
    /// What it is.
    const WHAT: What;
    /// Its folder in the state folder.
    const FOLDER: &'static str;

    /// Checks and compiles the component of a file for the part with this number in the pipeline file.
    ///
    /// # Errors
    /// What is wrong with it.
    fn load(&self, index: usize, path: &Path, file: wasm::File) -> Result<Self::Code>;

    /// Whether a candidate can take the place of the running version: `running` are those of all parts.
    ///
    /// # Errors
    /// Why not.
    fn check(
        &self,
        index: usize,
        file: &wasm::File,
        code: &Self::Code,
        running: &[Self::Code],
    ) -> std::result::Result<(), String>;

    /// Which of the followers run the part, of as many as there are.
    fn followers(&self, index: usize, all: usize) -> Range<usize>;
}

/// What is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A rule.
    Rule,
    /// The adapter of an exchange.
    Exchange,
}

impl What {
    /// In a message.
    pub fn name(self) -> &'static str {
        match self {
            What::Rule => "rule",
            What::Exchange => "exchange",
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
