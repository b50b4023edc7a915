//! Batches for the unit tests of rules.

use crate::{Batch, Column, Values};

/// Builds a [`Batch`] as the host would hand it over.
///
/// ```
/// # use tidegate_guest::BatchBuilder;
/// let batch = BatchBuilder::new(2)
///     .timestamps("timestamp", [1_700_000_040_000, 1_700_000_100_000])
///     .floats_or_null("close", [Some(1.5), None])
///     .texts("symbol", ["BTC/USDT", "BTC/USDT"])
///     .build();
/// assert_eq!(batch.floats("close").unwrap().get(1), None);
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    batch: Batch,
}

impl BatchBuilder {
    /// A batch of so many rows, without columns yet.
    pub fn new(rows: usize) -> BatchBuilder {
        let rows = u32::try_from(rows).expect("a batch has fewer than 2^32 rows");
        BatchBuilder { batch: Batch { rows, columns: Vec::new() } }
    }

    /// Adds a column of floats.
    pub fn floats(self, name: &str, values: impl IntoIterator<Item = f64>) -> BatchBuilder {
        self.floats_or_null(name, values.into_iter().map(Some))
    }

    /// Adds a column of floats; `None` is a row without a value.
    pub fn floats_or_null(self, name: &str, values: impl IntoIterator<Item = Option<f64>>) -> BatchBuilder {
        self.column(Column::of_floats_or_null(name, values))
    }

    /// Adds a column of integers.
    pub fn integers(self, name: &str, values: impl IntoIterator<Item = i64>) -> BatchBuilder {
        self.integers_or_null(name, values.into_iter().map(Some))
    }

    /// Adds a column of integers; `None` is a row without a value.
    pub fn integers_or_null(self, name: &str, values: impl IntoIterator<Item = Option<i64>>) -> BatchBuilder {
        self.column(Column::of_integers_or_null(name, values))
    }

    /// Adds a column of milliseconds since 1970.
    pub fn timestamps(self, name: &str, values: impl IntoIterator<Item = i64>) -> BatchBuilder {
        self.timestamps_or_null(name, values.into_iter().map(Some))
    }

    /// Adds a column of milliseconds since 1970; `None` is a row without a value.
    pub fn timestamps_or_null(
        self,
        name: &str,
        values: impl IntoIterator<Item = Option<i64>>,
    ) -> BatchBuilder {
        self.column(Column::of_timestamps_or_null(name, values))
    }

    /// Adds a column of true and false.
    pub fn booleans(self, name: &str, values: impl IntoIterator<Item = bool>) -> BatchBuilder {
        self.booleans_or_null(name, values.into_iter().map(Some))
    }

    /// Adds a column of true and false; `None` is a row without a value.
    pub fn booleans_or_null(
        self,
        name: &str,
        values: impl IntoIterator<Item = Option<bool>>,
    ) -> BatchBuilder {
        self.column(Column::of_booleans_or_null(name, values))
    }

    /// Adds a column of texts.
    pub fn texts<T: AsRef<str>>(self, name: &str, values: impl IntoIterator<Item = T>) -> BatchBuilder {
        self.texts_or_null(name, values.into_iter().map(Some))
    }

    /// Adds a column of texts; `None` is a row without a text.
    pub fn texts_or_null<T: AsRef<str>>(
        self,
        name: &str,
        values: impl IntoIterator<Item = Option<T>>,
    ) -> BatchBuilder {
        self.column(Column::of_texts_or_null(name, values))
    }

    /// Adds a column that is made already.
    ///
    /// # Panics
    /// When it does not have as many values as the batch has rows: the test is wrong.
    pub fn column(mut self, column: Column) -> BatchBuilder {
        let rows = self.batch.rows as usize;
        let (length, expected) = match &column.values {
            Values::Integers(values) | Values::Timestamps(values) => (values.len(), rows),
            Values::Floats(values) => (values.len(), rows),
            Values::Booleans(bits) => (bits.len(), rows.div_ceil(8)),
            Values::Texts(texts) => (texts.indexes.len(), rows),
        };
        assert_eq!(length, expected, "the values of column `{}`, for a batch of {rows} rows", column.name);
        self.batch.columns.push(column);
        self
    }

    /// The batch.
    pub fn build(self) -> Batch {
        self.batch
    }
}
