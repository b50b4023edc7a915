//! The exchange adapter `coinbase`: spot candles of Coinbase, from the public part of Advanced Trade (`coinbase`) or
//! from Exchange (`coinbaseexchange`). The candles of both are of one order book.
//!
//! Facts, from Coinbase's documents (docs.cdp.coinbase.com: Get Public Product Candles, Get product candles) and from
//! CCXT's `coinbase` and `coinbaseexchange`:
//!
//! - A request is for at most 300 candles, and more is an error; both ends of the range have to be there.
//! - Candles come newest first. Exchange gives some from before the start too, and writes each as `[time, low, high,
//!   open, close, volume]`.
//! - Exchange gives numbers, Advanced Trade decimal texts.
//! - A minute without trades has no candle.
//! - A candle can be some minutes late after its close (CCXT issue 8400).
//! - An address may ask ten times a second.
//! - There is no feed of one-minute candles.

use std::borrow::Cow;

use serde::Deserialize;
use tidegate_guest::exchange::{
    Adapter, Answer, Budget, Closed, ExchangeDescription, Failure, Integer, Leading, Number, Page, Quiet,
    Row, Step, Task, base_and_quote, by_status, decode, get, rfc3339, throttled, url_part,
};

const ADVANCED_HOST: &str = "api.coinbase.com";
const EXCHANGE_HOST: &str = "api.exchange.coinbase.com";

/// Timeframes and what Advanced Trade calls them.
const ADVANCED_TIMEFRAMES: [(&str, &str); 8] = [
    ("1m", "ONE_MINUTE"),
    ("5m", "FIVE_MINUTE"),
    ("15m", "FIFTEEN_MINUTE"),
    ("30m", "THIRTY_MINUTE"),
    ("1h", "ONE_HOUR"),
    ("2h", "TWO_HOUR"),
    ("6h", "SIX_HOUR"),
    ("1d", "ONE_DAY"),
];

/// Timeframes and what Exchange calls them.
const EXCHANGE_TIMEFRAMES: [(&str, &str); 6] =
    [("1m", "60"), ("5m", "300"), ("15m", "900"), ("1h", "3600"), ("6h", "21600"), ("1d", "86400")];

/// Unified names of currencies, and Coinbase's own.
const CURRENCIES: [(&str, &str); 1] = [("CELO", "CGLD")];

/// The adapter.
#[derive(Debug, Default)]
pub struct Coinbase;

impl Adapter for Coinbase {
    const NAME: &'static str = "coinbase";
    const SUMMARY: &'static str = "Spot candles of Coinbase, from Advanced Trade or from Exchange";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn exchanges() -> Vec<ExchangeDescription> {
        vec![
            description("coinbase", "Coinbase Advanced", ADVANCED_HOST, &ADVANCED_TIMEFRAMES),
            description("coinbaseexchange", "Coinbase Exchange", EXCHANGE_HOST, &EXCHANGE_TIMEFRAMES),
        ]
    }

    fn next(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
        let api = Api::of(&task.exchange)?;
        match answers.first() {
            None => Ok(Step::Requests(vec![get(api.url(task)?, 1)])),
            Some(answer) => Ok(Step::Candles(api.page(task, answer)?.candles(Closed::ByClock))),
        }
    }
}

fn description(id: &str, name: &str, host: &str, timeframes: &[(&str, &str)]) -> ExchangeDescription {
    ExchangeDescription {
        id: id.to_owned(),
        name: name.to_owned(),
        hosts: vec![host.to_owned()],
        timeframes: timeframes.iter().map(|(timeframe, _)| (*timeframe).to_owned()).collect(),
        page_limit: 300,
        depth: None,
        // One at a time: a burst and ten more would be too many for the first second.
        budget: Budget { units: 10, window_ms: 1_000, burst: 1, used_header: None },
        quiet: Quiet::Absent,
        has_feed: false,
    }
}

/// Which of Coinbase's two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Advanced,
    Exchange,
}

impl Api {
    fn of(exchange: &str) -> Result<Api, Failure> {
        match exchange {
            "coinbase" => Ok(Api::Advanced),
            "coinbaseexchange" => Ok(Api::Exchange),
            _ => Err(Failure::Unreadable(format!("`{exchange}` is no exchange of this adapter"))),
        }
    }

    fn url(self, task: &Task) -> Result<String, Failure> {
        let product = product(&task.symbol)?;
        let timeframes = match self {
            Api::Advanced => &ADVANCED_TIMEFRAMES[..],
            Api::Exchange => &EXCHANGE_TIMEFRAMES[..],
        };
        let granularity = timeframes
            .iter()
            .find(|(timeframe, _)| *timeframe == task.timeframe)
            .map(|(_, granularity)| granularity)
            .ok_or_else(|| {
                Failure::Unreadable(format!("`{}` has no timeframe `{}`", task.exchange, task.timeframe))
            })?;
        // A second before the first candle that is not wanted: the same whether the end is inclusive or not, and 300
        // candles however they are counted.
        let end_ms = task.until - 1_000;
        Ok(match self {
            Api::Advanced => format!(
                "https://{ADVANCED_HOST}/api/v3/brokerage/market/products/{product}/candles\
                 ?start={}&end={}&granularity={granularity}",
                task.since / 1_000,
                end_ms / 1_000
            ),
            Api::Exchange => format!(
                "https://{EXCHANGE_HOST}/products/{product}/candles?start={}&end={}&granularity={granularity}",
                rfc3339(task.since),
                rfc3339(end_ms)
            ),
        })
    }

    fn page(self, task: &Task, answer: &Answer) -> Result<Page, Failure> {
        let mut page = Page::new(task)?;
        let is_object = answer.body.trim_start().starts_with('{');
        match self {
            Api::Exchange if !is_object => {
                decode::<Vec<ExchangeCandle>>(answer)?
                    .into_iter()
                    .for_each(|candle| page.push(row_of(candle)));
            }
            _ => {
                let reply: Reply = decode(answer)?;
                match (self, reply.candles) {
                    (Api::Advanced, Some(candles)) => {
                        candles.into_iter().for_each(|candle| page.push(candle.into()));
                    }
                    _ => return Err(failure_of(&task.symbol, answer, &reply.error, &reply.message)),
                }
            }
        }
        by_status(answer).map_or(Ok(page), Err)
    }
}

/// Coinbase's own symbol: `BTC-USD` for `BTC/USD`.
fn product(symbol: &str) -> Result<String, Failure> {
    let (base, quote) = base_and_quote(symbol)?;
    Ok(format!("{}-{}", url_part(own_currency(base)), url_part(own_currency(quote))))
}

fn own_currency(unified: &str) -> &str {
    CURRENCIES.iter().find(|(name, _)| *name == unified).map_or(unified, |(_, own)| own)
}

/// What Advanced Trade answers, and what Exchange answers when it gives no candles.
#[derive(Debug, Deserialize)]
struct Reply<'a> {
    candles: Option<Vec<AdvancedCandle>>,
    #[serde(borrow, default)]
    error: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct AdvancedCandle {
    start: Integer,
    low: Number,
    high: Number,
    open: Number,
    close: Number,
    volume: Number,
}

impl From<AdvancedCandle> for Row {
    fn from(candle: AdvancedCandle) -> Row {
        Row {
            timestamp: candle.start.0.saturating_mul(1_000),
            open: candle.open.0,
            high: candle.high.0,
            low: candle.low.0,
            close: candle.close.0,
            volume: candle.volume.0,
            ..Row::default()
        }
    }
}

/// Time, low, high, open, close, volume.
type ExchangeCandle = Leading<(Integer, Number, Number, Number, Number, Number)>;

fn row_of(Leading((time, low, high, open, close, volume)): ExchangeCandle) -> Row {
    Row {
        timestamp: time.0.saturating_mul(1_000),
        open: open.0,
        high: high.0,
        low: low.0,
        close: close.0,
        volume: volume.0,
        ..Row::default()
    }
}

/// What an answer without candles means: `error` is Advanced Trade's name for it, `message` is a sentence.
fn failure_of(symbol: &str, answer: &Answer, error: &str, message: &str) -> Failure {
    if error.is_empty() && message.is_empty() {
        let sentence = || format!("`{symbol}`: the answer has neither candles nor a message");
        return by_status(answer).unwrap_or_else(|| Failure::Unreadable(sentence()));
    }
    let sentence = format!("`{symbol}`: {}", if message.is_empty() { error } else { message });
    let said = format!("{error} {message}").to_lowercase();
    let says_one_of = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    if answer.status == 404 || says_one_of(&["notfound", "not_found", "product_id", "productid"]) {
        Failure::BadSymbol(sentence)
    } else if says_one_of(&["rate limit", "resource_exhausted"]) {
        throttled(None, sentence)
    } else {
        match by_status(answer) {
            Some(Failure::Unreadable(_)) | None => Failure::Unreadable(sentence),
            Some(failure) => failure,
        }
    }
}

tidegate_guest::export_adapter!(Coinbase);

#[cfg(test)]
mod tests {
    use tidegate_guest::exchange::testing::{answer, ask, candles, failure, task};
    use tidegate_guest::exchange::{Candles, Throttled, describe, timeframe_ms};

    use super::*;

    const M: i64 = 60_000;
    /// 2023-11-14T22:13:00Z
    const T: i64 = 1_699_999_980_000;
    const IDS: [&str; 2] = ["coinbase", "coinbaseexchange"];

    /// Ten minutes that have just been closed.
    fn minutes(exchange: &str) -> Task {
        task(exchange, "BTC/USD", "1m", T, T + 10 * M)
    }

    fn advanced_row(timestamp: i64) -> String {
        let start = timestamp / 1_000;
        format!(
            r#"{{"start":"{start}","low":"36490.01","high":"36510.52","open":"36500.03","close":"36505.04","volume":"1.56794406"}}"#
        )
    }

    fn exchange_row(timestamp: i64) -> String {
        format!("[{},36490.01,36510.52,36500.03,36505.04,1.56794406]", timestamp / 1_000)
    }

    /// Both exchanges' answers with candles at these times.
    fn both(timestamps: &[i64]) -> [(&'static str, String); 2] {
        let rows = |row: fn(i64) -> String| timestamps.iter().map(|t| row(*t)).collect::<Vec<_>>().join(",");
        [
            (IDS[0], format!(r#"{{"candles":[{}]}}"#, rows(advanced_row))),
            (IDS[1], format!("[{}]", rows(exchange_row))),
        ]
    }

    fn read(exchange: &str, body: &str) -> Candles {
        candles::<Coinbase>(&minutes(exchange), &[answer(200, body)])
    }

    fn failed(exchange: &str, status: u16, body: &str) -> Failure {
        failure::<Coinbase>(&minutes(exchange), &[answer(status, body)])
    }

    #[test]
    fn requests_are_bounded_on_both_sides() {
        assert_eq!(
            ask::<Coinbase>(&minutes("coinbase"))[0].url,
            "https://api.coinbase.com/api/v3/brokerage/market/products/BTC-USD/candles\
             ?start=1699999980&end=1700000579&granularity=ONE_MINUTE"
        );
        assert_eq!(
            ask::<Coinbase>(&minutes("coinbaseexchange"))[0].url,
            "https://api.exchange.coinbase.com/products/BTC-USD/candles\
             ?start=2023-11-14T22:13:00Z&end=2023-11-14T22:22:59Z&granularity=60"
        );
    }

    #[test]
    fn a_whole_page_is_fewer_than_300_steps_after_its_first_candle() {
        let url = &ask::<Coinbase>(&task("coinbase", "BTC/USD", "1m", T, T + 300 * M))[0].url;
        let value = |name: &str| -> i64 {
            url.split(['?', '&']).find_map(|part| part.strip_prefix(name)).unwrap().parse().unwrap()
        };
        assert!((value("end=") - value("start=")) / 60 < 300, "{url}");
    }

    #[test]
    fn every_timeframe_that_is_described_is_asked_for_and_no_other() {
        for exchange in describe::<Coinbase>().exchanges {
            for timeframe in &exchange.timeframes {
                let step_ms = timeframe_ms(timeframe).unwrap();
                let url = ask::<Coinbase>(&task(&exchange.id, "A/B", timeframe, 0, step_ms)).remove(0).url;
                let granularity = url.rsplit_once('=').unwrap().1;
                if exchange.id == "coinbaseexchange" {
                    assert_eq!(granularity.parse(), Ok(step_ms / 1_000));
                }
            }
            for timeframe in ["3m", "4h", "1w"] {
                let failure = failure::<Coinbase>(&task(&exchange.id, "A/B", timeframe, 0, M), &[]);
                assert!(matches!(failure, Failure::Unreadable(text) if text.contains(timeframe)));
            }
        }
        let unknown = failure::<Coinbase>(&minutes("coinbaseinternational"), &[]);
        assert!(matches!(unknown, Failure::Unreadable(_)));
    }

    #[test]
    fn low_and_high_come_before_open_and_close() {
        for (exchange, body) in both(&[T]) {
            let candles = read(exchange, &body);
            assert_eq!(candles.timestamps, [T], "{exchange}");
            assert_eq!((candles.open[0], candles.high[0]), (36_500.03, 36_510.52), "{exchange}");
            assert_eq!((candles.low[0], candles.close[0]), (36_490.01, 36_505.04), "{exchange}");
            assert_eq!(candles.volume, [1.567_944_06], "{exchange}");
            assert!(candles.trades.is_empty() && candles.quote_volume.is_empty() && candles.vwap.is_empty());
        }
    }

    #[test]
    fn newest_first_with_rows_before_the_start_and_a_hole_becomes_ascending() {
        for (exchange, body) in both(&[T + 3 * M, T + M, T, T - M, T - 2 * M]) {
            let candles = read(exchange, &body);
            assert_eq!(candles.timestamps, [T, T + M, T + 3 * M], "{exchange}");
            assert!(candles.unreadable.is_empty());
        }
    }

    #[test]
    fn the_open_candle_is_left_out() {
        for (exchange, body) in both(&[T + 2 * M, T + M]) {
            let task = Task { now: T + 3 * M - 1, ..minutes(exchange) };
            let candles = candles::<Coinbase>(&task, &[answer(200, body)]);
            assert_eq!(candles.timestamps, [T + M], "{exchange}");
        }
    }

    #[test]
    fn no_rows_are_no_candles() {
        for (exchange, body) in both(&[]) {
            assert!(read(exchange, &body).timestamps.is_empty());
        }
    }

    #[test]
    fn a_price_that_is_none_costs_its_row_alone() {
        for (exchange, body) in both(&[T + M, T]) {
            let price = if exchange == "coinbase" { "\"36510.52\"" } else { "36510.52" };
            let candles = read(exchange, &body.replacen(price, "null", 1));
            assert_eq!(candles.timestamps, [T], "{exchange}");
            assert_eq!(
                candles.unreadable,
                ["`high` of the row of 2023-11-14T22:14:00Z is no finite number"],
                "{exchange}"
            );
        }
    }

    #[test]
    fn coinbase_has_names_of_its_own_for_some_currencies() {
        let url = &ask::<Coinbase>(&task("coinbase", "CELO/USD", "1m", 0, M))[0].url;
        assert!(url.contains("/products/CGLD-USD/candles"), "{url}");
        let path = &ask::<Coinbase>(&task("coinbaseexchange", "A?b/U#C", "1m", 0, M))[0].url;
        assert!(path.contains("/products/A%3Fb-U%23C/candles?"), "{path}");
    }

    #[test]
    fn an_unknown_product_is_a_bad_symbol() {
        for (status, body) in [
            (404, r#"{"message":"NotFound"}"#),
            (200, r#"{"message":"NotFound"}"#),
            (404, r#"{"error":"NOT_FOUND","error_details":"","message":""}"#),
            (
                400,
                r#"{"error":"INVALID_ARGUMENT","error_details":"ProductID is invalid","message":"ProductID is invalid"}"#,
            ),
            (400, "{ \"error\": \"INVALID_ARGUMENT\",\n \"message\": \"valid product_id is required\" }"),
        ] {
            for exchange in IDS {
                let failure = failed(exchange, status, body);
                assert!(
                    matches!(&failure, Failure::BadSymbol(text) if text.starts_with("`BTC/USD`: ")),
                    "{failure:?}"
                );
            }
        }
        assert!(matches!(failed("coinbase", 404, "<html>"), Failure::Unreadable(_)));
    }

    #[test]
    fn too_many_requests_are_throttled_with_any_status() {
        for (status, body) in [
            (429, r#"{"message":"Public rate limit exceeded"}"#),
            (200, r#"{"message":"Slow rate limit exceeded"}"#),
            (429, r#"{"error":"RESOURCE_EXHAUSTED","message":"Too many requests"}"#),
            (429, "too many"),
        ] {
            let failure = failed("coinbaseexchange", status, body);
            assert!(matches!(failure, Failure::Throttled(Throttled { until: None, .. })), "{failure:?}");
        }
    }

    #[test]
    fn other_refusals_keep_what_they_are() {
        assert!(matches!(failed("coinbase", 403, "<html>Attention Required!</html>"), Failure::Refused(_)));
        assert!(matches!(failed("coinbase", 401, r#"{"message":"Unauthorized"}"#), Failure::Refused(_)));
        assert!(matches!(
            failed("coinbaseexchange", 503, r#"{"message":"offline"}"#),
            Failure::Unavailable(_)
        ));
        let too_many = r#"{"error":"INVALID_ARGUMENT","error_details":"x","message":"start and end argument is invalid - number of candles requested should be less than 300 "}"#;
        assert!(
            matches!(failed("coinbase", 400, too_many), Failure::Unreadable(text) if text.contains("less than 300"))
        );
        assert!(matches!(failed("coinbaseexchange", 200, r#"{"message":"?"}"#), Failure::Unreadable(_)));
    }

    #[test]
    fn what_is_no_answer_is_unreadable() {
        for (exchange, body) in both(&[T + M, T]) {
            for body in [&body[..body.len() - 20], "<!doctype html>", "", "{}", "[[1]]", "null"] {
                assert!(matches!(failed(exchange, 200, body), Failure::Unreadable(_)), "{exchange}: {body}");
            }
        }
    }
}
