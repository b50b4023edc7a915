//! When an exchange may be asked: its budget, and what it has said about waiting.
//!
//! What it has said outlives the process: a ban that is forgotten in a restart becomes a longer one. It is kept in a
//! file for each exchange in the host's state folder.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::state;

/// How full the exchange's own count of a window may get before the next window is waited for: other programs behind
/// the same address use it too.
const USED_SHARE_MAX: f64 = 0.9;

/// How long to wait after a 429 that does not say how long.
const THROTTLED: Duration = Duration::from_secs(60);
/// How long to wait after a 418, which is a ban, that does not say how long. Binance's begin with two minutes.
const BANNED: Duration = Duration::from_secs(300);
/// How long to wait after a 403: a firewall, which forgets slowly.
const FORBIDDEN: Duration = Duration::from_secs(300);
/// The longest wait that is believed, and to which the ones above are doubled: Binance's longest ban has three days.
const WAIT_MAX: Duration = Duration::from_secs(3 * 86_400);
/// How often a wait without a word about its length is doubled.
const DOUBLINGS_MAX: u32 = 5;

/// A budget, and until when nothing may be asked.
pub struct Budget {
    clock: Clock,
    limiter: RateLimiter<NotKeyed, InMemoryState, SinceStart, NoOpMiddleware<Nanos>>,
    rate: Rate,
    blocked_until_ms: i64,
    /// How often in a row the exchange has said to wait.
    strikes: u32,
    file: Option<PathBuf>,
}

/// The clock's time since the process began, which the machine's clock cannot set back.
#[derive(Debug, Clone)]
struct SinceStart(Clock);

impl governor::clock::Clock for SinceStart {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.since_start().into()
    }
}

/// How often an exchange may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// Units in each window.
    pub units: u32,
    /// The window in milliseconds.
    pub window_ms: u32,
    /// Units that may be used at once.
    pub burst: u32,
    /// The header of answers that says how many units of the window are used.
    pub used_header: Option<String>,
}

/// What is kept of an exchange.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    blocked_until_ms: i64,
}

/// Why the exchange is not asked for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// 429: too many requests.
    Throttled,
    /// 418: banned.
    Banned,
    /// 403: a firewall.
    Forbidden,
}

impl Told {
    /// What an answer's status tells.
    pub fn of(status: u16) -> Option<Told> {
        match status {
            429 => Some(Told::Throttled),
            418 => Some(Told::Banned),
            403 => Some(Told::Forbidden),
            _ => None,
        }
    }

    fn wait(self) -> Duration {
        match self {
            Told::Throttled => THROTTLED,
            Told::Banned => BANNED,
            Told::Forbidden => FORBIDDEN,
        }
    }
}

impl Budget {
    /// A budget that nothing has used. `file` keeps what the exchange says about waiting, and has what it said to an
    /// earlier process.
    pub fn new(rate: &Rate, clock: Clock, file: Option<PathBuf>) -> Budget {
        let kept: Option<Kept> = file.as_deref().and_then(state::read);
        let blocked_until_ms = kept.map_or(0, |kept| kept.blocked_until_ms);
        Budget {
            clock,
            limiter: limiter(rate, clock),
            rate: rate.clone(),
            blocked_until_ms,
            strikes: 0,
            file,
        }
    }

    /// Goes on with another rate, and with what the exchange has said about waiting.
    pub fn set_rate(&mut self, rate: &Rate) {
        if self.rate != *rate {
            self.limiter = limiter(rate, self.clock);
            self.rate = rate.clone();
        }
    }

    /// Takes `cost` units and gives `None`, or says for how many milliseconds there are none. A request that costs more
    /// than may be used at once takes what may be.
    pub fn take(&mut self, cost: u32) -> Option<i64> {
        let now_ms = self.clock.now_ms();
        if now_ms < self.blocked_until_ms {
            return Some(self.blocked_until_ms - now_ms);
        }
        let cost = NonZeroU32::new(cost).unwrap_or(NonZeroU32::MIN).min(burst(&self.rate));
        match self.limiter.check_n(cost) {
            Ok(Ok(())) => None,
            Ok(Err(until)) => {
                let wait = until.wait_time_from(SinceStart(self.clock).now());
                Some(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).saturating_add(1))
            }
            // It cannot be: the cost is no more than the burst.
            Err(_) => None,
        }
    }

    /// Until when nothing may be asked; in the past when it may.
    pub fn blocked_until_ms(&self) -> i64 {
        self.blocked_until_ms
    }

    /// Takes what an answer says: its status, and what `header` has under a name. Gives until when nothing may be
    /// asked, when it says so.
    pub fn hear<'a>(&mut self, status: u16, header: impl Fn(&str) -> Option<&'a str>) -> Option<i64> {
        let now_ms = self.clock.now_ms();
        let told = Told::of(status);
        let retry_after = header("retry-after").and_then(|text| wait_of(text, now_ms));
        let asked_to_wait = told.is_some() || (status == 503 && retry_after.is_some());
        if !asked_to_wait {
            if status < 400 {
                self.strikes = 0;
            }
            self.note_used(now_ms, header);
            return None;
        }
        match retry_after {
            Some(said_ms) => {
                self.strikes += 1;
                // Rounded to seconds by the exchange, possibly down.
                Some(self.block_until(now_ms.saturating_add(said_ms).saturating_add(1000)))
            }
            None => Some(self.hear_told(told.unwrap_or(Told::Throttled))),
        }
    }

    /// Takes a word about waiting that does not say how long: ever longer.
    pub fn hear_told(&mut self, told: Told) -> i64 {
        let wait = told.wait() * (1 << self.strikes.min(DOUBLINGS_MAX));
        self.strikes += 1;
        self.block_until(
            self.clock.now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Nothing is asked before that time, nor by the next process.
    pub fn block_until(&mut self, until_ms: i64) -> i64 {
        let most = self.clock.now_ms().saturating_add(WAIT_MAX.as_millis() as i64);
        let until_ms = until_ms.min(most);
        if until_ms > self.blocked_until_ms {
            self.blocked_until_ms = until_ms;
            self.keep();
        }
        self.blocked_until_ms
    }

    /// Where that fails the ban holds for this process all the same.
    fn keep(&self) {
        let Some(file) = &self.file else { return };
        let kept = Kept { blocked_until_ms: self.blocked_until_ms };
        if let Err(error) = state::replace(file, &kept) {
            tracing::warn!(
                "cannot keep in `{}` until when the exchange wants no requests: {error}; a restart would ask it earlier",
                file.display()
            );
        }
    }

    /// Waits for the next window when the exchange's own count of this one is nearly full.
    fn note_used<'a>(&mut self, now_ms: i64, header: impl Fn(&str) -> Option<&'a str>) {
        let Some(used) = (self.rate.used_header.as_deref())
            .and_then(header)
            .and_then(|text| text.trim().parse::<f64>().ok())
        else {
            return;
        };
        if used >= f64::from(self.rate.units.max(1)) * USED_SHARE_MAX {
            let window_ms = i64::from(self.rate.window_ms.max(1));
            let next_window_ms = (now_ms.div_euclid(window_ms) + 1) * window_ms;
            self.blocked_until_ms = self.blocked_until_ms.max(next_window_ms);
        }
    }
}

fn limiter(
    rate: &Rate,
    clock: Clock,
) -> RateLimiter<NotKeyed, InMemoryState, SinceStart, NoOpMiddleware<Nanos>> {
    let units = NonZeroU32::new(rate.units).unwrap_or(NonZeroU32::MIN);
    let period = Duration::from_millis(u64::from(rate.window_ms.max(1))) / units.get();
    let quota = Quota::with_period(period.max(Duration::from_nanos(1)))
        .unwrap_or(Quota::per_second(units))
        .allow_burst(burst(rate));
    RateLimiter::direct_with_clock(quota, SinceStart(clock))
}

fn burst(rate: &Rate) -> NonZeroU32 {
    NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN)
}

/// What `Retry-After` says, in milliseconds: seconds, or a date.
fn wait_of(text: &str, now_ms: i64) -> Option<i64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(i64::from(seconds) * 1000);
    }
    http_date_ms(text).map(|at_ms| (at_ms - now_ms).max(0))
}

/// A date of HTTP, such as `Sun, 06 Nov 1994 08:49:37 GMT`, in milliseconds since 1970.
pub fn http_date_ms(text: &str) -> Option<i64> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim());
    date.ok().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(file: Option<PathBuf>) -> Budget {
        let rate = Rate { units: 60, window_ms: 60_000, burst: 10, used_header: Some("x-used".into()) };
        Budget::new(&rate, Clock::of_process(), file)
    }

    fn no_header<'a>(_: &str) -> Option<&'a str> {
        None
    }

    #[test]
    fn what_may_be_used_at_once_is_used_and_the_rest_waits() {
        let mut budget = budget(None);
        assert_eq!((budget.take(4), budget.take(4), budget.take(2)), (None, None, None));
        let wait_ms = budget.take(5).unwrap();
        assert!((4_000..=5_001).contains(&wait_ms), "{wait_ms}");
        assert!(budget.take(1000).unwrap() <= 10_001, "more than the burst is the burst");
    }

    #[test]
    fn an_exchange_that_says_how_long_is_believed_and_the_next_process_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/binance.json");
        let mut first = budget(Some(file.clone()));
        let until_ms = first.hear(418, |name| (name == "retry-after").then_some("120")).unwrap();
        let wait_ms = first.take(1).unwrap();
        assert!((119_000..=121_000).contains(&wait_ms), "{wait_ms}");
        let mut second = budget(Some(file));
        assert_eq!(second.blocked_until_ms(), until_ms);
        assert!(second.take(1).unwrap() > 119_000);
    }

    #[test]
    fn an_exchange_that_does_not_say_how_long_is_asked_ever_later() {
        let mut budget = budget(None);
        let now_ms = Clock::of_process().now_ms();
        let first = budget.hear(429, no_header).unwrap() - now_ms;
        let second = budget.hear(429, no_header).unwrap() - now_ms;
        assert!(
            (60_000..61_000).contains(&first) && (120_000..121_000).contains(&second),
            "{first} {second}"
        );
        budget.hear(200, no_header);
        assert_eq!(budget.strikes, 0);
    }

    #[test]
    fn a_date_is_a_time_to_wait_for() {
        assert_eq!(http_date_ms("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(wait_of("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_770_000), Some(7_000));
        assert_eq!((wait_of(" 7 ", 0), wait_of("soon", 0)), (Some(7_000), None));
    }

    #[test]
    fn a_window_that_others_have_nearly_used_up_is_waited_for() {
        let mut budget = budget(None);
        assert_eq!(budget.hear(200, |name| (name == "x-used").then_some("53")), None);
        assert_eq!(budget.take(1), None);
        budget.hear(200, |name| (name == "x-used").then_some("54"));
        assert!(budget.take(1).unwrap() <= 60_000);
    }
}
