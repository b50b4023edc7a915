//! An exchange adapter of which tests make other versions, as of the rule `versions`: they replace the text [`VERSION`] in
//! the component's file.
//!
//! It has a candle for every minute, whose close counts minutes; its exchange is whoever answers.

use std::hint::black_box;

use tidegate_guest::exchange::{
    Adapter, Answer, Budget, Candles, ExchangeDescription, Failure, Quiet, Request, Step, Task, get,
};

/// What the version does, and its number.
#[used]
static VERSION: [u8; 40] = *b"VERSION-OF-THE-RULE:keep----:0000000000:";

/// Where in the text the word is.
const WORD: std::ops::Range<usize> = 20..28;

/// The host that it declares.
const HOST: &str = "api.versions.example";

const MINUTE_MS: i64 = 60_000;

/// The adapter.
#[derive(Debug, Default)]
struct VersionsAdapter;

fn word() -> String {
    // Without this the compiler knows the text, and no other can take its place.
    let version = black_box(&VERSION);
    String::from_utf8_lossy(&version[WORD]).trim_end_matches('-').to_owned()
}

impl Adapter for VersionsAdapter {
    const NAME: &'static str = "versions-adapter";
    const SUMMARY: &'static str = "Does what a text in its component says";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn exchanges() -> Vec<ExchangeDescription> {
        let mut hosts = vec![HOST.to_owned()];
        let mut timeframes = vec!["1m".to_owned()];
        match word().as_str() {
            "hosts" => hosts.push("elsewhere.example".to_owned()),
            "hours" => timeframes = vec!["1h".to_owned()],
            _ => {}
        }
        vec![ExchangeDescription {
            id: "versions".to_owned(),
            name: "Versions".to_owned(),
            hosts,
            timeframes,
            page_limit: 100,
            depth: None,
            budget: Budget { units: 60_000, window_ms: 60_000, burst: 60_000, used_header: None },
            quiet: Quiet::Row,
            has_feed: false,
        }]
    }

    fn next(task: &Task, answers: &[Answer]) -> Result<Step, Failure> {
        let word = word();
        if answers.is_empty() {
            assert!(word != "atonce", "this version traps at once");
            return Ok(Step::Requests(vec![ask(&word)]));
        }
        match word.as_str() {
            "trap" => panic!("this version traps"),
            "unknown" => return Err(Failure::BadSymbol("this version knows no symbol".to_owned())),
            "unread" => return Err(Failure::Unreadable("this version reads nothing".to_owned())),
            _ => {}
        }
        let mut timestamps: Vec<i64> = (task.since..task.until).step_by(MINUTE_MS as usize).collect();
        if word == "none" {
            timestamps.clear();
        }
        let times = if word == "lies" { 2.0 } else { 1.0 };
        let minutes: Vec<f64> =
            timestamps.iter().map(|open_ms| times * (open_ms / MINUTE_MS % 1_000 + 1) as f64).collect();
        let memo = if word == "new" { "of a new format" } else { "of an old format" };
        if !task.memo.is_empty() && task.memo != memo {
            return Err(Failure::Refused(format!("the memo is `{}`", task.memo)));
        }
        Ok(Step::Candles(Candles {
            timestamps,
            open: minutes.clone(),
            high: minutes.clone(),
            low: minutes.clone(),
            close: minutes.clone(),
            volume: minutes,
            trades: Vec::new(),
            quote_volume: Vec::new(),
            vwap: Vec::new(),
            memo: memo.to_owned(),
            unreadable: Vec::new(),
        }))
    }
}

/// What a simulated Binance answers.
fn ask(word: &str) -> Request {
    let host = if word == "strays" { "elsewhere.example" } else { HOST };
    let path = if word == "asks" { "exchangeInfo" } else { "time" };
    get(format!("https://{host}/api/v3/{path}"), 1)
}

tidegate_guest::export_adapter!(VersionsAdapter);
