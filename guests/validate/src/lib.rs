//! The rule `validate`: rejects candles that cannot be right.
//!
//! What is checked, in the order in which the first fault of a row is reported: see [`Reason`]. A row with
//! several faults names them all in its detail.
//!
//! Almost all rows are right, so the rule decides in two steps: `suspects` passes over the columns and finds the
//! rows that might be wrong; only those are looked at again by `faults`, check by check, to say what is wrong.
//! Texts are judged once for each text of a dictionary and not once a row.

mod calendar;
mod faults;
mod jump;
mod suspects;
mod words;

use schemars::JsonSchema;
use serde::Deserialize;
use tidegate_guest::{
    Batch, Duration, Floats, InputColumn, Kind, Outcome, OutputColumn, Rule, SeriesColumns, Timestamps, input,
};

pub use calendar::Date;
use calendar::Grid;
use jump::Closes;

tidegate_guest::reasons! {
    /// Why a row is rejected, in the order in which the first fault of a row is chosen.
    pub enum Reason {
        /// A required field is absent or null.
        MissingField = "missing_field",
        /// The source is not a name of 1 to 64 letters, digits, `.`, `-` and `_`.
        MalformedSource = "malformed_source",
        /// The source is not in the setting `sources`.
        UnknownSource = "unknown_source",
        /// The symbol is not `BASE/QUOTE` or `BASE/QUOTE:SETTLE`.
        MalformedSymbol = "malformed_symbol",
        /// The timeframe is not a number and one of `s`, `m`, `h`, `d`, `w`, `M`.
        MalformedTimeframe = "malformed_timeframe",
        /// The timestamp makes sense only as seconds.
        TimestampInSeconds = "timestamp_in_seconds",
        /// The timestamp makes sense only as microseconds.
        TimestampInMicroseconds = "timestamp_in_microseconds",
        /// The timestamp makes sense only as nanoseconds.
        TimestampInNanoseconds = "timestamp_in_nanoseconds",
        /// The timestamp is before the setting `earliest`.
        TimestampTooEarly = "timestamp_too_early",
        /// The timestamp is later than now and the setting `max_future`.
        TimestampInFuture = "timestamp_in_future",
        /// The timestamp is not a multiple of the timeframe.
        OffGrid = "off_grid",
        /// A price is NaN or infinite.
        PriceNotFinite = "price_not_finite",
        /// A price is zero or negative.
        PriceNotPositive = "price_not_positive",
        /// High is below low.
        HighBelowLow = "high_below_low",
        /// High is below open or close.
        HighBelowBody = "high_below_body",
        /// Low is above open or close.
        LowAboveBody = "low_above_body",
        /// The volume is NaN or infinite.
        VolumeNotFinite = "volume_not_finite",
        /// The volume is negative.
        NegativeVolume = "negative_volume",
        /// The close is further from the previous one than the setting `max_jump_factor`.
        PriceJump = "price_jump",
    }
}

/// What a pipeline file may set.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The first day that a candle may be of, such as `2009-01-03`, which is the default: the day of
    /// Bitcoin's first block.
    pub earliest: Date,
    /// How far beyond the present a timestamp may be, for clocks that differ.
    pub max_future: Duration,
    /// The sources that are accepted. Every well-formed name when the list is empty.
    pub sources: Vec<String>,
    /// Whether a price of zero is accepted.
    pub allow_zero_price: bool,
    /// By what factor a close may differ from the close of the newest accepted candle of the same source, symbol
    /// and timeframe, upwards or downwards. Not checked when absent.
    pub max_jump_factor: Option<f64>,
    /// How many candles before a row that candle may be. An older one is not compared with, so that a series
    /// whose price has really moved, or which began with a wrong one, is rejected for so long and no longer.
    pub max_jump_candles: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            earliest: Date::BITCOIN,
            max_future: Duration::from_minutes(5),
            sources: Vec::new(),
            allow_zero_price: false,
            max_jump_factor: None,
            // An hour of minutes.
            max_jump_candles: 60,
        }
    }
}

/// The rule.
#[derive(Debug)]
pub struct Validate {
    settings: Settings,
    closes: Option<Closes>,
}

impl Rule for Validate {
    const NAME: &'static str = "validate";
    const SUMMARY: &'static str = "Rejects candles that cannot be right";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    type Settings = Settings;
    type Reason = Reason;

    fn reads() -> Vec<InputColumn> {
        vec![
            input("timestamp", Kind::Timestamp),
            input("open", Kind::Float),
            input("high", Kind::Float),
            input("low", Kind::Float),
            input("close", Kind::Float),
            input("volume", Kind::Float),
            input("source", Kind::Text),
            input("symbol", Kind::Text),
            input("timeframe", Kind::Text),
        ]
    }

    fn writes() -> Vec<OutputColumn> {
        Vec::new()
    }

    fn new(settings: Settings) -> Result<Validate, String> {
        if let Some(source) = settings.sources.iter().find(|source| !words::is_source(source)) {
            return Err(format!("`sources` has {source:?}: write 1 to 64 letters, digits, `.`, `-` and `_`"));
        }
        let closes = match settings.max_jump_factor {
            Some(factor) if !(factor > 1.0 && factor.is_finite()) => {
                return Err(format!("`max_jump_factor` is {factor}: write a number above 1"));
            }
            factor => factor.map(|factor| Closes::new(factor, settings.max_jump_candles)),
        };
        Ok(Validate { settings, closes })
    }

    fn remembers(&self) -> bool {
        self.closes.is_some()
    }

    fn transform(&mut self, now: i64, input: &Batch) -> Result<Outcome, String> {
        let candles = Candles::of(input)?;
        let limits = self.limits(now);
        let texts = Judged::of(&candles, &self.settings.sources);
        let suspects = suspects::of(&candles, &limits, &texts);
        let mut outcome = Outcome::keep_all();
        match &mut self.closes {
            None => {
                for row in suspects {
                    faults::of(row, &candles, &limits, &texts).reject(row, &mut outcome);
                }
            }
            Some(closes) => {
                closes.start(&candles);
                let mut suspects = suspects.into_iter().peekable();
                for row in 0..candles.rows {
                    let is_suspect = suspects.next_if_eq(&row).is_some();
                    let series = closes.series(row, &candles);
                    let jump = closes.jump(series, row, &candles, &texts);
                    if !is_suspect && jump.is_none() {
                        closes.accept(series, row, &candles);
                        continue;
                    }
                    let mut faults = faults::of(row, &candles, &limits, &texts);
                    faults.extend(jump);
                    if faults.is_empty() {
                        closes.accept(series, row, &candles);
                    }
                    faults.reject(row, &mut outcome);
                }
            }
        }
        Ok(outcome)
    }

    fn remember(&mut self, output: &Batch) {
        if let (Some(closes), Ok(candles)) = (&mut self.closes, Candles::of(output)) {
            closes.start(&candles);
            for row in 0..candles.rows {
                let series = closes.series(row, &candles);
                closes.accept(series, row, &candles);
            }
        }
    }
}

impl Validate {
    fn limits(&self, now: i64) -> Limits {
        Limits {
            earliest: self.settings.earliest.ms(),
            latest: now.saturating_add(self.settings.max_future.ms()),
            now,
            // The smallest number above zero, so that one comparison serves both settings.
            lowest_price: if self.settings.allow_zero_price { 0.0 } else { f64::from_bits(1) },
        }
    }
}

/// The columns of a batch.
struct Candles<'a> {
    rows: usize,
    timestamp: Timestamps<'a>,
    open: Floats<'a>,
    high: Floats<'a>,
    low: Floats<'a>,
    close: Floats<'a>,
    volume: Floats<'a>,
    series: SeriesColumns<'a>,
}

impl<'a> Candles<'a> {
    fn of(batch: &'a Batch) -> Result<Candles<'a>, String> {
        Ok(Candles {
            rows: batch.rows as usize,
            timestamp: batch.timestamps("timestamp")?,
            open: batch.floats("open")?,
            high: batch.floats("high")?,
            low: batch.floats("low")?,
            close: batch.floats("close")?,
            volume: batch.floats("volume")?,
            series: SeriesColumns::of(batch)?,
        })
    }

    fn presences(&self) -> [Option<&'a [u8]>; 9] {
        [
            self.timestamp.presence(),
            self.open.presence(),
            self.high.presence(),
            self.low.presence(),
            self.close.presence(),
            self.volume.presence(),
            self.series.source.presence(),
            self.series.symbol.presence(),
            self.series.timeframe.presence(),
        ]
    }
}

/// What the numbers of a batch are compared with.
struct Limits {
    earliest: i64,
    latest: i64,
    now: i64,
    lowest_price: f64,
}

/// What is known of each text of the dictionaries.
struct Judged {
    sources: Vec<words::SourceVerdict>,
    symbols: Vec<bool>,
    grids: Vec<Grid>,
}

impl Judged {
    fn of(candles: &Candles<'_>, known: &[String]) -> Judged {
        Judged {
            sources: candles
                .series
                .source
                .dictionary()
                .iter()
                .map(|text| words::source(text, known))
                .collect(),
            symbols: candles.series.symbol.dictionary().iter().map(|text| words::is_symbol(text)).collect(),
            grids: candles.series.timeframe.dictionary().iter().map(|text| Grid::of(text)).collect(),
        }
    }
}

tidegate_guest::export!(Validate);

#[cfg(test)]
mod tests;
