//! Green's tables emptied again, after a copy that was broken off.
//!
//! TRUNCATE locks a table with its indexes and its TOAST table until the transaction ends. So a
//! transaction empties as many tables as fit into green's lock table. Tables that foreign keys connect go
//! together, because TRUNCATE refuses a table that another one refers to. What is not emptied yet stays claimed.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::postgres::lock_room;
use decoders::postgres::session::Session;
use tokio_postgres::GenericClient;

use super::BackfillError;
use crate::schema::UndoneIndexes;

/// Locks that emptying a table takes, with a margin for indexes.
const LOCKS_PER_TABLE: i64 = 16;

fn emptying(error: tokio_postgres::Error) -> BackfillError {
    BackfillError::database("emptying the tables of the last copy on green", &error)
}

/// Empties `tables`, and removes the indexes that were built on them before their rows were complete.
///
/// # Errors
/// Some of them may be empty already. All are still claimed.
pub(super) async fn empty(
    green: &mut Session,
    tables: &[QualifiedName],
) -> Result<(), BackfillError> {
    if tables.is_empty() {
        return Ok(());
    }
    let undo = UndoneIndexes::read(&**green, tables).await.map_err(emptying)?;
    let links = links(&**green).await?;
    for batch in batches(tables, &links, tables_per_transaction(&**green).await?) {
        let transaction = green.transaction().await.map_err(emptying)?;
        let names: Vec<String> = batch.iter().map(|table| format!("ONLY {table}")).collect();
        // One statement, so that foreign keys among them don't matter. Never CASCADE.
        let statement = format!("TRUNCATE {}", names.join(", "));
        transaction.batch_execute(&statement).await.map_err(emptying)?;
        for table in &batch {
            undo.undo(&transaction, table).await.map_err(|error| {
                BackfillError::database("removing the indexes of the last copy on green", &error)
            })?;
        }
        transaction.commit().await.map_err(emptying)?;
    }
    Ok(())
}

async fn tables_per_transaction(green: &impl GenericClient) -> Result<usize, BackfillError> {
    let room = lock_room::for_one(green).await.map_err(emptying)?;
    Ok(usize::try_from(room / LOCKS_PER_TABLE).unwrap_or(1).max(1))
}

/// Pairs of tables that a foreign key connects.
async fn links(
    green: &impl GenericClient,
) -> Result<Vec<(QualifiedName, QualifiedName)>, BackfillError> {
    const LINKS: &str = "
        SELECT DISTINCT n.nspname::text, c.relname::text, o.nspname::text, r.relname::text
        FROM pg_catalog.pg_constraint k
        JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
        JOIN pg_catalog.pg_namespace o ON o.oid = r.relnamespace
        WHERE k.contype = 'f' AND k.conrelid <> k.confrelid";
    let rows = green.query(LINKS, &[]).await.map_err(emptying)?;
    let name = |row: &tokio_postgres::Row, at: usize| {
        let (schema, name): (String, String) = (row.try_get(at)?, row.try_get(at + 1)?);
        Ok::<_, tokio_postgres::Error>(QualifiedName::new(schema, name))
    };
    let pairs = rows.iter().map(|row| Ok((name(row, 0)?, name(row, 2)?)));
    pairs.collect::<Result<_, _>>().map_err(emptying)
}

/// The tables in batches of about `size`; those that `links` connect are in the same one, however many
/// they are.
fn batches(
    tables: &[QualifiedName],
    links: &[(QualifiedName, QualifiedName)],
    size: usize,
) -> Vec<Vec<QualifiedName>> {
    let at: BTreeMap<&QualifiedName, usize> =
        tables.iter().enumerate().map(|(at, table)| (table, at)).collect();
    let mut parents: Vec<usize> = (0..tables.len()).collect();
    let root = |parents: &mut Vec<usize>, mut at: usize| {
        while parents[at] != at {
            parents[at] = parents[parents[at]];
            at = parents[at];
        }
        at
    };
    for (one, other) in links {
        if let (Some(&one), Some(&other)) = (at.get(one), at.get(other)) {
            let (one, other) = (root(&mut parents, one), root(&mut parents, other));
            parents[one.max(other)] = one.min(other);
        }
    }
    let mut groups: BTreeMap<usize, Vec<QualifiedName>> = BTreeMap::new();
    for (at, table) in tables.iter().enumerate() {
        let group = root(&mut parents, at);
        groups.entry(group).or_default().push(table.clone());
    }
    let mut batches: Vec<Vec<QualifiedName>> = Vec::new();
    for group in groups.into_values() {
        match batches.last_mut().filter(|batch| batch.len() + group.len() <= size) {
            Some(batch) => batch.extend(group),
            None => batches.push(group),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_tables_are_emptied_together() {
        let name = |name: &str| QualifiedName::new("s", name);
        let tables: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(name).into();
        let links = [("f", "d"), ("d", "b"), ("a", "elsewhere")].map(|(a, b)| (name(a), name(b)));
        let shown = |size| -> Vec<String> {
            let batches = batches(&tables, &links, size);
            let names = |batch: Vec<QualifiedName>| -> String {
                batch.into_iter().map(|table| table.name).collect()
            };
            batches.into_iter().map(names).collect()
        };
        assert_eq!(shown(2), ["a", "bdf", "ce"]);
        assert_eq!(shown(4), ["abdf", "ce"]);
        assert_eq!(shown(100), ["abdfce"]);
    }
}
