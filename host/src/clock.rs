//! The time. Tests of a day do not take a day: in builds for them `TIDEGATE_CLOCK` makes time begin elsewhere and
//! pass faster.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock. Its clones and copies show the same time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The time that it shows at `origin`, and how many times faster than the machine's it runs; absent for the
    /// machine's own time.
    scaled: Option<Scaled>,
    opened: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Scaled {
    start_ms: f64,
    origin_ms: f64,
    rate: f64,
}

impl Clock {
    /// The clock of this process.
    pub fn of_process() -> Clock {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(|| Clock { scaled: Scaled::of_variable(), opened: Instant::now() })
    }

    /// Milliseconds since 1970. A clock before 1970 or after the year 292,000,000 is no clock.
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match self.scaled {
            Some(Scaled { start_ms, origin_ms, rate }) => {
                (start_ms + (since.as_secs_f64() * 1000.0 - origin_ms) * rate) as i64
            }
            None => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// The time since the process began, which never goes back.
    pub fn since_start(&self) -> Duration {
        self.opened.elapsed().mul_f64(self.rate())
    }

    /// How long the machine takes for `time_ms` of this clock.
    pub fn real(&self, time_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(time_ms).unwrap_or(0)).div_f64(self.rate())
    }

    fn rate(&self) -> f64 {
        self.scaled.map_or(1.0, |scaled| scaled.rate)
    }
}

impl Scaled {
    /// `TIDEGATE_CLOCK=START_MS,ORIGIN_MS,RATE`: at ORIGIN_MS it was START_MS, and since then time passes RATE times
    /// faster.
    #[cfg(debug_assertions)]
    fn of_variable() -> Option<Scaled> {
        let text = std::env::var("TIDEGATE_CLOCK").ok()?;
        let numbers: Vec<f64> = text.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        match numbers[..] {
            [start_ms, origin_ms, rate] if rate > 0.0 => Some(Scaled { start_ms, origin_ms, rate }),
            _ => None,
        }
    }

    /// Builds for production have the machine's time only.
    #[cfg(not(debug_assertions))]
    fn of_variable() -> Option<Scaled> {
        None
    }
}

/// A time in milliseconds since 1970, for people.
pub fn shown(time_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(time_ms).map_or_else(|_| time_ms.to_string(), |time| time.to_string())
}
