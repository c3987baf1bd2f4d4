//! The way back: blue is opened, and nothing of the fence lives on in a session.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{BLUE, PostgresFence, PostgresUndo, SCAN_PAUSE, acts, doing, rights, session_of};
use crate::ports::{PortError, PortResult};
use crate::sql::Sql;

/// How long sessions may take to end that were told to. They don't hold the way back up: blue is
/// open by then, and the worst is a session that stays read-only.
const CLOSE_MAX: Duration = Duration::from_millis(500);

impl PostgresFence {
    /// Undoes whatever was done, from whatever state blue is in.
    pub(super) async fn open_again(
        &self,
        undo: &PostgresUndo,
        deadline: Instant,
    ) -> PortResult<()> {
        // From outside: blue itself may refuse us.
        let outside = self.outside.get(deadline).await?;
        self.end_own_sessions(&outside, &undo.database, deadline).await?;
        for statement in acts::lower(undo) {
            outside.run(&statement, deadline).await.map_err(doing("opening blue again"))?;
        }
        let row = outside
            .row(&rights::prior_sql(&undo.database), deadline)
            .await
            .map_err(doing("looking whether blue is open"))?;
        if row.get("read_only").map(str::to_owned) != undo.read_only
            || row.is_true("allow_connections") != undo.allow_connections
        {
            return Err(PortError::new(
                BLUE,
                "blue's settings are not what they were before, although they were put back",
            ));
        }
        self.close_read_only_sessions(&outside, undo, deadline).await
    }

    /// Ends every session of a fence around this database but the one that asks, whoever opened
    /// it. A statement of an interrupted act may still run in one: it would take effect after it
    /// was undone. A session that waits for a lock does not even notice that we are gone.
    async fn end_own_sessions(
        &self,
        outside: &Sql,
        database: &str,
        deadline: Instant,
    ) -> PortResult<()> {
        self.admin.close().await;
        self.locks.close().await;
        self.marker.close().await;
        let query = acts::end_own_sql(database);
        loop {
            let left = outside
                .rows(&query, deadline)
                .await
                .map_err(doing("ending the fence's own sessions"))?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() + SCAN_PAUSE >= deadline {
                let left: Vec<_> = left.iter().map(session_of).collect();
                return Err(PortError::new(
                    BLUE,
                    format!("the fence's own sessions did not end in time: {}", left.join("; ")),
                ));
            }
            tokio::time::sleep(SCAN_PAUSE).await;
        }
    }

    /// Closes the sessions that connected while blue was read-only by default: the setting is
    /// copied when a session starts, so they would stay read-only for life.
    async fn close_read_only_sessions(
        &self,
        outside: &Sql,
        undo: &PostgresUndo,
        deadline: Instant,
    ) -> PortResult<()> {
        let Some(since) = undo.at.as_deref().filter(|_| undo.may_alter) else { return Ok(()) };
        let what = "closing sessions that are read-only";
        let until = outside.row(acts::NOW, deadline).await.map_err(doing(what))?;
        let until = until.get("now").unwrap_or("infinity").to_owned();
        let query = acts::close_since_sql(&undo.database, since, &until);
        // Who is just starting has read the old setting, perhaps, but can't be seen yet.
        let mut starting: Option<BTreeSet<String>> = None;
        let deadline = deadline.min(Instant::now() + CLOSE_MAX);
        loop {
            if starting.as_ref().is_none_or(|pids| !pids.is_empty()) {
                let rows = outside.rows(&acts::starting_sql(&undo.database), deadline).await;
                let rows = rows.map_err(doing(what))?;
                let now = rows.iter().filter_map(|row| row.at(0).map(str::to_owned)).collect();
                starting = Some(match starting {
                    None => now,
                    Some(before) => before.intersection(&now).cloned().collect(),
                });
            }
            let rows = outside.rows(&query, deadline).await.map_err(doing(what))?;
            let (closing, kept): (Vec<_>, Vec<_>) =
                rows.iter().partition(|row| row.is_true("closable"));
            let done = closing.is_empty() && starting.as_ref().is_none_or(BTreeSet::is_empty);
            let late = Instant::now() + SCAN_PAUSE >= deadline;
            if done || late {
                let left: Vec<_> = kept.into_iter().chain(closing).map(session_of).collect();
                if !left.is_empty() {
                    tracing::warn!(
                        "blue accepts writes again, but sessions that connected meanwhile could \
                         not be closed and stay read-only: {}",
                        left.join("; ")
                    );
                }
                return Ok(());
            }
            tokio::time::sleep(SCAN_PAUSE).await;
        }
    }
}
