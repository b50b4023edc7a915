//! Servers that outlive the command that started them. Each is known by a file with the number of its process, which it
//! keeps locked for as long as it lives.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// An orderly stop takes less than a second; a server that needs longer than this hangs.
pub const STOP: Duration = Duration::from_secs(30);

/// The file, locked by whoever has this value or has inherited it.
pub struct Lock(File);

/// Takes the place of the server that `file` stands for.
pub fn lock(file: &Path) -> Result<Lock> {
    let lock = open(file)?;
    if lock.try_lock().is_err() {
        bail!("a server runs already in `{}`", file.parent().unwrap_or(file).display());
    }
    lock.set_len(0)?;
    Ok(Lock(lock))
}

impl Lock {
    /// Lets the command inherit the file as its standard input, and with it the lock. Ctrl-C in the terminal is for the
    /// command that started it.
    pub fn hand_to(&self, command: &mut Command) -> Result<()> {
        std::os::unix::process::CommandExt::process_group(command, 0).stdin(self.0.try_clone()?);
        Ok(())
    }

    /// Keeps the number of the process, once it runs.
    pub fn keep(&mut self, child: &Child) -> Result<()> {
        Ok(self.0.write_all(child.id().to_string().as_bytes())?)
    }
}

/// The number of the process once it is ready; one that does not become so is killed.
pub fn started(mut child: Child, ready: Result<()>) -> Result<u32> {
    if ready.is_err() {
        child.kill()?;
        child.wait()?;
    }
    ready.map(|()| child.id())
}

/// The number of the process of the server that `file` stands for.
pub fn process(file: &Path) -> Result<Option<u32>> {
    if !file.exists() {
        return Ok(None);
    }
    let mut content = String::new();
    let mut open = open(file)?;
    if open.try_lock().is_ok() {
        return Ok(None);
    }
    open.read_to_string(&mut content)?;
    let id = content.parse().with_context(|| format!("`{}` names no process", file.display()))?;
    Ok(Some(id))
}

/// Asks the server that `file` stands for to end, with this signal, and waits until it has; says whether there was one.
pub fn stop(file: &Path, signal: Signal) -> Result<bool> {
    let Some(id) = process(file)? else { return Ok(false) };
    let id = i32::try_from(id).ok().and_then(Pid::from_raw).context("a process has a positive number")?;
    kill_process(id, signal)?;
    let started = Instant::now();
    while process(file)?.is_some() {
        if started.elapsed() > STOP {
            // It can have ended since it was looked for.
            let _ = kill_process(id, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

/// Opens a file for reading and writing, made when absent.
pub fn open(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("cannot open `{}`", path.display()))
}
