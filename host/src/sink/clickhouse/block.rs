//! Blocks in the format `Native`: columns as ClickHouse keeps them in memory, each appended to straight from Arrow.
//!
//! `Native` carries some 30 % more rows a second than `RowBinary`, which the server has to take apart row by row;
//! `cargo xtask bench clickhouse` compares them.

use std::borrow::Cow;
use std::collections::HashMap;

use arrow_array::{Array, RecordBatch, StringArray};

use super::types::{Base, Type, ticks};
use crate::sink::values::{Value, Values};

/// A block that grows.
pub struct Block {
    rows: usize,
    columns: Vec<Column>,
}

/// The values of a column.
struct Column {
    /// For each row whether it has no value; empty where the type has none without.
    nulls: Vec<u8>,
    data: Data,
}

enum Data {
    /// As the server has them.
    Bytes(Vec<u8>),
    Dictionary(Dictionary),
}

/// Of a `LowCardinality` column.
struct Dictionary {
    keys: HashMap<Box<[u8]>, u32>,
    /// The texts in the order of their keys, each after its length.
    texts: Vec<u8>,
    indexes: Vec<u32>,
    /// The key 0 stands for no value.
    is_nullable: bool,
}

/// `LowCardinality`: a dictionary is for this block alone.
const SHARED_DICTIONARIES_WITH_ADDITIONAL_KEYS: u64 = 1;
/// In the type of the keys: the dictionary's texts follow.
const HAS_ADDITIONAL_KEYS: u64 = 1 << 9;
/// In the type of the keys: the dictionary is a new one.
const NEEDS_UPDATE: u64 = 1 << 10;

impl Block {
    /// An empty block of these columns.
    pub fn new<'t>(types: impl IntoIterator<Item = &'t Type>) -> Block {
        Block { rows: 0, columns: types.into_iter().map(Column::new).collect() }
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// Appends rows, each of whose values fits its column's type.
    pub fn append(&mut self, types: &[(String, Type)], batch: &RecordBatch) {
        for ((column, (_, column_type)), array) in self.columns.iter_mut().zip(types).zip(batch.columns()) {
            column.append(column_type, &Values::of(array), batch.num_rows());
        }
        self.rows += batch.num_rows();
    }

    /// Appends one row.
    pub fn append_row<'v>(
        &mut self,
        types: &[(String, Type)],
        values: impl IntoIterator<Item = Result<Value<'v>, &'v [u8]>>,
    ) {
        for ((column, (_, column_type)), value) in self.columns.iter_mut().zip(types).zip(values) {
            match value {
                Ok(value) => column.push(column_type, value),
                Err(bytes) => column.push_text(column_type, bytes),
            }
        }
        self.rows += 1;
    }

    /// The block as it is sent: names, types, values.
    pub fn pieces<'b>(&'b self, types: &'b [(String, Type)]) -> impl Iterator<Item = Cow<'b, [u8]>> + 'b {
        let mut head = Vec::new();
        push_length(&mut head, types.len() as u64);
        push_length(&mut head, self.rows as u64);
        let columns = self.columns.iter().zip(types).flat_map(|(column, (name, column_type))| {
            let mut head = Vec::new();
            push_bytes(&mut head, name.as_bytes());
            push_bytes(&mut head, column_type.name.as_bytes());
            std::iter::once(Cow::Owned(head)).chain(column.pieces())
        });
        std::iter::once(Cow::Owned(head)).chain(columns)
    }
}

impl Column {
    fn new(column_type: &Type) -> Column {
        let data = match column_type.is_dictionary {
            true => Data::Dictionary(Dictionary::new(column_type.is_nullable)),
            false => Data::Bytes(Vec::new()),
        };
        Column { nulls: Vec::new(), data }
    }

    fn bytes(&self) -> usize {
        self.nulls.len()
            + match &self.data {
                Data::Bytes(bytes) => bytes.len(),
                Data::Dictionary(dictionary) => 2 * dictionary.texts.len() + 4 * dictionary.indexes.len(),
            }
    }

    fn append(&mut self, column_type: &Type, values: &Values<'_>, rows: usize) {
        match (&mut self.data, values) {
            (Data::Dictionary(dictionary), Values::Texts(keys, texts)) => {
                let known: Vec<u32> = (0..texts.len()).map(|text| dictionary.key_of(texts, text)).collect();
                dictionary.indexes.extend((0..rows).map(|row| match keys.key(row) {
                    Some(key) => known[key],
                    None => 0,
                }));
                return;
            }
            (Data::Bytes(bytes), Values::Floats(array)) if array.null_count() == 0 => {
                push_all(bytes, array.values(), |value| value.to_le_bytes());
            }
            (Data::Bytes(bytes), Values::Integers(array))
                if array.null_count() == 0
                    && matches!(column_type.base, Base::Integer(8) | Base::Unsigned(8)) =>
            {
                push_all(bytes, array.values(), |value| value.to_le_bytes());
            }
            (Data::Bytes(bytes), Values::Timestamps(array))
                if array.null_count() == 0
                    && matches!(column_type.base, Base::DateTime64(3) | Base::Integer(8)) =>
            {
                push_all(bytes, array.values(), |value| value.to_le_bytes());
            }
            _ => {
                (0..rows).for_each(|row| self.push(column_type, values.at(row)));
                return;
            }
        }
        if column_type.is_nullable {
            self.nulls.resize(self.nulls.len() + rows, 0);
        }
    }

    /// Appends a value that the type holds.
    fn push(&mut self, column_type: &Type, value: Value<'_>) {
        if let Value::Text(text) = value {
            return self.push_text(column_type, text.as_bytes());
        }
        if column_type.is_nullable && !column_type.is_dictionary {
            self.nulls.push(u8::from(value == Value::Null));
        }
        let bytes = match &mut self.data {
            Data::Bytes(bytes) => bytes,
            Data::Dictionary(dictionary) => return dictionary.indexes.push(0),
        };
        let number = match (value, column_type.base) {
            // An empty text has the length 0, which is one byte.
            (_, Base::Text) => return bytes.push(0),
            (Value::Float(value), _) => return bytes.extend_from_slice(&value.to_le_bytes()),
            (Value::Timestamp(ms), Base::DateTime64(precision)) => ticks(ms, precision).unwrap_or(0),
            (Value::Timestamp(ms), Base::DateTime) => ms / 1000,
            (Value::Timestamp(value) | Value::Integer(value), _) => value,
            (Value::Boolean(value), _) => i64::from(value),
            (Value::Null | Value::Text(_), _) => 0,
        };
        let width = match column_type.base {
            Base::Integer(width) | Base::Unsigned(width) => width,
            Base::Boolean => 1,
            Base::DateTime => 4,
            Base::Float | Base::DateTime64(_) | Base::Text => 8,
        };
        bytes.extend_from_slice(&number.to_le_bytes()[..width]);
    }

    fn push_text(&mut self, column_type: &Type, text: &[u8]) {
        match &mut self.data {
            Data::Bytes(bytes) => {
                if column_type.is_nullable {
                    self.nulls.push(0);
                }
                push_bytes(bytes, text);
            }
            Data::Dictionary(dictionary) => {
                let key = dictionary.key(text);
                dictionary.indexes.push(key);
            }
        }
    }

    fn pieces(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let nulls = Some(Cow::Borrowed(self.nulls.as_slice()));
        let pieces = match &self.data {
            Data::Bytes(bytes) => [nulls, Some(Cow::Borrowed(bytes.as_slice())), None, None],
            Data::Dictionary(dictionary) => dictionary.pieces().map(Some),
        };
        pieces.into_iter().flatten()
    }
}

impl Dictionary {
    fn new(is_nullable: bool) -> Dictionary {
        let mut dictionary =
            Dictionary { keys: HashMap::new(), texts: Vec::new(), indexes: Vec::new(), is_nullable };
        if is_nullable {
            // Its text is not looked at.
            push_bytes(&mut dictionary.texts, b"");
        }
        dictionary
    }

    fn len(&self) -> usize {
        self.keys.len() + usize::from(self.is_nullable)
    }

    fn key(&mut self, text: &[u8]) -> u32 {
        if let Some(key) = self.keys.get(text) {
            return *key;
        }
        // A block has at most a million rows, and each brings at most one text.
        let key = self.len() as u32;
        push_bytes(&mut self.texts, text);
        self.keys.insert(text.into(), key);
        key
    }

    /// The key of a text of a batch's dictionary; rows without a value may point at one that is none.
    fn key_of(&mut self, texts: &StringArray, text: usize) -> u32 {
        if texts.is_null(text) { 0 } else { self.key(texts.value(text).as_bytes()) }
    }

    fn pieces(&self) -> [Cow<'_, [u8]>; 4] {
        let (width_type, width) = match self.len() {
            0..=0x100 => (0_u64, 1),
            0x101..=0x1_0000 => (1, 2),
            _ => (2, 4),
        };
        let numbers = [
            SHARED_DICTIONARIES_WITH_ADDITIONAL_KEYS,
            width_type | HAS_ADDITIONAL_KEYS | NEEDS_UPDATE,
            self.len() as u64,
        ];
        let head = numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let mut indexes = Vec::with_capacity(width * self.indexes.len());
        match width {
            1 => indexes.extend(self.indexes.iter().map(|index| *index as u8)),
            2 => push_all(&mut indexes, &self.indexes, |index| (index as u16).to_le_bytes()),
            _ => push_all(&mut indexes, &self.indexes, u32::to_le_bytes),
        }
        let rows = (self.indexes.len() as u64).to_le_bytes().to_vec();
        [Cow::Owned(head), Cow::Borrowed(&self.texts), Cow::Owned(rows), Cow::Owned(indexes)]
    }
}

/// Appends numbers of one width; the compiler makes one copy of it where they are in memory as they are sent.
fn push_all<T: Copy, const WIDTH: usize>(
    bytes: &mut Vec<u8>,
    values: &[T],
    encode: impl Fn(T) -> [u8; WIDTH],
) {
    let start = bytes.len();
    bytes.resize(start + WIDTH * values.len(), 0);
    for (slot, value) in bytes[start..].chunks_exact_mut(WIDTH).zip(values) {
        slot.copy_from_slice(&encode(*value));
    }
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first.
fn push_length(out: &mut Vec<u8>, mut length: u64) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}
