//! The live feed: one-minute candles as combined streams.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use tidegate_guest::exchange::{Failure, LiveCandle, Number, Subscription};

use crate::own_symbol;

pub const HOST: &str = "data-stream.binance.vision";

/// A connection can listen to so many streams.
const STREAMS_LIMIT: usize = 1_024;

/// Streams in one frame. A connection is closed for more than five frames a second, so all streams fit into four; and
/// frames of more than about 8,000 bytes are not answered.
const STREAMS_A_FRAME: usize = 256;

/// What is known of a connection's feed.
#[derive(Debug, Default)]
pub struct Feed {
    /// The unified symbol of each of Binance's own that is listened to.
    symbols: HashMap<String, String>,
}

/// A frame of a combined stream, or the answer to a subscription.
#[derive(Debug, Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    data: Option<Event<'a>>,
    #[serde(borrow)]
    error: Option<SubscribeError<'a>>,
    /// The sentence of an error that is not under `error`, as the documents have it.
    #[serde(borrow)]
    msg: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct SubscribeError<'a> {
    #[serde(borrow, default)]
    msg: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    e: Cow<'a, str>,
    #[serde(borrow)]
    k: Option<Kline<'a>>,
}

#[derive(Debug, Deserialize)]
struct Kline<'a> {
    #[serde(rename = "t")]
    timestamp: i64,
    #[serde(rename = "s", borrow)]
    symbol: Cow<'a, str>,
    #[serde(rename = "i", borrow)]
    interval: Cow<'a, str>,
    #[serde(rename = "o")]
    open: Number,
    #[serde(rename = "h")]
    high: Number,
    #[serde(rename = "l")]
    low: Number,
    #[serde(rename = "c")]
    close: Number,
    #[serde(rename = "v")]
    volume: Number,
    #[serde(rename = "n")]
    trades: i64,
    #[serde(rename = "x")]
    is_closed: bool,
    #[serde(rename = "q")]
    quote_volume: Number,
}

impl Feed {
    pub fn subscribe(
        &mut self,
        exchange: &str,
        timeframe: &str,
        symbols: &[String],
    ) -> Result<Subscription, String> {
        if timeframe != "1m" {
            return Err(format!("the feed of `{exchange}` is listened to for `1m`, not for `{timeframe}`"));
        }
        if symbols.is_empty() || symbols.len() > STREAMS_LIMIT {
            return Err(format!(
                "expected 1 to {STREAMS_LIMIT} symbols for a connection to `{exchange}`, actual {}",
                symbols.len()
            ));
        }
        self.symbols.clear();
        let mut streams = Vec::with_capacity(symbols.len());
        for symbol in symbols {
            let own = own_symbol(symbol).map_err(|failure| match failure {
                Failure::BadSymbol(sentence) => sentence,
                other => format!("{other:?}"),
            })?;
            streams.push(format!("{}@kline_1m", own.to_lowercase()));
            self.symbols.insert(own, symbol.clone());
        }
        let frames = streams.chunks(STREAMS_A_FRAME).zip(1..).map(|(params, id)| {
            serde_json::json!({ "method": "SUBSCRIBE", "params": params, "id": id }).to_string()
        });
        Ok(Subscription {
            url: format!("wss://{HOST}/stream"),
            frames: frames.collect(),
            ping: None,
            ping_ms: 0,
        })
    }

    pub fn hear(&self, frame: &str) -> Result<Vec<LiveCandle>, String> {
        let frame: Frame =
            serde_json::from_str(frame).map_err(|error| format!("a frame that cannot be read: {error}"))?;
        if let Some(message) = frame.error.map(|error| error.msg).or(frame.msg) {
            return Err(format!("Binance refuses to subscribe: {message}"));
        }
        let Some(event) = frame.data else { return Ok(Vec::new()) };
        if event.e == "serverShutdown" {
            return Err("Binance is about to shut this connection down".to_owned());
        }
        let Some(kline) = event.k.filter(|kline| kline.is_closed && kline.interval == "1m") else {
            return Ok(Vec::new());
        };
        let Some(symbol) = self.symbols.get(kline.symbol.as_ref()) else { return Ok(Vec::new()) };
        let numbers = [kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume];
        if numbers.iter().any(|number| !number.0.is_finite()) {
            return Err(format!("a closed candle of `{symbol}` whose numbers cannot be read"));
        }
        Ok(vec![LiveCandle {
            symbol: symbol.clone(),
            timestamp: kline.timestamp,
            open: kline.open.0,
            high: kline.high.0,
            low: kline.low.0,
            close: kline.close.0,
            volume: kline.volume.0,
            trades: Some(kline.trades),
            quote_volume: Some(kline.quote_volume.0),
            vwap: None,
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(symbols: &[&str]) -> (Feed, Subscription) {
        let mut feed = Feed::default();
        let symbols: Vec<String> = symbols.iter().map(|symbol| (*symbol).to_owned()).collect();
        let subscription = feed.subscribe("binance", "1m", &symbols).unwrap();
        (feed, subscription)
    }

    fn frame(symbol: &str, interval: &str, close: &str, is_closed: bool) -> String {
        let stream = symbol.to_lowercase();
        format!(
            r#"{{"stream":"{stream}@kline_{interval}","data":{{"e":"kline","E":1700000040123,"s":"{symbol}","k":{{"t":1699999980000,"T":1700000039999,"s":"{symbol}","i":"{interval}","f":100,"L":200,"o":"36500.01","c":"{close}","h":"36510.50","l":"36490.00","v":"12.345","n":101,"x":{is_closed},"q":"450592.62345","V":"6.1","Q":"222650.61","B":"0"}}}}}}"#
        )
    }

    #[test]
    fn streams_are_subscribed_to_in_few_frames() {
        let (_, subscription) = listening(&["BTC/USDT", "ETH/BTC"]);
        assert_eq!(subscription.url, "wss://data-stream.binance.vision/stream");
        let frame: serde_json::Value = serde_json::from_str(&subscription.frames[0]).unwrap();
        assert_eq!(
            frame,
            serde_json::json!({ "method": "SUBSCRIBE", "params": ["btcusdt@kline_1m", "ethbtc@kline_1m"], "id": 1 })
        );
        let many: Vec<String> = (0..1_024).map(|number| format!("1000CHEEMS{number}/USDT")).collect();
        let subscription = Feed::default().subscribe("binance", "1m", &many).unwrap();
        assert_eq!(subscription.frames.len(), 4);
        assert!(subscription.frames.iter().all(|frame| frame.len() < 8_000));
    }

    #[test]
    fn what_there_is_no_feed_of_is_said() {
        let subscribe = |timeframe: &str, symbols: &[String]| {
            Feed::default().subscribe("binance", timeframe, symbols).unwrap_err()
        };
        assert_eq!(
            subscribe("5m", &["BTC/USDT".to_owned()]),
            "the feed of `binance` is listened to for `1m`, not for `5m`"
        );
        let too_many: Vec<String> = (0..1_025).map(|number| format!("A{number}/B")).collect();
        assert_eq!(
            subscribe("1m", &too_many),
            "expected 1 to 1024 symbols for a connection to `binance`, actual 1025"
        );
        assert!(subscribe("1m", &[]).ends_with("actual 0"));
        assert!(subscribe("1m", &["BTCUSDT".to_owned()]).contains("is no spot symbol"));
    }

    #[test]
    fn a_candle_comes_when_the_exchange_says_that_it_is_closed() {
        let (feed, _) = listening(&["BTC/USDT", "ETH/BTC"]);
        assert_eq!(feed.hear(&frame("BTCUSDT", "1m", "36505.07", false)), Ok(vec![]));
        let candle = LiveCandle {
            symbol: "BTC/USDT".to_owned(),
            timestamp: 1_699_999_980_000,
            open: 36_500.01,
            high: 36_510.5,
            low: 36_490.0,
            close: 36_505.07,
            volume: 12.345,
            trades: Some(101),
            quote_volume: Some(450_592.623_45),
            vwap: None,
        };
        assert_eq!(feed.hear(&frame("BTCUSDT", "1m", "36505.07", true)), Ok(vec![candle]));
    }

    #[test]
    fn frames_about_other_things_close_nothing() {
        let (feed, _) = listening(&["BTC/USDT"]);
        for frame in [
            r#"{"result":null,"id":1}"#.to_owned(),
            frame("ETHBTC", "1m", "1", true),
            frame("BTCUSDT", "5m", "1", true),
            r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1,"s":"BTCUSDT","p":"1"}}"#.to_owned(),
        ] {
            assert_eq!(feed.hear(&frame), Ok(vec![]), "{frame}");
        }
    }

    #[test]
    fn a_feed_that_ends_or_cannot_be_read_is_of_no_use() {
        let (feed, _) = listening(&["BTC/USDT"]);
        let shutdown = r#"{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}"#;
        assert_eq!(feed.hear(shutdown), Err("Binance is about to shut this connection down".to_owned()));
        for refused in [
            r#"{"error":{"code":4,"msg":"Too many subscriptions"},"id":1}"#,
            r#"{"code":4,"msg":"Too many subscriptions","id":1}"#,
        ] {
            assert_eq!(
                feed.hear(refused),
                Err("Binance refuses to subscribe: Too many subscriptions".to_owned())
            );
        }
        assert!(feed.hear("{\"stream\":").unwrap_err().starts_with("a frame that cannot be read"));
        assert!(feed.hear(&frame("BTCUSDT", "1m", "", true)).unwrap_err().contains("`BTC/USDT`"));
    }
}
