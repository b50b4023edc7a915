//! The adapters of a running pipeline's exchanges, as versions that can be replaced.
//!
//! An adapter goes over between two tasks: one that has been begun with a version is ended with it. What a version on
//! probation answers is judged before the lane gets it.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::adapter::{Adapter, Step, Task};
use super::http::Protocol;
use super::plan;
use crate::error::Result;
use crate::lane::RunOptions;
use crate::life::{self, Code, Kind, Lives, Part, What, lock};
use crate::pipeline_file::{Exchange, Limits, Loaded, timeframe_ms};
use crate::wasm;

/// The adapters of a running pipeline's exchanges, which their threads share.
pub type Adapters = Lives<AdapterKind>;
/// A version of an adapter.
pub type Version = life::Version<Adapter>;
/// A version of an adapter that is tried.
pub type Candidate = life::Candidate<Adapter>;

/// What is particular to adapters.
pub struct AdapterKind {
    exchanges: Vec<Exchange>,
    timeframe: String,
    /// What each exchange may reach: the hosts that the version declares with which it began, or those of the file.
    hosts: Vec<Vec<String>>,
    /// The one that was described last: exchanges often share their adapter, and an instance of CCXT takes seconds.
    described: Mutex<Option<Adapter>>,
}

impl Code for Adapter {
    fn sha256(&self) -> &Arc<str> {
        &self.sha256
    }

    fn version(&self) -> &str {
        &self.version
    }
}

impl Adapters {
    /// The adapters that should run: those of the pipeline file, or what has been deployed since their files changed;
    /// none for a pipeline without exchanges.
    ///
    /// # Errors
    /// What is wrong with an adapter, or with the state folder.
    pub fn open_adapters(loaded: &Loaded, options: &RunOptions) -> Result<Adapters> {
        let config = loaded.pipeline.source.exchange();
        let exchanges = config.map_or_else(Vec::new, |config| config.exchanges.clone());
        let timeframe = config.map_or_else(String::new, |config| config.timeframe.clone());
        let part = |exchange: &Exchange| Part {
            name: exchange.name().to_owned(),
            path: plan::adapter_path(exchange, &loaded.folder, &options.guests),
            limits: Limits::from(&exchange.limits),
        };
        let parts: Vec<Part> = exchanges.iter().map(part).collect();
        let followers = parts.len();
        let kind = AdapterKind { exchanges, timeframe, hosts: Vec::new(), described: Mutex::default() };
        let mut adapters = Lives::open(kind, parts, followers, loaded, options)?;
        let running = adapters.running();
        adapters.kind.hosts = (adapters.kind.exchanges.iter().zip(&running))
            .map(|(exchange, adapter)| plan::hosts(exchange, adapter))
            .collect();
        Ok(adapters)
    }
}

impl Kind for AdapterKind {
    type Code = Adapter;
    const WHAT: What = What::Exchange;
    const FOLDER: &'static str = "adapters";

    fn load(&self, index: usize, path: &Path, file: wasm::File) -> Result<Adapter> {
        let exchange = &self.exchanges[index];
        let limits = Limits::from(&exchange.limits);
        let mut described = lock(&self.described);
        let known = described.as_ref().filter(|known| known.sha256 == file.sha256);
        let adapter = match known {
            Some(known) => known.under(&limits),
            None => Adapter::of(path, file, &limits)?,
        };
        *described = Some(adapter.clone());
        plan::described(exchange, &self.timeframe, &adapter)?;
        Ok(adapter)
    }

    fn check(
        &self,
        index: usize,
        _: &wasm::File,
        adapter: &Adapter,
        _: &[Adapter],
    ) -> std::result::Result<(), String> {
        let allowed = &self.hosts[index];
        let wanted = plan::hosts(&self.exchanges[index], adapter);
        if let Some(host) = wanted.iter().find(|host| !allowed.contains(host)) {
            return Err(format!(
                "the adapter would reach the host `{host}`, and the running pipeline reaches `{}`; such a version needs a \
                 restart of the pipeline",
                allowed.join("`, `")
            ));
        }
        self.asks(index, adapter)
    }

    /// Each exchange has a thread of its own.
    fn followers(&self, index: usize, _: usize) -> Range<usize> {
        index..index + 1
    }
}

impl AdapterKind {
    /// Whether it knows what to ask for a candle of the first symbol, and asks only where it may.
    fn asks(&self, index: usize, adapter: &Adapter) -> std::result::Result<(), String> {
        let exchange = &self.exchanges[index];
        let Some(symbol) = exchange.symbols.first() else { return Ok(()) };
        let timeframe_ms = timeframe_ms(&self.timeframe).unwrap_or(60_000);
        let now_ms = crate::lane::clock_ms();
        let until_ms = now_ms.div_euclid(timeframe_ms) * timeframe_ms;
        let task = Task {
            exchange: &exchange.exchange,
            symbol,
            timeframe: &self.timeframe,
            since: until_ms - timeframe_ms,
            until: until_ms,
            now: now_ms,
            memo: "",
        };
        let step =
            (adapter.instance().and_then(|mut instance| instance.next(&task, &[]))).map_err(|error| {
                format!("the adapter failed when it was asked for a candle of {symbol}: {error}")
            })?;
        let Step::Requests(requests) = step else { return Ok(()) };
        let reach = plan::reach(exchange, self.hosts[index].clone());
        requests.iter().try_for_each(|request| {
            let allowed = reach.resolve(&request.url, Protocol::Http);
            allowed.map(drop).map_err(|sentence| format!("the adapter {sentence}"))
        })
    }
}
