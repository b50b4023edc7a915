//! `tidegate schema`

use std::path::PathBuf;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{FILES_ARE_WRONG, Global, check, list, pretty, print};
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::http;
use crate::pipeline_file::{self, Decode, Limits, Pipeline};
use crate::rule::Component;
use crate::sink::{clickhouse, timescale};

/// Print the JSON Schema of pipeline files, the statements that make a sink's tables, or the API's description
///
/// Editors with a YAML language server complete and check pipeline files with it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate schema > pipeline.schema.json
  # and as the first line of a pipeline file:
  # yaml-language-server: $schema=./pipeline.schema.json
  tidegate schema sql --sink timescale pipelines/timescale.yaml | psql market")]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    Sql(Sql),
    Api(Api),
}

/// Print the OpenAPI document of what a running pipeline answers over HTTP
///
/// A pipeline with `http` in its file serves it too, at `/api/v1/openapi.json`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate schema api > tidegate.openapi.json")]
struct Api {}

/// Print the statements that make a sink's tables
///
/// They are those that `create: true` runs. Nothing is connected to.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate schema sql --sink timescale pipelines/timescale.yaml
  tidegate schema sql --sink clickhouse         # for candles after validate, dedup and enrich")]
struct Sql {
    /// For which database
    #[arg(long, value_enum)]
    sink: Database,
    /// The pipeline whose rows the tables are for
    #[arg(value_name = "FILE")]
    pipeline: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Database {
    /// TimescaleDB, or PostgreSQL without the statements that begin with `SELECT` and `ALTER`
    Timescale,
    /// ClickHouse
    Clickhouse,
}

/// The rules whose columns are in the tables when no pipeline is given.
const USUAL_RULES: [&str; 3] = ["validate", "dedup", "enrich"];

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    match &arguments.what {
        None => print(&pretty(&pipeline_file::json_schema())).map(|()| 0),
        Some(What::Sql(sql)) => self::sql(global, sql),
        Some(What::Api(Api {})) => print(&pretty(&json!(http::document()))).map(|()| 0),
    }
}

fn sql(global: &Global, arguments: &Sql) -> Result<u8> {
    let (pipeline, schema) = match &arguments.pipeline {
        None => usual(global, arguments.sink)?,
        Some(path) => match pipeline_file::read(path) {
            Ok(loaded) => {
                let schema = check::schema(&loaded, &global.guests_folder())?;
                (loaded.pipeline, schema)
            }
            Err(findings) => {
                list(&findings);
                return Ok(FILES_ARE_WRONG);
            }
        },
    };
    let statements = match (arguments.sink, &pipeline.sink) {
        (Database::Timescale, pipeline_file::Sink::Timescale(config)) => {
            timescale::statements(config, &pipeline, &schema)?
        }
        (Database::Clickhouse, pipeline_file::Sink::Clickhouse(config)) => {
            clickhouse::statements(config, &pipeline, &schema)?
        }
        (sink, _) => {
            let sink = sink.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            return Err(Error::Files(format!("the pipeline `{}` has no `{sink}` sink", pipeline.name)));
        }
    };
    print(&statements.iter().map(|statement| format!("{statement};\n")).collect::<String>())?;
    Ok(0)
}

/// A pipeline with the usual rules, and the columns of its rows.
fn usual(global: &Global, sink: Database) -> Result<(Pipeline, SchemaRef)> {
    let sink = match sink {
        Database::Timescale => json!({ "timescale": { "url": "postgres://localhost/market" } }),
        Database::Clickhouse => json!({ "clickhouse": { "url": "http://localhost:8123" } }),
    };
    let file = json!({ "name": "usual", "source": { "file": { "path": "-" } }, "sink": sink });
    let pipeline: Pipeline = serde_json::from_value(file)
        .map_err(|error| Error::Running(format!("the usual pipeline is wrong: {error}")))?;
    let mut fields: Vec<Field> = Decoder::new(&Decode::default())?
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    for name in USUAL_RULES {
        let path = pipeline_file::component_path(&PathBuf::new(), &global.guests_folder(), name);
        for (name, kind) in Component::load(&path, &Limits::default())?.description.writes {
            if !fields.iter().any(|field| *field.name() == name) {
                fields.push(Field::new(name, kind.data_type(), true));
            }
        }
    }
    Ok((pipeline, Arc::new(Schema::new(fields))))
}
