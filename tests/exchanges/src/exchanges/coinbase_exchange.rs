//! Coinbase Exchange. Shapes: its API reference ("get product candles") and CCXT's recorded answers.

use serde_json::{Value, json};

use crate::answer::{Answer, Asked, Pick, Span, iso, push_number, step};
use crate::hash::mix;
use crate::truth::{MINUTE_MS, Series};

use super::coinbase::LIMIT;

pub(crate) fn answer(asked: &Asked<'_>) -> Answer {
    match asked.path {
        "/time" => {
            let said_ms = asked.said_ms;
            let body =
                format!(r#"{{"iso":"{}","epoch":{}.{:03}}}"#, iso(said_ms), said_ms / 1_000, said_ms % 1_000);
            return Answer::json(200, body);
        }
        "/currencies" => return Answer::json(200, "[]".to_owned()),
        "/products" => {
            let products: Vec<Value> = asked.listed().map(product_of).collect();
            return Answer::json(200, Value::from(products).to_string());
        }
        _ => {}
    }
    let Some(product) = asked.path.strip_prefix("/products/") else { return not_found(asked) };
    let (native, wants_candles) = match product.split_once('/') {
        Some((native, "candles")) => (native, true),
        Some(_) => return not_found(asked),
        None => (product, false),
    };
    let Some(series) = asked.series(native) else { return not_found(asked) };
    if wants_candles {
        return candles(asked, series);
    }
    Answer { symbol: Some(series.symbol.clone()), ..Answer::json(200, product_of(series).to_string()) }
}

fn not_found(asked: &Asked<'_>) -> Answer {
    asked.error(404, 0, "NotFound")
}

/// Seconds since 1970, or RFC 3339.
fn time_ms(text: &str) -> Option<i64> {
    match text.parse::<i64>() {
        Ok(seconds) => seconds.checked_mul(1_000),
        Err(_) => Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()),
    }
}

fn candles(asked: &Asked<'_>, series: &Series) -> Answer {
    let granularity_s = asked.number("granularity").unwrap_or(60);
    if !matches!(granularity_s, 60 | 300 | 900 | 3_600 | 21_600 | 86_400) {
        return asked.error(400, 0, "Unsupported granularity");
    }
    let timeframe_ms = granularity_s * 1_000;
    let view = asked.view(series);
    let span = match (asked.text("start"), asked.text("end")) {
        (Some(start), Some(end)) => {
            let Some(start_ms) = time_ms(start) else { return asked.error(400, 0, "Invalid start") };
            let Some(end_ms) = time_ms(end) else { return asked.error(400, 0, "Invalid end") };
            // Both ends count: a window of 300 steps has 301 candles, one too many.
            if end_ms.saturating_sub(start_ms) / timeframe_ms >= LIMIT {
                let message = "granularity too small for the requested time range. Count of aggregations requested \
                               exceeds 300";
                return asked.error(400, 0, message);
            }
            // "Some of those candles may precede your declared start value."
            let before =
                if mix(start_ms as u64, end_ms as u64).is_multiple_of(3) { 2 * timeframe_ms } else { 0 };
            Span { from_ms: start_ms - before, until_ms: end_ms.saturating_add(1) }
        }
        // Without both, each is ignored.
        _ => Span { from_ms: (view.newest + 2) * MINUTE_MS - LIMIT * timeframe_ms, until_ms: i64::MAX },
    };
    let rows = asked.rows(&view, timeframe_ms, span, LIMIT as usize, Pick::Last);
    let mut body = String::with_capacity(rows.len() * 80 + 2);
    body.push('[');
    for (number, row) in rows.iter().rev().enumerate() {
        body.push_str(if number > 0 { ",[" } else { "[" });
        push_number(&mut body, row.open_ms / 1_000);
        for value in [row.low, row.high, row.open, row.close, row.volume] {
            body.push(',');
            value.push_short(&mut body);
        }
        body.push(']');
    }
    body.push(']');
    Answer {
        is_settled: asked.is_settled(span.until_ms),
        ..Answer::candles(body, &view, timeframe_ms, &rows)
    }
}

fn product_of(series: &Series) -> Value {
    let market = &series.market;
    json!({
        "id": series.native,
        "base_currency": market.base,
        "quote_currency": market.quote,
        "quote_increment": step(market.price_decimals),
        "base_increment": step(market.volume_decimals),
        "display_name": series.symbol,
        "min_market_funds": "1",
        "margin_enabled": false,
        "post_only": false,
        "limit_only": false,
        "cancel_only": false,
        "status": "online",
        "status_message": "",
        "trading_disabled": false,
        "fx_stablecoin": false,
        "auction_mode": false,
    })
}
