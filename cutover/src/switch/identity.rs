//! Which server answers: when it was started, to the microsecond, and the database's OID. Anybody
//! may ask for both, and no two servers share them.

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use crate::api::Member;
use crate::ports::PortResult;
use crate::proxy::Server;
use crate::side::Side;
use crate::sql::{Kind, Sql, SqlError, open};

/// A server and a database on it. Two are equal whichever way the server was reached.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Microseconds since the Unix epoch.
    started: i64,
    database: String,
    /// For people: `17.6 at 10.0.0.5:5433`. Depends on the way there (socket, TCP, an address
    /// translated in between), so it takes no part in comparisons.
    pub shown: String,
}

impl Identity {
    /// As the embedded proxy tells it.
    pub fn of_server(server: &Server) -> Self {
        Self {
            started: server.started,
            database: server.database.clone(),
            shown: server.shown.clone(),
        }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (self.started, &self.database) == (other.started, &other.database)
    }
}

impl Eq for Identity {}

// An integer: how many digits of a fraction are printed depends on version and settings, and the
// router's session has other settings than ours.
pub(crate) const ASK: &str = "SELECT (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8 \
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

/// Which server a side is, asked directly.
pub(super) async fn of_side(
    info: &ConnInfo,
    side: Side,
    deadline: Instant,
) -> PortResult<Identity> {
    let doing = |error: SqlError| error.at(side.name(), "asking which server it is");
    directly(info, deadline).await.map_err(doing)
}

/// The same, with the server's own code if it refuses.
pub(super) async fn directly(info: &ConnInfo, deadline: Instant) -> Result<Identity, SqlError> {
    let session = open(info, "cutover router", Kind::Server, deadline).await?;
    identity(&session, deadline).await
}

/// Which server a client of a router reaches.
pub(super) async fn through(
    client: &ConnInfo,
    name: &str,
    deadline: Instant,
) -> Result<Identity, SqlError> {
    let session = open(client, name, Kind::Plain, deadline).await?;
    identity(&session, deadline).await
}

/// Whether a client of the router `member` reaches `to`.
pub(super) async fn verified(
    client: &ConnInfo,
    member: &str,
    end: &ConnInfo,
    to: Side,
    deadline: Instant,
) -> PortResult<Member> {
    let wanted = of_side(end, to, deadline).await?;
    let reached = through(client, "cutover probe", deadline).await;
    let reached = reached.map_err(|error| error.at(member, "asking through it"))?;
    let verified = reached == wanted;
    let target = if verified { to.name() } else { "unknown" };
    let evidence = format!("a client of it reaches {}", reached.shown);
    Ok(Member { member: member.to_owned(), target: target.into(), verified, evidence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_server_is_not_the_server() {
        let over = |shown: &str| Identity {
            started: 1_700_000_000_000_001,
            database: "16384".into(),
            shown: shown.into(),
        };
        let tcp = over("17.6 at 10.0.0.5:5432");
        assert_eq!(tcp, over("17.6 at socket, port 5432"));
        assert_ne!(tcp, Identity { started: tcp.started + 1, ..tcp.clone() });
        assert_ne!(tcp, Identity { database: "16385".into(), ..tcp.clone() });
    }
}
