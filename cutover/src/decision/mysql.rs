//! The decision row on MySQL and MariaDB.
//!
//! One statement decides: `INSERT IGNORE`, for a commit from a locking read of the lease's row and a look
//! at the stream's progress. So a commit is there only if the lease was held when it was, on a server that
//! has the marker, and the first insert of an epoch wins.
//!
//! A server that does not flush each commit (`innodb_flush_log_at_trx_commit`, `sync_binlog`) would
//! forget the decision with a power cut, when clients write to the side that it has opened already.
//! There both logs are flushed before the decision is believed.

use decoders::Lsn;
use tokio::time::Instant;

use super::{Conditions, Found, Prepared, RECORDING, read_sql, session_lost};
use crate::api::Act;
use crate::lease::mysql_holds_sql;
use crate::phase::Verdict;
use crate::ports::{Decision, Epoch, PortError, PortResult};
use crate::side::Side;
use crate::sql::mysql::{MysqlError, MysqlSession, MysqlSlot, ServerUrl, literal};
use crate::sql::soon;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _cutover.decision ( \
     epoch bigint unsigned NOT NULL PRIMARY KEY, \
     verdict enum('commit', 'abort') NOT NULL, decided_at datetime(6) NOT NULL) ENGINE = InnoDB";
/// Both logs: the binlog decides on recovery whether a transaction that InnoDB has prepared is kept.
const FLUSH: &str = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS, BINARY LOGS";
/// Whether a commit is flushed when it is acknowledged.
const FLUSHES: &str = "SELECT @@innodb_flush_log_at_trx_commit = 1 AND (@@sync_binlog = 1 OR NOT @@log_bin) AS flushes";

/// In what a plan shows: the position is known only after the drain.
const MARKER: &str = "<number of the marker>";

/// The decision rows of a MySQL or MariaDB server.
pub struct MysqlDecision {
    session: MysqlSlot,
    /// For what anybody may ask at any time: the session that commits is the run's alone.
    reader: MysqlSlot,
    prepared: Prepared,
    place: &'static str,
    conditions: Option<Conditions>,
}

impl MysqlDecision {
    /// On `server`, which is the `side` that is to open.
    pub fn new(server: ServerUrl, side: Side) -> Self {
        let place = side.name();
        let session = MysqlSlot::new(server.clone(), place);
        let reader = MysqlSlot::new(server, place);
        Self { session, reader, prepared: Prepared::default(), place, conditions: None }
    }

    /// The same; a commit is refused where these don't hold.
    pub fn on(self, conditions: Conditions) -> Self {
        Self { conditions: Some(conditions), ..self }
    }

    /// Whether one of the stream's lanes has come to `marker`; `locking` is how its row is read.
    fn has_marker_sql(&self, marker: &str, locking: &str) -> String {
        let Some(Conditions { stream, .. }) = &self.conditions else { return "true".to_owned() };
        format!(
            "EXISTS (SELECT 1 FROM _cutover.progress WHERE pipeline = {} AND end_number >= {marker}{locking})",
            literal(stream)
        )
    }

    /// All its reads are locking: another one would open a snapshot, and MariaDB refuses to lock a row that has
    /// changed since then (`innodb_snapshot_isolation`, on since 11.6), as the lease's does with each renewal.
    fn commit_sql(&self, epoch: Epoch, marker: &str) -> String {
        let Some(Conditions { tenant, .. }) = &self.conditions else {
            return insert_sql(&format!("VALUES ({epoch}, 'commit', utc_timestamp(6))"));
        };
        let has_marker = self.has_marker_sql(marker, " LOCK IN SHARE MODE");
        let row = "epoch, 'commit', utc_timestamp(6)";
        insert_sql(&mysql_holds_sql(tenant, epoch, row, &has_marker))
    }

    /// Makes what is committed survive a power cut.
    async fn flush(&self, session: &mut MysqlSession, deadline: Instant) -> PortResult<()> {
        let failed = |error: MysqlError| error.at(self.place, "flushing the decision");
        let flushes = session.run(FLUSHES, deadline).await.map_err(failed)?;
        if !flushes.rows.first().is_some_and(|row| row.is_true("flushes")) {
            session.run(FLUSH, deadline).await.map_err(|error| {
                failed(error).remedy(
                    "GRANT RELOAD ON *.* to our account, or set innodb_flush_log_at_trx_commit = 1 \
                     and sync_binlog = 1",
                )
            })?;
        }
        Ok(())
    }

    async fn look(
        &self,
        session: &mut MysqlSession,
        epoch: Epoch,
        has_marker: &str,
        deadline: Instant,
    ) -> PortResult<Found> {
        let row = session.row(&read_sql(epoch, has_marker), deadline).await;
        let row = row.map_err(|error| error.at(self.place, "reading the decision"))?;
        Found::read(self.place, &row)
    }

    /// What is decided, once that survives a power cut. Nobody knows if it can't be told.
    async fn look_behind_insert(
        &self,
        session: &mut MysqlSession,
        epoch: Epoch,
        has_marker: &str,
        deadline: Instant,
    ) -> PortResult<Found> {
        let found = match self.flush(session, deadline).await {
            Ok(()) => self.look(session, epoch, has_marker, deadline).await,
            Err(error) => Err(error),
        };
        found.map_err(PortError::in_doubt)
    }

    async fn commit_by(
        &self,
        session: &mut MysqlSession,
        epoch: Epoch,
        marker: &str,
        deadline: Instant,
    ) -> PortResult<Verdict> {
        let inserted = session.run(&self.commit_sql(epoch, marker), deadline).await;
        inserted.map_err(|error| error.at(self.place, RECORDING))?;
        let has_marker = self.has_marker_sql(marker, "");
        let found = self.look_behind_insert(session, epoch, &has_marker, deadline).await?;
        found.after_commit(self.place, self.conditions.as_ref(), marker)
    }

    async fn abort_by(
        &self,
        session: &mut MysqlSession,
        epoch: Epoch,
        deadline: Instant,
    ) -> PortResult<Verdict> {
        let abort = insert_sql(&format!("VALUES ({epoch}, 'abort', utc_timestamp(6))"));
        let inserted = session.run(&abort, deadline).await;
        inserted.map_err(|error| error.at(self.place, RECORDING))?;
        let found = self.look_behind_insert(session, epoch, "true", deadline).await?;
        found.after_insert(self.place)
    }
}

fn insert_sql(row: &str) -> String {
    format!("INSERT IGNORE INTO _cutover.decision {row}")
}

impl Decision for MysqlDecision {
    async fn prepare(&self) -> PortResult<()> {
        let deadline = soon();
        // One that was kept from earlier may be on an old primary, which nobody else has asked for days.
        self.session.close().await;
        self.session.ensure("decision", CREATE, "making the table of decisions", deadline).await?;
        let mut session = self.session.take(deadline).await?;
        // Whether a row could be inserted, without leaving one.
        for sql in [
            "START TRANSACTION",
            "INSERT INTO _cutover.decision VALUES (0, 'abort', now())",
            "ROLLBACK",
        ] {
            let tried = session.run(sql, deadline).await;
            tried.map_err(|error| error.at(self.place, "trying the decision table"))?;
        }
        self.flush(&mut session, deadline).await?;
        self.prepared.by(session.number());
        self.session.put(session).await;
        Ok(())
    }

    async fn last_epoch(&self) -> PortResult<Epoch> {
        let deadline = soon();
        let failed = |error: MysqlError| error.at(self.place, "reading the last epoch");
        let query = "SELECT coalesce(max(epoch), 0) AS epoch FROM _cutover.decision";
        // As in `prepare`.
        self.reader.close().await;
        match self.reader.try_run(query, deadline).await? {
            Ok(answer) => {
                let Some(row) = answer.rows.first() else { return Ok(Epoch(0)) };
                row.number("epoch").map(Epoch).map_err(|error| failed(error.into()))
            }
            Err(error) if error.is_missing() => Ok(Epoch(0)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn commit(&self, epoch: Epoch, marker: Lsn, deadline: Instant) -> PortResult<Verdict> {
        let lost = || session_lost(self.place);
        let number = self.prepared.session().ok_or_else(lost)?;
        let mut session = self.session.take_kept(number).await.ok_or_else(lost)?;
        // A commit through one that has ended unseen would be in doubt.
        if let Err(error) = session.ask(deadline).await {
            let is_lost = !session.is_open() && Instant::now() < deadline;
            self.session.put(session).await;
            let what =
                format!("nothing was decided: no answer from {}: {}", self.place, error.text);
            return Err(if is_lost { lost() } else { PortError::new(self.place, what) });
        }
        let verdict = self.commit_by(&mut session, epoch, &marker.0.to_string(), deadline).await;
        self.session.put(session).await;
        verdict
    }

    async fn abort(&self, epoch: Epoch, deadline: Instant) -> PortResult<Verdict> {
        let mut session = self.session.take(deadline).await?;
        let verdict = self.abort_by(&mut session, epoch, deadline).await;
        self.session.put(session).await;
        verdict
    }

    async fn read(&self, epoch: Epoch, deadline: Instant) -> PortResult<Option<Verdict>> {
        let mut session = self.session.take(deadline).await?;
        let found = self.look(&mut session, epoch, "true", deadline).await;
        self.session.put(session).await;
        Ok(found?.verdict)
    }

    fn describe(&self, epoch: Epoch) -> Vec<Act> {
        vec![Act {
            step: "commit".into(),
            place: self.place.into(),
            text: self.commit_sql(epoch, MARKER),
        }]
    }
}
