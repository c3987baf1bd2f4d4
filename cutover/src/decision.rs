//! The point of no return: one row, `_cutover.decision(epoch, verdict)`, on the side that is to
//! open.
//!
//! The primary key makes it a compare-and-set: the first insert for an epoch wins, whoever made
//! it, and everybody reads the winner. It outlives the sidecar's disk.
//!
//! A commit is only taken from who holds the lease at that moment ([`crate::lease`]); an abort from
//! everybody.
//!
//! # Why a commit is never sent through a session that was opened after the drain
//! That the side to open has every row was seen on the server that the stream writes to. Behind the same
//! name there may be another one a moment later: a replica that was promoted without the last rows, or
//! the same server after a crash that took them (lanes don't wait for its log). Either ends our sessions,
//! unless an old primary goes on answering us. So the session that [`Decision::prepare`] used, before the
//! fence, has to be the one that commits; if it was lost, nothing is decided and the run goes back.

mod mysql;

use std::sync::atomic::{AtomicU64, Ordering};

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use crate::api::Act;
use crate::lease::Tenant;
use crate::phase::Verdict;
use crate::ports::{Decision, Epoch, PortError, PortResult};
use crate::side::Side;
use crate::sql::{Kind, Slot, TextRow, soon};

pub use mysql::MysqlDecision;

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS _cutover; \
     CREATE TABLE IF NOT EXISTS _cutover.decision (epoch bigint PRIMARY KEY, \
     verdict text NOT NULL CHECK (verdict IN ('commit', 'abort')), \
     decided_at timestamptz NOT NULL DEFAULT now())";

/// The decision rows of a PostgreSQL database.
pub struct PostgresDecision {
    session: Slot,
    prepared: Prepared,
    place: &'static str,
    tenant: Option<Tenant>,
}

/// Which of a slot's sessions, by its number, was there before the drain.
#[derive(Default)]
struct Prepared(AtomicU64);

impl Prepared {
    fn by(&self, session: u64) {
        self.0.store(session, Ordering::SeqCst);
    }

    /// Refuses a commit through any other session.
    fn admits(&self, session: u64, verdict: Verdict, place: &str) -> PortResult<()> {
        if verdict == Verdict::Abort || self.0.load(Ordering::SeqCst) == session {
            return Ok(());
        }
        let what = format!(
            "nothing was decided: the session that was prepared on {place} was lost, so {place} may be \
             another server than the one that has all rows, or may have lost some in a crash"
        );
        Err(PortError::new(place, what).remedy(format!(
            "look into the log of {place} for a restart, a failover or a session that was \
             ended; the run goes back, and can be started again once the stream has caught up"
        )))
    }
}

impl PostgresDecision {
    /// On the database of `server`, which is the `side` that is to open.
    pub fn new(server: ConnInfo, side: Side) -> Self {
        let place = side.name();
        let session = Slot::new(server, "cutover decision", place, Kind::Server);
        Self { session, prepared: Prepared::default(), place, tenant: None }
    }

    /// The same; a commit is refused unless this tenant holds the lease of its epoch.
    pub fn leased_to(self, tenant: Tenant) -> Self {
        Self { tenant: Some(tenant), ..self }
    }

    fn decide_sql(&self, epoch: Epoch, verdict: Verdict) -> String {
        decide_sql(epoch, verdict, self.tenant.as_ref())
    }
}

fn verdict_of(place: &str, row: &TextRow) -> PortResult<Verdict> {
    match row.get("verdict") {
        Some("commit") => Ok(Verdict::Commit),
        Some("abort") => Ok(Verdict::Abort),
        _ => Err(PortError::new(place, "the decision row holds neither commit nor abort")),
    }
}

/// What was decided, read back after a try at `wanted`: only what is committed counts, and it may be
/// somebody else's.
fn decided(
    place: &str,
    wanted: Verdict,
    needs_lease: bool,
    read: PortResult<Option<Verdict>>,
) -> PortResult<Verdict> {
    match read {
        Ok(Some(verdict)) => Ok(verdict),
        Ok(None) if wanted == Verdict::Commit && needs_lease => {
            Err(PortError::new(place, "nothing was decided: another sidecar has taken the lease")
                .remedy("make sure that only one sidecar runs for this pipeline"))
        }
        Ok(None) => {
            Err(PortError::new(place, "the decision row is not there after its insert").in_doubt())
        }
        Err(error) => Err(error.in_doubt()),
    }
}

/// The session may be read-only by default: clients are not let in before the flip.
fn decide_sql(epoch: Epoch, verdict: Verdict, tenant: Option<&Tenant>) -> String {
    let (with, row) = match tenant.filter(|_| verdict == Verdict::Commit) {
        Some(tenant) => (
            format!("WITH lease AS ({}) ", tenant.holds_sql(epoch)),
            format!("SELECT epoch, '{}' FROM lease", verdict.name()),
        ),
        None => (String::new(), format!("VALUES ({epoch}, '{}')", verdict.name())),
    };
    format!(
        "BEGIN READ WRITE; SET LOCAL synchronous_commit = on; \
         {with}INSERT INTO _cutover.decision (epoch, verdict) {row} \
         ON CONFLICT (epoch) DO NOTHING; COMMIT"
    )
}

fn read_sql(epoch: Epoch) -> String {
    format!("SELECT verdict FROM _cutover.decision WHERE epoch = {epoch}")
}

impl Decision for PostgresDecision {
    async fn prepare(&self) -> PortResult<()> {
        let deadline = soon();
        let session = self.session.get(deadline).await?;
        let there = "SELECT to_regclass('_cutover.decision') IS NOT NULL AS there";
        let row = session.row(there, deadline).await;
        let row = row.map_err(|error| error.at(self.place, "looking for the decision table"))?;
        if !row.is_true("there") {
            // Only when it is missing: without CREATE on the database the IF NOT EXISTS fails too.
            // A side that an earlier run has closed is read-only by default.
            let create = format!("BEGIN READ WRITE; {CREATE}; COMMIT");
            if let Err(error) = session.run(&create, deadline).await {
                self.session.close().await;
                return Err(error.at(self.place, "creating the decision table"));
            }
        }
        // Whether a row could be inserted, without leaving one.
        let probe = "BEGIN READ WRITE; INSERT INTO _cutover.decision (epoch, verdict) \
                     VALUES (-1, 'abort'); ROLLBACK";
        if let Err(error) = session.run(probe, deadline).await {
            self.session.close().await;
            return Err(error.at(self.place, "trying the decision table"));
        }
        self.prepared.by(self.session.opened());
        Ok(())
    }

    async fn last_epoch(&self) -> PortResult<Epoch> {
        let deadline = soon();
        let session = self.session.get(deadline).await?;
        let failed = |error: crate::sql::SqlError| error.at(self.place, "reading the last epoch");
        match session
            .row("SELECT coalesce(max(epoch), 0) AS epoch FROM _cutover.decision", deadline)
            .await
        {
            Ok(row) => row.number("epoch").map(Epoch).map_err(failed),
            // No table or no schema yet.
            Err(error) if error.is("42P01") || error.is("3F000") => Ok(Epoch(0)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn decide(
        &self,
        epoch: Epoch,
        verdict: Verdict,
        deadline: Instant,
    ) -> PortResult<Verdict> {
        let session = self.session.get(deadline).await?;
        self.prepared.admits(self.session.opened(), verdict, self.place)?;
        if let Err(error) = session.run(&self.decide_sql(epoch, verdict), deadline).await {
            // The session may be inside a failed transaction, or still be waiting.
            self.session.close().await;
            return Err(error.at(self.place, "recording the decision"));
        }
        let read = self.read(epoch, deadline).await;
        decided(self.place, verdict, self.tenant.is_some(), read)
    }

    async fn read(&self, epoch: Epoch, deadline: Instant) -> PortResult<Option<Verdict>> {
        let session = self.session.get(deadline).await?;
        let rows = session.rows(&read_sql(epoch), deadline).await;
        let rows = rows.map_err(|error| error.at(self.place, "reading the decision"))?;
        rows.first().map(|row| verdict_of(self.place, row)).transpose()
    }

    fn describe(&self, epoch: Epoch) -> Vec<Act> {
        vec![Act {
            step: "commit".into(),
            place: self.place.into(),
            text: self.decide_sql(epoch, Verdict::Commit),
        }]
    }
}
