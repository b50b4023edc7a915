//! Ends the process at a named point, for tests that kill it there. Builds for production have no such points.

/// Ends the process like `kill -9` when the variable `TIDEGATE_CRASH` has `<point>:<times>` and this is the
/// `times`-th passage. With `<point>:<times>:stop` it only stops there, until it is continued.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::Signal;

    static WHERE: OnceLock<Option<(String, u64, Signal)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let wanted = WHERE.get_or_init(|| {
        let text = std::env::var("TIDEGATE_CRASH").ok()?;
        let (point, times) = text.split_once(':')?;
        let (times, signal) = match times.strip_suffix(":stop") {
            Some(times) => (times, Signal::STOP),
            None => (times, Signal::KILL),
        };
        Some((point.to_owned(), times.parse().ok()?, signal))
    });
    if let Some((point, times, signal)) = wanted
        && point == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), *signal);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn point(_name: &str) {}
