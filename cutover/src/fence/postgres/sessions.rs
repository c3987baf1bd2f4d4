//! Closing the sessions of others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{acts, doing, session_of};
use crate::ports::{PortError, PortResult};
use crate::sql::{Sql, TextRow};

/// Between two looks at the sessions.
pub(super) const SCAN_PAUSE: Duration = Duration::from_millis(2);

/// Sessions that were closed, by pid.
pub(super) type Closed = BTreeMap<String, String>;

/// Which sessions have to be gone.
pub(super) enum Gone {
    /// Everybody's. The door is closed: nobody comes after them. The pids are of sessions that were
    /// just starting when it closed: they have passed it, but can't be seen yet.
    All(BTreeSet<String>),
    /// Those that began before this moment of the server's clock. Others may still come in, and
    /// are closed too; but they can't keep us from ending, however fast they come.
    Before(String),
}

impl Gone {
    /// Only those that began before this moment; `None`: everybody.
    pub fn before(&self) -> Option<&str> {
        match self {
            Gone::All(_) => None,
            Gone::Before(moment) => Some(moment),
        }
    }
}

/// Sessions that are just starting.
pub(super) async fn starting(
    sql: &Sql,
    place: &'static str,
    database: &str,
    deadline: Instant,
) -> PortResult<BTreeSet<String>> {
    let rows = sql.rows(&acts::starting_sql(database), deadline).await;
    let rows = rows.map_err(doing(place, "looking for sessions that are starting"))?;
    Ok(rows.iter().filter_map(|row| row.at(0).map(str::to_owned)).collect())
}

/// Closes every foreign session that it finds, once.
pub(super) async fn close(
    sql: &Sql,
    place: &'static str,
    database: &str,
    before: Option<&str>,
    closed: &mut Closed,
    deadline: Instant,
) -> PortResult<Vec<TextRow>> {
    let query = acts::scan_sql(database, before);
    let rows = sql.rows(&query, deadline).await.map_err(doing(place, "closing sessions"))?;
    for row in &rows {
        if let Some(pid) = row.get("pid") {
            closed.entry(pid.to_owned()).or_insert_with(|| session_of(row));
        }
    }
    Ok(rows)
}

/// Closes foreign sessions until two scans in a row find none that has to be gone. The number of
/// such scans.
pub(super) async fn clear(
    sql: &Sql,
    place: &'static str,
    database: &str,
    mut gone: Gone,
    closed: &mut Closed,
    deadline: Instant,
) -> PortResult<u32> {
    let mut clean_scans = 0;
    loop {
        let mut rows = close(sql, place, database, gone.before(), closed, deadline).await?;
        rows.retain(|row| row.is_true("matters"));
        let (_, kept): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_true("closable"));
        if !kept.is_empty() {
            let kept: Vec<_> = kept.into_iter().map(session_of).collect();
            return Err(PortError::new(
                place,
                format!("superusers have sessions on {place}: {}", kept.join("; ")),
            )
            .remedy("close them, or connect as a superuser"));
        }
        let mut unseen = 0;
        if let Gone::All(passed) = &mut gone
            && !passed.is_empty()
        {
            let now = starting(sql, place, database, deadline).await?;
            passed.retain(|pid| now.contains(pid));
            // Who has just become visible was not in the scan above.
            unseen = passed.len().max(1);
        }
        if rows.is_empty() && unseen == 0 {
            clean_scans += 1;
            if clean_scans >= 2 {
                return Ok(clean_scans);
            }
        } else {
            clean_scans = 0;
        }
        if Instant::now() + SCAN_PAUSE >= deadline {
            let mut left: Vec<_> = rows.iter().map(session_of).collect();
            if left.is_empty() {
                left.push(format!("{unseen} that are just starting"));
            }
            return Err(PortError::new(
                place,
                format!("sessions on {place} could not be closed in time: {}", left.join("; ")),
            )
            .remedy("close them by hand, or keep them from reconnecting"));
        }
        tokio::time::sleep(SCAN_PAUSE).await;
    }
}
