//! What feeds say, and when they do not.

use std::time::Duration;

use exchanges_simulator::{Exchange, MINUTE_MS, Misbehaviour, Simulator};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{OPEN_MS, number, start};

type Feed = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(10);

async fn connect(simulator: &Simulator, exchange: Exchange, path: &str) -> Feed {
    let url = format!("{}{path}", simulator.feed_url(exchange));
    connect_async(url).await.expect("a connection").0
}

async fn say(feed: &mut Feed, message: Value) {
    feed.send(Message::text(message.to_string())).await.expect("a standing connection");
}

/// The next text frame; none when the connection ended.
async fn next(feed: &mut Feed) -> Option<Value> {
    loop {
        match tokio::time::timeout(LONG, feed.next()).await.expect("something in time") {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(text.as_str()).expect("JSON")),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

/// The next frame that fits.
async fn find(feed: &mut Feed, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let frame = next(feed).await.expect("a standing connection");
        if fits(&frame) {
            return frame;
        }
    }
}

#[tokio::test]
async fn binance_signs_the_last_push_of_a_candle() {
    let simulator = start(200.0);
    let mut feed = connect(&simulator, Exchange::Binance, "/ws").await;
    say(&mut feed, json!({"method": "SUBSCRIBE", "params": ["linkusdt@kline_1m"], "id": 7})).await;
    assert_eq!(next(&mut feed).await, Some(json!({"result": null, "id": 7})));
    let mut last_id = None;
    for count in 0..6 {
        let frame = find(&mut feed, |frame| frame["k"]["x"] == true).await;
        let kline = &frame["k"];
        assert_eq!(
            (&frame["e"], &frame["s"], &kline["i"]),
            (&json!("kline"), &json!("LINKUSDT"), &json!("1m"))
        );
        let open_ms = kline["t"].as_i64().expect("a time");
        assert_eq!(open_ms, OPEN_MS + count * MINUTE_MS);
        let truth = simulator.truth().candle(Exchange::Binance, "LINK/USDT", open_ms).expect("a candle");
        assert_eq!(number(&kline["o"]), truth.open.value());
        assert_eq!(number(&kline["c"]), truth.close.value());
        assert_eq!(number(&kline["v"]), truth.volume.value());
        assert_eq!(number(&kline["q"]), truth.quote_volume.value());
        assert_eq!(kline["n"], truth.trades);
        if truth.trades > 0 {
            let first = kline["f"].as_i64().expect("an id");
            assert!(last_id.is_none_or(|last| first == last + 1));
            last_id = kline["L"].as_i64();
        }
    }
}

#[tokio::test]
async fn binance_pushes_open_candles_and_wraps_combined_streams() {
    let simulator = start(20.0);
    let mut feed =
        connect(&simulator, Exchange::Binance, "/stream?streams=btcusdt@kline_1m/nopeusdt@kline_1m").await;
    let first = find(&mut feed, |frame| frame["data"]["k"]["x"] == false).await;
    assert_eq!(first["stream"], "btcusdt@kline_1m");
    let second = find(&mut feed, |frame| frame["data"]["k"]["x"] == false).await;
    assert!(number(&second["data"]["k"]["v"]) >= number(&first["data"]["k"]["v"]));
    let mut single = connect(&simulator, Exchange::Binance, "/ws/ethusdt@kline_1m").await;
    assert_eq!(next(&mut single).await.expect("a frame")["s"], "ETHUSDT");
}

#[tokio::test]
async fn kraken_speaks_when_something_is_traded_and_signs_no_end() {
    let simulator = start(100.0);
    let mut feed = connect(&simulator, Exchange::Kraken, "/v2").await;
    assert_eq!(next(&mut feed).await.expect("a frame")["channel"], "status");
    let symbols = json!(["BTC/USD", "XBT/USD"]);
    say(
        &mut feed,
        json!({"method": "subscribe", "params": {"channel": "ohlc", "symbol": symbols, "interval": 1}, "req_id": 3}),
    )
    .await;
    let accepted = find(&mut feed, |frame| frame["method"] == "subscribe").await;
    assert_eq!((&accepted["success"], &accepted["req_id"]), (&json!(true), &json!(3)));
    let snapshot = next(&mut feed).await.expect("a frame");
    assert_eq!(snapshot["type"], "snapshot");
    assert_eq!(snapshot["data"].as_array().expect("rows").len(), 10);
    let refused = find(&mut feed, |frame| frame["method"] == "subscribe").await;
    assert_eq!(refused["error"], "Currency pair not supported XBT/USD");

    // The last update of a minute is the whole minute.
    let mut last = find(&mut feed, |frame| frame["type"] == "update").await["data"][0].clone();
    loop {
        let update = find(&mut feed, |frame| frame["type"] == "update").await["data"][0].clone();
        if update["interval_begin"] != last["interval_begin"] {
            break;
        }
        last = update;
    }
    let begin: jiff::Timestamp = last["interval_begin"].as_str().expect("a time").parse().expect("RFC 3339");
    let truth = simulator
        .truth()
        .candle(Exchange::Kraken, "BTC/USD", begin.as_millisecond())
        .expect("a traded minute");
    assert_eq!(last["close"].as_f64(), Some(truth.close.value()));
    assert_eq!(last["volume"].as_f64(), Some(truth.volume.value()));
    assert_eq!(last["vwap"].as_f64(), Some(truth.vwap.value()));
    assert_eq!(last["trades"], truth.trades);
    assert_eq!(last["symbol"], "BTC/USD");

    say(&mut feed, json!({"method": "ping", "req_id": 4})).await;
    assert_eq!(find(&mut feed, |frame| frame["method"] == "pong").await["req_id"], 4);
}

#[tokio::test]
async fn coinbase_gives_trades_that_are_the_candles() {
    let simulator = start(100.0);
    let mut advanced = connect(&simulator, Exchange::Coinbase, "/").await;
    say(&mut advanced, json!({"type": "subscribe", "channel": "heartbeats"})).await;
    say(&mut advanced, json!({"type": "subscribe", "channel": "market_trades", "product_ids": ["BTC-USD"]}))
        .await;
    let mut sequence = 0;
    let mut volume = 0.0;
    let mut id = None;
    let mut is_whole = false;
    'minute: loop {
        let frame = next(&mut advanced).await.expect("a frame");
        assert_eq!(frame["sequence_num"], sequence);
        sequence += 1;
        if frame["channel"] != "market_trades" || frame["events"][0]["type"] != "update" {
            continue;
        }
        for trade in frame["events"][0]["trades"].as_array().expect("trades") {
            let number_of = trade["trade_id"].as_str().expect("an id").parse::<i64>().expect("a number");
            assert!(id.is_none_or(|id| number_of == id + 1));
            id = Some(number_of);
            let time: jiff::Timestamp = trade["time"].as_str().expect("a time").parse().expect("RFC 3339");
            let time_ms = time.as_millisecond();
            match time_ms.div_euclid(MINUTE_MS) - OPEN_MS / MINUTE_MS {
                1 => {
                    is_whole = true;
                    volume += number(&trade["size"]);
                }
                2 => break 'minute,
                _ => {}
            }
        }
    }
    assert!(is_whole);
    let truth =
        simulator.truth().candle(Exchange::Coinbase, "BTC/USD", OPEN_MS + MINUTE_MS).expect("a candle");
    assert!((volume - truth.volume.value()).abs() < 1e-6);

    let mut exchange = connect(&simulator, Exchange::CoinbaseExchange, "/").await;
    say(
        &mut exchange,
        json!({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches", "heartbeat"]}),
    )
    .await;
    let last = next(&mut exchange).await.expect("a frame");
    assert_eq!(last["type"], "last_match");
    let first = find(&mut exchange, |frame| frame["type"] == "match").await;
    assert!(first["trade_id"].as_i64() > last["trade_id"].as_i64());
    let heartbeat = find(&mut exchange, |frame| frame["type"] == "heartbeat").await;
    assert_eq!(heartbeat["product_id"], "BTC-USD");
}

#[tokio::test]
async fn a_silent_feed_stays_connected_and_a_dropped_one_does_not() {
    let simulator = start(100.0);
    let mut feed = connect(&simulator, Exchange::Binance, "/ws/btcusdt@kline_1m").await;
    next(&mut feed).await.expect("a frame");
    simulator.silence(Exchange::Binance);
    // What was on its way comes; after that nothing but the answer to a ping.
    tokio::time::sleep(Duration::from_millis(100)).await;
    while let Ok(Some(Ok(Message::Text(_)))) =
        tokio::time::timeout(Duration::from_millis(20), feed.next()).await
    {}
    feed.send(Message::Ping(vec![1].into())).await.expect("a standing connection");
    let answer = tokio::time::timeout(Duration::from_millis(900), feed.next()).await.expect("an answer");
    assert!(matches!(answer, Some(Ok(Message::Pong(_)))), "{answer:?}");
    tokio::time::timeout(Duration::from_millis(900), feed.next()).await.expect_err("nothing for a minute");

    let mut another = connect(&simulator, Exchange::Binance, "/ws/btcusdt@kline_1m").await;
    next(&mut another).await.expect("a feed that is connected later speaks");
    simulator.drop_feeds(Exchange::Binance);
    while next(&mut another).await.is_some() {}
    let requests = simulator.requests();
    assert_eq!(requests.exchanges[&Exchange::Binance].feeds, 2);
}

#[tokio::test]
async fn feeds_go_silent_or_end_by_chance() {
    let simulator = start(2_000.0);
    let misbehaviour = Misbehaviour { dropped_feeds: 1.0, ..Misbehaviour::default() };
    simulator.set_misbehaviour(Exchange::Kraken, misbehaviour);
    let mut feed = connect(&simulator, Exchange::Kraken, "/v2").await;
    while next(&mut feed).await.is_some() {}

    let misbehaviour = Misbehaviour { silent_feeds: 1.0, ..Misbehaviour::default() };
    simulator.set_misbehaviour(Exchange::Binance, misbehaviour);
    let mut feed = connect(&simulator, Exchange::Binance, "/ws/btcusdt@kline_1m").await;
    let mut frames = 0;
    while let Ok(Some(Ok(_))) = tokio::time::timeout(Duration::from_millis(500), feed.next()).await {
        frames += 1;
    }
    assert!(frames < 20, "{frames}");
}

#[tokio::test]
async fn a_delisted_symbol_is_heard_no_more() {
    let simulator = start(200.0);
    let mut feed =
        connect(&simulator, Exchange::Binance, "/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m").await;
    find(&mut feed, |frame| frame["data"]["s"] == "ETHUSDT").await;
    simulator.delist(Exchange::Binance, "ETH/USDT");
    tokio::time::sleep(Duration::from_millis(100)).await;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(1), feed.next()).await {}
    for _ in 0..4 {
        assert_eq!(next(&mut feed).await.expect("a frame")["data"]["s"], "BTCUSDT");
    }
}
