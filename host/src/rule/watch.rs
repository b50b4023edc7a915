//! Components' files that change: each becomes a new version, when it has stopped changing.
//!
//! The files are looked at again and again, through whatever links lead to them: this works on every file system and for
//! the links that Kubernetes exchanges, and it costs microseconds.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::lifecycle::{Refusal, Rules};
use crate::pipeline_file::Loaded;
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

/// Keeps the rules going until `stop` is dropped: ends probations and trials, and deploys files that have changed.
pub fn run(rules: &Rules, loaded: &Loaded, stop: &Receiver<()>) {
    let every = loaded.pipeline.deploy.watch.0;
    let mut seen: HashMap<String, Seen> = HashMap::new();
    for (name, path) in rules.files() {
        // What the process began with.
        let stamp = stamp(&path);
        seen.insert(name, Seen { stamp, done: stamp });
    }
    let mut looked = Instant::now();
    while stop.recv_timeout(TICK.min(if every.is_zero() { TICK } else { every }))
        == Err(RecvTimeoutError::Timeout)
    {
        rules.tick();
        if !every.is_zero() && looked.elapsed() >= every {
            looked = Instant::now();
            look(rules, loaded, &mut seen);
        }
    }
}

fn look(rules: &Rules, loaded: &Loaded, seen: &mut HashMap<String, Seen>) {
    for ((name, path), rule) in rules.files().into_iter().zip(&loaded.pipeline.rules) {
        let known = seen.entry(name.clone()).or_default();
        let now = stamp(&path);
        // One that is still being written, or is being replaced, looks different the next time.
        let is_settled = now.is_some() && now == known.stamp;
        known.stamp = now;
        if !is_settled || now == known.done {
            continue;
        }
        let Ok(bytes) = wasm::read(&path, rule.limits.file.0)
            .inspect_err(|error| tracing::warn!(rule = name, "not deployed: {error}"))
        else {
            known.done = now;
            continue;
        };
        // Written while it was read.
        if stamp(&path) != now {
            continue;
        }
        match rules.deploy_file(&name, bytes) {
            // The next time.
            Err(Refusal::Busy) => continue,
            Err(refusal) => tracing::warn!(rule = name, "`{}` is not deployed: {refusal}", path.display()),
            Ok(_) => {}
        }
        known.done = now;
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.is_file())?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.dev(), metadata.ino()))
}
