//! The types of columns that rows can be stored in, and which values they hold.

use std::collections::BTreeMap;

use arrow_array::{Array, RecordBatch};

use crate::batch::Kind;
use crate::sink::values::{Value, Values};

/// What a stored value is, as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Whole numbers of so many bytes, with a sign.
    Integer(usize),
    /// Whole numbers of so many bytes, without a sign.
    Unsigned(usize),
    /// 64-bit floats.
    Float,
    /// One byte, 0 or 1.
    Boolean,
    /// Whole seconds since 1970, in 32 bits without a sign.
    DateTime,
    /// A power of ten, negative, of a second since 1970, in 64 bits.
    DateTime64(u32),
    /// Bytes.
    Text,
}

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// As the server writes it.
    pub name: String,
    /// What a value is.
    pub base: Base,
    /// Whether there can be no value.
    pub is_nullable: bool,
    /// Whether it is a dictionary and keys.
    pub is_dictionary: bool,
    /// Whether a row without a value is stored as zero: `revision`, where none counts as 0 and by which
    /// `ReplacingMergeTree` needs a number.
    pub is_zero_for_none: bool,
}

/// Why a value cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// No value, where one must be.
    Null,
    /// A number that is too small or too large.
    Range,
    /// A time that is not a whole second, or a whole part of one, where it must be.
    Fraction,
    /// A time that the type does not reach.
    Time,
}

/// The milliseconds since 1970 that a `DateTime64` holds: from 1900 to the end of 2299.
const DATE_TIME_64_MS: std::ops::Range<i64> = -2_208_988_800_000..10_413_792_000_000;

impl Type {
    /// The type as the server writes it, when values of `kind` can be stored in it as they are.
    ///
    /// A time can also be a number of milliseconds since 1970. `Float32` would round, `Decimal` too, and `FixedString`
    /// would add zeros.
    pub fn parse(name: &str, kind: Kind) -> Option<Type> {
        let inside = |text: &str, of: &str| -> Option<String> {
            Some(text.strip_prefix(of)?.strip_prefix('(')?.strip_suffix(')')?.to_owned())
        };
        let dictionary = inside(name, "LowCardinality");
        let outer = dictionary.clone().unwrap_or_else(|| name.to_owned());
        let nullable = inside(&outer, "Nullable");
        let plain = nullable.clone().unwrap_or(outer);
        let base = base(&plain)?;
        let is_dictionary = dictionary.is_some();
        if is_dictionary && base != Base::Text {
            return None;
        }
        let fits = match kind {
            Kind::Integer => matches!(base, Base::Integer(_) | Base::Unsigned(_)),
            Kind::Float => base == Base::Float,
            Kind::Boolean => matches!(base, Base::Boolean | Base::Unsigned(1)),
            Kind::Timestamp => matches!(base, Base::DateTime | Base::DateTime64(_) | Base::Integer(8)),
            Kind::Text => base == Base::Text,
        };
        fits.then_some(Type {
            name: name.into(),
            base,
            is_nullable: nullable.is_some(),
            is_dictionary,
            is_zero_for_none: false,
        })
    }

    /// Why the value cannot be stored.
    pub fn misfit(&self, value: Value<'_>) -> Option<Misfit> {
        match value {
            Value::Null => (!self.is_nullable && !self.is_zero_for_none).then_some(Misfit::Null),
            Value::Integer(value) => (!self.holds(value)).then_some(Misfit::Range),
            Value::Timestamp(ms) => self.misfit_of_time(ms),
            Value::Float(_) | Value::Boolean(_) | Value::Text(_) => None,
        }
    }

    fn holds(&self, value: i64) -> bool {
        match self.base {
            Base::Unsigned(8) => value >= 0,
            Base::Unsigned(width) => (0..1_i64 << (8 * width)).contains(&value),
            Base::Integer(width) if width < 8 => {
                let half = 1_i64 << (8 * width - 1);
                (-half..half).contains(&value)
            }
            _ => true,
        }
    }

    fn misfit_of_time(&self, ms: i64) -> Option<Misfit> {
        match self.base {
            Base::DateTime if !(0..=i64::from(u32::MAX)).contains(&ms.div_euclid(1000)) => Some(Misfit::Time),
            Base::DateTime => (ms % 1000 != 0).then_some(Misfit::Fraction),
            // With nine digits, 64 bits end in the year 2262.
            Base::DateTime64(precision) => match ticks(ms, precision) {
                _ if !DATE_TIME_64_MS.contains(&ms) => Some(Misfit::Time),
                None if precision > 3 => Some(Misfit::Time),
                None => Some(Misfit::Fraction),
                Some(_) => None,
            },
            _ => None,
        }
    }

    /// Whether that is known without a look at each value.
    fn holds_all(&self, values: &Values<'_>, has_nulls: bool) -> bool {
        (!has_nulls || self.is_nullable || self.is_zero_for_none)
            && match values {
                Values::Texts(..) | Values::Floats(_) | Values::Booleans(_) => true,
                Values::Integers(_) | Values::Timestamps(_) => self.base == Base::Integer(8),
            }
    }
}

impl Misfit {
    /// The reason in the dead letter.
    pub fn reason(self) -> &'static str {
        match self {
            Misfit::Null => "null",
            Misfit::Range => "out_of_range",
            Misfit::Fraction => "fraction_of_a_second",
            Misfit::Time => "time_out_of_range",
        }
    }

    /// What is wrong, for a person.
    pub fn detail(self, column: &str, column_type: &Type, value: Value<'_>) -> String {
        let kind = &column_type.name;
        match (self, value) {
            (Misfit::Null, _) => format!("`{column}` has no value, and the table's column is {kind}"),
            (_, Value::Integer(value) | Value::Timestamp(value)) => {
                format!("`{column}` is {value}, which a column of the type {kind} cannot hold")
            }
            _ => format!("`{column}` does not fit into a column of the type {kind}"),
        }
    }
}

/// Milliseconds as a number of `precision` digits after the second; none where that is not a whole number of 64 bits.
pub fn ticks(ms: i64, precision: u32) -> Option<i64> {
    if precision >= 3 {
        return ms.checked_mul(10_i64.checked_pow(precision - 3)?);
    }
    let unit = 10_i64.pow(3 - precision);
    (ms % unit == 0).then_some(ms / unit)
}

/// The rows that cannot be stored: for each the first column that does not take it, and what is wrong.
pub fn misfits(columns: &[(String, Type)], batch: &RecordBatch) -> BTreeMap<usize, (Misfit, String)> {
    let mut found = BTreeMap::new();
    for ((name, column_type), array) in columns.iter().zip(batch.columns()) {
        let values = Values::of(array);
        if column_type.holds_all(&values, array.logical_null_count() > 0) {
            continue;
        }
        for row in 0..batch.num_rows() {
            let value = values.at(row);
            if let Some(misfit) = column_type.misfit(value) {
                found.entry(row).or_insert_with(|| (misfit, misfit.detail(name, column_type, value)));
            }
        }
    }
    found
}

fn base(name: &str) -> Option<Base> {
    Some(match name {
        "Int8" => Base::Integer(1),
        "Int16" => Base::Integer(2),
        "Int32" => Base::Integer(4),
        "Int64" => Base::Integer(8),
        "UInt8" => Base::Unsigned(1),
        "UInt16" => Base::Unsigned(2),
        "UInt32" => Base::Unsigned(4),
        "UInt64" => Base::Unsigned(8),
        "Float64" => Base::Float,
        "Bool" => Base::Boolean,
        "String" => Base::Text,
        "DateTime" => Base::DateTime,
        _ => {
            let with_zone = |of: &str| name.strip_prefix(of)?.strip_prefix('(')?.strip_suffix(')');
            if let Some(arguments) = with_zone("DateTime64") {
                let precision = arguments.split(',').next()?.trim().parse().ok()?;
                return (precision <= 9).then_some(Base::DateTime64(precision));
            }
            with_zone("DateTime").filter(|zone| zone.starts_with('\''))?;
            Base::DateTime
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_keep_values_as_they_are_are_taken() {
        let of = |name: &str, kind| {
            Type::parse(name, kind).map(|found| (found.base, found.is_nullable, found.is_dictionary))
        };
        assert_eq!(of("Int64", Kind::Integer), Some((Base::Integer(8), false, false)));
        assert_eq!(of("Nullable(UInt32)", Kind::Integer), Some((Base::Unsigned(4), true, false)));
        assert_eq!(of("DateTime64(3, 'UTC')", Kind::Timestamp), Some((Base::DateTime64(3), false, false)));
        assert_eq!(of("DateTime('Europe/Berlin')", Kind::Timestamp), Some((Base::DateTime, false, false)));
        assert_eq!(of("LowCardinality(Nullable(String))", Kind::Text), Some((Base::Text, true, true)));
        assert_eq!(of("UInt8", Kind::Boolean), Some((Base::Unsigned(1), false, false)));
        for (name, kind) in [
            ("Float32", Kind::Float),
            ("Decimal(18, 8)", Kind::Float),
            ("FixedString(8)", Kind::Text),
            ("LowCardinality(Int64)", Kind::Integer),
            ("String", Kind::Integer),
            ("Int64", Kind::Float),
            ("DateTime64(12)", Kind::Timestamp),
            ("Array(String)", Kind::Text),
        ] {
            assert_eq!(of(name, kind), None, "{name}");
        }
    }

    #[test]
    fn values_at_the_ends_of_a_type_fit_and_those_behind_do_not() {
        let misfit = |name: &str, kind, value| Type::parse(name, kind).unwrap().misfit(value);
        let integer = |name: &str, value| misfit(name, Kind::Integer, Value::Integer(value));
        assert_eq!(integer("Int8", -128), None);
        assert_eq!(integer("Int8", 128), Some(Misfit::Range));
        assert_eq!(integer("UInt32", i64::from(u32::MAX)), None);
        assert_eq!(integer("UInt32", 1 << 32), Some(Misfit::Range));
        assert_eq!(integer("UInt64", -1), Some(Misfit::Range));
        assert_eq!(integer("UInt64", i64::MAX), None);
        let time = |name: &str, ms| misfit(name, Kind::Timestamp, Value::Timestamp(ms));
        assert_eq!(time("DateTime", 4_294_967_295_000), None);
        assert_eq!(time("DateTime", 4_294_967_296_000), Some(Misfit::Time));
        assert_eq!(time("DateTime", -1000), Some(Misfit::Time));
        assert_eq!(time("DateTime", 1500), Some(Misfit::Fraction));
        assert_eq!(time("DateTime64(3)", -2_208_988_800_000), None);
        assert_eq!(time("DateTime64(3)", -2_208_988_800_001), Some(Misfit::Time));
        assert_eq!(time("DateTime64(3)", i64::MAX), Some(Misfit::Time));
        assert_eq!(time("DateTime64(9)", 9_300_000_000_000), Some(Misfit::Time));
        assert_eq!(time("DateTime64(1)", 1_100), None);
        assert_eq!(time("DateTime64(1)", 1_110), Some(Misfit::Fraction));
        assert_eq!(misfit("String", Kind::Text, Value::Null), Some(Misfit::Null));
        assert_eq!(misfit("Nullable(String)", Kind::Text, Value::Null), None);
    }
}
