//! `tidegate health`

use clap::Args;

use crate::error::Result;
use crate::http::client;

/// Ask a running pipeline whether it is ready
///
/// For health checks of containers: exit code 0 when all lanes of the pipeline read and write, 1 when one does not, with why,
/// and 3 when nobody answers.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate health 127.0.0.1:9101
  tidegate health 127.0.0.1:9101 --live     # only whether it answers")]
pub struct Arguments {
    /// Where the pipeline answers: `http` of its pipeline file
    #[arg(value_name = "IP:PORT")]
    address: String,
    /// Ask only whether it answers
    #[arg(long)]
    live: bool,
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    client::health(&arguments.address, arguments.live)?;
    Ok(0)
}
