//! The last close of each series, to find prices that jump.

use tidegate_guest::PerSeries;

use crate::calendar::Grid;
use crate::faults::Number;
use crate::{Candles, Judged, Reason};

/// How many series are remembered. All symbols of a hundred exchanges in several timeframes are fewer, and
/// at some 100 bytes each they stay under 12 MiB.
const SERIES_LIMIT: usize = 100_000;

/// The share of the limit that is freed when it is exceeded, so that the search for the oldest is rare.
const FREED_SHARE: usize = 16;

/// The last close of each series, and by how much the next may differ.
#[derive(Debug)]
pub struct Closes {
    factor: f64,
    /// How many candles before a row a close may be to be compared with.
    candles: i64,
    limit: usize,
    of_series: PerSeries<Close>,
    /// How many closes there have been: what is oldest goes first.
    count: u64,
}

/// The newest close of a series, by the candles' own time.
#[derive(Debug, Clone, Copy)]
struct Close {
    timestamp: i64,
    /// Zero before there is one: nothing is a factor away from zero.
    price: f64,
    touched: u64,
}

impl Closes {
    /// Nothing remembered yet.
    pub fn new(factor: f64, candles: u32) -> Closes {
        let of_series = PerSeries::default();
        Closes { factor, candles: candles.into(), limit: SERIES_LIMIT, of_series, count: 0 }
    }

    /// Before the first row of a batch.
    pub fn start(&mut self, candles: &Candles<'_>) {
        self.of_series.start(&candles.series, candles.rows);
    }

    /// The number of the row's series, until the next is asked for. Rows that are rejected have series too, so the
    /// room for it is made here.
    pub fn series(&mut self, row: usize, candles: &Candles<'_>) -> Option<u32> {
        if self.of_series.len() >= self.limit {
            self.forget_oldest();
        }
        let touched = self.count;
        let unknown = Close { timestamp: i64::MIN, price: 0.0, touched };
        self.of_series.number(&candles.series, row, |_| Some(unknown))
    }

    /// The fault of a row whose close is too far from the previous one of its series. A row that is older than
    /// the newest close has no previous one.
    pub fn jump(
        &self,
        series: Option<u32>,
        row: usize,
        candles: &Candles<'_>,
        texts: &Judged,
    ) -> Option<(Reason, String)> {
        let (timestamp, close) = (candles.timestamp.get(row)?, price(row, candles)?);
        let Close { timestamp: previous_timestamp, price: previous, .. } = self.of_series[series?];
        let reach_ms = step_ms(row, candles, texts)?.saturating_mul(self.candles);
        let distance_ms = timestamp.saturating_sub(previous_timestamp);
        if previous == 0.0 || distance_ms < 0 || distance_ms > reach_ms {
            return None;
        }
        let factor = self.factor;
        let is_jump = close > previous * factor || close * factor < previous;
        is_jump.then(|| {
            let (close, previous) = (Number(close), Number(previous));
            let detail = format!(
                "close {close} differs from the previous close {previous} by more than a factor of {factor}"
            );
            (Reason::PriceJump, detail)
        })
    }

    /// Makes the close of a row the previous one of its series, unless a newer candle has come before.
    pub fn accept(&mut self, series: Option<u32>, row: usize, candles: &Candles<'_>) {
        let (Some(series), Some(timestamp), Some(price)) =
            (series, candles.timestamp.get(row), price(row, candles))
        else {
            return;
        };
        self.count += 1;
        let close = &mut self.of_series[series];
        if price > 0.0 && timestamp >= close.timestamp {
            *close = Close { timestamp, price, touched: self.count };
        }
    }

    fn forget_oldest(&mut self) {
        let surplus = self.of_series.len() - (self.limit - self.limit / FREED_SHARE);
        let mut touched: Vec<u64> = self.of_series.values().map(|close| close.touched).collect();
        let (_, newest_to_go, _) = touched.select_nth_unstable(surplus - 1);
        let newest_to_go = *newest_to_go;
        self.of_series.retain(|close| close.touched > newest_to_go);
    }
}

/// The row's close, where it can be compared.
fn price(row: usize, candles: &Candles<'_>) -> Option<f64> {
    candles.close.get(row).filter(|close| close.is_finite() && *close >= 0.0)
}

/// How long the row's candle lasts.
fn step_ms(row: usize, candles: &Candles<'_>, texts: &Judged) -> Option<i64> {
    texts.grids.get(candles.series.timeframe.index(row)?).and_then(Grid::longest_ms)
}

#[cfg(test)]
mod tests {
    use tidegate_guest::BatchBuilder;

    use super::*;

    #[test]
    fn rows_that_are_rejected_do_not_grow_the_memory() {
        let rows = 1_000;
        let numbers = || std::iter::repeat_n(1.0, rows);
        let batch = BatchBuilder::new(rows)
            .timestamps("timestamp", std::iter::repeat_n(0, rows))
            .floats("open", numbers())
            .floats("high", numbers())
            .floats("low", numbers())
            .floats("close", numbers())
            .floats("volume", numbers())
            .texts("source", std::iter::repeat_n("kraken", rows))
            .texts("symbol", (0..rows).map(|row| format!("S{row}/USD")))
            .texts("timeframe", std::iter::repeat_n("1m", rows))
            .build();
        let candles = Candles::of(&batch).unwrap();
        let mut closes = Closes::new(2.0, 60);
        closes.limit = 64;
        closes.start(&candles);
        for row in 0..rows {
            assert!(closes.series(row, &candles).is_some());
            assert!(closes.of_series.len() <= 64);
        }
    }
}
