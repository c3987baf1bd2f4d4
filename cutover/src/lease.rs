//! Who may act. A controller that has lost its lease does nothing more.

mod kept;
mod mysql;
mod postgres;

use std::time::Duration;

pub use kept::{KeptLease, LeaseTable, Row};
pub(crate) use mysql::mysql_holds_sql;
pub use mysql::{MysqlLease, MysqlLeaseTable};
pub use postgres::{PostgresLease, PostgresLeaseTable};

use crate::ports::{Epoch, Lease, PortResult};

/// Whose lease it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The pipeline's name.
    pub pipeline: String,
    /// Who acts for it: the same for every life over one state directory, which only one process
    /// can have open; never the same for two. Shown to people.
    pub holder: String,
}

/// A lease that nobody competes for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncontested;

impl Lease for Uncontested {
    async fn acquire(&self, _epoch: Epoch) -> PortResult<()> {
        Ok(())
    }

    fn left(&self) -> Duration {
        Duration::MAX
    }

    async fn renew(&self) -> PortResult<()> {
        Ok(())
    }
}
