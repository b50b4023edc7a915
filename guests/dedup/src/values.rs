//! When two candles have the same values.

use tidegate_guest::Batch;

use crate::memory::ValuesHash;

/// The columns whose values make a candle what it is; a change in one of them is a correction.
pub const COLUMNS: [&str; 5] = ["open", "high", "low", "close", "volume"];

/// An odd number without a pattern in its bits (of the golden ratio), so that a multiplication mixes.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Stands for a missing value: a NaN that [`bits`] never gives.
const ABSENT: u64 = 0x7ff8_0000_0000_0001;

/// One hash a row of the values of its candle, column by column, in a buffer that is used again.
///
/// # Errors
/// When the batch lacks a column.
pub fn hash_rows(batch: &Batch, hashes: &mut Vec<u64>) -> Result<(), String> {
    hashes.clear();
    hashes.resize(batch.rows as usize, 0);
    for name in COLUMNS {
        let column = batch.floats(name)?;
        if column.presence().is_none() {
            for (hash, value) in hashes.iter_mut().zip(column.values()) {
                *hash = mix(*hash, bits(*value));
            }
        } else {
            for (row, hash) in hashes.iter_mut().enumerate() {
                *hash = mix(*hash, column.get(row).map_or(ABSENT, bits));
            }
        }
    }
    Ok(())
}

/// The hash of a row from what [`hash_rows`] left.
#[inline]
pub fn finish(hash: u64) -> ValuesHash {
    ValuesHash::of_mixed(hash.wrapping_mul(FACTOR))
}

/// Equal floats have equal bits here: both zeros, and every NaN.
#[inline]
fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
}

/// Takes a value into a hash. The multiplication carries differences upwards and the shift brings them down
/// again: prices with few digits differ in their upper bits only.
#[inline]
fn mix(hash: u64, bits: u64) -> u64 {
    let product = (hash ^ bits).wrapping_mul(FACTOR);
    product ^ product >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(values: [f64; 5]) -> ValuesHash {
        finish(values.iter().fold(0, |hash, value| mix(hash, bits(*value))))
    }

    #[test]
    fn zeros_are_equal_and_nans_are_equal() {
        let candle = [1.0, 2.0, 0.5, 1.5, 0.0];
        assert_eq!(hash(candle), hash([1.0, 2.0, 0.5, 1.5, -0.0]));
        assert_eq!(hash([f64::NAN; 5]), hash([-f64::NAN; 5]));
        assert_eq!(hash([f64::NAN; 5]), hash([f64::from_bits(ABSENT); 5]));
        assert_ne!(bits(f64::NAN), ABSENT);
        assert_ne!(hash([f64::INFINITY; 5]), hash([f64::NEG_INFINITY; 5]));
    }

    #[test]
    fn near_candles_have_different_hashes() {
        let mut seen = std::collections::HashSet::new();
        for open in 0..10 {
            for high in 0..10 {
                for close in 0..10 {
                    for volume in 0..100 {
                        let [open, high, close] =
                            [open, high, close].map(|ticks| 100.0 + f64::from(ticks) * 0.5);
                        seen.insert(format!("{:?}", hash([open, high, 100.0, close, f64::from(volume)])));
                    }
                }
            }
        }
        assert_eq!(seen.len(), 100_000);
    }

    #[test]
    fn the_order_of_values_matters() {
        assert_ne!(hash([1.0, 2.0, 3.0, 4.0, 5.0]), hash([2.0, 1.0, 3.0, 4.0, 5.0]));
    }
}
