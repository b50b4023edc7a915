//! What is wrong in a pipeline file, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A place in a file, counted from 1 as editors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Mark {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One thing that is wrong in a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The pipeline file, as the user named it.
    pub file: PathBuf,
    /// Where; absent when it is about the file as a whole.
    #[serde(flatten)]
    pub mark: Option<Mark>,
    /// What is wrong and what to do, in one sentence.
    pub message: String,
}

impl Finding {
    /// A finding about the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Finding {
        Finding { file: file.into(), mark: None, message: message.into() }
    }

    /// A finding about a place in the file.
    pub fn at(file: &Path, mark: Mark, message: impl Into<String>) -> Finding {
        Finding { file: file.into(), mark: Some(mark), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mark {
            Some(mark) => {
                write!(f, "{}:{}:{}: {}", self.file.display(), mark.line, mark.column, self.message)
            }
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

/// The known name that the user probably meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Below 0.75 two short words have little more than their first letter in common.
    const ALIKE: f64 = 0.75;
    known
        .into_iter()
        .map(|candidate| (likeness(name, candidate), candidate))
        .filter(|(score, _)| *score >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// How alike two words are, 0 to 1. A word that continues the other after an underscore is meant.
fn likeness(name: &str, candidate: &str) -> f64 {
    let name = name.to_lowercase().replace('-', "_");
    let continues = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.starts_with('_'))
            || long.strip_suffix(short).is_some_and(|rest| rest.ends_with('_'))
    };
    if continues(&name, candidate) || continues(candidate, &name) {
        return 0.9;
    }
    strsim::normalized_damerau_levenshtein(&name, candidate).max(if name.len() > 2 {
        strsim::jaro_winkler(&name, candidate) - 0.1
    } else {
        0.0
    })
}

/// Words as a list in backticks.
pub fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The end of a sentence about an unknown `name`: what was probably meant, otherwise what is known.
pub fn hint(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "nothing is allowed here".into(),
        None => format!("known are {}", list(known)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_nothing_far_is_offered() {
        let keys = ["name", "source", "decode", "rules", "sink", "dead_letter", "batch", "remember"];
        for (wrong, right) in [
            ("sorce", Some("source")),
            ("rule", Some("rules")),
            ("deadletter", Some("dead_letter")),
            ("dead-letter", Some("dead_letter")),
            ("Name", Some("name")),
            ("zzz", None),
            ("delivery", None),
        ] {
            assert_eq!(nearest(wrong, keys), right, "{wrong}");
        }
        assert_eq!(nearest("rows_max", ["rows", "bytes", "wait"]), Some("rows"));
    }
}
