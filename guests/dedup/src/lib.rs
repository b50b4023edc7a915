//! The `dedup` rule: each candle once.
//!
//! A candle is named by its series (source, symbol, timeframe) and its timestamp. A row whose candle has
//! been seen with the same open, high, low, close and volume is an exact duplicate and is dropped. With other
//! values it is a correction: it passes with the next `revision`, or is rejected, by a setting. The column
//! `revision` is written for every row; a first sight has 0.
//!
//! | the candle | the row has | what happens |
//! |---|---|---|
//! | not seen | no revision | passes with revision 0 |
//! | not seen | a revision | passes with that revision |
//! | seen | the same values as the newest revision | dropped |
//! | seen | other values, no revision | a correction: passes with the next revision, or is rejected |
//! | seen | other values, a newer revision | a correction: passes with its revision, or is rejected |
//! | seen | other values, a revision not newer | rejected: `stale_revision` |
//! | a part of its name is missing | anything | passes; revision 0 if it has none |
//!
//! Revisions go up to 16,777,215. Only the newest revision of a candle is remembered, so a source that goes back
//! to earlier values makes a correction too.
//!
//! # What it remembers
//!
//! Candles within the window of their series: the setting `window`, or three of its candles where that is
//! longer, so that a `1w` candle is recognised too (`1M` counts 31 days, a malformed timeframe adds nothing).
//! The window counts back from the newest timestamp of the series, or from now where that is earlier: a candle
//! that is dated far in the future does not move it past all others. An older row passes as not seen, and is
//! not remembered. Rows that are read back come without a time, so all of them are remembered.
//!
//! A candle takes 16 bytes and its share of unused room and of its series: 16.1 to 16.3 bytes in order of time
//! and 17.8 in any order when series are long, 22.4 when each has 100 candles. A million candles leave the
//! WebAssembly memory, with the module and a batch of 10,000 rows in it, at this size:
//!
//! | series | candles in each | in order of time | shuffled |
//! |---|---|---|---|
//! | 1 | 1,000,000 | 17.4 MiB | 21.3 MiB |
//! | 700 | 1,440 | 17.8 MiB | 22.6 MiB |
//! | 10,000 | 100 | 24.2 MiB | 26.9 MiB |
//!
//! The dearest way to fill the default limit, series of one candle, takes 33.3 MiB.
//!
//! The 16 bytes are the timestamp, a 40-bit hash of the values, and the revision. So one correction in 2^40
//! would be taken for a duplicate; nothing else depends on a hash, a series is known by its exact name.
//!
//! The setting `rows` bounds the memory: each candle counts 1, each series 8 and 1 more for each 16 bytes of
//! its name. A series whose name counts more than a sixteenth of the limit is not remembered: its rows pass as
//! not seen. Beyond the limit the candles that were remembered longest ago are forgotten, by order of arrival,
//! a chunk of up to 256 of one series at a time, until a sixteenth of the limit is free. So idle series go
//! first; when all are active, their windows shrink alike. The same rows in the same order always forget the
//! same candles, however they are divided into batches.

mod memory;
mod values;

use memory::{Found, MAX_REVISION, Memory, Place, Seen};
use schemars::JsonSchema;
use serde::Deserialize;
use tidegate_guest::{
    Batch, Column, Duration, InputColumn, Integers, Kind, Outcome, OutputColumn, Rule, SeriesColumns,
    TextColumn, Timestamps, input, optional_input, output,
};

/// The least that `rows` may be: one chunk and its series must fit well below what freeing leaves.
const LEAST_ROWS: u32 = 1_000;

/// What the pipeline file can set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How far back a candle is recognised, by the candles' own time, counted from the newest candle of its
    /// series, or from now when that one is in the future; at least three candles of the series, however long
    /// they are.
    pub window: Duration,
    /// How much is remembered at most: a candle counts 1, a series 8 and 1 more for each 16 bytes of its name.
    /// A series whose name counts more than a sixteenth of this is not remembered.
    #[schemars(range(min = 1_000))]
    pub rows: u32,
    /// What happens to a candle that comes again with other values.
    pub corrections: Corrections,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { window: Duration::from_hours(24), rows: 1_000_000, corrections: Corrections::Pass }
    }
}

/// What happens to a candle that comes again with other values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Corrections {
    /// It passes with the next revision.
    Pass,
    /// It is rejected.
    Reject,
}

tidegate_guest::reasons! {
    /// Why `dedup` rejects a row.
    pub enum Reason {
        /// The candle has been seen with other values, and corrections are rejected.
        Correction = "correction",
        /// The row has other values than what has been seen, and a revision that is not newer.
        StaleRevision = "stale_revision",
        /// The revision would be above 16,777,215.
        TooManyRevisions = "too_many_revisions",
    }
}

/// The rule.
#[derive(Debug)]
pub struct Dedup {
    corrections: Corrections,
    memory: Memory,
    /// A hash of the values for each row of the batch.
    hashes: Vec<u64>,
}

tidegate_guest::export!(Dedup);

/// The columns of a batch that name a candle, and its revision.
struct Rows<'a> {
    series: SeriesColumns<'a>,
    timestamp: Timestamps<'a>,
    revision: Option<Integers<'a>>,
}

impl<'a> Rows<'a> {
    fn new(batch: &'a Batch) -> Result<Rows<'a>, String> {
        let revision = if batch.has_column("revision") { Some(batch.integers("revision")?) } else { None };
        Ok(Rows { series: SeriesColumns::of(batch)?, timestamp: batch.timestamps("timestamp")?, revision })
    }

    #[inline]
    fn revision(&self, row: usize) -> Option<i64> {
        self.revision.and_then(|column| column.get(row))
    }

    /// A candle for a person.
    fn name(&self, row: usize) -> String {
        let text = |column: TextColumn<'a>| column.get(row).unwrap_or_default();
        format!(
            "candle {} of `{}` `{}` `{}`",
            self.timestamp.get(row).unwrap_or_default(),
            text(self.series.source),
            text(self.series.symbol),
            text(self.series.timeframe)
        )
    }
}

/// What becomes of a row.
enum Decision {
    /// It passes with this revision.
    Pass(u32),
    /// It is an exact duplicate.
    Drop,
    /// It is rejected; the revision is the one that has been seen.
    Reject(Reason, u32),
}

/// Decides a row whose candle has been seen.
fn decide_known(
    seen: Seen,
    hash: memory::ValuesHash,
    given: Option<u32>,
    corrections: Corrections,
) -> Decision {
    if hash == seen.hash {
        return Decision::Drop;
    }
    if given.is_some_and(|given| given <= seen.revision) {
        return Decision::Reject(Reason::StaleRevision, seen.revision);
    }
    if corrections == Corrections::Reject {
        return Decision::Reject(Reason::Correction, seen.revision);
    }
    match given.unwrap_or(seen.revision + 1) {
        revision if revision <= MAX_REVISION => Decision::Pass(revision),
        _ => Decision::Reject(Reason::TooManyRevisions, seen.revision),
    }
}

impl Dedup {
    #[inline]
    fn remember_as(&mut self, series: u32, place: Place, is_new: Option<i64>, seen: Seen) {
        match is_new {
            Some(timestamp) => self.memory.insert(series, place, timestamp, seen),
            None => self.memory.replace(series, place, seen),
        }
        self.memory.keep_within_limit();
    }

    /// The series and the timestamp of a row; none when a part is missing, or when the series is not remembered.
    #[inline]
    fn candle(&mut self, rows: &Rows, row: usize) -> Option<(u32, i64)> {
        let timestamp = rows.timestamp.get(row)?;
        Some((self.memory.series(&rows.series, row)?, timestamp))
    }

    #[inline]
    fn decide(&mut self, rows: &Rows, row: usize, series: u32, timestamp: i64) -> Decision {
        let given = match rows.revision(row).map(u32::try_from) {
            None => None,
            Some(Ok(revision)) if revision <= MAX_REVISION => Some(revision),
            Some(_) => return Decision::Reject(out_of_range(rows, row), 0),
        };
        let hash = values::finish(self.hashes[row]);
        match self.memory.find(series, timestamp) {
            Found::TooOld => Decision::Pass(given.unwrap_or(0)),
            Found::New(place) => {
                let revision = given.unwrap_or(0);
                self.remember_as(series, place, Some(timestamp), Seen { hash, revision });
                Decision::Pass(revision)
            }
            Found::Known(place, seen) => {
                let decision = decide_known(seen, hash, given, self.corrections);
                if let Decision::Pass(revision) = decision {
                    self.remember_as(series, place, None, Seen { hash, revision });
                }
                decision
            }
        }
    }

    /// Remembers a row that has been written with its revision; the newest revision of a candle wins.
    fn remember_row(&mut self, rows: &Rows, row: usize) {
        let revision = rows.revision(row).unwrap_or(0).clamp(0, i64::from(MAX_REVISION)) as u32;
        let seen = Seen { hash: values::finish(self.hashes[row]), revision };
        let Some((series, timestamp)) = self.candle(rows, row) else { return };
        match self.memory.find(series, timestamp) {
            Found::New(place) => self.remember_as(series, place, Some(timestamp), seen),
            Found::Known(place, known) if known.revision <= revision => {
                self.remember_as(series, place, None, seen);
            }
            Found::Known(..) | Found::TooOld => {}
        }
    }

    fn remember_rows(&mut self, output: &Batch) -> Result<(), String> {
        let rows = Rows::new(output)?;
        values::hash_rows(output, &mut self.hashes)?;
        self.memory.start(&rows.series, output.rows as usize);
        self.memory.set_now(None);
        for row in 0..output.rows as usize {
            self.remember_row(&rows, row);
        }
        Ok(())
    }
}

/// Why a revision that is not from 0 to [`MAX_REVISION`] is rejected: below 0 it is older than a first sight.
fn out_of_range(rows: &Rows, row: usize) -> Reason {
    if rows.revision(row) < Some(0) { Reason::StaleRevision } else { Reason::TooManyRevisions }
}

/// What is wrong with a rejected row, for a person.
fn detail(rows: &Rows, row: usize, values: &str, reason: Reason, seen: u32) -> String {
    let name = rows.name(row);
    let given = rows.revision(row);
    match (reason, given) {
        (Reason::StaleRevision, Some(given)) if given < 0 => format!("{name} has revision {given}, below 0"),
        (Reason::TooManyRevisions, Some(given)) if given > i64::from(MAX_REVISION) => {
            format!("{name} has revision {given}, above {MAX_REVISION}")
        }
        (Reason::StaleRevision, given) => format!(
            "{name} has revision {} but other values than revision {seen}, which has been seen: {values}",
            given.unwrap_or_default()
        ),
        (Reason::TooManyRevisions, _) => {
            format!("{name} has been corrected {seen} times and has other values again: {values}")
        }
        (Reason::Correction, _) => {
            format!("{name} has other values than revision {seen}, which has been seen: {values}")
        }
    }
}

/// The values of a row for a person, such as `open 1, high 2, low 0.5, close 1.5, volume none`.
fn describe_values(batch: &Batch, row: usize) -> Result<String, String> {
    let mut text = String::new();
    for name in values::COLUMNS {
        let separator = if text.is_empty() { "" } else { ", " };
        match batch.floats(name)?.get(row) {
            Some(value) => text.push_str(&format!("{separator}{name} {value}")),
            None => text.push_str(&format!("{separator}{name} none")),
        }
    }
    Ok(text)
}

impl Rule for Dedup {
    const NAME: &'static str = "dedup";
    const SUMMARY: &'static str =
        "Drops candles that have been seen, and gives a revision to those that come again with other values";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type Settings = Settings;
    type Reason = Reason;

    fn reads() -> Vec<InputColumn> {
        let mut columns = ["source", "symbol", "timeframe"].map(|name| input(name, Kind::Text)).to_vec();
        columns.push(input("timestamp", Kind::Timestamp));
        columns.extend(values::COLUMNS.map(|name| input(name, Kind::Float)));
        columns.push(optional_input("revision", Kind::Integer));
        columns
    }

    fn writes() -> Vec<OutputColumn> {
        vec![output("revision", Kind::Integer)]
    }

    fn new(settings: Settings) -> Result<Dedup, String> {
        if settings.rows < LEAST_ROWS {
            return Err(format!("setting `rows` is {}: set at least {LEAST_ROWS}", settings.rows));
        }
        Ok(Dedup {
            corrections: settings.corrections,
            memory: Memory::new(settings.window.ms(), settings.rows as usize),
            hashes: Vec::new(),
        })
    }

    fn remembers(&self) -> bool {
        true
    }

    fn transform(&mut self, now: i64, batch: &Batch) -> Result<Outcome, String> {
        let rows = Rows::new(batch)?;
        values::hash_rows(batch, &mut self.hashes)?;
        self.memory.start(&rows.series, batch.rows as usize);
        self.memory.set_now(Some(now));
        let mut outcome = Outcome::keep_all();
        let mut revisions = Vec::with_capacity(batch.rows as usize);
        for row in 0..batch.rows as usize {
            let Some((series, timestamp)) = self.candle(&rows, row) else {
                revisions.push(rows.revision(row).unwrap_or(0));
                continue;
            };
            match self.decide(&rows, row, series, timestamp) {
                Decision::Pass(revision) => revisions.push(i64::from(revision)),
                Decision::Drop => {
                    revisions.push(0);
                    outcome.drop_row(row);
                }
                Decision::Reject(reason, seen) => {
                    revisions.push(0);
                    let values = describe_values(batch, row)?;
                    outcome.reject(row, reason, detail(&rows, row, &values, reason, seen));
                }
            }
        }
        outcome.write(Column::of_integers("revision", revisions));
        Ok(outcome)
    }

    fn remember(&mut self, output: &Batch) {
        // A batch without the rule's columns is not one of this pipeline's rows: there is nothing in it to
        // remember, and the host hears of nothing here.
        let _ = self.remember_rows(output);
    }
}

#[cfg(test)]
mod tests;
