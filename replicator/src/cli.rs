//! The command line of `replicator`.

pub(crate) mod typed;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use decoders::mysql::gtid::BinlogPosition;
use decoders::postgres::catalog::TablePattern;

use crate::check::Fixes;
use crate::config::{Config, ConfigError, Endpoint};
use crate::schema::SchemaMode;

/// Moves a live PostgreSQL database to another server.
#[derive(Debug, Parser)]
#[command(name = "replicator", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How logs are written (to stderr); RUST_LOG chooses what.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy blue to green, then follow blue until the cutover.
    Run(RunArgs),
    /// Report everything that stands in the way, each with its fix. Exit code 3 if something does.
    Check(CheckArgs),
    /// Print blue's changes as JSON lines.
    Tail(TailArgs),
    /// Serve clients on one address and lead them to the side that serves; a cutover moves them.
    Proxy(ProxyArgs),
    /// Serve clients if the sidecar dies in the middle of a run: `replicator run` starts it.
    #[command(hide = true)]
    Watchdog,
    /// Remove slot, publication and our own tables. Copied data stays on green.
    Teardown(TeardownArgs),
}

/// Which pipeline. A flag wins over the configuration file.
#[derive(Clone, Debug, Default, Args)]
pub struct PipelineArgs {
    /// Configuration file (TOML).
    #[arg(long, env = "CUTOVER_CONFIG")]
    pub config: Option<PathBuf>,
    /// The database in production: URL or keyword string. Keep passwords in PGPASSFILE. `check`
    /// takes mysql:// and mariadb:// too (password in MYSQL_PWD): one database, or all without it.
    #[arg(long, env = "CUTOVER_BLUE", hide_env_values = true)]
    pub blue: Option<String>,
    /// The database to move to.
    #[arg(long, env = "CUTOVER_GREEN", hide_env_values = true)]
    pub green: Option<String>,
    /// The pipeline's name.
    #[arg(long)]
    pub name: Option<String>,
    /// Where the sidecar keeps its memory.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Address of the HTTP API.
    #[arg(long, alias = "api-listen")]
    pub listen: Option<SocketAddr>,
    /// Address of the embedded proxy, for clients. Default: cutover.proxy.listen.
    #[arg(long, env = "CUTOVER_CLIENT_LISTEN")]
    pub client_listen: Option<SocketAddr>,
    /// Copy blue's schema, or take green's as it is.
    #[arg(long, value_enum)]
    pub schema: Option<SchemaMode>,
    /// Go on without this blocker; only those that the report calls acceptable. Repeat it for more.
    #[arg(long = "accept")]
    pub accept: Vec<String>,
    /// Only these tables (`schema.table`, `*` matches); repeat it for more.
    #[arg(long = "include-table")]
    pub include: Vec<TablePattern>,
    /// Not these tables.
    #[arg(long = "exclude-table")]
    pub exclude: Vec<TablePattern>,
}

/// `replicator run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Which pipeline.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// End with an error at what only a person can mend, instead of staying up and going on by itself
    /// once it is mended. The same as halt.exit_on_halt.
    #[arg(long)]
    pub exit_on_halt: bool,
}

/// `replicator check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Which pipeline.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The report as one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
    /// Print statements to run instead of the report: of all that is in the way on blue or on green, or
    /// of one finding.
    #[arg(long, value_name = "blue|green|FINDING", conflicts_with = "json")]
    pub fix: Option<Fixes>,
    /// Look at blue's rows, too: at those without the parent that a foreign key asks for, and at those that
    /// are twice under a unique index. Reads every table that has such a rule (PostgreSQL).
    #[arg(long)]
    pub deep: bool,
    /// With --deep: the longest that the rows of one table are looked at, and vacuum is held back.
    #[arg(long, value_name = "TIME", requires = "deep", default_value = "60s",
          value_parser = humantime::parse_duration)]
    pub timeout: std::time::Duration,
}

/// `replicator tail`.
#[derive(Clone, Debug, Args)]
pub struct TailArgs {
    /// The database to look at: postgres://, or mysql:// and mariadb:// for the binlog of a server
    /// (of one database, if the URL names it).
    #[arg(long, env = "CUTOVER_BLUE", hide_env_values = true)]
    pub blue: String,
    /// Look at this slot, which must exist, from where it stands; it is not moved. Without it a
    /// temporary slot is used: from now on, and nothing is left behind.
    #[arg(long, requires = "publication")]
    pub slot: Option<String>,
    /// Publication to read. Without it a publication of all published tables is made and removed.
    #[arg(long)]
    pub publication: Option<String>,
    /// MySQL and MariaDB: begin behind these GTIDs, as an event's `position` has them. Without it
    /// from now on.
    #[arg(long, conflicts_with_all = ["slot", "publication"])]
    pub from: Option<BinlogPosition>,
    /// MySQL and MariaDB: the identity as a replica, which no other replica may have. Without it a
    /// random one.
    #[arg(long, conflicts_with_all = ["slot", "publication"])]
    pub server_id: Option<u32>,
    /// Only these tables.
    #[arg(long = "include-table")]
    pub include: Vec<TablePattern>,
    /// Not these tables.
    #[arg(long = "exclude-table")]
    pub exclude: Vec<TablePattern>,
    /// Stop after this many changes.
    #[arg(long)]
    pub limit: Option<u64>,
}

/// `replicator proxy`.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// Which pipeline.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// End the one that runs: clients are disconnected.
    #[arg(long)]
    pub stop: bool,
    /// In a session of its own: `replicator run` starts it like that.
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// `replicator teardown`.
#[derive(Clone, Debug, Args)]
pub struct TeardownArgs {
    /// Which pipeline.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Do it without asking.
    #[arg(long)]
    pub yes: bool,
}

impl PipelineArgs {
    /// File and flags together, validated.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        for (flag, url) in [("--blue", &self.blue), ("--green", &self.green)] {
            typed::refuse_password(flag, url.as_deref()).map_err(ConfigError::one)?;
        }
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => match (&self.blue, &self.green) {
                (Some(_), Some(_)) => Config::new(
                    Endpoint { url: None, url_file: None },
                    Endpoint { url: None, url_file: None },
                ),
                _ => {
                    return Err(ConfigError::one("give --config FILE, or both --blue and --green"));
                }
            },
        };
        if let Some(url) = &self.blue {
            config.blue = Endpoint::from_url(url.clone());
        }
        if let Some(url) = &self.green {
            config.green = Endpoint::from_url(url.clone());
        }
        if let Some(name) = &self.name {
            config.name.clone_from(name);
        }
        if let Some(state_dir) = &self.state_dir {
            config.state_dir.clone_from(state_dir);
        }
        if let Some(listen) = self.listen {
            config.api.listen = listen;
        }
        if let Some(mode) = self.schema {
            config.schema.mode = mode;
        }
        config.tables.include.extend(self.include.iter().cloned());
        config.tables.exclude.extend(self.exclude.iter().cloned());
        config.check.accept.extend(self.accept.iter().cloned());
        let socket = config.proxy_socket();
        config.cutover.complete(self.client_listen, socket);
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }
}
