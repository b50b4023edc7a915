//! `tidegate gaps`

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use super::report::grouped;
use super::{FILES_ARE_WRONG, Global, list, pretty, print};
use crate::clock::shown;
use crate::error::{Error, Result};
use crate::pipeline_file::{self, Loaded};
use crate::source::exchange::ledgers::{self, Ledgers, SeriesLedger};
use crate::state;

/// The exit code when candles are missing and `--check` is given.
const MISSING: u8 = 1;

/// Show which candles a pipeline's exchanges have given, and which are missing
///
/// Of each series as far back as `ledger` of the pipeline file: how many candles came, in how many minutes nothing was
/// traded, how many are still asked for again, how many are missing for good, and how many were corrected. It is what
/// the running pipeline knew some seconds ago, or what the last run knew at its end.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate gaps pipelines/live.yaml
  tidegate gaps pipelines/ingest.yaml --check          # exit code 1 when candles are missing
  tidegate gaps pipelines/ingest.yaml --json | jq '.[].series[] | select(.missing > 0)'")]
pub struct Arguments {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// End with code 1 when candles are missing
    #[arg(long)]
    check: bool,
    /// Print one JSON array with an object for each exchange
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let loaded = match pipeline_file::read(&arguments.file) {
        Ok(loaded) => loaded,
        Err(findings) => {
            list(&findings);
            return Ok(FILES_ARE_WRONG);
        }
    };
    let ledgers = read(&loaded, global)?;
    print(&if arguments.json { pretty(&serde_json::json!(ledgers)) } else { text(&ledgers) })?;
    let is_missing = ledgers.iter().flat_map(|of| &of.series).any(|series| series.counts.missing > 0);
    Ok(if arguments.check && is_missing { MISSING } else { 0 })
}

fn read(loaded: &Loaded, global: &Global) -> Result<Vec<Ledgers>> {
    let Some(config) = loaded.pipeline.source.exchange() else {
        return Err(Error::Files(format!(
            "the source of `{}` is no exchange, and has no ledger",
            loaded.path.display()
        )));
    };
    let (folder, pipeline) = (global.state_folder(), &loaded.pipeline.name);
    let ledgers: Vec<Ledgers> = (config.exchanges.iter())
        .filter_map(|exchange| state::read(&ledgers::path(&folder, pipeline, exchange.name())))
        .collect();
    if ledgers.is_empty() {
        return Err(Error::Surroundings(format!(
            "there is no ledger of `{pipeline}` in `{}`; it is written while the pipeline runs, on this machine and with \
             the same `--state`",
            folder.display()
        )));
    }
    Ok(ledgers)
}

fn text(ledgers: &[Ledgers]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "exchange",
        "symbol",
        "until",
        "received",
        "quiet",
        "asked again",
        "missing",
        "corrected",
    ]);
    let mut notes = String::new();
    for of_exchange in ledgers {
        for series in &of_exchange.series {
            let SeriesLedger { symbol, next_ms, counts, corrected, missing_ms, refused } = series;
            let mut row = vec![of_exchange.source.clone(), symbol.clone()];
            row.push(next_ms.map_or_else(|| "never".to_owned(), shown));
            let numbers = [counts.received, counts.quiet, counts.absent, counts.missing, *corrected];
            row.extend(numbers.map(grouped));
            table.add_row(row);
            for (from_ms, to_ms) in missing_ms {
                let (from, to) = (shown(*from_ms), shown(*to_ms));
                notes += &format!("missing: {} {symbol} from {from} to before {to}\n", of_exchange.source);
            }
            if let Some(sentence) = refused {
                notes += &format!("{} {symbol}: {sentence}\n", of_exchange.source);
            }
        }
        let at = shown(of_exchange.written_at_ms);
        notes += &format!(
            "{} as of {at}: {} requests, {} failed{}\n",
            of_exchange.source,
            grouped(of_exchange.requests),
            grouped(of_exchange.failures),
            if of_exchange.blocked_until_ms > of_exchange.written_at_ms {
                format!("; it wants no requests before {}", shown(of_exchange.blocked_until_ms))
            } else {
                String::new()
            }
        );
    }
    for column in 3..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n{notes}")
}
