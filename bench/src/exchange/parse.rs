//! A page of an exchange into candles: the adapter's component, and the same code compiled in.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use exchanges_simulator::{Config, Exchange, MINUTE_MS, Simulator};
use tidegate::pipeline_file::{AdapterLimits, Limits};
use tidegate::source::exchange::adapter;
use tidegate_binance::Binance;
use tidegate_coinbase::Coinbase;
use tidegate_guest::exchange::testing::{answer, ask, task};
use tidegate_guest::exchange::{Adapter, Step, Task};
use tidegate_kraken::Kraken;

use crate::median;

/// Times of each contestant, one after the other, so that both see the same machine.
const ROUNDS: usize = 41;
/// Rows read in a round, whatever the size of a page.
const ROUND_ROWS: usize = 40_000;

/// Prints microseconds a page and the ratio, for the longest pages and for those of a poll.
pub fn run() -> Result<()> {
    let simulator = Simulator::start(Config { enforce_limits: false, ..Config::default() })?;
    println!("\nµs a page                               component   compiled in   ratio");
    measure::<Binance>(&simulator, Exchange::Binance, 1_000)?;
    measure::<Kraken>(&simulator, Exchange::Kraken, 719)?;
    measure::<Coinbase>(&simulator, Exchange::Coinbase, 300)?;
    measure::<Coinbase>(&simulator, Exchange::CoinbaseExchange, 300)?;
    measure::<Binance>(&simulator, Exchange::Binance, 6)
}

fn measure<A: Adapter>(simulator: &Simulator, exchange: Exchange, rows: i64) -> Result<()> {
    let until = simulator.clock().now_ms().div_euclid(MINUTE_MS) * MINUTE_MS;
    let task = task(exchange.id(), "BTC/USDT", "1m", until - rows * MINUTE_MS, until);
    let answers = [answer(200, body::<A>(simulator, exchange, &task)?)];
    let bytes = answers[0].body.len();

    let path = xtask::target_folder().join(format!("guests/{}.wasm", A::NAME));
    let limits = Limits::from(&AdapterLimits::default());
    let component = adapter::Adapter::load(&path, &limits)?;
    let mut instance = component.instance()?;
    let borrowed = adapter::Task {
        exchange: &task.exchange,
        symbol: &task.symbol,
        timeframe: &task.timeframe,
        since: task.since,
        until: task.until,
        now: task.now,
        memo: &task.memo,
    };
    let lent = [adapter::Answer { status: 200, headers: &[], body: &answers[0].body }];
    let rows = rows as usize;
    let mut with_component = || match instance.next(&borrowed, &lent)? {
        adapter::Step::Candles { candles, .. } => Ok(candles.len()),
        other => bail!("the component gives {other:?}"),
    };
    let mut compiled_in = || match A::next(&task, &answers) {
        Ok(Step::Candles(candles)) => Ok(candles.timestamps.len()),
        other => bail!("the adapter gives {other:?}"),
    };
    let (mut wasm, mut native) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        wasm.push(round(rows, &mut with_component)?);
        native.push(round(rows, &mut compiled_in)?);
    }
    let (wasm, native) = (median(wasm), median(native));
    println!(
        "  {:<17}{rows:>5} rows {bytes:>7} B {wasm:>12.1} {native:>13.1} {:>7.2}",
        exchange.id(),
        wasm / native
    );
    Ok(())
}

/// Microseconds a page of one round.
fn round(rows: usize, call: &mut dyn FnMut() -> Result<usize>) -> Result<f64> {
    let calls = ROUND_ROWS.div_ceil(rows);
    let start = Instant::now();
    for _ in 0..calls {
        let candles = call()?;
        ensure!(candles == rows, "{candles} candles came, expected {rows}");
    }
    Ok(start.elapsed().as_nanos() as f64 / 1000.0 / calls as f64)
}

/// The body of the simulator's answer to the first request of a task.
fn body<A: Adapter>(simulator: &Simulator, exchange: Exchange, task: &Task) -> Result<String> {
    let request = ask::<A>(task).remove(0);
    let below = request.url.split('/').skip(3).collect::<Vec<_>>().join("/");
    let mut connection = TcpStream::connect(simulator.address())?;
    // Of this version an answer ends with its connection and is in one piece.
    write!(connection, "GET /{exchange}/{below} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("the simulator's answer is cut")?;
    Ok(body.to_owned())
}
