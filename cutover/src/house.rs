//! Our schema on a PostgreSQL side: made if it is missing, and believed only if it is ours alone
//! ([`decoders::postgres::state_schema`] says what that takes). Nobody but its owner can change that, so a session that
//! has seen it need not look again.

use decoders::postgres::state_schema;
use tokio::time::Instant;

use crate::ports::{PortError, PortResult};
use crate::sql::{Sql, SqlError};

/// Refuses a `_cutover` that is not ours alone.
///
/// # Errors
/// What is not ours; the server's.
pub(crate) async fn is_ours(session: &Sql, place: &str, deadline: Instant) -> PortResult<()> {
    if session.has_seen_house() {
        return Ok(());
    }
    let rows = session.rows(state_schema::STRANGERS, deadline).await;
    let rows = rows.map_err(|error| error.at(place, "looking whose the schema _cutover is"))?;
    let found: Vec<_> = rows.iter().filter_map(|row| row.at(0).map(str::to_owned)).collect();
    match state_schema::foreign(&found) {
        Some(what) => Err(PortError::new(place, what).remedy(state_schema::REMEDY)),
        None => Ok(()),
    }
}

/// Makes one of our tables by `create` if it is missing. After an error the session may be inside of a failed
/// transaction.
///
/// # Errors
/// The server's, and a schema that is not ours alone.
pub(crate) async fn has_table(
    session: &Sql,
    table: &str,
    create: &str,
    place: &str,
    deadline: Instant,
) -> PortResult<()> {
    is_ours(session, place, deadline).await?;
    let failed = |doing: String| move |error: SqlError| error.at(place, &doing);
    let there = format!("SELECT pg_catalog.to_regclass('_cutover.{table}') IS NOT NULL AS there");
    let row = session.row(&there, deadline).await;
    let row = row.map_err(failed(format!("looking for _cutover.{table}")))?;
    if !row.is_true("there") {
        // Only when it is missing: without CREATE on the database the IF NOT EXISTS fails too. A side that an
        // earlier run has closed is read-only by default.
        let create = format!(
            "BEGIN READ WRITE; CREATE SCHEMA IF NOT EXISTS _cutover; {create}; {}; COMMIT",
            state_schema::REVOKE
        );
        let made = session.run(&create, deadline).await;
        made.map_err(failed(format!("creating _cutover.{table}")))?;
        // Somebody may have been faster than we were.
        is_ours(session, place, deadline).await?;
    }
    session.sees_house();
    Ok(())
}
