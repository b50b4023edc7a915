//! Servers that end with the process that started them, however that ends.

use std::process::{Command, Stdio};

/// A process ends with its own standard input: it gets the signal when the other end of that pipe is closed, which the
/// system does even when nobody else can.
fn ends_with_stdin(signal: &str) -> String {
    format!("exec 3<&0 </dev/null; (read -r _ <&3; kill -{signal} $$) & exec 3<&-; exec \"$@\"")
}

/// The program with its arguments, variables and folder, as a process that gets `signal` when its standard input, a
/// pipe, is closed.
pub fn command(program: &Command, signal: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &ends_with_stdin(signal), "sh"]).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = program.get_current_dir() {
        command.current_dir(folder);
    }
    command.stdin(Stdio::piped());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_process_ends_with_its_standard_input() {
        let mut sleep = Command::new("sleep");
        let mut child = command(sleep.arg("600"), "KILL").spawn().unwrap();
        let stdin = child.stdin.take();
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none());
        drop(stdin);
        assert!(!child.wait().unwrap().success());
    }
}
