//! A request as an exchange sees it, and its answer before anything goes wrong on the wire.

use std::collections::{HashMap, HashSet};

use crate::hash::mix;
use crate::market::Exchange;
use crate::misbehaviour::{Misbehaviour, SETTLED_MS, View};
use crate::truth::{Candle, Decimal, FIRST_MS, MINUTE_MS, Series, Truth};

/// An answer without date, packing and faults.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: String,
    pub content_type: &'static str,
    /// `Retry-After` in simulated seconds.
    pub retry_after_s: Option<i64>,
    /// The symbol that was asked for, when the exchange lists it.
    pub symbol: Option<String>,
    /// Rows of candles.
    pub rows: usize,
    /// When the candles opened that are closed, as far as they are among the rows.
    pub closed_ms: Vec<i64>,
    /// Whether the same request will have the same answer for ever, as long as the misbehaviour is the same.
    pub is_settled: bool,
}

impl Answer {
    pub(crate) fn json(status: u16, body: String) -> Self {
        Self {
            status,
            body,
            content_type: "application/json;charset=UTF-8",
            retry_after_s: None,
            symbol: None,
            rows: 0,
            closed_ms: Vec::new(),
            is_settled: false,
        }
    }

    /// A page for people.
    pub(crate) fn page(status: u16) -> Self {
        let title = match status {
            200 => "Please wait",
            403 => "Request blocked",
            502 => "Bad gateway",
            503 => "Service unavailable",
            _ => "Internal server error",
        };
        let body = format!(
            "<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n<body><h1>{title}</h1><p>Try again in a \
             moment.</p></body></html>\n"
        );
        Self { content_type: "text/html; charset=utf-8", ..Self::json(status, body) }
    }

    /// Candles of a symbol.
    pub(crate) fn candles(body: String, view: &View<'_>, timeframe_ms: i64, rows: &[Candle]) -> Self {
        let open_ms = (view.newest + 1) * MINUTE_MS;
        let is_closed = |row: &&Candle| row.open_ms + timeframe_ms <= open_ms;
        Self {
            symbol: Some(view.series.symbol.clone()),
            rows: rows.len(),
            closed_ms: rows.iter().filter(is_closed).map(|row| row.open_ms).collect(),
            ..Self::json(200, body)
        }
    }

    /// An exchange's way to say that something is wrong.
    pub(crate) fn error(exchange: Exchange, status: u16, code: i64, message: &str) -> Self {
        let body = match exchange {
            Exchange::Binance => format!(r#"{{"code":{code},"msg":"{message}"}}"#),
            Exchange::Coinbase => {
                let name = match status {
                    400 => "INVALID_ARGUMENT",
                    404 => "NOT_FOUND",
                    418 | 429 => "RESOURCE_EXHAUSTED",
                    _ => "INTERNAL",
                };
                format!(r#"{{"error":"{name}","error_details":"{message}","message":"{message}"}}"#)
            }
            Exchange::CoinbaseExchange => format!(r#"{{"message":"{message}"}}"#),
            Exchange::Kraken => format!(r#"{{"error":["{message}"]}}"#),
            Exchange::Bybit => {
                format!(
                    r#"{{"retCode":{code},"retMsg":"{message}","result":{{}},"retExtInfo":{{}},"time":0}}"#
                )
            }
        };
        Self::json(status, body)
    }
}

/// What a fault does to the rows of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Usual,
    Empty,
    Disordered,
}

/// Which rows of a span are given when there are more than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    First,
    Last,
}

/// A span of open times in milliseconds: from the first to before the second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub from_ms: i64,
    pub until_ms: i64,
}

/// A request.
pub(crate) struct Asked<'a> {
    pub truth: &'a Truth,
    pub misbehaviour: &'a Misbehaviour,
    pub exchange: Exchange,
    /// Below the exchange's prefix, with `/` at its beginning.
    pub path: &'a str,
    pub query: &'a HashMap<String, String>,
    pub now_ms: i64,
    /// The time as the exchange says it.
    pub said_ms: i64,
    pub shape: Shape,
    /// Unified symbols that are delisted.
    pub delisted: &'a HashSet<String>,
}

impl<'a> Asked<'a> {
    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        self.query.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A whole number, or nothing when there is none.
    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        self.text(key)?.parse().ok()
    }

    pub(crate) fn error(&self, status: u16, code: i64, message: &str) -> Answer {
        Answer::error(self.exchange, status, code, message)
    }

    /// The symbol that the exchange calls so, while it is listed.
    pub(crate) fn series(&self, native: &str) -> Option<&'a Series> {
        self.truth.of_native(self.exchange, native).filter(|series| !self.delisted.contains(&series.symbol))
    }

    /// All listed symbols.
    pub(crate) fn listed(&self) -> impl Iterator<Item = &'a Series> {
        self.truth.all(self.exchange).iter().filter(|series| !self.delisted.contains(&series.symbol))
    }

    pub(crate) fn view(&self, series: &'a Series) -> View<'a> {
        View::new(self.truth, self.misbehaviour, series, self.now_ms)
    }

    /// The candles of a span as they are shown now, ascending unless a fault disorders them.
    pub(crate) fn rows(
        &self,
        view: &View<'_>,
        timeframe_ms: i64,
        span: Span,
        limit: usize,
        pick: Pick,
    ) -> Vec<Candle> {
        if self.shape == Shape::Empty {
            return Vec::new();
        }
        let up = |ms: i64| ms.saturating_add(timeframe_ms - 1).div_euclid(timeframe_ms);
        let first = up(span.from_ms.max(FIRST_MS));
        let open = ((view.newest + 1) * MINUTE_MS).div_euclid(timeframe_ms);
        let end = up(span.until_ms).min(open + 1);
        let mut rows = Vec::with_capacity(limit.min((end - first).max(0) as usize));
        let shown = |frame: i64| view.candle(frame * timeframe_ms, timeframe_ms);
        match pick {
            Pick::First => rows.extend((first..end).filter_map(shown).take(limit)),
            Pick::Last => {
                rows.extend((first..end).rev().filter_map(shown).take(limit));
                rows.reverse();
            }
        }
        if self.shape == Shape::Disordered {
            disorder(&mut rows, view, timeframe_ms);
        }
        rows
    }

    /// Whether nothing can change any more before a time.
    pub(crate) fn is_settled(&self, until_ms: i64) -> bool {
        self.shape == Shape::Usual && until_ms < self.now_ms - SETTLED_MS
    }
}

/// Puts older versions of minutes beside the right ones and rows out of their order. The last row stays the last: it
/// can be the open one, of which an exchange may promise that.
fn disorder(rows: &mut Vec<Candle>, view: &View<'_>, timeframe_ms: i64) {
    let Some(last) = rows.pop() else { return };
    let chance = mix(view.now_ms as u64, last.open_ms as u64);
    if timeframe_ms == MINUTE_MS {
        for place in (0..rows.len()).rev() {
            let drawn = mix(chance, place as u64);
            if drawn.is_multiple_of(5) || place == 0 {
                let earlier = view.series.earlier(rows[place].open_ms / MINUTE_MS);
                if let Some(earlier) =
                    earlier.filter(|earlier| earlier.volume.units < rows[place].volume.units)
                {
                    rows.insert(place + (drawn >> 32) as usize % 2, earlier);
                }
            }
        }
    }
    for place in 0..rows.len() {
        let other = mix(chance, 1_000_000 + place as u64) as usize % rows.len();
        if other.is_multiple_of(3) || place == 0 {
            rows.swap(place, other);
        }
    }
    rows.push(last);
}

/// The milliseconds of a timeframe such as `1m`.
pub(crate) fn timeframe_ms(timeframe: &str) -> Option<i64> {
    let minutes = match timeframe {
        "1m" => 1,
        "3m" => 3,
        "5m" => 5,
        "15m" => 15,
        "30m" => 30,
        "1h" => 60,
        "2h" => 120,
        "4h" => 240,
        "6h" => 360,
        "8h" => 480,
        "12h" => 720,
        "1d" => 1_440,
        _ => return None,
    };
    Some(minutes * MINUTE_MS)
}

/// Appends a whole number.
pub(crate) fn push_number(out: &mut String, number: i64) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// Appends `"text"` of a decimal with so many decimals.
pub(crate) fn push_quoted(out: &mut String, number: Decimal, decimals: u8) {
    out.push('"');
    number.push_padded(out, decimals);
    out.push('"');
}

/// `0.001` for 3 decimals: a step of prices or volumes.
pub(crate) fn step(decimals: u8) -> String {
    Decimal { units: 1, decimals }.to_string()
}

/// A time as `2026-01-02T03:04:05.678Z`.
pub(crate) fn iso(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => String::new(),
    }
}
