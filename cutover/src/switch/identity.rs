//! Which server answers. PostgreSQL: when it was started, to the microsecond, and the database's OID.
//! MySQL and MariaDB: its own name for itself, where it listens and where its data is. Anybody may ask
//! for these, and no two servers share them.

use decoders::mysql::server::ServerUrl;
use tokio::time::Instant;

use crate::api::Member;
use crate::login::Login;
use crate::ports::PortResult;
use crate::proxy::Server;
use crate::side::Side;
use crate::sql::mysql::MysqlSession;
use crate::sql::{Kind, Sql, SqlError, open};

/// A server and a database on it. Two are equal whichever way the server was reached.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Of this life of it, or of its data.
    server: String,
    /// Empty where a session has no database of its own.
    database: String,
    /// For people: `17.6 at 10.0.0.5:5433`. Depends on the way there (socket, TCP, an address
    /// translated in between), so it takes no part in comparisons.
    pub shown: String,
}

impl Identity {
    /// As the embedded proxy tells it.
    pub fn of_server(server: &Server) -> Self {
        let server_name = match server.name.is_empty() {
            true => server.started.to_string(),
            false => server.name.clone(),
        };
        Self { server: server_name, database: server.database.clone(), shown: server.shown.clone() }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (&self.server, &self.database) == (&other.server, &other.database)
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

/// Of MySQL only `server_uuid`, of MariaDB only `server_uid`. Neither tells servers apart whose data
/// or machine was cloned; with the place that they run at they do.
const ASK_MYSQL: &str = "SHOW GLOBAL VARIABLES WHERE variable_name IN ('server_uuid', \
     'server_uid', 'server_id', 'hostname', 'port', 'datadir', 'version')";

/// Asks the server behind a session.
pub(super) async fn identity(sql: &Sql, deadline: Instant) -> Result<Identity, SqlError> {
    let row = sql.row(ASK, deadline).await?;
    Ok(Identity {
        server: row.number::<i64>("started")?.to_string(),
        database: row.get("database").unwrap_or_default().to_owned(),
        shown: row.get("shown").unwrap_or_default().to_owned(),
    })
}

/// The same of MySQL and MariaDB.
async fn of_mysql(url: &ServerUrl, deadline: Instant) -> Result<Identity, SqlError> {
    let mut session = MysqlSession::open(url, deadline).await?;
    let rows = session.run(ASK_MYSQL, deadline).await?.rows;
    let mut said: Vec<_> = rows
        .iter()
        .map(|row| (row.at(0).unwrap_or_default().to_lowercase(), row.at(1).unwrap_or_default()))
        .collect();
    said.sort_unstable();
    let value =
        |name: &str| said.iter().find(|(of, _)| of == name).map_or("unknown", |(_, value)| *value);
    let shown = format!("{} at {}:{}", value("version"), value("hostname"), value("port"));
    let server: Vec<_> = said.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(Identity { server: server.join(" "), database: String::new(), shown })
}

/// The same for the embedded proxy to tell.
///
/// # Errors
/// Why it can't be asked.
pub(crate) async fn which_server(url: &ServerUrl, deadline: Instant) -> Result<Server, String> {
    let identity = of_mysql(url, deadline).await.map_err(|error| error.text)?;
    let Identity { server, database, shown } = identity;
    Ok(Server { started: 0, name: server, database, shown })
}

/// Which server a side is, asked directly.
pub(super) async fn of_side(end: &Login, side: Side, deadline: Instant) -> PortResult<Identity> {
    directly(end, deadline)
        .await
        .map_err(|error: SqlError| error.at(side.name(), "asking which server it is"))
}

/// The same, with the server's own code if it refuses.
pub(super) async fn directly(end: &Login, deadline: Instant) -> Result<Identity, SqlError> {
    match end {
        Login::Postgres(info) => {
            let session = open(info, "cutover router", Kind::Server, deadline).await?;
            identity(&session, deadline).await
        }
        Login::Mysql(url) => of_mysql(url, deadline).await,
    }
}

/// Which server a client of a router reaches.
pub(super) async fn through(
    client: &Login,
    name: &str,
    deadline: Instant,
) -> Result<Identity, SqlError> {
    match client {
        Login::Postgres(info) => {
            let session = open(info, name, Kind::Plain, deadline).await?;
            identity(&session, deadline).await
        }
        Login::Mysql(url) => of_mysql(url, deadline).await,
    }
}

/// Whether a client of the router `member` reaches `to`.
pub(super) async fn verified(
    client: &Login,
    member: &str,
    end: &Login,
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
            server: "1700000000000001".into(),
            database: "16384".into(),
            shown: shown.into(),
        };
        let tcp = over("17.6 at 10.0.0.5:5432");
        assert_eq!(tcp, over("17.6 at socket, port 5432"));
        assert_ne!(tcp, Identity { server: "1700000000000002".into(), ..tcp.clone() });
        assert_ne!(tcp, Identity { database: "16385".into(), ..tcp.clone() });
    }
}
