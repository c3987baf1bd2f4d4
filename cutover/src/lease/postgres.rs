//! The lease as a row, `_cutover.lease(pipeline, epoch, holder, renewal)`, on the side that is to
//! open: whoever decides there has to hold it.
//!
//! No clock but our own is read. Whoever finds another's row waits until it has not been renewed
//! for a whole lease by *its* monotonic clock, and takes it then by compare-and-set; whoever holds
//! it counts from the moment *before* the statement that renewed it was sent. So the second can't
//! begin before the first knows that it has lost. The time in the row is for people.
//!
//! That is not enough by itself: a controller may be stopped between its look at the lease and its
//! commit. So the decision row takes a commit only together with the lease's row, locked, in one
//! statement ([`Tenant::holds_sql`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ports::{Epoch, Lease, LeaseRow, Nature, PortError, PortResult};
use crate::side::Side;
use crate::sql::{Kind, Slot, literal, soon};

/// For how long the lease is ours since it was last renewed.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_millis(500);
/// How long a renewal may take; the next one is another try.
const RENEW_MAX: Duration = Duration::from_secs(1);
/// Between two looks at another's row.
const LOOK: Duration = Duration::from_millis(200);

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS _cutover; \
     CREATE TABLE IF NOT EXISTS _cutover.lease (pipeline text PRIMARY KEY, \
     epoch bigint NOT NULL, holder text NOT NULL, renewal bigint NOT NULL, \
     renewed_at timestamptz NOT NULL DEFAULT now())";

/// Whose lease it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The pipeline's name.
    pub pipeline: String,
    /// Who acts for it: the same for every life over one state directory, which only one process
    /// can have open; never the same for two. Shown to people.
    pub holder: String,
}

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

/// The lease of one pipeline on the side that is to open. While it is held it renews itself.
#[derive(Clone)]
pub struct PostgresLease(Arc<Inner>);

struct Inner {
    session: Slot,
    place: &'static str,
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

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(renewing) = self.held().renewing.take() {
            renewing.abort();
        }
    }
}

/// The row as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    epoch: Epoch,
    holder: String,
    renewal: u64,
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is one assignment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pipeline(&self) -> String {
        literal(&self.tenant.pipeline)
    }

    async fn row(&self, deadline: Instant) -> PortResult<Option<Row>> {
        let session = self.session.get(deadline).await?;
        let query = format!(
            "SELECT epoch, holder, renewal FROM _cutover.lease WHERE pipeline = {}",
            self.pipeline()
        );
        let failed = |error: crate::sql::SqlError| error.at(self.place, "reading the lease");
        let rows = match session.rows(&query, deadline).await {
            Ok(rows) => rows,
            // No table or no schema yet.
            Err(error) if error.is("42P01") || error.is("3F000") => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Row {
            epoch: row.number("epoch").map(Epoch).map_err(failed)?,
            holder: row.get("holder").unwrap_or_default().to_owned(),
            renewal: row.number("renewal").map_err(failed)?,
        }))
    }

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

    /// Writes our name into the row if it still is as it was found.
    async fn take(&self, found: Option<&Row>, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        let (pipeline, holder) = (self.pipeline(), literal(&self.tenant.holder));
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

    async fn create(&self, deadline: Instant) -> PortResult<()> {
        let session = self.session.get(deadline).await?;
        let failed =
            |doing: &'static str| move |error: crate::sql::SqlError| error.at(self.place, doing);
        let there = "SELECT to_regclass('_cutover.lease') IS NOT NULL AS there";
        let row = session.row(there, deadline).await.map_err(failed("looking for the lease"))?;
        if !row.is_true("there") {
            // Only when it is missing: without CREATE on the database the IF NOT EXISTS fails too.
            let create = format!("BEGIN READ WRITE; {CREATE}; COMMIT");
            if let Err(error) = session.run(&create, deadline).await {
                // It may be inside a failed transaction.
                self.session.close().await;
                return Err(failed("creating the lease's table")(error));
            }
        }
        Ok(())
    }

    async fn acquire(&self, epoch: Epoch) -> PortResult<()> {
        self.create(soon()).await?;
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
        let statement = format!(
            "UPDATE _cutover.lease SET renewal = renewal + 1, renewed_at = now() \
             WHERE pipeline = {} AND holder = {} AND epoch = {epoch} RETURNING epoch",
            self.pipeline(),
            literal(&self.tenant.holder)
        );
        let is_ours = self.change(&statement, "renewing the lease", sent + RENEW_MAX).await?;
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

impl PostgresLease {
    /// On the database of `server`, which is the `side` that is to open.
    pub fn new(server: ConnInfo, side: Side, tenant: Tenant) -> Self {
        let place = side.name();
        let session = Slot::new(server, "cutover lease", place, Kind::Server);
        Self(Arc::new(Inner { session, place, tenant, held: Mutex::default() }))
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

impl Lease for PostgresLease {
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
        let statement = format!(
            "UPDATE _cutover.lease SET holder = '', renewal = renewal + 1 \
             WHERE pipeline = {} AND holder = {} RETURNING epoch",
            self.0.pipeline(),
            literal(&self.0.tenant.holder)
        );
        let deadline = Instant::now() + RENEW_MAX;
        if let Err(error) = self.0.change(&statement, "giving the lease back", deadline).await {
            // Whoever wants it waits until it has run out.
            tracing::debug!("{error}");
        }
        self.0.session.close().await;
    }
}
