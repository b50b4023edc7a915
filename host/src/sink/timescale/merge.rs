//! Rows of one batch with the same key.
//!
//! Rows count in their order: each is compared with what the ones before it have left. So the rows of a key are
//! written one after the other, in rounds, and of those that only repeat the one before them it is known what becomes
//! of them without asking the server.

use std::hash::{BuildHasher, Hash, Hasher};

use arrow_array::RecordBatch;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::sink::values::{Value, Values};

/// By which columns rows are compared.
#[derive(Debug, Clone, Default)]
pub struct Comparing {
    /// Of the key.
    pub key: Vec<usize>,
    /// Those that came from the source.
    pub decoded: Vec<usize>,
    /// That says which of two rows is newer.
    pub revision: Option<usize>,
}

/// The rows of a batch in the order in which they can be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// Rows of different keys each; a row is in a later round than the ones with its key before it.
    pub rounds: Vec<Vec<usize>>,
    /// Rows that repeat another one and are not newer: what becomes of that one decides. The row, and the other.
    pub followers: Vec<(usize, usize)>,
}

impl Rounds {
    /// Sorts these rows of a batch into rounds.
    pub fn new(batch: &RecordBatch, rows: impl Iterator<Item = usize>, comparing: &Comparing) -> Rounds {
        let columns = Values::of_batch(batch);
        let hasher = DefaultHashBuilder::default();
        // The last row of each key that is not a follower, with its round.
        let mut last: HashTable<(usize, usize)> = HashTable::with_capacity(batch.num_rows());
        let mut sorted = Rounds::default();
        for row in rows {
            let hash = comparing.hash(&columns, row, &hasher);
            let is_same = |(other, _): &(usize, usize)| comparing.is_same_key(&columns, row, *other);
            let round = match last.find_mut(hash, is_same) {
                None => {
                    if !comparing.lacks_key(&columns, row) {
                        last.insert_unique(hash, (row, 0), |(row, _)| {
                            comparing.hash(&columns, *row, &hasher)
                        });
                    }
                    0
                }
                Some((leader, _)) if comparing.repeats(&columns, row, *leader) => {
                    sorted.followers.push((row, *leader));
                    continue;
                }
                Some(found) => {
                    *found = (row, found.1 + 1);
                    found.1
                }
            };
            if sorted.rounds.len() <= round {
                sorted.rounds.push(Vec::new());
            }
            sorted.rounds[round].push(row);
        }
        sorted
    }
}

impl Comparing {
    fn hash(&self, columns: &[Values<'_>], row: usize, hasher: &DefaultHashBuilder) -> u64 {
        let mut state = hasher.build_hasher();
        for &column in &self.key {
            match columns[column].at(row) {
                Value::Null => 0_u8.hash(&mut state),
                Value::Integer(value) | Value::Timestamp(value) => value.hash(&mut state),
                // The two zeros are equal.
                Value::Float(value) => (value + 0.0).to_bits().hash(&mut state),
                Value::Boolean(value) => value.hash(&mut state),
                Value::Text(text) => text.hash(&mut state),
            }
        }
        state.finish()
    }

    /// A row without a value in its key equals no other.
    fn lacks_key(&self, columns: &[Values<'_>], row: usize) -> bool {
        self.key.iter().any(|&column| columns[column].at(row) == Value::Null)
    }

    fn is_same_key(&self, columns: &[Values<'_>], row: usize, other: usize) -> bool {
        let is_same = |&column: &usize| columns[column].at(row) == columns[column].at(other);
        self.key.iter().all(is_same) && !self.lacks_key(columns, row)
    }

    /// Whether a row is equal to one before it and not newer.
    fn repeats(&self, columns: &[Values<'_>], row: usize, before: usize) -> bool {
        let revision = |row: usize| match self.revision.map(|column| columns[column].at(row)) {
            Some(Value::Integer(revision)) => revision,
            _ => 0,
        };
        let is_equal = |&column: &usize| columns[column].at(row) == columns[column].at(before);
        revision(row) <= revision(before) && self.decoded.iter().all(is_equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::test_rows::candles;

    /// Key: timestamp; decoded: all but the revision.
    fn rounds(rows: &[(i64, f64, Option<i64>)]) -> Rounds {
        let comparing =
            Comparing { key: vec![0, 2, 3, 4], decoded: vec![0, 1, 2, 3, 4, 6], revision: Some(5) };
        Rounds::new(&candles(rows), 0..rows.len(), &comparing)
    }

    #[test]
    fn rows_of_different_keys_are_one_round() {
        let sorted = rounds(&[(1, 1.0, None), (2, 1.0, None), (3, 1.0, None)]);
        assert_eq!(sorted, Rounds { rounds: vec![vec![0, 1, 2]], followers: vec![] });
    }

    #[test]
    fn a_row_that_repeats_the_one_before_it_follows_it() {
        let sorted = rounds(&[(1, 1.0, None), (2, 1.0, None), (1, 1.0, Some(0)), (1, 1.0, None)]);
        assert_eq!(sorted, Rounds { rounds: vec![vec![0, 1]], followers: vec![(2, 0), (3, 0)] });
    }

    #[test]
    fn a_newer_and_a_different_row_come_later() {
        let sorted =
            rounds(&[(1, 1.0, None), (1, 1.0, Some(1)), (1, 2.0, Some(1)), (1, 1.0, None), (2, 1.0, None)]);
        assert_eq!(sorted, Rounds { rounds: vec![vec![0, 4], vec![1], vec![2], vec![3]], followers: vec![] });
    }
}
