//! The configuration file: TOML, unknown keys refused, everything wrong reported at once.
//!
//! Connection strings may name a password, so they are never printed from here; use
//! [`decoders::postgres::ConnInfo::redacted`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cutover::login::Login;
use cutover::private_file;
use cutover::switch::SwitchConfig;
use cutover::watch::WatchConfig;
use decoders::postgres::catalog::TableFilter;
use decoders::postgres::conninfo::ConnInfo;
use serde::Deserialize;

use crate::alerts::AlertsConfig;
use crate::backfill::CopyConfig;
use crate::pipeline::HaltConfig;
use crate::protect::{OnWalLimit, ProtectConfig};
use crate::schema::SchemaConfig;
use crate::secret::{Secret, has_password};

mod api;
mod problems;

pub use api::{ApiConfig, CertificateConfig, MetricsAccess, Role, TlsFiles, TokenConfig};

/// Longest pipeline name: the slot name `cutover_<name>` must fit into 63 bytes.
const NAME_BYTES_MAX: usize = 40;

/// What the name of a way back ends with: slot, publication, progress and origins carry it.
const BACK_SUFFIX: &str = "_back";

/// Everything that `replicator run` can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names the pipeline: slot, publication, progress and metrics carry it.
    #[serde(default = "default_name")]
    pub name: String,
    /// Where the sidecar keeps its memory (RocksDB).
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// The database in production now.
    pub blue: Endpoint,
    /// The database to move to.
    pub green: Endpoint,
    /// Which tables are moved.
    #[serde(default)]
    pub tables: TableFilter,
    /// The preflight.
    #[serde(default)]
    pub check: CheckConfig,
    /// How green's schema comes to be.
    #[serde(default)]
    pub schema: SchemaConfig,
    /// The copy of what is there already.
    #[serde(default)]
    pub copy: CopyConfig,
    /// Keeping blue from harm.
    #[serde(default)]
    pub protect: ProtectConfig,
    /// What happens when only a person can mend what stopped the stream.
    #[serde(default)]
    pub halt: HaltConfig,
    /// Applying the stream.
    #[serde(default)]
    pub apply: ApplyConfig,
    /// The HTTP API.
    #[serde(default)]
    pub api: ApiConfig,
    /// The cutover and its traffic switches.
    #[serde(default)]
    pub cutover: SwitchConfig,
    /// Alerts.
    #[serde(default)]
    pub alerts: AlertsConfig,
    /// Watching the side that opened.
    #[serde(default)]
    pub watch: WatchConfig,
}

/// One of the two databases.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// A libpq connection string: URL or keywords. Passwords are better kept in `PGPASSFILE`.
    pub url: Option<Secret>,
    /// A file that holds the connection string.
    pub url_file: Option<PathBuf>,
}

impl Endpoint {
    /// From a connection string.
    pub fn from_url(url: String) -> Self {
        Self { url: Some(Secret(url)), url_file: None }
    }

    /// The connection string, parsed.
    ///
    /// # Errors
    /// A sentence that names the side and what is wrong, without the string itself.
    pub fn resolve(&self, side: &str) -> Result<ConnInfo, String> {
        let text = self.text(side)?;
        ConnInfo::parse(text.0.trim()).map_err(|error| format!("{side}.url: {error}"))
    }

    /// The same, whatever the engine.
    ///
    /// # Errors
    /// A sentence that begins with the side.
    pub fn login(&self, side: &str) -> Result<Login, String> {
        let text = self.text(side)?;
        Login::parse(text.0.trim()).map_err(|error| format!("{side}.url: {error}"))
    }

    /// The connection string as it was written.
    ///
    /// # Errors
    /// There is none, or it can't be read.
    pub fn text(&self, side: &str) -> Result<Secret, String> {
        match (&self.url, &self.url_file) {
            (Some(url), None) => Ok(url.clone()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("{side}.url_file {}: {error}", path.display()))?;
                if has_password(&text) {
                    let private = private_file::refuse_open(path);
                    private.map_err(|what| format!("{side}.url_file {what}"))?;
                }
                Ok(Secret(text))
            }
            (Some(_), Some(_)) => Err(format!("{side}: give url or url_file, not both")),
            (None, None) => {
                Err(format!("{side}: no connection string; give {side}.url or --{side}"))
            }
        }
    }
}

/// The preflight.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckConfig {
    /// Blockers to go on without, by name; only those that the report calls acceptable.
    pub accept: BTreeSet<String>,
}

/// Applying the stream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApplyConfig {
    /// Most bytes of changes held in memory between blue and green.
    pub memory_bytes: usize,
    /// Most memory that the changes of one green transaction may take, with what reducing them to
    /// their net change takes, unless one blue transaction is larger. Not more than half of
    /// `memory_bytes`, which is also the default: one batch is collected while one is applied.
    pub batch_bytes: Option<usize>,
    /// Most blue transactions in one green transaction.
    pub batch_transactions: usize,
    /// Transactions of green that may be under way at once, each on a connection of its own. More
    /// than one helps where green waits (for its disk, for the network) and blue's transactions
    /// touch different rows. May be changed between runs.
    pub lanes: u16,
    /// How the slot is read.
    pub reader: ReaderMode,
    /// Log between what was read and blue's head from which on gulps are worth their start; at a
    /// quarter of it the stream goes on. By default about two seconds of a walsender at its fastest.
    pub far_behind_bytes: u64,
    /// Whether values may travel in binary.
    pub binary: BinaryMode,
    /// Whether large transactions are received while they run on blue.
    pub streaming: StreamingMode,
    /// Whether rows of MySQL and MariaDB may go to green as row events (the BINLOG statement).
    pub row_events: RowEventsMode,
    /// Apply to tables although triggers or rules of theirs would fire on green.
    pub accept_triggers: bool,
    /// What happens to schema changes of MySQL and MariaDB.
    pub ddl: DdlMode,
}

/// What happens to a schema change in the stream of MySQL or MariaDB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DdlMode {
    /// The stream stops at it, and a person does it on green.
    #[default]
    Stop,
    /// It is repeated where it comes to the same on green whatever its rows and version are; at others
    /// the stream stops.
    Apply,
}

/// Whether rows of MySQL and MariaDB may go to green as row events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowEventsMode {
    /// Batches of tables that have blue's form on green, if the account on green may do that.
    Auto,
    /// Never: as statements.
    #[default]
    Off,
}

/// How the slot is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReaderMode {
    /// In gulps far behind blue's head (PostgreSQL 12 and later, with the rights for it), as a
    /// stream otherwise.
    #[default]
    Auto,
    /// As a stream, always.
    Stream,
}

/// Whether values may travel in binary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryMode {
    /// Where every published column's type is safe (PostgreSQL 14 and later).
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Whether large transactions are received while they run on blue, and wait for their commit in the
/// state directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamingMode {
    /// Where blue can (PostgreSQL 14 and later); elsewhere as with `Off`.
    #[default]
    Auto,
    /// Never: they are received when they have committed.
    Off,
}

impl ApplyConfig {
    /// What `batch_bytes` comes to.
    pub fn batch_bytes(&self) -> usize {
        self.batch_bytes.unwrap_or(self.memory_bytes / 2)
    }
}

impl Default for ApplyConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            batch_bytes: None,
            batch_transactions: 50_000,
            lanes: 1,
            reader: ReaderMode::Auto,
            far_behind_bytes: 64 << 20,
            binary: BinaryMode::Auto,
            streaming: StreamingMode::Auto,
            row_events: RowEventsMode::Off,
            accept_triggers: false,
            ddl: DdlMode::Stop,
        }
    }
}

fn default_name() -> String {
    "main".into()
}

fn default_state_dir() -> PathBuf {
    "/var/lib/cutover".into()
}

/// What is wrong with a configuration, all of it.
#[derive(Debug, thiserror::Error)]
#[error("the configuration can't be used:\n{}", .problems.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    /// One sentence each.
    pub problems: Vec<String>,
}

impl ConfigError {
    /// A single problem.
    pub fn one(problem: impl Into<String>) -> Self {
        Self { problems: vec![problem.into()] }
    }
}

impl Config {
    /// A configuration with nothing but the two databases.
    pub fn new(blue: Endpoint, green: Endpoint) -> Self {
        Self {
            name: default_name(),
            state_dir: default_state_dir(),
            blue,
            green,
            tables: TableFilter::default(),
            check: CheckConfig::default(),
            schema: SchemaConfig::default(),
            copy: CopyConfig::default(),
            protect: ProtectConfig::default(),
            halt: HaltConfig::default(),
            apply: ApplyConfig::default(),
            api: ApiConfig::default(),
            cutover: SwitchConfig::default(),
            alerts: AlertsConfig::default(),
            watch: WatchConfig::default(),
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::one(format!("{}: {error}", path.display())))?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            // The parser's own rendering quotes the line, and the line may hold a password.
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let place = line.map_or(String::new(), |line| format!(", line {line}"));
            ConfigError::one(format!("{}{place}: {}", path.display(), error.message()))
        })?;
        let urls = [&config.blue.url, &config.green.url];
        if urls.into_iter().flatten().any(|url| has_password(&url.0)) {
            private_file::refuse_open(path).map_err(ConfigError::one)?;
        }
        Ok(config)
    }

    /// The configuration of the stream the other way round: its source is green, and its target
    /// blue. It never gives its slot up by itself: that would be the end of the way back.
    pub fn reversed(&self) -> Self {
        let mut reversed = self.clone();
        reversed.name = self.counterpart();
        std::mem::swap(&mut reversed.blue, &mut reversed.green);
        reversed.protect.on_wal_limit = OnWalLimit::Warn;
        reversed
    }

    /// The name of the pipeline that streams the other way round.
    pub fn counterpart(&self) -> String {
        match self.name.strip_suffix(BACK_SUFFIX) {
            Some(name) => name.to_owned(),
            None => format!("{}{BACK_SUFFIX}", self.name),
        }
    }

    /// Name of the replication slot on blue.
    pub fn slot(&self) -> String {
        format!("cutover_{}", self.name)
    }

    /// How our sessions call themselves; unique for the pipeline.
    pub fn application_name(&self) -> String {
        format!("cutover {}", self.name)
    }

    /// Control socket of the embedded proxy, unless the configuration names another one.
    pub fn proxy_socket(&self) -> PathBuf {
        self.state_dir.join("proxy.sock")
    }

    /// Socket of the HTTP API, for whoever is on the same host.
    pub fn api_socket(&self) -> PathBuf {
        self.state_dir.join(cutover::api::SOCKET)
    }

    /// Name of the publication on blue.
    pub fn publication(&self) -> String {
        format!("cutover_{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        Config::read(file.path())
    }

    pub(super) const ENDS: &str =
        "[blue]\nurl = 'postgres://u:hunter2@b/d'\n[green]\nurl = 'postgres://g/d'\n";

    #[test]
    fn unknown_keys_are_refused_by_name_and_line() {
        let error = parse(&format!("{ENDS}[apply]\nbatch_byte = 1\n")).unwrap_err().to_string();
        assert!(error.contains("batch_byte") && error.contains("line 6"), "{error}");
    }

    #[test]
    fn a_broken_line_with_a_password_is_not_printed() {
        let error = parse("[blue]\nurl = 'postgres://u:hunter2@b/d\n").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let config = parse(ENDS).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn names_derive_from_the_pipeline() {
        let config = parse(&format!("name = 'shop'\n{ENDS}")).unwrap();
        assert_eq!(config.slot(), "cutover_shop");
        let back = config.reversed();
        assert_eq!(
            (back.slot().as_str(), back.counterpart().as_str()),
            ("cutover_shop_back", "shop")
        );
        assert!(!back.problems().is_empty(), "the name of a way back is taken");
        assert!(config.problems().is_empty(), "{:?}", config.problems());
    }
}
