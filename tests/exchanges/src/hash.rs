//! Chance without state: the same seed and numbers always give the same draw.

/// Mixes one number into another: the finalizer of SplitMix64.
pub(crate) fn mix(state: u64, value: u64) -> u64 {
    let mut mixed = (state ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Mixes a text into a number.
pub(crate) fn mix_text(state: u64, text: &str) -> u64 {
    text.bytes().fold(state, |mixed, byte| mix(mixed, u64::from(byte)))
}

/// A number from 0 to below 1.
pub(crate) fn share(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}
