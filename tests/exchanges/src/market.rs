//! The exchanges, what they list, and what they call it.

use std::fmt;

/// An exchange that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exchange {
    /// Binance spot: REST and the kline streams.
    Binance,
    /// Coinbase Advanced Trade, the public part: REST, `market_trades`, `candles` and `heartbeats`.
    Coinbase,
    /// Coinbase Exchange: REST, `matches` and `heartbeat`.
    CoinbaseExchange,
    /// Kraken spot: REST and the `ohlc` channel of the second WebSocket API.
    Kraken,
    /// Bybit v5 spot: REST alone, with the lists of markets for which CCXT asks.
    Bybit,
}

impl Exchange {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Binance, Self::Coinbase, Self::CoinbaseExchange, Self::Kraken, Self::Bybit];

    /// The name as in CCXT, which is also the first part of the path.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Binance => "binance",
            Self::Coinbase => "coinbase",
            Self::CoinbaseExchange => "coinbaseexchange",
            Self::Kraken => "kraken",
            Self::Bybit => "bybit",
        }
    }

    /// The exchange of an id.
    pub fn of_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|exchange| exchange.id() == id)
    }

    /// Whether it gives a row for a minute in which nothing was traded.
    pub const fn gives_quiet_minutes(self) -> bool {
        !matches!(self, Self::Coinbase | Self::CoinbaseExchange)
    }

    /// Whether it lists markets with this quote.
    pub fn lists(self, quote: &str) -> bool {
        match self {
            Self::Binance | Self::Bybit => matches!(quote, "USDT" | "BTC"),
            Self::Coinbase | Self::CoinbaseExchange => matches!(quote, "USD" | "USDT" | "EUR" | "BTC"),
            Self::Kraken => matches!(quote, "USD" | "USDT" | "EUR" | "BTC"),
        }
    }

    /// What it calls a market: `BTCUSDT`, `BTC-USD`, or for Kraken the key of its answers, `XXBTZUSD`.
    pub(crate) fn native(self, market: &Market) -> String {
        match self {
            Self::Binance | Self::Bybit => format!("{}{}", market.base, market.quote),
            Self::Coinbase | Self::CoinbaseExchange => format!("{}-{}", market.base, market.quote),
            Self::Kraken => kraken_key(market),
        }
    }

    /// Everything under which it knows a market.
    pub(crate) fn aliases(self, market: &Market) -> Vec<String> {
        let native = self.native(market);
        if self != Self::Kraken {
            return vec![native];
        }
        let mut names = vec![
            native,
            kraken_altname(market),
            kraken_wsname(market),
            format!("{}{}", market.base, market.quote),
            market.symbol(),
        ];
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.id())
    }
}

/// A market and how it trades, on every exchange that lists its quote.
#[derive(Debug, Clone, PartialEq)]
pub struct Market {
    /// The unified name of what is traded, such as `BTC`.
    pub base: String,
    /// The unified name of what it costs, such as `USDT`.
    pub quote: String,
    /// The price around which it moves, in units of the quote.
    pub price: f64,
    /// Decimals of prices: at most 8.
    pub price_decimals: u8,
    /// Decimals of volumes: at most 8. A minute's volume in its smallest units stays below 2^50, and its quote volume
    /// below 10^7.
    pub volume_decimals: u8,
    /// The usual volume of a minute, in units of the base.
    pub minute_volume: f64,
    /// The usual number of trades in a minute: at least 2.
    pub minute_trades: u32,
    /// The share of minutes in which nothing is traded: from 0 to 0.9.
    pub quiet: f64,
}

/// base, price in dollars, decimals of price and volume, volume and trades of a minute, share of quiet minutes
type Usual = (&'static str, f64, u8, u8, f64, u32, f64);

const USUAL: [Usual; 10] = [
    ("BTC", 64_000.0, 2, 8, 12.0, 40, 0.0),
    ("ETH", 3_100.0, 2, 8, 150.0, 40, 0.0),
    ("SOL", 150.0, 2, 6, 1_500.0, 24, 0.0),
    ("XRP", 0.52, 5, 5, 90_000.0, 16, 0.0),
    ("DOGE", 0.12, 6, 4, 400_000.0, 16, 0.0),
    ("ADA", 0.45, 5, 5, 50_000.0, 8, 0.0),
    ("SHIB", 0.000_024, 8, 0, 300_000_000.0, 8, 0.0),
    ("LTC", 80.0, 2, 6, 80.0, 6, 0.03),
    ("LINK", 14.0, 4, 5, 300.0, 5, 0.03),
    ("DOT", 6.2, 4, 5, 200.0, 3, 0.03),
];

impl Market {
    /// The unified symbol, such as `BTC/USDT`.
    pub fn symbol(&self) -> String {
        format!("{}/{}", self.base, self.quote)
    }

    /// Ten bases against `USDT`, `USD` and `EUR`, and `ETH/BTC`. `LTC`, `LINK` and `DOT` have about 3 % of quiet
    /// minutes, the others none.
    pub fn usual() -> Vec<Self> {
        let quotes = [("USDT", 1.0), ("USD", 1.0), ("EUR", 0.92)];
        let mut markets: Vec<Self> = quotes
            .into_iter()
            .flat_map(|(quote, worth)| USUAL.iter().map(move |usual| Self::of(usual, quote, usual.1 * worth)))
            .collect();
        let mut cross = Self::of(&USUAL[1], "BTC", 0.048);
        cross.price_decimals = 5;
        cross.minute_volume = 3.0;
        markets.push(cross);
        markets
    }

    /// So many made-up markets against `USDT`, which every exchange lists: `T0001/USDT` and so on; every third has
    /// 3 % of quiet minutes.
    pub fn many(count: usize) -> Vec<Self> {
        (1..=count)
            .map(|number| Self {
                base: format!("T{number:04}"),
                quote: "USDT".to_owned(),
                price: 0.5 + number as f64 % 97.0,
                price_decimals: 5,
                volume_decimals: 5,
                minute_volume: 2_000.0,
                minute_trades: 6,
                quiet: if number % 3 == 0 { 0.03 } else { 0.0 },
            })
            .collect()
    }

    fn of(usual: &Usual, quote: &str, price: f64) -> Self {
        let &(base, _, price_decimals, volume_decimals, minute_volume, minute_trades, quiet) = usual;
        Self {
            base: base.to_owned(),
            quote: quote.to_owned(),
            price,
            price_decimals,
            volume_decimals,
            minute_volume,
            minute_trades,
            quiet,
        }
    }
}

/// Kraken's older names: its own asset codes with `X` and `Z` before them.
pub(crate) fn kraken_asset(name: &str) -> String {
    match name {
        "BTC" => "XXBT",
        "DOGE" => "XXDG",
        "ETH" => "XETH",
        "LTC" => "XLTC",
        "XRP" => "XXRP",
        "USD" => "ZUSD",
        "EUR" => "ZEUR",
        other => other,
    }
    .to_owned()
}

fn kraken_short(name: &str) -> &str {
    match name {
        "BTC" => "XBT",
        "DOGE" => "XDG",
        other => other,
    }
}

/// The pair as requests name it: `XBTUSD`.
pub(crate) fn kraken_altname(market: &Market) -> String {
    format!("{}{}", kraken_short(&market.base), kraken_short(&market.quote))
}

/// The pair as Kraken's first WebSocket API names it: `XBT/USD`.
pub(crate) fn kraken_wsname(market: &Market) -> String {
    format!("{}/{}", kraken_short(&market.base), kraken_short(&market.quote))
}

/// The pair as answers name it: with the older codes when both sides have one (`XXBTZUSD`), else as requests do
/// (`XBTUSDT`, `XDGUSD`, `SOLUSD`).
fn kraken_key(market: &Market) -> String {
    let (base, quote) = (kraken_asset(&market.base), kraken_asset(&market.quote));
    let older = |code: &str| code.len() == 4 && (code.starts_with('X') || code.starts_with('Z'));
    if older(&base) && older(&quote) && market.base != "DOGE" {
        format!("{base}{quote}")
    } else {
        kraken_altname(market)
    }
}

#[cfg(test)]
mod tests {
    use super::{Exchange, Market};

    fn native(exchange: Exchange, symbol: &str) -> String {
        let market =
            Market::usual().into_iter().find(|market| market.symbol() == symbol).expect("a usual symbol");
        exchange.native(&market)
    }

    #[test]
    fn exchanges_have_names_of_their_own() {
        assert_eq!(native(Exchange::Binance, "BTC/USDT"), "BTCUSDT");
        assert_eq!(native(Exchange::CoinbaseExchange, "BTC/USD"), "BTC-USD");
        assert_eq!(native(Exchange::Kraken, "BTC/USD"), "XXBTZUSD");
        assert_eq!(native(Exchange::Kraken, "BTC/USDT"), "XBTUSDT");
        assert_eq!(native(Exchange::Kraken, "DOGE/USD"), "XDGUSD");
        assert_eq!(native(Exchange::Kraken, "SOL/EUR"), "SOLEUR");
        assert_eq!(native(Exchange::Kraken, "ETH/BTC"), "XETHXXBT");
    }
}
