//! A rule's file: checked, compiled, and asked what it is. Everything that can be wrong with it is found
//! here, before the first row.

use std::path::Path;
use std::sync::Arc;

use super::bindings::TidegateRulePre;
use super::bindings::exports::tidegate::rule::rule as wire;
use super::instance;
use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::{self, Limits};
use crate::wasm::{self, CallError, Contract, Guest, check_name, check_names};

/// What a rule exports.
pub const CONTRACT: Contract = Contract { interface: "tidegate:rule/rule@0.1.0", what: "a rule" };

/// The most columns that a rule reads, and that it writes: as many as a pipeline can have.
const COLUMNS_MAX: usize = 64;
/// The most reasons of a rule: each is a label of metrics.
const REASONS_MAX: usize = 64;
/// The longest sentence and schema that a rule may say about itself: enough for settings with many comments.
const TEXT_BYTES_MAX: usize = 256 << 10;

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
    /// Whether it keeps anything between calls with the settings of [`Component::configure`]; false before that.
    pub remembers: bool,
    /// JSON Schema of its settings, or empty.
    pub settings: String,
}

/// A rule's component, compiled.
#[derive(Clone)]
pub struct Component {
    /// What it says about itself.
    pub description: Description,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: Arc<str>,
    /// Size of the file.
    pub size_bytes: u64,
    pub(super) linked: TidegateRulePre<Guest>,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("name", &self.description.name).finish_non_exhaustive()
    }
}

impl Component {
    /// Reads, checks and compiles a component and asks it what it is.
    ///
    /// # Errors
    /// [`Error::Files`] with what the file is instead of a rule of this contract.
    pub fn load(path: &Path, limits: &Limits) -> Result<Component> {
        Component::of(path, wasm::open(path, limits)?, limits)
    }

    /// Checks the component of the file at `path` and asks it what it is. Errors as for [`Component::load`].
    pub fn of(path: &Path, file: wasm::File, limits: &Limits) -> Result<Component> {
        file.check(path, &CONTRACT)?;
        let wasm::File { component, sha256, size_bytes, .. } = file;
        let wrong = |what: String| wasm::wrong(path, &what);
        let does_not_fit = |what: String| wrong(CONTRACT.does_not_fit(&what));
        // Nothing is linked: a rule imports nothing.
        let linked = wasm::link(&component)
            .and_then(TidegateRulePre::new)
            .map_err(|error| does_not_fit(format!("{error:#}")))?;
        let answer = instance::describe(&linked, limits).map_err(|error| match error {
            CallError::Types(what) => does_not_fit(what),
            error => wrong(format!("failed when it was asked what it is: {error}")),
        })?;
        let description = description(answer).map_err(wrong)?;
        Ok(Component { description, sha256, size_bytes, linked })
    }

    /// Hands a new instance the settings, notes whether it remembers with them, and throws it away.
    ///
    /// # Errors
    /// The rule's own sentence about them, or how it failed.
    pub fn configure(
        &mut self,
        settings: &serde_json::Map<String, serde_json::Value>,
        limits: &Limits,
    ) -> std::result::Result<(), String> {
        let settings = serde_json::Value::Object(settings.clone()).to_string();
        let instance = instance::Instance::new(self, limits, &settings).map_err(|error| error.to_string())?;
        self.description.remembers = instance.remembers();
        Ok(())
    }

    /// The same with the settings and limits that a rule has in its pipeline file.
    ///
    /// # Errors
    /// [`Error::Files`] with the rule's name and its sentence.
    pub fn configure_for(&mut self, rule: &pipeline_file::Rule) -> Result<()> {
        self.configure(&rule.settings, &rule.limits).map_err(|sentence| {
            Error::Files(format!("the rule `{}` refuses its settings: {sentence}", rule.name))
        })
    }
}

fn description(answer: wire::Description) -> std::result::Result<Description, String> {
    let description = Description {
        name: answer.name,
        version: answer.version,
        summary: answer.summary,
        reads: (answer.reads.into_iter())
            .map(|column| InputColumn {
                name: column.name,
                kind: kind(column.kind),
                optional: column.optional,
            })
            .collect(),
        writes: answer.writes.into_iter().map(|column| (column.name, kind(column.kind))).collect(),
        reasons: answer.reasons,
        remembers: false,
        settings: answer.settings,
    };
    check_description(&description).map_err(|what| format!("describes itself wrongly: {what}"))?;
    Ok(description)
}

fn check_description(description: &Description) -> std::result::Result<(), String> {
    let Description { name, version, summary, reads, writes, reasons, settings, .. } = description;
    check_name("the rule's name", name, "-_")?;
    let reads: Vec<&str> = reads.iter().map(|column| column.name.as_str()).collect();
    let writes: Vec<&str> = writes.iter().map(|(name, _)| name.as_str()).collect();
    let reasons: Vec<&str> = reasons.iter().map(String::as_str).collect();
    check_names("a column that it reads", &reads, COLUMNS_MAX)?;
    check_names("a column that it writes", &writes, COLUMNS_MAX)?;
    check_names("a reason", &reasons, REASONS_MAX)?;
    for (what, text) in [("version", version), ("summary", summary), ("settings schema", settings)] {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("its {what} has {} bytes, at most {TEXT_BYTES_MAX} are allowed", text.len()));
        }
    }
    if !settings.is_empty()
        && !serde_json::from_str(settings).is_ok_and(|value: serde_json::Value| value.is_object())
    {
        return Err("its settings schema is not a JSON object".into());
    }
    Ok(())
}

fn kind(kind: wire::Kind) -> Kind {
    match kind {
        wire::Kind::Integer => Kind::Integer,
        wire::Kind::Float => Kind::Float,
        wire::Kind::Boolean => Kind::Boolean,
        wire::Kind::Timestamp => Kind::Timestamp,
        wire::Kind::Text => Kind::Text,
    }
}
