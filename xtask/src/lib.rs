//! The project's chores. Each module is one command of `cargo xtask`, or what several of them need; the tests of
//! the workspace call some of them as functions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub mod attached;
pub mod bench;
pub mod ccxt;
pub mod chaos;
pub mod clickhouse;
pub mod detached;
pub mod e2e;
pub mod guests;
pub mod kafka;
pub mod kit;
pub mod lint;
pub mod packages;
pub mod postgres;
pub mod quickstart;
pub mod sample;
pub mod services;
pub mod test;

/// Something that whoever runs the command must install or correct first: exit code 2.
#[derive(Debug)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// A command that has said itself what is wrong; only its exit code is left to pass on.
#[derive(Debug)]
pub struct Failed(pub u8);

impl std::fmt::Display for Failed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "exit code {}", self.0)
    }
}

impl std::error::Error for Failed {}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    // `cargo run` says at run time where the crate is, which stays right when the folder has been moved.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.join("../wit/rule.wit").is_file())
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    // A crate of the workspace lies one folder below its root.
    xtask.parent().map_or(xtask.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The `tidegate` binary of the dev profile.
pub fn tidegate_binary() -> PathBuf {
    target_folder().join("debug").join(format!("tidegate{}", std::env::consts::EXE_SUFFIX))
}

/// The cargo that runs this.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end; another exit code than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// What a command writes on standard output, without the white space at its end.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default().to_string_lossy();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    let words: Vec<_> = std::iter::once(program).chain(arguments).collect();
    format!("`{}`", words.join(" "))
}

/// Writes a file so that nobody ever sees half of it, and only when its content differs; says whether it did.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    let folder = path.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, content)?;
    readable_by_all(file.as_file())?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// Temporary files are for their owner alone; what replaces an ordinary file must not be.
#[cfg(unix)]
fn readable_by_all(file: &std::fs::File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}

#[cfg(not(unix))]
fn readable_by_all(_file: &std::fs::File) -> Result<()> {
    Ok(())
}

/// Installs packages where that is possible without asking anyone: as root, with apt-get. Says whether it did.
pub fn apt_install(packages: &[&str]) -> Result<bool> {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id == "0");
    let has_apt =
        Command::new("apt-get").arg("--version").output().is_ok_and(|answer| answer.status.success());
    if !is_root || !has_apt {
        return Ok(false);
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    eprintln!("installing {} with apt-get", packages.join(" and "));
    run(apt().arg("update"))?;
    // What apt-get says of each package it unpacks would hide the results of the command that needed it.
    let mut install = apt();
    install.args(["install", "-y", "--no-install-recommends"]).args(packages);
    output(&mut install)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_the_contract() {
        assert!(root().join("wit/rule.wit").is_file());
    }

    #[test]
    fn a_file_is_written_only_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/file");
        assert!(write_if_changed(&path, b"one").unwrap());
        assert!(!write_if_changed(&path, b"one").unwrap());
        assert!(write_if_changed(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn a_failed_command_says_what_it_was() {
        let error = run(Command::new("false").arg("--why")).unwrap_err();
        assert!(error.to_string().starts_with("`false --why` ended with"), "{error}");
    }
}
