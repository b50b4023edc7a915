//! Calls under limits, whatever the contract.

use std::time::Duration;

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{ResourceLimiter, Store, Trap};

use super::engine::{STACK_LIMIT_BYTES, TICK_MS, engine};
use crate::pipeline_file::Limits;

/// What is kept of a sentence that a component says.
const SENTENCE_BYTES_MAX: usize = 1024;

/// The most entries of a rule's table of functions: large programs have ten thousand.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The rule panicked, or did what WebAssembly forbids.
    #[error("it trapped: {0}")]
    Trap(String),
    /// The call took too long.
    #[error("it took more than `limits.call` ({limit_ms} ms)")]
    Time {
        /// The limit.
        limit_ms: u64,
    },
    /// The rule wanted more memory.
    #[error("it wanted more memory than `limits.memory` ({limit_bytes} bytes)")]
    Memory {
        /// The limit.
        limit_bytes: u64,
    },
    /// The rule's calls were too deep.
    #[error("its stack exceeded {limit_bytes} bytes")]
    Stack {
        /// The limit.
        limit_bytes: usize,
    },
    /// The answer was too large.
    #[error("its answer exceeded `limits.output` ({limit_bytes} bytes)")]
    Output {
        /// The limit.
        limit_bytes: u64,
    },
    /// The rule said itself that it cannot.
    #[error("it said: {0}")]
    Refused(String),
    /// The answer contradicts the contract.
    #[error("its answer is wrong: {0}")]
    Answer(String),
    /// A function has another type than in the contract: no instance can be made.
    #[error("its functions do not fit the contract: {0}")]
    Types(String),
}

impl CallError {
    /// The reason in the dead letter of a row on which a rule fails: a closed list.
    pub fn reason(&self) -> &'static str {
        match self {
            CallError::Trap(_) => "rule_trapped",
            CallError::Time { .. } => "rule_too_slow",
            CallError::Memory { .. } => "rule_out_of_memory",
            CallError::Stack { .. } => "rule_stack_overflow",
            CallError::Output { .. } => "rule_answer_too_large",
            CallError::Refused(_) => "rule_refused",
            CallError::Answer(_) | CallError::Types(_) => "rule_answer_wrong",
        }
    }
}

/// What the host keeps beside an instance: its memory limit, and whether it was met.
#[derive(Debug)]
pub struct Guest {
    memory_limit_bytes: usize,
    memory_exceeded: bool,
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired <= self.memory_limit_bytes {
            return Ok(true);
        }
        self.memory_exceeded = true;
        // An error traps at once; a refusal would let the rule go on in whatever way its language knows.
        Err(wasmtime::format_err!("the memory limit is reached"))
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired <= TABLE_ELEMENTS_MAX {
            return Ok(true);
        }
        self.memory_exceeded = true;
        Err(wasmtime::format_err!("the table limit is reached"))
    }
}

/// A new instance. Its start function is its first call.
pub fn start(linked: &InstancePre<Guest>, limits: &Limits) -> Result<(Store<Guest>, Instance), CallError> {
    let engine = engine().map_err(|error| CallError::Trap(error.to_string()))?;
    let memory_limit_bytes = usize::try_from(limits.memory.0).unwrap_or(usize::MAX);
    let mut store = Store::new(engine, Guest { memory_limit_bytes, memory_exceeded: false });
    store.limiter(|guest| guest);
    store.set_hostcall_fuel(usize::try_from(limits.output.0).unwrap_or(usize::MAX));
    let instance = call(&mut store, limits, |store| linked.instantiate(store))?;
    Ok((store, instance))
}

/// One call, under the limits.
pub fn call<T>(
    store: &mut Store<Guest>,
    limits: &Limits,
    call: impl FnOnce(&mut Store<Guest>) -> wasmtime::Result<T>,
) -> Result<T, CallError> {
    store.set_epoch_deadline(ticks(limits.call.0));
    call(store).map_err(|error| failure(&error, store.data(), limits))
}

/// The ticks of the clock in a time; one more, because the first can come at once.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).div_ceil(TICK_MS).saturating_add(1)
}

fn failure(error: &wasmtime::Error, guest: &Guest, limits: &Limits) -> CallError {
    if guest.memory_exceeded {
        return CallError::Memory { limit_bytes: limits.memory.0 };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => {
            CallError::Time { limit_ms: u64::try_from(limits.call.0.as_millis()).unwrap_or(u64::MAX) }
        }
        Some(Trap::StackOverflow) => CallError::Stack { limit_bytes: STACK_LIMIT_BYTES },
        Some(trap) => CallError::Trap(trap.to_string()),
        // wasmtime has no type for it, only this sentence.
        None if format!("{error:#}").contains("fuel allocated for hostcalls") => {
            CallError::Output { limit_bytes: limits.output.0 }
        }
        None => CallError::Trap(cut(format!("{error:#}"))),
    }
}

/// The first 1,024 bytes of a text, whole characters.
pub fn cut(mut text: String) -> String {
    if text.len() > SENTENCE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SENTENCE_BYTES_MAX));
        text.push('…');
    }
    text
}
