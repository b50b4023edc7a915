//! From the rows of an answer, in whatever order, to the candles of a task.

use super::{Candles, Failure, Task, rfc3339, timeframe_ms};

/// A row of an answer: one version of one candle. Prices and volume that are not finite make the row unreadable.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Row {
    /// Open time in milliseconds since 1970.
    pub timestamp: i64,
    /// The first price.
    pub open: f64,
    /// The highest price.
    pub high: f64,
    /// The lowest price.
    pub low: f64,
    /// The last price.
    pub close: f64,
    /// In units of the base.
    pub volume: f64,
    /// Number of trades, where the exchange gives it.
    pub trades: Option<i64>,
    /// Volume in units of the quote, where the exchange gives it.
    pub quote_volume: Option<f64>,
    /// Volume-weighted average price, where the exchange gives it.
    pub vwap: Option<f64>,
}

/// How it is known that a candle is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its time is over at the task's `now`, or the answer has a later row too, wanted or not.
    ByClock,
    /// The exchange says so, for all candles up to this open time.
    Through(i64),
}

/// The rows of an answer on their way to [`Candles`]: those of the task, each open time once, closed ones only.
///
/// What is outside the task's `since` and `until` is left out silently, because exchanges give more than they are
/// asked for. What cannot be a candle of the task is left out with a sentence in [`Candles::unreadable`].
#[derive(Debug, Clone)]
pub struct Page {
    timeframe_ms: i64,
    since: i64,
    until: i64,
    now: i64,
    rows: Vec<Row>,
    /// The latest open time of all rows, also of those that were left out.
    latest: i64,
    unreadable: Vec<String>,
}

impl Page {
    /// An empty page for a task.
    ///
    /// # Errors
    /// `unreadable` when the task's timeframe is none of the contract.
    pub fn new(task: &Task) -> Result<Page, Failure> {
        let timeframe_ms = timeframe_ms(&task.timeframe)
            .ok_or_else(|| Failure::Unreadable(format!("`{}` is no timeframe", task.timeframe)))?;
        Ok(Page {
            timeframe_ms,
            since: task.since,
            until: task.until,
            now: task.now,
            rows: Vec::new(),
            latest: i64::MIN,
            unreadable: Vec::new(),
        })
    }

    /// Takes a row, in whatever order.
    pub fn push(&mut self, row: Row) {
        let is_aligned = row.timestamp.rem_euclid(self.timeframe_ms) == 0;
        if is_aligned {
            self.latest = self.latest.max(row.timestamp);
        }
        if !(self.since..self.until).contains(&row.timestamp) {
            return;
        }
        if !is_aligned {
            self.note(format!("{} is no open time of this timeframe", rfc3339(row.timestamp)));
        } else if let Some(name) = row.unreadable_value() {
            self.note(format!("`{name}` of the row of {} is no finite number", rfc3339(row.timestamp)));
        } else {
            self.rows.push(row);
        }
    }

    /// Notes a row that could not be read.
    pub fn note(&mut self, sentence: String) {
        self.unreadable.push(sentence);
    }

    /// The candles, without a memo. Of two versions of a candle the one with the larger volume is kept: trades only
    /// add.
    pub fn candles(mut self, closed: Closed) -> Candles {
        let is_closed = |row: &Row| match closed {
            Closed::ByClock => {
                row.timestamp.saturating_add(self.timeframe_ms) <= self.now || row.timestamp < self.latest
            }
            Closed::Through(last) => row.timestamp <= last,
        };
        self.rows.retain(is_closed);
        // Most exchanges answer in order, which this sort finds out in one pass.
        self.rows.sort_by(|a, b| a.timestamp.cmp(&b.timestamp).then(b.volume.total_cmp(&a.volume)));
        self.rows.dedup_by_key(|row| row.timestamp);
        let rows = &self.rows;
        Candles {
            timestamps: rows.iter().map(|row| row.timestamp).collect(),
            open: rows.iter().map(|row| row.open).collect(),
            high: rows.iter().map(|row| row.high).collect(),
            low: rows.iter().map(|row| row.low).collect(),
            close: rows.iter().map(|row| row.close).collect(),
            volume: rows.iter().map(|row| row.volume).collect(),
            trades: optional(rows, |row| row.trades.filter(|trades| *trades >= 0), -1),
            quote_volume: optional(
                rows,
                |row| row.quote_volume.filter(|volume| volume.is_finite()),
                f64::NAN,
            ),
            vwap: optional(rows, |row| row.vwap.filter(|price| price.is_finite()), f64::NAN),
            memo: String::new(),
            unreadable: self.unreadable,
        }
    }
}

impl Row {
    /// The name of the first value that is not finite.
    fn unreadable_value(&self) -> Option<&'static str> {
        let values = [
            ("open", self.open),
            ("high", self.high),
            ("low", self.low),
            ("close", self.close),
            ("volume", self.volume),
        ];
        values.into_iter().find(|(_, value)| !value.is_finite()).map(|(name, _)| name)
    }
}

/// A list that is empty when no row has the value.
fn optional<T: Copy>(rows: &[Row], value: impl Fn(&Row) -> Option<T>, absent: T) -> Vec<T> {
    if rows.iter().all(|row| value(row).is_none()) {
        return Vec::new();
    }
    rows.iter().map(|row| value(row).unwrap_or(absent)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_candles, task};
    use super::*;

    const M: i64 = 60_000;

    /// A task for minutes 10 to 19, at the beginning of minute 20.
    fn minutes() -> Task {
        task("x", "A/B", "1m", 10 * M, 20 * M)
    }

    fn row(minute: i64, volume: f64) -> Row {
        Row { timestamp: minute * M, open: 2.0, high: 3.0, low: 1.0, close: 2.5, volume, ..Row::default() }
    }

    fn candles(task: &Task, rows: &[Row], closed: Closed) -> Candles {
        let mut page = Page::new(task).unwrap();
        rows.iter().for_each(|row| page.push(*row));
        let candles = page.candles(closed);
        check_candles(task, &candles);
        candles
    }

    fn at_minutes(candles: &Candles) -> Vec<i64> {
        candles.timestamps.iter().map(|timestamp| timestamp / M).collect()
    }

    #[test]
    fn rows_are_sorted_and_only_those_of_the_task_are_kept() {
        let rows = [20, 15, 9, 19, 10, 11].map(|minute| row(minute, 1.0));
        let candles = candles(&minutes(), &rows, Closed::ByClock);
        assert_eq!(at_minutes(&candles), [10, 11, 15, 19]);
        assert_eq!(candles.unreadable, [""; 0]);
        assert_eq!(
            (candles.open[0], candles.high[0], candles.low[0], candles.close[0]),
            (2.0, 3.0, 1.0, 2.5)
        );
    }

    #[test]
    fn of_two_versions_the_one_with_the_larger_volume_is_kept() {
        for volumes in [[1.0, 5.0, 3.0], [5.0, 3.0, 1.0], [3.0, 1.0, 5.0]] {
            let rows: Vec<Row> =
                volumes.into_iter().map(|volume| row(12, volume)).chain([row(11, 7.0)]).collect();
            let candles = candles(&minutes(), &rows, Closed::ByClock);
            assert_eq!(at_minutes(&candles), [11, 12]);
            assert_eq!(candles.volume, [7.0, 5.0]);
        }
    }

    #[test]
    fn a_candle_is_closed_when_its_time_is_over() {
        let mut task = minutes();
        task.now = 13 * M - 1;
        let rows = [row(11, 1.0), row(12, 1.0)];
        assert_eq!(at_minutes(&candles(&task, &rows, Closed::ByClock)), [11]);
        task.now += 1;
        assert_eq!(at_minutes(&candles(&task, &rows, Closed::ByClock)), [11, 12]);
    }

    #[test]
    fn a_candle_is_closed_when_the_answer_has_a_later_row_whatever_it_is() {
        let mut task = minutes();
        task.now = 12 * M;
        task.until = 14 * M;
        let unreadable = Row { close: f64::NAN, ..row(13, 1.0) };
        for later in [row(13, 1.0), row(14, 1.0), row(90, 1.0), unreadable] {
            let candles = candles(&task, &[later, row(12, 1.0)], Closed::ByClock);
            assert_eq!(at_minutes(&candles), [12], "{later:?}");
        }
        let off_the_grid = Row { timestamp: 12 * M + 1, ..row(12, 1.0) };
        assert_eq!(at_minutes(&candles(&task, &[row(12, 1.0), off_the_grid], Closed::ByClock)), [0; 0]);
    }

    #[test]
    fn the_watermark_of_the_exchange_decides_alone() {
        let rows = [row(11, 1.0), row(12, 1.0), row(13, 1.0)];
        assert_eq!(at_minutes(&candles(&minutes(), &rows, Closed::Through(12 * M))), [11, 12]);
        assert_eq!(at_minutes(&candles(&minutes(), &rows, Closed::Through(0))), [0; 0]);
    }

    #[test]
    fn rows_that_cannot_be_candles_are_left_out_and_noted() {
        let rows = [
            row(11, 1.0),
            Row { open: f64::NAN, ..row(12, 1.0) },
            Row { low: f64::NEG_INFINITY, ..row(13, 1.0) },
            row(14, f64::INFINITY),
            Row { timestamp: 15 * M + 30_000, ..row(15, 1.0) },
            Row { timestamp: 30, close: f64::NAN, ..row(0, 1.0) },
        ];
        let candles = candles(&minutes(), &rows, Closed::ByClock);
        assert_eq!(at_minutes(&candles), [11]);
        assert_eq!(
            candles.unreadable,
            [
                "`open` of the row of 1970-01-01T00:12:00Z is no finite number",
                "`low` of the row of 1970-01-01T00:13:00Z is no finite number",
                "`volume` of the row of 1970-01-01T00:14:00Z is no finite number",
                "1970-01-01T00:15:30Z is no open time of this timeframe",
            ]
        );
    }

    #[test]
    fn optional_lists_are_empty_or_complete() {
        let with = Row { trades: Some(3), quote_volume: Some(9.5), vwap: Some(f64::NAN), ..row(11, 1.0) };
        let candles = candles(&minutes(), &[row(12, 1.0), with], Closed::ByClock);
        assert_eq!(candles.trades, [3, -1]);
        assert_eq!(candles.quote_volume[0], 9.5);
        assert!(candles.quote_volume[1].is_nan());
        assert!(candles.vwap.is_empty());
    }

    #[test]
    fn times_at_the_ends_of_the_range_do_no_harm() {
        let mut task = minutes();
        task.until = i64::MAX;
        let late = Row { timestamp: i64::MAX - i64::MAX.rem_euclid(M), ..row(0, 1.0) };
        let rows = [late, Row { timestamp: i64::MIN, ..late }, row(11, 1.0)];
        assert_eq!(at_minutes(&candles(&task, &rows, Closed::ByClock)), [11]);
    }

    #[test]
    fn a_page_has_a_timeframe_of_the_contract() {
        let failure = Page::new(&Task { timeframe: "2m".to_owned(), ..minutes() }).unwrap_err();
        assert_eq!(failure, Failure::Unreadable("`2m` is no timeframe".to_owned()));
    }
}
