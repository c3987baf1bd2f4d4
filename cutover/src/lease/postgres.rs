//! The lease's row on PostgreSQL.

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use super::Tenant;
use super::kept::{KeptLease, LeaseTable, Row};
use crate::house;
use crate::ports::{Epoch, PortResult};
use crate::side::Side;
use crate::sql::{Kind, Slot, SqlError, literal};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS _cutover.lease (pipeline text PRIMARY KEY, \
     epoch bigint NOT NULL, holder text NOT NULL, renewal bigint NOT NULL, \
     renewed_at timestamptz NOT NULL DEFAULT now())";

impl Tenant {
    /// A row if this tenant holds the lease for `epoch`, and nobody else can take it until the
    /// transaction ends.
    pub(crate) fn holds_sql(&self, epoch: Epoch) -> String {
        format!(
            "SELECT epoch FROM _cutover.lease WHERE pipeline = {} AND holder = {} AND epoch = {epoch} \
             FOR SHARE",
            literal(&self.pipeline),
            literal(&self.holder)
        )
    }
}

/// The lease of one pipeline on a PostgreSQL database.
pub type PostgresLease = KeptLease<PostgresLeaseTable>;

/// `_cutover.lease` of a PostgreSQL database.
pub struct PostgresLeaseTable {
    session: Slot,
    place: &'static str,
}

impl PostgresLease {
    /// On the database of `server`, which is the `side` that is to open.
    pub fn new(server: ConnInfo, side: Side, tenant: Tenant) -> Self {
        let place = side.name();
        let session = Slot::new(server, "cutover lease", place, Kind::Server);
        Self::over(PostgresLeaseTable { session, place }, tenant)
    }
}

impl PostgresLeaseTable {
    /// Runs a statement that gives a row if it took effect; the session may be read-only by default.
    async fn change(&self, statement: &str, doing: &str, deadline: Instant) -> PortResult<bool> {
        let session = self.session.get(deadline).await?;
        let sql =
            format!("BEGIN READ WRITE; SET LOCAL synchronous_commit = on; {statement}; COMMIT");
        match session.rows(&sql, deadline).await {
            Ok(rows) => Ok(!rows.is_empty()),
            Err(error) => {
                // It may be inside a failed transaction.
                self.session.close().await;
                Err(error.at(self.place, doing))
            }
        }
    }
}

impl LeaseTable for PostgresLeaseTable {
    async fn create(&self, deadline: Instant) -> PortResult<()> {
        let session = self.session.get(deadline).await?;
        let made = house::has_table(&session, "lease", TABLE, self.place, deadline).await;
        if made.is_err() {
            // It may be inside a failed transaction.
            self.session.close().await;
        }
        made
    }

    async fn read(&self, pipeline: &str, deadline: Instant) -> PortResult<Option<Row>> {
        let session = self.session.get(deadline).await?;
        let query = format!(
            "SELECT epoch, holder, renewal FROM _cutover.lease WHERE pipeline = {}",
            literal(pipeline)
        );
        house::is_ours(&session, self.place, deadline).await?;
        let failed = |error: SqlError| error.at(self.place, "reading the lease");
        let rows = match session.rows(&query, deadline).await {
            Ok(rows) => rows,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Row {
            epoch: row.number("epoch").map(Epoch).map_err(failed)?,
            holder: row.get("holder").unwrap_or_default().to_owned(),
            renewal: row.number("renewal").map_err(failed)?,
        }))
    }

    async fn take(
        &self,
        tenant: &Tenant,
        found: Option<&Row>,
        epoch: Epoch,
        deadline: Instant,
    ) -> PortResult<bool> {
        let (pipeline, holder) = (literal(&tenant.pipeline), literal(&tenant.holder));
        let statement = match found {
            None => format!(
                "INSERT INTO _cutover.lease (pipeline, epoch, holder, renewal) \
                 VALUES ({pipeline}, {epoch}, {holder}, 1) ON CONFLICT DO NOTHING RETURNING epoch"
            ),
            Some(row) => format!(
                "UPDATE _cutover.lease SET epoch = {epoch}, holder = {holder}, \
                 renewal = renewal + 1, renewed_at = now() \
                 WHERE pipeline = {pipeline} AND holder = {} AND renewal = {} RETURNING epoch",
                literal(&row.holder),
                row.renewal
            ),
        };
        self.change(&statement, "taking the lease", deadline).await
    }

    async fn renew(&self, tenant: &Tenant, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        let statement = format!(
            "UPDATE _cutover.lease SET renewal = renewal + 1, renewed_at = now() \
             WHERE pipeline = {} AND holder = {} AND epoch = {epoch} RETURNING epoch",
            literal(&tenant.pipeline),
            literal(&tenant.holder)
        );
        self.change(&statement, "renewing the lease", deadline).await
    }

    async fn give_back(&self, tenant: &Tenant, deadline: Instant) -> PortResult<bool> {
        let statement = format!(
            "UPDATE _cutover.lease SET holder = '', renewal = renewal + 1 \
             WHERE pipeline = {} AND holder = {} RETURNING epoch",
            literal(&tenant.pipeline),
            literal(&tenant.holder)
        );
        self.change(&statement, "giving the lease back", deadline).await
    }

    async fn close(&self) {
        self.session.close().await;
    }
}
