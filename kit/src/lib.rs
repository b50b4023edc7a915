//! Projects of rules and exchange adapters: made from templates ([`create`]), and built into components ([`build`]).
//!
//! A project is in Rust, JavaScript or Python, told by its manifest. It carries its SDK in the folder `sdk`, so it
//! builds without any registry that has one, and [`build`] replaces what differs there from this version's, so a
//! component that is built meets the contract of the host that built it.
//!
//! - [`component`]: core modules to components, and the fixtures inside of components
//! - [`rust`]: the ways to the target `wasm32-unknown-unknown`

pub mod component;
mod error;
mod javascript;
mod project;
mod python;
pub mod rust;
mod sdk;
mod tool;

use std::path::Path;

pub use error::{Error, Result};
pub use project::{Kind, Language, create};

/// A component that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The project's name; that of the component's file.
    pub name: String,
    /// The component, with the fixtures of the project in it.
    pub component: Vec<u8>,
}

/// Builds the project in `folder` into a component. What takes a while is said to `say` before it begins, a line each.
///
/// # Errors
/// [`Error::Missing`] when the machine lacks a tool; otherwise what is wrong with the project.
pub fn build(folder: &Path, say: &dyn Fn(&str)) -> Result<Built> {
    let (folder, language) = open(folder, say)?;
    // Read before minutes are spent on the build.
    let fixtures = project::fixtures(&folder)?;
    let (name, component) = match language {
        Language::Rust => rust::build(&folder, say)?,
        Language::Javascript => javascript::build(&folder, say)?,
        Language::Python => python::build(&folder, say)?,
    };
    Ok(Built { name, component: component::embed(component, &fixtures)? })
}

/// Runs the project's own tests outside of a component, with their output where this process has its own.
///
/// # Errors
/// [`Error::Tests`] when they fail; [`Error::Missing`] when the machine lacks a tool.
pub fn native_tests(folder: &Path, say: &dyn Fn(&str)) -> Result<()> {
    let (folder, language) = open(folder, say)?;
    let mut command = match language {
        Language::Rust => rust::tests()?,
        Language::Javascript => javascript::tests()?,
        Language::Python => python::tests(&folder, say)?,
    };
    tool::run(command.current_dir(&folder), |command| Error::Tests { command })
}

/// Installs into the project in `folder` what its language needs to build, without building it.
///
/// # Errors
/// As of [`build`].
pub fn prepare(folder: &Path, say: &dyn Fn(&str)) -> Result<()> {
    let (folder, language) = open(folder, say)?;
    match language {
        Language::Rust => rust::Way::find().map(drop),
        Language::Javascript => javascript::install(&folder, say),
        Language::Python => python::install(&folder, say).map(drop),
    }
}

/// The project's absolute folder and language, after its SDK has been made this version's.
fn open(folder: &Path, say: &dyn Fn(&str)) -> Result<(std::path::PathBuf, Language)> {
    let absolute = folder.canonicalize().map_err(Error::cannot("open", folder))?;
    let language = Language::of(&absolute)?;
    // A crate of a workspace that has the SDK elsewhere is not given another one.
    if language != Language::Rust || absolute.join(sdk::FOLDER).is_dir() {
        let replaced = sdk::refresh(&absolute, language)?;
        if replaced > 0 {
            say(&format!("replaced {replaced} files of `{}` by those of this version", sdk::FOLDER));
        }
    }
    Ok((absolute, language))
}
