//! Bybit v5 spot, as far as CCXT asks: klines and the lists of markets. Shapes: its v5 reference and CCXT's.

use serde_json::{Value, json};

use crate::answer::{Answer, Asked, Pick, Span, push_number, push_quoted, step};
use crate::truth::{MINUTE_MS, Series};

pub(crate) fn answer(asked: &Asked<'_>) -> Answer {
    match asked.path {
        "/v5/market/time" => {
            let said_ms = asked.said_ms;
            let (seconds, nanoseconds) = (said_ms / 1_000, said_ms * 1_000_000);
            ok(asked, format!(r#"{{"timeSecond":"{seconds}","timeNano":"{nanoseconds}"}}"#))
        }
        "/v5/market/instruments-info" => instruments(asked),
        "/v5/market/kline" => klines(asked),
        _ => Answer::page(404),
    }
}

fn ok(asked: &Asked<'_>, result: String) -> Answer {
    let said_ms = asked.said_ms;
    let body =
        format!(r#"{{"retCode":0,"retMsg":"OK","result":{result},"retExtInfo":{{}},"time":{said_ms}}}"#);
    Answer::json(200, body)
}

fn interval_ms(name: &str) -> Option<i64> {
    let minutes = match name {
        "D" => 1_440,
        "1" | "3" | "5" | "15" | "30" | "60" | "120" | "240" | "360" | "720" => name.parse().ok()?,
        _ => return None,
    };
    Some(minutes * MINUTE_MS)
}

fn klines(asked: &Asked<'_>) -> Answer {
    let series = match asked.text("category") {
        Some("spot") => asked.text("symbol").and_then(|native| asked.series(native)),
        _ => None,
    };
    let Some(series) = series else {
        return asked.error(200, 10_001, "Not supported symbols");
    };
    let Some(timeframe_ms) = asked.text("interval").and_then(interval_ms) else {
        return asked.error(200, 10_001, "Invalid period!");
    };
    let limit = asked.number("limit").unwrap_or(200).clamp(1, 1_000);
    let (start, end) = (asked.number("start"), asked.number("end"));
    let pick = if start.is_some() && end.is_none() { Pick::First } else { Pick::Last };
    let span =
        Span { from_ms: start.unwrap_or(0), until_ms: end.map_or(i64::MAX, |end| end.saturating_add(1)) };
    let rows = asked.rows(&asked.view(series), timeframe_ms, span, limit as usize, pick);
    let market = &series.market;
    let mut list = String::with_capacity(rows.len() * 110 + 80);
    list.push_str(r#"{"category":"spot","symbol":""#);
    list.push_str(&series.native);
    list.push_str(r#"","list":["#);
    for (number, row) in rows.iter().rev().enumerate() {
        list.push_str(if number > 0 { ",[\"" } else { "[\"" });
        push_number(&mut list, row.open_ms);
        list.push('"');
        for price in [row.open, row.high, row.low, row.close] {
            list.push(',');
            push_quoted(&mut list, price, market.price_decimals);
        }
        for volume in [row.volume, row.quote_volume] {
            list.push(',');
            push_quoted(&mut list, volume, volume.decimals);
        }
        list.push(']');
    }
    list.push_str("]}");
    Answer { symbol: Some(series.symbol.clone()), rows: rows.len(), ..ok(asked, list) }
}

fn instruments(asked: &Asked<'_>) -> Answer {
    let category = match asked.text("category") {
        Some(category @ ("spot" | "linear" | "inverse" | "option")) => category,
        _ => return asked.error(200, 10_001, "Illegal category"),
    };
    // There are no contracts here.
    let listed = asked.listed().filter(|series| {
        category == "spot" && asked.text("symbol").is_none_or(|native| native == series.native)
    });
    let list: Vec<Value> = listed.map(instrument).collect();
    ok(asked, json!({"category": category, "nextPageCursor": "", "list": list}).to_string())
}

fn instrument(series: &Series) -> Value {
    let market = &series.market;
    let volume_step = step(market.volume_decimals);
    json!({
        "symbol": series.native,
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "innovation": "0",
        "status": "Trading",
        "marginTrading": "none",
        "lotSizeFilter": {
            "basePrecision": volume_step,
            "quotePrecision": "0.00000001",
            "minOrderQty": volume_step,
            "maxOrderQty": "1000000000",
            "minOrderAmt": "1",
            "maxOrderAmt": "4000000",
        },
        "priceFilter": {"tickSize": step(market.price_decimals)},
    })
}
