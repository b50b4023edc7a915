//! The SDKs that projects carry in their folder `sdk`, and files that are part of this program.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde::Deserialize;
use toml::{Table, Value};

use crate::{Error, Language, Result};

/// Where a project has its SDK.
pub const FOLDER: &str = "sdk";

/// The crate `tidegate-guest`.
static RUST: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../guests/sdk");
/// The SDKs of the other languages, a folder each.
static OTHERS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/sdk");

const RULE_WIT: &str = include_str!("../../wit/rule.wit");
const EXCHANGE_WIT: &str = include_str!("../../wit/exchange.wit");
const WORKSPACE: &str = include_str!("../../Cargo.toml");
const LOCK: &str = include_str!("../../Cargo.lock");

/// What the templates in Rust depend on.
const DEPENDENCIES: [&str; 3] = ["schemars", "serde", "tidegate-guest"];

/// Where the crate finds the contracts in the workspace, and where in a project.
const CONTRACTS: (&str, &str) = ("\"../../wit/", "\"wit/");

/// Makes the SDK of the project in `folder` that of this version; gives how many files differed. Files that are not
/// part of it are left alone.
pub fn refresh(folder: &Path, language: Language) -> Result<usize> {
    let is_new = !folder.join(FOLDER).exists();
    let mut replaced = 0;
    for (path, text) in files(language) {
        let place = folder.join(FOLDER).join(path);
        if std::fs::read(&place).is_ok_and(|present| present == text.as_bytes()) {
            continue;
        }
        write(&place, &text)?;
        replaced += 1;
    }
    Ok(if is_new { 0 } else { replaced })
}

/// The SDK of a language, by paths below its folder.
fn files(language: Language) -> Vec<(PathBuf, String)> {
    let of_others = |folder| {
        let files = files_of(&OTHERS, folder).into_iter().map(|(path, text)| (path, text.to_owned()));
        files.chain([("rule.wit".into(), RULE_WIT.to_owned())]).collect()
    };
    match language {
        Language::Rust => rust(),
        Language::Javascript => of_others("javascript"),
        Language::Python => of_others("python"),
    }
}

fn rust() -> Vec<(PathBuf, String)> {
    let mut files: Vec<(PathBuf, String)> = (texts(&RUST).into_iter())
        .map(|(path, text)| {
            let text = match path == Path::new("Cargo.toml") {
                true => manifest(text),
                false => text.replace(CONTRACTS.0, CONTRACTS.1),
            };
            (path.to_owned(), text)
        })
        .collect();
    files.push(("wit/rule.wit".into(), RULE_WIT.to_owned()));
    files.push(("wit/exchange.wit".into(), EXCHANGE_WIT.to_owned()));
    files
}

/// The manifest of the crate with what it inherits from the workspace written out.
fn manifest(text: &str) -> String {
    let mut manifest: Table = text.parse().expect("the manifest of the SDK was read by cargo");
    let workspace: Table = WORKSPACE.parse().expect("the manifest of the workspace was read by cargo");
    let workspace = &workspace["workspace"];
    // They are about how the SDK itself is developed.
    manifest.remove("lints");
    if let Some(Value::Table(package)) = manifest.get_mut("package") {
        for (key, value) in package.iter_mut() {
            inherit(value, || &workspace["package"][key.as_str()]);
        }
    }
    inherit_dependencies(&mut manifest, &workspace["dependencies"]);
    toml::to_string(&manifest).expect("what was TOML can be written as TOML")
}

/// Writes out what the tables of dependencies inherit, also those for some targets only.
fn inherit_dependencies(manifest: &mut Table, workspace: &Value) {
    for (section, table) in manifest.iter_mut() {
        let Value::Table(table) = table else { continue };
        if section.ends_with("dependencies") {
            for (name, dependency) in table.iter_mut() {
                inherit(dependency, || &workspace[name.as_str()]);
            }
        } else if section == "target" {
            let targets = table.iter_mut().filter_map(|(_, target)| target.as_table_mut());
            targets.for_each(|target| inherit_dependencies(target, workspace));
        }
    }
}

/// Puts the workspace's value where there is `{ workspace = true, … }`, with the other keys there.
fn inherit<'a>(value: &mut Value, from: impl FnOnce() -> &'a Value) {
    let Some(table) = value.as_table_mut().filter(|table| table.contains_key("workspace")) else { return };
    table.remove("workspace");
    let more = std::mem::take(table);
    *value = match from() {
        all if more.is_empty() => all.clone(),
        Value::Table(all) => Value::Table(all.clone().into_iter().chain(more).collect()),
        version => Value::Table([("version".to_owned(), version.clone())].into_iter().chain(more).collect()),
    };
}

/// A package of a lock file.
#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Each as `name`, or as `name version` where there are several of the name.
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Package {
    fn is(&self, dependency: &str) -> bool {
        let mut words = dependency.split(' ');
        words.next() == Some(&self.name) && words.next().is_none_or(|version| version == self.version)
    }
}

/// The packages of this workspace's lock file that a project needs, each with its text.
fn locked() -> Vec<(Package, &'static str)> {
    const HEAD: &str = "[[package]]\n";
    let all: Vec<(Package, &str)> = (LOCK.split(HEAD).skip(1))
        .map(|text| (toml::from_str(text).expect("the lock file was written by cargo"), text.trim_end()))
        .collect();
    let mut wanted: VecDeque<&str> = DEPENDENCIES.into();
    let mut found = BTreeSet::new();
    while let Some(dependency) = wanted.pop_front() {
        let place = all.iter().position(|(package, _)| package.is(dependency));
        let place = place.expect("the lock file has every dependency");
        if found.insert(place) {
            wanted.extend(all[place].0.dependencies.iter().map(String::as_str));
        }
    }
    let is_found = all.into_iter().enumerate().filter(|(place, _)| found.contains(place));
    is_found.map(|(_, package)| package).collect()
}

/// Whether a project in Rust has a package of this name among those that it uses.
pub fn has_package(name: &str) -> bool {
    locked().iter().any(|(package, _)| package.name == name)
}

/// The lock file of a new project: the versions that this program was built with, so that a project builds the same
/// everywhere.
pub fn lock(project: &str) -> String {
    let head = LOCK.split_once("\n[[package]]").expect("the lock file has packages").0;
    let own = format!(
        "name = \"{project}\"\nversion = \"0.1.0\"\ndependencies = [\n{}]",
        DEPENDENCIES.map(|name| format!(" \"{name}\",\n")).concat()
    );
    let mut packages: Vec<(String, String)> =
        locked().into_iter().map(|(package, text)| (package.name, text.to_owned())).collect();
    packages.push((project.to_owned(), own));
    packages.sort_by(|(one, _), (other, _)| one.cmp(other));
    let packages = packages.into_iter().map(|(_, text)| format!("\n[[package]]\n{text}\n"));
    std::iter::once(format!("{head}\n")).chain(packages).collect::<String>()
}

/// The texts of one folder of `tree`, by their paths below it.
pub fn files_of(tree: &'static Dir<'static>, folder: &str) -> Vec<(PathBuf, &'static str)> {
    let folder = tree.get_dir(folder).expect("the folder is part of the program");
    let below = |path: &Path| path.strip_prefix(folder.path()).expect("it is in the folder").to_owned();
    texts(folder).into_iter().map(|(path, text)| (below(path), text)).collect()
}

fn texts(folder: &'static Dir<'static>) -> Vec<(&'static Path, &'static str)> {
    let files = folder.files().map(|file| (file.path(), file.contents_utf8().expect("all files are texts")));
    files.chain(folder.dirs().flat_map(texts)).collect()
}

/// Writes a file, and makes the folders above it.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::cannot("make", folder))?;
    std::fs::write(path, text).map_err(Error::cannot("write", path))
}

/// The texts of a folder of the file system, by their paths below it.
#[cfg(test)]
pub fn files_below(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in next.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(folder).unwrap().to_owned(), text));
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_the_crate_stands_alone() {
        let manifest: Table =
            manifest(RUST.get_file("Cargo.toml").unwrap().contents_utf8().unwrap()).parse().unwrap();
        let workspace: Table = WORKSPACE.parse().unwrap();
        let versions = &workspace["workspace"]["dependencies"];
        assert_eq!(manifest["package"]["name"].as_str(), Some("tidegate-guest"));
        assert_eq!(manifest["package"]["version"], workspace["workspace"]["package"]["version"]);
        assert!(!manifest.contains_key("lints"));
        let dependencies = manifest["dependencies"].as_table().unwrap();
        assert!(dependencies.contains_key("wit-bindgen"));
        for (name, dependency) in dependencies {
            assert_eq!(dependency, &versions[name.as_str()], "{name}");
        }
        assert!(!toml::to_string(&manifest).unwrap().contains("workspace"), "{manifest}");
    }

    #[test]
    fn what_is_beside_an_inherited_value_stays() {
        let inherited = |text: &str, from: &str| {
            let (mut value, from): (Table, Table) = (text.parse().unwrap(), from.parse().unwrap());
            inherit(&mut value["x"], || &from["x"]);
            toml::to_string(&value).unwrap()
        };
        assert_eq!(inherited("x.workspace = true", "x = '1'"), "x = \"1\"\n");
        assert_eq!(inherited("x = '2'", "x = '1'"), "x = \"2\"\n");
        assert_eq!(
            inherited("x = { workspace = true, optional = true }", "x = '1'"),
            "[x]\nversion = \"1\"\noptional = true\n"
        );
    }

    #[test]
    fn dependencies_of_some_targets_are_inherited_too() {
        let text = "[target.'cfg(not(target_family = \"wasm\"))'.dependencies]\njiff.workspace = true\n";
        let written: Table = manifest(text).parse().unwrap();
        let workspace: Table = WORKSPACE.parse().unwrap();
        let dependencies = &written["target"]["cfg(not(target_family = \"wasm\"))"]["dependencies"];
        assert_eq!(dependencies["jiff"], workspace["workspace"]["dependencies"]["jiff"]);
    }

    #[test]
    fn nothing_in_a_project_reaches_out_of_it() {
        for language in [Language::Rust, Language::Javascript, Language::Python] {
            for (path, text) in files(language) {
                let reaches_out = ["\"../../", "'../../"].iter().any(|above| text.contains(above));
                assert!(!reaches_out, "{}", path.display());
            }
        }
    }

    #[test]
    fn the_templates_ask_for_the_versions_of_the_workspace() {
        let workspace: Table = WORKSPACE.parse().unwrap();
        for template in ["rust", "exchange"] {
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(template).join("Cargo.toml");
            let manifest: Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
            for (name, dependency) in manifest["dependencies"].as_table().unwrap() {
                if name != "tidegate-guest" {
                    assert_eq!(dependency, &workspace["workspace"]["dependencies"][name.as_str()], "{name}");
                }
            }
        }
    }

    #[test]
    fn the_lock_file_has_what_a_project_needs_and_nothing_else() {
        let lock: Table = lock("my-rule").parse().unwrap();
        let names: Vec<&str> = lock["package"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| package["name"].as_str().unwrap())
            .collect();
        for name in ["my-rule", "tidegate-guest", "serde_json", "wit-bindgen"] {
            assert!(names.contains(&name), "{name}");
        }
        for name in ["tidegate", "wasmtime", "rdkafka"] {
            assert!(!names.contains(&name), "{name}");
        }
        assert!(names.is_sorted());
    }

    #[test]
    fn an_sdk_is_refreshed_and_strangers_in_it_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refresh(folder.path(), Language::Python).unwrap(), 0, "it is new");
        let sdk = folder.path().join(FOLDER);
        std::fs::write(sdk.join("rule.wit"), "package tidegate:rule@0.0.1;").unwrap();
        std::fs::remove_file(sdk.join("tidegate.py")).unwrap();
        std::fs::write(sdk.join("mine.py"), "").unwrap();
        assert_eq!(refresh(folder.path(), Language::Python).unwrap(), 2);
        assert_eq!(std::fs::read_to_string(sdk.join("rule.wit")).unwrap(), RULE_WIT);
        assert!(sdk.join("mine.py").is_file() && sdk.join("tidegate.py").is_file());
        assert_eq!(refresh(folder.path(), Language::Python).unwrap(), 0);
    }
}
