//! Files, standard input and pipes: lines of text, plain or compressed, and Parquet.

mod parquet_file;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::{CUT_BYTES, Limits, Plan};
use crate::batch::{Partition, Payload, Position, RawBatch, RawRow};
use crate::error::{Error, Result};
use crate::pipeline_file::{BatchLimits, Decode, Format};
use parquet_file::ParquetFile;

/// Bytes read at a time: large enough that a system call costs nothing beside them, small enough for the cache.
const BLOCK_BYTES: usize = 256 << 10;

/// Blocks that the thread of a pipe reads ahead: 4 MiB, one batch.
const BLOCKS_AHEAD: usize = 16;

/// What is read of each row for the fingerprint: a whole candle, and not all of a hostile file.
const FINGERPRINT_ROW_BYTES: usize = 64 << 10;

/// A file, standard input or a pipe.
pub struct FileSource {
    partition: Partition,
    name: String,
    limits: Limits,
    format: Format,
    next: Position,
    /// See [`super::Start::planned`].
    planned: Option<Plan>,
    input: Input,
}

enum Input {
    Lines(Box<Lines>),
    Parquet(Box<ParquetFile>),
}

impl FileSource {
    /// Opens the file `path`, which is relative to `folder`; `-` is standard input.
    pub fn open(path: &str, decode: &Decode, batch: &BatchLimits, folder: &Path) -> Result<FileSource> {
        let place = Place::find(path, folder)?;
        let name = place.name(path);
        let input = match decode.format {
            Format::Parquet => Input::Parquet(Box::new(ParquetFile::open(&place, &name)?)),
            Format::Json | Format::Ccxt | Format::Csv => {
                let lines = Lines::open(place, &name, head_rows(decode.format))?;
                check_packed(&lines.place, &name)?;
                Input::Lines(Box::new(lines))
            }
        };
        Ok(FileSource {
            partition: Partition { topic: path.into(), number: 0 },
            name,
            limits: Limits::new(batch, decode),
            format: decode.format,
            next: Position::default(),
            planned: None,
            input,
        })
    }

    /// See [`super::Start::planned`]; holds until the next seek. What was planned of a pipe cannot come again.
    pub fn set_planned(&mut self, planned: Option<Plan>) {
        self.planned = planned.filter(|_| self.is_resumable());
    }

    /// See [`super::Source::plan`].
    pub fn plan(&self) -> Option<Plan> {
        self.planned
    }

    /// The only partition: the file.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Whether it is a regular file.
    pub fn is_resumable(&self) -> bool {
        match &self.input {
            Input::Lines(lines) => lines.place.is_regular(),
            Input::Parquet(_) => true,
        }
    }

    /// Goes to `position` from the start of the file, wherever it has been read to.
    pub fn seek(&mut self, position: &Position) -> Result<()> {
        if !self.is_resumable() {
            return Ok(());
        }
        if position.next_offset > 0 && position.fingerprint.is_empty() {
            return Err(of_pipe(&self.name, position.next_offset));
        }
        match &mut self.input {
            Input::Lines(lines) => lines.seek(position, &self.name, head_rows(self.format), &self.limits)?,
            Input::Parquet(file) => file.seek(position, &self.name)?,
        }
        self.next = position.clone();
        self.planned = None;
        Ok(())
    }

    /// The first line of a CSV file that has been seeked past, unless it is longer than a row may be.
    pub fn header(&self) -> Option<&[u8]> {
        match &self.input {
            Input::Lines(lines) if self.format == Format::Csv => lines.header.as_deref(),
            Input::Lines(_) | Input::Parquet(_) => None,
        }
    }

    /// The next rows; empty when none came within `batch.wait`; `None` at the end.
    pub fn next_batch(&mut self) -> Result<Option<RawBatch>> {
        let first_offset = self.next.next_offset;
        let mut limits = self.limits;
        if let Some(left) =
            self.planned.map(|plan| plan.end.saturating_sub(first_offset)).filter(|left| *left > 0)
        {
            limits.rows = limits.rows.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        let payload = match &mut self.input {
            Input::Lines(lines) => lines.next_payload(first_offset, &limits),
            Input::Parquet(file) => file.next_payload(first_offset, &limits),
        };
        let Some(payload) = payload.map_err(|error| error.in_context(&self.name))? else {
            return Ok(None);
        };
        let mut batch = RawBatch { partition: self.partition.clone(), payload, next: Position::default() };
        self.next.next_offset += batch.len() as u64;
        if self.is_resumable() {
            self.next.fingerprint = match &self.input {
                Input::Lines(lines) => lines.fingerprint(),
                Input::Parquet(file) => file.fingerprint.clone(),
            };
        }
        batch.next = self.next.clone();
        Ok(Some(batch))
    }

    /// Bytes of the file read so far, and its size.
    pub fn progress(&self) -> (u64, Option<u64>) {
        match &self.input {
            Input::Lines(lines) => (lines.read.load(Ordering::Relaxed), lines.size()),
            Input::Parquet(file) => {
                let read = self.next.next_offset as f64 / file.rows.max(1) as f64;
                ((file.size as f64 * read) as u64, Some(file.size))
            }
        }
    }
}

/// The rows that the fingerprint is made of: all CSV files of an origin have the same header.
fn head_rows(format: Format) -> usize {
    if format == Format::Csv { 2 } else { 1 }
}

/// Where the bytes are.
#[derive(Debug, Clone)]
enum Place {
    Stdin,
    /// A regular file and its size when it was opened.
    Regular(PathBuf, u64),
    /// A pipe or a device: its bytes come when they come.
    Pipe(PathBuf),
}

impl Place {
    fn find(path: &str, folder: &Path) -> Result<Place> {
        if path == "-" {
            return Ok(Place::Stdin);
        }
        let path = folder.join(path);
        let metadata = std::fs::metadata(&path).map_err(|error| open_error(&path.display(), &error))?;
        if metadata.is_dir() {
            return Err(Error::Surroundings(format!(
                "the source `{}` is a folder; name a file in it",
                path.display()
            )));
        }
        if metadata.is_file() { Ok(Place::Regular(path, metadata.len())) } else { Ok(Place::Pipe(path)) }
    }

    fn name(&self, path: &str) -> String {
        match self {
            Place::Stdin => "standard input".into(),
            Place::Regular(..) | Place::Pipe(_) => format!("`{path}`"),
        }
    }

    fn is_regular(&self) -> bool {
        matches!(self, Place::Regular(..))
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Place::Stdin => None,
            Place::Regular(path, _) | Place::Pipe(path) => Some(path),
        }
    }
}

fn open_error(what: &dyn std::fmt::Display, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file; `source.file.path` is relative to the pipeline file".into()
        }
        io::ErrorKind::PermissionDenied => "this user may not read it; change its permissions".into(),
        _ => error.to_string(),
    };
    Error::Surroundings(format!("cannot open the source `{what}`: {why}"))
}

/// How a file's bytes are packed, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstandard,
}

impl Packing {
    fn of(path: Option<&Path>) -> Packing {
        match path.and_then(Path::extension).and_then(|extension| extension.to_str()) {
            Some("gz") => Packing::Gzip,
            Some("zst") => Packing::Zstandard,
            _ => Packing::Plain,
        }
    }

    fn has_magic(self, start: &[u8]) -> bool {
        match self {
            Packing::Plain => true,
            Packing::Gzip => start.starts_with(&[0x1f, 0x8b]),
            // A frame, or one of the sixteen kinds of frames to skip.
            Packing::Zstandard => {
                start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
                    || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18])
            }
        }
    }

    fn unpack(self, packed: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Packing::Plain => Box::new(packed),
            Packing::Gzip => {
                Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BLOCK_BYTES, packed)))
            }
            Packing::Zstandard => Box::new(zstd::stream::read::Decoder::new(packed)?),
        })
    }
}

/// Counts the bytes that pass.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What the file begins with: the hash of its first complete rows.
#[derive(Debug)]
struct Head {
    /// The hash of the rows before the last complete one.
    before: Sha256,
    /// The last complete row.
    last: Option<Vec<u8>>,
    rows_left: usize,
    /// The row that is being read.
    row: Vec<u8>,
}

impl Head {
    fn new(rows: usize) -> Head {
        Head { before: Sha256::new(), last: None, rows_left: rows, row: Vec::new() }
    }

    /// Takes a part of a row, the last one if `ends`.
    fn take(&mut self, part: &[u8], ends: bool) {
        if self.rows_left == 0 {
            return;
        }
        let room = FINGERPRINT_ROW_BYTES - self.row.len();
        self.row.extend_from_slice(&part[..part.len().min(room)]);
        if ends {
            self.before = self.hash_to(u64::MAX);
            self.last = Some(std::mem::take(&mut self.row));
            self.rows_left -= 1;
        }
    }

    fn fingerprint(&self) -> String {
        self.fingerprint_to(u64::MAX)
    }

    /// The fingerprint as it was when the last complete row had no more than `bytes` bytes.
    fn fingerprint_to(&self, bytes: u64) -> String {
        crate::batch::hex(&self.hash_to(bytes).finalize())
    }

    fn hash_to(&self, bytes: u64) -> Sha256 {
        let mut hash = self.before.clone();
        if let Some(last) = &self.last {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            hash.update(&last[..last.len().min(bytes)]);
            // A newline, so that two short rows are not one long row.
            hash.update(b"\n");
        }
        hash
    }
}

/// A row as far as it has been passed over.
#[derive(Debug, Clone, Copy, Default)]
struct Passed {
    bytes: u64,
    last: u8,
}

impl Passed {
    fn take(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        self.last = part.last().copied().unwrap_or(self.last);
    }

    /// Whether it is the row that had `bytes` bytes and no line end: a `\r` since then belongs to the line end.
    fn is_row_of(self, bytes: u64) -> bool {
        self.bytes == bytes || (self.bytes == bytes + 1 && self.last == b'\r')
    }
}

/// A fingerprint without and with the length of the last row: the row had that many bytes and no line end.
fn fingerprint_parts(fingerprint: &str) -> (&str, Option<u64>) {
    match fingerprint.split_once('+') {
        Some((hash, bytes)) => (hash, bytes.parse().ok()),
        None => (fingerprint, None),
    }
}

/// Blocks of unpacked bytes.
enum Blocks {
    /// From a regular file, in the lane's own time.
    Direct(Box<dyn Read + Send>),
    /// From a pipe, by a thread, because reading it can take for ever.
    Thread(Receiver<io::Result<Vec<u8>>>),
}

/// What came of asking for a block.
enum Filled {
    Block,
    Nothing,
    End,
}

/// Lines of text.
struct Lines {
    place: Place,
    blocks: Blocks,
    block: Vec<u8>,
    /// Where in `block` the unread bytes begin.
    at: usize,
    /// Bytes of the file read, before unpacking.
    read: Arc<AtomicU64>,
    /// A row whose end has not been read, as far as it is kept.
    partial: Vec<u8>,
    /// The length in bytes of that row so far; more than `partial` has when it is cut.
    partial_bytes: u64,
    /// The last byte of that row so far.
    partial_last: u8,
    head: Head,
    /// The length in bytes of the last row, when the file ended without a line end.
    unended: Option<u64>,
    header: Option<Vec<u8>>,
    /// A failure that waits until the rows before it are delivered.
    failure: Option<Error>,
    ended: bool,
}

impl Lines {
    fn open(place: Place, name: &str, head_rows: usize) -> Result<Lines> {
        let read = Arc::new(AtomicU64::new(0));
        let blocks = Blocks::open(&place, name, &read)?;
        Ok(Lines {
            place,
            blocks,
            block: Vec::new(),
            at: 0,
            read,
            partial: Vec::new(),
            partial_bytes: 0,
            partial_last: 0,
            head: Head::new(head_rows),
            unended: None,
            header: None,
            failure: None,
            ended: false,
        })
    }

    fn size(&self) -> Option<u64> {
        match &self.place {
            Place::Regular(_, size) => Some(*size),
            Place::Stdin | Place::Pipe(_) => None,
        }
    }

    /// Rows from `first_offset` on; `None` at the end.
    fn next_payload(&mut self, first_offset: u64, limits: &Limits) -> Result<Option<Payload>> {
        if let Some(failure) = self.fail() {
            return Err(failure);
        }
        if self.ended && self.at == self.block.len() && self.partial_bytes == 0 {
            return Ok(None);
        }
        let deadline = Instant::now() + limits.wait;
        let mut payload = Growing { bytes: Vec::new(), rows: Vec::new(), next_offset: first_offset };
        while payload.rows.len() < limits.rows && self.failure.is_none() {
            if self.at < self.block.len() {
                if !self.take_row(&mut payload, limits) {
                    break;
                }
                continue;
            }
            if self.ended {
                if self.partial_bytes > 0 {
                    self.end_row(&mut payload, limits);
                }
                break;
            }
            // A regular file comes at once, so only a row without an end makes a batch wait.
            let late = Instant::now() >= deadline;
            if late && (payload.rows.is_empty() || matches!(self.blocks, Blocks::Thread(_))) {
                break;
            }
            match self.fill(deadline) {
                Ok(Filled::Block) => {}
                Ok(Filled::Nothing) => break,
                Ok(Filled::End) => self.ended = true,
                Err(failure) => self.failure = Some(failure),
            }
        }
        if payload.rows.is_empty() {
            if let Some(failure) = self.fail() {
                return Err(failure);
            }
            if self.ended && self.at == self.block.len() && self.partial_bytes == 0 {
                return Ok(None);
            }
        }
        Ok(Some(Payload::Rows { bytes: payload.bytes, rows: payload.rows }))
    }

    /// The failure that waits, if there is one, and with it the end. The row that it interrupts is not a row: a
    /// whole file may come in the place of this one.
    fn fail(&mut self) -> Option<Error> {
        let failure = self.failure.take()?;
        self.ended = true;
        self.forget_partial();
        Some(failure)
    }

    /// Takes bytes of the block up to the end of a row or of the block. `false` when the row is for the next
    /// batch.
    fn take_row(&mut self, payload: &mut Growing, limits: &Limits) -> bool {
        let unread = &self.block[self.at..];
        let newline = memchr::memchr(b'\n', unread);
        let part = &unread[..newline.unwrap_or(unread.len())];
        let row_bytes = self.partial_bytes + part.len() as u64;
        let next = self.at + part.len() + usize::from(newline.is_some());
        let full = payload.bytes.len() as u64 + row_bytes > limits.bytes as u64;
        if full && !payload.rows.is_empty() {
            return false;
        }
        if newline.is_some() && self.partial_bytes == 0 && row_bytes <= limits.row_bytes {
            // Nearly every row: it lies in one block and goes into the batch by one copy.
            self.head.take(part, true);
            payload.push(without_return(part), None);
        } else {
            self.head.take(part, newline.is_some());
            self.partial.extend_from_slice(part);
            self.partial_bytes = row_bytes;
            self.partial_last = part.last().copied().unwrap_or(self.partial_last);
            // A byte more than the limit can be the `\r` of a row that is not too long.
            if self.partial_bytes > limits.row_bytes.saturating_add(1) {
                self.partial.truncate(CUT_BYTES);
            }
            if newline.is_some() {
                self.push_partial(payload, limits);
            }
        }
        self.at = next;
        true
    }

    /// The last row, which has no newline.
    fn end_row(&mut self, payload: &mut Growing, limits: &Limits) {
        self.head.take(b"", true);
        self.unended = Some(self.partial_bytes);
        self.push_partial(payload, limits);
    }

    /// What a later run recognises the rows so far by. The length of a row without a line end is a part of it,
    /// because whoever writes the file may not have finished that row.
    fn fingerprint(&self) -> String {
        match self.unended {
            None => self.head.fingerprint(),
            Some(bytes) => format!("{}+{bytes}", self.head.fingerprint()),
        }
    }

    fn push_partial(&mut self, payload: &mut Growing, limits: &Limits) {
        let length = self.partial_bytes - u64::from(self.partial_last == b'\r');
        if length > limits.row_bytes {
            self.partial.truncate(CUT_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX)));
            payload.push(&self.partial, Some(length));
        } else {
            payload.push(without_return(&self.partial), None);
        }
        self.forget_partial();
    }

    fn forget_partial(&mut self) {
        // A long row's memory is given back.
        self.partial = Vec::new();
        self.partial_bytes = 0;
        self.partial_last = 0;
    }

    /// Reads the next block, when it comes before `deadline`.
    fn fill(&mut self, deadline: Instant) -> Result<Filled> {
        self.at = 0;
        match &mut self.blocks {
            Blocks::Direct(reader) => {
                self.block.resize(BLOCK_BYTES, 0);
                let read = read_some(reader, &mut self.block);
                self.block.truncate(*read.as_ref().unwrap_or(&0));
                match read {
                    Ok(0) => Ok(Filled::End),
                    Ok(_) => Ok(Filled::Block),
                    Err(error) => Err(self.damage(&error)),
                }
            }
            Blocks::Thread(blocks) => {
                self.block.clear();
                match blocks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(Ok(block)) => {
                        self.block = block;
                        Ok(Filled::Block)
                    }
                    Ok(Err(error)) => Err(self.damage(&error)),
                    Err(RecvTimeoutError::Timeout) => Ok(Filled::Nothing),
                    Err(RecvTimeoutError::Disconnected) => Ok(Filled::End),
                }
            }
        }
    }

    fn damage(&self, error: &io::Error) -> Error {
        let at = self.read.load(Ordering::Relaxed);
        let what = match Packing::of(self.place.path()) {
            Packing::Plain => "cannot be read",
            Packing::Gzip => "is not whole gzip data",
            Packing::Zstandard => "is not whole zstd data",
        };
        Error::Running(format!(
            "the source {what} before byte {at}: {error}; rows before it are kept, replace the file and run again"
        ))
    }

    /// Begins again and goes past the rows before `position`.
    fn seek(&mut self, position: &Position, name: &str, head_rows: usize, limits: &Limits) -> Result<()> {
        let place = match &self.place {
            Place::Regular(path, _) => {
                let size =
                    std::fs::metadata(path).map_err(|error| open_error(&path.display(), &error))?.len();
                Place::Regular(path.clone(), size)
            }
            other => other.clone(),
        };
        *self = Lines::open(place, name, head_rows)?;
        let rows = position.next_offset;
        let (found, last) = self.skip(rows, limits).map_err(|error| error.in_context(name))?;
        if found < rows {
            return Err(fewer_rows(name, found, rows));
        }
        if rows == 0 {
            return Ok(());
        }
        let (hash, unended) = fingerprint_parts(&position.fingerprint);
        let head_bytes = unended.filter(|_| rows <= head_rows as u64).unwrap_or(u64::MAX);
        if hash != self.head.fingerprint_to(head_bytes) {
            return Err(other_data(name));
        }
        match unended {
            Some(bytes) if !last.is_row_of(bytes) => Err(row_goes_on(name, rows - 1, bytes, last.bytes)),
            _ => Ok(()),
        }
    }

    /// Goes past `rows` rows, or as many as there are: their number, and the last of them.
    fn skip(&mut self, rows: u64, limits: &Limits) -> Result<(u64, Passed)> {
        let mut found = 0;
        let mut row = Passed::default();
        while found < rows {
            if self.at == self.block.len() {
                match self.fill(Instant::now())? {
                    Filled::Block | Filled::Nothing => continue,
                    Filled::End => {
                        self.ended = true;
                        if row.bytes > 0 {
                            self.head.take(b"", true);
                            found += 1;
                        }
                        break;
                    }
                }
            }
            let unread = &self.block[self.at..];
            // The last row is measured, so it is not only counted.
            let uncounted = rows - found - 1;
            if self.head.rows_left == 0 && uncounted > 0 {
                let most = usize::try_from(uncounted).unwrap_or(usize::MAX);
                let (count, end) = memchr::memchr_iter(b'\n', unread)
                    .take(most)
                    .fold((0, 0), |(count, _), newline| (count + 1, newline + 1));
                found += count;
                if count > 0 {
                    row = Passed::default();
                }
                if count == uncounted {
                    self.at += end;
                } else {
                    row.take(&unread[end..]);
                    self.at = self.block.len();
                }
                continue;
            }
            let newline = memchr::memchr(b'\n', unread);
            let part = &unread[..newline.unwrap_or(unread.len())];
            self.head.take(part, newline.is_some());
            if found == 0 {
                let header = self.header.get_or_insert_default();
                // A line end and one byte more than a row may have tell whether it is too long.
                let room = limits.row_bytes.saturating_add(2).saturating_sub(header.len() as u64);
                header
                    .extend_from_slice(&part[..part.len().min(usize::try_from(room).unwrap_or(usize::MAX))]);
            }
            row.take(part);
            self.at += part.len() + usize::from(newline.is_some());
            if newline.is_some() {
                found += 1;
                if found < rows {
                    row = Passed::default();
                }
            }
        }
        // A header that is too long is none, as in the run that read it.
        self.header = (self.header.take())
            .map(|header| without_return(&header).to_vec())
            .filter(|header| header.len() as u64 <= limits.row_bytes);
        Ok((found, row))
    }
}

/// A payload in the making.
struct Growing {
    bytes: Vec<u8>,
    rows: Vec<RawRow>,
    next_offset: u64,
}

impl Growing {
    fn push(&mut self, row: &[u8], cut_from: Option<u64>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(row);
        self.rows.push(RawRow { offset: self.next_offset, start, end: self.bytes.len(), cut_from });
        // Rows stay apart, so that the end of one and the start of the next never make a character together.
        self.bytes.push(b'\n');
        self.next_offset += 1;
    }
}

fn without_return(row: &[u8]) -> &[u8] {
    row.strip_suffix(b"\r").unwrap_or(row)
}

/// Reads once, also when a signal interrupts.
fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Blocks {
    fn open(place: &Place, name: &str, count: &Arc<AtomicU64>) -> Result<Blocks> {
        let packing = Packing::of(place.path());
        let count = count.clone();
        match place {
            Place::Regular(path, size) => {
                let mut file = File::open(path).map_err(|error| open_error(&path.display(), &error))?;
                check_magic(&mut file, packing, name)?;
                // gzip and zstd have no form of nothing, but a file that has just been made is no damage.
                let packing = if *size == 0 { Packing::Plain } else { packing };
                let unpacked = packing
                    .unpack(Counted { inner: file, count })
                    .map_err(|error| open_error(&path.display(), &error))?;
                Ok(Blocks::Direct(unpacked))
            }
            Place::Stdin => {
                Ok(Blocks::from_thread(move || packing.unpack(Counted { inner: io::stdin(), count })))
            }
            Place::Pipe(path) => {
                let path = path.clone();
                // Opening a pipe waits for its writer.
                Ok(Blocks::from_thread(move || packing.unpack(Counted { inner: File::open(path)?, count })))
            }
        }
    }

    /// The thread ends with its pipe, with an error, or when nobody takes its blocks; one that waits for bytes that
    /// never come ends with the process.
    fn from_thread(open: impl FnOnce() -> io::Result<Box<dyn Read + Send>> + Send + 'static) -> Blocks {
        let (sender, receiver) = sync_channel(BLOCKS_AHEAD);
        std::thread::spawn(move || {
            let mut reader = match open() {
                Ok(reader) => reader,
                Err(error) => return drop(sender.send(Err(error))),
            };
            loop {
                let mut block = vec![0; BLOCK_BYTES];
                match read_some(&mut reader, &mut block) {
                    Ok(0) => return,
                    Ok(read) => {
                        block.truncate(read);
                        block.shrink_to_fit();
                        if sender.send(Ok(block)).is_err() {
                            return;
                        }
                    }
                    Err(error) => return drop(sender.send(Err(error))),
                }
            }
        });
        Blocks::Thread(receiver)
    }
}

/// An empty file is no rows, however it is named.
fn check_magic(file: &mut File, packing: Packing, name: &str) -> Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut start = Vec::new();
    let wrong = |error: io::Error| Error::Surroundings(format!("cannot read the source {name}: {error}"));
    file.by_ref().take(4).read_to_end(&mut start).map_err(wrong)?;
    file.seek(SeekFrom::Start(0)).map_err(wrong)?;
    if start.is_empty() || packing.has_magic(&start) {
        return Ok(());
    }
    let (what, suffix) = if packing == Packing::Gzip { ("gzip", ".gz") } else { ("zstd", ".zst") };
    Err(Error::Surroundings(format!(
        "the source {name} is not {what} data, as its name says; rename it without `{suffix}` if it is plain text"
    )))
}

/// Unpacks a regular file once and keeps nothing: what a damaged file unpacks to has a checksum only at its end, and
/// rows before the end would be written by then. A file that only ends too early is not damaged.
fn check_packed(place: &Place, name: &str) -> Result<()> {
    let packing = Packing::of(place.path());
    let Place::Regular(path, 1..) = place else { return Ok(()) };
    if packing == Packing::Plain {
        return Ok(());
    }
    let count = Arc::new(AtomicU64::new(0));
    let file = File::open(path).map_err(|error| open_error(&path.display(), &error))?;
    let counted = Counted { inner: file, count: count.clone() };
    let mut unpacked = packing.unpack(counted).map_err(|error| open_error(&path.display(), &error))?;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match read_some(&mut unpacked, &mut block) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => {
                let at = count.load(Ordering::Relaxed);
                return Err(Error::Surroundings(format!(
                    "the source {name} is damaged before byte {at}: {error}; no row of it was read, replace the file and \
                     run again"
                )));
            }
        }
    }
}

fn fewer_rows(name: &str, found: u64, expected: u64) -> Error {
    Error::Surroundings(format!(
        "the source {name} has {found} rows, but this pipeline has already read {expected} of it; if the file was \
         replaced, rename the pipeline or remove its position from the sink to read it from the start"
    ))
}

fn other_data(name: &str) -> Error {
    Error::Surroundings(format!(
        "the source {name} begins with other rows than those that this pipeline has already read; rename the pipeline \
         or remove its position from the sink to read the new file from the start"
    ))
}

fn of_pipe(name: &str, rows: u64) -> Error {
    Error::Surroundings(format!(
        "the source {name} is a regular file, but the sink has the position of a pipe for it, of which this pipeline \
         has read {rows} rows; rename the pipeline or remove its position from the sink to read the file from the \
         start"
    ))
}

fn row_goes_on(name: &str, row: u64, bytes: u64, now: u64) -> Error {
    Error::Surroundings(format!(
        "the source {name} has changed in row {row} (the first is 0), which had {bytes} bytes and no line end when \
         this pipeline decided it and has {now} bytes now; rename the pipeline or remove its position from the sink \
         to read the file from the start, and append only whole lines to it"
    ))
}

#[cfg(test)]
mod tests;
