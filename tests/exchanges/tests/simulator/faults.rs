//! What goes wrong, seen on the wire.

use std::time::{Duration, Instant};

use exchanges_simulator::{Exchange, Fault, MINUTE_MS, Misbehaviour, Simulator};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{OPEN_MS, START_MS, builder, client, get, json_of, minutes_before, number, start};

const KLINES: &str = "/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=50";

/// Longer than a request can be on its way.
const LATER: Duration = Duration::from_millis(300);

async fn after(simulator: &Simulator, fault: Fault) -> reqwest::Response {
    simulator.next(Exchange::Binance, fault);
    get(simulator, Exchange::Binance, KLINES).await
}

#[tokio::test]
async fn a_429_with_a_time_forbids_until_then_and_asking_on_is_a_violation_and_a_ban() {
    // Ten simulated seconds are a second.
    let simulator = start(10.0);
    let refused = after(&simulator, Fault::TooManyRequests { retry_after_s: Some(10) }).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "10");
    assert!(refused.text().await.expect("a body").contains("-1003"));

    // On its way: refused, and not held against anyone.
    let status = get(&simulator, Exchange::Binance, KLINES).await.status();
    assert_eq!((status, simulator.violations().count), (StatusCode::TOO_MANY_REQUESTS, 0));
    assert_eq!(get(&simulator, Exchange::Kraken, "/0/public/Time").await.status(), StatusCode::OK);

    tokio::time::sleep(LATER).await;
    let banned = get(&simulator, Exchange::Binance, KLINES).await;
    assert_eq!(banned.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(banned.headers()["retry-after"], "120");
    let violations = simulator.violations();
    assert_eq!(violations.count, 1);
    assert_eq!(violations.first[0].exchange, Exchange::Binance);
    assert_eq!(violations.first[0].path, KLINES);
    assert!(violations.first[0].after_wall_ms >= 300);
}

#[tokio::test]
async fn whoever_waits_is_served_again() {
    let simulator = start(10.0);
    assert_eq!(after(&simulator, Fault::TooManyRequests { retry_after_s: Some(5) }).await.status(), 429);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(get(&simulator, Exchange::Binance, KLINES).await.status(), StatusCode::OK);
    let refused = after(&simulator, Fault::TooManyRequests { retry_after_s: None }).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(!refused.headers().contains_key("retry-after"));
    assert_eq!(get(&simulator, Exchange::Binance, KLINES).await.status(), StatusCode::OK);
    assert_eq!(simulator.violations().count, 0);
}

#[tokio::test]
async fn a_ban_says_until_when() {
    let simulator = start(1.0);
    let banned = after(&simulator, Fault::Ban { retry_after_s: 60 }).await;
    assert_eq!(banned.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(banned.headers()["retry-after"], "60");
    let text = banned.text().await.expect("a body");
    let (_, until) = text.split_once("IP banned until ").expect("a time");
    let until: i64 = until[..13].parse().expect("milliseconds");
    assert!((START_MS + 60_000..START_MS + 70_000).contains(&until));
}

#[tokio::test]
async fn binance_counts_weight_and_refuses_what_is_above() {
    let simulator = start(1.0);
    let client = client();
    let url =
        format!("{}/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=1", simulator.url(Exchange::Binance));
    for number in 1..=3_000_u32 {
        let response = client.get(&url).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{number}");
        assert_eq!(response.headers()["x-mbx-used-weight-1m"], (2 * number).to_string());
    }
    let refused = client.get(&url).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: i64 = refused.headers()["retry-after"].to_str().expect("a text").parse().expect("seconds");
    assert!((1..=40).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn coinbase_and_kraken_refuse_what_is_too_often() {
    let simulator = start(1.0);
    let client = client();
    let ask = async |exchange: Exchange, path: &str| {
        client.get(format!("{}{path}", simulator.url(exchange))).send().await.expect("an answer")
    };
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(ask(Exchange::CoinbaseExchange, "/time").await.status());
    }
    assert_eq!(statuses[..15], [StatusCode::OK; 15]);
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS));
    let mut bodies = Vec::new();
    for _ in 0..60 {
        let response = ask(Exchange::Kraken, "/0/public/Time").await;
        assert_eq!(response.status(), StatusCode::OK);
        bodies.push(response.text().await.expect("a body"));
    }
    assert!(bodies[..15].iter().all(|body| body.contains("unixtime")));
    assert!(bodies.iter().any(|body| body == r#"{"error":["EAPI:Rate limit exceeded"]}"#));
}

#[tokio::test]
async fn pages_for_people_and_errors_come_instead_of_candles() {
    let simulator = start(1.0);
    for (fault, status) in [
        (Fault::Forbidden, 403),
        (Fault::ServerError(500), 500),
        (Fault::ServerError(502), 502),
        (Fault::ServerError(503), 503),
        (Fault::Page, 200),
    ] {
        let response = after(&simulator, fault).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
        assert!(response.text().await.expect("a body").starts_with("<!DOCTYPE html>"));
    }
    for (exchange, path, key) in [
        (Exchange::Binance, KLINES, "code"),
        (Exchange::Coinbase, "/api/v3/brokerage/time", "error"),
        (Exchange::CoinbaseExchange, "/time", "message"),
        (Exchange::Kraken, "/0/public/Time", "error"),
        (Exchange::Bybit, "/v5/market/time", "retCode"),
    ] {
        simulator.next(exchange, Fault::ErrorBody);
        let (status, body) = json_of(&simulator, exchange, path).await;
        assert_eq!(status, StatusCode::OK);
        assert!(!body[key].is_null() && body[key] != json!([]), "{body}");
        assert_eq!(simulator.requests().exchanges[&exchange].faults["error_body"], 1);
    }
    let (status, rows) = json_of(&simulator, Exchange::Binance, KLINES).await;
    assert_eq!((status, rows.as_array().expect("rows").len()), (StatusCode::OK, 50));
}

#[tokio::test]
async fn bodies_are_cut_broken_slow_or_never_come() {
    let simulator = start(1.0);
    let cut = after(&simulator, Fault::Truncated).await;
    assert!(cut.status().is_success());
    cut.bytes().await.expect_err("a cut body");

    let broken = after(&simulator, Fault::BrokenGzip).await;
    assert!(broken.status().is_success());
    broken.bytes().await.expect_err("a broken body");

    let began = Instant::now();
    let slow = after(&simulator, Fault::Slow { wall_ms: 300 }).await;
    assert!(began.elapsed() < Duration::from_millis(200));
    let text = slow.text().await.expect("a body");
    assert!(began.elapsed() >= Duration::from_millis(250));
    assert_eq!(serde_json::from_str::<Vec<Value>>(&text).expect("JSON").len(), 50);

    simulator.next(Exchange::Binance, Fault::Hang);
    let url = format!("{}{KLINES}", simulator.url(Exchange::Binance));
    let hung = client().get(url).timeout(Duration::from_millis(200)).send().await;
    assert!(hung.expect_err("no answer").is_timeout());
    assert_eq!(get(&simulator, Exchange::Binance, KLINES).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_cut_body_announces_more_than_it_has_and_gzip_only_comes_when_asked_for() {
    let simulator = start(1.0);
    let plain = builder().no_gzip().build().expect("a client");
    let url = format!("{}{KLINES}", simulator.url(Exchange::Binance));
    let whole = plain.get(&url).send().await.expect("an answer");
    assert!(!whole.headers().contains_key("content-encoding"));
    let length = whole.bytes().await.expect("a body").len();

    simulator.next(Exchange::Binance, Fault::Truncated);
    let mut cut = plain.get(&url).send().await.expect("an answer");
    assert_eq!(cut.content_length(), Some(length as u64));
    let mut got = 0;
    let error = loop {
        match cut.chunk().await {
            Ok(Some(bytes)) => got += bytes.len(),
            Ok(None) => panic!("the body ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(got, length / 2, "{error}");

    let packed = plain.get(&url).header("accept-encoding", "gzip, br").send().await.expect("an answer");
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.bytes().await.expect("a body").len() < length);
}

#[tokio::test]
async fn candles_are_empty_on_request_and_other_answers_do_not_use_that_up() {
    let simulator = start(1.0);
    let (start_s, end_s) = (minutes_before(20) / 1_000, OPEN_MS / 1_000);
    let coinbase = format!(
        "/api/v3/brokerage/market/products/BTC-USD/candles?granularity=ONE_MINUTE&start={start_s}&end={end_s}"
    );
    for (exchange, path, pointer) in [
        (Exchange::Binance, KLINES, ""),
        (Exchange::Coinbase, coinbase.as_str(), "/candles"),
        (Exchange::CoinbaseExchange, "/products/BTC-USD/candles", ""),
        (Exchange::Kraken, "/0/public/OHLC?pair=XBTUSD", "/result/XXBTZUSD"),
        (Exchange::Bybit, "/v5/market/kline?category=spot&symbol=BTCUSDT&interval=1", "/result/list"),
    ] {
        simulator.next(exchange, Fault::Empty);
        get(&simulator, exchange, "/time").await;
        let (status, body) = json_of(&simulator, exchange, path).await;
        assert_eq!((status, body.pointer(pointer)), (StatusCode::OK, Some(&json!([]))), "{exchange}");
        let (_, body) = json_of(&simulator, exchange, path).await;
        assert!(!body.pointer(pointer).and_then(Value::as_array).expect("rows").is_empty());
    }
}

#[tokio::test]
async fn rows_come_twice_and_in_no_order_and_the_older_has_less_volume() {
    let simulator = start(1.0);
    simulator.next(Exchange::Binance, Fault::Disordered);
    let (_, rows) = json_of(&simulator, Exchange::Binance, KLINES).await;
    let rows: Vec<(i64, f64)> = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row[0].as_i64().expect("a time"), number(&row[5])))
        .collect();
    assert!(rows.len() > 50);
    assert!(!rows.is_sorted_by_key(|row| row.0));
    for back in 1..50 {
        let open_ms = minutes_before(back);
        let truth = simulator.truth().candle(Exchange::Binance, "BTC/USDT", open_ms).expect("a candle");
        let versions: Vec<f64> = rows.iter().filter(|row| row.0 == open_ms).map(|row| row.1).collect();
        assert!((1..=2).contains(&versions.len()));
        assert_eq!(versions.iter().copied().fold(0.0, f64::max), truth.volume.value());
    }

    simulator.next(Exchange::Kraken, Fault::Disordered);
    let (_, body) = json_of(&simulator, Exchange::Kraken, "/0/public/OHLC?pair=XBTUSD").await;
    let rows = body["result"]["XXBTZUSD"].as_array().expect("rows");
    assert_eq!(rows[rows.len() - 1][0], OPEN_MS / 1_000, "the last row is the open one");
}

#[tokio::test]
async fn an_exchanges_clock_can_be_wrong() {
    let simulator = start(1.0);
    let date = async || {
        get(&simulator, Exchange::Binance, KLINES).await.headers()["date"].to_str().unwrap().to_owned()
    };
    simulator.set_clock_offset(Exchange::Binance, -10 * MINUTE_MS);
    assert!(date().await.starts_with("Fri, 02 Jan 2026 02:54:2"));
    simulator.set_clock_offset(Exchange::Binance, 0);
    assert!(date().await.starts_with("Fri, 02 Jan 2026 03:04:2"));
    simulator.next(Exchange::Binance, Fault::WrongDate { offset_ms: 10 * MINUTE_MS });
    assert!(date().await.starts_with("Fri, 02 Jan 2026 03:14:2"));
    simulator
        .set_misbehaviour(Exchange::Binance, Misbehaviour { wrong_clock: 1.0, ..Misbehaviour::default() });
    let wrong = date().await;
    assert!(wrong.contains("02:54:2") || wrong.contains("03:14:2"), "{wrong}");
}

#[tokio::test]
async fn newest_minutes_are_late_corrected_or_absent_on_request() {
    let simulator = start(1.0);
    let newest = async |misbehaviour: Misbehaviour| {
        simulator.set_misbehaviour(Exchange::Binance, misbehaviour.clone());
        simulator.set_misbehaviour(Exchange::Kraken, misbehaviour);
        let (_, rows) = json_of(&simulator, Exchange::Binance, KLINES).await;
        rows.as_array().expect("rows").iter().map(|row| row[0].as_i64().expect("a time")).collect::<Vec<_>>()
    };
    let late = newest(Misbehaviour { late: 1.0, ..Misbehaviour::default() }).await;
    assert!((minutes_before(4)..minutes_before(1)).contains(late.last().expect("a row")));
    let (_, body) = json_of(&simulator, Exchange::Kraken, "/0/public/OHLC?pair=XBTUSD").await;
    let rows = body["result"]["XXBTZUSD"].as_array().expect("rows");
    let last = body["result"]["last"].as_i64().expect("a time");
    assert!(last < minutes_before(1) / 1_000);
    assert_eq!(rows[rows.len() - 1][0], last + 60);

    let delayed = newest(Misbehaviour { delayed: 1.0, ..Misbehaviour::default() }).await;
    let missing = (1..10).filter(|back| !delayed.contains(&minutes_before(*back))).count();
    assert_eq!(missing, 9);

    newest(Misbehaviour { corrected: 1.0, ..Misbehaviour::default() }).await;
    let (_, rows) = json_of(&simulator, Exchange::Binance, KLINES).await;
    let volume = |back: usize| number(&rows[49 - back][5]);
    let truth = |back: i64| {
        let candle = simulator.truth().candle(Exchange::Binance, "BTC/USDT", minutes_before(back));
        candle.expect("a candle").volume.value()
    };
    assert!(volume(1) < truth(1));
    assert_eq!(volume(3), truth(3));
}

#[tokio::test]
async fn everything_at_random_leaves_answers_that_are_right() {
    let rate = 600.0;
    let simulator = start(rate);
    for exchange in Exchange::ALL {
        simulator.set_misbehaviour(exchange, Misbehaviour::all_at_random());
    }
    let client = client();
    let url =
        format!("{}/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=20", simulator.url(Exchange::Binance));
    let mut whole = 0;
    for _ in 0..600 {
        let Ok(response) = client.get(&url).timeout(Duration::from_millis(100)).send().await else {
            continue;
        };
        if let Some(seconds) = response.headers().get("retry-after") {
            let seconds: f64 = seconds.to_str().expect("a text").parse().expect("seconds");
            tokio::time::sleep(Duration::from_secs_f64(seconds / rate)).await;
            continue;
        }
        let Ok(text) = response.text().await else { continue };
        whole += usize::from(serde_json::from_str::<Vec<Value>>(&text).is_ok_and(|rows| rows.len() >= 10));
    }
    let faults = &simulator.requests().exchanges[&Exchange::Binance].faults;
    assert!(whole > 300, "{whole} {faults:?}");
    assert!(faults.len() >= 8, "{faults:?}");
    assert_eq!(simulator.violations().count, 0);
}

#[tokio::test]
async fn a_redirect_names_the_same_path_elsewhere() {
    let (simulator, elsewhere) = (start(1.0), start(1.0));
    simulator.next(Exchange::Binance, Fault::Redirect { to: elsewhere.address() });
    let client = builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let url = format!("{}{KLINES}", simulator.url(Exchange::Binance));
    let response = client.get(url).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()["location"], format!("{}{KLINES}", elsewhere.url(Exchange::Binance)));
    assert_eq!(get(&simulator, Exchange::Binance, KLINES).await.status(), StatusCode::OK);
}
