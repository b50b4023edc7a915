//! `tidegate inspect`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::report::grouped;
use super::{Global, pretty, print};
use crate::error::Result;
use crate::pipeline_file::{self, AdapterLimits, Limits};
use crate::rule::{self, Component};
use crate::source::exchange::adapter::{self, Adapter, Description, Quiet};
use crate::wasm;

/// Show what a component is: a rule, or an exchange adapter
///
/// Before you put a rule into a pipeline: its version and hash, the columns it reads and writes, the reasons
/// for which it rejects rows, and its settings. Of an adapter: its exchanges, the hosts that it wants to reach, and
/// how often it asks. A component that imports anything is refused.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate inspect validate
  tidegate inspect ./my-rule.wasm
  tidegate inspect validate --json | jq .settings
  tidegate inspect kraken
  tidegate inspect ccxt --json | jq -r '.exchanges[].id'")]
pub struct Arguments {
    /// A `.wasm` file, or the name of a component in the guests folder
    component: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let path = pipeline_file::component_path(Path::new(""), &global.guests_folder(), &arguments.component);
    // The wider ones: nobody knows yet what it is.
    let limits = Limits::from(&AdapterLimits::default());
    let file = wasm::open(&path, &limits)?;
    let text = if file.is_for(&adapter::CONTRACT) {
        let adapter = Adapter::of(&path, file, &limits)?;
        if arguments.json { pretty(&adapter_json(&path, &adapter)) } else { adapter_text(&path, &adapter) }
    } else {
        let component = Component::of(&path, file, &Limits::default())?;
        if arguments.json { pretty(&rule_json(&path, &component)) } else { rule_text(&path, &component) }
    };
    print(&text)?;
    Ok(0)
}

fn rule_json(path: &PathBuf, component: &Component) -> serde_json::Value {
    let description = &component.description;
    let reads = description.reads.iter().map(
        |column| json!({ "name": column.name, "type": column.kind.name(), "optional": column.optional }),
    );
    let writes = description.writes.iter().map(|(name, kind)| json!({ "name": name, "type": kind.name() }));
    json!({
        "file": path,
        "bytes": component.size_bytes,
        "sha256": component.sha256,
        "contract": rule::CONTRACT.interface,
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

fn adapter_json(path: &PathBuf, adapter: &Adapter) -> serde_json::Value {
    let exchange = |exchange: &Description| {
        json!({
            "id": exchange.id,
            "name": exchange.name,
            "hosts": exchange.hosts,
            "timeframes": exchange.timeframes,
            "page_limit": exchange.page_limit,
            "depth": exchange.depth,
            "budget": {
                "units": exchange.units,
                "window_ms": exchange.window_ms,
                "burst": exchange.burst,
                "used_header": exchange.used_header,
            },
            "quiet": match exchange.quiet {
                Quiet::Row => "row",
                Quiet::Absent => "absent",
            },
            "has_feed": exchange.has_feed,
        })
    };
    json!({
        "file": path,
        "bytes": adapter.size_bytes,
        "sha256": adapter.sha256,
        "contract": adapter::CONTRACT.interface,
        "name": adapter.name,
        "version": adapter.version,
        "summary": adapter.summary,
        // Or it would have been refused.
        "imports": [],
        "exchanges": adapter.exchanges.iter().map(exchange).collect::<Vec<_>>(),
    })
}

/// The schema of the settings; null for a rule that has none.
fn settings(schema: &str) -> serde_json::Value {
    serde_json::from_str(schema).unwrap_or_default()
}

fn rule_text(path: &Path, component: &Component) -> String {
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

fn adapter_text(path: &Path, adapter: &Adapter) -> String {
    let exchanges: String = adapter.exchanges.iter().map(exchange_text).collect();
    format!(
        "{} {}: {}\n\nfile       {} ({} bytes)\nsha256     {}\nimports    nothing\n{exchanges}",
        adapter.name,
        adapter.version,
        adapter.summary,
        path.display(),
        adapter.size_bytes,
        adapter.sha256,
    )
}

fn exchange_text(exchange: &Description) -> String {
    let Description { id, name, hosts, timeframes, page_limit, depth, .. } = exchange;
    let Description { units, window_ms, burst, quiet, has_feed, .. } = exchange;
    let depth = depth.map_or(String::new(), |depth| format!(", of the last {}", grouped(depth.into())));
    let quiet = match quiet {
        Quiet::Row => "a candle without volume",
        Quiet::Absent => "no candle, or not said",
    };
    format!(
        "\nexchange   {id} ({name})\nhosts      {}\ntimeframes {}\ncandles    {} at once{depth}\nbudget     {} in {} \
         s, {} at once\nquiet      {quiet}\nlive       {}\n",
        hosts.join("\n           "),
        timeframes.join(" "),
        grouped((*page_limit).into()),
        grouped((*units).into()),
        f64::from(*window_ms) / 1_000.0,
        grouped((*burst).into()),
        if *has_feed { "yes" } else { "no" },
    )
}
