//! What a pipeline file can say wrong about exchanges. Whether their adapters know what is asked of them, the command
//! `check` says, which loads them.

use std::collections::HashSet;
use std::time::Duration;

use super::{Check, GIB, MIB};
use crate::pipeline_file::{Exchange, ExchangeSource, Source, TIMEFRAMES, timeframe_ms};

/// A thread each.
const EXCHANGES: usize = 128;
/// A series has some 3 KB, most of it the ledger of a day.
const SYMBOLS: usize = 10_000;
/// Each is asked for again every minute.
const REREAD: usize = 60;
const CONCURRENCY: usize = 64;
/// A year of minutes is half a million candles: what is longer is for `tidegate backfill`.
const HISTORY: Duration = Duration::from_secs(366 * 86_400);

impl Check<'_> {
    pub(super) fn exchanges(&mut self) {
        let Source::Exchange(config) = &self.loaded.pipeline.source else { return };
        let ExchangeSource { exchanges, timeframe, history, grace, spread, reread, .. } = &**config;
        let at = |key| ["source", "exchange", key];
        self.range(&at("reread"), *reread as u64, 0, REREAD as u64, "");
        if exchanges.is_empty() || exchanges.len() > EXCHANGES {
            let message =
                format!("there must be 1 to {EXCHANGES} exchanges, but there are {}", exchanges.len());
            self.add(&at("exchanges"), message);
        }
        let names: Vec<&str> = TIMEFRAMES.iter().map(|(name, _)| *name).collect();
        match timeframe_ms(timeframe) {
            None => {
                let message = format!("the timeframe `{timeframe}` is none of `{}`", names.join("`, `"));
                self.add(&at("timeframe"), message);
            }
            Some(length_ms) if (grace.0 + spread.0).as_millis() >= length_ms.unsigned_abs().into() => {
                let message =
                    format!("`grace` and `spread` together must be shorter than a candle of `{timeframe}`");
                self.add(&at("spread"), message);
            }
            Some(_) => {}
        }
        if history.0 > HISTORY {
            self.add(
                &at("history"),
                "`history` is longer than a year; `tidegate backfill` fetches what is older",
            );
        }
        let columns = super::columns(&self.loaded.pipeline.decode.columns);
        let missing: Vec<&str> = (["source", "symbol", "timeframe", "timestamp"].into_iter())
            .filter(|needed| !columns.iter().any(|(name, _)| name == needed))
            .collect();
        if !missing.is_empty() {
            let message = format!(
                "candles of exchanges need the columns `{}`: they say where to go on",
                missing.join("`, `")
            );
            self.add(&["decode", "columns"], message);
        }
        if self.loaded.pipeline.lanes != 1 {
            self.add(
                &["lanes"],
                "the source `exchange` is one lane: it has a thread for each exchange already",
            );
        }
        let series: usize = exchanges.iter().map(|exchange| exchange.symbols.len()).sum();
        let needed = series.saturating_mul(reread + 1);
        if self.loaded.pipeline.remember.rows < needed {
            let message = format!(
                "`rows` must be at least {needed}: the last rows of the sink say where {series} series go on"
            );
            self.add(&["remember", "rows"], message);
        }
        let mut taken = HashSet::new();
        for (index, exchange) in exchanges.iter().enumerate() {
            let index = index.to_string();
            if !taken.insert(exchange.name()) {
                let message =
                    format!("the exchange `{}` is there twice; give one of them a `name`", exchange.name());
                self.add(&["source", "exchange", "exchanges", &index, "exchange"], message);
            }
            self.exchange(&index, exchange);
        }
    }

    fn exchange(&mut self, index: &str, exchange: &Exchange) {
        let at = |key| ["source", "exchange", "exchanges", index, key];
        let Exchange { symbols, hosts, budget, concurrency, timeout, limits, .. } = exchange;
        if !super::is_name(&exchange.exchange) {
            let message = format!("the exchange `{}` must be a name of `a-z 0-9 - _`", exchange.exchange);
            self.add(&at("exchange"), message);
        }
        if symbols.is_empty() || symbols.len() > SYMBOLS {
            let message = format!("there must be 1 to {SYMBOLS} symbols, but there are {}", symbols.len());
            self.add(&at("symbols"), message);
        }
        let mut taken = HashSet::new();
        for (place, symbol) in symbols.iter().enumerate() {
            let place = place.to_string();
            let path = ["source", "exchange", "exchanges", index, "symbols", &place];
            if !is_symbol(symbol) {
                let message = format!("the symbol `{symbol}` must have base and quote: `BTC/USDT`");
                self.add(&path, message);
            } else if !taken.insert(symbol) {
                self.add(&path, format!("the symbol `{symbol}` is there twice"));
            }
        }
        if hosts.as_ref().is_some_and(Vec::is_empty) {
            self.add(
                &at("hosts"),
                "without any host nothing can be asked; leave `hosts` out for all of the adapter's",
            );
        }
        if let Some(url) = exchange.mirror() {
            let parsed = reqwest::Url::parse(url);
            let is_http = parsed.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !is_http {
                self.add(&at("url"), "`url` must be like `http://127.0.0.1:9400/binance`");
            }
        }
        if let Some(budget) = budget {
            let most = Duration::from_millis(u32::MAX.into());
            if budget.units == 0
                || budget.window.0.is_zero()
                || budget.window.0 > most
                || budget.burst == Some(0)
            {
                self.add(
                    &at("budget"),
                    "`budget` must have units, a window of at most 49 days, and a burst above 0",
                );
            }
        }
        self.range(&at("concurrency"), *concurrency as u64, 1, CONCURRENCY as u64, "");
        if timeout.0.is_zero() {
            self.add(&at("timeout"), "`timeout` must be longer than 0");
        }
        let ranges = [
            ("memory", limits.memory.0, 64 << 10, 4 * GIB),
            ("output", limits.output.0, MIB, 4 * GIB),
            ("file", limits.file.0, 1, 4 * GIB),
        ];
        for (key, value, least, most) in ranges {
            self.range(
                &["source", "exchange", "exchanges", index, "limits", key],
                value,
                least,
                most,
                " bytes",
            );
        }
    }
}

/// Base and quote, each at least one character that is no space; what is behind a `:` is the settlement of a future.
fn is_symbol(symbol: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(|c| !c.is_whitespace() && !c.is_control());
    symbol.len() <= 64 && symbol.split_once('/').is_some_and(|(base, quote)| is_part(base) && is_part(quote))
}
