//! The first half's transactions: each as long as its locks fit into green's lock table.
//!
//! What a transaction makes stays locked until it ends, about four locks for a table. So a schema of
//! thousands of tables takes several transactions on a server with stock settings, and a schema of a few
//! hundred takes one. The number of statements that are done, and a digest of them, are written down in the same
//! transaction. A restart goes on behind them if the new dump begins with the same statements, and
//! halts if it does not.
//!
//! A session whose process was killed may still be about to commit. So a transaction begins with a lock
//! that only one session can have, and under it the note has to be the one that we know.

use decoders::postgres::lock_room;
use sha2::{Digest, Sha256};
use tokio_postgres::GenericClient;

use super::marks::{Marks, STATE_TABLE};
use super::script::Entry;
use super::session::Restorer;
use crate::backfill::BackfillError;

/// Locks that a statement is assumed to take at most until they are counted again.
const LOCKS_PER_STATEMENT: i64 = 8;

/// How long the session of a killed process is waited for, seconds.
const WAIT_S: u32 = 60;

/// Locks of one transaction, as far as they are in the table that all sessions share.
#[derive(Debug)]
pub(super) struct Room {
    limit: i64,
    /// Statements until they are counted again.
    unlooked: i64,
}

impl Room {
    pub(super) async fn read(green: &impl GenericClient) -> Result<Self, BackfillError> {
        let asked = |error| BackfillError::database("reading green's settings", &error);
        Ok(Self::of(lock_room::for_one(green).await.map_err(asked)?))
    }

    fn of(limit: i64) -> Self {
        let mut room = Self { limit, unlooked: 0 };
        room.emptied();
        room
    }

    /// Whether the transaction should end here, one statement later than at the last call.
    pub(super) async fn is_full(
        &mut self,
        green: &impl GenericClient,
    ) -> Result<bool, BackfillError> {
        self.unlooked -= 1;
        if self.unlooked > 0 {
            return Ok(false);
        }
        // The view has a row for each mode in which something is locked.
        const HELD: &str = "
            SELECT pg_catalog.count(*) FROM (
                SELECT DISTINCT locktype, database, relation, classid, objid, objsubid
                FROM pg_catalog.pg_locks
                WHERE pid = pg_catalog.pg_backend_pid() AND NOT fastpath) held";
        let asked = |error| BackfillError::database("counting locks on green", &error);
        let row = green.query_one(HELD, &[]).await.map_err(asked)?;
        let held: i64 = row.try_get(0).map_err(asked)?;
        self.unlooked = self.statements(held);
        // Statements that take no new lock don't make it count after each of them.
        Ok(self.unlooked == 0)
    }

    /// Statements for which there is room beside so many locks.
    fn statements(&self, held: i64) -> i64 {
        ((self.limit - held) / LOCKS_PER_STATEMENT).max(0)
    }

    /// A new transaction begins. However small the table is, a statement at a time goes.
    pub(super) fn emptied(&mut self) {
        self.unlooked = self.statements(0).max(1);
    }
}

/// How far the first half has come.
pub(super) struct Position {
    /// Statements that are done.
    pub done: usize,
    digest: Sha256,
    /// The note on green, as far as we know.
    note: Option<String>,
}

impl Position {
    /// Where an earlier run broke off in these statements; at the first if there was none.
    ///
    /// # Errors
    /// The earlier run had done other statements.
    pub(super) async fn read(
        green: &impl GenericClient,
        entries: &[Entry],
    ) -> Result<Self, BackfillError> {
        let asked = |error| BackfillError::database("reading what was restored on green", &error);
        let note = Marks::restoring(green).await.map_err(asked)?;
        let mut position = Self { done: 0, digest: Sha256::new(), note: None };
        let Some(note) = note else { return Ok(position) };
        let done = note.split(' ').next().and_then(|done| done.parse::<usize>().ok());
        for entry in entries.iter().take(done.unwrap_or(0)) {
            position.advance(entry);
        }
        if position.describe() != note {
            return Err(BackfillError::halt(
                "a run that broke off has restored a part of blue's schema on green, and what is to be restored now \
                 begins otherwise: blue's schema, the section [schema], our role or pg_dump have changed",
                "replicator teardown, then give green an empty database (DROP DATABASE, CREATE DATABASE) and start again",
            ));
        }
        position.note = Some(note);
        Ok(position)
    }

    /// One more is done.
    pub(super) fn advance(&mut self, entry: &Entry) {
        self.done += 1;
        self.digest.update((entry.sql.len() as u64).to_le_bytes());
        self.digest.update(entry.sql.as_bytes());
    }

    fn describe(&self) -> String {
        let digest = self.digest.clone().finalize();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} statements, sha256 {digest}", self.done)
    }

    /// Begins the next transaction.
    ///
    /// # Errors
    /// Somebody else restores.
    pub(super) async fn begin(&self, restorer: &Restorer) -> Result<(), BackfillError> {
        let framed = |error| BackfillError::database("restoring the schema on green", &error);
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = '{WAIT_S}s';
             SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('{STATE_TABLE} restoring'));
             SET LOCAL lock_timeout = 0"
        );
        restorer.run(&sql).await?.map_err(framed)?;
        let note = Marks::restoring(&**restorer.client()).await.map_err(framed)?;
        // Its last transaction takes the note away.
        let is_over = Marks::scripts(&**restorer.client()).await.map_err(framed)?.is_some();
        if is_over || note != self.note {
            return Err(BackfillError::retry(
                "another session has gone on with restoring the schema on green",
            ));
        }
        Ok(())
    }

    /// Writes down how far it is; the caller commits.
    pub(super) async fn note(&mut self, restorer: &Restorer) -> Result<(), BackfillError> {
        let framed = |error| BackfillError::database("restoring the schema on green", &error);
        let note = self.describe();
        Marks::set_restoring(&**restorer.client(), Some(&note)).await.map_err(framed)?;
        self.note = Some(note);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_counted_the_more_often_the_fewer_are_left() {
        let mut room = Room::of(1_600);
        assert_eq!(room.unlooked, 200);
        assert_eq!([1_200, 1_592, 1_593, 2_000].map(|held| room.statements(held)), [50, 1, 0, 0]);
        room.unlooked = 0;
        room.emptied();
        assert_eq!(room.unlooked, 200);
        assert_eq!(Room::of(2).unlooked, 1);
    }
}
