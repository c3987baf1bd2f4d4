//! What kind of server it is, and who we are there.

use decoders::mysql::server::literal;
use tokio::time::Instant;

use crate::ports::{PortError, PortResult};
use crate::sql::mysql::MysqlSession;

const ASK: &str = "SELECT @@version LIKE '%MariaDB%' AS is_mariadb, current_user() AS account, \
     user() AS session";
/// Threads that found no room in the performance schema since the server was started: what they are is
/// in none of its tables.
const LOST: &str = "SELECT coalesce(max(variable_value), 0) > 0 AS lost \
     FROM performance_schema.global_status \
     WHERE variable_name = 'Performance_schema_thread_instances_lost'";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub is_mariadb: bool,
    /// Our account, as a statement names it.
    pub account: String,
    /// The name that the process list shows for our sessions.
    pub login: String,
    /// The performance schema does not show all sessions.
    pub lost_threads: bool,
}

impl Facts {
    pub async fn read(
        session: &mut MysqlSession,
        place: &str,
        deadline: Instant,
    ) -> PortResult<Self> {
        let row = session.row(ASK, deadline).await;
        let row = row.map_err(|error| error.at(place, "asking the server who we are"))?;
        // A host has no @, a name may have one.
        let account = row.get("account").and_then(|account| account.rsplit_once('@'));
        let login = row.get("session").and_then(|session| session.rsplit_once('@'));
        let (Some((name, host)), Some((login, _))) = (account, login) else {
            return Err(PortError::new(place, "the server does not say who we are"));
        };
        let facts = Self {
            is_mariadb: row.is_true("is_mariadb"),
            account: account_text(name, host),
            login: login.to_owned(),
            lost_threads: false,
        };
        if facts.is_mariadb {
            return Ok(facts);
        }
        let lost = session.row(LOST, deadline).await;
        let lost =
            lost.map_err(|error| error.at(place, "asking for threads that are not shown"))?;
        Ok(Self { lost_threads: lost.is_true("lost"), ..facts })
    }

    /// The process list: a view that takes no lock where the server has one, and it shows everybody.
    pub fn processes(&self) -> &'static str {
        match self.is_mariadb || self.lost_threads {
            true => "information_schema.processlist",
            false => "performance_schema.processlist",
        }
    }
}

/// An account as statements name it.
pub(super) fn account_text(name: &str, host: &str) -> String {
    format!("{}@{}", literal(name), literal(host))
}
