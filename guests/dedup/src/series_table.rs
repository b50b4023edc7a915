//! From the dictionary indexes of a row's key to the number of its series, without looking at texts.

use std::collections::HashMap;

use hashbrown::DefaultHashBuilder;

/// Nothing is known yet of these indexes.
const UNKNOWN: u32 = u32::MAX;

/// A table over all combinations may have this many cells for each row of the batch: clearing it must cost
/// less than what it saves.
const CELLS_A_ROW: usize = 2;

/// A table with fewer cells is always worth it (4 KiB).
const FEW_CELLS: usize = 1_024;

/// Where the texts of a row's key are in the dictionaries of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyIndexes {
    /// In the dictionary of `source`.
    pub source: usize,
    /// In the dictionary of `symbol`.
    pub symbol: usize,
    /// In the dictionary of `timeframe`.
    pub timeframe: usize,
}

/// The series of one batch that have been looked up.
#[derive(Debug, Default)]
pub struct SeriesTable {
    symbols: usize,
    timeframes: usize,
    /// A cell for each combination of texts, when there are not too many.
    cells: Vec<u32>,
    /// The others.
    sparse: HashMap<KeyIndexes, u32, DefaultHashBuilder>,
}

impl SeriesTable {
    /// Forgets everything, for a batch of so many rows with dictionaries of so many texts.
    pub fn start(&mut self, rows: usize, texts: KeyIndexes) {
        self.symbols = texts.symbol;
        self.timeframes = texts.timeframe;
        self.cells.clear();
        self.sparse.clear();
        let combinations = texts.source.saturating_mul(texts.symbol).saturating_mul(texts.timeframe);
        if combinations <= FEW_CELLS.max(rows.saturating_mul(CELLS_A_ROW)) {
            self.cells.resize(combinations, UNKNOWN);
        }
    }

    /// Forgets the numbers: they are void.
    pub fn forget(&mut self) {
        self.cells.fill(UNKNOWN);
        self.sparse.clear();
    }

    /// The number of the series, if it has been looked up.
    #[inline]
    pub fn get(&self, key: KeyIndexes) -> Option<u32> {
        if self.cells.is_empty() {
            return self.sparse.get(&key).copied();
        }
        let number = self.cells[self.cell(key)];
        (number != UNKNOWN).then_some(number)
    }

    /// Keeps the number of a series.
    pub fn set(&mut self, key: KeyIndexes, number: u32) {
        if self.cells.is_empty() {
            self.sparse.insert(key, number);
        } else {
            let cell = self.cell(key);
            self.cells[cell] = number;
        }
    }

    #[inline]
    fn cell(&self, key: KeyIndexes) -> usize {
        (key.source * self.symbols + key.symbol) * self.timeframes + key.timeframe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_has_its_own_number() {
        let texts = KeyIndexes { source: 3, symbol: 700, timeframe: 4 };
        let mut table = SeriesTable::default();
        for rows in [10, 10_000] {
            table.start(rows, texts);
            assert_eq!(table.cells.is_empty(), rows == 10);
            let mut number = 0;
            for pass in 0..2 {
                for source in 0..3 {
                    for symbol in 0..700 {
                        for timeframe in 0..4 {
                            let key = KeyIndexes { source, symbol, timeframe };
                            if pass == 0 {
                                assert_eq!(table.get(key), None);
                                table.set(key, number);
                            } else {
                                assert_eq!(table.get(key), Some(number));
                            }
                            number += 1;
                        }
                    }
                }
                number = 0;
            }
            table.forget();
            assert_eq!(table.get(KeyIndexes { source: 0, symbol: 0, timeframe: 0 }), None);
        }
    }
}
