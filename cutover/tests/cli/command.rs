//! The built command as a child process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::DEADLINE;

/// `cutover` with nothing of the tester's environment that would change what it does.
pub fn cutover(api: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
    command.env("CUTOVER_API", api).stdin(Stdio::null()).args(args);
    without_surroundings(&mut command);
    command
}

/// A sidecar of this machine has nothing to do with the test.
fn without_surroundings(command: &mut Command) {
    for name in ["CUTOVER_API_TOKEN", "CUTOVER_API_CA", "CUTOVER_CONFIG"] {
        command.env_remove(name);
    }
    command.env("CUTOVER_STATE_DIR", "/nonexistent");
}

/// What it left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The one JSON object on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not one object: {error}\n{self:#?}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// A running command.
pub struct Running {
    child: Child,
    lines: Receiver<(Stream, String)>,
    seen: Vec<(Stream, String)>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command was built");
        let (to, lines) = channel();
        read(child.stdout.take().expect("piped"), Stream::Out, to.clone());
        read(child.stderr.take().expect("piped"), Stream::Err, to);
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits until a line on stderr contains `text`.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.seen.iter().any(|(stream, line)| *stream == Stream::Err && line.contains(text))
        {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("{error} without {text:?}: {:#?}", self.seen),
            }
        }
    }

    pub fn interrupt(&self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGINT).expect("it runs");
    }

    /// Waits until it has ended by itself.
    pub fn end(mut self) -> Ended {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                // Both streams are closed: it is ending.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill().expect("it can be stopped");
                    panic!("it does not end: {:#?}", self.seen);
                }
            }
        }
        let code = self.child.wait().expect("it was started").code();
        let of = |wanted| {
            let lines = self.seen.iter().filter(|(stream, _)| *stream == wanted);
            lines.map(|(_, line)| format!("{line}\n")).collect::<String>()
        };
        Ended { code, stdout: of(Stream::Out), stderr: of(Stream::Err) }
    }
}

fn read(from: impl std::io::Read + Send + 'static, stream: Stream, to: Sender<(Stream, String)>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send((stream, line)).is_err() {
                return;
            }
        }
    });
}

/// Runs it to its end.
pub fn run(api: &str, args: &[&str]) -> Ended {
    Running::start(cutover(api, args)).end()
}

/// Runs a line of shell with `$cutover` as the command, in a directory.
pub fn shell(directory: &Path, api: &str, line: &str) -> Ended {
    let mut command = Command::new("sh");
    command
        .current_dir(directory)
        .env("cutover", env!("CARGO_BIN_EXE_cutover"))
        .env("CUTOVER_API", api)
        .stdin(Stdio::null())
        .args(["-c", line]);
    without_surroundings(&mut command);
    Running::start(command).end()
}
