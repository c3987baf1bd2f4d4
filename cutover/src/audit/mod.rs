//! The audit log: who asked for what, and what every run did, in lines that prove each other.
//!
//! `audit.jsonl` in the state directory, and beside it `audit-NUMBER.jsonl` for the older lines: a file
//! that is full gets that name, and the chain goes on in the next. They are never removed by us. Lines
//! are sealed with a key in `audit.key`; a copy of that elsewhere lets others prove the log.
//!
//! Requests are on the disk before they are acted on. What runs do is written down beside them, not in
//! their way: the journal is what a run waits for, and what a crash cut off here is added from there at
//! the next start.

mod asker;
pub mod chain;
mod event;
mod file;
mod files;
pub mod key;
mod page;
mod writer;

pub use asker::Asker;
pub use chain::{Broken, Followed};
pub use event::{Event, Kind, Line};
pub use file::AuditFile;
pub use files::{FILE, Part};
pub use page::{page, read as page_of, with as page_with};
pub use writer::Audit;
