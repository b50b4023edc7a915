//! A rule in a lane: the version that decides, and a candidate beside it. Between two batches it follows what the
//! pipeline's [`super::Rules`] say.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::shadow::Shadow;
use super::slot::{Applied, ReadBack, Slot};
use super::warming::{Arrival, Beside};
use super::{Candidate, Version, Wanted};
use crate::batch::{Batch, RawBatch};
use crate::error::{Error, Result};
use crate::life::{Decided, refused_rows_max};
use crate::pipeline_file;

/// What a version of a rule has decided.
#[derive(Clone)]
pub struct OfVersion {
    /// The rule's name in the pipeline file.
    pub rule: Arc<str>,
    /// The version.
    pub version: Arc<Version>,
    /// What it has decided.
    pub decided: Decided,
}

/// A rule in a lane.
pub struct Stage {
    rule: pipeline_file::Rule,
    /// The columns before this rule.
    input: SchemaRef,
    version: Arc<Version>,
    live: Slot,
    /// What takes over when it is ready.
    next: Option<(Arc<Version>, Arrival)>,
    /// What is tried when it is ready.
    next_shadow: Option<(Arc<Candidate>, Arrival)>,
    shadow: Option<Shadow>,
    /// What the version has decided in this lane since it began, while it is on probation.
    on_probation: Decided,
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
            next_shadow: None,
            shadow: None,
            on_probation: Decided::default(),
        }
    }

    /// The version that decides.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The rule's name in the pipeline file.
    pub fn name(&self) -> &Arc<str> {
        self.live.shared_name()
    }

    /// What its version has decided of a batch of so many rows.
    pub fn decided(&self, rows: u64, applied: &Applied) -> OfVersion {
        OfVersion {
            rule: Arc::clone(self.name()),
            version: Arc::clone(&self.version),
            decided: applied.decided(rows),
        }
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
        let is_next = |(next, _): &(Arc<Version>, _)| Arc::ptr_eq(next, &wanted.version);
        if !self.is_another(wanted) {
            self.next = None;
        } else if !self.next.as_ref().is_some_and(is_next) {
            let arrival = Arrival::new(self.slot(&wanted.version), self.live.partitions());
            self.next = Some((Arc::clone(&wanted.version), arrival));
        }
        let is_same = match (self.candidate(), &wanted.candidate) {
            (Some(candidate), Some(wanted)) => Arc::ptr_eq(candidate, wanted),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.shadow = None;
            self.next_shadow = wanted.candidate.as_ref().map(|candidate| {
                let slot = self.slot(&candidate.version);
                // Only for its memory is it worth to be tried with later batches.
                let partitions = match slot.description().remembers {
                    true => self.live.partitions(),
                    false => Vec::new(),
                };
                (Arc::clone(candidate), Arrival::new(slot, partitions))
            });
        }
    }

    /// What is tried, or will be.
    fn candidate(&self) -> Option<&Arc<Candidate>> {
        let next = self.next_shadow.as_ref().map(|(candidate, _)| candidate);
        next.or(self.shadow.as_ref().map(|shadow| &shadow.candidate))
    }

    /// The version that is to take over.
    pub fn next_version(&self) -> Option<&Arc<Version>> {
        self.next.as_ref().map(|(version, _)| version)
    }

    /// Whether something is not ready.
    pub fn is_waiting(&self) -> bool {
        self.next.is_some() || self.next_shadow.is_some()
    }

    fn arrivals(&mut self) -> impl Iterator<Item = &mut Arrival> {
        let next = self.next.as_mut().map(|(_, arrival)| arrival);
        next.into_iter().chain(self.next_shadow.as_mut().map(|(_, arrival)| arrival))
    }

    /// Goes on to make ready what is not, beside the lane.
    ///
    /// # Errors
    /// [`Error::Running`] when a thread cannot be started.
    pub fn warm(&mut self, beside: &mut Beside<'_>) -> Result<()> {
        self.arrivals().try_for_each(|arrival| arrival.warm(beside))
    }

    /// The lane has written rows of a partition.
    pub fn has_written(&mut self, partition: i32, rows: &RecordBatch) {
        self.arrivals().for_each(|arrival| arrival.has_written(partition, rows));
    }

    /// What is ready decides from now on, or is tried.
    ///
    /// # Errors
    /// [`Error::Rule`] when the next version failed while it was made ready.
    pub fn take_over(&mut self) -> Result<()> {
        if let Some((candidate, arrival)) = self.next_shadow.take_if(|(_, arrival)| arrival.is_ready()) {
            self.begin_trial(candidate, arrival)?;
        }
        if let Some((version, arrival)) = self.next.take_if(|(_, arrival)| arrival.is_ready()) {
            arrival.take_place_of(&mut self.live)?;
            (self.version, self.on_probation) = (version, Decided::default());
        }
        Ok(())
    }

    fn begin_trial(&mut self, candidate: Arc<Candidate>, arrival: Arrival) -> Result<()> {
        let mut slot = self.slot(&candidate.version);
        match arrival.take_place_of(&mut slot) {
            Ok(()) => {
                slot.set_on_trial(true);
                self.shadow = Some(Shadow { candidate, slot });
            }
            Err(Error::Rule { what, .. }) => candidate.fail(what),
            Err(error) => return Err(error),
        }
        Ok(())
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
        self.arrivals().for_each(|arrival| arrival.forget(partition));
        self.slots().for_each(|slot| slot.forget(partition));
    }

    /// Throws all instances away: they have seen rows that do not count.
    pub fn forget_all(&mut self) {
        self.arrivals().for_each(Arrival::forget_all);
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
