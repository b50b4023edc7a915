//! What exactly is wrong with a row: the slow path, for the few rows that might be wrong.

use tidegate_guest::{Outcome, Reasons};

use crate::calendar::{self, Grid};
use crate::words::SourceVerdict;
use crate::{Candles, Judged, Limits, Reason};

/// The faults of a row, in the order of [`Reason`], each reason at most once.
#[derive(Debug)]
pub struct Faults(Vec<(Reason, String)>);

impl Faults {
    /// None yet.
    fn none() -> Faults {
        Faults(Vec::new())
    }

    /// Adds one, where there is one.
    pub fn extend(&mut self, fault: Option<(Reason, String)>) {
        self.0.extend(fault);
    }

    /// Whether the row is right.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Rejects the row for its first fault, and counts the others; nothing when there is none.
    pub fn reject(self, row: usize, outcome: &mut Outcome) {
        let Some((reason, detail)) = self.0.first() else { return };
        if self.0.len() > 1 {
            let names: Vec<&str> =
                self.0.iter().map(|(reason, _)| Reason::NAMES[reason.index() as usize]).collect();
            let detail = format!("{detail} (1 of {} faults: {})", names.len(), names.join(", "));
            return outcome.reject(row, *reason, detail);
        }
        self.0.into_iter().for_each(|(reason, detail)| outcome.reject(row, reason, detail));
    }
}

/// All faults of a row, but for a jump of its price.
pub fn of(row: usize, candles: &Candles<'_>, limits: &Limits, texts: &Judged) -> Faults {
    let mut faults = Faults::none();
    faults.extend(missing(row, candles));
    faults.extend(source(row, candles, texts));
    faults.extend(symbol(row, candles, texts));
    let grid = candles.series.timeframe.index(row).map(|index| texts.grids[index]);
    if grid == Some(Grid::Malformed) {
        let text = candles.series.timeframe.get(row).unwrap_or_default();
        let detail = format!("timeframe {} is not a number and one of s, m, h, d, w, M", quoted(text));
        faults.extend(Some((Reason::MalformedTimeframe, detail)));
    }
    if let Some(ms) = candles.timestamp.get(row) {
        match out_of_range(ms, limits) {
            Some(fault) => faults.extend(Some(fault)),
            // A timestamp in the wrong unit says nothing about the grid.
            None => faults.extend(off_grid(ms, grid, candles.series.timeframe.get(row))),
        }
    }
    prices(row, candles, limits, &mut faults);
    faults.extend(volume(row, candles));
    faults
}

fn missing(row: usize, candles: &Candles<'_>) -> Option<(Reason, String)> {
    let fields = [
        ("timestamp", candles.timestamp.present(row)),
        ("open", candles.open.present(row)),
        ("high", candles.high.present(row)),
        ("low", candles.low.present(row)),
        ("close", candles.close.present(row)),
        ("volume", candles.volume.present(row)),
        ("source", candles.series.source.index(row).is_some()),
        ("symbol", candles.series.symbol.index(row).is_some()),
        ("timeframe", candles.series.timeframe.index(row).is_some()),
    ];
    let missing: Vec<&str> =
        fields.into_iter().filter(|(_, present)| !present).map(|(name, _)| name).collect();
    let verb = if missing.len() == 1 { "is" } else { "are" };
    (!missing.is_empty()).then(|| (Reason::MissingField, format!("{} {verb} missing", enumerated(&missing))))
}

fn source(row: usize, candles: &Candles<'_>, texts: &Judged) -> Option<(Reason, String)> {
    let text = candles.series.source.get(row)?;
    match texts.sources[candles.series.source.index(row)?] {
        SourceVerdict::Known => None,
        SourceVerdict::Unknown => {
            let detail = format!("source {} is not one of the setting `sources`", quoted(text));
            Some((Reason::UnknownSource, detail))
        }
        SourceVerdict::Malformed => {
            let detail =
                format!("source {} is not a name of 1 to 64 letters, digits, `.`, `-` and `_`", quoted(text));
            Some((Reason::MalformedSource, detail))
        }
    }
}

fn symbol(row: usize, candles: &Candles<'_>, texts: &Judged) -> Option<(Reason, String)> {
    let text = candles.series.symbol.get(row)?;
    (!texts.symbols[candles.series.symbol.index(row)?]).then(|| {
        let detail = format!("symbol {} is not BASE/QUOTE or BASE/QUOTE:SETTLE", quoted(text));
        (Reason::MalformedSymbol, detail)
    })
}

/// What is smaller is taken for seconds where they make sense: as milliseconds it is before 1973-03-03, as seconds
/// it is until 5138.
pub const SECONDS_BELOW: i64 = 100_000_000_000;

/// A time that is too early or too late, with the unit that would make it right.
fn out_of_range(ms: i64, limits: &Limits) -> Option<(Reason, String)> {
    let fits = |ms: i64| (limits.earliest..=limits.latest).contains(&ms);
    let as_seconds = ms.checked_mul(1_000).filter(|as_ms| ms < SECONDS_BELOW && fits(*as_ms));
    let wrong_unit = |reason, unit: &str, as_ms: i64| {
        let detail =
            format!("timestamp {ms} is not in milliseconds but looks like {unit} ({})", calendar::utc(as_ms));
        Some((reason, detail))
    };
    if let Some(as_ms) = as_seconds {
        wrong_unit(Reason::TimestampInSeconds, "seconds", as_ms)
    } else if fits(ms) {
        None
    } else if ms < limits.earliest {
        let (time, earliest) = (calendar::utc(ms), calendar::utc(limits.earliest));
        Some((Reason::TimestampTooEarly, format!("timestamp {ms} ({time}) is before {earliest}")))
    } else if fits(ms / 1_000) {
        wrong_unit(Reason::TimestampInMicroseconds, "microseconds", ms / 1_000)
    } else if fits(ms / 1_000_000) {
        wrong_unit(Reason::TimestampInNanoseconds, "nanoseconds", ms / 1_000_000)
    } else {
        let (time, ahead_ms) = (calendar::utc(ms), ms.saturating_sub(limits.now));
        let detail =
            format!("timestamp {ms} ({time}) is {ahead_ms} ms after now ({})", calendar::utc(limits.now));
        Some((Reason::TimestampInFuture, detail))
    }
}

fn off_grid(ms: i64, grid: Option<Grid>, timeframe: Option<&str>) -> Option<(Reason, String)> {
    match (grid?, timeframe?) {
        (Grid::Malformed, _) => None,
        (grid, _) if grid.holds(ms) => None,
        (_, timeframe) => {
            let time = calendar::utc(ms);
            Some((
                Reason::OffGrid,
                format!("timestamp {ms} ({time}) is not at the start of a candle of {timeframe}"),
            ))
        }
    }
}

fn prices(row: usize, candles: &Candles<'_>, limits: &Limits, faults: &mut Faults) {
    let named = [
        ("open", candles.open.get(row)),
        ("high", candles.high.get(row)),
        ("low", candles.low.get(row)),
        ("close", candles.close.get(row)),
    ];
    let listed = |is_wrong: &dyn Fn(f64) -> bool| {
        let priced = named.iter().filter_map(|(name, price)| price.map(|price| (*name, price)));
        let wrong = priced.filter(|(_, price)| is_wrong(*price));
        wrong.map(|(name, price)| format!("{name} is {}", Number(price))).reduce(joined)
    };
    faults.extend(listed(&|price| !price.is_finite()).map(|text| (Reason::PriceNotFinite, text)));
    faults.extend(
        listed(&|price| price.is_finite() && price < limits.lowest_price)
            .map(|text| (Reason::PriceNotPositive, text)),
    );

    // NaN is reported above; it is neither above nor below anything.
    let [open, high, low, close] = named.map(|(_, price)| price.filter(|price| !price.is_nan()));
    let compared = |left: (&str, Option<f64>), word: &str, right: (&str, Option<f64>), is_wrong: bool| {
        let text =
            || Some(format!("{} {} is {word} {} {}", left.0, Number(left.1?), right.0, Number(right.1?)));
        if is_wrong { text() } else { None }
    };
    let is_below =
        |left: Option<f64>, right: Option<f64>| left.zip(right).is_some_and(|(left, right)| left < right);
    let high_low = compared(("high", high), "below", ("low", low), is_below(high, low));
    faults.extend(high_low.map(|text| (Reason::HighBelowLow, text)));
    let high_open = compared(("high", high), "below", ("open", open), is_below(high, open));
    let high_close = compared(("high", high), "below", ("close", close), is_below(high, close));
    faults.extend(
        high_open.into_iter().chain(high_close).reduce(joined).map(|text| (Reason::HighBelowBody, text)),
    );
    let low_open = compared(("low", low), "above", ("open", open), is_below(open, low));
    let low_close = compared(("low", low), "above", ("close", close), is_below(close, low));
    faults.extend(
        low_open.into_iter().chain(low_close).reduce(joined).map(|text| (Reason::LowAboveBody, text)),
    );
}

fn volume(row: usize, candles: &Candles<'_>) -> Option<(Reason, String)> {
    let volume = candles.volume.get(row)?;
    let reason = match volume {
        _ if !volume.is_finite() => Reason::VolumeNotFinite,
        _ if volume < 0.0 => Reason::NegativeVolume,
        _ => return None,
    };
    Some((reason, format!("volume is {}", Number(volume))))
}

fn joined(first: String, second: String) -> String {
    first + ", " + &second
}

fn enumerated(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}

/// A number for people: very large and very small ones with an exponent instead of hundreds of digits.
pub struct Number(pub f64);

impl std::fmt::Display for Number {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Number(value) = self;
        let is_plain = *value == 0.0 || (1e-6..1e16).contains(&value.abs()) || !value.is_finite();
        if is_plain { write!(formatter, "{value}") } else { write!(formatter, "{value:e}") }
    }
}

/// A text for people: quoted, without control characters, at most 64 characters of it.
fn quoted(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    let mark = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{mark}")
}
