//! `cargo xtask quickstart`: from a fresh clone to candles in a database.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{Failed, cargo, guests, packages, root, run, target_folder, tidegate_binary};

/// Builds rules and host, runs the quickstart pipeline, and says what to try next.
pub fn command() -> Result<()> {
    packages::for_build()?;
    guests::command(&guests::Arguments::default())?;
    eprintln!("quickstart: building the host (minutes the first time)");
    run(cargo().args(["build", "--workspace", "--bin", "tidegate"]))?;

    // The pipeline file names the database relative to itself, so it is always in this folder.
    let folder = root().join("target/quickstart");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let is_first = !folder.join("quickstart.db").exists();

    let mut tidegate = Command::new(tidegate_binary());
    tidegate.current_dir(root()).args(["run", "pipelines/quickstart.yaml"]);
    tidegate.arg("--guests").arg(target_folder().join("guests"));
    let status = tidegate.status().context("cannot start `tidegate`")?;
    if !status.success() {
        // It has said why; its exit code says who must act.
        return Err(Failed(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)).into());
    }
    println!("{}", next_commands(is_first));
    Ok(())
}

fn next_commands(is_first: bool) -> String {
    let binary = shown(tidegate_binary());
    let has_sqlite =
        Command::new("sqlite3").arg("--version").output().is_ok_and(|answer| answer.status.success());
    let first = if is_first {
        ""
    } else {
        "\nThe database remembers how far the file has been read, so a second run finds nothing new.\n\
         To start over:\n    rm -r target/quickstart && cargo xtask quickstart\n"
    };
    let install = if has_sqlite { "" } else { "   # apt-get install sqlite3" };
    format!(
        "{first}
Next:
  what was kept{install}
    sqlite3 -box target/quickstart/quickstart.db \"SELECT exchange, symbol, count(*), min(low), max(high) FROM candles GROUP BY 1, 2\"
  what was rejected, and why
    sqlite3 -box target/quickstart/quickstart.db \"SELECT source_offset, rule, reason, detail FROM dead_letter LIMIT 50\"
  the candle that its exchange corrected
    sqlite3 -box target/quickstart/quickstart.db \"SELECT * FROM candles WHERE revision > 0\"
  what a rule can be told
    {binary} inspect target/guests/validate.wasm
  break a rule: write `sourcs` for `sources` in pipelines/quickstart.yaml, then
    {binary} check pipelines/quickstart.yaml
  change a rule's code: guests/validate/src/lib.rs, then
    rm -r target/quickstart && cargo xtask quickstart
  write a rule: README.md, \"A rule of your own\""
    )
}

/// A path as one would type it in the workspace's folder.
fn shown(path: std::path::PathBuf) -> String {
    path.strip_prefix(root()).unwrap_or(&path).display().to_string()
}
