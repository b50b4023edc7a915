//! The one engine of the process and its clock.

use std::sync::OnceLock;
use std::time::Duration;

use wasmtime::{Cache, CacheConfig, Config, Engine};

use crate::error::{Error, Result};

/// How often the clock that ends calls ticks: a call can last one tick longer than its limit, and a hundred
/// wake-ups a second are not seen on any machine.
pub const TICK_MS: u64 = 10;

/// The deepest stack of a rule: wasmtime's own default, a quarter of the 2 MiB that Rust gives a thread.
pub const STACK_LIMIT_BYTES: usize = 512 << 10;

/// The engine. There is one a process, because types of two engines must never meet.
pub fn engine() -> Result<&'static Engine> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let engine = Engine::new(&config())
        .map_err(|error| Error::Surroundings(format!("cannot run WebAssembly on this machine: {error:#}")))?;
    if ENGINE.set(engine).is_ok() {
        start_clock();
    }
    Ok(ENGINE.get().expect("set above, by this thread or another"))
}

fn config() -> Config {
    let mut config = Config::new();
    config
        // A call ends when its time is over; epochs cost less than fuel on row code.
        .epoch_interruption(true)
        .max_wasm_stack(STACK_LIMIT_BYTES)
        // A verdict is the same on every machine.
        .cranelift_nan_canonicalization(true)
        // Vector instructions whose results differ between machines are not among these.
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        // A rule has no async functions, and without them a call costs a third.
        .concurrency_support(false);
    // What is compiled once is mapped in the next time: CCXT takes 14 s to compile. A machine without a folder for it
    // compiles every time.
    match Cache::new(CacheConfig::new()) {
        Ok(cache) => {
            config.cache(Some(cache));
        }
        Err(error) => tracing::debug!("compiled components are not kept: {error:#}"),
    }
    config
}

/// Advances the epoch for as long as the process lives.
fn start_clock() {
    let tick = || {
        loop {
            std::thread::sleep(Duration::from_millis(TICK_MS));
            if let Ok(engine) = engine() {
                engine.increment_epoch();
            }
        }
    };
    std::thread::Builder::new()
        .name("rule-clock".into())
        .spawn(tick)
        .expect("a process that cannot start one more thread cannot start a lane either");
}
