//! Which versions should run: candidates, trials, probation, and the way back.
//!
//! Whoever changes something (the API, a changed file, a lane whose rule fails) changes what should run; each lane, and
//! the thread of each exchange, follows between two batches. Compiling and checking happen on the thread of whoever asks, so
//! nothing is noticed there of a candidate that is refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::candidate::{Candidate, Comparison};
use super::shelf::{KEPT_MAX, KeptPart, Origin, Record, Shelf};
use super::version::{Calls, Tally, Version, lock};
use super::{Code, Kind, What};
use crate::error::Result;
use crate::lane::{DeployedIn, RunOptions};
use crate::pipeline_file::{Limits, Loaded};
use crate::summary::RuleRun;
use crate::wasm;

/// The rules of a running pipeline, or its exchanges: what is shared by those who run them.
pub struct Lives<K: Kind> {
    /// What is particular to them.
    pub kind: K,
    loaded: Loaded,
    shelf: Shelf,
    /// What should run, each time another number.
    generation: AtomicU64,
    /// The generation that each follower runs.
    followers: Vec<AtomicU64>,
    parts: Mutex<Vec<Life<K::Code>>>,
    /// Held by the one who changes something.
    changing: Mutex<()>,
}

/// What the pipeline file says of a rule, or of an exchange.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// The file of its component.
    pub path: PathBuf,
    /// What its component may use.
    pub limits: Limits,
}

/// A rule or an exchange of a running pipeline.
#[derive(Clone)]
struct Life<C> {
    part: Part,
    /// SHA-256 of the component's file, as it was last looked at.
    file: Arc<str>,
    current: Arc<Version<C>>,
    previous: Option<Arc<Version<C>>>,
    candidate: Option<Arc<Candidate<C>>>,
    /// When the probation of the current version ends, milliseconds since 1970.
    probation_until_ms: Option<i64>,
    /// What is known of the versions, the newest last.
    records: Vec<Record>,
    tallies: Vec<Arc<Tally>>,
    /// How many versions were taken back since the process began.
    taken_back: u64,
    /// The generation in which the current version began.
    began: u64,
}

/// What should run of a rule or an exchange.
pub struct Wanted<C> {
    /// The version that decides.
    pub version: Arc<Version<C>>,
    /// What is tried beside it.
    pub candidate: Option<Arc<Candidate<C>>>,
}

/// Why a change is refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pipeline has no such rule or exchange.
    #[error("the pipeline has no {what} `{name}`; its {what}s are `{known}`")]
    Unknown {
        /// What was asked for.
        what: What,
        /// Its name.
        name: String,
        /// Those that it has.
        known: String,
    },
    /// Another change is under way.
    #[error("another change of this pipeline's {0}s is under way; try again when it has ended")]
    Busy(What),
    /// It is in no state for this.
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

/// A rule or an exchange, for a user of the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PartStatus {
    /// What it is.
    pub what: What,
    /// Its name in the pipeline file.
    pub name: String,
    /// SHA-256 of the version that decides.
    pub current: String,
    /// SHA-256 of the version that `rollback` would bring back.
    pub previous: Option<String>,
    /// Whether the current version decides in all lanes; of an exchange, in its thread.
    pub is_in_all_lanes: bool,
    /// Until when the current version is on probation, milliseconds since 1970.
    pub probation_until_ms: Option<i64>,
    /// What is tried beside it, or was tried last.
    pub candidate: Option<CandidateStatus>,
    /// Its versions, the newest last.
    pub versions: Vec<VersionStatus>,
    /// How many versions were taken back since the process began.
    pub taken_back: u64,
}

/// A candidate, for a user of the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CandidateStatus {
    /// SHA-256 of the component.
    pub sha256: String,
    /// The component's own version.
    pub version: String,
    /// Until when it is tried, milliseconds since 1970.
    pub until_ms: i64,
    /// Whether it still sees batches.
    pub is_running: bool,
    /// Mean time of its calls in nanoseconds a row.
    pub ns_per_row: f64,
    /// Its calls.
    pub calls: Calls,
    /// What it would have decided otherwise.
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// A version, for a user of the API. Of an adapter the rows are candles that it has read, and `rejected` counts tasks
/// without candles.
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
    /// Its calls, also those for rows that do not count.
    pub calls: Calls,
    /// Rows on which it failed, also those that were decided again.
    pub failed_rows: u64,
    /// The longest time that a lane has stood still to go over to it, in microseconds.
    pub pause_us: u64,
}

impl<K: Kind> Lives<K> {
    /// The versions that should run: those of the pipeline file, or what has been deployed since its components changed.
    ///
    /// # Errors
    /// What is wrong with a component, or with the state folder.
    pub fn open(
        kind: K,
        parts: Vec<Part>,
        followers: usize,
        loaded: &Loaded,
        options: &RunOptions,
    ) -> Result<Lives<K>> {
        let (pipeline, instance) = match &options.deployed_in {
            Some(DeployedIn { pipeline, instance }) => (pipeline, instance),
            None => (&loaded.pipeline.name, &options.instance),
        };
        let is_kept = options.deployed_in.is_none();
        let shelf = Shelf::new(&options.state, K::FOLDER, pipeline, instance, is_kept);
        let kept = shelf.read()?.parts;
        let probation = loaded.pipeline.deploy.probation.0;
        let files = Files::default();
        let mut lives = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let kept = kept.get(&part.name);
            let load = |path: &Path, file: wasm::File| kind.load(index, path, file);
            let opened = Life::open(part, K::WHAT, &load, &files, probation, &shelf, kept);
            lives.push(opened.map_err(|error| loaded.redacted(error))?);
        }
        let lives = Lives {
            kind,
            loaded: loaded.clone(),
            shelf,
            generation: AtomicU64::new(0),
            followers: (0..followers).map(|_| AtomicU64::new(0)).collect(),
            parts: Mutex::new(lives),
            changing: Mutex::default(),
        };
        lives.note_changed_files(&kept);
        Ok(lives)
    }

    /// A component that was replaced while the pipeline did not run is a new version too.
    fn note_changed_files(&self, kept: &BTreeMap<String, KeptPart>) {
        let mut parts = lock(&self.parts);
        let has_changed =
            |life: &Life<K::Code>| kept.get(&life.part.name).is_some_and(|kept| *kept.file != *life.file);
        if !parts.iter().any(has_changed) {
            return;
        }
        for life in parts.iter().filter(|life| has_changed(life)) {
            if let Err(refusal) = self.keep(&life.current) {
                tracing::error!(what = %K::WHAT, name = life.part.name, "{refusal}");
            }
        }
        self.write(&mut parts, "at the start");
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        lock(&self.parts).is_empty()
    }

    /// The components of the current versions.
    pub fn running(&self) -> Vec<K::Code> {
        lock(&self.parts).iter().map(|life| life.current.component.clone()).collect()
    }

    /// The generation of what should run. Cheap enough for every batch.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What should run, with its generation.
    pub fn wanted(&self) -> (u64, Vec<Wanted<K::Code>>) {
        let parts = lock(&self.parts);
        let now_ms = now_ms();
        (self.generation(), parts.iter().map(|life| life.wanted(now_ms)).collect())
    }

    /// What should run of one part, with the generation.
    pub fn wanted_of(&self, index: usize) -> (u64, Wanted<K::Code>) {
        let parts = lock(&self.parts);
        (self.generation(), parts[index].wanted(now_ms()))
    }

    /// A follower runs what this generation said.
    pub fn has_followed(&self, follower: usize, generation: u64) {
        self.followers[follower].store(generation, Ordering::Release);
    }

    /// A follower has ended, and keeps nobody waiting.
    pub fn has_left(&self, follower: usize) {
        self.has_followed(follower, u64::MAX);
    }

    /// Checks a candidate and puts it in the place of the current version, or for `shadow` beside it.
    ///
    /// # Errors
    /// Why it is refused; then nothing has changed.
    pub fn deploy(
        &self,
        name: &str,
        bytes: Vec<u8>,
        origin: Origin,
        shadow: Option<Duration>,
    ) -> std::result::Result<(Outcome, Arc<str>), Refusal> {
        let index = self.index(name)?;
        let _change = self.change()?;
        let sha256 = wasm::sha256(&bytes).into();
        self.deploy_one(index, bytes, sha256, origin, shadow)
    }

    fn deploy_one(
        &self,
        index: usize,
        bytes: Vec<u8>,
        sha256: Arc<str>,
        origin: Origin,
        shadow: Option<Duration>,
    ) -> std::result::Result<(Outcome, Arc<str>), Refusal> {
        if *lock(&self.parts)[index].current.sha256() == sha256 {
            return Ok((Outcome::Unchanged, sha256));
        }
        let (component, file) = self.examine(index, bytes, &sha256).map_err(Refusal::Wrong)?;
        let version = Version::trusted(component, origin, now_ms(), file);
        if let Some(time) = shadow {
            let until_ms = now_ms().saturating_add(milliseconds(time));
            let mut parts = lock(&self.parts);
            let version = parts[index].counted(version);
            let name = &parts[index].part.name;
            tracing::info!(what = %K::WHAT, name, version = short(&sha256), "a candidate is tried");
            parts[index].candidate = Some(Arc::new(Candidate::new(version, until_ms)));
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
    pub fn promote(&self, name: &str) -> std::result::Result<Arc<str>, Refusal> {
        let index = self.index(name)?;
        let _change = self.change()?;
        let candidate = lock(&self.parts)[index].candidate.clone();
        let Some(candidate) = candidate else {
            return Err(Refusal::NotNow(format!(
                "the {} `{name}` has no candidate; `tidegate deploy --shadow` tries one",
                K::WHAT
            )));
        };
        if let Some(why) = candidate.comparison().failed {
            return Err(Refusal::NotNow(format!(
                "the candidate of the {} `{name}` has failed: it {why}",
                K::WHAT
            )));
        }
        let tried = &candidate.version;
        let file = tried.file.clone();
        let version = Version::trusted(tried.component.clone(), tried.origin, now_ms(), file)
            .counted_in(Arc::clone(&tried.tally));
        let sha256 = Arc::clone(version.sha256());
        self.put_live(index, version)?;
        Ok(sha256)
    }

    /// Puts the version before the current one in its place again.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn rollback(&self, name: &str) -> std::result::Result<Arc<str>, Refusal> {
        let index = self.index(name)?;
        let _change = self.change()?;
        let mut parts = lock(&self.parts);
        let Some(previous) = parts[index].previous.clone() else {
            return Err(Refusal::NotNow(format!("the {} `{name}` has no version to go back to", K::WHAT)));
        };
        let current = Arc::clone(&parts[index].current);
        self.keep(&current)?;
        previous.trust();
        let sha256 = Arc::clone(previous.sha256());
        self.begin(&mut parts[index], previous, Some(current), None);
        let name = parts[index].part.name.clone();
        tracing::info!(what = %K::WHAT, name, version = short(&sha256), "rolled back");
        self.write(&mut parts, "rolling back");
        Ok(sha256)
    }

    /// Whether a follower for which a version has failed can go on with another: it is not the one any more that should
    /// run, or one was before it, and it is on probation or has decided nothing for this follower.
    pub fn take_back(
        &self,
        name: &str,
        version: &Arc<Version<K::Code>>,
        what: &str,
        has_decided: bool,
    ) -> bool {
        let mut parts = lock(&self.parts);
        let Some(index) = parts.iter().position(|life| life.part.name == name) else { return false };
        if !Arc::ptr_eq(&parts[index].current, version) {
            return true;
        }
        let Some(previous) =
            parts[index].previous.clone().filter(|_| !has_decided || version.is_on_probation())
        else {
            return false;
        };
        tracing::error!(
            what = %K::WHAT,
            name,
            version = short(version.sha256()),
            back_to = short(previous.sha256()),
            "taken back: it {what}"
        );
        version.take_back();
        previous.trust();
        if let Some(record) = parts[index].record(version.sha256()) {
            record.taken_back = Some(what.to_owned());
        }
        parts[index].taken_back += 1;
        self.begin(&mut parts[index], previous, None, None);
        self.write(&mut parts, "taking a version back");
        true
    }

    /// Ends what has lasted long enough: probations and trials.
    pub fn tick(&self) {
        let now_ms = now_ms();
        let mut parts = lock(&self.parts);
        let mut has_changed = false;
        for life in parts.iter_mut() {
            // A version that has decided nothing has proved nothing.
            let is_over = life.probation_until_ms.is_some_and(|until_ms| until_ms <= now_ms);
            if is_over && life.current.tally.decided().rows > 0 {
                life.probation_until_ms = None;
                life.current.trust();
                tracing::info!(
                    what = %K::WHAT, name = life.part.name,
                    version = short(life.current.sha256()),
                    "no longer on probation"
                );
                has_changed = true;
            }
            if life.candidate.as_ref().is_some_and(|candidate| candidate.ends(now_ms)) {
                self.raise();
            }
        }
        if has_changed {
            self.write(&mut parts, "ending a probation");
        }
    }

    /// The names, the files of the components, and how large these may be, for whoever watches them.
    pub fn files(&self) -> Vec<(String, PathBuf, u64)> {
        let file = |Part { name, path, limits }: &Part| (name.clone(), path.clone(), limits.file.0);
        lock(&self.parts).iter().map(|life| file(&life.part)).collect()
    }

    /// Deploys what a component's file has become. A version that was taken back is not tried again.
    ///
    /// # Errors
    /// Why it is refused; the file is not looked at again before it changes.
    pub fn deploy_file(&self, name: &str, bytes: Vec<u8>) -> std::result::Result<Outcome, Refusal> {
        let index = self.index(name)?;
        let _change = self.change()?;
        let sha256: Arc<str> = wasm::sha256(&bytes).into();
        let former = {
            let mut parts = lock(&self.parts);
            let life = &mut parts[index];
            if *life.file == *sha256 {
                return Ok(Outcome::Unchanged);
            }
            if life.record(&sha256).is_some_and(|record| record.taken_back.is_some()) {
                return Err(Refusal::NotNow(
                    "this version was taken back; `tidegate deploy` tries it once more".into(),
                ));
            }
            std::mem::replace(&mut life.file, Arc::clone(&sha256))
        };
        let result = self.deploy_one(index, bytes, sha256, Origin::File, None);
        if result.is_err() {
            // A restart may take what cannot be taken now.
            lock(&self.parts)[index].file = former;
        }
        result.map(|(outcome, _)| outcome)
    }

    /// Their names in the pipeline file.
    pub fn names(&self) -> Vec<String> {
        lock(&self.parts).iter().map(|life| life.part.name.clone()).collect()
    }

    /// All of them, for a user of the API.
    pub fn status(&self) -> Vec<PartStatus> {
        let parts = lock(&self.parts);
        let now_ms = now_ms();
        (parts.iter().enumerate())
            .map(|(index, life)| life.status(K::WHAT, self.followers_of(index), now_ms))
            .collect()
    }

    /// One of them, for a user of the API.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn status_of(&self, name: &str) -> std::result::Result<PartStatus, Refusal> {
        let index = self.index(name)?;
        Ok(lock(&self.parts)[index].status(K::WHAT, self.followers_of(index), now_ms()))
    }

    /// The generations that the followers of a part run.
    fn followers_of(&self, index: usize) -> &[AtomicU64] {
        &self.followers[self.kind.followers(index, self.followers.len())]
    }

    /// What the versions have done, for the summary of a run.
    pub fn runs(&self) -> Vec<RuleRun> {
        let parts = lock(&self.parts);
        let run = |life: &Life<K::Code>, tally: &Arc<Tally>| {
            let decided = tally.decided();
            RuleRun {
                rule: life.part.name.clone(),
                sha256: tally.sha256.to_string(),
                ns_per_row: tally.ns_per_row(),
                rows: decided.rows,
                rejected: decided.rejected.values().sum(),
                dropped: decided.dropped,
            }
        };
        let has_run = |life: &Life<K::Code>, tally: &Arc<Tally>| {
            Arc::ptr_eq(tally, &life.current.tally) || tally.decided().rows > 0
        };
        (parts.iter())
            .flat_map(|life| {
                life.tallies.iter().filter(|tally| has_run(life, tally)).map(|tally| run(life, tally))
            })
            .collect()
    }

    /// How large a component of it may be.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn file_limit_bytes(&self, name: &str) -> std::result::Result<u64, Refusal> {
        let index = self.index(name)?;
        Ok(lock(&self.parts)[index].part.limits.file.0)
    }

    fn index(&self, name: &str) -> std::result::Result<usize, Refusal> {
        let parts = lock(&self.parts);
        parts.iter().position(|life| life.part.name == name).ok_or_else(|| Refusal::Unknown {
            what: K::WHAT,
            name: name.chars().take(64).collect::<String>().escape_debug().to_string(),
            known: parts.iter().map(|life| life.part.name.as_str()).collect::<Vec<_>>().join("`, `"),
        })
    }

    /// One change at a time.
    fn change(&self) -> std::result::Result<std::sync::MutexGuard<'_, ()>, Refusal> {
        match self.changing.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Refusal::Busy(K::WHAT)),
        }
    }

    /// Everything that can be wrong with a candidate, before it has seen a row.
    fn examine(
        &self,
        index: usize,
        bytes: Vec<u8>,
        sha256: &str,
    ) -> std::result::Result<(K::Code, wasm::File), String> {
        let Part { name, limits, .. } = lock(&self.parts)[index].part.clone();
        let path = PathBuf::from(format!("{name} ({})", short(sha256)));
        let file = match self.file(sha256) {
            Some(file) => Ok(file),
            None => wasm::of_bytes(&path, bytes.into(), &limits),
        };
        let examined =
            file.and_then(|file| self.kind.load(index, &path, file.clone()).map(|code| (code, file)));
        let (code, file) = examined.map_err(|error| self.loaded.redact(&error.to_string()))?;
        self.kind.check(index, &file, &code, &self.running())?;
        Ok((code, file))
    }

    /// A file that runs somewhere already: exchanges often share their adapter, which can have 100 MB.
    fn file(&self, sha256: &str) -> Option<wasm::File> {
        let parts = lock(&self.parts);
        let mut versions =
            parts.iter().flat_map(|life| [Some(&life.current), life.previous.as_ref()]).flatten();
        versions.find(|version| **version.sha256() == *sha256).map(|version| version.file.clone())
    }

    /// Keeps a version and makes it the current one, on probation.
    fn put_live(&self, index: usize, version: Version<K::Code>) -> std::result::Result<(), Refusal> {
        let probation = self.loaded.pipeline.deploy.probation.0;
        let mut parts = lock(&self.parts);
        let life = &mut parts[index];
        self.keep(&life.current)?;
        self.keep(&version)?;
        // What was never trusted is not what to go back to.
        let previous = match life.previous.clone() {
            Some(previous) if life.current.is_on_probation() => previous,
            _ => Arc::clone(&life.current),
        };
        let mut version = life.counted(version);
        let mut until_ms = None;
        if !probation.is_zero() {
            let share = previous.tally.decided().refused_share();
            version = version.on_probation(share + self.loaded.pipeline.deploy.refused);
            until_ms = Some(now_ms().saturating_add(milliseconds(probation)));
        }
        let (record, sha256) = (Record::of(&version), Arc::clone(version.sha256()));
        let former = life.clone();
        life.records.retain(|known| *known.sha256 != *sha256);
        life.records.push(record);
        life.trim();
        let name = life.part.name.clone();
        self.begin(life, Arc::new(version), Some(previous), until_ms);
        if let Err(sentence) = self.shelf.write(kept(&parts)) {
            parts[index] = former;
            self.raise();
            return Err(Refusal::Unkept(sentence));
        }
        let life = &mut parts[index];
        if life.candidate.as_ref().is_some_and(|candidate| *candidate.version.sha256() == sha256) {
            life.candidate = None;
            self.raise();
        }
        self.shelf.tidy(&kept(&parts));
        tracing::info!(what = %K::WHAT, name, version = short(&sha256), "deployed");
        Ok(())
    }

    /// Keeps a component.
    fn keep(&self, version: &Version<K::Code>) -> std::result::Result<(), Refusal> {
        self.shelf.keep(version.sha256(), &version.file.bytes).map_err(Refusal::Unkept)
    }

    /// From the next batches on, `current` decides.
    fn begin(
        &self,
        life: &mut Life<K::Code>,
        current: Arc<Version<K::Code>>,
        previous: Option<Arc<Version<K::Code>>>,
        probation_until_ms: Option<i64>,
    ) {
        life.current = current;
        life.previous = previous;
        life.probation_until_ms = probation_until_ms;
        life.began = self.raise();
    }

    fn raise(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Keeps what is known, where what has happened cannot be undone.
    fn write(&self, parts: &mut [Life<K::Code>], when: &str) {
        if let Err(sentence) = self.shelf.write(kept(parts)) {
            tracing::error!("{when}: {sentence}");
        }
    }
}

impl<C: Code> Life<C> {
    fn open(
        part: Part,
        what: What,
        load: &dyn Fn(&Path, wasm::File) -> Result<C>,
        files: &Files,
        probation: Duration,
        shelf: &Shelf,
        kept: Option<&KeptPart>,
    ) -> Result<Life<C>> {
        let Part { name, path, limits } = &part;
        let file = files.open(path, || wasm::open(path, limits));
        let (file, file_sha256) = match (file, kept) {
            (Ok(file), _) => {
                let sha256 = Arc::clone(&file.sha256);
                (Some(file), sha256)
            }
            // What ran before can go on without it.
            (Err(error), Some(kept)) => {
                tracing::warn!(%what, name, "{error}; {} runs in its place", short(&kept.current));
                (None, kept.file.as_str().into())
            }
            (Err(error), None) => return Err(error),
        };
        let version = |file: wasm::File, path: &Path, origin: Origin, since_ms: i64| -> Result<Version<C>> {
            Ok(Version::trusted(load(path, file.clone())?, origin, since_ms, file))
        };
        let kept_version = |sha256: &str| -> Result<Version<C>> {
            let file = files.open(&shelf.component(sha256), || shelf.open(sha256, limits))?;
            let record = kept.iter().flat_map(|kept| &kept.versions).find(|record| record.sha256 == sha256);
            let (origin, since_ms) =
                record.map_or((Origin::Api, now_ms()), |record| (record.origin, record.since_ms));
            version(file, &shelf.component(sha256), origin, since_ms)
        };
        let before = |sha256: &str| {
            kept_version(sha256)
                .inspect_err(|error| tracing::warn!(%what, name, "no version to go back to: {error}"))
                .ok()
        };
        let of_file = |file: Option<wasm::File>| -> Result<Version<C>> {
            let Some(file) = file else { return kept_version(&file_sha256) };
            version(file, path, Origin::File, now_ms())
        };
        let mut records = kept.map_or_else(Vec::new, |kept| kept.versions.clone());
        let was_taken_back = |sha256: &str| {
            records.iter().any(|record| record.sha256 == sha256 && record.taken_back.is_some())
        };
        let (current, previous, probation_until_ms) = match kept {
            None => (of_file(file)?, None, None),
            // Nothing has changed since, or what has changed was tried already and is no good.
            Some(kept) if *kept.file == *file_sha256 || was_taken_back(&file_sha256) => {
                if was_taken_back(&file_sha256) {
                    tracing::warn!(
                        %what,
                        name,
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
                let until_ms = now_ms().saturating_add(milliseconds(probation));
                (of_file(file)?, previous, (!probation.is_zero()).then_some(until_ms))
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
        let mut opened = Life {
            part,
            file: file_sha256,
            current: Arc::new(current),
            previous: previous.map(Arc::new),
            candidate: None,
            probation_until_ms,
            records,
            tallies,
            taken_back: 0,
            began: 0,
        };
        opened.trim();
        Ok(opened)
    }

    fn wanted(&self, now_ms: i64) -> Wanted<C> {
        Wanted {
            version: Arc::clone(&self.current),
            candidate: self.candidate.clone().filter(|candidate| candidate.is_running(now_ms)),
        }
    }

    /// A version that goes on counting where the same content has counted before.
    fn counted(&mut self, version: Version<C>) -> Version<C> {
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
            let version = |version: &Arc<Version<C>>| &**version.sha256() == sha256;
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

    fn status(&self, what: What, followers: &[AtomicU64], now_ms: i64) -> PartStatus {
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
                calls: tally.map(|tally| tally.calls()).unwrap_or_default(),
                failed_rows: tally.map_or(0, |tally| tally.failed_rows()),
                pause_us: tally.map_or(0, |tally| tally.pause_us()),
            }
        };
        let candidate = |candidate: &Arc<Candidate<C>>| CandidateStatus {
            sha256: candidate.version.sha256().to_string(),
            version: candidate.version.component.version().to_owned(),
            until_ms: candidate.until_ms,
            is_running: candidate.is_running(now_ms),
            ns_per_row: candidate.version.tally.ns_per_row(),
            calls: candidate.version.tally.calls(),
            comparison: candidate.comparison(),
        };
        PartStatus {
            what,
            name: self.part.name.clone(),
            current: self.current.sha256().to_string(),
            previous: self.previous.as_ref().map(|previous| previous.sha256().to_string()),
            is_in_all_lanes: followers.iter().all(|follower| follower.load(Ordering::Acquire) >= self.began),
            probation_until_ms: self.probation_until_ms,
            candidate: self.candidate.as_ref().map(candidate),
            versions: self.records.iter().map(version).collect(),
            taken_back: self.taken_back,
        }
    }
}

impl Record {
    fn of<C: Code>(version: &Version<C>) -> Record {
        Record {
            sha256: version.sha256().to_string(),
            version: version.component.version().to_owned(),
            origin: version.origin,
            since_ms: version.since_ms,
            taken_back: None,
        }
    }
}

/// What the shelf keeps of them.
fn kept<C: Code>(parts: &[Life<C>]) -> BTreeMap<String, KeptPart> {
    let kept = |life: &Life<C>| KeptPart {
        file: life.file.to_string(),
        current: life.current.sha256().to_string(),
        previous: life.previous.as_ref().map(|previous| previous.sha256().to_string()),
        probation_until_ms: life.probation_until_ms,
        versions: life.records.clone(),
    };
    parts.iter().map(|life| (life.part.name.clone(), kept(life))).collect()
}

/// Files that were opened, each once: parts can have the same.
#[derive(Default)]
struct Files {
    opened: RefCell<HashMap<PathBuf, wasm::File>>,
}

impl Files {
    fn open(&self, path: &Path, open: impl FnOnce() -> Result<wasm::File>) -> Result<wasm::File> {
        if let Some(file) = self.opened.borrow().get(path) {
            return Ok(file.clone());
        }
        let file = open()?;
        self.opened.borrow_mut().insert(path.into(), file.clone());
        Ok(file)
    }
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
