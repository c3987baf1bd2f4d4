//! A session on whatever engine serves.

use tokio::time::Instant;

use crate::login::Login;
use crate::sql::mysql::MysqlSession;
use crate::sql::{self, Kind, Sql, SqlError};

/// One open session.
pub(super) enum Session {
    Postgres(Box<Sql>),
    Mysql(Box<MysqlSession>),
}

impl Session {
    /// Opens one that calls itself `name`, where sessions have names.
    pub async fn open(
        login: &Login,
        name: &str,
        kind: Kind,
        deadline: Instant,
    ) -> Result<Self, SqlError> {
        Ok(match login {
            Login::Postgres(info) => {
                Self::Postgres(Box::new(sql::open(info, name, kind, deadline).await?))
            }
            Login::Mysql(url) => Self::Mysql(Box::new(MysqlSession::open(url, deadline).await?)),
        })
    }

    /// Runs a statement.
    pub async fn run(&mut self, sql: &str, deadline: Instant) -> Result<(), SqlError> {
        match self {
            Self::Postgres(session) => session.run(sql, deadline).await,
            Self::Mysql(session) => Ok(session.run(sql, deadline).await.map(drop)?),
        }
    }

    /// Runs a query that changes nothing, in a transaction that could not.
    pub async fn query(&mut self, query: &str, deadline: Instant) -> Result<(), SqlError> {
        let query = query.trim_end_matches(';');
        match self {
            // One message: also a pooler in transaction mode sends it to one server, and nothing of it
            // stays behind on the connection.
            Self::Postgres(session) => {
                session.run(&format!("BEGIN READ ONLY; {query}; COMMIT"), deadline).await
            }
            Self::Mysql(session) => {
                for sql in ["START TRANSACTION READ ONLY", query, "COMMIT"] {
                    session.run(sql, deadline).await?;
                }
                Ok(())
            }
        }
    }
}
