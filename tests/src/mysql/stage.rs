//! A move between two servers of MySQL or MariaDB, put together: an HAProxy in front of them or our own
//! proxy, the accounts of the application and of the sidecar, a configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Login, Mysql, Version};
use crate::api::Api;
use crate::embedded::Embedded;
use crate::haproxy::HaProxy;
use crate::ports::Port;
use crate::process::{Finished, Launch, Process};
use crate::scratch::{Scratch, write_private};

/// The database that moves.
pub const DATABASE: &str = "shop";

/// The sidecar's account, which is nobody else's; its password needs to be encoded in a URL.
const MOVER: (&str, &str) = ("mover", "se cret");
pub(crate) const MOVER_IN_URL: &str = "mover:se%20cret";
/// The application's.
const APP: &str = "app";

/// The sidecar's account and the application's.
pub(crate) fn create_accounts(server: &Mysql) -> Result<()> {
    let (mover, password) = MOVER;
    server.run(&format!(
        "create user '{mover}'@'%' identified by '{password}';
         grant all on *.* to '{mover}'@'%';
         create user '{APP}'@'%' identified by '{APP}';
         grant all on {DATABASE}.* to '{APP}'@'%';"
    ))
}

/// What clients go through.
#[derive(Debug)]
pub enum Router {
    HaProxy(HaProxy),
    /// Ours, which the sidecar starts because none is named.
    Embedded(Embedded),
}

impl Router {
    /// Where clients connect.
    pub fn port(&self) -> u16 {
        match self {
            Router::HaProxy(haproxy) => haproxy.port(),
            Router::Embedded(embedded) => embedded.port(),
        }
    }
}

/// The stage, set; blue's database is there and empty. Dropping it stops everything.
#[derive(Debug)]
pub struct Stage {
    pub blue: Mysql,
    pub green: Mysql,
    pub router: Router,
    api_port: Port,
    scratch: Scratch,
}

impl Stage {
    /// Starts both servers with these options, and the HAProxy, which leads to blue. `config` is TOML with
    /// sections that the stage does not write itself.
    pub fn start(versions: (Version, Version), options: &[&str], config: &str) -> Result<Stage> {
        Self::set(versions, options, config, false)
    }

    /// The same with our own proxy, which leads nowhere before the sidecar runs.
    pub fn embedded(versions: (Version, Version), options: &[&str], config: &str) -> Result<Stage> {
        Self::set(versions, options, config, true)
    }

    fn set(
        versions: (Version, Version),
        options: &[&str],
        config: &str,
        embedded: bool,
    ) -> Result<Stage> {
        let server = |version: Version| -> Result<Mysql> {
            let server = Mysql::start(version, options)?;
            create_accounts(&server)?;
            Ok(server)
        };
        let blue = server(versions.0).context("blue")?;
        let green = server(versions.1).context("green")?;
        blue.run(&format!("create database {DATABASE}"))?;
        let (scratch, api_port) = (Scratch::new()?, Port::reserve()?);
        let router = match embedded {
            true => Router::Embedded(Embedded::at(scratch.path().join("state/proxy.sock"))?),
            false => Router::HaProxy(HaProxy::start(blue.port(), green.port())?),
        };
        let stage = Stage { blue, green, router, api_port, scratch };
        std::fs::create_dir(stage.failpoints())?;
        let routers = match &stage.router {
            Router::HaProxy(haproxy) => haproxy.config_for(&stage.app_url()),
            Router::Embedded(_) => String::new(),
        };
        stage.configure(&routers, config)?;
        Ok(stage)
    }

    /// Writes the configuration, with these sections about routers and these others.
    pub fn configure(&self, routers: &str, more: &str) -> Result<()> {
        write_private(&self.config_file(), self.config(routers, more))
            .context("cannot write cutover.toml")
    }

    fn config(&self, routers: &str, more: &str) -> String {
        let scheme = if self.blue.version().is_mariadb() { "mariadb" } else { "mysql" };
        let url = |user: &str, port: u16| format!("{scheme}://{user}@127.0.0.1:{port}/{DATABASE}");
        format!(
            "name = \"{DATABASE}\"\nstate_dir = {:?}\n\n[blue]\nurl = {:?}\n\n[green]\nurl = {:?}\n\n\
             [api]\nlisten = \"127.0.0.1:{}\"\n\n{routers}\n{more}\n",
            self.state_dir(),
            url(MOVER.0, self.blue.port()),
            url(MOVER.0, self.green.port()),
            self.api_port.number(),
        )
    }

    /// A directory for this stage's files.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.path().join("cutover.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Where a sidecar is told what is to happen to it.
    pub fn failpoints(&self) -> PathBuf {
        self.path().join("failpoints")
    }

    pub fn api(&self) -> Api {
        Api::new(self.api_port.number(), self.state_dir())
    }

    /// Runs statements in blue's database, as root.
    pub fn on_blue(&self, sql: &str) -> Result<()> {
        self.blue.run(&format!("use {DATABASE}; {sql}"))
    }

    /// `replicator run --config FILE`, as a child.
    pub fn replicator(&self) -> Result<Process> {
        self.launch("run")?.start(&self.path().join("replicator"))
    }

    /// `replicator COMMAND --config FILE`.
    pub fn launch(&self, command: &str) -> Result<Launch> {
        let launch = Launch::ours("replicator")?.args([command, "--config"]);
        let launch = launch.arg(self.config_file()).env("MYSQL_PWD", MOVER.1);
        let launch = launch.env("CUTOVER_FAILPOINTS", self.failpoints());
        Ok(match &self.router {
            Router::Embedded(embedded) => {
                launch.env("CUTOVER_CLIENT_LISTEN", format!("127.0.0.1:{}", embedded.port()))
            }
            Router::HaProxy(_) => launch,
        })
    }

    /// Our own proxy.
    pub fn proxy(&self) -> Result<&Embedded> {
        match &self.router {
            Router::Embedded(embedded) => Ok(embedded),
            Router::HaProxy(_) => anyhow::bail!("this stage has no proxy of ours"),
        }
    }

    /// Runs `cutover --api URL ARGUMENTS` to its end.
    pub fn cutover(&self, arguments: &[&str], deadline: Duration) -> Result<Finished> {
        self.api().command()?.args(arguments).run(deadline)
    }

    /// The application's URL, through the router, for the ledger.
    pub fn app_url(&self) -> String {
        self.app_url_at(self.router.port())
    }

    /// The same, through another router or past all.
    pub fn app_url_at(&self, port: u16) -> String {
        format!("mysql://{APP}:{APP}@127.0.0.1:{port}/{DATABASE}")
    }

    /// The application, through the router.
    pub fn app(&self) -> Login {
        self.blue.login(self.router.port(), APP, APP)
    }

    /// The URL of the sidecar's account, which a closed side lets in, for the ledger's judge.
    pub fn mover_url(&self, server: &Mysql) -> String {
        format!("mysql://{MOVER_IN_URL}@127.0.0.1:{}/{DATABASE}", server.port())
    }

    /// The sidecar's account, which a closed side lets in.
    pub fn mover(&self, server: &Mysql) -> Login {
        server.login(server.port(), MOVER.0, MOVER.1)
    }

    /// The port of the server that a client of the router reaches.
    pub fn target_port(&self) -> Result<u16> {
        Ok(self.app().value("select @@port")?.parse()?)
    }

    /// After a failure: copies every log into one directory, leaves that in place and names it.
    pub fn keep_logs(&mut self) -> Result<PathBuf> {
        let directory = self.scratch.keep().to_path_buf();
        for (server, name) in [(&self.blue, "blue.log"), (&self.green, "green.log")] {
            let from = server.log_path();
            std::fs::copy(&from, directory.join(name))
                .with_context(|| format!("cannot keep {}", from.display()))?;
        }
        Ok(directory)
    }
}
