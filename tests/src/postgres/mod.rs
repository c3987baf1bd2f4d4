//! One PostgreSQL server of any installed major version, on loopback, with its own data directory,
//! port and socket directory. It runs as a direct child of this process: see [`crate::process`].

mod sql;
mod template;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::paths;
use crate::ports::Port;
use crate::process::{self, Launch, Process};
use crate::scratch::{Account, Scratch};
use crate::wait;

pub(crate) use template::directory as template_directory;

pub use sql::{Rows, connect_url, describe, rows};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The superuser of every server.
pub const SUPERUSER: &str = "postgres";

/// How to stop a server: pg_ctl's modes of the same names (signals: manual 19.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, a checkpoint is written.
    Fast,
    /// As in a power cut, but without leaving shared memory behind; recovery runs at the next start.
    Immediate,
}

/// Settings of a server to be started.
#[derive(Debug, Clone)]
pub struct Builder {
    major: u32,
    settings: BTreeMap<String, String>,
    hba: Vec<String>,
    initdb: Vec<String>,
}

impl Builder {
    /// A line of `postgresql.conf`; replaces the default of the same name.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Survives a power cut, at the price of speed. Off otherwise: `kill -9` loses nothing that
    /// the kernel has.
    pub fn durable(self) -> Builder {
        self.setting("fsync", "on")
    }

    /// A line that goes before the others in `pg_hba.conf`. The default trusts loopback.
    pub fn hba(mut self, line: &str) -> Builder {
        self.hba.push(line.to_owned());
        self
    }

    /// An argument of `initdb`, such as `--locale-provider=icu`.
    pub fn initdb(mut self, argument: &str) -> Builder {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Makes the data directory (a copy of a cached one) and starts the server.
    pub fn start(self) -> Result<Postgres> {
        let bin = paths::postgres_bin(self.major)?;
        let scratch = Scratch::new()?;
        let sockets = scratch.server_dir("sock")?;
        let data = scratch.path().join("data");
        template::copy_to(&bin, &self.initdb, &data)?;
        let port = Port::reserve()?;

        let mut server = Postgres {
            major: self.major,
            bin,
            data,
            sockets,
            port,
            settings: self.settings,
            process: None,
            killed: false,
            scratch,
        };
        server.prepend_hba(&self.hba)?;
        server.start()?;
        Ok(server)
    }
}

/// A server of ours. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    major: u32,
    bin: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
    port: Port,
    settings: BTreeMap<String, String>,
    process: Option<Process>,
    killed: bool,
    scratch: Scratch,
}

impl Postgres {
    pub fn builder(major: u32) -> Builder {
        let defaults = [
            ("listen_addresses", "127.0.0.1"),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_connections", "120"),
            ("max_prepared_transactions", "10"),
            ("shared_buffers", "64MB"),
            ("max_wal_size", "2GB"),
            ("fsync", "off"),
            ("synchronous_commit", "on"),
            // Segments in the data directory: a killed server leaves nothing in /dev/shm.
            ("dynamic_shared_memory_type", "mmap"),
            ("log_line_prefix", "%m [%p] %q%a@%d "),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let settings = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Builder { major, settings: settings.into(), hba: Vec::new(), initdb: Vec::new() }
    }

    /// A server with the defaults.
    pub fn start_major(major: u32) -> Result<Postgres> {
        Postgres::builder(major).start()
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn bin(&self) -> &Path {
        &self.bin
    }

    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join("postgres.err")
    }

    /// Over TCP, as the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, database)
    }

    /// Over TCP, as somebody else.
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// Through the Unix socket, as the superuser.
    pub fn unix_url(&self, database: &str) -> String {
        let directory = self.sockets.display().to_string().replace('/', "%2F");
        format!("postgres://{SUPERUSER}@{directory}:{}/{database}", self.port())
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// The process id of the postmaster, if the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Changes a setting for the next start, or for [`Postgres::reload`] where that is enough.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.settings.insert(name.to_owned(), value.to_owned());
        self.write_settings()
    }

    /// Makes the server read its configuration again. It does so soon, not at once.
    pub fn reload(&mut self) -> Result<()> {
        self.process.as_mut().context("the server is down")?.signal(Signal::SIGHUP)
    }

    /// Starts a stopped or killed server, on the same port and data, and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("PostgreSQL {} is running already", self.major);
        }
        self.write_settings()?;
        let launch = Launch::new(self.bin.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            // Shared memory is gone with the processes, and nobody waits for a checkpoint.
            .orphan_signal("QUIT")
            .as_server()?;
        let mut process = launch.start(&self.scratch.path().join("postgres"))?;
        let what = format!("PostgreSQL {} to accept connections", self.major);
        let pid_file = self.data.join("postmaster.pid");
        wait::until_blocking(&what, START_DEADLINE, || {
            if let Some(status) = process.ended()? {
                bail!("PostgreSQL {} ended with {status}:\n{}", self.major, process.log_tail());
            }
            Ok(is_ready(&pid_file, process.pid()).then_some(()))
        })?;
        self.process = Some(process);
        self.killed = false;
        Ok(())
    }

    /// Stops it and waits until it is gone. No error if it is down already.
    pub fn stop(&mut self, mode: Stop) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        if process.is_running() {
            process.signal(match mode {
                Stop::Fast => Signal::SIGINT,
                Stop::Immediate => Signal::SIGQUIT,
            })?;
            if process.wait(STOP_DEADLINE).is_err() {
                let log = process.log_tail();
                self.kill_children(&mut process)?;
                bail!("PostgreSQL {} did not stop and was killed; its log:\n{log}", self.major);
            }
        }
        Ok(())
    }

    pub fn restart(&mut self, mode: Stop) -> Result<()> {
        self.stop(mode)?;
        self.start()
    }

    /// `kill -9` of the postmaster and of every process of the server: what the OOM killer or a
    /// crashing machine leaves. Returns when all of them are gone; the data stays for
    /// [`Postgres::start`].
    pub fn kill9(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server is down")?;
        self.kill_children(&mut process)
    }

    fn kill_children(&mut self, process: &mut Process) -> Result<()> {
        // Stopped first, the postmaster can start no child that we would not see.
        if process.is_running() {
            process.freeze()?;
        }
        let children = process::children_of(process.pid());
        process.kill9()?;
        process::kill_all(&children);
        self.killed = true;
        wait::until_blocking("the end of the server's processes", STOP_DEADLINE, || {
            Ok((!children.iter().any(|pid| process::is_alive(*pid))).then_some(()))
        })
    }

    fn write_settings(&self) -> Result<()> {
        let path = self.data.join("conf.d.conf");
        let mut text = format!(
            "port = {}\nunix_socket_directories = '{}'\n",
            self.port(),
            self.sockets.display()
        );
        for (name, value) in &self.settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Account::of_servers()?.own(&path)
    }

    fn prepend_hba(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.data.join("pg_hba.conf");
        let rest = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{}\n{rest}", lines.join("\n")))?;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Stop::Immediate) {
            eprintln!("{error:#}");
        }
        if self.killed {
            remove_shared_memory(&self.data.join("postmaster.pid"));
        }
    }
}

/// From PostgreSQL 10 on, line 8 of `postmaster.pid` is the state (miscadmin.h, LOCK_FILE_LINE_*).
fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return false };
    let mut lines = text.lines();
    lines.next().is_some_and(|line| line.trim() == pid.to_string())
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

/// A killed server leaves its small System V segment, which the next start would have removed. Its
/// id stands in line 7 of `postmaster.pid`.
fn remove_shared_memory(pid_file: &Path) {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return };
    let id = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = id {
        let removed = std::process::Command::new("ipcrm").args(["-m", id]).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("shared memory segment {id} of a killed server is left behind");
        }
    }
}
