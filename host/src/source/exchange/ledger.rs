//! The ledger of a series: what is known of each of its last candles. A ring of one byte a candle.

use serde::{Deserialize, Serialize};

/// What is known of a candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum State {
    /// Nothing: it is before the series, not yet closed, or not asked for.
    #[default]
    Unknown,
    /// It came, and something was traded.
    Received,
    /// It came, and nothing was traded.
    NoTrades,
    /// It did not come, from an exchange that gives no candles without trades.
    Quiet,
    /// It was not in an answer that should have it, and is asked for again.
    Absent,
    /// It was asked for again with patience, and is not there.
    Missing,
}

/// How many candles of each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// See [`State::Received`].
    pub received: u64,
    /// See [`State::NoTrades`] and [`State::Quiet`].
    pub quiet: u64,
    /// See [`State::Absent`].
    pub absent: u64,
    /// See [`State::Missing`].
    pub missing: u64,
}

/// The states of the last candles of a series. Candles are numbered: open time divided by the timeframe.
#[derive(Debug, Clone)]
pub struct Ledger {
    states: Vec<State>,
    /// The number after the newest candle that has been noted.
    end: i64,
}

impl Counts {
    /// Adds those of another series.
    pub fn add(&mut self, other: Counts) {
        self.received += other.received;
        self.quiet += other.quiet;
        self.absent += other.absent;
        self.missing += other.missing;
    }
}

impl Ledger {
    /// A ledger of `candles` candles, of which nothing is known.
    pub fn new(candles: usize) -> Ledger {
        Ledger { states: vec![State::Unknown; candles.max(1)], end: 0 }
    }

    /// The number of the oldest candle that it has room for.
    pub fn start(&self) -> i64 {
        self.end - self.states.len() as i64
    }

    /// What is known of a candle.
    pub fn state(&self, number: i64) -> State {
        if number < self.start() || number >= self.end {
            State::Unknown
        } else {
            self.states[self.slot(number)]
        }
    }

    /// Notes a candle. One that is newer than all makes room for itself; one that is too old is forgotten.
    pub fn note(&mut self, number: i64, state: State) {
        let length = self.states.len() as i64;
        if number >= self.end {
            let from = self.end.max(number - length + 1);
            (from..number).for_each(|between| {
                let slot = self.slot(between);
                self.states[slot] = State::Unknown;
            });
            self.end = number + 1;
        }
        if number >= self.start() {
            let slot = self.slot(number);
            self.states[slot] = state;
        }
    }

    /// The candles that have a state, oldest first.
    pub fn with(&self, state: State) -> impl Iterator<Item = i64> {
        (self.start()..self.end).filter(move |number| self.state(*number) == state)
    }

    /// How many candles have each state.
    pub fn counts(&self) -> Counts {
        let of = |state| self.states.iter().filter(|known| **known == state).count() as u64;
        Counts {
            received: of(State::Received),
            quiet: of(State::NoTrades) + of(State::Quiet),
            absent: of(State::Absent),
            missing: of(State::Missing),
        }
    }

    fn slot(&self, number: i64) -> usize {
        // A remainder of the length, which is a usize.
        number.rem_euclid(self.states.len() as i64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_candles_are_known_and_older_ones_are_forgotten() {
        let mut ledger = Ledger::new(4);
        for number in 100..103 {
            ledger.note(number, State::Received);
        }
        ledger.note(104, State::Quiet);
        let states: Vec<State> = (100..106).map(|number| ledger.state(number)).collect();
        use State::{Quiet, Received, Unknown};
        assert_eq!(states, [Unknown, Received, Received, Unknown, Quiet, Unknown]);
        ledger.note(103, State::Absent);
        ledger.note(99, State::Received);
        assert_eq!(ledger.with(State::Absent).collect::<Vec<_>>(), [103]);
        assert_eq!(ledger.counts(), Counts { received: 2, quiet: 1, absent: 1, missing: 0 });
    }

    #[test]
    fn a_leap_forgets_everything_between() {
        let mut ledger = Ledger::new(3);
        ledger.note(5, State::Received);
        ledger.note(1_000_000, State::Received);
        assert_eq!(ledger.counts().received, 1);
        assert_eq!(ledger.start(), 999_998);
    }
}
