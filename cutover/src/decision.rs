//! The point of no return: one row, `_cutover.decision(epoch, verdict)`, on the side that is to
//! open.
//!
//! The primary key makes it a compare-and-set: the first insert for an epoch wins, whoever made
//! it, and everybody reads the winner. It outlives the sidecar's disk.
//!
//! An abort is taken from everybody. A commit only from who holds the lease at that moment
//! ([`crate::lease`]), and only on the server that has all rows.
//!
//! # Why the server that has all rows needs two proofs
//! That the side to open has every row was seen on the server that the stream writes to. Behind the same
//! name there may be another one: a replica that was promoted without the last rows, or the same server
//! after a crash that took them (lanes don't wait for its log).
//!
//! - A crash, and a failover that ends the old primary, end our sessions. So the session that
//!   [`Decision::prepare`] has opened, before the fence, has to be the one that commits; if it was lost,
//!   nothing is decided and the run goes back. The same session reads the verdict back.
//! - An old primary that goes on answering us, while the stream has been at the new one since before the
//!   drain, has not ended it. But it has not heard of the marker either. So the statement that commits looks for
//!   it in the progress of the stream (`_cutover.progress`). That is no proof by itself: with several
//!   lanes it shows only that the one with the marker has committed.
//!
//! What neither shows is an old primary that goes on answering us and the stream although another one was
//! promoted between the drain and the decision: a failover has to end the old one.

mod mysql;

use std::sync::{Mutex, PoisonError};

use decoders::Lsn;
use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use crate::api::Act;
use crate::house;
use crate::lease::Tenant;
use crate::phase::Verdict;
use crate::ports::{Decision, Epoch, PortError, PortResult};
use crate::side::Side;
use crate::sql::{Kind, SessionNumber, Slot, Sql, SqlError, TextRow, literal, soon};

pub use mysql::MysqlDecision;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS _cutover.decision (epoch bigint PRIMARY KEY, \
     verdict text NOT NULL CHECK (verdict IN ('commit', 'abort')), \
     decided_at timestamptz NOT NULL DEFAULT now())";

const RECORDING: &str = "recording the decision";
/// In what a plan shows: the position is known only after the drain.
const MARKER: &str = "<end of the marker>";

/// The decision rows of a PostgreSQL database.
pub struct PostgresDecision {
    session: Slot,
    /// For what anybody may ask at any time: the session that commits is the run's alone.
    reader: Slot,
    prepared: Prepared,
    place: &'static str,
    conditions: Option<Conditions>,
}

/// What a commit needs beside its session.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// Who holds the lease of the epoch.
    pub tenant: Tenant,
    /// The pipeline that applies to this side, and has come to the marker.
    pub stream: String,
}

/// What a side says about an epoch.
struct Found {
    verdict: Option<Verdict>,
    has_marker: bool,
}

impl Found {
    /// Of a row of [`read_sql`].
    fn read(place: &str, row: &TextRow) -> PortResult<Self> {
        let verdict = match row.get("verdict") {
            Some("commit") => Some(Verdict::Commit),
            Some("abort") => Some(Verdict::Abort),
            None => None,
            Some(_) => {
                let what = "the decision row holds neither commit nor abort";
                return Err(PortError::new(place, what));
            }
        };
        Ok(Self { verdict, has_marker: row.is_true("has_marker") })
    }

    /// What an insert without conditions has come to: whatever is committed counts, and it may be somebody
    /// else's.
    fn after_insert(self, place: &str) -> PortResult<Verdict> {
        self.verdict.ok_or_else(|| {
            PortError::new(place, "the decision row is not there after its insert").in_doubt()
        })
    }

    /// What a commit has come to. Without a row it did not meet its conditions.
    fn after_commit(
        self,
        place: &str,
        conditions: Option<&Conditions>,
        marker: &str,
    ) -> PortResult<Verdict> {
        match (self.verdict, conditions) {
            (Some(verdict), _) => Ok(verdict),
            (None, Some(conditions)) if !self.has_marker => {
                Err(no_marker(place, conditions, marker))
            }
            (None, Some(_)) => {
                let what = "nothing was decided: another sidecar has taken the lease";
                Err(PortError::new(place, what)
                    .remedy("make sure that only one sidecar runs for this pipeline"))
            }
            (None, None) => self.after_insert(place),
        }
    }
}

/// A row for [`Found`].
fn read_sql(epoch: Epoch, has_marker: &str) -> String {
    format!(
        "SELECT (SELECT verdict FROM _cutover.decision WHERE epoch = {epoch}) AS verdict, \
         {has_marker} AS has_marker"
    )
}

/// Which session was there before the drain.
#[derive(Default)]
struct Prepared(Mutex<Option<SessionNumber>>);

impl Prepared {
    fn by(&self, session: SessionNumber) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    fn session(&self) -> Option<SessionNumber> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A commit was not even tried.
fn session_lost(place: &str) -> PortError {
    let what = format!(
        "nothing was decided: the session that was prepared on {place} was lost, so {place} may be \
         another server than the one that has all rows, or may have lost some in a crash"
    );
    PortError::new(place, what).remedy(format!(
        "look into the log of {place} for a restart, a failover or a session that was \
         ended; the run goes back, and can be started again once the stream has caught up"
    ))
}

/// A commit was not taken: here the marker was not applied.
fn no_marker(place: &str, conditions: &Conditions, marker: &str) -> PortError {
    let what = format!(
        "nothing was decided: on the server that answers as {place} the stream {} has not come to {marker}, \
         where it was drained",
        conditions.stream
    );
    PortError::new(place, what).remedy(format!(
        "compare _cutover.progress on all servers that {place}'s name may lead to: one may be an old \
         primary that still runs; the run goes back, and can be started again once only one answers"
    ))
}

impl PostgresDecision {
    /// On the database of `server`, which is the `side` that is to open.
    pub fn new(server: ConnInfo, side: Side) -> Self {
        let place = side.name();
        let slot = |name| Slot::new(server.clone(), name, place, Kind::Server);
        let (session, reader) = (slot("cutover decision"), slot("cutover last epoch"));
        Self { session, reader, prepared: Prepared::default(), place, conditions: None }
    }

    /// The same; a commit is refused where these don't hold.
    pub fn on(self, conditions: Conditions) -> Self {
        Self { conditions: Some(conditions), ..self }
    }

    /// Whether one of the stream's lanes has come to `marker`, as the engine asks where it flushes.
    fn has_marker_sql(&self, marker: &str) -> String {
        let Some(Conditions { stream, .. }) = &self.conditions else { return "true".to_owned() };
        format!(
            "EXISTS (SELECT FROM _cutover.progress WHERE pipeline = {} AND end_lsn >= {})",
            literal(stream),
            literal(marker)
        )
    }

    fn commit_sql(&self, epoch: Epoch, marker: &str) -> String {
        let Some(Conditions { tenant, .. }) = &self.conditions else {
            return insert_sql("", &format!("VALUES ({epoch}, 'commit')"));
        };
        let lease = format!("WITH lease AS ({}) ", tenant.holds_sql(epoch));
        let has_marker = self.has_marker_sql(marker);
        insert_sql(&lease, &format!("SELECT epoch, 'commit' FROM lease WHERE {has_marker}"))
    }

    /// Runs a transaction. After an error the session is closed: it may be inside of it, or still be waiting.
    async fn run(&self, session: &Sql, sql: &str, deadline: Instant) -> Result<(), SqlError> {
        let ran = session.run(sql, deadline).await;
        if ran.is_err() {
            self.session.close().await;
        }
        ran
    }

    async fn look(
        &self,
        session: &Sql,
        epoch: Epoch,
        has_marker: &str,
        deadline: Instant,
    ) -> PortResult<Found> {
        let row = session.row(&read_sql(epoch, has_marker), deadline).await;
        let row = row.map_err(|error| error.at(self.place, "reading the decision"))?;
        Found::read(self.place, &row)
    }
}

/// The session may be read-only by default: clients are not let in before the flip.
fn insert_sql(with: &str, row: &str) -> String {
    format!(
        "BEGIN READ WRITE; SET LOCAL synchronous_commit = on; \
         {with}INSERT INTO _cutover.decision (epoch, verdict) {row} \
         ON CONFLICT (epoch) DO NOTHING; COMMIT"
    )
}

impl Decision for PostgresDecision {
    async fn prepare(&self) -> PortResult<()> {
        let deadline = soon();
        // One that was kept from earlier may be on an old primary, which nobody else has asked for days.
        self.session.close().await;
        let session = self.session.get(deadline).await?;
        let made = house::has_table(&session, "decision", TABLE, self.place, deadline).await;
        if made.is_err() {
            self.session.close().await;
        }
        made?;
        // Whether a row could be inserted, without leaving one.
        let probe = "BEGIN READ WRITE; INSERT INTO _cutover.decision (epoch, verdict) \
                     VALUES (-1, 'abort'); ROLLBACK";
        let tried = self.run(&session, probe, deadline).await;
        tried.map_err(|error| error.at(self.place, "trying the decision table"))?;
        self.prepared.by(session.number());
        Ok(())
    }

    async fn last_epoch(&self) -> PortResult<Epoch> {
        let deadline = soon();
        // As in `prepare`.
        self.reader.close().await;
        let session = self.reader.get(deadline).await?;
        house::is_ours(&session, self.place, deadline).await?;
        let failed = |error: SqlError| error.at(self.place, "reading the last epoch");
        match session
            .row("SELECT coalesce(max(epoch), 0) AS epoch FROM _cutover.decision", deadline)
            .await
        {
            Ok(row) => row.number("epoch").map(Epoch).map_err(failed),
            Err(error) if error.is_missing() => Ok(Epoch(0)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn commit(&self, epoch: Epoch, marker: Lsn, deadline: Instant) -> PortResult<Verdict> {
        let kept = self.session.current().await;
        let session = kept.filter(|kept| self.prepared.session() == Some(kept.number()));
        let session = session.ok_or_else(|| session_lost(self.place))?;
        let (place, marker) = (self.place, marker.to_string());
        let inserted = self.run(&session, &self.commit_sql(epoch, &marker), deadline).await;
        inserted.map_err(|error| error.at(place, RECORDING))?;
        let found = self.look(&session, epoch, &self.has_marker_sql(&marker), deadline).await;
        let found = found.map_err(PortError::in_doubt)?;
        found.after_commit(place, self.conditions.as_ref(), &marker)
    }

    async fn abort(&self, epoch: Epoch, deadline: Instant) -> PortResult<Verdict> {
        let session = self.session.get(deadline).await?;
        house::is_ours(&session, self.place, deadline).await?;
        let abort = insert_sql("", &format!("VALUES ({epoch}, 'abort')"));
        let inserted = self.run(&session, &abort, deadline).await;
        inserted.map_err(|error| error.at(self.place, RECORDING))?;
        let found = self.look(&session, epoch, "true", deadline).await;
        found.map_err(PortError::in_doubt)?.after_insert(self.place)
    }

    async fn read(&self, epoch: Epoch, deadline: Instant) -> PortResult<Option<Verdict>> {
        let session = self.session.get(deadline).await?;
        house::is_ours(&session, self.place, deadline).await?;
        Ok(self.look(&session, epoch, "true", deadline).await?.verdict)
    }

    fn describe(&self, epoch: Epoch) -> Vec<Act> {
        vec![Act {
            step: "commit".into(),
            place: self.place.into(),
            text: self.commit_sql(epoch, MARKER),
        }]
    }
}
