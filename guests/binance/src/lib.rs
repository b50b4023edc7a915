//! The exchange adapter `binance`: spot candles of Binance, from the hosts that it has for public market data alone.
//!
//! Facts, from Binance's documents (github.com/binance/binance-spot-api-docs: rest-api.md, web-socket-streams.md,
//! errors.md, faqs/market_data_only.md):
//!
//! - A page has at most 1,000 candles and costs 2 of 6,000 units a minute, which `X-MBX-USED-WEIGHT-1M` counts.
//! - Candles ascend. The last one may still be open; nothing but the clock says so.
//! - A minute without trades is a candle without volume. Only maintenance leaves holes.
//! - The feed marks a candle that is closed (`k.x`) and announces its end with `serverShutdown`.

mod feed;

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tidegate_guest::exchange::{
    Adapter, Answer, Budget, Closed, ExchangeDescription, Failure, Integer, Leading, LiveCandle, Number,
    Page, Quiet, Row, Step, Subscription, Task, base_and_quote, by_status, decode, get, throttled,
    timeframe_ms, url_part,
};

use feed::Feed;

const HOST: &str = "data-api.binance.vision";
const PAGE_LIMIT: i64 = 1_000;
const KLINES_COST: u32 = 2;
const TIMEFRAMES: [&str; 12] = ["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"];

/// The adapter.
#[derive(Debug, Default)]
pub struct Binance {
    feed: Feed,
}

impl Adapter for Binance {
    const NAME: &'static str = "binance";
    const SUMMARY: &'static str = "Spot candles of Binance, over REST and live";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn exchanges() -> Vec<ExchangeDescription> {
        vec![ExchangeDescription {
            id: "binance".to_owned(),
            name: "Binance".to_owned(),
            hosts: vec![HOST.to_owned(), feed::HOST.to_owned()],
            timeframes: TIMEFRAMES.map(str::to_owned).to_vec(),
            page_limit: PAGE_LIMIT as u32,
            depth: None,
            budget: Budget {
                units: 6_000,
                window_ms: 60_000,
                // A hundred pages: all symbols of a pipeline can be asked for when a minute closes.
                burst: 200,
                used_header: Some("x-mbx-used-weight-1m".to_owned()),
            },
            quiet: Quiet::Row,
            has_feed: true,
        }]
    }

    fn next(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
        match answers.first() {
            None => Ok(Step::Requests(vec![get(url(task)?, KLINES_COST)])),
            Some(answer) => read(task, answer),
        }
    }

    fn subscribe(
        &mut self,
        exchange: &str,
        timeframe: &str,
        symbols: &[String],
    ) -> Result<Subscription, String> {
        self.feed.subscribe(exchange, timeframe, symbols)
    }

    fn hear(&mut self, _now: i64, frame: &str) -> Result<Vec<LiveCandle>, String> {
        self.feed.hear(frame)
    }
}

/// Binance's own symbol: `BTCUSDT` for `BTC/USDT`.
fn own_symbol(symbol: &str) -> Result<String, Failure> {
    let (base, quote) = base_and_quote(symbol)?;
    Ok(format!("{base}{quote}"))
}

fn url(task: &Task) -> Result<String, Failure> {
    let symbol = url_part(&own_symbol(&task.symbol)?);
    let step_ms = match timeframe_ms(&task.timeframe) {
        Some(step_ms) if TIMEFRAMES.contains(&task.timeframe.as_str()) => step_ms,
        _ => return Err(Failure::Unreadable(format!("Binance has no timeframe `{}`", task.timeframe))),
    };
    let (interval, since) = (&task.timeframe, task.since);
    // `endTime` includes a candle that opens at it.
    let end = task.until - 1;
    let limit = ((task.until - since) / step_ms).clamp(1, PAGE_LIMIT);
    Ok(format!(
        "https://{HOST}/api/v3/klines?symbol={symbol}&interval={interval}&startTime={since}&endTime={end}&limit={limit}"
    ))
}

/// Open time, open, high, low, close, volume, close time, quote volume, trades; three more are passed over. The close
/// time is passed over too: it is a millisecond before the end of the timeframe, which the page knows.
type Kline = Leading<(Integer, Number, Number, Number, Number, Number, IgnoredAny, Number, Integer)>;

fn read(task: &Task, answer: &Answer) -> Result<Step, Failure> {
    if let Some(failure) = refusal(&task.symbol, answer) {
        return Err(failure);
    }
    let klines: Vec<Kline> = decode(answer)?;
    let mut page = Page::new(task)?;
    for Leading((timestamp, open, high, low, close, volume, _, quote_volume, trades)) in klines {
        page.push(Row {
            timestamp: timestamp.0,
            open: open.0,
            high: high.0,
            low: low.0,
            close: close.0,
            volume: volume.0,
            trades: Some(trades.0),
            quote_volume: Some(quote_volume.0),
            vwap: None,
        });
    }
    Ok(Step::Candles(page.candles(Closed::ByClock)))
}

/// What Binance writes instead of candles, with any status.
#[derive(Debug, Deserialize)]
struct ErrorBody<'a> {
    code: i64,
    #[serde(borrow, default)]
    msg: Cow<'a, str>,
}

/// Why there are no candles in an answer, when it says so.
fn refusal(symbol: &str, answer: &Answer) -> Option<Failure> {
    // Candles are an array: a page of them is not read twice.
    let is_object = answer.body.trim_start().starts_with('{');
    let error = is_object.then(|| serde_json::from_str::<ErrorBody>(&answer.body).ok()).flatten();
    let Some(ErrorBody { code, msg }) = error else { return by_status(answer) };
    let sentence = format!("`{symbol}`: {msg} ({code})");
    Some(match code {
        -1121 => Failure::BadSymbol(sentence),
        // Characters that no symbol has.
        -1100 if msg.contains("symbol") => Failure::BadSymbol(sentence),
        -1003 | -1015 | -1034 => throttled(banned_until(&msg), sentence),
        -1002 | -2014 | -2015 => Failure::Refused(sentence),
        -1000 | -1001 | -1006 | -1007 | -1008 | -1016 => Failure::Unavailable(sentence),
        _ => by_status(answer).unwrap_or(Failure::Unreadable(sentence)),
    })
}

/// The time in `Way too much request weight used; IP banned until 1659146400000. …`.
fn banned_until(message: &str) -> Option<i64> {
    let (_, after) = message.split_once("until ")?;
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    after[..digits].parse().ok()
}

tidegate_guest::export_adapter!(Binance);

#[cfg(test)]
mod tests {
    use tidegate_guest::exchange::testing::{answer, ask, candles, failure, task};
    use tidegate_guest::exchange::{Throttled, describe};

    use super::*;

    const M: i64 = 60_000;
    /// 2023-11-14T22:13:00Z
    const T: i64 = 1_699_999_980_000;

    /// Ten minutes that have just been closed.
    fn minutes() -> Task {
        task("binance", "BTC/USDT", "1m", T, T + 10 * M)
    }

    fn kline(timestamp: i64, close: &str) -> String {
        let close_time = timestamp + M - 1;
        format!(
            r#"[{timestamp},"36500.01000000","36510.50000000","36490.00000000","{close}","12.34500000",{close_time},"450592.62345000",731,"6.10000000","222650.61000000","0"]"#
        )
    }

    fn page(rows: &[String]) -> Vec<Answer> {
        vec![answer(200, format!("[{}]", rows.join(",")))]
    }

    fn failed(status: u16, body: &str) -> Failure {
        failure::<Binance>(&minutes(), &[answer(status, body)])
    }

    #[test]
    fn a_request_is_bounded_on_both_sides() {
        let requests = ask::<Binance>(&minutes());
        assert_eq!(
            requests[0].url,
            "https://data-api.binance.vision/api/v3/klines?symbol=BTCUSDT&interval=1m\
             &startTime=1699999980000&endTime=1700000579999&limit=10"
        );
        assert_eq!((requests.len(), requests[0].cost, requests[0].method.as_str()), (1, 2, "GET"));
        let hours = task("binance", "ETH/BTC", "4h", 0, 1_000 * 4 * 60 * M);
        assert!(ask::<Binance>(&hours)[0].url.ends_with("&endTime=14399999999&limit=1000"));
        let too_many = task("binance", "ETH/BTC", "1m", 0, 5_000 * M);
        assert!(ask::<Binance>(&too_many)[0].url.ends_with("&limit=1000"));
        assert!(
            ask::<Binance>(&task("binance", "币安人生/USDT", "1m", 0, M))[0].url.contains("symbol=%E5%B8%81")
        );
    }

    #[test]
    fn every_timeframe_that_is_described_is_asked_for() {
        for timeframe in &describe::<Binance>().exchanges[0].timeframes {
            let step_ms = timeframe_ms(timeframe).unwrap();
            let url = &ask::<Binance>(&task("binance", "A/B", timeframe, 0, 7 * step_ms))[0].url;
            assert!(url.contains(&format!("&interval={timeframe}&")) && url.ends_with("&limit=7"), "{url}");
        }
        let failure = failure::<Binance>(&task("binance", "A/B", "1w", 0, M), &[]);
        assert_eq!(failure, Failure::Unreadable("Binance has no timeframe `1w`".to_owned()));
    }

    #[test]
    fn all_that_a_row_says_is_kept() {
        let candles = candles::<Binance>(&minutes(), &page(&[kline(T, "36505.07000000")]));
        assert_eq!(candles.timestamps, [T]);
        assert_eq!((candles.open[0], candles.high[0]), (36_500.01, 36_510.5));
        assert_eq!((candles.low[0], candles.close[0], candles.volume[0]), (36_490.0, 36_505.07, 12.345));
        assert_eq!((candles.trades[0], candles.quote_volume[0]), (731, 450_592.623_45));
        assert!(candles.vwap.is_empty() && candles.memo.is_empty());
    }

    #[test]
    fn the_open_candle_at_the_end_is_left_out() {
        let rows = page(&[kline(T, "1"), kline(T + M, "1")]);
        let mut task = minutes();
        task.now = T + 2 * M - 1;
        assert_eq!(candles::<Binance>(&task, &rows).timestamps, [T]);
        task.now += 1;
        assert_eq!(candles::<Binance>(&task, &rows).timestamps, [T, T + M]);
    }

    #[test]
    fn a_quiet_minute_is_a_row_without_volume() {
        let quiet =
            format!(r#"[{T},"0.5","0.5","0.5","0.5","0.00000000",{},"0.00000000",0,"0","0","0"]"#, T + M - 1);
        let candles = candles::<Binance>(&minutes(), &page(&[quiet]));
        assert_eq!((candles.volume[0], candles.trades[0], candles.quote_volume[0]), (0.0, 0, 0.0));
    }

    #[test]
    fn no_rows_are_no_candles() {
        assert!(candles::<Binance>(&minutes(), &page(&[])).timestamps.is_empty());
    }

    #[test]
    fn a_price_that_is_none_costs_its_row_alone() {
        let candles = candles::<Binance>(&minutes(), &page(&[kline(T, "n/a"), kline(T + M, "36505.07")]));
        assert_eq!(candles.timestamps, [T + M]);
        assert_eq!(candles.unreadable, ["`close` of the row of 2023-11-14T22:13:00Z is no finite number"]);
    }

    #[test]
    fn an_unknown_symbol_is_a_bad_one_with_any_status() {
        let body = r#"{"code":-1121,"msg":"Invalid symbol."}"#;
        let expected = Failure::BadSymbol("`BTC/USDT`: Invalid symbol. (-1121)".to_owned());
        assert_eq!(failed(400, body), expected);
        assert_eq!(failed(200, body), expected);
        let characters = r#"{"code":-1100,"msg":"Illegal characters found in parameter 'symbol'; legal range is '^[A-Z]$'."}"#;
        assert!(matches!(failed(400, characters), Failure::BadSymbol(_)));
        let derivative = failure::<Binance>(&task("binance", "BTC/USDT:USDT", "1m", 0, M), &[]);
        assert!(matches!(derivative, Failure::BadSymbol(_)));
    }

    #[test]
    fn a_ban_says_until_when() {
        let body = r#"{"code":-1003,"msg":"Way too much request weight used; IP banned until 1700000700000. Please use WebSocket Streams for live updates to avoid bans."}"#;
        for status in [418, 429, 200] {
            assert!(
                matches!(
                    failed(status, body),
                    Failure::Throttled(Throttled { until: Some(1_700_000_700_000), .. })
                ),
                "{status}"
            );
        }
        let body = r#"{"code":-1003,"msg":"Too much request weight used; current limit is 6000 request weight per 1 MINUTE."}"#;
        assert!(matches!(failed(429, body), Failure::Throttled(Throttled { until: None, .. })));
        assert_eq!(banned_until("banned until further notice"), None);
        assert_eq!(banned_until("banned until 99999999999999999999"), None);
    }

    #[test]
    fn a_country_or_a_firewall_refuses() {
        let country = r#"{"code":0,"msg":"Service unavailable from a restricted location according to 'b. Eligibility'."}"#;
        assert!(
            matches!(failed(451, country), Failure::Refused(text) if text.contains("restricted location"))
        );
        let page = "<html><head><title>403 Forbidden</title></head></html>";
        assert!(matches!(failed(403, page), Failure::Refused(_)));
    }

    #[test]
    fn a_server_that_is_busy_is_unavailable() {
        assert!(matches!(
            failed(503, r#"{"code":-1008,"msg":"Server is currently overloaded."}"#),
            Failure::Unavailable(_)
        ));
        assert!(matches!(failed(200, r#"{"code":-1001,"msg":"Internal error."}"#), Failure::Unavailable(_)));
        assert!(matches!(failed(504, ""), Failure::Unavailable(_)));
    }

    #[test]
    fn what_is_no_answer_is_unreadable() {
        let cut = &page(&[kline(T, "1")])[0].body[..60];
        assert!(
            matches!(failed(200, cut), Failure::Unreadable(text) if text.starts_with("JSON that is cut after 60"))
        );
        assert!(
            matches!(failed(200, "<!doctype html>"), Failure::Unreadable(text) if text.contains("page for people"))
        );
        assert!(matches!(failed(200, "{}"), Failure::Unreadable(_)));
        assert!(matches!(failed(200, "[[1,2]]"), Failure::Unreadable(_)));
        assert!(
            matches!(failed(200, r#"{"code":-9999,"msg":"?"}"#), Failure::Unreadable(text) if text.contains("-9999"))
        );
        assert!(matches!(failed(400, r#"{"code":-1120,"msg":"Invalid interval."}"#), Failure::Unreadable(_)));
    }

    #[test]
    fn a_whole_page_is_read_in_its_order() {
        let whole = task("binance", "BTC/USDT", "1m", T, T + 1_000 * M);
        let rows: Vec<String> = (0..1_000).map(|minute| kline(T + minute * M, "36505.07")).collect();
        let candles = candles::<Binance>(&whole, &page(&rows));
        assert_eq!(candles.timestamps.len(), 1_000);
        assert_eq!(candles.timestamps[999], T + 999 * M);
    }
}
