//! WebSocket feeds. They are punctual, and give the first version of a minute that is corrected later.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{Message, WebSocket};
use serde_json::{Value, json};

use crate::answer::{iso, timeframe_ms};
use crate::market::Exchange;
use crate::misbehaviour::View;
use crate::truth::{Candle, Decimal, MINUTE_MS, Series, Trade};
use crate::world::{FeedState, World};

/// How often Binance sends a candle that is not closed, in simulated time.
const PUSH_MS: i64 = 2_000;

/// A fast clock does not make feeds faster than this.
const FASTEST_PUSH: Duration = Duration::from_millis(200);

/// Between two looks at the clock, at most.
const LONGEST_LOOK: Duration = Duration::from_millis(250);

/// Between two looks at the clock, at least.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// How often the exchanges that have heartbeats send them.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The most subscriptions of a connection: 1024, as at Binance.
const SUBSCRIPTIONS: usize = 1_024;

/// Candles of a snapshot.
const SNAPSHOT_ROWS: i64 = 10;

/// What a subscription gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Candles { timeframe_ms: i64 },
    Trades,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Subscription {
    /// What the exchange calls the symbol.
    native: String,
    channel: Channel,
    /// The stream's name, for Binance.
    name: String,
}

struct Feed {
    world: Arc<World>,
    exchange: Exchange,
    number: u64,
    subscriptions: Vec<Subscription>,
    has_heartbeats: bool,
    /// Binance: whether frames are wrapped with the stream's name.
    is_combined: bool,
    /// How many frames were sent.
    sequence: u64,
    heartbeats: u64,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    world: Arc<World>,
    exchange: Exchange,
    path: String,
    query: HashMap<String, String>,
    mut socket: WebSocket,
) {
    let number = world.open_feed(exchange);
    let clock = world.clock;
    let look = Duration::try_from_secs_f64(1.0 / clock.rate)
        .unwrap_or(LONGEST_LOOK)
        .clamp(SHORTEST_LOOK, LONGEST_LOOK);
    let mut feed = Feed {
        world,
        exchange,
        number,
        subscriptions: Vec::new(),
        has_heartbeats: exchange == Exchange::Kraken,
        is_combined: path.starts_with("/stream"),
        sequence: 0,
        heartbeats: 0,
    };
    let mut last_ms = clock.now_ms();
    let mut pushed = (last_ms, Instant::now());
    let mut beaten = Instant::now();
    let mut is_silent = false;
    let mut frames = feed.hello(&path, &query);
    let mut ticks = tokio::time::interval(look);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if !is_silent {
            for frame in frames.drain(..) {
                if socket.send(Message::Text(frame.into())).await.is_err() {
                    return;
                }
            }
        }
        frames.clear();
        tokio::select! {
            heard = socket.recv() => match heard {
                Some(Ok(Message::Text(text))) => frames = feed.heard(text.as_str(), clock.now_ms()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            _ = ticks.tick() => {
                let now_ms = clock.now_ms();
                let minutes = last_ms.div_euclid(MINUTE_MS)..now_ms.div_euclid(MINUTE_MS);
                match feed.world.feed_state(exchange, feed.number, minutes) {
                    // The socket goes without a closing frame.
                    FeedState::Dropped => return,
                    FeedState::Silent => is_silent = true,
                    FeedState::Speaks => {}
                }
                let is_due = now_ms - pushed.0 >= PUSH_MS && pushed.1.elapsed() >= FASTEST_PUSH;
                if is_due {
                    pushed = (now_ms, Instant::now());
                }
                frames = feed.events(last_ms, now_ms, is_due);
                if feed.has_heartbeats && beaten.elapsed() >= HEARTBEAT {
                    beaten = Instant::now();
                    frames.extend(feed.heartbeat(now_ms));
                }
                last_ms = now_ms;
            }
        }
    }
}

impl Feed {
    /// What is sent when the connection stands.
    fn hello(&mut self, path: &str, query: &HashMap<String, String>) -> Vec<String> {
        match self.exchange {
            Exchange::Binance => {
                let listed = query.get("streams").map(String::as_str);
                for name in
                    listed.or(path.strip_prefix("/ws/")).into_iter().flat_map(|names| names.split('/'))
                {
                    self.subscribe_stream(name);
                }
                Vec::new()
            }
            Exchange::Kraken => {
                let id = 10_000 + self.number;
                let status = json!({"version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": id});
                vec![json!({"channel": "status", "type": "update", "data": [status]}).to_string()]
            }
            Exchange::Coinbase | Exchange::CoinbaseExchange | Exchange::Bybit => Vec::new(),
        }
    }

    /// Takes a text frame and gives the answers to it.
    fn heard(&mut self, text: &str, now_ms: i64) -> Vec<String> {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return vec![match self.exchange {
                Exchange::Binance => {
                    r#"{"error":{"code":3,"msg":"Invalid JSON: unexpected format"}}"#.to_owned()
                }
                Exchange::Kraken => r#"{"error":"Malformed request","method":"","success":false}"#.to_owned(),
                _ => r#"{"type":"error","message":"Malformed JSON"}"#.to_owned(),
            }];
        };
        match self.exchange {
            Exchange::Binance => self.heard_by_binance(&message),
            Exchange::Coinbase => self.heard_by_coinbase(&message, now_ms),
            Exchange::CoinbaseExchange => self.heard_by_coinbase_exchange(&message, now_ms),
            Exchange::Kraken => self.heard_by_kraken(&message, now_ms),
            Exchange::Bybit => Vec::new(),
        }
    }

    /// A listed symbol that the exchange calls so.
    fn series(&self, native: &str) -> Option<&Series> {
        let series = self.world.truth.of_native(self.exchange, native)?;
        (!self.world.delisted(self.exchange).contains(&series.symbol)).then_some(series)
    }

    fn add(&mut self, subscription: Subscription) -> bool {
        if self.subscriptions.len() >= SUBSCRIPTIONS {
            return false;
        }
        if !self.subscriptions.contains(&subscription) {
            self.subscriptions.push(subscription);
        }
        true
    }

    /// Everything that happened from after one time to another.
    fn events(&mut self, from_ms: i64, until_ms: i64, is_due: bool) -> Vec<String> {
        let subscriptions = std::mem::take(&mut self.subscriptions);
        let mut frames = Vec::new();
        for subscription in &subscriptions {
            let world = Arc::clone(&self.world);
            let Some(series) = world.truth.of_native(self.exchange, &subscription.native) else { continue };
            if world.delisted(self.exchange).contains(&series.symbol) {
                continue;
            }
            match (self.exchange, subscription.channel) {
                (Exchange::Binance, Channel::Candles { timeframe_ms }) => {
                    self.binance_events(
                        series,
                        subscription,
                        timeframe_ms,
                        [from_ms, until_ms],
                        is_due,
                        &mut frames,
                    );
                }
                (_, channel) => self.trade_events(series, channel, [from_ms, until_ms], &mut frames),
            }
        }
        self.subscriptions = subscriptions;
        frames
    }

    /// The candle of a span as it is at a time.
    fn candle(&self, series: &Series, open_ms: i64, timeframe_ms: i64, now_ms: i64) -> Option<Candle> {
        let misbehaviour = self.world.misbehaviour(self.exchange);
        View::punctual(&self.world.truth, &misbehaviour, series, now_ms).candle(open_ms, timeframe_ms)
    }

    /// What comes when something is traded.
    fn trade_events(
        &mut self,
        series: &Series,
        channel: Channel,
        [from_ms, until_ms]: [i64; 2],
        frames: &mut Vec<String>,
    ) {
        let down = self.world.misbehaviour(self.exchange).maintenance;
        for minute in from_ms.div_euclid(MINUTE_MS)..=until_ms.div_euclid(MINUTE_MS) {
            if down && self.world.truth.in_maintenance(self.exchange, minute * MINUTE_MS) {
                continue;
            }
            for trade in series.trades(minute) {
                if trade.at_ms <= from_ms || trade.at_ms > until_ms {
                    continue;
                }
                let frame = match (self.exchange, channel) {
                    (Exchange::Kraken, Channel::Candles { timeframe_ms }) => {
                        self.kraken_update(series, timeframe_ms, trade.at_ms)
                    }
                    (Exchange::Coinbase, Channel::Trades) => {
                        let trades = coinbase_trade(series, &trade);
                        let events = format!(r#"[{{"type":"update","trades":[{trades}]}}]"#);
                        Some(self.coinbase_frame("market_trades", trade.at_ms, &events))
                    }
                    (Exchange::Coinbase, Channel::Candles { timeframe_ms }) => {
                        let open_ms = trade.at_ms.div_euclid(timeframe_ms) * timeframe_ms;
                        self.candle(series, open_ms, timeframe_ms, trade.at_ms).map(|candle| {
                            let candle = coinbase_candle(series, &candle);
                            let events = format!(r#"[{{"type":"update","candles":[{candle}]}}]"#);
                            self.coinbase_frame("candles", trade.at_ms, &events)
                        })
                    }
                    (Exchange::CoinbaseExchange, Channel::Trades) => {
                        self.sequence += 1;
                        Some(match_of(series, &trade, "match", self.sequence))
                    }
                    _ => None,
                };
                frames.extend(frame);
            }
        }
    }

    fn heartbeat(&mut self, now_ms: i64) -> Vec<String> {
        self.heartbeats += 1;
        match self.exchange {
            Exchange::Kraken => vec![r#"{"channel":"heartbeat"}"#.to_owned()],
            Exchange::Coinbase => {
                let counter = self.heartbeats;
                let events =
                    format!(r#"[{{"current_time":"{}","heartbeat_counter":{counter}}}]"#, iso(now_ms));
                vec![self.coinbase_frame("heartbeats", now_ms, &events)]
            }
            Exchange::CoinbaseExchange => {
                let minute = now_ms.div_euclid(MINUTE_MS);
                let mut products: Vec<&str> =
                    self.subscriptions.iter().map(|subscription| subscription.native.as_str()).collect();
                products.sort_unstable();
                products.dedup();
                let heartbeats = products.into_iter().filter_map(|native| {
                    let trade = last_trade(self.series(native)?, minute, now_ms)?;
                    let (id, sequence) = (trade.id, self.sequence);
                    let frame = json!({
                        "type": "heartbeat",
                        "sequence": sequence,
                        "last_trade_id": id,
                        "product_id": native,
                        "time": iso(now_ms),
                    });
                    Some(frame.to_string())
                });
                heartbeats.collect()
            }
            Exchange::Binance | Exchange::Bybit => Vec::new(),
        }
    }
}

/// Binance: `<symbol>@kline_<interval>`, pushed every 2 seconds, with a sign for the last push of a candle.
impl Feed {
    /// Subscribes to a stream; an unknown one is accepted and stays silent, as there.
    fn subscribe_stream(&mut self, name: &str) -> bool {
        let Some((symbol, interval)) = name.split_once("@kline_") else { return true };
        let native = symbol.to_uppercase();
        let Some(timeframe_ms) = timeframe_ms(interval) else { return true };
        if self.series(&native).is_none() {
            return true;
        }
        self.add(Subscription { native, channel: Channel::Candles { timeframe_ms }, name: name.to_owned() })
    }

    fn heard_by_binance(&mut self, message: &Value) -> Vec<String> {
        let id = &message["id"];
        let names: Vec<String> = match message["params"].as_array() {
            Some(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => Vec::new(),
        };
        match message["method"].as_str() {
            Some("SUBSCRIBE") => {
                if names.iter().all(|name| self.subscribe_stream(name)) {
                    vec![json!({"result": null, "id": id}).to_string()]
                } else {
                    vec![json!({"error": {"code": 2, "msg": "Too many subscriptions"}, "id": id}).to_string()]
                }
            }
            Some("UNSUBSCRIBE") => {
                self.subscriptions.retain(|subscription| !names.contains(&subscription.name));
                vec![json!({"result": null, "id": id}).to_string()]
            }
            Some("LIST_SUBSCRIPTIONS") => {
                let names: Vec<&str> =
                    self.subscriptions.iter().map(|subscription| subscription.name.as_str()).collect();
                vec![json!({"result": names, "id": id}).to_string()]
            }
            _ => vec![
                json!({"error": {"code": 2, "msg": "Invalid request: unknown method"}, "id": id}).to_string(),
            ],
        }
    }

    fn binance_events(
        &self,
        series: &Series,
        subscription: &Subscription,
        timeframe_ms: i64,
        [from_ms, until_ms]: [i64; 2],
        is_due: bool,
        frames: &mut Vec<String>,
    ) {
        let open = until_ms.div_euclid(timeframe_ms);
        for frame in from_ms.div_euclid(timeframe_ms)..open {
            let open_ms = frame * timeframe_ms;
            if let Some(candle) = self.candle(series, open_ms, timeframe_ms, open_ms + timeframe_ms) {
                frames.push(self.kline(series, subscription, timeframe_ms, &candle, true, until_ms));
            }
        }
        if is_due && let Some(candle) = self.candle(series, open * timeframe_ms, timeframe_ms, until_ms) {
            frames.push(self.kline(series, subscription, timeframe_ms, &candle, false, until_ms));
        }
    }

    fn kline(
        &self,
        series: &Series,
        subscription: &Subscription,
        timeframe_ms: i64,
        candle: &Candle,
        is_closed: bool,
        now_ms: i64,
    ) -> String {
        let (open_ms, trades) = (candle.open_ms, candle.trades);
        let close_ms = open_ms + timeframe_ms - 1;
        let (first, last) =
            if trades > 0 { series.ids(open_ms.div_euclid(MINUTE_MS), trades) } else { (-1, -1) };
        let interval = subscription.name.rsplit('_').next().unwrap_or_default();
        let padded = |number: Decimal| {
            let mut text = String::new();
            number.push_padded(&mut text, 8);
            text
        };
        let half = |number: Decimal| padded(Decimal { units: number.units / 2, ..number });
        let data = json!({
            "e": "kline",
            "E": now_ms,
            "s": series.native,
            "k": {
                "t": open_ms,
                "T": close_ms,
                "s": series.native,
                "i": interval,
                "f": first,
                "L": last,
                "o": padded(candle.open),
                "c": padded(candle.close),
                "h": padded(candle.high),
                "l": padded(candle.low),
                "v": padded(candle.volume),
                "n": trades,
                "x": is_closed,
                "q": padded(candle.quote_volume),
                "V": half(candle.volume),
                "Q": half(candle.quote_volume),
                "B": "0",
            },
        });
        if self.is_combined {
            json!({"stream": subscription.name, "data": data}).to_string()
        } else {
            data.to_string()
        }
    }
}

/// Kraken: the `ohlc` channel, which speaks when something is traded and says nothing of the end of a candle.
impl Feed {
    fn heard_by_kraken(&mut self, message: &Value, now_ms: i64) -> Vec<String> {
        let method = message["method"].as_str().unwrap_or_default();
        let mut reply = json!({"method": method, "time_in": iso(now_ms), "time_out": iso(now_ms)});
        if !message["req_id"].is_null() {
            reply["req_id"] = message["req_id"].clone();
        }
        if method == "ping" {
            reply["method"] = json!("pong");
            return vec![reply.to_string()];
        }
        let parameters = &message["params"];
        let minutes = parameters["interval"].as_i64().unwrap_or(1);
        let symbols: Vec<&str> =
            parameters["symbol"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if parameters["channel"].as_str() != Some("ohlc") || !matches!(method, "subscribe" | "unsubscribe") {
            reply["success"] = json!(false);
            reply["error"] = json!("Unsupported channel or method");
            return vec![reply.to_string()];
        }
        let timeframe_ms = minutes * MINUTE_MS;
        let mut frames = Vec::new();
        for symbol in symbols {
            let mut reply = reply.clone();
            // This API knows the unified names only.
            let is_known = self.series(symbol).is_some_and(|series| series.symbol == symbol);
            let is_interval = matches!(minutes, 1 | 5 | 15 | 30 | 60 | 240 | 1_440);
            reply["success"] = json!(is_known && is_interval);
            if !is_known || !is_interval {
                let fault = if is_known {
                    format!("Unsupported interval {minutes}")
                } else {
                    format!("Currency pair not supported {symbol}")
                };
                reply["error"] = json!(fault);
                reply["symbol"] = json!(symbol);
                frames.push(reply.to_string());
                continue;
            }
            let snapshot = parameters["snapshot"].as_bool().unwrap_or(true);
            reply["result"] =
                json!({"channel": "ohlc", "symbol": symbol, "interval": minutes, "snapshot": snapshot});
            frames.push(reply.to_string());
            let channel = Channel::Candles { timeframe_ms };
            let subscription = Subscription { native: symbol.to_owned(), channel, name: String::new() };
            if method == "unsubscribe" {
                self.subscriptions.retain(|other| *other != subscription);
                continue;
            }
            self.add(subscription);
            if snapshot {
                frames.extend(self.kraken_snapshot(symbol, timeframe_ms, now_ms));
            }
        }
        frames
    }

    fn kraken_snapshot(&self, symbol: &str, timeframe_ms: i64, now_ms: i64) -> Option<String> {
        let series = self.series(symbol)?;
        let open = now_ms.div_euclid(timeframe_ms);
        let rows: Vec<String> = (open + 1 - SNAPSHOT_ROWS..=open)
            .filter_map(|frame| self.candle(series, frame * timeframe_ms, timeframe_ms, now_ms))
            .map(|candle| kraken_candle(series, timeframe_ms, &candle))
            .collect();
        let rows = rows.join(",");
        Some(format!(
            r#"{{"channel":"ohlc","type":"snapshot","timestamp":"{}","data":[{rows}]}}"#,
            iso(now_ms)
        ))
    }

    fn kraken_update(&self, series: &Series, timeframe_ms: i64, at_ms: i64) -> Option<String> {
        let open_ms = at_ms.div_euclid(timeframe_ms) * timeframe_ms;
        let candle = self.candle(series, open_ms, timeframe_ms, at_ms)?;
        let row = kraken_candle(series, timeframe_ms, &candle);
        Some(format!(r#"{{"channel":"ohlc","type":"update","timestamp":"{}","data":[{row}]}}"#, iso(at_ms)))
    }
}

/// Coinbase Advanced Trade: `market_trades`, `candles` of five minutes, `heartbeats`.
impl Feed {
    fn coinbase_frame(&mut self, channel: &str, now_ms: i64, events: &str) -> String {
        let number = self.sequence;
        self.sequence += 1;
        format!(
            r#"{{"channel":"{channel}","client_id":"","timestamp":"{}","sequence_num":{number},"events":{events}}}"#,
            iso(now_ms)
        )
    }

    fn heard_by_coinbase(&mut self, message: &Value, now_ms: i64) -> Vec<String> {
        let kind = message["type"].as_str().unwrap_or_default();
        let name = message["channel"].as_str().unwrap_or_default();
        let channel = match name {
            "market_trades" => Some(Channel::Trades),
            "candles" => Some(Channel::Candles { timeframe_ms: 5 * MINUTE_MS }),
            "heartbeats" => None,
            _ => return vec![json!({"type": "error", "message": "channel is not supported"}).to_string()],
        };
        let products = texts(&message["product_ids"]);
        if kind == "unsubscribe" {
            self.has_heartbeats &= channel.is_some();
            self.subscriptions
                .retain(|other| Some(other.channel) != channel || !products.contains(&other.native));
            return Vec::new();
        }
        let mut frames = Vec::new();
        let Some(channel) = channel else {
            self.has_heartbeats = true;
            let events = r#"[{"subscriptions":{"heartbeats":["heartbeats"]}}]"#;
            return vec![self.coinbase_frame("subscriptions", now_ms, events)];
        };
        for native in &products {
            let Some(series) = self.series(native) else { continue };
            let events = match channel {
                Channel::Trades => {
                    let trade = last_trade(series, now_ms.div_euclid(MINUTE_MS), now_ms);
                    let trades = trade.map(|trade| coinbase_trade(series, &trade)).unwrap_or_default();
                    format!(r#"[{{"type":"snapshot","trades":[{trades}]}}]"#)
                }
                Channel::Candles { timeframe_ms } => {
                    let open = now_ms.div_euclid(timeframe_ms);
                    let rows: Vec<String> = (open + 1 - SNAPSHOT_ROWS..=open)
                        .rev()
                        .filter_map(|frame| self.candle(series, frame * timeframe_ms, timeframe_ms, now_ms))
                        .map(|candle| coinbase_candle(series, &candle))
                        .collect();
                    format!(r#"[{{"type":"snapshot","candles":[{}]}}]"#, rows.join(","))
                }
            };
            frames.push(self.coinbase_frame(name, now_ms, &events));
            self.add(Subscription { native: native.clone(), channel, name: String::new() });
        }
        let events = json!([{"subscriptions": {name: products}}]).to_string();
        frames.push(self.coinbase_frame("subscriptions", now_ms, &events));
        frames
    }

    fn heard_by_coinbase_exchange(&mut self, message: &Value, now_ms: i64) -> Vec<String> {
        let kind = message["type"].as_str().unwrap_or_default();
        let channels = texts(&message["channels"]);
        let products = texts(&message["product_ids"]);
        if kind != "subscribe" && kind != "unsubscribe" {
            return vec![
                json!({"type": "error", "message": "Type has to be subscribe or unsubscribe"}).to_string(),
            ];
        }
        if let Some(native) = products.iter().find(|native| self.series(native).is_none()) {
            let reason = format!("{native} is not a valid product");
            return vec![
                json!({"type": "error", "message": "Failed to subscribe", "reason": reason}).to_string(),
            ];
        }
        let is_on = kind == "subscribe";
        if channels.iter().any(|name| name == "heartbeat") {
            self.has_heartbeats = is_on;
        }
        let mut frames = Vec::new();
        if channels.iter().any(|name| name == "matches") {
            for native in &products {
                let name = String::new();
                let subscription = Subscription { native: native.clone(), channel: Channel::Trades, name };
                if !is_on {
                    self.subscriptions.retain(|other| *other != subscription);
                    continue;
                }
                self.add(subscription);
                let Some(series) = self.series(native) else { continue };
                if let Some(trade) = last_trade(series, now_ms.div_euclid(MINUTE_MS), now_ms) {
                    frames.push(match_of(series, &trade, "last_match", self.sequence));
                }
            }
        }
        let subscribed: Vec<Value> =
            channels.iter().map(|name| json!({"name": name, "product_ids": products})).collect();
        frames.push(json!({"type": "subscriptions", "channels": subscribed}).to_string());
        frames
    }
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The last trade until a time, looked for in the minute of the time and the nine before.
fn last_trade(series: &Series, minute: i64, now_ms: i64) -> Option<Trade> {
    (minute - 9..=minute)
        .rev()
        .find_map(|minute| series.trades(minute).into_iter().rev().find(|trade| trade.at_ms <= now_ms))
}

fn short(number: Decimal) -> String {
    let mut text = String::new();
    number.push_short(&mut text);
    text
}

fn kraken_candle(series: &Series, timeframe_ms: i64, candle: &Candle) -> String {
    let mut row = format!(r#"{{"symbol":"{}""#, series.symbol);
    for (name, number) in [
        ("open", candle.open),
        ("high", candle.high),
        ("low", candle.low),
        ("close", candle.close),
        ("volume", candle.volume),
        ("vwap", candle.vwap),
    ] {
        // Writing to a string cannot fail.
        let _ = write!(row, r#","{name}":{}"#, short(number));
    }
    let _ = write!(
        row,
        r#","trades":{},"interval_begin":"{}","interval":{},"timestamp":"{}"}}"#,
        candle.trades,
        iso(candle.open_ms),
        timeframe_ms / MINUTE_MS,
        iso(candle.open_ms + timeframe_ms),
    );
    row
}

fn coinbase_candle(series: &Series, candle: &Candle) -> String {
    format!(
        r#"{{"start":"{}","high":"{}","low":"{}","open":"{}","close":"{}","volume":"{}","product_id":"{}"}}"#,
        candle.open_ms / 1_000,
        short(candle.high),
        short(candle.low),
        short(candle.open),
        short(candle.close),
        short(candle.volume),
        series.native,
    )
}

fn side(trade: &Trade) -> &'static str {
    if trade.id % 2 == 0 { "BUY" } else { "SELL" }
}

fn coinbase_trade(series: &Series, trade: &Trade) -> String {
    format!(
        r#"{{"trade_id":"{}","product_id":"{}","price":"{}","size":"{}","side":"{}","time":"{}"}}"#,
        trade.id,
        series.native,
        short(trade.price),
        short(trade.volume),
        side(trade),
        iso(trade.at_ms),
    )
}

fn match_of(series: &Series, trade: &Trade, kind: &str, sequence: u64) -> String {
    json!({
        "type": kind,
        "trade_id": trade.id,
        "sequence": sequence,
        "product_id": series.native,
        "price": short(trade.price),
        "size": short(trade.volume),
        "side": side(trade).to_lowercase(),
        "time": iso(trade.at_ms),
    })
    .to_string()
}
