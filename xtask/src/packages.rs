//! What the machine must have beside Rust. Where nobody has to be asked it is installed, otherwise the command
//! says the one line to type.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{Missing, apt_install, postgres};

/// The oldest Java that runs the broker.
const NEEDED_JAVA: u32 = 17;

/// The oldest Node.js that the tools for JavaScript run on.
const NEEDED_NODE: u32 = 18;

/// Something that must be on the machine, and the packages that bring it.
struct Need {
    /// Its name, for whoever must install it.
    name: &'static str,
    is_there: fn() -> bool,
    debian: &'static [&'static str],
    /// None when it comes with Apple's own tools.
    homebrew: &'static [&'static str],
}

/// For the client of Kafka, which is compiled from its source in C and C++.
const FOR_BUILD: [Need; 4] = [
    Need {
        name: "a C and C++ compiler",
        is_there: || {
            answers(Command::new("cc").arg("--version")) && answers(Command::new("c++").arg("--version"))
        },
        debian: &["gcc", "g++", "libc6-dev"],
        homebrew: &[],
    },
    Need {
        name: "make",
        is_there: || answers(Command::new("make").arg("--version")),
        debian: &["make"],
        homebrew: &[],
    },
    Need {
        name: "pkg-config",
        is_there: || answers(Command::new("pkg-config").arg("--version")),
        debian: &["pkg-config"],
        homebrew: &["pkgconf"],
    },
    Need {
        name: "the headers of OpenSSL",
        is_there: has_openssl,
        debian: &["libssl-dev"],
        homebrew: &["openssl@3"],
    },
];

/// For the broker.
const FOR_BROKER: [Need; 2] = [
    Need {
        name: "Java 17 or newer",
        is_there: has_java,
        debian: &[JAVA_PACKAGE],
        homebrew: &[HOMEBREW_JAVA],
    },
    Need {
        name: "Maven",
        is_there: || answers(maven().arg("-version")),
        debian: &["maven"],
        homebrew: &["maven"],
    },
];

/// For the database.
const FOR_POSTGRES: [Need; 1] = [Need {
    name: "PostgreSQL",
    is_there: || postgres::programs().is_some(),
    debian: &["postgresql"],
    homebrew: &["postgresql@17"],
}];

/// For the engine of ClickHouse and for rules in Python, whose tools come from PyPI.
const FOR_CLICKHOUSE: [Need; 1] = [Need {
    name: "Python 3 with venv",
    is_there: has_python,
    debian: &["python3-venv"],
    homebrew: &["python3"],
}];

/// For an old server of ClickHouse, which only Debian and Ubuntu have.
const FOR_OLD_CLICKHOUSE: [Need; 1] = [Need {
    name: "the package clickhouse-server of Debian",
    is_there: || Path::new(OLD_CLICKHOUSE).is_file(),
    debian: &["clickhouse-server"],
    homebrew: &[],
}];

/// For the component of CCXT and for rules in JavaScript.
const FOR_NODE: [Need; 1] = [Need {
    name: "Node.js 18 or newer with npm",
    is_there: has_node,
    debian: &["nodejs", "npm"],
    homebrew: &["node"],
}];

/// For certificates that the tests make.
const FOR_CERTIFICATES: [Need; 1] = [Need {
    name: "the program openssl",
    is_there: || answers(Command::new("openssl").arg("version")),
    debian: &["openssl"],
    homebrew: &["openssl"],
}];

/// For metrics and alerts.
const FOR_PROMETHEUS: [Need; 1] = [Need {
    name: "the program promtool of Prometheus",
    is_there: || answers(Command::new("promtool").arg("--version")),
    debian: &["prometheus"],
    homebrew: &["prometheus"],
}];

/// Where Debian puts it.
pub const OLD_CLICKHOUSE: &str = "/usr/sbin/clickhouse-server";

const HOMEBREW_JAVA: &str = "openjdk";

/// Stands for the package that [`java_package`] names.
const JAVA_PACKAGE: &str = "java";

/// Sees to it that the host can be built.
pub fn for_build() -> Result<()> {
    provide(&[&FOR_BUILD])
}

/// Sees to it that the host and all guests can be built and that their tests can start their servers.
pub fn for_tests() -> Result<()> {
    provide(&[
        &FOR_BUILD,
        &FOR_BROKER,
        &FOR_POSTGRES,
        &FOR_CLICKHOUSE,
        &FOR_CERTIFICATES,
        &FOR_NODE,
        &FOR_PROMETHEUS,
    ])?;
    // Nobody has it for another system, and the tests that need it are not built there.
    if cfg!(target_os = "linux") { for_old_clickhouse() } else { Ok(()) }
}

/// Whether there is a Python that can make a folder of its own packages.
pub fn has_python() -> bool {
    answers(python().args(["-c", "import ensurepip, venv"]))
}

/// Sees to it that the engine of ClickHouse can be installed and started.
pub fn for_clickhouse() -> Result<()> {
    provide(&[&FOR_CLICKHOUSE])
}

/// Sees to it that an old server of ClickHouse can be started.
pub fn for_old_clickhouse() -> Result<()> {
    provide(&[&FOR_OLD_CLICKHOUSE])
}

/// Sees to it that the component of CCXT can be built.
pub fn for_node() -> Result<()> {
    provide(&[&FOR_NODE])
}

/// Sees to it that a broker can be started.
pub fn for_broker() -> Result<()> {
    provide(&[&FOR_BROKER])
}

/// Sees to it that a PostgreSQL can be started.
pub fn for_postgres() -> Result<()> {
    provide(&[&FOR_POSTGRES])
}

/// Whether a broker can be started without installing anything.
pub fn has_java_and_maven() -> bool {
    missing(&[&FOR_BROKER]).is_empty()
}

/// Java: that of `JAVA_HOME`, or else that of the path.
pub fn java() -> Command {
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    Command::new(home.filter(|java| java.is_file()).unwrap_or_else(|| "java".into()))
}

/// Maven.
pub fn maven() -> Command {
    Command::new("mvn")
}

/// Python.
pub fn python() -> Command {
    Command::new("python3")
}

/// Node.js.
pub fn node() -> Command {
    Command::new("node")
}

/// The installer of packages that comes with Node.js.
pub fn npm() -> Command {
    // On Windows it is a script, and only its whole name is found.
    Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" })
}

/// All that is missing is installed at once, or named at once.
fn provide(needs: &[&'static [Need]]) -> Result<()> {
    let absent = missing(needs);
    if absent.is_empty() || (apt_install(&debian_packages(&absent))? && missing(needs).is_empty()) {
        return Ok(());
    }
    Err(Missing(what_to_type(&absent, cfg!(target_os = "macos"))).into())
}

fn missing(needs: &[&'static [Need]]) -> Vec<&'static Need> {
    needs.iter().copied().flatten().filter(|need| !(need.is_there)()).collect()
}

fn debian_packages(needs: &[&Need]) -> Vec<&'static str> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let names = needs.iter().flat_map(|need| need.debian);
    names.map(|name| if *name == JAVA_PACKAGE { java_package(&release) } else { name }).collect()
}

fn what_to_type(needs: &[&Need], is_macos: bool) -> String {
    let names: Vec<&str> = needs.iter().map(|need| need.name).collect();
    let install = if is_macos {
        macos_commands(needs)
    } else {
        format!("sudo apt-get install -y {}", debian_packages(needs).join(" "))
    };
    format!("this machine lacks {}; run\n    {install}", names.join(", "))
}

fn macos_commands(needs: &[&Need]) -> String {
    let packages: Vec<&str> = needs.iter().flat_map(|need| need.homebrew).copied().collect();
    let mut commands = Vec::new();
    if needs.iter().any(|need| need.homebrew.is_empty()) {
        commands.push("xcode-select --install".to_owned());
    }
    if !packages.is_empty() {
        commands.push(format!("brew install {}", packages.join(" ")));
    }
    if packages.contains(&HOMEBREW_JAVA) {
        // Homebrew does not put it into the path.
        commands.push(format!("export JAVA_HOME=\"$(brew --prefix {HOMEBREW_JAVA})\""));
    }
    commands.join(" && ")
}

/// The package that brings Java to this release of Debian or Ubuntu, going by the content of `/etc/os-release`.
fn java_package(release: &str) -> &'static str {
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"')
    };
    let major: Option<u32> = value("VERSION_ID").split('.').next().and_then(|number| number.parse().ok());
    // The default was 11 in some of the releases that have 17, and 17 is no longer in the ones after them.
    match (value("ID"), major) {
        ("debian", Some(..=12)) | ("ubuntu", Some(..=24)) => "openjdk-17-jre-headless",
        _ => "default-jre-headless",
    }
}

fn has_openssl() -> bool {
    let by_name = answers(Command::new("pkg-config").args(["--exists", "openssl"]));
    // Homebrew keeps it where only those find it who ask Homebrew, as the build does.
    let by_homebrew = || answers(Command::new("brew").args(["--prefix", "--installed", "openssl@3"]));
    by_name || (cfg!(target_os = "macos") && by_homebrew())
}

fn has_java() -> bool {
    let Ok(output) = java().arg("-version").stdin(Stdio::null()).output() else { return false };
    // It says so on standard error.
    let words = String::from_utf8_lossy(&output.stderr);
    output.status.success() && java_version(&words).is_some_and(|version| version >= NEEDED_JAVA)
}

/// `openjdk version "17.0.15" 2025-04-15` is 17, and `java version "1.8.0_392"` is 8. Other lines, such as those
/// about options in the environment, may come before.
fn java_version(words: &str) -> Option<u32> {
    let version = words.lines().find_map(|line| line.split_once(" version \"")?.1.split('"').next())?;
    let mut numbers = version.split(['.', '-', '_', '+']).map(|number| number.parse().ok());
    match numbers.next()?? {
        1 => numbers.next()?,
        major => Some(major),
    }
}

fn has_node() -> bool {
    let Ok(output) = node().arg("--version").stdin(Stdio::null()).output() else { return false };
    let version = node_version(&String::from_utf8_lossy(&output.stdout));
    version.is_some_and(|version| version >= NEEDED_NODE) && answers(npm().arg("--version"))
}

/// `v20.20.2` is 20.
fn node_version(words: &str) -> Option<u32> {
    words.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Whether a command can be started and succeeds.
fn answers(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read_from_what_it_says() {
        let debian =
            "openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime Environment (build 17.0.15+6)\n";
        assert_eq!(java_version(debian), Some(17));
        assert_eq!(java_version("java version \"1.8.0_392\""), Some(8));
        assert_eq!(
            java_version("Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version \"21\" 2023-09-19"),
            Some(21)
        );
        assert_eq!(java_version("openjdk version \"26-ea\" 2026-03-17"), Some(26));
        assert_eq!(java_version("The operation couldn't be completed."), None);
    }

    #[test]
    fn the_version_of_node_is_read_from_what_it_says() {
        assert_eq!(node_version("v18.20.4\n"), Some(18));
        assert_eq!(node_version("node: not found"), None);
    }

    #[test]
    fn the_package_of_java_is_one_that_the_release_has() {
        let package =
            |id: &str, version: &str| java_package(&format!("NAME=x\nID={id}\nVERSION_ID=\"{version}\"\n"));
        for (id, version) in [("debian", "11"), ("debian", "12"), ("ubuntu", "22.04"), ("ubuntu", "24.04")] {
            assert_eq!(package(id, version), "openjdk-17-jre-headless", "{id} {version}");
        }
        for (id, version) in [("debian", "13"), ("ubuntu", "25.10"), ("linuxmint", "22")] {
            assert_eq!(package(id, version), "default-jre-headless", "{id} {version}");
        }
        assert_eq!(java_package(""), "default-jre-headless");
    }

    #[test]
    fn what_is_missing_is_one_line_to_type() {
        let needs: Vec<&Need> = FOR_BUILD.iter().collect();
        let debian = "this machine lacks a C and C++ compiler, make, pkg-config, the headers of OpenSSL; run\n    \
                      sudo apt-get install -y gcc g++ libc6-dev make pkg-config libssl-dev";
        assert_eq!(what_to_type(&needs, false), debian);
        let install =
            |needs: &[&Need]| what_to_type(needs, true).split_once("; run\n    ").unwrap().1.to_owned();
        assert_eq!(install(&needs), "xcode-select --install && brew install pkgconf openssl@3");
        let java = "brew install openjdk maven && export JAVA_HOME=\"$(brew --prefix openjdk)\"";
        assert_eq!(install(&FOR_BROKER.iter().collect::<Vec<_>>()), java);
    }
}
