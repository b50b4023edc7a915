//! What each exchange answers.

use std::time::{Duration, Instant};

use exchanges_simulator::{
    Candle, Clock, Config, Exchange, Expected, FIRST_MS, MINUTE_MS, Market, Misbehaviour, Simulator,
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{OPEN_MS, START_MS, get, json_of, minutes_before, number, simulator, start};

fn truth(simulator: &Simulator, exchange: Exchange, symbol: &str, open_ms: i64) -> Candle {
    simulator.truth().candle(exchange, symbol, open_ms).expect("a traded minute")
}

#[tokio::test]
async fn binance_gives_klines_with_the_open_one_last() {
    let simulator = start(1.0);
    let path = format!("/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={}&limit=10", minutes_before(4));
    let response = get(&simulator, Exchange::Binance, &path).await;
    assert_eq!(response.headers()["x-mbx-used-weight-1m"], "2");
    assert_eq!(response.headers()["date"], "Fri, 02 Jan 2026 03:04:20 GMT");
    let rows: Vec<Value> = serde_json::from_str(&response.text().await.expect("a body")).expect("JSON");
    assert_eq!(rows.len(), 5);
    for (at, row) in rows.iter().take(4).enumerate() {
        let open_ms = minutes_before(4 - at as i64);
        let candle = truth(&simulator, Exchange::Binance, "BTC/USDT", open_ms);
        assert_eq!(row[0], open_ms);
        assert_eq!(number(&row[1]), candle.open.value());
        assert_eq!(number(&row[2]), candle.high.value());
        assert_eq!(number(&row[3]), candle.low.value());
        assert_eq!(number(&row[4]), candle.close.value());
        assert_eq!(number(&row[5]), candle.volume.value());
        assert_eq!(row[6], open_ms + 59_999);
        assert_eq!(number(&row[7]), candle.quote_volume.value());
        assert_eq!(row[8], candle.trades);
        assert_eq!(row[11], "0");
    }
    assert_eq!(rows[4][0], OPEN_MS);
    let whole = truth(&simulator, Exchange::Binance, "BTC/USDT", OPEN_MS);
    assert!(number(&rows[4][5]) < whole.volume.value());
    assert_eq!(rows[0][1].as_str().expect("a text").split_once('.').expect("decimals").1.len(), 8);
}

#[tokio::test]
async fn the_first_answer_with_a_closed_candle_is_noted() {
    let clock = Clock::starting_at(START_MS, 1.0);
    let simulator = simulator(Config { clock, notes_first_answers: true, ..Config::default() });
    let seconds = |open_ms: i64| open_ms / 1_000;
    let coinbase = format!(
        "/api/v3/brokerage/market/products/BTC-USD/candles?granularity=ONE_MINUTE&start={}&end={}",
        seconds(minutes_before(2)),
        seconds(OPEN_MS)
    );
    let kraken = format!("/0/public/OHLC?pair=BTC/USD&since={}", seconds(minutes_before(3)));
    let binance = "/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=3".to_owned();
    for (exchange, symbol, path) in [
        (Exchange::Binance, "BTC/USDT", binance),
        (Exchange::Coinbase, "BTC/USD", coinbase),
        (Exchange::Kraken, "BTC/USD", kraken),
    ] {
        simulator.next(exchange, exchanges_simulator::Fault::Truncated);
        drop(get(&simulator, exchange, &path).await);
        assert!(simulator.first_answers(exchange).is_empty(), "nobody can read it");
        json_of(&simulator, exchange, &path).await;
        let noted = simulator.first_answers(exchange);
        // Not the open one.
        let candles: Vec<(String, i64)> = noted.keys().cloned().collect();
        assert_eq!(candles, [2, 1].map(|count| (symbol.to_owned(), minutes_before(count))));
        json_of(&simulator, exchange, &path).await;
        assert_eq!(simulator.first_answers(exchange), noted);
    }
}

#[tokio::test]
async fn binance_pages_as_its_parameters_say() {
    let simulator = start(1.0);
    let rows = async |query: &str| {
        let path = format!("/api/v3/klines?symbol=LINKUSDT&interval=1m{query}");
        let (status, rows) = json_of(&simulator, Exchange::Binance, &path).await;
        assert_eq!(status, StatusCode::OK);
        rows.as_array().expect("rows").iter().map(|row| row[0].as_i64().expect("a time")).collect::<Vec<_>>()
    };
    assert_eq!(rows("").await.len(), 500);
    assert_eq!(rows("&limit=5000").await.len(), 1_000);
    assert_eq!(rows("&limit=2").await, [minutes_before(1), OPEN_MS]);
    let history = rows("&startTime=0&limit=3").await;
    assert_eq!(history, [FIRST_MS, FIRST_MS + MINUTE_MS, FIRST_MS + 2 * MINUTE_MS]);
    let until = format!("&endTime={}&limit=2", minutes_before(10));
    assert_eq!(rows(&until).await, [minutes_before(11), minutes_before(10)]);
    let between = format!("&startTime={}&endTime={}", minutes_before(12) + 1, minutes_before(10) - 1);
    assert_eq!(rows(&between).await, [minutes_before(11)]);
    assert_eq!(rows(&format!("&startTime={}", OPEN_MS + MINUTE_MS)).await, [0_i64; 0]);
    // Quiet minutes have rows: nothing is missing in a page.
    let page = rows(&format!("&startTime={}&limit=1000", minutes_before(5_000))).await;
    assert!(page.windows(2).all(|pair| pair[1] - pair[0] == MINUTE_MS) && page.len() == 1_000);
}

#[tokio::test]
async fn binance_joins_minutes_into_longer_timeframes() {
    let simulator = start(1.0);
    let open_ms = OPEN_MS.div_euclid(3_600_000) * 3_600_000 - 7_200_000;
    let path = format!("/api/v3/klines?symbol=BTCUSDT&interval=1h&startTime={open_ms}&limit=1");
    let (_, rows) = json_of(&simulator, Exchange::Binance, &path).await;
    let hour =
        simulator.truth().candle_of(Exchange::Binance, "BTC/USDT", open_ms, 3_600_000).expect("an hour");
    assert_eq!(number(&rows[0][5]), hour.volume.value());
    assert_eq!(rows[0][6], open_ms + 3_599_999);
}

#[tokio::test]
async fn binance_says_what_is_wrong() {
    let simulator = start(1.0);
    for (query, code) in [
        ("symbol=NOPEUSDT&interval=1m", -1121),
        ("symbol=BTCUSD&interval=1m", -1121),
        ("symbol=BTCUSDT&interval=7m", -1120),
        ("interval=1m", -1102),
        ("symbol=BTCUSDT&interval=1m&startTime=x", -1100),
    ] {
        let (status, body) = json_of(&simulator, Exchange::Binance, &format!("/api/v3/klines?{query}")).await;
        assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!(code)), "{query}");
    }
    assert_eq!(get(&simulator, Exchange::Binance, "/api/v3/nothing").await.status(), StatusCode::NOT_FOUND);
    let (_, time) = json_of(&simulator, Exchange::Binance, "/api/v3/time").await;
    assert!((START_MS..START_MS + 10_000).contains(&time["serverTime"].as_i64().expect("a time")));
    let (_, info) = json_of(&simulator, Exchange::Binance, "/api/v3/exchangeInfo").await;
    assert_eq!(info["symbols"].as_array().expect("symbols").len(), 11);
    assert_eq!(info["symbols"][0]["filters"][0]["tickSize"], "0.01");
}

#[tokio::test]
async fn coinbase_gives_the_newest_first_and_nothing_for_quiet_minutes() {
    let simulator = start(1.0);
    let (start_ms, end_ms) = (minutes_before(299), OPEN_MS);
    let path = format!(
        "/api/v3/brokerage/market/products/LINK-USD/candles?granularity=ONE_MINUTE&start={}&end={}",
        start_ms / 1_000,
        end_ms / 1_000
    );
    let (status, body) = json_of(&simulator, Exchange::Coinbase, &path).await;
    assert_eq!(status, StatusCode::OK);
    let rows = body["candles"].as_array().expect("candles");
    assert!(
        rows.is_sorted_by_key(|row| std::cmp::Reverse(row["start"].as_str().expect("seconds").to_owned()))
    );
    let mut quiet = 0;
    for open_ms in (start_ms..end_ms).step_by(MINUTE_MS as usize) {
        let seconds = (open_ms / 1_000).to_string();
        let row = rows.iter().find(|row| row["start"] == seconds);
        match simulator.expected(Exchange::Coinbase, "LINK/USD", open_ms) {
            Expected::Candle(candle) => {
                let row = row.expect("a row");
                assert_eq!(number(&row["low"]), candle.low.value());
                assert_eq!(number(&row["high"]), candle.high.value());
                assert_eq!(number(&row["open"]), candle.open.value());
                assert_eq!(number(&row["close"]), candle.close.value());
                assert_eq!(number(&row["volume"]), candle.volume.value());
            }
            Expected::Quiet => {
                assert_eq!(row, None);
                quiet += 1;
            }
            Expected::Missing => panic!("nothing is missing"),
        }
    }
    assert!(quiet > 0);
}

#[tokio::test]
async fn coinbase_rejects_what_is_too_long_or_unknown() {
    let simulator = start(1.0);
    let path = |native: &str, steps: i64| {
        let (start_s, end_s) = (minutes_before(steps) / 1_000, OPEN_MS / 1_000);
        format!(
            "/api/v3/brokerage/market/products/{native}/candles?granularity=ONE_MINUTE&start={start_s}&end={end_s}"
        )
    };
    let status = async |path: &str| json_of(&simulator, Exchange::Coinbase, path).await.0;
    assert_eq!(status(&path("BTC-USD", 300)).await, StatusCode::OK);
    assert_eq!(status(&path("BTC-USD", 301)).await, StatusCode::BAD_REQUEST);
    assert_eq!(status(&path("NOPE-USD", 3)).await, StatusCode::NOT_FOUND);
    let endless = "/api/v3/brokerage/market/products/BTC-USD/candles?granularity=ONE_MINUTE";
    assert_eq!(status(endless).await, StatusCode::BAD_REQUEST);
    let (_, list) = json_of(&simulator, Exchange::Coinbase, "/api/v3/brokerage/market/products").await;
    assert_eq!(list["num_products"], list["products"].as_array().expect("products").len());
    let (_, one) = json_of(&simulator, Exchange::Coinbase, "/api/v3/brokerage/market/products/BTC-USD").await;
    assert_eq!(one["product_id"], "BTC-USD");
}

#[tokio::test]
async fn coinbase_exchange_gives_low_high_open_close_as_numbers() {
    let simulator = simulator(Config {
        clock: Clock::starting_at(START_MS, 1.0),
        enforce_limits: false,
        ..Config::default()
    });
    let (mut asked, mut early) = (0, 0);
    for count in 5..25 {
        let path = format!(
            "/products/BTC-USD/candles?granularity=60&start={}&end=2026-01-02T03:03:00Z",
            minutes_before(count) / 1_000
        );
        let (status, rows) = json_of(&simulator, Exchange::CoinbaseExchange, &path).await;
        assert_eq!(status, StatusCode::OK);
        let rows = rows.as_array().expect("rows");
        let newest = &rows[0];
        assert_eq!(newest[0], minutes_before(1) / 1_000);
        let candle = truth(&simulator, Exchange::CoinbaseExchange, "BTC/USD", minutes_before(1));
        let given: Vec<f64> = (1..6).map(|at| newest[at].as_f64().expect("a number")).collect();
        let wanted =
            [candle.low, candle.high, candle.open, candle.close, candle.volume].map(|one| one.value());
        assert_eq!(given, wanted);
        asked += 1;
        early += usize::from(rows.len() as i64 > count);
    }
    assert!(early > 0 && early < asked, "some rows precede the declared start");
    let (status, body) = json_of(
        &simulator,
        Exchange::CoinbaseExchange,
        "/products/BTC-USD/candles?granularity=60&start=2026-01-01T00:00:00Z&end=2026-01-01T05:00:00Z",
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["message"].as_str().expect("a message").contains("exceeds 300"));
    let (status, body) = json_of(&simulator, Exchange::CoinbaseExchange, "/products/NOPE-USD/candles").await;
    assert_eq!((status, body), (StatusCode::NOT_FOUND, json!({"message": "NotFound"})));
    let (_, rows) = json_of(
        &simulator,
        Exchange::CoinbaseExchange,
        "/products/BTC-USD/candles?start=2026-01-01T00:00:00Z",
    )
    .await;
    assert_eq!(rows.as_array().expect("rows").len(), 300);
    assert_eq!(rows[0][0], OPEN_MS / 1_000);
}

#[tokio::test]
async fn kraken_gives_720_rows_and_says_which_is_the_last_committed_one() {
    let simulator = start(1.0);
    let (status, body) =
        json_of(&simulator, Exchange::Kraken, "/0/public/OHLC?pair=XBTUSD&interval=1&since=1500000000").await;
    assert_eq!((status, &body["error"]), (StatusCode::OK, &json!([])));
    let rows = body["result"]["XXBTZUSD"].as_array().expect("rows under the older name");
    assert_eq!(rows.len(), 720);
    assert_eq!(rows[719][0], OPEN_MS / 1_000);
    assert_eq!(body["result"]["last"], minutes_before(1) / 1_000);
    let candle = truth(&simulator, Exchange::Kraken, "BTC/USD", minutes_before(1));
    let row = &rows[718];
    assert_eq!(row[0], minutes_before(1) / 1_000);
    let given: Vec<f64> = (1..7).map(|at| number(&row[at])).collect();
    let wanted = [candle.open, candle.high, candle.low, candle.close, candle.vwap, candle.volume];
    assert_eq!(given, wanted.map(|one| one.value()));
    assert_eq!(row[7], candle.trades);

    // `since` is not given again, and the open row always is.
    for (since_ms, count) in [(minutes_before(3), 3), (minutes_before(1), 1), (OPEN_MS, 1), (OPEN_MS * 2, 1)]
    {
        let path = format!("/0/public/OHLC?pair=XXBTZUSD&since={}", since_ms / 1_000);
        let (_, body) = json_of(&simulator, Exchange::Kraken, &path).await;
        let rows = body["result"]["XXBTZUSD"].as_array().expect("rows");
        assert_eq!(rows.len(), count);
        assert_eq!(rows[count - 1][0], OPEN_MS / 1_000);
    }
    let (_, body) = json_of(&simulator, Exchange::Kraken, "/0/public/OHLC?pair=XBTUSD&assetVersion=1").await;
    assert!(body["result"]["BTC/USD"].is_array());
}

#[tokio::test]
async fn kraken_says_what_is_wrong_with_status_200_and_has_rows_for_quiet_minutes() {
    let simulator = start(1.0);
    for (path, error) in [
        ("/0/public/OHLC?pair=NOPE", "EQuery:Unknown asset pair"),
        ("/0/public/OHLC", "EGeneral:Invalid arguments"),
        ("/0/public/Nothing", "EGeneral:Unknown method"),
    ] {
        let (status, body) = json_of(&simulator, Exchange::Kraken, path).await;
        assert_eq!((status, &body["error"][0]), (StatusCode::OK, &json!(error)));
    }
    let (_, body) = json_of(&simulator, Exchange::Kraken, "/0/public/OHLC?pair=LINKUSD").await;
    let rows = body["result"]["LINKUSD"].as_array().expect("rows");
    let quiet: Vec<&Value> = rows.iter().filter(|row| row[7] == 0).collect();
    assert!(!quiet.is_empty());
    assert!(quiet.iter().all(|row| row[6] == "0.00000000" && row[1] == row[4]));
    let (_, pairs) = json_of(&simulator, Exchange::Kraken, "/0/public/AssetPairs").await;
    assert_eq!(pairs["result"]["XXBTZUSD"]["wsname"], "XBT/USD");
    let (_, time) = json_of(&simulator, Exchange::Kraken, "/0/public/Time").await;
    assert_eq!(time["result"]["rfc1123"], "Fri, 02 Jan 2026 03:04:20 GMT");
}

#[tokio::test]
async fn bybit_gives_the_newest_first_and_its_markets() {
    let simulator = start(1.0);
    let path = format!(
        "/v5/market/kline?category=spot&symbol=BTCUSDT&interval=1&start={}&limit=3",
        minutes_before(10)
    );
    let (_, body) = json_of(&simulator, Exchange::Bybit, &path).await;
    let rows = body["result"]["list"].as_array().expect("rows");
    let opens: Vec<f64> = rows.iter().map(|row| number(&row[0])).collect();
    assert_eq!(opens, [8, 9, 10].map(|count| minutes_before(count) as f64));
    let candle = truth(&simulator, Exchange::Bybit, "BTC/USDT", minutes_before(8));
    assert_eq!(number(&rows[0][5]), candle.volume.value());
    assert_eq!(number(&rows[0][6]), candle.quote_volume.value());
    let (_, body) =
        json_of(&simulator, Exchange::Bybit, "/v5/market/kline?category=spot&symbol=NOPE&interval=1").await;
    assert_eq!(body["retCode"], 10_001);
    let (_, body) = json_of(&simulator, Exchange::Bybit, "/v5/market/instruments-info?category=spot").await;
    assert_eq!(body["result"]["list"][0]["baseCoin"], "BTC");
    let (_, body) = json_of(&simulator, Exchange::Bybit, "/v5/market/instruments-info?category=linear").await;
    assert_eq!(body["result"]["list"], json!([]));
}

#[tokio::test]
async fn a_delisted_symbol_is_unknown_and_the_others_are_not() {
    let simulator = start(1.0);
    let path =
        |symbol: &str| format!("/api/v3/klines?symbol={symbol}&interval=1m&startTime=1760000000000&limit=10");
    assert_eq!(get(&simulator, Exchange::Binance, &path("ETHUSDT")).await.status(), StatusCode::OK);
    simulator.delist(Exchange::Binance, "ETH/USDT");
    let (status, body) = json_of(&simulator, Exchange::Binance, &path("ETHUSDT")).await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!(-1121)));
    assert_eq!(get(&simulator, Exchange::Binance, &path("BTCUSDT")).await.status(), StatusCode::OK);
    let kraken = get(&simulator, Exchange::Kraken, "/0/public/OHLC?pair=ETHUSDT").await;
    assert!(!kraken.text().await.expect("a body").contains("Unknown"));
}

#[tokio::test]
async fn the_open_candle_grows_and_closes_with_the_clock() {
    let simulator = start(200.0);
    let path = format!("/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={OPEN_MS}&limit=1");
    let whole = truth(&simulator, Exchange::Binance, "BTC/USDT", OPEN_MS).volume.value();
    let mut last = 0.0;
    let mut steps = 0;
    let deadline = Instant::now() + Duration::from_secs(10);
    while last < whole {
        assert!(Instant::now() < deadline);
        let (_, rows) = json_of(&simulator, Exchange::Binance, &path).await;
        let volume = number(&rows[0][5]);
        assert!(volume >= last && volume <= whole);
        steps += u32::from(volume > last);
        last = volume;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(steps > 3, "{steps}");
}

#[tokio::test]
async fn requests_are_counted_by_exchange_and_symbol() {
    let simulator = start(1.0);
    get(&simulator, Exchange::Binance, "/api/v3/klines?symbol=BTCUSDT&interval=1m&limit=7").await;
    get(&simulator, Exchange::Binance, "/api/v3/klines?symbol=NOPE&interval=1m").await;
    get(&simulator, Exchange::Kraken, "/0/public/OHLC?pair=XBTUSD").await;
    let requests = simulator.requests();
    let binance = &requests.exchanges[&Exchange::Binance];
    assert_eq!(
        (binance.requests, binance.rows, binance.statuses[&200], binance.statuses[&400]),
        (2, 7, 1, 1)
    );
    assert_eq!(requests.symbols[&(Exchange::Kraken, "BTC/USD".to_owned())].rows, 720);
    assert_eq!(requests.symbols.len(), 2);
}

#[tokio::test]
async fn what_is_settled_is_the_same_again_and_what_misbehaves_is_made_anew() {
    let simulator = start(1.0);
    let down = (0..)
        .map(|back| minutes_before(100 + back))
        .find(|open_ms| simulator.truth().in_maintenance(Exchange::Binance, *open_ms))
        .expect("maintenance");
    let path = format!(
        "/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={down}&endTime={}",
        down + 2 * MINUTE_MS
    );
    let first = json_of(&simulator, Exchange::Binance, &path).await.1;
    assert_eq!(first, json_of(&simulator, Exchange::Binance, &path).await.1);
    assert_eq!(first[0][0], down);
    simulator
        .set_misbehaviour(Exchange::Binance, Misbehaviour { maintenance: true, ..Misbehaviour::default() });
    let second = json_of(&simulator, Exchange::Binance, &path).await.1;
    assert_ne!(first, second);
    assert_eq!(simulator.expected(Exchange::Binance, "BTC/USDT", down), Expected::Missing);
    let (_, body) = json_of(&simulator, Exchange::Bybit, "/v5/market/time").await;
    assert_eq!(body["retCode"], 0);
}

#[tokio::test]
async fn a_simulator_gives_its_port_back() {
    let simulator = start(1.0);
    let port = simulator.address().port();
    get(&simulator, Exchange::Binance, "/api/v3/ping").await;
    drop(simulator);
    let again = simulator_at(port);
    assert_eq!(again.address().port(), port);
    let taken = Simulator::start(Config { port, ..Config::default() });
    assert!(taken.is_err_and(|error| error.to_string().contains("cannot listen")));
    let (status, _) = json_of(&again, Exchange::Binance, "/api/v3/ping").await;
    assert_eq!(status, StatusCode::OK);
}

fn simulator_at(port: u16) -> Simulator {
    simulator(Config { port, ..Config::default() })
}

#[tokio::test]
async fn three_hundred_small_requests_are_quick() {
    let simulator = simulator(Config {
        clock: Clock::starting_at(START_MS, 1.0),
        markets: Market::many(300),
        enforce_limits: false,
        ..Config::default()
    });
    let client = super::client();
    let began = Instant::now();
    for number in 1..=300 {
        let url = format!(
            "{}/api/v3/klines?symbol=T{number:04}USDT&interval=1m&limit=5",
            simulator.url(Exchange::Binance)
        );
        let response = client.get(url).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.expect("a body");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_program_prints_where_it_answers() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let mut program = Command::new(env!("CARGO_BIN_EXE_exchanges-simulator"))
        .args([
            "--port",
            "0",
            "--rate",
            "60",
            "--start",
            "2026-01-02T03:04:05Z",
            "--misbehave",
            "--more-markets",
            "2",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let lines = BufReader::new(program.stdout.take().expect("its output")).lines();
    let lines: Vec<String> = lines.take(6).map(|line| line.expect("a line")).collect();
    let url = lines.iter().find(|line| line.ends_with("/bybit")).expect("the base of an exchange");
    let mut is_answered = false;
    for _ in 0..50 {
        // Each answer may be one that went wrong.
        let answer = super::client()
            .get(format!("{url}/v5/market/kline?category=spot&symbol=T0002USDT&interval=1"))
            .timeout(Duration::from_millis(500))
            .send()
            .await;
        let Ok(answer) = answer else { continue };
        is_answered |= answer.text().await.is_ok_and(|body| body.contains(r#""symbol":"T0002USDT""#));
    }
    program.kill().expect("a running program");
    program.wait().expect("its end");
    assert!(lines[5].starts_with("clock: start_ms 1767323045000, origin_ms "), "{}", lines[5]);
    assert!(is_answered);
}
