//! Distributed transactions that are prepared: they outlive their sessions, and whoever comes commits
//! them.

use tokio::time::Instant;

use super::Turn;
use crate::ports::{PortError, PortResult};
use crate::sql::TextRow;
use crate::sql::mysql::MysqlSession;

/// With the identity in hexadecimal digits: it may be any bytes.
pub(super) const RECOVER: [&str; 2] = ["XA RECOVER CONVERT XID", "XA RECOVER FORMAT='SQL'"];

fn described(row: &TextRow) -> Option<String> {
    let data = row.get("data")?;
    // MariaDB says it as a statement takes it.
    let Some(hex) = data.strip_prefix("0x") else { return Some(data.to_owned()) };
    let gtrid: usize = row.number("gtrid_length").ok()?;
    let (gtrid, bqual) = hex.split_at_checked(gtrid * 2)?;
    Some(format!("X'{gtrid}',X'{bqual}',{}", row.get("formatID")?))
}

/// Their identities, as statements take them.
pub(super) async fn recovered(
    session: &mut MysqlSession,
    is_mariadb: bool,
    place: &str,
    deadline: Instant,
) -> PortResult<Vec<String>> {
    let answer = session.run(RECOVER[usize::from(is_mariadb)], deadline).await;
    let answer = answer.map_err(|error| error.at(place, "listing prepared transactions (XA)"))?;
    let unreadable = || "one whose identity can't be read".to_owned();
    Ok(answer.rows.iter().map(|row| described(row).unwrap_or_else(unreadable)).collect())
}

/// Those that are prepared now.
pub(super) async fn prepared(turn: &mut Turn<'_>, deadline: Instant) -> PortResult<Vec<String>> {
    let (place, is_mariadb) = (turn.place, turn.facts.is_mariadb);
    recovered(turn.session(), is_mariadb, place, deadline).await
}

/// Fails if one is prepared.
pub(super) async fn none_prepared(turn: &mut Turn<'_>, deadline: Instant) -> PortResult<()> {
    let prepared = prepared(turn, deadline).await?;
    let Some(first) = prepared.first() else { return Ok(()) };
    let what = format!(
        "{} has distributed transactions that are prepared: {}",
        turn.place,
        prepared.join("; ")
    );
    let remedy = format!("XA COMMIT or XA ROLLBACK each of them, such as XA ROLLBACK {first}");
    Err(PortError::new(turn.place, what).remedy(remedy))
}
