//! Python: `componentize-py` makes the component, in a virtual environment of the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use toml::Table;

use crate::{Error, Result, tool};

/// The oldest Python that the SDK runs on.
const NEEDED_PYTHON: (u32, u32) = (3, 10);

/// The project's virtual environment, which brings the tools.
const ENVIRONMENT: &str = ".venv";

/// In the environment: with what it was made.
const STAMP: &str = "tidegate";

/// Of the tools, with their versions.
const REQUIREMENTS: &str = "sdk/requirements.txt";

/// Python, which is called otherwise on Windows.
const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

/// Builds the project in a folder; gives its name and component.
pub fn build(folder: &Path, say: &dyn Fn(&str)) -> Result<(String, Vec<u8>)> {
    let Manifest { name, .. } = Manifest::of(folder)?;
    let programs = install(folder, say)?;
    say(&format!("building `{name}` with the interpreter of Python"));
    tool::component_of(|out| {
        let mut command = Command::new(programs.join("componentize-py"));
        command.args(["--quiet", "--wit-path", "sdk/rule.wit", "--world", "tidegate-rule"]);
        // A rule imports nothing; what of the interpreter would ask for more is a trap.
        command
            .args(["componentize", "--stub-wasi", "--python-path", ".", "--output"])
            .arg(out)
            .arg("sdk.component");
        command.env("VIRTUAL_ENV", folder.join(ENVIRONMENT)).current_dir(folder);
        command
    })
    .map(|component| (name, component))
}

/// Makes the virtual environment with the tools and what the project depends on, unless it is there; gives the folder
/// of its programs.
pub fn install(folder: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let environment = folder.join(ENVIRONMENT);
    let programs = environment.join(if cfg!(windows) { "Scripts" } else { "bin" });
    let Manifest { dependencies, .. } = Manifest::of(folder)?;
    let requirements = folder.join(REQUIREMENTS);
    let tools = std::fs::read_to_string(&requirements).map_err(Error::cannot("read", &requirements))?;
    // The environment names its own path, so one that has been moved with its project is made anew.
    let wanted = format!("{}\n{tools}{}", environment.display(), dependencies.join("\n"));
    let stamp = environment.join(STAMP);
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(programs);
    }
    check_python()?;
    say("installing the packages of `sdk/requirements.txt` and `pyproject.toml` with pip, once");
    let mut make = Command::new(PYTHON);
    make.args(["-m", "venv", "--clear"]).arg(&environment);
    tool::output(&mut make, tool::install_failed)?;
    let mut pip = Command::new(programs.join("python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
        REQUIREMENTS,
    ]);
    tool::output(pip.args(&dependencies).current_dir(folder), tool::install_failed)?;
    std::fs::write(&stamp, wanted).map_err(Error::cannot("write", &stamp))?;
    Ok(programs)
}

/// `python3 -m unittest`, with what the project depends on.
pub fn tests(folder: &Path, say: &dyn Fn(&str)) -> Result<Command> {
    let program = match Manifest::of(folder)?.dependencies.is_empty() {
        true => {
            check_python()?;
            PathBuf::from(PYTHON)
        }
        false => install(folder, say)?.join("python"),
    };
    let mut command = Command::new(program);
    command.args(["-m", "unittest"]);
    Ok(command)
}

fn check_python() -> Result<()> {
    let answer = tool::answer(PYTHON, &["-c", "import ensurepip, sys, venv; print(*sys.version_info[:2])"]);
    if answer.and_then(|answer| parse_version(&answer)).is_some_and(|version| version >= NEEDED_PYTHON) {
        return Ok(());
    }
    let (major, minor) = NEEDED_PYTHON;
    let install = if cfg!(target_os = "macos") {
        "brew install python3"
    } else {
        "sudo apt-get install -y python3-venv"
    };
    Err(Error::Missing {
        what: format!("Python {major}.{minor} or newer with venv"),
        install: install.to_owned(),
    })
}

/// `3 11` is (3, 11).
fn parse_version(answer: &str) -> Option<(u32, u32)> {
    let (major, minor) = answer.split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What `pyproject.toml` says.
#[derive(Debug, PartialEq, Eq)]
struct Manifest {
    name: String,
    dependencies: Vec<String>,
}

impl Manifest {
    fn of(folder: &Path) -> Result<Manifest> {
        let path = folder.join("pyproject.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::cannot("read", &path))?;
        let wrong = |what: String| Error::File { path: path.clone(), what };
        let manifest: Table = text.parse().map_err(|error| wrong(format!("is not TOML: {error}")))?;
        let project = manifest.get("project");
        let name = project.and_then(|project| project.get("name")?.as_str());
        let dependencies = project.and_then(|project| project.get("dependencies")?.as_array());
        let dependencies =
            dependencies.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned));
        Ok(Manifest {
            name: crate::project::checked_name(name)
                .ok_or_else(|| wrong(crate::project::NAMELESS.to_owned()))?,
            dependencies: dependencies.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_says_the_name_and_the_dependencies() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(folder.path().join("pyproject.toml"), text).unwrap();
            Manifest::of(folder.path())
        };
        for text in ["[", "", "[project]", "project.name = '../up'"] {
            assert!(matches!(read(text), Err(Error::File { .. })), "{text}");
        }
        let manifest = read("[project]\nname = 'up'\ndependencies = ['six==1.17.0']").unwrap();
        assert_eq!(
            manifest,
            Manifest { name: "up".to_owned(), dependencies: vec!["six==1.17.0".to_owned()] }
        );
        assert_eq!(read("project.name = 'up'").unwrap().dependencies, [""; 0]);
    }

    #[test]
    fn the_version_is_read_from_what_python_says() {
        assert_eq!(parse_version("3 11"), Some((3, 11)));
        assert_eq!(parse_version("Python"), None);
    }
}
