//! `tidegate check`

use std::path::{Path, PathBuf};

use arrow_schema::SchemaRef;
use clap::Args;

use super::{FILES_ARE_WRONG, Global, SURROUNDINGS_ARE_WRONG, list, print};
use crate::attribution;
use crate::decode::Decoder;
use crate::error::Result;
use crate::kafka::Patience;
use crate::lane::{self, Place, RunOptions};
use crate::pipeline_file::finding::Finding;
use crate::pipeline_file::{self, Limits, Loaded};
use crate::rule::{Component, Slot, fit};
use crate::shutdown::Shutdown;
use crate::sink::Sink;
use crate::source::Source;
use crate::source::exchange::plan;

/// Check pipeline files without running them
///
/// Says all that is wrong with file, line and column, and nothing when all is right: keys, values, components,
/// the columns that rules read, and their settings. No data are read or written. With `--connect` it also asks the
/// servers whether their topics and tables fit, and changes nothing there.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate check pipelines/*.yaml
  tidegate check validate.yaml --json | jq -r .message
  tidegate check pipelines/timescale.yaml --connect")]
pub struct Arguments {
    /// Pipeline files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Connect to source and sink, and say what is wrong with their topics and tables
    #[arg(long)]
    connect: bool,
    /// Print each finding as one JSON object a line, on standard output
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let guests = global.guests_folder();
    let (mut findings, mut code) = (Vec::new(), 0);
    for path in &arguments.files {
        let of_file = file(path, &guests);
        if !of_file.is_empty() {
            code = code.max(FILES_ARE_WRONG);
            findings.extend(of_file);
        } else if arguments.connect {
            let (of_servers, worst) = servers(path, &guests);
            code = code.max(worst);
            findings.extend(of_servers);
        }
    }
    if !arguments.json {
        list(&findings);
        return Ok(code);
    }
    for finding in &findings {
        print(&format!("{}\n", serde_json::json!(finding)))?;
    }
    Ok(code)
}

/// What the servers of a pipeline say, whose file is right, and the exit code.
fn servers(path: &Path, guests: &Path) -> (Vec<Finding>, u8) {
    let loaded = match pipeline_file::read(path) {
        Ok(loaded) => loaded,
        Err(findings) => return (findings, FILES_ARE_WRONG),
    };
    let found = |place: &str, sentences: &[String]| -> Vec<Finding> {
        sentences.iter().map(|sentence| loaded.finding(&[place], sentence)).collect()
    };
    let patience = Patience { forever: false, shutdown: Shutdown::default(), lane: None };
    let place = Place {
        folder: &loaded.folder,
        guests,
        state: &std::env::temp_dir(),
        instance: "check",
        lane: 0,
        until_end: false,
        backfill: None,
        adapters: None,
        patience,
    };
    let partitions = match Source::check(&loaded.pipeline, &place) {
        Ok(partitions) => partitions,
        Err(error) => return (found("source", &[error.to_string()]), error.code()),
    };
    match schema(&loaded, guests)
        .and_then(|schema| Sink::check(&loaded.pipeline, &schema, partitions, &place))
    {
        Ok(sentences) if sentences.is_empty() => (Vec::new(), 0),
        Ok(sentences) => (found("sink", &sentences), SURROUNDINGS_ARE_WRONG),
        Err(error) => (found("sink", &[error.to_string()]), error.code()),
    }
}

/// The columns of the rows in the sink.
pub(super) fn schema(loaded: &Loaded, guests: &Path) -> Result<SchemaRef> {
    let options = RunOptions { guests: guests.into(), ..RunOptions::default() };
    let components = lane::load_components(loaded, &options)?;
    let decoder = Decoder::new(&loaded.pipeline.decode)?;
    let rules = lane::open_rules(loaded, &components, &decoder)?;
    let schema = rules.last().map_or(decoder.schema(), Slot::schema);
    attribution::with_column(schema, loaded.pipeline.rule_versions.as_deref())
}

/// All that is wrong with one pipeline file.
fn file(path: &Path, guests: &Path) -> Vec<Finding> {
    let loaded = match pipeline_file::read(path) {
        Ok(loaded) => loaded,
        Err(findings) => return findings,
    };
    let mut findings = Vec::new();
    let mut descriptions = Vec::new();
    for (index, rule) in loaded.pipeline.rules.iter().enumerate() {
        let index = index.to_string();
        let component = pipeline_file::component_path(&loaded.folder, guests, &rule.component);
        match Component::load(&component, &rule.limits) {
            Ok(mut component) => {
                if let Err(sentence) = component.configure(&rule.settings, &rule.limits) {
                    let message = format!("the rule `{}` refuses its settings: {sentence}", rule.name);
                    findings.push(loaded.finding(&["rules", &index, "settings"], &message));
                }
                descriptions.push(Some(component.description));
            }
            Err(error) => {
                findings.push(loaded.finding(&["rules", &index, "component"], &error.to_string()));
                descriptions.push(None);
            }
        }
    }
    let descriptions: Vec<_> = descriptions.iter().map(Option::as_ref).collect();
    findings.extend(fit::rules(&loaded, &descriptions));
    findings.extend(adapters(&loaded, guests));
    findings
}

/// What is wrong with the adapters of exchanges, or what they do not know.
fn adapters(loaded: &Loaded, guests: &Path) -> Vec<Finding> {
    let Some(config) = loaded.pipeline.source.exchange() else { return Vec::new() };
    let mut adapters = plan::Files::default();
    let mut findings = Vec::new();
    for (index, exchange) in config.exchanges.iter().enumerate() {
        let index = index.to_string();
        let at = |key| ["source", "exchange", "exchanges", &index, key];
        let path = plan::adapter_path(exchange, &loaded.folder, guests);
        match adapters.load(&path, &Limits::from(&exchange.limits)) {
            Ok(adapter) => {
                if let Err((key, sentence)) = plan::fit(exchange, &config.timeframe, &adapter) {
                    findings.push(loaded.finding(&at(key), &sentence));
                }
            }
            Err(error) => {
                let key = if exchange.component.is_some() { "component" } else { "exchange" };
                findings.push(loaded.finding(&at(key), &error.to_string()));
            }
        }
    }
    findings
}
