//! A rule that misbehaves as its setting `mode` says, for the tests of the host.
//!
//! Except for the modes whose names say otherwise it does so only in a batch with a row whose close is
//! [`POISON`], and on that row where one row is enough. Its only honest work is to write the column `note`.

use std::collections::HashSet;
use std::hint::black_box;

use schemars::JsonSchema;
use serde::Deserialize;
use tidegate_guest::{
    Batch, Column, InputColumn, Kind, Outcome, OutputColumn, Reject, Rule, export, input, optional_input,
    output,
};

/// The close of a row that the rule cannot stand.
const POISON: f64 = 666.0;

/// The symbol that the rule cannot stand.
const POISON_TEXT: &str = "POISON";

/// The size of a detail that no person reads.
const HUGE_DETAIL_BYTES: usize = 1 << 20;

/// The size of a detail that no limit of a sensible host allows.
const HUGE_ANSWER_BYTES: usize = 200 << 20;

/// The size of a text that is within a limit of 1 MiB three times.
const LONG_TEXT_BYTES: usize = 300 << 10;

/// What the pipeline file can set.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// How the rule misbehaves.
    mode: Mode,
}

/// How the rule misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// Not at all.
    Fine,
    /// Panics where the poison is.
    TrapOnRow,
    /// Panics where a text of the column `symbol` is [`POISON_TEXT`], whether a row uses it or not.
    TrapOnText,
    /// Panics in every call.
    TrapAlways,
    /// Never returns from any call.
    LoopForEver,
    /// Never returns where the poison is.
    LoopOnRow,
    /// Takes all the memory that it can get.
    EatMemory,
    /// Calls itself for ever.
    Recurse,
    /// Rejects a row after the last one.
    RejectTooManyRows,
    /// Rejects a row twice.
    SameRowTwice,
    /// Rejects and drops a row.
    RejectAndDrop,
    /// Answers a column with one value too many.
    WrongLength,
    /// Answers a column of another kind than it said.
    WrongKind,
    /// Answers a column that it did not name.
    UnknownColumn,
    /// Answers a column twice.
    SameColumnTwice,
    /// Answers an index beyond the dictionary.
    BadIndex,
    /// Answers one byte of presence too many.
    BadPresence,
    /// Rejects for a reason that it did not name.
    UnknownReason,
    /// Rejects with a detail of 1 MiB.
    HugeDetail,
    /// Rejects with a detail of 200 MiB.
    HugeAnswer,
    /// Answers the same text of 300 KiB for each row.
    LongText,
    /// Panics where the poison is, and answers 15 MiB of texts that no row uses where it is not.
    UnusedTexts,
    /// Says that it cannot.
    Refuse,
    /// Says that its settings make no sense.
    RefuseSettings,
    /// Drops a row whose close it has seen, and panics where the poison is after it has seen the whole batch.
    Remembers,
    /// Panics where the poison is, and when it is shown none or more than 10,000 rows at once.
    SmallMemory,
    /// Panics when it is shown rows that were written.
    TrapOnMemory,
    /// Never returns when it is shown rows that were written.
    LoopOnMemory,
}

tidegate_guest::reasons! {
    /// Why the rule rejects a row when it is honest about it.
    enum Reason {
        /// The close is the poison.
        Poison = "poison",
    }
}

/// The rule.
#[derive(Debug)]
struct Hostile {
    mode: Mode,
    /// Bits of the closes that have been seen.
    seen: HashSet<u64>,
}

impl Rule for Hostile {
    const NAME: &'static str = "hostile";
    const SUMMARY: &'static str = "Breaks the contract in the way that its setting says";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    type Settings = Settings;
    type Reason = Reason;

    fn reads() -> Vec<InputColumn> {
        vec![input("close", Kind::Float), optional_input("symbol", Kind::Text)]
    }

    fn writes() -> Vec<OutputColumn> {
        vec![output("note", Kind::Text)]
    }

    fn new(settings: Settings) -> Result<Hostile, String> {
        match settings.mode {
            Mode::RefuseSettings => Err("no setting is good enough".to_owned()),
            mode => Ok(Hostile { mode, seen: HashSet::new() }),
        }
    }

    fn remembers(&self) -> bool {
        true
    }

    fn transform(&mut self, _now: i64, input: &Batch) -> Result<Outcome, String> {
        let rows = input.rows as usize;
        let closes = input.floats("close")?;
        let poison = (0..rows).find(|row| closes.get(*row) == Some(POISON));
        let mut outcome = Outcome::keep_all();
        match self.mode {
            Mode::TrapAlways => panic!("it always panics"),
            Mode::TrapOnText
                if input.texts("symbol")?.dictionary().iter().any(|text| text == POISON_TEXT) =>
            {
                panic!("it panics on a text")
            }
            Mode::LoopForEver => loop_for_ever(),
            Mode::Remembers => outcome.dropped = self.drop_seen(closes.values()),
            _ => {}
        }
        match self.mode {
            Mode::LongText => outcome.write(long_note(LONG_TEXT_BYTES, vec![1; rows])),
            Mode::UnusedTexts if poison.is_none() => outcome.write(long_note(15 << 20, vec![0; rows])),
            _ => outcome.write(note(rows)),
        }
        match poison {
            Some(row) => self.misbehave(row, rows, outcome),
            None => Ok(outcome),
        }
    }

    fn remember(&mut self, output: &Batch) {
        match self.mode {
            Mode::TrapOnMemory => panic!("it does not want to know"),
            Mode::SmallMemory if !(1..=10_000).contains(&output.rows) => panic!("{} rows", output.rows),
            Mode::LoopOnMemory => loop_for_ever(),
            _ => {}
        }
        let closes = output.floats("close").expect("the column that the rule reads");
        self.seen.extend(closes.values().iter().map(|close| close.to_bits()));
    }
}

impl Hostile {
    /// The rows whose close has been seen; sees the others.
    fn drop_seen(&mut self, closes: &[f64]) -> Vec<u32> {
        (0..)
            .zip(closes)
            .filter(|(_, close)| !self.seen.insert(close.to_bits()))
            .map(|(row, _)| row)
            .collect()
    }

    /// The answer to a batch of so many rows, of which `row` is the poison; `outcome` would be the honest one.
    fn misbehave(&self, row: usize, rows: usize, mut outcome: Outcome) -> Result<Outcome, String> {
        let presence_bytes = rows.div_ceil(8);
        match self.mode {
            Mode::Fine
            | Mode::TrapOnText
            | Mode::LongText
            | Mode::TrapAlways
            | Mode::LoopForEver
            | Mode::RefuseSettings
            | Mode::TrapOnMemory
            | Mode::LoopOnMemory => {}
            Mode::TrapOnRow | Mode::Remembers | Mode::SmallMemory | Mode::UnusedTexts => {
                panic!("it panics on row {row}")
            }
            Mode::LoopOnRow => loop_for_ever(),
            Mode::EatMemory => eat_memory(),
            Mode::Recurse => drop(black_box(deeper(0))),
            Mode::RejectTooManyRows => outcome.reject(rows, Reason::Poison, "beyond the batch"),
            Mode::SameRowTwice => {
                outcome.reject(row, Reason::Poison, "once");
                outcome.reject(row, Reason::Poison, "twice");
            }
            Mode::RejectAndDrop => {
                outcome.reject(row, Reason::Poison, "rejected");
                outcome.drop_row(row);
            }
            Mode::WrongLength => outcome.columns = vec![note(rows + 1)],
            Mode::WrongKind => outcome.columns = vec![Column::of_floats("note", vec![0.0; rows])],
            Mode::UnknownColumn => outcome.write(Column::of_floats("nobody_knows", vec![0.0; rows])),
            Mode::SameColumnTwice => outcome.write(note(rows)),
            Mode::BadIndex => outcome.columns = vec![texts(vec![7; rows], None)],
            Mode::BadPresence => {
                outcome.columns = vec![texts(vec![0; rows], Some(vec![0xff; presence_bytes + 1]))];
            }
            Mode::UnknownReason => {
                outcome.rejected.push(Reject { row: row as u32, reason: 999, detail: String::new() });
            }
            Mode::HugeDetail => outcome.reject(row, Reason::Poison, "x".repeat(HUGE_DETAIL_BYTES)),
            Mode::HugeAnswer => outcome.reject(row, Reason::Poison, "x".repeat(HUGE_ANSWER_BYTES)),
            Mode::Refuse => return Err("it will not decide this".to_owned()),
        }
        Ok(outcome)
    }
}

/// The honest column with a long text in its dictionary.
fn long_note(bytes: usize, indexes: Vec<u32>) -> Column {
    Column::of_dictionary("note", vec!["seen".to_owned(), "x".repeat(bytes)], indexes, None)
}

/// The honest column.
fn note(rows: usize) -> Column {
    texts(vec![0; rows], None)
}

fn texts(indexes: Vec<u32>, present: Option<Vec<u8>>) -> Column {
    Column::of_dictionary("note", vec!["seen".to_owned()], indexes, present)
}

fn loop_for_ever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn eat_memory() {
    let mut blocks = Vec::new();
    loop {
        blocks.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Recursion that no optimiser turns into a loop. Little of a call is in memory, so that the stack of the host
/// is what ends it, not the stack that the compiler has put there.
fn deeper(depth: u64) -> u64 {
    if black_box(depth) == u64::MAX {
        return 0;
    }
    black_box(deeper(depth + 1)) + 1
}

export!(Hostile);
