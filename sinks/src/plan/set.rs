//! The SQL of many rows at once: one statement takes the rows as one array per column, or as COPY.
//!
//! The arrays come apart again by `unnest`, in step, as a row source beside the table:
//! `UPDATE .. SET c = s.n1 FROM ROWS FROM (unnest($1), unnest($2)) AS s(k0, n1) WHERE t.k = s.k0`.
//! Elements have no type modifier; the assignment to the column applies it, as it does to the
//! parameters of a [`RowStatement`](super::RowStatement).

use std::fmt::Write as _;

use decoders::change::Row;
use decoders::postgres::catalog::quote_ident as quoted;

use super::bind::Locator;
use super::sql::relation;
use super::{ColumnSet, IdentityColumn, OldImage, ParamType, Shape, Slot, TablePlan};
use crate::postgres::catalog::Equality;

/// The form of a statement for many rows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum SetShape {
    /// Rows that are gone.
    Delete,
    /// Rows that changed.
    Update {
        /// Columns that the new images have.
        present: ColumnSet,
        /// Whether the key changed too. Where it did not, it is not assigned: PostgreSQL would
        /// have to compare it to find that the indexes need nothing (HOT).
        moves: bool,
    },
    /// New rows.
    Insert,
}

/// A statement for many rows. It must affect exactly as many as it is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetStatement {
    /// The SQL, with `$1..`.
    pub sql: String,
    /// The parameters' types: arrays.
    pub types: Vec<ParamType>,
    /// Where the elements of each parameter come from.
    pub slots: Vec<Slot>,
}

/// How COPY's data is written (PostgreSQL manual, COPY, File Formats).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CopyFormat {
    /// Every value is text.
    Text,
    /// Every value is binary.
    Binary,
}

impl TablePlan {
    /// The statement for many changes of `shape`. `None` if there is none: the rows have to be
    /// written one by one, because a column has no array type (an array, a composite), the key has
    /// no operator, or the statement would have nothing to assign.
    pub fn set_statement(&self, shape: &SetShape) -> Option<SetStatement> {
        let mut sql = SetBuilder { plan: self, types: Vec::new(), slots: Vec::new() };
        let text = match shape {
            SetShape::Delete => sql.delete()?,
            SetShape::Update { present, moves } => sql.update(present, *moves)?,
            SetShape::Insert => sql.insert()?,
        };
        Some(SetStatement { sql: text, types: sql.types, slots: sql.slots })
    }

    /// The shape of one net update, whose old image holds the key only: for a row that is written
    /// by itself.
    pub fn net_update(&self, present: &ColumnSet, old: &Row, new: &Row) -> Shape {
        let identity = match self.identity_always() {
            Some(at) if present.contains(at) => {
                let in_key = self.key_positions().is_some_and(|key| key.contains(&at));
                match in_key {
                    false => IdentityColumn::Unknown,
                    true if old.value(at) == new.value(at) => IdentityColumn::Kept,
                    true => IdentityColumn::Changed,
                }
            }
            _ => IdentityColumn::Kept,
        };
        Shape::Update { present: present.clone(), key: OldImage::InOld, identity }
    }

    /// `COPY` for new rows, all columns of the stream in their order. COPY takes the values of
    /// identity columns as they are, GENERATED ALWAYS or not.
    pub fn copy_statement(&self, format: CopyFormat) -> String {
        let columns: Vec<String> = (0..self.schema().columns.len())
            .map(|at| quoted(&self.green_column(at).name))
            .collect();
        let format = match format {
            CopyFormat::Text => "text",
            CopyFormat::Binary => "binary",
        };
        let name = &self.green().name;
        format!("COPY {name} ({}) FROM STDIN (FORMAT {format})", columns.join(", "))
    }
}

struct SetBuilder<'a> {
    plan: &'a TablePlan,
    types: Vec<ParamType>,
    slots: Vec<Slot>,
}

impl SetBuilder<'_> {
    /// The row source's column for a slot.
    fn source(&mut self, slot: Slot) -> Option<String> {
        if !self.slots.contains(&slot) {
            let column = self.plan.green_column(slot.position());
            let array = column.array.as_ref()?;
            self.types.push(ParamType { oid: array.oid, name: format!("{}[]", column.type_name) });
            self.slots.push(slot);
        }
        Some(format!("s.{}", alias(slot)))
    }

    /// `ROWS FROM (unnest($1), ..) AS s(..)`. Unlike `unnest($1, ..)` it can name the function's
    /// schema.
    fn rows(&self) -> String {
        let mut text = String::from("ROWS FROM (");
        for at in 1..=self.slots.len() {
            let comma = if at > 1 { ", " } else { "" };
            let _ = write!(text, "{comma}pg_catalog.unnest(${at})");
        }
        let names: Vec<String> = self.slots.iter().map(|slot| alias(*slot)).collect();
        let _ = write!(text, ") AS s({})", names.join(", "));
        text
    }

    fn column(&self, at: usize) -> String {
        quoted(&self.plan.green_column(at).name)
    }

    /// The condition that finds each row by its key.
    fn condition(&mut self) -> Option<String> {
        let plan = self.plan;
        let Locator::Key(positions) = plan.locator() else { return None };
        let mut equal = Vec::with_capacity(positions.len());
        for at in positions {
            let value = self.source(Slot::Old(*at))?;
            let (Equality::Exact { schema } | Equality::Loose { schema }) =
                &plan.green_column(*at).equality
            else {
                return None;
            };
            equal.push(format!("t.{} OPERATOR({}.=) {value}", self.column(*at), quoted(schema)));
        }
        Some(equal.join(" AND "))
    }

    fn delete(&mut self) -> Option<String> {
        let condition = self.condition()?;
        let table = relation(self.plan.green());
        Some(format!("DELETE FROM {table} AS t USING {} WHERE {condition}", self.rows()))
    }

    fn update(&mut self, present: &ColumnSet, moves: bool) -> Option<String> {
        let condition = self.condition()?;
        let mut assign = Vec::new();
        for at in 0..self.plan.schema().columns.len() {
            let in_key = self.plan.key_positions().is_some_and(|key| key.contains(&at));
            if !present.contains(at) || (in_key && !moves) {
                continue;
            }
            // Can't be set at all; a changed one needs the row replaced.
            if self.plan.identity_always() == Some(at) {
                return None;
            }
            let value = self.source(Slot::New(at))?;
            assign.push(format!("{} = {value}", self.column(at)));
        }
        if assign.is_empty() {
            return None;
        }
        let table = relation(self.plan.green());
        let assign = assign.join(", ");
        Some(format!("UPDATE {table} AS t SET {assign} FROM {} WHERE {condition}", self.rows()))
    }

    fn insert(&mut self) -> Option<String> {
        let count = self.plan.schema().columns.len();
        let columns: Vec<String> = (0..count).map(|at| self.column(at)).collect();
        let values: Option<Vec<String>> = (0..count).map(|at| self.source(Slot::New(at))).collect();
        let values = values.filter(|values| !values.is_empty())?;
        let overriding = match self.plan.identity_always() {
            Some(_) => " OVERRIDING SYSTEM VALUE",
            None => "",
        };
        Some(format!(
            "INSERT INTO {} ({}){overriding} SELECT {} FROM {}",
            self.plan.green().name,
            columns.join(", "),
            values.join(", "),
            self.rows()
        ))
    }
}

fn alias(slot: Slot) -> String {
    match slot {
        Slot::Old(at) => format!("k{at}"),
        Slot::New(at) => format!("n{at}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use decoders::change::{Column, QualifiedName, ReplicaIdentity, TableId, TableSchema};

    use super::*;
    use crate::plan::Fire;
    use crate::postgres::catalog::{ArrayType, GreenColumn, GreenTable, Identity, TableKind};

    fn green(name: &str, type_oid: u32, array: u32, identity: Option<Identity>) -> GreenColumn {
        GreenColumn {
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
            type_name: "t".to_owned(),
            not_null: true,
            has_default: false,
            generated: None,
            identity,
            equality: Equality::Exact { schema: "pg_catalog".to_owned() },
            array: (array != 0).then_some(ArrayType { oid: array, delimiter: b',' }),
            inner_oids: None,
        }
    }

    fn plan(columns: Vec<GreenColumn>, kind: TableKind) -> TablePlan {
        let schema = TableSchema {
            id: TableId(1),
            name: QualifiedName::new("public", "T"),
            identity: ReplicaIdentity::Default,
            columns: columns
                .iter()
                .enumerate()
                .map(|(at, column)| Column {
                    name: column.name.clone(),
                    type_oid: column.type_oid,
                    type_modifier: -1,
                    in_key: at == 0,
                })
                .collect(),
        };
        let green = GreenTable {
            oid: 1,
            name: schema.name.clone(),
            kind,
            columns,
            unique_keys: Vec::new(),
            triggers: Vec::new(),
            cascades: Vec::new(),
        };
        TablePlan::new(Arc::new(schema), green, Fire::OnReplica).expect("fits")
    }

    fn three(identity: Option<Identity>) -> TablePlan {
        let columns = vec![
            green("id", 23, 1007, identity),
            green("a", 25, 1009, None),
            green("b\"", 23, 1007, None),
        ];
        plan(columns, TableKind::Plain)
    }

    fn sql(plan: &TablePlan, shape: SetShape) -> Option<String> {
        plan.set_statement(&shape).map(|statement| statement.sql)
    }

    #[test]
    fn rows_are_found_by_the_key_and_only_what_is_present_is_set() {
        let plan = three(None);
        assert_eq!(
            sql(&plan, SetShape::Delete).as_deref(),
            Some(
                "DELETE FROM ONLY \"public\".\"T\" AS t \
                 USING ROWS FROM (pg_catalog.unnest($1)) AS s(k0) \
                 WHERE t.\"id\" OPERATOR(\"pg_catalog\".=) s.k0"
            )
        );
        let shape = SetShape::Update { present: ColumnSet::All, moves: false };
        let update = plan.set_statement(&shape).expect("a statement");
        assert_eq!(
            update.sql,
            "UPDATE ONLY \"public\".\"T\" AS t SET \"a\" = s.n1, \"b\"\"\" = s.n2 \
             FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) \
             AS s(k0, n1, n2) WHERE t.\"id\" OPERATOR(\"pg_catalog\".=) s.k0"
        );
        assert_eq!(update.slots, [Slot::Old(0), Slot::New(1), Slot::New(2)]);
        let oids: Vec<u32> = update.types.iter().map(|t| t.oid).collect();
        assert_eq!(oids, [1007, 1009, 1007]);
        let present = ColumnSet::Some([0b101].into());
        let moved = sql(&plan, SetShape::Update { present, moves: true }).expect("a statement");
        assert!(moved.contains(" SET \"id\" = s.n0, \"b\"\"\" = s.n2 FROM "), "{moved}");
    }

    #[test]
    fn new_rows_bring_the_values_of_identity_columns() {
        let plan = three(Some(Identity::Always));
        let insert = sql(&plan, SetShape::Insert).expect("a statement");
        assert_eq!(
            insert,
            "INSERT INTO \"public\".\"T\" (\"id\", \"a\", \"b\"\"\") OVERRIDING SYSTEM VALUE \
             SELECT s.n0, s.n1, s.n2 FROM ROWS FROM \
             (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS s(n0, n1, n2)"
        );
        assert_eq!(
            plan.copy_statement(CopyFormat::Binary),
            "COPY \"public\".\"T\" (\"id\", \"a\", \"b\"\"\") FROM STDIN (FORMAT binary)"
        );
        let kept = SetShape::Update { present: ColumnSet::All, moves: false };
        assert!(sql(&plan, kept).is_some_and(|sql| !sql.contains("\"id\" = s.n0")));
        let moved = SetShape::Update { present: ColumnSet::All, moves: true };
        assert_eq!(sql(&plan, moved), None);
    }

    #[test]
    fn what_no_array_can_hold_is_written_row_by_row() {
        let columns = vec![green("id", 23, 1007, None), green("tags", 1009, 0, None)];
        let plan = plan(columns, TableKind::Partitioned);
        assert_eq!(sql(&plan, SetShape::Insert), None);
        let shape = SetShape::Update { present: ColumnSet::All, moves: false };
        assert_eq!(sql(&plan, shape), None);
        let delete = sql(&plan, SetShape::Delete).expect("by the key alone");
        assert!(delete.starts_with("DELETE FROM \"public\".\"T\" AS t USING"), "{delete}");
        let nothing_to_set =
            SetShape::Update { present: ColumnSet::Some([1].into()), moves: false };
        assert_eq!(sql(&plan, nothing_to_set), None);
    }
}
