//! Replication origins of a server (PostgreSQL manual, chapter 50 Replication Progress Tracking).

use super::failure::of_session;
use super::session::Session;
use crate::source::SourceError;

/// The names of all replication origins of the server, ordered. Each is somebody who replicates
/// into one of its databases, or once did.
pub async fn names(session: &Session) -> Result<Vec<String>, SourceError> {
    let doing = "list the replication origins";
    let sql = "SELECT roname FROM pg_catalog.pg_replication_origin ORDER BY 1";
    let rows = session.query(sql, &[]).await.map_err(|error| of_session(doing, error))?;
    let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
    names.map_err(|error| of_session(doing, error))
}
