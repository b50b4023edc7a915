//! JavaScript: `sdk/build.mjs` makes the component, with packages that npm installs from the lock file.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Error, Result, tool};

/// The oldest Node.js that the tools run on.
const NEEDED_NODE: u32 = 18;

/// What npm installs from.
const PACKAGE_FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// In the folder that npm makes: with what it was made.
const STAMP: &str = "node_modules/.tidegate";

/// Builds the project in a folder; gives its name and component.
pub fn build(folder: &Path, say: &dyn Fn(&str)) -> Result<(String, Vec<u8>)> {
    let name = name(folder)?;
    install(folder, say)?;
    say(&format!("building `{name}` with the engine of JavaScript"));
    tool::component_of(|out| {
        let mut command = Command::new("node");
        command.arg("sdk/build.mjs").arg(out).current_dir(folder);
        command
    })
    .map(|component| (name, component))
}

/// Installs the packages of the lock file, unless they are there.
pub fn install(folder: &Path, say: &dyn Fn(&str)) -> Result<()> {
    check_node()?;
    let mut wanted = Vec::new();
    for file in PACKAGE_FILES {
        let path = folder.join(file);
        wanted.extend(std::fs::read(&path).map_err(Error::cannot("read", &path))?);
    }
    let stamp = folder.join(STAMP);
    if std::fs::read(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    say("installing the packages of `package-lock.json` with npm, once");
    let mut npm = Command::new(NPM);
    // A package's own scripts are not run: none of the tools needs one.
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    tool::output(npm.current_dir(folder), tool::install_failed)?;
    std::fs::write(&stamp, wanted).map_err(Error::cannot("write", &stamp))
}

/// `node --test`.
pub fn tests() -> Result<Command> {
    check_node()?;
    let mut command = Command::new("node");
    command.arg("--test");
    Ok(command)
}

/// On Windows it is a script, and only its whole name is found.
const NPM: &str = if cfg!(windows) { "npm.cmd" } else { "npm" };

fn check_node() -> Result<()> {
    let version = tool::answer("node", &["--version"]).and_then(|answer| parse_version(&answer));
    if version.is_some_and(|version| version >= NEEDED_NODE) && tool::answer(NPM, &["--version"]).is_some() {
        return Ok(());
    }
    let install =
        if cfg!(target_os = "macos") { "brew install node" } else { "sudo apt-get install -y nodejs npm" };
    Err(Error::Missing {
        what: format!("Node.js {NEEDED_NODE} or newer with npm"),
        install: install.to_owned(),
    })
}

/// `v20.20.2` is 20.
fn parse_version(answer: &str) -> Option<u32> {
    answer.strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn name(folder: &Path) -> Result<String> {
    let path = folder.join("package.json");
    let text = std::fs::read(&path).map_err(Error::cannot("read", &path))?;
    let wrong = |what: String| Error::File { path: path.clone(), what };
    let package: Value =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    crate::project::checked_name(package["name"].as_str())
        .ok_or_else(|| wrong(crate::project::NAMELESS.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_node_is_read_from_what_it_says() {
        assert_eq!(parse_version("v18.20.4"), Some(18));
        assert_eq!(parse_version("node: not found"), None);
    }

    #[test]
    fn a_manifest_without_a_name_is_said() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", "{}", r#"{ "name": "../up" }"#] {
            std::fs::write(folder.path().join("package.json"), text).unwrap();
            assert!(matches!(name(folder.path()), Err(Error::File { .. })), "{text}");
        }
        std::fs::write(folder.path().join("package.json"), r#"{ "name": "up" }"#).unwrap();
        assert_eq!(name(folder.path()).unwrap(), "up");
    }
}
