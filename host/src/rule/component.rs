//! A rule's file: checked, compiled, and asked what it is. Everything that can be wrong with it is found
//! here, before the first row.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::Linker;

use super::bindings::TidegateRulePre;
use super::bindings::exports::tidegate::rule::rule as wire;
use super::engine::engine;
use super::instance::{self, CallError, Guest};
use crate::batch::Kind;
use crate::error::{Error, Result};
use crate::pipeline_file::Limits;

/// The interface that a rule exports.
const INTERFACE: &str = "tidegate:rule/rule@0.1.0";

/// The most columns that a rule reads, and that it writes: as many as a pipeline can have.
const COLUMNS_MAX: usize = 64;
/// The most reasons of a rule: each is a label of metrics.
const REASONS_MAX: usize = 64;
/// The longest name of a rule, column or reason.
const NAME_BYTES_MAX: usize = 64;
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
        let bytes = read(path, limits.file.0)?;
        let wrong = |what: String| Error::Files(format!("the component `{}` {what}", path.display()));
        refuse_what_is_no_component(&bytes).map_err(wrong)?;
        let sha256 = crate::batch::hex(&Sha256::digest(&bytes));
        let size_bytes = bytes.len() as u64;
        let compiled = compile(bytes, limits.compile.0).map_err(wrong)?;
        check_world(&compiled).map_err(wrong)?;
        // Nothing is linked: a rule imports nothing.
        let does_not_fit = |what: String| {
            wrong(format!("does not fit `{INTERFACE}`: {what}; build it against this contract"))
        };
        let linked = Linker::<Guest>::new(engine()?)
            .instantiate_pre(&compiled)
            .and_then(TidegateRulePre::new)
            .map_err(|error| does_not_fit(format!("{error:#}")))?;
        let answer = instance::describe(&linked, limits).map_err(|error| match error {
            CallError::Types(what) => does_not_fit(what),
            error => wrong(format!("failed when it was asked what it is: {error}")),
        })?;
        let description = description(answer).map_err(wrong)?;
        Ok(Component { description, sha256: sha256.into(), size_bytes, linked })
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
}

fn read(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let fault = |what: String| Error::Files(format!("the component `{}` {what}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => fault(
            "does not exist; `cargo xtask guests` builds the project's rules, `--guests` names their folder"
                .into(),
        ),
        _ => fault(format!("cannot be read: {error}")),
    })?;
    if !metadata.is_file() {
        return Err(fault("is not a file".into()));
    }
    if metadata.len() > limit_bytes {
        return Err(fault(format!(
            "has {} bytes, but `limits.file` allows {limit_bytes}; raise it if the rule is meant to be that large",
            metadata.len()
        )));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    std::fs::File::open(path)
        .and_then(|file| file.take(limit_bytes + 1).read_to_end(&mut bytes))
        .map_err(|error| fault(format!("cannot be read: {error}")))?;
    Ok(bytes)
}

/// The first eight bytes tell a component from a core module and from anything else.
fn refuse_what_is_no_component(bytes: &[u8]) -> std::result::Result<(), String> {
    match bytes {
        [] => Err("is empty".into()),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(
            "is a core WebAssembly module, not a component; `cargo xtask guests` makes components, as does `wasm-tools component new`"
                .into(),
        ),
        [0, b'a', b's', b'm', ..] => Err("is WebAssembly of a version that this host does not know".into()),
        _ => Err("is not WebAssembly".into()),
    }
}

/// Compiles on a thread of its own, so that a file that is made to compile for ever ends with a sentence.
fn compile(bytes: Vec<u8>, limit: Duration) -> std::result::Result<wasmtime::component::Component, String> {
    let engine = engine().map_err(|error| error.to_string())?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        // The receiver is gone when the time was over; then nobody wants the answer.
        let _ = sender.send(wasmtime::component::Component::new(engine, &bytes));
    };
    std::thread::Builder::new()
        .name("rule-compiler".into())
        .spawn(work)
        .map_err(|error| format!("cannot be compiled: {error}"))?;
    match receiver.recv_timeout(limit) {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(error)) => Err(format!("is not valid: {error:#}")),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(format!("took more than `limits.compile` ({} s) to compile", limit.as_secs_f64()))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("made the compiler fail".into()),
    }
}

/// Imports nothing, exports the interface.
fn check_world(component: &wasmtime::component::Component) -> std::result::Result<(), String> {
    let engine = engine().map_err(|error| error.to_string())?;
    let world = component.component_type();
    let imports: Vec<&str> = world.imports(engine).map(|(name, _)| name).collect();
    if !imports.is_empty() {
        return Err(format!(
            "imports {}, but a rule imports nothing: no clock, no files, no network",
            quoted(&imports)
        ));
    }
    let exports: Vec<&str> = world.exports(engine).map(|(name, _)| name).collect();
    if exports.contains(&INTERFACE) {
        return Ok(());
    }
    match exports.iter().find(|name| name.starts_with("tidegate:rule/rule@")) {
        Some(other) => Err(format!(
            "was built for `{other}`, but this host speaks `{INTERFACE}`; build it again with this host's `wit/rule.wit`"
        )),
        None if exports.is_empty() => Err(format!("exports nothing, but a rule exports `{INTERFACE}`")),
        None => Err(format!(
            "is a component of another world: it exports {}, but a rule exports `{INTERFACE}`",
            quoted(&exports)
        )),
    }
}

/// At most five names: a hostile file can have thousands.
fn quoted(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{}`", name.escape_debug())).collect();
    let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
    shown.join(", ") + &more
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

fn check_names(what: &str, names: &[&str], max: usize) -> std::result::Result<(), String> {
    if names.len() > max {
        return Err(format!("{what} is one of {}, at most {max} are allowed", names.len()));
    }
    names.iter().try_for_each(|name| check_name(what, name, "_"))?;
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(**name)) {
        Some(twice) => Err(format!("{what} is named twice: `{twice}`")),
        None => Ok(()),
    }
}

fn check_name(what: &str, name: &str, marks: &str) -> std::result::Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || marks.contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
        return Err(format!(
            "{what} is `{}`, but it must have 1 to {NAME_BYTES_MAX} of `a-z 0-9 {marks}`",
            shown.escape_debug()
        ));
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
