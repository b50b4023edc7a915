//! The component `ccxt`: the exchanges of CCXT, in JavaScript.
//!
//! The packages of npm lie beside the sources that import them, so both are laid into a folder below `target` and the
//! source tree stays clean. What takes long (installing, bundling, compiling) is done again only when something that
//! goes into it has changed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{output, packages, root, run, target_folder, write_if_changed};

/// The component's name, and that of its folder in `guests`.
const NAME: &str = "ccxt";

/// What npm needs to install the packages.
const PACKAGE_FILES: [&str; 2] = ["package.json", "package-lock.json"];
/// The scripts that make the component, and the folder of what becomes it.
const SCRIPTS: [&str; 2] = ["build.mjs", "describe.mjs"];
const SOURCES: &str = "src";
/// The contract, alone in its folder: the tool takes a folder for one package.
const CONTRACT: &str = "wit/exchange.wit";
const TESTS: &str = "test";

/// A file that goes into some work, by its path in the build folder.
struct Input {
    path: PathBuf,
    content: Vec<u8>,
}

/// Sees to it that the component is in `folder`, and says what it did.
pub fn build(folder: &Path) -> Result<()> {
    packages::for_node()?;
    let started = Instant::now();
    let stamp = Stamp::of("component.sha256", &lay_out()?);
    let component = build_folder().join(format!("{NAME}.wasm"));
    if !component.is_file() || !stamp.is_there() {
        let made = output(node().arg("build.mjs").arg(&component))?;
        eprintln!("guests: {NAME}: {made}");
        stamp.leave()?;
    }
    let content =
        std::fs::read(&component).with_context(|| format!("cannot read {}", component.display()))?;
    let path = folder.join(format!("{NAME}.wasm"));
    let state = if write_if_changed(&path, &content)? { "written" } else { "unchanged" };
    let (mib, took_s) = (content.len() >> 20, started.elapsed().as_secs_f64());
    eprintln!("guests: {} ({mib} MiB, {state}) in {took_s:.1} s", path.display());
    Ok(())
}

/// Runs the tests of the component's sources, outside of a component.
pub fn test() -> Result<()> {
    packages::for_node()?;
    lay_out()?;
    let files = files_of(&build_folder(), TESTS)?.into_iter();
    // Not the folder: what node makes of one differs from version to version.
    let tests = files.filter(|path| path.to_string_lossy().ends_with(".test.js"));
    run(node().args(["--test", "--test-reporter=spec"]).args(tests))
}

fn build_folder() -> PathBuf {
    target_folder().join("guests-build").join(NAME)
}

fn node() -> Command {
    let mut command = packages::node();
    command.current_dir(build_folder());
    command
}

/// Lays sources, tests and packages into the build folder, and gives what goes into the component.
fn lay_out() -> Result<Vec<Input>> {
    let guest = root().join("guests").join(NAME);
    let package_files = read(&guest, PACKAGE_FILES.map(PathBuf::from))?;
    let tests = read(&guest, files_of(&guest, TESTS)?)?;
    let mut component = read(&guest, SCRIPTS.map(PathBuf::from))?;
    component.extend(read(&guest, files_of(&guest, SOURCES)?)?);
    component.extend(read(&root(), [PathBuf::from(CONTRACT)])?);

    // A file that is no more in the source tree would still be imported, or tested.
    for folder in [SOURCES, TESTS].map(|folder| build_folder().join(folder)) {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    for Input { path, content } in package_files.iter().chain(&component).chain(&tests) {
        write_if_changed(&build_folder().join(path), content)?;
    }
    install(&package_files)?;
    component.extend(package_files);
    Ok(component)
}

/// Installs the packages of the lock file.
fn install(package_files: &[Input]) -> Result<()> {
    // In the folder that npm makes, so that it is gone when that is.
    let stamp = Stamp::of("node_modules/installed.sha256", package_files);
    if stamp.is_there() {
        return Ok(());
    }
    eprintln!("guests: installing the packages of {NAME} with npm");
    let mut npm = packages::npm();
    // None of the packages needs a script of its own to be run, so none may.
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    output(npm.current_dir(build_folder()))?;
    stamp.leave()
}

/// A file in the build folder that says with what some work was done, once it is done.
struct Stamp {
    path: PathBuf,
    sha256: String,
}

impl Stamp {
    fn of(name: &str, inputs: &[Input]) -> Stamp {
        let mut hash = Sha256::new();
        for Input { path, content } in inputs {
            // With the lengths, so that the end of a file cannot pass for the begin of the next.
            for part in [path.as_os_str().as_encoded_bytes(), content] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Stamp { path: build_folder().join(name), sha256 }
    }

    fn is_there(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|present| present == self.sha256.as_bytes())
    }

    fn leave(&self) -> Result<()> {
        write_if_changed(&self.path, self.sha256.as_bytes())?;
        Ok(())
    }
}

/// Files by their paths below `folder`.
fn read(folder: &Path, paths: impl IntoIterator<Item = PathBuf>) -> Result<Vec<Input>> {
    let inputs = paths.into_iter().map(|path| {
        let place = folder.join(&path);
        let content = std::fs::read(&place).with_context(|| format!("cannot read {}", place.display()))?;
        Ok(Input { path, content })
    });
    inputs.collect()
}

/// The files of a folder without folders in it, by their paths below its parent and in the order of their names.
fn files_of(parent: &Path, folder: &str) -> Result<Vec<PathBuf>> {
    let place = parent.join(folder);
    let entries = std::fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
    let mut files =
        entries.map(|entry| Ok(Path::new(folder).join(entry?.file_name()))).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(inputs: &[(&str, &str)]) -> String {
        let input =
            |(path, content): &(&str, &str)| Input { path: path.into(), content: content.as_bytes().into() };
        Stamp::of("any", &inputs.iter().map(input).collect::<Vec<_>>()).sha256
    }

    #[test]
    fn a_stamp_changes_with_whatever_it_is_of() {
        let stamps = [
            sha256(&[("a", "1"), ("b", "2")]),
            sha256(&[("a", "1"), ("b", "3")]),
            sha256(&[("a", "1"), ("c", "2")]),
            sha256(&[("a", "1b2")]),
            sha256(&[("a", "1")]),
        ];
        let different: std::collections::BTreeSet<_> = stamps.iter().collect();
        assert_eq!(different.len(), stamps.len());
        assert_eq!(sha256(&[("a", "1"), ("b", "2")]), stamps[0]);
    }

    #[test]
    fn what_goes_into_the_component_is_in_the_source_tree() {
        let guest = root().join("guests").join(NAME);
        for folder in [SOURCES, TESTS] {
            assert!(!files_of(&guest, folder).unwrap().is_empty());
        }
        for file in PACKAGE_FILES.iter().chain(&SCRIPTS) {
            assert!(guest.join(file).is_file(), "{file}");
        }
        assert!(root().join(CONTRACT).is_file());
    }
}
