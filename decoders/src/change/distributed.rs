//! Distributed transactions, whose changes come when they are prepared and count when they are committed.

use std::sync::Arc;

/// A step of a distributed transaction (XA), by the identity that its application gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Distributed {
    /// Comes first, in every part: the changes behind it count only when their transaction is committed,
    /// which may be days later.
    Keeps,
    /// Comes last, in the last part: the transaction of this identity is prepared. Without it the kept
    /// changes are committed where they end.
    Prepared(Arc<str>),
    /// The changes that were kept under this identity are committed here.
    Committed(Arc<str>),
    /// They are dropped.
    RolledBack(Arc<str>),
}
