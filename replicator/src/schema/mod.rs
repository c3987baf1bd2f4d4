//! Green's schema: dumped from blue with pg_dump, restored by our own executor in two halves.
//!
//! Types, functions and empty tables come before the rows, in one transaction. Indexes,
//! constraints and triggers come after them, in parallel where that is safe, each statement
//! together with its mark, so that a restart goes on where the last one stopped.

mod classify;
mod config;
mod dump;
mod find;
mod foreign_keys;
mod indexes;
mod marks;
mod post;
mod pre;
mod queue;
mod script;
mod session;
mod split;

pub use config::{SchemaConfig, SchemaMode};
pub use find::{FindPgDumpError, PG_DUMP_VARIABLE, PgDump, find_pg_dump};
pub(crate) use marks::{Marks, STATE_TABLE};
pub use post::{PostReport, copy_post_data};
pub use pre::{PreData, PreReport, copy_pre_data};
