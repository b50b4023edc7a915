//! Columns: reading them without copies, and making them.

use std::collections::HashMap;

use crate::{Batch, Column, Kind, Texts, Values};

/// A column of numbers of one type: one value a row, and which rows have one.
#[derive(Debug, Clone, Copy)]
pub struct Numbers<'a, T> {
    values: &'a [T],
    present: Option<&'a [u8]>,
}

/// A column of floats.
pub type Floats<'a> = Numbers<'a, f64>;
/// A column of integers.
pub type Integers<'a> = Numbers<'a, i64>;
/// A column of milliseconds since 1970.
pub type Timestamps<'a> = Numbers<'a, i64>;

impl<'a, T: Copy> Numbers<'a, T> {
    /// The row's value, where it has one.
    #[inline]
    pub fn get(&self, row: usize) -> Option<T> {
        if self.present(row) { self.values.get(row).copied() } else { None }
    }

    /// One value a row; it means nothing where the row has none.
    #[inline]
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Whether the row has a value.
    #[inline]
    pub fn present(&self, row: usize) -> bool {
        is_set(self.present, row)
    }

    /// Which rows have a value, a bit a row; `None` when all have one.
    #[inline]
    pub fn presence(&self) -> Option<&'a [u8]> {
        self.present
    }
}

/// A column of true and false.
#[derive(Debug, Clone, Copy)]
pub struct Booleans<'a> {
    values: &'a [u8],
    present: Option<&'a [u8]>,
}

impl<'a> Booleans<'a> {
    /// The row's value, where it has one.
    #[inline]
    pub fn get(&self, row: usize) -> Option<bool> {
        if self.present(row) { Some(is_set(Some(self.values), row)) } else { None }
    }

    /// Whether the row has a value.
    #[inline]
    pub fn present(&self, row: usize) -> bool {
        is_set(self.present, row)
    }

    /// Which rows have a value, a bit a row; `None` when all have one.
    #[inline]
    pub fn presence(&self) -> Option<&'a [u8]> {
        self.present
    }
}

/// A column of texts: each distinct text once in the dictionary, and for each row the index of its text. A
/// rule that decides once a text instead of once a row is many times faster.
#[derive(Debug, Clone, Copy)]
pub struct TextColumn<'a> {
    dictionary: &'a [String],
    indexes: &'a [u32],
    present: Option<&'a [u8]>,
}

impl<'a> TextColumn<'a> {
    /// The row's text, where it has one.
    #[inline]
    pub fn get(&self, row: usize) -> Option<&'a str> {
        self.index(row).map(|index| self.dictionary[index].as_str())
    }

    /// The place of the row's text in [`TextColumn::dictionary`], where the row has one.
    #[inline]
    pub fn index(&self, row: usize) -> Option<usize> {
        if !self.present(row) {
            return None;
        }
        let index = *self.indexes.get(row)? as usize;
        (index < self.dictionary.len()).then_some(index)
    }

    /// The texts. Some may be used by no row, and the same text may be there twice.
    #[inline]
    pub fn dictionary(&self) -> &'a [String] {
        self.dictionary
    }

    /// One index a row; it means nothing where the row has no text.
    #[inline]
    pub fn indexes(&self) -> &'a [u32] {
        self.indexes
    }

    /// Whether the row has a text.
    #[inline]
    pub fn present(&self, row: usize) -> bool {
        is_set(self.present, row)
    }

    /// Which rows have a text, a bit a row; `None` when all have one.
    #[inline]
    pub fn presence(&self) -> Option<&'a [u8]> {
        self.present
    }
}

#[inline]
fn is_set(bits: Option<&[u8]>, row: usize) -> bool {
    match bits {
        None => true,
        Some(bits) => bits.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1),
    }
}

impl Batch {
    /// Whether the pipeline has the column (for a column that the rule reads as optional).
    pub fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    /// A column of floats.
    ///
    /// # Errors
    /// When the batch has no such column, it is of another kind, or its length is not the batch's.
    pub fn floats(&self, name: &str) -> Result<Floats<'_>, String> {
        self.column(name)?.floats()
    }

    /// A column of integers.
    ///
    /// # Errors
    /// As [`Batch::floats`].
    pub fn integers(&self, name: &str) -> Result<Integers<'_>, String> {
        self.column(name)?.integers()
    }

    /// A column of timestamps.
    ///
    /// # Errors
    /// As [`Batch::floats`].
    pub fn timestamps(&self, name: &str) -> Result<Timestamps<'_>, String> {
        self.column(name)?.timestamps()
    }

    /// A column of true and false.
    ///
    /// # Errors
    /// As [`Batch::floats`].
    pub fn booleans(&self, name: &str) -> Result<Booleans<'_>, String> {
        self.column(name)?.booleans()
    }

    /// A column of texts.
    ///
    /// # Errors
    /// As [`Batch::floats`].
    pub fn texts(&self, name: &str) -> Result<TextColumn<'_>, String> {
        self.column(name)?.texts()
    }

    /// Whether a column has the batch's length, and each row with a text an index into the dictionary.
    pub(crate) fn check_column(&self, name: &str) -> Result<(), String> {
        let column = self.column(name)?;
        match column.texts() {
            Ok(texts) => match (0..self.rows as usize)
                .find(|row| texts.present(*row) && texts.index(*row).is_none())
            {
                Some(row) => Err(format!("row {row} of column `{name}` has an index outside the dictionary")),
                None => Ok(()),
            },
            Err(_) => Ok(()),
        }
    }

    fn column(&self, name: &str) -> Result<&Column, String> {
        let column = self
            .columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| format!("the batch has no column `{name}`: name it in `reads`"))?;
        let rows = self.rows as usize;
        let fits = match &column.values {
            Values::Integers(values) | Values::Timestamps(values) => values.len() == rows,
            Values::Floats(values) => values.len() == rows,
            Values::Booleans(bits) => bits.len() == rows.div_ceil(8),
            Values::Texts(texts) => texts.indexes.len() == rows,
        };
        let presence_fits = column.present.as_ref().is_none_or(|bits| bits.len() == rows.div_ceil(8));
        if fits && presence_fits {
            Ok(column)
        } else {
            Err(format!("column `{name}` does not have the batch's {rows} rows"))
        }
    }
}

impl Column {
    /// A column of floats in which every row has a value.
    pub fn of_floats(name: &str, values: Vec<f64>) -> Column {
        Column { name: name.to_owned(), values: Values::Floats(values), present: None }
    }

    /// A column of floats; `None` where the row has no value.
    pub fn of_floats_or_null(name: &str, values: impl IntoIterator<Item = Option<f64>>) -> Column {
        let (values, present) = split(values);
        Column { name: name.to_owned(), values: Values::Floats(values), present }
    }

    /// A column of integers in which every row has a value.
    pub fn of_integers(name: &str, values: Vec<i64>) -> Column {
        Column { name: name.to_owned(), values: Values::Integers(values), present: None }
    }

    /// A column of integers; `None` where the row has no value.
    pub fn of_integers_or_null(name: &str, values: impl IntoIterator<Item = Option<i64>>) -> Column {
        let (values, present) = split(values);
        Column { name: name.to_owned(), values: Values::Integers(values), present }
    }

    /// A column of timestamps in which every row has a value.
    pub fn of_timestamps(name: &str, values: Vec<i64>) -> Column {
        Column { name: name.to_owned(), values: Values::Timestamps(values), present: None }
    }

    /// A column of timestamps; `None` where the row has no value.
    pub fn of_timestamps_or_null(name: &str, values: impl IntoIterator<Item = Option<i64>>) -> Column {
        let (values, present) = split(values);
        Column { name: name.to_owned(), values: Values::Timestamps(values), present }
    }

    /// A column of true and false; `None` where the row has no value.
    pub fn of_booleans_or_null(name: &str, values: impl IntoIterator<Item = Option<bool>>) -> Column {
        let (values, present) = split(values);
        Column { name: name.to_owned(), values: Values::Booleans(bits(values)), present }
    }

    /// A column of texts; `None` where the row has no text. Each distinct text is kept once.
    pub fn of_texts_or_null<T: AsRef<str>>(
        name: &str,
        values: impl IntoIterator<Item = Option<T>>,
    ) -> Column {
        let mut places: HashMap<String, u32> = HashMap::new();
        let mut dictionary = Vec::new();
        let (indexes, present) = split(values.into_iter().map(|text| {
            text.map(|text| match places.get(text.as_ref()) {
                Some(place) => *place,
                None => {
                    let place = dictionary.len() as u32;
                    dictionary.push(text.as_ref().to_owned());
                    places.insert(text.as_ref().to_owned(), place);
                    place
                }
            })
        }));
        Column { name: name.to_owned(), values: Values::Texts(Texts { dictionary, indexes }), present }
    }

    /// A column of texts whose dictionary is made already: the fast way to write one.
    pub fn of_dictionary(
        name: &str,
        dictionary: Vec<String>,
        indexes: Vec<u32>,
        present: Option<Vec<u8>>,
    ) -> Column {
        Column { name: name.to_owned(), values: Values::Texts(Texts { dictionary, indexes }), present }
    }

    /// What the values are.
    pub fn kind(&self) -> Kind {
        match self.values {
            Values::Integers(_) => Kind::Integer,
            Values::Floats(_) => Kind::Float,
            Values::Booleans(_) => Kind::Boolean,
            Values::Timestamps(_) => Kind::Timestamp,
            Values::Texts(_) => Kind::Text,
        }
    }

    /// The column as floats.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn floats(&self) -> Result<Floats<'_>, String> {
        match &self.values {
            Values::Floats(values) => Ok(Numbers { values, present: self.present.as_deref() }),
            _ => Err(self.is_not(Kind::Float)),
        }
    }

    /// The column as integers.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn integers(&self) -> Result<Integers<'_>, String> {
        match &self.values {
            Values::Integers(values) => Ok(Numbers { values, present: self.present.as_deref() }),
            _ => Err(self.is_not(Kind::Integer)),
        }
    }

    /// The column as timestamps.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn timestamps(&self) -> Result<Timestamps<'_>, String> {
        match &self.values {
            Values::Timestamps(values) => Ok(Numbers { values, present: self.present.as_deref() }),
            _ => Err(self.is_not(Kind::Timestamp)),
        }
    }

    /// The column as true and false.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn booleans(&self) -> Result<Booleans<'_>, String> {
        match &self.values {
            Values::Booleans(values) => Ok(Booleans { values, present: self.present.as_deref() }),
            _ => Err(self.is_not(Kind::Boolean)),
        }
    }

    /// The column as texts.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn texts(&self) -> Result<TextColumn<'_>, String> {
        match &self.values {
            Values::Texts(texts) => Ok(TextColumn {
                dictionary: &texts.dictionary,
                indexes: &texts.indexes,
                present: self.present.as_deref(),
            }),
            _ => Err(self.is_not(Kind::Text)),
        }
    }

    pub(crate) fn is_not(&self, wanted: Kind) -> String {
        format!("column `{}` is of kind {}, not {}", self.name, self.kind().name(), wanted.name())
    }
}

impl Kind {
    /// The word for it in pipeline files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Integer => "integer",
            Kind::Float => "float",
            Kind::Boolean => "boolean",
            Kind::Timestamp => "timestamp",
            Kind::Text => "text",
        }
    }
}

/// Values with a default where there is none, and the presence bits when some are missing.
fn split<T: Default>(values: impl IntoIterator<Item = Option<T>>) -> (Vec<T>, Option<Vec<u8>>) {
    let mut present = Vec::new();
    let values = values
        .into_iter()
        .map(|value| {
            present.push(value.is_some());
            value.unwrap_or_default()
        })
        .collect();
    let is_full = present.iter().all(|present| *present);
    (values, if is_full { None } else { Some(bits(present)) })
}

/// One bit a row, as the contract lays them out.
fn bits(values: Vec<bool>) -> Vec<u8> {
    let byte = |chunk: &[bool]| {
        chunk.iter().enumerate().fold(0, |byte, (place, value)| byte | u8::from(*value) << place)
    };
    values.chunks(8).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchBuilder;

    #[test]
    fn values_and_nulls_are_read_back() {
        let batch = BatchBuilder::new(10)
            .floats_or_null("open", (0..10).map(|row| (row != 9).then_some(f64::from(row))))
            .integers("trades", 0..10)
            .timestamps("timestamp", 100..110)
            .booleans_or_null("closed", (0..10).map(|row| (row != 3).then_some(row % 2 == 0)))
            .texts("symbol", (0..10).map(|row| if row < 5 { "BTC/USD" } else { "ETH/USD" }))
            .texts_or_null("note", (0..10).map(|row| (row == 8).then_some("late")))
            .build();
        let open = batch.floats("open").unwrap();
        assert_eq!((open.get(8), open.get(9), open.get(10)), (Some(8.0), None, None));
        assert!(open.present(8) && !open.present(9));
        assert_eq!(open.values().len(), 10);
        assert_eq!(batch.integers("trades").unwrap().get(4), Some(4));
        assert_eq!(batch.timestamps("timestamp").unwrap().values()[9], 109);
        let closed = batch.booleans("closed").unwrap();
        assert_eq!((closed.get(2), closed.get(3), closed.get(9)), (Some(true), None, Some(false)));
        let symbol = batch.texts("symbol").unwrap();
        assert_eq!(symbol.dictionary(), ["BTC/USD", "ETH/USD"]);
        assert_eq!(
            (symbol.get(4), symbol.get(5), symbol.index(9)),
            (Some("BTC/USD"), Some("ETH/USD"), Some(1))
        );
        let note = batch.texts("note").unwrap();
        assert_eq!((note.get(7), note.get(8)), (None, Some("late")));
        assert!(batch.has_column("note") && !batch.has_column("notes"));
    }

    #[test]
    fn a_column_that_is_missing_of_another_kind_or_too_short_is_an_error() {
        let mut batch = BatchBuilder::new(2).floats("open", [1.0, 2.0]).build();
        assert_eq!(batch.floats("close").unwrap_err(), "the batch has no column `close`: name it in `reads`");
        assert_eq!(batch.texts("open").unwrap_err(), "column `open` is of kind float, not text");
        batch.rows = 3;
        assert_eq!(batch.floats("open").unwrap_err(), "column `open` does not have the batch's 3 rows");
    }

    #[test]
    fn an_index_outside_the_dictionary_is_no_text() {
        let column = Column::of_dictionary("symbol", vec![], vec![0, 7], None);
        let texts = column.texts().unwrap();
        assert_eq!((texts.get(0), texts.get(1), texts.get(2)), (None, None, None));
    }

    #[test]
    fn an_empty_batch_has_empty_columns() {
        let batch = BatchBuilder::new(0).floats("open", []).texts("symbol", [""; 0]).build();
        assert_eq!(batch.floats("open").unwrap().get(0), None);
        assert_eq!(batch.texts("symbol").unwrap().get(0), None);
    }
}
