//! What the tests of projects would otherwise compile and download while their time is taken.

use std::process::Command;

use anyhow::{Context, Result};
use tidegate_kit::{Kind, Language};

use crate::{output, target_folder, tidegate_binary};

/// Fills the caches below `target/kit` and those of npm and pip; the binary must be built.
pub fn prepare() -> Result<()> {
    let folder = target_folder().join("kit");
    std::fs::create_dir_all(&folder)?;
    for language in [Language::Javascript, Language::Python] {
        let project = folder.join(language.name());
        if !project.exists() {
            tidegate_kit::create(&project, Kind::Rule, language, "warm")?;
        }
        tidegate_kit::prepare(&project, &|line| eprintln!("kit: {line}"))?;
    }
    let project = folder.join(Language::Rust.name());
    if project.exists() {
        // One of an earlier version would compile other packages.
        std::fs::remove_dir_all(&project).with_context(|| format!("cannot remove {}", project.display()))?;
    }
    tidegate_kit::create(&project, Kind::Rule, Language::Rust, "warm")?;
    let mut build = Command::new(tidegate_binary());
    // Tests share what this compiles.
    build.args(["--quiet", "build"]).current_dir(&project).env("CARGO_TARGET_DIR", &folder);
    eprintln!("kit: {}", output(&mut build)?);
    Ok(())
}
