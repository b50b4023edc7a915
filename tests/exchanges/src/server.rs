//! HTTP: from a request to an answer on the wire, as it should be or not.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt, stream};

use crate::answer::{Answer, Asked, Shape};
use crate::exchanges;
use crate::feed;
use crate::market::Exchange;
use crate::misbehaviour::Fault;
use crate::world::{Page, World};

/// A slow answer comes in so many pieces.
const PIECES: usize = 16;

/// Shorter bodies are not packed.
const PACKED_FROM_BYTES: usize = 200;

/// A time as a `Date` header says it.
pub(crate) fn http_date(ms: i64) -> String {
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    printer.timestamp_to_rfc9110_string(&time).unwrap_or_default()
}

/// Answers every request.
pub(crate) async fn handle(State(world): State<Arc<World>>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let (id, below) = match path[1.min(path.len())..].split_once('/') {
        Some((id, below)) => (id, below),
        None => (path.trim_start_matches('/'), ""),
    };
    let Some(exchange) = Exchange::of_id(id) else {
        let ids = Exchange::ALL.map(Exchange::id).join(", ");
        let message = format!("no exchange `{id}`: expected a path that begins with one of {ids}\n");
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    let below = format!("/{below}");
    let query =
        Query::<HashMap<String, String>>::try_from_uri(&parts.uri).map(|query| query.0).unwrap_or_default();
    if parts.headers.contains_key(header::UPGRADE) {
        if exchange == Exchange::Bybit {
            return StatusCode::NOT_FOUND.into_response();
        }
        return match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
            Ok(upgrade) => upgrade
                .on_upgrade(move |socket| feed::serve(world, exchange, below, query, socket))
                .into_response(),
            Err(refused) => refused.into_response(),
        };
    }
    answer(&world, exchange, &below, parts.uri.query(), &query, &parts.headers).await
}

async fn answer(
    world: &World,
    exchange: Exchange,
    path: &str,
    raw_query: Option<&str>,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Response<Body> {
    let path_and_query = format!("{path}?{}", raw_query.unwrap_or_default());
    let is_candles = exchanges::asks_for_candles(exchange, path);
    let admitted = world.admit(exchange, path, &path_and_query, is_candles);
    let accepts_gzip = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains("gzip")));

    if admitted.fault == Some(Fault::Hang) {
        return std::future::pending().await;
    }
    if let Some(Fault::Redirect { to }) = admitted.fault {
        world.answered(exchange, None, 0, StatusCode::FOUND.as_u16());
        let location = format!("http://{to}/{exchange}{path_and_query}");
        return (StatusCode::FOUND, [(header::LOCATION, location)]).into_response();
    }
    let key = format!("{accepts_gzip} {exchange}{path_and_query}");
    let (kept, age) = match admitted.fault {
        None if is_candles && admitted.refusal.is_none() => world.page(&key),
        _ => (None, 0),
    };
    let (page, meta) = match kept {
        Some(page) => (page, Answer::json(200, String::new())),
        None => {
            let mut meta = admitted.refusal.unwrap_or_else(|| {
                exchanges::answer(&Asked {
                    truth: &world.truth,
                    misbehaviour: &admitted.misbehaviour,
                    exchange,
                    path,
                    query,
                    now_ms: admitted.now_ms,
                    said_ms: admitted.said_ms,
                    shape: match admitted.fault {
                        Some(Fault::Empty) => Shape::Empty,
                        Some(Fault::Disordered) => Shape::Disordered,
                        _ => Shape::Usual,
                    },
                    delisted: &admitted.delisted,
                })
            });
            let is_broken = admitted.fault == Some(Fault::BrokenGzip);
            let is_packed = is_broken || (accepts_gzip && meta.body.len() >= PACKED_FROM_BYTES);
            let body = if is_packed {
                packed(&meta.body, is_broken)
            } else {
                Bytes::from(std::mem::take(&mut meta.body))
            };
            let page = Page { body, is_packed, rows: meta.rows, symbol: meta.symbol.clone() };
            if admitted.fault.is_none() && meta.is_settled {
                world.keep_page(key, page.clone(), age);
            }
            (page, meta)
        }
    };
    world.answered(exchange, page.symbol.as_deref(), page.rows, meta.status);
    if let (None, Some(symbol)) = (admitted.fault, &page.symbol) {
        world.note_first_answers(exchange, symbol, &meta.closed_ms);
    }

    let mut response = Response::builder()
        .status(meta.status)
        .header(header::DATE, http_date(admitted.said_ms))
        .header(header::CONTENT_TYPE, meta.content_type);
    if page.is_packed {
        response = response.header(header::CONTENT_ENCODING, "gzip");
    }
    if let Some(seconds) = meta.retry_after_s {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    if exchange == Exchange::Binance {
        response = response
            .header("x-mbx-used-weight", admitted.used_weight)
            .header("x-mbx-used-weight-1m", admitted.used_weight);
    }
    let body = match admitted.fault {
        Some(Fault::Truncated) => {
            response = response.header(header::CONTENT_LENGTH, page.body.len());
            truncated(page.body)
        }
        Some(Fault::Slow { wall_ms }) => {
            response = response.header(header::CONTENT_LENGTH, page.body.len());
            slow(page.body, Duration::from_millis(wall_ms))
        }
        _ => Body::from(page.body),
    };
    response.body(body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// The body as gzip; a broken one is no gzip from its middle on.
fn packed(body: &str, is_broken: bool) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(body.as_bytes());
    let mut bytes = encoder.finish().unwrap_or_default();
    if is_broken {
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0xff);
    }
    Bytes::from(bytes)
}

/// The first half of a body, then the end of the connection.
fn truncated(body: Bytes) -> Body {
    let half = body.slice(..body.len() / 2);
    let end = stream::once(async {
        // What was given before leaves the machine first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(end))
}

/// A body in pieces over some time.
fn slow(body: Bytes, time: Duration) -> Body {
    let size = body.len().div_ceil(PIECES).max(1);
    let pieces: Vec<Bytes> =
        (0..body.len()).step_by(size).map(|at| body.slice(at..body.len().min(at + size))).collect();
    let pause = time / pieces.len().max(1) as u32;
    Body::from_stream(stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok::<Bytes, Infallible>(piece)
    }))
}
