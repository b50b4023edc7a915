//! A process that is killed or stopped at any moment loses no row and doubles none.

use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use xtask::chaos::{Chaos, Verdict};

use crate::harness::{Database, Folder, RULES, Running, guests, integer, start};

/// The moments of kills come from how long a run takes, so the tests of this file do not slow each other down.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Different in each run of the tests; printed, so that a failure can be made again.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = now.as_nanos() as u64;
    eprintln!("seed {seed}");
    seed
}

#[test]
fn twenty_kills_lose_nothing_and_double_nothing_in_a_database() {
    let _alone = one_at_a_time();
    let folder = Folder::new();
    let chaos = Chaos {
        tidegate: env!("CARGO_BIN_EXE_tidegate").into(),
        guests: guests(),
        folder: folder.path("."),
        rows: 300_000,
        kills: 20,
        seed: seed(),
    };
    let Verdict { kills, lost, doubled, .. } = chaos.run().unwrap();
    assert_eq!((kills, lost, doubled), (20, 0, 0));
}

/// A folder with so many rows and a pipeline that writes them with many commits.
fn rows(rows: usize, sink: &str) -> Folder {
    let folder = Folder::new();
    xtask::sample::write_rows(&folder.path("rows.jsonl"), rows).unwrap();
    folder.pipeline("rows.jsonl", &format!("{RULES}{sink}batch: {{ rows: 500 }}\n"));
    folder
}

fn begin(folder: &Folder) -> Running {
    start(folder.command().stdin(Stdio::null()))
}

#[test]
fn kills_leave_no_trace_in_files() {
    let _alone = one_at_a_time();
    let sink = "sink: { file: { path: out.jsonl } }\ndead_letter: { file: { path: bad.jsonl } }\n";
    let alone = rows(80_000, sink);
    alone.summary();

    let killed = rows(80_000, sink);
    let size = || std::fs::metadata(killed.path("out.jsonl")).map_or(0, |metadata| metadata.len());
    let mut moment = seed();
    for _ in 0..5 {
        let mut running = begin(&killed);
        // What was written before this start stays, so the file grows once a batch of this process is there.
        let before = size();
        running.wait_until(|| size() > before);
        // Any multiplier that is odd would do: the moments only have to differ.
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Five times this, and five batches, are a small part of the whole run.
        std::thread::sleep(Duration::from_micros((moment >> 32) % 20_000));
        running.child.kill().unwrap();
        let status = running.child.wait().unwrap();
        assert!(!status.success(), "it came to its end before the kill");
    }
    let rest = killed.summary();
    assert!(rest["read"].as_u64().unwrap() < 80_000, "the last run has not started over");
    for name in ["out.jsonl", "bad.jsonl"] {
        assert!(alone.read(name) == killed.read(name), "`{name}` differs after the kills");
    }
}

const DATABASE: &str = "sink: { sqlite: { path: out.db } }\n";

#[test]
fn ctrl_c_finishes_the_batch_and_the_next_run_goes_on() {
    let _alone = one_at_a_time();
    let alone = rows(60_000, DATABASE);
    let all = alone.summary()["read"].as_u64().unwrap();

    let stopped = rows(60_000, DATABASE);
    let mut running = begin(&stopped);
    running.wait_until(|| stopped.path("out.db-wal").exists() && rows_done(&stopped) > 0);
    running.interrupt();
    let summary = running.finish().summary();
    let read = summary["read"].as_u64().unwrap();
    assert_eq!(summary["stopped"], true);
    assert!(0 < read && read < all, "{read} of {all} rows");
    assert_eq!(rows_done(&stopped), read);

    let rest = stopped.summary();
    assert_eq!(rest["read"].as_u64().unwrap(), all - read);
    assert_eq!(rest["stopped"], false);
    for table in ["candles", "dead_letter"] {
        assert!(alone.table(table) == stopped.table(table), "`{table}` differs after the stop");
    }
}

/// The position in `out.db`, 0 before there is one.
fn rows_done(folder: &Folder) -> u64 {
    let database = Database::open(&folder.path("out.db"));
    if database.columns("tidegate_positions").is_empty() {
        return 0;
    }
    let rows = database.query("SELECT next_offset FROM tidegate_positions");
    rows.first().map_or(0, |row| integer(&row[0]).unsigned_abs())
}

/// A pipeline that waits at a standard input which is open and silent.
fn waiting(batch: &str) -> (Folder, Running) {
    let folder = Folder::new();
    folder.pipeline("'-'", &format!("{RULES}{DATABASE}{batch}"));
    let mut running = start(folder.command().stdin(Stdio::piped()));
    // Nobody may look into the database before it has its log.
    running.wait_until(|| {
        folder.path("out.db-wal").exists()
            && !Database::open(&folder.path("out.db")).columns("candles").is_empty()
    });
    // From the open sink to the wait for the first row it is not far.
    std::thread::sleep(Duration::from_secs(1));
    (folder, running)
}

#[test]
fn ctrl_c_ends_a_wait_for_input() {
    let _alone = one_at_a_time();
    let (_folder, mut running) = waiting("");
    // The end of the input would end the run as well.
    let input = running.child.stdin.take();
    running.interrupt();
    let summary = running.finish().summary();
    drop(input);
    assert_eq!((&summary["stopped"], &summary["read"]), (&true.into(), &0.into()));
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let _alone = one_at_a_time();
    // A batch may take an hour, so one signal does not end it.
    let (_folder, mut running) = waiting("batch: { wait: 1h }\n");
    let input = running.child.stdin.take();
    running.interrupt();
    // Two signals that come before the first is taken are one.
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.child.try_wait().unwrap().is_none(), "the first Ctrl-C waits for the batch");
    running.interrupt();
    let outcome = running.finish();
    drop(input);
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
}

/// A candle of a series in which nothing happens, `minute` minutes after the start of 2026.
fn candle(symbol: &str, timeframe: &str, minute: i64, close: f64) -> String {
    let timestamp = 1_767_225_600_000 + minute * 60_000;
    format!(
        "{{\"timestamp\":{timestamp},\"open\":1,\"high\":9,\"low\":1,\"close\":{close:?},\"volume\":1,\
         \"source\":\"kraken\",\"symbol\":\"{symbol}\",\"timeframe\":\"{timeframe}\"}}\n"
    )
}

/// Each series has its own newest candle, so one that lags behind the others by days is remembered all the same.
#[test]
fn series_that_lag_are_remembered_after_a_restart() {
    let dedup = "rules:\n  - { name: dedup, component: dedup, settings: { window: 24h } }\n";
    for format in ["jsonl", "parquet", "sqlite"] {
        let folder = Folder::new();
        let sink = match format {
            "sqlite" => "sink: { sqlite: { path: out.db } }\n".to_owned(),
            _ => format!("sink: {{ file: {{ path: out, format: {format} }} }}\n"),
        };
        let late = [candle("BTC/USD", "1d", 0, 2.0), candle("ETH/USD", "1m", 7, 2.0)];
        // Two days later.
        folder.write("candles.jsonl", late.concat() + &candle("BTC/USD", "1m", 2 * 1440, 2.0));
        folder.pipeline("candles.jsonl", &format!("{dedup}{sink}"));
        assert_eq!(folder.summary()["written"], 3);

        let corrections = [candle("BTC/USD", "1d", 0, 3.0), candle("ETH/USD", "1m", 7, 3.0)];
        folder.append("candles.jsonl", late.concat() + &corrections.concat());
        let summary = folder.summary();
        assert_eq!((&summary["dropped"], &summary["written"]), (&2.into(), &2.into()), "{format}: {summary}");
        if format == "sqlite" {
            let rows = Database::open(&folder.path("out.db"))
                .query("SELECT revision FROM candles WHERE close = 3 ORDER BY symbol");
            assert_eq!(rows.iter().map(|row| integer(&row[0])).collect::<Vec<_>>(), [1, 1]);
        }
    }
}
