//! For unit tests of adapters: tasks, recorded answers, and what the adapter makes of them, checked as the host checks
//! it.

use super::{Adapter, Answer, Candles, Failure, Request, Step, Task, timeframe_ms};

/// A task whose last candle has just been closed: `now` is `until`. Times are in milliseconds since 1970.
pub fn task(exchange: &str, symbol: &str, timeframe: &str, since: i64, until: i64) -> Task {
    Task {
        exchange: exchange.to_owned(),
        symbol: symbol.to_owned(),
        timeframe: timeframe.to_owned(),
        since,
        until,
        now: until,
        memo: String::new(),
    }
}

/// An answer without headers.
pub fn answer(status: u16, body: impl Into<String>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into() }
}

/// The requests with which an adapter begins a task.
///
/// # Panics
/// When it makes none, more than 16, or one that the host would refuse: not `https`, or to a host that the adapter has
/// not declared for the exchange.
pub fn ask<A: Adapter>(task: &Task) -> Vec<Request> {
    let requests = match A::next(task, &[]) {
        Ok(Step::Requests(requests)) => requests,
        other => panic!("expected requests, actual {other:?}"),
    };
    assert!((1..=16).contains(&requests.len()), "expected 1 to 16 requests, actual {}", requests.len());
    let hosts: Vec<String> = A::exchanges()
        .into_iter()
        .filter(|exchange| exchange.id == task.exchange)
        .flat_map(|exchange| exchange.hosts)
        .collect();
    for request in &requests {
        let host = request.url.strip_prefix("https://").and_then(|rest| rest.split(['/', '?', '#']).next());
        let is_declared = host.is_some_and(|host| hosts.iter().any(|declared| declared == host));
        assert!(is_declared, "`{}` is not `https` to one of {hosts:?}", request.url);
    }
    requests
}

/// The candles that an adapter makes of the answers.
///
/// # Panics
/// When it fails or asks for more, or when the candles break the contract ([`check_candles`]).
pub fn candles<A: Adapter>(task: &Task, answers: &[Answer]) -> Candles {
    match A::next(task, answers) {
        Ok(Step::Candles(candles)) => {
            check_candles(task, &candles);
            candles
        }
        other => panic!("expected candles, actual {other:?}"),
    }
}

/// Why an adapter makes no candles of the answers.
///
/// # Panics
/// When it makes candles of them, or asks for more.
pub fn failure<A: Adapter>(task: &Task, answers: &[Answer]) -> Failure {
    match A::next(task, answers) {
        Err(failure) | Ok(Step::Failed(failure)) => failure,
        other => panic!("expected a failure, actual {other:?}"),
    }
}

/// Checks candles against the contract: lists of one length, ascending, each open time once, within the task, multiples
/// of the timeframe.
///
/// # Panics
/// When they break it.
pub fn check_candles(task: &Task, candles: &Candles) {
    let rows = candles.timestamps.len();
    let required = [&candles.open, &candles.high, &candles.low, &candles.close, &candles.volume];
    assert!(required.iter().all(|list| list.len() == rows), "the lists differ in length: {candles:?}");
    let optional = [candles.trades.len(), candles.quote_volume.len(), candles.vwap.len()];
    assert!(
        optional.iter().all(|length| [0, rows].contains(length)),
        "an optional list is neither empty nor complete: {candles:?}"
    );
    assert!(candles.timestamps.is_sorted_by(|a, b| a < b), "not ascending: {:?}", candles.timestamps);
    let step_ms = timeframe_ms(&task.timeframe).expect("the task has a timeframe of the contract");
    for timestamp in &candles.timestamps {
        assert!((task.since..task.until).contains(timestamp), "{timestamp} is outside the task");
        assert_eq!(timestamp.rem_euclid(step_ms), 0, "{timestamp} is no multiple of `{}`", task.timeframe);
    }
    assert!(candles.memo.len() <= 64 << 10, "the memo has {} bytes", candles.memo.len());
}
