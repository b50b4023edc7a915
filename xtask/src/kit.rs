//! What the tests of projects would otherwise compile and download while their time is taken.

use std::process::Command;

use anyhow::Result;

use crate::{output, target_folder, tidegate_binary};

/// Builds a project of each language once, below `target/kit`; the binary must be built.
pub fn prepare() -> Result<()> {
    let folder = target_folder().join("kit");
    std::fs::create_dir_all(&folder)?;
    for language in ["rust", "javascript", "python"] {
        let project = folder.join(language);
        let tidegate = || {
            let mut command = Command::new(tidegate_binary());
            // Tests share what this compiles.
            command.current_dir(&folder).env("CARGO_TARGET_DIR", &folder);
            command
        };
        if !project.exists() {
            let new = ["new", "rule", "warm", "--lang", language, "--folder", language];
            output(tidegate().args(new))?;
        }
        let built = output(tidegate().args(["--quiet", "build", language]))?;
        eprintln!("kit: {built}");
    }
    Ok(())
}
