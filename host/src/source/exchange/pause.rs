//! The pauses between attempts: doubled each time, and with chance in them, so that a thousand series do not come back
//! together.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Pauses that go on for ever.
#[derive(Debug)]
pub struct Pauses {
    delays: ExponentialBackoff,
    most: Duration,
}

impl Pauses {
    /// Pauses from the first duration to the second, each with up to its own length of chance.
    pub fn new((least, most): (Duration, Duration)) -> Pauses {
        let delays = ExponentialBuilder::default()
            .with_min_delay(least)
            .with_max_delay(most)
            .without_max_times()
            .with_jitter()
            .build();
        Pauses { delays, most }
    }

    /// The next pause, in milliseconds.
    pub fn next_ms(&mut self) -> i64 {
        let pause = self.delays.next().unwrap_or(self.most);
        i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)
    }
}
