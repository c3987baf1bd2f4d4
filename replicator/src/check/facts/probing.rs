//! Questions that no catalog answers: they are tried out.

use decoders::postgres::catalog::{CatalogError, describe};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::Probe;

/// Whether two sessions are in the same database of the same server, whatever host names, ports,
/// tunnels or poolers they came through.
///
/// One session takes an advisory lock with a random key, which is local to a database; if the
/// other one can't have it, they are in the same. The system identifier would not do: every
/// physical clone of a cluster, and so many a freshly upgraded green, has the same one.
pub async fn same_database(blue: &Client, green: &Client) -> Probe<bool> {
    let what = "whether blue and green are the same database";
    let failed = |error| CatalogError::query(what, error);
    let key = Uuid::new_v4().as_u64_pair().0.cast_signed();
    let lock = "SELECT pg_catalog.pg_try_advisory_lock($1)";
    let unlock = "SELECT pg_catalog.pg_advisory_unlock($1)";
    let blue_got: bool = blue.query_one(lock, &[&key]).await.map_err(failed)?.get(0);
    if !blue_got {
        return Err(CatalogError::unexpected(what, "a random advisory lock was taken already"));
    }
    let tried = green.query_one(lock, &[&key]).await.map_err(failed);
    let released = blue.query_one(unlock, &[&key]).await.map_err(failed);
    let green_got: bool = tried?.get(0);
    if green_got {
        green.query_one(unlock, &[&key]).await.map_err(failed)?;
    }
    released?;
    Ok(!green_got)
}

/// Whether the role may set `session_replication_role`: tried for one statement, without effect
/// afterwards.
pub async fn replica_role_allowed(client: &Client) -> Probe<Result<(), String>> {
    let sql = "SELECT pg_catalog.set_config('session_replication_role', 'replica', true)";
    match client.query(sql, &[]).await {
        Ok(_) => Ok(Ok(())),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Ok(Err(describe(&error)))
        }
        Err(error) => {
            Err(CatalogError::query("whether session_replication_role may be set", error))
        }
    }
}
