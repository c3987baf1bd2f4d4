//! The contract of a source of changes.

use std::future::Future;

use crate::change::{Lsn, Position, Transaction};

/// What a source delivers, in commit order: transactions `T`, and positions `P` of its history.
#[derive(Debug)]
pub enum SourceEvent<T = Transaction, P = Position> {
    /// A committed transaction, or a part of a large one.
    Transaction(T),
    /// Everything up to here has been delivered, and nothing is open: an idle source's progress.
    Idle(P),
    /// The last event of a source that is right only far behind the tip: everything up to the
    /// last position reported has been delivered, and the source's other reader should go on
    /// behind it. Such a source gives nothing but errors afterwards.
    Handover,
}

/// What to do about an error, decided where the error is made and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The world may get better by itself: reconnect and resume from what is durable.
    Retry,
    /// Only a person can decide: stop, keep everything, say what to do.
    Halt,
}

/// Why a source can't go on.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// Retry or stop.
    pub disposition: Disposition,
    /// What happened and where; no row values, no secrets.
    pub message: String,
    /// The next thing for a person to do, where there is one.
    pub remedy: Option<String>,
    /// The error beneath.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SourceError {
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

    /// The same with the error beneath it.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

/// A stream of committed changes.
///
/// - `next` gives transactions whole and in commit order, or in consecutive parts when one is
///   larger than the source's cap. It is cancel-safe: a dropped call loses nothing.
/// - Nothing is skipped: what can't be decoded is an error.
/// - `next` keeps the connection alive (status feedback) while it is polled; `acknowledge`
///   releases the source's log up to a position that is durable on the target.
///
/// PostgreSQL counts its history by LSN, MySQL and MariaDB by sets of transactions: `T` and `P` are
/// what a transaction and a place in history are there. Changes are the same for all.
pub trait Source<T = Transaction, P = Position>: Send {
    /// The next event. Waits while the source is idle, reporting [`SourceEvent::Idle`] as its
    /// position moves.
    fn next(&mut self) -> impl Future<Output = Result<SourceEvent<T, P>, SourceError>> + Send;

    /// Keeps the connection alive while the consumer has no room for another event: sends status
    /// feedback, delivers nothing. Returns only on an error; cancel-safe.
    fn keep_alive(&mut self) -> impl Future<Output = SourceError> + Send;

    /// Lets the source forget everything up to `durable`. Never goes backwards; repeating is fine.
    fn acknowledge(&mut self, durable: P) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// The source's own words for a position of its stream, where positions are only counted: what
/// somebody who lost the count could ask the source for.
pub trait Positions: Send + Sync {
    /// What stands behind `position`; `None` if that is not known (any more).
    fn in_own_terms(&self, position: Lsn) -> Option<String>;
}
