use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use std::time::Duration;

use super::*;
use crate::pipeline_file::{ByteSize, Span};
use crate::source::Plan;

fn limits(rows: usize, bytes: u64, wait_ms: u64) -> BatchLimits {
    BatchLimits { rows, bytes: ByteSize(bytes), wait: Span(Duration::from_millis(wait_ms)) }
}

fn config(format: Format, row_bytes: u64) -> Decode {
    Decode { format, row: ByteSize(row_bytes), ..Decode::default() }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn append(&self, name: &str, bytes: &[u8]) {
        let mut file = std::fs::OpenOptions::new().append(true).open(self.0.path().join(name)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn open_with(&self, name: &str, decode: &Decode, limits: &BatchLimits) -> Result<FileSource> {
        FileSource::open(name, decode, limits, self.0.path())
    }

    fn open(&self, name: &str) -> Result<FileSource> {
        self.open_with(name, &Decode::default(), &BatchLimits::default())
    }
}

/// A row as a test compares it: its bytes and the length it was cut from.
type Row = (Vec<u8>, Option<u64>);

fn rows_of(batch: &RawBatch) -> Vec<Row> {
    let Payload::Rows { bytes, rows } = &batch.payload else { panic!("lines are rows") };
    rows.iter().map(|row| (bytes[row.start..row.end].to_vec(), row.cut_from)).collect()
}

/// Reads to the end or to a failure; checks that positions are contiguous.
fn read(source: &mut FileSource) -> (Vec<Row>, Vec<RawBatch>, Option<Error>) {
    let mut rows = Vec::new();
    let mut batches: Vec<RawBatch> = Vec::new();
    let mut offset = source.next.next_offset;
    loop {
        match source.next_batch() {
            Ok(Some(batch)) => {
                for row in 0..batch.len() {
                    assert_eq!(batch.offset(row as u32), offset + row as u64);
                }
                offset += batch.len() as u64;
                assert_eq!(batch.next.next_offset, offset);
                rows.extend(rows_of(&batch));
                batches.push(batch);
            }
            Ok(None) => {
                assert_eq!(source.next_batch(), Ok(None), "the end stays the end");
                return (rows, batches, None);
            }
            Err(error) => return (rows, batches, Some(error)),
        }
    }
}

impl PartialEq for RawBatch {
    fn eq(&self, other: &RawBatch) -> bool {
        self.next == other.next
    }
}

fn whole(lines: &[&str]) -> Vec<Row> {
    lines.iter().map(|line| (line.as_bytes().to_vec(), None)).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 0).unwrap()
}

/// Text that does not compress away.
fn many_lines(count: u64) -> String {
    (0..count)
        .map(|row| format!("{{\"row\":{row},\"x\":{}}}\n", row.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect()
}

#[test]
fn lines_end_as_they_end() {
    let folder = Folder::new();
    for (text, expected) in [
        ("", &[][..]),
        ("a\nb\n", &["a", "b"]),
        ("a\r\nb", &["a", "b"]),
        ("\n\r\n\nx", &["", "", "", "x"]),
        ("a\r", &["a"]),
        ("a\rb\n", &["a\rb"]),
        ("a\r\r\n", &["a\r"]),
    ] {
        folder.write("lines", text.as_bytes());
        let mut source = folder.open("lines").unwrap();
        let (rows, batches, error) = read(&mut source);
        assert_eq!((rows, error), (whole(expected), None), "{text:?}");
        assert_eq!(batches.is_empty(), expected.is_empty());
        assert_eq!(source.progress(), (text.len() as u64, Some(text.len() as u64)));
        assert_eq!(&*source.partition().topic, "lines");
    }
}

#[test]
fn every_batch_size_gives_the_same_rows() {
    let folder = Folder::new();
    let text = "first\r\nsecond row\n\n0123456789abcdef\nä\nlast";
    let expected = ["first", "second row", "", "0123456789abcdef", "ä", "last"];
    folder.write("lines", text.as_bytes());
    for rows in 1..8 {
        for bytes in 1..50 {
            let limits = limits(rows, bytes, 50);
            let mut source = folder.open_with("lines", &Decode::default(), &limits).unwrap();
            let (read, batches, error) = read(&mut source);
            assert_eq!((read, error), (whole(&expected), None));
            for batch in &batches {
                let Payload::Rows { bytes: held, .. } = &batch.payload else { panic!("lines are rows") };
                assert!(batch.len() <= rows && (batch.len() == 1 || held.len() as u64 <= bytes + 1));
            }
        }
    }
}

#[test]
fn rows_across_blocks_and_packings_and_from_any_position() {
    let folder = Folder::new();
    let text = many_lines(30_000);
    let lines: Vec<&str> = text.lines().collect();
    let (one, two) = text.as_bytes().split_at(text.len() / 3);
    folder.write("a.jsonl", text.as_bytes());
    folder.write("a.jsonl.gz", &[gzip(one), gzip(two)].concat());
    folder.write("a.jsonl.zst", &[zstandard(one), zstandard(two)].concat());
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let mut source = folder.open(name).unwrap();
        let (rows, batches, error) = read(&mut source);
        assert_eq!(error, None);
        assert_eq!(rows, whole(&lines), "{name}");
        let (read_bytes, size) = source.progress();
        assert_eq!(Some(read_bytes), size);
        let position = |next_offset| Position { next_offset, ..batches[0].next.clone() };
        for next_offset in [0, 1, 2, 9_999, 29_999, 30_000] {
            let mut source = folder.open(name).unwrap();
            source.seek(&position(next_offset)).unwrap();
            let (rows, _, _) = read(&mut source);
            assert_eq!(rows, whole(&lines[next_offset as usize..]), "{name} from {next_offset}");
        }
        let error = folder.open(name).unwrap().seek(&position(30_001)).unwrap_err();
        assert!(matches!(&error, Error::Surroundings(text) if text.contains("30000 rows")), "{error}");
    }
}

#[test]
fn a_long_row_is_cut_and_its_neighbours_are_whole() {
    let folder = Folder::new();
    for (long_bytes, row_bytes) in
        [(1_001, 1_000), (100_000, 1_000), (3_000_000, 100_000), (3_000_000, 2_999_999)]
    {
        let long = "x".repeat(long_bytes);
        for text in [format!("a\n{long}\nb\n"), format!("a\r\n{long}\r\nb")] {
            folder.write("long", text.as_bytes());
            let decode = config(Format::Json, row_bytes);
            let mut source = folder.open_with("long", &decode, &limits(10, 1 << 20, 1000)).unwrap();
            let (rows, _, error) = read(&mut source);
            let cut = long.as_bytes()[..long_bytes.min(CUT_BYTES)].to_vec();
            let expected = [(b"a".to_vec(), None), (cut, Some(long_bytes as u64)), (b"b".to_vec(), None)];
            assert_eq!(error, None);
            assert!(rows == expected, "{long_bytes} {row_bytes}");
        }
    }
    // A row of exactly the limit is not too long.
    folder.write("long", b"0123456789\r\n0123456789\n0123456789\r");
    let mut source = folder.open_with("long", &config(Format::Json, 10), &BatchLimits::default()).unwrap();
    assert_eq!(read(&mut source).0, whole(&["0123456789"; 3]));
}

#[test]
fn an_appended_file_goes_on_and_a_replaced_one_is_noticed() {
    let folder = Folder::new();
    folder.write("grows", b"one\ntwo\n");
    let mut source = folder.open("grows").unwrap();
    let (_, batches, _) = read(&mut source);
    let position = batches[0].next.clone();
    assert_eq!((position.next_offset, position.fingerprint.len()), (2, 64));

    folder.append("grows", b"three\n");
    let mut source = folder.open("grows").unwrap();
    source.seek(&position).unwrap();
    let (rows, batches, _) = read(&mut source);
    assert_eq!(rows, whole(&["three"]));
    assert_eq!(batches[0].next, Position { next_offset: 3, ..position.clone() });

    folder.write("grows", b"another\ntwo\nthree\n");
    let error = folder.open("grows").unwrap().seek(&position).unwrap_err();
    assert!(matches!(&error, Error::Surroundings(text) if text.contains("rename the pipeline")), "{error}");
    folder.write("grows", b"one\n");
    assert!(matches!(folder.open("grows").unwrap().seek(&position), Err(Error::Surroundings(_))));
    folder.write("grows", b"");
    assert!(matches!(folder.open("grows").unwrap().seek(&position), Err(Error::Surroundings(_))));
}

#[test]
fn a_csv_file_has_a_header_after_a_seek_and_its_first_row_in_the_fingerprint() {
    let folder = Folder::new();
    let csv = config(Format::Csv, 1000);
    folder.write("a.csv", b"t,o\r\n1,2\r\n3,4\r\n");
    for rows in 1..4 {
        let mut source = folder.open_with("a.csv", &csv, &limits(rows, 1000, 50)).unwrap();
        assert_eq!(source.header(), None);
        let (_, batches, _) = read(&mut source);
        for batch in batches {
            let mut source = folder.open_with("a.csv", &csv, &BatchLimits::default()).unwrap();
            source.seek(&batch.next).unwrap();
            assert_eq!(source.header(), Some(b"t,o".as_slice()));
            assert_eq!(read(&mut source).0.len() as u64, 3 - batch.next.next_offset);
        }
    }
    let mut source = folder.open_with("a.csv", &csv, &BatchLimits::default()).unwrap();
    let position = read(&mut source).1[0].next.clone();
    folder.write("a.csv", b"t,o\r\n5,6\r\n7,8\r\n");
    let mut source = folder.open_with("a.csv", &csv, &BatchLimits::default()).unwrap();
    assert!(matches!(source.seek(&position), Err(Error::Surroundings(_))));
}

#[test]
fn no_batch_goes_across_what_is_planned() {
    let folder = Folder::new();
    folder.write("a", many_lines(100).as_bytes());
    for (planned, ends) in [
        (Some(25), vec![20, 25, 35, 45]),
        (Some(20), vec![20, 30, 40, 50]),
        (Some(10), vec![20, 30, 40, 50]),
        (None, vec![20, 30, 40, 50]),
    ] {
        let open = || folder.open_with("a", &Decode::default(), &limits(10, 1 << 20, 50)).unwrap();
        let first = open().next_batch().unwrap().unwrap().next;
        let mut source = open();
        source.seek(&first).unwrap();
        source.set_planned(planned.map(|end| Plan { first: 10, end, id: 7 }));
        let batches: Vec<_> = (0..4).map(|_| source.next_batch().unwrap().unwrap()).collect();
        let seen: Vec<_> = batches.iter().map(|batch| batch.next.next_offset).collect();
        assert_eq!(seen, ends, "{planned:?}");
    }
}

#[test]
fn what_cannot_be_opened() {
    let folder = Folder::new();
    folder.write("text.gz", b"{}\n");
    folder.write("text.zst", b"{}\n");
    folder.write("text.parquet", b"{\"a\":1}\n");
    folder.write("empty.parquet", b"");
    std::fs::create_dir(folder.0.path().join("folder")).unwrap();
    let parquet = config(Format::Parquet, 1000);
    for (name, decode, part) in [
        ("missing", &Decode::default(), "no such file"),
        ("folder", &Decode::default(), "is a folder"),
        ("text.gz", &Decode::default(), "not gzip data"),
        ("text.zst", &Decode::default(), "not zstd data"),
        ("text.parquet", &parquet, "not a whole Parquet file"),
        ("empty.parquet", &parquet, "not a whole Parquet file"),
        ("-", &parquet, "no regular file"),
    ] {
        let error = folder.open_with(name, decode, &BatchLimits::default()).err().unwrap();
        assert!(matches!(&error, Error::Surroundings(text) if text.contains(part)), "{error}");
    }
    let error = open_error(&"x", &io::Error::from(io::ErrorKind::PermissionDenied));
    assert!(error.to_string().contains("may not read it"));
    for name in ["empty.gz", "empty.zst", "empty"] {
        folder.write(name, b"");
        assert_eq!(read(&mut folder.open(name).unwrap()).0, []);
    }
}

#[test]
fn a_damaged_file_gives_its_rows_and_then_says_where() {
    let folder = Folder::new();
    let text = many_lines(50_000);
    let lines: Vec<&str> = text.lines().collect();
    for (name, packed) in [("a.gz", gzip(text.as_bytes())), ("a.zst", zstandard(text.as_bytes()))] {
        folder.write(name, &packed[..packed.len() / 2]);
        let mut source = folder.open(name).unwrap();
        let (rows, batches, error) = read(&mut source);
        assert!(rows.len() > 10_000 && rows.len() < 50_000);
        assert_eq!(rows, whole(&lines[..rows.len()]), "no row is half a row");
        let error = error.unwrap();
        assert!(matches!(&error, Error::Running(text) if text.contains("before byte")), "{error}");
        assert_eq!(source.next_batch(), Ok(None));
        // The whole file goes on where the damaged one ended.
        folder.write(name, &packed);
        let mut source = folder.open(name).unwrap();
        source.seek(&batches.last().unwrap().next).unwrap();
        assert_eq!(read(&mut source).0, whole(&lines[rows.len()..]));
    }
    folder.write("garbage.gz", &[gzip(b"a\nb\n"), b"more than a header of garbage".to_vec()].concat());
    let error = folder.open("garbage.gz").err().unwrap();
    assert!(matches!(&error, Error::Surroundings(text) if text.contains("is damaged")), "{error}");
}

#[test]
fn a_pipe_gives_what_has_come() {
    let folder = Folder::new();
    let path = folder.0.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut source = folder.open_with("pipe", &Decode::default(), &limits(100, 1000, 10)).unwrap();
    assert!(!source.is_resumable());
    source.seek(&Position { next_offset: 5, fingerprint: "x".into() }).unwrap();
    // Nobody writes yet: no rows, no wait without end.
    assert_eq!(source.next_batch().unwrap().unwrap().len(), 0);
    let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"one\ntw").unwrap();
    let mut rows = Vec::new();
    while rows.is_empty() {
        rows.extend(rows_of(&source.next_batch().unwrap().unwrap()));
    }
    assert_eq!(rows, whole(&["one"]));
    assert!(source.next_batch().unwrap().unwrap().is_empty());
    writer.write_all(b"o\nthree").unwrap();
    drop(writer);
    let mut last = Position::default();
    while let Some(batch) = source.next_batch().unwrap() {
        rows.extend(rows_of(&batch));
        last = batch.next;
    }
    assert_eq!(rows, whole(&["one", "two", "three"]));
    assert_eq!(last, Position { next_offset: 3, fingerprint: String::new() });
    assert_eq!(source.progress(), (13, None));
}

fn write_parquet(path: &Path, from: i64, rows: i64) {
    let batch = |from: i64, to: i64| {
        let column = Arc::new(Int64Array::from_iter_values(from..to));
        RecordBatch::try_from_iter([("row", column as arrow_array::ArrayRef)]).unwrap()
    };
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch(0, 0).schema(), None).unwrap();
    // Two row groups.
    writer.write(&batch(from, from + rows / 2)).unwrap();
    writer.flush().unwrap();
    writer.write(&batch(from + rows / 2, from + rows)).unwrap();
    writer.close().unwrap();
}

fn read_parquet(source: &mut FileSource) -> (Vec<i64>, Vec<Position>) {
    let mut rows = Vec::new();
    let mut positions = Vec::new();
    while let Some(batch) = source.next_batch().unwrap() {
        let Payload::Columns { columns, first_offset } = &batch.payload else { panic!("Parquet is columns") };
        assert_eq!(first_offset + columns.num_rows() as u64, batch.next.next_offset);
        rows.extend(columns["row"].as_primitive::<Int64Type>().values());
        positions.push(batch.next);
    }
    (rows, positions)
}

#[test]
fn a_parquet_file_is_read_from_any_row() {
    let folder = Folder::new();
    let path = folder.0.path().join("a.parquet");
    write_parquet(&path, 0, 1000);
    let open =
        || folder.open_with("a.parquet", &config(Format::Parquet, 1000), &limits(300, 1 << 20, 50)).unwrap();
    let (rows, positions) = read_parquet(&mut open());
    assert_eq!(rows, (0..1000).collect::<Vec<_>>());
    assert!(positions.len() >= 4);
    for position in &positions {
        let mut source = open();
        source.seek(position).unwrap();
        assert_eq!(read_parquet(&mut source).0, (position.next_offset as i64..1000).collect::<Vec<_>>());
        assert_eq!(source.progress().0, source.progress().1.unwrap());
    }
    write_parquet(&path, 7, 1000);
    assert!(matches!(open().seek(&positions[0]), Err(Error::Surroundings(_))));
    write_parquet(&path, 0, 100);
    assert!(matches!(open().seek(&positions[0]), Err(Error::Surroundings(_))));
    // A file that ends too early or is damaged in the middle fails with a sentence.
    write_parquet(&path, 0, 1000);
    let bytes = std::fs::read(&path).unwrap();
    for end in [4, 8, 100, bytes.len() - 1] {
        folder.write("a.parquet", &bytes[..end]);
        assert!(
            folder.open_with("a.parquet", &config(Format::Parquet, 1000), &BatchLimits::default()).is_err()
        );
    }
}

/// The position after all rows of `content`, which becomes the file `grows`.
fn position_after(folder: &Folder, decode: &Decode, content: &[u8]) -> Position {
    folder.write("grows", content);
    let mut source = folder.open_with("grows", decode, &BatchLimits::default()).unwrap();
    read(&mut source).1.last().unwrap().next.clone()
}

#[test]
fn a_row_without_an_end_that_goes_on_later_is_refused() {
    let folder = Folder::new();
    let long = "x".repeat(BLOCK_BYTES + 7);
    for format in [Format::Json, Format::Csv] {
        let decode = config(format, 1000);
        for before in ["", "one\n", "one\ntwo\n", "one\r\ntwo\r\nthree\r\n", "one\n\n"] {
            for torn in ["a", "a\r", &long] {
                let start = [before, torn].concat();
                let position = position_after(&folder, &decode, start.as_bytes());
                assert_eq!(position.next_offset as usize, before.lines().count() + 1);
                for (more, goes_on) in [
                    ("", true),
                    ("\n", true),
                    ("\r\n", true),
                    ("\r", true),
                    ("\nnext\n", true),
                    ("\r\nnext\r\nlast", true),
                    ("b", false),
                    ("\rb\n", false),
                    ("b\nnext\n", false),
                ] {
                    let what = format!("{before:?} {:?} {more:?}", &torn[..torn.len().min(4)]);
                    folder.write("grows", [start.as_str(), more].concat().as_bytes());
                    let mut source = folder.open_with("grows", &decode, &BatchLimits::default()).unwrap();
                    match source.seek(&position) {
                        Ok(()) => assert!(goes_on, "{what}"),
                        Err(Error::Surroundings(text)) => {
                            assert!(!goes_on, "{what}: {text}");
                            let words = format!("row {} (the first is 0)", position.next_offset - 1);
                            assert!(text.contains(&words), "{what}: {text}");
                            continue;
                        }
                        Err(error) => panic!("{what}: {error}"),
                    }
                    let (rows, batches, _) = read(&mut source);
                    let lines: Vec<&str> = more.lines().skip(1).collect();
                    assert_eq!(rows, whole(&lines), "{what}");
                    // The position after it is one that a later run accepts.
                    if let Some(batch) = batches.last() {
                        source.seek(&batch.next).unwrap();
                        assert_eq!(read(&mut source).0, []);
                    }
                }
            }
        }
    }
    // Another file is another file, also where its row is longer.
    let position = position_after(&folder, &Decode::default(), b"one");
    folder.write("grows", b"another\n");
    let error = folder.open("grows").unwrap().seek(&position).unwrap_err();
    assert!(error.to_string().contains("begins with other rows"), "{error}");
    // A position that says nothing of a line end has nothing to compare.
    let old = Position { fingerprint: position.fingerprint[..64].into(), ..position };
    folder.write("grows", b"one");
    folder.open("grows").unwrap().seek(&old).unwrap();
}

#[test]
fn the_position_of_a_pipe_is_none_of_a_regular_file() {
    let folder = Folder::new();
    folder.write("rows", b"one\ntwo\n");
    write_parquet(&folder.0.path().join("a.parquet"), 0, 10);
    let of_pipe = Position { next_offset: 1, fingerprint: String::new() };
    for (name, format) in [("rows", Format::Json), ("a.parquet", Format::Parquet)] {
        let mut source = folder.open_with(name, &config(format, 1000), &BatchLimits::default()).unwrap();
        let error = source.seek(&of_pipe).unwrap_err();
        assert!(matches!(&error, Error::Surroundings(text) if text.contains("of a pipe")), "{error}");
        source.seek(&Position::default()).unwrap();
    }
}

#[test]
fn a_header_that_is_too_long_stays_too_long_after_a_seek() {
    let folder = Folder::new();
    for (header, cut) in [("t,ooo", false), ("t,ooo\r", false), ("t,oooo", true), ("t,oooo\r", true)] {
        let csv = config(Format::Csv, 5);
        folder.write("a.csv", format!("{header}\n1,2\n3,4\n").as_bytes());
        let mut source = folder.open_with("a.csv", &csv, &limits(2, 1000, 50)).unwrap();
        let first = source.next_batch().unwrap().unwrap();
        assert_eq!(rows_of(&first)[0].1.is_some(), cut, "{header:?}");
        source.seek(&first.next).unwrap();
        assert_eq!(source.header(), (!cut).then_some(b"t,ooo".as_slice()), "{header:?}");
    }
}

#[test]
fn a_long_text_of_many_parquet_rows_is_in_memory_once() {
    use arrow_array::types::Int32Type;
    let folder = Folder::new();
    let long = "x".repeat(900_000);
    let texts = |dictionary: bool| -> arrow_array::ArrayRef {
        let texts = arrow_array::DictionaryArray::<Int32Type>::from_iter(vec![long.as_str(); 100]);
        if dictionary {
            Arc::new(texts)
        } else {
            arrow_cast::cast(&texts, &arrow_schema::DataType::Utf8).unwrap()
        }
    };
    for dictionary in [true, false] {
        let batch = RecordBatch::try_from_iter([("text", texts(dictionary))]).unwrap();
        let file = File::create(folder.0.path().join("a.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        for group in 0..20 {
            writer.write(&batch).unwrap();
            if group == 9 {
                writer.flush().unwrap();
            }
        }
        writer.close().unwrap();
        let parquet = config(Format::Parquet, 1 << 20);
        let mut source = folder.open_with("a.parquet", &parquet, &limits(10_000, 4 << 20, 50)).unwrap();
        let mut rows = 0;
        while let Some(batch) = source.next_batch().unwrap() {
            let Payload::Columns { columns, .. } = &batch.payload else { panic!("Parquet is columns") };
            assert!(columns.num_rows() <= 4, "a batch has at most 4 MiB in its sink");
            assert!(columns.get_array_memory_size() < 4 << 20);
            rows += columns.num_rows();
        }
        assert_eq!(rows, 2000);
    }
}

#[test]
fn a_parquet_file_with_any_byte_changed_is_read_or_refused() {
    let folder = Folder::new();
    let path = folder.0.path().join("a.parquet");
    write_parquet(&path, 0, 200);
    let whole = std::fs::read(&path).unwrap();
    let parquet = config(Format::Parquet, 1000);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        folder.write("a.parquet", &damaged);
        let Ok(mut source) = folder.open_with("a.parquet", &parquet, &BatchLimits::default()) else {
            continue;
        };
        while let Ok(Some(batch)) = source.next_batch() {
            assert!(batch.next.next_offset <= 200);
        }
        assert_eq!(source.next_batch(), Ok(None), "the end stays the end");
    }
    // Offsets and sizes of the footer are compared with the file before anything is read.
    let footer = |offset, bytes| {
        let column = Arc::new(::parquet::schema::types::ColumnDescriptor::new(
            Arc::new(
                ::parquet::schema::types::Type::primitive_type_builder("row", ::parquet::basic::Type::INT64)
                    .build()
                    .unwrap(),
            ),
            0,
            0,
            ::parquet::schema::types::ColumnPath::from("row"),
        ));
        let chunk = ::parquet::file::metadata::ColumnChunkMetaData::builder(column);
        chunk.set_data_page_offset(offset).set_total_compressed_size(bytes).build().unwrap()
    };
    for (offset, bytes, is_whole) in
        [(4, 96, true), (4, 97, false), (-1, 5, false), (4, -1, false), (i64::MAX, i64::MAX, false)]
    {
        assert_eq!(parquet_file::lies_within(&footer(offset, bytes), 100), is_whole, "{offset} {bytes}");
    }
}
