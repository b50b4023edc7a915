//! Lines to standard error: as text or as JSON, and not the same one over and over.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines of one place in the program within [`WINDOW`]: a topic of 64 partitions that is assigned is one for each.
const LINES_MAX: u32 = 100;

/// See [`LINES_MAX`]: for so long a person looks at what goes by.
const WINDOW: Duration = Duration::from_secs(10);

/// Begins to write lines of at least this level.
///
/// # Panics
/// When it has begun already.
pub fn begin(level: LevelFilter, is_json: bool) {
    // What libraries say beneath this level is of use to their authors.
    let levels = Targets::new().with_default(level.min(LevelFilter::INFO)).with_target("tidegate", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let filter = levels.and(Limit::default());
    let registry = tracing_subscriber::registry();
    match is_json {
        true => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            registry.with(lines.with_filter(filter)).init();
        }
        false => registry.with(lines.with_filter(filter)).init(),
    }
}

/// The work of another thread, whose lines say the same as those of this one of where they are from.
pub fn in_span<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = tracing::Span::current();
    move || span.in_scope(work)
}

/// Leaves out lines that come too often from one place.
#[derive(Default)]
struct Limit {
    places: Mutex<HashMap<Identifier, Place>>,
}

/// A place in the program that writes lines.
struct Place {
    since: Instant,
    lines: u32,
}

impl Limit {
    /// Whether a line of this place may be written now, and how many were left out since the last that was.
    fn takes(&self, place: Identifier, now: Instant) -> (bool, u32) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(place).or_insert(Place { since: now, lines: 0 });
        let mut left_out = 0;
        if now.duration_since(place.since) >= WINDOW {
            left_out = place.lines.saturating_sub(LINES_MAX);
            *place = Place { since: now, lines: 0 };
        }
        place.lines += 1;
        (place.lines <= LINES_MAX, left_out)
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let (takes, left_out) = self.takes(metadata.callsite(), Instant::now());
        if left_out > 0 {
            let (file, line) = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
            tracing::warn!("{left_out} lines like the next one were left out (of `{file}`, line {line})");
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::callsite::Callsite;

    #[test]
    fn a_place_has_so_many_lines_and_says_how_many_were_left_out() {
        struct Here;
        impl Callsite for Here {
            fn set_interest(&self, _: Interest) {}

            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("nobody asks")
            }
        }
        static HERE: Here = Here;
        let (limit, start) = (Limit::default(), Instant::now());
        let takes = |after: Duration| limit.takes(Identifier(&HERE), start + after);
        for _ in 0..LINES_MAX {
            assert_eq!(takes(Duration::ZERO), (true, 0));
        }
        assert_eq!([takes(Duration::ZERO), takes(WINDOW / 2)], [(false, 0); 2]);
        assert_eq!(takes(WINDOW), (true, 2));
        assert_eq!(takes(WINDOW), (true, 0));
    }
}
