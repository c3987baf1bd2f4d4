//! The fence for PostgreSQL 10 to 18.
//!
//! `default_transaction_read_only` is only a default: `BEGIN READ WRITE`, a role's setting or
//! `PGOPTIONS` pass it, and an open transaction commits through it. So there are layers:
//!
//! 1. The routers hold their clients (not here).
//! 2. Volatile, [`Fence::raise`]: new sessions are read-only by default (`ALTER DATABASE .. SET`),
//!    every other session is closed, and a session of ours holds `LOCK TABLE .. IN SHARE MODE` on
//!    every replicated table. The lock stops everybody, superusers too; it goes away with our
//!    connection. It is taken in short tries, because a lock that queues makes every later writer
//!    queue behind it. Then sessions are closed again and again, until two scans in a row find
//!    none from before the lock; who reconnects meanwhile is closed, too, but can't hold us up.
//! 3. Durable, [`Fence::seal`]: `ALTER DATABASE .. ALLOW_CONNECTIONS false`, which needs the
//!    database's owner or a superuser, from another database; else `NOLOGIN` for every role that
//!    may connect. Our own walsender can't come back after that, so it comes after the drain.
//!
//! `ALTER SYSTEM` is not used although a superuser could: it would make every other database of
//! the server read-only, and what it adds for this one (sessions that live on turn read-only)
//! is worth nothing since no session lives on.
//!
//! Exempt are sessions of our own role whose `application_name` begins with `cutover`, and
//! walsenders (they can't write).

mod acts;
mod lowering;
mod rights;
mod vacuum;

use std::collections::BTreeSet;
use std::time::Duration;

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::api::Check;
use crate::marker::{MarkerKind, Token};
use crate::ports::{
    Fence, FenceActs, FenceReport, MarkerWritten, PortError, PortResult, SealReport, Writers,
};
use crate::sql::{Kind, Slot, Sql, SqlError, TextRow, ident, literal, open, soon};

/// `application_name` of the session that holds the table locks.
const LOCKS: &str = "cutover locks";
/// The one of the session that writes the markers.
const MARKER: &str = "cutover marker";
/// How long one try at the locks may queue; see also [`vacuum`].
const LOCK_TIMEOUT_MS: u64 = 100;
/// Between two looks at blue's sessions.
const SCAN_PAUSE: Duration = Duration::from_millis(2);
/// Between two tries at the locks; doubles up to `LOCK_PAUSE_MAX`.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(160);

const BLUE: &str = "blue";

/// How blue is closed durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealBy {
    /// `ALTER DATABASE .. ALLOW_CONNECTIONS false`.
    AllowConnections,
    /// `ALTER ROLE .. NOLOGIN` for every role that may connect.
    NoLogin,
}

/// Blue as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresUndo {
    /// The database.
    pub database: String,
    /// When this was read, by blue's clock; `None` in journals of older versions.
    #[serde(default)]
    pub at: Option<String>,
    /// Whether the database's settings may be changed.
    pub may_alter: bool,
    /// The database's own `default_transaction_read_only`; `None`: it had none.
    pub read_only: Option<String>,
    /// Whether the database accepted connections.
    pub allow_connections: bool,
    /// How it will be closed.
    pub seal_by: SealBy,
    /// Roles that will lose LOGIN.
    pub roles: Vec<String>,
    /// The replicated tables.
    pub tables: Vec<QualifiedName>,
    /// `server_version_num`.
    pub version_num: u32,
}

/// Fences a PostgreSQL database. Its sessions are opened when they are first needed.
pub struct PostgresFence {
    blue: ConnInfo,
    publication: String,
    /// Scans, terminates, alters.
    admin: Slot,
    /// The same from another database, to which blue's seal does not apply.
    outside: Slot,
    /// Holds the table locks.
    locks: Slot,
    /// Writes the markers.
    marker: Slot,
}

impl PostgresFence {
    /// A fence around the database of `blue`; `publication` names the replicated tables.
    pub fn new(blue: ConnInfo, publication: impl Into<String>) -> Self {
        let elsewhere = if blue.dbname() == "postgres" { "template1" } else { "postgres" };
        let outside = blue.with_dbname(elsewhere);
        let name = acts::fence_name(blue.dbname());
        Self {
            publication: publication.into(),
            admin: Slot::new(blue.clone(), name.clone(), BLUE, Kind::Server),
            outside: Slot::new(outside, name, BLUE, Kind::Server),
            locks: Slot::new(blue.clone(), LOCKS, BLUE, Kind::Server),
            marker: Slot::new(blue.clone(), MARKER, BLUE, Kind::Server),
            blue,
        }
    }

    /// The tables that the publication sends; a partitioned table stands for its partitions.
    async fn tables(&self, sql: &Sql, deadline: Instant) -> PortResult<Vec<QualifiedName>> {
        let query = format!(
            "SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables \
             WHERE pubname = {} AND schemaname <> '_cutover' ORDER BY 1, 2",
            literal(&self.publication)
        );
        let rows = sql.rows(&query, deadline).await.map_err(doing("listing the tables"))?;
        Ok(rows.iter().filter_map(|row| Some(QualifiedName::new(row.at(0)?, row.at(1)?))).collect())
    }

    /// Closes every foreign session that it finds, once.
    async fn close_sessions(
        &self,
        sql: &Sql,
        before: Option<&str>,
        closed: &mut BTreeSet<String>,
        deadline: Instant,
    ) -> PortResult<Vec<TextRow>> {
        let query = scan_sql(self.blue.dbname(), before);
        let rows = sql.rows(&query, deadline).await.map_err(doing("closing sessions"))?;
        closed.extend(rows.iter().filter_map(|row| row.get("pid").map(str::to_owned)));
        Ok(rows)
    }

    /// Closes foreign sessions until two scans in a row find none that matters: none at all, or
    /// none that began before the moment `before` of blue's clock. Clients that reconnect faster
    /// than we look can't keep the second kind from ending.
    async fn clear_sessions(
        &self,
        sql: &Sql,
        before: Option<&str>,
        closed: &mut BTreeSet<String>,
        deadline: Instant,
    ) -> PortResult<u32> {
        let mut clean_scans = 0;
        loop {
            let mut rows = self.close_sessions(sql, before, closed, deadline).await?;
            rows.retain(|row| row.is_true("matters"));
            if rows.is_empty() {
                clean_scans += 1;
                if clean_scans >= 2 {
                    return Ok(clean_scans);
                }
            } else {
                clean_scans = 0;
            }
            if Instant::now() + SCAN_PAUSE >= deadline {
                let left: Vec<_> = rows.iter().map(session_of).collect();
                return Err(PortError::new(
                    BLUE,
                    format!("sessions on blue could not be closed in time: {}", left.join("; ")),
                )
                .remedy("close them by hand, or keep them from reconnecting"));
            }
            tokio::time::sleep(SCAN_PAUSE).await;
        }
    }

    /// Takes SHARE locks on all replicated tables, in short tries, and keeps them.
    ///
    /// Once they are granted no transaction is open that has written to one of these tables: it
    /// would still hold its own lock. Whoever connects later waits, or writes elsewhere.
    async fn lock_tables(
        &self,
        admin: &Sql,
        closed: &mut BTreeSet<String>,
        deadline: Instant,
    ) -> PortResult<u64> {
        let locks = self.locks.get(deadline).await?;
        let mut pause = LOCK_PAUSE;
        let mut timeout_ms = LOCK_TIMEOUT_MS;
        loop {
            let tables = self.tables(admin, deadline).await?;
            let batch = acts::lock_sql(&tables, timeout_ms);
            match locks.run(&batch, deadline).await {
                Ok(()) => {
                    // A table may have joined the publication meanwhile.
                    if self.tables(admin, deadline).await? == tables {
                        return Ok(tables.len() as u64);
                    }
                }
                Err(error) if error.is("55P03") || error.is("40P01") => {
                    tracing::debug!("a try at the table locks failed: {}", error.text);
                    timeout_ms = vacuum::next_lock_timeout_ms(self, admin, deadline).await?;
                }
                Err(error) => {
                    self.locks.close().await;
                    return Err(error.at(BLUE, "locking the replicated tables"));
                }
            }
            locks.run("ROLLBACK", deadline).await.map_err(doing("letting go of the locks"))?;
            // The next try may queue for as long as its timeout says.
            let ends = |timeout_ms| Instant::now() + pause + Duration::from_millis(timeout_ms);
            if ends(timeout_ms) >= deadline {
                timeout_ms = LOCK_TIMEOUT_MS;
            }
            if ends(timeout_ms) >= deadline {
                let holders = self.lock_holders(admin).await;
                return Err(PortError::new(
                    BLUE,
                    format!("the replicated tables could not be locked in time: {holders}"),
                )
                .remedy("end the session that holds the lock, then run cutover again"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOCK_PAUSE_MAX);
            self.close_sessions(admin, None, closed, deadline).await?;
        }
    }

    /// Who holds locks on user tables, for an error.
    async fn lock_holders(&self, admin: &Sql) -> String {
        match admin.rows(acts::LOCK_HOLDERS, soon()).await {
            Ok(rows) if rows.is_empty() => "nobody seems to hold them now".into(),
            Ok(rows) => rows.iter().filter_map(|row| row.at(0)).collect::<Vec<_>>().join("; "),
            Err(error) => format!("and nobody can be asked who holds them: {}", error.text),
        }
    }

    async fn prepared(&self, sql: &Sql, deadline: Instant) -> PortResult<Vec<String>> {
        let query = format!(
            "SELECT gid || ' (' || owner || ', since ' || date_trunc('second', prepared) || ')' \
             FROM pg_catalog.pg_prepared_xacts WHERE database = {}",
            literal(self.blue.dbname())
        );
        let rows = sql.rows(&query, deadline).await.map_err(doing("listing 2PC"))?;
        Ok(rows.iter().filter_map(|row| row.at(0).map(str::to_owned)).collect())
    }

    /// Sessions of others that have a transaction id, of whatever kind they are.
    async fn foreign_writers(
        &self,
        sql: &Sql,
        before: Option<&str>,
        deadline: Instant,
    ) -> PortResult<Vec<String>> {
        let query = acts::writers_sql(self.blue.dbname(), before);
        let rows = sql.rows(&query, deadline).await.map_err(doing("looking for writers"))?;
        Ok(rows.iter().map(session_of).collect())
    }

    /// Whether the locks' session still has its locks.
    async fn locks_held(&self, expected: u64, deadline: Instant) -> PortResult<bool> {
        let Some(locks) = self.locks.current().await else { return Ok(false) };
        let row = locks.row(acts::LOCKS_HELD, deadline).await;
        let held: u64 = row
            .and_then(|row| row.number("held"))
            .map_err(|error| error.at(BLUE, "looking at our table locks"))?;
        Ok(held >= expected)
    }

    /// A client's login, tried for real. `true`: refused.
    async fn refuses_clients(&self, deadline: Instant) -> PortResult<bool> {
        match open(&self.blue, "cutover probe", Kind::Plain, deadline).await {
            Ok(_) => Ok(false),
            // 55000: not accepting connections; 28000: may not log in.
            Err(error) if error.is("55000") || error.is("28000") => Ok(true),
            Err(error) => Err(error.at(BLUE, "trying whether blue refuses clients")),
        }
    }
}

/// Finds foreign sessions of the database and closes them; a row for each.
fn scan_sql(database: &str, before: Option<&str>) -> String {
    format!(
        "SELECT pid, usename, application_name, backend_type, state, {} AS matters, \
                pg_catalog.pg_terminate_backend(pid) \
         FROM pg_catalog.pg_stat_activity WHERE {}",
        acts::began_before(before),
        acts::foreign(database)
    )
}

fn session_of(row: &TextRow) -> String {
    format!(
        "pid {} of role {} ({})",
        row.get("pid").unwrap_or("?"),
        row.get("usename").unwrap_or("-"),
        row.get("application_name").filter(|name| !name.is_empty()).unwrap_or("no name"),
    )
}

fn doing(what: &'static str) -> impl Fn(SqlError) -> PortError {
    move |error| error.at(BLUE, what)
}

impl Fence for PostgresFence {
    type Undo = PostgresUndo;

    async fn inspect(&self) -> PortResult<Vec<Check>> {
        rights::inspect(self).await
    }

    async fn prepare(&self) -> PortResult<PostgresUndo> {
        let deadline = soon();
        let admin = self.admin.get(deadline).await?;
        // Open now what the pause will need.
        self.outside.get(deadline).await?;
        self.locks.get(deadline).await?;
        self.marker.get(deadline).await?;
        let database = self.blue.dbname().to_owned();
        let row = admin
            .row(&rights::prior_sql(&database), deadline)
            .await
            .map_err(doing("reading blue's settings"))?;
        let may_alter = row.is_true("may_alter");
        let seal_by = if may_alter { SealBy::AllowConnections } else { SealBy::NoLogin };
        let roles = match seal_by {
            SealBy::AllowConnections => Vec::new(),
            SealBy::NoLogin => {
                let rows = admin
                    .rows(&rights::roles_sql(&database), deadline)
                    .await
                    .map_err(doing("listing the roles that may connect"))?;
                rows.iter().filter_map(|row| row.at(0).map(str::to_owned)).collect()
            }
        };
        Ok(PostgresUndo {
            may_alter,
            at: row.get("at").map(str::to_owned),
            read_only: row.get("read_only").map(str::to_owned),
            allow_connections: row.is_true("allow_connections"),
            seal_by,
            roles,
            tables: self.tables(&admin, deadline).await?,
            version_num: admin.version_num(),
            database,
        })
    }

    async fn writers(&self) -> PortResult<Writers> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let admin = self.admin.get(deadline).await?;
        let rows = admin
            .rows(&acts::writers_sql(self.blue.dbname(), None), deadline)
            .await
            .map_err(doing("looking for writers"))?;
        let prepared = self.prepared(&admin, deadline).await?;
        let Some(oldest) = rows.first() else {
            return Ok(Writers { prepared, ..Writers::default() });
        };
        let age: f64 =
            oldest.number("age_seconds").map_err(|error| error.at(BLUE, "looking for writers"))?;
        Ok(Writers {
            oldest: Some(Duration::try_from_secs_f64(age.max(0.0)).unwrap_or(Duration::MAX)),
            oldest_who: Some(session_of(oldest)),
            prepared,
        })
    }

    async fn raise(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<FenceReport> {
        let admin = self.admin.get(deadline).await?;
        let prepared = self.prepared(&admin, deadline).await?;
        if !prepared.is_empty() {
            return Err(PortError::new(
                BLUE,
                format!("blue has prepared transactions: {}", prepared.join(", ")),
            )
            .remedy("COMMIT PREPARED or ROLLBACK PREPARED each of them"));
        }
        for statement in acts::read_only(undo) {
            admin.run(&statement, deadline).await.map_err(doing("making blue read-only"))?;
        }
        let mut closed = BTreeSet::new();
        self.close_sessions(&admin, None, &mut closed, deadline).await?;
        let tables_locked = self.lock_tables(&admin, &mut closed, deadline).await?;
        let locked_at =
            admin.row(acts::NOW, deadline).await.map_err(doing("asking for the time"))?;
        let locked_at = locked_at.get("now");
        let clean_scans = self.clear_sessions(&admin, locked_at, &mut closed, deadline).await?;
        let foreign_writers = self.foreign_writers(&admin, locked_at, deadline).await?;
        let prepared = self.prepared(&admin, deadline).await?;
        let next_xid = admin
            .row(acts::NEXT_XID, deadline)
            .await
            .and_then(|row| row.number("next_xid"))
            .map_err(doing("reading the next transaction id"))?;
        let tables_total = self.tables(&admin, deadline).await?.len() as u64;
        Ok(FenceReport {
            sessions_closed: closed.len() as u64,
            clean_scans,
            foreign_writers,
            prepared,
            tables_locked,
            tables_total,
            next_xid,
        })
    }

    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        let session = self.marker.get(deadline).await?;
        let kind = MarkerKind::for_version(session.version_num());
        let rows = session.rows(&acts::mark_sql(kind, token), deadline).await;
        match rows {
            Ok(rows) => {
                let row = rows.iter().find(|row| row.get("xid").is_some());
                let xid = row.map(|row| row.number("xid")).transpose();
                match xid.map_err(doing("writing the marker"))? {
                    Some(xid) => Ok(MarkerWritten { token: token.clone(), xid }),
                    None => Err(PortError::new(BLUE, "the marker got no transaction id")),
                }
            }
            Err(error) => {
                // The session may be inside a failed transaction.
                self.marker.close().await;
                Err(error.at(BLUE, "writing the marker"))
            }
        }
    }

    async fn seal(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<SealReport> {
        let outside = self.outside.get(deadline).await?;
        let statements = acts::seal(undo);
        for statement in &statements {
            outside.run(statement, deadline).await.map_err(doing("sealing blue"))?;
        }
        // Nobody comes in any more, so this ends, however fast clients reconnect.
        self.clear_sessions(&outside, None, &mut BTreeSet::new(), deadline).await?;
        let refuses_clients = match undo.seal_by {
            SealBy::AllowConnections => self.refuses_clients(deadline).await?,
            SealBy::NoLogin => {
                let query = rights::roles_sql(&undo.database);
                let rows = outside.rows(&query, deadline).await;
                rows.map_err(doing("looking for roles that may connect"))?.is_empty()
            }
        };
        let mechanism = match undo.seal_by {
            SealBy::AllowConnections => "blue refuses connections",
            SealBy::NoLogin => "no role can log in to blue",
        };
        Ok(SealReport {
            refuses_clients,
            mechanism: mechanism.into(),
            locks_held: self.locks_held(undo.tables.len() as u64, deadline).await?,
            foreign_writers: self.foreign_writers(&outside, None, deadline).await?,
            prepared: self.prepared(&outside, deadline).await?,
            // Each of them is a transaction that writes to a catalog.
            own_xids: statements.len() as u64,
        })
    }

    async fn lower(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<()> {
        self.open_again(undo, deadline).await
    }

    async fn leave(&self) {
        self.locks.close().await;
        self.marker.close().await;
        self.admin.close().await;
        self.outside.close().await;
    }

    fn describe(&self, undo: &PostgresUndo) -> FenceActs {
        acts::describe(undo)
    }
}

fn quoted_database(undo: &PostgresUndo) -> String {
    ident(&undo.database)
}
