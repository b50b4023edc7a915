//! A rule in a lane: the version that decides, and a candidate beside it. Between two batches it follows what the
//! pipeline's [`super::Rules`] say.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::shadow::Shadow;
use super::slot::{Applied, ReadBack, Slot};
use super::warming::Warming;
use super::{Version, Wanted};
use crate::batch::{Batch, RawBatch};
use crate::error::{Error, Result};
use crate::life::{Decided, refused_rows_max};
use crate::pipeline_file::{self, Remember};
use crate::sink::Reading;

/// What the sink can show beside the lane of a partition: these columns.
pub type ReadingOf<'a> = dyn FnMut(i32, &[String]) -> Result<Option<Reading>> + 'a;

/// A rule in a lane.
pub struct Stage {
    rule: pipeline_file::Rule,
    /// The columns before this rule.
    input: SchemaRef,
    version: Arc<Version>,
    live: Slot,
    /// What takes over when it is warm.
    next: Option<Next>,
    shadow: Option<Shadow>,
    /// What the version has decided in this lane since it began, while it is on probation.
    on_probation: Decided,
}

/// A version that is warmed while the one before it decides.
struct Next {
    version: Arc<Version>,
    slot: Slot,
    /// By partition; those whose instance remembers nothing have it already.
    warming: HashMap<i32, Warming>,
}

impl Stage {
    /// A rule whose input has the columns of `input`, and whose version has had its settings.
    pub fn new(rule: &pipeline_file::Rule, version: Arc<Version>, input: &SchemaRef) -> Stage {
        Stage {
            rule: rule.clone(),
            input: Arc::clone(input),
            live: Slot::of_configured(rule, version.component.clone(), input),
            version,
            next: None,
            shadow: None,
            on_probation: Decided::default(),
        }
    }

    /// The version that decides.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The rule's name in the pipeline file.
    pub fn name(&self) -> &str {
        &self.rule.name
    }

    /// The columns after this rule.
    pub fn schema(&self) -> &SchemaRef {
        self.live.schema()
    }

    /// Whether another version should decide.
    pub fn is_another(&self, wanted: &Wanted) -> bool {
        !Arc::ptr_eq(&self.version, &wanted.version)
    }

    /// Begins to run what it should: [`Stage::take_over`] says when.
    pub fn follow(&mut self, wanted: &Wanted) {
        let is_next = |next: &Next| Arc::ptr_eq(&next.version, &wanted.version);
        if !self.is_another(wanted) {
            self.next = None;
        } else if !self.next.as_ref().is_some_and(is_next) {
            let slot = self.slot(&wanted.version);
            self.next = Some(Next { version: Arc::clone(&wanted.version), slot, warming: HashMap::new() });
        }
        let is_same = match (&self.shadow, &wanted.candidate) {
            (Some(shadow), Some(candidate)) => Arc::ptr_eq(&shadow.candidate, candidate),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.shadow = wanted.candidate.as_ref().map(|candidate| {
                let mut slot = self.slot(&candidate.version);
                slot.set_on_trial(true);
                Shadow { candidate: Arc::clone(candidate), slot }
            });
        }
    }

    /// The version that is to take over.
    pub fn next_version(&self) -> Option<&Arc<Version>> {
        self.next.as_ref().map(|next| &next.version)
    }

    /// Begins to warm the next version for the partitions that the current one has. What was written must count. Where the
    /// sink cannot be read beside the lane, the version takes over at once and is warmed with the next batch.
    ///
    /// # Errors
    /// [`Error::Rule`] when no instance can be made, or what the sink fails with.
    pub fn warm_next(&mut self, reading: &mut ReadingOf<'_>, remember: &Remember) -> Result<()> {
        let Some(Next { slot, warming, .. }) = &mut self.next else { return Ok(()) };
        for partition in self.live.partitions() {
            if warming.contains_key(&partition) || slot.has_instance(partition) {
                continue;
            }
            let instance = slot.new_instance()?;
            if !instance.remembers() {
                slot.put(partition, instance);
                continue;
            }
            let Some(reading) = reading(partition, slot.remembered())? else {
                self.replace();
                return Ok(());
            };
            warming.insert(partition, Warming::start(slot.shared_name(), instance, reading, remember)?);
        }
        Ok(())
    }

    /// The lane has written rows of a partition.
    pub fn has_written(&mut self, partition: i32, rows: &RecordBatch) {
        let Some(Next { slot, warming, .. }) = &mut self.next else { return };
        if let Some(of_partition) = warming.get(&partition) {
            of_partition.show(slot.of_remembered(rows));
            if of_partition.is_hopeless() {
                tracing::warn!(
                    rule = self.rule.name,
                    partition,
                    "rows come faster than a new version can be shown those before: the lane will wait for it"
                );
                self.replace();
            }
        }
    }

    /// The next version decides from now on, when it is warm for all partitions. Says whether one is still waited for.
    ///
    /// # Errors
    /// [`Error::Rule`] when it failed while it was warmed, or what reading the sink failed with.
    pub fn take_over(&mut self) -> Result<bool> {
        let Some(Next { slot, warming, .. }) = &self.next else { return Ok(false) };
        let is_ready = |partition: &i32| {
            slot.has_instance(*partition) || warming.get(partition).is_some_and(Warming::is_ready)
        };
        if !self.live.partitions().iter().all(is_ready) {
            return Ok(true);
        }
        if let Some(Next { slot, warming, .. }) = &mut self.next {
            for (partition, of_partition) in warming.drain() {
                slot.put(partition, of_partition.finish()?);
            }
        }
        self.replace();
        Ok(false)
    }

    /// The next version takes the place of the current one, as warm as it is.
    fn replace(&mut self) {
        if let Some(Next { version, slot, .. }) = self.next.take() {
            (self.version, self.live, self.on_probation) = (version, slot, Decided::default());
        }
    }

    /// A slot whose columns stand where those of the version before it stood, whatever order it names them in.
    fn slot(&self, version: &Version) -> Slot {
        let mut slot = Slot::of_configured(&self.rule, version.component.clone(), &self.input);
        slot.keep_schema(self.live.schema());
        slot
    }

    /// The slots, for warming.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut Slot> {
        std::iter::once(&mut self.live).chain(self.shadow.as_mut().map(|shadow| &mut shadow.slot))
    }

    /// Throws the instances of a partition away: another lane or host goes on with it.
    pub fn forget(&mut self, partition: i32) {
        if let Some(Next { slot, warming, .. }) = &mut self.next {
            slot.forget(partition);
            warming.remove(&partition);
        }
        self.slots().for_each(|slot| slot.forget(partition));
    }

    /// Throws all instances away: they have seen rows that do not count.
    pub fn forget_all(&mut self) {
        if let Some(Next { slot, warming, .. }) = &mut self.next {
            slot.forget_all();
            warming.clear();
        }
        self.slots().for_each(Slot::forget_all);
    }

    /// Applies the rule to a batch, and shows the batch to the candidate.
    ///
    /// # Errors
    /// [`Error::Rule`] when the rule fails and it is not its rows' fault: of a version on probation any failure, and
    /// any share of refused rows that is too large.
    pub fn apply(
        &mut self,
        raw: &RawBatch,
        now_ms: i64,
        batch: Batch,
        read_back: &mut ReadBack<'_>,
    ) -> Result<Applied> {
        let partition = raw.partition.number;
        let for_candidate = self.shadow.is_some().then(|| batch.clone());
        let rows = batch.rows.len() as u64;
        self.live.set_on_trial(self.version.is_on_probation());
        let result = self.live.apply(partition, now_ms, batch, read_back);
        let (called_rows, time) = self.live.take_calls();
        let failed_rows = result.as_ref().map_or(1, |applied| applied.failed_rows);
        self.version.tally.add_calls(called_rows, time, failed_rows);
        let applied = result?;
        if self.version.is_on_probation() {
            self.judge(&applied, rows)?;
        }
        if let Some(batch) = for_candidate {
            self.try_candidate(raw, now_ms, batch, &applied, read_back)?;
        }
        Ok(applied)
    }

    /// Whether a version on probation has passed with this batch.
    fn judge(&mut self, applied: &Applied, rows: u64) -> Result<()> {
        let sum = &mut self.on_probation;
        sum.rows += rows;
        sum.dropped += applied.dropped + applied.rejects.len() as u64;
        let most = self.version.refused_max;
        if sum.dropped as f64 > refused_rows_max(sum.rows, most) {
            return Err(Error::Rule {
                rule: self.rule.name.as_str().into(),
                what: format!(
                    "refuses {:.1} % of its first {} rows, and {:.1} % would be the most while it is on probation",
                    sum.refused_share() * 100.0,
                    sum.rows,
                    most * 100.0
                ),
            });
        }
        Ok(())
    }

    /// What the candidate says of the batch. Its failures are its own.
    fn try_candidate(
        &mut self,
        raw: &RawBatch,
        now_ms: i64,
        batch: Batch,
        applied: &Applied,
        read_back: &mut ReadBack<'_>,
    ) -> Result<()> {
        let Some(Shadow { candidate, slot }) = &mut self.shadow else { return Ok(()) };
        let rows = batch.rows.clone();
        let result = slot.apply(raw.partition.number, now_ms, batch, read_back);
        let (called_rows, time) = slot.take_calls();
        let failed_rows = result.as_ref().map_or(1, |applied| applied.failed_rows);
        candidate.version.tally.add_calls(called_rows, time, failed_rows);
        match result {
            Ok(theirs) => candidate.compare(raw, &rows, (&self.live, applied), &theirs),
            Err(Error::Rule { what, .. }) => {
                candidate.fail(what);
                self.shadow = None;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
