//! What the cells and rows of an answer are read into, without a copy of their texts.

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, IgnoredAny, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A number that the exchange writes as a JSON number or as a decimal text, as the nearest `f64`. A text that is no
/// number, and `null`, are NaN: a [`Page`](crate::exchange::Page) leaves such a row out and notes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a number or a decimal text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
        Ok(Number(text.parse().unwrap_or(f64::NAN)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_unit<E: Error>(self) -> Result<Number, E> {
        Ok(Number(f64::NAN))
    }
}

/// An integer that the exchange writes as a JSON number or as a text: a time, a count. Anything else is an answer of
/// another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integer(pub i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Integer, D::Error> {
        deserializer.deserialize_any(IntegerVisitor)
    }
}

struct IntegerVisitor;

impl Visitor<'_> for IntegerVisitor {
    type Value = Integer;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an integer")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Integer, E> {
        text.parse().map(Integer).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Integer, E> {
        i64::try_from(value).map(Integer).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Integer, E> {
        Ok(Integer(value))
    }
}

/// The first cells of a row as a tuple; those behind them are passed over, so that a cell that an exchange adds breaks
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leading<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Leading<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Leading<T>, D::Error> {
        deserializer.deserialize_seq(LeadingVisitor(std::marker::PhantomData))
    }
}

struct LeadingVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LeadingVisitor<T> {
    type Value = Leading<T>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a row of cells")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut cells: A) -> Result<Leading<T>, A::Error> {
        let leading = T::deserialize(SeqAccessDeserializer::new(&mut cells))?;
        while cells.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Leading(leading))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(json: &str) -> f64 {
        serde_json::from_str::<Number>(json).unwrap().0
    }

    #[test]
    fn numbers_and_decimal_texts_are_the_nearest_float() {
        for text in ["67012.01000000", "0.1", "0.30000000000000004", "5e-324", "123456789.123456789", "-0.0"]
        {
            let nearest: f64 = text.parse().unwrap();
            assert_eq!(number(text).to_bits(), nearest.to_bits(), "{text}");
            assert_eq!(number(&format!("\"{text}\"")).to_bits(), nearest.to_bits(), "{text}");
        }
        assert_eq!(number("73241"), 73_241.0);
        assert_eq!(number("-3"), -3.0);
        assert_eq!(number("\"7\\u0035\""), 75.0);
    }

    #[test]
    fn what_is_no_number_is_nan_and_what_is_no_cell_is_an_error() {
        for json in ["\"\"", "\"1,5\"", "\"0x10\"", "null", "\"nan\""] {
            assert!(number(json).is_nan(), "{json}");
        }
        assert!(number("\"inf\"").is_infinite());
        for json in ["true", "[]", "{}"] {
            let error = serde_json::from_str::<Number>(json).unwrap_err().to_string();
            assert!(error.contains("expected a number or a decimal text"), "{error}");
        }
    }

    #[test]
    fn integers_are_read_from_numbers_and_texts() {
        assert_eq!(
            serde_json::from_str::<[Integer; 2]>("[1710327600, \"-1\"]").unwrap(),
            [Integer(1_710_327_600), Integer(-1)]
        );
        for json in ["1.5", "\"1.5\"", "null", "18446744073709551615", "\"\""] {
            assert!(serde_json::from_str::<Integer>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn cells_behind_the_leading_ones_are_passed_over() {
        type Row = Leading<(Integer, Number)>;
        let rows: Vec<Row> = serde_json::from_str("[[1, \"2.5\"], [2, 3, {\"new\": [0]}, null]]").unwrap();
        assert_eq!(rows, [Leading((Integer(1), Number(2.5))), Leading((Integer(2), Number(3.0)))]);
        let error = serde_json::from_str::<Row>("[1]").unwrap_err().to_string();
        assert!(error.contains("invalid length 1"), "{error}");
        assert!(serde_json::from_str::<Row>("{}").is_err());
    }
}
