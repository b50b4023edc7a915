//! `tidegate backfill`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::report::{self, grouped};
use super::run::deployed_here;
use super::{FILES_ARE_WRONG, Global, list, print};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::lane::{self, RunOptions};
use crate::pipeline_file::{self, Exchange, ExchangeSource, Loaded, Source, timeframe_ms};
use crate::shutdown::Shutdown;
use crate::source::exchange::backfill::{Backfill, SeriesReport};
use crate::summary::{Progress, Summary};

/// Series that have a bar of their own: more do not fit on a screen.
const BARS_MAX: usize = 30;

/// The longest name of a pipeline.
const NAME_BYTES: usize = 64;

/// Fetch candles of the past from exchanges
///
/// The pipeline file says through which rules they go and into which sink; its exchanges and their settings are used
/// when it has some. Each candle is fetched once: Ctrl-C and the same command again go on where it stopped, and once it is
/// done the same command fetches what has come since, or up to a later `--until`. The limits of the exchanges hold as they do for `tidegate run`. At the end it says for each series what is there, what was
/// quiet, and what is missing.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate backfill pipelines/live.yaml --from 2026-01-01 --until 2026-02-01
  tidegate backfill pipelines/live.yaml --exchange binance --symbol BTC/USDT --symbol ETH/USDT --from 2026-01-01
  tidegate backfill pipelines/validate.yaml --exchange bybit --symbol BTC/USDT --from 2026-01-01 --json")]
pub struct Arguments {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The exchange, as CCXT calls it; more than once for several [default: those of the pipeline file]
    #[arg(long = "exchange", value_name = "ID")]
    exchanges: Vec<String>,
    /// The symbol, such as BTC/USDT; more than once for several [default: those of the pipeline file]
    #[arg(long = "symbol", value_name = "SYMBOL")]
    symbols: Vec<String>,
    /// How long a candle is [default: as in the pipeline file, else 1m]
    #[arg(long, value_name = "TIMEFRAME")]
    timeframe: Option<String>,
    /// The first candle opens at this time or after it; a date is midnight in UTC
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: i64,
    /// The first candle that is not wanted [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<i64>,
    /// Print the summary and each series as one JSON object
    #[arg(long)]
    json: bool,
}

/// A time, or a date for its midnight in UTC, in milliseconds since 1970.
pub(super) fn time(text: &str) -> std::result::Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let date: jiff::civil::Date =
        text.parse().map_err(|_| "it must be like `2026-01-01` or `2026-01-01T12:00:00Z`".to_owned())?;
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|error| error.to_string())?;
    Ok(midnight.timestamp().as_millisecond())
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let mut loaded = match pipeline_file::read(&arguments.file) {
        Ok(loaded) => loaded,
        Err(findings) => {
            list(&findings);
            return Ok(FILES_ARE_WRONG);
        }
    };
    let source = source(&loaded, arguments)?;
    let wanted = Arc::new(range(&source, arguments)?);
    let deployed_in = deployed_here(&loaded);
    loaded.pipeline.name = name(&loaded.pipeline.name, &source, &wanted);
    loaded.pipeline.source = Source::Exchange(Box::new(source));
    loaded.pipeline.lanes = 1;
    // The address is that of the pipeline, which can run beside this.
    loaded.pipeline.http = None;
    let findings = pipeline_file::meaning::check(&loaded);
    if !findings.is_empty() {
        // The file by itself was right: its places say nothing of what the command line has changed.
        let sentences: Vec<String> = findings.into_iter().map(|finding| finding.message).collect();
        let file = arguments.file.display();
        return Err(Error::Files(format!("`{file}` with this command line: {}", sentences.join("; "))));
    }
    let options = RunOptions {
        guests: global.guests_folder(),
        state: global.state_folder(),
        backfill: Some(Arc::clone(&wanted)),
        deployed_in: Some(deployed_in),
        ..RunOptions::default()
    };
    let shutdown = Shutdown::on_signals()?;
    let show = !global.quiet && std::io::stderr().is_terminal();
    let summary = run_and_show(&loaded, &options, &shutdown, &wanted, show)?;
    let reports = wanted.reports();
    if arguments.json {
        let mut value = serde_json::json!(summary);
        value["series"] = serde_json::json!(reports);
        print(&format!("{value}\n"))?;
    } else if !global.quiet {
        print(&(report::text(&summary) + &completeness(&reports)))?;
    }
    Ok(u8::from(reports.iter().any(|report| report.refused.is_some() && report.received == 0)))
}

/// The exchanges and symbols of the pipeline file, or those of the command line with the file's settings.
fn source(loaded: &Loaded, arguments: &Arguments) -> Result<ExchangeSource> {
    let Arguments { exchanges, symbols, timeframe, .. } = arguments;
    let wrong = |error: serde_json::Error| Error::Files(format!("the command line is wrong: {error}"));
    let mut source = match loaded.pipeline.source.exchange() {
        Some(source) => source.clone(),
        None if exchanges.is_empty() => {
            return Err(Error::Files(format!(
                "`{}` names no exchanges; give `--exchange` and `--symbol`",
                loaded.path.display()
            )));
        }
        None => serde_json::from_value(serde_json::json!({ "exchanges": [] })).map_err(wrong)?,
    };
    if !exchanges.is_empty() {
        let known = std::mem::take(&mut source.exchanges);
        let of_file = |id: &String| {
            let is_it = |exchange: &&Exchange| exchange.exchange == *id || exchange.name() == id;
            known.iter().find(is_it).cloned()
        };
        for id in exchanges {
            let exchange = match of_file(id) {
                Some(exchange) => exchange,
                None if symbols.is_empty() => {
                    return Err(Error::Files(format!(
                        "`{}` does not have the exchange `{id}`; give `--symbol` too",
                        loaded.path.display()
                    )));
                }
                None => {
                    let value = serde_json::json!({ "exchange": id, "symbols": symbols });
                    serde_json::from_value(value).map_err(wrong)?
                }
            };
            source.exchanges.push(exchange);
        }
    }
    for exchange in &mut source.exchanges {
        if !symbols.is_empty() {
            exchange.symbols.clone_from(symbols);
        }
        exchange.live = false;
    }
    if let Some(timeframe) = timeframe {
        source.timeframe.clone_from(timeframe);
    }
    Ok(source)
}

/// From the first candle to before the last, of those that are closed.
fn range(source: &ExchangeSource, arguments: &Arguments) -> Result<Backfill> {
    // What is no timeframe has its sentence later.
    let length_ms = timeframe_ms(&source.timeframe).unwrap_or(1);
    let grace_ms = i64::try_from(source.grace.0.as_millis()).unwrap_or(0);
    let closed_ms = (Clock::of_process().now_ms() - grace_ms).div_euclid(length_ms) * length_ms;
    let from_ms = arguments.from.div_euclid(length_ms) * length_ms;
    let from_ms = if from_ms < arguments.from { from_ms + length_ms } else { from_ms };
    let until_ms = arguments.until.unwrap_or(i64::MAX).min(closed_ms).div_euclid(length_ms) * length_ms;
    if from_ms >= until_ms {
        return Err(Error::Files(
            "there is no closed candle between `--from` and `--until`; `--from` must be before `--until`, and in the past"
                .into(),
        ));
    }
    Ok(Backfill::new(from_ms, until_ms))
}

/// The position is kept under a name that says what is fetched: the same command goes on, also up to a later time, and
/// another one begins.
fn name(pipeline: &str, source: &ExchangeSource, wanted: &Backfill) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text.as_bytes());
        hash.update([0]);
    };
    for exchange in &source.exchanges {
        add(&exchange.exchange);
        add(exchange.name());
        exchange.symbols.iter().for_each(|symbol| add(symbol));
    }
    add(&source.timeframe);
    add(&wanted.from_ms.to_string());
    let hash = crate::batch::hex(&hash.finalize()[..4]);
    let suffix = format!("-backfill-{hash}");
    let kept: String = pipeline.chars().take(NAME_BYTES - suffix.len()).collect();
    kept + &suffix
}

/// Runs, and shows how far each series is when `show` says so.
fn run_and_show(
    loaded: &Loaded,
    options: &RunOptions,
    shutdown: &Shutdown,
    wanted: &Backfill,
    show: bool,
) -> Result<Summary> {
    let progress = Progress::default();
    if !show {
        return lane::run(loaded, options, shutdown, &progress);
    }
    thread::scope(|scope| {
        let running = scope.spawn(|| lane::run(loaded, options, shutdown, &progress));
        let display = MultiProgress::new();
        let mut bars: Vec<ProgressBar> = Vec::new();
        while !running.is_finished() {
            let reports = wanted.reports();
            for (index, report) in reports.iter().enumerate().take(BARS_MAX) {
                if bars.len() <= index {
                    bars.push(bar(&display, report));
                }
                bars[index].set_position(report.done);
            }
            thread::sleep(Duration::from_millis(200));
        }
        bars.iter().for_each(ProgressBar::finish_and_clear);
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn bar(display: &MultiProgress, report: &SeriesReport) -> ProgressBar {
    let bar = display
        .add(ProgressBar::new(report.wanted))
        .with_prefix(format!("{} {}", report.source, report.symbol));
    // What an earlier run has done says nothing about the rate of this one.
    bar.set_position(report.done);
    bar.reset_eta();
    if let Ok(style) =
        ProgressStyle::with_template("{prefix:28} {wide_bar} {percent:>3}% {per_sec:>14} {eta:>5} left")
    {
        bar.set_style(style);
    }
    bar
}

/// What is there of each series, and what is not.
fn completeness(reports: &[SeriesReport]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["exchange", "symbol", "wanted", "received", "quiet", "missing", "before", "left"]);
    for report in reports {
        let SeriesReport { source, symbol, wanted, done, received, quiet, missing, before, .. } = report;
        let mut row = vec![source.clone(), symbol.clone()];
        row.extend([*wanted, *received, *quiet, *missing, *before, wanted - done].map(grouped));
        table.add_row(row);
    }
    for column in 2..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{table}\n");
    for SeriesReport { source, symbol, refused, .. } in reports {
        if let Some(sentence) = refused {
            text += &format!("{source} {symbol}: {sentence}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_midnight_and_a_time_is_itself() {
        assert_eq!(time("2026-01-02"), Ok(1_767_312_000_000));
        assert_eq!(time("2026-01-02T00:01:00Z"), Ok(1_767_312_060_000));
        assert!(time("yesterday").unwrap_err().contains("2026-01-01"));
    }
}
