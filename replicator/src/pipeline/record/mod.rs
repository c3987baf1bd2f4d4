//! The record of the source's catalog, which the target keeps ([`sinks::catalog_record`]): what a table was when
//! it was copied, against what it is now. It shows what the stream can't: that rows were moved by a change of
//! the catalog, or while a table was outside of the publication.
//!
//! # What is decided from it
//! A relation is compared by name and OID with what is kept of it. Any difference is one of these:
//!
//! - *made again*: the name stands for another OID. The old rows went without a word. Nothing goes on before the
//!   target's rows are gone too; then the new OID is written down, and the table is unproven.
//! - *moved*: rows may have changed. The table is unproven from the moment that this is seen.
//! - *harmless*: no row can have changed. The record is renewed.
//!
//! The record is renewed in the transaction that marks the table, so a change is seen once and can't be
//! forgotten in between.
//!
//! # Why a change counts as one that moved rows
//! *Rewritten.* ALTER TABLE that computes rows anew gives the table another file, and so do VACUUM FULL, CLUSTER and
//! TRUNCATE, which move no value that the stream does not bring. What sets ALTER apart: it writes the catalog row
//! of the column that it computes, and it exchanges the TOAST table for a new one, where the others keep it
//! (`swap_toast_by_content` in `cluster.c`; TRUNCATE gives it a new file only). So another file together
//! with a column's new catalog row, or with another TOAST table, is a rewrite. ANALYZE and CREATE INDEX change
//! neither (both write `pg_class` in place), REINDEX no file of the table.
//!
//! *Doubt counts as moved.* A GRANT on a column and a VACUUM FULL between two looks appear as a rewrite; so does VACUUM FULL
//! of a table with a column that was added with a default, because it writes that column's catalog row too.
//!
//! *A column under a known name with another number* was dropped and added again. *A new column* is harmless if
//! nothing filled it: neither the catalog (`atthasmissing`, which stays when the default is dropped) nor a
//! rewrite. What a default computed on the source is another value on the target.
//!
//! *Outside for a while.* The membership names who wrote the publication, its row for the table or for
//! the partitioned table above, and each link between them. A table that was taken out and put back, or detached
//! and attached, has another one.
//!
//! *Joined late.* A table that came into the publication after the copy is complete in the stream if it was made as a
//! partition of a table that was in it (`is_born_child`), or if it was seen empty while it was in it, in one
//! snapshot. Else it may have brought rows along: unproven.
//!
//! # What is not seen
//! A partition without a TOAST table that is set UNLOGGED, written and set LOGGED again between two looks. The
//! source refuses that for tables that are published by their own name.

mod compare;
mod fence;
mod judge;
mod look;
mod mirror;

use decoders::postgres::session::Session;
use sinks::postgres::target_error;

use super::failure::{Failure, chain};
use crate::config::Config;
use crate::status::Shared;
use crate::store::Store;

pub(super) use look::{Book, Look};
pub(super) use mirror::statement;

/// Lets a session write although its side may be closed to others.
///
/// # Errors
/// The server's.
pub(super) async fn make_writable(session: &Session) -> Result<(), Failure> {
    // In a database that accepts no connections parallel workers can't start before the minor releases of February
    // 2025, which is an error of the statement.
    let sql = "SET default_transaction_read_only = off; SET max_parallel_workers_per_gather = 0";
    let made = session.batch_execute(sql).await;
    Ok(made.map_err(|error| target_error("making a session writable", &error))?)
}

/// Rows may have been moved outside of the stream: what verifications have proven up to now is not
/// known any more, and one that is under way proves nothing.
///
/// # Errors
/// The state directory's.
pub(super) fn end_proofs(config: &Config, shared: &Shared, store: &Store) -> Result<(), Failure> {
    shared.catalog.rows_moved();
    store.forget_verification()?;
    crate::verify::end_proof(&config.state_dir).map_err(|error| {
        let what = format!("{}: {}", config.state_dir.display(), chain(&error));
        Failure::retry("state directory", what)
    })
}
