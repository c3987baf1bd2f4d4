//! The SQL of rows.

use std::fmt::Write as _;

use decoders::change::{Cell, ChangeEvent, Row, Value};
use decoders::postgres::catalog::{quote_ident as quoted, quote_literal};

use super::bind::Locator;
use super::{ColumnSet, IdentityColumn, OldImage, Shape, TablePlan, one_row};
use crate::postgres::catalog::{Equality, GreenTable, TableKind};
use crate::target::TargetError;

/// Where a parameter's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// A column of the new row.
    New(usize),
    /// A column of the old row.
    Old(usize),
}

/// The type to declare for a parameter: green's own, so that nothing is left to inference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParamType {
    /// OID on green.
    pub oid: u32,
    /// For people.
    pub name: String,
}

impl Slot {
    /// The column's position in the stream.
    pub fn position(self) -> usize {
        let (Slot::New(at) | Slot::Old(at)) = self;
        at
    }
}

/// A statement for all changes of one shape. Green itself refuses it if it does not affect exactly
/// one row ([`one_row`](super::one_row)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowStatement {
    /// The SQL, with `$1..`.
    pub sql: String,
    /// The parameters' types.
    pub types: Vec<ParamType>,
    /// The parameters' values.
    pub slots: Vec<Slot>,
}

impl TablePlan {
    /// The statement for changes of `shape`.
    pub fn statement(&self, shape: &Shape) -> RowStatement {
        let mut sql = Builder::new(self);
        let text = sql.text(shape);
        RowStatement {
            sql: one_row::demanded(&sql.before, &text),
            types: sql.types,
            slots: sql.slots,
        }
    }

    /// The statement for one change as a person would type it, its values (in text form) as
    /// literals. It does not count what it affects. `None` for changes without a row.
    ///
    /// # Errors
    /// A value that the statement needs is missing.
    pub fn printed(&self, change: &ChangeEvent) -> Result<Option<String>, TargetError> {
        let Some(shape) = self.shape(change)? else { return Ok(None) };
        let images = match change {
            ChangeEvent::Insert { new, .. } => (None, Some(new)),
            ChangeEvent::Update { old, new, .. } => (old.as_ref().map(|old| old.row()), Some(new)),
            ChangeEvent::Delete { old, .. } => (Some(old.row()), None),
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Message { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => return Ok(None),
        };
        let mut sql = Builder { images: Some(images), ..Builder::new(self) };
        let text = sql.text(&shape);
        let text = text.strip_suffix(" RETURNING 1").unwrap_or(&text);
        Ok(Some(match sql.before.as_slice() {
            [] => format!("{text};"),
            before => format!("WITH {} {text};", before.join(", ")),
        }))
    }
}

/// One TRUNCATE for all tables of an event.
///
/// Every table that blue emptied is in the event, so nothing is cascaded on green, whatever the
/// event says: CASCADE could only reach tables that blue did not empty or that are not replicated
/// (PostgreSQL's own apply worker does the same). Children of plain tables are named in the event
/// themselves, hence ONLY.
///
/// RESTART IDENTITY is never repeated: what sequences stand at is carried by a cutover alone, which does so while
/// the last changes are still applied. A TRUNCATE among these would set a sequence back behind it.
pub fn truncate(tables: &[&GreenTable]) -> String {
    let mut sql = String::from("TRUNCATE TABLE ");
    for (at, table) in tables.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        let _ = write!(sql, "{comma}{}", relation(table));
    }
    sql.push_str(" CONTINUE IDENTITY");
    sql
}

/// The table as a statement names it. Rows of children are children's: each has its own changes.
pub(super) fn relation(table: &GreenTable) -> String {
    match table.kind {
        TableKind::Plain => format!("ONLY {}", table.name),
        // ONLY would leave out the partitions, where the rows are.
        TableKind::Partitioned => table.name.to_string(),
    }
}

struct Builder<'a> {
    plan: &'a TablePlan,
    types: Vec<ParamType>,
    slots: Vec<Slot>,
    /// What the statement is based on, each `name AS (..)`.
    before: Vec<String>,
    /// The old and the new row, where their values are to be literals.
    images: Option<(Option<&'a Row>, Option<&'a Row>)>,
}

/// Each gives a query with a row for each row that it wrote.
impl<'a> Builder<'a> {
    fn new(plan: &'a TablePlan) -> Self {
        Self { plan, types: Vec::new(), slots: Vec::new(), before: Vec::new(), images: None }
    }

    fn text(&mut self, shape: &Shape) -> String {
        match shape {
            Shape::Insert => self.insert(),
            Shape::Delete => self.delete(),
            Shape::Update { present, key, identity } => self.update(present, *key, *identity),
        }
    }

    /// A slot's value as SQL; `None` where it was not sent.
    fn literal(&self, (old, new): (Option<&Row>, Option<&Row>), slot: Slot) -> Option<String> {
        let value = match slot {
            Slot::New(at) => new?.value(at)?,
            Slot::Old(at) => old?.value(at)?,
        };
        let kind = &self.plan.green_column(slot.position()).type_name;
        Some(match value {
            Value::Null => format!("NULL::{kind}"),
            Value::Text(bytes) => {
                format!("{}::{kind}", quote_literal(&String::from_utf8_lossy(bytes)).trim_start())
            }
            // No text of a value that came in binary is known here.
            Value::Binary(_) => return None,
        })
    }

    /// `$n` for a slot; a slot that is used twice is sent once.
    fn param(&mut self, slot: Slot) -> String {
        if let Some(literal) = self.images.and_then(|images| self.literal(images, slot)) {
            return literal;
        }
        let at = self.slots.iter().rposition(|known| *known == slot).unwrap_or_else(|| {
            let column = self.plan.green_column(slot.position());
            self.types.push(ParamType { oid: column.type_oid, name: column.type_name.clone() });
            self.slots.push(slot);
            self.slots.len() - 1
        });
        format!("${}", at + 1)
    }

    fn column(&self, position: usize) -> String {
        quoted(&self.plan.green_column(position).name)
    }

    fn table(&self) -> String {
        relation(self.plan.green())
    }

    fn insert(&mut self) -> String {
        let count = self.plan.schema().columns.len();
        let name = &self.plan.green().name;
        if count == 0 {
            return format!("INSERT INTO {name} DEFAULT VALUES RETURNING 1");
        }
        let columns: Vec<String> = (0..count).map(|at| self.column(at)).collect();
        let values: Vec<String> = (0..count).map(|at| self.param(Slot::New(at))).collect();
        let overriding = self.overriding();
        format!(
            "INSERT INTO {name} ({}){overriding} VALUES ({}) RETURNING 1",
            columns.join(", "),
            values.join(", ")
        )
    }

    fn overriding(&self) -> &'static str {
        match self.plan.identity_always() {
            Some(_) => " OVERRIDING SYSTEM VALUE",
            None => "",
        }
    }

    fn delete(&mut self) -> String {
        let condition = self.this_row(OldImage::InOld);
        format!("DELETE FROM {} WHERE {condition} RETURNING 1", self.table())
    }

    fn update(&mut self, present: &ColumnSet, key: OldImage, identity: IdentityColumn) -> String {
        let condition = self.this_row(key);
        match (identity, self.plan.identity_always()) {
            (IdentityColumn::Kept, _) | (_, None) => self.set(present, &condition),
            (IdentityColumn::Changed, Some(_)) => self.replace(present, &condition),
            (IdentityColumn::Unknown, Some(at)) => self.set_or_replace(present, &condition, at),
        }
    }

    /// A plain UPDATE; a locking SELECT where nothing can be set, so that the row is still checked.
    fn set(&mut self, present: &ColumnSet, condition: &str) -> String {
        let settable =
            |at: &usize| present.contains(*at) && Some(*at) != self.plan.identity_always();
        let positions: Vec<usize> =
            (0..self.plan.schema().columns.len()).filter(settable).collect();
        let table = self.table();
        if positions.is_empty() {
            return format!("SELECT 1 FROM {table} WHERE {condition} FOR UPDATE");
        }
        let assign: Vec<String> = positions
            .into_iter()
            .map(|at| format!("{} = {}", self.column(at), self.param(Slot::New(at))))
            .collect();
        format!("UPDATE {table} SET {} WHERE {condition} RETURNING 1", assign.join(", "))
    }

    /// DELETE and INSERT in one statement: the only way to change an ALWAYS identity column.
    /// What the new row does not say is taken from the old one.
    fn replace(&mut self, present: &ColumnSet, condition: &str) -> String {
        let gone = format!("gone AS (DELETE FROM {} WHERE {condition} RETURNING *)", self.table());
        self.before.push(gone);
        self.insert_from("gone", present)
    }

    fn insert_from(&mut self, source: &str, present: &ColumnSet) -> String {
        let mut columns = Vec::new();
        let mut values = Vec::new();
        for (green_at, column) in self.plan.green().columns.iter().enumerate() {
            if column.generated.is_some() {
                continue;
            }
            let sent = self.plan.stream_position(green_at).filter(|at| present.contains(*at));
            values.push(match sent {
                Some(at) => self.param(Slot::New(at)),
                None => format!("{source}.{}", quoted(&column.name)),
            });
            columns.push(quoted(&column.name));
        }
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {source} \
             RETURNING 1",
            self.plan.green().name,
            columns.join(", "),
            values.join(", ")
        )
    }

    /// UPDATE if the identity column has the new row's value already, else replace the row. Both
    /// halves see the same snapshot and their conditions exclude each other.
    fn set_or_replace(&mut self, present: &ColumnSet, condition: &str, identity: usize) -> String {
        let column = self.column(identity);
        let value = self.param(Slot::New(identity));
        let same = format!("{condition} AND {column} OPERATOR(pg_catalog.=) {value}");
        let other = format!("{condition} AND {column} OPERATOR(pg_catalog.<>) {value}");
        let kept = format!("kept AS ({})", self.set(present, &same));
        let gone = format!("gone AS (DELETE FROM {} WHERE {other} RETURNING *)", self.table());
        let back = format!("back AS ({})", self.insert_from("gone", present));
        self.before.extend([kept, gone, back]);
        "SELECT 1 FROM kept UNION ALL SELECT 1 FROM back".to_owned()
    }

    fn old_slot(key: OldImage, at: usize) -> Slot {
        match key {
            OldImage::InNew => Slot::New(at),
            OldImage::InOld => Slot::Old(at),
        }
    }

    /// The condition that finds the row.
    fn this_row(&mut self, key: OldImage) -> String {
        match self.plan.locator() {
            Locator::Key(positions) => {
                let equal = |at: &usize| {
                    let value = self.param(Self::old_slot(key, *at));
                    let column = self.column(*at);
                    match &self.plan.green_column(*at).equality {
                        Equality::Exact { schema } | Equality::Loose { schema } => {
                            format!("{column} OPERATOR({}.=) {value}", quoted(schema))
                        }
                        Equality::Text => same_text(&column, &value),
                    }
                };
                positions.iter().map(equal).collect::<Vec<_>>().join(" AND ")
            }
            // `shape` refuses changes of a table whose rows can't be found.
            Locator::WholeRow | Locator::Missing => self.this_whole_row(key),
        }
    }

    /// One of the rows that equal the old row in all columns, the one with the same text if values
    /// can be equal and yet differ (1.0 and 1.00). `column = $1 OR (column IS NULL AND $1 IS NULL)`
    /// folds to an indexable condition once the value is known, unlike IS NOT DISTINCT FROM.
    fn this_whole_row(&mut self, key: OldImage) -> String {
        let table = self.table();
        let mut equal = Vec::new();
        let mut exact = Vec::new();
        for at in 0..self.plan.schema().columns.len() {
            let value = self.param(Self::old_slot(key, at));
            let column = self.column(at);
            let by_operator = |schema: &str| {
                let operator = format!("{column} OPERATOR({}.=) {value}", quoted(schema));
                format!("({operator} OR ({column} IS NULL AND {value} IS NULL))")
            };
            match &self.plan.green_column(at).equality {
                Equality::Exact { schema } => equal.push(by_operator(schema)),
                Equality::Loose { schema } => {
                    equal.push(by_operator(schema));
                    exact.push(same_text(&column, &value));
                }
                Equality::Text => equal.push(same_text(&column, &value)),
            }
        }
        let mut find = format!("SELECT tableoid, ctid FROM {table}");
        if !equal.is_empty() {
            let _ = write!(find, " WHERE {}", equal.join(" AND "));
        }
        if !exact.is_empty() {
            let _ = write!(find, " ORDER BY ({}) DESC", exact.join(" AND "));
        }
        format!("(tableoid, ctid) = ({find} LIMIT 1)")
    }
}

/// Equality by the type's output function. `%L` tells NULL from the word and, unlike a cast, can't
/// be redefined by users; green writes both sides, so settings and versions play no part. The
/// sub-select is evaluated once.
fn same_text(column: &str, value: &str) -> String {
    format!(
        "pg_catalog.format('%L', {column}) OPERATOR(pg_catalog.=) \
         (SELECT pg_catalog.format('%L', {value}))"
    )
}

impl RowStatement {
    /// The parameters' cells, taken from a change's images. `None` if an image is absent.
    pub fn cells<'s, 'a: 's>(
        &'s self,
        old: Option<&'a Row>,
        new: Option<&'a Row>,
    ) -> impl Iterator<Item = Option<Cell<'a>>> + 's {
        self.slots.iter().map(move |slot| match slot {
            Slot::New(at) => new.and_then(|row| row.cell(*at)),
            Slot::Old(at) => old.and_then(|row| row.cell(*at)),
        })
    }
}
