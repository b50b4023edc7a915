//! `tidegate test`

mod case;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use tidegate_guest::fixture::{self, Failure, Fixture};

use super::{Global, build, complain, print};
use crate::error::{Error, Result};
use crate::pipeline_file::{self, Limits};
use crate::rule::Component;
use crate::rule::fixture as rule_fixture;
use crate::shutdown::Shutdown;

/// Run the cases of pipelines and the fixtures of rules
///
/// A pipeline file is tested with the folders in `<its name>.cases/`: its decode and its rules read the case's rows, and
/// what comes out is compared; its own source and sink are not touched. The folder of a rule, or its `.wasm` file, is
/// tested with the files in `fixtures/`; the project that `tidegate new` has made is built before, and its own tests run after.
/// docs/testing-rules.md describes both.
#[derive(Debug, Args)]
#[command(after_long_help = "\
EXAMPLES:
  tidegate test                                   what is in this folder
  tidegate test pipelines/*.yaml guests/validate
  tidegate test wide_range.wasm                   fixtures beside the file, or in it
  tidegate test p.yaml --update                   what comes out is right from now on
  tidegate test pipelines/*.yaml --junit report.xml

Each case and each fixture is one line, `ok`, `FAILED`, `skipped`, `updated` or `WRONG`; after FAILED comes the difference,
`-` what is expected and `+` what came. The exit code is 1 when something differs, and 2 when a file is wrong.")]
pub struct Arguments {
    /// Pipeline files, folders of rules or of pipeline files, and components [default: this folder]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write what comes out into the cases and the fixtures, and what a new case needs
    #[arg(long)]
    update: bool,
    /// Write a report in JUnit's XML, for CI
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// What has become of a case or a fixture.
enum Verdict {
    Passed,
    /// Its files say now what came.
    Updated,
    /// What is different, in lines.
    Failed(String),
    /// Why it was not run.
    Skipped(String),
    /// What is wrong with the files.
    Wrong(Error),
}

/// A case or a fixture that was looked at.
struct Tested {
    /// The pipeline file, or the component.
    suite: String,
    /// The name under which it is shown.
    name: String,
    verdict: Verdict,
    time: Duration,
}

/// Something that can be tested.
enum Subject {
    Pipeline(PathBuf),
    Rule {
        component: PathBuf,
        /// Its folder of fixtures; without it those in the component are run.
        fixtures: Option<PathBuf>,
        /// The folder of its project, whose own tests run too.
        project: Option<PathBuf>,
    },
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let guests = global.guests_folder();
    let here = [PathBuf::from(".")];
    let paths = if arguments.paths.is_empty() { &here[..] } else { &arguments.paths };
    let mut subjects = Vec::new();
    for path in paths {
        subjects.extend(subjects_of(path, global, &guests)?);
    }
    let mut run = Run {
        guests,
        update: arguments.update,
        quiet: global.quiet,
        shutdown: Shutdown::on_signals()?,
        tested: Vec::new(),
    };
    for subject in &subjects {
        match subject {
            Subject::Pipeline(path) => run.pipeline(path)?,
            Subject::Rule { component, fixtures, project } => {
                run.rule(component, fixtures.as_deref())?;
                if let Some(folder) = project {
                    run.native(component, folder)?;
                }
            }
        }
    }
    if !global.quiet {
        print(&count(&run.tested))?;
    }
    if let Some(path) = &arguments.junit {
        report(&run.tested, path)?;
    }
    Ok(run.tested.iter().map(Tested::code).max().unwrap_or(0))
}

/// What a path of the command line stands for.
fn subjects_of(path: &Path, global: &Global, guests: &Path) -> Result<Vec<Subject>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if path.is_dir() {
        return subjects_in(path, global, guests);
    }
    match extension {
        _ if !path.exists() => Err(Error::Files(format!("{}: there is no such file", path.display()))),
        Some("yaml" | "yml") => Ok(vec![Subject::Pipeline(path.into())]),
        Some("wasm") => {
            let beside = path.parent().unwrap_or(Path::new("")).join("fixtures");
            let fixtures = beside.is_dir().then_some(beside);
            Ok(vec![Subject::Rule { component: path.into(), fixtures, project: None }])
        }
        _ => Err(Error::Files(format!(
            "{}: this is neither a pipeline file (`.yaml`) nor a component (`.wasm`) nor a folder",
            path.display()
        ))),
    }
}

/// What is to be tested in a folder: a rule with its fixtures, or pipelines with cases.
fn subjects_in(folder: &Path, global: &Global, guests: &Path) -> Result<Vec<Subject>> {
    let fixtures = folder.join("fixtures");
    if fixtures.is_dir() {
        // A project as `tidegate new` makes them is built; a crate of a workspace builds its rules in its own way.
        let project = folder.join("sdk").is_dir().then(|| folder.to_path_buf());
        let component = match &project {
            Some(folder) => build::project(global, folder, None)?,
            None => prepare(folder, guests)?,
        };
        return Ok(vec![Subject::Rule { component, fixtures: Some(fixtures), project }]);
    }
    let pipelines: Vec<Subject> = (files(folder, "yaml")?.into_iter())
        .filter(|path| !case::folders(path).is_empty())
        .map(Subject::Pipeline)
        .collect();
    if pipelines.is_empty() {
        return Err(Error::Files(format!(
            "there is nothing to test in `{}`: it has neither a folder `fixtures` nor a pipeline file with cases",
            folder.display()
        )));
    }
    Ok(pipelines)
}

/// The component of a rule's folder: the one in it, or the one of the folder's name among the guests.
fn prepare(folder: &Path, guests: &Path) -> Result<PathBuf> {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut components = files(folder, "wasm")?;
    if components.len() > 1 {
        let names: Vec<String> = components.iter().map(|path| format!("`{}`", path.display())).collect();
        return Err(Error::Files(format!(
            "the folder `{}` has several components; name the one to test: {}",
            folder.display(),
            names.join(", ")
        )));
    }
    let among_guests = guests.join(format!("{name}.wasm"));
    match components.pop() {
        Some(component) => Ok(component),
        None if among_guests.is_file() => Ok(among_guests),
        None => Err(Error::Files(format!(
            "the rule in `{}` is not built: there is no `.wasm` file in it, and no `{}`",
            folder.display(),
            among_guests.display()
        ))),
    }
}

/// The files of a folder that have an extension, in the order of their names.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let cannot = |error| Error::Surroundings(format!("cannot read `{}`: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_file() && path.extension().is_some_and(|own| own == extension) {
            files.push(path.strip_prefix(".").map(Path::to_path_buf).unwrap_or(path));
        }
    }
    files.sort();
    Ok(files)
}

/// A run of the command.
struct Run {
    guests: PathBuf,
    update: bool,
    quiet: bool,
    shutdown: Shutdown,
    tested: Vec<Tested>,
}

impl Run {
    fn pipeline(&mut self, path: &Path) -> Result<()> {
        let suite = path.display().to_string();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let cases = case::folders(path);
        if cases.is_empty() {
            let folder = path.with_extension("cases");
            let verdict = Verdict::Skipped(format!("there are no cases in `{}`", folder.display()));
            return self.add(Tested { suite, name: stem, verdict, time: Duration::ZERO });
        }
        let loaded = match pipeline_file::read(path) {
            Ok(loaded) => loaded,
            Err(findings) => {
                let sentences: Vec<String> = findings.iter().map(ToString::to_string).collect();
                let verdict = Verdict::Wrong(Error::Files(sentences.join("\n")));
                return self.add(Tested { suite, name: stem, verdict, time: Duration::ZERO });
            }
        };
        for folder in cases {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let start = Instant::now();
            let verdict = case::run(&loaded, &folder, &self.guests, self.update, &self.shutdown)
                .unwrap_or_else(Verdict::Wrong);
            let (suite, name) = (suite.clone(), format!("{stem}/{name}"));
            self.add(Tested { suite, name, verdict, time: start.elapsed() })?;
        }
        Ok(())
    }

    fn rule(&mut self, path: &Path, folder: Option<&Path>) -> Result<()> {
        let suite = path.display().to_string();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let start = Instant::now();
        let limits = Limits::default();
        let add = |run: &mut Run, name: &str, verdict: Verdict, start: Instant| {
            let name = if name.is_empty() { stem.clone() } else { format!("{stem}/{name}") };
            run.add(Tested { suite: suite.clone(), name, verdict, time: start.elapsed() })
        };
        let component = match Component::load(path, &limits) {
            Ok(component) => component,
            Err(error) => return add(self, "", Verdict::Wrong(error), start),
        };
        let mut found = 0;
        match folder {
            Some(folder) => {
                let cannot =
                    |error| Error::Surroundings(format!("cannot read `{}`: {error}", folder.display()));
                for (name, path) in fixture::files(folder).map_err(cannot)? {
                    let start = Instant::now();
                    let verdict = fixture_file(&path, &component, &limits, self.update);
                    add(self, &name, verdict.unwrap_or_else(Verdict::Wrong), start)?;
                    found += 1;
                }
            }
            None => {
                let wrong = |what| Error::Files(format!("the component `{}`: {what}", path.display()));
                let bytes = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
                for (name, fixture) in rule_fixture::embedded(&bytes).map_err(wrong)? {
                    let start = Instant::now();
                    let verdict = match rule_fixture::check(&fixture, &component, &limits) {
                        Ok(()) => Verdict::Passed,
                        Err(Failure::Differs(lines)) => Verdict::Failed(lines),
                        Err(Failure::Wrong(sentence)) => {
                            Verdict::Wrong(wrong(format!("its fixture `{name}`: {sentence}")))
                        }
                    };
                    add(self, &name, verdict, start)?;
                    found += 1;
                }
            }
        }
        if found == 0 {
            return add(self, "", Verdict::Skipped("there are no fixtures beside it or in it".into()), start);
        }
        Ok(())
    }

    /// Runs the project's own tests, in its own language and outside of a component.
    fn native(&mut self, component: &Path, folder: &Path) -> Result<()> {
        let suite = component.display().to_string();
        let stem = component.file_stem().unwrap_or_default().to_string_lossy();
        let start = Instant::now();
        let verdict = match tidegate_kit::native_tests(folder, &|line| tracing::info!("{line}")) {
            Ok(()) => Verdict::Passed,
            Err(error @ tidegate_kit::Error::Tests { .. }) => Verdict::Failed(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        self.add(Tested { suite, name: format!("{stem} (natively)"), verdict, time: start.elapsed() })
    }

    /// Notes a result and says it.
    fn add(&mut self, tested: Tested) -> Result<()> {
        let Tested { name, verdict, time, .. } = &tested;
        let is_good = matches!(verdict, Verdict::Passed | Verdict::Skipped(_));
        if !is_good || !self.quiet {
            let ms = time.as_millis();
            print(&match verdict {
                Verdict::Passed => format!("ok {name} ({ms} ms)\n"),
                Verdict::Updated => format!("updated {name} ({ms} ms)\n"),
                Verdict::Skipped(why) => format!("skipped {name}: {why}\n"),
                Verdict::Failed(lines) => {
                    format!("FAILED {name} ({ms} ms)\n    {}\n", lines.replace('\n', "\n    "))
                }
                Verdict::Wrong(_) => format!("WRONG {name}\n"),
            })?;
        }
        if let Verdict::Wrong(error) = verdict {
            complain(error);
        }
        self.tested.push(tested);
        Ok(())
    }
}

/// Runs the fixture of a file, or writes what comes into it.
fn fixture_file(path: &Path, component: &Component, limits: &Limits, update: bool) -> Result<Verdict> {
    let wrong = |sentence: String| Error::Files(format!("{}:{sentence}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!(" cannot be read: {error}")))?;
    let fixture = Fixture::parse(&text).map_err(|mistake| wrong(mistake.to_string()))?;
    let description = rule_fixture::described(&component.description);
    let checked = rule_fixture::answers(&fixture, component, limits);
    let answers = match checked {
        Ok(answers) => answers,
        Err(Failure::Differs(lines)) => return Ok(Verdict::Failed(lines)),
        Err(Failure::Wrong(sentence)) => return Err(wrong(format!(" {sentence}"))),
    };
    if update {
        let updated =
            fixture.updated(&text, &description, &answers).map_err(|mistake| wrong(mistake.to_string()))?;
        if updated == text || fixture.compare(&description, &answers).is_ok() {
            return Ok(Verdict::Passed);
        }
        std::fs::write(path, updated)
            .map_err(|error| Error::Surroundings(format!("cannot write `{}`: {error}", path.display())))?;
        return Ok(Verdict::Updated);
    }
    match fixture.compare(&description, &answers) {
        Ok(()) => Ok(Verdict::Passed),
        Err(Failure::Differs(lines)) => Ok(Verdict::Failed(lines)),
        Err(Failure::Wrong(sentence)) => Err(wrong(format!(" {sentence}"))),
    }
}

impl Tested {
    fn code(&self) -> u8 {
        match &self.verdict {
            Verdict::Passed | Verdict::Updated | Verdict::Skipped(_) => 0,
            Verdict::Failed(_) => 1,
            Verdict::Wrong(error) => error.code(),
        }
    }
}

/// The line at the end: how many of each.
fn count(tested: &[Tested]) -> String {
    let number = |is: fn(&Verdict) -> bool| tested.iter().filter(|tested| is(&tested.verdict)).count();
    let numbers = [
        (number(|verdict| matches!(verdict, Verdict::Updated)), "updated"),
        (number(|verdict| matches!(verdict, Verdict::Failed(_))), "failed"),
        (number(|verdict| matches!(verdict, Verdict::Wrong(_))), "wrong"),
        (number(|verdict| matches!(verdict, Verdict::Skipped(_))), "skipped"),
    ];
    let mut line = format!("{} passed", number(|verdict| matches!(verdict, Verdict::Passed)));
    for (number, what) in numbers.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(line, ", {number} {what}");
    }
    line + "\n"
}

/// Writes the results as JUnit does.
fn report(tested: &[Tested], path: &Path) -> Result<()> {
    let mut report = Report::new("tidegate test");
    report.set_time(tested.iter().map(|tested| tested.time).sum());
    let mut suites: Vec<TestSuite> = Vec::new();
    for Tested { suite, name, verdict, time } in tested {
        let status = match verdict {
            Verdict::Passed | Verdict::Updated => TestCaseStatus::success(),
            Verdict::Failed(lines) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message("something else came out").set_description(lines.as_str());
                status
            }
            Verdict::Wrong(error) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
                status.set_message(error.to_string());
                status
            }
            Verdict::Skipped(why) => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(why.as_str());
                status
            }
        };
        let mut test = TestCase::new(name.as_str(), status);
        test.set_classname(suite.as_str()).set_time(*time);
        match suites.last_mut().filter(|known| known.name.as_str() == suite) {
            Some(known) => drop(known.add_test_case(test)),
            None => {
                let mut new = TestSuite::new(suite.as_str());
                new.add_test_case(test);
                suites.push(new);
            }
        }
    }
    report.add_test_suites(suites);
    let cannot = |error: String| Error::Surroundings(format!("cannot write `{}`: {error}", path.display()));
    let text = report.to_string().map_err(|error| cannot(error.to_string()))?;
    std::fs::write(path, text).map_err(|error| cannot(error.to_string()))
}
