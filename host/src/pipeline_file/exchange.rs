//! What a pipeline file says about exchanges.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ByteSize, Limits, Span};

/// Closed candles of exchanges, over HTTP. An adapter, a component without any network of its own, says what to ask
/// and reads the answers. Where to go on is what the sink has: its rows need the columns `source`, `symbol`,
/// `timeframe` and `timestamp`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExchangeSource {
    /// The exchanges, each once; 1 to 128.
    pub exchanges: Vec<Exchange>,
    /// How long a candle is: `1m`, `3m`, `5m`, `15m`, `30m`, `1h`, `2h`, `4h`, `6h`, `8h`, `12h` or `1d`.
    #[serde(default = "one_minute")]
    pub timeframe: String,
    /// How much of the past is fetched of a series that the sink has nothing of.
    #[serde(default = "default_history")]
    pub history: Span,
    /// How long after its close a candle is asked for.
    #[serde(default = "default_grace")]
    pub grace: Span,
    /// Over how much time the polls of an exchange's series are spread, after `grace`.
    #[serde(default = "default_spread")]
    pub spread: Span,
    /// How many closed candles are read again with each poll; one that has changed is written with the next `revision`.
    /// 0 to 60.
    #[serde(default = "default_reread")]
    pub reread: usize,
    /// How long a candle that is not there is asked for again, before it counts as missing or quiet.
    #[serde(default = "default_patience")]
    pub patience: Span,
    /// How far back the ledger goes that says of every candle whether it is there, was quiet or is missing.
    #[serde(default = "default_ledger")]
    pub ledger: Span,
}

/// An exchange and its symbols.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The exchange, as CCXT calls it: `binance`, `kraken`, `bybit`.
    pub exchange: String,
    /// The adapter: a path to a `.wasm` file relative to the pipeline file, or a bare name in the guests folder. Without
    /// it, the component with the exchange's name, and `ccxt` where there is none.
    pub component: Option<String>,
    /// What the column `source` says; the exchange's name unless given.
    pub name: Option<String>,
    /// The symbols, base and quote with `/` between them: `BTC/USDT`. 1 to 10,000.
    pub symbols: Vec<String>,
    /// The hosts that the adapter may reach, of those that it declares; all of those unless given.
    pub hosts: Option<Vec<String>>,
    /// A mirror, or a server for tests: all requests go there instead, with this in front of their path. Feeds too, with
    /// `ws` for `http`. Empty is none, so that a variable can be one.
    pub url: Option<String>,
    /// How often the exchange may be asked; as the adapter says unless given.
    pub budget: Option<Budget>,
    /// How many requests may be on their way at once; 1 to 64.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// How long an answer may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Listen to the exchange's live feed too, where the adapter knows one: closed candles come at once, and the polls
    /// check them.
    #[serde(default)]
    pub live: bool,
    /// What the adapter may use.
    #[serde(default)]
    pub limits: AdapterLimits,
}

/// How often an exchange may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Units in each window: what the exchange calls weight, or requests.
    pub units: u32,
    /// The window.
    pub window: Span,
    /// Units that may be used at once; a tenth of `units` unless given.
    pub burst: Option<u32>,
}

/// What an adapter may use.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterLimits {
    /// Memory of its instance, at most 4 GiB.
    pub memory: ByteSize,
    /// Time of one call.
    pub call: Span,
    /// Size of the answer to one call.
    pub output: ByteSize,
    /// Size of the component's file.
    pub file: ByteSize,
    /// Time to compile the component.
    pub compile: Span,
}

impl Default for AdapterLimits {
    fn default() -> AdapterLimits {
        AdapterLimits {
            // CCXT with all its exchanges begins with 110 MiB, and reads a market list of 11 MB in 330.
            memory: ByteSize(1 << 30),
            // CCXT needs 2 s for the longest market list, on an idle core.
            call: Span(Duration::from_secs(30)),
            // 1,000 candles are 72 KB; the descriptions of all exchanges of CCXT less than 1 MiB.
            output: ByteSize(64 << 20),
            // CCXT has 94 MB.
            file: ByteSize(192 << 20),
            // CCXT takes 14 s on an idle machine.
            compile: Span(Duration::from_secs(180)),
        }
    }
}

impl From<&AdapterLimits> for Limits {
    fn from(limits: &AdapterLimits) -> Limits {
        let AdapterLimits { memory, call, output, file, compile } = limits.clone();
        Limits { memory, call, output, file, compile }
    }
}

impl Exchange {
    /// What the column `source` says.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.exchange)
    }

    /// Where all requests go instead.
    pub fn mirror(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| !url.is_empty())
    }
}

/// The timeframes that have the same length always, and their lengths in milliseconds.
pub const TIMEFRAMES: [(&str, i64); 12] = [
    ("1m", 60_000),
    ("3m", 180_000),
    ("5m", 300_000),
    ("15m", 900_000),
    ("30m", 1_800_000),
    ("1h", 3_600_000),
    ("2h", 7_200_000),
    ("4h", 14_400_000),
    ("6h", 21_600_000),
    ("8h", 28_800_000),
    ("12h", 43_200_000),
    ("1d", 86_400_000),
];

/// The length of a timeframe in milliseconds.
pub fn timeframe_ms(name: &str) -> Option<i64> {
    TIMEFRAMES.iter().find(|(known, _)| *known == name).map(|(_, length_ms)| *length_ms)
}

fn one_minute() -> String {
    "1m".into()
}

fn default_history() -> Span {
    Span(Duration::from_secs(3600))
}

fn default_grace() -> Span {
    // Exchanges write a candle some hundred milliseconds after its close, and clocks differ by as much.
    Span(Duration::from_secs(2))
}

fn default_spread() -> Span {
    // A third of a minute: 1,000 series are 50 requests a second.
    Span(Duration::from_secs(20))
}

fn default_reread() -> usize {
    // Candles of Coinbase have been seen up to five minutes late.
    5
}

fn default_patience() -> Span {
    Span(Duration::from_secs(3600))
}

fn default_ledger() -> Span {
    Span(Duration::from_secs(86_400))
}

fn default_concurrency() -> usize {
    // At 100 ms an answer it is 80 requests a second, more than any public budget but Binance's.
    8
}

fn default_timeout() -> Span {
    Span(Duration::from_secs(10))
}
