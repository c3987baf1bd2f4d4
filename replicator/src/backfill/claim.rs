//! Whose rows are in green's tables.
//!
//! A table is claimed before its first row is written. Only claimed tables are ever emptied, and
//! a claim ends when the copy is complete: from then on the rows are green's own.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect};
use tokio_postgres::GenericClient;

use super::BackfillError;
use super::emptying::empty;
use crate::schema::{Marks, STATE_TABLE};

const FILLING: &str = "filling";
const COPIED: &str = "copied";

fn item(table: &QualifiedName) -> String {
    format!("table {table}")
}

fn asked(error: tokio_postgres::Error) -> BackfillError {
    BackfillError::database("looking at green's tables", &error)
}

/// What an earlier run wrote about tables.
async fn claims(green: &impl GenericClient) -> Result<BTreeMap<String, String>, BackfillError> {
    let statement = format!("SELECT item, detail FROM {STATE_TABLE} WHERE item LIKE 'table %'");
    let rows = green.query(&statement, &[]).await.map_err(asked)?;
    rows.into_iter()
        .map(|row| Ok((row.try_get(0).map_err(asked)?, row.try_get(1).map_err(asked)?)))
        .collect()
}

/// Takes empty tables for the copy, and empties those that a copy that was broken off had filled.
/// Gives back the latter.
///
/// # Errors
/// Tables that are missing, or hold rows that are not a broken copy's: nothing was emptied then.
pub(super) async fn claim(
    green: &mut Session,
    tables: &[QualifiedName],
) -> Result<Vec<QualifiedName>, BackfillError> {
    Marks::prepare(green).await?;
    refuse_missing(&**green, tables).await?;
    let claims = claims(&**green).await?;
    let (ours, others): (Vec<_>, Vec<_>) = tables
        .iter()
        .cloned()
        .partition(|table| claims.get(&item(table)).is_some_and(|state| state == FILLING));
    refuse_filled(&**green, &others).await?;
    empty(green, &ours).await?;
    let statement = format!(
        "INSERT INTO {STATE_TABLE} (item, detail) SELECT item, '{FILLING}'
         FROM pg_catalog.unnest($1::text[]) AS item
         ON CONFLICT (item) DO UPDATE SET detail = excluded.detail, at = excluded.at"
    );
    let items: Vec<String> = tables.iter().map(item).collect();
    green.execute(&statement, &[&items]).await.map_err(asked)?;
    Ok(ours)
}

/// Empties, of `tables`, those that a copy that was broken off had filled, and no others. Gives
/// them back. The copy does the same by itself when it starts over.
///
/// # Errors
/// Some of them may be empty already; all are still claimed.
pub async fn cleanup(
    green: &ConnInfo,
    tables: &[QualifiedName],
) -> Result<Vec<QualifiedName>, BackfillError> {
    let mut session = connect(green, "cutover cleanup")
        .await
        .map_err(|error| BackfillError::connect("green", &error))?;
    Marks::prepare(&session).await?;
    let claims = claims(&*session).await?;
    let existing = existing(&*session, tables).await?;
    let ours: Vec<QualifiedName> = tables
        .iter()
        .zip(existing)
        .filter(|(table, exists)| {
            *exists && claims.get(&item(table)).is_some_and(|state| state == FILLING)
        })
        .map(|(table, _)| table.clone())
        .collect();
    empty(&mut session, &ours).await?;
    Ok(ours)
}

/// Ends all claims: the copy is complete and nothing may be emptied any more. Flushed when this
/// returns. Repeating it is fine.
///
/// # Errors
/// The claims are still there.
pub async fn record_copied(green: &Session) -> Result<(), BackfillError> {
    Marks::prepare(green).await?;
    let statement = format!(
        "SET synchronous_commit = on;
         UPDATE {STATE_TABLE} SET detail = '{COPIED}', at = pg_catalog.now()
         WHERE item LIKE 'table %' AND detail = '{FILLING}'"
    );
    green.batch_execute(&statement).await.map_err(asked)
}

async fn existing(
    green: &impl GenericClient,
    tables: &[QualifiedName],
) -> Result<Vec<bool>, BackfillError> {
    const EXISTING: &str = "
        SELECT pg_catalog.to_regclass(name) IS NOT NULL
        FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS given (name, at) ORDER BY at";
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let rows = green.query(EXISTING, &[&names]).await.map_err(asked)?;
    rows.into_iter().map(|row| row.try_get(0).map_err(asked)).collect()
}

async fn refuse_missing(
    green: &impl GenericClient,
    tables: &[QualifiedName],
) -> Result<(), BackfillError> {
    let existing = existing(green, tables).await?;
    let missing: Vec<&QualifiedName> =
        tables.iter().zip(existing).filter(|(_, exists)| !exists).map(|(table, _)| table).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(BackfillError::halt(
        format!("green lacks {}", listed(&missing)),
        "create them on green, exclude them, or let Cutover copy the schema (schema.mode = 'copy')",
    ))
}

async fn refuse_filled(
    green: &impl GenericClient,
    tables: &[QualifiedName],
) -> Result<(), BackfillError> {
    const BATCH: usize = 50;
    let mut filled = Vec::new();
    for batch in tables.chunks(BATCH) {
        let probes: Vec<String> = batch
            .iter()
            .enumerate()
            .map(|(at, table)| {
                format!("SELECT {at} WHERE EXISTS (SELECT 1 FROM ONLY {table} LIMIT 1)")
            })
            .collect();
        for row in green.query(&probes.join(" UNION ALL "), &[]).await.map_err(asked)? {
            let at: i32 = row.try_get(0).map_err(asked)?;
            filled.extend(usize::try_from(at).ok().and_then(|at| batch.get(at)));
        }
    }
    if filled.is_empty() {
        return Ok(());
    }
    Err(BackfillError::halt(
        format!("green already has rows in {}", listed(&filled)),
        "check that this is the right database; if it is, empty these tables on green or exclude them",
    ))
}

fn listed(tables: &[&QualifiedName]) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<String> = tables.iter().take(SHOWN).map(ToString::to_string).collect();
    if tables.len() > SHOWN {
        names.push(format!("{} more", tables.len() - SHOWN));
    }
    names.join(", ")
}
