//! Runs a program and says what it took.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Linux counts the time of processes in these for everybody, whatever the kernel's own clock is.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a program took, and what the machine did meanwhile.
#[derive(Debug)]
pub struct Taken {
    /// Seconds of processors, of the program alone.
    pub cpu: f64,
    /// The same of its threads by their names, as far as they were seen before they ended.
    pub threads: BTreeMap<String, f64>,
    /// The same of the servers that it spoke to.
    pub server_cpu: f64,
    /// How many processors others had on the average.
    pub others: f64,
    /// The most resident memory.
    pub peak_mib: u64,
    /// What it wrote on standard output.
    pub output: String,
}

/// Runs a program to its end. `servers` are the processes that it speaks to.
pub fn run(command: &mut Command, servers: impl IntoIterator<Item = u32>) -> Result<Taken> {
    let servers: Vec<u32> = servers.into_iter().collect();
    let cpu_of =
        |processes: &[u32]| processes.iter().map(|&process| cpu_seconds(process)).sum::<Result<f64>>();
    let before = (busy_seconds()?, cpu_of(&servers)?, cpu_seconds(std::process::id())?);
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
    let mut peak_mib = 0;
    let mut threads = Threads::default();
    while !has_ended(&child)? {
        peak_mib = peak_mib.max(peak_memory_mib(child.id()).unwrap_or(0));
        threads.look(child.id());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The process has ended and is not yet waited for: what it took in all is still there.
    let cpu = cpu_seconds(child.id())?;
    let server_cpu = cpu_of(&servers)? - before.1;
    let own_cpu = cpu_seconds(std::process::id())? - before.2;
    let others = (busy_seconds()? - before.0 - cpu - server_cpu - own_cpu).max(0.0);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{}` ended with {}", command.get_program().display(), output.status);
    }
    Ok(Taken {
        cpu,
        threads: threads.by_name(),
        server_cpu,
        others: others / start.elapsed().as_secs_f64(),
        peak_mib,
        output: String::from_utf8(output.stdout)?,
    })
}

/// Whether it has ended; it is not waited for, so that what it took is still there.
pub fn has_ended(child: &Child) -> Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    Ok(waitid(WaitId::Pid(Pid::from_child(child)), options)?.is_some())
}

/// The time that all processors were at work, or were taken away by other machines.
fn busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("`/proc/stat` is empty")?;
    let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // Idle and waiting for a disk are the fourth and the fifth; guests are among the first two.
    Ok([0, 1, 2, 5, 6, 7].iter().filter_map(|&index| ticks.get(index)).sum::<f64>() / TICKS_PER_SECOND)
}

/// The time of a process so far, in its own code and in the system's.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    Ok(name_and_seconds(&text).context("`/proc/PID/stat` is not what it should be")?.1)
}

/// The name and the time of a process or a thread.
fn name_and_seconds(stat: &str) -> Option<(&str, f64)> {
    // The name is in parentheses and may have some itself, and spaces.
    let (before, fields) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Some((name, ticks.sum::<Result<f64, _>>().ok()? / TICKS_PER_SECOND))
}

/// The threads of a process, also those that have ended since they were looked at.
#[derive(Debug, Default, Clone)]
pub struct Threads(BTreeMap<u32, (String, f64)>);

impl Threads {
    /// Looks at the threads of a process. One that ends meanwhile stays as it was.
    pub fn look(&mut self, process: u32) {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return };
        for task in tasks.flatten() {
            let number = task.file_name().to_str().and_then(|name| name.parse().ok());
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            if let (Some(number), Some((name, seconds))) = (number, name_and_seconds(&stat)) {
                self.0.insert(number, (name.to_owned(), seconds));
            }
        }
    }

    /// The seconds of processors of all threads of a name.
    pub fn by_name(&self) -> BTreeMap<String, f64> {
        let mut names = BTreeMap::new();
        for (name, seconds) in self.0.values() {
            *names.entry(name.clone()).or_default() += seconds;
        }
        names
    }
}

/// The highest resident memory of a process so far.
pub fn peak_memory_mib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? / 1024)
}
