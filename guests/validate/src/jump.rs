//! The last close of each series, to find prices that jump.

use std::collections::HashMap;

use tidegate_guest::TextColumn;

use crate::faults::number;
use crate::{Candles, Reason};

/// How many series are remembered. All symbols of a hundred exchanges in several timeframes are fewer, and
/// at some 120 bytes each they stay under 12 MiB.
pub const SERIES_LIMIT: usize = 100_000;

/// How many series of a batch are found without a hash: most partitions have fewer, and it is 6 KiB.
const RECENT: usize = 256;

/// The last close of each series, and by how much the next may differ.
#[derive(Debug)]
pub struct Closes {
    factor: f64,
    limit: usize,
    of_series: HashMap<Box<str>, Close>,
    batches: u64,
}

#[derive(Debug)]
struct Close {
    price: f64,
    /// The batch in which the series was seen last; what is oldest goes first.
    seen: u64,
}

impl Closes {
    /// Nothing remembered yet.
    pub fn new(factor: f64) -> Closes {
        Closes { factor, limit: SERIES_LIMIT, of_series: HashMap::new(), batches: 0 }
    }

    /// Makes room when there are too many series. A sixteenth more than needed goes, so that the search for
    /// the oldest is rare.
    fn forget_oldest(&mut self) {
        let count = self.of_series.len();
        if count <= self.limit {
            return;
        }
        let surplus = count - (self.limit - self.limit / 16);
        let mut seen: Vec<u64> = self.of_series.values().map(|close| close.seen).collect();
        let (_, newest_to_go, _) = seen.select_nth_unstable(surplus - 1);
        let newest_to_go = *newest_to_go;
        let mut left = surplus;
        self.of_series.retain(|_, close| {
            let goes = left > 0 && close.seen <= newest_to_go;
            left -= usize::from(goes);
            !goes
        });
    }
}

/// The series of one batch: found by the indexes of their texts, which is quicker than by the texts.
pub struct SeriesOfBatch<'a> {
    candles: &'a Candles<'a>,
    closes: &'a mut Closes,
    sources: Vec<u32>,
    symbols: Vec<u32>,
    timeframes: Vec<u32>,
    places: HashMap<[u32; 3], usize>,
    /// The series that were met, with their last close.
    met: Vec<([u32; 3], Option<f64>)>,
    /// Series that were found lately, by a number that is quicker to make than a hash.
    recent: Vec<Option<([u32; 3], usize)>>,
}

impl<'a> SeriesOfBatch<'a> {
    /// Before the first row.
    pub fn of(candles: &'a Candles<'a>, closes: &'a mut Closes) -> SeriesOfBatch<'a> {
        SeriesOfBatch {
            candles,
            closes,
            sources: first_of_equals(&candles.source),
            symbols: first_of_equals(&candles.symbol),
            timeframes: first_of_equals(&candles.timeframe),
            places: HashMap::new(),
            met: Vec::new(),
            recent: vec![None; RECENT],
        }
    }

    /// The fault of a row whose close is too far from the previous one of its series.
    pub fn jump(&mut self, row: usize) -> Option<(Reason, String)> {
        let close = self.close(row)?;
        let place = self.place(row)?;
        let previous = self.met[place].1?;
        let factor = self.closes.factor;
        let is_jump = close > previous * factor || close * factor < previous;
        is_jump.then(|| {
            let (close, previous) = (number(close), number(previous));
            let detail = format!(
                "close {close} differs from the previous close {previous} by more than a factor of {factor}"
            );
            (Reason::PriceJump, detail)
        })
    }

    /// Makes the close of a row the previous one of its series.
    pub fn accept(&mut self, row: usize) {
        // Nothing is a factor away from zero.
        if let (Some(close), Some(place)) = (self.close(row).filter(|close| *close > 0.0), self.place(row)) {
            self.met[place].1 = Some(close);
        }
    }

    /// After the last row: remembers the closes.
    pub fn keep(self) {
        self.closes.batches += 1;
        let seen = self.closes.batches;
        for (indexes, price) in &self.met {
            if let Some(price) = price {
                let close = Close { price: *price, seen };
                self.closes.of_series.insert(key(self.candles, *indexes).into(), close);
            }
        }
        self.closes.forget_oldest();
    }

    fn close(&self, row: usize) -> Option<f64> {
        self.candles.close.get(row).filter(|close| close.is_finite() && *close >= 0.0)
    }

    fn place(&mut self, row: usize) -> Option<usize> {
        let indexes = [
            self.sources[self.candles.source.index(row)?],
            self.symbols[self.candles.symbol.index(row)?],
            self.timeframes[self.candles.timeframe.index(row)?],
        ];
        let [source, symbol, timeframe] = indexes.map(|index| index as usize);
        let slot = (source * 37 + symbol + timeframe * 101) % RECENT;
        if let Some((recent, place)) = self.recent[slot]
            && recent == indexes
        {
            return Some(place);
        }
        let place = match self.places.get(&indexes) {
            Some(place) => *place,
            None => {
                let known = self.closes.of_series.get(key(self.candles, indexes).as_str());
                self.met.push((indexes, known.map(|close| close.price)));
                self.places.insert(indexes, self.met.len() - 1);
                self.met.len() - 1
            }
        };
        self.recent[slot] = Some((indexes, place));
        Some(place)
    }
}

/// The name of a series. No text of a well-formed row has a line feed.
fn key(candles: &Candles<'_>, [source, symbol, timeframe]: [u32; 3]) -> String {
    let text = |column: &TextColumn<'_>, index: u32| column.dictionary()[index as usize].clone();
    [text(&candles.source, source), text(&candles.symbol, symbol), text(&candles.timeframe, timeframe)]
        .join("\n")
}

/// For each text of a dictionary the first index of the same text: a dictionary may hold a text twice.
fn first_of_equals(column: &TextColumn<'_>) -> Vec<u32> {
    let mut first: HashMap<&str, u32> = HashMap::new();
    let texts = column.dictionary().iter().enumerate();
    texts.map(|(index, text)| *first.entry(text).or_insert(index as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_series_are_forgotten() {
        let mut closes = Closes::new(2.0);
        closes.limit = 32;
        for number in 0..200_u64 {
            closes.of_series.insert(number.to_string().into(), Close { price: 1.0, seen: number });
            closes.forget_oldest();
            assert!(closes.of_series.len() <= 32);
            assert!(closes.of_series.contains_key(number.to_string().as_str()));
        }
        assert!(closes.of_series.len() >= 30);
        assert!(!closes.of_series.contains_key("150"));
    }
}
