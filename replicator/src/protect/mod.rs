//! Keeping blue from harm: it is in production, and this move is not its business.
//!
//! Three limits, each enforced in one place: connections ([`connections`]), load ([`load`]) and
//! the log that blue has to keep for us ([`wal`]).

mod config;
pub mod connections;
pub mod load;
pub mod wal;

pub use config::{OnWalLimit, ProtectConfig};
pub use connections::BlueConnections;
