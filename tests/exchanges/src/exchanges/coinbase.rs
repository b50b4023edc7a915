//! Coinbase Advanced Trade, the public part. Shapes: its API reference and CCXT's; the wording of errors is that of
//! public reports.

use serde_json::{Value, json};

use crate::answer::{Answer, Asked, Pick, Span, iso, push_number, step};
use crate::truth::{MINUTE_MS, Series};

/// The most steps of a request's window.
pub(crate) const LIMIT: i64 = 300;

const PRODUCTS: &str = "/api/v3/brokerage/market/products";

pub(crate) fn answer(asked: &Asked<'_>) -> Answer {
    match asked.path {
        "/api/v3/brokerage/time" => {
            let said_ms = asked.said_ms;
            let body = format!(
                r#"{{"iso":"{}","epochSeconds":"{}","epochMillis":"{said_ms}"}}"#,
                iso(said_ms),
                said_ms / 1_000
            );
            return Answer::json(200, body);
        }
        PRODUCTS => return products(asked),
        // Names of currencies, for which CCXT asks too; it can do without them.
        "/v2/currencies" | "/v2/currencies/crypto" => return Answer::json(200, r#"{"data":[]}"#.to_owned()),
        "/v2/exchange-rates" => {
            return Answer::json(200, r#"{"data":{"currency":"USD","rates":{}}}"#.to_owned());
        }
        _ => {}
    }
    let Some(product) = asked.path.strip_prefix(PRODUCTS).and_then(|rest| rest.strip_prefix('/')) else {
        return asked.error(404, 0, "unknown path");
    };
    let (native, wants_candles) = match product.split_once('/') {
        Some((native, "candles")) => (native, true),
        Some(_) => return asked.error(404, 0, "unknown path"),
        None => (product, false),
    };
    let Some(series) = asked.series(native) else {
        return asked.error(404, 0, "valid product_id is required");
    };
    if wants_candles {
        return candles(asked, series);
    }
    Answer { symbol: Some(series.symbol.clone()), ..Answer::json(200, product_of(series).to_string()) }
}

fn granularity_ms(name: &str) -> Option<i64> {
    let minutes = match name {
        "ONE_MINUTE" => 1,
        "FIVE_MINUTE" => 5,
        "FIFTEEN_MINUTE" => 15,
        "THIRTY_MINUTE" => 30,
        "ONE_HOUR" => 60,
        "TWO_HOUR" => 120,
        "FOUR_HOUR" => 240,
        "SIX_HOUR" => 360,
        "ONE_DAY" => 1_440,
        _ => return None,
    };
    Some(minutes * MINUTE_MS)
}

fn candles(asked: &Asked<'_>, series: &Series) -> Answer {
    let Some(timeframe_ms) = asked.text("granularity").and_then(granularity_ms) else {
        return asked.error(400, 0, "granularity argument is invalid");
    };
    let (Some(start_s), Some(end_s)) = (asked.number("start"), asked.number("end")) else {
        return asked.error(400, 0, "start and end argument is invalid");
    };
    let (start_ms, end_ms) = (start_s.saturating_mul(1_000), end_s.saturating_mul(1_000));
    // Reports tell of windows up to 350; the documents' 300 is the stricter. Both ends of a window are given.
    if end_ms.saturating_sub(start_ms) / timeframe_ms > LIMIT {
        let message =
            "start and end argument is invalid - number of candles requested should be less than 350";
        return asked.error(400, 0, message);
    }
    let limit = asked.number("limit").unwrap_or(LIMIT + 1).clamp(1, LIMIT + 1);
    let span = Span { from_ms: start_ms, until_ms: end_ms.saturating_add(1) };
    let view = asked.view(series);
    let rows = asked.rows(&view, timeframe_ms, span, limit as usize, Pick::Last);
    let mut body = String::with_capacity(rows.len() * 150 + 20);
    body.push_str(r#"{"candles":["#);
    for (number, row) in rows.iter().rev().enumerate() {
        body.push_str(if number > 0 { r#",{"start":""# } else { r#"{"start":""# });
        push_number(&mut body, row.open_ms / 1_000);
        for (name, value) in [
            ("low", row.low),
            ("high", row.high),
            ("open", row.open),
            ("close", row.close),
            ("volume", row.volume),
        ] {
            body.push_str(r#"",""#);
            body.push_str(name);
            body.push_str(r#"":""#);
            value.push_short(&mut body);
        }
        body.push_str(r#""}"#);
    }
    body.push_str("]}");
    Answer {
        is_settled: asked.is_settled(span.until_ms),
        ..Answer::candles(body, &view, timeframe_ms, &rows)
    }
}

fn products(asked: &Asked<'_>) -> Answer {
    // There are no futures here.
    let is_spot = asked.text("product_type").is_none_or(|kind| kind == "SPOT");
    let products: Vec<Value> = asked.listed().filter(|_| is_spot).map(product_of).collect();
    let count = products.len();
    Answer::json(200, json!({"products": products, "num_products": count}).to_string())
}

fn product_of(series: &Series) -> Value {
    let market = &series.market;
    let (price_step, volume_step) = (step(market.price_decimals), step(market.volume_decimals));
    json!({
        "product_id": series.native,
        "price": market.price.to_string(),
        "price_percentage_change_24h": "0",
        "volume_24h": "0",
        "base_increment": volume_step,
        "quote_increment": price_step,
        "quote_min_size": "1",
        "quote_max_size": "150000000",
        "base_min_size": volume_step,
        "base_max_size": "3400000000",
        "base_name": market.base,
        "quote_name": market.quote,
        "is_disabled": false,
        "new": false,
        "status": "online",
        "cancel_only": false,
        "limit_only": false,
        "post_only": false,
        "trading_disabled": false,
        "auction_mode": false,
        "product_type": "SPOT",
        "quote_currency_id": market.quote,
        "base_currency_id": market.base,
        "alias": "",
        "alias_to": [],
        "base_display_symbol": market.base,
        "quote_display_symbol": market.quote,
        "view_only": false,
        "price_increment": price_step,
        "display_name": series.native,
        "product_venue": "CBE",
    })
}
