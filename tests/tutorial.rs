//! docs/tutorial.md, as it is written.

use std::process::{Command, Stdio};

use crate::harness::deploy::free_port;
use crate::harness::{Folder, start, workspace};

/// Commands, and lines of which each must be in what they print.
struct Step {
    commands: String,
    expected: Vec<String>,
}

/// The fenced blocks of the page: `sh` are commands, and `text` after it what they print among other things.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match language {
            "sh" => steps.push(Step { commands: block.join("\n"), expected: Vec::new() }),
            "text" => {
                let step = steps.last_mut().expect("commands come first");
                step.expected.extend(block.iter().map(|line| (*line).to_owned()));
            }
            other => panic!("a block of `{other}`"),
        }
    }
    steps
}

#[test]
fn the_tutorial_works_as_written() {
    let page = std::fs::read_to_string(workspace().join("docs/tutorial.md")).unwrap();
    // The port of the page can be somebody else's on the machine of the tests.
    let steps = steps(&page.replace("9101", &free_port().to_string()));
    assert!(steps.len() > 8);
    let folder = Folder::new();
    let mut script = "set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    for (number, step) in steps.iter().enumerate() {
        script += &format!("echo '== {number}'\n{}\n", step.commands);
    }
    script += "echo '== end'\n";
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-m", "-c", &script]).current_dir(folder.path(".")).stdin(Stdio::null()).env("PATH", path);
    bash.env("TIDEGATE_STATE", folder.path("state")).env("CARGO_TARGET_DIR", workspace().join("target/kit"));
    let outcome = start(&mut bash).finish();
    let printed = &outcome.stdout;
    assert!(printed.contains("== end"), "{printed}\n{}", outcome.stderr);
    for (number, step) in steps.iter().enumerate() {
        let part = printed.split(&format!("== {number}\n")).nth(1).unwrap_or_default();
        let part = part.split("\n== ").next().unwrap_or_default();
        for line in &step.expected {
            assert!(
                part.contains(line.as_str()),
                "`{line}` is not in what these print:\n{}\n\n{part}",
                step.commands
            );
        }
    }
}
