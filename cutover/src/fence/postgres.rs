//! The fence for PostgreSQL 10 to 18.
//!
//! `default_transaction_read_only` is only a default: `BEGIN READ WRITE`, a role's setting or
//! `PGOPTIONS` pass it, `COMMIT PREPARED` and (before version 16) `lo_create` are allowed in spite
//! of it, and an open transaction commits through it. Table locks hold everybody, superusers too,
//! but only on tables that are locked: not new ones, not large objects, not sequences. And each takes
//! its time and its room in the server's lock table. What every way around has in common is that it
//! needs a session, so what is closed is the door:
//!
//! 1. The routers hold their clients (not here).
//! 2. [`Fence::raise`] closes the door, in one transaction from another database:
//!    `ALTER DATABASE .. ALLOW_CONNECTIONS false`, which needs the database's owner or a superuser
//!    and keeps superusers out as well; else `NOLOGIN` for every role that may connect. With it
//!    goes the read-only default, for whoever might come in all the same. Then every other session
//!    is closed until two scans in a row find *nobody*: nobody can come back, however fast.
//! 3. [`Fence::seal`] changes nothing more. It proves that the door was closed all the time: a
//!    login is refused, nobody is inside, the database's entry is as we left it, and the session
//!    that saw all that in step 2 still answers.
//!
//! Our own sessions are open by then. One that is lost comes back through the [`airlock`].
//!
//! # Why no table has to be locked behind a closed door
//!
//! Let D be the commit of the `ALTER DATABASE`. Each transaction that writes to this database is
//! known to have ended before the drain's marker is written, or belongs to a session of ours:
//!
//! - *Who connects after D is refused.* A starting session locks the database's entry before it reads
//!   whether it may connect, and gives that lock back when it is seen in `pg_stat_activity`. So who has
//!   read the entry before D is in the list of `sessions::starting`, which is asked for after D, or is
//!   seen already. Nobody is overlooked between the two: `sessions::clear` waits until those on the list
//!   are on it no more, and scans again. Workers of subscriptions start the same way. An extension's worker
//!   may pass the door (`BGWORKER_BYPASS_ALLOWCONN`, PostgreSQL 11+): the scans find it, and what it writes
//!   before the second marker is a leak; one that starts after the seal is seen by nobody.
//! - *Who was inside at D is told to end, and waited for.* `pg_terminate_backend` returns before the
//!   session is gone. A session leaves `pg_stat_activity` only after its transaction was committed or
//!   rolled back, visibly: the server's exit runs `ShutdownPostgres` before it gives up the entry there.
//!   So once nobody is listed, no transaction of others is open or being committed, and what was
//!   committed is in the log, before the marker. The marker's own commit flushes it.
//! - *Prepared transactions have no session.* They are looked for before D, and again once nobody is
//!   left who could prepare one.
//! - *Parallel workers and autovacuum* are let be. The former change no row and end with their leader;
//!   the latter changes none either.
//! - *Walsenders that stream* are let be, because a subscriber that was thrown out could not come back.
//!   One that takes SQL again after its stream is seen by the seal if it is at it then. Rows that it writes
//!   between the markers come behind the first one in the stream, as a leak. What it writes after the seal nobody
//!   sees, nor its DDL and its calls of sequences: a role with REPLICATION is trusted that far.
//! - *Sessions of ours* are those with our role, name and badge ([`decoders::postgres::badge`]), so of
//!   this process. Another sidecar's or an operator's tool under the same role is ended like anybody.
//!
//! From then to the seal three more things could let somebody in: an `ALTER DATABASE` (it changes the
//! version of the database's entry, which the seal compares), the [`airlock`] (it counts who has slipped in
//! and is still there; a superuser who comes and leaves within those milliseconds is a leak before the second
//! marker, and is not seen after it), and another server or a restart behind the same name (the session that
//! saw the door closed ends). What happens to our process does not matter: locks would vanish with it, the
//! door stays closed.
//!
//! Nothing of the fence depends on the number of tables.
//!
//! # Where the door can't be closed
//!
//! NOLOGIN leaves our own role and superusers. There a session of ours also takes `LOCK TABLE .. IN
//! SHARE MODE` on every replicated table, in short tries; it goes away with our connection. Whether the
//! locks fit into the server's lock table is a precheck ([`rights`]). Superusers could still write to
//! what is not locked, so it is a transaction id too many between the two markers that stops the run,
//! wherever on the server it was used. A superuser's bare `nextval` takes one for each 32nd value only.
//!
//! # What may overlap
//!
//! The order *door, nobody left, first marker, marker durable, look at the door, second marker* is the
//! proof. Two things of the pause are no part of that order, and run while the first marker is on its way:
//! the last look at the catalog and the carrying of sequences. Both read what nobody can change any more
//! once the fence is up. They begin behind the first marker, because with NOLOGIN it is from there on that
//! transaction ids are counted.
//!
//! Every one of these transactions also says, or asks, whose the closed side is: see [`claim`].
//!
//! `ALTER SYSTEM` is not used although a superuser could: it would make every other database of
//! the server read-only, and what it adds for this one (sessions that live on turn read-only)
//! is worth nothing since no session lives on.

mod acts;
mod airlock;
mod busy;
mod claim;
mod counted;
mod grants;
mod locks;
mod lowering;
mod rights;
mod sessions;
mod undo;
mod vacuum;

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use airlock::PostgresDoor;
pub use claim::Comment;
use claim::{Held, Needs};
use counted::Counted;
pub use grants::{Connect, Grant};
use sessions::{Closed, Gone};
pub use undo::{PostgresUndo, SealBy};

use super::door::Door;
use crate::api::Check;
use crate::lease::Tenant;
use crate::marker::{MarkerKind, Token};
use crate::ports::{
    Airlock, Claim, Claimed, Epoch, Fence, FenceActs, FenceReport, MarkerWritten, PortError,
    PortResult, SealReport, Writers,
};
use crate::side::Side;
use crate::sql::{
    DATABASE_CLOSED, Kind, LOGIN_REFUSED, SessionNumber, Slot, Sql, SqlError, TextRow, ident,
    literal, open, soon,
};

/// `application_name` of the session that holds the table locks.
const LOCKS: &str = "cutover locks";
/// The one of the session that writes the markers.
const MARKER: &str = "cutover marker";
/// How long one try at the locks may queue; see also [`vacuum`].
const LOCK_TIMEOUT_MS: u64 = 100;

/// Fences a PostgreSQL database. Its sessions are opened when they are first needed.
pub struct PostgresFence {
    blue: ConnInfo,
    publication: String,
    /// As the side is called in errors and reports.
    place: &'static str,
    /// Scans, terminates.
    admin: Slot,
    /// The same from another database, to which the closed door does not apply; alters.
    outside: Slot,
    /// Holds the table locks, where the door can't be closed.
    locks: Slot,
    /// Writes the markers.
    marker: Slot,
    door: PostgresDoor,
    /// The session that saw the door closed and nobody left inside.
    witness: Mutex<Option<SessionNumber>>,
    /// The run's first marker, where transaction ids decide.
    counted: Mutex<Counted>,
    /// In whose name it is closed.
    tenant: Option<Tenant>,
}

/// Any other database of the same server.
fn elsewhere(info: &ConnInfo) -> ConnInfo {
    info.with_dbname(if info.dbname() == "postgres" { "template1" } else { "postgres" })
}

impl PostgresFence {
    /// A fence around the database of `blue`; `publication` names the replicated tables.
    pub fn new(blue: ConnInfo, publication: impl Into<String>) -> Self {
        Self::around(Side::Blue, blue, publication)
    }

    /// A fence around the database of that side.
    pub fn around(side: Side, blue: ConnInfo, publication: impl Into<String>) -> Self {
        let place = side.name();
        let name = acts::fence_name(blue.dbname());
        Self {
            publication: publication.into(),
            place,
            admin: Slot::new(blue.clone(), name.clone(), place, Kind::Server),
            outside: Slot::new(elsewhere(&blue), name, place, Kind::Server),
            locks: Slot::new(blue.clone(), LOCKS, place, Kind::Server),
            marker: Slot::new(blue.clone(), MARKER, place, Kind::Server),
            door: PostgresDoor::new(&blue, place),
            witness: Mutex::default(),
            counted: Mutex::default(),
            tenant: None,
            blue,
        }
    }

    /// The same; whatever it closes is closed in the name of this tenant.
    pub fn leased_to(self, tenant: Tenant) -> Self {
        Self { tenant: Some(tenant), ..self }
    }

    /// The door of this database: whoever opens a session of ours to it enters by it.
    pub fn door(&self) -> PostgresDoor {
        self.door.clone()
    }

    fn database(&self) -> &str {
        self.blue.dbname()
    }

    /// A session within the database; one that was lost while the door is closed comes back
    /// through the airlock.
    async fn inside(&self, slot: &Slot, deadline: Instant) -> PortResult<std::sync::Arc<Sql>> {
        if let Some(open) = slot.current().await {
            return Ok(open);
        }
        let _guard = self.door.enter().await?;
        slot.get(deadline).await
    }

    /// The tables that the publication sends; a partitioned table stands for its partitions.
    async fn tables(&self, sql: &Sql, deadline: Instant) -> PortResult<Vec<QualifiedName>> {
        let query = format!(
            "SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables \
             WHERE pubname = {} AND schemaname <> '_cutover' ORDER BY 1, 2",
            literal(&self.publication)
        );
        let rows = sql.rows(&query, deadline).await;
        let rows = rows.map_err(doing(self.place, "listing the tables"))?;
        Ok(rows.iter().filter_map(|row| Some(QualifiedName::new(row.at(0)?, row.at(1)?))).collect())
    }

    async fn prepared(&self, sql: &Sql, deadline: Instant) -> PortResult<Vec<String>> {
        let query = format!(
            "SELECT gid || ' (' || owner || ', since ' || date_trunc('second', prepared) || ')' \
             FROM pg_catalog.pg_prepared_xacts WHERE database = {}",
            literal(self.database())
        );
        let rows = sql.rows(&query, deadline).await.map_err(doing(self.place, "listing 2PC"))?;
        Ok(rows.iter().filter_map(|row| row.at(0).map(str::to_owned)).collect())
    }

    async fn none_prepared(&self, sql: &Sql, deadline: Instant) -> PortResult<()> {
        let prepared = self.prepared(sql, deadline).await?;
        if prepared.is_empty() {
            return Ok(());
        }
        let prepared = prepared.join(", ");
        let what = format!("{} has prepared transactions: {prepared}", self.place);
        Err(PortError::new(self.place, what)
            .remedy("COMMIT PREPARED or ROLLBACK PREPARED each of them"))
    }

    /// Sessions that write, or wait to, although they pass for ours.
    async fn impostors(&self, deadline: Instant) -> PortResult<Vec<String>> {
        let admin = self.inside(&self.admin, deadline).await?;
        let rows = admin.rows(&acts::impostors_sql(self.database()), deadline).await;
        let rows = rows.map_err(doing(self.place, "looking for writers under our own name"))?;
        Ok(rows.iter().map(session_of).collect())
    }

    /// Sessions of others that have a transaction id, of whatever kind they are.
    async fn foreign_writers(
        &self,
        sql: &Sql,
        before: Option<&str>,
        deadline: Instant,
    ) -> PortResult<Vec<String>> {
        let query = acts::writers_sql(self.database(), before);
        let rows = sql.rows(&query, deadline).await;
        let rows = rows.map_err(doing(self.place, "looking for writers"))?;
        Ok(rows.iter().map(session_of).collect())
    }

    /// Whether the session that saw the door closed is still there. It has just answered: `impostors` asks
    /// it. So this is the same server, and it was not restarted meanwhile.
    async fn is_witnessed(&self) -> bool {
        let now = self.admin.current().await.map(|admin| admin.number());
        now.is_some() && now == *self.witness.lock().await
    }

    /// A client's login, tried for real. `true`: refused.
    async fn refuses_clients(&self, deadline: Instant) -> PortResult<bool> {
        match open(&self.blue, "cutover probe", Kind::Plain, deadline).await {
            Ok(_) => Ok(false),
            Err(error) if error.is(DATABASE_CLOSED) || error.is(LOGIN_REFUSED) => Ok(true),
            Err(error) => Err(error.at(self.place, "trying whether a login is refused")),
        }
    }
}

fn session_of(row: &TextRow) -> String {
    format!(
        "pid {} of role {} ({})",
        row.get("pid").unwrap_or("?"),
        row.get("usename").unwrap_or("-"),
        row.get("application_name").filter(|name| !name.is_empty()).unwrap_or("no name"),
    )
}

fn doing(place: &'static str, what: &'static str) -> impl Fn(SqlError) -> PortError {
    move |error| error.at(place, what)
}

impl Fence for PostgresFence {
    type Undo = PostgresUndo;

    async fn inspect(&self) -> PortResult<Vec<Check>> {
        rights::inspect(self).await
    }

    async fn prepare(&self) -> PortResult<PostgresUndo> {
        let deadline = soon();
        let place = self.place;
        let admin = self.admin.get(deadline).await?;
        // Open now what the pause will need.
        self.outside.get(deadline).await?;
        self.marker.get(deadline).await?;
        let database = self.database().to_owned();
        let row = admin
            .row(&rights::prior_sql(&database), deadline)
            .await
            .map_err(doing(place, "reading the database's settings"))?;
        let may_alter = row.is_true("may_alter");
        let seal_by = if may_alter { SealBy::AllowConnections } else { SealBy::NoLogin };
        if seal_by == SealBy::NoLogin {
            self.locks.get(deadline).await?;
        }
        let roles = match seal_by {
            SealBy::AllowConnections => Vec::new(),
            SealBy::NoLogin => {
                let rows = admin
                    .rows(&rights::roles_sql(&database), deadline)
                    .await
                    .map_err(doing(place, "listing the roles that may connect"))?;
                rows.iter().filter_map(|row| row.at(0).map(str::to_owned)).collect()
            }
        };
        let mut undo = PostgresUndo {
            may_alter,
            at: row.get("at").map(str::to_owned),
            read_only: row.get("read_only").map(str::to_owned),
            allow_connections: row.is_true("allow_connections"),
            seal_by,
            roles,
            tables: self.tables(&admin, deadline).await?,
            version_num: admin.version_num(),
            connect: Some(grants::read(&admin, place, &database, deadline).await?),
            database,
            comments: Vec::new(),
            claim: None,
        };
        undo.comments = claim::read(&admin, place, &undo, deadline).await?;
        Ok(undo)
    }

    fn signed(&self, undo: PostgresUndo, run: &str, epoch: Epoch) -> PostgresUndo {
        let claim = self.tenant.as_ref().map(|tenant| Claim {
            pipeline: tenant.pipeline.clone(),
            holder: tenant.holder.clone(),
            run: run.to_owned(),
            epoch,
        });
        PostgresUndo { claim, ..undo }
    }

    async fn claimed(&self, deadline: Instant) -> PortResult<Option<Claimed<PostgresUndo>>> {
        let Some(tenant) = &self.tenant else { return Ok(None) };
        let outside = self.outside.get(deadline).await?;
        let found = claim::find(&outside, self.place, self.database(), deadline).await?;
        Ok(found.filter(|found| found.claim.pipeline == tenant.pipeline))
    }

    async fn still_ours(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<()> {
        if !undo.closes_door() && undo.roles.is_empty() {
            return Ok(());
        }
        let outside = self.outside.get(deadline).await?;
        let found = claim::read(&outside, self.place, undo, deadline).await?;
        match claim::held(&found, undo.claim.as_ref()) {
            Held::Us => Ok(()),
            // By the journal of a version without claims.
            Held::Nobody if undo.claim.is_none() => Ok(()),
            held => Err(claim::superseded(self.place, &held)),
        }
    }

    async fn writers(&self) -> PortResult<Writers> {
        let deadline = Instant::now() + std::time::Duration::from_secs(1);
        let doing = doing(self.place, "looking for writers");
        let admin = self.admin.get(deadline).await?;
        let rows = admin
            .rows(&acts::writers_sql(self.database(), None), deadline)
            .await
            .map_err(&doing)?;
        let prepared = self.prepared(&admin, deadline).await?;
        let Some(oldest) = rows.first() else {
            return Ok(Writers { prepared, ..Writers::default() });
        };
        let age: f64 = oldest.number("age_seconds").map_err(doing)?;
        let age = std::time::Duration::try_from_secs_f64(age.max(0.0));
        Ok(Writers {
            oldest: Some(age.unwrap_or(std::time::Duration::MAX)),
            oldest_who: Some(session_of(oldest)),
            prepared,
        })
    }

    async fn raise(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<FenceReport> {
        let place = self.place;
        *self.witness.lock().await = None;
        // Whatever is needed inside has to be there before the door closes.
        let admin = self.inside(&self.admin, deadline).await?;
        if !undo.closes_door() {
            self.inside(&self.locks, deadline).await?;
        }
        self.inside(&self.marker, deadline).await?;
        let outside = self.outside.get(deadline).await?;
        self.none_prepared(&admin, deadline).await?;
        self.door.sealed(undo).await;
        *self.counted.lock().await = if undo.closes_door() { Counted::No } else { Counted::Soon };
        let mut close = acts::close_door(undo);
        close.extend(claim::mark(undo));
        let doors = &self.outside;
        let what = "closing the door";
        let stamp = claim::change(doors, place, undo, Needs::Free, close, what, deadline).await?;
        self.door.stamped(stamp.filter(|_| undo.closes_door()));
        let passed = sessions::starting(&outside, place, self.database(), deadline).await?;

        let mut closed = Closed::new();
        sessions::close(&admin, place, self.database(), None, &mut closed, deadline).await?;
        let (tables_locked, gone) = if undo.closes_door() {
            (0, Gone::All(passed))
        } else {
            let locked = self.lock_tables(&admin, &mut closed, deadline).await?;
            let now = admin.row(acts::NOW, deadline).await;
            let now = now.map_err(doing(place, "asking for the time"))?;
            (locked, Gone::Before(now.get("now").unwrap_or("infinity").to_owned()))
        };
        let before = gone.before().map(str::to_owned);
        let clean_scans =
            sessions::clear(&admin, place, self.database(), gone, &mut closed, deadline).await?;
        // One message after the other over one session, answered in this order.
        let next_xid = async {
            let row = admin.row(acts::NEXT_XID, deadline).await;
            row.and_then(|row| row.number("next_xid"))
                .map_err(doing(place, "reading the next transaction id"))
        };
        let tables_total = async {
            match undo.closes_door() {
                true => Ok(0),
                false => self.tables(&admin, deadline).await.map(|tables| tables.len() as u64),
            }
        };
        let (mut foreign_writers, impostors, prepared, next_xid, tables_total) = tokio::try_join!(
            self.foreign_writers(&admin, before.as_deref(), deadline),
            self.impostors(deadline),
            self.prepared(&admin, deadline),
            next_xid,
            tables_total,
        )?;
        foreign_writers.extend(impostors);
        *self.witness.lock().await = Some(admin.number());
        Ok(FenceReport {
            sessions_closed: closed.len() as u64,
            clean_scans,
            foreign_writers,
            prepared,
            tables_locked,
            tables_total,
            next_xid,
            position: None,
        })
    }

    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        let doing = doing(self.place, "writing the marker");
        let session = self.inside(&self.marker, deadline).await?;
        let kind = MarkerKind::for_version(session.version_num());
        let rows = match session.rows(&acts::mark_sql(kind, token), deadline).await {
            Ok(rows) => rows,
            Err(error) => {
                // The session may be inside a failed transaction.
                self.marker.close().await;
                return Err(doing(error));
            }
        };
        let row = rows.iter().find(|row| row.get("xid").is_some());
        let Some(row) = row else {
            return Err(PortError::new(self.place, "the marker got no transaction id"));
        };
        let xid = row.number("xid").map_err(doing)?;
        self.count(token, xid).await?;
        Ok(MarkerWritten::new(token.clone(), xid))
    }

    async fn seal(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<SealReport> {
        let place = self.place;
        // A session of ours may be coming in right now.
        let door = self.door.settle(deadline).await?;
        let mut intruders = door.slipped;
        let outside = self.outside.get(deadline).await?;
        let mut closed = Closed::new();
        let gone = if undo.closes_door() {
            Gone::All(Default::default())
        } else {
            let now = outside.row(acts::NOW, deadline).await;
            let now = now.map_err(doing(place, "asking for the time"))?;
            Gone::Before(now.get("now").unwrap_or("infinity").to_owned())
        };
        let refuses_clients = async {
            if undo.closes_door() {
                return self.refuses_clients(deadline).await;
            }
            let rows = outside.rows(&rights::roles_sql(&undo.database), deadline).await;
            let rows = rows.map_err(doing(place, "looking for roles that may connect"))?;
            Ok(rows.is_empty())
        };
        let stamp = async {
            let row = outside.row(&acts::stamp_sql(&undo.database), deadline).await;
            row.map_err(doing(place, "looking whether the door was opened"))
        };
        let (refuses_clients, cleared, impostors, stamp) = tokio::join!(
            refuses_clients,
            sessions::clear(&outside, place, &undo.database, gone, &mut closed, deadline),
            self.impostors(deadline),
            stamp,
        );
        let (refuses_clients, impostors) = (refuses_clients?, impostors?);
        cleared?;
        if undo.closes_door() {
            // Nobody was left when the fence was up. Whoever is here now may have done anything.
            intruders.extend(closed.into_values());
        }
        if door.stamp.is_some() && door.stamp.as_deref() != stamp?.get("stamp") {
            intruders.push(format!(
                "somebody who altered database {} while it was closed",
                ident(&undo.database)
            ));
        }
        let mut foreign_writers = self.foreign_writers(&outside, None, deadline).await?;
        foreign_writers.extend(impostors);
        foreign_writers.extend(intruders);
        let mechanism = match undo.seal_by {
            SealBy::AllowConnections => format!("{place} refuses connections"),
            SealBy::NoLogin => format!("no role can log in to {place}"),
        };
        Ok(SealReport {
            refuses_clients,
            mechanism,
            unbroken: match undo.closes_door() {
                true => self.is_witnessed().await,
                false => self.locks_held(undo.tables.len() as u64, deadline).await?,
            },
            foreign_writers,
            prepared: self.prepared(&outside, deadline).await?,
            own_xids: door.own_xids,
        })
    }

    async fn reseal(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<()> {
        let place = self.place;
        let outside = self.outside.get(deadline).await?;
        let now = lowering::Current::read(self, &outside, undo, deadline).await?;
        if now.is_closed(undo) {
            self.still_ours(undo, deadline).await?;
        } else {
            let (doors, close) = (&self.outside, acts::close_door(undo));
            let what = "closing the door again";
            claim::change(doors, place, undo, Needs::Ours, close, what, deadline).await?;
            tracing::warn!("{place} was found open; it is closed again");
        }
        self.door.sealed(undo).await;
        let gone = if undo.closes_door() {
            Gone::All(sessions::starting(&outside, place, &undo.database, deadline).await?)
        } else {
            let now = outside.row(acts::NOW, deadline).await;
            let now = now.map_err(doing(place, "asking for the time"))?;
            Gone::Before(now.get("now").unwrap_or("infinity").to_owned())
        };
        let mut closed = Closed::new();
        sessions::clear(&outside, place, &undo.database, gone, &mut closed, deadline).await?;
        if !closed.is_empty() {
            let who: Vec<_> = closed.into_values().collect();
            tracing::error!("sessions on sealed {place} were closed: {}", who.join("; "));
        }
        Ok(())
    }

    async fn airlock(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<Airlock> {
        self.door.remember(undo).await;
        match tokio::time::timeout_at(deadline, self.door.enter()).await {
            Ok(guard) => Ok(Airlock::new(guard?)),
            Err(_) => Err(PortError::new(self.place, "the airlock did not open in time")),
        }
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
        acts::describe(self.place, undo)
    }
}

fn quoted_database(undo: &PostgresUndo) -> String {
    ident(&undo.database)
}
