//! The checks of the rule `validate`, written as a function of one row: `bench/` measures what that form costs
//! beside the form over columns.

use tidegate_guest::{NoSettings, Verdict};

tidegate_guest::reasons! {
    /// Why the rule rejects a row.
    pub enum Reason {
        /// A field is absent or null.
        MissingField = "missing_field",
        /// Source, symbol or timeframe is none.
        Malformed = "malformed",
        /// The timestamp is out of range or not on the grid.
        Timestamp = "timestamp",
        /// The prices cannot be those of a candle.
        Prices = "prices",
        /// The volume is negative or not finite.
        Volume = "volume",
    }
}

tidegate_guest::row_rule! {
    /// Rejects candles that cannot be right.
    pub rule ByRow;
    name: "by_row";
    summary: "Rejects candles that cannot be right, a row at a time";
    settings: NoSettings;
    reasons: Reason;
    reads: Candle {
        timestamp: timestamp,
        open: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        source: text,
        symbol: text,
        timeframe: text,
    };
    writes: Written {};
    decide: decide;
}

/// The day of Bitcoin's first block.
const EARLIEST_MS: i64 = 1_230_940_800_000;
/// How far beyond the present a timestamp may be.
const MAX_FUTURE_MS: i64 = 300_000;

fn decide(candle: &Candle, _: &NoSettings, _: &mut Written, now: i64) -> Verdict<Reason> {
    let reject = |reason, what: &str| Verdict::Reject(reason, format!("{what} of {candle:?}"));
    let (Some(timestamp), Some(source), Some(symbol), Some(timeframe)) =
        (candle.timestamp, candle.source, candle.symbol, candle.timeframe)
    else {
        return reject(Reason::MissingField, "a name");
    };
    let (Some(open), Some(high), Some(low), Some(close), Some(volume)) =
        (candle.open, candle.high, candle.low, candle.close, candle.volume)
    else {
        return reject(Reason::MissingField, "a value");
    };
    let step_ms = match timeframe {
        "1m" => 60_000,
        "1h" => 3_600_000,
        "1d" => 86_400_000,
        _ => return reject(Reason::Malformed, "the timeframe"),
    };
    if source.is_empty() || symbol.len() > 64 || !symbol.contains('/') {
        return reject(Reason::Malformed, "the name");
    }
    if timestamp < EARLIEST_MS || timestamp > now + MAX_FUTURE_MS || timestamp % step_ms != 0 {
        return reject(Reason::Timestamp, "the timestamp");
    }
    let is_enclosed = low > 0.0 && low <= open && low <= close && open <= high && close <= high;
    if !is_enclosed || !high.is_finite() {
        return reject(Reason::Prices, "a price");
    }
    if !(volume >= 0.0 && volume.is_finite()) {
        return reject(Reason::Volume, "the volume");
    }
    Verdict::Keep
}

tidegate_guest::export!(ByRow);

#[cfg(test)]
mod tests {
    use tidegate_guest::{Batch, BatchBuilder, Instance};

    use super::*;

    /// A candle in each row, with these volumes.
    fn candles(volumes: &[f64]) -> Batch {
        let rows = volumes.len();
        let price = |price: f64| std::iter::repeat_n(price, rows);
        let text = |text: &'static str| std::iter::repeat_n(text, rows);
        BatchBuilder::new(rows)
            .timestamps("timestamp", std::iter::repeat_n(1_767_571_200_000, rows))
            .floats("open", price(2.0))
            .floats("high", price(3.0))
            .floats("low", price(1.0))
            .floats("close", price(2.0))
            .floats("volume", volumes.iter().copied())
            .texts("source", text("kraken"))
            .texts("symbol", text("BTC/USD"))
            .texts("timeframe", text("1m"))
            .build()
    }

    #[test]
    fn a_row_that_cannot_be_right_is_rejected() {
        let mut rule = Instance::<ByRow>::unconfigured();
        rule.configure("{}").unwrap();
        let outcome = rule.transform(1_767_571_200_000, &candles(&[1.0, -1.0, f64::NAN])).unwrap();
        let rejected: Vec<(u32, u32)> = outcome.rejected.iter().map(|row| (row.row, row.reason)).collect();
        assert_eq!(rejected, [(1, Reason::Volume as u32), (2, Reason::Volume as u32)]);
    }
}
