//! How each exchange answers.

pub(crate) mod binance;
pub(crate) mod bybit;
pub(crate) mod coinbase;
pub(crate) mod coinbase_exchange;
pub(crate) mod kraken;

use crate::answer::{Answer, Asked};
use crate::market::Exchange;

/// The answer to a request.
pub(crate) fn answer(asked: &Asked<'_>) -> Answer {
    match asked.exchange {
        Exchange::Binance => binance::answer(asked),
        Exchange::Coinbase => coinbase::answer(asked),
        Exchange::CoinbaseExchange => coinbase_exchange::answer(asked),
        Exchange::Kraken => kraken::answer(asked),
        Exchange::Bybit => bybit::answer(asked),
    }
}

/// Whether a path asks for candles.
pub(crate) fn asks_for_candles(exchange: Exchange, path: &str) -> bool {
    match exchange {
        Exchange::Binance => matches!(path, "/api/v3/klines" | "/api/v3/uiKlines"),
        Exchange::Coinbase | Exchange::CoinbaseExchange => path.ends_with("/candles"),
        Exchange::Kraken => path == "/0/public/OHLC",
        Exchange::Bybit => path == "/v5/market/kline",
    }
}
