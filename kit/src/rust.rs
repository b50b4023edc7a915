//! Rust: the ways to the target `wasm32-unknown-unknown`, and projects that take one of them.
//!
//! A component in Rust is a core module for that target (it imports nothing, so it needs no WASI), which
//! [`component::from_core`] turns into a component. Not every machine has the standard library of the target, so there
//! are three ways to come by it; [`Way::find`] takes the first that this machine has.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{Error, Result, component, tool};

/// The target.
pub const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's compiler that can build its own standard library for WebAssembly, and that library's source.
pub const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The workspace's `rust-version`: (major, minor).
const NEEDED_RUSTC: (u32, u32) = (1, 95);
/// Where a toolchain has the source of its standard library.
const LIBRARY_SOURCE: &str = "lib/rustlib/src/rust/library";
/// Columns are what vector instructions are for.
const FEATURES: &str = "-Ctarget-feature=+simd128";

/// Where the standard library of the target comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
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

impl Way {
    /// The first way that this machine has.
    ///
    /// # Errors
    /// [`Error::Missing`] with the commands of which one opens a way.
    pub fn find() -> Result<Way> {
        let sysroot = sysroot(&rustc())?;
        if sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir() {
            return Ok(Way::Installed);
        }
        if has_library_source(&sysroot) {
            return Ok(Way::FromSource);
        }
        let linker = sysroot.join("lib/rustlib").join(host()?).join("bin/rust-lld");
        if !linker.is_file() {
            return Err(nothing_fits(&format!("`{}` does not exist", linker.display())));
        }
        if !sysroot_of_debian().is_some_and(|sysroot| has_library_source(&sysroot)) {
            return Err(nothing_fits(&format!(
                "`{DEBIAN_RUSTC}` with the source of its standard library is not there"
            )));
        }
        let version = tool::answer(DEBIAN_RUSTC, &["--version"]).unwrap_or_default();
        if parse_version(&version).is_none_or(|version| version < NEEDED_RUSTC) {
            let (major, minor) = NEEDED_RUSTC;
            return Err(nothing_fits(&format!(
                "`{DEBIAN_RUSTC}` is {version}, and {major}.{minor} is needed"
            )));
        }
        Ok(Way::Debian { linker })
    }

    /// What it is, for people.
    pub fn description(&self) -> &'static str {
        match self {
            Way::Installed => "the toolchain has wasm32-unknown-unknown",
            Way::FromSource => "the standard library of wasm32-unknown-unknown is built from rust-src",
            Way::Debian { .. } => {
                "the standard library of wasm32-unknown-unknown is built with Debian's rustc-web and rust-web-src"
            }
        }
    }

    /// `cargo rustc` for the core module of a package: a `cdylib` alone, because a crate that is an `rlib` too would
    /// not be optimised at link time. `remaps` are prefixes of paths, and what stands for them in the module.
    pub fn cargo_rustc(&self, package: &str, profile: &str, remaps: &[(PathBuf, &str)]) -> Command {
        let mut command = cargo();
        command.args(["rustc", "--quiet", "--package", package, "--lib", "--crate-type", "cdylib"]);
        command.args(["--profile", profile, "--target", TARGET]);
        // These take the place of flags for this machine's processor, which mean nothing to WebAssembly, and unlike
        // `RUSTFLAGS` they can have spaces in them.
        let mut flags = OsString::from(FEATURES);
        for (path, name) in remaps {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(path);
            flags.push(format!("={name}"));
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", flags);
        if *self != Way::Installed {
            // The option is unstable, and the compilers here are stable ones.
            command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        }
        if let Way::Debian { linker } = self {
            command.env("RUSTC", DEBIAN_RUSTC).env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        command
    }

    /// Where the compiler of this way has the sources of the standard library.
    fn library_source(&self) -> Result<PathBuf> {
        let sysroot = match self {
            Way::Installed | Way::FromSource => sysroot(&rustc())?,
            Way::Debian { .. } => sysroot_of_debian().unwrap_or_default(),
        };
        let source = sysroot.join(LIBRARY_SOURCE);
        // The compiler sees where the links of distributions lead.
        Ok(source.canonicalize().unwrap_or(source))
    }
}

/// What cargo says of the package of a project.
struct Package {
    name: String,
    /// The core module.
    module: PathBuf,
}

impl Package {
    fn of(folder: &Path) -> Result<Package> {
        let manifest = folder.join("Cargo.toml");
        let mut command = cargo();
        command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(&manifest);
        let answer = tool::output(&mut command, tool::build_failed)?;
        let wrong = |what: &str| Error::File { path: manifest.clone(), what: what.to_owned() };
        let metadata: Value = serde_json::from_str(&answer)
            .map_err(|_| wrong("is not understood: cargo does not answer in JSON"))?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let package = (packages.into_iter())
            .find(|package| package["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest))
            .ok_or_else(|| wrong("has no package"))?;
        let is_cdylib = |target: &&Value| {
            target["crate_types"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "cdylib"))
        };
        let library = (package["targets"].as_array().into_iter().flatten())
            .find(is_cdylib)
            .and_then(|target| target["name"].as_str())
            .ok_or_else(|| {
                wrong("makes no component: write `crate-type = [\"cdylib\", \"rlib\"]` below `[lib]`")
            })?;
        let target_folder = metadata["target_directory"].as_str().unwrap_or("target");
        Ok(Package {
            name: package["name"].as_str().unwrap_or_default().to_owned(),
            module: Path::new(target_folder)
                .join(TARGET)
                .join("release")
                .join(format!("{}.wasm", library.replace('-', "_"))),
        })
    }
}

/// Builds the project in a folder; gives its name and component.
pub fn build(folder: &Path, say: &dyn Fn(&str)) -> Result<(String, Vec<u8>)> {
    let way = Way::find()?;
    let package = Package::of(folder)?;
    say(&format!("compiling `{}`: {}", package.name, way.description()));
    // Paths are in the messages of panics, and the bytes must not depend on where the packages lie.
    let mut remaps = vec![(way.library_source()?, "library")];
    remaps.extend(cargo_home().map(|home| (home.join("registry/src"), "registry")));
    let mut command = way.cargo_rustc(&package.name, "release", &remaps);
    // Nor on where the project lies; but for its own crate alone, because packages are compiled again where flags differ.
    let mut own = OsString::from("--remap-path-prefix=");
    own.push(folder);
    own.push("=");
    command.arg("--").arg(own);
    tool::run(command.current_dir(folder), |command| Error::Build { command, end: "failed".to_owned() })?;
    let module = std::fs::read(&package.module).map_err(Error::cannot("read", &package.module))?;
    let component = component::from_core(&module)?;
    if !component::exports_something(&component) {
        return Err(Error::NoComponent(
            "the crate must call `tidegate_guest::export!` or `tidegate_guest::export_adapter!`".to_owned(),
        ));
    }
    Ok((package.name, component))
}

/// `cargo test`.
pub fn tests() -> Result<Command> {
    sysroot(&rustc())?;
    let mut command = cargo();
    command.args(["test", "--quiet"]);
    Ok(command)
}

fn nothing_fits(why: &str) -> Error {
    Error::Missing {
        what: format!("the standard library of {TARGET} ({why})"),
        install: format!(
            "rustup target add {TARGET}`, `rustup component add rust-src` or `sudo apt-get install -y {}",
            DEBIAN_PACKAGES.join(" ")
        ),
    }
}

/// The cargo that runs this, or else that of the path.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The compiler that cargo uses.
fn rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}

fn sysroot(rustc: &str) -> Result<PathBuf> {
    let answer = tool::answer(rustc, &["--print", "sysroot"]).ok_or_else(|| Error::Missing {
        what: "Rust".to_owned(),
        install: "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh".to_owned(),
    })?;
    Ok(answer.into())
}

fn sysroot_of_debian() -> Option<PathBuf> {
    tool::answer(DEBIAN_RUSTC, &["--print", "sysroot"]).map(PathBuf::from)
}

fn has_library_source(sysroot: &Path) -> bool {
    sysroot.join(LIBRARY_SOURCE).join("Cargo.lock").is_file()
}

/// The triple of this machine.
fn host() -> Result<String> {
    let answer = tool::answer(&rustc(), &["-vV"]).unwrap_or_default();
    let host = answer.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| nothing_fits("`rustc -vV` does not name its host"))
}

/// Where cargo has the sources of packages.
fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

/// `rustc 1.96.0 (…)` is (1, 96).
fn parse_version(answer: &str) -> Option<(u32, u32)> {
    let mut numbers = answer.split(' ').nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
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
    fn what_is_missing_is_named_with_the_commands_that_install_it() {
        assert_eq!(
            nothing_fits("`/usr/bin/rustc` is not there").to_string(),
            "this machine lacks the standard library of wasm32-unknown-unknown (`/usr/bin/rustc` is not there); run \
             `rustup target add wasm32-unknown-unknown`, `rustup component add rust-src` or `sudo apt-get install -y \
             rustc-web rust-web-src`"
        );
    }

    #[test]
    fn flags_of_this_machine_are_replaced() {
        let command = Way::FromSource.cargo_rustc("x", "release", &[("/a b".into(), "c")]);
        let flags = command.get_envs().find(|(name, _)| *name == "CARGO_ENCODED_RUSTFLAGS").unwrap().1;
        assert_eq!(flags.unwrap(), "-Ctarget-feature=+simd128\x1f--remap-path-prefix=/a b=c");
    }
}
