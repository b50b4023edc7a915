//! Which rows might be wrong: the quick pass over all rows.
//!
//! Rows are looked at in blocks, column by column, in loops that compilers turn into vector instructions. A
//! block in which all is right, as almost all are, costs nothing more; in the others each row is looked at.

use crate::calendar::{Grid, Steps};
use crate::faults::SECONDS_BELOW;
use crate::words::SourceVerdict;
use crate::{Candles, Judged, Limits};

/// Rows in a block: few enough that one wrong row makes few others slow, enough that a block's own cost is small.
const BLOCK: usize = 32;

/// The rows that might be wrong, ascending. A row that is not among them is right (but for a jump of the price).
pub fn of(candles: &Candles<'_>, limits: &Limits, texts: &Judged) -> Vec<usize> {
    let quick = Quick::new(candles, limits, texts);
    let mut suspects = Vec::new();
    let mut start = 0;
    while start < candles.rows {
        let end = candles.rows.min(start + BLOCK);
        if end - start < BLOCK || !quick.block_is_right(start) {
            suspects.extend((start..end).filter(|row| !quick.row_is_right(*row)));
        }
        start = end;
    }
    suspects
}

/// The columns and what they are compared with.
struct Quick<'a> {
    limits: &'a Limits,
    /// What is earlier may be seconds, whatever is the earliest that is allowed.
    earliest: i64,
    timestamp: &'a [i64],
    open: &'a [f64],
    high: &'a [f64],
    low: &'a [f64],
    close: &'a [f64],
    volume: &'a [f64],
    timeframe: &'a [u32],
    /// For each text of the timeframes its quick test.
    steps: Vec<Steps>,
    source: Names<'a>,
    symbol: Names<'a>,
    /// The presence of the columns in which some row has no value.
    presences: Vec<&'a [u8]>,
}

impl<'a> Quick<'a> {
    fn new(candles: &Candles<'a>, limits: &'a Limits, texts: &Judged) -> Quick<'a> {
        let is_known = |verdict: &SourceVerdict| *verdict == SourceVerdict::Known;
        Quick {
            limits,
            earliest: limits.earliest.max(SECONDS_BELOW),
            timestamp: candles.timestamp.values(),
            open: candles.open.values(),
            high: candles.high.values(),
            low: candles.low.values(),
            close: candles.close.values(),
            volume: candles.volume.values(),
            timeframe: candles.series.timeframe.indexes(),
            steps: texts.grids.iter().map(Grid::steps).collect(),
            source: Names::new(candles.series.source.indexes(), texts.sources.iter().map(is_known).collect()),
            symbol: Names::new(candles.series.symbol.indexes(), texts.symbols.clone()),
            presences: candles.presences().into_iter().flatten().collect(),
        }
    }

    /// Whether all rows of the whole block that starts at this row are right.
    fn block_is_right(&self, start: usize) -> bool {
        let timeframe: &[u32; BLOCK] = block(self.timeframe, start);
        let has_one_timeframe = all(|row| timeframe[row] == timeframe[0]);
        has_one_timeframe
            && self.block_of_times_is_right(block(self.timestamp, start), self.steps(start))
            && self.block_of_values_is_right(start)
            && self.source.block_is_right(start)
            && self.symbol.block_is_right(start)
            && self.presences.iter().all(|presence| {
                // A block starts with a byte of its own.
                presence[start / 8..(start + BLOCK) / 8].iter().all(|byte| *byte == u8::MAX)
            })
    }

    fn block_of_times_is_right(&self, timestamp: &[i64; BLOCK], steps: Steps) -> bool {
        all(|row| self.time_is_right(timestamp[row], steps))
    }

    fn block_of_values_is_right(&self, start: usize) -> bool {
        let [open, high, low, close, volume] =
            [self.open, self.high, self.low, self.close, self.volume].map(|column| block(column, start));
        all(|row| self.values_are_right(open[row], high[row], low[row], close[row], volume[row]))
    }

    fn row_is_right(&self, row: usize) -> bool {
        self.time_is_right(self.timestamp[row], self.steps(row))
            && self.values_are_right(
                self.open[row],
                self.high[row],
                self.low[row],
                self.close[row],
                self.volume[row],
            )
            && self.source.row_is_right(row)
            && self.symbol.row_is_right(row)
            && self.presences.iter().all(|presence| presence[row / 8] >> (row % 8) & 1 == 1)
    }

    /// The quick test of the row's timeframe.
    fn steps(&self, row: usize) -> Steps {
        self.steps.get(self.timeframe[row] as usize).copied().unwrap_or(Steps::NEVER)
    }

    #[inline]
    fn time_is_right(&self, timestamp: i64, steps: Steps) -> bool {
        (timestamp >= self.earliest) & (timestamp <= self.limits.latest) & steps.hold(timestamp)
    }

    /// Every comparison with NaN is false, and what lies between low and high is finite and positive when these
    /// two are: eight comparisons do the work of twenty.
    #[inline]
    fn values_are_right(&self, open: f64, high: f64, low: f64, close: f64, volume: f64) -> bool {
        (low >= self.limits.lowest_price)
            & (volume >= 0.0)
            & (low <= open)
            & (low <= close)
            & (open <= high)
            & (close <= high)
            & (high <= f64::MAX)
            & (volume <= f64::MAX)
    }
}

/// A column of names, and which of its texts are right.
struct Names<'a> {
    indexes: &'a [u32],
    right: Vec<bool>,
    /// The texts that are not right, when there are few.
    few_wrong: Option<Vec<u32>>,
}

/// So many wrong texts are looked for in a block of indexes before it is dearer than looking up each index.
const FEW_WRONG: usize = 4;

impl<'a> Names<'a> {
    fn new(indexes: &'a [u32], right: Vec<bool>) -> Names<'a> {
        let wrong: Vec<u32> =
            (0..).zip(&right).filter(|(_, is_right)| !**is_right).map(|(index, _)| index).collect();
        Names { indexes, right, few_wrong: (wrong.len() <= FEW_WRONG).then_some(wrong) }
    }

    fn row_is_right(&self, row: usize) -> bool {
        self.right.get(self.indexes[row] as usize) == Some(&true)
    }

    fn block_is_right(&self, start: usize) -> bool {
        let Some(wrong) = &self.few_wrong else {
            return (start..start + BLOCK).all(|row| self.row_is_right(row));
        };
        let indexes: &[u32; BLOCK] = block(self.indexes, start);
        let texts = self.right.len() as u32;
        all(|row| indexes[row] < texts) && wrong.iter().all(|wrong| all(|row| indexes[row] != *wrong))
    }
}

/// Whether all rows of a block are right. Eight at a time, without looking before the eighth: a turn of a loop costs
/// as much as a comparison, because the host can end it.
#[inline]
fn all(is_right: impl Fn(usize) -> bool) -> bool {
    (0..BLOCK / 8).all(|eight| (0..8).fold(true, |all, row| all & is_right(eight * 8 + row)))
}

/// The values of the block that starts at this row.
fn block<T>(column: &[T], start: usize) -> &[T; BLOCK] {
    column[start..start + BLOCK].try_into().expect("as long as a block")
}
