//! A row as JSON, without a tree of values in between.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, TimeUnit};

use super::values::{Value, Values};
use crate::batch::json_name;

/// Writes rows of a batch of the host. Timestamps are milliseconds since 1970; a row without a value has
/// `null`; NaN and the infinities, for which JSON has no numbers, are the texts `"NaN"`, `"Infinity"` and
/// `"-Infinity"`.
pub struct RowWriter<'a> {
    /// For each column what stands in front of its value, and its values.
    columns: Vec<(Vec<u8>, Values<'a>)>,
}

impl<'a> RowWriter<'a> {
    /// A writer for the rows of `batch`.
    pub fn new(batch: &'a RecordBatch) -> RowWriter<'a> {
        let names = batch.schema_ref().fields().iter().map(|field| key(json_name(field.name())));
        RowWriter { columns: names.zip(Values::of_batch(batch)).collect() }
    }

    /// Appends a row as one object.
    pub fn append(&self, row: usize, out: &mut Vec<u8>) {
        let mut separator = b'{';
        for (key, values) in &self.columns {
            out.push(separator);
            out.extend_from_slice(key);
            append_value(values.at(row), out);
            separator = b',';
        }
        if self.columns.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
    }
}

/// Appends all rows of a batch, one a line.
pub fn append_lines(batch: &RecordBatch, out: &mut Vec<u8>) {
    let writer = RowWriter::new(batch);
    for row in 0..batch.num_rows() {
        writer.append(row, out);
        out.push(b'\n');
    }
}

/// A key with its colon.
fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    append_text(name, &mut key);
    key.push(b':');
    key
}

fn append_value(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Integer(value) | Value::Timestamp(value) => append_integer(value, out),
        Value::Float(value) => append_float(value, out),
        Value::Boolean(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Value::Text(value) => append_text(value, out),
    }
}

/// Appends an integer.
pub fn append_integer(value: i64, out: &mut Vec<u8>) {
    // 20 bytes hold the longest i64, with its sign; the digits come out last first.
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends the shortest digits that read back as the same float.
fn append_float(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        append_text(not_finite(value), out);
    }
}

/// The word for a float that is not finite.
fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Appends a text in quotes.
pub fn append_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        append_escaped(byte, out);
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

fn append_escaped(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

/// A row of a batch with a source's own types as one object: numbers and booleans as such, binary values,
/// times and nested values as Arrow writes them, in a text. It is for dead letters, so it is made for being
/// right about any type and not for speed.
pub fn row_of_any_type(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if out.len() > 1 {
            out.push(b',');
        }
        append_text(field.name(), &mut out);
        out.push(b':');
        append_any(&column.slice(row, 1), &mut out);
    }
    out.push(b'}');
    out
}

fn append_any(value: &ArrayRef, out: &mut Vec<u8>) {
    if value.is_null(0) || value.data_type() == &DataType::Null {
        return out.extend_from_slice(b"null");
    }
    match value.data_type() {
        DataType::Float64 => append_float(value.as_primitive::<Float64Type>().value(0), out),
        DataType::Float32 => append_float32(value.as_primitive::<Float32Type>().value(0), out),
        DataType::Boolean => append_value(Value::Boolean(value.as_boolean().value(0)), out),
        data_type if data_type.is_integer() => out.extend_from_slice(display(value).as_bytes()),
        DataType::Timestamp(unit, Some(_)) => append_text(&instant(value, *unit), out),
        _ => append_text(&display(value), out),
    }
}

/// A 32-bit float has shorter digits than the 64-bit one of the same value.
fn append_float32(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        append_text(not_finite(f64::from(value)), out);
    }
}

/// A time with a zone, in UTC: Arrow keeps it so, and writing it in its own zone would need the zone's rules.
fn instant(value: &ArrayRef, unit: TimeUnit) -> String {
    match arrow_cast::cast(value, &DataType::Timestamp(unit, None)) {
        Ok(utc) => format!("{}Z", display(&utc)),
        Err(error) => format!("cannot be shown: {error}"),
    }
}

fn display(value: &ArrayRef) -> String {
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(value.as_ref(), &options)
        .and_then(|formatter| formatter.value(0).try_to_string());
    shown.unwrap_or_else(|error| format!("cannot be shown: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BinaryArray, Decimal128Array, Float32Array, Int32Array, NullArray, RecordBatch,
        StringArray, TimestampMicrosecondArray, UInt64Array,
    };
    use serde_json::{Value as Json, json};

    use super::super::test_rows::candles;
    use super::{append_integer, append_lines, append_text, row_of_any_type};

    #[test]
    fn a_row_is_one_line_with_null_and_the_words_for_floats() {
        let mut out = Vec::new();
        append_lines(&candles(&[(1, 0.1, None), (2, f64::NAN, Some(-3))]), &mut out);
        let expected = concat!(
            r#"{"timestamp":60000,"close":0.1,"source":"binance","symbol":"BTC/USDT","timeframe":"1m","revision":null,"closed":true}"#,
            "\n",
            r#"{"timestamp":120000,"close":"NaN","source":"binance","symbol":"BTC/USDT","timeframe":"1m","revision":-3,"closed":true}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn texts_and_integers_come_back_from_any_reader() {
        let every_control: String = (0..=0x7f_u8).map(char::from).collect();
        for text in ["", "plain", "\"", "\\", "ÄÖ😀\u{2028}", "a\nb\r\t\0", &every_control] {
            let mut out = Vec::new();
            append_text(text, &mut out);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
        for value in [0, 7, -7, 10, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            append_integer(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }

    #[test]
    fn a_column_is_written_under_its_name_in_json() {
        let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new(
            "validated_at",
            crate::batch::Kind::Integer.data_type(),
            true,
        )]);
        let column: ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![1]));
        let mut out = Vec::new();
        append_lines(&RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap(), &mut out);
        assert_eq!(out, b"{\"validatedAt\":1}\n");
    }

    #[test]
    fn a_row_of_a_source_keeps_its_values_whatever_their_type() {
        let columns: [(&str, ArrayRef); 9] = [
            ("small", Arc::new(Int32Array::from(vec![1, -5]))),
            ("large", Arc::new(UInt64Array::from(vec![1, u64::MAX]))),
            ("single", Arc::new(Float32Array::from(vec![1.0, 0.1]))),
            ("text", Arc::new(StringArray::from(vec!["a", "q\"q"]))),
            ("none", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("null", Arc::new(NullArray::new(2))),
            ("bytes", Arc::new(BinaryArray::from(vec![&b"a"[..], b"\xff"]))),
            ("time", Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000]).with_timezone("UTC"))),
            (
                "exact",
                Arc::new(Decimal128Array::from(vec![1, 12_345]).with_precision_and_scale(10, 2).unwrap()),
            ),
        ];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
                .unwrap();
        let row: Json = serde_json::from_slice(&row_of_any_type(&batch, 1)).unwrap();
        let expected = json!({
            "small": -5, "large": u64::MAX, "single": 0.1, "text": "q\"q", "none": null, "null": null,
            "bytes": "ff", "time": "1970-01-01T00:00:01.500Z", "exact": "123.45"
        });
        assert_eq!(row, expected);
    }
}
