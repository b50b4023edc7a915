//! `cargo xtask sample`: made-up candles, the same on every machine.
//!
//! Three exchanges, six series, a candle a minute, each written as the collector of its exchange would send it.
//! Between the right rows lie the ones of [`FAULTS`], each with what must become of it; so the expected outcome
//! is made by the same table as the rows.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{root, write_if_changed};

/// 2026-01-05T00:00:00Z, a Monday, in milliseconds since 1970.
const DAY_START_MS: i64 = 1_767_571_200_000;
const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: usize = 1_440;
const DAY_MS: i64 = DAY_MINUTES as i64 * MINUTE_MS;

/// Any number would do; this one has made the committed file.
const SEED: u64 = 20_260_105;

/// Arguments of `cargo xtask sample`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Write nothing; fail when the committed files are not what would be written
    #[arg(long)]
    pub check: bool,
}

/// Writes the sample and what must come out of it.
pub fn command(arguments: &Arguments) -> Result<()> {
    let folder = root().join("pipelines");
    for (name, content) in [
        ("quickstart.jsonl", day()),
        ("quickstart.cases/day/summary.json", QUICKSTART.summary()),
        ("quickstart.cases/day/rejected.jsonl", QUICKSTART.rejects()),
        ("validate.cases/day/summary.json", VALIDATE.summary()),
        ("validate.cases/day/rejected.jsonl", VALIDATE.rejects()),
        ("load.cases/day/summary.json", LOAD.summary()),
        ("load.cases/day/rejected.jsonl", LOAD.rejects()),
    ] {
        let path = folder.join(name);
        if arguments.check {
            if std::fs::read(&path).ok().as_deref() != Some(&content) {
                bail!("`{}` is not what the generator makes: run `cargo xtask sample`", path.display());
            }
        } else if write_if_changed(&path, &content)? {
            eprintln!("sample: wrote {}", path.display());
        }
    }
    Ok(())
}

/// A market on an exchange.
struct Series {
    source: &'static str,
    symbol: &'static str,
    /// Price of the first candle, in hundredths.
    start: i64,
}

const SERIES: [Series; 6] = [
    Series { source: "binance", symbol: "BTC/USDT", start: 9_314_250 },
    Series { source: "binance", symbol: "ETH/USDT", start: 318_420 },
    Series { source: "coinbase", symbol: "BTC/USD", start: 9_311_875 },
    Series { source: "coinbase", symbol: "ETH/USD", start: 318_305 },
    Series { source: "kraken", symbol: "BTC/USD", start: 9_312_640 },
    Series { source: "kraken", symbol: "SOL/USD", start: 13_655 },
];

/// A column of a candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Timestamp,
    Open,
    High,
    Low,
    Close,
    Volume,
    Source,
    Symbol,
    Timeframe,
}

/// What is different about a faulty row. It is otherwise a repetition of the right row before it.
enum Change {
    /// The fields have these values, written in JSON.
    Set(&'static [(Field, &'static str)]),
    /// The field is not there.
    LeaveOut(Field),
    /// The timestamp is in units of so many to the second.
    PerSecond(i64),
    /// All prices are so many times as high.
    PricesTimes(i64),
    /// Nothing is: it is an exact duplicate of the right row that came so many right rows before.
    Again(usize),
    /// The exchange has corrected the close to the low.
    Corrected,
    /// The line ends in its middle.
    Cut,
    /// The symbol's first byte is one that UTF-8 never has.
    InvalidByte,
    /// The line is this text.
    Line(&'static str),
}

/// What must become of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is written.
    Written,
    /// It goes to the dead letter: rule and reason.
    Rejected(&'static str, &'static str),
    /// The rule `dedup` drops it.
    Dropped,
    /// It is empty.
    Tombstone,
}

/// A row that is not right.
struct Fault {
    /// Its offset in a day's file.
    offset: usize,
    change: Change,
    fate: Fate,
}

const fn fault(offset: usize, change: Change, rule: &'static str, reason: &'static str) -> Fault {
    Fault { offset, change, fate: Fate::Rejected(rule, reason) }
}

/// The rows of a day that are not right, in their order. Offsets count from 0 as in the dead letter.
const FAULTS: [Fault; 41] = {
    use Change::{Again, Corrected, Cut, InvalidByte, LeaveOut, Line, PerSecond, PricesTimes, Set};
    use Field::{Close, High, Low, Open, Source, Symbol, Timeframe, Timestamp, Volume};
    [
        fault(100, LeaveOut(Close), "validate", "missing_field"),
        fault(201, Set(&[(Volume, "null")]), "validate", "missing_field"),
        fault(302, PerSecond(1), "validate", "timestamp_in_seconds"),
        fault(403, PerSecond(1_000_000), "validate", "timestamp_in_microseconds"),
        fault(504, PerSecond(1_000_000_000), "validate", "timestamp_in_nanoseconds"),
        // 2100-01-01T00:00:00Z
        fault(605, Set(&[(Timestamp, "4102444800000")]), "validate", "timestamp_in_future"),
        // 2008-01-01T00:00:00Z, a year before the first candle of Bitcoin
        fault(706, Set(&[(Timestamp, "1199145600000")]), "validate", "timestamp_too_early"),
        fault(807, Set(&[(Timestamp, "0")]), "validate", "timestamp_too_early"),
        // 2026-01-05T00:00:30Z
        fault(908, Set(&[(Timestamp, "1767571230000")]), "validate", "off_grid"),
        fault(1_009, Set(&[(Close, "\"NaN\"")]), "validate", "price_not_finite"),
        fault(1_110, Set(&[(High, "\"Infinity\"")]), "validate", "price_not_finite"),
        fault(1_211, Set(&[(Open, "0")]), "validate", "price_not_positive"),
        fault(1_312, Set(&[(Low, "\"-1.50\"")]), "validate", "price_not_positive"),
        fault(1_413, Set(&[(High, "100.00"), (Low, "101.00")]), "validate", "high_below_low"),
        fault(1_514, Set(&[(Open, "999999.00")]), "validate", "high_below_body"),
        fault(1_615, Set(&[(Close, "\"0.01\"")]), "validate", "low_above_body"),
        fault(1_716, Set(&[(Volume, "-0.5")]), "validate", "negative_volume"),
        fault(1_817, Set(&[(Volume, "\"NaN\"")]), "validate", "volume_not_finite"),
        fault(1_918, Set(&[(Source, "\"mtgox\"")]), "validate", "unknown_source"),
        fault(2_019, Set(&[(Source, "\"the exchange\"")]), "validate", "malformed_source"),
        fault(2_120, Set(&[(Symbol, "\"BTCUSD\"")]), "validate", "malformed_symbol"),
        fault(2_221, Set(&[(Timeframe, "\"one minute\"")]), "validate", "malformed_timeframe"),
        fault(2_322, PricesTimes(10), "validate", "price_jump"),
        // Several faults: the first of the rule's order is the reason, the detail counts them.
        fault(2_423, Set(&[(Timestamp, "null"), (Close, "-1"), (Volume, "-1")]), "validate", "missing_field"),
        fault(2_524, Set(&[(Source, "\"mtgox\""), (High, "0")]), "validate", "unknown_source"),
        fault(2_625, Cut, "decode", "malformed"),
        fault(2_726, Line("{\"timestamp\": 1767571200000, \"open\": NaN}"), "decode", "malformed"),
        fault(2_827, Line("<html><body>502 Bad Gateway</body></html>"), "decode", "malformed"),
        fault(2_928, Set(&[(Open, "{\"amount\":1}")]), "decode", "wrong_type"),
        fault(3_029, Set(&[(Close, "\"about a hundred\"")]), "decode", "wrong_type"),
        fault(3_130, Set(&[(High, "1e400")]), "decode", "out_of_range"),
        fault(3_231, Line("{\"close\": 1, \"close\": 2}"), "decode", "duplicate_field"),
        fault(3_332, Line("[1767571200000, 1, 2, 0.5, 1.5, 10]"), "decode", "not_a_row"),
        fault(3_433, InvalidByte, "decode", "invalid_utf8"),
        Fault { offset: 3_534, change: Line(""), fate: Fate::Tombstone },
        // An exchange that repeats itself at once, after two minutes, and after hours.
        Fault { offset: 4_000, change: Again(1), fate: Fate::Dropped },
        Fault { offset: 5_000, change: Again(12), fate: Fate::Dropped },
        Fault { offset: 6_000, change: Again(1_800), fate: Fate::Dropped },
        // Written again as revision 1, in the place of revision 0.
        Fault { offset: 7_000, change: Corrected, fate: Fate::Written },
        // The last rows of the day, so that the end of the file has something in it.
        fault(8_679, Set(&[(Symbol, "\"\"")]), "validate", "malformed_symbol"),
        fault(8_680, LeaveOut(Source), "validate", "missing_field"),
    ]
};

/// The next of a row of numbers that look random: splitmix64, in integers, so that it is the same everywhere.
pub struct Numbers(u64);

impl Numbers {
    /// Those that begin with `seed`.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to and without `end`.
    pub fn below(&mut self, end: i64) -> i64 {
        (self.next() % end.max(1) as u64) as i64
    }

    /// From nothing up to and without `end`.
    pub fn duration_below(&mut self, end: std::time::Duration) -> std::time::Duration {
        std::time::Duration::from_micros(self.next() % (end.as_micros() as u64).max(1))
    }
}

/// A right candle. Prices are in hundredths, the volume in ten-thousandths: integers are the same everywhere.
#[derive(Clone, Copy)]
struct Candle {
    series: usize,
    timestamp_ms: i64,
    open: i64,
    high: i64,
    low: i64,
    close: i64,
    volume: i64,
    trades: i64,
}

/// The right candles, minute by minute, series by series.
struct Market {
    numbers: Numbers,
    closes: [i64; SERIES.len()],
    series: usize,
    timestamp_ms: i64,
}

impl Market {
    fn new(start_ms: i64) -> Market {
        Market {
            numbers: Numbers::new(SEED),
            closes: SERIES.map(|series| series.start),
            series: 0,
            timestamp_ms: start_ms,
        }
    }

    fn next(&mut self) -> Candle {
        let series = self.series;
        let (start, open) = (SERIES[series].start, self.closes[series]);
        // A step of at most a thousandth, and a pull towards the start: the price neither dies nor explodes.
        let step = start / 1_000;
        let close = open + self.numbers.below(2 * step + 1) - step + (start - open) / 500;
        let candle = Candle {
            series,
            timestamp_ms: self.timestamp_ms,
            open,
            close,
            high: open.max(close) + self.numbers.below(step),
            low: open.min(close) - self.numbers.below(step),
            volume: 1 + self.numbers.below(500_000),
            trades: 1 + self.numbers.below(400),
        };
        self.closes[series] = close;
        self.series = (series + 1) % SERIES.len();
        if self.series == 0 {
            self.timestamp_ms += MINUTE_MS;
        }
        candle
    }
}

/// An integer of so many decimal places as a decimal number.
fn decimal(value: i64, places: u32) -> String {
    let one = 10_i64.pow(places);
    format!("{}.{:0width$}", value / one, value % one, width = places as usize)
}

/// The keys and values of a row in JSON, as the collector of its exchange sends them.
struct Row {
    fields: Vec<(Option<Field>, &'static str, String)>,
}

impl Row {
    fn of(candle: &Candle) -> Row {
        let Series { source, symbol, .. } = SERIES[candle.series];
        let (open, high) = (decimal(candle.open, 2), decimal(candle.high, 2));
        let (low, close) = (decimal(candle.low, 2), decimal(candle.close, 2));
        let volume = decimal(candle.volume, 4);
        let text = |value: &str| format!("\"{value}\"");
        let known = |field, key, value| (Some(field), key, value);
        let fields = match source {
            // Prices as texts, names in camel case.
            "binance" => vec![
                known(Field::Timestamp, "openTime", candle.timestamp_ms.to_string()),
                known(Field::Open, "open", text(&open)),
                known(Field::High, "high", text(&high)),
                known(Field::Low, "low", text(&low)),
                known(Field::Close, "close", text(&close)),
                known(Field::Volume, "volume", text(&volume)),
                known(Field::Source, "source", text(source)),
                known(Field::Symbol, "symbol", text(symbol)),
                known(Field::Timeframe, "interval", text("1m")),
            ],
            // Numbers, low before high, and names of its own.
            "coinbase" => vec![
                known(Field::Timestamp, "time", candle.timestamp_ms.to_string()),
                known(Field::Low, "low", low),
                known(Field::High, "high", high),
                known(Field::Open, "open", open),
                known(Field::Close, "close", close),
                known(Field::Volume, "volume", volume),
                known(Field::Source, "exchange_id", text(source)),
                known(Field::Symbol, "market", text(symbol)),
                known(Field::Timeframe, "tf", text("1m")),
            ],
            // Texts under single letters, and two keys that nobody asked for.
            _ => vec![
                known(Field::Timestamp, "t", candle.timestamp_ms.to_string()),
                known(Field::Open, "o", text(&open)),
                known(Field::High, "h", text(&high)),
                known(Field::Low, "l", text(&low)),
                known(Field::Close, "c", text(&close)),
                (None, "vwap", text(&decimal((candle.high + candle.low + candle.close) / 3, 2))),
                known(Field::Volume, "v", text(&volume)),
                (None, "count", candle.trades.to_string()),
                known(Field::Source, "source", text(source)),
                known(Field::Symbol, "pair", text(symbol)),
                known(Field::Timeframe, "timeframe", text("1m")),
            ],
        };
        Row { fields }
    }

    fn set(&mut self, field: Field, value: &str) {
        for (_, _, present) in self.fields.iter_mut().filter(|(name, _, _)| *name == Some(field)) {
            value.clone_into(present);
        }
    }

    fn line(&self) -> String {
        let pairs: Vec<_> = self.fields.iter().map(|(_, key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", pairs.join(","))
    }
}

/// The bytes of a faulty row. `before` has the right rows before it, the last one at its end.
fn faulty(change: &Change, before: &[Candle]) -> Vec<u8> {
    let candle = before[before.len() - 1];
    let mut row = Row::of(&candle);
    match change {
        Change::Set(values) => values.iter().for_each(|(field, value)| row.set(*field, value)),
        Change::LeaveOut(left_out) => row.fields.retain(|(field, _, _)| *field != Some(*left_out)),
        Change::PerSecond(units) => {
            row.set(Field::Timestamp, &(candle.timestamp_ms / 1_000 * units).to_string());
        }
        Change::PricesTimes(factor) => {
            let Candle { open, high, low, close, .. } = candle;
            let prices = Candle {
                open: open * factor,
                high: high * factor,
                low: low * factor,
                close: close * factor,
                ..candle
            };
            row = Row::of(&prices);
        }
        Change::Again(back) => row = Row::of(&before[before.len() - back]),
        Change::Corrected => row = Row::of(&Candle { close: candle.low, ..candle }),
        Change::Cut => {
            let mut line = row.line().into_bytes();
            line.truncate(line.len() / 2);
            return line;
        }
        Change::InvalidByte => {
            let mut line = row.line().into_bytes();
            let symbol = SERIES[candle.series].symbol.as_bytes();
            let place = line.windows(symbol.len()).position(|window| window == symbol);
            line[place.unwrap_or(0)] = 0xff;
            return line;
        }
        Change::Line(line) => return line.as_bytes().to_vec(),
    }
    row.line().into_bytes()
}

/// Writes a day's lines, at most `limit` of them; gives how many it wrote.
fn write_day(market: &mut Market, limit: usize, out: &mut dyn Write) -> io::Result<usize> {
    let mut before: Vec<Candle> = Vec::with_capacity(DAY_MINUTES * SERIES.len());
    let mut faults = FAULTS.iter().peekable();
    let mut lines = 0;
    while lines < limit {
        let line = match faults.next_if(|fault| fault.offset == lines) {
            Some(fault) => faulty(&fault.change, &before),
            None if before.len() < DAY_MINUTES * SERIES.len() => {
                before.push(market.next());
                Row::of(&before[before.len() - 1]).line().into_bytes()
            }
            None => break,
        };
        out.write_all(&line)?;
        out.write_all(b"\n")?;
        lines += 1;
    }
    Ok(lines)
}

/// The committed sample.
pub fn day() -> Vec<u8> {
    let mut lines = Vec::new();
    write_day(&mut Market::new(DAY_START_MS), usize::MAX, &mut lines).expect("memory takes every line");
    lines
}

/// Writes so many lines of the same kind, day after day up to the day of the sample.
pub fn write_rows(path: &Path, rows: usize) -> Result<()> {
    let day_rows = DAY_MINUTES * SERIES.len() + FAULTS.len();
    let days = rows.div_ceil(day_rows);
    let mut market = Market::new(DAY_START_MS - (days as i64 - 1) * DAY_MS);
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    let mut left = rows;
    while left > 0 {
        left -= write_day(&mut market, left, &mut file)?;
    }
    file.flush()?;
    Ok(())
}

/// What must come of the sample in a pipeline.
struct Case {
    pipeline: &'static str,
    rules: Rules,
}

/// The rules of a pipeline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// None: rows are decoded and no more.
    None,
    /// All three; `validate` does not look at jumps of the price.
    WithoutJumps,
    /// All three; `validate` looks at jumps of the price.
    WithJumps,
}

const QUICKSTART: Case = Case { pipeline: "quickstart", rules: Rules::WithJumps };
const VALIDATE: Case = Case { pipeline: "validate", rules: Rules::WithoutJumps };
const LOAD: Case = Case { pipeline: "load", rules: Rules::None };

impl Case {
    fn fate(&self, fault: &Fault) -> Fate {
        match (fault.fate, self.rules) {
            (Fate::Rejected("decode", _) | Fate::Tombstone, _) | (_, Rules::WithJumps) => fault.fate,
            (_, Rules::None) | (Fate::Rejected(_, "price_jump"), Rules::WithoutJumps) => Fate::Written,
            (fate, Rules::WithoutJumps) => fate,
        }
    }

    /// In the form of the summary that `tidegate run --json` writes.
    fn summary(&self) -> Vec<u8> {
        let mut rejected: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for fault in &FAULTS {
            if let Fate::Rejected(rule, reason) = self.fate(fault) {
                *rejected.entry((rule, reason)).or_default() += 1;
            }
        }
        let with = |fate: Fate| FAULTS.iter().filter(|fault| self.fate(fault) == fate).count();
        let right = DAY_MINUTES * SERIES.len();
        let by = |((rule, reason), count)| json!({ "rule": rule, "reason": reason, "count": count });
        let dropped = with(Fate::Dropped);
        let dropped_by = if dropped > 0 { json!([{ "rule": "dedup", "count": dropped }]) } else { json!([]) };
        let summary: Value = json!({
            "pipeline": self.pipeline,
            "read": right + FAULTS.len(),
            "written": right + with(Fate::Written),
            "rejected": rejected.values().sum::<usize>(),
            "dropped": dropped,
            "tombstones": with(Fate::Tombstone),
            "rejected_by": rejected.into_iter().map(by).collect::<Vec<_>>(),
            "dropped_by": dropped_by,
        });
        format!("{summary:#}\n").into_bytes()
    }

    /// The offset is the row's in the file, whichever partition it goes to.
    fn rejects(&self) -> Vec<u8> {
        let mut lines = String::new();
        for fault in &FAULTS {
            if let Fate::Rejected(rule, reason) = self.fate(fault) {
                let line = json!({ "offset": fault.offset, "rule": rule, "reason": reason });
                lines.push_str(&format!("{line}\n"));
            }
        }
        lines.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_sample_is_what_the_generator_makes() {
        command(&Arguments { check: true }).unwrap();
    }

    #[test]
    fn the_sample_fits_into_two_mebibytes_and_has_every_fault() {
        let day = day();
        assert!(day.len() < 2 << 20, "{} bytes", day.len());
        let lines = day.split(|byte| *byte == b'\n').count() - 1;
        assert_eq!(lines, DAY_MINUTES * SERIES.len() + FAULTS.len());
    }

    #[test]
    fn prices_stay_near_their_start_for_months() {
        let mut market = Market::new(DAY_START_MS);
        for _ in 0..1_000_000 {
            let candle = market.next();
            let start = SERIES[candle.series].start;
            assert!(candle.low > start / 2 && candle.high < start * 2, "{} {}", candle.low, candle.high);
            assert!(
                candle.low <= candle.open.min(candle.close) && candle.open.max(candle.close) <= candle.high
            );
        }
    }

    #[test]
    fn many_rows_end_with_the_day_of_the_sample() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        write_rows(&path, 20_000).unwrap();
        let text = std::fs::read(&path).unwrap();
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 20_000);
        let first: Value = serde_json::from_slice(text.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
        assert_eq!(first["openTime"], DAY_START_MS - 2 * DAY_MS);
    }
}
