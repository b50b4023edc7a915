//! From what the pipeline file says to what the threads need: adapters are loaded, and must know what is asked of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::adapter::{Adapter, Description};
use super::adapters::Adapters;
use super::budget::Rate;
use super::collector::Plan;
use super::http::Reach;
use super::ledgers;
use super::series::Settings;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::lane::Place;
use crate::pipeline_file::{Budget, Exchange, ExchangeSource, Limits, component_path, timeframe_ms};
use crate::state;

/// The adapter of the exchanges that have none of their own.
const FOR_ALL: &str = "ccxt";

/// The most candles of a series' ledger: a byte each, so 1,000 series have 100 MB.
const LEDGER_MAX: i64 = 100_000;

/// What is wrong with an exchange of the pipeline file: the key, and a sentence.
pub type Fault = (&'static str, String);

/// The file of an exchange's adapter.
pub fn adapter_path(exchange: &Exchange, folder: &Path, guests: &Path) -> PathBuf {
    if let Some(component) = &exchange.component {
        return component_path(folder, guests, component);
    }
    let own = guests.join(format!("{}.wasm", exchange.exchange));
    let for_all = guests.join(format!("{FOR_ALL}.wasm"));
    if own.is_file() || !for_all.is_file() { own } else { for_all }
}

/// Loads adapters, each file once.
#[derive(Default)]
pub struct Files {
    loaded: HashMap<PathBuf, Adapter>,
}

impl Files {
    /// The adapter of a file, under these limits.
    pub fn load(&mut self, path: &Path, limits: &Limits) -> Result<Adapter> {
        if let Some(adapter) = self.loaded.get(path) {
            return Ok(adapter.under(limits));
        }
        let adapter = Adapter::load(path, limits)?;
        self.loaded.insert(path.into(), adapter.clone());
        Ok(adapter)
    }
}

/// What the threads need, one for each exchange, with the adapters that should run.
pub fn plans(
    config: &ExchangeSource,
    pipeline: &str,
    adapters: &Adapters,
    place: &Place<'_>,
) -> Result<Vec<Plan>> {
    (config.exchanges.iter().zip(adapters.running()))
        .map(|(exchange, adapter)| {
            let description = described(exchange, &config.timeframe, &adapter)?.clone();
            Ok(plan(config, exchange, &description, adapter, pipeline, place))
        })
        .collect()
}

/// What an adapter says of an exchange, when it knows what the pipeline file wants of it.
///
/// # Errors
/// [`Error::Files`] with what it does not know.
pub fn described<'a>(exchange: &Exchange, timeframe: &str, adapter: &'a Adapter) -> Result<&'a Description> {
    fit(exchange, timeframe, adapter)
        .map_err(|(_, sentence)| Error::Files(format!("`{}`: {sentence}", exchange.exchange)))
}

/// The hosts that an exchange's adapter may reach.
pub fn hosts(exchange: &Exchange, adapter: &Adapter) -> Vec<String> {
    let declared = || adapter.exchange(&exchange.exchange).map(|description| description.hosts.clone());
    exchange.hosts.clone().or_else(declared).unwrap_or_default()
}

/// Where requests to these hosts go.
pub fn reach(exchange: &Exchange, hosts: Vec<String>) -> Reach {
    Reach::new(hosts, mirror(exchange))
}

fn mirror(exchange: &Exchange) -> Option<Url> {
    exchange.mirror().and_then(|url| Url::parse(url).ok())
}

/// Whether an adapter knows what the pipeline file wants of it.
pub fn fit<'a>(
    exchange: &Exchange,
    timeframe: &str,
    adapter: &'a Adapter,
) -> std::result::Result<&'a Description, Fault> {
    let Some(description) = adapter.exchange(&exchange.exchange) else {
        let known: Vec<&str> = adapter.exchanges.iter().map(|known| known.id.as_str()).collect();
        let hint = crate::pipeline_file::finding::hint(&exchange.exchange, &known);
        let sentence = format!(
            "the adapter `{}` does not know the exchange `{}`; {hint}",
            adapter.name, exchange.exchange
        );
        return Err(("exchange", sentence));
    };
    if !description.timeframes.iter().any(|known| known == timeframe) {
        let sentence = format!(
            "`{}` has no candles of `{timeframe}`; it has `{}`",
            exchange.exchange,
            description.timeframes.join("`, `")
        );
        return Err(("exchange", sentence));
    }
    let allowed = exchange.hosts.as_deref().unwrap_or(&[]);
    if let Some(host) = allowed.iter().find(|host| !description.hosts.contains(host)) {
        let sentence = format!(
            "the host `{host}` is none of those that the adapter needs: `{}`",
            description.hosts.join("`, `")
        );
        return Err(("hosts", sentence));
    }
    if exchange.live && !(description.has_feed && timeframe == "1m") {
        let sentence = format!("the adapter `{}` knows no live feed of `{timeframe}` candles", adapter.name);
        return Err(("live", sentence));
    }
    Ok(description)
}

fn plan(
    config: &ExchangeSource,
    exchange: &Exchange,
    description: &Description,
    adapter: Adapter,
    pipeline: &str,
    place: &Place<'_>,
) -> Plan {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let timeframe_ms = timeframe_ms(&config.timeframe).unwrap_or(60_000);
    let base = mirror(exchange);
    let hosts = hosts(exchange, &adapter);
    // The ledger must reach as far back as what is fetched at first, or its gaps would be forgotten at once.
    let ledger = (ms(config.ledger.0).max(ms(config.history.0)) / timeframe_ms).clamp(1, LEDGER_MAX);
    Plan {
        name: exchange.name().into(),
        exchange: exchange.exchange.clone(),
        timeframe: config.timeframe.clone(),
        settings: Settings {
            timeframe_ms,
            history_ms: ms(config.history.0),
            grace_ms: ms(config.grace.0),
            reread: config.reread,
            patience_ms: ms(config.patience.0),
            ledger: usize::try_from(ledger).unwrap_or(1),
            page_limit: i64::from(description.page_limit),
            depth: description.depth.map(i64::from),
            quiet: description.quiet,
        },
        adapter,
        file: place.state.join("exchanges").join(format!("{}.json", file_name(exchange, base.as_ref()))),
        ledgers: ledgers::path(place.state, pipeline, exchange.name()),
        reach: Reach::new(hosts, base),
        timeout: exchange.timeout.0,
        concurrency: exchange.concurrency,
        rate: rate(exchange.budget.as_ref(), description),
        budget: exchange.budget,
        is_live: exchange.live,
        clock: Clock::of_process(),
    }
}

impl Plan {
    /// Goes on with another version of the adapter, which says how much it gives, and how often it may be asked.
    pub fn take(&mut self, adapter: Adapter) {
        if let Some(description) = adapter.exchange(&self.exchange) {
            self.settings.page_limit = i64::from(description.page_limit);
            self.settings.depth = description.depth.map(i64::from);
            self.settings.quiet = description.quiet;
            self.rate = rate(self.budget.as_ref(), description);
        }
        self.adapter = adapter;
    }
}

/// How often an exchange may be asked: as the pipeline file says, or else its adapter.
fn rate(budget: Option<&Budget>, description: &Description) -> Rate {
    let used_header = description.used_header.clone();
    match budget {
        Some(budget) => Rate {
            units: budget.units,
            window_ms: u32::try_from(budget.window.0.as_millis()).unwrap_or(u32::MAX),
            burst: budget.burst.unwrap_or(budget.units.div_ceil(10)).max(1),
            used_header,
        },
        None => Rate {
            units: description.units,
            window_ms: description.window_ms,
            burst: description.burst,
            used_header,
        },
    }
}

/// What an exchange says about waiting holds for whoever asks it from here, and not for its mirrors.
fn file_name(exchange: &Exchange, base: Option<&Url>) -> String {
    let Some(base) = base else { return exchange.exchange.clone() };
    format!("{}@{}", exchange.exchange, state::file_name(base.authority()))
}
