//! What kind of server it is, and who we are there.

use decoders::mysql::server::literal;
use tokio::time::Instant;

use crate::ports::{PortError, PortResult};
use crate::sql::mysql::MysqlSession;

const ASK: &str = "SELECT @@version LIKE '%MariaDB%' AS is_mariadb, current_user() AS account, \
     substring_index(user(), '@', 1) AS login";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub is_mariadb: bool,
    /// Our account, as a statement names it.
    pub account: String,
    /// The name that the process list shows for our sessions.
    pub login: String,
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
        let (Some((name, host)), Some(login)) = (account, row.get("login")) else {
            return Err(PortError::new(place, "the server does not say who we are"));
        };
        Ok(Self {
            is_mariadb: row.is_true("is_mariadb"),
            account: account_text(name, host),
            login: login.to_owned(),
        })
    }

    /// The process list: a view that takes no lock where the server has one.
    pub fn processes(&self) -> &'static str {
        match self.is_mariadb {
            true => "information_schema.processlist",
            false => "performance_schema.processlist",
        }
    }
}

/// An account as statements name it.
pub(super) fn account_text(name: &str, host: &str) -> String {
    format!("{}@{}", literal(name), literal(host))
}
