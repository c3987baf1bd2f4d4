//! One MariaDB or MySQL server on loopback, with its own data directory, port and socket. It runs
//! as a direct child of this process: see [`crate::process`].

mod client;
pub mod numbers;
pub mod oltp;
mod stage;
mod template;

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::paths;
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::scratch::Scratch;
use crate::wait;

pub use client::{Login, Row};
pub use stage::{DATABASE, Router, Stage};
pub(crate) use stage::{MOVER_IN_URL, create_accounts};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Which server: one of those that `scripts/setup servers` unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Version {
    Mariadb10_11,
    Mariadb11_8,
    Mysql9_7,
}

impl Version {
    /// All that are installed by the set-up.
    pub const ALL: [Version; 3] = [Version::Mariadb10_11, Version::Mariadb11_8, Version::Mysql9_7];

    /// As in a path: `mariadb/10.11`.
    pub fn name(self) -> &'static str {
        match self {
            Version::Mariadb10_11 => "mariadb/10.11",
            Version::Mariadb11_8 => "mariadb/11.8",
            Version::Mysql9_7 => "mysql/9.7",
        }
    }

    pub fn is_mariadb(self) -> bool {
        self != Version::Mysql9_7
    }

    /// The directory that holds its `usr`.
    pub fn directory(self) -> Result<PathBuf> {
        let directory = paths::servers().join(self.name());
        if !self.program_in(&directory).is_file() {
            bail!("{} is not installed; `scripts/setup mysql` fetches it", self.name());
        }
        Ok(directory)
    }

    fn program_in(self, directory: &Path) -> PathBuf {
        directory.join(if self.is_mariadb() { "usr/sbin/mariadbd" } else { "usr/sbin/mysqld" })
    }

    fn client(self) -> Result<PathBuf> {
        let program = if self.is_mariadb() { "usr/bin/mariadb" } else { "usr/bin/mysql" };
        Ok(self.directory()?.join(program))
    }

    /// Where it finds its files, and nothing from the machine's own configuration.
    fn launch(self, data: &Path) -> Result<Launch> {
        let directory = self.directory()?;
        let mut share = directory.join("usr/share/mysql");
        if directory.join("usr/share/mariadb/charsets").is_dir() {
            share = directory.join("usr/share/mariadb");
        }
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        // MySQL takes `--no-defaults` to mean that persisted settings are not read either.
        let no_defaults =
            if self.is_mariadb() { "--no-defaults" } else { "--defaults-file=/dev/null" };
        Launch::new(self.program_in(&directory))
            .arg(no_defaults)
            .arg(option("basedir", &directory.join("usr")))
            .arg(option("datadir", data))
            .arg(option("lc-messages-dir", &share))
            .arg(option("character-sets-dir", &share.join("charsets")))
            .arg(option("plugin-dir", &directory.join("usr/lib/mysql/plugin")))
            .as_server()
    }
}

/// A server of ours. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Mysql {
    version: Version,
    data: PathBuf,
    /// MariaDB clears temporary tables out of this directory when it starts, whoever's they are.
    temporary: PathBuf,
    socket: PathBuf,
    process: Option<Process>,
    port: Port,
    scratch: Scratch,
    options: Vec<String>,
}

impl Mysql {
    /// Starts a server with `options` behind the defaults, which write rows with full metadata.
    pub fn start(version: Version, options: &[&str]) -> Result<Mysql> {
        Self::start_on(version, options, |data| template::copy_to(version, data))
    }

    /// Another server with the data of this one, which has to be stopped, and with these options.
    pub fn copy(&self, options: &[&str]) -> Result<Mysql> {
        ensure!(self.process.is_none(), "the server that is copied runs");
        Self::start_on(self.version, options, |data| {
            template::copy(&self.data, data)?;
            // The identity belongs to each copy. MariaDB has no such file.
            match std::fs::remove_file(data.join("auto.cnf")) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            }
        })
    }

    fn start_on(
        version: Version,
        options: &[&str],
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Mysql> {
        let scratch = Scratch::new()?;
        let data = scratch.path().join("data");
        fill(&data)?;
        let mut server = Mysql {
            version,
            data,
            temporary: scratch.server_dir("tmp")?,
            socket: scratch.server_dir("sock")?.join("s"),
            process: None,
            port: Port::reserve()?,
            scratch,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        server.launch()?;
        Ok(server)
    }

    fn launch(&mut self) -> Result<()> {
        let version = self.version;
        let mut launch = version
            .launch(&self.data)?
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--port={}", self.port.number()))
            .arg(format!("--server-id={}", self.port.number()))
            .arg(format!("--tmpdir={}", self.temporary.display()))
            .arg(format!("--socket={}", self.socket.display()))
            .arg(format!("--pid-file={}", self.socket.with_extension("pid").display()))
            .args(["--log-bin=binlog", "--binlog-row-metadata=FULL", "--sync-binlog=0"])
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"])
            .args(["--max-connections=100", "--default-time-zone=+00:00"]);
        launch = match version.is_mariadb() {
            true => launch
                .args(["--binlog-format=ROW", "--gtid-strict-mode=ON"])
                .args(template::certificate_options(version)),
            false => launch.args([
                "--secure-file-priv=NULL",
                "--mysqlx=OFF",
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
            ]),
        };
        let launch = launch.args(&self.options);
        let mut process = launch.start(&self.scratch.path().join("server"))?;
        let what = format!("{} to accept connections", version.name());
        wait::until_blocking(&what, START_DEADLINE, || {
            if let Some(status) = process.ended()? {
                bail!("{} ended with {status}:\n{}", version.name(), process.log_tail());
            }
            Ok(self.answers().then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Whether it takes logins, or refuses them because it is closed.
    fn answers(&self) -> bool {
        // Starting a client takes CPU from the server that starts.
        if UnixStream::connect(&self.socket).is_err() {
            return false;
        }
        match self.rows("select 1") {
            Ok(_) => true,
            Err(error) => {
                ["is locked", "offline mode"].iter().any(|why| format!("{error:#}").contains(why))
            }
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process; `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it says.
    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join("server.err")
    }

    /// Stops it cleanly: its last binlog is complete and closed.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server is down")?;
        process.terminate()?;
        process.wait(STOP_DEADLINE)?;
        Ok(())
    }

    /// `kill -9`; [`Mysql::start_again`] is its next life.
    pub fn kill9(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server is down")?;
        process.kill9()
    }

    /// Stops it cleanly and starts it again, with the settings and accounts that it has stored: it may
    /// let nobody in.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Starts it after [`Mysql::stop`] or [`Mysql::kill9`].
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server runs");
        self.launch()
    }

    /// The paths of its binlogs, the oldest first.
    pub fn binlogs(&self) -> Result<Vec<PathBuf>> {
        let index = self.data.join("binlog.index");
        let text = std::fs::read_to_string(&index)
            .with_context(|| format!("cannot read {}", index.display()))?;
        Ok(text.lines().map(|line| self.data.join(line.trim_start_matches("./"))).collect())
    }
}
