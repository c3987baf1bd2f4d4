//! The sidecar's right to act: the row on the side that is to open is its own, and its watchdog has
//! heard from it lately.

use std::time::Duration;

use cutover::ports::{Epoch, Journal, Lease, LeaseRow, PortResult};
use tokio::time::Instant;

use super::Guard;
use crate::store::RocksJournal;

/// The lease of a run. Taking it starts the watchdog.
pub struct SidecarLease<R> {
    row: R,
    guard: Guard,
    journal: RocksJournal,
}

impl<R: Lease> SidecarLease<R> {
    /// Over the row, and the watchdog that is told what goes into this journal.
    pub fn new(row: R, guard: Guard, journal: RocksJournal) -> Self {
        Self { row, guard, journal }
    }
}

impl<R: Lease> Lease for SidecarLease<R> {
    async fn acquire(&self, epoch: Epoch) -> PortResult<()> {
        self.row.acquire(epoch).await?;
        self.guard.watch(self.journal.read_all().await?).await
    }

    fn left(&self) -> Duration {
        self.guard.left().min(self.row.left())
    }

    async fn renew(&self) -> PortResult<()> {
        // The watchdog hears its beat anyway.
        self.row.renew().await
    }

    async fn look(&self, deadline: Instant) -> PortResult<Option<LeaseRow>> {
        self.row.look(deadline).await
    }

    async fn inherit(&self, from: &LeaseRow) -> PortResult<bool> {
        self.row.inherit(from).await
    }

    async fn release(&self) {
        self.guard.over().await;
        self.row.release().await;
    }
}
