//! Versions that outlive the process, in a folder of the state folder.
//!
//! `versions.json` says of each rule, or each exchange, which version runs, which was before it, and what the component
//! of the pipeline file was then; `<sha256>.wasm` beside it are the components. Nothing is written before the first version is replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Result};
use crate::pipeline_file::Limits;
use crate::state;
use crate::wasm;

/// What this program writes and reads.
const FORMAT: u32 = 1;

/// Versions that are kept of a rule or an exchange, with their components: the one that runs, the one before it, and some
/// to look at. Sixteen Python rules have 300 MiB.
pub const KEPT_MAX: usize = 16;

/// The versions of a pipeline's rules, or of its adapters, as one process of it keeps them.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
    /// Whether anything is written.
    is_kept: bool,
}

/// What `versions.json` has.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    format: u32,
    /// By the name in the pipeline file.
    #[serde(alias = "rules")]
    pub parts: BTreeMap<String, KeptPart>,
}

/// The versions of a rule or an exchange.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptPart {
    /// SHA-256 of the pipeline file's component when this was written: another one is newer than all of these.
    pub file: String,
    /// The version that runs.
    pub current: String,
    /// The version before it.
    pub previous: Option<String>,
    /// Until when the current version is on probation, milliseconds since 1970.
    pub probation_until_ms: Option<i64>,
    /// What is known of the versions, the newest last.
    pub versions: Vec<Record>,
}

/// What is known of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Record {
    /// SHA-256 of the component in hexadecimal.
    pub sha256: String,
    /// The component's own version.
    pub version: String,
    /// Where it came from.
    pub origin: Origin,
    /// When it last began to run, milliseconds since 1970.
    pub since_ms: i64,
    /// Why it was taken back, when it was.
    pub taken_back: Option<String>,
}

/// Where a version came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The component that the pipeline file names.
    File,
    /// `tidegate deploy`, or another user of the API.
    Api,
}

impl Shelf {
    /// Of one process of a pipeline, under this name in the state folder; written to only when `is_kept`.
    pub fn new(state: &Path, name: &str, pipeline: &str, instance: &str, is_kept: bool) -> Shelf {
        Shelf { folder: state.join(name).join(pipeline).join(state::file_name(instance)), is_kept }
    }

    /// What was kept; nothing when no version was ever replaced.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when it cannot be known which versions ran: the file is damaged, may not be read, or is
    /// from a newer program.
    pub fn read(&self) -> Result<Kept> {
        let path = self.index();
        let wrong = |what: String| {
            Error::Surroundings(format!(
                "`{}` says which versions run here, and {what}; remove it to begin with those of the pipeline file",
                path.display()
            ))
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        };
        /// Alone, because what stands beside it can be anything in another format.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        match serde_json::from_slice(&bytes) {
            Ok(Format { format: FORMAT }) => {}
            Ok(Format { format }) => {
                return Err(wrong(format!(
                    "is of format {format}, but this program knows {FORMAT}: it was written by another version of tidegate"
                )));
            }
            Err(error) => return Err(wrong(format!("is damaged: {error}"))),
        }
        serde_json::from_slice(&bytes).map_err(|error| wrong(format!("is damaged: {error}")))
    }

    /// Keeps what is known of the versions.
    ///
    /// # Errors
    /// A sentence about the folder.
    pub fn write(&self, parts: BTreeMap<String, KeptPart>) -> std::result::Result<(), String> {
        if !self.is_kept {
            return Ok(());
        }
        let path = self.index();
        state::replace(&path, &Kept { format: FORMAT, parts }).map_err(|error| self.cannot(&path, &error))
    }

    /// Keeps a component.
    ///
    /// # Errors
    /// A sentence about the folder.
    pub fn keep(&self, sha256: &str, component: &[u8]) -> std::result::Result<(), String> {
        let path = self.component(sha256);
        if !self.is_kept {
            return Ok(());
        }
        if std::fs::metadata(&path).is_ok_and(|found| found.len() == component.len() as u64) {
            return Ok(());
        }
        state::replace_bytes(&path, component).map_err(|error| self.cannot(&path, &error))
    }

    /// The component of a version that is kept.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when it is not there, or not what it was.
    pub fn open(&self, sha256: &str, limits: &Limits) -> Result<wasm::File> {
        let path = self.component(sha256);
        let file = wasm::open(&path, limits).map_err(|error| Error::Surroundings(error.to_string()))?;
        if &*file.sha256 != sha256 {
            return Err(Error::Surroundings(format!("`{}` is not what its name says", path.display())));
        }
        Ok(file)
    }

    /// Where a version's component is.
    pub fn component(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{sha256}.wasm"))
    }

    /// Removes the components of versions that nothing is known of any more.
    pub fn tidy(&self, parts: &BTreeMap<String, KeptPart>) {
        let known = |name: &str| {
            let Some(sha256) = name.strip_suffix(".wasm") else { return true };
            parts.values().any(|part| part.versions.iter().any(|record| record.sha256 == sha256))
        };
        if !self.is_kept {
            return;
        }
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !known(&entry.file_name().to_string_lossy()) {
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }

    fn index(&self) -> PathBuf {
        self.folder.join("versions.json")
    }

    fn cannot(&self, path: &Path, error: &std::io::Error) -> String {
        format!(
            "the version cannot be kept, so a restart would lose it: `{}` cannot be written: {error}; `--state` names another \
             folder",
            path.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path(), "rules", "validate", "host.example/../b", true);
        (folder, shelf)
    }

    fn one_part() -> BTreeMap<String, KeptPart> {
        let record = Record {
            sha256: "ab".into(),
            version: "1".into(),
            origin: Origin::Api,
            since_ms: 5,
            taken_back: None,
        };
        let part = KeptPart {
            file: "f".into(),
            current: "ab".into(),
            previous: Some("f".into()),
            probation_until_ms: Some(7),
            versions: vec![record],
        };
        BTreeMap::from([("validate".to_owned(), part)])
    }

    #[test]
    fn what_is_kept_is_read_again_and_other_components_are_removed() {
        let (folder, shelf) = shelf();
        assert!(shelf.read().unwrap().parts.is_empty());
        shelf.keep("ab", b"one").unwrap();
        shelf.keep("cd", b"two").unwrap();
        shelf.write(one_part()).unwrap();
        shelf.tidy(&one_part());
        assert_eq!(shelf.read().unwrap().parts, one_part());
        assert!(shelf.component("ab").is_file() && !shelf.component("cd").exists());
        assert!(shelf.component("ab").starts_with(folder.path().join("rules/validate/host.example_.._b")));
    }

    #[test]
    fn a_newer_format_and_a_damaged_file_are_said() {
        let (_folder, shelf) = shelf();
        shelf.write(one_part()).unwrap();
        for (content, words) in [
            (r#"{"format":2,"parts":[]}"#, "is of format 2, but this program knows 1"),
            ("{\"format\":1,", "is damaged"),
            (r#"{"format":1,"parts":{"a":5}}"#, "is damaged"),
        ] {
            std::fs::write(shelf.index(), content).unwrap();
            let error = shelf.read().unwrap_err();
            assert_eq!(error.code(), 3);
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
