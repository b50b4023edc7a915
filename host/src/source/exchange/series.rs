//! One series of one exchange: what to ask for next, what of an answer is new, and when to ask again. No input or output
//! here; the time is an argument.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::adapter::{Candle, Quiet};
use super::ledger::{Counts, Ledger, State};
use super::pause::Pauses;

/// The pauses between attempts that fail.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The pauses while a candle is awaited that should be there.
const LATE_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How long a symbol is left alone that the exchange does not know: it may be listed again.
const UNKNOWN_SYMBOL_PAUSE_MS: i64 = 3_600_000;
/// How long is waited after the exchange has said no.
const REFUSED_PAUSE_MS: i64 = 900_000;
/// The shortest time until it is looked at again when nothing is wanted of it.
const REST_MS: i64 = 500;
/// How often an empty page is asked for before it counts as empty.
const EMPTY_ATTEMPTS: u32 = 3;
/// How often in a row something may fail before nobody waits for it any more: some twenty minutes.
pub const FAILURES_MAX: u32 = 25;
/// Into how many parts the patience for an absent candle is divided.
const PATIENCE_PARTS: i64 = 12;

/// What the series of an exchange have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The timeframe.
    pub timeframe_ms: i64,
    /// How much of the past a new series begins with.
    pub history_ms: i64,
    /// How long after its close a candle is asked for.
    pub grace_ms: i64,
    /// How many closed candles are read again with each poll.
    pub reread: usize,
    /// How long an absent candle is asked for again.
    pub patience_ms: i64,
    /// How many candles the ledger has.
    pub ledger: usize,
    /// The most candles of one task.
    pub page_limit: i64,
    /// How many candles back from now the exchange gives.
    pub depth: Option<i64>,
    /// What the exchange does with a candle in which nothing was traded.
    pub quiet: Quiet,
}

/// Open times from `since` to before `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first wanted open time.
    pub since_ms: i64,
    /// The first open time that is not wanted.
    pub until_ms: i64,
}

/// A candle to write, and how often it was corrected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The candle.
    pub candle: Candle,
    /// 0 for the first version.
    pub revision: i64,
}

/// Why nothing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// Try again soon: no connection, an answer that cannot be read, a server that is down.
    Passing,
    /// The whole exchange waits; the series comes when it may.
    Waits,
    /// The exchange does not know the symbol.
    UnknownSymbol,
    /// The exchange says no.
    Refused,
}

/// A series.
#[derive(Debug)]
pub struct Series {
    /// The unified symbol.
    pub symbol: Arc<str>,
    /// What the adapter wants to have back.
    pub memo: String,
    /// When it is to be asked for next.
    pub due_ms: i64,
    /// How many candles were corrected.
    pub corrected: u64,
    /// The open time after the newest candle; `None` until the first question.
    next_ms: Option<i64>,
    /// The open time after the newest candle that a poll has given: those of the live feed are still to be checked.
    polled_ms: i64,
    /// Whether there was any candle, here or in the sink: before the first one nothing is missing.
    has_begun: bool,
    /// The newest candles in the order of their open times, with their revisions.
    recent: VecDeque<Row>,
    ledger: Ledger,
    /// When the absent candles are asked for again; `None` while there are none.
    recheck_ms: Option<i64>,
    /// Its place in the time over which polls are spread.
    spread_ms: i64,
    pauses: Option<Pauses>,
    /// How often in a row it failed for a reason that can pass.
    failures: u32,
    /// How often in a row the page after the newest candle was empty.
    empty: u32,
}

impl Series {
    /// A series of which nothing is known yet.
    pub fn new(symbol: Arc<str>, settings: &Settings, spread_ms: i64) -> Series {
        Series {
            symbol,
            memo: String::new(),
            due_ms: i64::MIN,
            corrected: 0,
            next_ms: None,
            polled_ms: i64::MIN,
            has_begun: false,
            recent: VecDeque::new(),
            ledger: Ledger::new(settings.ledger),
            recheck_ms: None,
            spread_ms,
            pauses: None,
            failures: 0,
            empty: 0,
        }
    }

    /// Takes a row that the sink has, in any order.
    pub fn remember(&mut self, row: Row, settings: &Settings) {
        let open_ms = row.candle.open_ms;
        self.note_received(&row.candle, settings);
        self.next_ms = self.next_ms.max(Some(open_ms + settings.timeframe_ms));
        self.polled_ms = self.polled_ms.max(open_ms + settings.timeframe_ms);
        self.has_begun = true;
        match self.recent.binary_search_by_key(&open_ms, |known| known.candle.open_ms) {
            Ok(index) if self.recent[index].revision <= row.revision => self.recent[index] = row,
            Ok(_) => {}
            Err(index) => self.recent.insert(index, row),
        }
        self.forget_old(settings);
    }

    /// All rows of the sink have been remembered: candles between them that are not there are looked for once more.
    pub fn remembered(&mut self, now_ms: i64, settings: &Settings) {
        let Some(next_ms) = self.next_ms else { return };
        let end = next_ms / settings.timeframe_ms;
        let known =
            (self.ledger.start()..end).skip_while(|number| self.ledger.state(*number) == State::Unknown);
        let unknown: Vec<i64> = known.filter(|number| self.ledger.state(*number) == State::Unknown).collect();
        if !unknown.is_empty() {
            self.recheck_ms = Some(now_ms);
        }
        unknown.into_iter().for_each(|number| self.ledger.note(number, State::Absent));
    }

    /// What to ask for now: what is newer than all, and the last candles again; else absent ones.
    pub fn wanted(&mut self, now_ms: i64, settings: &Settings) -> Option<Range> {
        let Settings { timeframe_ms, page_limit, .. } = *settings;
        let closed_ms = closed_before(now_ms - settings.grace_ms, timeframe_ms);
        if self.next_ms.is_none() {
            let first_ms = closed_before(now_ms - settings.history_ms, timeframe_ms).min(closed_ms);
            (self.next_ms, self.polled_ms) = (Some(first_ms), first_ms);
        }
        if self.polled_ms < closed_ms {
            // A page has room for more than what is read again.
            let reread = (settings.reread as i64).min(page_limit - 1);
            let since_ms = self.reread_from(reread * timeframe_ms);
            let since_ms = match settings.depth {
                // The newest candle of the exchange is one that is not closed.
                Some(depth) => since_ms.max(closed_ms - (depth - 1).max(1) * timeframe_ms),
                None => since_ms,
            };
            return Some(Range { since_ms, until_ms: closed_ms.min(since_ms + page_limit * timeframe_ms) });
        }
        if self.recheck_ms.is_some_and(|recheck_ms| recheck_ms <= now_ms) {
            return self.absent_range(now_ms, settings);
        }
        None
    }

    /// The last candles, but none from before the series.
    fn reread_from(&self, reread_ms: i64) -> i64 {
        let first_ms = self.recent.front().map_or(self.polled_ms, |row| row.candle.open_ms);
        (self.polled_ms - reread_ms).max(first_ms.min(self.polled_ms))
    }

    /// Absent candles that fit into one task; those that the exchange cannot give any more are given up.
    fn absent_range(&mut self, now_ms: i64, settings: &Settings) -> Option<Range> {
        let Settings { timeframe_ms, page_limit, .. } = *settings;
        if let Some(depth) = settings.depth {
            let oldest = (now_ms / timeframe_ms) - depth + 1;
            let lost: Vec<i64> = self.ledger.with(State::Absent).filter(|number| *number < oldest).collect();
            lost.into_iter().for_each(|number| self.ledger.note(number, State::Missing));
        }
        let first = self.ledger.with(State::Absent).next();
        let Some(first) = first else {
            self.recheck_ms = None;
            return None;
        };
        let last =
            self.ledger.with(State::Absent).take_while(|number| *number < first + page_limit).last()?;
        Some(Range { since_ms: first * timeframe_ms, until_ms: (last + 1) * timeframe_ms })
    }

    /// Takes an answer to `range`: what is to be written of it. `has_others` says whether other series of the exchange
    /// have the candle with a number.
    pub fn take(
        &mut self,
        range: Range,
        candles: &[Candle],
        now_ms: i64,
        settings: &Settings,
        has_others: &dyn Fn(i64) -> bool,
    ) -> Vec<Row> {
        self.failures = 0;
        let before_ms = self.polled_ms;
        let is_forward = range.until_ms > before_ms;
        if !self.has_begun
            && let Some(first) = candles.first()
        {
            self.has_begun = true;
            self.polled_ms = self.polled_ms.max(first.open_ms);
        }
        let rows: Vec<Row> =
            candles.iter().filter_map(|candle| self.take_candle(*candle, settings)).collect();
        if is_forward {
            let newest_ms = candles.last().map_or(before_ms, |candle| candle.open_ms + settings.timeframe_ms);
            let reached_ms = newest_ms.max(before_ms);
            // What the exchange cannot give any more, or has not given although it has given later ones.
            self.note_absent(self.polled_ms, reached_ms, now_ms, settings);
            self.polled_ms = reached_ms;
            self.next_ms = self.next_ms.max(Some(reached_ms));
        } else {
            self.recheck(range, now_ms, settings, has_others);
        }
        self.forget_old(settings);
        self.schedule(range, self.polled_ms > before_ms, is_forward, now_ms, settings);
        rows
    }

    /// Takes a candle of the live feed: to be written when it is the next one, and closed. After a gap the poll is due
    /// at once.
    pub fn hear(&mut self, candle: Candle, now_ms: i64, settings: &Settings) -> Option<Row> {
        let next_ms = self.next_ms?;
        // By as much as `grace_ms` the clocks of feed and host may differ.
        if candle.open_ms
            > closed_before(now_ms + settings.grace_ms, settings.timeframe_ms) - settings.timeframe_ms
        {
            return None;
        }
        if candle.open_ms > next_ms {
            self.due_ms = self.due_ms.min(now_ms);
        }
        if candle.open_ms != next_ms {
            return None;
        }
        let row = self.take_candle(candle, settings)?;
        self.next_ms = Some(next_ms + settings.timeframe_ms);
        self.forget_old(settings);
        Some(row)
    }

    /// A candle that is new, or is another one than before.
    fn take_candle(&mut self, candle: Candle, settings: &Settings) -> Option<Row> {
        let number = candle.open_ms / settings.timeframe_ms;
        match self.recent.binary_search_by_key(&candle.open_ms, |known| known.candle.open_ms) {
            Ok(index) => {
                let known = &mut self.recent[index];
                if is_same(&known.candle, &candle) {
                    return None;
                }
                *known = Row { candle, revision: known.revision + 1 };
                self.corrected += 1;
                let row = *known;
                self.note_received(&candle, settings);
                Some(row)
            }
            Err(index) => {
                let is_new = self.next_ms.is_none_or(|next_ms| candle.open_ms >= next_ms);
                let state = self.ledger.state(number);
                let was_awaited = matches!(state, State::Absent | State::Missing | State::Quiet);
                if !is_new && !was_awaited {
                    return None;
                }
                let row = Row { candle, revision: 0 };
                self.note_received(&candle, settings);
                // An old one that is found late is not read again.
                if is_new || index > 0 {
                    self.recent.insert(index, row);
                }
                Some(row)
            }
        }
    }

    fn note_received(&mut self, candle: &Candle, settings: &Settings) {
        let state = if candle.is_quiet() { State::NoTrades } else { State::Received };
        self.ledger.note(candle.open_ms / settings.timeframe_ms, state);
    }

    /// Candles from `from_ms` to before `to_ms` that did not come are asked for again.
    fn note_absent(&mut self, from_ms: i64, to_ms: i64, now_ms: i64, settings: &Settings) {
        let numbers = from_ms / settings.timeframe_ms..to_ms / settings.timeframe_ms;
        let start = numbers.start.max(self.ledger.start());
        for number in start..numbers.end {
            if self.ledger.state(number) == State::Unknown {
                self.ledger.note(number, State::Absent);
                let recheck_ms = now_ms + settings.patience_ms / PATIENCE_PARTS;
                self.recheck_ms =
                    Some(self.recheck_ms.map_or(recheck_ms, |known_ms| known_ms.min(recheck_ms)));
            }
        }
    }

    /// Absent candles of `range` that did not come again: those for which patience is over have been quiet, or are
    /// missing.
    fn recheck(&mut self, range: Range, now_ms: i64, settings: &Settings, has_others: &dyn Fn(i64) -> bool) {
        let timeframe_ms = settings.timeframe_ms;
        let numbers = range.since_ms / timeframe_ms..range.until_ms / timeframe_ms;
        for number in numbers.clone() {
            let closed_ms = (number + 1) * timeframe_ms;
            if self.ledger.state(number) == State::Absent && now_ms - closed_ms > settings.patience_ms {
                let was_quiet = settings.quiet == Quiet::Absent && has_others(number);
                self.ledger.note(number, if was_quiet { State::Quiet } else { State::Missing });
            }
        }
        let later = self.ledger.with(State::Absent).any(|number| number >= numbers.end);
        let any = self.ledger.with(State::Absent).next().is_some();
        self.recheck_ms = match (later, any) {
            (true, _) => Some(now_ms),
            (false, true) => Some(now_ms + settings.patience_ms / PATIENCE_PARTS),
            (false, false) => None,
        };
    }

    /// When to ask next, after an answer.
    fn schedule(
        &mut self,
        range: Range,
        has_advanced: bool,
        was_forward: bool,
        now_ms: i64,
        settings: &Settings,
    ) {
        let closed_ms = closed_before(now_ms - settings.grace_ms, settings.timeframe_ms);
        if has_advanced || !was_forward {
            self.pauses = None;
            self.empty = 0;
            let close_ms = self.polled_ms + settings.timeframe_ms;
            self.due_ms = close_ms + settings.grace_ms + self.spread_ms;
            if self.polled_ms < closed_ms {
                let is_late = was_forward && range.until_ms >= closed_ms;
                self.due_ms = if is_late { now_ms + self.pause(LATE_PAUSE) } else { now_ms };
            }
        } else {
            self.empty += 1;
            let is_last_page = range.until_ms >= closed_ms;
            if !is_last_page && self.empty >= EMPTY_ATTEMPTS {
                // Nothing is there in the whole page, and there are later ones.
                if self.has_begun {
                    self.note_absent(self.polled_ms, range.until_ms, now_ms, settings);
                }
                self.polled_ms = range.until_ms;
                self.next_ms = self.next_ms.max(Some(range.until_ms));
                self.empty = 0;
                self.due_ms = now_ms;
            } else {
                self.due_ms = now_ms + self.pause(LATE_PAUSE);
            }
        }
        if let Some(recheck_ms) = self.recheck_ms {
            self.due_ms = self.due_ms.min(recheck_ms.max(now_ms));
        }
    }

    /// Nothing is wanted of it now: when to ask next.
    pub fn rest(&mut self, now_ms: i64, settings: &Settings) {
        let close_ms = self.polled_ms + settings.timeframe_ms;
        let due_ms = close_ms + settings.grace_ms + self.spread_ms;
        self.due_ms = due_ms.min(self.recheck_ms.unwrap_or(i64::MAX)).max(now_ms + REST_MS);
    }

    /// Whether an answer to `range` has brought it to the present.
    pub fn is_there(&self, range: Range, now_ms: i64, settings: &Settings) -> bool {
        range.until_ms >= closed_before(now_ms - settings.grace_ms, settings.timeframe_ms)
    }

    /// Nothing came, and why: when to ask next.
    pub fn set_back(&mut self, why: Setback, now_ms: i64) {
        self.failures += u32::from(why == Setback::Passing);
        self.due_ms = now_ms
            + match why {
                Setback::Passing => self.pause(PAUSE),
                Setback::Waits => 0,
                Setback::UnknownSymbol => UNKNOWN_SYMBOL_PAUSE_MS,
                Setback::Refused => REFUSED_PAUSE_MS,
            };
    }

    /// Whether it has failed so often that nobody waits for it any more. It is asked for all the same.
    pub fn is_given_up(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    fn pause(&mut self, between: (Duration, Duration)) -> i64 {
        self.pauses.get_or_insert_with(|| Pauses::new(between)).next_ms()
    }

    /// How often in a row it failed for a reason that can pass.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether there was any candle.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// How many of the candles that are known an answer to `range` should have, and how many of those it does not have or
    /// has with other values.
    pub fn differing(&self, range: Range, candles: &[Candle]) -> (usize, usize) {
        let is_asked = |row: &&Row| (range.since_ms..range.until_ms).contains(&row.candle.open_ms);
        let known: Vec<&Row> = self.recent.iter().filter(is_asked).collect();
        let is_other = |row: &&&Row| {
            let found = candles.binary_search_by_key(&row.candle.open_ms, |candle| candle.open_ms);
            !found.is_ok_and(|index| is_same(&row.candle, &candles[index]))
        };
        (known.len(), known.iter().filter(is_other).count())
    }

    /// How many of the last candles are there, were quiet or are missing.
    pub fn counts(&self) -> Counts {
        self.ledger.counts()
    }

    /// Whether the exchange has given the candle with a number.
    pub fn has(&self, number: i64) -> bool {
        matches!(self.ledger.state(number), State::Received | State::NoTrades)
    }

    /// The numbers of the candles that have a state, oldest first.
    pub fn with(&self, state: State) -> impl Iterator<Item = i64> {
        self.ledger.with(state)
    }

    /// The open time after its newest candle; `None` before the first question.
    pub fn next_ms(&self) -> Option<i64> {
        self.next_ms
    }

    fn forget_old(&mut self, settings: &Settings) {
        let old = self.recent.len().saturating_sub(settings.reread);
        self.recent.drain(..old);
        // A page of a thousand candles would leave its 120 KB behind in each of thousands of series.
        self.recent.shrink_to(2 * (settings.reread + 1));
    }
}

/// The open time of the candle that is not closed at `now_ms`.
pub fn closed_before(now_ms: i64, timeframe_ms: i64) -> i64 {
    now_ms.div_euclid(timeframe_ms) * timeframe_ms
}

/// Whether two versions of a candle are one. What not every sink keeps is not looked at; it does not change by itself.
fn is_same(one: &Candle, other: &Candle) -> bool {
    let values = |candle: &Candle| [candle.open, candle.high, candle.low, candle.close, candle.volume];
    values(one)
        .iter()
        .zip(values(other))
        .all(|(one, other)| one.to_bits() == other.to_bits() || *one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    /// Minute 0 of the tests.
    const ZERO: i64 = 1_767_225_600_000;

    fn settings() -> Settings {
        Settings {
            timeframe_ms: MINUTE,
            history_ms: 10 * MINUTE,
            grace_ms: 2_000,
            reread: 3,
            patience_ms: 60 * MINUTE,
            ledger: 1_440,
            page_limit: 100,
            depth: None,
            quiet: Quiet::Row,
        }
    }

    fn candle(minute: i64, close: f64) -> Candle {
        Candle {
            open_ms: ZERO + minute * MINUTE,
            open: 1.0,
            high: 9.0,
            low: 1.0,
            close,
            volume: 5.0,
            trades: Some(3),
            quote_volume: None,
            vwap: None,
        }
    }

    fn candles(minutes: impl IntoIterator<Item = i64>) -> Vec<Candle> {
        minutes.into_iter().map(|minute| candle(minute, 2.0)).collect()
    }

    fn range(minutes: std::ops::Range<i64>) -> Range {
        Range { since_ms: ZERO + minutes.start * MINUTE, until_ms: ZERO + minutes.end * MINUTE }
    }

    /// The time `seconds` after the start of a minute.
    fn at(minute: i64, seconds: i64) -> i64 {
        ZERO + minute * MINUTE + seconds * 1_000
    }

    fn minutes(rows: &[Row]) -> Vec<(i64, i64)> {
        rows.iter().map(|row| ((row.candle.open_ms - ZERO) / MINUTE, row.revision)).collect()
    }

    /// A series with the candles of minutes 0 to 9, at minute 10.
    fn series(settings: &Settings) -> Series {
        let mut series = Series::new("BTC/USDT".into(), settings, 5_000);
        assert_eq!(series.wanted(at(10, 3), settings), Some(range(0..10)));
        let rows = series.take(range(0..10), &candles(0..10), at(10, 3), settings, &|_| true);
        assert_eq!(rows.len(), 10);
        series
    }

    #[test]
    fn a_new_series_begins_with_its_history_and_then_waits_for_the_next_close() {
        let settings = settings();
        let mut series = series(&settings);
        assert_eq!(series.due_ms, at(11, 7), "close, grace, its place among the others");
        assert_eq!(series.wanted(at(10, 59), &settings), None);
        assert_eq!(series.wanted(at(11, 1), &settings), None, "not before the grace is over");
        assert_eq!(series.wanted(at(11, 7), &settings), Some(range(7..11)), "with the last three again");
    }

    #[test]
    fn a_candle_that_has_changed_is_the_next_revision_and_one_that_has_not_is_nothing() {
        let settings = settings();
        let mut series = series(&settings);
        let mut answer = candles(7..11);
        answer[1].close = 3.0;
        let rows = series.take(range(7..11), &answer, at(11, 7), &settings, &|_| true);
        assert_eq!(minutes(&rows), [(8, 1), (10, 0)]);
        answer[1].close = 4.0;
        let rows = series.take(range(8..12), &answer[1..], at(12, 7), &settings, &|_| true);
        assert_eq!((minutes(&rows), series.corrected), (vec![(8, 2)], 2));
    }

    #[test]
    fn what_is_behind_is_fetched_page_by_page() {
        let settings = settings();
        let mut series = series(&settings);
        let now_ms = at(500, 3);
        assert_eq!(series.wanted(now_ms, &settings), Some(range(7..107)));
        series.take(range(7..107), &candles(7..107), now_ms, &settings, &|_| true);
        assert_eq!(series.due_ms, now_ms);
        assert_eq!(series.wanted(now_ms, &settings), Some(range(104..204)));
    }

    #[test]
    fn a_long_page_leaves_no_memory_behind() {
        let settings = Settings { history_ms: 1_000 * MINUTE, page_limit: 1_000, ..settings() };
        let mut series = Series::new("BTC/USDT".into(), &settings, 0);
        series.wanted(at(1_000, 3), &settings).unwrap();
        series.take(range(0..1_000), &candles(0..1_000), at(1_000, 3), &settings, &|_| true);
        assert_eq!(series.recent.len(), settings.reread);
        assert!(series.recent.capacity() <= 16, "{}", series.recent.capacity());
    }

    #[test]
    fn a_minute_that_comes_late_is_written_when_it_comes() {
        let settings = settings();
        let mut series = series(&settings);
        let rows = series.take(range(7..12), &candles([7, 8, 9, 11]), at(12, 7), &settings, &|_| true);
        assert_eq!(minutes(&rows), [(11, 0)]);
        assert_eq!(series.counts().absent, 1);
        // After the re-read minutes have gone by, it is asked for by itself.
        series.take(range(9..18), &candles([9, 11, 12, 13, 14, 15, 16, 17]), at(18, 7), &settings, &|_| true);
        assert_eq!(series.wanted(at(18, 8), &settings), Some(range(10..11)));
        let rows = series.take(range(10..11), &candles([10]), at(18, 8), &settings, &|_| true);
        assert_eq!((minutes(&rows), series.counts().absent), (vec![(10, 0)], 0));
        let rows = series.take(range(10..11), &candles([10]), at(18, 9), &settings, &|_| true);
        assert_eq!(minutes(&rows), []);
    }

    #[test]
    fn a_minute_that_does_not_come_is_missing_or_was_quiet_once_patience_is_over() {
        for (quiet, has_others, expected) in
            [(Quiet::Row, true, (0, 1)), (Quiet::Absent, true, (1, 0)), (Quiet::Absent, false, (0, 1))]
        {
            let settings = Settings { quiet, ..settings() };
            let mut series = series(&settings);
            series.take(range(7..12), &candles([7, 8, 9, 11]), at(12, 7), &settings, &|_| true);
            series.take(range(10..11), &[], at(60, 0), &settings, &|_| has_others);
            assert_eq!(series.counts().absent, 1, "patience");
            series.take(range(10..11), &[], at(72, 0), &settings, &|_| has_others);
            let counts = series.counts();
            assert_eq!((counts.quiet, counts.missing, counts.absent), (expected.0, expected.1, 0));
            // It comes at last all the same.
            let rows = series.take(range(10..11), &candles([10]), at(80, 0), &settings, &|_| true);
            assert_eq!(minutes(&rows), [(10, 0)]);
        }
    }

    #[test]
    fn an_answer_without_the_newest_candle_is_asked_for_again_soon() {
        let settings = settings();
        let mut series = series(&settings);
        series.take(range(7..11), &candles(7..10), at(11, 7), &settings, &|_| true);
        assert!((at(11, 12)..at(11, 18)).contains(&series.due_ms), "{}", series.due_ms - at(11, 0));
        assert_eq!(series.wanted(series.due_ms, &settings), Some(range(7..11)));
        assert_eq!(series.counts().absent, 0, "nothing newer has come");
    }

    #[test]
    fn an_empty_page_of_the_past_is_passed_and_its_minutes_are_absent() {
        let settings = settings();
        let mut series = series(&settings);
        for attempt in 0..3 {
            assert_eq!(series.wanted(at(500, 3), &settings), Some(range(7..107)), "attempt {attempt}");
            series.take(range(7..107), &candles(7..10), at(500, 3), &settings, &|_| true);
        }
        assert_eq!(series.wanted(at(500, 3), &settings), Some(range(104..204)));
        assert_eq!(series.counts().absent, 97);
    }

    #[test]
    fn before_its_first_candle_a_series_misses_nothing() {
        let settings = settings();
        let mut series = Series::new("NEW/USDT".into(), &settings, 0);
        series.wanted(at(10, 3), &settings).unwrap();
        series.take(range(0..10), &candles(6..10), at(10, 3), &settings, &|_| true);
        assert_eq!((series.counts().received, series.counts().absent), (4, 0));
    }

    #[test]
    fn after_a_restart_it_goes_on_after_the_rows_of_the_sink_and_looks_for_what_they_lack() {
        let settings = settings();
        let mut series = Series::new("BTC/USDT".into(), &settings, 0);
        for minute in [9, 2, 3, 5, 6, 7, 8] {
            series.remember(Row { candle: candle(minute, 2.0), revision: 0 }, &settings);
        }
        series.remember(Row { candle: candle(8, 2.5), revision: 1 }, &settings);
        series.remembered(at(11, 0), &settings);
        assert_eq!(series.counts().absent, 1, "minute 4, and none before the first");
        assert_eq!(series.wanted(at(11, 3), &settings), Some(range(7..11)));
        let mut answer = candles(7..11);
        answer[1].close = 2.5;
        let rows = series.take(range(7..11), &answer, at(11, 3), &settings, &|_| true);
        assert_eq!(minutes(&rows), [(10, 0)], "what the sink has is not written again");
        assert_eq!(series.due_ms, at(11, 3));
        assert_eq!(series.wanted(at(11, 3), &settings), Some(range(4..5)));
    }

    #[test]
    fn what_the_exchange_cannot_give_any_more_is_missing() {
        let settings = Settings { depth: Some(20), ..settings() };
        let mut series = series(&settings);
        assert_eq!(series.wanted(at(100, 3), &settings), Some(range(81..100)));
        series.take(range(81..100), &candles(81..100), at(100, 3), &settings, &|_| true);
        assert_eq!(series.counts().absent, 71);
        assert_eq!(series.wanted(at(106, 0), &settings), Some(range(97..105)));
        series.take(range(97..105), &candles(97..105), at(106, 0), &settings, &|_| true);
        assert_eq!(series.wanted(at(106, 1), &settings), None);
        assert_eq!(series.counts().missing, 71);
    }

    #[test]
    fn a_live_candle_is_written_at_once_and_the_poll_checks_it() {
        let settings = settings();
        let mut series = series(&settings);
        let row = series.hear(candle(10, 2.0), at(11, 0), &settings).unwrap();
        assert_eq!(minutes(&[row]), [(10, 0)]);
        assert_eq!(series.hear(candle(10, 2.0), at(11, 0), &settings), None);
        series.due_ms = at(14, 0);
        assert_eq!(series.hear(candle(12, 2.0), at(13, 1), &settings), None, "one is missing before it");
        assert_eq!(series.due_ms, at(13, 1), "and the poll fetches it");
        assert_eq!(series.wanted(at(11, 7), &settings), Some(range(8..11)));
        let mut answer = candles(8..11);
        let same = series.take(range(8..11), &answer, at(11, 7), &settings, &|_| true);
        assert_eq!(minutes(&same), []);
        answer[2].close = 2.1;
        let corrected = series.take(range(8..11), &answer, at(11, 8), &settings, &|_| true);
        assert_eq!(minutes(&corrected), [(10, 1)]);
    }

    #[test]
    fn a_live_candle_that_is_not_closed_is_no_candle() {
        let settings = settings();
        let mut series = series(&settings);
        assert_eq!(series.hear(candle(10, 2.0), at(10, 57), &settings), None);
        assert!(series.hear(candle(10, 2.0), at(10, 58), &settings).is_some(), "clocks differ by the grace");
        assert_eq!(series.hear(candle(11, 2.0), at(10, 58), &settings), None);
    }

    #[test]
    fn a_series_that_fails_comes_back_ever_later_and_an_unknown_symbol_in_an_hour() {
        let settings = settings();
        let mut series = series(&settings);
        let mut last = 0;
        for _ in 0..3 {
            series.set_back(Setback::Passing, 0);
            assert!(series.due_ms > last, "{} after {last}", series.due_ms);
            last = series.due_ms;
        }
        (0..21).for_each(|_| series.set_back(Setback::Passing, 0));
        (0..9).for_each(|_| series.set_back(Setback::Waits, 0));
        assert!(!series.is_given_up(), "to wait is no failure");
        series.set_back(Setback::Passing, 0);
        assert!(series.is_given_up());
        assert!(series.due_ms <= 121_000, "{}", series.due_ms);
        series.set_back(Setback::UnknownSymbol, 0);
        assert_eq!(series.due_ms, 3_600_000);
    }
}
