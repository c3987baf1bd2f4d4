//! The side that the proxy does not lead to, before anybody is sent there: which server it is, and
//! whether it takes the logins that a move would repeat. Looked at over the very connections that
//! clients would get, because what the sidecar reaches says nothing about what the proxy does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::login::Login;
use crate::side::Side;

/// How long trying clients' logins on the other side may take.
pub(super) const TRIALS_MAX: Duration = Duration::from_millis(1500);
/// Users whose logins are tried, at most.
pub(super) const TRIED_USERS_MAX: usize = 64;
/// Logins that are tried at a time.
pub(super) const TRIALS_AT_ONCE: usize = 4;

/// A side as a proxy or a sidecar was told to reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Hosts and ports, in the order in which they are tried.
    pub hosts: Vec<String>,
    /// The database's name.
    pub database: String,
}

impl End {
    /// What a connection string says.
    pub fn of(login: &Login) -> Self {
        let hosts = match login {
            Login::Postgres(info) => info.hosts().iter().map(ToString::to_string).collect(),
            Login::Mysql(url) => {
                let (host, port) = url.address();
                vec![format!("{host}:{port}")]
            }
        };
        Self { hosts, database: login.database().to_owned() }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hosts.join(","), self.database)
    }
}

/// What a survey has found on the side that the proxy does not lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Opposite {
    /// The server there.
    pub server: Option<Server>,
    /// Why it could not be asked.
    pub error: Option<String>,
    /// Users of the proxy whom it does not let in as the proxy would come in their name, and why.
    pub refused: BTreeMap<String, String>,
    /// Users whom each side lets in from the proxy's host without a question. Looked for only where clients
    /// come from other hosts than that.
    pub unasked: BTreeMap<Side, BTreeSet<String>>,
}

/// A server and a database on it; see `switch::identity`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// PostgreSQL: when it was started, microseconds since the Unix epoch. Else 0.
    #[serde(default)]
    pub started: i64,
    /// MySQL and MariaDB: what it calls itself, and where it runs. Else empty.
    #[serde(default)]
    pub name: String,
    /// PostgreSQL: the database's OID.
    pub database: String,
    /// For people.
    pub shown: String,
}
