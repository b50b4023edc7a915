//! Projects: their templates, names, languages and fixtures.

use std::path::Path;

use include_dir::{Dir, include_dir};
use serde_json::{Map, Value};

use crate::{Error, Result, sdk};

/// A folder for each template, and the fixtures that the rules of all languages share.
static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");

/// Stands in the templates for the project's name.
const NAME_PLACEHOLDER: &str = "PROJECT_NAME";
/// Stands there for the id of an exchange, which has no `-`.
const ID_PLACEHOLDER: &str = "PROJECT_ID";

/// The folder of a project's fixtures.
const FIXTURES: &str = "fixtures";

/// As in the contract.
const NAME_BYTES_MAX: usize = 64;

/// What a project makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A rule.
    Rule,
    /// An exchange adapter.
    Exchange,
}

impl Kind {
    /// Its name in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Rule => "rule",
            Kind::Exchange => "exchange adapter",
        }
    }
}

/// What a project is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rust, told by `Cargo.toml`.
    Rust,
    /// JavaScript, told by `package.json`.
    Javascript,
    /// Python, told by `pyproject.toml`.
    Python,
}

impl Language {
    /// Its name in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Language::Rust => "Rust",
            Language::Javascript => "JavaScript",
            Language::Python => "Python",
        }
    }

    /// The language of the project in `folder`.
    ///
    /// # Errors
    /// [`Error::NoProject`].
    pub fn of(folder: &Path) -> Result<Language> {
        let has = |name: &str| folder.join(name).is_file();
        // Other tools have these manifests too, so the file of the rule must be there where there is a name for it.
        if has("Cargo.toml") {
            Ok(Language::Rust)
        } else if has("package.json") && has("rule.js") {
            Ok(Language::Javascript)
        } else if has("pyproject.toml") && has("rule.py") {
            Ok(Language::Python)
        } else {
            Err(Error::NoProject { folder: folder.to_owned() })
        }
    }
}

/// Makes a project called `name` in `folder`, which is made when it is absent.
///
/// # Errors
/// What is wrong with the name or the folder.
pub fn create(folder: &Path, kind: Kind, language: Language, name: &str) -> Result<()> {
    check_name(kind, name)?;
    let template = match (kind, language) {
        (Kind::Rule, Language::Rust) => "rust",
        (Kind::Rule, Language::Javascript) => "javascript",
        (Kind::Rule, Language::Python) => "python",
        (Kind::Exchange, Language::Rust) => "exchange",
        (Kind::Exchange, _) => return Err(Error::NoTemplate { language: language.name() }),
    };
    if folder.exists() && !is_empty_folder(folder) {
        return Err(Error::NotEmpty { folder: folder.to_owned() });
    }
    for (path, text) in sdk::files_of(&TEMPLATES, template) {
        let text = text.replace(NAME_PLACEHOLDER, name).replace(ID_PLACEHOLDER, &name.replace('-', "_"));
        sdk::write(&folder.join(path), &text)?;
    }
    if kind == Kind::Rule {
        for (path, text) in sdk::files_of(&TEMPLATES, FIXTURES) {
            sdk::write(&folder.join(FIXTURES).join(path), text)?;
        }
    }
    if language == Language::Rust {
        sdk::write(&folder.join("Cargo.lock"), &sdk::lock(name))?;
    }
    sdk::refresh(folder, language)?;
    Ok(())
}

fn is_empty_folder(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

/// A name is that of a folder, of a package in three ecosystems, and of a rule or an exchange.
fn check_name(kind: Kind, name: &str) -> Result<()> {
    let wrong = |why| Err(Error::Name { name: name.escape_debug().to_string(), kind: kind.name(), why });
    if !is_name(name) {
        return wrong("it must have 1 to 64 of `a-z 0-9 - _`");
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return wrong("it must begin with a letter");
    }
    if sdk::has_package(name) {
        return wrong("a package that every project in Rust uses is called so");
    }
    Ok(())
}

/// What a manifest lacks for which [`checked_name`] gives none.
pub const NAMELESS: &str = "names no project: `name` must have 1 to 64 of `a-z 0-9 - _`";

/// A name out of a manifest, which becomes that of a file.
pub fn checked_name(name: Option<&str>) -> Option<String> {
    name.filter(|name| is_name(name)).map(str::to_owned)
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(allowed)
}

/// The fixtures of a project, by the names of their files without `.json`; none when it has no such folder.
pub fn fixtures(folder: &Path) -> Result<Map<String, Value>> {
    let place = folder.join(FIXTURES);
    let mut fixtures = Map::new();
    if !place.is_dir() {
        return Ok(fixtures);
    }
    let entries = place.read_dir().map_err(Error::cannot("read", &place))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::cannot("read", &place))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    // The component's bytes must not depend on the order of a file system.
    paths.sort();
    for path in paths {
        let text = std::fs::read(&path).map_err(Error::cannot("read", &path))?;
        let fixture = serde_json::from_slice(&text)
            .map_err(|error| Error::File { path: path.clone(), what: format!("is not JSON: {error}") })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        fixtures.insert(name, fixture);
    }
    Ok(fixtures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Kind, Language); 4] = [
        (Kind::Rule, Language::Rust),
        (Kind::Rule, Language::Javascript),
        (Kind::Rule, Language::Python),
        (Kind::Exchange, Language::Rust),
    ];

    fn refused(kind: Kind, language: Language, name: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let error = create(&folder.path().join("new"), kind, language, name).unwrap_err();
        assert!(!folder.path().join("new").exists(), "{name}");
        error.to_string()
    }

    #[test]
    fn a_project_has_its_name_everywhere_and_is_of_its_language() {
        for (kind, language) in ALL {
            let folder = tempfile::tempdir().unwrap();
            create(folder.path(), kind, language, "my-rule_2").unwrap();
            assert_eq!(Language::of(folder.path()).unwrap(), language);
            for (path, text) in sdk::files_below(folder.path()) {
                let is_of_the_project = !path.starts_with("sdk") && !path.starts_with("Cargo.lock");
                assert!(!(is_of_the_project && text.contains("PROJECT_")), "{}", path.display());
            }
            assert!(
                std::fs::read_to_string(folder.path().join("README.md"))
                    .unwrap()
                    .starts_with("# my-rule_2\n")
            );
            assert_eq!(fixtures(folder.path()).unwrap().is_empty(), kind == Kind::Exchange);
        }
    }

    #[test]
    fn names_that_would_not_do_are_refused() {
        for name in ["", "My", "../up", "a/b", "a.b", "a b", &"a".repeat(65), "ä"] {
            let text = refused(Kind::Rule, Language::Rust, name);
            assert!(text.ends_with("it must have 1 to 64 of `a-z 0-9 - _`"), "{text}");
        }
        for name in ["1st", "-x", "_x"] {
            assert!(refused(Kind::Rule, Language::Python, name).ends_with("begin with a letter"), "{name}");
        }
        for name in ["serde", "tidegate-guest", "schemars"] {
            assert!(refused(Kind::Exchange, Language::Rust, name).contains("is called so"), "{name}");
        }
    }

    #[test]
    fn an_exchange_adapter_is_in_rust() {
        assert_eq!(
            refused(Kind::Exchange, Language::Python, "x"),
            "an exchange adapter is written in Rust, not in Python: leave `--lang` away"
        );
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "").unwrap();
        let error = create(folder.path(), Kind::Rule, Language::Rust, "x").unwrap_err();
        assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
        let error = create(&folder.path().join("mine"), Kind::Rule, Language::Rust, "x").unwrap_err();
        assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn fixtures_are_read_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        assert!(fixtures(folder.path()).unwrap().is_empty());
        for (name, text) in [("b.json", "{ \"rows\": [] }"), ("a.json", "{}"), ("notes.txt", "{")] {
            sdk::write(&folder.path().join(FIXTURES).join(name), text).unwrap();
        }
        assert_eq!(
            serde_json::to_string(&fixtures(folder.path()).unwrap()).unwrap(),
            r#"{"a":{},"b":{"rows":[]}}"#
        );
        sdk::write(&folder.path().join(FIXTURES).join("c.json"), "{").unwrap();
        let error = fixtures(folder.path()).unwrap_err().to_string();
        assert!(error.contains("c.json` is not JSON: EOF"), "{error}");
    }

    #[test]
    fn a_folder_of_something_else_is_no_project() {
        let folder = tempfile::tempdir().unwrap();
        sdk::write(&folder.path().join("package.json"), "{}").unwrap();
        let error = crate::build(folder.path(), &|_| {}).unwrap_err();
        assert!(error.to_string().contains("is no project"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
