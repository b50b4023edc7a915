//! One instance of a rule: its calls, under limits. After any failed call the instance is thrown away.

use arrow_array::RecordBatch;
use wasmtime::Store;

use super::bindings::exports::tidegate::rule::rule as wire;
use super::bindings::{TidegateRule, TidegateRulePre};
use super::columns::{self, Outcome};
use super::component::Component;
use crate::pipeline_file::Limits;
use crate::wasm::{self, CallError, Guest, cut};

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
            .map_err(|sentence| CallError::Refused(cut(sentence)))?;
        Ok(instance)
    }

    fn start(linked: &TidegateRulePre<Guest>, limits: &Limits) -> Result<Instance, CallError> {
        let (mut store, instance) = wasm::start(linked.instance_pre(), limits)?;
        let rule = TidegateRule::new(&mut store, &instance)
            .map_err(|error| CallError::Types(cut(format!("{error:#}"))))?;
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
        let outcome = answer.map_err(|sentence| CallError::Refused(cut(sentence)))?;
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
        wasm::call(&mut self.store, &self.limits, |store| call(&self.rule, store))
    }
}
