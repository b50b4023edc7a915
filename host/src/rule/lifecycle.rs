//! The life of a pipeline's rules: candidates, trials, probation, and the way back.
//!
//! Whoever changes something (the API, a changed file, a lane whose rule fails) changes what the lanes should run;
//! each lane follows between two batches. Compiling and checking happen on the thread of whoever asks, so the lanes
//! notice nothing of a candidate that is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::component::Component;
use super::fit;
use super::fixture;
use super::shadow::{Candidate, Comparison};
use super::shelf::{KEPT_MAX, KeptRule, Origin, Record, Shelf};
use super::slot::{Slot, output_schema};
use super::stage::{Stage, Wanted};
use super::version::{Tally, Version, lock};
use crate::decode::Decoder;
use crate::error::Result;
use crate::lane::{self, RunOptions};
use crate::pipeline_file::{self, Loaded};
use crate::summary::RuleRun;
use crate::wasm;

/// The rules of a running pipeline, which its lanes share.
pub struct Rules {
    loaded: Loaded,
    shelf: Shelf,
    /// The columns before each rule, and after the last.
    schemas: Vec<SchemaRef>,
    /// What the lanes should run, each time another number.
    generation: AtomicU64,
    /// The generation that each lane runs.
    lanes: Vec<AtomicU64>,
    rules: Mutex<Vec<Rule>>,
    /// Held by the one who changes something.
    changing: Mutex<()>,
}

/// A rule of a running pipeline.
#[derive(Clone)]
struct Rule {
    name: String,
    /// The file of the component that the pipeline file names.
    path: PathBuf,
    /// SHA-256 of that file, as it was last looked at.
    file: Arc<str>,
    current: Arc<Version>,
    previous: Option<Arc<Version>>,
    candidate: Option<Arc<Candidate>>,
    /// When the probation of the current version ends, milliseconds since 1970.
    probation_until_ms: Option<i64>,
    /// What is known of the versions, the newest last.
    records: Vec<Record>,
    tallies: Vec<Arc<Tally>>,
    /// The generation in which the current version began.
    began: u64,
}

/// Why a change is refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pipeline has no such rule.
    #[error("the pipeline has no rule `{rule}`; its rules are `{known}`")]
    Unknown {
        /// What was asked for.
        rule: String,
        /// Those that it has.
        known: String,
    },
    /// Another change is under way.
    #[error("another change of this pipeline's rules is under way; try again when it has ended")]
    Busy,
    /// The rule is in no state for this.
    #[error("{0}")]
    NotNow(String),
    /// The candidate is wrong.
    #[error("{0}")]
    Wrong(String),
    /// The state folder cannot be written.
    #[error("{0}")]
    Unkept(String),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The lanes go over to the version with their next batches.
    Deployed,
    /// The candidate is tried beside the version that decides.
    Shadowed,
    /// The same content decides already: nothing has changed.
    Unchanged,
}

/// A rule, for a user of the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RuleStatus {
    /// Its name in the pipeline file.
    pub rule: String,
    /// SHA-256 of the version that decides.
    pub current: String,
    /// SHA-256 of the version that `rollback` would bring back.
    pub previous: Option<String>,
    /// Whether the current version decides in all lanes.
    pub is_in_all_lanes: bool,
    /// Until when the current version is on probation, milliseconds since 1970.
    pub probation_until_ms: Option<i64>,
    /// What is tried beside it, or was tried last.
    pub candidate: Option<CandidateStatus>,
    /// Its versions, the newest last.
    pub versions: Vec<VersionStatus>,
}

/// A candidate, for a user of the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CandidateStatus {
    /// SHA-256 of the component.
    pub sha256: String,
    /// The rule's own version.
    pub version: String,
    /// Until when it is tried, milliseconds since 1970.
    pub until_ms: i64,
    /// Whether it still sees batches.
    pub is_running: bool,
    /// Mean time of its calls in nanoseconds a row.
    pub ns_per_row: f64,
    /// What it would have decided otherwise.
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// A version, for a user of the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionStatus {
    /// What is known of it.
    #[serde(flatten)]
    pub record: Record,
    /// Rows that it has decided since the process began, and that count.
    pub rows: u64,
    /// Rows that it has rejected, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Rows that it has dropped.
    pub dropped: u64,
    /// Mean time of its calls in nanoseconds a row.
    pub ns_per_row: f64,
    /// Rows on which it failed, also those that were decided again.
    pub failed_rows: u64,
    /// The longest time that a lane has stood still to go over to it, in microseconds.
    pub pause_us: u64,
}

impl Rules {
    /// The rules that should run: those of the pipeline file, or what has been deployed since its components changed.
    ///
    /// # Errors
    /// What is wrong with a component, with the state folder, or with how rules fit the columns and each other.
    pub fn open(loaded: &Loaded, options: &RunOptions) -> Result<Rules> {
        let shelf = Shelf::new(&options.state, &loaded.pipeline.name, &options.instance);
        let kept = shelf.read()?.rules;
        let mut rules = Vec::new();
        for rule in &loaded.pipeline.rules {
            let opened = Rule::open(rule, loaded, options, &shelf, kept.get(&rule.name));
            rules.push(opened.map_err(|error| loaded.redacted(error))?);
        }
        let decoder = Decoder::new(&loaded.pipeline.decode)?;
        let components: Vec<Component> = rules.iter().map(|rule| rule.current.component.clone()).collect();
        let slots = lane::open_rules(loaded, &components, &decoder)?;
        let schemas =
            std::iter::once(decoder.schema()).chain(slots.iter().map(Slot::schema)).cloned().collect();
        let rules = Rules {
            loaded: loaded.clone(),
            shelf,
            schemas,
            generation: AtomicU64::new(0),
            lanes: (0..loaded.pipeline.lanes).map(|_| AtomicU64::new(0)).collect(),
            rules: Mutex::new(rules),
            changing: Mutex::default(),
        };
        rules.note_changed_files(&kept);
        Ok(rules)
    }

    /// A component that was replaced while the pipeline did not run is a new version too.
    fn note_changed_files(&self, kept: &BTreeMap<String, KeptRule>) {
        let mut rules = lock(&self.rules);
        let has_changed = |rule: &Rule| kept.get(&rule.name).is_some_and(|kept| *kept.file != *rule.file);
        if !rules.iter().any(has_changed) {
            return;
        }
        for rule in rules.iter().filter(|rule| has_changed(rule)) {
            if let Err(refusal) = self.keep(&rule.current) {
                tracing::error!(rule = rule.name, "{refusal}");
            }
        }
        self.write(&mut rules, "at the start");
    }

    /// The columns after all rules.
    pub fn schema(&self) -> &SchemaRef {
        self.schemas.last().expect("there are columns before the first rule")
    }

    /// What a lane runs at first, with its generation.
    pub fn stages(&self, lane: usize) -> (u64, Vec<Stage>) {
        let (generation, wanted) = self.wanted();
        let mut stages = Vec::new();
        for ((rule, wanted), input) in self.loaded.pipeline.rules.iter().zip(wanted).zip(&self.schemas) {
            let mut stage = Stage::new(rule, Arc::clone(&wanted.version), input);
            stage.follow(&wanted);
            stages.push(stage);
        }
        self.has_followed(lane, generation);
        (generation, stages)
    }

    /// The generation of what lanes should run. Cheap enough for every batch.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What lanes should run, with its generation.
    pub fn wanted(&self) -> (u64, Vec<Wanted>) {
        let rules = lock(&self.rules);
        let now_ms = now_ms();
        let wanted = |rule: &Rule| Wanted {
            version: Arc::clone(&rule.current),
            candidate: rule.candidate.clone().filter(|candidate| candidate.is_running(now_ms)),
        };
        (self.generation(), rules.iter().map(wanted).collect())
    }

    /// A lane runs what this generation said.
    pub fn has_followed(&self, lane: usize, generation: u64) {
        self.lanes[lane].store(generation, Ordering::Release);
    }

    /// A lane has ended, and keeps nobody waiting.
    pub fn has_left(&self, lane: usize) {
        self.has_followed(lane, u64::MAX);
    }

    /// Checks a candidate and puts it in the place of the current version, or for `shadow` beside it.
    ///
    /// # Errors
    /// Why it is refused; then nothing has changed.
    pub fn deploy(
        &self,
        rule: &str,
        bytes: Vec<u8>,
        origin: Origin,
        shadow: Option<Duration>,
    ) -> std::result::Result<(Outcome, Arc<str>), Refusal> {
        let index = self.index(rule)?;
        let _change = self.change()?;
        let sha256 = wasm::sha256(&bytes).into();
        self.deploy_one(index, bytes.into(), sha256, origin, shadow)
    }

    fn deploy_one(
        &self,
        index: usize,
        bytes: Arc<[u8]>,
        sha256: Arc<str>,
        origin: Origin,
        shadow: Option<Duration>,
    ) -> std::result::Result<(Outcome, Arc<str>), Refusal> {
        if *lock(&self.rules)[index].current.sha256() == sha256 {
            return Ok((Outcome::Unchanged, sha256));
        }
        let component = self.examine(index, Arc::clone(&bytes), &sha256).map_err(Refusal::Wrong)?;
        let version = Version::trusted(component, origin, now_ms(), bytes);
        if let Some(time) = shadow {
            let until_ms = now_ms().saturating_add(milliseconds(time));
            let mut rules = lock(&self.rules);
            let version = rules[index].counted(version);
            tracing::info!(rule = rules[index].name, version = short(&sha256), "a candidate is tried");
            rules[index].candidate = Some(Arc::new(Candidate::new(version, until_ms)));
            self.raise();
            return Ok((Outcome::Shadowed, sha256));
        }
        self.put_live(index, version)?;
        Ok((Outcome::Deployed, sha256))
    }

    /// Puts the candidate that was tried last in the place of the current version.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn promote(&self, rule: &str) -> std::result::Result<Arc<str>, Refusal> {
        let index = self.index(rule)?;
        let _change = self.change()?;
        let candidate = lock(&self.rules)[index].candidate.clone();
        let Some(candidate) = candidate else {
            return Err(Refusal::NotNow(format!(
                "the rule `{rule}` has no candidate; `tidegate deploy --shadow` tries one"
            )));
        };
        if let Some(why) = candidate.comparison().failed {
            return Err(Refusal::NotNow(format!("the candidate of the rule `{rule}` has failed: it {why}")));
        }
        let tried = &candidate.version;
        let bytes = Arc::clone(&tried.bytes);
        let version = Version::trusted(tried.component.clone(), tried.origin, now_ms(), bytes)
            .counted_in(Arc::clone(&tried.tally));
        let sha256 = Arc::clone(version.sha256());
        self.put_live(index, version)?;
        Ok(sha256)
    }

    /// Puts the version before the current one in its place again.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn rollback(&self, rule: &str) -> std::result::Result<Arc<str>, Refusal> {
        let index = self.index(rule)?;
        let _change = self.change()?;
        let mut rules = lock(&self.rules);
        let Some(previous) = rules[index].previous.clone() else {
            return Err(Refusal::NotNow(format!("the rule `{rule}` has no version to go back to")));
        };
        let current = Arc::clone(&rules[index].current);
        self.keep(&current)?;
        previous.trust();
        let sha256 = Arc::clone(previous.sha256());
        self.begin(&mut rules[index], previous, Some(current), None);
        let name = rules[index].name.clone();
        tracing::info!(rule = name, version = short(&sha256), "rolled back");
        self.write(&mut rules, "rolling back");
        Ok(sha256)
    }

    /// Whether a lane in which `version` of a rule has failed can go on with another: it is not the one any more that
    /// should run, or one was before it, and it is on probation or has decided nothing in this lane.
    pub fn take_back(&self, rule: &str, version: &Arc<Version>, what: &str, has_decided: bool) -> bool {
        let mut rules = lock(&self.rules);
        let Some(index) = rules.iter().position(|known| known.name == rule) else { return false };
        if !Arc::ptr_eq(&rules[index].current, version) {
            return true;
        }
        let Some(previous) =
            rules[index].previous.clone().filter(|_| !has_decided || version.is_on_probation())
        else {
            return false;
        };
        tracing::error!(
            rule,
            version = short(version.sha256()),
            back_to = short(previous.sha256()),
            "taken back: it {what}"
        );
        version.take_back();
        previous.trust();
        if let Some(record) = rules[index].record(version.sha256()) {
            record.taken_back = Some(what.to_owned());
        }
        self.begin(&mut rules[index], previous, None, None);
        self.write(&mut rules, "taking a version back");
        true
    }

    /// Ends what has lasted long enough: probations and trials.
    pub fn tick(&self) {
        let now_ms = now_ms();
        let mut rules = lock(&self.rules);
        let mut has_changed = false;
        for rule in rules.iter_mut() {
            // A version that has decided nothing has proved nothing.
            let is_over = rule.probation_until_ms.is_some_and(|until_ms| until_ms <= now_ms);
            if is_over && rule.current.tally.decided().rows > 0 {
                rule.probation_until_ms = None;
                rule.current.trust();
                tracing::info!(
                    rule = rule.name,
                    version = short(rule.current.sha256()),
                    "no longer on probation"
                );
                has_changed = true;
            }
            if rule.candidate.as_ref().is_some_and(|candidate| candidate.ends(now_ms)) {
                self.raise();
            }
        }
        if has_changed {
            self.write(&mut rules, "ending a probation");
        }
    }

    /// The files of the components, for whoever watches them.
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        lock(&self.rules).iter().map(|rule| (rule.name.clone(), rule.path.clone())).collect()
    }

    /// Deploys what a component's file has become. A version that was taken back is not tried again.
    ///
    /// # Errors
    /// Why it is refused; the file is not looked at again before it changes.
    pub fn deploy_file(&self, rule: &str, bytes: Vec<u8>) -> std::result::Result<Outcome, Refusal> {
        let index = self.index(rule)?;
        let _change = self.change()?;
        let sha256: Arc<str> = wasm::sha256(&bytes).into();
        let former = {
            let mut rules = lock(&self.rules);
            let rule = &mut rules[index];
            if *rule.file == *sha256 {
                return Ok(Outcome::Unchanged);
            }
            if rule.record(&sha256).is_some_and(|record| record.taken_back.is_some()) {
                return Err(Refusal::NotNow(
                    "this version was taken back; `tidegate deploy` tries it once more".into(),
                ));
            }
            std::mem::replace(&mut rule.file, Arc::clone(&sha256))
        };
        let result = self.deploy_one(index, bytes.into(), sha256, Origin::File, None);
        if result.is_err() {
            // A restart may take what cannot be taken now.
            lock(&self.rules)[index].file = former;
        }
        result.map(|(outcome, _)| outcome)
    }

    /// The rules, for a user of the API.
    pub fn status(&self) -> Vec<RuleStatus> {
        let rules = lock(&self.rules);
        let now_ms = now_ms();
        rules.iter().map(|rule| rule.status(&self.lanes, now_ms)).collect()
    }

    /// A rule, for a user of the API.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn status_of(&self, rule: &str) -> std::result::Result<RuleStatus, Refusal> {
        let index = self.index(rule)?;
        Ok(lock(&self.rules)[index].status(&self.lanes, now_ms()))
    }

    /// What the versions have done, for the summary of a run.
    pub fn runs(&self) -> Vec<RuleRun> {
        let rules = lock(&self.rules);
        let run = |rule: &Rule, tally: &Arc<Tally>| {
            let decided = tally.decided();
            RuleRun {
                rule: rule.name.clone(),
                sha256: tally.sha256.to_string(),
                ns_per_row: tally.ns_per_row(),
                rows: decided.rows,
                rejected: decided.rejected.values().sum(),
                dropped: decided.dropped,
            }
        };
        let has_run = |rule: &Rule, tally: &Arc<Tally>| {
            Arc::ptr_eq(tally, &rule.current.tally) || tally.decided().rows > 0
        };
        (rules.iter())
            .flat_map(|rule| {
                rule.tallies.iter().filter(|tally| has_run(rule, tally)).map(|tally| run(rule, tally))
            })
            .collect()
    }

    /// How large a component of a rule may be.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn file_limit_bytes(&self, rule: &str) -> std::result::Result<u64, Refusal> {
        Ok(self.loaded.pipeline.rules[self.index(rule)?].limits.file.0)
    }

    fn index(&self, rule: &str) -> std::result::Result<usize, Refusal> {
        let rules = &self.loaded.pipeline.rules;
        rules.iter().position(|known| known.name == rule).ok_or_else(|| Refusal::Unknown {
            rule: rule.chars().take(64).collect::<String>().escape_debug().to_string(),
            known: rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>().join("`, `"),
        })
    }

    /// One change at a time.
    fn change(&self) -> std::result::Result<std::sync::MutexGuard<'_, ()>, Refusal> {
        match self.changing.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Refusal::Busy),
        }
    }

    /// Everything that can be wrong with a candidate, without a row.
    fn examine(
        &self,
        index: usize,
        bytes: Arc<[u8]>,
        sha256: &str,
    ) -> std::result::Result<Component, String> {
        let rule = &self.loaded.pipeline.rules[index];
        let name = format!("{} ({})", rule.name, short(sha256));
        let path = Path::new(&name);
        let examined = wasm::of_bytes(path, Arc::clone(&bytes), &rule.limits)
            .and_then(|file| Component::of(path, file, &rule.limits))
            .and_then(|mut component| component.configure_for(rule).map(|()| component));
        let component = examined.map_err(|error| self.loaded.redact(&error.to_string()))?;
        self.fits(index, &component)?;
        fixture::run_embedded(&bytes, &component, &rule.limits)?;
        Ok(component)
    }

    /// Whether a candidate reads what is there, and writes the columns that the sink was opened with.
    fn fits(&self, index: usize, component: &Component) -> std::result::Result<(), String> {
        let others: Vec<Component> =
            lock(&self.rules).iter().map(|rule| rule.current.component.clone()).collect();
        let descriptions: Vec<_> = (others.iter().enumerate())
            .map(|(other, current)| {
                Some(if other == index { &component.description } else { &current.description })
            })
            .collect();
        let findings = fit::rules(&self.loaded, &descriptions);
        if !findings.is_empty() {
            return Err(findings
                .iter()
                .map(|finding| finding.message.as_str())
                .collect::<Vec<_>>()
                .join("; "));
        }
        let names = |schema: &SchemaRef| {
            let mut names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            names.sort_unstable();
            names
        };
        let (has, would) =
            (names(&self.schemas[index + 1]), names(&output_schema(&self.schemas[index], component)));
        let missing = |of: &[String], other: &[String]| {
            of.iter().filter(|name| !other.contains(name)).map(|name| format!("`{name}`")).collect::<Vec<_>>()
        };
        let (gone, new) = (missing(&has, &would), missing(&would, &has));
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        let list = |what: &str, names: Vec<String>| {
            if names.is_empty() { String::new() } else { format!(" {what} {}", names.join(", ")) }
        };
        Err(format!(
            "the rule would write other columns than the running pipeline has:{}{}; such a version needs a restart of the \
             pipeline",
            list("without", gone),
            list("with", new)
        ))
    }

    /// Keeps a version and makes it the current one, on probation.
    fn put_live(&self, index: usize, version: Version) -> std::result::Result<(), Refusal> {
        let probation = self.loaded.pipeline.deploy.probation.0;
        let mut rules = lock(&self.rules);
        let rule = &mut rules[index];
        self.keep(&rule.current)?;
        self.keep(&version)?;
        // What was never trusted is not what to go back to.
        let previous = match rule.previous.clone() {
            Some(previous) if rule.current.is_on_probation() => previous,
            _ => Arc::clone(&rule.current),
        };
        let mut version = rule.counted(version);
        let mut until_ms = None;
        if !probation.is_zero() {
            let share = previous.tally.decided().refused_share();
            version = version.on_probation(share + self.loaded.pipeline.deploy.refused);
            until_ms = Some(now_ms().saturating_add(milliseconds(probation)));
        }
        let (record, sha256) = (Record::of(&version), Arc::clone(version.sha256()));
        let former = rule.clone();
        rule.records.retain(|known| *known.sha256 != *sha256);
        rule.records.push(record);
        rule.trim();
        let name = rule.name.clone();
        self.begin(rule, Arc::new(version), Some(previous), until_ms);
        if let Err(sentence) = self.shelf.write(kept(&rules)) {
            rules[index] = former;
            self.raise();
            return Err(Refusal::Unkept(sentence));
        }
        let rule = &mut rules[index];
        if rule.candidate.as_ref().is_some_and(|candidate| *candidate.version.sha256() == sha256) {
            rule.candidate = None;
            self.raise();
        }
        self.shelf.tidy(&kept(&rules));
        tracing::info!(rule = name, version = short(&sha256), "deployed");
        Ok(())
    }

    /// Keeps a component.
    fn keep(&self, version: &Version) -> std::result::Result<(), Refusal> {
        self.shelf.keep(version.sha256(), &version.bytes).map_err(Refusal::Unkept)
    }

    /// From the next batches on, `current` decides.
    fn begin(
        &self,
        rule: &mut Rule,
        current: Arc<Version>,
        previous: Option<Arc<Version>>,
        probation_until_ms: Option<i64>,
    ) {
        rule.current = current;
        rule.previous = previous;
        rule.probation_until_ms = probation_until_ms;
        rule.began = self.raise();
    }

    fn raise(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Keeps what is known, where what has happened cannot be undone.
    fn write(&self, rules: &mut [Rule], when: &str) {
        if let Err(sentence) = self.shelf.write(kept(rules)) {
            tracing::error!("{when}: {sentence}");
        }
    }
}

impl Rule {
    fn open(
        rule: &pipeline_file::Rule,
        loaded: &Loaded,
        options: &RunOptions,
        shelf: &Shelf,
        kept: Option<&KeptRule>,
    ) -> Result<Rule> {
        let path = pipeline_file::component_path(&loaded.folder, &options.guests, &rule.component);
        let file = wasm::open(&path, &rule.limits);
        let (file, file_sha256) = match (file, kept) {
            (Ok(file), _) => {
                let sha256 = Arc::clone(&file.sha256);
                (Some(file), sha256)
            }
            // What ran before can go on without it.
            (Err(error), Some(kept)) => {
                tracing::warn!(rule = rule.name, "{error}; {} runs in its place", short(&kept.current));
                (None, kept.file.as_str().into())
            }
            (Err(error), None) => return Err(error),
        };
        let version = |file: wasm::File, path: &Path, origin: Origin, since_ms: i64| -> Result<Version> {
            let bytes = Arc::clone(&file.bytes);
            let mut component = Component::of(path, file, &rule.limits)?;
            component.configure_for(rule)?;
            Ok(Version::trusted(component, origin, since_ms, bytes))
        };
        let kept_version = |sha256: &str| -> Result<Version> {
            let file = shelf.open(sha256, &rule.limits)?;
            let record = kept.iter().flat_map(|kept| &kept.versions).find(|record| record.sha256 == sha256);
            let (origin, since_ms) =
                record.map_or((Origin::Api, now_ms()), |record| (record.origin, record.since_ms));
            version(file, &shelf.component(sha256), origin, since_ms)
        };
        let before = |sha256: &str| {
            kept_version(sha256)
                .inspect_err(|error| tracing::warn!(rule = rule.name, "no version to go back to: {error}"))
                .ok()
        };
        let of_file = |file: Option<wasm::File>| -> Result<Version> {
            let Some(file) = file else { return kept_version(&file_sha256) };
            version(file, &path, Origin::File, now_ms())
        };
        let mut records = kept.map_or_else(Vec::new, |kept| kept.versions.clone());
        let was_taken_back = |sha256: &str| {
            records.iter().any(|record| record.sha256 == sha256 && record.taken_back.is_some())
        };
        let deploy = &loaded.pipeline.deploy;
        let (current, previous, probation_until_ms) = match kept {
            None => (of_file(file)?, None, None),
            // Nothing has changed since, or what has changed was tried already and is no good.
            Some(kept) if *kept.file == *file_sha256 || was_taken_back(&file_sha256) => {
                if was_taken_back(&file_sha256) {
                    tracing::warn!(
                        rule = rule.name,
                        "`{}` has the version {} that was taken back, and {} runs in its place",
                        path.display(),
                        short(&file_sha256),
                        short(&kept.current)
                    );
                }
                let current =
                    if *kept.current == *file_sha256 { of_file(file)? } else { kept_version(&kept.current)? };
                let previous = kept.previous.as_deref().and_then(before);
                (current, previous, kept.probation_until_ms)
            }
            Some(kept) => {
                let previous = before(&kept.current);
                let until_ms = now_ms().saturating_add(milliseconds(deploy.probation.0));
                (of_file(file)?, previous, (!deploy.probation.0.is_zero()).then_some(until_ms))
            }
        };
        let current = match probation_until_ms {
            // What the version before it refused is known to the process before only.
            Some(_) if previous.is_some() => current.on_probation(1.0),
            _ => current,
        };
        records.retain(|record| *record.sha256 != **current.sha256());
        records.push(Record::of(&current));
        let mut tallies: Vec<Arc<Tally>> =
            previous.iter().map(|previous| Arc::clone(&previous.tally)).collect();
        tallies.push(Arc::clone(&current.tally));
        let mut opened = Rule {
            name: rule.name.clone(),
            path,
            file: file_sha256,
            current: Arc::new(current),
            previous: previous.map(Arc::new),
            candidate: None,
            probation_until_ms,
            records,
            tallies,
            began: 0,
        };
        opened.trim();
        Ok(opened)
    }

    /// A version that goes on counting where the same content has counted before.
    fn counted(&mut self, version: Version) -> Version {
        match self.tallies.iter().find(|tally| tally.sha256 == *version.sha256()) {
            Some(tally) => version.counted_in(Arc::clone(tally)),
            None => {
                self.tallies.push(Arc::clone(&version.tally));
                version
            }
        }
    }

    fn record(&mut self, sha256: &str) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.sha256 == sha256)
    }

    /// Forgets the oldest versions that are too many.
    fn trim(&mut self) {
        let needed = |sha256: &str| {
            let version = |version: &Arc<Version>| &**version.sha256() == sha256;
            version(&self.current)
                || self.previous.as_ref().is_some_and(version)
                || self.candidate.as_ref().is_some_and(|candidate| &**candidate.version.sha256() == sha256)
        };
        while self.records.len() > KEPT_MAX {
            let Some(oldest) = self.records.iter().position(|record| !needed(&record.sha256)) else { break };
            self.records.remove(oldest);
        }
        let known = |sha256: &str| self.records.iter().any(|record| record.sha256 == sha256);
        while self.tallies.len() > KEPT_MAX {
            let Some(oldest) =
                self.tallies.iter().position(|tally| !needed(&tally.sha256) && !known(&tally.sha256))
            else {
                break;
            };
            self.tallies.remove(oldest);
        }
    }

    fn status(&self, lanes: &[AtomicU64], now_ms: i64) -> RuleStatus {
        let version = |record: &Record| {
            let tally = self.tallies.iter().find(|tally| *tally.sha256 == *record.sha256);
            let decided = tally.map(|tally| tally.decided()).unwrap_or_default();
            VersionStatus {
                record: record.clone(),
                rows: decided.rows,
                rejected: (decided.rejected.iter())
                    .map(|(reason, rows)| (reason.to_string(), *rows))
                    .collect(),
                dropped: decided.dropped,
                ns_per_row: tally.map_or(0.0, |tally| tally.ns_per_row()),
                failed_rows: tally.map_or(0, |tally| tally.failed_rows()),
                pause_us: tally.map_or(0, |tally| tally.pause_us()),
            }
        };
        let candidate = |candidate: &Arc<Candidate>| CandidateStatus {
            sha256: candidate.version.sha256().to_string(),
            version: candidate.version.component.description.version.clone(),
            until_ms: candidate.until_ms,
            is_running: candidate.is_running(now_ms),
            ns_per_row: candidate.version.tally.ns_per_row(),
            comparison: candidate.comparison(),
        };
        RuleStatus {
            rule: self.name.clone(),
            current: self.current.sha256().to_string(),
            previous: self.previous.as_ref().map(|previous| previous.sha256().to_string()),
            is_in_all_lanes: lanes.iter().all(|lane| lane.load(Ordering::Acquire) >= self.began),
            probation_until_ms: self.probation_until_ms,
            candidate: self.candidate.as_ref().map(candidate),
            versions: self.records.iter().map(version).collect(),
        }
    }
}

impl Record {
    fn of(version: &Version) -> Record {
        Record {
            sha256: version.sha256().to_string(),
            version: version.component.description.version.clone(),
            origin: version.origin,
            since_ms: version.since_ms,
            taken_back: None,
        }
    }
}

/// What the shelf keeps of the rules.
fn kept(rules: &[Rule]) -> BTreeMap<String, KeptRule> {
    let kept = |rule: &Rule| KeptRule {
        file: rule.file.to_string(),
        current: rule.current.sha256().to_string(),
        previous: rule.previous.as_ref().map(|previous| previous.sha256().to_string()),
        probation_until_ms: rule.probation_until_ms,
        versions: rule.records.clone(),
    };
    rules.iter().map(|rule| (rule.name.clone(), kept(rule))).collect()
}

/// As much of a hash as tells versions apart for a person.
pub fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
