//! TRUNCATE on a blue before PostgreSQL 11, whose pgoutput says nothing of it.
//!
//! There, two triggers on every table write to `_cutover.truncated` (`pipeline::truncation` makes
//! them): one BEFORE the TRUNCATE, one AFTER it. In the stream these rows become the event that
//! PostgreSQL 11 would have sent.
//!
//! # Why two
//! One TRUNCATE of several tables, which foreign keys may demand, must be one on green too. First
//! the BEFORE triggers of all its tables fire, then the tables are emptied, then the AFTER triggers
//! of all of them fire, ours before the application's (by name). The first AFTER row therefore
//! stands exactly where the tables were emptied, and the BEFORE rows say which ones they were,
//! whatever the application's triggers write in between. A TRUNCATE inside such a trigger has
//! another depth.

use std::collections::BTreeMap;
use std::sync::Arc;

use cutover::marker::SCHEMA;
use decoders::postgres::catalog::TableFilter;
use decoders::{
    ChangeEvent, QualifiedName, ReplicaIdentity, Row, SourceError, TableId, TableSchema,
    Transaction, Value,
};

/// The table that the triggers write to, in schema `_cutover` of blue.
pub const TABLE: &str = "truncated";

/// What one TRUNCATE is known to have been about.
#[derive(Debug, Default)]
struct Statement {
    /// Announced by BEFORE rows.
    announced: Vec<QualifiedName>,
    /// In the event already; their AFTER rows are still to come.
    emptied: Vec<QualifiedName>,
}

/// Turns the rows of `_cutover.truncated` into TRUNCATE events. One per run of the stream: a
/// transaction may come in several parts.
#[derive(Debug)]
pub struct Truncations {
    /// The tables that are moved. The rows may speak of others: of another pipeline of this blue,
    /// or of an earlier, wider configuration.
    tables: TableFilter,
    /// The open transaction's statements, by `pg_trigger_depth()`.
    statements: BTreeMap<u32, Statement>,
}

impl Truncations {
    /// For a stream of these tables.
    pub fn new(tables: TableFilter) -> Self {
        Self { tables, statements: BTreeMap::new() }
    }

    /// Replaces what the triggers wrote in `transaction` by what it means.
    ///
    /// # Errors
    /// Halts if the rows make no sense: somebody has changed the triggers or written there.
    pub fn translate(&mut self, transaction: &mut Transaction) -> Result<(), SourceError> {
        if transaction.part.starts() {
            self.statements.clear();
        }
        if transaction.changes.iter().any(|change| note(change).is_some()) {
            let mut changes = Vec::with_capacity(transaction.changes.len());
            for change in std::mem::take(&mut transaction.changes) {
                match note(&change) {
                    Some((table, row)) => changes.extend(self.noted(table, row)?),
                    None => changes.push(change),
                }
            }
            transaction.changes = changes;
        }
        if transaction.part.ends() {
            let mut left = self.statements.values().flat_map(|statement| &statement.announced);
            if let Some(table) = left.next() {
                return Err(incomplete(format!(
                    "a TRUNCATE of {table} on blue was announced but not confirmed"
                )));
            }
        }
        Ok(())
    }

    /// The event of a row, if it is one's place.
    fn noted(
        &mut self,
        schema: &TableSchema,
        row: &Row,
    ) -> Result<Option<ChangeEvent>, SourceError> {
        let text = |column: &str| text(schema, row, column);
        let table = QualifiedName::new(text("schema_name")?, text("table_name")?);
        let depth = text("depth")?.parse().map_err(|_| unreadable("depth"))?;
        let statement = self.statements.entry(depth).or_default();
        match text("moment")? {
            "BEFORE" => {
                statement.announced.push(table);
                return Ok(None);
            }
            "AFTER" => {}
            _ => return Err(unreadable("moment")),
        }
        if let Some(at) = statement.emptied.iter().position(|emptied| *emptied == table) {
            statement.emptied.swap_remove(at);
            return Ok(None);
        }
        let mut names = std::mem::take(&mut statement.announced);
        let Some(at) = names.iter().position(|announced| *announced == table) else {
            return Err(incomplete(format!(
                "a TRUNCATE of {table} on blue was confirmed but not announced"
            )));
        };
        let moved = names.iter().filter(|name| self.tables.takes(name));
        let tables: Box<[Arc<TableSchema>]> = moved.map(schema_of).collect();
        names.swap_remove(at);
        statement.emptied = names;
        // Sequences are taken over at the cutover, so it does not matter whether they restarted.
        Ok((!tables.is_empty()).then_some(ChangeEvent::Truncate {
            tables,
            cascade: false,
            restart_identity: false,
        }))
    }
}

/// The row that a trigger of ours wrote, if the change is that.
fn note(change: &ChangeEvent) -> Option<(&TableSchema, &Row)> {
    match change {
        ChangeEvent::Insert { table, new }
            if table.name.schema == SCHEMA && table.name.name == TABLE =>
        {
            Some((table, new))
        }
        _ => None,
    }
}

/// A table that is only named: TRUNCATE has nothing to do with columns.
fn schema_of(name: &QualifiedName) -> Arc<TableSchema> {
    Arc::new(TableSchema {
        id: TableId(0),
        name: name.clone(),
        identity: ReplicaIdentity::Nothing,
        columns: Vec::new(),
    })
}

fn text<'a>(schema: &TableSchema, row: &'a Row, column: &str) -> Result<&'a str, SourceError> {
    let at = schema.columns.iter().position(|known| known.name == column);
    let cell = at.and_then(|at| row.value(at));
    // Before PostgreSQL 14 the stream has text values only.
    let Some(Value::Text(bytes)) = cell else { return Err(unreadable(column)) };
    std::str::from_utf8(bytes).map_err(|_| unreadable(column))
}

fn unreadable(column: &str) -> SourceError {
    incomplete(format!("a row of {SCHEMA}.{TABLE} on blue can't be read (column {column})"))
}

fn incomplete(what: String) -> SourceError {
    SourceError::halt(
        what,
        "something other than Cutover has changed the triggers that report TRUNCATE, or their \
         table: replicator teardown, then start over with an empty green",
    )
}

#[cfg(test)]
mod tests {
    use decoders::{Cell, Column, Lsn, Part};

    use super::*;

    fn insert(schema: &str, name: &str, fields: &[(&str, &str)]) -> ChangeEvent {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_oid: 25,
            type_modifier: -1,
            in_key: false,
        };
        let table = TableSchema {
            id: TableId(1),
            name: QualifiedName::new(schema, name),
            identity: ReplicaIdentity::Default,
            columns: fields.iter().map(|(name, _)| column(name)).collect(),
        };
        let cells = fields.iter().map(|(_, text)| Cell::text(*text));
        ChangeEvent::Insert { table: Arc::new(table), new: cells.collect() }
    }

    fn noted(moment: &str, depth: &str, table: &str) -> ChangeEvent {
        let fields = [
            ("id", "1"),
            ("moment", moment),
            ("depth", depth),
            ("schema_name", "public"),
            ("table_name", table),
        ];
        insert(SCHEMA, TABLE, &fields)
    }

    fn row(table: &str) -> ChangeEvent {
        insert("public", table, &[("a", "x")])
    }

    fn part(part: Part, changes: Vec<ChangeEvent>) -> Transaction {
        Transaction {
            part,
            xid: 7,
            commit_lsn: Lsn(8),
            end_lsn: part.ends().then_some(Lsn(16)),
            committed_at_us: 0,
            origin: None,
            changes,
            bytes: 1,
        }
    }

    /// What comes of the parts: `row` for a row of a table, `TRUNCATE a,b`.
    fn translated(
        truncations: &mut Truncations,
        parts: Vec<Transaction>,
    ) -> Result<Vec<String>, SourceError> {
        let mut seen = Vec::new();
        for mut part in parts {
            truncations.translate(&mut part)?;
            seen.extend(part.changes.iter().map(|change| match change {
                ChangeEvent::Insert { table, .. } => table.name.name.clone(),
                ChangeEvent::Truncate { tables, .. } => {
                    let names: Vec<_> = tables.iter().map(|table| &*table.name.name).collect();
                    format!("TRUNCATE {}", names.join(","))
                }
                other => panic!("unexpected {other:?}"),
            }));
        }
        Ok(seen)
    }

    fn whole(changes: Vec<ChangeEvent>) -> Vec<String> {
        let mut truncations = Truncations::new(TableFilter::default());
        translated(&mut truncations, vec![part(Part::Whole, changes)]).unwrap()
    }

    #[test]
    fn one_statement_is_one_event_where_the_tables_were_emptied() {
        let changes = vec![
            row("a"),
            noted("BEFORE", "1", "a"),
            row("written_by_a_before_trigger"),
            noted("BEFORE", "1", "b"),
            noted("AFTER", "1", "a"),
            row("written_by_an_after_trigger"),
            noted("AFTER", "1", "b"),
            row("b"),
        ];
        assert_eq!(
            whole(changes),
            [
                "a",
                "written_by_a_before_trigger",
                "TRUNCATE a,b",
                "written_by_an_after_trigger",
                "b"
            ]
        );
    }

    #[test]
    fn two_statements_are_two_events() {
        let once = |table| [noted("BEFORE", "1", table), noted("AFTER", "1", table)];
        let changes = [once("a"), once("b"), once("a")].into_iter().flatten().collect();
        assert_eq!(whole(changes), ["TRUNCATE a", "TRUNCATE b", "TRUNCATE a"]);
    }

    #[test]
    fn a_truncate_inside_a_trigger_is_one_by_itself() {
        let changes = vec![
            noted("BEFORE", "1", "a"),
            noted("BEFORE", "2", "inner"),
            noted("AFTER", "2", "inner"),
            row("a"),
            noted("AFTER", "1", "a"),
        ];
        assert_eq!(whole(changes), ["TRUNCATE inner", "a", "TRUNCATE a"]);
    }

    #[test]
    fn a_statement_may_be_cut_by_the_parts_of_a_large_transaction() {
        let mut truncations = Truncations::new(TableFilter::default());
        let parts = vec![
            part(Part::First, vec![noted("BEFORE", "1", "a"), noted("BEFORE", "1", "b")]),
            part(Part::Middle, vec![noted("AFTER", "1", "a")]),
            part(Part::Last, vec![noted("AFTER", "1", "b"), row("a")]),
        ];
        assert_eq!(translated(&mut truncations, parts).unwrap(), ["TRUNCATE a,b", "a"]);
    }

    #[test]
    fn tables_that_are_not_moved_are_not_emptied() {
        let mut truncations = Truncations::new(TableFilter::parse(&[], &["public.b"]).unwrap());
        let parts = vec![part(
            Part::Whole,
            vec![
                noted("BEFORE", "1", "b"),
                noted("BEFORE", "1", "a"),
                noted("AFTER", "1", "b"),
                noted("AFTER", "1", "a"),
                noted("BEFORE", "1", "b"),
                noted("AFTER", "1", "b"),
            ],
        )];
        assert_eq!(translated(&mut truncations, parts).unwrap(), ["TRUNCATE a"]);
    }

    #[test]
    fn what_the_triggers_can_not_have_written_stops_the_stream() {
        for changes in [
            vec![noted("BEFORE", "1", "a")],
            vec![noted("AFTER", "1", "a")],
            vec![noted("INSTEAD OF", "1", "a")],
            vec![noted("BEFORE", "deep", "a")],
            vec![insert(SCHEMA, TABLE, &[("id", "1")])],
        ] {
            let mut truncations = Truncations::new(TableFilter::default());
            let parts = vec![part(Part::Whole, changes), part(Part::Whole, vec![row("a")])];
            let error = translated(&mut truncations, parts).unwrap_err();
            assert!(error.remedy.unwrap().contains("teardown"));
        }
    }
}
