//! What goes wrong, and how an exchange shows its minutes at a time.

use std::net::SocketAddr;

use crate::hash::share;
use crate::market::Exchange;
use crate::truth::{Candle, MINUTE_MS, Series, Truth};

/// What befalls one answer. Seconds are simulated ones, `wall_ms` are milliseconds of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429. With `Retry-After`, everything that comes before it has passed is refused too.
    TooManyRequests {
        /// `Retry-After`, when there is one.
        retry_after_s: Option<u32>,
    },
    /// 418 with `Retry-After`, and the time in the body as Binance writes it: `IP banned until <ms>`.
    Ban {
        /// `Retry-After`.
        retry_after_s: u32,
    },
    /// 403 and a page for people, as a firewall answers.
    Forbidden,
    /// This status (500, 502, 503) and a page for people.
    ServerError(u16),
    /// 200 and a page for people.
    Page,
    /// `content-length` says more than is sent before the connection closes.
    Truncated,
    /// Says gzip, and is none from its middle on.
    BrokenGzip,
    /// The answer comes in pieces for so long.
    Slow {
        /// From the first piece to the last.
        wall_ms: u64,
    },
    /// Nothing comes until the client gives up.
    Hang,
    /// An answer about candles has none; others are as usual.
    Empty,
    /// 200 and the exchange's way to say that something is wrong.
    ErrorBody,
    /// An answer about candles has older versions of some minutes beside the right ones, and rows in no order.
    Disordered,
    /// The `Date` of this answer is wrong by so many milliseconds.
    WrongDate {
        /// Above 0: later than it is.
        offset_ms: i64,
    },
    /// 302 to the same path and query at another address.
    Redirect {
        /// Where.
        to: SocketAddr,
    },
}

impl Fault {
    /// Its name in the counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooManyRequests { .. } => "too_many_requests",
            Self::Ban { .. } => "ban",
            Self::Forbidden => "forbidden",
            Self::ServerError(_) => "server_error",
            Self::Page => "page",
            Self::Truncated => "truncated",
            Self::BrokenGzip => "broken_gzip",
            Self::Slow { .. } => "slow",
            Self::Hang => "hang",
            Self::Empty => "empty",
            Self::ErrorBody => "error_body",
            Self::Disordered => "disordered",
            Self::WrongDate { .. } => "wrong_date",
            Self::Redirect { .. } => "redirect",
        }
    }

    /// Whether only an answer about candles can have it.
    pub(crate) const fn needs_candles(self) -> bool {
        matches!(self, Self::Empty | Self::Disordered)
    }
}

/// How an exchange misbehaves all the time. Shares and probabilities are from 0 to 1; 0 is the default of all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Misbehaviour {
    /// Each fault with its probability; at most one befalls an answer, so the sum is at most 1.
    pub faults: Vec<(Fault, f64)>,
    /// Share of the ten-minute spans of an exchange whose minutes appear only 1 to 3 minutes after their close, for
    /// all symbols. Minutes appear in their order; while some are awaited there is no open candle (for Kraken the
    /// first awaited minute is the last row, not committed).
    pub late: f64,
    /// Share of minutes that have less volume, and usually another close, for 1 or 2 minutes after their close.
    pub corrected: f64,
    /// Share of minutes that are absent for the first 10 to 30 minutes after their close.
    pub delayed: f64,
    /// Whether the minutes of [`Truth::in_maintenance`] are absent for ever.
    pub maintenance: bool,
    /// Share of the ten-minute spans in which the exchange's clock is ten minutes wrong, in `Date` and where else it
    /// says its time.
    pub wrong_clock: f64,
    /// Probability, in each minute, that a feed goes silent: the connection stays, pings are answered, nothing comes.
    pub silent_feeds: f64,
    /// Probability, in each minute, that a feed's connection ends without a word.
    pub dropped_feeds: f64,
}

impl Misbehaviour {
    /// Everything, about every eighth answer and now and then in the data: for a long run that must lose nothing.
    pub fn all_at_random() -> Self {
        Self {
            faults: vec![
                (Fault::TooManyRequests { retry_after_s: Some(5) }, 0.006),
                (Fault::TooManyRequests { retry_after_s: Some(20) }, 0.002),
                (Fault::TooManyRequests { retry_after_s: None }, 0.006),
                (Fault::Ban { retry_after_s: 300 }, 0.0005),
                (Fault::Forbidden, 0.002),
                (Fault::ServerError(500), 0.01),
                (Fault::ServerError(502), 0.01),
                (Fault::ServerError(503), 0.01),
                (Fault::Page, 0.01),
                (Fault::Truncated, 0.01),
                (Fault::BrokenGzip, 0.01),
                (Fault::Slow { wall_ms: 400 }, 0.01),
                (Fault::Hang, 0.002),
                (Fault::Empty, 0.01),
                (Fault::ErrorBody, 0.01),
                (Fault::Disordered, 0.02),
                (Fault::WrongDate { offset_ms: -3_600_000 }, 0.001),
            ],
            late: 0.2,
            corrected: 0.01,
            delayed: 0.005,
            maintenance: true,
            wrong_clock: 0.05,
            silent_feeds: 0.01,
            dropped_feeds: 0.02,
        }
    }

    /// The fault of a draw from 0 to below 1.
    pub(crate) fn drawn(&self, mut draw: f64) -> Option<Fault> {
        for &(fault, probability) in &self.faults {
            if draw < probability {
                return Some(fault);
            }
            draw -= probability;
        }
        None
    }

    /// By how much the exchange's clock is wrong.
    pub(crate) fn clock_offset_ms(&self, truth: &Truth, exchange: Exchange, now_ms: i64) -> i64 {
        let drawn = truth.chance(exchange, 1, now_ms.div_euclid(SPAN_MINUTES * MINUTE_MS));
        match share(drawn) < self.wrong_clock {
            true if drawn.is_multiple_of(2) => 10 * MINUTE_MS,
            true => -10 * MINUTE_MS,
            false => 0,
        }
    }
}

/// How long the exchange is late, or its clock wrong, at once.
const SPAN_MINUTES: i64 = 10;

/// The most minutes by which a minute is late.
const LATEST_MINUTES: i64 = 3;

/// After so long a minute does not change any more, whatever is wrong.
pub(crate) const SETTLED_MS: i64 = 45 * MINUTE_MS;

/// Purposes of the draws of a symbol's minute.
const CORRECTED: u64 = 1;
const DELAYED: u64 = 2;

/// The minutes of a symbol as an exchange shows them at a time.
pub(crate) struct View<'a> {
    pub series: &'a Series,
    pub now_ms: i64,
    truth: &'a Truth,
    misbehaviour: &'a Misbehaviour,
    /// The newest closed minute that is shown.
    pub newest: i64,
    /// Whether closed minutes are awaited.
    pub is_late: bool,
}

impl<'a> View<'a> {
    pub(crate) fn new(
        truth: &'a Truth,
        misbehaviour: &'a Misbehaviour,
        series: &'a Series,
        now_ms: i64,
    ) -> Self {
        let closed = now_ms.div_euclid(MINUTE_MS) - 1;
        let delay_minutes = |minute: i64| {
            let drawn = truth.chance(series.exchange, 2, minute.div_euclid(SPAN_MINUTES));
            if share(drawn) < misbehaviour.late { 1 + (drawn % LATEST_MINUTES as u64) as i64 } else { 0 }
        };
        let awaited = |minute: &i64| now_ms < (minute + 1 + delay_minutes(*minute)) * MINUTE_MS;
        let newest = if misbehaviour.late > 0.0 {
            (closed - LATEST_MINUTES..=closed).find(awaited).map_or(closed, |awaited| awaited - 1)
        } else {
            closed
        };
        Self { series, now_ms, truth, misbehaviour, newest, is_late: newest < closed }
    }

    /// The same without lateness: feeds are punctual.
    pub(crate) fn punctual(
        truth: &'a Truth,
        misbehaviour: &'a Misbehaviour,
        series: &'a Series,
        now_ms: i64,
    ) -> Self {
        let newest = now_ms.div_euclid(MINUTE_MS) - 1;
        Self { series, now_ms, truth, misbehaviour, newest, is_late: false }
    }

    /// A minute, closed or open, as it is shown; none when it is not.
    pub(crate) fn minute(&self, minute: i64) -> Option<Candle> {
        let series = self.series;
        if minute > self.newest + 1 || (self.misbehaviour.maintenance && self.is_down(minute)) {
            return None;
        }
        if minute == self.newest + 1 {
            let awaited = self.is_late && series.exchange != Exchange::Kraken;
            return if awaited {
                None
            } else {
                series.partial(minute, self.now_ms.min((minute + 1) * MINUTE_MS - 1))
            };
        }
        let age_ms = self.now_ms - (minute + 1) * MINUTE_MS;
        if age_ms < SETTLED_MS {
            let delayed = series.chance(DELAYED, minute);
            let until_ms = (10 + (delayed % 21) as i64) * MINUTE_MS;
            if share(delayed) < self.misbehaviour.delayed && age_ms < until_ms {
                return None;
            }
            let corrected = series.chance(CORRECTED, minute);
            let until_ms = (1 + (corrected % 2) as i64) * MINUTE_MS;
            if share(corrected) < self.misbehaviour.corrected && age_ms < until_ms {
                return series.earlier(minute);
            }
        }
        series.minute(minute)
    }

    fn is_down(&self, minute: i64) -> bool {
        self.truth.in_maintenance(self.series.exchange, minute * MINUTE_MS)
    }

    /// A candle of any timeframe that opens at `open_ms`, as it is shown.
    pub(crate) fn candle(&self, open_ms: i64, timeframe_ms: i64) -> Option<Candle> {
        let first = open_ms.div_euclid(MINUTE_MS);
        if timeframe_ms == MINUTE_MS {
            return self.minute(first);
        }
        let last = (first + timeframe_ms / MINUTE_MS - 1).min(self.newest + 1);
        Candle::joined(open_ms, (first..=last).filter_map(|minute| self.minute(minute)))
    }
}

#[cfg(test)]
mod tests {
    use super::{MINUTE_MS, Misbehaviour, View};
    use crate::market::{Exchange, Market};
    use crate::truth::{Series, Truth};

    const START: i64 = 1_760_000_000_000 / MINUTE_MS;

    fn btc(truth: &Truth) -> &Series {
        truth.of_symbol(Exchange::Binance, "BTC/USDT").expect("a symbol")
    }

    #[test]
    fn late_minutes_are_absent_for_one_to_three_minutes_and_appear_in_their_order() {
        let truth = Truth::new(3, &Market::usual());
        let misbehaviour = Misbehaviour { late: 0.5, ..Misbehaviour::default() };
        let mut seen = [false; 4];
        let mut newest = i64::MIN;
        for seconds in 0..7_200 {
            let now_ms = START * MINUTE_MS + seconds * 1_000;
            let view = View::new(&truth, &misbehaviour, btc(&truth), now_ms);
            let behind = now_ms / MINUTE_MS - 1 - view.newest;
            seen[behind as usize] = true;
            assert_eq!(view.is_late, behind > 0);
            assert!(view.newest >= newest);
            newest = view.newest;
            assert!(view.minute(view.newest).is_some());
            assert_eq!(view.minute(view.newest + 1).is_some(), behind == 0);
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn corrected_minutes_become_the_truth_within_two_minutes() {
        let truth = Truth::new(3, &Market::usual());
        let misbehaviour = Misbehaviour { corrected: 0.01, ..Misbehaviour::default() };
        let series = btc(&truth);
        let shown = |minute: i64, age_ms: i64| {
            View::new(&truth, &misbehaviour, series, (minute + 1) * MINUTE_MS + age_ms).minute(minute)
        };
        let wrong: Vec<i64> =
            (START..START + 10_000).filter(|&minute| shown(minute, 0) != series.minute(minute)).collect();
        assert!((60..150).contains(&wrong.len()), "{}", wrong.len());
        for minute in wrong {
            assert!(
                shown(minute, 59_999).expect("a row").volume.units
                    < series.minute(minute).expect("a row").volume.units
            );
            assert_eq!(shown(minute, 2 * MINUTE_MS), series.minute(minute));
        }
    }

    #[test]
    fn delayed_minutes_come_after_ten_to_thirty_minutes() {
        let truth = Truth::new(3, &Market::usual());
        let misbehaviour = Misbehaviour { delayed: 0.01, ..Misbehaviour::default() };
        let series = btc(&truth);
        let shown = |minute: i64, age_minutes: i64| {
            View::new(&truth, &misbehaviour, series, (minute + 1 + age_minutes) * MINUTE_MS).minute(minute)
        };
        let absent: Vec<i64> = (START..START + 10_000).filter(|&minute| shown(minute, 0).is_none()).collect();
        assert!((60..150).contains(&absent.len()), "{}", absent.len());
        for minute in absent {
            assert_eq!(shown(minute, 9), None);
            assert_eq!(shown(minute, 30), series.minute(minute));
        }
    }

    #[test]
    fn minutes_of_maintenance_never_come() {
        let truth = Truth::new(3, &Market::usual());
        let misbehaviour = Misbehaviour { maintenance: true, ..Misbehaviour::default() };
        let down = (START..)
            .find(|minute| truth.in_maintenance(Exchange::Binance, minute * MINUTE_MS))
            .expect("one");
        let now_ms = (down + 100_000) * MINUTE_MS;
        assert_eq!(View::new(&truth, &misbehaviour, btc(&truth), now_ms).minute(down), None);
    }
}
