//! Which server answers: when it was started, to the microsecond, and the database's OID. Anybody
//! may ask for both, and no two servers share them.

use tokio::time::Instant;

use crate::sql::{Sql, SqlError};

/// A server and a database on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Microseconds since the Unix epoch.
    started: i64,
    database: String,
    /// For people: `17.6 at port 5433`.
    pub shown: String,
}

// An integer: how many digits of a fraction are printed depends on version and settings, and the
// router's session has other settings than ours.
const ASK: &str = "SELECT (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8 \
     AS started, \
     (SELECT oid FROM pg_catalog.pg_database \
      WHERE datname = pg_catalog.current_database()) AS database, \
     pg_catalog.current_setting('server_version') || ' at ' || \
     coalesce(host(pg_catalog.inet_server_addr()) || ':' || pg_catalog.inet_server_port(), \
     'socket, port ' || pg_catalog.current_setting('port')) AS shown";

/// Asks the server behind a session.
pub(super) async fn identity(sql: &Sql, deadline: Instant) -> Result<Identity, SqlError> {
    let row = sql.row(ASK, deadline).await?;
    Ok(Identity {
        started: row.number("started")?,
        database: row.get("database").unwrap_or_default().to_owned(),
        shown: row.get("shown").unwrap_or_default().to_owned(),
    })
}
