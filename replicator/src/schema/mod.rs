//! Green's schema: dumped from blue with pg_dump, restored by our own executor in two halves.
//!
//! Types, functions and empty tables come before the rows, in as few transactions as green's lock table
//! allows. Indexes, constraints and triggers come after them, in parallel where that is safe, each statement
//! together with its mark, so that a restart goes on where the last one stopped. A table's indexes
//! need not wait for other tables' rows.

mod batch;
mod builder;
mod classify;
mod config;
mod constraints;
mod dump;
mod find;
mod foreign_keys;
mod indexes;
mod marks;
pub mod mysql;
mod pool;
mod post;
mod pre;
mod put_off;
mod queue;
mod script;
mod session;
pub mod settle;
mod split;
mod task;

pub use builder::IndexBuilder;
pub(crate) use builder::UndoneIndexes;
pub use config::{AccountsMode, MaterializedViews, SchemaConfig, SchemaMode};
pub use find::{FindPgDumpError, PG_DUMP_VARIABLE, PgDump, find_pg_dump};
pub(crate) use marks::{Marks, STATE_TABLE};
pub use post::{PostData, PostReport, copy_post_data};
pub use pre::{PreData, PreReport, copy_pre_data};
