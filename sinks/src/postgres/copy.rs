//! COPY that writes rows frozen: no later VACUUM has to.

use decoders::change::QualifiedName;
use tokio_postgres::Client;

/// Opens a transaction in which COPY may freeze: one that truncated the table (PostgreSQL manual,
/// COPY). Only a table that is empty under our lock is truncated. False: no transaction is open.
///
/// # Errors
/// What green said; the transaction is then open and of no more use.
pub async fn begin_frozen(
    client: &Client,
    table: &QualifiedName,
) -> Result<bool, tokio_postgres::Error> {
    const PLAIN: &str = "SELECT relkind = 'r' AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits
                   WHERE inhparent = c.oid)
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
                 WHERE nspname = $1 AND relname = $2";
    let row = client.query_opt(PLAIN, &[&table.schema, &table.name]).await?;
    if !row.is_some_and(|row| row.get(0)) {
        return Ok(false);
    }
    // feature_not_supported: a foreign key refers to the table. insufficient_privilege: rows may be
    // inserted, and no more.
    let is_refused = |error: &tokio_postgres::Error| {
        error.code().is_some_and(|code| matches!(code.code(), "0A000" | "42501"))
    };
    let lock = format!("BEGIN; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE");
    let possible = match client.batch_execute(&lock).await {
        Err(error) if is_refused(&error) => false,
        Err(error) => return Err(error),
        Ok(()) => {
            let empty = format!("SELECT NOT EXISTS (SELECT FROM ONLY {table})");
            let is_empty: bool = client.query_one(&empty, &[]).await?.get(0);
            let truncate = format!("TRUNCATE TABLE ONLY {table}");
            match is_empty {
                false => false,
                true => match client.batch_execute(&truncate).await {
                    Ok(()) => true,
                    Err(error) if is_refused(&error) => false,
                    Err(error) => return Err(error),
                },
            }
        }
    };
    if !possible {
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(possible)
}
