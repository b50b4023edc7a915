//! `cargo xtask guests`: every guest crate becomes a component, and with `--with ccxt` CCXT too (`ccxt.rs`).
//!
//! How a crate becomes a component, and the ways to the target for it, are in the crate `kit`, as for the projects of
//! users.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tidegate_kit::component;
use tidegate_kit::rust::{DEBIAN_PACKAGES, TARGET, Way};

use crate::{Missing, apt_install, cargo, ccxt, output, root, run, target_folder, write_if_changed};

/// Arguments of `cargo xtask guests`.
#[derive(Debug, Default, clap::Args)]
pub struct Arguments {
    /// Folder for the components [default: target/guests]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Build the hostile guests of tests/guests too, into target/guests-test
    #[arg(long)]
    pub tests: bool,
    /// Build a guest too that needs more than Rust
    #[arg(long, value_enum, value_name = "NAME")]
    pub with: Vec<Extra>,
}

/// A guest that is built only when it is asked for, because it needs more than Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Extra {
    /// The exchanges of CCXT; needs Node.js and npm
    Ccxt,
}

/// A crate that becomes a component.
struct Guest {
    /// Name of the crate's folder, and of the component.
    name: String,
    package: String,
    /// Whether it is one of the hostile guests, which need not export anything.
    for_tests: bool,
}

/// Builds the guests and says what it did.
pub fn command(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let guests = find(arguments.tests)?;
    let way = choose()?;
    eprintln!("guests: {}", way.description());
    build(&guests, &way)?;
    let out = arguments.out.clone().unwrap_or_else(|| target_folder().join("guests"));
    let out_tests = target_folder().join("guests-test");
    for guest in &guests {
        let path = if guest.for_tests { &out_tests } else { &out }.join(format!("{}.wasm", guest.name));
        let component = componentize(guest)?;
        let state = if write_if_changed(&path, &component)? { "written" } else { "unchanged" };
        eprintln!("guests: {} ({} KiB, {state})", path.display(), component.len().div_ceil(1024));
    }
    eprintln!("guests: {} in {:.1} s", guests.len(), started.elapsed().as_secs_f64());
    if arguments.with.contains(&Extra::Ccxt) {
        ccxt::build(&out)?;
    }
    Ok(())
}

/// The guest crates of the workspace: those below `guests/` (and `tests/guests/`) that make a `cdylib`.
fn find(tests: bool) -> Result<Vec<Guest>> {
    let answer = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&answer).context("cargo metadata does not answer in JSON")?;
    let mut guests = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata names no packages")? {
        let folder = package["manifest_path"].as_str().and_then(|path| Path::new(path).parent());
        let (Some(folder), Some(name)) = (folder, package["name"].as_str()) else { continue };
        let above = folder.parent().unwrap_or(folder);
        let for_tests = above == root().join("tests/guests");
        let wanted = above == root().join("guests") || (for_tests && tests);
        if wanted && makes_cdylib(package) {
            let folder_name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            guests.push(Guest { name: folder_name, package: name.to_owned(), for_tests });
        }
    }
    if guests.is_empty() {
        bail!("no crate in `guests` is a `cdylib`");
    }
    guests.sort_by(|a, b| (a.for_tests, &a.name).cmp(&(b.for_tests, &b.name)));
    Ok(guests)
}

fn makes_cdylib(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    targets.flat_map(|target| target["crate_types"].as_array()).flatten().any(|kind| kind == "cdylib")
}

/// The first way to the target that this machine has; installs Debian's packages when that needs nobody's consent.
fn choose() -> Result<Way> {
    match Way::find() {
        Err(tidegate_kit::Error::Missing { .. }) if apt_install(&DEBIAN_PACKAGES)? => {
            Ok(Way::find().map_err(missing)?)
        }
        found => Ok(found.map_err(missing)?),
    }
}

/// What the kit says is missing is missing here too.
fn missing(error: tidegate_kit::Error) -> anyhow::Error {
    match error {
        error @ tidegate_kit::Error::Missing { .. } => Missing(error.to_string()).into(),
        error => error.into(),
    }
}

fn build_folder() -> PathBuf {
    target_folder().join("guests-build")
}

/// Builds the core modules.
fn build(guests: &[Guest], way: &Way) -> Result<()> {
    for guest in guests {
        let mut command = way.cargo_rustc(&guest.package, "guest", &[]);
        command.arg("--target-dir").arg(build_folder()).current_dir(root());
        run(&mut command)?;
    }
    Ok(())
}

/// The component of a guest whose core module has been built.
fn componentize(guest: &Guest) -> Result<Vec<u8>> {
    let file = format!("{}.wasm", guest.package.replace('-', "_"));
    let core = build_folder().join(TARGET).join("guest").join(file);
    let module = std::fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
    let component =
        component::from_core(&module).with_context(|| format!("guest `{}` is no component", guest.name))?;
    if !guest.for_tests && !component::exports_something(&component) {
        bail!(
            "guest `{}` exports neither a rule nor an adapter; the crate must call `tidegate_guest::export!` or \
             `tidegate_guest::export_adapter!`",
            guest.name
        );
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_of_the_workspace_are_found_and_the_sdk_is_not() {
        let names: Vec<_> = find(false).unwrap().into_iter().map(|guest| guest.name).collect();
        for guest in ["dedup", "enrich", "validate", "binance", "coinbase", "kraken"] {
            assert!(names.iter().any(|name| name == guest), "{names:?}");
        }
        assert!(!names.iter().any(|name| name == "sdk"), "{names:?}");
    }
}
