//! What a candidate costs beside the version that decides: at most the rule's own time.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tidegate::batch::{Batch, Partition, Payload, Position, RawBatch, RawRow};
use tidegate::decode::Decoder;
use tidegate::life::Origin;
use tidegate::pipeline_file::Rule;
use tidegate::rule::{Candidate, Component, Stage, Version, Wanted};
use tidegate::wasm;

use crate::{NOW_MS, median};

/// Rows of a batch.
const ROWS: usize = 10_000;

/// How often each is measured.
const ROUNDS: usize = 200;

/// Prints nanoseconds a row of each rule, and with a candidate that decides the same, and one that decides otherwise.
pub fn run() -> Result<()> {
    println!("\na rule with a candidate beside it, ns a row, {ROWS} rows a batch, medians of {ROUNDS}");
    println!("{:<10} {:>8} {:>12} {:>8}", "rule", "alone", "with itself", "ratio");
    for (name, settings) in [("validate", crate::kafka::VALIDATE), ("enrich", "{}")] {
        let rule: Rule = serde_json::from_value(serde_json::json!({
            "name": name, "component": name, "settings": serde_json::from_str::<serde_json::Value>(settings)?,
        }))?;
        let (alone, with) = (measure(&rule, false)?, measure(&rule, true)?);
        println!("{name:<10} {alone:>8.1} {with:>12.1} {:>8.2}", with / alone);
    }
    Ok(())
}

fn measure(rule: &Rule, has_candidate: bool) -> Result<f64> {
    let path = xtask::target_folder().join(format!("guests/{}.wasm", rule.component));
    let file = wasm::open(&path, &rule.limits)?;
    let mut component = Component::of(&path, file.clone(), &rule.limits)?;
    component.configure_for(rule)?;
    let version = || Version::trusted(component.clone(), Origin::File, 0, file.clone());
    let (raw, batch, decoder) = candles()?;
    let current = Arc::new(version());
    let mut stage = Stage::new(rule, Arc::clone(&current), decoder.schema());
    let candidate = has_candidate.then(|| Arc::new(Candidate::new(version(), i64::MAX)));
    stage.follow(&Wanted { version: current, candidate: candidate.clone() });
    // Neither of the rules remembers anything, so there is nothing to wait for.
    stage.take_over()?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let batch = batch.clone();
        let start = Instant::now();
        stage.apply(&raw, NOW_MS, batch, &mut |_, _, _| Ok(()))?;
        times.push(start.elapsed().as_nanos() as f64 / ROWS as f64);
    }
    let compared = candidate.map_or(0, |candidate| candidate.comparison().rows);
    ensure!(
        compared == if has_candidate { (ROUNDS * ROWS) as u64 } else { 0 },
        "{compared} rows were compared"
    );
    Ok(median(times))
}

/// A batch of candles, as it came and decoded.
fn candles() -> Result<(RawBatch, Batch, Decoder)> {
    let (mut bytes, mut rows) = (Vec::new(), Vec::new());
    for number in 0..ROWS as u64 {
        let start = bytes.len();
        let time = 1_735_689_600_000 + number / 50 * 60_000;
        let row = format!(
            "{{\"timestamp\":{time},\"open\":100.5,\"high\":101.5,\"low\":99.5,\"close\":100.25,\"volume\":12.5,\
             \"source\":\"binance\",\"symbol\":\"COIN{}/USDT\",\"timeframe\":\"1m\"}}",
            number % 50
        );
        bytes.extend_from_slice(row.as_bytes());
        rows.push(RawRow { offset: number, start, end: bytes.len(), cut_from: None });
    }
    let partition = Partition { topic: "bench".into(), number: 0 };
    let raw = RawBatch { partition, payload: Payload::Rows { bytes, rows }, next: Position::default() };
    let mut decoder = Decoder::new(&Default::default())?;
    let batch = decoder.decode(&raw, &"bench".into()).batch;
    Some(batch.rows.len()).filter(|rows| *rows == ROWS).context("not every row decodes")?;
    Ok((raw, batch, decoder))
}
