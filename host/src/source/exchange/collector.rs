//! The thread of an exchange: asks for the series that are due, and hands what is new to the lane.
//!
//! It is one loop over three things that can happen: the lane wants it to stop, an answer is there, a series is due.
//! Every failure is one series' or one exchange's; nothing here ends the pipeline.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::adapters::{Adapters, Version};
use super::budget::{Budget, Rate};
use super::feed::{self, Heard};
use super::fetch::{Asking, Blame, Failure, Fetched, Wanted};
use super::http::{Http, Reach};
use super::ledger::Counts;
use super::ledgers::{Ledgers, SeriesLedger};
use super::series::{Range, Row, Series, Setback, Settings};
use super::trial::Trial;
use crate::clock::Clock;
use crate::life::Decided;
use crate::pipeline_file;
use crate::state;

/// How often failures are written to the log, at most: a thousand series can fail at once.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// How often the ledgers are counted and kept in their file: a byte a candle is looked at.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// From how many series on the silence of all of them is a gap of the exchange, and not a quiet minute.
const SERIES_THAT_TELL: usize = 5;
/// The longest sleep: the machine's clock may be set meanwhile, and another version of the adapter deployed.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// From how many known candles on, that come again, more than half of them with other values are no corrections.
const CANDLES_THAT_TELL: usize = 2;
/// How often in a row an answer cannot be read before it is the adapter and not the exchange: pages of a firewall pass.
const FAILURES_THAT_TELL: u32 = 3;

/// What the thread of an exchange needs.
#[derive(Clone)]
pub struct Plan {
    /// What the column `source` says.
    pub name: Arc<str>,
    /// The exchange's id.
    pub exchange: String,
    /// The timeframe's name.
    pub timeframe: String,
    /// What its series have in common.
    pub settings: Settings,
    /// Its adapter, as far as this has followed its versions.
    pub adapter: Adapter,
    /// Which hosts may be asked.
    pub reach: Reach,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many requests may be on their way at once.
    pub concurrency: usize,
    /// How often it may be asked.
    pub rate: Rate,
    /// How often the pipeline file says that it may be asked.
    pub budget: Option<pipeline_file::Budget>,
    /// Keeps until when it wants no requests.
    pub file: PathBuf,
    /// Keeps what is known of its series.
    pub ledgers: PathBuf,
    /// Whether to listen to its live feed.
    pub is_live: bool,
    /// The time.
    pub clock: Clock,
}

/// Candles of one series, for the lane.
#[derive(Debug)]
pub struct Delivery {
    /// What the column `source` says.
    pub source: Arc<str>,
    /// The unified symbol.
    pub symbol: Arc<str>,
    /// What the column `timeframe` says.
    pub timeframe: Arc<str>,
    /// The candles, ascending.
    pub rows: Vec<Row>,
}

/// What is shown of an exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Requests that were sent.
    pub requests: u64,
    /// Tasks that failed.
    pub failures: u64,
    /// Until when nothing may be asked, milliseconds since 1970; in the past when it may.
    pub blocked_until_ms: i64,
    /// The states of the last candles of all its series.
    pub counts: Counts,
    /// Candles that came again with other values.
    pub corrected: u64,
    /// Series that have not yet reached the present once.
    pub behind: usize,
}

impl Plan {
    /// What is needed to ask the exchange.
    ///
    /// # Errors
    /// Why there can be no HTTP client.
    pub fn asking(&self) -> Result<Asking, String> {
        Ok(Asking {
            exchange: self.exchange.clone(),
            timeframe: self.timeframe.clone(),
            clock: self.clock,
            instance: Default::default(),
            budget: Budget::new(&self.rate, self.clock, Some(self.file.clone())).into(),
            http: Http::new(self.reach.clone(), self.timeout)?,
            ahead_ms: Default::default(),
            requests: Default::default(),
        })
    }
}

/// A thread's own things.
pub struct Collector {
    plan: Plan,
    /// Which versions of the adapters should run, and which exchange this one is.
    adapters: Arc<Adapters>,
    number: usize,
    generation: u64,
    version: Arc<Version>,
    trial: Option<Trial>,
    timeframe: Arc<str>,
    series: Vec<Series>,
    /// Which series a symbol is.
    index: HashMap<Arc<str>, usize>,
    /// When each series is to be asked for that is not being asked for.
    due: BTreeSet<(i64, usize)>,
    /// Which series have reached the present once, never will, or have failed so often that nobody waits for them.
    is_there: Vec<bool>,
    /// Why there are no candles of a series.
    refused: HashMap<usize, String>,
    to_lane: SyncSender<Delivery>,
    status: Arc<Mutex<Status>>,
    failures: u64,
    complaints: Complaints,
    /// When the ledgers were last kept.
    kept: Option<Instant>,
}

/// Failures since they were last written to the log.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
    since: u64,
}

/// An answer, or none, for a range of a series.
struct Answered {
    index: usize,
    range: Range,
    version: Arc<Version>,
    result: Result<Fetched, Failure>,
}

impl Collector {
    /// Takes series as far as they are known.
    pub fn new(
        plan: Plan,
        (adapters, number): (&Arc<Adapters>, usize),
        series: Vec<Series>,
        to_lane: SyncSender<Delivery>,
        status: Arc<Mutex<Status>>,
    ) -> Collector {
        let due = series.iter().enumerate().map(|(index, series)| (series.due_ms, index)).collect();
        let index =
            series.iter().enumerate().map(|(index, series)| (Arc::clone(&series.symbol), index)).collect();
        let timeframe = plan.timeframe.as_str().into();
        let is_there = vec![false; series.len()];
        let (generation, wanted) = adapters.wanted_of(number);
        let mut plan = plan;
        plan.take(wanted.version.component.clone());
        adapters.has_followed(number, generation);
        Collector {
            plan,
            adapters: Arc::clone(adapters),
            number,
            generation,
            version: wanted.version,
            trial: wanted.candidate.map(Trial::new),
            timeframe,
            series,
            index,
            due,
            is_there,
            refused: HashMap::new(),
            to_lane,
            status,
            failures: 0,
            complaints: Complaints::default(),
            kept: None,
        }
    }

    /// Collects until `stop` changes, the lane is gone, or there can be no HTTP client. Gives the series back, with
    /// what their adapter wants to have back.
    pub fn run(mut self, stop: watch::Receiver<bool>) -> Result<Vec<Series>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no event loop: {error}"))?;
        let asking = self.plan.asking()?;
        runtime.block_on(self.collect(&asking, stop));
        Ok(self.series)
    }

    async fn collect(&mut self, asking: &Asking, mut stop: watch::Receiver<bool>) {
        let mut flying = FuturesUnordered::new();
        let symbols: Vec<Arc<str>> = self.series.iter().map(|series| Arc::clone(&series.symbol)).collect();
        let mut heard = feed::start(&self.plan, &symbols);
        loop {
            if self.follow(asking) {
                heard = feed::start(&self.plan, &symbols);
            }
            while flying.len() < self.plan.concurrency
                && let Some((index, range)) = self.next_due(asking)
            {
                let series = &self.series[index];
                let (symbol, memo) = (Arc::clone(&series.symbol), series.memo.clone());
                let version = Arc::clone(&self.version);
                flying.push(async move {
                    let result = asking.fetch(&version.component, &symbol, range, &memo).await;
                    Answered { index, range, version, result }
                });
            }
            self.show(asking);
            let is_full = flying.len() >= self.plan.concurrency;
            let sleep = if is_full { SLEEP_MAX } else { self.until_due(asking) };
            let goes_on = tokio::select! {
                biased;
                _ = stop.changed() => false,
                Some(answered) = flying.next(), if !flying.is_empty() => self.take(asking, answered),
                Some(heard) = heard.recv() => self.hear(asking, heard),
                () = tokio::time::sleep(sleep) => true,
            };
            if !goes_on {
                break;
            }
        }
        self.adapters.has_left(self.number);
        self.kept = None;
        self.show(asking);
    }

    /// Goes over to the version of the adapter that should run; says whether it is another.
    fn follow(&mut self, asking: &Asking) -> bool {
        if self.adapters.generation() == self.generation {
            return false;
        }
        let (generation, wanted) = self.adapters.wanted_of(self.number);
        self.generation = generation;
        self.trial = match self.trial.take() {
            Some(trial) if wanted.candidate.as_ref().is_some_and(|wanted| trial.is_of(wanted)) => Some(trial),
            _ => wanted.candidate.map(Trial::new),
        };
        let is_another = !Arc::ptr_eq(&self.version, &wanted.version);
        if is_another {
            self.version = wanted.version;
            self.plan.take(self.version.component.clone());
            asking.budget.borrow_mut().set_rate(&self.plan.rate);
            // What the version before has wanted to have back, this one need not understand.
            self.series.iter_mut().for_each(|series| series.memo.clear());
        }
        self.adapters.has_followed(self.number, generation);
        is_another
    }

    /// The next series that is due, and what to ask of it.
    fn next_due(&mut self, asking: &Asking) -> Option<(usize, Range)> {
        let now_ms = asking.now_ms();
        if asking.budget.borrow().blocked_until_ms() > asking.clock.now_ms() {
            return None;
        }
        while let Some((due_ms, index)) = self.due.first().copied() {
            if due_ms > now_ms {
                return None;
            }
            self.due.pop_first();
            let series = &mut self.series[index];
            if let Some(range) = series.wanted(now_ms, &self.plan.settings) {
                return Some((index, range));
            }
            series.rest(now_ms, &self.plan.settings);
            self.is_there[index] = true;
            self.due.insert((series.due_ms, index));
        }
        None
    }

    /// How long there is nothing to do but wait for answers.
    fn until_due(&self, asking: &Asking) -> Duration {
        let clock = asking.clock;
        let blocked_ms = asking.budget.borrow().blocked_until_ms() - clock.now_ms();
        let due_ms = self.due.first().map_or(i64::MAX, |(due_ms, _)| due_ms.saturating_sub(asking.now_ms()));
        clock.real(due_ms.max(blocked_ms).max(1)).min(SLEEP_MAX)
    }

    /// Takes an answer; `false` when the lane is gone.
    fn take(&mut self, asking: &Asking, answered: Answered) -> bool {
        let Answered { index, range, version, result } = answered;
        let is_refused = self
            .fault(index, range, &version, &result)
            .is_some_and(|what| self.adapters.take_back(&self.plan.name, &version, &what, true));
        if is_refused || version.is_taken_back() {
            // The version that should run does the task again.
            self.due.insert((self.series[index].due_ms, index));
            return true;
        }
        count(&version, &result);
        let rows = match result {
            Ok(fetched) => self.take_fetched(asking, index, range, &version, fetched),
            Err(failure) => {
                self.set_back(index, &failure, asking.now_ms());
                Vec::new()
            }
        };
        self.due.insert((self.series[index].due_ms, index));
        let symbol = Arc::clone(&self.series[index].symbol);
        self.deliver(symbol, rows)
    }

    /// What is to be written of an answer.
    fn take_fetched(
        &mut self,
        asking: &Asking,
        index: usize,
        range: Range,
        version: &Arc<Version>,
        fetched: Fetched,
    ) -> Vec<Row> {
        let (now_ms, settings) = (asking.now_ms(), &self.plan.settings);
        let (before, rest) = self.series.split_at_mut(index);
        let Some((series, after)) = rest.split_first_mut() else { return Vec::new() };
        if let Some(trial) = &mut self.trial {
            let wanted = Wanted { symbol: &series.symbol, range, memo: &series.memo };
            trial.compare(asking, &wanted, &fetched);
        }
        let Fetched { candles, memo, unreadable, .. } = fetched;
        if let Some(sentence) = unreadable.first() {
            let more = unreadable.len() - 1;
            tracing::warn!(exchange = %self.plan.name, symbol = %series.symbol, more, "left out: {sentence}");
        }
        if Arc::ptr_eq(version, &self.version) {
            series.memo = memo;
        }
        self.refused.remove(&index);
        let tell = before.len() + after.len() + 1 >= SERIES_THAT_TELL;
        let has_others = |number| !tell || before.iter().chain(&*after).any(|series| series.has(number));
        let rows = series.take(range, &candles, now_ms, settings, &has_others);
        self.is_there[index] |= series.is_there(range, now_ms, settings);
        rows
    }

    /// There is no answer for a series.
    fn set_back(&mut self, index: usize, failure: &Failure, now_ms: i64) {
        let series = &mut self.series[index];
        series.set_back(failure.setback, now_ms);
        let is_no = matches!(failure.setback, Setback::UnknownSymbol | Setback::Refused);
        if is_no || series.is_given_up() {
            self.is_there[index] = true;
            self.refused.insert(index, failure.sentence.clone());
        }
        self.failures += 1;
        self.complaints.add(&self.plan.name, &series.symbol, failure);
    }

    /// What is wrong with an answer of a version on probation, by what was known before it.
    fn fault(
        &self,
        index: usize,
        range: Range,
        version: &Version,
        result: &Result<Fetched, Failure>,
    ) -> Option<String> {
        if !version.is_on_probation() {
            return None;
        }
        let series = &self.series[index];
        let symbol = &series.symbol;
        match result {
            Ok(Fetched { candles, .. }) => {
                let (known, other) = series.differing(range, candles);
                let is_fault = known >= CANDLES_THAT_TELL && other * 2 > known;
                is_fault.then(|| {
                    format!("gives {other} of {known} candles of {symbol} otherwise than they are known, or not at all")
                })
            }
            Err(Failure { blame: Blame::Adapter, sentence, .. }) => {
                Some(format!("fails with {symbol}: {sentence}"))
            }
            Err(Failure { blame: Blame::Unclear, sentence, .. })
                if series.failures() + 1 >= FAILURES_THAT_TELL =>
            {
                Some(format!("has failed {FAILURES_THAT_TELL} times with {symbol}: {sentence}"))
            }
            Err(Failure { setback: Setback::UnknownSymbol | Setback::Refused, sentence, .. })
                if series.has_begun() =>
            {
                Some(format!("has no candles of {symbol}, of which there are some: {sentence}"))
            }
            Err(_) => None,
        }
    }

    /// Takes what comes of the live feed; `false` when the lane is gone.
    fn hear(&mut self, asking: &Asking, heard: Heard) -> bool {
        let (symbol, candle) = match heard {
            Heard::Candle(symbol, candle) => (symbol, candle),
            Heard::Failed(sentence) => {
                let what = format!("fails with the live feed: {sentence}");
                // One that is trusted is listened to again.
                self.adapters.take_back(&self.plan.name, &self.version, &what, true);
                return true;
            }
        };
        let Some(index) = self.index.get(symbol.as_str()).copied() else { return true };
        let series = &mut self.series[index];
        let due = (series.due_ms, index);
        let row = series.hear(candle, asking.now_ms(), &self.plan.settings);
        let symbol = Arc::clone(&series.symbol);
        if self.due.remove(&due) {
            self.due.insert((self.series[index].due_ms, index));
        }
        self.deliver(symbol, row.into_iter().collect())
    }

    fn deliver(&self, symbol: Arc<str>, rows: Vec<Row>) -> bool {
        if rows.is_empty() {
            return true;
        }
        let delivery = Delivery {
            source: Arc::clone(&self.plan.name),
            symbol,
            timeframe: Arc::clone(&self.timeframe),
            rows,
        };
        // Waits while the lane has enough to do: then there is nothing to ask for either.
        self.to_lane.send(delivery).is_ok()
    }

    /// Says how far it is.
    fn show(&mut self, asking: &Asking) {
        if let Ok(mut status) = self.status.lock() {
            status.behind = self.is_there.iter().filter(|is_there| !**is_there).count();
        }
        if self.kept.is_some_and(|kept| kept.elapsed() < KEEP_EVERY) {
            return;
        }
        self.kept = Some(Instant::now());
        let of_series = |(index, series): (usize, &Series)| {
            SeriesLedger::of(series, &self.plan.settings, self.refused.get(&index))
        };
        let ledgers = Ledgers {
            source: self.plan.name.to_string(),
            timeframe: self.plan.timeframe.clone(),
            written_at_ms: asking.clock.now_ms(),
            requests: asking.requests.get(),
            failures: self.failures,
            blocked_until_ms: asking.budget.borrow().blocked_until_ms(),
            series: self.series.iter().enumerate().map(of_series).collect(),
        };
        if let Err(error) = state::replace(&self.plan.ledgers, &ledgers) {
            let file = self.plan.ledgers.display();
            tracing::warn!("cannot keep the ledger in `{file}`: {error}; `tidegate gaps` does not see it");
        }
        let mut counts = Counts::default();
        ledgers.series.iter().for_each(|series| counts.add(series.counts));
        let Ledgers { requests, failures, blocked_until_ms, .. } = ledgers;
        if let Ok(mut status) = self.status.lock() {
            let corrected = self.series.iter().map(|series| series.corrected).sum();
            *status = Status { requests, failures, blocked_until_ms, counts, corrected, ..*status };
        }
    }
}

/// Counts what a version has done with a task.
fn count(version: &Version, result: &Result<Fetched, Failure>) {
    let tally = &version.tally;
    match result {
        Ok(Fetched { candles, way, .. }) => {
            let rows = candles.len() as u64;
            tally.add_calls(rows, way.time, 0);
            tally.add(&Decided { rows, ..Decided::default() });
        }
        Err(failure) if failure.blame != Blame::Exchange => tally.add_calls(0, Duration::ZERO, 1),
        Err(failure) => {
            let why = match failure.setback {
                Setback::UnknownSymbol => "unknown_symbol",
                Setback::Refused => "refused",
                // Of the network, or of the exchange: no business of the adapter.
                Setback::Passing | Setback::Waits => return,
            };
            tally.add(&Decided { rejected: [(why.into(), 1)].into(), ..Decided::default() });
        }
    }
}

impl Complaints {
    fn add(&mut self, exchange: &str, symbol: &str, failure: &Failure) {
        self.since += 1;
        // It is asked for once an hour, and the user's to mend.
        let is_unknown = failure.setback == Setback::UnknownSymbol;
        let is_due = is_unknown || self.last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
        if is_due {
            let others = self.since - 1;
            tracing::warn!(%exchange, %symbol, others, "no candles: {}", failure.sentence);
            *self = Complaints { last: Some(Instant::now()), since: 0 };
        }
    }
}
