//! `cargo xtask guests`: every guest crate becomes a component, and with `--with ccxt` CCXT too (`ccxt.rs`).
//!
//! A guest is a core module for `wasm32-unknown-unknown` (it imports nothing, so it needs no WASI), which
//! `wit-component` turns into a component. Not every machine has the standard library of that target, so there
//! are three ways to come by it; [`Way::choose`] takes the first that this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use wit_component::{ComponentEncoder, DecodedWasm};

use crate::{Missing, apt_install, cargo, ccxt, output, root, run, rustc, target_folder, write_if_changed};

const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's compiler that can build its own standard library for WebAssembly, and that library's source.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The workspace's `rust-version`: (major, minor).
const NEEDED_RUSTC: (u32, u32) = (1, 95);

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

/// Where the standard library of the target comes from.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// The toolchain has it.
    Installed,
    /// The toolchain has its source.
    FromSource,
    /// Debian's compiler has its source.
    Debian {
        /// The linker; Debian's compiler does not bring one.
        linker: PathBuf,
    },
}

/// Builds the guests and says what it did.
pub fn command(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let guests = find(arguments.tests)?;
    let way = Way::choose()?;
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

impl Way {
    /// The first way that this machine has; installs Debian's packages when that needs nobody's consent.
    fn choose() -> Result<Way> {
        let library = output(Command::new(rustc()).args(["--print", "target-libdir", "--target", TARGET]))?;
        if Path::new(&library).is_dir() {
            return Ok(Way::Installed);
        }
        let sysroot = PathBuf::from(output(Command::new(rustc()).args(["--print", "sysroot"]))?);
        if sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file() {
            return Ok(Way::FromSource);
        }
        let linker = sysroot.join("lib/rustlib").join(host()?).join("bin/rust-lld");
        if !linker.is_file() {
            return Err(nothing_fits(&format!("`{}` does not exist", linker.display())));
        }
        let is_ready = debian_is_ready() || (apt_install(&DEBIAN_PACKAGES)? && debian_is_ready());
        if !is_ready {
            return Err(nothing_fits(&format!(
                "`{DEBIAN_RUSTC}` with the source of its standard library is not there"
            )));
        }
        let version = output(Command::new(DEBIAN_RUSTC).arg("--version"))?;
        if parse_version(&version).is_none_or(|version| version < NEEDED_RUSTC) {
            let (major, minor) = NEEDED_RUSTC;
            return Err(nothing_fits(&format!(
                "`{DEBIAN_RUSTC}` is {version}, and {major}.{minor} is needed"
            )));
        }
        Ok(Way::Debian { linker })
    }

    fn description(&self) -> &'static str {
        match self {
            Way::Installed => "the toolchain has wasm32-unknown-unknown",
            Way::FromSource => "the standard library of wasm32-unknown-unknown is built from rust-src",
            Way::Debian { .. } => {
                "the standard library of wasm32-unknown-unknown is built with Debian's rustc-web and rust-web-src"
            }
        }
    }

    /// Makes cargo build this way.
    fn apply(&self, command: &mut Command) {
        if *self != Way::Installed {
            // The option is unstable, and the compilers here are stable ones.
            command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        }
        if let Way::Debian { linker } = self {
            command.env("RUSTC", DEBIAN_RUSTC).env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
}

fn nothing_fits(why: &str) -> anyhow::Error {
    Missing(format!(
        "this machine cannot build for {TARGET} ({why}); run one of\n    rustup target add {TARGET}\n    \
         rustup component add rust-src\n    apt-get install {}",
        DEBIAN_PACKAGES.join(" ")
    ))
    .into()
}

/// The triple of this machine.
fn host() -> Result<String> {
    let answer = output(Command::new(rustc()).arg("-vV"))?;
    let host = answer.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` does not name its host")?.to_owned())
}

/// Whether Debian's compiler and the source of its standard library are installed.
fn debian_is_ready() -> bool {
    let sysroot = output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]));
    sysroot.is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/Cargo.lock").is_file())
}

/// `rustc 1.96.0 (…)` is (1, 96).
fn parse_version(answer: &str) -> Option<(u32, u32)> {
    let mut numbers = answer.split(' ').nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn build_folder() -> PathBuf {
    target_folder().join("guests-build")
}

/// Builds the core modules.
fn build(guests: &[Guest], way: &Way) -> Result<()> {
    for guest in guests {
        let mut command = cargo();
        // A crate that is an `rlib` too would not be optimised at link time.
        command.args(["rustc", "--quiet", "--package", &guest.package, "--lib", "--crate-type", "cdylib"]);
        command.args(["--profile", "guest", "--target", TARGET, "--target-dir"]).arg(build_folder());
        // Flags for this machine's processor mean nothing to WebAssembly.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        // Columns are what vector instructions are for.
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Ctarget-feature=+simd128");
        way.apply(&mut command);
        run(&mut command)?;
    }
    Ok(())
}

/// The component of a guest whose core module has been built.
fn componentize(guest: &Guest) -> Result<Vec<u8>> {
    let file = format!("{}.wasm", guest.package.replace('-', "_"));
    let core = build_folder().join(TARGET).join("guest").join(file);
    let module = std::fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| anyhow::anyhow!("guest `{}` does not become a component: {error:?}", guest.name))?;
    if !guest.for_tests && !exports_something(&component) {
        bail!(
            "guest `{}` exports neither a rule nor an adapter; the crate must call `tidegate_guest::export!` or \
             `tidegate_guest::export_adapter!`",
            guest.name
        );
    }
    Ok(component)
}

fn exports_something(component: &[u8]) -> bool {
    match wit_component::decode(component) {
        Ok(DecodedWasm::Component(resolve, world)) => !resolve.worlds[world].exports.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_rustc_says() {
        assert_eq!(
            parse_version("rustc 1.96.0 (1234567 2026-05-25) (built from a source tarball)"),
            Some((1, 96))
        );
        assert_eq!(parse_version("rustc 1.63.0"), Some((1, 63)));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn the_guests_of_the_workspace_are_found_and_the_sdk_is_not() {
        let names: Vec<_> = find(false).unwrap().into_iter().map(|guest| guest.name).collect();
        for guest in ["dedup", "enrich", "validate", "binance", "coinbase", "kraken"] {
            assert!(names.iter().any(|name| name == guest), "{names:?}");
        }
        assert!(!names.iter().any(|name| name == "sdk"), "{names:?}");
    }

    #[test]
    fn what_is_missing_is_named_with_the_commands_that_install_it() {
        let text = nothing_fits("`/usr/bin/rustc` is not there").to_string();
        assert!(text.contains("rustup target add wasm32-unknown-unknown"), "{text}");
        assert!(text.contains("apt-get install rustc-web rust-web-src"), "{text}");
    }
}
