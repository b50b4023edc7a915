//! Running other programs.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// How much of what a failed program has said is repeated: the cause is at the end.
const SAID_LINES_MAX: usize = 20;

/// Runs a command whose output is seen; `failed` makes the error out of the command as one would type it.
pub fn run(command: &mut Command, failed: impl FnOnce(String) -> Error) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(failed(shown(command))) }
}

/// Runs a command whose output is seen only when it fails; `failed` makes the error out of the command and its end.
pub fn output(command: &mut Command, failed: impl FnOnce(String, String) -> Error) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
    let said = said.join("\n");
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(SAID_LINES_MAX)..].join("\n");
    Err(failed(shown(command), format!("ended with {}\n{}", output.status, end.trim())))
}

/// The failure of a build.
pub fn build_failed(command: String, end: String) -> Error {
    Error::Build { command, end }
}

/// The failure of setting up.
pub fn install_failed(command: String, end: String) -> Error {
    Error::Install { command, end }
}

/// The component that a command writes to the path that it is made with.
pub fn component_of(command: impl FnOnce(&Path) -> Command) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().map_err(Error::cannot("make a folder in", &std::env::temp_dir()))?;
    let path = folder.path().join("component.wasm");
    output(&mut command(&path), build_failed)?;
    std::fs::read(&path).map_err(Error::cannot("read", &path))
}

/// What a program answers to `--version`-like arguments; None when it is not there or fails.
pub fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    Error::Install { command: shown(command), end: format!("cannot be started: {error}") }
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default().to_string_lossy();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}
