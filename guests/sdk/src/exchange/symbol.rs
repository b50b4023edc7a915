//! Unified symbols, and texts in URLs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Failure;

/// What RFC 3986 leaves as it is: letters, digits, `-`, `.`, `_` and `~`.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Base and quote of a unified symbol: `BTC` and `USDT` of `BTC/USDT`.
///
/// # Errors
/// `bad-symbol` for any other form, also for derivatives such as `BTC/USDT:USDT`.
pub fn base_and_quote(symbol: &str) -> Result<(&str, &str), Failure> {
    let is_part =
        |text: &str| !text.is_empty() && !text.contains(['/', ':']) && !text.contains(char::is_whitespace);
    match symbol.split_once('/') {
        Some((base, quote)) if is_part(base) && is_part(quote) => Ok((base, quote)),
        _ => Err(Failure::BadSymbol(format!(
            "`{symbol}` is no spot symbol: write base and quote with `/` between them, such as `BTC/USDT`"
        ))),
    }
}

/// A text as it may stand in the path or in a value of the query of a URL; exchanges list symbols in other scripts too.
pub fn url_part(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_symbol_has_base_and_quote() {
        assert_eq!(base_and_quote("BTC/USDT"), Ok(("BTC", "USDT")));
        assert_eq!(base_and_quote("1000SATS/EUR"), Ok(("1000SATS", "EUR")));
        for symbol in ["BTCUSDT", "BTC/", "/USDT", "BTC/USDT:USDT", "A/B/C", "", "BTC / USDT", "BTC:X/USD"] {
            let failure = base_and_quote(symbol).unwrap_err();
            assert!(
                matches!(&failure, Failure::BadSymbol(text) if text.starts_with(&format!("`{symbol}` is no spot"))),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn a_symbol_cannot_change_the_url_that_it_stands_in() {
        assert_eq!(url_part("BTC-USD"), "BTC-USD");
        assert_eq!(url_part("BTC&limit=1?#/../é"), "BTC%26limit%3D1%3F%23%2F..%2F%C3%A9");
    }
}
