//! The first half: databases, sequences, empty tables.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::mysql::catalog::{self, TableInfo, TableKind};
use decoders::mysql::server::{self, Conn, Server, ServerUrl, identifier, literal};
use decoders::postgres::catalog::TableFilter;
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::compare;
use super::notes::{COPIED, FILLING, Kind, MAKING, Note, Notes, WAITING};
use super::session::{use_database, used_for_definitions};
use super::statement::{Choice, split};
use crate::backfill::BackfillError;
use crate::backfill::mysql::{failed, forget_table, of_catalog, of_source};
use crate::backfill::progress::{Phase, ProgressSender, Step, begin};

/// Which definitions are copied from where to where.
#[derive(Clone, Debug)]
pub struct SchemaCopy {
    /// The pipeline's name.
    pub pipeline: String,
    /// Where they are.
    pub blue: ServerUrl,
    /// Where they go.
    pub green: ServerUrl,
    /// Only this database; all of them without it.
    pub database: Option<String>,
    /// Tables that take part.
    pub filter: TableFilter,
    /// Bytes of rows from which on a table gets its secondary keys after them: one sort for each key
    /// instead of a place in the tree for each row.
    pub late_keys_bytes: u64,
}

/// Below this a table's keys fit into any buffer pool, and one definition is quicker than two.
pub const LATE_KEYS_BYTES: u64 = 32 << 20;

/// The first half, done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Made {
    /// The tables that take part, as they are on blue.
    pub tables: Vec<TableInfo>,
    /// What somebody should know.
    pub warnings: Vec<String>,
}

impl SchemaCopy {
    /// Makes databases and empty tables on green, and sequences. Tables of an earlier attempt that
    /// are defined as they have to be stay as they are, rows included; others of ours are made anew.
    ///
    /// # Errors
    /// Tables that are not ours are in the way; the servers' errors. Repeating it is safe.
    pub async fn make_tables(&self, progress: &ProgressSender) -> Result<Made, BackfillError> {
        let (mut blue, blue_server) = open(&self.blue, "blue").await?;
        let (mut green, green_server) = open(&self.green, "green").await?;
        used_for_definitions(&mut green, &green_server).await?;
        Notes::prepare(&mut green).await?;
        let tables = self.tables_of(&mut blue, &blue_server, &self.filter).await?;
        let everything = TableFilter::default();
        let there = self.tables_of(&mut green, &green_server, &everything).await?;
        let notes = self.notes().all(&mut green, Kind::Table).await?;
        refuse_others(&tables, &there, &notes)?;
        begin(progress, Phase::Schema, tables.len());
        let mut made = Made::default();
        made.warnings.extend(make_databases(&mut blue, &mut green, &tables, &there).await?);
        for table in &tables {
            let step = Step::begin(progress, table.name.to_string());
            if table.kind == TableKind::Sequence {
                self.make_sequence(&mut blue, &mut green, table, &notes).await?;
            } else {
                self.make_table(&mut blue, &mut green, table, &notes, &there).await?;
            }
            step.finish();
        }
        let there = self.tables_of(&mut green, &green_server, &everything).await?;
        made.warnings.extend(compare::compare(&tables, &there)?);
        made.tables = tables;
        Ok(made)
    }

    /// Finds the tables on a green that has them already (`schema.mode = 'existing'`).
    ///
    /// # Errors
    /// Green's tables are others than blue's.
    pub async fn find_tables(&self) -> Result<Made, BackfillError> {
        let (mut blue, blue_server) = open(&self.blue, "blue").await?;
        let (mut green, green_server) = open(&self.green, "green").await?;
        Notes::prepare(&mut green).await?;
        let tables = self.tables_of(&mut blue, &blue_server, &self.filter).await?;
        let there = self.tables_of(&mut green, &green_server, &TableFilter::default()).await?;
        let warnings = compare::compare(&tables, &there)?;
        Ok(Made { tables, warnings })
    }

    /// A sequence of MariaDB, going on behind the numbers that blue has reserved.
    async fn make_sequence(
        &self,
        blue: &mut Conn,
        green: &mut Conn,
        table: &TableInfo,
        notes: &BTreeMap<QualifiedName, Note>,
    ) -> Result<(), BackfillError> {
        let name = &table.name;
        let doing = format!("making the sequence {name} on green");
        let create = shown(blue, "SEQUENCE", name, 1).await?;
        let row: Option<(i64, u64)> = blue
            .query_first(format!(
                "SELECT CAST(next_not_cached_value AS SIGNED), cycle_count FROM {}",
                qualified(name)
            ))
            .await
            .map_err(|error| failed(format!("reading the sequence {name} on blue"), error))?;
        if !notes.contains_key(name) {
            self.notes().write(green, Kind::Table, name, MAKING, "").await?;
        }
        use_database(green, &name.schema).await?;
        let drop = format!("DROP SEQUENCE IF EXISTS {}", qualified(name));
        green.query_drop(drop).await.map_err(|error| failed(&doing, error))?;
        green.query_drop(create).await.map_err(|error| failed(&doing, error))?;
        if let Some((next, round)) = row {
            let set = format!("SELECT SETVAL({}, {next}, 0, {round})", qualified(name));
            green.query_drop(set).await.map_err(|error| failed(&doing, error))?;
        }
        self.notes().write(green, Kind::Table, name, FILLING, "").await
    }

    pub(super) fn notes(&self) -> Notes {
        Notes::of(self.pipeline.clone())
    }

    /// The tables of a side.
    pub(super) async fn tables_of(
        &self,
        conn: &mut Conn,
        server: &Server,
        filter: &TableFilter,
    ) -> Result<Vec<TableInfo>, BackfillError> {
        let tables = catalog::tables(conn, server, self.database.as_deref(), filter).await;
        tables.map_err(|error| of_catalog("definitions", error))
    }

    async fn make_table(
        &self,
        blue: &mut Conn,
        green: &mut Conn,
        table: &TableInfo,
        notes: &BTreeMap<QualifiedName, Note>,
        there: &[TableInfo],
    ) -> Result<(), BackfillError> {
        let name = &table.name;
        let create = shown(blue, "TABLE", name, 1).await?;
        let counted = table.columns.iter().find(|column| column.auto_increment);
        let choice = Choice {
            defers_keys: table.bytes >= self.late_keys_bytes,
            auto_increment: counted.map(|column| column.name.as_str()),
            collation: table.collation.as_deref(),
        };
        let parts = split(&create, choice).ok_or_else(|| {
            BackfillError::halt(
                format!("blue's definition of {name} was not understood"),
                "create the table on green and use schema.mode = 'existing'",
            )
        })?;
        let is_there = there.iter().any(|other| other.name == *name);
        let wanted = comparable(&create);
        let note = notes.get(name).filter(|note| note.state == FILLING && is_there);
        if note.is_some_and(|note| note.detail == wanted) {
            return Ok(());
        }
        forget_table(green, &self.notes(), name).await?;
        self.notes().write(green, Kind::Table, name, MAKING, &wanted).await?;
        for (kind, additions) in
            [(Kind::Keys, &parts.keys), (Kind::ForeignKeys, &parts.foreign_keys)]
        {
            match additions.is_empty() {
                true => self.notes().strike(green, kind, name).await?,
                false => {
                    let detail = serde_json::to_string(additions)
                        .map_err(|error| BackfillError::retry(error.to_string()))?;
                    self.notes().write(green, kind, name, WAITING, &detail).await?;
                }
            }
        }
        use_database(green, &name.schema).await?;
        let doing = format!("making the table {name} on green");
        let drop = format!("DROP TABLE IF EXISTS {}", qualified(name));
        green.query_drop(drop).await.map_err(|error| failed(&doing, error))?;
        green.query_drop(&parts.create).await.map_err(|error| failed(&doing, error))?;
        self.notes().write(green, Kind::Table, name, FILLING, &wanted).await
    }
}

/// A definition without the number that AUTO_INCREMENT has come to.
fn comparable(create: &str) -> String {
    const COUNTER: &str = " AUTO_INCREMENT=";
    let Some(at) = create.rfind(COUNTER) else { return create.to_owned() };
    let digits = create[at + COUNTER.len()..].find(|c: char| !c.is_ascii_digit());
    let end = digits.map_or(create.len(), |length| at + COUNTER.len() + length);
    format!("{}{}", &create[..at], &create[end..])
}

pub(super) async fn open(url: &ServerUrl, side: &str) -> Result<(Conn, Server), BackfillError> {
    let mut conn = server::connect(url).await.map_err(of_source)?;
    let server = Server::read(&mut conn).await.map_err(of_source)?;
    tracing::debug!(side, %server, "connected");
    Ok((conn, server))
}

/// `db`.`name`, quoted.
pub(crate) fn qualified(name: &QualifiedName) -> String {
    format!("{}.{}", identifier(&name.schema), identifier(&name.name))
}

/// The column of a SHOW CREATE that holds the definition.
pub(super) async fn shown(
    blue: &mut Conn,
    kind: &str,
    name: &QualifiedName,
    column: usize,
) -> Result<String, BackfillError> {
    let doing = format!("reading the definition of the {} {name} on blue", kind.to_lowercase());
    let row: Result<Option<Row>, _> =
        blue.query_first(format!("SHOW CREATE {kind} {}", qualified(name))).await;
    let row = row.map_err(|error| failed(&doing, error))?;
    let text = row.and_then(|mut row| row.take_opt::<Option<String>, _>(column)?.ok()?);
    text.ok_or_else(|| {
        BackfillError::halt(
            format!("{doing}: the server does not show it"),
            "grant the account the right to see it (SHOW VIEW, TRIGGER, EVENT, SHOW_ROUTINE; on \
             MariaDB SELECT on mysql.proc or SHOW CREATE ROUTINE)",
        )
    })
}

/// Tables that we did not make, or whose rows are green's own by now, are nobody's to replace.
fn refuse_others(
    tables: &[TableInfo],
    there: &[TableInfo],
    notes: &BTreeMap<QualifiedName, Note>,
) -> Result<(), BackfillError> {
    let is_ours = |name: &QualifiedName| {
        let note = notes.get(name);
        note.is_some_and(|note| note.state == MAKING || note.state == FILLING)
    };
    let names: BTreeSet<&QualifiedName> = there.iter().map(|table| &table.name).collect();
    let others: Vec<String> = tables
        .iter()
        .filter(|table| names.contains(&table.name) && !is_ours(&table.name))
        .map(|table| qualified(&table.name))
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let copied = notes.values().any(|note| note.state == COPIED);
    let shown = others.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    Err(BackfillError::halt(
        format!("{} tables are on green already: {shown}", others.len()),
        match copied {
            true => {
                "an earlier copy was completed here; drop the tables and the database _cutover to \
                     copy anew"
            }
            false => "check that this is the right server; if it is, drop them or exclude them",
        },
    ))
}

/// Databases with blue's character set and collation.
async fn make_databases(
    blue: &mut Conn,
    green: &mut Conn,
    tables: &[TableInfo],
    there: &[TableInfo],
) -> Result<Vec<String>, BackfillError> {
    let mut warnings = Vec::new();
    let names: BTreeSet<&str> = tables.iter().map(|table| table.name.schema.as_str()).collect();
    for name in names {
        let defaults = async |conn: &mut Conn| -> Result<Option<(String, String)>, BackfillError> {
            let sql = format!(
                "SELECT default_character_set_name, default_collation_name
                 FROM information_schema.schemata WHERE schema_name = {}",
                literal(name)
            );
            let row = conn.query_first(sql).await;
            row.map_err(|error| failed(format!("looking at the database {name:?}"), error))
        };
        let Some((charset, collation)) = defaults(blue).await? else { continue };
        let doing = format!("making the database {name:?} on green");
        let verb = match defaults(green).await? {
            None => "CREATE",
            Some((_, same)) if same == collation => continue,
            // Nothing in it has relied on its default yet.
            Some(_) if !there.iter().any(|table| table.name.schema == name) => "ALTER",
            Some((_, other)) => {
                warnings.push(format!(
                    "the database {name:?} has the collation {collation} on blue and {other} on green"
                ));
                continue;
            }
        };
        let name = identifier(name);
        let sql = format!("{verb} DATABASE {name} CHARACTER SET {charset} COLLATE {collation}");
        green.query_drop(sql).await.map_err(|error| failed(doing, error))?;
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_compare_without_their_counter() {
        let of = |counter: &str| format!("CREATE TABLE `t` (..) ENGINE=InnoDB{counter} COLLATE=x");
        assert_eq!(comparable(&of(" AUTO_INCREMENT=17")), of(""));
        assert_eq!(comparable(&of("")), of(""));
    }
}
