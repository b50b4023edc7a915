//! A JSON lines file, or a folder of Parquet files.
//!
//! Beside the data a small sidecar says how much of the data counts and up to which positions it goes. A write
//! puts the rows and the dead letters on the disk first and then replaces the sidecar by renaming a new one
//! over it: that rename is the commit. The end of the process needs no more than the rename; a power cut needs
//! the data on the disk before the sidecar promises them, so both are synced. The folder itself is not: a rename
//! that a power cut undoes brings the older sidecar back, whose data are all there.
//!
//! On opening, what lies behind the sidecar's word is cut off or removed. Data that no sidecar knows are never
//! touched.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMillisecondType;
use arrow_schema::SchemaRef;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::appended::{AppendedFile, io_error, lock};
use super::values::{Builder, READ_BACK_ROWS, Rows, Value, has_timestamp, project, window_start};
use super::{Reading, Write, json, resolve};
use crate::batch::{Kind, Partition, Position, json_name};
use crate::dead_letter::DeadLetterLines;
use crate::error::{Error, Result};
use crate::pipeline_file::{self, FileFormat, Remember};

/// Version of the sidecar's format.
const VERSION: u32 = 1;

/// How much of a JSON lines file is looked at in one step when its last lines are searched for.
const BLOCK_BYTES: usize = 1 << 20;

/// The word of how much counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sidecar {
    version: u32,
    pipeline: String,
    stored: Stored,
    dead_letter: Option<Length>,
    positions: Vec<Reached>,
}

/// How much of the data counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stored {
    /// So many bytes of the file.
    Jsonl { bytes: u64 },
    /// So many files of the folder.
    Parquet { parts: u64 },
}

/// How much of the dead-letter file counts; the path is as the pipeline file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Length {
    path: String,
    bytes: u64,
}

/// The position of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reached {
    topic: String,
    partition: i32,
    next_offset: u64,
    fingerprint: String,
}

/// A file or a folder of rows, the dead letter, and the sidecar.
pub struct FileSink {
    schema: SchemaRef,
    sidecar_path: PathBuf,
    sidecar: Sidecar,
    data: Data,
    dead_letters: DeadLetterLines,
}

/// Where the rows are.
enum Data {
    Jsonl(AppendedFile),
    /// The folder, and the lock that is held while it is open.
    Parquet {
        folder: PathBuf,
        _lock: File,
    },
}

impl FileSink {
    /// Opens or makes the files, and cuts them to what was committed.
    pub fn open(
        config: &pipeline_file::FileSink,
        pipeline: &pipeline_file::Pipeline,
        schema: &SchemaRef,
        folder: &Path,
    ) -> Result<FileSink> {
        let path = resolve(folder, &config.path);
        let dead_letter = dead_letter_path(config, pipeline.dead_letter.as_ref())?;
        if dead_letter.as_deref().is_some_and(|other| resolve(folder, other) == path) {
            return Err(Error::Files(format!(
                "rows and dead letters cannot share the file `{}`: change `sink.file.path` or \
                 `dead_letter.file.path`",
                config.path
            )));
        }
        let sidecar_path = resolve(folder, &config.position_file());
        let (data, mut sidecar) = match config.format {
            FileFormat::Jsonl => open_jsonl(&path, &sidecar_path, &pipeline.name)?,
            FileFormat::Parquet => open_parquet(&path, &sidecar_path, &pipeline.name)?,
        };
        let dead_letters = open_dead_letters(&mut sidecar, dead_letter, folder)?;
        // From here on the files are known, so that what a crash leaves before the first commit is too.
        save(&sidecar_path, &sidecar)?;
        Ok(FileSink { schema: schema.clone(), sidecar_path, sidecar, data, dead_letters })
    }

    /// The position that the sidecar has.
    pub fn position(&self, partition: &Partition) -> Position {
        let reached = self.sidecar.positions.iter().find(|reached| reached.is_of(partition));
        reached.map_or_else(Position::default, |reached| Position {
            next_offset: reached.next_offset,
            fingerprint: reached.fingerprint.clone(),
        })
    }

    /// Writes rows and dead letters, then the sidecar that makes them count.
    pub fn write(&mut self, write: &Write<'_>) -> Result<u64> {
        let known = self.position(write.partition);
        if known.next_offset != write.expected.next_offset {
            return Err(Error::Running(format!(
                "the position of `{}` partition {} in `{}` is {}, expected {}: another process has changed it",
                write.partition.topic,
                write.partition.number,
                self.sidecar_path.display(),
                known.next_offset,
                write.expected.next_offset
            )));
        }
        let mut sidecar = self.sidecar.clone();
        let bytes;
        (sidecar.stored, bytes) = self.write_rows(write.kept)?;
        let dead_letter_bytes = self.dead_letters.write(write.rejected)?;
        if let Some(length) = &mut sidecar.dead_letter {
            length.bytes = dead_letter_bytes;
        }
        sidecar.reach(write.partition, write.next);
        save(&self.sidecar_path, &sidecar)?;
        if let (Data::Jsonl(file), Stored::Jsonl { bytes }) = (&mut self.data, sidecar.stored) {
            file.commit(bytes);
        }
        self.dead_letters.commit(dead_letter_bytes);
        self.sidecar = sidecar;
        Ok(bytes)
    }

    /// Puts rows on the disk and returns how much there is with them, and how many bytes they are.
    fn write_rows(&mut self, kept: &RecordBatch) -> Result<(Stored, u64)> {
        match (&mut self.data, self.sidecar.stored) {
            (Data::Jsonl(file), _) => {
                let mut lines = Vec::new();
                json::append_lines(kept, &mut lines);
                Ok((Stored::Jsonl { bytes: file.append(&lines)? }, lines.len() as u64))
            }
            (Data::Parquet { folder, .. }, Stored::Parquet { parts }) if kept.num_rows() > 0 => {
                let bytes = write_part(folder, parts, kept)?;
                Ok((Stored::Parquet { parts: parts + 1 }, bytes))
            }
            (Data::Parquet { .. }, stored) => Ok((stored, 0)),
        }
    }

    /// Reads the last rows back.
    pub fn read_back(
        &mut self,
        columns: &[String],
        remember: &Remember,
        each: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let asked = project(&self.schema, columns)?;
        match (&mut self.data, self.sidecar.stored) {
            (Data::Jsonl(file), _) => read_back_jsonl(file, &self.schema, &asked, remember, each),
            (Data::Parquet { folder, .. }, Stored::Parquet { parts }) => {
                read_back_parquet(folder, parts, &self.schema, &asked, remember, each)
            }
            (Data::Parquet { .. }, Stored::Jsonl { .. }) => Ok(()),
        }
    }
}

impl FileSink {
    /// What [`FileSink::read_back`] would read now.
    pub fn reading(&self, columns: &[String]) -> Result<Reading> {
        let (schema, asked) = (Arc::clone(&self.schema), project(&self.schema, columns)?);
        match (&self.data, self.sidecar.stored) {
            (Data::Jsonl(file), _) => {
                let mut file = file.for_reading()?;
                Ok(Box::new(move |remember, each| {
                    read_back_jsonl(&mut file, &schema, &asked, remember, &mut |rows| each(None, rows))
                }))
            }
            (Data::Parquet { folder, .. }, Stored::Parquet { parts }) => {
                let folder = folder.clone();
                Ok(Box::new(move |remember, each| {
                    let each = &mut |rows| each(None, rows);
                    read_back_parquet(&folder, parts, &schema, &asked, remember, each)
                }))
            }
            (Data::Parquet { .. }, Stored::Jsonl { .. }) => Ok(Box::new(|_, _| Ok(()))),
        }
    }
}

impl Reached {
    fn is_of(&self, partition: &Partition) -> bool {
        *self.topic == *partition.topic && self.partition == partition.number
    }
}

impl Sidecar {
    fn new(pipeline: &str, stored: Stored) -> Sidecar {
        let pipeline = pipeline.to_owned();
        Sidecar { version: VERSION, pipeline, stored, dead_letter: None, positions: Vec::new() }
    }

    fn reach(&mut self, partition: &Partition, position: &Position) {
        let reached = Reached {
            topic: partition.topic.to_string(),
            partition: partition.number,
            next_offset: position.next_offset,
            fingerprint: position.fingerprint.clone(),
        };
        match self.positions.iter_mut().find(|reached| reached.is_of(partition)) {
            Some(known) => *known = reached,
            None => self.positions.push(reached),
        }
    }
}

/// A path with more at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// How many bytes of a dead-letter file count, where the sidecar says it.
pub(crate) fn committed_dead_letters(
    config: &pipeline_file::FileSink,
    pipeline: &str,
    path: &str,
    folder: &Path,
) -> Result<Option<u64>> {
    let sidecar = load(&resolve(folder, &config.position_file()), pipeline)?;
    let length = sidecar.and_then(|sidecar| sidecar.dead_letter).filter(|length| length.path == path);
    Ok(length.map(|length| length.bytes))
}

/// The dead-letter file as the pipeline file names it or would; `None` for standard output.
fn dead_letter_path(
    config: &pipeline_file::FileSink,
    dead_letter: Option<&pipeline_file::DeadLetter>,
) -> Result<Option<String>> {
    match dead_letter {
        Some(pipeline_file::DeadLetter::Stdout(_)) => Ok(None),
        Some(pipeline_file::DeadLetter::File(file)) => Ok(Some(file.path.clone())),
        Some(_) => Err(super::dead_letter_elsewhere("file")),
        None => Ok(Some(config.default_dead_letter())),
    }
}

/// Opens the dead letter, and puts its length into the sidecar.
fn open_dead_letters(sidecar: &mut Sidecar, path: Option<String>, folder: &Path) -> Result<DeadLetterLines> {
    let Some(path) = path else {
        sidecar.dead_letter = None;
        return Ok(DeadLetterLines::Stdout);
    };
    let place = resolve(folder, &path);
    // When somebody has put the file away, a new one begins.
    let known = sidecar.dead_letter.take().filter(|length| length.path == path && place.exists());
    let file = AppendedFile::open(&place, known.map(|length| length.bytes))?;
    sidecar.dead_letter = Some(Length { path, bytes: file.committed_bytes() });
    Ok(DeadLetterLines::File(file))
}

fn open_jsonl(path: &Path, sidecar_path: &Path, pipeline: &str) -> Result<(Data, Sidecar)> {
    let mut file = AppendedFile::lock(path)?;
    let known = load(sidecar_path, pipeline)?;
    let bytes = match known.as_ref().map(|sidecar| sidecar.stored) {
        None => None,
        Some(Stored::Jsonl { bytes }) => Some(bytes),
        Some(Stored::Parquet { .. }) => return Err(other_format(sidecar_path, "parquet", "jsonl")),
    };
    file.recover(bytes)?;
    let sidecar = known.unwrap_or_else(|| Sidecar::new(pipeline, Stored::Jsonl { bytes: 0 }));
    Ok((Data::Jsonl(file), sidecar))
}

fn open_parquet(folder: &Path, sidecar_path: &Path, pipeline: &str) -> Result<(Data, Sidecar)> {
    if !folder.is_dir() {
        fs::create_dir(folder).map_err(|error| io_error("make the folder", folder, &error))?;
    }
    let lock_path = folder.join("_lock");
    let lock_file = File::create(&lock_path).map_err(|error| io_error("open", &lock_path, &error))?;
    lock(&lock_file, folder)?;
    let known = load(sidecar_path, pipeline)?;
    let parts = match known.as_ref().map(|sidecar| sidecar.stored) {
        None => None,
        Some(Stored::Parquet { parts }) => Some(parts),
        Some(Stored::Jsonl { .. }) => return Err(other_format(sidecar_path, "jsonl", "parquet")),
    };
    remove_uncommitted(folder, parts)?;
    let sidecar = known.unwrap_or_else(|| Sidecar::new(pipeline, Stored::Parquet { parts: 0 }));
    Ok((Data::Parquet { folder: folder.into(), _lock: lock_file }, sidecar))
}

fn other_format(sidecar: &Path, found: &str, expected: &str) -> Error {
    Error::Surroundings(format!(
        "`{}` is of a {found} sink, expected {expected}: give another path",
        sidecar.display()
    ))
}

/// Removes the parts that a crash has left behind the committed ones.
fn remove_uncommitted(folder: &Path, parts: Option<u64>) -> Result<()> {
    let failed = |error: std::io::Error| io_error("read the folder", folder, &error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(number) = entry.file_name().to_str().and_then(part_number) else { continue };
        match parts {
            None => {
                return Err(Error::Surroundings(format!(
                    "the folder `{}` has Parquet files already and nothing says that this pipeline wrote them: \
                     move them away, or give another path",
                    folder.display()
                )));
            }
            Some(parts) if number >= parts => {
                let path = entry.path();
                fs::remove_file(&path).map_err(|error| io_error("remove", &path, &error))?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The number of a part, finished or not, by the name of its file.
fn part_number(name: &str) -> Option<u64> {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let digits = name.strip_prefix("part-")?.strip_suffix(".parquet")?;
    if digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

fn part_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("part-{number:010}.parquet"))
}

/// Writes one part, and gives its size in bytes. It has its name only when it is whole, for whoever reads the folder meanwhile.
fn write_part(folder: &Path, number: u64, kept: &RecordBatch) -> Result<u64> {
    let path = part_path(folder, number);
    let unfinished = beside(&path, ".tmp");
    let mut bytes = Vec::new();
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let encoded = ArrowWriter::try_new(&mut bytes, kept.schema(), Some(properties)).and_then(|mut writer| {
        writer.write(kept)?;
        writer.close()
    });
    encoded.map_err(|error| Error::Running(format!("cannot encode `{}`: {error}", path.display())))?;
    write_synced(&unfinished, &bytes)?;
    fs::rename(&unfinished, &path).map_err(|error| io_error("write", &path, &error))?;
    Ok(bytes.len() as u64)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| {
        // Gives the space of an unfinished file back.
        let _ = fs::remove_file(path);
        io_error("write", path, &error)
    })
}

/// Reads the sidecar, when there is one.
fn load(path: &Path, pipeline: &str) -> Result<Option<Sidecar>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path, &error)),
    };
    let shown = path.display();
    let sidecar: Sidecar = serde_json::from_slice(&text).map_err(|error| {
        Error::Surroundings(format!(
            "`{shown}` does not say how much was written ({error}): put it back as it was, or move it away \
             together with the data"
        ))
    })?;
    if sidecar.version != VERSION {
        return Err(Error::Surroundings(format!(
            "`{shown}` has version {}, expected {VERSION}: give another path, or use the program that wrote it",
            sidecar.version
        )));
    }
    if sidecar.pipeline != pipeline {
        return Err(Error::Surroundings(format!(
            "`{shown}` is of pipeline `{}`, expected `{pipeline}`: a file sink belongs to one pipeline, so give \
             another path",
            sidecar.pipeline
        )));
    }
    Ok(Some(sidecar))
}

/// Replaces the sidecar: the commit.
fn save(path: &Path, sidecar: &Sidecar) -> Result<()> {
    let text = serde_json::to_vec(sidecar)
        .map_err(|error| Error::Running(format!("cannot write `{}`: {error}", path.display())))?;
    let unfinished = beside(path, ".tmp");
    write_synced(&unfinished, &text)?;
    fs::rename(&unfinished, path).map_err(|error| io_error("write", path, &error))
}

/// Reads the last lines: where they start is found from the end, one pass finds the newest timestamp when there
/// is a window, one hands the rows over.
fn read_back_jsonl(
    file: &mut AppendedFile,
    schema: &SchemaRef,
    asked: &SchemaRef,
    remember: &Remember,
    each: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let start = start_of_last_lines(file, remember.rows)?;
    let since = match remember.window.filter(|_| has_timestamp(schema)) {
        Some(window) => {
            let mut newest = None;
            for_each_line(file, start, |line| {
                newest = newest.max(timestamp_of(&line));
                Ok(())
            })?;
            newest.map(|newest| window_start(newest, window.0))
        }
        None => None,
    };
    let mut rows = Rows::new(asked);
    for_each_line(file, start, |line| {
        if since.is_some_and(|since| timestamp_of(&line).is_none_or(|at| at < since)) {
            return Ok(());
        }
        for (builder, field) in rows.next_row().iter_mut().zip(asked.fields()) {
            // A value of another kind was not written by this program for this column; it counts as none, so
            // that a column whose kind was changed in the pipeline file does not stop the pipeline.
            let value = line.get(json_name(field.name())).and_then(|value| value_of(builder, value));
            builder.push(value.unwrap_or(Value::Null));
        }
        rows.full().map_or(Ok(()), &mut *each)
    })?;
    rows.rest().map_or(Ok(()), each)
}

type Line = serde_json::Map<String, serde_json::Value>;

fn timestamp_of(line: &Line) -> Option<i64> {
    line.get("timestamp").and_then(serde_json::Value::as_i64)
}

fn value_of<'a>(builder: &Builder, value: &'a serde_json::Value) -> Option<Value<'a>> {
    match builder.kind() {
        Kind::Integer => value.as_i64().map(Value::Integer),
        Kind::Timestamp => value.as_i64().map(Value::Timestamp),
        Kind::Boolean => value.as_bool().map(Value::Boolean),
        Kind::Text => value.as_str().map(Value::Text),
        Kind::Float => match value.as_str() {
            Some("NaN") => Some(Value::Float(f64::NAN)),
            Some("Infinity") => Some(Value::Float(f64::INFINITY)),
            Some("-Infinity") => Some(Value::Float(f64::NEG_INFINITY)),
            _ => value.as_f64().map(Value::Float),
        },
    }
}

/// Where the last `rows` lines start.
fn start_of_last_lines(file: &mut AppendedFile, rows: usize) -> Result<u64> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut end = file.committed_bytes();
    if rows == 0 {
        return Ok(end);
    }
    // The line feed that ends the line before the wanted ones is the one after as many as there are rows.
    let mut seen = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let part = &mut block[..(end - start) as usize];
        file.read_at(start, part)?;
        for at in memchr::memrchr_iter(b'\n', part) {
            seen += 1;
            if seen > rows {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

fn for_each_line(
    file: &mut AppendedFile,
    start: u64,
    mut each: impl FnMut(Line) -> Result<()>,
) -> Result<()> {
    let path = file.path().to_owned();
    let mut reader = BufReader::with_capacity(BLOCK_BYTES, file.reader(start)?);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).map_err(|error| io_error("read", &path, &error))? > 0 {
        let line = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Surroundings(format!(
                "`{}` has a line that is not a row ({error}): put the file back as it was written",
                path.display()
            ))
        })?;
        each(line)?;
        bytes.clear();
    }
    Ok(())
}

/// Reads the last parts: as many as have the rows, when there is a window their timestamps first, and then the
/// asked columns. A part that somebody has put away is left out.
fn read_back_parquet(
    folder: &Path,
    parts: u64,
    schema: &SchemaRef,
    asked: &SchemaRef,
    remember: &Remember,
    each: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let window = remember.window.filter(|_| has_timestamp(schema));
    let (mut chosen, mut rows, mut newest) = (Vec::new(), 0, None);
    for number in (0..parts).rev() {
        let path = part_path(folder, number);
        if rows >= remember.rows {
            break;
        }
        if !path.exists() {
            continue;
        }
        let part_rows = part_reader(&path)?.metadata().file_metadata().num_rows() as usize;
        let wanted = part_rows.min(remember.rows - rows);
        rows += wanted;
        if window.is_some() {
            read_part(&path, part_rows - wanted, &["timestamp"], &mut |batch| {
                newest = newest.max(newest_of(&batch));
                Ok(())
            })?;
        }
        chosen.push((path, part_rows - wanted));
    }
    let since = newest.zip(window).map(|(newest, window)| window_start(newest, window.0));
    let mut names: Vec<_> = asked.fields().iter().map(|field| field.name().as_str()).collect();
    names.extend(since.map(|_| "timestamp"));
    for (path, skip) in chosen.into_iter().rev() {
        read_part(&path, skip, &names, &mut |batch| {
            let batch = match since {
                Some(since) => within(&batch, since, &path)?,
                None => batch,
            };
            if batch.num_rows() == 0 {
                return Ok(());
            }
            each(columns_asked(&batch, asked, &path)?)
        })?;
    }
    Ok(())
}

fn part_reader(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(|error| io_error("read", path, &error))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| not_a_part(path, &error))
}

fn not_a_part(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Surroundings(format!(
        "`{}` is not the Parquet file that was written ({error}): put it back as it was, or move it away",
        path.display()
    ))
}

/// Reads some columns of a part without its first `skip` rows.
fn read_part(
    path: &Path,
    skip: usize,
    names: &[&str],
    each: &mut dyn FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let reader = part_reader(path)?;
    let rest = reader.metadata().file_metadata().num_rows() as usize - skip;
    let mask = ProjectionMask::columns(reader.parquet_schema(), names.iter().copied());
    let selection = RowSelection::from(vec![RowSelector::skip(skip), RowSelector::select(rest)]);
    let batches = reader
        .with_projection(mask)
        .with_row_selection(selection)
        .with_batch_size(READ_BACK_ROWS)
        .build()
        .map_err(|error| not_a_part(path, &error))?;
    for batch in batches {
        each(batch.map_err(|error| not_a_part(path, &error))?)?;
    }
    Ok(())
}

fn timestamps_of(batch: &RecordBatch) -> Option<&arrow_array::TimestampMillisecondArray> {
    batch.column_by_name("timestamp")?.as_primitive_opt::<TimestampMillisecondType>()
}

fn newest_of(batch: &RecordBatch) -> Option<i64> {
    timestamps_of(batch)?.iter().flatten().max()
}

/// The rows whose timestamp is not before `since`.
fn within(batch: &RecordBatch, since: i64, path: &Path) -> Result<RecordBatch> {
    let Some(timestamps) = timestamps_of(batch) else { return Ok(batch.slice(0, 0)) };
    let keep: arrow_array::BooleanArray =
        timestamps.iter().map(|at| Some(at.is_some_and(|at| at >= since))).collect();
    arrow_select::filter::filter_record_batch(batch, &keep).map_err(|error| not_a_part(path, &error))
}

/// The asked columns with the host's types; one that the part does not have yet has no values.
fn columns_asked(batch: &RecordBatch, asked: &SchemaRef, path: &Path) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let columns = asked.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
        Some(column) => arrow_cast::cast(column, field.data_type()),
        None => Ok(arrow_array::new_null_array(field.data_type(), rows)),
    });
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>();
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(asked.clone(), columns, &options))
        .map_err(|error| not_a_part(path, &error))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use arrow_array::cast::AsArray;
    use arrow_array::types::Float64Type;
    use tempfile::TempDir;

    use super::super::Sink;
    use super::super::test_rows::{
        at, candles, minutes, open_sink, partition, pipeline, read_minutes, remember, schema, write,
    };
    use super::super::values::{Value, Values};
    use super::{Error, part_number};

    const JSONL: &str = r#"{ "file": { "path": "out.jsonl" } }"#;
    const PARQUET: &str = r#"{ "file": { "path": "out", "format": "parquet" } }"#;

    fn open(folder: &TempDir, sink: &str) -> Result<Sink, Error> {
        open_sink(&pipeline(sink, None), folder.path())
    }

    fn failure<T>(result: Result<T, Error>) -> (u8, String) {
        let error = result.err().expect("this must fail");
        (error.code(), error.to_string())
    }

    /// Every file below a folder with its content.
    fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(contents(&path));
            } else {
                found.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
        found.sort();
        found
    }

    fn append(path: &Path, more: &[u8]) {
        let content = fs::read(path).unwrap();
        fs::write(path, [&content[..], more].concat()).unwrap();
    }

    #[test]
    fn both_formats_go_on_where_they_were() {
        for format in [JSONL, PARQUET] {
            let folder = TempDir::new().unwrap();
            let mut sink = open(&folder, format).unwrap();
            assert_eq!(sink.start(&partition()).unwrap().position.unwrap(), at(0));
            assert!(read_minutes(&mut sink, &remember(9, 9)).is_empty());
            write(&mut sink, 0, 4, &minutes(0..3), &[b"bad"]).unwrap();
            write(&mut sink, 4, 5, &minutes(0..0), &[]).unwrap();
            drop(sink);
            let mut sink = open(&folder, format).unwrap();
            assert_eq!(sink.start(&partition()).unwrap().position.unwrap(), at(5));
            write(&mut sink, 5, 6, &minutes(3..4), &[]).unwrap();
            assert_eq!(read_minutes(&mut sink, &remember(9, 9)), [0, 1, 2, 3]);
            let (code, text) = failure(write(&mut sink, 5, 7, &minutes(9..10), &[]));
            assert_eq!((code, text.contains("is 6, expected 5")), (1, true), "{text}");
            assert_eq!(read_minutes(&mut sink, &remember(9, 9)), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn what_a_crash_left_is_taken_away() {
        for (format, letters) in [(JSONL, "out.rejected.jsonl"), (PARQUET, "out/_rejected.jsonl")] {
            let folder = TempDir::new().unwrap();
            drop(open(&folder, format).unwrap());
            let new = contents(folder.path());
            let begin = |path: &str| fs::write(folder.path().join(path), b"{\"half").unwrap();
            if format == JSONL {
                begin("out.jsonl");
            } else {
                begin("out/part-0000000000.parquet");
                begin("out/part-0000000001.parquet.tmp");
            }
            begin(letters);
            let mut sink = open(&folder, format).unwrap();
            assert_eq!(contents(folder.path()), new);
            write(&mut sink, 0, 4, &minutes(0..3), &[b"bad"]).unwrap();
            drop(sink);
            let committed = contents(folder.path());
            if format == JSONL {
                append(&folder.path().join("out.jsonl"), b"{\"timestamp\":1}\n{");
            } else {
                begin("out/part-0000000001.parquet");
            }
            append(&folder.path().join(letters), b"{\"pipe");
            drop(open(&folder, format).unwrap());
            assert_eq!(contents(folder.path()), committed);
        }
    }

    #[test]
    fn data_of_somebody_else_are_not_touched() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("out.jsonl"), "mine\n").unwrap();
        let (code, text) = failure(open(&folder, JSONL));
        assert_eq!((code, text.contains("exists already")), (3, true), "{text}");
        fs::create_dir(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("out/part-0000000007.parquet"), "mine\n").unwrap();
        fs::write(folder.path().join("out/other.parquet"), "mine\n").unwrap();
        let (code, text) = failure(open(&folder, PARQUET));
        assert_eq!((code, text.contains("has Parquet files already")), (3, true), "{text}");
        let mine = contents(folder.path()).into_iter().filter(|(_, content)| content == b"mine\n");
        assert_eq!(mine.count(), 3);
        let fresh = TempDir::new().unwrap();
        fs::write(fresh.path().join("out.rejected.jsonl"), "mine\n").unwrap();
        assert_eq!(failure(open(&fresh, JSONL)).0, 3);
        assert_eq!(fs::read(fresh.path().join("out.rejected.jsonl")).unwrap(), b"mine\n");
    }

    #[test]
    fn a_file_that_has_lost_rows_is_refused() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder, JSONL).unwrap();
        write(&mut sink, 0, 3, &minutes(0..3), &[b"bad"]).unwrap();
        drop(sink);
        fs::write(folder.path().join("out.jsonl"), "{}\n").unwrap();
        let (code, text) = failure(open(&folder, JSONL));
        assert_eq!((code, text.contains("has 3 bytes, but")), (3, true), "{text}");
        fs::remove_file(folder.path().join("out.jsonl")).unwrap();
        assert_eq!(failure(open(&folder, JSONL)).0, 3);
    }

    #[test]
    fn a_dead_letter_file_that_was_put_away_begins_anew() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder, JSONL).unwrap();
        write(&mut sink, 0, 1, &minutes(0..0), &[b"bad"]).unwrap();
        drop(sink);
        let path = folder.path().join("out.rejected.jsonl");
        fs::remove_file(&path).unwrap();
        let mut sink = open(&folder, JSONL).unwrap();
        write(&mut sink, 1, 2, &minutes(0..0), &[b"worse"]).unwrap();
        assert!(String::from_utf8(fs::read(&path).unwrap()).unwrap().contains("\"payload\":\"worse\"}\n"));
    }

    #[test]
    fn two_processes_cannot_write_the_same_place() {
        for format in [JSONL, PARQUET] {
            let folder = TempDir::new().unwrap();
            let first = open(&folder, format).unwrap();
            let (code, text) = failure(open(&folder, format));
            assert_eq!((code, text.contains("is being written by another process")), (3, true), "{text}");
            drop(first);
            open(&folder, format).unwrap();
        }
    }

    #[test]
    fn the_newest_rows_are_read_back_oldest_first() {
        for format in [JSONL, PARQUET] {
            let folder = TempDir::new().unwrap();
            let mut sink = open(&folder, format).unwrap();
            // 25,000 lines are more than one block of the search from the end.
            for part in 0..3 {
                let start = part * 10_000;
                let end = (start + 10_000).min(25_000);
                write(&mut sink, part as u64, part as u64 + 1, &minutes(start..end), &[]).unwrap();
            }
            let last = |count: i64| (25_000 - count..25_000).collect::<Vec<_>>();
            assert_eq!(read_minutes(&mut sink, &remember(5, 1_000)), last(5));
            assert_eq!(read_minutes(&mut sink, &remember(9_000, 5_999)), last(6_000));
            assert_eq!(read_minutes(&mut sink, &remember(12_345, 1 << 20)), last(12_345));
            assert_eq!(read_minutes(&mut sink, &remember(1 << 20, 1 << 20)), last(25_000));
            assert!(read_minutes(&mut sink, &remember(0, 1)).is_empty());
        }
    }

    #[test]
    fn every_value_comes_back_as_it_was() {
        let rows = candles(&[
            (1, f64::NAN, None),
            (2, f64::INFINITY, Some(i64::MIN)),
            (3, f64::NEG_INFINITY, Some(i64::MAX)),
            (4, 0.1 + 0.2, Some(0)),
            (5, -1e-310, Some(-1)),
        ]);
        for format in [JSONL, PARQUET] {
            let folder = TempDir::new().unwrap();
            let mut sink = open(&folder, format).unwrap();
            write(&mut sink, 0, 1, &rows, &[]).unwrap();
            let columns: Vec<_> = schema().fields().iter().map(|field| field.name().clone()).collect();
            let mut found = Vec::new();
            sink.read_back(0, &columns, &remember(9, 9), &mut |batch| {
                found.push(batch);
                Ok(())
            })
            .unwrap();
            assert_eq!((found.len(), found[0].schema()), (1, schema()));
            for (column, expected) in Values::of_batch(&found[0]).iter().zip(Values::of_batch(&rows)) {
                for row in 0..rows.num_rows() {
                    let (value, expected) = (column.at(row), expected.at(row));
                    let both_nan = matches!((value, expected), (Value::Float(a), Value::Float(b)) if a.is_nan() && b.is_nan());
                    assert!(both_nan || value == expected, "{value:?} {expected:?}");
                }
            }
        }
    }

    /// A rule that compares with what it remembers would take a float that is off by one bit for a correction.
    #[test]
    fn floats_of_many_digits_come_back_to_the_bit() {
        let sums: Vec<f64> = (1..5_000).map(|n| f64::from(n) * 0.1 + f64::from(n % 97) * 0.007).collect();
        let rows: Vec<_> = (0..).zip(&sums).map(|(minute, sum)| (minute, *sum, None)).collect();
        for format in [JSONL, PARQUET] {
            let folder = TempDir::new().unwrap();
            let mut sink = open(&folder, format).unwrap();
            write(&mut sink, 0, 1, &candles(&rows), &[]).unwrap();
            let mut found = Vec::new();
            sink.read_back(0, &["close".into()], &remember(10_000, 10_000), &mut |batch| {
                found.extend(batch.column(0).as_primitive::<Float64Type>().values().iter().copied());
                Ok(())
            })
            .unwrap();
            assert_eq!(found, sums);
        }
    }

    #[test]
    fn a_part_that_was_put_away_is_not_missed() {
        let folder = TempDir::new().unwrap();
        let mut sink = open(&folder, PARQUET).unwrap();
        for part in 0..3 {
            write(&mut sink, part, part + 1, &minutes(part as i64..part as i64 + 1), &[]).unwrap();
        }
        fs::remove_file(folder.path().join("out/part-0000000001.parquet")).unwrap();
        drop(sink);
        assert_eq!(read_minutes(&mut open(&folder, PARQUET).unwrap(), &remember(9, 9)), [0, 2]);
        fs::write(folder.path().join("out/part-0000000001.parquet"), "not a part").unwrap();
        let read = open(&folder, PARQUET).unwrap().read_back(0, &[], &remember(9, 9), &mut |_| Ok(()));
        assert_eq!(failure(read).0, 3);
    }

    #[test]
    fn what_the_sidecar_says_must_fit() {
        let folder = TempDir::new().unwrap();
        drop(open(&folder, JSONL).unwrap());
        let sidecar = folder.path().join("out.jsonl.position");
        let right = fs::read_to_string(&sidecar).unwrap();
        let cases = [
            (right.replace("\"test\"", "\"other\""), "is of pipeline `other`, expected `test`"),
            (right.replace("\"version\":1", "\"version\":2"), "has version 2, expected 1"),
            (right.replace("jsonl\":{\"bytes", "parquet\":{\"parts"), "is of a parquet sink, expected jsonl"),
            ("{".into(), "does not say how much was written"),
        ];
        for (wrong, expected) in cases {
            fs::write(&sidecar, wrong).unwrap();
            let (code, text) = failure(open(&folder, JSONL));
            assert_eq!((code, text.contains(expected)), (3, true), "{text}");
        }
    }

    #[test]
    fn places_that_cannot_be_are_refused() {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let cases = [
            (r#"{ "file": { "path": "none/out.jsonl" } }"#, None, 3, "its folder does not exist"),
            (r#"{ "file": { "path": "sub" } }"#, None, 3, "it is a folder"),
            (r#"{ "file": { "path": "/proc/out.jsonl" } }"#, None, 3, "cannot open `/proc/out.jsonl`"),
            (r#"{ "file": { "path": "file", "format": "parquet" } }"#, None, 3, "make the folder"),
            (JSONL, Some(r#"{ "sqlite": {} }"#), 2, "beside the rows of its own sink"),
            (JSONL, Some(r#"{ "file": { "path": "./out.jsonl" } }"#), 2, "cannot share the file"),
        ];
        for (sink, dead_letter, expected, sentence) in cases {
            let (code, text) = failure(open_sink(&pipeline(sink, dead_letter), folder.path()));
            assert_eq!((code, text.contains(sentence)), (expected, true), "{text}");
        }
    }

    #[test]
    fn only_names_of_parts_are_parts() {
        assert_eq!(part_number("part-0000000012.parquet"), Some(12));
        assert_eq!(part_number("part-0000000012.parquet.tmp"), Some(12));
        for name in [
            "part-12.parquet",
            "part-00000000+1.parquet",
            "part-0000000012.csv",
            "my-part-0000000012.parquet",
        ] {
            assert_eq!(part_number(name), None);
        }
    }
}
