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

use super::adapter::{Adapter, Candle};
use super::budget::{Budget, Rate};
use super::feed;
use super::fetch::{Asking, Failure, Fetched};
use super::http::{Http, Reach};
use super::ledger::Counts;
use super::ledgers::{Ledgers, SeriesLedger};
use super::series::{Range, Row, Series, Setback, Settings};
use crate::clock::Clock;
use crate::state;

/// How often failures are written to the log, at most: a thousand series can fail at once.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// How often the ledgers are counted and kept in their file: a byte a candle is looked at.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// From how many series on the silence of all of them is a gap of the exchange, and not a quiet minute.
const SERIES_THAT_TELL: usize = 5;
/// The longest sleep: the machine's clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(5);

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
    /// Its adapter.
    pub adapter: Adapter,
    /// Which hosts may be asked.
    pub reach: Reach,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many requests may be on their way at once.
    pub concurrency: usize,
    /// How often it may be asked.
    pub rate: Rate,
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
            adapter: self.adapter.clone(),
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
type Answered = (usize, Range, Result<Fetched, Failure>);

impl Collector {
    /// Takes series as far as they are known.
    pub fn new(
        plan: Plan,
        series: Vec<Series>,
        to_lane: SyncSender<Delivery>,
        status: Arc<Mutex<Status>>,
    ) -> Collector {
        let due = series.iter().enumerate().map(|(index, series)| (series.due_ms, index)).collect();
        let index =
            series.iter().enumerate().map(|(index, series)| (Arc::clone(&series.symbol), index)).collect();
        let timeframe = plan.timeframe.as_str().into();
        let is_there = vec![false; series.len()];
        Collector {
            plan,
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
        let mut heard = feed::start(&self.plan, symbols);
        loop {
            while flying.len() < self.plan.concurrency
                && let Some((index, range)) = self.next_due(asking)
            {
                let series = &self.series[index];
                let (symbol, memo) = (Arc::clone(&series.symbol), series.memo.clone());
                flying.push(async move { (index, range, asking.fetch(&symbol, range, &memo).await) });
            }
            self.show(asking);
            let is_full = flying.len() >= self.plan.concurrency;
            let sleep = if is_full { SLEEP_MAX } else { self.until_due(asking) };
            let goes_on = tokio::select! {
                biased;
                _ = stop.changed() => false,
                Some(answered) = flying.next(), if !flying.is_empty() => self.take(asking, answered),
                Some((symbol, candle)) = heard.recv() => self.hear(asking, &symbol, candle),
                () = tokio::time::sleep(sleep) => true,
            };
            if !goes_on {
                break;
            }
        }
        self.kept = None;
        self.show(asking);
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
    fn take(&mut self, asking: &Asking, (index, range, result): Answered) -> bool {
        let now_ms = asking.now_ms();
        let settings = &self.plan.settings;
        let (before, rest) = self.series.split_at_mut(index);
        let Some((series, after)) = rest.split_first_mut() else { return true };
        let rows = match result {
            Ok(Fetched { candles, memo, unreadable }) => {
                if let Some(sentence) = unreadable.first() {
                    let more = unreadable.len() - 1;
                    tracing::warn!(exchange = %self.plan.name, symbol = %series.symbol, more, "left out: {sentence}");
                }
                series.memo = memo;
                self.refused.remove(&index);
                let tell = before.len() + after.len() + 1 >= SERIES_THAT_TELL;
                let has_others =
                    |number| !tell || before.iter().chain(&*after).any(|series| series.has(number));
                let rows = series.take(range, &candles, now_ms, settings, &has_others);
                self.is_there[index] |= series.is_there(range, now_ms, settings);
                rows
            }
            Err(failure) => {
                series.set_back(failure.setback, now_ms);
                let is_no = matches!(failure.setback, Setback::UnknownSymbol | Setback::Refused);
                if is_no || series.is_given_up() {
                    self.is_there[index] = true;
                    self.refused.insert(index, failure.sentence.clone());
                }
                self.failures += 1;
                self.complaints.add(&self.plan.name, &series.symbol, &failure);
                Vec::new()
            }
        };
        self.due.insert((series.due_ms, index));
        let symbol = Arc::clone(&series.symbol);
        self.deliver(symbol, rows)
    }

    /// Takes a candle of the live feed; `false` when the lane is gone.
    fn hear(&mut self, asking: &Asking, symbol: &str, candle: Candle) -> bool {
        let Some(index) = self.index.get(symbol).copied() else { return true };
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
