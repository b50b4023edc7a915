//! `tidegate check`

use std::path::{Path, PathBuf};

use clap::Args;

use super::{FILES_ARE_WRONG, Global, list, print};
use crate::error::Result;
use crate::pipeline_file;
use crate::pipeline_file::finding::Finding;
use crate::rule::{Component, fit};

/// Check pipeline files without running them
///
/// Says all that is wrong with file, line and column, and nothing when all is right: keys, values, components,
/// the columns that rules read, and their settings. No data are read or written.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate check pipelines/*.yaml
  tidegate check validate.yaml --json | jq -r .message")]
pub struct Arguments {
    /// Pipeline files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print each finding as one JSON object a line, on standard output
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let guests = global.guests_folder();
    let findings: Vec<Finding> = arguments.files.iter().flat_map(|path| file(path, &guests)).collect();
    if findings.is_empty() {
        return Ok(0);
    }
    if !arguments.json {
        list(&findings);
        return Ok(FILES_ARE_WRONG);
    }
    for finding in &findings {
        print(&format!("{}\n", serde_json::json!(finding)))?;
    }
    Ok(FILES_ARE_WRONG)
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
    findings
}
