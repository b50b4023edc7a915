//! One task: the adapter says what to ask, the host asks within the budget, until there are candles or a failure.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adapter::{Adapter, Answer, Candle, Header, Instance, Step, Task, sentence};
use super::bindings::exports::tidegate::exchange::exchange as wire;
use super::budget::{Budget, Told, http_date_ms};
use super::http::{Http, Response, Trouble};
use super::series::{Range, Setback};
use crate::clock::Clock;
use crate::wasm::CallError;

/// The most steps of a task: CCXT needs three, for markets, currencies and candles.
const STEPS_MAX: usize = 8;
/// The most requests of a task.
const REQUESTS_MAX: usize = 32;
/// A difference between the clocks of host and exchange that means nothing: `Date` has whole seconds.
const SAME_TIME_MS: i64 = 2_000;

/// What is needed to ask an exchange. One thread uses it.
pub struct Asking {
    /// The exchange's id.
    pub exchange: String,
    /// The timeframe's name.
    pub timeframe: String,
    /// The time.
    pub clock: Clock,
    /// The instance that is used until a call of it fails, of the adapter with this SHA-256.
    pub instance: RefCell<Option<(Arc<str>, Instance)>>,
    /// When it may be asked.
    pub budget: RefCell<Budget>,
    /// How it is asked.
    pub http: Http,
    /// How far the exchange's clock is ahead of the host's.
    pub ahead_ms: Cell<i64>,
    /// How many requests were sent.
    pub requests: Cell<u64>,
}

/// Candles, and what the adapter wants to have back.
#[derive(Debug)]
pub struct Fetched {
    /// Closed candles, ascending.
    pub candles: Vec<Candle>,
    /// For the next task of the series.
    pub memo: String,
    /// Sentences about rows that could not be read.
    pub unreadable: Vec<String>,
    /// How it came to them.
    pub way: Way,
}

/// How an adapter came to candles.
#[derive(Debug, Default)]
pub struct Way {
    /// What it asked for, step by step.
    pub asked: Vec<Vec<wire::Request>>,
    /// The answers to all of that.
    pub responses: Vec<Response>,
    /// The time that it was told last.
    pub now_ms: i64,
    /// How long its calls took.
    pub time: Duration,
}

/// Why there are no candles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it means for the series.
    pub setback: Setback,
    /// In a sentence.
    pub sentence: String,
    /// Whose it is.
    pub blame: Blame,
}

/// Whose fault it is that there are no candles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The adapter breaks its contract.
    Adapter,
    /// The exchange, or what is between.
    Exchange,
    /// The adapter cannot read what the exchange has answered.
    Unclear,
}

impl Failure {
    fn new(setback: Setback, sentence: impl ToString) -> Failure {
        Failure { setback, sentence: sentence.to_string(), blame: Blame::Exchange }
    }

    fn of_adapter(sentence: impl ToString) -> Failure {
        Failure { blame: Blame::Adapter, ..Failure::new(Setback::Passing, sentence) }
    }
}

/// What is wanted of a series.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The unified symbol.
    pub symbol: &'a str,
    /// Of when.
    pub range: Range,
    /// What the adapter has wanted to have back.
    pub memo: &'a str,
}

/// The headers of answers, as an adapter gets them.
pub fn headers(responses: &[Response]) -> Vec<Vec<Header<'_>>> {
    (responses.iter())
        .map(|response| response.headers.iter().map(|(name, value)| Header { name, value }).collect())
        .collect()
}

/// Answers, as an adapter gets them.
pub fn answers<'a>(responses: &'a [Response], headers: &'a [Vec<Header<'a>>]) -> Vec<Answer<'a>> {
    (responses.iter().zip(headers))
        .map(|(response, headers)| Answer { status: response.status, headers, body: &response.body })
        .collect()
}

impl Asking {
    /// The time by which the exchange is asked: the later one of the host's and the exchange's, so that a clock which is
    /// slow makes nobody wait.
    pub fn now_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        now_ms.max(now_ms + self.ahead_ms.get())
    }

    /// The time by which a candle is closed: the earlier one. Nothing is taken for closed while one of them says that it
    /// is open, unless a later candle is there.
    fn closing_now_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        now_ms.min(now_ms + self.ahead_ms.get())
    }

    /// The candles of a range.
    pub async fn fetch(
        &self,
        adapter: &Adapter,
        symbol: &str,
        range: Range,
        memo: &str,
    ) -> Result<Fetched, Failure> {
        let mut way = Way::default();
        let wanted = Wanted { symbol, range, memo };
        for _ in 0..STEPS_MAX {
            let requests = match self.step(adapter, &wanted, &mut way)? {
                Step::Candles { candles, memo, unreadable } => {
                    return Ok(Fetched { candles, memo, unreadable, way });
                }
                Step::Failed(failure) => return Err(self.failed(&failure, None)),
                Step::Requests(requests) => requests,
            };
            if way.responses.len() + requests.len() > REQUESTS_MAX {
                return Err(Failure::of_adapter(format!(
                    "the adapter wants more than {REQUESTS_MAX} requests for one task"
                )));
            }
            for request in &requests {
                let response = self.ask(request).await?;
                let blocked_until_ms = self.hear(&response);
                let status = response.status;
                if status == 403 || status >= 500 {
                    // Of a firewall, or of a server that is down: no business of the adapter.
                    let setback = if blocked_until_ms.is_some() { Setback::Waits } else { Setback::Passing };
                    return Err(Failure::new(setback, format!("the exchange answers with status {status}")));
                }
                way.responses.push(response);
                if blocked_until_ms.is_some() {
                    // The adapter may read in the body until when; whatever else it wants has to wait.
                    let said = match self.step(adapter, &wanted, &mut way)? {
                        Step::Failed(failure) => self.failed(&failure, blocked_until_ms).sentence,
                        Step::Requests(_) | Step::Candles { .. } => {
                            format!("the exchange answers with status {status}")
                        }
                    };
                    return Err(Failure::new(Setback::Waits, said));
                }
            }
            way.asked.push(requests);
        }
        Err(Failure::of_adapter(format!("the adapter has no candles after {STEPS_MAX} steps")))
    }

    fn step(&self, adapter: &Adapter, wanted: &Wanted<'_>, way: &mut Way) -> Result<Step, Failure> {
        way.now_ms = self.closing_now_ms();
        let task = self.task(wanted, way.now_ms);
        let headers = headers(&way.responses);
        let answers = answers(&way.responses, &headers);
        let mut slot = self.instance.borrow_mut();
        let start = Instant::now();
        let mut call = || -> Result<Step, CallError> {
            let mut instance = match slot.take() {
                Some((sha256, instance)) if sha256 == adapter.sha256 => instance,
                _ => adapter.instance()?,
            };
            let step = instance.next(&task, &answers)?;
            // After a failed call it is gone.
            *slot = Some((Arc::clone(&adapter.sha256), instance));
            Ok(step)
        };
        let step = call().map_err(|error| Failure::of_adapter(format!("the adapter failed: {error}")));
        way.time += start.elapsed();
        step
    }

    /// What an adapter is told of a task.
    pub fn task<'a>(&'a self, wanted: &Wanted<'a>, now_ms: i64) -> Task<'a> {
        Task {
            exchange: &self.exchange,
            symbol: wanted.symbol,
            timeframe: &self.timeframe,
            since: wanted.range.since_ms,
            until: wanted.range.until_ms,
            now: now_ms,
            memo: wanted.memo,
        }
    }

    /// Sends a request when the budget allows it.
    async fn ask(&self, request: &wire::Request) -> Result<Response, Failure> {
        loop {
            let wait_ms = self.budget.borrow_mut().take(request.cost);
            let Some(wait_ms) = wait_ms else { break };
            tokio::time::sleep(self.clock.real(wait_ms)).await;
        }
        self.requests.set(self.requests.get() + 1);
        let sent_ms = self.clock.now_ms();
        let response = self.http.send(request).await.map_err(|trouble| {
            let (setback, blame) = match trouble {
                Trouble::NotAllowed(_) => (Setback::Refused, Blame::Adapter),
                Trouble::Unreachable { .. } | Trouble::Broken { .. } | Trouble::TooLarge { .. } => {
                    (Setback::Passing, Blame::Exchange)
                }
            };
            Failure { blame, ..Failure::new(setback, trouble) }
        })?;
        self.note_time(&response, sent_ms);
        Ok(response)
    }

    /// What the exchange's clock says.
    fn note_time(&self, response: &Response, sent_ms: i64) {
        let Some(date_ms) = response.header("date").and_then(http_date_ms) else { return };
        let now_ms = self.clock.now_ms();
        let took_ms = now_ms - sent_ms;
        // The second has begun, nobody knows how long ago, and the answer was on its way.
        let ahead_ms = date_ms + 500 - (sent_ms + took_ms / 2);
        self.ahead_ms.set(if ahead_ms.abs() <= SAME_TIME_MS + took_ms { 0 } else { ahead_ms });
    }

    /// Until when nothing may be asked, when the answer says so.
    fn hear(&self, response: &Response) -> Option<i64> {
        self.budget.borrow_mut().hear(response.status, |name| response.header(name))
    }

    fn failed(&self, failure: &wire::Failure, blocked_until_ms: Option<i64>) -> Failure {
        let setback = match failure {
            wire::Failure::BadSymbol(_) => Setback::UnknownSymbol,
            wire::Failure::Refused(_) => Setback::Refused,
            wire::Failure::Unavailable(_) | wire::Failure::Unreadable(_) if blocked_until_ms.is_none() => {
                Setback::Passing
            }
            wire::Failure::Throttled(throttled) => {
                let mut budget = self.budget.borrow_mut();
                match throttled.until {
                    Some(until_ms) => budget.block_until(until_ms),
                    // Said in the body alone: as if it were a status.
                    None if blocked_until_ms.is_none() => budget.hear_told(Told::Throttled),
                    None => budget.blocked_until_ms(),
                };
                Setback::Waits
            }
            wire::Failure::Unavailable(_) | wire::Failure::Unreadable(_) => Setback::Waits,
        };
        let is_unread = matches!(failure, wire::Failure::Unreadable(_));
        let blame = if is_unread { Blame::Unclear } else { Blame::Exchange };
        Failure { blame, ..Failure::new(setback, sentence(failure)) }
    }
}
