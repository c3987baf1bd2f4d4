//! The lease's row on MySQL and MariaDB.
//!
//! Every change is one statement in a transaction of its own. Where the side was closed by an earlier
//! run its server is read-only, which does not bind our account (see [`crate::fence::mysql`]).

use tokio::time::Instant;

use super::Tenant;
use super::kept::{KeptLease, LeaseTable, Row};
use crate::ports::{Epoch, PortResult};
use crate::side::Side;
use crate::sql::mysql::{MysqlError, MysqlSlot, ServerUrl, literal};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _cutover.lease ( \
     pipeline varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, \
     epoch bigint unsigned NOT NULL, \
     holder varchar(1024) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
     renewal bigint unsigned NOT NULL, renewed_at datetime(6) NOT NULL) ENGINE = InnoDB";

/// Rows of the lease if this tenant holds it for `epoch` and `condition` is true; nobody else can take it
/// until the transaction ends.
pub(crate) fn mysql_holds_sql(
    tenant: &Tenant,
    epoch: Epoch,
    columns: &str,
    condition: &str,
) -> String {
    format!(
        "SELECT {columns} FROM _cutover.lease WHERE pipeline = {} AND holder = {} \
         AND epoch = {epoch} AND {condition} LOCK IN SHARE MODE",
        literal(&tenant.pipeline),
        literal(&tenant.holder)
    )
}

/// The lease of one pipeline on a MySQL or MariaDB server.
pub type MysqlLease = KeptLease<MysqlLeaseTable>;

/// `_cutover.lease` of a MySQL or MariaDB server.
pub struct MysqlLeaseTable {
    session: MysqlSlot,
    place: &'static str,
}

impl MysqlLease {
    /// On `server`, which is the `side` that is to open.
    pub fn new(server: ServerUrl, side: Side, tenant: Tenant) -> Self {
        let place = side.name();
        Self::over(MysqlLeaseTable { session: MysqlSlot::new(server, place), place }, tenant)
    }
}

impl MysqlLeaseTable {
    async fn change(&self, statement: &str, doing: &str, deadline: Instant) -> PortResult<bool> {
        Ok(self.session.run(statement, doing, deadline).await?.affected > 0)
    }
}

impl LeaseTable for MysqlLeaseTable {
    async fn create(&self, deadline: Instant) -> PortResult<()> {
        self.session.ensure("lease", CREATE, "making the table of leases", deadline).await
    }

    async fn read(&self, pipeline: &str, deadline: Instant) -> PortResult<Option<Row>> {
        let query = format!(
            "SELECT epoch, holder, renewal FROM _cutover.lease WHERE pipeline = {}",
            literal(pipeline)
        );
        let failed = |error: MysqlError| error.at(self.place, "reading the lease");
        let answer = match self.session.try_run(&query, deadline).await? {
            Ok(answer) => answer,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let Some(row) = answer.rows.first() else { return Ok(None) };
        let number = |name| row.number(name).map_err(|error| failed(error.into()));
        Ok(Some(Row {
            epoch: Epoch(number("epoch")?),
            holder: row.get("holder").unwrap_or_default().to_owned(),
            renewal: number("renewal")?,
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
                "INSERT IGNORE INTO _cutover.lease \
                 VALUES ({pipeline}, {epoch}, {holder}, 1, utc_timestamp(6))"
            ),
            Some(row) => format!(
                "UPDATE _cutover.lease SET epoch = {epoch}, holder = {holder}, \
                 renewal = renewal + 1, renewed_at = utc_timestamp(6) \
                 WHERE pipeline = {pipeline} AND holder = {} AND renewal = {}",
                literal(&row.holder),
                row.renewal
            ),
        };
        self.change(&statement, "taking the lease", deadline).await
    }

    async fn renew(&self, tenant: &Tenant, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        let statement = format!(
            "UPDATE _cutover.lease SET renewal = renewal + 1, renewed_at = utc_timestamp(6) \
             WHERE pipeline = {} AND holder = {} AND epoch = {epoch}",
            literal(&tenant.pipeline),
            literal(&tenant.holder)
        );
        self.change(&statement, "renewing the lease", deadline).await
    }

    async fn give_back(&self, tenant: &Tenant, deadline: Instant) -> PortResult<bool> {
        let statement = format!(
            "UPDATE _cutover.lease SET holder = '', renewal = renewal + 1 \
             WHERE pipeline = {} AND holder = {}",
            literal(&tenant.pipeline),
            literal(&tenant.holder)
        );
        self.change(&statement, "giving the lease back", deadline).await
    }

    async fn close(&self) {
        self.session.close().await;
    }
}
