//! Components' files that change: each becomes a new version, when it has stopped changing.
//!
//! The files are looked at again and again, through whatever links lead to them: this works on every file system and for
//! the links that Kubernetes exchanges, and it costs microseconds.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Kind;
use super::lifecycle::{Lives, Refusal};
use crate::wasm;

/// How often probations and trials are looked at.
const TICK: Duration = Duration::from_millis(200);

/// What tells a file from what it was: when it was written, how long it is, and which file it is.
type Stamp = (i64, i64, u64, u64, u64);

/// What is known of a file.
#[derive(Default)]
struct Seen {
    /// When it was last looked at.
    stamp: Option<Stamp>,
    /// What was read, or tried to be.
    done: Option<Stamp>,
}

/// Keeps them going until `stop` is dropped: ends probations and trials, and deploys files that have changed.
pub fn run<K: Kind>(lives: &Lives<K>, every: Duration, stop: &Receiver<()>) {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    for (name, path, _) in lives.files() {
        // What the process began with.
        let stamp = stamp(&path);
        seen.insert(name, Seen { stamp, done: stamp });
    }
    let mut looked = Instant::now();
    while stop.recv_timeout(TICK.min(if every.is_zero() { TICK } else { every }))
        == Err(RecvTimeoutError::Timeout)
    {
        lives.tick();
        if !every.is_zero() && looked.elapsed() >= every {
            looked = Instant::now();
            look(lives, &mut seen);
        }
    }
}

fn look<K: Kind>(lives: &Lives<K>, seen: &mut HashMap<String, Seen>) {
    let what = K::WHAT.name();
    for (name, path, limit_bytes) in lives.files() {
        let known = seen.entry(name.clone()).or_default();
        let now = stamp(&path);
        // One that is still being written, or is being replaced, looks different the next time.
        let is_settled = now.is_some() && now == known.stamp;
        known.stamp = now;
        if !is_settled || now == known.done {
            continue;
        }
        let Ok(bytes) = wasm::read(&path, limit_bytes)
            .inspect_err(|error| tracing::warn!(%what, name, "not deployed: {error}"))
        else {
            known.done = now;
            continue;
        };
        // Written while it was read.
        if stamp(&path) != now {
            continue;
        }
        match lives.deploy_file(&name, bytes) {
            // The next time.
            Err(Refusal::Busy(_)) => continue,
            Err(refusal) => tracing::warn!(%what, name, "`{}` is not deployed: {refusal}", path.display()),
            Ok(_) => {}
        }
        known.done = now;
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.is_file())?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.dev(), metadata.ino()))
}
