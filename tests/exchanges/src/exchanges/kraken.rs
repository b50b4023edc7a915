//! Kraken spot. Shapes: docs.kraken.com ("get OHLC data", "get tradable asset pairs"). Errors come with status 200.

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Asked, Pick, Span, iso, push_number, push_quoted, step};
use crate::market::{kraken_altname, kraken_asset, kraken_wsname};
use crate::truth::{MINUTE_MS, Series};

/// The most rows of an answer, whatever is asked for.
const ROWS: i64 = 720;

pub(crate) fn answer(asked: &Asked<'_>) -> Answer {
    match asked.path {
        "/0/public/Time" => {
            let seconds = asked.said_ms / 1_000;
            let body = format!(
                r#"{{"error":[],"result":{{"unixtime":{seconds},"rfc1123":"{}"}}}}"#,
                crate::server::http_date(asked.said_ms)
            );
            Answer::json(200, body)
        }
        "/0/public/SystemStatus" => {
            let body = format!(
                r#"{{"error":[],"result":{{"status":"online","timestamp":"{}"}}}}"#,
                iso(asked.said_ms)
            );
            Answer::json(200, body)
        }
        "/0/public/AssetPairs" => pairs(asked),
        "/0/public/Assets" => Answer::json(200, r#"{"error":[],"result":{}}"#.to_owned()),
        "/0/public/OHLC" => ohlc(asked),
        _ => asked.error(200, 0, "EGeneral:Unknown method"),
    }
}

fn ohlc(asked: &Asked<'_>) -> Answer {
    let Some(pair) = asked.text("pair") else {
        return asked.error(200, 0, "EGeneral:Invalid arguments");
    };
    let Some(series) = asked.series(pair) else {
        return asked.error(200, 0, "EQuery:Unknown asset pair");
    };
    let minutes = asked.number("interval").unwrap_or(1);
    if !matches!(minutes, 1 | 5 | 15 | 30 | 60 | 240 | 1_440) {
        return asked.error(200, 0, "EGeneral:Invalid arguments:interval");
    }
    let timeframe_ms = minutes * MINUTE_MS;
    let view = asked.view(series);
    let open_ms = ((view.newest + 1) * MINUTE_MS).div_euclid(timeframe_ms) * timeframe_ms;
    let last_ms = open_ms - timeframe_ms;
    // `since` itself is not given again; the open row always is.
    let after_ms = asked.number("since").unwrap_or(0).saturating_mul(1_000).saturating_add(1).min(open_ms);
    let span = Span { from_ms: after_ms.max(open_ms - (ROWS - 1) * timeframe_ms), until_ms: i64::MAX };
    let rows = asked.rows(&view, timeframe_ms, span, usize::MAX, Pick::First);
    let market = &series.market;
    let key = match asked.number("assetVersion") {
        Some(1) => &series.symbol,
        _ => &series.native,
    };
    let mut body = String::with_capacity(rows.len() * 110 + 80);
    body.push_str(r#"{"error":[],"result":{""#);
    body.push_str(key);
    body.push_str(r#"":["#);
    for (number, row) in rows.iter().enumerate() {
        body.push_str(if number > 0 { ",[" } else { "[" });
        push_number(&mut body, row.open_ms / 1_000);
        for price in [row.open, row.high, row.low, row.close, row.vwap] {
            body.push(',');
            push_quoted(&mut body, price, market.price_decimals);
        }
        body.push(',');
        push_quoted(&mut body, row.volume, 8);
        body.push(',');
        push_number(&mut body, row.trades);
        body.push(']');
    }
    body.push_str(r#"],"last":"#);
    push_number(&mut body, last_ms / 1_000);
    body.push_str("}}");
    Answer::candles(body, &view, timeframe_ms, &rows)
}

fn pairs(asked: &Asked<'_>) -> Answer {
    let wanted: Option<Vec<&Series>> = match asked.text("pair") {
        Some(names) => {
            let found: Vec<_> = names.split(',').map(|name| asked.series(name)).collect();
            let Some(found) = found.into_iter().collect() else {
                return asked.error(200, 0, "EQuery:Unknown asset pair");
            };
            Some(found)
        }
        None => None,
    };
    let pairs: Map<String, Value> = wanted
        .unwrap_or_else(|| asked.listed().collect())
        .into_iter()
        .map(|series| (series.native.clone(), pair_of(series)))
        .collect();
    Answer::json(200, json!({"error": [], "result": pairs}).to_string())
}

fn pair_of(series: &Series) -> Value {
    let market = &series.market;
    json!({
        "altname": kraken_altname(market),
        "wsname": kraken_wsname(market),
        "aclass_base": "currency",
        "base": kraken_asset(&market.base),
        "aclass_quote": "currency",
        "quote": kraken_asset(&market.quote),
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": market.price_decimals,
        "lot_decimals": 8,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "0.0001",
        "costmin": "0.5",
        "tick_size": step(market.price_decimals),
        "status": "online",
    })
}
