//! What two versions of a rule say of the same rows: for a candidate in a running pipeline, and for `tidegate diff`.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, ArrayRef, DictionaryArray};

use super::slot::Applied;
use crate::sink::values::{Value, Values};

/// What a version says of a row.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// It is kept.
    Kept,
    /// It is rejected.
    Rejected {
        /// For which reason.
        reason: &'a str,
        /// In a sentence.
        detail: &'a str,
    },
    /// It is dropped.
    Dropped,
}

/// A row of which the versions say different things.
pub struct Difference<'a> {
    /// Where it is among the rows that came to the rule.
    pub place: usize,
    /// Its index in the raw batch.
    pub row: u32,
    /// What the version says that decides.
    pub current: Verdict<'a>,
    /// What the other one says.
    pub candidate: Verdict<'a>,
    /// Where both keep it, the columns that differ, with the values of both.
    pub values: Vec<(&'a str, Value<'a>, Value<'a>)>,
}

impl Verdict<'_> {
    /// Whether it is the same, whatever the sentence.
    pub fn is_same(&self, other: &Verdict<'_>) -> bool {
        match (self, other) {
            (Verdict::Kept, Verdict::Kept) | (Verdict::Dropped, Verdict::Dropped) => true,
            (Verdict::Rejected { reason, .. }, Verdict::Rejected { reason: other, .. }) => reason == other,
            _ => false,
        }
    }
}

/// Shows each of `rows`, which are indexes in the raw batch, of which two versions say different things, or in one of whose
/// columns with these names they differ. A column that a version does not have has no values.
pub fn each_difference<'a>(
    rows: &[u32],
    columns: impl Iterator<Item = &'a str>,
    current: &'a Applied,
    candidate: &'a Applied,
    mut each: impl FnMut(Difference<'a>),
) {
    let column = |applied: &'a Applied, name| applied.kept.columns.column_by_name(name);
    let columns: Vec<_> =
        columns.map(|name| (name, column(current, name), column(candidate, name))).collect();
    let are_equal = columns.iter().all(|(_, one, other)| match (one, other) {
        (Some(one), Some(other)) => is_same_column(one, other),
        (one, other) => one.is_none() && other.is_none(),
    });
    // Most candidates agree, and then nothing has to be looked at row by row.
    if are_equal && current.kept.rows == candidate.kept.rows && rows.len() == current.kept.rows.len() {
        return;
    }
    let columns: Vec<_> = (columns.into_iter())
        .map(|(name, one, other)| (name, one.map(Values::of), other.map(Values::of)))
        .collect();
    let (ours, theirs) = (Verdicts::new(current), Verdicts::new(candidate));
    for (place, &row) in rows.iter().enumerate() {
        let (current, candidate) = (ours.of(row), theirs.of(row));
        let mut values = Vec::new();
        if let (Some(one), Some(other)) = (ours.place(row), theirs.place(row)) {
            values = (columns.iter())
                .map(|(name, ours, theirs)| (*name, at(ours.as_ref(), one), at(theirs.as_ref(), other)))
                .filter(|(_, one, other)| !is_same_value(one, other))
                .collect();
        }
        if !values.is_empty() || !current.is_same(&candidate) {
            each(Difference { place, row, current, candidate, values });
        }
    }
}

/// Whether two columns have the same values. Arrow compares dictionaries text by text, which takes ten times as long as a
/// rule takes to write them.
fn is_same_column(one: &ArrayRef, other: &ArrayRef) -> bool {
    let texts = |column: &'_ ArrayRef| column.as_dictionary_opt::<UInt32Type>().cloned();
    match (texts(one), texts(other)) {
        (Some(one), Some(other)) => is_same_texts(&one, &other),
        _ => one == other,
    }
}

fn is_same_texts(one: &DictionaryArray<UInt32Type>, other: &DictionaryArray<UInt32Type>) -> bool {
    if one.keys() == other.keys() && one.values() == other.values() {
        return true;
    }
    if one.len() != other.len() || one.nulls() != other.nulls() {
        return false;
    }
    // The dictionaries may have another order: a text has one number for both.
    let mut numbers = HashMap::new();
    let (of_one, of_other) = (numbered(one, &mut numbers), numbered(other, &mut numbers));
    let is_same = |row: usize| {
        let number = |numbers: &[usize], texts: &DictionaryArray<UInt32Type>| {
            numbers.get(texts.keys().value(row) as usize).copied()
        };
        one.is_null(row) || number(&of_one, one) == number(&of_other, other)
    };
    (0..one.len()).all(is_same)
}

/// For each entry of a dictionary the number of its text.
fn numbered<'a>(
    texts: &'a DictionaryArray<UInt32Type>,
    numbers: &mut HashMap<Option<&'a str>, usize>,
) -> Vec<usize> {
    let number = |text| {
        let next = numbers.len();
        *numbers.entry(text).or_insert(next)
    };
    texts.values().as_string::<i32>().iter().map(number).collect()
}

fn at<'a>(values: Option<&Values<'a>>, row: usize) -> Value<'a> {
    values.map_or(Value::Null, |values| values.at(row))
}

/// NaN too is what it is.
fn is_same_value(one: &Value<'_>, other: &Value<'_>) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one == other || (one.is_nan() && other.is_nan()),
        _ => one == other,
    }
}

/// The verdicts of a version, by row.
struct Verdicts<'a> {
    kept: &'a [u32],
    rejected: HashMap<u32, (&'a str, &'a str)>,
}

impl<'a> Verdicts<'a> {
    fn new(applied: &'a Applied) -> Verdicts<'a> {
        let rejects = applied.rejects.iter();
        Verdicts {
            kept: &applied.kept.rows,
            rejected: rejects.map(|reject| (reject.row, (&*reject.reason, reject.detail.as_str()))).collect(),
        }
    }

    /// Where the row is among the kept ones, which ascend.
    fn place(&self, row: u32) -> Option<usize> {
        self.kept.binary_search(&row).ok()
    }

    fn of(&self, row: u32) -> Verdict<'a> {
        match (self.place(row), self.rejected.get(&row)) {
            (Some(_), _) => Verdict::Kept,
            (None, Some((reason, detail))) => Verdict::Rejected { reason, detail },
            (None, None) => Verdict::Dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{StringArray, UInt32Array};

    use super::*;

    fn texts(keys: &[Option<u32>], values: &[&str]) -> ArrayRef {
        let keys = UInt32Array::from(keys.to_vec());
        Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(values.to_vec()))))
    }

    #[test]
    fn texts_are_the_same_whatever_the_order_of_their_dictionary() {
        let one = texts(&[Some(0), Some(1), None, Some(0)], &["a", "b"]);
        for (other, is_same) in [
            (texts(&[Some(0), Some(1), None, Some(0)], &["a", "b"]), true),
            (texts(&[Some(2), Some(0), None, Some(1)], &["b", "a", "a", "c"]), true),
            (texts(&[Some(0), Some(1), None, Some(0)], &["b", "a"]), false),
            (texts(&[Some(0), Some(1), Some(1), Some(0)], &["a", "b"]), false),
            (texts(&[Some(0), Some(1), None], &["a", "b"]), false),
        ] {
            assert_eq!(is_same_column(&one, &other), is_same, "{other:?}");
            assert_eq!(*one == *other, is_same, "as arrow says: {other:?}");
        }
    }
}
