//! Who may act. A controller that has lost its lease does nothing more.

mod postgres;

use std::time::Duration;

pub use postgres::{PostgresLease, Tenant};

use crate::ports::{Epoch, Lease, PortResult};

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
