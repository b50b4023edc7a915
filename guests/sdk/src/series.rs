//! What a rule keeps for each series: rows that have the source, the symbol and the timeframe in common.
//!
//! A series is known by its exact name, whatever batch it comes in. Within a batch a row's series is found by the
//! indexes of its three texts, so the texts are looked at once for each combination and not once a row.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::{Batch, TextColumn};

/// Nothing is known yet of these indexes.
const UNKNOWN: u32 = u32::MAX;

/// A table over all combinations may have this many cells for each row of the batch: clearing it must cost
/// less than what it saves.
const CELLS_A_ROW: usize = 2;

/// A table with fewer cells is always worth it (4 KiB).
const FEW_CELLS: usize = 1_024;

/// The three columns that name the series of a row.
#[derive(Debug, Clone, Copy)]
pub struct SeriesColumns<'a> {
    /// Where a row is from.
    pub source: TextColumn<'a>,
    /// What is traded.
    pub symbol: TextColumn<'a>,
    /// How long a candle is.
    pub timeframe: TextColumn<'a>,
}

impl<'a> SeriesColumns<'a> {
    /// The columns `source`, `symbol` and `timeframe` of a batch.
    ///
    /// # Errors
    /// As [`Batch::texts`].
    pub fn of(batch: &'a Batch) -> Result<SeriesColumns<'a>, String> {
        Ok(SeriesColumns {
            source: batch.texts("source")?,
            symbol: batch.texts("symbol")?,
            timeframe: batch.texts("timeframe")?,
        })
    }

    #[inline]
    fn key(&self, row: usize) -> Option<Key> {
        let (source, symbol) = (self.source.index(row)?, self.symbol.index(row)?);
        Some(Key { source, symbol, timeframe: self.timeframe.index(row)? })
    }

    /// How many texts each dictionary has.
    fn texts(&self) -> Key {
        Key {
            source: self.source.dictionary().len(),
            symbol: self.symbol.dictionary().len(),
            timeframe: self.timeframe.dictionary().len(),
        }
    }

    /// The three texts.
    fn name(&self, key: Key) -> [&'a str; 3] {
        [
            &self.source.dictionary()[key.source],
            &self.symbol.dictionary()[key.symbol],
            &self.timeframe.dictionary()[key.timeframe],
        ]
    }
}

/// A value for each series that has been met.
///
/// ```
/// use tidegate_guest::{BatchBuilder, PerSeries, SeriesColumns};
///
/// let batch = BatchBuilder::new(3)
///     .texts("source", ["kraken", "kraken", "kraken"])
///     .texts("symbol", ["BTC/USD", "ETH/USD", "BTC/USD"])
///     .texts("timeframe", ["1m", "1m", "1m"])
///     .build();
/// let mut rows_of: PerSeries<u32> = PerSeries::default();
/// let columns = SeriesColumns::of(&batch).unwrap();
/// rows_of.start(&columns, 3);
/// for row in 0..3 {
///     let Some(series) = rows_of.number(&columns, row, |_| Some(0)) else { continue };
///     rows_of[series] += 1;
/// }
/// assert_eq!((rows_of[0], rows_of[1]), (2, 1));
/// ```
#[derive(Debug)]
pub struct PerSeries<V> {
    series: Vec<Named<V>>,
    /// Places in `series`, found by name.
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Where the name of a series is put together.
    name: Vec<u8>,
    of_batch: Table,
}

#[derive(Debug)]
struct Named<V> {
    name: Box<[u8]>,
    value: V,
}

impl<V> Default for PerSeries<V> {
    fn default() -> PerSeries<V> {
        PerSeries {
            series: Vec::new(),
            by_name: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            name: Vec::new(),
            of_batch: Table::default(),
        }
    }
}

impl<V> PerSeries<V> {
    /// Before the first row of a batch of so many rows.
    pub fn start(&mut self, columns: &SeriesColumns<'_>, rows: usize) {
        self.of_batch.start(rows, columns.texts());
    }

    /// The number of the row's series, which it has until [`PerSeries::retain`]; `None` for a row without a
    /// source, symbol or timeframe. A series that has not been met gets the value of `make`, which is told the
    /// three texts; where that is `None`, the series has no number.
    #[inline]
    pub fn number(
        &mut self,
        columns: &SeriesColumns<'_>,
        row: usize,
        make: impl FnOnce([&str; 3]) -> Option<V>,
    ) -> Option<u32> {
        let key = columns.key(row)?;
        if let Some(number) = self.of_batch.get(key) {
            return Some(number);
        }
        let number = self.named(columns.name(key), make)?;
        self.of_batch.set(key, number);
        Some(number)
    }

    /// As [`PerSeries::number`], of the series with this source, symbol and timeframe.
    pub fn named(&mut self, name: [&str; 3], make: impl FnOnce([&str; 3]) -> Option<V>) -> Option<u32> {
        write_name(name, &mut self.name);
        let hash = self.hasher.hash_one(self.name.as_slice());
        let is_it = |number: &u32| *self.series[*number as usize].name == *self.name;
        if let Some(number) = self.by_name.find(hash, is_it) {
            return Some(*number);
        }
        let value = make(name)?;
        let number = self.series.len() as u32;
        let hash_of = |number: &u32| self.hasher.hash_one(&*self.series[*number as usize].name);
        self.by_name.insert_unique(hash, number, hash_of);
        self.series.push(Named { name: self.name.as_slice().into(), value });
        Some(number)
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether no series has been met.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The values, in the order of their numbers.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.series.iter().map(|named| &named.value)
    }

    /// How many bytes there are beside what the values point to.
    pub fn bytes(&self) -> usize {
        let names: usize = self.series.iter().map(|named| named.name.len()).sum();
        names + self.series.capacity() * size_of::<Named<V>>() + self.by_name.allocation_size()
    }

    /// Forgets the series for which `keep` says so. All numbers are void afterwards.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        self.series.retain_mut(|named| keep(&mut named.value));
        let hash_of = |number: &u32| self.hasher.hash_one(&*self.series[*number as usize].name);
        self.by_name.clear();
        for number in 0..self.series.len() as u32 {
            self.by_name.insert_unique(hash_of(&number), number, hash_of);
        }
        self.of_batch.forget();
    }
}

impl<V> std::ops::Index<u32> for PerSeries<V> {
    type Output = V;

    #[inline]
    fn index(&self, number: u32) -> &V {
        &self.series[number as usize].value
    }
}

impl<V> std::ops::IndexMut<u32> for PerSeries<V> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut V {
        &mut self.series[number as usize].value
    }
}

/// The exact name of a series: the lengths of the first two texts keep `a`, `bc` and `ab`, `c` apart.
fn write_name([source, symbol, timeframe]: [&str; 3], name: &mut Vec<u8>) {
    name.clear();
    name.extend_from_slice(&(source.len() as u32).to_le_bytes());
    name.extend_from_slice(&(symbol.len() as u32).to_le_bytes());
    for text in [source, symbol, timeframe] {
        name.extend_from_slice(text.as_bytes());
    }
}

/// Where the texts of a row's series are in the dictionaries of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: usize,
    symbol: usize,
    timeframe: usize,
}

/// The numbers of the series of one batch that have been looked up.
#[derive(Debug, Default)]
struct Table {
    symbols: usize,
    timeframes: usize,
    /// A cell for each combination of texts, when there are not too many.
    cells: Vec<u32>,
    /// The others.
    sparse: HashMap<Key, u32, DefaultHashBuilder>,
}

impl Table {
    /// Forgets everything, for a batch of so many rows with dictionaries of so many texts.
    fn start(&mut self, rows: usize, texts: Key) {
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
    fn forget(&mut self) {
        self.cells.fill(UNKNOWN);
        self.sparse.clear();
    }

    #[inline]
    fn get(&self, key: Key) -> Option<u32> {
        if self.cells.is_empty() {
            return self.sparse.get(&key).copied();
        }
        let number = self.cells[self.cell(key)];
        (number != UNKNOWN).then_some(number)
    }

    fn set(&mut self, key: Key, number: u32) {
        if self.cells.is_empty() {
            self.sparse.insert(key, number);
        } else {
            let cell = self.cell(key);
            self.cells[cell] = number;
        }
    }

    #[inline]
    fn cell(&self, key: Key) -> usize {
        (key.source * self.symbols + key.symbol) * self.timeframes + key.timeframe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchBuilder;

    fn batch(rows: &[(&str, &str, &str)]) -> Batch {
        BatchBuilder::new(rows.len())
            .texts("source", rows.iter().map(|row| row.0))
            .texts("symbol", rows.iter().map(|row| row.1))
            .texts("timeframe", rows.iter().map(|row| row.2))
            .build()
    }

    fn numbers(of: &mut PerSeries<()>, rows: &[(&str, &str, &str)]) -> Vec<u32> {
        let batch = batch(rows);
        let columns = SeriesColumns::of(&batch).unwrap();
        of.start(&columns, rows.len());
        (0..rows.len()).map(|row| of.number(&columns, row, |_| Some(())).unwrap()).collect()
    }

    #[test]
    fn names_are_exact_and_numbers_last_over_batches() {
        let mut of = PerSeries::default();
        let rows = [("a", "bc", "1m"), ("ab", "c", "1m"), ("a", "b", "c1m"), ("", "", ""), ("a", "bc", "1m")];
        assert_eq!(numbers(&mut of, &rows), [0, 1, 2, 3, 0]);
        assert_eq!(numbers(&mut of, &[("", "", ""), ("a", "bc", "1m"), ("new", "", "")]), [3, 0, 4]);
        assert_eq!(of.len(), 5);
    }

    #[test]
    fn a_row_without_a_text_has_no_series() {
        let batch = BatchBuilder::new(1)
            .texts_or_null("source", [None::<&str>])
            .texts("symbol", ["BTC/USD"])
            .texts("timeframe", ["1m"])
            .build();
        let columns = SeriesColumns::of(&batch).unwrap();
        let mut of = PerSeries::default();
        of.start(&columns, 1);
        assert_eq!(of.number(&columns, 0, |_| Some(())), None);
    }

    #[test]
    fn what_is_forgotten_is_new_when_it_comes_again() {
        let rows = [("a", "x", "1m"), ("a", "y", "1m"), ("a", "z", "1m")];
        let batch = batch(&rows);
        let columns = SeriesColumns::of(&batch).unwrap();
        let mut of = PerSeries::default();
        of.start(&columns, 3);
        for row in 0..3 {
            of.number(&columns, row, |_| Some(row)).unwrap();
        }
        of.retain(|first_row| *first_row != 1);
        let again: Vec<usize> = (0..3)
            .map(|row| {
                let number = of.number(&columns, row, |_| Some(9)).unwrap();
                of[number]
            })
            .collect();
        assert_eq!(again, [0, 9, 2]);
    }

    #[test]
    fn each_combination_has_its_own_number_in_a_dense_table_and_in_a_sparse_one() {
        let texts = Key { source: 3, symbol: 700, timeframe: 4 };
        let keys = || {
            (0..texts.source).flat_map(move |source| {
                (0..texts.symbol).flat_map(move |symbol| {
                    (0..texts.timeframe).map(move |timeframe| Key { source, symbol, timeframe })
                })
            })
        };
        let mut table = Table::default();
        for rows in [10, 10_000] {
            table.start(rows, texts);
            assert_eq!(table.cells.is_empty(), rows == 10);
            for (number, key) in (0..).zip(keys()) {
                assert_eq!(table.get(key), None);
                table.set(key, number);
            }
            assert!((0..).zip(keys()).all(|(number, key)| table.get(key) == Some(number)));
            table.forget();
            assert_eq!(table.get(Key { source: 0, symbol: 0, timeframe: 0 }), None);
        }
    }
}
