//! The planner's statistics for green's tables.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect};
use futures_util::future::try_join_all;

use super::guard::guarded;
use super::tuning::{IndexTuning, ServerFacts};
use super::{BackfillError, Cancel, CopyConfig};
use crate::schema::SchemaConfig;

/// Runs ANALYZE on the tables, several at a time. A partition stands for the whole partitioned
/// table: only so are there statistics across partitions.
///
/// # Errors
/// Names the table. Repeating it is fine.
pub async fn analyze(
    green: &ConnInfo,
    tables: &[QualifiedName],
    copy: &CopyConfig,
    schema: &SchemaConfig,
    cancel: &Cancel,
) -> Result<(), BackfillError> {
    let session = open(green).await?;
    let roots = roots(&session, tables).await?;
    let facts = ServerFacts::read(&session, "green").await?;
    let jobs = IndexTuning::choose(copy, schema, &facts).jobs.min(roots.len());
    drop(session);
    let waiting = Mutex::new(VecDeque::from(roots));
    let worker = || async {
        let session = open(green).await?;
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some(table) = next() {
            let statement = format!("ANALYZE {table}");
            let work = session.batch_execute(&statement);
            guarded(vec![session.canceller()], cancel, work).await?.map_err(|error| {
                BackfillError::database(format!("analyzing {table} on green"), &error)
            })?;
        }
        Ok(())
    };
    try_join_all((0..jobs).map(|_| worker())).await?;
    Ok(())
}

async fn open(green: &ConnInfo) -> Result<Session, BackfillError> {
    connect(green, "cutover analyze").await.map_err(|error| BackfillError::connect("green", &error))
}

/// The tables, partitions replaced by the topmost table that they belong to; quoted, each once.
async fn roots(green: &Session, tables: &[QualifiedName]) -> Result<Vec<String>, BackfillError> {
    const ROOTS: &str = "
        WITH RECURSIVE up AS (
            SELECT at, pg_catalog.to_regclass(name)::oid AS oid
            FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS given (name, at)
            UNION ALL
            SELECT up.at, i.inhparent FROM up
            JOIN pg_catalog.pg_class c ON c.oid = up.oid AND c.relispartition
            JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
        SELECT n.nspname::text, c.relname::text
        FROM up JOIN pg_catalog.pg_class c ON c.oid = up.oid AND NOT c.relispartition
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        GROUP BY 1, 2 ORDER BY min(up.at)";
    let asked = |error| BackfillError::database("reading green's partitioned tables", &error);
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let rows = green.query(ROOTS, &[&names]).await.map_err(asked)?;
    rows.into_iter()
        .map(|row| {
            let schema: String = row.try_get(0).map_err(asked)?;
            let name: String = row.try_get(1).map_err(asked)?;
            Ok(QualifiedName::new(schema, name).to_string())
        })
        .collect()
}
