//! A call of a rule over columns, and of one that is written a row at a time: the component, and the same code
//! compiled in.

use std::time::Instant;

use anyhow::Result;
use arrow_array::RecordBatch;
use tidegate::rule::{Component, Instance};
use tidegate_by_row::ByRow;
use tidegate_guest::Rule;
use tidegate_validate::Validate;

use crate::twin::Twin;
use crate::{NOW_MS, component, median, path};

/// Times of each contestant, one after the other, so that both see the same machine.
const ROUNDS: usize = 41;
/// Rows decided in a round, whatever the size of a batch.
const ROUND_ROWS: usize = 400_000;

/// Prints nanoseconds a row and the ratio for 1,000 and 10,000 rows a call.
pub fn run() -> Result<()> {
    println!("\nns a row                      component   compiled in   ratio");
    for rows in [1_000, 10_000] {
        let file = path::rows(rows)?;
        let batch = path::batches(file.path(), rows)?.remove(0);
        let validate = component("guests/validate")?;
        measure::<Validate>("validate, columns", &validate, &batch)?;
        let by_row = component("guests-test/by_row")?;
        measure::<ByRow>("by row", &by_row, &batch)?;
    }
    Ok(())
}

fn measure<R: Rule>(name: &str, component: &Component, batch: &RecordBatch) -> Result<()> {
    let mut instance = Instance::new(component, &Default::default(), "{}")?;
    let mut twin = Twin::new::<R>("{}", &batch.schema())?;
    let lent = twin.lend(batch);
    let (mut wasm, mut native) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        wasm.push(round(batch, || instance.transform(component, NOW_MS, batch).map(drop))?);
        native.push(round(batch, || {
            drop(twin.call(NOW_MS, &lent));
            Ok::<_, anyhow::Error>(())
        })?);
    }
    let (wasm, native) = (median(wasm), median(native));
    let rows = batch.num_rows();
    println!("  {name:<18}{rows:>6} rows {wasm:>13.1} {native:>13.1} {:>7.2}", wasm / native);
    Ok(())
}

/// Nanoseconds a row of one round.
fn round<E>(batch: &RecordBatch, mut call: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let calls = ROUND_ROWS / batch.num_rows();
    let start = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(start.elapsed().as_nanos() as f64 / (calls * batch.num_rows()) as f64)
}
