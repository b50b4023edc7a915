//! JSON rows, written into the columns as they are read.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::column::{Rows, Value};
use super::{DEPTH_MAX, Fault, Keys, Reason, RowResult};

/// What a row may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object.
    Object,
    /// CCXT's array, or an object.
    Candle,
}

/// Reads the row `line` into `rows`.
pub(super) fn read(line: &str, keys: &mut Keys, rows: &mut Rows, shape: Shape) -> RowResult {
    let mut fault = None;
    let mut deserializer = sonic_rs::Deserializer::from_str(line);
    let row = Row { keys, rows, shape, fault: &mut fault };
    let read = deserializer.deserialize_any(row).and_then(|()| deserializer.end());
    match (read, fault) {
        (_, Some(fault)) => Err(fault),
        (Ok(()), None) => Ok(()),
        (Err(error), None) => Err(syntax_fault(line, &error)),
    }
}

#[cold]
fn syntax_fault(line: &str, error: &sonic_rs::Error) -> Box<Fault> {
    let at = error.offset();
    let near = &line.as_bytes()[at.saturating_sub(10).min(line.len())..(at + 10).min(line.len())];
    let has = |word: &[u8]| near.windows(word.len()).any(|window| window == word);
    if has(b"NaN") || has(b"Infinity") || has(b"nan") || has(b"inf") {
        let detail =
            format!("near byte {at}: JSON has no NaN and no Infinity; write null, or the text \"NaN\"");
        return Fault::new(Reason::Malformed, detail);
    }
    let message = error.to_string();
    let what = message.split(" at line").next().unwrap_or_default();
    // The reader has no other way to say that it met a number like 1e400.
    if what.starts_with("Float number must be finite") || what.starts_with("Number is bigger") {
        let detail = format!("near byte {at}: a number that a 64-bit float cannot hold");
        return Fault::new(Reason::OutOfRange, detail);
    }
    Fault::new(Reason::Malformed, format!("near byte {at}: not JSON: {}", what.to_lowercase()))
}

/// The row itself.
struct Row<'a> {
    keys: &'a mut Keys,
    rows: &'a mut Rows,
    shape: Shape,
    fault: &'a mut Option<Box<Fault>>,
}

/// Keeps the fault aside, because the reader's own errors are only texts, and stops the reader.
#[cold]
fn stop<E: serde::de::Error>(aside: &mut Option<Box<Fault>>, fault: Box<Fault>) -> E {
    *aside = Some(fault);
    E::custom("")
}

impl Row<'_> {
    fn not_a_row<E: serde::de::Error>(self, what: &str) -> Result<(), E> {
        let expected = match self.shape {
            Shape::Object => "an object",
            Shape::Candle => "an array or an object",
        };
        Err(stop(self.fault, Fault::new(Reason::NotARow, format!("a row is {expected}, this is {what}"))))
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut position = 0;
        while let Some(slot) = map.next_key_seed(Key { keys: self.keys, position })? {
            match slot {
                Some(slot) => {
                    map.next_value_seed(Cell { rows: self.rows, slot, fault: self.fault })?;
                }
                None => map.next_value_seed(Ignored { depth: 2, fault: self.fault })?,
            }
            position += 1;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.shape == Shape::Object {
            return self.not_a_row("an array");
        }
        for slot in 0..self.keys.elements {
            if seq.next_element_seed(Cell { rows: self.rows, slot, fault: self.fault })?.is_none() {
                return Ok(());
            }
        }
        if seq.next_element_seed(Ignored { depth: 2, fault: self.fault })?.is_some() {
            let detail = format!("the array has more than {} elements", self.keys.elements);
            return Err(stop(self.fault, Fault::new(Reason::Malformed, detail)));
        }
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.not_a_row("a boolean")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.not_a_row("a number")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.not_a_row("a number")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.not_a_row("a number")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.not_a_row("a text")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.not_a_row("null")
    }
}

/// A key of a row's object.
struct Key<'a> {
    keys: &'a mut Keys,
    position: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.keys.find_at(self.position, key))
    }
}

/// A value of a column.
struct Cell<'a> {
    rows: &'a mut Rows,
    slot: usize,
    fault: &'a mut Option<Box<Fault>>,
}

impl Cell<'_> {
    #[inline]
    fn push<E: serde::de::Error>(self, value: Value<'_>) -> Result<(), E> {
        self.rows.push(self.slot, value).map_err(|fault| stop(self.fault, fault))
    }
}

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    #[inline]
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.push(Value::Boolean(value))
    }

    #[inline]
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push(Value::Integer(value))
    }

    #[inline]
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.push(Value::Unsigned(value))
    }

    #[inline]
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.push(Value::Float(value))
    }

    #[inline]
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.push(Value::Text(value))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.push(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        Ignored { depth: 2, fault: self.fault }.visit_seq(seq)?;
        self.push(Value::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        Ignored { depth: 2, fault: self.fault }.visit_map(map)?;
        self.push(Value::Other("an object"))
    }
}

/// A value that no column takes. It is read in full, so that its nesting is bounded and its syntax checked.
struct Ignored<'a> {
    /// The nesting of the value, if it is an object or an array; the row has 1.
    depth: usize,
    fault: &'a mut Option<Box<Fault>>,
}

impl Ignored<'_> {
    fn check_depth<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.depth > DEPTH_MAX {
            let detail = format!("objects and arrays are nested more than {DEPTH_MAX} deep");
            return Err(stop(self.fault, Fault::new(Reason::TooDeep, detail)));
        }
        Ok(())
    }

    fn within(&mut self) -> Ignored<'_> {
        Ignored { depth: self.depth + 1, fault: self.fault }
    }
}

impl<'de> DeserializeSeed<'de> for Ignored<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Ignored<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.check_depth()?;
        while seq.next_element_seed(self.within())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.check_depth()?;
        while map.next_key_seed(self.within())?.is_some() {
            map.next_value_seed(self.within())?;
        }
        Ok(())
    }
}
