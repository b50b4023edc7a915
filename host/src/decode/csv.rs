//! Comma-separated rows under a header.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};

use super::column::{Rows, Value};
use super::{Fault, Keys, Reason, RowResult, quoted};
use crate::batch::Kind;

/// Reads lines once it knows the header.
#[derive(Default)]
pub(super) struct Csv {
    header: Header,
    fields: Fields,
}

#[derive(Default)]
enum Header {
    #[default]
    Unknown,
    /// For each field of a line its column.
    Slots(Vec<Option<usize>>),
    /// A header under which no row has a meaning.
    Bad(Box<Fault>),
}

impl Csv {
    pub(super) fn set_header(&mut self, line: &[u8], keys: &Keys) {
        self.header = match self.header_slots(line, keys) {
            Ok(slots) => Header::Slots(slots),
            Err(fault) => Header::Bad(fault),
        };
    }

    fn header_slots(&mut self, line: &[u8], keys: &Keys) -> Result<Vec<Option<usize>>, Box<Fault>> {
        let line = std::str::from_utf8(line).map_err(|_| {
            Fault::new(Reason::InvalidUtf8, "the file's first line, the header, is not UTF-8")
        })?;
        self.fields.split(line)?;
        let mut slots = Vec::new();
        for name in self.fields.iter() {
            let slot = keys.find(name.trim());
            if slot.is_some() && slots.contains(&slot) {
                let detail = format!("the header names a column twice, the second time as {}", quoted(name));
                return Err(Fault::new(Reason::DuplicateField, detail));
            }
            slots.push(slot);
        }
        if slots.iter().all(Option::is_none) {
            let detail = format!("the file's first line, the header, names no column: {}", quoted(line));
            return Err(Fault::new(Reason::Malformed, detail));
        }
        Ok(slots)
    }

    pub(super) fn read(&mut self, line: &str, rows: &mut Rows) -> RowResult {
        let slots = match &self.header {
            Header::Slots(slots) => slots,
            Header::Bad(fault) => return Err(fault.clone()),
            Header::Unknown => return Err(Fault::new(Reason::Malformed, "no header came before the row")),
        };
        self.fields.split(line)?;
        if self.fields.len() != slots.len() {
            let detail =
                format!("the row has {} fields, the header names {}", self.fields.len(), slots.len());
            return Err(Fault::new(Reason::Malformed, detail));
        }
        for (field, slot) in self.fields.iter().zip(slots) {
            if let Some(slot) = *slot {
                rows.push(slot, field_value(field, rows.kind(slot)))?;
            }
        }
        Ok(())
    }
}

fn field_value(field: &str, kind: Kind) -> Value<'_> {
    match (kind, field) {
        (_, "") => Value::Null,
        (Kind::Boolean, "true") => Value::Boolean(true),
        (Kind::Boolean, "false") => Value::Boolean(false),
        _ => Value::Text(field),
    }
}

/// The fields of a line, unquoted.
struct Fields {
    reader: Reader,
    text: String,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl Default for Fields {
    fn default() -> Fields {
        // The source has split the lines; a `\r` within one is a part of its field.
        let reader = ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build();
        Fields { reader, text: String::new(), bytes: Vec::new(), ends: Vec::new(), count: 0 }
    }
}

impl Fields {
    fn split(&mut self, line: &str) -> RowResult {
        self.count = 0;
        check_quotes(line)?;
        self.reader.reset();
        // Unquoting only shortens, and each field but the last ends with a comma.
        self.bytes.resize(line.len() + 1, 0);
        self.ends.resize(line.len() + 2, 0);
        let (result, _, written, ended) =
            self.reader.read_record(line.as_bytes(), &mut self.bytes, &mut self.ends);
        if result != ReadRecordResult::InputEmpty {
            return Err(Fault::new(Reason::Malformed, "a line ends within the row"));
        }
        // Only the newline ends a row, unless it stands within a quote.
        let (result, _, tail, count) =
            self.reader.read_record(b"\n", &mut self.bytes[written..], &mut self.ends[ended..]);
        if result != ReadRecordResult::Record {
            return Err(Fault::new(Reason::Malformed, "a quote is not closed on its line"));
        }
        self.count = ended + count;
        self.text.clear();
        match std::str::from_utf8(&self.bytes[..written + tail]) {
            Ok(text) => self.text.push_str(text),
            Err(_) => return Err(Fault::new(Reason::InvalidUtf8, "a field is not UTF-8")),
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.count
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let ends = &self.ends[..self.count];
        (0..self.count).map(|field| {
            let start = if field == 0 { 0 } else { ends[field - 1] };
            &self.text[start..ends[field]]
        })
    }
}

/// A quote stands around a whole field, and doubled within it. Anywhere else the line is a part of a row that
/// goes over several lines, or somebody's other dialect.
fn check_quotes(line: &str) -> RowResult {
    let bytes = line.as_bytes();
    let mut at = 0;
    while let Some(quote) = memchr::memchr(b'"', &bytes[at..]).map(|quote| at + quote) {
        if quote > 0 && bytes[quote - 1] != b',' {
            return Err(Fault::new(
                Reason::Malformed,
                "a quote stands within a field that does not begin with one",
            ));
        }
        let Some(end) = closing_quote(bytes, quote + 1) else {
            return Err(Fault::new(Reason::Malformed, "a quote is not closed on its line"));
        };
        if bytes.get(end + 1).is_some_and(|&next| next != b',') {
            return Err(Fault::new(Reason::Malformed, "a field goes on after its closing quote"));
        }
        at = end + 1;
    }
    Ok(())
}

/// Where the quote is that ends the field whose text begins at `from`.
fn closing_quote(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let quote = at + memchr::memchr(b'"', bytes.get(at..)?)?;
        if bytes.get(quote + 1) != Some(&b'"') {
            return Some(quote);
        }
        at = quote + 2;
    }
}
