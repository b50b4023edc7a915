//! What the simulator remembers: budgets, bans, faults to come and counters.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::answer::Answer;
use crate::clock::{Clock, wall_ms};
use crate::exchanges::binance;
use crate::hash::{mix, share};
use crate::market::Exchange;
use crate::misbehaviour::{Fault, Misbehaviour};
use crate::truth::{MINUTE_MS, Truth};

/// The first ban of an address that asks on after a 429; each further one is twice as long.
const BAN_S: i64 = 120;

/// The longest ban: three days, as Binance says.
const LONGEST_BAN_S: i64 = 3 * 86_400;

/// So many violations are kept with their particulars.
const KEPT_VIOLATIONS: usize = 100;

/// Bytes of pages that are kept: some 400 pages of a thousand rows, packed and not.
const KEPT_PAGE_BYTES: usize = 64 << 20;

/// What was asked about an exchange, or about one symbol of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// HTTP requests.
    pub requests: u64,
    /// Rows of candles that were given.
    pub rows: u64,
    /// WebSocket connections; 0 for a symbol.
    pub feeds: u64,
    /// Answers by status; without those that hang.
    pub statuses: BTreeMap<u16, u64>,
    /// Faults by their names.
    pub faults: BTreeMap<&'static str, u64>,
}

/// What was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// All requests of an exchange.
    pub exchanges: BTreeMap<Exchange, Counts>,
    /// Those that were about a listed symbol, by exchange and unified symbol.
    pub symbols: BTreeMap<(Exchange, String), Counts>,
}

/// A request that came while the exchange had forbidden it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub exchange: Exchange,
    /// Path and query below the exchange's prefix.
    pub path: String,
    /// When it came, by the simulated clock.
    pub at_ms: i64,
    /// Until when it was forbidden, by the simulated clock.
    pub until_ms: i64,
    /// How long ago the answer that forbade it was given, by the wall clock.
    pub after_wall_ms: u64,
}

/// The requests that came while their exchange had forbidden them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    /// All of them.
    pub count: u64,
    /// The first hundred.
    pub first: Vec<Violation>,
}

/// When the wall clock first saw an answer with a closed candle, in milliseconds since 1970, by the candle's unified symbol
/// and open time.
pub type FirstAnswers = BTreeMap<(String, i64), i64>;

/// Until when an exchange answers nothing.
#[derive(Debug, Clone, Copy)]
struct Block {
    until_ms: i64,
    status: u16,
    answered: Instant,
}

/// Requests that may be made at once, and how soon they may be made again.
#[derive(Debug)]
struct Bucket {
    burst: f64,
    each_ms: f64,
    left: f64,
    at_ms: i64,
}

impl Bucket {
    fn new(burst: f64, each_ms: f64) -> Self {
        Self { burst, each_ms, left: burst, at_ms: i64::MIN }
    }

    fn take(&mut self, now_ms: i64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.at_ms).max(0) as f64;
        self.left = (self.left + passed_ms / self.each_ms).min(self.burst);
        self.at_ms = self.at_ms.max(now_ms);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[derive(Debug)]
struct State {
    misbehaviour: Arc<Misbehaviour>,
    next: VecDeque<Fault>,
    delisted: Arc<HashSet<String>>,
    clock_offset_ms: i64,
    on_its_way: Duration,
    block: Option<Block>,
    bans: u32,
    /// Binance: minute and weight used in it.
    used: (i64, u64),
    bucket: Bucket,
    /// How many faults were drawn.
    drawn: u64,
    feeds: u64,
    /// Feeds with a smaller number are silent.
    silent_below: u64,
    /// Feeds with a smaller number are dropped.
    dropped_below: u64,
    counts: Counts,
    symbols: BTreeMap<String, Counts>,
    violations: Violations,
    first_answers: FirstAnswers,
}

/// A page that will not change, as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub body: Bytes,
    pub is_packed: bool,
    pub rows: usize,
    pub symbol: Option<String>,
}

#[derive(Debug, Default)]
struct Pages {
    kept: HashMap<String, Page>,
    bytes: usize,
    /// Counts the changes after which pages are made anew.
    age: u64,
}

/// What becomes of a request.
pub(crate) struct Admitted {
    pub now_ms: i64,
    /// The time as the exchange says it.
    pub said_ms: i64,
    pub fault: Option<Fault>,
    /// The answer, when the exchange does not even look at the request.
    pub refusal: Option<Answer>,
    pub misbehaviour: Arc<Misbehaviour>,
    pub delisted: Arc<HashSet<String>>,
    /// Binance: weight used in this minute.
    pub used_weight: u64,
}

/// What a feed is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedState {
    Speaks,
    Silent,
    Dropped,
}

/// Everything that requests and the handle share.
#[derive(Debug)]
pub(crate) struct World {
    pub clock: Clock,
    pub truth: Truth,
    seed: u64,
    enforce_limits: bool,
    notes_first_answers: bool,
    states: Vec<Mutex<State>>,
    pages: Mutex<Pages>,
}

/// A thread that panicked has left counters at worst one short: the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(
        clock: Clock,
        truth: Truth,
        seed: u64,
        misbehaviour: Misbehaviour,
        enforce_limits: bool,
        on_its_way: Duration,
        notes_first_answers: bool,
    ) -> Self {
        let misbehaviour = Arc::new(misbehaviour);
        let states = Exchange::ALL
            .into_iter()
            .map(|exchange| {
                // Coinbase: 10 a second with bursts of 15. Kraken: 1 a second with some patience. Bybit: 600 in 5
                // seconds. Binance counts weight instead.
                let bucket = match exchange {
                    Exchange::Binance => Bucket::new(f64::INFINITY, 1.0),
                    Exchange::Coinbase | Exchange::CoinbaseExchange => Bucket::new(15.0, 100.0),
                    Exchange::Kraken => Bucket::new(15.0, 1_000.0),
                    Exchange::Bybit => Bucket::new(600.0, 5_000.0 / 600.0),
                };
                Mutex::new(State {
                    misbehaviour: Arc::clone(&misbehaviour),
                    next: VecDeque::new(),
                    delisted: Arc::default(),
                    clock_offset_ms: 0,
                    on_its_way,
                    block: None,
                    bans: 0,
                    used: (0, 0),
                    bucket,
                    drawn: 0,
                    feeds: 0,
                    silent_below: 0,
                    dropped_below: 0,
                    counts: Counts::default(),
                    symbols: BTreeMap::new(),
                    violations: Violations::default(),
                    first_answers: FirstAnswers::new(),
                })
            })
            .collect();
        Self { clock, truth, seed, enforce_limits, notes_first_answers, states, pages: Mutex::default() }
    }

    fn state(&self, exchange: Exchange) -> MutexGuard<'_, State> {
        lock(&self.states[exchange as usize])
    }

    /// Counts a request and decides what becomes of it.
    pub(crate) fn admit(
        &self,
        exchange: Exchange,
        path: &str,
        path_and_query: &str,
        is_candles: bool,
    ) -> Admitted {
        let mut state = self.state(exchange);
        let now_ms = self.clock.now_ms();
        state.counts.requests += 1;
        let minute = now_ms.div_euclid(MINUTE_MS);
        if state.used.0 != minute {
            state.used = (minute, 0);
        }
        let mut fault = None;
        let mut refusal = state.forbidden(exchange, path_and_query, now_ms);
        if refusal.is_none() {
            state.used.1 += binance::weight(path);
            refusal = if self.enforce_limits { state.over_limit(exchange, now_ms) } else { None };
        }
        if refusal.is_none() {
            fault = state.fault(mix(self.seed, exchange as u64), is_candles);
            refusal = match fault {
                Some(Fault::TooManyRequests { retry_after_s }) => {
                    Some(state.block(exchange, 429, now_ms, retry_after_s.map(i64::from)))
                }
                Some(Fault::Ban { retry_after_s }) => {
                    Some(state.block(exchange, 418, now_ms, Some(i64::from(retry_after_s))))
                }
                Some(Fault::Forbidden) => Some(Answer::page(403)),
                Some(Fault::ServerError(status)) => Some(Answer::page(status)),
                Some(Fault::Page) => Some(Answer::page(200)),
                Some(Fault::ErrorBody) => Some(error_body(exchange)),
                _ => None,
            };
        }
        let wrong_ms = match fault {
            Some(Fault::WrongDate { offset_ms }) => offset_ms,
            _ => state.misbehaviour.clock_offset_ms(&self.truth, exchange, now_ms),
        };
        Admitted {
            now_ms,
            said_ms: now_ms + state.clock_offset_ms + wrong_ms,
            fault,
            refusal,
            misbehaviour: Arc::clone(&state.misbehaviour),
            delisted: Arc::clone(&state.delisted),
            used_weight: state.used.1,
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, exchange: Exchange, symbol: Option<&str>, rows: usize, status: u16) {
        let mut state = self.state(exchange);
        state.counts.rows += rows as u64;
        *state.counts.statuses.entry(status).or_default() += 1;
        if let Some(symbol) = symbol {
            let counts = state.symbols.entry(symbol.to_owned()).or_default();
            counts.requests += 1;
            counts.rows += rows as u64;
            *counts.statuses.entry(status).or_default() += 1;
        }
    }

    /// Notes the time of an answer with these closed candles, for those that it is the first with.
    pub(crate) fn note_first_answers(&self, exchange: Exchange, symbol: &str, closed_ms: &[i64]) {
        if !self.notes_first_answers {
            return;
        }
        let now_ms = wall_ms();
        let first_answers = &mut self.state(exchange).first_answers;
        for open_ms in closed_ms {
            first_answers.entry((symbol.to_owned(), *open_ms)).or_insert(now_ms);
        }
    }

    pub(crate) fn first_answers(&self, exchange: Exchange) -> FirstAnswers {
        self.state(exchange).first_answers.clone()
    }

    /// A kept page, and the age with which a new one is to be kept.
    pub(crate) fn page(&self, key: &str) -> (Option<Page>, u64) {
        let pages = lock(&self.pages);
        (pages.kept.get(key).cloned(), pages.age)
    }

    pub(crate) fn keep_page(&self, key: String, page: Page, age: u64) {
        let mut pages = lock(&self.pages);
        if pages.age != age {
            return;
        }
        let bytes = key.len() + page.body.len();
        if pages.bytes + bytes > KEPT_PAGE_BYTES {
            pages.kept.clear();
            pages.bytes = 0;
        }
        pages.bytes += bytes;
        pages.kept.insert(key, page);
    }

    fn forget_pages(&self) {
        let mut pages = lock(&self.pages);
        *pages = Pages { age: pages.age + 1, ..Pages::default() };
    }

    pub(crate) fn next(&self, exchange: Exchange, fault: Fault) {
        self.state(exchange).next.push_back(fault);
    }

    pub(crate) fn set_misbehaviour(&self, exchange: Exchange, misbehaviour: Misbehaviour) {
        self.state(exchange).misbehaviour = Arc::new(misbehaviour);
        self.forget_pages();
    }

    pub(crate) fn delist(&self, exchange: Exchange, symbol: &str) {
        Arc::make_mut(&mut self.state(exchange).delisted).insert(symbol.to_owned());
        self.forget_pages();
    }

    pub(crate) fn set_clock_offset(&self, exchange: Exchange, offset_ms: i64) {
        self.state(exchange).clock_offset_ms = offset_ms;
    }

    pub(crate) fn silence(&self, exchange: Exchange) {
        let mut state = self.state(exchange);
        state.silent_below = state.feeds;
    }

    pub(crate) fn drop_feeds(&self, exchange: Exchange) {
        let mut state = self.state(exchange);
        state.dropped_below = state.feeds;
    }

    pub(crate) fn misbehaviour(&self, exchange: Exchange) -> Arc<Misbehaviour> {
        Arc::clone(&self.state(exchange).misbehaviour)
    }

    pub(crate) fn delisted(&self, exchange: Exchange) -> Arc<HashSet<String>> {
        Arc::clone(&self.state(exchange).delisted)
    }

    /// Counts a feed and gives it a number.
    pub(crate) fn open_feed(&self, exchange: Exchange) -> u64 {
        let mut state = self.state(exchange);
        state.counts.feeds += 1;
        state.feeds += 1;
        state.feeds - 1
    }

    /// What a feed is to do in a minute of its life.
    pub(crate) fn feed_state(
        &self,
        exchange: Exchange,
        feed: u64,
        minutes: std::ops::Range<i64>,
    ) -> FeedState {
        let state = self.state(exchange);
        if feed < state.dropped_below {
            return FeedState::Dropped;
        }
        if feed < state.silent_below {
            return FeedState::Silent;
        }
        let misbehaviour = &state.misbehaviour;
        let key = mix(mix(mix(self.seed, 5), exchange as u64), feed);
        for minute in minutes {
            let drawn = share(mix(key, minute as u64));
            if drawn < misbehaviour.dropped_feeds {
                return FeedState::Dropped;
            }
            if drawn < misbehaviour.dropped_feeds + misbehaviour.silent_feeds {
                return FeedState::Silent;
            }
        }
        FeedState::Speaks
    }

    pub(crate) fn requests(&self) -> Requests {
        let mut requests = Requests::default();
        for exchange in Exchange::ALL {
            let state = self.state(exchange);
            requests.exchanges.insert(exchange, state.counts.clone());
            let symbols = state.symbols.iter();
            requests
                .symbols
                .extend(symbols.map(|(symbol, counts)| ((exchange, symbol.clone()), counts.clone())));
        }
        requests
    }

    pub(crate) fn violations(&self) -> Violations {
        let mut all = Violations::default();
        for exchange in Exchange::ALL {
            let state = self.state(exchange);
            all.count += state.violations.count;
            all.first.extend(state.violations.first.iter().cloned());
        }
        all.first.truncate(KEPT_VIOLATIONS);
        all
    }
}

impl State {
    /// The answer while a ban or a `Retry-After` is in force.
    fn forbidden(&mut self, exchange: Exchange, path_and_query: &str, now_ms: i64) -> Option<Answer> {
        let block = self.block?;
        if now_ms >= block.until_ms {
            self.block = None;
            return None;
        }
        let after = block.answered.elapsed();
        let left_s = (block.until_ms - now_ms + 999) / 1_000;
        if after <= self.on_its_way {
            return Some(refusal(exchange, block.status, block.until_ms, Some(left_s)));
        }
        self.violations.count += 1;
        if self.violations.first.len() < KEPT_VIOLATIONS {
            self.violations.first.push(Violation {
                exchange,
                path: path_and_query.to_owned(),
                at_ms: now_ms,
                until_ms: block.until_ms,
                after_wall_ms: after.as_millis() as u64,
            });
        }
        if exchange != Exchange::Binance {
            return Some(refusal(exchange, block.status, block.until_ms, Some(left_s)));
        }
        // Whoever asks on is banned, each time for longer.
        let ban_s = (BAN_S << self.bans.min(20)).min(LONGEST_BAN_S);
        self.bans += 1;
        Some(self.block(exchange, 418, now_ms, Some(ban_s.max(left_s))))
    }

    /// Refuses, and forbids everything for some seconds when there is a `Retry-After`.
    fn block(&mut self, exchange: Exchange, status: u16, now_ms: i64, retry_after_s: Option<i64>) -> Answer {
        let until_ms = now_ms + retry_after_s.unwrap_or(0) * 1_000;
        if retry_after_s.is_some() {
            self.block = Some(Block { until_ms, status, answered: Instant::now() });
        }
        refusal(exchange, status, until_ms, retry_after_s)
    }

    /// The answer to a request beyond what the exchange allows.
    fn over_limit(&mut self, exchange: Exchange, now_ms: i64) -> Option<Answer> {
        match exchange {
            Exchange::Binance => {
                let left_ms = MINUTE_MS - now_ms.rem_euclid(MINUTE_MS);
                let is_over = self.used.1 > binance::MINUTE_WEIGHT;
                is_over.then(|| self.block(exchange, 429, now_ms, Some((left_ms + 999) / 1_000)))
            }
            _ if self.bucket.take(now_ms) => None,
            Exchange::Kraken => Some(Answer::error(exchange, 200, 0, "EAPI:Rate limit exceeded")),
            Exchange::Bybit => Some(Answer::error(exchange, 403, 10_006, "access too frequent")),
            Exchange::Coinbase | Exchange::CoinbaseExchange => Some(refusal(exchange, 429, now_ms, None)),
        }
    }

    /// The next fault: one that was asked for, or one by chance.
    fn fault(&mut self, key: u64, is_candles: bool) -> Option<Fault> {
        let fits = |fault: &Fault| is_candles || !fault.needs_candles();
        let fault = match self.next.front() {
            Some(next) if fits(next) => self.next.pop_front(),
            Some(_) => None,
            None => {
                self.drawn += 1;
                self.misbehaviour.drawn(share(mix(key, self.drawn))).filter(fits)
            }
        };
        if let Some(fault) = fault {
            *self.counts.faults.entry(fault.name()).or_default() += 1;
        }
        fault
    }
}

/// The refusal of an exchange; `until_ms` is told by bans.
fn refusal(exchange: Exchange, status: u16, until_ms: i64, retry_after_s: Option<i64>) -> Answer {
    let ban = format!(
        "Way too much request weight used; IP banned until {until_ms}. Please use WebSocket Streams for live \
         updates to avoid bans."
    );
    let message = match exchange {
        _ if status == 418 => ban.as_str(),
        Exchange::Binance => {
            "Too much request weight used; current limit is 6000 request weight per 1 MINUTE. Please use WebSocket \
             Streams for live updates to avoid polling the API."
        }
        Exchange::Coinbase => "rate limit exceeded",
        Exchange::CoinbaseExchange => "Public rate limit exceeded",
        Exchange::Kraken => "EAPI:Rate limit exceeded",
        Exchange::Bybit => "Too many visits. Exceeded the API Rate Limit.",
    };
    let code = if exchange == Exchange::Bybit { 10_006 } else { -1_003 };
    Answer { retry_after_s, ..Answer::error(exchange, status, code, message) }
}

/// Something is wrong, with status 200.
fn error_body(exchange: Exchange) -> Answer {
    let (code, message) = match exchange {
        Exchange::Binance => (-1_000, "An unknown error occurred while processing the request."),
        Exchange::Coinbase | Exchange::CoinbaseExchange => (0, "Internal server error"),
        Exchange::Kraken => (0, "EService:Unavailable"),
        Exchange::Bybit => (10_016, "Server error."),
    };
    Answer::error(exchange, 200, code, message)
}
