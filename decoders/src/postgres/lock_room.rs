//! Room in a server's lock table, which all of its sessions share.

use tokio_postgres::{Error, GenericClient};

/// Locks that a server's settings provide for, as an SQL expression. It has more room than that, but promises
/// none of it (PostgreSQL manual, 20.12 `max_locks_per_transaction`).
pub const PROVIDED: &str = "pg_catalog.current_setting('max_locks_per_transaction')::bigint \
     * (pg_catalog.current_setting('max_connections')::bigint \
        + pg_catalog.current_setting('max_prepared_transactions')::bigint)";

/// How many of them one transaction of ours may take: a quarter. The rest is for others, and for statements that
/// take many at once.
///
/// # Errors
/// The server's.
pub async fn for_one(client: &impl GenericClient) -> Result<i64, Error> {
    let row = client.query_one(&format!("SELECT ({PROVIDED}) / 4"), &[]).await?;
    row.try_get(0)
}
