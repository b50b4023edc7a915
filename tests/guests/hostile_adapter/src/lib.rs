//! An exchange adapter that misbehaves as the base of a symbol says, for the tests of the host: `TRAP/USD` panics,
//! `FINE/USD` has a candle for every minute.

use std::hint::black_box;

use tidegate_guest::exchange::{
    Adapter, Answer, Budget, Candles, ExchangeDescription, Failure, Header, LiveCandle, Quiet, Request, Step,
    Subscription, Task, Throttled, get,
};

/// The one host that it declares.
const HOST: &str = "api.hostile.example";

const MINUTE_MS: i64 = 60_000;

/// So long after a full hour `THROTTLED/USD` says that there were too many requests.
const THROTTLED_MS: i64 = 6 * MINUTE_MS;

/// A memo that is one byte too long.
const HUGE_MEMO_BYTES: usize = (64 << 10) + 1;

/// The size of a sentence that is above the least limit of an answer.
const HUGE_ANSWER_BYTES: usize = 2 << 20;

/// The adapter. It keeps the symbols of a live feed.
#[derive(Debug, Default)]
struct HostileAdapter {
    symbols: Vec<String>,
}

impl Adapter for HostileAdapter {
    const NAME: &'static str = "hostile-adapter";
    const SUMMARY: &'static str = "Breaks the contract";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn exchanges() -> Vec<ExchangeDescription> {
        vec![ExchangeDescription {
            id: "hostile".to_owned(),
            name: "Hostile".to_owned(),
            hosts: vec![HOST.to_owned()],
            timeframes: vec!["1m".to_owned()],
            page_limit: 100,
            depth: None,
            budget: Budget { units: 60_000, window_ms: 60_000, burst: 60_000, used_header: None },
            quiet: Quiet::Row,
            has_feed: true,
        }]
    }

    fn next(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
        let Some(mode) = task.symbol.split('/').next() else { return fine(task, answers) };
        match mode {
            "TRAP" => panic!("it always panics"),
            "LOOP" => loop_for_ever(),
            "MEMORY" => Ok(Step::Requests(eat_memory())),
            "RECURSE" => Err(Failure::Unreadable(deeper(0).to_string())),
            "ENDLESS" => Ok(Step::Requests(vec![honest()])),
            "NONE" => Ok(Step::Requests(Vec::new())),
            "MANY" => Ok(Step::Requests(vec![honest(); 17])),
            "THREE" => Ok(Step::Requests(vec![honest(); 16])),
            "BAD" => Err(Failure::BadSymbol("it was delisted".to_owned())),
            "REFUSED" => Err(Failure::Refused("not in your country".to_owned())),
            "DOWN" => Err(Failure::Unavailable("maintenance".to_owned())),
            "THROTTLED" => throttled(task, answers),
            "SENTENCE" => Err(Failure::Unreadable("x".repeat(HUGE_ANSWER_BYTES))),
            _ => match request(mode) {
                Some(request) => Ok(Step::Requests(vec![request])),
                None => fine(task, answers).map(|step| lie(mode, task, step)),
            },
        }
    }

    fn subscribe(&mut self, _: &str, _: &str, symbols: &[String]) -> Result<Subscription, String> {
        self.symbols = symbols.to_vec();
        let url = match symbols.first().and_then(|symbol| symbol.split('/').next()) {
            Some("FEEDHOST") => "wss://elsewhere.example/ws".to_owned(),
            Some("FEEDPLAIN") => format!("ws://{HOST}/ws"),
            Some("FEEDTRAP") => panic!("it does not subscribe"),
            _ => format!("wss://{HOST}/ws"),
        };
        // One that the simulated Binance answers.
        let frame = r#"{"method":"SUBSCRIBE","params":["btcusdt@kline_1m"],"id":1}"#;
        Ok(Subscription { url, frames: vec![frame.to_owned()], ping: None, ping_ms: 0 })
    }

    /// Whatever it hears, it says that an hour of minutes is over that has not begun.
    fn hear(&mut self, now: i64, _: &str) -> Result<Vec<LiveCandle>, String> {
        let open = now - now.rem_euclid(MINUTE_MS);
        let candle = |minute: i64| LiveCandle {
            symbol: self.symbols.first().cloned().unwrap_or_default(),
            timestamp: open + minute * MINUTE_MS,
            open: 1.0,
            high: 1.0,
            low: 1.0,
            close: 666.0,
            volume: 1.0,
            trades: None,
            quote_volume: None,
            vwap: None,
        };
        Ok((-1..60).map(candle).collect())
    }
}

/// A request that the host may send.
fn honest() -> Request {
    get(format!("https://{HOST}/api/v3/time"), 1)
}

/// A request that it may not.
fn request(mode: &str) -> Option<Request> {
    let url = match mode {
        "ELSEWHERE" => "https://elsewhere.example/api/v3/time".to_owned(),
        "PORT" => format!("https://{HOST}:8443/api/v3/time"),
        "BELOW" => format!("https://below.{HOST}/api/v3/time"),
        "PLAIN" => format!("http://{HOST}/api/v3/time"),
        "FILE" => "file:///etc/passwd".to_owned(),
        "USER" => format!("https://user:word@{HOST}/api/v3/time"),
        "DISGUISED" => format!("https://{HOST}@127.0.0.1/api/v3/time"),
        "LOCAL" => "https://localhost/api/v3/time".to_owned(),
        "METADATA" => "https://169.254.169.254/latest/meta-data".to_owned(),
        "RELATIVE" => "/api/v3/time".to_owned(),
        "LONG" => format!("https://{HOST}/{}", "x".repeat(16 << 10)),
        "METHOD" => return Some(Request { method: "DELETE".to_owned(), ..honest() }),
        "HEADER" => {
            let header = Header { name: "x-a".to_owned(), value: "b\r\nx-c: d".to_owned() };
            return Some(Request { headers: vec![header], ..honest() });
        }
        _ => return None,
    };
    Some(get(url, 1))
}

/// After one answer, a candle for every minute.
fn fine(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
    if answers.is_empty() {
        return Ok(Step::Requests(vec![honest()]));
    }
    let timestamps: Vec<i64> = (task.since..task.until).step_by(MINUTE_MS as usize).collect();
    let values = vec![1.0; timestamps.len()];
    Ok(Step::Candles(Candles {
        timestamps,
        open: values.clone(),
        high: values.clone(),
        low: values.clone(),
        close: values.clone(),
        volume: values,
        trades: Vec::new(),
        quote_volume: Vec::new(),
        vwap: Vec::new(),
        memo: String::new(),
        unreadable: Vec::new(),
    }))
}

/// The honest candles with something wrong in them.
fn lie(mode: &str, task: &Task, step: Step) -> Step {
    let Step::Candles(mut candles) = step else { return step };
    let Some(last) = candles.timestamps.len().checked_sub(1) else { return Step::Candles(candles) };
    match mode {
        "BEFORE" => candles.timestamps[0] = task.since - MINUTE_MS,
        "AFTER" => candles.timestamps[last] = task.until,
        "UNORDERED" => candles.timestamps.reverse(),
        "TWICE" => candles.timestamps[last] = task.since,
        "ODD" => candles.timestamps[last] += 1,
        "SHORT" => drop(candles.close.pop()),
        "LENGTHY" => candles.trades = vec![1; last + 2],
        "MEMO" => candles.memo = "x".repeat(HUGE_MEMO_BYTES),
        "UNREADABLE" => candles.unreadable = vec!["x".repeat(1 << 20); 20],
        _ => {}
    }
    Step::Candles(candles)
}

/// Too many requests in the first minutes of an hour, and until when.
fn throttled(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
    let hour = task.now - task.now.rem_euclid(60 * MINUTE_MS);
    if task.now >= hour + THROTTLED_MS {
        return fine(task, answers);
    }
    let until = Some(hour + THROTTLED_MS);
    Err(Failure::Throttled(Throttled { until, detail: "you ask too often".to_owned() }))
}

fn loop_for_ever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn eat_memory() -> Vec<Request> {
    let mut blocks = Vec::new();
    loop {
        blocks.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Recursion that no optimiser turns into a loop.
fn deeper(depth: u64) -> u64 {
    if black_box(depth) == u64::MAX {
        return 0;
    }
    black_box(deeper(depth + 1)) + 1
}

tidegate_guest::export_adapter!(HostileAdapter);
