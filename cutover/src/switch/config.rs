//! What the operator writes about the routers, in the sidecar's configuration under `[cutover]`.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::proxy::ProxyConfig;

/// `[[cutover.pgbouncer]]`, `[cutover.proxy]` and `[cutover.command]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchConfig {
    /// Every PgBouncer that clients use.
    pub pgbouncer: Vec<PgBouncerConfig>,
    /// Or the operator's own commands.
    pub command: Option<CommandConfig>,
    /// Or our own proxy.
    pub proxy: Option<ProxyConfig>,
}

/// One PgBouncer process.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgBouncerConfig {
    /// Connection string of its admin console (database `pgbouncer`). With `so_reuseport` each
    /// process needs a console of its own: a Unix socket or its peer's port.
    pub admin: String,
    /// Its configuration file, as this host sees it.
    pub config_file: PathBuf,
    /// Which entries of `[databases]` to move; one or several.
    #[serde(deserialize_with = "one_or_many")]
    pub database: Vec<String>,
    /// Connection string of a client, to see which server the router leads to. Default: the
    /// console's address with the first `database`, and green's user and password.
    pub client: Option<String>,
    /// Green's host as PgBouncer sees it. Default: as in `--green`.
    pub green_host: Option<String>,
    /// Green's port as PgBouncer sees it.
    pub green_port: Option<u16>,
    /// Blue's host as PgBouncer sees it, for the way back. Default: as in `--blue`.
    pub blue_host: Option<String>,
    /// Blue's port as PgBouncer sees it.
    pub blue_port: Option<u16>,
    /// Name for messages. Default: the console's address.
    pub name: Option<String>,
}

impl fmt::Debug for PgBouncerConfig {
    /// Without the connection strings, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgBouncerConfig")
            .field("config_file", &self.config_file)
            .field("database", &self.database)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The operator's commands. Each is a program and its arguments; no shell is involved. They are
/// told what to do by `CUTOVER_*` variables, must be idempotent, and fail by a status other than 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandConfig {
    /// Makes clients wait. Without it they get errors between the fence and the release.
    pub hold: Vec<String>,
    /// Points at the side of `CUTOVER_TO_*` (required). Clients still wait.
    pub switch: Vec<String>,
    /// Lets clients go on, to wherever the router points.
    pub release: Vec<String>,
    /// Prints the connection's identity or fails when clients don't reach `CUTOVER_TO_*`.
    pub verify: Vec<String>,
}

/// The switches are configured in a way that can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SwitchConfigError(pub String);

impl SwitchConfig {
    /// What can be said without looking at the world.
    pub fn validate(&self) -> Result<(), SwitchConfigError> {
        let refuse = |why: &str| Err(SwitchConfigError(why.to_owned()));
        if self.command.is_some() && !self.pgbouncer.is_empty() {
            return refuse("cutover.command and cutover.pgbouncer exclude each other");
        }
        if self.proxy.is_some() && (self.command.is_some() || !self.pgbouncer.is_empty()) {
            return refuse("cutover.proxy excludes cutover.command and cutover.pgbouncer");
        }
        if self.command.as_ref().is_some_and(|command| command.switch.is_empty()) {
            return refuse("cutover.command.switch is required");
        }
        if self.pgbouncer.iter().any(|member| member.database.is_empty()) {
            return refuse("cutover.pgbouncer.database is required");
        }
        // PAUSE holds the clients of one name. What `*` makes up for a name that nobody has asked
        // for yet can't be held, so its first client would come through in the pause.
        if self.pgbouncer.iter().any(|member| member.database.iter().any(|name| name == "*")) {
            return refuse(
                "cutover.pgbouncer.database can't be \"*\": PgBouncer holds clients by name only. \
                 Give each database that clients use an entry of its own in [databases] and name \
                 them all here",
            );
        }
        Ok(())
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    })
}
