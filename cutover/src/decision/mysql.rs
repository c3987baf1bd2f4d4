//! The decision row on MySQL and MariaDB.
//!
//! One statement decides: `INSERT IGNORE`, for a commit from a locking read of the lease's row. So a
//! commit is there only if the lease was held when it was, and the first insert of an epoch wins.
//!
//! A server that does not flush each commit (`innodb_flush_log_at_trx_commit`, `sync_binlog`) would
//! forget the decision with a power cut, when clients write to the side that it has opened already.
//! There both logs are flushed before the decision is believed.

use tokio::time::Instant;

use super::{Prepared, decided, verdict_of};
use crate::api::Act;
use crate::lease::{Tenant, mysql_holds_sql};
use crate::phase::Verdict;
use crate::ports::{Decision, Epoch, PortResult};
use crate::side::Side;
use crate::sql::mysql::{MysqlError, MysqlSlot, ServerUrl};
use crate::sql::soon;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _cutover.decision ( \
     epoch bigint unsigned NOT NULL PRIMARY KEY, \
     verdict enum('commit', 'abort') NOT NULL, decided_at datetime(6) NOT NULL) ENGINE = InnoDB";
/// Both logs: the binlog decides on recovery whether a transaction that InnoDB has prepared is kept.
const FLUSH: &str = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS, BINARY LOGS";
/// Whether a commit is flushed when it is acknowledged.
const FLUSHES: &str = "SELECT @@innodb_flush_log_at_trx_commit = 1 AND (@@sync_binlog = 1 OR NOT @@log_bin) AS flushes";

/// The decision rows of a MySQL or MariaDB server.
pub struct MysqlDecision {
    session: MysqlSlot,
    prepared: Prepared,
    place: &'static str,
    tenant: Option<Tenant>,
}

impl MysqlDecision {
    /// On `server`, which is the `side` that is to open.
    pub fn new(server: ServerUrl, side: Side) -> Self {
        let place = side.name();
        let session = MysqlSlot::new(server, place);
        Self { session, prepared: Prepared::default(), place, tenant: None }
    }

    /// The same; a commit is refused unless this tenant holds the lease of its epoch.
    pub fn leased_to(self, tenant: Tenant) -> Self {
        Self { tenant: Some(tenant), ..self }
    }

    fn decide_sql(&self, epoch: Epoch, verdict: Verdict) -> String {
        decide_sql(epoch, verdict, self.tenant.as_ref())
    }

    /// Makes what is committed survive a power cut.
    async fn flush(&self, deadline: Instant) -> PortResult<()> {
        let doing = "flushing the decision";
        let flushes = self.session.run(FLUSHES, doing, deadline).await?;
        if !flushes.rows.first().is_some_and(|row| row.is_true("flushes")) {
            self.session.run(FLUSH, doing, deadline).await.map_err(|error| {
                error.remedy(
                    "GRANT RELOAD ON *.* to our account, or set innodb_flush_log_at_trx_commit = 1 \
                     and sync_binlog = 1",
                )
            })?;
        }
        Ok(())
    }
}

fn decide_sql(epoch: Epoch, verdict: Verdict, tenant: Option<&Tenant>) -> String {
    let name = verdict.name();
    let row = match tenant.filter(|_| verdict == Verdict::Commit) {
        Some(tenant) => {
            mysql_holds_sql(tenant, epoch, &format!("epoch, '{name}', utc_timestamp(6)"))
        }
        None => format!("VALUES ({epoch}, '{name}', utc_timestamp(6))"),
    };
    format!("INSERT IGNORE INTO _cutover.decision {row}")
}

impl Decision for MysqlDecision {
    async fn prepare(&self) -> PortResult<()> {
        let deadline = soon();
        self.session.ensure("decision", CREATE, "making the table of decisions", deadline).await?;
        // Whether a row could be inserted, without leaving one.
        for sql in [
            "START TRANSACTION",
            "INSERT INTO _cutover.decision VALUES (0, 'abort', now())",
            "ROLLBACK",
        ] {
            if let Err(error) = self.session.run(sql, "trying the decision table", deadline).await {
                self.session.close().await;
                return Err(error);
            }
        }
        self.flush(deadline).await?;
        self.prepared.by(self.session.opened());
        Ok(())
    }

    async fn last_epoch(&self) -> PortResult<Epoch> {
        let deadline = soon();
        let failed = |error: MysqlError| error.at(self.place, "reading the last epoch");
        let query = "SELECT coalesce(max(epoch), 0) AS epoch FROM _cutover.decision";
        match self.session.try_run(query, deadline).await? {
            Ok(answer) => {
                let Some(row) = answer.rows.first() else { return Ok(Epoch(0)) };
                row.number("epoch").map(Epoch).map_err(|error| failed(error.into()))
            }
            Err(error) if error.is_missing() => Ok(Epoch(0)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn decide(
        &self,
        epoch: Epoch,
        verdict: Verdict,
        deadline: Instant,
    ) -> PortResult<Verdict> {
        let mut session = self.session.take(deadline).await?;
        self.prepared.admits(self.session.opened(), verdict, self.place)?;
        let answer = session.run(&self.decide_sql(epoch, verdict), deadline).await;
        self.session.put(session).await;
        answer.map_err(|error| error.at(self.place, "recording the decision"))?;
        let read = match self.flush(deadline).await {
            Ok(()) => self.read(epoch, deadline).await,
            Err(error) => Err(error),
        };
        decided(self.place, verdict, self.tenant.is_some(), read)
    }

    async fn read(&self, epoch: Epoch, deadline: Instant) -> PortResult<Option<Verdict>> {
        let query = format!("SELECT verdict FROM _cutover.decision WHERE epoch = {epoch}");
        let answer = self.session.run(&query, "reading the decision", deadline).await?;
        answer.rows.first().map(|row| verdict_of(self.place, row)).transpose()
    }

    fn describe(&self, epoch: Epoch) -> Vec<Act> {
        vec![Act {
            step: "commit".into(),
            place: self.place.into(),
            text: self.decide_sql(epoch, Verdict::Commit),
        }]
    }
}
