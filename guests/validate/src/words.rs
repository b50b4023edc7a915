//! Which names are well-formed.

/// Longest source and longest symbol in bytes: twice what the longest names of the exchanges need, and
/// short enough that a column of garbage cannot fill indexes.
const NAME_LIMIT: usize = 64;

/// What is known of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceVerdict {
    /// It is accepted.
    Known,
    /// It is a name, but not one of the settings.
    Unknown,
    /// It is not a name.
    Malformed,
}

/// Judges a source; any name is known when the list is empty.
pub fn source(text: &str, known: &[String]) -> SourceVerdict {
    match is_source(text) {
        false => SourceVerdict::Malformed,
        true if known.is_empty() || known.iter().any(|known| known == text) => SourceVerdict::Known,
        true => SourceVerdict::Unknown,
    }
}

/// Whether a text can name a source: `binance`, `coinbase-pro`.
pub fn is_source(text: &str) -> bool {
    text.len() <= NAME_LIMIT
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_mark(byte))
        && has_more_than_marks(text)
}

/// Whether a text is a unified symbol: `BTC/USDT`, `BTC/USDT:USDT`, `BTC/USD:BTC-250328-50000-C`.
pub fn is_symbol(text: &str) -> bool {
    let Some((base, rest)) = text.split_once('/') else { return false };
    let (quote, settle) = match rest.split_once(':') {
        Some((quote, settle)) => (quote, Some(settle)),
        None => (rest, None),
    };
    text.len() <= NAME_LIMIT && is_currency(base) && is_currency(quote) && settle.is_none_or(is_currency)
}

fn is_currency(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || is_mark(byte))
        && has_more_than_marks(text)
}

fn has_more_than_marks(text: &str) -> bool {
    !text.bytes().all(is_mark)
}

fn is_mark(byte: u8) -> bool {
    matches!(byte, b'.' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for text in ["binance", "coinbase-pro", "gate.io", "OKX_2", "a", &"a".repeat(64)] {
            assert!(is_source(text), "{text}");
        }
        for text in ["", "..", "-", " binance", "bin ance", "binânce", "a/b", "a\n", &"a".repeat(65)] {
            assert!(!is_source(text), "{text}");
        }
        let known = ["binance".to_owned()];
        assert_eq!(source("binance", &known), SourceVerdict::Known);
        assert_eq!(source("kraken", &known), SourceVerdict::Unknown);
        assert_eq!(source("kra ken", &known), SourceVerdict::Malformed);
        assert_eq!(source("kraken", &[]), SourceVerdict::Known);
    }

    #[test]
    fn symbols() {
        let longest = format!("{}/USD", "A".repeat(60));
        let too_long = format!("{}/USD", "A".repeat(61));
        for text in
            ["BTC/USDT", "BTC/USDT:USDT", "1INCH/USD", "BTC/USD:BTC-250328-50000-C", "A.B/C_D", &longest]
        {
            assert!(is_symbol(text), "{text}");
        }
        for text in [
            "",
            "/",
            "BTC",
            "BTCUSDT",
            "BTC-USDT",
            "BTC/",
            "/USD",
            "btc/usd",
            "BTC/USD:",
            "BTC/USD/EUR",
            "BTC /USD",
            "BTC/USD:A:B",
            "₿/USD",
            "BTC/USD\n",
            "./-",
            "BTC/-",
            &too_long,
        ] {
            assert!(!is_symbol(text), "{text}");
        }
    }
}
