//! What is known of each series, in the state folder, for `tidegate gaps`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ledger::{Counts, State};
use super::series::{Series, Settings};
use crate::state::file_name;

/// Ranges of missing candles that are shown of a series: more is one sentence for a person.
const RANGES_MAX: usize = 100;

/// What is known of the series of an exchange.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledgers {
    /// What the column `source` says.
    pub source: String,
    /// How long a candle is.
    pub timeframe: String,
    /// When this was written, milliseconds since 1970.
    pub written_at_ms: i64,
    /// Requests since the process began.
    pub requests: u64,
    /// Tasks that failed since the process began.
    pub failures: u64,
    /// Until when nothing may be asked; in the past when it may.
    pub blocked_until_ms: i64,
    /// The series.
    pub series: Vec<SeriesLedger>,
}

/// What is known of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesLedger {
    /// The unified symbol.
    pub symbol: String,
    /// The open time after the newest candle; absent before the first answer.
    pub next_ms: Option<i64>,
    /// How many candles have each state.
    #[serde(flatten)]
    pub counts: Counts,
    /// Candles that came again with other values since the process began.
    pub corrected: u64,
    /// From and to before which open times candles are missing, the newest ranges.
    pub missing_ms: Vec<(i64, i64)>,
    /// Why the exchange gives none.
    pub refused: Option<String>,
}

impl SeriesLedger {
    /// What is known of a series now.
    pub fn of(series: &Series, settings: &Settings, refused: Option<&String>) -> SeriesLedger {
        SeriesLedger {
            symbol: series.symbol.to_string(),
            next_ms: series.next_ms(),
            counts: series.counts(),
            corrected: series.corrected,
            missing_ms: ranges(series, settings),
            refused: refused.cloned(),
        }
    }
}

fn ranges(series: &Series, settings: &Settings) -> Vec<(i64, i64)> {
    let length_ms = settings.timeframe_ms;
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for number in series.with(State::Missing) {
        let (from_ms, to_ms) = (number * length_ms, (number + 1) * length_ms);
        match ranges.last_mut() {
            Some((_, end_ms)) if *end_ms == from_ms => *end_ms = to_ms,
            _ => ranges.push((from_ms, to_ms)),
        }
    }
    let older = ranges.len().saturating_sub(RANGES_MAX);
    ranges.split_off(older)
}

/// The file of an exchange's ledgers.
pub fn path(state: &Path, pipeline: &str, source: &str) -> PathBuf {
    state.join("ledgers").join(pipeline).join(format!("{}.json", file_name(source)))
}
