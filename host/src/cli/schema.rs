//! `tidegate schema`

use clap::Args;

use super::{pretty, print};
use crate::error::Result;
use crate::pipeline_file;

/// Print the JSON Schema of pipeline files
///
/// Editors with a YAML language server complete and check pipeline files with it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate schema > pipeline.schema.json
  # and as the first line of a pipeline file:
  # yaml-language-server: $schema=./pipeline.schema.json")]
pub struct Arguments {}

pub fn run(_: &Arguments) -> Result<u8> {
    print(&pretty(&pipeline_file::json_schema()))?;
    Ok(0)
}
