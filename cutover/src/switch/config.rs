//! What the operator writes about the routers, in the sidecar's configuration under `[cutover]`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::proxy::ProxyConfig;

/// `[cutover]`: every router that clients use. Several kinds at once are all held and moved together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchConfig {
    /// What serves as a router where none is named below. Default: our own proxy.
    pub router: Option<Unnamed>,
    /// Every PgBouncer.
    pub pgbouncer: Vec<PgBouncerConfig>,
    /// Every HAProxy.
    pub haproxy: Vec<HaProxyConfig>,
    /// Every ProxySQL.
    pub proxysql: Vec<ProxySqlConfig>,
    /// The operator's own endpoint.
    pub webhook: Option<WebhookConfig>,
    /// The operator's own commands.
    pub command: Option<CommandConfig>,
    /// Our own proxy.
    pub proxy: Option<ProxyConfig>,
}

/// What serves as a router where none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unnamed {
    /// Our own proxy, with everything by default.
    Embedded,
    /// Nothing: cutovers are refused.
    None,
}

/// One HAProxy process, in TCP mode, with a server for each side in one backend.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaProxyConfig {
    /// Its stats socket, level `admin`: a path, or `host:port`.
    pub socket: String,
    /// The backend.
    pub backend: String,
    /// Name of blue's server in it.
    pub blue: String,
    /// Name of green's server; `disabled` in the configuration.
    pub green: String,
    /// Connection string of a client, to see which server HAProxy leads to.
    pub client: String,
    /// Name for messages. Default: the socket.
    pub name: Option<String>,
}

impl fmt::Debug for HaProxyConfig {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HaProxyConfig")
            .field("socket", &self.socket)
            .field("backend", &self.backend)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One ProxySQL process, in front of MySQL or MariaDB. Each of its hostgroups that are named has one
/// server, which is blue or green.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxySqlConfig {
    /// URL of its admin interface (`mysql://admin@host:6032`).
    pub admin: String,
    /// Number of the hostgroup that leads to blue, or of all that do.
    #[serde(deserialize_with = "one_or_many")]
    pub hostgroup: Vec<u32>,
    /// URL of a client, to see which server ProxySQL leads to.
    pub client: String,
    /// Blue as ProxySQL knows it, `host:port`. Default: as in `--blue`.
    pub blue: Option<String>,
    /// Green as ProxySQL is to know it. Default: as in `--green`.
    pub green: Option<String>,
    /// Name for messages. Default: the admin interface's address.
    pub name: Option<String>,
}

impl fmt::Debug for ProxySqlConfig {
    /// Without the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxySqlConfig")
            .field("hostgroup", &self.hostgroup)
            .field("blue", &self.blue)
            .field("green", &self.green)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// An endpoint that is posted to for each act.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where to; `https://` wherever it leaves this host.
    pub url: String,
    /// File with the secret that signs requests.
    pub secret_file: PathBuf,
    /// The router behind it makes clients wait between `hold` and `release`.
    #[serde(default)]
    pub holds: bool,
    /// It can tell whether it holds, and is asked that many times a second in the pause.
    #[serde(default)]
    pub ask_holding: bool,
    /// Connection string of a client, to see which server the router leads to. Without it the
    /// endpoint's word is taken.
    pub client: Option<String>,
}

impl fmt::Debug for WebhookConfig {
    /// Without URL and connection string, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig")
            .field("secret_file", &self.secret_file)
            .field("holds", &self.holds)
            .finish_non_exhaustive()
    }
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
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Names of environment variables that the commands get beside those that every command does: for example
    /// `KUBECONFIG`.
    pub pass_environment: Vec<String>,
    /// Connection string of a client, to see which server the router leads to. Looked at after
    /// `verify`.
    pub client: Option<String>,
}

impl fmt::Debug for CommandConfig {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandConfig")
            .field("hold", &self.hold)
            .field("switch", &self.switch)
            .field("release", &self.release)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// The switches are configured in a way that can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SwitchConfigError(pub String);

impl SwitchConfig {
    /// Whether any router is named.
    pub fn names_any(&self) -> bool {
        !self.pgbouncer.is_empty()
            || !self.haproxy.is_empty()
            || !self.proxysql.is_empty()
            || self.webhook.is_some()
            || self.command.is_some()
            || self.proxy.is_some()
    }

    /// Fills in what is not said about our own proxy: that it is the router if nothing else is, its
    /// address if `listen` gives one, and its control socket.
    pub fn complete(&mut self, listen: Option<SocketAddr>, control: PathBuf) {
        if !self.names_any() && self.router != Some(Unnamed::None) {
            self.proxy = Some(ProxyConfig { implicit: true, ..ProxyConfig::default() });
        }
        if let Some(proxy) = &mut self.proxy {
            if let Some(listen) = listen {
                proxy.listen = listen;
            }
            proxy.control.get_or_insert(control);
        }
    }

    /// What can be said without looking at the world.
    pub fn validate(&self) -> Result<(), SwitchConfigError> {
        let refuse = |why: &str| Err(SwitchConfigError(why.to_owned()));
        if self.command.as_ref().is_some_and(|command| command.switch.is_empty()) {
            return refuse("cutover.command.switch is required");
        }
        if self.haproxy.iter().any(|member| member.blue == member.green) {
            return refuse("cutover.haproxy: blue and green must be two servers");
        }
        if self.proxysql.iter().any(|member| member.hostgroup.is_empty()) {
            return refuse("cutover.proxysql.hostgroup is required");
        }
        let http = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if self.webhook.as_ref().is_some_and(|webhook| !http(&webhook.url)) {
            return refuse("cutover.webhook.url must begin with https:// or http://");
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

fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_proxy_is_the_router_where_none_is_named() {
        let complete = |text: &str| {
            let mut config: SwitchConfig = toml::from_str(text).unwrap();
            config.complete(None, "/state/proxy.sock".into());
            config.validate().unwrap();
            config
        };
        let proxy = complete("").proxy.unwrap();
        assert!(proxy.implicit && proxy.start && proxy.listen.ip().is_loopback());
        assert_eq!(proxy.control, Some("/state/proxy.sock".into()));
        let named = complete("[proxy]\nlisten = '0.0.0.0:6432'\nstart = false").proxy.unwrap();
        assert!(!named.implicit && !named.start);
        assert_eq!(complete("router = 'none'").proxy, None);
        assert_eq!(complete("[command]\nswitch = ['x']").proxy, None);
        assert!(toml::from_str::<SwitchConfig>("[proxy]\nimplicit = true").is_err());
    }

    #[test]
    fn it_survives_a_trip_to_another_process_and_shows_no_secret() {
        let text = "[[haproxy]]\nsocket = '/s'\nbackend = 'be'\nblue = 'b'\ngreen = 'g'\n\
                    client = 'postgres://u:hunter2@h/d'\n\
                    [[proxysql]]\nadmin = 'mysql://a:hunter2@h:6032'\nhostgroup = 1\n\
                    client = 'mysql://u:hunter2@h/d'\n\
                    [webhook]\nurl = 'https://h/?t=hunter2'\nsecret_file = '/f'\n\
                    [command]\nswitch = ['x']\nclient = 'postgres://u:hunter2@h/d'\n[proxy]\n";
        let config: SwitchConfig = toml::from_str(text).unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<SwitchConfig>(&json).unwrap(), config);
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
