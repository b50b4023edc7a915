//! Who may change something: whoever shows the token of the pipeline.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::pipeline_file::{Http, Loaded};
use crate::state;

/// A token has at least so many characters: what a person would think up can be guessed.
const CHARACTERS_MIN: usize = 16;

/// A token has at most so many bytes: it is a header.
const BYTES_MAX: u64 = 1024;

/// A token, as its hash.
#[derive(Debug, Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// The token of a pipeline: from the file that the pipeline file names, or from the state folder, where it is made
    /// the first time.
    ///
    /// # Errors
    /// [`Error::Surroundings`] when there is none, or it is too short.
    pub fn open(http: &Http, loaded: &Loaded, state: &Path) -> Result<Token> {
        let path = path(http, loaded, state);
        if http.token_file().is_none() && !path.exists() {
            make(&path)?;
        }
        read(&path).map(|text| Token::of(&text))
    }

    fn of(text: &str) -> Token {
        Token(Sha256::digest(text).into())
    }

    /// Whether what a client shows is the token. Hashes are compared, so the time it takes tells nothing.
    pub fn is(&self, shown: &str) -> bool {
        Token::of(shown).0 == self.0
    }
}

/// Where the token of a pipeline is.
fn path(http: &Http, loaded: &Loaded, state: &Path) -> PathBuf {
    match http.token_file() {
        Some(file) => loaded.folder.join(file),
        None => state.join("tokens").join(state::file_name(&loaded.pipeline.name)),
    }
}

/// The token that a client shows.
///
/// # Errors
/// [`Error::Surroundings`] when it cannot be read.
pub fn of_client(http: &Http, loaded: &Loaded, state: &Path) -> Result<String> {
    read(&path(http, loaded, state))
}

/// The token in a file, without what an editor leaves at its end.
///
/// # Errors
/// [`Error::Surroundings`] when it cannot be read, or is no token.
pub fn read(path: &Path) -> Result<String> {
    let wrong = |what: String| Error::Surroundings(format!("the token in `{}` {what}", path.display()));
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let token = text.trim();
    if text.len() as u64 > BYTES_MAX || token.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(wrong(format!("is no line of at most {BYTES_MAX} visible characters")));
    }
    if token.len() < CHARACTERS_MIN {
        return Err(wrong(format!(
            "has {} characters and needs at least {CHARACTERS_MIN}; `openssl rand -hex 32` makes one",
            token.len()
        )));
    }
    Ok(token.into())
}

/// Makes a token that only this user can read.
fn make(path: &Path) -> Result<()> {
    let cannot = |error: std::io::Error| {
        Error::Surroundings(format!(
            "a token cannot be made in `{}`: {error}; give `http.token_file`, or another `--state`",
            path.display()
        ))
    };
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).map_err(cannot)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(cannot)?;
    }
    // Of two processes that begin at once one makes it, and the other reads it.
    let new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match new {
        Ok(mut file) => {
            std::io::Write::write_all(&mut file, crate::batch::hex(&random).as_bytes()).map_err(cannot)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(cannot(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_its_user_and_compared_whole() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens/p");
        make(&path).unwrap();
        let text = read(&path).unwrap();
        make(&path).unwrap();
        assert_eq!((read(&path).unwrap(), text.len()), (text.clone(), 64));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let token = Token::of(&text);
        assert!(token.is(&text) && !token.is(&text[1..]) && !token.is(""));
    }

    #[test]
    fn what_is_no_token_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        for (content, words) in
            [("short", "has 5 characters"), ("", "has 0 characters"), ("two words in one line", "is no line")]
        {
            std::fs::write(&path, content).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.to_string().contains(words) && error.code() == 3, "{error}");
        }
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(read(&path).unwrap(), "0123456789abcdef");
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("cannot be read"));
    }
}
