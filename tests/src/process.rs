//! Child processes that never outlive their test: not when it ends, not when it panics, and not
//! when it is killed with SIGKILL itself.
//!
//! The last one is the kernel's work: `setpriv --pdeathsig` asks it to signal the child when the
//! *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG). Test threads end long before the
//! process does, so one thread that never ends starts all children.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::paths;
use crate::scratch::Account;
use crate::wait;

type SpawnRequest = (Command, mpsc::Sender<std::io::Result<Child>>);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    account: Account,
    orphan_signal: &'static str,
    directory: PathBuf,
    input: Option<PathBuf>,
}

impl Launch {
    pub fn new(program: impl Into<PathBuf>) -> Launch {
        Launch {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            account: Account::own_account(),
            orphan_signal: "KILL",
            // Any account may be there; a directory that the child cannot read gives warnings.
            directory: PathBuf::from("/tmp"),
            input: None,
        }
    }

    /// One of our own programs: `replicator` or `cutover`.
    pub fn ours(name: &str) -> Result<Launch> {
        Ok(Launch::new(paths::our_binary(name)?))
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Launch {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Launch {
        self.arguments.extend(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Launch {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs under the account of the servers.
    pub fn as_server(mut self) -> Result<Launch> {
        self.account = Account::of_servers()?;
        Ok(self)
    }

    /// The signal (name without SIG) that the kernel sends if we die first. Default: KILL.
    pub fn orphan_signal(mut self, name: &'static str) -> Launch {
        self.orphan_signal = name;
        self
    }

    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Launch {
        self.directory = directory.into();
        self
    }

    /// A file that it reads as its standard input. Default: nothing.
    pub fn input(mut self, file: impl Into<PathBuf>) -> Launch {
        self.input = Some(file.into());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(self.account.setpriv_arguments());
        command.args(["--pdeathsig", self.orphan_signal, "--"]);
        command.arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// Starts it. Standard output and error go to `<log>.out` and `<log>.err`; both are appended
    /// to, so a restart keeps what the killed one said.
    pub fn start(&self, log: &Path) -> Result<Process> {
        let out_path = with_suffix(log, "out");
        let err_path = with_suffix(log, "err");
        let mut command = self.command();
        command.stdout(append(&out_path)?).stderr(append(&err_path)?);
        if let Some(input) = &self.input {
            let file = File::open(input);
            command.stdin(file.with_context(|| format!("cannot open {}", input.display()))?);
        }
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let child = spawn(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name, child, out_path, err_path, ended: None })
    }

    /// Runs it to its end, at most for `deadline`, and gives what it said.
    pub fn run(&self, deadline: Duration) -> Result<Finished> {
        let directory = tempfile::tempdir()?;
        let start = Instant::now();
        let mut process = self.start(&directory.path().join("run"))?;
        let status = process.wait(deadline)?;
        Ok(Finished {
            status,
            stdout: process.stdout()?,
            stderr: process.stderr()?,
            took: start.elapsed(),
        })
    }
}

/// How a program that ran to its end ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Finished {
    /// The exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Fails with everything it said unless it ended with 0.
    pub fn success(self) -> Result<Finished> {
        if self.status.success() {
            return Ok(self);
        }
        bail!(
            "ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        )
    }
}

/// A running child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out_path: PathBuf,
    err_path: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that standard error goes to.
    pub fn log_path(&self) -> &Path {
        &self.err_path
    }

    pub fn stdout(&self) -> Result<String> {
        read_lossy(&self.out_path)
    }

    pub fn stderr(&self) -> Result<String> {
        read_lossy(&self.err_path)
    }

    /// The last lines of standard error, for a message about a failure.
    pub fn log_tail(&self) -> String {
        tail(&self.err_path, 15)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("cannot wait for a child")?;
        }
        Ok(self.ended)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.ended(), Ok(None))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until_blocking(&what, deadline, || self.ended())
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            bail!("{} has already ended", self.name);
        }
        kill(pid(self.child.id()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// SIGTERM: asks it to stop cleanly.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGKILL)?;
            self.wait(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// SIGSTOP: it holds its sockets and answers nothing.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn unfreeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("{} (pid {}) may still run: {error:#}", self.name, self.child.id());
        }
    }
}

/// The process ids of all children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything: fields follow the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.ok().and_then(|stat| {
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().next().map(str::to_owned)
    });
    state.is_some_and(|state| state != "Z" && state != "X")
}

/// Kills processes that may be gone already.
pub fn kill_all(pids: &[u32]) {
    for each in pids {
        // ESRCH is the aim, not a failure.
        let _ = kill(pid(*each), Signal::SIGKILL);
    }
}

/// Sends a signal to a process that is not a child of ours.
pub fn signal(id: u32, signal: Signal) -> Result<()> {
    kill(pid(id), signal).with_context(|| format!("cannot send {signal} to process {id}"))
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

/// Starts a child from the thread that never ends. See the module's comment.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                // Nobody waits for the reply only if the asking thread is gone.
                drop(reply.send(command.spawn()));
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(|_| anyhow!("the thread that starts children ended"))?;
    answer.recv().context("the thread that starts children ended")?.context("spawn failed")
}

/// The last lines of a file, for a message about a failure.
pub fn tail(path: &Path, lines: usize) -> String {
    match read_lossy(path) {
        Err(error) => format!("(no log: {error:#})"),
        Ok(text) => {
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
    }
}

fn read_lossy(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn append(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}
