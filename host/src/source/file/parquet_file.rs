//! A Parquet file, a row group after the other.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, DictionaryArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Encoding;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

use super::*;

/// A Parquet file.
pub(super) struct ParquetFile {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
    /// The row group that comes next.
    next_group: usize,
    /// Rows to go past before the next one.
    unwanted: u64,
    /// Reads the rest of a row group.
    reader: Option<ParquetRecordBatchReader>,
    /// Rows that are read and not given away.
    unread: Option<RecordBatch>,
    pub(super) rows: u64,
    pub(super) size: u64,
    pub(super) fingerprint: String,
}

impl ParquetFile {
    pub(super) fn open(place: &Place, name: &str) -> Result<ParquetFile> {
        match place {
            Place::Regular(path, _) => ParquetFile::open_at(path, 0, name),
            Place::Stdin | Place::Pipe(_) => Err(Error::Surroundings(format!(
                "the source {name} is no regular file, and Parquet is read from its end; save it as a file first"
            ))),
        }
    }

    fn open_at(path: &Path, first_row: u64, name: &str) -> Result<ParquetFile> {
        let mut file = File::open(path).map_err(|error| open_error(&path.display(), &error))?;
        let size = file.metadata().map_err(|error| open_error(&path.display(), &error))?.len();
        let wrong = |error: &dyn std::fmt::Display| {
            Error::Surroundings(format!(
                "the source {name} is not a whole Parquet file: {error}; check `decode.format`"
            ))
        };
        let fingerprint = footer_hash(&mut file, size).map_err(|error| wrong(&error))?;
        let metadata = guarded(|| load(&file)).map_err(|error| wrong(&error))?;
        let rows = checked_rows(metadata.metadata(), size).map_err(|error| wrong(&error))?;
        Ok(ParquetFile {
            path: path.into(),
            file,
            metadata,
            next_group: 0,
            unwanted: first_row,
            reader: None,
            unread: None,
            rows,
            size,
            fingerprint,
        })
    }

    pub(super) fn seek(&mut self, position: &Position, name: &str) -> Result<()> {
        *self = ParquetFile::open_at(&self.path, position.next_offset, name)?;
        if position.next_offset > self.rows {
            return Err(fewer_rows(name, self.rows, position.next_offset));
        }
        if position.next_offset > 0 && position.fingerprint != self.fingerprint {
            return Err(other_data(name));
        }
        Ok(())
    }

    pub(super) fn next_payload(&mut self, first_offset: u64, limits: &Limits) -> Result<Option<Payload>> {
        let unread = match self.unread.take() {
            Some(unread) => Some(unread),
            None => self.read(limits).map_err(|error| {
                Error::Running(format!(
                    "the source cannot be read from row {first_offset} on: {error}; rows before it are kept, replace \
                     the file and run again"
                ))
            })?,
        };
        let Some(unread) = unread else { return Ok(None) };
        let rows = rows_within(&unread, limits.bytes).min(limits.rows);
        if rows < unread.num_rows() {
            self.unread = Some(unread.slice(rows, unread.num_rows() - rows));
        }
        Ok(Some(Payload::Columns { columns: unread.slice(0, rows), first_offset }))
    }

    /// The next rows of the file; `None` at its end, and after a failure.
    fn read(&mut self, limits: &Limits) -> std::result::Result<Option<RecordBatch>, String> {
        let read = self.read_group(limits);
        if read.is_err() {
            self.next_group = self.metadata.metadata().num_row_groups();
        }
        read
    }

    fn read_group(&mut self, limits: &Limits) -> std::result::Result<Option<RecordBatch>, String> {
        loop {
            let reader = match self.reader.take() {
                Some(reader) => Some(reader),
                None => self.open_group(limits)?,
            };
            let Some(mut reader) = reader else { return Ok(None) };
            if let Some(columns) = guarded(|| reader.next().transpose())? {
                self.reader = Some(reader);
                if columns.num_rows() > 0 {
                    return Ok(Some(columns));
                }
            }
        }
    }

    /// A reader of the next row group that has wanted rows. A batch has rows of one group only, because texts of two
    /// groups have two dictionaries, and the reader would write out both.
    fn open_group(
        &mut self,
        limits: &Limits,
    ) -> std::result::Result<Option<ParquetRecordBatchReader>, String> {
        while let Some(group) = self.metadata.metadata().row_groups().get(self.next_group) {
            let number = self.next_group;
            self.next_group += 1;
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            if rows <= self.unwanted {
                self.unwanted -= rows;
                continue;
            }
            let unwanted = usize::try_from(std::mem::take(&mut self.unwanted)).unwrap_or(usize::MAX);
            let file = self.file.try_clone().map_err(|error| error.to_string())?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_row_groups(vec![number])
                .with_batch_size(batch_rows(group, limits))
                .with_offset(unwanted);
            return guarded(|| builder.build()).map(Some);
        }
        Ok(None)
    }
}

thread_local! {
    /// Whether this thread is in a call whose panic becomes a sentence.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls the parquet crate, which takes some damage for a bug of its own. Whatever panicked is not used again.
fn guarded<T, E: std::fmt::Display>(
    call: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                loud(panic);
            }
        }));
    });
    IS_GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    IS_GUARDED.set(false);
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its data are damaged".into()),
    }
}

/// The footer, and the types in which the columns are read.
fn load(file: &File) -> parquet::errors::Result<ArrowReaderMetadata> {
    let options = ArrowReaderOptions::new();
    let metadata = ArrowReaderMetadata::load(file, options.clone())?;
    let schema = with_dictionaries(metadata.schema());
    ArrowReaderMetadata::try_new(metadata.metadata().clone(), options.with_schema(schema))
}

/// Texts are read as dictionaries: a long text that many rows share is in memory once, as it is in the file.
fn with_dictionaries(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = (schema.fields().iter())
        .map(|field| match text_type(field.data_type()) {
            true => field.as_ref().clone().with_data_type(text_dictionary()),
            false => field.as_ref().clone(),
        })
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn text_dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn text_type(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => text_type(values),
        _ => false,
    }
}

/// How many rows there are, when the footer agrees with itself and with the file.
fn checked_rows(metadata: &ParquetMetaData, size: u64) -> std::result::Result<u64, String> {
    let mut rows: u64 = 0;
    for group in metadata.row_groups() {
        let count = u64::try_from(group.num_rows()).map_err(|_| "a row group has less than no rows")?;
        rows = rows.checked_add(count).ok_or("its row groups have too many rows")?;
        if let Some(column) = group.columns().iter().find(|column| !lies_within(column, size)) {
            return Err(format!("the column `{}` lies outside of the file", column.column_path().string()));
        }
    }
    match metadata.file_metadata().num_rows() {
        said if u64::try_from(said) == Ok(rows) => Ok(rows),
        said => Err(format!("its row groups have {rows} rows, and its footer says {said}")),
    }
}

pub(super) fn lies_within(column: &ColumnChunkMetaData, size: u64) -> bool {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let (Ok(start), Ok(bytes), Ok(data)) = (
        u64::try_from(start),
        u64::try_from(column.compressed_size()),
        u64::try_from(column.data_page_offset()),
    ) else {
        return false;
    };
    start.checked_add(bytes).is_some_and(|end| end <= size) && data <= size
}

/// The rows' average size tells how many are within the limit.
fn batch_rows(group: &RowGroupMetaData, limits: &Limits) -> usize {
    let bytes = group.columns().iter().map(column_bytes).fold(0, u64::saturating_add);
    let row_bytes = (bytes / u64::try_from(group.num_rows()).unwrap_or(0).max(1)).max(1);
    limits.rows.min((limits.bytes as u64 / row_bytes).max(1) as usize)
}

/// What a column takes in memory: a page without a dictionary makes the reader write out every text.
fn column_bytes(column: &ColumnChunkMetaData) -> u64 {
    let packed = u64::try_from(column.uncompressed_size()).unwrap_or(0);
    let is_dictionary = column.page_encoding_stats_mask().is_some_and(|encodings| {
        encodings.is_only(Encoding::RLE_DICTIONARY) || encodings.is_only(Encoding::PLAIN_DICTIONARY)
    });
    let texts = column.unencoded_byte_array_data_bytes().and_then(|bytes| u64::try_from(bytes).ok());
    if is_dictionary { packed } else { packed.max(texts.unwrap_or(0)) }
}

/// How many of the rows have at most `bytes` bytes when each has its texts for itself, as it has in the sink; at
/// least one.
fn rows_within(columns: &RecordBatch, bytes: usize) -> usize {
    let rows = columns.num_rows();
    let mut texts: Vec<&DictionaryArray<Int32Type>> = Vec::new();
    let mut others = 0;
    for column in columns.columns() {
        match column
            .as_dictionary_opt::<Int32Type>()
            .filter(|column| column.values().as_string_opt::<i32>().is_some())
        {
            Some(column) => texts.push(column),
            None => others += column.to_data().get_slice_memory_size().unwrap_or(0),
        }
    }
    let mut total = 0;
    for row in 0..rows {
        total += others / rows + texts.iter().map(|column| text_bytes(column, row)).sum::<usize>();
        if total > bytes && row > 0 {
            return row;
        }
    }
    rows
}

fn text_bytes(column: &DictionaryArray<Int32Type>, row: usize) -> usize {
    column.key(row).map_or(0, |key| column.values().as_string::<i32>().value(key).len())
}

/// The footer of a Parquet file describes all of its data; a file is written once and never appended to.
fn footer_hash(file: &mut File, size: u64) -> io::Result<String> {
    use std::io::{Seek, SeekFrom};
    let too_short = || io::Error::other("it has no Parquet footer");
    file.seek(SeekFrom::Start(size.checked_sub(8).ok_or_else(too_short)?))?;
    let mut tail = [0; 8];
    file.read_exact(&mut tail)?;
    let [length @ .., b'P', b'A', b'R', b'1'] = tail else { return Err(too_short()) };
    let footer_bytes = u64::from(u32::from_le_bytes(length)) + 8;
    file.seek(SeekFrom::Start(size.checked_sub(footer_bytes).ok_or_else(too_short)?))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match read_some(file, &mut block)? {
            0 => return Ok(crate::batch::hex(&hash.finalize())),
            read => hash.update(&block[..read]),
        }
    }
}
