//! Binance spot. Shapes, weights and errors: binance-spot-api-docs, `rest-api.md` and `errors.md`.

use serde_json::{Value, json};

use crate::answer::{Answer, Asked, Pick, Span, push_number, push_quoted, step, timeframe_ms};
use crate::truth::{Decimal, Series};

/// Weight that may be used in a minute by one address.
pub(crate) const MINUTE_WEIGHT: u64 = 6_000;

/// What a request takes of it.
pub(crate) fn weight(path: &str) -> u64 {
    match path {
        "/api/v3/klines" | "/api/v3/uiKlines" => 2,
        "/api/v3/exchangeInfo" => 20,
        _ => 1,
    }
}

pub(crate) fn answer(asked: &Asked<'_>) -> Answer {
    match asked.path {
        "/api/v3/ping" => Answer::json(200, "{}".to_owned()),
        "/api/v3/time" => Answer::json(200, format!(r#"{{"serverTime":{}}}"#, asked.said_ms)),
        "/api/v3/exchangeInfo" => exchange_info(asked),
        "/api/v3/klines" | "/api/v3/uiKlines" => klines(asked),
        // The lists of its other markets, for which CCXT asks too.
        "/fapi/v1/exchangeInfo" | "/dapi/v1/exchangeInfo" => {
            let said_ms = asked.said_ms;
            Answer::json(
                200,
                format!(r#"{{"timezone":"UTC","serverTime":{said_ms},"rateLimits":[],"symbols":[]}}"#),
            )
        }
        _ => Answer::page(404),
    }
}

fn klines(asked: &Asked<'_>) -> Answer {
    let Some(native) = asked.text("symbol") else {
        let message = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.";
        return asked.error(400, -1102, message);
    };
    let Some(series) = asked.series(native) else {
        return asked.error(400, -1121, "Invalid symbol.");
    };
    let Some(timeframe_ms) = asked.text("interval").and_then(timeframe_ms) else {
        return asked.error(400, -1120, "Invalid interval.");
    };
    for key in ["startTime", "endTime", "limit"] {
        if asked.text(key).is_some() && asked.number(key).is_none_or(|number| number < 0) {
            let message =
                format!("Illegal characters found in parameter '{key}'; legal range is '^[0-9]{{1,20}}$'.");
            return asked.error(400, -1100, &message);
        }
    }
    let limit = asked.number("limit").unwrap_or(500).clamp(1, 1_000);
    let start = asked.number("startTime");
    let pick = if start.is_some() { Pick::First } else { Pick::Last };
    let span = Span {
        from_ms: start.unwrap_or(0),
        until_ms: asked.number("endTime").map_or(i64::MAX, |end| end.saturating_add(1)),
    };
    let view = asked.view(series);
    let rows = asked.rows(&view, timeframe_ms, span, limit as usize, pick);
    let mut body = String::with_capacity(rows.len() * 170 + 2);
    body.push('[');
    for row in &rows {
        body.push_str(if body.len() > 1 { ",[" } else { "[" });
        push_number(&mut body, row.open_ms);
        for price in [row.open, row.high, row.low, row.close, row.volume] {
            body.push(',');
            push_quoted(&mut body, price, 8);
        }
        body.push(',');
        push_number(&mut body, row.open_ms + timeframe_ms - 1);
        body.push(',');
        push_quoted(&mut body, row.quote_volume, 8);
        body.push(',');
        push_number(&mut body, row.trades);
        for whole in [row.volume, row.quote_volume] {
            body.push(',');
            push_quoted(&mut body, Decimal { units: whole.units / 2, ..whole }, 8);
        }
        body.push_str(r#","0"]"#);
    }
    body.push(']');
    // A full page from a given time ends at its last row, wherever the span ends.
    let end_ms = match rows.last() {
        Some(row) if pick == Pick::First && rows.len() == limit as usize => row.open_ms + timeframe_ms,
        _ => span.until_ms,
    };
    Answer { is_settled: asked.is_settled(end_ms), ..Answer::candles(body, &view, timeframe_ms, &rows) }
}

fn exchange_info(asked: &Asked<'_>) -> Answer {
    let wanted: Option<Vec<&str>> = match (asked.text("symbol"), asked.text("symbols")) {
        (Some(symbol), _) => Some(vec![symbol]),
        (None, Some(list)) => {
            Some(list.trim_matches(['[', ']']).split(',').map(|name| name.trim().trim_matches('"')).collect())
        }
        (None, None) => None,
    };
    if wanted.iter().flatten().any(|native| asked.series(native).is_none()) {
        return asked.error(400, -1121, "Invalid symbol.");
    }
    let listed = asked.listed().filter(|series| match &wanted {
        Some(wanted) => wanted.contains(&series.native.as_str()),
        None => true,
    });
    let info = json!({
        "timezone": "UTC",
        "serverTime": asked.said_ms,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": MINUTE_WEIGHT},
        ],
        "exchangeFilters": [],
        "symbols": listed.map(symbol).collect::<Vec<Value>>(),
    });
    Answer::json(200, info.to_string())
}

fn symbol(series: &Series) -> Value {
    let market = &series.market;
    let (price_step, volume_step) = (step(market.price_decimals), step(market.volume_decimals));
    json!({
        "symbol": series.native,
        "status": "TRADING",
        "baseAsset": market.base,
        "baseAssetPrecision": 8,
        "quoteAsset": market.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": true,
        "isMarginTradingAllowed": false,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": price_step, "maxPrice": "1000000.0", "tickSize": price_step},
            {"filterType": "LOT_SIZE", "minQty": volume_step, "maxQty": "9000000000.0", "stepSize": volume_step},
        ],
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
    })
}
