//! Texts and floats to numbers and times.

/// Why a value is not of the kind that its column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It is something else.
    Type,
    /// It is a number that the column cannot hold.
    Range,
}

/// From 2^53 on a float does not tell neighbouring integers apart: 2^53 itself is also what 2^53 + 1 is rounded to.
const INEXACT_FROM: f64 = 9_007_199_254_740_992.0;

/// A float in Rust's spelling, which includes `NaN` and `Infinity` in any case and with a sign.
pub(super) fn float(text: &str) -> Result<f64, Misfit> {
    let value: f64 = text.parse().map_err(|_| Misfit::Type)?;
    // Only digits that exceed the range become infinite: the word itself has none.
    if value.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err(Misfit::Range);
    }
    Ok(value)
}

/// An integer, also one that is written as a float (`1.7e12`).
pub(super) fn integer(text: &str) -> Result<i64, Misfit> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    match text.parse::<i64>() {
        Ok(value) => Ok(value),
        Err(error) if matches!(error.kind(), PosOverflow | NegOverflow) => Err(Misfit::Range),
        Err(_) => whole(float(text)?),
    }
}

/// The integer that a float is exactly.
pub(super) fn whole(value: f64) -> Result<i64, Misfit> {
    if !value.is_finite() || value.fract() != 0.0 {
        return Err(Misfit::Type);
    }
    if value.abs() >= INEXACT_FROM {
        return Err(Misfit::Range);
    }
    Ok(value as i64)
}

/// Milliseconds since 1970: a number of them, or a time as in RFC 3339.
pub(super) fn timestamp_ms(text: &str) -> Result<i64, Misfit> {
    match integer(text) {
        Err(Misfit::Type) => {
            let time: jiff::Timestamp = text.parse().map_err(|_| Misfit::Type)?;
            Ok(time.as_millisecond())
        }
        other => other,
    }
}
