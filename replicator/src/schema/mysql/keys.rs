//! Keys and foreign keys, when the rows are there.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::mysql::server::{Conn, literal};
use mysql_async::prelude::Queryable;

use super::make::{SchemaCopy, open, qualified};
use super::notes::{Kind, Note};
use super::session::{use_database, used_for_definitions};
use super::statement::Addition;
use crate::backfill::BackfillError;
use crate::backfill::mysql::failed;
use crate::backfill::progress::{Phase, ProgressSender, Step, begin};

impl SchemaCopy {
    /// Adds the keys that were put off, then the foreign keys. Those that are there already are left
    /// alone.
    ///
    /// # Errors
    /// The server's. What is missing is still noted: repeating it goes on.
    pub async fn add_keys(&self, progress: &ProgressSender) -> Result<(), BackfillError> {
        let (mut green, server) = open(&self.green, "green").await?;
        used_for_definitions(&mut green, &server).await?;
        for (kind, phase) in [(Kind::Keys, Phase::Indexes), (Kind::ForeignKeys, Phase::ForeignKeys)]
        {
            let notes: BTreeMap<QualifiedName, Note> = self.notes().all(&mut green, kind).await?;
            begin(progress, phase, notes.len());
            for (table, note) in &notes {
                let step = Step::begin(progress, table.to_string());
                add(&mut green, kind, table, note).await?;
                self.notes().strike(&mut green, kind, table).await?;
                step.finish();
            }
        }
        Ok(())
    }
}

async fn add(
    green: &mut Conn,
    kind: Kind,
    table: &QualifiedName,
    note: &Note,
) -> Result<(), BackfillError> {
    let wanted: Vec<Addition> = serde_json::from_str(&note.detail).map_err(|error| {
        BackfillError::halt(
            format!("the note of the keys of {table} on green can't be read: {error}"),
            "drop the database _cutover and the copied tables on green, and copy anew",
        )
    })?;
    let there = names(green, kind, table).await?;
    let missing = wanted.iter().filter(|addition| !there.contains(&addition.name));
    // InnoDB makes one FULLTEXT key at a time.
    let (single, together): (Vec<&Addition>, Vec<&Addition>) =
        missing.partition(|addition| addition.definition.starts_with("FULLTEXT"));
    // A foreign key names tables of its own database without it.
    use_database(green, &table.schema).await?;
    let groups = single.into_iter().map(|one| vec![one]);
    for group in groups.chain((!together.is_empty()).then_some(together)) {
        let added: Vec<String> =
            group.iter().map(|addition| format!("ADD {}", addition.definition)).collect();
        let sql = format!("ALTER TABLE {} {}", qualified(table), added.join(", "));
        let doing = format!("adding keys to {table} on green");
        green.query_drop(sql).await.map_err(|error| failed(doing, error))?;
    }
    Ok(())
}

/// The names of the keys, or foreign keys, that a table has.
async fn names(
    green: &mut Conn,
    kind: Kind,
    table: &QualifiedName,
) -> Result<BTreeSet<String>, BackfillError> {
    let (schema, name) = (literal(&table.schema), literal(&table.name));
    let sql = match kind {
        Kind::ForeignKeys => format!(
            "SELECT constraint_name FROM information_schema.table_constraints
             WHERE constraint_type = 'FOREIGN KEY' AND table_schema = {schema} AND table_name = {name}"
        ),
        _ => format!(
            "SELECT DISTINCT index_name FROM information_schema.statistics
             WHERE table_schema = {schema} AND table_name = {name}"
        ),
    };
    let rows: Result<Vec<String>, _> = green.query(sql).await;
    let rows = rows.map_err(|error| failed(format!("reading the keys of {table} on green"), error));
    Ok(rows?.into_iter().collect())
}
