//! The past: all candles of some series between two times, once each, in an order that a restart can go on in.
//!
//! The pages of all series are numbered, oldest first, and written in that order, so that one number, the position in
//! the sink, says what is done. Exchanges fetch their pages side by side and ahead of that. What is wanted up to a later
//! time than before is a stretch of its own, after the one before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};

use super::adapter::{Candle, Quiet};
use super::collector::{Delivery, Plan};
use super::fetch::{Asking, Fetched};
use super::pause::Pauses;
use super::series::{FAILURES_MAX, Range, Row, Setback};
use super::{BatchBuilder, plan};
use crate::batch::{Partition, Payload, Position, RawBatch};
use crate::clock::shown;
use crate::error::{Error, Result};
use crate::lane::Place;
use crate::log::in_span;
use crate::pipeline_file::{BatchLimits, Pipeline};
use crate::source::{Next, Plan as Planned, Start};

/// The name of the only partition.
pub const TOPIC: &str = "backfill";

/// The offsets of a page: as many candles as a page can have at most.
const PAGE_OFFSETS: u64 = 10_000;
/// Pages that are fetched ahead of the one to be written next: some 64,000 candles, 7 MB.
const PAGES_AHEAD: usize = 64;
/// How often a page is asked for that lacks candles which the exchange should have.
const ATTEMPTS: u32 = 3;
/// The pauses between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest text that keeps the counts of the series beside the position: Kafka allows 4,096 bytes.
const COUNTS_BYTES_MAX: usize = 3_500;

/// What is wanted, and how far it is: shared with whoever shows it.
#[derive(Debug)]
pub struct Backfill {
    /// Open time of the first candle.
    pub from_ms: i64,
    /// Open time of the first candle that is not wanted.
    pub until_ms: i64,
    series: Mutex<Vec<SeriesReport>>,
}

/// How far a series is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct SeriesReport {
    /// What the column `source` says.
    pub source: String,
    /// The unified symbol.
    pub symbol: String,
    /// Candles between the two times.
    pub wanted: u64,
    /// Candles that are decided: received, quiet, missing, or before the series.
    pub done: u64,
    /// Candles that came.
    pub received: u64,
    /// Candles in which nothing was traded.
    pub quiet: u64,
    /// Candles that should be there and are not.
    pub missing: u64,
    /// Candles before the first one.
    pub before: u64,
    /// Why there are none, when the exchange says no.
    pub refused: Option<String>,
}

impl Backfill {
    /// From a time to another, of which nothing is done.
    pub fn new(from_ms: i64, until_ms: i64) -> Backfill {
        Backfill { from_ms, until_ms, series: Mutex::default() }
    }

    /// How far each series is.
    pub fn reports(&self) -> Vec<SeriesReport> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SeriesReport>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A series, and which exchange has it.
struct Member {
    exchange: usize,
    symbol: Arc<str>,
    timeframe_ms: i64,
    page: i64,
}

/// The pages of all series in their order.
struct Order {
    /// The start of the next page of each series, and the series.
    next: BinaryHeap<Reverse<(i64, usize)>>,
    until_ms: i64,
    ordinal: u64,
}

impl Order {
    fn new(members: usize, stretch: &Stretch) -> Order {
        let next = (0..members).map(|member| Reverse((stretch.from_ms, member))).collect();
        Order { next, until_ms: stretch.until_ms, ordinal: 0 }
    }

    fn next(&mut self, members: &[Member]) -> Option<Job> {
        let Reverse((since_ms, member)) = self.next.pop()?;
        if since_ms >= self.until_ms {
            return None;
        }
        let Member { timeframe_ms, page, .. } = members[member];
        let until_ms = (since_ms + page * timeframe_ms).min(self.until_ms);
        self.next.push(Reverse((until_ms, member)));
        let ordinal = self.ordinal;
        self.ordinal += 1;
        Some(Job { ordinal, member, range: Range { since_ms, until_ms } })
    }
}

/// What one numbering of pages is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    /// The offset of its first page.
    base: u64,
    from_ms: i64,
    until_ms: i64,
}

/// What is kept beside a position, as text: `pages:base:from:until:counts`.
struct Kept {
    /// How series are divided into pages.
    pages: String,
    stretch: Stretch,
    /// Of each series: received, quiet, missing, before.
    counts: Vec<[u64; 4]>,
}

impl Kept {
    fn parse(text: &str) -> Option<Kept> {
        let mut parts = text.split(':');
        let pages = parts.next()?.to_owned();
        let base = parts.next()?.parse().ok()?;
        let from_ms = parts.next()?.parse().ok()?;
        let until_ms = parts.next()?.parse().ok()?;
        let of_series = |text: &str| {
            let numbers: Vec<u64> = text.split('.').filter_map(|number| number.parse().ok()).collect();
            <[u64; 4]>::try_from(numbers).ok()
        };
        let counts = parts.next()?.split(',').filter_map(of_series).collect();
        Some(Kept { pages, stretch: Stretch { base, from_ms, until_ms }, counts })
    }
}

/// A page to fetch.
#[derive(Debug, Clone, Copy)]
struct Job {
    ordinal: u64,
    member: usize,
    range: Range,
}

/// A page.
struct Page {
    job: Job,
    candles: Vec<Candle>,
    /// Candles of the range that the exchange cannot give any more.
    refused: Option<String>,
}

/// The source.
pub struct BackfillSource {
    partition: Partition,
    wait: Duration,
    rows: usize,
    wanted: Arc<Backfill>,
    plans: Vec<Plan>,
    members: Vec<Member>,
    is_assigned: bool,
    planned: Option<Planned>,
    stretch: Stretch,
    order: Order,
    /// The number of the page to be written next.
    next: u64,
    /// Pages that came before their turn.
    early: BTreeMap<u64, Page>,
    flying: usize,
    /// Whether a series has had a candle: before it nothing is missing.
    has_begun: Vec<bool>,
    running: Option<Running>,
}

/// Threads, one for each exchange.
struct Running {
    jobs: Vec<mpsc::UnboundedSender<Job>>,
    pages: Receiver<std::result::Result<Page, String>>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl BackfillSource {
    /// Nothing is asked of the exchanges.
    pub fn open(pipeline: &Pipeline, place: &Place<'_>, wanted: &Arc<Backfill>) -> Result<BackfillSource> {
        let config = pipeline.source.exchange().expect("the source is opened as what it is");
        let adapters = place.adapters.expect("a lane has the adapters of its exchanges");
        let plans = plan::plans(config, &pipeline.name, adapters, place)?;
        let mut members = Vec::new();
        let mut reports = Vec::new();
        for (exchange, (plan, of_exchange)) in plans.iter().zip(&config.exchanges).enumerate() {
            let timeframe_ms = plan.settings.timeframe_ms;
            for symbol in &of_exchange.symbols {
                members.push(Member {
                    exchange,
                    symbol: symbol.as_str().into(),
                    timeframe_ms,
                    page: plan.settings.page_limit,
                });
                reports.push(SeriesReport {
                    source: plan.name.to_string(),
                    symbol: symbol.clone(),
                    wanted: u64::try_from((wanted.until_ms - wanted.from_ms) / timeframe_ms).unwrap_or(0),
                    ..SeriesReport::default()
                });
            }
        }
        *wanted.lock() = reports;
        let BatchLimits { rows, wait, .. } = pipeline.batch;
        let stretch = Stretch { base: 0, from_ms: wanted.from_ms, until_ms: wanted.until_ms };
        Ok(BackfillSource {
            partition: Partition { topic: TOPIC.into(), number: 0 },
            wait: wait.0,
            rows: rows.max(1),
            order: Order::new(members.len(), &stretch),
            stretch,
            has_begun: vec![false; members.len()],
            wanted: Arc::clone(wanted),
            plans,
            members,
            is_assigned: false,
            planned: None,
            next: 0,
            early: BTreeMap::new(),
            flying: 0,
            running: None,
        })
    }

    /// Rows, at least one; `None` once all pages are written.
    pub fn receive(&mut self) -> Result<Option<Next>> {
        if !std::mem::replace(&mut self.is_assigned, true) {
            return Ok(Some(Next::Assigned(vec![self.partition.clone()])));
        }
        self.start()?;
        let deadline = Instant::now() + self.wait;
        loop {
            self.take_arrived()?;
            let batch = self.batch();
            // Also before a batch is given: pages are fetched while the lane is at work.
            self.send_jobs();
            if let Some(batch) = batch {
                return Ok(Some(Next::Batch(batch)));
            }
            if self.flying == 0 && self.early.is_empty() {
                return Ok(None);
            }
            let Some(running) = &self.running else { return Ok(None) };
            match running.pages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(page) => self.take(page)?,
                Err(RecvTimeoutError::Timeout) => return Ok(Some(Next::Idle)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Running("the threads of the exchanges have ended by a defect".into()));
                }
            }
        }
    }

    /// Takes the pages that came while the lane was at work: together they are a batch, and a sink's step costs the
    /// same for one page as for many.
    fn take_arrived(&mut self) -> Result<()> {
        while let Some(page) = self.running.as_ref().and_then(|running| running.pages.try_recv().ok()) {
            self.take(page)?;
        }
        Ok(())
    }

    fn take(&mut self, page: std::result::Result<Page, String>) -> Result<()> {
        let page = page.map_err(Error::Running)?;
        self.flying -= 1;
        self.early.insert(page.job.ordinal, page);
        Ok(())
    }

    /// Hands out pages, not too far ahead of the one to be written next.
    fn send_jobs(&mut self) {
        let Some(running) = &self.running else { return };
        while self.flying + self.early.len() < PAGES_AHEAD {
            let Some(job) = self.order.next(&self.members) else { return };
            // A thread that has ended has said why.
            if running.jobs[self.members[job.member].exchange].send(job).is_ok() {
                self.flying += 1;
            }
        }
    }

    /// The next pages that are there; empty ones are passed.
    fn batch(&mut self) -> Option<RawBatch> {
        let first_offset = self.offset();
        let mut builder = BatchBuilder::default();
        let mut rows = 0;
        while rows < self.rows && !self.is_at_planned_end(first_offset) {
            let Some(page) = self.early.remove(&self.next) else { break };
            self.next += 1;
            self.account(&page);
            rows += page.candles.len();
            let member = &self.members[page.job.member];
            let plan = &self.plans[member.exchange];
            builder.push(&Delivery {
                source: Arc::clone(&plan.name),
                symbol: Arc::clone(&member.symbol),
                timeframe: plan.timeframe.as_str().into(),
                rows: page.candles.into_iter().map(|candle| Row { candle, revision: 0 }).collect(),
            });
        }
        (rows > 0).then(|| RawBatch {
            partition: self.partition.clone(),
            payload: Payload::Columns { columns: builder.finish(), first_offset },
            next: Position { next_offset: self.offset(), fingerprint: self.kept() },
        })
    }

    /// No batch goes across the end of what the sink has planned.
    fn is_at_planned_end(&self, first_offset: u64) -> bool {
        let here = self.offset();
        self.planned.is_some_and(|plan| here == plan.end && here > first_offset)
    }

    /// What is there, was quiet, or is missing of a page.
    fn account(&mut self, page: &Page) {
        let Member { exchange, timeframe_ms, .. } = self.members[page.job.member];
        let quiet = self.plans[exchange].settings.quiet;
        let Range { since_ms, until_ms } = page.job.range;
        let count = |from_ms: i64, to_ms: i64| u64::try_from((to_ms - from_ms) / timeframe_ms).unwrap_or(0);
        let mut reports = self.wanted.lock();
        let report = &mut reports[page.job.member];
        report.done += count(since_ms, until_ms);
        let has_begun = &mut self.has_begun[page.job.member];
        let first_ms = if *has_begun {
            since_ms
        } else {
            page.candles.first().map_or(until_ms, |candle| candle.open_ms)
        };
        *has_begun |= !page.candles.is_empty();
        report.before += count(since_ms, first_ms);
        if let Some(sentence) = &page.refused {
            report.refused = Some(sentence.clone());
        }
        let mut next_ms = first_ms;
        let ends = page.candles.iter().map(|candle| (candle.open_ms, true)).chain([(until_ms, false)]);
        for (open_ms, is_candle) in ends {
            let absent = count(next_ms, open_ms);
            if absent > 0 && quiet == Quiet::Row {
                report.missing += absent;
                let (from, to) = (shown(next_ms), shown(open_ms));
                tracing::warn!(source = %report.source, symbol = %report.symbol, %from, %to, "missing candles: {absent}");
            } else {
                report.quiet += absent;
            }
            next_ms = open_ms + if is_candle { timeframe_ms } else { 0 };
        }
        let quiet_rows = page.candles.iter().filter(|candle| candle.is_quiet()).count() as u64;
        report.quiet += quiet_rows;
        report.received += page.candles.len() as u64 - quiet_rows;
    }

    /// The offset of the page to be written next.
    fn offset(&self) -> u64 {
        self.stretch.base + self.next * PAGE_OFFSETS
    }

    /// What the run that goes on needs to know: see [`Kept`]. Without counts when they are too many to keep.
    fn kept(&self) -> String {
        let reports = self.wanted.lock();
        let of = |report: &SeriesReport| {
            let SeriesReport { received, quiet, missing, before, .. } = report;
            format!("{received}.{quiet}.{missing}.{before}")
        };
        let counts = reports.iter().map(of).collect::<Vec<_>>().join(",");
        let counts = if counts.len() <= COUNTS_BYTES_MAX { counts } else { String::new() };
        let Stretch { base, from_ms, until_ms } = self.stretch;
        format!("{}:{base}:{from_ms}:{until_ms}:{counts}", self.pages())
    }

    /// How series are divided into pages: a position means something only for the same pages.
    fn pages(&self) -> String {
        let mut hash = Sha256::new();
        self.members.iter().for_each(|member| hash.update(member.page.to_le_bytes()));
        crate::batch::hex(&hash.finalize()[..4])
    }

    /// Goes on after the pages that the sink has: in the stretch that is not done, or with the time after it.
    pub fn assign(&mut self, starts: &[Start]) -> Result<()> {
        self.stop();
        let Some(start) = starts.first() else { return Ok(()) };
        let position = start.position.clone().unwrap_or_default();
        let kept = Kept::parse(&position.fingerprint);
        if position.next_offset > 0 && kept.as_ref().is_none_or(|kept| kept.pages != self.pages()) {
            return Err(Error::Files(
                "an adapter has other page limits than when this backfill began, so what is done cannot be told from what \
                 is not; begin another one with another `--from`"
                    .into(),
            ));
        }
        self.planned = start.planned;
        let first = Stretch { base: 0, from_ms: self.wanted.from_ms, until_ms: self.wanted.until_ms };
        self.stretch = kept.as_ref().map_or(first, |kept| kept.stretch);
        self.next = (position.next_offset - self.stretch.base.min(position.next_offset)) / PAGE_OFFSETS;
        self.order = Order::new(self.members.len(), &self.stretch);
        for _ in 0..self.next {
            self.order.next(&self.members);
        }
        let is_done = Order { next: self.order.next.clone(), ..self.order }.next(&self.members).is_none();
        if is_done && self.stretch.until_ms < self.wanted.until_ms {
            let (base, from_ms) = (self.offset(), self.stretch.until_ms);
            self.stretch = Stretch { base, from_ms, until_ms: self.wanted.until_ms };
            self.order = Order::new(self.members.len(), &self.stretch);
            self.next = 0;
        }
        self.report_again(kept.map_or(Vec::new(), |kept| kept.counts));
        Ok(())
    }

    /// What the reports say before the first page of this run.
    fn report_again(&mut self, counts: Vec<[u64; 4]>) {
        let mut reports = self.wanted.lock();
        for (report, member) in reports.iter_mut().zip(&self.members) {
            let count =
                |to_ms: i64| u64::try_from((to_ms - self.wanted.from_ms) / member.timeframe_ms).unwrap_or(0);
            let SeriesReport { source, symbol, .. } = std::mem::take(report);
            let (wanted, done) = (count(self.stretch.until_ms), count(self.stretch.from_ms));
            *report = SeriesReport { source, symbol, wanted, done, ..SeriesReport::default() };
        }
        let mut order = Order::new(self.members.len(), &self.stretch);
        for _ in 0..self.next {
            let Some(Job { member, range, .. }) = order.next(&self.members) else { break };
            let length = (range.until_ms - range.since_ms) / self.members[member].timeframe_ms;
            reports[member].done += u64::try_from(length).unwrap_or(0);
        }
        for (report, [received, quiet, missing, before]) in reports.iter_mut().zip(counts) {
            (report.received, report.quiet, report.missing, report.before) =
                (received, quiet, missing, before);
        }
        for (has_begun, report) in self.has_begun.iter_mut().zip(reports.iter()) {
            *has_begun = report.received + report.quiet > 0;
        }
    }

    /// See [`super::super::Source::plan`].
    pub fn plan(&self) -> Option<Planned> {
        self.planned
    }

    /// The partition is given to the lane once more.
    pub fn put_back(&mut self) {
        self.is_assigned = false;
    }

    fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let (to_lane, pages) = channel();
        let (stop, stopped) = watch::channel(false);
        let (mut jobs, mut threads) = (Vec::new(), Vec::new());
        for plan in &self.plans {
            let (sender, receiver) = mpsc::unbounded_channel();
            jobs.push(sender);
            let symbols: Vec<Arc<str>> =
                self.members.iter().map(|member| Arc::clone(&member.symbol)).collect();
            let fetcher = Fetcher { plan: plan.clone(), symbols, to_lane: to_lane.clone() };
            let stopped = stopped.clone();
            let thread = std::thread::Builder::new()
                .name(format!("backfill-{}", plan.exchange))
                .spawn(in_span(move || fetcher.run(receiver, stopped)))
                .map_err(|error| Error::Surroundings(format!("cannot start a thread: {error}")))?;
            threads.push(thread);
        }
        self.running = Some(Running { jobs, pages, stop, threads });
        Ok(())
    }

    fn stop(&mut self) {
        self.early.clear();
        self.flying = 0;
        if let Some(Running { stop, threads, .. }) = self.running.take() {
            stop.send_replace(true);
            // One that has panicked has shown it.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

impl Drop for BackfillSource {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A thread's own things.
struct Fetcher {
    plan: Plan,
    /// Of all series, those of other exchanges too.
    symbols: Vec<Arc<str>>,
    to_lane: Sender<std::result::Result<Page, String>>,
}

impl Fetcher {
    fn run(self, jobs: mpsc::UnboundedReceiver<Job>, stop: watch::Receiver<bool>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asking = self.plan.asking();
        let result = match (runtime, asking) {
            (Ok(runtime), Ok(asking)) => runtime.block_on(self.fetch_all(&asking, jobs, stop)),
            (Err(error), _) => Err(format!("no event loop: {error}")),
            (_, Err(sentence)) => Err(sentence),
        };
        if let Err(sentence) = result {
            // The lane may have gone; then nobody wants to know.
            drop(self.to_lane.send(Err(format!("`{}`: {sentence}", self.plan.name))));
        }
    }

    async fn fetch_all(
        &self,
        asking: &Asking,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        mut stop: watch::Receiver<bool>,
    ) -> std::result::Result<(), String> {
        let memos = self.symbols.iter().map(|_| Mutex::default()).collect::<Vec<Mutex<Memo>>>();
        let firsts = self.symbols.iter().map(|_| tokio::sync::Mutex::new(())).collect::<Vec<_>>();
        let mut flying = FuturesUnordered::new();
        let mut waiting: VecDeque<Job> = VecDeque::new();
        loop {
            while flying.len() < self.plan.concurrency
                && let Some(job) = waiting.pop_front()
            {
                flying.push(self.fetch(asking, job, &memos[job.member], &firsts[job.member]));
            }
            tokio::select! {
                biased;
                _ = stop.changed() => return Ok(()),
                Some(page) = flying.next(), if !flying.is_empty() => {
                    if self.to_lane.send(Ok(page?)).is_err() {
                        return Ok(());
                    }
                }
                job = jobs.recv() => match job {
                    Some(job) => waiting.push_back(job),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Fetches a page, with patience for what fails and for what is not there.
    async fn fetch(
        &self,
        asking: &Asking,
        job: Job,
        memo: &Mutex<Memo>,
        first: &tokio::sync::Mutex<()>,
    ) -> std::result::Result<Page, String> {
        let settings = &self.plan.settings;
        let symbol = &*self.symbols[job.member];
        let mut pauses = Pauses::new(PAUSE);
        let mut candles = Vec::new();
        let (mut attempts, mut failures) = (0, 0);
        loop {
            let Some(range) = self.reachable(asking, job.range) else {
                let refused =
                    format!("the exchange gives the last {} candles only", settings.depth.unwrap_or(0));
                return Ok(Page { job, candles: Vec::new(), refused: Some(refused) });
            };
            // The first page of a symbol goes ahead: what its adapter finds out of the market, the others need not.
            let turn = first.lock().await;
            let known = memo.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(sentence) = known.refused {
                return Ok(Page { job, candles: Vec::new(), refused: Some(sentence) });
            }
            let turn = (!known.has_answered).then_some(turn);
            let result = asking.fetch(&self.plan.adapter, symbol, range, &known.memo).await;
            self.note(memo, |known| known.has_answered |= result.is_ok());
            drop(turn);
            match result {
                Ok(Fetched { candles: more, memo: new, unreadable, .. }) => {
                    if let Some(sentence) = unreadable.first() {
                        let more = unreadable.len() - 1;
                        tracing::warn!(exchange = %self.plan.name, %symbol, more, "left out: {sentence}");
                    }
                    self.note(memo, |known| known.memo = new);
                    candles = if candles.is_empty() { more } else { merged(candles, more) };
                    attempts += 1;
                    if attempts >= ATTEMPTS || self.is_complete(&candles, range) {
                        return Ok(Page { job, candles, refused: None });
                    }
                }
                Err(failure) => match failure.setback {
                    Setback::Waits => continue,
                    Setback::UnknownSymbol | Setback::Refused => {
                        tracing::warn!(exchange = %self.plan.name, %symbol, "no candles: {}", failure.sentence);
                        self.note(memo, |known| known.refused = Some(failure.sentence));
                        continue;
                    }
                    Setback::Passing => {
                        failures += 1;
                        if failures >= FAILURES_MAX {
                            return Err(format!(
                                "{symbol} cannot be fetched: {}; what is written stays, run it again to go on",
                                failure.sentence
                            ));
                        }
                        if failures.is_power_of_two() {
                            tracing::warn!(exchange = %self.plan.name, %symbol, "asking again: {}", failure.sentence);
                        }
                    }
                },
            }
            tokio::time::sleep(asking.clock.real(pauses.next_ms())).await;
        }
    }

    fn note(&self, memo: &Mutex<Memo>, change: impl FnOnce(&mut Memo)) {
        change(&mut memo.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What of a range the exchange can give.
    fn reachable(&self, asking: &Asking, range: Range) -> Option<Range> {
        let settings = &self.plan.settings;
        let Some(depth) = settings.depth else { return Some(range) };
        let oldest_ms = super::series::closed_before(asking.now_ms(), settings.timeframe_ms)
            - (depth - 1).max(1) * settings.timeframe_ms;
        let since_ms = range.since_ms.max(oldest_ms);
        (since_ms < range.until_ms).then_some(Range { since_ms, ..range })
    }

    /// Whether nothing of a range is worth another question.
    fn is_complete(&self, candles: &[Candle], range: Range) -> bool {
        let wanted = (range.until_ms - range.since_ms) / self.plan.settings.timeframe_ms;
        match self.plan.settings.quiet {
            Quiet::Row => candles.len() as i64 == wanted,
            Quiet::Absent => !candles.is_empty(),
        }
    }
}

/// The candles of two answers, ascending; of two versions of a candle the second answer's.
fn merged(first: Vec<Candle>, second: Vec<Candle>) -> Vec<Candle> {
    let all: BTreeMap<i64, Candle> =
        first.into_iter().chain(second).map(|candle| (candle.open_ms, candle)).collect();
    all.into_values().collect()
}

/// What is known of a symbol.
#[derive(Debug, Clone, Default)]
struct Memo {
    memo: String,
    /// Whether a page has come.
    has_answered: bool,
    /// Why the exchange gives no candles of it.
    refused: Option<String>,
}
