//! The rule `PROJECT_NAME`.

use schemars::JsonSchema;
use serde::Deserialize;
use tidegate_guest::Verdict;

tidegate_guest::reasons! {
    /// Why `PROJECT_NAME` rejects a row. The names are labels of metrics, so the set is closed.
    pub enum Reason {
        /// High is further above low than the setting allows.
        TooWide = "too_wide",
    }
}

/// What a pipeline file may set.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many times the low the high may be.
    pub factor: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { factor: 2.0 }
    }
}

tidegate_guest::row_rule! {
    /// Rejects candles whose range is wider than a factor, and writes the range of the others.
    pub rule Rule;
    name: "PROJECT_NAME";
    summary: "Rejects candles whose range is wider than a factor, and writes the range of the others";
    settings: Settings;
    reasons: Reason;
    reads: Candle { high: float, low: float, symbol: text };
    writes: Written { spread: float };
    decide: decide;
}

fn decide(
    candle: &Candle,
    settings: &Settings,
    written: &mut Written,
    _now: i64,
) -> Verdict<Reason> {
    // A value can be null; this rule leaves it to others to reject such a row.
    let (Some(high), Some(low)) = (candle.high, candle.low) else {
        return Verdict::Keep;
    };
    if high > low * settings.factor {
        let symbol = candle.symbol.unwrap_or("a row without symbol");
        let detail = format!("{symbol}: high {high} is too far above low {low}");
        return Verdict::Reject(Reason::TooWide, detail);
    }
    written.spread = Some(high - low);
    Verdict::Keep
}

tidegate_guest::export!(Rule);

#[cfg(test)]
mod tests {
    use super::Rule;

    #[test]
    fn fixtures() {
        tidegate_guest::fixture::check::<Rule>("fixtures");
    }
}
