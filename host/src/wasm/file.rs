//! A component's file: read, checked and compiled, whatever its contract.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, InstancePre, Linker};

use super::call::Guest;
use super::engine::engine;
use crate::error::{Error, Result};
use crate::pipeline_file::Limits;

/// The longest name of a component, a column, a reason or an exchange.
const NAME_BYTES_MAX: usize = 64;

/// A contract that a component can be written for.
#[derive(Debug, Clone, Copy)]
pub struct Contract {
    /// The interface that a component exports.
    pub interface: &'static str,
    /// What such a component is, with its article.
    pub what: &'static str,
}

/// A component that exports the interface of its contract and imports nothing.
#[derive(Clone)]
pub struct File {
    /// Compiled.
    pub component: Component,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: Arc<str>,
    /// Size of the file.
    pub size_bytes: u64,
    /// The file.
    pub bytes: Arc<[u8]>,
}

impl Contract {
    fn unversioned(&self) -> &'static str {
        self.interface.split('@').next().unwrap_or(self.interface)
    }

    /// What is wrong with a component whose functions are others.
    pub fn does_not_fit(&self, what: &str) -> String {
        format!(
            "does not fit `{}`: {what}; `tidegate build` builds a project for this contract",
            self.interface
        )
    }
}

impl File {
    /// Whether it exports the interface of a contract, of whatever version.
    pub fn is_for(&self, contract: &Contract) -> bool {
        let Ok(engine) = engine() else { return false };
        let unversioned = contract.unversioned();
        let world = self.component.component_type();
        world.exports(engine).any(|(name, _)| name.split('@').next() == Some(unversioned))
    }

    /// Whether it imports nothing and exports the interface of a contract.
    ///
    /// # Errors
    /// [`Error::Files`] with what the file at `path` is instead of a component of the contract.
    pub fn check(&self, path: &Path, contract: &Contract) -> Result<()> {
        check_world(&self.component, contract).map_err(|what| wrong(path, &what))
    }
}

/// Reads and compiles a component, whatever its contract.
///
/// # Errors
/// [`Error::Files`] with what the file is instead of a component.
pub fn open(path: &Path, limits: &Limits) -> Result<File> {
    of_bytes(path, read(path, limits.file.0)?.into(), limits)
}

/// Compiles a component that has been read already; `path` is what it is called. Errors as for [`open`].
pub fn of_bytes(path: &Path, bytes: Arc<[u8]>, limits: &Limits) -> Result<File> {
    let wrong = |what: String| wrong(path, &what);
    refuse_what_is_no_component(&bytes).map_err(wrong)?;
    let component = compile(Arc::clone(&bytes), limits.compile.0).map_err(wrong)?;
    Ok(File { component, sha256: sha256(&bytes).into(), size_bytes: bytes.len() as u64, bytes })
}

/// SHA-256 of a file in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    crate::batch::hex(&Sha256::digest(bytes))
}

/// A sentence about a component.
pub fn wrong(path: &Path, what: &str) -> Error {
    Error::Files(format!("the component `{}` {what}", path.display()))
}

/// Links nothing: a component imports nothing.
pub fn link(component: &Component) -> wasmtime::Result<InstancePre<Guest>> {
    let engine = engine().map_err(|error| wasmtime::format_err!("{error}"))?;
    Linker::<Guest>::new(engine).instantiate_pre(component)
}

/// The content of a component's file, when it is not larger than that.
pub fn read(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let fault = |what: String| wrong(path, &what);
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
            "is a core WebAssembly module, not a component; `tidegate build` makes components, as does `wasm-tools component new`"
                .into(),
        ),
        [0, b'a', b's', b'm', ..] => Err("is WebAssembly of a version that this host does not know".into()),
        _ => Err("is not WebAssembly".into()),
    }
}

/// Compiles on a thread of its own, so that a file that is made to compile for ever ends with a sentence.
fn compile(bytes: Arc<[u8]>, limit: Duration) -> std::result::Result<Component, String> {
    let engine = engine().map_err(|error| error.to_string())?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        // The receiver is gone when the time was over; then nobody wants the answer.
        let _ = sender.send(Component::new(engine, &bytes));
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
fn check_world(component: &Component, contract: &Contract) -> std::result::Result<(), String> {
    let Contract { interface, what } = contract;
    let engine = engine().map_err(|error| error.to_string())?;
    let world = component.component_type();
    let imports: Vec<&str> = world.imports(engine).map(|(name, _)| name).collect();
    if !imports.is_empty() {
        return Err(format!(
            "imports {}, but {what} imports nothing: no clock, no files, no network",
            quoted(&imports)
        ));
    }
    let exports: Vec<&str> = world.exports(engine).map(|(name, _)| name).collect();
    if exports.contains(interface) {
        return Ok(());
    }
    let unversioned = contract.unversioned();
    match exports.iter().find(|name| name.split('@').next() == Some(unversioned)) {
        Some(other) => Err(format!(
            "was built for `{other}`, but this host speaks `{interface}`; build it again with `tidegate build`"
        )),
        None if exports.is_empty() => Err(format!("exports nothing, but {what} exports `{interface}`")),
        None => Err(format!(
            "is a component of another world: it exports {}, but {what} exports `{interface}`",
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

/// Whether names are few enough, well formed and different. `what` is what each of them is.
pub fn check_names(what: &str, names: &[&str], max: usize) -> std::result::Result<(), String> {
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

/// Whether a name is 1 to 64 of `a-z 0-9` and `marks`.
pub fn check_name(what: &str, name: &str, marks: &str) -> std::result::Result<(), String> {
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
