//! A rule in a lane: one instance a partition, its memory, and the search for the row that makes it fail.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::filter::FilterBuilder;

use super::columns::{Outcome, text_bytes};
use super::component::{Component, Description};
use super::instance::Instance;
use crate::batch::{Batch, Reject, compact, compacted};
use crate::error::{Error, Result};
use crate::life::{Decided, short};
use crate::pipeline_file::{self, Limits};
use crate::sink::values::READ_BACK_ROWS;
use crate::wasm::CallError;

/// When more rows of one batch make a rule fail, it is not the rows: the pipeline stops instead of emptying itself
/// into the dead letter. Each costs some twenty calls to find.
const POISONOUS_ROWS_MAX: usize = 16;

/// A rule may fail on one row in so many for ever; [`POISONOUS_ROWS_MAX`] rows beyond that share stop the pipeline,
/// however small its batches are.
const DECIDED_A_POISONOUS_ROW: usize = 100;

/// The texts that a rule answers for the parts of a batch may have so many times `limits.output` together: a batch
/// that is a little too large is decided in quarters, and a rule that multiplies a long text is stopped.
const PARTS_OUTPUTS_MAX: u64 = 4;

/// Reads rows back from the sink for a rule that remembers: partition, columns, and whom to show them.
pub type ReadBack<'a> =
    dyn FnMut(i32, &[String], &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> + 'a;

/// A rule in a lane.
pub struct Slot {
    name: Arc<str>,
    component: Component,
    limits: Limits,
    settings: String,
    reasons: Vec<Arc<str>>,
    /// The columns of `remember` that the pipeline has: those that the rule reads, then those it writes.
    remembered: Vec<String>,
    /// The columns after this rule.
    schema: SchemaRef,
    instances: HashMap<i32, Instance>,
    /// Whether a failure ends it, instead of a search for the row that is to blame.
    is_on_trial: bool,
    /// How many decided rows would pay for the rows that made the rule fail; see [`DECIDED_A_POISONOUS_ROW`].
    debt_rows: usize,
    time: Duration,
    rows: u64,
}

/// What a rule has made of a batch.
#[derive(Debug)]
pub struct Applied {
    /// The rows that it kept, with its columns.
    pub kept: Batch,
    /// The rows that it rejected, and those on which it failed.
    pub rejects: Vec<Reject>,
    /// How many rows it dropped.
    pub dropped: u64,
    /// On how many of the rejected rows it failed.
    pub failed_rows: u64,
}

impl Applied {
    /// What was decided of the `rows` that the rule was given.
    pub fn decided(&self, rows: u64) -> Decided {
        let mut decided = Decided { rows, dropped: self.dropped, ..Decided::default() };
        for reject in &self.rejects {
            *decided.rejected.entry(Arc::clone(&reject.reason)).or_default() += 1;
        }
        decided
    }
}

impl Slot {
    /// A rule whose input has the columns of `schema`, with its settings.
    ///
    /// # Errors
    /// [`Error::Files`] when the rule refuses its settings.
    pub fn new(rule: &pipeline_file::Rule, mut component: Component, schema: &SchemaRef) -> Result<Slot> {
        component.configure_for(rule)?;
        Ok(Slot::of_configured(rule, component, schema))
    }

    /// The same for a component that has had its settings already.
    pub fn of_configured(rule: &pipeline_file::Rule, component: Component, schema: &SchemaRef) -> Slot {
        let output = output_schema(schema, &component);
        let description = &component.description;
        let reads = description.reads.iter().map(|column| &column.name);
        let mut remembered: Vec<String> = Vec::new();
        for name in reads.chain(description.writes.iter().map(|(name, _)| name)) {
            if output.column_with_name(name).is_some() && !remembered.contains(name) {
                remembered.push(name.clone());
            }
        }
        Slot {
            name: rule.name.as_str().into(),
            reasons: description.reasons.iter().map(|reason| reason.as_str().into()).collect(),
            settings: serde_json::Value::Object(rule.settings.clone()).to_string(),
            limits: rule.limits.clone(),
            remembered,
            schema: output,
            component,
            instances: HashMap::new(),
            is_on_trial: false,
            debt_rows: 0,
            time: Duration::ZERO,
            rows: 0,
        }
    }

    /// The same without instances.
    pub fn without_instances(&self) -> Slot {
        Slot {
            name: Arc::clone(&self.name),
            component: self.component.clone(),
            limits: self.limits.clone(),
            settings: self.settings.clone(),
            reasons: self.reasons.clone(),
            remembered: self.remembered.clone(),
            schema: Arc::clone(&self.schema),
            instances: HashMap::new(),
            is_on_trial: self.is_on_trial,
            debt_rows: 0,
            time: Duration::ZERO,
            rows: 0,
        }
    }

    /// The rule's name in the pipeline file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the rule says about itself.
    pub fn description(&self) -> &Description {
        &self.component.description
    }

    /// The columns after this rule.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// SHA-256 of the component in hexadecimal.
    pub fn version(&self) -> &str {
        &self.component.sha256
    }

    /// Rows of its calls since this was last asked, and how long the calls took, the border included.
    pub fn take_calls(&mut self) -> (u64, Duration) {
        (std::mem::take(&mut self.rows), std::mem::take(&mut self.time))
    }

    /// Whether a failure on any row is the rule's fault from now on.
    pub fn set_on_trial(&mut self, is_on_trial: bool) {
        self.is_on_trial = is_on_trial;
    }

    /// From now on the columns after this rule are in the order of `schema`, which has the same.
    pub fn keep_schema(&mut self, schema: &SchemaRef) {
        self.schema = Arc::clone(schema);
    }

    /// The rule's name, shared.
    pub fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// The columns that it remembers.
    pub fn remembered(&self) -> &[String] {
        &self.remembered
    }

    /// The partitions that have an instance.
    pub fn partitions(&self) -> Vec<i32> {
        self.instances.keys().copied().collect()
    }

    /// Gives a partition its instance.
    pub fn put(&mut self, partition: i32, instance: Instance) {
        self.instances.insert(partition, instance);
    }

    /// Throws the instance of a partition away: another lane or host goes on with it.
    pub fn forget(&mut self, partition: i32) {
        self.instances.remove(&partition);
    }

    /// Throws all instances away: they have seen rows that do not count.
    pub fn forget_all(&mut self) {
        self.instances.clear();
    }

    /// Throws the instances of all other partitions away.
    pub fn keep_only(&mut self, partitions: &HashSet<i32>) {
        self.instances.retain(|partition, _| partitions.contains(partition));
    }

    /// Shows rows of the sink to the instance of a partition, or to all.
    ///
    /// # Errors
    /// [`Error::Rule`] when it fails.
    pub fn show(&mut self, partition: Option<i32>, rows: &RecordBatch) -> Result<()> {
        let Slot { instances, name, .. } = self;
        let is_meant = |number: &i32| partition.is_none_or(|partition| partition == *number);
        instances
            .iter_mut()
            .filter(|(number, _)| is_meant(number))
            .try_for_each(|(_, instance)| show(name, instance, rows))
    }

    /// Applies the rule to a batch of a partition.
    ///
    /// A batch on which the rule fails is divided until the rows are found that make it fail; they are rejected
    /// with how it failed as the reason.
    ///
    /// # Errors
    /// [`Error::Rule`] when the rule fails on more rows than can be the rows' fault, or on any while it is on trial, or
    /// cannot be started.
    pub fn apply(
        &mut self,
        partition: i32,
        now_ms: i64,
        batch: Batch,
        read_back: &mut ReadBack<'_>,
    ) -> Result<Applied> {
        let rows = batch.rows.len();
        if rows == 0 {
            let columns = self.with_columns(&batch.columns, Vec::new());
            return Ok(Applied {
                kept: Batch { columns, rows: batch.rows },
                rejects: Vec::new(),
                dropped: 0,
                failed_rows: 0,
            });
        }
        let mut division = Division {
            partition,
            now_ms,
            batch: &batch,
            parts: Vec::new(),
            text_bytes: 0,
            poisonous: 0,
            read_back,
        };
        self.decide(&mut division, 0..rows)?;
        if division.poisonous == rows && rows > 1 {
            let last = division.parts.last().and_then(|part| part.rejects.last());
            let detail = last.map_or("", |reject| reject.detail.as_str());
            return Err(self.failure(format!(
                "fails on every row of a batch of {rows}: {detail}; nothing of the batch was written"
            )));
        }
        let mut applied = joined(division.parts, &self.schema).map_err(|error| {
            self.failure(format!(
                "has answered too much for the parts of a batch of {rows} rows to be one batch ({error}); nothing of the \
                 batch was written: give `batch.rows` a smaller number"
            ))
        })?;
        if applied.kept.rows.len() < rows {
            applied.kept.columns = compacted(&applied.kept.columns);
        }
        Ok(applied)
    }

    /// Decides the rows of `range`, as a whole or in ever smaller parts.
    fn decide(&mut self, division: &mut Division<'_, '_>, range: Range<usize>) -> Result<()> {
        let input = division.batch.columns.slice(range.start, range.len());
        let rows = &division.batch.rows[range.clone()];
        let is_part = range.len() < division.batch.rows.len();
        // A slice has the texts of the whole batch, among which is the one on which the rule fails.
        let shown = if is_part { compacted(&input) } else { input.clone() };
        let failure = match self.call(division, &shown)? {
            Ok(mut outcome) => {
                if is_part {
                    // There can be hundreds of parts, each with an answer as large as a batch may have.
                    outcome.columns.iter_mut().for_each(|(_, column)| *column = compact(column));
                    division.text_bytes += text_bytes(&outcome.columns);
                    self.check_parts(division)?;
                }
                self.debt_rows = self.debt_rows.saturating_sub(range.len());
                let part = self.part(&input, rows, outcome)?;
                division.parts.push(part);
                return Ok(());
            }
            Err(failure) => failure,
        };
        if self.is_on_trial {
            return Err(self.failure(format!(
                "failed on a batch of {} rows while it was on trial: {failure}",
                division.batch.rows.len()
            )));
        }
        if range.len() > 1 {
            let middle = range.start + range.len() / 2;
            self.decide(division, range.start..middle)?;
            return self.decide(division, middle..range.end);
        }
        division.poisonous += 1;
        self.debt_rows += DECIDED_A_POISONOUS_ROW;
        let too_often = if division.poisonous > POISONOUS_ROWS_MAX {
            format!("more than {POISONOUS_ROWS_MAX} rows of a batch of {}", division.batch.rows.len())
        } else if self.debt_rows > POISONOUS_ROWS_MAX * DECIDED_A_POISONOUS_ROW {
            format!("more than one row in {DECIDED_A_POISONOUS_ROW} for too long")
        } else {
            tracing::warn!(
                rule = &*self.name,
                version = short(self.version()),
                %failure,
                "a rule failed on a row, which goes to the dead letter"
            );
            let part = self.poisonous_part(&input, rows[0], &failure);
            division.parts.push(part);
            return Ok(());
        };
        Err(self.failure(format!("fails on {too_often}: {failure}; nothing of the batch was written")))
    }

    fn check_parts(&self, division: &Division<'_, '_>) -> Result<()> {
        let limit_bytes = self.limits.output.0.saturating_mul(PARTS_OUTPUTS_MAX);
        if division.text_bytes <= limit_bytes {
            return Ok(());
        }
        Err(self.failure(format!(
            "answers more than {limit_bytes} bytes of text for a batch of {} rows, {PARTS_OUTPUTS_MAX} times its \
             `limits.output`; nothing of the batch was written: make that larger, or `batch.rows` smaller",
            division.batch.rows.len()
        )))
    }

    /// One call. After a failed one the instance is gone.
    fn call(
        &mut self,
        division: &mut Division<'_, '_>,
        input: &RecordBatch,
    ) -> Result<std::result::Result<Outcome, CallError>> {
        let mut instance = match self.instances.remove(&division.partition) {
            Some(instance) => instance,
            None => self.start(division)?,
        };
        let start = Instant::now();
        let answer = instance.transform(&self.component, division.now_ms, input);
        self.time += start.elapsed();
        self.rows += input.num_rows() as u64;
        if answer.is_ok() {
            self.instances.insert(division.partition, instance);
        }
        Ok(answer)
    }

    fn failure(&self, what: String) -> Error {
        Error::Rule { rule: Arc::clone(&self.name), what }
    }

    /// An instance that has been shown nothing.
    pub fn new_instance(&self) -> Result<Instance> {
        Instance::new(&self.component, &self.limits, &self.settings)
            .map_err(|failure| self.failure(format!("failed when an instance was made: {failure}")))
    }

    /// A new instance that remembers what the sink has and what of this batch is already decided.
    fn start(&self, division: &mut Division<'_, '_>) -> Result<Instance> {
        let mut instance = self.new_instance()?;
        if !instance.remembers() {
            return Ok(instance);
        }
        let mut remember = |rows: RecordBatch| show(&self.name, &mut instance, &rows);
        (division.read_back)(division.partition, &self.remembered, &mut remember)?;
        for part in &division.parts {
            let columns = those_of(&self.remembered, &part.kept.columns);
            // As many at once as `read_back` shows, because half a batch in one call would exceed its limits.
            for start in (0..columns.num_rows()).step_by(READ_BACK_ROWS) {
                let rows = READ_BACK_ROWS.min(columns.num_rows() - start);
                remember(compacted(&columns.slice(start, rows)))?;
            }
        }
        Ok(instance)
    }

    fn part(&self, input: &RecordBatch, rows: &[u32], outcome: Outcome) -> Result<Applied> {
        let rejects = (outcome.rejected.into_iter())
            .map(|(row, reason, detail)| Reject {
                row: rows[row as usize],
                rule: Arc::clone(&self.name),
                version: Arc::clone(&self.component.sha256),
                reason: Arc::clone(&self.reasons[reason as usize]),
                detail,
            })
            .collect::<Vec<_>>();
        let columns = self.with_columns(input, outcome.columns);
        let kept = if outcome.dropped == 0 && rejects.is_empty() {
            Batch { columns, rows: rows.to_vec() }
        } else {
            let kept = BooleanArray::new(outcome.kept, None);
            let rows =
                rows.iter().zip(kept.values()).filter(|(_, kept)| *kept).map(|(row, _)| *row).collect();
            Batch { columns: filtered(&columns, &kept), rows }
        };
        Ok(Applied { kept, rejects, dropped: outcome.dropped, failed_rows: 0 })
    }

    fn poisonous_part(&self, input: &RecordBatch, row: u32, failure: &CallError) -> Applied {
        let reject = Reject {
            row,
            rule: Arc::clone(&self.name),
            version: Arc::clone(&self.component.sha256),
            reason: failure.reason().into(),
            detail: failure.to_string(),
        };
        let columns = self.with_columns(&input.slice(0, 0), Vec::new());
        Applied {
            kept: Batch { columns, rows: Vec::new() },
            rejects: vec![reject],
            dropped: 0,
            failed_rows: 1,
        }
    }

    /// The input's columns with the rule's in their places; a column that was not answered stays as it is, and
    /// a new one has no values.
    fn with_columns(&self, input: &RecordBatch, mut answered: Vec<(String, ArrayRef)>) -> RecordBatch {
        let column = |field: &Arc<Field>| {
            if let Some(index) = answered.iter().position(|(name, _)| name == field.name()) {
                return answered.swap_remove(index).1;
            }
            match input.column_by_name(field.name()) {
                Some(column) => Arc::clone(column),
                None => new_null_array(field.data_type(), input.num_rows()),
            }
        };
        let columns = self.schema.fields().iter().map(column).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .expect("lengths and types are the schema's: the answer was checked")
    }
}

/// The columns of rows that have these names.
pub fn those_of(names: &[String], rows: &RecordBatch) -> RecordBatch {
    let indexes: Vec<usize> = names.iter().filter_map(|name| rows.schema_ref().index_of(name).ok()).collect();
    rows.project(&indexes).expect("the indexes are the schema's own")
}

fn show(rule: &Arc<str>, instance: &mut Instance, rows: &RecordBatch) -> Result<()> {
    instance.remember(rows).map_err(|failure| Error::Rule {
        rule: Arc::clone(rule),
        what: format!("failed when it was shown rows: {failure}"),
    })
}

/// Makes the instances of a partition that are missing, with one pass over what the sink has of it for all that
/// remember.
pub fn warm(
    rules: &mut [&mut Slot],
    partition: i32,
    read_back: &mut ReadBack<'_>,
    remembered: &AtomicU64,
) -> Result<()> {
    let start = Instant::now();
    let mut new: Vec<(usize, Instance)> = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    let mut does_remember = false;
    for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| !rule.instances.contains_key(&partition))
    {
        let instance = rule.new_instance()?;
        if instance.remembers() {
            does_remember = true;
            columns.extend(
                rule.remembered.iter().filter(|name| !columns.contains(name)).cloned().collect::<Vec<_>>(),
            );
        }
        new.push((index, instance));
    }
    let (mut rows, mut said) = (0, Instant::now());
    let mut show = |batch: RecordBatch| {
        for (index, instance) in new.iter_mut().filter(|(_, instance)| instance.remembers()) {
            let rule = &rules[*index];
            show(&rule.name, instance, &those_of(&rule.remembered, &batch))?;
        }
        rows += batch.num_rows() as u64;
        remembered.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        if said.elapsed() > Duration::from_secs(1) {
            tracing::info!(partition, rows, "remembering");
            said = Instant::now();
        }
        Ok(())
    };
    if does_remember {
        read_back(partition, &columns, &mut show)?;
    }
    if rows > 0 {
        tracing::info!(partition, rows, ms = start.elapsed().as_millis() as u64, "remembered");
    }
    for (index, instance) in new {
        rules[index].instances.insert(partition, instance);
    }
    Ok(())
}

/// A batch while it is decided.
struct Division<'a, 'r> {
    partition: i32,
    now_ms: i64,
    batch: &'a Batch,
    /// What is decided, in the order of the rows.
    parts: Vec<Applied>,
    /// The texts that were answered for them.
    text_bytes: u64,
    /// How many rows made the rule fail.
    poisonous: usize,
    read_back: &'a mut ReadBack<'r>,
}

/// The columns after a rule: the input's, and at the end what the rule adds.
pub fn output_schema(input: &SchemaRef, component: &Component) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = input.fields().iter().cloned().collect();
    for (name, kind) in &component.description.writes {
        if input.column_with_name(name).is_none() {
            fields.push(Arc::new(Field::new(name, kind.data_type(), true)));
        }
    }
    Arc::new(Schema::new(fields))
}

fn filtered(columns: &RecordBatch, kept: &BooleanArray) -> RecordBatch {
    // Computed once for all columns: most batches have several columns and few gaps.
    let filter = FilterBuilder::new(kept).optimize().build();
    filter.filter_record_batch(columns).expect("as long as the columns")
}

/// The parts of a divided batch as one.
fn joined(mut parts: Vec<Applied>, schema: &SchemaRef) -> std::result::Result<Applied, ArrowError> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let columns = concat_batches(schema, parts.iter().map(|part| &part.kept.columns))?;
    let rows = parts.iter().flat_map(|part| part.kept.rows.iter().copied()).collect();
    Ok(Applied {
        kept: Batch { columns, rows },
        dropped: parts.iter().map(|part| part.dropped).sum(),
        failed_rows: parts.iter().map(|part| part.failed_rows).sum(),
        rejects: parts.into_iter().flat_map(|part| part.rejects).collect(),
    })
}
