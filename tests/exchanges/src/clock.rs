//! The simulated time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A clock that starts at any time and runs at any rate. Two processes with the same three numbers have the same
/// time: `start_ms + (wall clock - origin_ms) * rate`. All times are milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// The simulated time at `origin_ms`.
    pub start_ms: i64,
    /// The time of the wall clock at which the simulated time is `start_ms`.
    pub origin_ms: i64,
    /// Simulated milliseconds in a millisecond of the wall clock: above 0.
    pub rate: f64,
}

impl Clock {
    /// The real time.
    pub fn real() -> Self {
        let now_ms = wall_ms();
        Self { start_ms: now_ms, origin_ms: now_ms, rate: 1.0 }
    }

    /// A clock at which it is `start_ms` now.
    pub fn starting_at(start_ms: i64, rate: f64) -> Self {
        Self { start_ms, origin_ms: wall_ms(), rate }
    }

    /// The simulated time now.
    pub fn now_ms(&self) -> i64 {
        self.at(wall_ms())
    }

    /// The simulated time at a time of the wall clock.
    pub fn at(&self, wall_ms: i64) -> i64 {
        self.start_ms + ((wall_ms - self.origin_ms) as f64 * self.rate) as i64
    }
}

/// The wall clock.
pub(crate) fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn time_runs_at_its_rate_from_its_start() {
        let clock = Clock { start_ms: 1_000_000, origin_ms: 500, rate: 60.0 };
        assert_eq!(clock.at(500), 1_000_000);
        assert_eq!(clock.at(1_500), 1_060_000);
        assert_eq!(clock.at(400), 994_000);
    }
}
