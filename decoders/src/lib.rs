//! Bytes from a source to normalized change events.
//!
//! This crate owns the vocabulary of the whole engine ([`change`]), the contracts that a source
//! of changes fulfils ([`source`]), and one module per engine: [`postgres`] and [`mysql`].
//!
//! What is absent on purpose: no policy (when to retry, what to apply), no storage, no target.
//! Nothing here depends on another crate of the workspace.

pub mod assemble;
pub mod change;
pub mod json;
mod maybe_tls;
pub mod mysql;
pub mod postgres;
pub mod source;
pub mod spool;

pub use change::{
    Cell, ChangeEvent, Column, Generated, Lsn, OldRow, Part, Position, QualifiedName,
    ReplicaIdentity, Row, TableId, TableSchema, Transaction, UNTOLD_ORIGIN, Value,
};
pub use maybe_tls::MaybeTls;
pub use source::{Source, SourceError, SourceEvent};
