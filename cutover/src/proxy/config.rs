//! What the operator writes about the embedded proxy: `[cutover.proxy]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[cutover.proxy]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Address that clients connect to. Default: port 7655 of loopback, so nobody else's.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// The sidecar starts it, and starts it again when it has died. It outlives the sidecar all the
    /// same. `false`: a supervisor or a container of its own does, with `replicator proxy`.
    #[serde(default = "yes")]
    pub start: bool,
    /// Nobody has asked for it: it is there because no router is named.
    #[serde(skip)]
    pub implicit: bool,
    /// Its control socket. Default: `proxy.sock` in the state directory. Who may write to it may
    /// move every client: it is made for its owner only.
    pub control: Option<PathBuf>,
    /// Users whose sessions can be moved although the proxy can't learn their key: lines of
    /// `"user" "password"`, as in PgBouncer's `auth_file`; for PostgreSQL a SCRAM verifier may stand
    /// for the password, an MD5 hash may not.
    pub users_file: Option<PathBuf>,
    /// TLS towards clients. Without it clients of PostgreSQL are told that there is none; those of MySQL
    /// and MariaDB get a certificate that is signed by itself, as from their servers.
    pub tls: Option<ProxyTls>,
    /// Threads that pass bytes on. Default: half of the cores, at least one.
    pub threads: Option<usize>,
    /// Most clients at a time. Fewer if there are not enough file descriptors: a client takes two, and
    /// three while it is moved.
    #[serde(default = "clients_max")]
    pub clients_max: usize,
    /// Most connections from one address at a time. Default: no other limit than that of all. Of those
    /// that have not logged in one address may have half of `clients_max`.
    pub clients_per_address_max: Option<usize>,
    /// How long a client may take from its connection to the end of its login, in milliseconds. While
    /// it is held this does not run.
    #[serde(default = "login_timeout_ms")]
    pub login_timeout_ms: u64,
    /// What becomes of clients in a transaction that does not end in time for a hold.
    #[serde(default)]
    pub in_transaction: InTransaction,
    /// What becomes of clients of PostgreSQL that were shown results of types that users have made. Each
    /// server numbers those by itself, and drivers keep the numbers.
    #[serde(default)]
    pub user_types: UserTypes,
    /// Connection string of a client, to see which server the proxy leads to. Default: `listen`
    /// with the user, password and database of the side that is expected there.
    pub client: Option<String>,
}

/// Certificate and key in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyTls {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whether clients without TLS are refused.
    #[serde(default)]
    pub required: bool,
}

/// What becomes of clients in a transaction that does not end in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InTransaction {
    /// The hold fails and the run goes back; nobody notices anything.
    #[default]
    Wait,
    /// They are cut: one error each that a new connection cures.
    Cut,
}

/// What becomes of clients that know types of one server by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserTypes {
    /// They are moved. Until it connects again a driver may take a value for one of another type, or for
    /// text.
    #[default]
    Keep,
    /// They are cut at the flip: one error that a new connection cures.
    Cut,
}

fn listen() -> SocketAddr {
    ([127, 0, 0, 1], 7655).into()
}

fn yes() -> bool {
    true
}

fn clients_max() -> usize {
    2_000
}

fn login_timeout_ms() -> u64 {
    10_000
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self::new(listen())
    }
}

impl ProxyConfig {
    /// A proxy at `listen` with everything else by default.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            start: true,
            implicit: false,
            control: None,
            users_file: None,
            tls: None,
            threads: None,
            clients_max: clients_max(),
            clients_per_address_max: None,
            login_timeout_ms: login_timeout_ms(),
            in_transaction: InTransaction::default(),
            user_types: UserTypes::default(),
            client: None,
        }
    }

    /// How long a client may take to log in.
    pub(super) fn login_timeout(&self) -> Duration {
        Duration::from_millis(self.login_timeout_ms)
    }

    /// Whether clients without TLS are refused.
    pub(super) fn requires_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.required)
    }

    /// Threads that pass bytes on.
    pub fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or(cores / 2).max(1)
    }
}

/// A hold ends by itself after this long, if whoever asked for it has said nothing shorter.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(300);
