//! The live feed: the channel `ohlc` of WebSocket v2.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use tidegate_guest::exchange::{LiveCandle, Number, Subscription, base_and_quote, parse_rfc3339};

pub const HOST: &str = "ws.kraken.com";

/// Symbols in one frame, so that a frame stays below the few kilobytes that servers take.
const SYMBOLS_A_FRAME: usize = 250;

/// Kraken ends a connection on which nothing was sent for a minute.
const PING_MS: u32 = 30_000;

/// What is known of a connection's feed.
#[derive(Debug, Default)]
pub struct Feed {
    /// For each symbol that is listened to the candle that still grows, once something of it has come. The symbols of
    /// WebSocket v2 are the unified ones: `BTC/USD`, not `XBT/USD`.
    growing: HashMap<String, Option<LiveCandle>>,
}

/// What all frames have.
#[derive(Debug, Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    success: Option<bool>,
    #[serde(borrow, default)]
    error: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct Updates<'a> {
    #[serde(borrow)]
    data: Vec<Update<'a>>,
}

/// A version of a candle. Its `timestamp` is the end of the interval, and is not read.
#[derive(Debug, Deserialize)]
struct Update<'a> {
    #[serde(borrow)]
    symbol: Cow<'a, str>,
    #[serde(borrow)]
    interval_begin: Cow<'a, str>,
    interval: i64,
    open: Number,
    high: Number,
    low: Number,
    close: Number,
    volume: Number,
    trades: i64,
    vwap: Number,
}

#[derive(Debug, Deserialize)]
struct Statuses<'a> {
    #[serde(borrow)]
    data: Vec<Status<'a>>,
}

#[derive(Debug, Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    system: Cow<'a, str>,
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
        if let Some(symbol) = symbols.iter().find(|symbol| base_and_quote(symbol).is_err()) {
            return Err(format!("`{symbol}` is no spot symbol such as `BTC/USD`"));
        }
        if symbols.is_empty() {
            return Err(format!("no symbols to listen to at `{exchange}`"));
        }
        self.growing = symbols.iter().map(|symbol| (symbol.clone(), None)).collect();
        let frames = symbols.chunks(SYMBOLS_A_FRAME).zip(1..).map(|(symbols, id)| {
            let params =
                serde_json::json!({ "channel": "ohlc", "symbol": symbols, "interval": 1, "snapshot": false });
            serde_json::json!({ "method": "subscribe", "params": params, "req_id": id }).to_string()
        });
        Ok(Subscription {
            url: format!("wss://{HOST}/v2"),
            frames: frames.collect(),
            ping: Some(r#"{"method":"ping"}"#.to_owned()),
            ping_ms: PING_MS,
        })
    }

    pub fn hear(&mut self, text: &str) -> Result<Vec<LiveCandle>, String> {
        let frame: Frame = read(text)?;
        if frame.success == Some(false) {
            return Err(format!("Kraken refuses: {}", frame.error));
        }
        let mut closed = Vec::new();
        match frame.channel.as_deref() {
            Some("ohlc") => {
                for update in read::<Updates>(text)?.data {
                    closed.extend(self.take(&update)?);
                }
            }
            Some("status") => {
                let statuses: Statuses = read(text)?;
                if statuses.data.iter().any(|status| status.system == "maintenance") {
                    return Err("Kraken is in maintenance".to_owned());
                }
            }
            _ => {}
        }
        Ok(closed)
    }

    /// Takes a version of a candle; gives the candle before it, when this one is the first of a later minute.
    fn take(&mut self, update: &Update) -> Result<Option<LiveCandle>, String> {
        let Some(growing) = self.growing.get_mut(update.symbol.as_ref()).filter(|_| update.interval == 1)
        else {
            return Ok(None);
        };
        let candle = update.candle()?;
        match growing {
            Some(known) if candle.timestamp > known.timestamp => Ok(growing.replace(candle)),
            // Late news of a candle that is closed, or of what was known already.
            Some(known) if candle.timestamp < known.timestamp || candle.volume < known.volume => Ok(None),
            _ => {
                *growing = Some(candle);
                Ok(None)
            }
        }
    }
}

impl Update<'_> {
    fn candle(&self) -> Result<LiveCandle, String> {
        let timestamp = parse_rfc3339(&self.interval_begin).ok_or_else(|| {
            format!("`{}` is no time, in a candle of `{}`", self.interval_begin, self.symbol)
        })?;
        let numbers = [self.open, self.high, self.low, self.close, self.volume];
        if numbers.iter().any(|number| !number.0.is_finite()) {
            return Err(format!("a candle of `{}` whose numbers cannot be read", self.symbol));
        }
        Ok(LiveCandle {
            symbol: self.symbol.as_ref().to_owned(),
            timestamp,
            open: self.open.0,
            high: self.high.0,
            low: self.low.0,
            close: self.close.0,
            volume: self.volume.0,
            trades: Some(self.trades),
            quote_volume: None,
            vwap: (self.trades > 0 && self.vwap.0.is_finite()).then_some(self.vwap.0),
        })
    }
}

fn read<'a, T: Deserialize<'a>>(frame: &'a str) -> Result<T, String> {
    serde_json::from_str(frame).map_err(|error| format!("a frame that cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> Feed {
        let mut feed = Feed::default();
        feed.subscribe("kraken", "1m", &["BTC/USD".to_owned(), "ETH/EUR".to_owned()]).unwrap();
        feed
    }

    fn update(symbol: &str, time: &str, volume: f64, trades: i64) -> String {
        format!(
            r#"{{"symbol":"{symbol}","open":36500.1,"high":36510.5,"low":36490.2,"close":36505.7,"trades":{trades},"volume":{volume},"vwap":36501.3,"interval_begin":"2023-11-14T{time}:00.000000000Z","interval":1,"timestamp":"2023-11-14T23:59:00.000000Z"}}"#
        )
    }

    fn frame(updates: &[String]) -> String {
        format!(
            r#"{{"channel":"ohlc","type":"update","timestamp":"2023-11-14T22:13:01.806315597Z","data":[{}]}}"#,
            updates.join(",")
        )
    }

    fn hear(feed: &mut Feed, symbol: &str, time: &str, volume: f64) -> Vec<LiveCandle> {
        feed.hear(&frame(&[update(symbol, time, volume, 7)])).unwrap()
    }

    #[test]
    fn the_channel_is_subscribed_to_without_a_snapshot() {
        let symbols: Vec<String> = (0..501).map(|number| format!("A{number}/USD")).collect();
        let subscription = Feed::default().subscribe("kraken", "1m", &symbols).unwrap();
        assert_eq!(subscription.url, "wss://ws.kraken.com/v2");
        assert_eq!(subscription.ping.as_deref(), Some(r#"{"method":"ping"}"#));
        assert_eq!(subscription.frames.len(), 3);
        let last: serde_json::Value = serde_json::from_str(&subscription.frames[2]).unwrap();
        let params = serde_json::json!({ "channel": "ohlc", "symbol": ["A500/USD"], "interval": 1, "snapshot": false });
        assert_eq!(last, serde_json::json!({ "method": "subscribe", "params": params, "req_id": 3 }));
    }

    #[test]
    fn what_there_is_no_feed_of_is_said() {
        let subscribe = |timeframe: &str, symbols: &[&str]| {
            let symbols: Vec<String> = symbols.iter().map(|symbol| (*symbol).to_owned()).collect();
            Feed::default().subscribe("kraken", timeframe, &symbols).unwrap_err()
        };
        assert_eq!(
            subscribe("5m", &["BTC/USD"]),
            "the feed of `kraken` is listened to for `1m`, not for `5m`"
        );
        assert_eq!(subscribe("1m", &["XBTUSD"]), "`XBTUSD` is no spot symbol such as `BTC/USD`");
        assert_eq!(subscribe("1m", &[]), "no symbols to listen to at `kraken`");
    }

    #[test]
    fn a_candle_is_closed_when_the_next_one_of_its_symbol_begins() {
        let mut feed = listening();
        assert_eq!(hear(&mut feed, "BTC/USD", "22:13", 1.0), []);
        assert_eq!(hear(&mut feed, "BTC/USD", "22:13", 2.5), []);
        assert_eq!(hear(&mut feed, "ETH/EUR", "22:14", 1.0), []);
        let closed = hear(&mut feed, "BTC/USD", "22:15", 0.5);
        assert_eq!(
            closed,
            [LiveCandle {
                symbol: "BTC/USD".to_owned(),
                timestamp: 1_699_999_980_000,
                open: 36_500.1,
                high: 36_510.5,
                low: 36_490.2,
                close: 36_505.7,
                volume: 2.5,
                trades: Some(7),
                quote_volume: None,
                vwap: Some(36_501.3),
            }]
        );
        assert_eq!(hear(&mut feed, "BTC/USD", "22:16", 1.0)[0].timestamp, 1_700_000_100_000);
    }

    #[test]
    fn older_versions_and_older_candles_change_nothing() {
        let mut feed = listening();
        hear(&mut feed, "BTC/USD", "22:13", 3.0);
        hear(&mut feed, "BTC/USD", "22:13", 2.0);
        hear(&mut feed, "BTC/USD", "22:12", 9.0);
        let closed = hear(&mut feed, "BTC/USD", "22:14", 1.0);
        assert_eq!((closed.len(), closed[0].timestamp, closed[0].volume), (1, 1_699_999_980_000, 3.0));
    }

    #[test]
    fn one_frame_can_close_several_candles() {
        let mut feed = listening();
        let frame = frame(&[
            update("BTC/USD", "22:13", 1.0, 7),
            update("ETH/EUR", "22:13", 1.0, 7),
            update("ETH/EUR", "22:14", 1.0, 0),
            update("BTC/USD", "22:14", 1.0, 7),
        ]);
        let closed = feed.hear(&frame).unwrap();
        let symbols: Vec<&str> = closed.iter().map(|candle| candle.symbol.as_str()).collect();
        assert_eq!(symbols, ["ETH/EUR", "BTC/USD"]);
        let without_trades = hear(&mut feed, "ETH/EUR", "22:15", 1.0).remove(0);
        assert_eq!((without_trades.trades, without_trades.vwap), (Some(0), None));
    }

    #[test]
    fn other_frames_symbols_and_intervals_close_nothing() {
        let mut feed = listening();
        for text in [
            r#"{"channel":"status","type":"update","data":[{"system":"online","api_version":"v2","connection_id":1,"version":"2.0.10"}]}"#,
            r#"{"channel":"heartbeat"}"#,
            r#"{"method":"pong","time_in":"2023-11-14T22:13:01.0Z","time_out":"2023-11-14T22:13:01.0Z"}"#,
            r#"{"method":"subscribe","result":{"channel":"ohlc","interval":1,"snapshot":false,"symbol":"BTC/USD","warnings":["timestamp is deprecated, use interval_begin"]},"success":true,"req_id":1}"#,
            &frame(&[update("SOL/USD", "22:13", 1.0, 7), update("SOL/USD", "22:14", 1.0, 7)]),
            &frame(&[update("BTC/USD", "22:10", 1.0, 7), update("BTC/USD", "22:15", 1.0, 7)])
                .replace(r#""interval":1"#, r#""interval":5"#),
        ] {
            assert_eq!(feed.hear(text), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn a_feed_that_is_refused_or_cannot_be_read_is_of_no_use() {
        let mut feed = listening();
        let refused = r#"{"error":"Currency pair not supported XBT/USD","method":"subscribe","success":false,"symbol":"XBT/USD"}"#;
        assert_eq!(feed.hear(refused), Err("Kraken refuses: Currency pair not supported XBT/USD".to_owned()));
        let maintenance = r#"{"channel":"status","type":"update","data":[{"system":"maintenance"}]}"#;
        assert_eq!(feed.hear(maintenance), Err("Kraken is in maintenance".to_owned()));
        let good = frame(&[update("BTC/USD", "22:13", 1.0, 7)]);
        for (broken, said) in [
            (good[..good.len() - 1].to_owned(), "cannot be read"),
            (good.replace("36490.2", "null"), "numbers"),
            (good.replace("22:13:00.0", "25:13:00.0"), "is no time"),
            (good.replace("\"interval_begin\"", "\"begin\""), "cannot be read"),
        ] {
            let error = feed.hear(&broken).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
