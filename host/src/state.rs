//! Files of the state folder: what outlives a process and is no data. They are small, and replaced as a whole.
//!
//! - `exchanges/<exchange>.json`: until when an exchange wants no requests
//! - `ledgers/<pipeline>/<exchange>.json`: what is known of each series, for `tidegate gaps`
//! - `rules/<pipeline>/<instance>/`: which versions of rules run, and their components
//! - `tokens/<pipeline>`: the token of a pipeline whose file names none

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a file has; `None` when there is none, or it is no such file.
pub fn read<T: DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Replaces a file in one step.
pub fn replace(file: &Path, content: &impl Serialize) -> std::io::Result<()> {
    replace_bytes(file, &serde_json::to_vec(content)?)
}

/// Replaces a file in one step. Only its owner can read it.
pub fn replace_bytes(file: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(content)?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

/// A part of a file's name: what could be more than a name is `_`.
pub fn file_name(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = text.chars().map(|c| if safe(c) { c } else { '_' }).collect();
    // What begins with a point is hidden, or another folder.
    if name.starts_with('.') { name.replacen('.', "_", 1) } else { name }
}
