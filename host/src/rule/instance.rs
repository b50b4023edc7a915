//! One instance of a rule: its calls, under limits. After any failed call the instance is thrown away.

use std::time::Duration;

use arrow_array::RecordBatch;
use wasmtime::{ResourceLimiter, Store, Trap};

use super::bindings::exports::tidegate::rule::rule as wire;
use super::bindings::{TidegateRule, TidegateRulePre};
use super::columns::{self, Outcome};
use super::component::Component;
use super::engine::{STACK_LIMIT_BYTES, TICK_MS, engine};
use crate::pipeline_file::Limits;

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

/// One instance of a rule.
pub struct Instance {
    store: Store<Guest>,
    rule: TidegateRule,
    limits: Limits,
    remembers: bool,
}

/// Asks a component what it is.
pub fn describe(linked: &TidegateRulePre<Guest>, limits: &Limits) -> Result<wire::Description, CallError> {
    Instance::start(linked, limits)?.call(|rule, store| rule.tidegate_rule_rule().call_describe(store))
}

impl Instance {
    /// A new instance with its settings.
    pub fn new(component: &Component, limits: &Limits, settings: &str) -> Result<Instance, CallError> {
        let mut instance = Instance::start(&component.linked, limits)?;
        instance.remembers = instance
            .call(|rule, store| rule.tidegate_rule_rule().call_configure(store, settings))?
            .map_err(|sentence| CallError::Refused(columns::cut(sentence)))?;
        Ok(instance)
    }

    fn start(linked: &TidegateRulePre<Guest>, limits: &Limits) -> Result<Instance, CallError> {
        let engine = engine().map_err(|error| CallError::Trap(error.to_string()))?;
        let memory_limit_bytes = usize::try_from(limits.memory.0).unwrap_or(usize::MAX);
        let mut store = Store::new(engine, Guest { memory_limit_bytes, memory_exceeded: false });
        store.limiter(|guest| guest);
        store.set_epoch_deadline(ticks(limits.call.0));
        store.set_hostcall_fuel(usize::try_from(limits.output.0).unwrap_or(usize::MAX));
        let instance = (linked.instance_pre().instantiate(&mut store))
            .map_err(|error| failure(&error, store.data(), limits))?;
        let rule = TidegateRule::new(&mut store, &instance)
            .map_err(|error| CallError::Types(columns::cut(format!("{error:#}"))))?;
        Ok(Instance { store, rule, limits: limits.clone(), remembers: false })
    }

    /// Whether it keeps anything between calls.
    pub fn remembers(&self) -> bool {
        self.remembers
    }

    /// Decides a batch, which has the columns that the rule reads. The answer is checked.
    pub fn transform(
        &mut self,
        component: &Component,
        now_ms: i64,
        batch: &RecordBatch,
    ) -> Result<Outcome, CallError> {
        let names = component.description.reads.iter().map(|column| column.name.as_str());
        let answer = columns::lend(batch, names, |batch| {
            self.call(|rule, store| rule.tidegate_rule_rule().call_transform(store, now_ms, batch))
        })?;
        let outcome = answer.map_err(|sentence| CallError::Refused(columns::cut(sentence)))?;
        let outcome =
            columns::check(outcome, &component.description, batch.num_rows()).map_err(CallError::Answer)?;
        // One text in many rows is short in the answer, and long in the lines of a sink.
        let limit_bytes = self.limits.output.0;
        if columns::texts_exceed(&outcome.columns, limit_bytes) {
            return Err(CallError::Output { limit_bytes });
        }
        Ok(outcome)
    }

    /// Shows the rule rows that the pipeline has written: the columns that it reads and writes.
    pub fn remember(&mut self, batch: &RecordBatch) -> Result<(), CallError> {
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        columns::lend(batch, names, |batch| {
            self.call(|rule, store| rule.tidegate_rule_rule().call_remember(store, batch))
        })
    }

    /// One call, under the limits.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&TidegateRule, &mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        self.store.set_epoch_deadline(ticks(self.limits.call.0));
        call(&self.rule, &mut self.store).map_err(|error| failure(&error, self.store.data(), &self.limits))
    }
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
        None => CallError::Trap(columns::cut(format!("{error:#}"))),
    }
}
