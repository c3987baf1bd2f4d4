//! The lease as a row, `_cutover.lease(pipeline, epoch, holder, renewal)`, on the side that is to
//! open: whoever decides there has to hold it. What is the same on every engine; the statements are
//! those of [`LeaseTable`].
//!
//! No clock but our own is read. Whoever finds another's row waits until it has not been renewed
//! for a whole lease by *its* monotonic clock, and takes it then by compare-and-set; whoever holds
//! it counts from the moment *before* the statement that renewed it was sent. So the second can't
//! begin before the first knows that it has lost. The time in the row is for people.
//!
//! That is not enough by itself: a controller may be stopped between its look at the lease and its
//! commit. So the decision row takes a commit only together with the lease's row, locked, in one
//! statement.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Tenant;
use crate::ports::{Epoch, Lease, LeaseRow, Nature, PortError, PortResult};
use crate::sql::soon;

/// For how long the lease is ours since it was last renewed.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_millis(500);
/// How long a renewal may take; the next one is another try.
const RENEW_MAX: Duration = Duration::from_secs(1);
/// Between two looks at another's row.
const LOOK: Duration = Duration::from_millis(200);

/// A lease's row as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The run that it was last taken for.
    pub epoch: Epoch,
    /// Who holds it; empty: it was given back.
    pub holder: String,
    /// Changes with every statement that touches the row.
    pub renewal: u64,
}

/// The table of leases on one server. Changes are committed when they return, and `false` means that
/// the row was not as it had to be.
pub trait LeaseTable: Send + Sync + 'static {
    /// Creates the table if need be.
    fn create(&self, deadline: Instant) -> impl Future<Output = PortResult<()>> + Send;

    /// The pipeline's row. No table: none.
    fn read(
        &self,
        pipeline: &str,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Option<Row>>> + Send;

    /// Writes the tenant's name into the row if it still is as it was found.
    fn take(
        &self,
        tenant: &Tenant,
        found: Option<&Row>,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<bool>> + Send;

    /// Changes the row if it is the tenant's, for this run.
    fn renew(
        &self,
        tenant: &Tenant,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<bool>> + Send;

    /// Takes the tenant's name out of the row.
    fn give_back(
        &self,
        tenant: &Tenant,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<bool>> + Send;

    /// Lets go of the session.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The lease of one pipeline on the side that is to open. While it is held it renews itself.
pub struct KeptLease<T: LeaseTable>(Arc<Inner<T>>);

impl<T: LeaseTable> Clone for KeptLease<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<T> {
    table: T,
    tenant: Tenant,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    epoch: Epoch,
    /// Until when it is ours. `None`: it is not.
    until: Option<Instant>,
    renewing: Option<JoinHandle<()>>,
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        if let Some(renewing) = self.held().renewing.take() {
            renewing.abort();
        }
    }
}

impl<T> Inner<T> {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is one assignment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: LeaseTable> Inner<T> {
    async fn row(&self, deadline: Instant) -> PortResult<Option<Row>> {
        self.table.read(&self.tenant.pipeline, deadline).await
    }

    async fn take(&self, found: Option<&Row>, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        self.table.take(&self.tenant, found, epoch, deadline).await
    }

    async fn acquire(&self, epoch: Epoch) -> PortResult<()> {
        self.table.create(soon()).await?;
        let mut other: Option<(Row, Instant)> = None;
        loop {
            let sent = Instant::now();
            let found = self.row(soon()).await?;
            let is_free = found
                .as_ref()
                .is_none_or(|row| row.holder.is_empty() || row.holder == self.tenant.holder);
            let is_stale = match (&found, &other) {
                (Some(now), Some((seen, since))) if now == seen => sent - *since > LEASE,
                (Some(now), Some((seen, _))) if now.holder == seen.holder => {
                    return Err(self.held_by(&now.holder));
                }
                _ => false,
            };
            if is_free || is_stale {
                let taking = Instant::now();
                if self.take(found.as_ref(), epoch, soon()).await? {
                    let mut held = self.held();
                    held.epoch = epoch;
                    held.until = Some(taking + LEASE);
                    return Ok(());
                }
            }
            if let Some(row) = found
                && other.as_ref().is_none_or(|(seen, _)| *seen != row)
            {
                // What is read was there already when the answer came, not when it was asked for.
                other = Some((row, Instant::now()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn inherit(&self, from: &LeaseRow) -> PortResult<bool> {
        let mut seen: Option<(Row, Instant)> = None;
        loop {
            let sent = Instant::now();
            let Some(found) = self.row(soon()).await? else { return Ok(false) };
            let is_ours = found.holder == self.tenant.holder;
            if found.epoch != from.epoch || !(is_ours || found.holder == from.holder) {
                return Ok(false);
            }
            let is_stale = match &seen {
                Some((row, _)) if *row != found => return Err(self.held_by(&found.holder)),
                Some((_, since)) => sent - *since > LEASE,
                None => false,
            };
            if (is_ours || is_stale) && self.take(Some(&found), from.epoch, soon()).await? {
                let mut held = self.held();
                held.epoch = from.epoch;
                held.until = Some(sent + LEASE);
                return Ok(true);
            }
            if seen.is_none() {
                seen = Some((found, Instant::now()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn held_by(&self, holder: &str) -> PortError {
        let pipeline = &self.tenant.pipeline;
        PortError::new("lease", format!("another sidecar acts for pipeline {pipeline}: {holder}"))
            .remedy("let it go on, or stop it; only one sidecar may run for a pipeline")
            .of(Nature::Superseded)
    }

    async fn renew(&self) -> PortResult<()> {
        let sent = Instant::now();
        let epoch = self.held().epoch;
        let is_ours = self.table.renew(&self.tenant, epoch, sent + RENEW_MAX).await?;
        let mut held = self.held();
        if held.epoch != epoch {
            return Ok(());
        }
        held.until = is_ours.then(|| sent + LEASE);
        match is_ours {
            true => Ok(()),
            false => Err(PortError::new("lease", "another sidecar has taken the lease")),
        }
    }
}

impl<T: LeaseTable> KeptLease<T> {
    /// In the name of this tenant.
    pub(super) fn over(table: T, tenant: Tenant) -> Self {
        Self(Arc::new(Inner { table, tenant, held: Mutex::default() }))
    }

    /// Renews it for as long as it is ours.
    fn keep(&self) {
        let inner = Arc::downgrade(&self.0);
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWAL).await;
                let Some(inner) = inner.upgrade() else { return };
                if inner.held().until.is_none() {
                    return;
                }
                if let Err(error) = inner.renew().await {
                    tracing::warn!("the lease was not renewed: {error}");
                }
            }
        });
        if let Some(before) = self.0.held().renewing.replace(renewing) {
            before.abort();
        }
    }
}

impl<T: LeaseTable> Lease for KeptLease<T> {
    async fn acquire(&self, epoch: Epoch) -> PortResult<()> {
        self.0.acquire(epoch).await?;
        self.keep();
        Ok(())
    }

    fn left(&self) -> Duration {
        let until = self.0.held().until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    async fn renew(&self) -> PortResult<()> {
        self.0.renew().await
    }

    async fn look(&self, deadline: Instant) -> PortResult<Option<LeaseRow>> {
        let row = self.0.row(deadline).await?;
        Ok(row.map(|row| LeaseRow { epoch: row.epoch, holder: row.holder }))
    }

    async fn inherit(&self, from: &LeaseRow) -> PortResult<bool> {
        let is_ours = self.0.inherit(from).await?;
        if is_ours {
            self.keep();
        }
        Ok(is_ours)
    }

    async fn release(&self) {
        let (was_ours, renewing) = {
            let mut held = self.0.held();
            (held.until.take().is_some(), held.renewing.take())
        };
        if let Some(renewing) = renewing {
            renewing.abort();
        }
        if !was_ours {
            return;
        }
        let deadline = Instant::now() + RENEW_MAX;
        if let Err(error) = self.0.table.give_back(&self.0.tenant, deadline).await {
            // Whoever wants it waits until it has run out.
            tracing::debug!("{error}");
        }
        self.0.table.close().await;
    }
}
