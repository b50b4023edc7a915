//! What a rule answers.

use crate::{Batch, Column, Outcome, Reasons, Reject, Rule};

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

    /// For tests: whether a host would take this as the rule's answer to that batch. Row numbers are in range
    /// and named once, reasons are among the rule's, and each column is one that the rule writes, of that kind,
    /// answered once, as long as the batch and with valid indexes.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check<R: Rule>(&self, input: &Batch) -> Result<(), String> {
        self.check_rows::<R::Reason>(input.rows)?;
        let writes = R::writes();
        let written = Batch { rows: input.rows, columns: self.columns.clone() };
        for (place, column) in self.columns.iter().enumerate() {
            let name = &column.name;
            let declared = writes.iter().find(|declared| declared.name == *name);
            let kind = declared.map(|declared| declared.kind).ok_or_else(|| {
                format!("the rule answers the column `{name}`, which it does not write: name it in `writes`")
            })?;
            if column.kind() != kind {
                return Err(column.is_not(kind));
            }
            if self.columns[..place].iter().any(|earlier| earlier.name == *name) {
                return Err(format!("the column `{name}` is answered twice"));
            }
            written.check_column(name)?;
        }
        Ok(())
    }

    fn check_rows<R: Reasons>(&self, count: u32) -> Result<(), String> {
        let mut rows: Vec<u32> = self.rejected.iter().map(|reject| reject.row).collect();
        rows.extend(&self.dropped);
        rows.sort_unstable();
        if let Some(row) = rows.iter().find(|row| **row >= count) {
            return Err(format!("row {row} is not in a batch of {count} rows"));
        }
        if let Some(pair) = rows.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("row {} is named twice", pair[0]));
        }
        let reasons = R::NAMES.len();
        match self.rejected.iter().find(|reject| reject.reason as usize >= reasons) {
            Some(Reject { row, reason, .. }) => {
                Err(format!("row {row} is rejected for reason {reason}, but the rule has {reasons} reasons"))
            }
            None => Ok(()),
        }
    }
}

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome::keep_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, InputColumn, Kind, NoSettings, OutputColumn, output};

    crate::reasons! {
        enum Reason {
            Odd = "odd",
        }
    }

    /// Declares what the answers below are compared with.
    struct Declared;

    impl Rule for Declared {
        const NAME: &'static str = "declared";
        const SUMMARY: &'static str = "Keeps everything";
        const VERSION: &'static str = "1";

        type Settings = NoSettings;
        type Reason = Reason;

        fn reads() -> Vec<InputColumn> {
            Vec::new()
        }

        fn writes() -> Vec<OutputColumn> {
            vec![output("spread", Kind::Float), output("note", Kind::Text)]
        }

        fn new(_: NoSettings) -> Result<Declared, String> {
            Ok(Declared)
        }

        fn transform(&mut self, _: i64, _: &Batch) -> Result<Outcome, String> {
            Ok(Outcome::keep_all())
        }
    }

    fn fault(answer: impl FnOnce(&mut Outcome)) -> String {
        let mut outcome = Outcome::keep_all();
        answer(&mut outcome);
        outcome.check::<Declared>(&BatchBuilder::new(2).build()).err().unwrap_or_default()
    }

    #[test]
    fn what_a_host_takes_is_right() {
        let right = fault(|outcome| {
            outcome.reject(1, Reason::Odd, "");
            outcome.drop_row(0);
            outcome.write(Column::of_texts_or_null("note", [None, Some("a")]));
            outcome.write(Column::of_floats("spread", vec![1.0, 2.0]));
        });
        assert_eq!(right, "");
    }

    #[test]
    fn rows_and_reasons_are_in_range() {
        assert_eq!(fault(|outcome| outcome.drop_row(2)), "row 2 is not in a batch of 2 rows");
        let twice = fault(|outcome| {
            outcome.drop_row(1);
            outcome.reject(1, Reason::Odd, "");
        });
        assert_eq!(twice, "row 1 is named twice");
        let reject = Reject { row: 1, reason: 1, detail: String::new() };
        let reason = fault(|outcome| outcome.rejected.push(reject));
        assert_eq!(reason, "row 1 is rejected for reason 1, but the rule has 1 reasons");
    }

    #[test]
    fn columns_are_those_that_the_rule_writes() {
        let spread = || Column::of_floats("spread", vec![1.0, 2.0]);
        assert_eq!(
            fault(|outcome| outcome.write(Column::of_floats("sprad", vec![1.0, 2.0]))),
            "the rule answers the column `sprad`, which it does not write: name it in `writes`"
        );
        assert_eq!(
            fault(|outcome| outcome.write(Column::of_integers("spread", vec![1, 2]))),
            "column `spread` is of kind integer, not float"
        );
        let twice = fault(|outcome| {
            outcome.write(spread());
            outcome.write(spread());
        });
        assert_eq!(twice, "the column `spread` is answered twice");
        assert_eq!(
            fault(|outcome| outcome.write(Column::of_floats("spread", vec![1.0]))),
            "column `spread` does not have the batch's 2 rows"
        );
        assert_eq!(
            fault(|outcome| outcome.write(Column::of_dictionary("note", vec![], vec![0, 0], None))),
            "row 0 of column `note` has an index outside the dictionary"
        );
    }
}
