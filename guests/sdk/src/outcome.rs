//! What a rule answers.

use crate::{Batch, Column, Outcome, Reasons, Reject};

/// What a rule says about one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<R> {
    /// The row goes on.
    Keep,
    /// The row goes to the dead letter: why, and what is wrong with it, with the values, for a person.
    Reject(R, String),
    /// The row is left out on purpose, such as an exact duplicate: counted, not stored.
    Drop,
}

impl Outcome {
    /// Every row is kept and no column is written.
    pub fn keep_all() -> Outcome {
        Outcome { rejected: Vec::new(), dropped: Vec::new(), columns: Vec::new() }
    }

    /// Rejects a row. Name a row at most once, among the rejected and the dropped ones together.
    pub fn reject<R: Reasons>(&mut self, row: usize, reason: R, detail: impl Into<String>) {
        self.rejected.push(Reject { row: row as u32, reason: reason.index(), detail: detail.into() });
    }

    /// Drops a row.
    pub fn drop_row(&mut self, row: usize) {
        self.dropped.push(row as u32);
    }

    /// Writes a column, with a value for each row of the input.
    pub fn write(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// A column that was written.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// For tests: a line for each row that is not kept, in the order of the rows, such as
    /// `3 too_wide: the range is 4.2 times the close` or `7 dropped`.
    ///
    /// # Panics
    /// When a reason is none of `R`'s: the rule is wrong.
    pub fn verdicts<R: Reasons>(&self) -> Vec<String> {
        let mut lines: Vec<(u32, String)> = Vec::new();
        for Reject { row, reason, detail } in &self.rejected {
            lines.push((*row, format!("{row} {}: {detail}", R::NAMES[*reason as usize])));
        }
        for row in &self.dropped {
            lines.push((*row, format!("{row} dropped")));
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// For tests: whether a host would take this as the answer to that batch. It checks that row numbers are
    /// in range and named once, and that each column is as long as the batch and has valid indexes.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, input: &Batch) -> Result<(), String> {
        let mut rows: Vec<u32> = self.rejected.iter().map(|reject| reject.row).collect();
        rows.extend(&self.dropped);
        rows.sort_unstable();
        if let Some(row) = rows.iter().find(|row| **row >= input.rows) {
            return Err(format!("row {row} is not in a batch of {} rows", input.rows));
        }
        if let Some(pair) = rows.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("row {} is named twice", pair[0]));
        }
        let written = Batch { rows: input.rows, columns: self.columns.clone() };
        for column in &written.columns {
            written.check_column(&column.name)?;
        }
        Ok(())
    }
}

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome::keep_all()
    }
}
