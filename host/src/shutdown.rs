//! Signals: the first SIGINT or SIGTERM lets the lanes finish their batch, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Whether to stop. Its clones are one flag.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: Arc<AtomicBool>,
    /// That of the whole, for a part of it.
    whole: Option<Arc<AtomicBool>>,
}

impl Shutdown {
    /// A flag that the signals of this process set: the first one requests the stop, the second one ends the
    /// process at once with 130 (SIGINT) or 143 (SIGTERM).
    pub fn on_signals() -> Result<Shutdown> {
        let shutdown = Shutdown::default();
        for signal in [SIGINT, SIGTERM] {
            let requested = || Arc::clone(&shutdown.requested);
            // Handlers run in the order of registration: the one that ends the process sees the flag of
            // the signal before.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, requested())
                .and_then(|_| signal_hook::flag::register(signal, requested()))
                .map_err(|error| Error::Surroundings(format!("cannot listen for signals: {error}")))?;
        }
        Ok(shutdown)
    }

    /// One for a part: it stops with the whole, and by itself without stopping the whole.
    pub fn child(&self) -> Shutdown {
        Shutdown { requested: Arc::default(), whole: Some(Arc::clone(&self.requested)) }
    }

    /// Whether a lane should finish its batch and stop.
    pub fn is_requested(&self) -> bool {
        let is_set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
        is_set(&self.requested) || self.whole.as_ref().is_some_and(is_set)
    }

    /// Requests the stop, as the first signal does.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_requests_the_stop_in_every_clone() {
        let shutdown = Shutdown::on_signals().unwrap();
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(shutdown.is_requested() && clone.is_requested());
    }

    #[test]
    fn a_part_stops_with_the_whole_and_by_itself() {
        let whole = Shutdown::default();
        let (one, other) = (whole.child(), whole.child());
        one.request();
        assert!(one.is_requested() && !other.is_requested() && !whole.is_requested());
        whole.request();
        assert!(other.is_requested());
    }

    #[test]
    fn a_request_needs_no_signal() {
        let shutdown = Shutdown::default();
        shutdown.clone().request();
        assert!(shutdown.is_requested());
    }
}
