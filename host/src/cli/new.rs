//! `tidegate new`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use tidegate_kit::{Kind, Language};

use super::print;
use crate::error::Result;

/// Make a project: a rule, or an exchange adapter
///
/// A project builds as it is: it has a small example in the place of what you want to write, a test, and its SDK.
/// `tidegate build` makes it a component.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate new rule wide_range
  tidegate new rule wide_range --lang python
  tidegate new exchange my-exchange")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Rule(RuleArguments),
    Exchange(ExchangeArguments),
}

/// Make the project of a rule
///
/// The example rejects candles whose range is too wide. Rust is the fastest by far; JavaScript and Python bring an
/// engine of 12 and 18 MB along.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate new rule wide_range && tidegate build wide_range
  tidegate new rule wide_range --lang javascript
  tidegate new rule wide_range --lang python --folder rules/wide_range")]
struct RuleArguments {
    #[command(flatten)]
    project: Project,
}

/// Make the project of an exchange adapter, in Rust
///
/// The example asks for candles in arrays, as many exchanges answer.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate new exchange my-exchange && tidegate build my-exchange")]
struct ExchangeArguments {
    #[command(flatten)]
    project: Project,
}

#[derive(Debug, Args)]
struct Project {
    /// The name: lower-case letters, digits, `-` and `_`
    name: String,
    /// What to write it in
    #[arg(long, value_enum, value_name = "LANGUAGE", default_value_t = Lang::Rust)]
    lang: Lang,
    /// The folder to make it in, new or empty [default: the name]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lang {
    Rust,
    #[value(alias = "js")]
    Javascript,
    #[value(alias = "py")]
    Python,
}

impl From<Lang> for Language {
    fn from(lang: Lang) -> Language {
        match lang {
            Lang::Rust => Language::Rust,
            Lang::Javascript => Language::Javascript,
            Lang::Python => Language::Python,
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let (kind, project) = match &arguments.what {
        What::Rule(arguments) => (Kind::Rule, &arguments.project),
        What::Exchange(arguments) => (Kind::Exchange, &arguments.project),
    };
    let folder = project.folder.as_deref().unwrap_or(Path::new(&project.name));
    let language = project.lang.into();
    tidegate_kit::create(folder, kind, language, &project.name)?;
    let shown = folder.display();
    let next = match kind {
        Kind::Rule => format!("tidegate test {shown}"),
        Kind::Exchange => format!("tidegate inspect {shown}/{}.wasm", project.name),
    };
    print(&format!(
        "made the {} `{}` in {} in `{shown}`; next:\n  tidegate build {shown}\n  {next}\n",
        kind.name(),
        project.name,
        language.name(),
    ))?;
    Ok(0)
}
