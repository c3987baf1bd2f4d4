//! The contract of a target of changes.
//!
//! # Why this is exactly-once
//! A lane writes the rows of whole source transactions and one progress row in the *same* target
//! transaction. After any crash the target itself says how far it got: [`Target::progress`] is
//! read before the stream resumes, and what it covers is dropped. No second store takes part in
//! that argument, so losing the local checkpoint never loses or repeats a change. What the rows of
//! several lanes say together is in [`crate::mark`].
//!
//! A lane need not wait until its commit is in the target's log: a target that crashes comes back with
//! everything up to some commit and with the progress that belongs to it, whatever is lost behind. But
//! what a source may forget is only what a [`Flusher`] has seen there.

use std::future::Future;
use std::sync::Arc;

use decoders::change::{Lsn, TableSchema, Transaction};
use decoders::source::Disposition;

use crate::conflicts::TableConflicts;
use crate::mark::{Reached, Share};

/// Number of a lane, from 0. A lane is one applying connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId(pub u16);

/// What one call of [`Lane::apply`] committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// End of the last source transaction that is committed on the target; `None` while the parts of a
    /// large one keep the target's transaction open. Whether it is flushed only [`Flusher::flush`] says.
    pub end_lsn: Option<Lsn>,
    /// Source transactions committed by this call.
    pub transactions: u64,
    /// Row changes written by this call.
    pub changes: u64,
}

/// Why a target can't go on.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TargetError {
    /// Retry or stop.
    pub disposition: Disposition,
    /// What happened and where (table, operation, position); no row values, no secrets.
    pub message: String,
    /// The next thing for a person to do, where there is one.
    pub remedy: Option<String>,
    /// Another order may solve it: the target refused a row because of what other rows are at this
    /// moment (a constraint, a deadlock). Says nothing about the disposition when there is no other
    /// order.
    pub conflict: bool,
    /// It is about the row that was written: others may well be taken.
    pub about_row: bool,
    /// The error beneath.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TargetError {
    /// An error that a reconnect may heal.
    pub fn retry(message: impl Into<String>) -> Self {
        Self {
            disposition: Disposition::Retry,
            message: message.into(),
            remedy: None,
            conflict: false,
            about_row: false,
            cause: None,
        }
    }

    /// An error that stops the stream until somebody has acted on `remedy`.
    pub fn halt(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            disposition: Disposition::Halt,
            message: message.into(),
            remedy: Some(remedy.into()),
            conflict: false,
            about_row: false,
            cause: None,
        }
    }

    /// The same, about the row that was written.
    pub fn of_row(mut self) -> Self {
        self.about_row = true;
        self
    }

    /// Transactions came in another order than the source's. Never to be tried again: the next start
    /// would begin behind one that is missing.
    pub fn out_of_order(message: impl Into<String>) -> Self {
        Self::halt(
            message,
            "This is a defect of the engine, and green may lack a transaction: please report it, verify \
             both sides, and do not cut over before",
        )
    }

    /// The same with the error beneath it. Never a server's own error: those quote row values.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

/// One applying connection.
pub trait Lane: Send {
    /// Applies `transactions`, which follow each other in commit order, as the only lane that has
    /// any: see [`Lane::apply_share`].
    fn apply(
        &mut self,
        transactions: &[Transaction],
    ) -> impl Future<Output = Result<Applied, TargetError>> + Send {
        self.apply_share(transactions, Share::ALL)
    }

    /// Applies `transactions`, which are in commit order, as a share of the stream.
    ///
    /// If the last one ends ([`decoders::Part::ends`]), everything and the progress row are
    /// committed in one target transaction before this returns. If it does not, the
    /// target's transaction stays open for the next call. On an error nothing of the open
    /// transaction stays. The lane must then be thrown away, unless the error is a
    /// [`conflict`](TargetError::conflict): then it is as it was before the transaction began.
    ///
    /// Every UPDATE and DELETE must match exactly one row, every value must be there; anything
    /// else is an error that stops the stream.
    fn apply_share(
        &mut self,
        transactions: &[Transaction],
        share: Share,
    ) -> impl Future<Output = Result<Applied, TargetError>> + Send;

    /// Whether [`Lane::send`] would take `transactions`, which follow what was sent before: a lane may be
    /// able to write small ones before it is answered about those before them.
    fn is_ready_for(&self, _transactions: &[Transaction]) -> bool {
        false
    }

    /// Sends `transactions`, for which [`Lane::is_ready_for`] was true, as the only lane that has any; they
    /// are one target transaction, as those of [`Lane::apply`]. What became of it [`Lane::answer`] says, in
    /// the order in which they were sent. Until all are answered nothing else may be asked of the lane.
    /// If one of them fails nothing of those behind it stays. After any error the lane must be thrown away.
    fn send(
        &mut self,
        _transactions: &[Transaction],
    ) -> impl Future<Output = Result<(), TargetError>> + Send {
        async { Err(TargetError::retry("this lane takes one transaction after the other")) }
    }

    /// Waits until it is known what became of the oldest that was sent; for ever if nothing was. Dropping
    /// it loses nothing.
    fn answer_came(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// What became of the oldest that was sent. It is committed, as after [`Lane::apply`].
    fn answer(&mut self) -> impl Future<Output = Result<Applied, TargetError>> + Send {
        async { Err(TargetError::retry("this lane takes one transaction after the other")) }
    }

    /// Gives back at once what others may be waiting for. A lane that is just dropped does so too,
    /// but when the target notices.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Waits for the target's log in the place of its lanes.
pub trait Flusher: Send {
    /// What any lane had committed when this was called, up to the transaction that ends at `through`,
    /// survives a crash of the target once it returns. Dropping it half-way does no harm.
    ///
    /// # Errors
    /// The target's, and `Retry` where what is to be flushed is not there: another server answers.
    fn flush(&mut self, through: Lsn) -> impl Future<Output = Result<(), TargetError>> + Send;
}

/// The flusher of a target whose lanes wait for its log themselves.
#[derive(Clone, Copy, Debug)]
pub struct FlushedByLanes;

impl Flusher for FlushedByLanes {
    async fn flush(&mut self, _: Lsn) -> Result<(), TargetError> {
        Ok(())
    }
}

/// A database that changes are applied to.
pub trait Target: Send + Sync {
    /// Its lanes.
    type Lane: Lane;
    /// What makes their commits durable.
    type Flusher: Flusher;

    /// Opens one applying connection.
    fn open_lane(&self, id: LaneId)
    -> impl Future<Output = Result<Self::Lane, TargetError>> + Send;

    /// What waits for the log. [`Target::progress`] has connected already for it: the target may be closed for
    /// newcomers by now.
    fn open_flusher(&self) -> impl Future<Output = Result<Self::Flusher, TargetError>> + Send;

    /// How far the target got; all of it is flushed when this returns. No lane may be open; lanes of an
    /// earlier life that could still commit are an error (`Retry`).
    fn progress(&self) -> impl Future<Output = Result<Reached, TargetError>> + Send;

    /// Which transactions must stay in order because of their changes to a table.
    fn conflicts(
        &self,
        table: &Arc<TableSchema>,
    ) -> impl Future<Output = Result<TableConflicts, TargetError>> + Send;

    /// Whether one of `tables` is, now, a partition of another: rows then come under two names.
    fn shares_rows(
        &self,
        tables: &[Arc<TableSchema>],
    ) -> impl Future<Output = Result<bool, TargetError>> + Send;
}
