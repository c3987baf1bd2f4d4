//! The audit log: who asked for what, and what every run did, in lines that prove each other.
//!
//! `audit.jsonl` in the state directory. Requests are on the disk before they are acted on. What
//! runs do is written down beside them, not in their way: the journal is what a run waits for, and
//! what a crash cut off here is added from there at the next start.

pub mod chain;
mod event;
mod file;
mod page;
mod writer;

pub use chain::{Broken, Followed};
pub use event::{Event, Kind, Line};
pub use file::{AuditFile, FILE};
pub use page::page;
pub use writer::Audit;
