//! The contract of a target of changes.
//!
//! # Why this is exactly-once
//! A lane writes the rows of whole source transactions and one progress row in the *same* target
//! transaction. After any crash the target itself says how far it got: [`Target::progress`] is
//! read before the stream resumes, and what it covers is dropped. No second store takes part in
//! that argument, so losing the local checkpoint never loses or repeats a change.

use std::future::Future;

use decoders::change::{Lsn, Transaction};
use decoders::source::Disposition;

/// Number of a lane, from 0. A lane is one applying connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId(pub u16);

/// What one call of [`Lane::apply`] made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// End of the last source transaction that is committed and flushed on the target; `None`
    /// while the parts of a large one keep the target's transaction open.
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
    /// The error beneath.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TargetError {
    /// An error that a reconnect may heal.
    pub fn retry(message: impl Into<String>) -> Self {
        Self { disposition: Disposition::Retry, message: message.into(), remedy: None, cause: None }
    }

    /// An error that stops the stream until somebody has acted on `remedy`.
    pub fn halt(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            disposition: Disposition::Halt,
            message: message.into(),
            remedy: Some(remedy.into()),
            cause: None,
        }
    }

    /// The same with the error beneath it. Never a server's own error: those quote row values.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

/// One applying connection.
pub trait Lane: Send {
    /// Applies `transactions`, which follow each other in commit order.
    ///
    /// If the last one ends ([`decoders::Part::ends`]), everything and the progress row are
    /// committed and flushed in one target transaction before this returns. If it does not, the
    /// target's transaction stays open for the next call. On an error nothing of the open
    /// transaction stays, and the lane must be thrown away.
    ///
    /// Every UPDATE and DELETE must match exactly one row, every value must be there; anything
    /// else is an error that stops the stream.
    fn apply(
        &mut self,
        transactions: &[Transaction],
    ) -> impl Future<Output = Result<Applied, TargetError>> + Send;
}

/// A database that changes are applied to.
pub trait Target: Send + Sync {
    /// Its lanes.
    type Lane: Lane;

    /// Opens one applying connection.
    fn open_lane(&self, id: LaneId)
    -> impl Future<Output = Result<Self::Lane, TargetError>> + Send;

    /// How far the target got: the end of the last source transaction committed there. `None` if
    /// nothing of this stream was ever applied.
    fn progress(&self) -> impl Future<Output = Result<Option<Lsn>, TargetError>> + Send;
}
