//! `tidegate inspect`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Global, pretty, print};
use crate::error::Result;
use crate::pipeline_file::{self, Limits};
use crate::rule::Component;

/// Show what a rule's component is
///
/// Before you put a rule into a pipeline: its version and hash, the columns it reads and writes, the reasons
/// for which it rejects rows, and its settings. A component that imports anything is refused.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate inspect validate
  tidegate inspect ./my-rule.wasm
  tidegate inspect validate --json | jq .settings")]
pub struct Arguments {
    /// A `.wasm` file, or the name of a rule in the guests folder
    component: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let path = pipeline_file::component_path(Path::new(""), &global.guests_folder(), &arguments.component);
    let component = Component::load(&path, &Limits::default())?;
    print(&if arguments.json { pretty(&as_json(&path, &component)) } else { as_text(&path, &component) })?;
    Ok(0)
}

fn as_json(path: &PathBuf, component: &Component) -> serde_json::Value {
    let description = &component.description;
    let reads = description.reads.iter().map(
        |column| json!({ "name": column.name, "type": column.kind.name(), "optional": column.optional }),
    );
    let writes = description.writes.iter().map(|(name, kind)| json!({ "name": name, "type": kind.name() }));
    json!({
        "file": path,
        "bytes": component.size_bytes,
        "sha256": component.sha256,
        "name": description.name,
        "version": description.version,
        "summary": description.summary,
        // Or it would have been refused.
        "imports": [],
        "reads": reads.collect::<Vec<_>>(),
        "writes": writes.collect::<Vec<_>>(),
        "reasons": description.reasons,
        "settings": settings(&description.settings),
    })
}

/// The schema of the settings; null for a rule that has none.
fn settings(schema: &str) -> serde_json::Value {
    serde_json::from_str(schema).unwrap_or_default()
}

fn as_text(path: &Path, component: &Component) -> String {
    let description = &component.description;
    let list =
        |items: Vec<String>| if items.is_empty() { "nothing".into() } else { items.join("\n           ") };
    let reads = description.reads.iter().map(|column| {
        let optional = if column.optional { ", optional" } else { "" };
        format!("{} ({}{optional})", column.name, column.kind.name())
    });
    let writes = description.writes.iter().map(|(name, kind)| format!("{name} ({})", kind.name()));
    let schema = match settings(&description.settings) {
        serde_json::Value::Null => "nothing".into(),
        schema => format!("{schema:#}"),
    };
    format!(
        "{} {}: {}\n\nfile       {} ({} bytes)\nsha256     {}\nimports    nothing\nreads      {}\nwrites     {}\n\
         reasons    {}\nsettings   {schema}\n",
        description.name,
        description.version,
        description.summary,
        path.display(),
        component.size_bytes,
        component.sha256,
        list(reads.collect()),
        list(writes.collect()),
        list(description.reasons.clone()),
    )
}
