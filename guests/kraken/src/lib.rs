//! The exchange adapter `kraken`: spot candles of Kraken.
//!
//! Facts, from Kraken's documents (docs.kraken.com: Get OHLC Data, and Candles (OHLC) of WebSocket v2) and from CCXT's
//! `kraken`:
//!
//! - Only the last 720 candles can be asked for, whatever `since` says; there is no end of the range.
//! - `since` is exclusive in effect.
//! - The last row is the candle that is still open, and `last` is the open time of the last one that is not.
//! - The rows are under the pair's long name (`XXBTZUSD`), whatever it was called in the request.
//! - Errors come with status 200.
//! - A minute without trades is a row without trades, or no row.
//! - An address may ask once a second for a pair.
//! - The feed tells of a candle whenever something was traded, and never that it is closed.

mod feed;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use tidegate_guest::exchange::{
    Adapter, Answer, Budget, Closed, ExchangeDescription, Failure, Integer, Leading, LiveCandle, Number,
    Page, Quiet, Row, Step, Subscription, Task, base_and_quote, by_status, decode, get, throttled,
    timeframe_ms, url_part,
};

use feed::Feed;

const HOST: &str = "api.kraken.com";
const DEPTH: u32 = 720;
const TIMEFRAMES: [&str; 7] = ["1m", "5m", "15m", "30m", "1h", "4h", "1d"];

/// Unified names of currencies, and Kraken's own in requests for pairs.
const CURRENCIES: [(&str, &str); 2] = [("BTC", "XBT"), ("DOGE", "XDG")];

/// The adapter.
#[derive(Debug, Default)]
pub struct Kraken {
    feed: Feed,
}

impl Adapter for Kraken {
    const NAME: &'static str = "kraken";
    const SUMMARY: &'static str = "Spot candles of Kraken, over REST and live";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn exchanges() -> Vec<ExchangeDescription> {
        vec![ExchangeDescription {
            id: "kraken".to_owned(),
            name: "Kraken".to_owned(),
            hosts: vec![HOST.to_owned(), feed::HOST.to_owned()],
            timeframes: TIMEFRAMES.map(str::to_owned).to_vec(),
            page_limit: DEPTH,
            depth: Some(DEPTH),
            budget: Budget { units: 1, window_ms: 1_000, burst: 1, used_header: None },
            quiet: Quiet::Absent,
            has_feed: true,
        }]
    }

    fn next(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
        match answers.first() {
            None => Ok(Step::Requests(vec![get(url(task)?, 1)])),
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

fn url(task: &Task) -> Result<String, Failure> {
    let (base, quote) = base_and_quote(&task.symbol)?;
    let pair = url_part(&format!("{}{}", own_currency(base), own_currency(quote)));
    let step_ms = match timeframe_ms(&task.timeframe) {
        Some(step_ms) if TIMEFRAMES.contains(&task.timeframe.as_str()) => step_ms,
        _ => return Err(Failure::Unreadable(format!("Kraken has no timeframe `{}`", task.timeframe))),
    };
    let interval = step_ms / 60_000;
    let since = (task.since - step_ms).max(0) / 1_000;
    Ok(format!("https://{HOST}/0/public/OHLC?pair={pair}&interval={interval}&since={since}"))
}

fn own_currency(unified: &str) -> &str {
    CURRENCIES.iter().find(|(name, _)| *name == unified).map_or(unified, |(_, own)| own)
}

#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    error: Vec<String>,
    result: Option<Ohlc>,
}

/// Time, open, high, low, close, volume-weighted average price, volume, number of trades.
type OhlcRow = Leading<(Integer, Number, Number, Number, Number, Number, Number, Integer)>;

/// The rows under the one key that is not `last`.
#[derive(Debug, Default)]
struct Ohlc {
    rows: Vec<OhlcRow>,
    last: Option<Integer>,
}

impl<'de> Deserialize<'de> for Ohlc {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Ohlc, D::Error> {
        deserializer.deserialize_map(OhlcVisitor)
    }
}

struct OhlcVisitor;

impl<'de> Visitor<'de> for OhlcVisitor {
    type Value = Ohlc;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the rows of a pair and `last`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ohlc, A::Error> {
        let mut ohlc = Ohlc::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "last" {
                ohlc.last = Some(map.next_value()?);
            } else {
                ohlc.rows = map.next_value()?;
            }
        }
        Ok(ohlc)
    }
}

fn read(task: &Task, answer: &Answer) -> Result<Step, Failure> {
    let reply: Reply = decode(answer)?;
    // What begins with `W` is a warning, beside a result.
    if let Some(error) = reply.error.iter().find(|error| !error.starts_with('W')) {
        return Err(failure_of(&task.symbol, error));
    }
    let Some(Ohlc { rows, last }) = reply.result else {
        return Err(by_status(answer).unwrap_or_else(|| {
            Failure::Unreadable("the answer has neither a result nor an error".to_owned())
        }));
    };
    let mut page = Page::new(task)?;
    for Leading((time, open, high, low, close, vwap, volume, trades)) in rows {
        page.push(Row {
            timestamp: time.0.saturating_mul(1_000),
            open: open.0,
            high: high.0,
            low: low.0,
            close: close.0,
            volume: volume.0,
            trades: Some(trades.0),
            quote_volume: None,
            // Without trades Kraken writes 0, which is no price.
            vwap: (trades.0 > 0).then_some(vwap.0),
        });
    }
    let closed = last.map_or(Closed::ByClock, |last| Closed::Through(last.0.saturating_mul(1_000)));
    Ok(Step::Candles(page.candles(closed)))
}

/// What one of Kraken's errors means: `<E or W><category>:<message>`, some with more behind another `:`.
fn failure_of(symbol: &str, error: &str) -> Failure {
    let sentence = format!("`{symbol}`: {error}");
    let is_one_of = |texts: &[&str]| texts.iter().any(|text| error.starts_with(text));
    if is_one_of(&["EQuery:Unknown asset", "EQuery:Invalid asset pair"]) {
        Failure::BadSymbol(sentence)
    } else if is_one_of(&[
        "EAPI:Rate limit exceeded",
        "EGeneral:Temporary lockout",
        "EGeneral:Too many requests",
        "EService:Throttled",
    ]) {
        throttled(throttled_until(error), sentence)
    } else if is_one_of(&["EService:", "EGeneral:Internal error"]) {
        Failure::Unavailable(sentence)
    } else if is_one_of(&["EGeneral:Permission denied", "EAPI:Feature disabled"]) {
        Failure::Refused(sentence)
    } else {
        Failure::Unreadable(sentence)
    }
}

/// The time in `EService:Throttled:1700000700`, which is in seconds.
fn throttled_until(error: &str) -> Option<i64> {
    let seconds: i64 = error.strip_prefix("EService:Throttled:")?.trim().parse().ok()?;
    seconds.checked_mul(1_000)
}

tidegate_guest::export_adapter!(Kraken);

#[cfg(test)]
mod tests {
    use tidegate_guest::exchange::testing::{answer, ask, candles, failure, task};
    use tidegate_guest::exchange::{Candles, Throttled, describe};

    use super::*;

    const M: i64 = 60_000;
    /// 2023-11-14T22:13:00Z
    const T: i64 = 1_699_999_980_000;

    /// Ten minutes that have just been closed.
    fn minutes() -> Task {
        task("kraken", "BTC/USD", "1m", T, T + 10 * M)
    }

    fn row(timestamp: i64) -> String {
        format!(
            r#"[{},"36500.1","36510.5","36490.2","36505.7","36501.3","12.34500000",73]"#,
            timestamp / 1_000
        )
    }

    fn body(rows: &[String], last: i64) -> String {
        format!(r#"{{"error":[],"result":{{"XXBTZUSD":[{}],"last":{}}}}}"#, rows.join(","), last / 1_000)
    }

    fn read(body: &str) -> Candles {
        candles::<Kraken>(&minutes(), &[answer(200, body)])
    }

    fn failed(status: u16, body: &str) -> Failure {
        failure::<Kraken>(&minutes(), &[answer(status, body)])
    }

    fn said(error: &str) -> Failure {
        failed(200, &format!(r#"{{"error":["{error}"]}}"#))
    }

    #[test]
    fn since_is_one_candle_earlier_because_it_is_exclusive() {
        assert_eq!(
            ask::<Kraken>(&minutes())[0].url,
            "https://api.kraken.com/0/public/OHLC?pair=XBTUSD&interval=1&since=1699999920"
        );
        let days = task("kraken", "ETH/USDT", "1d", 86_400_000, 5 * 86_400_000);
        assert!(ask::<Kraken>(&days)[0].url.ends_with("?pair=ETHUSDT&interval=1440&since=0"));
    }

    #[test]
    fn kraken_has_names_of_its_own_for_some_currencies() {
        for (symbol, pair) in
            [("BTC/USD", "XBTUSD"), ("DOGE/BTC", "XDGXBT"), ("ETH/BTC", "ETHXBT"), ("SOL/EUR", "SOLEUR")]
        {
            let url = &ask::<Kraken>(&task("kraken", symbol, "1m", T, T + M))[0].url;
            assert!(url.contains(&format!("?pair={pair}&")), "{url}");
        }
    }

    #[test]
    fn every_timeframe_that_is_described_is_asked_for_in_minutes() {
        for timeframe in &describe::<Kraken>().exchanges[0].timeframes {
            let minutes = timeframe_ms(timeframe).unwrap() / M;
            let url = &ask::<Kraken>(&task("kraken", "A/B", timeframe, 0, minutes * M))[0].url;
            assert!(url.contains(&format!("&interval={minutes}&")), "{url}");
        }
        for timeframe in ["3m", "2h", "12h"] {
            let failure = failure::<Kraken>(&task("kraken", "A/B", timeframe, 0, M), &[]);
            assert!(matches!(failure, Failure::Unreadable(text) if text.contains(timeframe)));
        }
    }

    #[test]
    fn the_average_price_comes_before_the_volume() {
        let candles = read(&body(&[row(T)], T));
        assert_eq!(candles.timestamps, [T]);
        assert_eq!((candles.open[0], candles.high[0]), (36_500.1, 36_510.5));
        assert_eq!((candles.low[0], candles.close[0]), (36_490.2, 36_505.7));
        assert_eq!((candles.vwap[0], candles.volume[0], candles.trades[0]), (36_501.3, 12.345, 73));
        assert!(candles.quote_volume.is_empty());
    }

    #[test]
    fn the_last_candle_is_open_until_the_watermark_says_otherwise() {
        let rows = [row(T - M), row(T), row(T + M), row(T + 2 * M)];
        let after = read(&body(&rows, T + M));
        assert_eq!(after.timestamps, [T, T + M], "the watermark decides, not the clock");
        let late = Task { now: T, ..minutes() };
        let before = candles::<Kraken>(&late, &[answer(200, body(&rows, T + M))]);
        assert_eq!(before.timestamps, [T, T + M], "the watermark does not wait for the clock");
    }

    #[test]
    fn without_a_watermark_the_clock_decides() {
        let body = body(&[row(T), row(T + M)], 0).replace(r#","last":0"#, "");
        let task = Task { now: T + M, ..minutes() };
        assert_eq!(candles::<Kraken>(&task, &[answer(200, body)]).timestamps, [T]);
    }

    #[test]
    fn the_pair_is_called_otherwise_in_the_answer_and_last_can_come_first() {
        let body = format!(r#"{{"result":{{"last":"{}","XBT/USD":[{}]}},"error":[]}}"#, T / 1_000, row(T));
        assert_eq!(read(&body).timestamps, [T]);
    }

    #[test]
    fn rows_from_before_the_start_are_left_out() {
        let rows: Vec<String> = (0..720).map(|minute| row(T + (minute - 717) * M)).collect();
        let candles = read(&body(&rows, T + M));
        assert_eq!(candles.timestamps, [T, T + M]);
        assert!(candles.unreadable.is_empty());
    }

    #[test]
    fn a_minute_without_trades_has_no_average_price() {
        let quiet =
            format!(r#"[{},"36505.7","36505.7","36505.7","36505.7","0.0","0.00000000",0]"#, (T + M) / 1_000);
        let candles = read(&body(&[row(T), quiet], T + M));
        assert_eq!((candles.trades[1], candles.volume[1]), (0, 0.0));
        assert!(candles.vwap[1].is_nan() && candles.vwap[0] == 36_501.3);
    }

    #[test]
    fn a_price_that_is_none_costs_its_row_alone() {
        let broken = row(T).replace("\"36490.2\"", "null");
        let candles = read(&body(&[broken, row(T + M)], T + M));
        assert_eq!(candles.timestamps, [T + M]);
        assert_eq!(candles.unreadable, ["`low` of the row of 2023-11-14T22:13:00Z is no finite number"]);
    }

    #[test]
    fn errors_come_with_status_200() {
        assert_eq!(
            said("EQuery:Unknown asset pair"),
            Failure::BadSymbol("`BTC/USD`: EQuery:Unknown asset pair".to_owned())
        );
        for error in ["EAPI:Rate limit exceeded", "EGeneral:Temporary lockout", "EGeneral:Too many requests"]
        {
            assert!(matches!(said(error), Failure::Throttled(Throttled { until: None, .. })), "{error}");
        }
        assert!(matches!(
            said("EService:Throttled:1700000700"),
            Failure::Throttled(Throttled { until: Some(1_700_000_700_000), .. })
        ));
        for error in ["EService:Unavailable", "EService:Busy", "EGeneral:Internal error"] {
            assert!(matches!(said(error), Failure::Unavailable(_)), "{error}");
        }
        assert!(matches!(said("EGeneral:Permission denied"), Failure::Refused(_)));
        assert!(matches!(said("EGeneral:Invalid arguments"), Failure::Unreadable(_)));
    }

    #[test]
    fn a_warning_is_no_error() {
        let body = body(&[row(T)], T).replace("[],", r#"["WGeneral:Deprecated"],"#);
        assert_eq!(read(&body).timestamps, [T]);
    }

    #[test]
    fn what_is_no_answer_is_what_its_status_says_or_unreadable() {
        assert!(matches!(failed(520, "<html>520</html>"), Failure::Unavailable(_)));
        assert!(matches!(failed(403, "<html>Sorry, you have been blocked</html>"), Failure::Refused(_)));
        assert!(matches!(failed(429, r#"{"error":[]}"#), Failure::Throttled(_)));
        let whole = body(&[row(T)], T);
        for body in
            [&whole[..whole.len() - 3], "<!doctype html>", "", "{}", r#"{"error":[],"result":[]}"#, "[]"]
        {
            assert!(matches!(failed(200, body), Failure::Unreadable(_)), "{body}");
        }
    }

    #[test]
    fn an_empty_result_is_no_candles() {
        assert!(read(&body(&[], T)).timestamps.is_empty());
    }
}
