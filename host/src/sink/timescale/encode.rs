//! Rows as PostgreSQL's binary COPY has them, straight from the columns.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format". All numbers are big-endian.

use std::collections::BTreeMap;

use arrow_array::{Array, RecordBatch};

use super::schema::{Cell, Column};
use crate::sink::values::{Value, Values};

/// What a stream of rows begins with: the signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What it ends with: a row of -1 values.
const TRAILER: [u8; 2] = [0xff, 0xff];

/// Milliseconds from 1970 to 2000, from where PostgreSQL counts.
const EPOCH_MS: i64 = 946_684_800_000;

/// The first time in microseconds since 2000 (in 4714 BC), and the one after the last (in 294277 AD).
const TIMES_US: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// A row that the table can never take.
pub struct Refusal {
    /// Index of the row.
    pub row: usize,
    /// Why, as a reason of a dead letter.
    pub reason: &'static str,
    /// What is wrong, for a person.
    pub detail: String,
}

/// The rows that the columns of the table cannot have, in their order.
pub fn refusals(columns: &[Column], batch: &RecordBatch) -> Vec<Refusal> {
    let mut found: BTreeMap<usize, Refusal> = BTreeMap::new();
    for (column, array) in columns.iter().zip(batch.columns()) {
        let values = Values::of(array);
        if !may_be_refused(column, array.as_ref(), &values) {
            continue;
        }
        for row in 0..batch.num_rows() {
            if let Some((reason, detail)) = refusal(column, values.at(row)) {
                found.entry(row).or_insert(Refusal { row, reason, detail });
            }
        }
    }
    found.into_values().collect()
}

/// Whether the rows must be looked at one by one: not where the distinct texts, or the extremes, are right.
fn may_be_refused(column: &Column, array: &dyn Array, values: &Values<'_>) -> bool {
    if column.is_required && array.logical_null_count() > 0 {
        return true;
    }
    match values {
        Values::Texts(_, texts) => {
            texts.iter().flatten().any(|text| refusal(column, Value::Text(text)).is_some())
        }
        Values::Integers(integers) if matches!(column.cell, Cell::Int2 | Cell::Int4) => {
            extremes(integers.values()).any(|value| refusal(column, Value::Integer(value)).is_some())
        }
        Values::Timestamps(times) if column.cell == Cell::Time => {
            extremes(times.values()).any(|value| refusal(column, Value::Timestamp(value)).is_some())
        }
        Values::Integers(_) | Values::Timestamps(_) => false,
        Values::Floats(_) | Values::Booleans(_) => false,
    }
}

/// The extremes of the values, those behind nulls with them.
fn extremes(values: &[i64]) -> impl Iterator<Item = i64> {
    [values.iter().min(), values.iter().max()].into_iter().flatten().copied()
}

/// Why the column cannot have the value.
fn refusal(column: &Column, value: Value<'_>) -> Option<(&'static str, String)> {
    let name = &column.name;
    match (value, &column.cell) {
        (Value::Null, _) if column.is_required => {
            Some(("missing", format!("column `{name}` has no value, and the table needs one")))
        }
        (Value::Integer(value), Cell::Int4) if i32::try_from(value).is_err() => {
            Some(("out_of_range", format!("{value} is more than the integer column `{name}` can have")))
        }
        (Value::Integer(value), Cell::Int2) if i16::try_from(value).is_err() => {
            Some(("out_of_range", format!("{value} is more than the smallint column `{name}` can have")))
        }
        (Value::Timestamp(at), Cell::Time) if microseconds(at).is_none() => {
            Some(("out_of_range", format!("{at} ms since 1970 is no time that column `{name}` can have")))
        }
        (Value::Text(text), _) if text.contains('\0') => Some((
            "text_nul",
            format!("column `{name}` has a text with a NUL in it, which PostgreSQL cannot keep"),
        )),
        (Value::Text(text), Cell::Text { most_characters: Some(most) })
            if text.len() > *most && text.chars().count() > *most =>
        {
            let length = text.chars().count();
            Some(("too_long", format!("column `{name}` has {length} characters, and the table takes {most}")))
        }
        _ => None,
    }
}

/// Microseconds since 2000, when PostgreSQL has such a time.
fn microseconds(at_ms: i64) -> Option<i64> {
    at_ms.checked_sub(EPOCH_MS)?.checked_mul(1_000).filter(|at| TIMES_US.contains(at))
}

/// Milliseconds since 1970 of a time of PostgreSQL; those before a millisecond count to it.
pub fn milliseconds(at_us: i64) -> Option<i64> {
    TIMES_US.contains(&at_us).then(|| at_us.div_euclid(1_000) + EPOCH_MS)
}

/// Appends what comes before the rows.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(HEADER);
}

/// Appends what comes after the rows.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(&TRAILER);
}

/// Encodes rows of a batch.
pub struct Encoder<'a> {
    columns: Vec<Source<'a>>,
    has_row_numbers: bool,
}

/// A column with what it becomes.
enum Source<'a> {
    /// Each distinct text once, with its length before it; where each begins and ends.
    Texts {
        keys: &'a arrow_array::UInt32Array,
        nulls: Option<arrow_buffer::NullBuffer>,
        bytes: Vec<u8>,
        ends: Vec<(usize, usize)>,
    },
    /// All others.
    Values(Values<'a>, Cell),
}

/// The length of a value that is none.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

impl<'a> Encoder<'a> {
    /// One for rows that have been looked at by [`refusals`]. With row numbers each row has its number in what is
    /// encoded before its values, as an integer.
    pub fn new(columns: &[Column], batch: &'a RecordBatch, has_row_numbers: bool) -> Encoder<'a> {
        let columns = columns.iter().zip(batch.columns());
        let columns = columns.map(|(column, array)| Source::new(array, column.cell)).collect();
        Encoder { columns, has_row_numbers }
    }

    /// Appends a row; `number` is for [`Encoder::new`] with row numbers.
    pub fn row(&self, row: usize, number: i32, out: &mut Vec<u8>) {
        let count = self.columns.len() + usize::from(self.has_row_numbers);
        // A table has 1,600 columns at most.
        out.extend_from_slice(&(count as i16).to_be_bytes());
        if self.has_row_numbers {
            put(number.to_be_bytes(), out);
        }
        for column in &self.columns {
            column.append(row, out);
        }
    }
}

impl<'a> Source<'a> {
    fn new(array: &'a arrow_array::ArrayRef, cell: Cell) -> Source<'a> {
        let values = Values::of(array);
        let Values::Texts(dictionary, texts) = values else { return Source::Values(values, cell) };
        let mut bytes = Vec::with_capacity(texts.value_data().len() + 4 * texts.len());
        let mut ends = Vec::with_capacity(texts.len());
        for text in texts {
            let start = bytes.len();
            match text {
                // The decoder takes no row of 2 GiB.
                Some(text) => {
                    bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                }
                None => bytes.extend_from_slice(&NULL),
            }
            ends.push((start, bytes.len()));
        }
        Source::Texts { keys: dictionary.keys(), nulls: dictionary.keys().nulls().cloned(), bytes, ends }
    }

    fn append(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Source::Texts { keys, nulls, bytes, ends } => {
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    return out.extend_from_slice(&NULL);
                }
                let (start, end) = ends[keys.value(row) as usize];
                out.extend_from_slice(&bytes[start..end]);
            }
            Source::Values(values, cell) => append(values.at(row), *cell, out),
        }
    }
}

/// Appends a value of fixed size with its length before it.
fn put<const SIZE: usize>(value: [u8; SIZE], out: &mut Vec<u8>) {
    out.extend_from_slice(&(SIZE as i32).to_be_bytes());
    out.extend_from_slice(&value);
}

/// Appends a value that [`refusals`] has let through.
fn append(value: Value<'_>, cell: Cell, out: &mut Vec<u8>) {
    match (value, cell) {
        (Value::Null, _) => out.extend_from_slice(&NULL),
        (Value::Integer(value) | Value::Timestamp(value), Cell::Int8) => put(value.to_be_bytes(), out),
        (Value::Float(value), Cell::Float8) => put(value.to_be_bytes(), out),
        (Value::Timestamp(at), _) => put(microseconds(at).unwrap_or_default().to_be_bytes(), out),
        (Value::Boolean(value), _) => put([u8::from(value)], out),
        (Value::Integer(value), Cell::Int4) => put((value as i32).to_be_bytes(), out),
        (Value::Integer(value), Cell::Int2) => put((value as i16).to_be_bytes(), out),
        (Value::Integer(value), _) => {
            let digits = value.unsigned_abs().to_string();
            put_numeric(value < 0, digits.as_bytes(), digits.len() as i32, out);
        }
        (Value::Float(value), _) => put_float_as_numeric(value, out),
        (Value::Text(text), _) => {
            out.extend_from_slice(&(text.len() as i32).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The signs of a numeric.
const NEGATIVE: u16 = 0x4000;
const NOT_A_NUMBER: u16 = 0xc000;
const INFINITE: u16 = 0xd000;
const MINUS_INFINITE: u16 = 0xf000;

/// Appends the shortest decimal that is this float and no other.
fn put_float_as_numeric(value: f64, out: &mut Vec<u8>) {
    let special = match value {
        _ if value.is_nan() => Some(NOT_A_NUMBER),
        f64::INFINITY => Some(INFINITE),
        f64::NEG_INFINITY => Some(MINUS_INFINITE),
        _ => None,
    };
    if let Some(sign) = special {
        let [high, low] = sign.to_be_bytes();
        return put([0, 0, 0, 0, high, low, 0, 0], out);
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = [whole.as_bytes(), fraction.as_bytes()].concat();
    let mut point = whole.len() as i32 + exponent.parse::<i32>().unwrap_or_default();
    while digits.last() == Some(&b'0') {
        digits.pop();
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros);
    point -= zeros as i32;
    put_numeric(is_negative, &digits, point, out);
}

/// Appends 0.`digits` · 10 ^ `point`; the digits are those of ASCII, without zeros before or after them.
fn put_numeric(is_negative: bool, digits: &[u8], point: i32, out: &mut Vec<u8>) {
    // PostgreSQL counts in ten thousands: four digits a group, the point between two groups.
    let groups_before = point.div_euclid(4) + i32::from(point.rem_euclid(4) > 0);
    let missing = (groups_before * 4 - point) as usize;
    let padded = if digits.is_empty() { 0 } else { missing + digits.len() };
    let mut groups = Vec::with_capacity(padded / 4 + 1);
    for start in (0..padded).step_by(4) {
        let digit = |at: usize| match at.checked_sub(missing).and_then(|at| digits.get(at)) {
            Some(digit) => i16::from(digit - b'0'),
            None => 0,
        };
        groups.push((start..start + 4).fold(0, |sum, at| 10 * sum + digit(at)));
    }
    let scale = (digits.len() as i32 - point).max(0) as u16;
    let weight = if groups.is_empty() { 0 } else { groups_before - 1 } as i16;
    out.extend_from_slice(&(8 + 2 * groups.len() as i32).to_be_bytes());
    out.extend_from_slice(&(groups.len() as i16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&(if is_negative { NEGATIVE } else { 0 }).to_be_bytes());
    out.extend_from_slice(&scale.to_be_bytes());
    groups.iter().for_each(|group: &i16| out.extend_from_slice(&group.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Kind;
    use crate::sink::test_rows::candles;

    fn column(name: &str, kind: Kind, cell: Cell) -> Column {
        Column { name: name.into(), kind, cell, is_required: false }
    }

    fn encoded(value: Value<'_>, cell: Cell) -> Vec<u8> {
        let mut out = Vec::new();
        append(value, cell, &mut out);
        out
    }

    fn numeric(value: f64) -> Vec<i16> {
        let bytes = encoded(Value::Float(value), Cell::Numeric);
        assert_eq!(bytes[..4], ((bytes.len() - 4) as i32).to_be_bytes());
        bytes[4..].chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn values_are_as_the_server_wants_them() {
        assert_eq!(encoded(Value::Null, Cell::Float8), [255, 255, 255, 255]);
        assert_eq!(encoded(Value::Boolean(true), Cell::Bool), [0, 0, 0, 1, 1]);
        assert_eq!(encoded(Value::Integer(-2), Cell::Int2), [0, 0, 0, 2, 255, 254]);
        assert_eq!(encoded(Value::Integer(7), Cell::Int4), [0, 0, 0, 4, 0, 0, 0, 7]);
        assert_eq!(
            encoded(Value::Timestamp(EPOCH_MS + 1), Cell::Time),
            [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 3, 232]
        );
        assert_eq!(encoded(Value::Timestamp(5), Cell::Int8), [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(encoded(Value::Float(1.0), Cell::Float8), [0, 0, 0, 8, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0]);
    }

    /// Groups, weight, sign, scale, groups of four digits; the server's own are in the end-to-end tests.
    #[test]
    fn floats_are_their_shortest_decimals() {
        assert_eq!(numeric(0.0), [0, 0, 0, 0]);
        assert_eq!(numeric(1.0), [1, 0, 0, 0, 1]);
        assert_eq!(numeric(-12345.678), [3, 1, NEGATIVE as i16, 3, 1, 2345, 6780]);
        assert_eq!(numeric(0.1), [1, -1, 0, 1, 1000]);
        assert_eq!(numeric(0.00012), [2, -1, 0, 5, 1, 2000]);
        assert_eq!(numeric(0.00001), [1, -2, 0, 5, 1000]);
        assert_eq!(numeric(1e16), [1, 4, 0, 0, 1]);
        assert_eq!(numeric(50000.0), [1, 1, 0, 0, 5]);
        assert_eq!(numeric(f64::NAN)[2] as u16, NOT_A_NUMBER);
        assert_eq!(numeric(f64::NEG_INFINITY)[2] as u16, MINUS_INFINITE);
        let integer = encoded(Value::Integer(i64::MIN), Cell::Numeric);
        assert_eq!(integer[..10], [0, 0, 0, 18, 0, 5, 0, 4, 0x40, 0]);
    }

    #[test]
    fn a_row_has_the_number_of_its_values_before_them() {
        let batch = candles(&[(1, 2.5, None), (2, 3.5, Some(1))]);
        let kinds =
            [Kind::Timestamp, Kind::Float, Kind::Text, Kind::Text, Kind::Text, Kind::Integer, Kind::Boolean];
        let cells = [
            Cell::Time,
            Cell::Float8,
            Cell::Text { most_characters: None },
            Cell::Text { most_characters: None },
            Cell::Text { most_characters: None },
            Cell::Int8,
            Cell::Bool,
        ];
        let columns: Vec<Column> =
            kinds.into_iter().zip(cells).map(|(kind, cell)| column("c", kind, cell)).collect();
        let mut out = Vec::new();
        Encoder::new(&columns, &batch, true).row(1, 9, &mut out);
        assert_eq!(out[..10], [0, 8, 0, 0, 0, 4, 0, 0, 0, 9]);
        assert_eq!(out.len(), 2 + 8 + 12 + 12 + (4 + 7) + (4 + 8) + (4 + 2) + 12 + 5);
        assert!(out.ends_with(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1]));
        out.clear();
        Encoder::new(&columns, &batch, false).row(0, 0, &mut out);
        assert_eq!(out[..2], [0, 7]);
        assert!(out.ends_with(&[255, 255, 255, 255, 0, 0, 0, 1, 1]));
    }

    #[test]
    fn values_that_a_column_cannot_have_are_refused() {
        let text = column("text", Kind::Text, Cell::Text { most_characters: Some(3) });
        let reason = |column: &Column, value| refusal(column, value).map(|(reason, _)| reason);
        assert_eq!(reason(&text, Value::Text("ééé")), None);
        assert_eq!(reason(&text, Value::Text("éééé")), Some("too_long"));
        assert_eq!(reason(&text, Value::Text("a\0")), Some("text_nul"));
        let small = column("small", Kind::Integer, Cell::Int2);
        assert_eq!(reason(&small, Value::Integer(40_000)), Some("out_of_range"));
        assert_eq!(reason(&small, Value::Null), None);
        let time = column("time", Kind::Timestamp, Cell::Time);
        assert_eq!(reason(&time, Value::Timestamp(0)), None);
        assert_eq!(reason(&time, Value::Timestamp(i64::MAX)), Some("out_of_range"));
        assert_eq!(reason(&time, Value::Timestamp(9_224_318_016_000_000)), Some("out_of_range"));
        assert_eq!(reason(&time, Value::Timestamp(9_224_318_015_999_999)), None);
        let required = Column { is_required: true, ..small };
        assert_eq!(reason(&required, Value::Null), Some("missing"));
    }

    #[test]
    fn only_the_wrong_rows_of_a_batch_are_refused() {
        let batch = candles(&[(0, 1.0, Some(1)), (1, 1.0, Some(1 << 40)), (2, 1.0, None)]);
        let wide = Cell::Text { most_characters: None };
        let mut columns = vec![
            column("timestamp", Kind::Timestamp, Cell::Time),
            column("close", Kind::Float, Cell::Float8),
            column("source", Kind::Text, wide),
            column("symbol", Kind::Text, wide),
            column("timeframe", Kind::Text, wide),
            column("revision", Kind::Integer, Cell::Int4),
            column("closed", Kind::Boolean, Cell::Bool),
        ];
        let rows = |columns: &[Column]| {
            refusals(columns, &batch).iter().map(|refusal| refusal.row).collect::<Vec<_>>()
        };
        assert_eq!(rows(&columns), [1]);
        columns[5].is_required = true;
        assert_eq!(rows(&columns), [1, 2]);
        columns[3].cell = Cell::Text { most_characters: Some(3) };
        assert_eq!(rows(&columns), [0, 1, 2]);
    }

    #[test]
    fn times_come_back_as_they_were() {
        for at in [0, -1, EPOCH_MS, 1_760_000_400_000] {
            assert_eq!(microseconds(at).and_then(milliseconds), Some(at));
        }
        assert_eq!(milliseconds(i64::MAX), None);
    }
}
