//! A file that only grows, and whose committed length is kept elsewhere.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file whose bytes count only up to a committed length. What a crash has left behind that length is cut
/// off when the file is opened. One process at a time has it.
#[derive(Debug)]
pub struct AppendedFile {
    path: PathBuf,
    file: File,
    committed_bytes: u64,
}

impl AppendedFile {
    /// Opens or makes the file and locks it. `committed_bytes` is the length that was committed, `None` when
    /// nothing is known of the file: then it must be new or empty, because it is somebody else's otherwise.
    pub fn open(path: &Path, committed_bytes: Option<u64>) -> Result<AppendedFile> {
        let mut file = Self::lock(path)?;
        file.recover(committed_bytes)?;
        Ok(file)
    }

    /// Opens or makes the file and locks it, without looking at its length: [`AppendedFile::recover`] does.
    pub fn lock(path: &Path) -> Result<AppendedFile> {
        if path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            return Err(Error::Surroundings(format!(
                "`{}` is a device or a pipe, which cannot be cut to what was committed: give the path of a file",
                path.display()
            )));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| io_error("open", path, &error))?;
        lock(&file, path)?;
        Ok(AppendedFile { path: path.into(), file, committed_bytes: 0 })
    }

    /// Cuts the file to the length that was committed.
    pub fn recover(&mut self, committed_bytes: Option<u64>) -> Result<()> {
        let path = self.path.display();
        let length = self.file.metadata().map_err(|error| io_error("open", &self.path, &error))?.len();
        self.committed_bytes = match committed_bytes {
            None if length > 0 => {
                return Err(Error::Surroundings(format!(
                    "`{path}` exists already and nothing says that this pipeline wrote it: move it away, or \
                     give another path"
                )));
            }
            None => 0,
            Some(committed) if length < committed => {
                return Err(Error::Surroundings(format!(
                    "`{path}` has {length} bytes, but {committed} bytes were committed: put the whole file \
                     back, or remove what is left of it together with the positions to write everything again"
                )));
            }
            Some(committed) => committed,
        };
        self.cut_to_committed()
    }

    /// The same file for another reader: what is committed now, without the lock.
    pub fn for_reading(&self) -> Result<AppendedFile> {
        let file = File::open(&self.path).map_err(|error| io_error("open", &self.path, &error))?;
        Ok(AppendedFile { path: self.path.clone(), file, committed_bytes: self.committed_bytes })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes are committed.
    pub fn committed_bytes(&self) -> u64 {
        self.committed_bytes
    }

    /// Writes `bytes` behind the committed ones and waits until they are on the disk, because the length that
    /// is committed next must never promise more than the disk has. Returns that length; until
    /// [`AppendedFile::commit`] the bytes do not count.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        if bytes.is_empty() {
            return Ok(self.committed_bytes);
        }
        self.cut_to_committed()?;
        let written = self.file.seek(SeekFrom::Start(self.committed_bytes));
        let written = written.and_then(|_| self.file.write_all(bytes)).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => Ok(self.committed_bytes + bytes.len() as u64),
            Err(error) => {
                // Gives the space of a part of the rows back; when this fails too, the next opening does it.
                let _ = self.file.set_len(self.committed_bytes);
                Err(io_error("write", &self.path, &error))
            }
        }
    }

    /// From now on the file has `bytes`: somewhere else this length has been made durable.
    pub fn commit(&mut self, bytes: u64) {
        self.committed_bytes = bytes;
    }

    /// Reads a part of the file.
    pub fn read_at(&mut self, start: u64, into: &mut [u8]) -> Result<()> {
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(into));
        read.map_err(|error| io_error("read", &self.path, &error))
    }

    /// A reader of the committed bytes from `start` on.
    pub fn reader(&mut self, start: u64) -> Result<impl Read + '_> {
        self.file.seek(SeekFrom::Start(start)).map_err(|error| io_error("read", &self.path, &error))?;
        Ok((&mut self.file).take(self.committed_bytes - start))
    }

    fn cut_to_committed(&mut self) -> Result<()> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        let cut = length.and_then(|length| {
            if length > self.committed_bytes { self.file.set_len(self.committed_bytes) } else { Ok(()) }
        });
        cut.map_err(|error| io_error("truncate", &self.path, &error))
    }
}

/// Takes a file for this process alone.
pub fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Surroundings(format!(
            "`{}` is being written by another process: stop that one first, or give another path",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(io_error("lock", path, &error)),
    }
}

/// The failure of `doing` something with a file of a sink: a full disk happens while running, a path that
/// cannot be used is a fault of the surroundings.
pub fn io_error(doing: &str, path: &Path, error: &std::io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Running(format!(
            "cannot {doing} `{path}`: the disk is full; free some space and start again"
        )),
        ErrorKind::NotFound => Error::Surroundings(format!(
            "cannot {doing} `{path}`: its folder does not exist; make the folder, or give another path"
        )),
        ErrorKind::IsADirectory => {
            Error::Surroundings(format!("cannot {doing} `{path}`: it is a folder; give the path of a file"))
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::Surroundings(format!(
            "cannot {doing} `{path}`: this user may not write there ({error}); change the rights, or give \
             another path"
        )),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            Error::Surroundings(format!("cannot {doing} `{path}`: {error}; give another path"))
        }
        _ => Error::Running(format!("cannot {doing} `{path}`: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;

    use super::{AppendedFile, io_error};

    #[test]
    fn bytes_count_when_they_are_committed() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("rows");
        let mut file = AppendedFile::open(&path, None).unwrap();
        let first = file.append(b"first").unwrap();
        file.commit(first);
        assert_eq!(file.append(b"a long one that was not committed").unwrap(), 38);
        assert_eq!(file.append(b" two").unwrap(), 9);
        assert_eq!(std::fs::read(&path).unwrap(), b"first two");
        drop(file);
        assert_eq!(AppendedFile::open(&path, Some(5)).unwrap().committed_bytes(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
    }

    #[test]
    fn a_device_is_refused() {
        let error = AppendedFile::lock(Path::new("/dev/null")).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("is a device")), (3, true), "{error}");
    }

    #[test]
    fn each_failure_has_its_exit_code_and_sentence() {
        let cases = [
            (ErrorKind::StorageFull, 1, "the disk is full"),
            (ErrorKind::QuotaExceeded, 1, "the disk is full"),
            (ErrorKind::NotFound, 3, "its folder does not exist"),
            (ErrorKind::PermissionDenied, 3, "this user may not write there"),
            (ErrorKind::ReadOnlyFilesystem, 3, "this user may not write there"),
            (ErrorKind::NotADirectory, 3, "give another path"),
            (ErrorKind::Other, 1, "cannot write `out.jsonl`"),
        ];
        for (kind, code, sentence) in cases {
            let error = io_error("write", Path::new("out.jsonl"), &kind.into());
            assert_eq!((error.code(), error.to_string().contains(sentence)), (code, true), "{error}");
        }
    }
}
