//! The table locks.

use std::time::Duration;

use tokio::time::Instant;

use super::sessions::{self, Closed};
use super::{LOCK_TIMEOUT_MS, PostgresFence, acts, doing, vacuum};
use crate::ports::{PortError, PortResult};
use crate::sql::{Sql, soon};

/// Between two tries at the locks; doubles up to `LOCK_PAUSE_MAX`.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(160);

impl PostgresFence {
    /// Takes SHARE locks on all replicated tables, in short tries, and keeps them.
    ///
    /// Once they are granted no transaction is open that has written to one of these tables: it
    /// would still hold its own lock.
    pub(super) async fn lock_tables(
        &self,
        admin: &Sql,
        closed: &mut Closed,
        deadline: Instant,
    ) -> PortResult<u64> {
        let place = self.place;
        let locks = self.locks.get(deadline).await?;
        let mut pause = LOCK_PAUSE;
        let mut timeout_ms = LOCK_TIMEOUT_MS;
        loop {
            let tables = self.tables(admin, deadline).await?;
            let batch = acts::lock_sql(&tables, timeout_ms);
            match locks.run(&batch, deadline).await {
                Ok(()) => {
                    // A table may have joined the publication meanwhile.
                    if self.tables(admin, deadline).await? == tables {
                        return Ok(tables.len() as u64);
                    }
                }
                Err(error) if error.is("55P03") || error.is("40P01") => {
                    tracing::debug!("a try at the table locks failed: {}", error.text);
                    timeout_ms = vacuum::next_lock_timeout_ms(self, admin, deadline).await?;
                }
                Err(error) => {
                    self.locks.close().await;
                    return Err(error.at(place, "locking the replicated tables"));
                }
            }
            locks.run("ROLLBACK", deadline).await.map_err(doing(place, "letting go of locks"))?;
            // One that was prepared at the last moment keeps its locks for ever.
            self.none_prepared(admin, deadline).await?;
            // The next try may queue for as long as its timeout says.
            let ends = |timeout_ms| Instant::now() + pause + Duration::from_millis(timeout_ms);
            if ends(timeout_ms) >= deadline {
                timeout_ms = LOCK_TIMEOUT_MS;
            }
            if ends(timeout_ms) >= deadline {
                let holders = self.lock_holders(admin).await;
                return Err(PortError::new(
                    place,
                    format!("the replicated tables could not be locked in time: {holders}"),
                )
                .remedy("end the session that holds the lock, then run cutover again"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOCK_PAUSE_MAX);
            sessions::close(admin, place, self.database(), None, closed, deadline).await?;
        }
    }

    /// Who holds locks on user tables, for an error.
    async fn lock_holders(&self, admin: &Sql) -> String {
        match admin.rows(acts::LOCK_HOLDERS, soon()).await {
            Ok(rows) if rows.is_empty() => "nobody seems to hold them now".into(),
            Ok(rows) => rows.iter().filter_map(|row| row.at(0)).collect::<Vec<_>>().join("; "),
            Err(error) => format!("and nobody can be asked who holds them: {}", error.text),
        }
    }

    /// Whether the locks' session still has its locks.
    pub(super) async fn locks_held(&self, expected: u64, deadline: Instant) -> PortResult<bool> {
        let Some(locks) = self.locks.current().await else { return Ok(false) };
        let row = locks.row(acts::LOCKS_HELD, deadline).await;
        let held: u64 = row
            .and_then(|row| row.number("held"))
            .map_err(|error| error.at(self.place, "looking at our table locks"))?;
        Ok(held >= expected)
    }
}
