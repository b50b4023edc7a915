//! `tidegate build`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tempfile::NamedTempFile;

use super::{Global, print};
use crate::error::{Error, Result};
use crate::life::short;
use crate::pipeline_file::{AdapterLimits, Limits};
use crate::rule::Component;
use crate::source::exchange::adapter::{self, Adapter};
use crate::wasm;

/// Build a project into a component
///
/// The project is in Rust, JavaScript or Python, told by `Cargo.toml`, `package.json` or `pyproject.toml`. What its
/// language needs inside of the project is set up; what the machine must have is named with the line that installs it.
/// The project's `sdk` becomes that of this version, so a component of an older contract is built again with nothing
/// but this. Its `fixtures` become part of the component. The component is checked before it takes the place of an
/// earlier one.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate build
  tidegate build wide_range
  tidegate build wide_range --out rules/wide_range.wasm")]
pub struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Where to write the component [default: <name>.wasm in the project's folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    project(global, &arguments.folder, arguments.out.as_deref()).map(|_| 0)
}

/// Builds the project in a folder, says what became of it, and gives the component's path.
pub(super) fn project(global: &Global, folder: &Path, out: Option<&Path>) -> Result<PathBuf> {
    let say = |line: &str| {
        if !global.quiet {
            drop(writeln!(std::io::stderr(), "build: {line}"));
        }
    };
    let built = tidegate_kit::build(folder, &say)?;
    let path = out.map_or_else(|| folder.join(format!("{}.wasm", built.name)), Path::to_path_buf);
    say("compiling the component for this machine");
    let Identity { name, version, sha256 } = save(&path, &built.component)?;
    print(&format!(
        "{name} {version}: {} ({} KiB, sha256 {})\n",
        path.display(),
        built.component.len().div_ceil(1024),
        short(&sha256),
    ))?;
    Ok(path)
}

/// What a component says of itself.
struct Identity {
    name: String,
    version: String,
    sha256: Arc<str>,
}

/// Puts a component where it belongs, in one step, when it passes all checks of this host.
fn save(path: &Path, component: &[u8]) -> Result<Identity> {
    let cannot =
        |error: std::io::Error| Error::Surroundings(format!("cannot write `{}`: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(cannot)?;
    let mut file = NamedTempFile::new_in(folder).map_err(cannot)?;
    file.write_all(component).map_err(cannot)?;
    let identity = check(path, file.path())?;
    readable_by_all(file.as_file()).map_err(cannot)?;
    file.persist(path).map_err(|error| cannot(error.error))?;
    Ok(identity)
}

/// Checks the component in the file at `present` as `inspect` does, in the name of the file at `path`.
fn check(path: &Path, present: &Path) -> Result<Identity> {
    // The wider ones: nobody knows yet what it is.
    let limits = Limits::from(&AdapterLimits::default());
    let file = wasm::open(present, &limits)?;
    if file.is_for(&adapter::CONTRACT) {
        let Adapter { name, version, sha256, .. } = Adapter::of(path, file, &limits)?;
        return Ok(Identity { name, version, sha256 });
    }
    let component = Component::of(path, file, &Limits::default())?;
    let description = component.description;
    Ok(Identity { name: description.name, version: description.version, sha256: component.sha256 })
}

/// Temporary files are for their owner alone; a component is not.
#[cfg(unix)]
fn readable_by_all(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all(_file: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}
