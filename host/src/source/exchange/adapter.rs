//! An exchange adapter: its component, its calls under limits, every answer checked.

use std::path::Path;
use std::sync::Arc;

use wasmtime::Store;

use super::bindings::exports::tidegate::exchange::exchange as wire;
use super::bindings::{TidegateExchange, TidegateExchangePre};
use crate::error::Result;
use crate::pipeline_file::{Limits, timeframe_ms};
use crate::wasm::{self, CallError, Contract, Guest, check_name, check_names, cut};

/// What an adapter exports.
pub const CONTRACT: Contract =
    Contract { interface: "tidegate:exchange/exchange@0.1.0", what: "an exchange adapter" };

/// The most exchanges of an adapter; CCXT has 104.
const EXCHANGES_MAX: usize = 512;
/// The most hosts of an exchange.
const HOSTS_MAX: usize = 64;
/// The longest host name.
const HOST_BYTES_MAX: usize = 256;
/// The longest sentence that an adapter may say about itself.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// The most candles of one task: the largest page of any exchange is 1,500.
const PAGE_LIMIT_MAX: u32 = 10_000;
/// The most requests of one step.
const REQUESTS_MAX: usize = 16;
/// The longest URL, and the longest header: what servers take.
const URL_BYTES_MAX: usize = 8 << 10;
/// The longest memo: the market of a symbol has less than 1 KiB.
const MEMO_BYTES_MAX: usize = 64 << 10;
/// The most frames that begin a live feed: 1,024 streams in fives.
const FRAMES_MAX: usize = 256;

pub use wire::{Answer, HeaderParam as Header, Quiet, Task};

/// What an exchange is.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The hosts of its requests, with a port where it is not the usual one.
    pub hosts: Vec<String>,
    /// The timeframes that it gives.
    pub timeframes: Vec<String>,
    /// The most candles of one task.
    pub page_limit: u32,
    /// How many candles back from now it gives, where that is limited.
    pub depth: Option<u32>,
    /// Units in each window.
    pub units: u32,
    /// The window in milliseconds.
    pub window_ms: u32,
    /// Units that may be used at once.
    pub burst: u32,
    /// The header that says how many units are used.
    pub used_header: Option<String>,
    /// What it does with a minute in which nothing was traded.
    pub quiet: Quiet,
    /// Whether it has a live feed.
    pub has_feed: bool,
}

/// An adapter's component, compiled.
#[derive(Clone)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// Its exchanges.
    pub exchanges: Vec<Description>,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: Arc<str>,
    /// Size of the file.
    pub size_bytes: u64,
    limits: Limits,
    linked: TidegateExchangePre<Guest>,
}

/// An instance of an adapter.
pub struct Instance {
    store: Store<Guest>,
    exchange: TidegateExchange,
    limits: Limits,
}

/// A candle, as an exchange gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candle {
    /// Open time.
    pub open_ms: i64,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// In units of the base.
    pub volume: f64,
    /// Number of trades.
    pub trades: Option<i64>,
    /// In units of the quote.
    pub quote_volume: Option<f64>,
    /// Volume-weighted average price.
    pub vwap: Option<f64>,
}

impl Candle {
    /// Whether nothing was traded: by the number of trades where the exchange says it, else by the volume.
    pub fn is_quiet(&self) -> bool {
        self.trades.map_or(self.volume == 0.0, |trades| trades == 0)
    }
}

/// One step towards candles.
#[derive(Debug)]
pub enum Step {
    /// Requests to send; at least one.
    Requests(Vec<wire::Request>),
    /// Closed candles, ascending, and the memo.
    Candles {
        /// The candles.
        candles: Vec<Candle>,
        /// For the next task.
        memo: String,
        /// Sentences about rows that could not be read.
        unreadable: Vec<String>,
    },
    /// Why there are none.
    Failed(wire::Failure),
}

/// How to listen to a live feed.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Where.
    pub url: String,
    /// What to send first.
    pub frames: Vec<String>,
    /// What to send again and again, and how often in milliseconds.
    pub ping: Option<(String, u32)>,
}

impl Adapter {
    /// Reads, checks and compiles a component and asks it what it is.
    ///
    /// # Errors
    /// [`crate::error::Error::Files`] with what the file is instead of an adapter.
    pub fn load(path: &Path, limits: &Limits) -> Result<Adapter> {
        Adapter::of(path, wasm::open(path, limits)?, limits)
    }

    /// Checks the component of the file at `path` and asks it what it is. Errors as for [`Adapter::load`].
    pub fn of(path: &Path, file: wasm::File, limits: &Limits) -> Result<Adapter> {
        file.check(path, &CONTRACT)?;
        let wasm::File { component, sha256, size_bytes, .. } = file;
        let wrong = |what: String| wasm::wrong(path, &what);
        let linked = wasm::link(&component)
            .and_then(TidegateExchangePre::new)
            .map_err(|error| wrong(CONTRACT.does_not_fit(&format!("{error:#}"))))?;
        let answer = Instance::start(&linked, limits)
            .and_then(|mut instance| instance.call(|exchange, store| exchange.call_describe(store)))
            .map_err(|error| match error {
                CallError::Types(what) => wrong(CONTRACT.does_not_fit(&what)),
                error => wrong(format!("failed when it was asked what it is: {error}")),
            })?;
        let exchanges =
            check_description(&answer).map_err(|what| wrong(format!("describes itself wrongly: {what}")))?;
        let wire::Description { name, version, summary, .. } = answer;
        Ok(Adapter { name, version, summary, exchanges, sha256, size_bytes, limits: limits.clone(), linked })
    }

    /// The same component under other limits.
    pub fn under(&self, limits: &Limits) -> Adapter {
        Adapter { limits: limits.clone(), ..self.clone() }
    }

    /// What it says of an exchange.
    pub fn exchange(&self, id: &str) -> Option<&Description> {
        self.exchanges.iter().find(|exchange| exchange.id == id)
    }

    /// A new instance.
    pub fn instance(&self) -> std::result::Result<Instance, CallError> {
        Instance::start(&self.linked, &self.limits)
    }
}

impl Instance {
    fn start(
        linked: &TidegateExchangePre<Guest>,
        limits: &Limits,
    ) -> std::result::Result<Instance, CallError> {
        let (mut store, instance) = wasm::start(linked.instance_pre(), limits)?;
        let exchange = TidegateExchange::new(&mut store, &instance)
            .map_err(|error| CallError::Types(cut(format!("{error:#}"))))?;
        Ok(Instance { store, exchange, limits: limits.clone() })
    }

    /// One step towards the candles of a task. The answer is checked.
    pub fn next(&mut self, task: &Task<'_>, answers: &[Answer<'_>]) -> std::result::Result<Step, CallError> {
        let step = self.call(|exchange, store| exchange.call_next(store, task.clone(), answers))?;
        checked(task, step).map_err(CallError::Answer)
    }

    /// How to listen to some symbols.
    pub fn subscribe(
        &mut self,
        exchange: &str,
        timeframe: &str,
        symbols: &[&str],
    ) -> std::result::Result<Subscription, CallError> {
        let answer = self
            .call(|guest, store| guest.call_subscribe(store, exchange, timeframe, symbols))?
            .map_err(|sentence| CallError::Refused(cut(sentence)))?;
        let wire::Subscription { url, frames, ping, ping_ms } = answer;
        if url.len() > URL_BYTES_MAX || frames.len() > FRAMES_MAX {
            return Err(CallError::Answer(format!(
                "the subscription has {} bytes of address and {} frames",
                url.len(),
                frames.len()
            )));
        }
        Ok(Subscription { url, frames, ping: ping.map(|frame| (frame, ping_ms.max(1000))) })
    }

    /// The candles that a frame of a live feed closes, each with its symbol.
    pub fn hear(
        &mut self,
        now_ms: i64,
        frame: &str,
    ) -> std::result::Result<Vec<(String, Candle)>, CallError> {
        let candles = self
            .call(|guest, store| guest.call_hear(store, now_ms, frame))?
            .map_err(|sentence| CallError::Refused(cut(sentence)))?;
        let candle = |live: wire::LiveCandle| {
            let wire::LiveCandle { symbol, timestamp, open, high, low, close, volume, .. } = live;
            let trades = live.trades.filter(|trades| *trades >= 0);
            let [quote_volume, vwap] =
                [live.quote_volume, live.vwap].map(|value| value.filter(|value| !value.is_nan()));
            (
                symbol,
                Candle { open_ms: timestamp, open, high, low, close, volume, trades, quote_volume, vwap },
            )
        };
        Ok(candles.into_iter().map(candle).collect())
    }

    /// One call, under the limits.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&wire::Guest, &mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> std::result::Result<T, CallError> {
        let Instance { store, exchange, limits } = self;
        wasm::call(store, limits, |store| call(exchange.tidegate_exchange_exchange(), store))
    }
}

fn check_description(answer: &wire::Description) -> std::result::Result<Vec<Description>, String> {
    check_name("the adapter's name", &answer.name, "-_")?;
    let ids: Vec<&str> = answer.exchanges.iter().map(|exchange| exchange.id.as_str()).collect();
    check_names("an exchange", &ids, EXCHANGES_MAX)?;
    for (what, text) in [("version", &answer.version), ("summary", &answer.summary)] {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("its {what} has {} bytes, at most {TEXT_BYTES_MAX} are allowed", text.len()));
        }
    }
    if ids.is_empty() {
        return Err("it has no exchanges".into());
    }
    let checked = |exchange: &wire::ExchangeDescription| {
        check_exchange(exchange).map_err(|what| format!("`{}` {what}", exchange.id))
    };
    answer.exchanges.iter().map(checked).collect()
}

fn check_exchange(exchange: &wire::ExchangeDescription) -> std::result::Result<Description, String> {
    let wire::ExchangeDescription { id, name, hosts, timeframes, page_limit, depth, budget, quiet, has_feed } =
        exchange;
    let is_host = |host: &String| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
        !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.chars().all(allowed)
    };
    if hosts.is_empty() || hosts.len() > HOSTS_MAX {
        return Err(format!("has {} hosts, but must have 1 to {HOSTS_MAX}", hosts.len()));
    }
    if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
        return Err(format!("has the host `{}`, which is no host", host.escape_debug()));
    }
    if timeframes.is_empty() {
        return Err("has no timeframes".into());
    }
    if let Some(timeframe) = timeframes.iter().find(|timeframe| timeframe_ms(timeframe).is_none()) {
        return Err(format!(
            "has the timeframe `{}`, which the contract does not know",
            timeframe.escape_debug()
        ));
    }
    if !(1..=PAGE_LIMIT_MAX).contains(page_limit) {
        return Err(format!("has a page limit of {page_limit}, but it must be 1 to {PAGE_LIMIT_MAX}"));
    }
    if budget.units == 0 || budget.window_ms == 0 {
        return Err("has a budget of nothing".into());
    }
    if name.len() > TEXT_BYTES_MAX {
        return Err(format!("has a name of {} bytes", name.len()));
    }
    Ok(Description {
        id: id.clone(),
        name: name.clone(),
        hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        timeframes: timeframes.clone(),
        page_limit: *page_limit,
        depth: *depth,
        units: budget.units,
        window_ms: budget.window_ms,
        burst: budget.burst.clamp(1, budget.units),
        used_header: budget.used_header.as_ref().map(|name| name.to_ascii_lowercase()),
        quiet: *quiet,
        has_feed: *has_feed,
    })
}

/// Whether a step is what the contract says.
fn checked(task: &Task<'_>, step: wire::Step) -> std::result::Result<Step, String> {
    match step {
        wire::Step::Requests(requests) => {
            if requests.is_empty() || requests.len() > REQUESTS_MAX {
                return Err(format!("it has {} requests, but must have 1 to {REQUESTS_MAX}", requests.len()));
            }
            match requests.iter().find(|request| request.url.len() > URL_BYTES_MAX) {
                Some(request) => Err(format!("it has a URL of {} bytes", request.url.len())),
                None => Ok(Step::Requests(requests)),
            }
        }
        wire::Step::Candles(candles) => check_candles(task, candles),
        wire::Step::Failed(failure) => Ok(Step::Failed(failure)),
    }
}

fn check_candles(task: &Task<'_>, candles: wire::Candles) -> std::result::Result<Step, String> {
    let rows = candles.timestamps.len();
    let needed = [
        ("open", candles.open.len()),
        ("high", candles.high.len()),
        ("low", candles.low.len()),
        ("close", candles.close.len()),
        ("volume", candles.volume.len()),
    ];
    let optional = [
        ("trades", candles.trades.len()),
        ("quote-volume", candles.quote_volume.len()),
        ("vwap", candles.vwap.len()),
    ];
    let is_wrong = |(_, length): &(&str, usize)| *length != rows;
    let wrong = needed
        .iter()
        .find(|list| is_wrong(list))
        .or_else(|| optional.iter().find(|list| list.1 != 0 && is_wrong(list)));
    if let Some((list, length)) = wrong {
        return Err(format!("`{list}` has {length} values, expected {rows}"));
    }
    if candles.memo.len() > MEMO_BYTES_MAX {
        return Err(format!(
            "its memo has {} bytes, at most {MEMO_BYTES_MAX} are allowed",
            candles.memo.len()
        ));
    }
    let length_ms = timeframe_ms(task.timeframe).unwrap_or(1);
    let mut after = task.since;
    for (row, open_ms) in candles.timestamps.iter().enumerate() {
        if *open_ms < after || *open_ms >= task.until || open_ms.rem_euclid(length_ms) != 0 {
            return Err(format!(
                "candle {row} opens at {open_ms}, expected a multiple of {length_ms} from {after} to before {}",
                task.until
            ));
        }
        after = open_ms.saturating_add(length_ms);
    }
    let some = |list: &[f64], row: usize| list.get(row).copied().filter(|value| !value.is_nan());
    let candle = |row: usize| Candle {
        open_ms: candles.timestamps[row],
        open: candles.open[row],
        high: candles.high[row],
        low: candles.low[row],
        close: candles.close[row],
        volume: candles.volume[row],
        trades: candles.trades.get(row).copied().filter(|trades| *trades >= 0),
        quote_volume: some(&candles.quote_volume, row),
        vwap: some(&candles.vwap, row),
    };
    Ok(Step::Candles {
        candles: (0..rows).map(candle).collect(),
        unreadable: candles.unreadable.into_iter().take(8).map(cut).collect(),
        memo: candles.memo,
    })
}

/// An adapter's failure in one sentence.
pub fn sentence(failure: &wire::Failure) -> String {
    let (kind, text) = match failure {
        wire::Failure::BadSymbol(text) => ("the symbol is unknown there", text),
        wire::Failure::Throttled(throttled) => ("too many requests", &throttled.detail),
        wire::Failure::Refused(text) => ("the exchange refuses", text),
        wire::Failure::Unavailable(text) => ("the exchange is not available", text),
        wire::Failure::Unreadable(text) => ("the answer cannot be read", text),
    };
    cut(format!("{kind}: {text}"))
}
