//! The whole path without a sink: file, decode, three rules, count; with components and with the same rules
//! compiled in. And where the time goes, and the memory for a large file.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use arrow_array::RecordBatch;
use tempfile::NamedTempFile;
use tidegate::batch::RawBatch;
use tidegate::decode::Decoder;
use tidegate::pipeline_file::{BatchLimits, Decode, Rule};
use tidegate::rule::Slot;
use tidegate::source::file::FileSource;
use tidegate_dedup::Dedup;
use tidegate_enrich::Enrich;
use tidegate_validate::Validate;

use crate::twin::Twin;
use crate::{NOW_MS, component, median};

const ROWS: usize = 1_000_000;
const LARGE_ROWS: usize = 10_000_000;
const ROUNDS: usize = 5;
const RULES: [&str; 3] = ["validate", "dedup", "enrich"];

/// Prints rows a second of both, their ratio, the parts of the time, and the memory.
pub fn run() -> Result<()> {
    let file = rows(ROWS)?;
    let (mut wasm, mut native) = (Vec::new(), Vec::new());
    let mut parts = Parts::default();
    for _ in 0..ROUNDS {
        let (seconds, spent) = with_components(file.path())?;
        wasm.push(seconds);
        parts = spent;
        native.push(with_twins(file.path())?);
    }
    let (wasm, native) = (median(wasm), median(native));
    let rate = |seconds: f64| ROWS as f64 / seconds;
    println!("\nfile, decode, three rules, count: {ROWS} rows of JSON");
    println!("  with components   {:>10.0} rows/s", rate(wasm));
    println!("  compiled in       {:>10.0} rows/s", rate(native));
    println!("  ratio             {:>10.2}", native / wasm);
    println!("  where the time goes: {}", parts.shares());

    drop(file);
    let file = rows(LARGE_ROWS)?;
    with_components(file.path())?;
    println!("\npeak memory of this process after {LARGE_ROWS} rows: {} MiB", peak_memory_mib()?);
    Ok(())
}

/// A file of made-up candles.
pub fn rows(rows: usize) -> Result<NamedTempFile> {
    let file = NamedTempFile::with_suffix(".jsonl")?;
    xtask::sample::write_rows(file.path(), rows)?;
    Ok(file)
}

/// The file's rows as columns.
pub fn batches(file: &Path, rows: usize) -> Result<Vec<RecordBatch>> {
    let (mut source, mut decoder) = open(file, rows)?;
    let mut batches = Vec::new();
    while let Some(raw) = source.next_batch()? {
        batches.push(decoder.decode(&raw, &"".into()).batch.columns);
    }
    Ok(batches)
}

fn open(file: &Path, rows: usize) -> Result<(FileSource, Decoder)> {
    let path = file.to_str().context("the name of the temporary file is no text")?.to_owned();
    let decode = Decode::default();
    let limits = BatchLimits { rows, ..BatchLimits::default() };
    let source = FileSource::open(&path, &decode, &limits, Path::new("/"))?;
    Ok((source, Decoder::new(&decode)?))
}

/// Where the time of a run went.
#[derive(Default)]
struct Parts {
    read: Duration,
    decode: Duration,
    rules: [Duration; 3],
}

impl Parts {
    fn shares(&self) -> String {
        let all = self.read + self.decode + self.rules.iter().sum::<Duration>();
        let share = |part: Duration| format!("{:.0} %", 100.0 * part.as_secs_f64() / all.as_secs_f64());
        let rules = RULES.iter().zip(self.rules).map(|(name, time)| format!("{name} {}", share(time)));
        let rules: Vec<String> = rules.collect();
        format!("read {}, decode {}, {}", share(self.read), share(self.decode), rules.join(", "))
    }
}

fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *total += start.elapsed();
    result
}

fn with_components(file: &Path) -> Result<(f64, Parts)> {
    let (mut source, mut decoder) = open(file, 10_000)?;
    let mut slots: Vec<Slot> = Vec::new();
    for name in RULES {
        let rule = Rule {
            name: name.into(),
            component: name.into(),
            settings: serde_json::Map::default(),
            limits: Default::default(),
        };
        let schema = slots.last().map_or(decoder.schema(), Slot::schema);
        slots.push(Slot::new(&rule, component(&format!("guests/{name}"))?, schema)?);
    }
    let mut parts = Parts::default();
    let mut kept = 0;
    let start = Instant::now();
    while let Some(raw) = timed(&mut parts.read, || source.next_batch())? {
        let mut batch = timed(&mut parts.decode, || decoder.decode(&raw, &"".into())).batch;
        for (slot, time) in slots.iter_mut().zip(&mut parts.rules) {
            let nothing = &mut |_: i32, _: &[String], _: &mut dyn FnMut(RecordBatch) -> _| Ok(());
            batch = timed(time, || slot.apply(raw.partition.number, NOW_MS, batch, nothing))?.kept;
        }
        kept += batch.rows.len();
    }
    anyhow::ensure!(kept > 0, "nothing was kept");
    Ok((start.elapsed().as_secs_f64(), parts))
}

fn with_twins(file: &Path) -> Result<f64> {
    let (mut source, mut decoder) = open(file, 10_000)?;
    let validate = Twin::new::<Validate>("{}", decoder.schema())?;
    let dedup = Twin::new::<Dedup>("{}", validate.schema())?;
    let enrich = Twin::new::<Enrich>("{}", dedup.schema())?;
    let mut twins = [validate, dedup, enrich];
    let mut kept = 0;
    let start = Instant::now();
    while let Some(raw) = source.next_batch()? {
        kept += apply(&mut twins, &mut decoder, &raw);
    }
    anyhow::ensure!(kept > 0, "nothing was kept");
    Ok(start.elapsed().as_secs_f64())
}

fn apply(twins: &mut [Twin], decoder: &mut Decoder, raw: &RawBatch) -> usize {
    let columns = decoder.decode(raw, &"".into()).batch.columns;
    twins.iter_mut().fold(columns, |columns, twin| twin.apply(NOW_MS, &columns)).num_rows()
}

/// The highest resident memory of this process so far.
fn peak_memory_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this machine does not say")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024)
}
