//! The source's rows as changes of the target.

use std::sync::Arc;

use cutover::verify::suspect::Look;
use decoders::change::{Cell, ChangeEvent, Column, OldRow, ReplicaIdentity, Row};
use decoders::postgres::catalog::TableInfo;
use decoders::{TableId, TableSchema};

use super::super::plan::TablePlan;
use super::super::reader::{Reader, TextRow, Trouble};
use super::super::settle::Suspects;

/// A table as the statements for its rows see it: found by the key that it was verified by.
pub(super) struct Fitted {
    schema: Arc<TableSchema>,
    /// Columns whose values are written, as the source names them.
    pub columns: Vec<String>,
}

/// A change, and in which order changes go: what frees a unique value before what takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    Delete,
    Update,
    Insert,
}

impl Fitted {
    pub fn new(table: &TableInfo, plan: &TablePlan) -> Self {
        let in_key = |name: &str| plan.key.iter().any(|column| column.name == name);
        let column = |column: &decoders::postgres::catalog::ColumnInfo| Column {
            name: column.name.clone(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            in_key: in_key(&column.name),
        };
        let columns: Vec<Column> = table.copied_columns().map(column).collect();
        let schema = TableSchema {
            id: TableId(table.oid),
            name: table.name.clone(),
            // Without a key a row is found by all of its columns.
            identity: match plan.key.is_empty() {
                true => ReplicaIdentity::Full,
                false => ReplicaIdentity::Default,
            },
            columns,
        };
        let columns = schema.column_names().map(str::to_owned).collect();
        Self { schema: Arc::new(schema), columns }
    }

    /// What a row of the source looks like; `version` and values as
    /// [`TablePlan::values_sql`] gives them.
    fn row(&self, values: &[Option<String>], takes: impl Fn(&str) -> bool) -> Row {
        let cell = |(name, value): (&String, &'_ Option<String>)| -> OwnedCell {
            match (takes(name), value) {
                (false, _) => OwnedCell::Unchanged,
                (true, None) => OwnedCell::Null,
                (true, Some(text)) => OwnedCell::Text(text.clone()),
            }
        };
        let cells: Vec<OwnedCell> = self.columns.iter().zip(values).map(cell).collect();
        cells.iter().map(OwnedCell::as_cell).collect()
    }

    /// So many rows more with these values, or fewer.
    pub fn copies(&self, values: &[Option<String>], more: i64) -> Vec<(Act, ChangeEvent)> {
        let table = &self.schema;
        let row = self.row(values, |_| true);
        let (act, change) = match more > 0 {
            true => (Act::Insert, ChangeEvent::Insert { table: table.clone(), new: row }),
            false => {
                let old = OldRow::Full(row);
                (Act::Delete, ChangeEvent::Delete { table: table.clone(), old })
            }
        };
        vec![(act, change); more.unsigned_abs() as usize]
    }

    /// The row's key, every other column NULL.
    fn key(&self, plan: &TablePlan, key: &[String]) -> OldRow {
        let cell = |name: &String| {
            let value = plan.key.iter().zip(key).find(|(column, _)| column.name == *name);
            value.map_or(Cell::NULL, |(_, value)| Cell::text(value.as_bytes()))
        };
        OldRow::Key(self.columns.iter().map(cell).collect())
    }

    /// What has to be done to the target's row, and by what; `values` are the source's. `None`: not
    /// exactly one row on a side, so that nobody can tell which is which.
    pub fn change(
        &self,
        plan: &TablePlan,
        key: &[String],
        look: &Look,
        values: Option<&[Option<String>]>,
    ) -> Option<(Act, ChangeEvent)> {
        let table = self.schema.clone();
        let old = || self.key(plan, key);
        match (look.after.rows.as_slice(), look.target.rows.as_slice(), values) {
            ([], [_], _) => Some((Act::Delete, ChangeEvent::Delete { table, old: old() })),
            ([_], [], Some(values)) => {
                let new = self.row(values, |_| true);
                Some((Act::Insert, ChangeEvent::Insert { table, new }))
            }
            ([here], [there], Some(values)) => {
                let differs = |name: &str| {
                    let at = plan.columns.iter().position(|column| column == name);
                    at.is_some_and(|at| here.get(at) != there.get(at))
                };
                let new = self.row(values, differs);
                Some((Act::Update, ChangeEvent::Update { table, old: Some(old()), new }))
            }
            _ => None,
        }
    }

    /// A changed row taken out and put in again: for unique values that change places.
    pub fn anew(
        &self,
        plan: &TablePlan,
        key: &[String],
        values: &[Option<String>],
    ) -> [(Act, ChangeEvent); 2] {
        let table = &self.schema;
        let delete = ChangeEvent::Delete { table: table.clone(), old: self.key(plan, key) };
        let insert = ChangeEvent::Insert { table: table.clone(), new: self.row(values, |_| true) };
        [(Act::Delete, delete), (Act::Insert, insert)]
    }
}

/// A cell's value, owned until its row is made.
enum OwnedCell {
    Null,
    Unchanged,
    Text(String),
}

impl OwnedCell {
    fn as_cell(&self) -> Cell<'_> {
        match self {
            OwnedCell::Null => Cell::NULL,
            OwnedCell::Unchanged => Cell::Unchanged,
            OwnedCell::Text(text) => Cell::text(text.as_bytes()),
        }
    }
}

/// The source's row for one key: its version and its values.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub version: String,
    pub values: TextRow,
}

/// The rows with these keys or contents, in their order; `None` where there is not exactly one with
/// a key, or none with a content.
pub(super) async fn values(
    source: &Reader,
    plan: &TablePlan,
    fitted: &Fitted,
    suspects: &Suspects,
) -> Result<Vec<Option<Values>>, Trouble> {
    if suspects.len() == 0 {
        return Ok(Vec::new());
    }
    let sql = match suspects {
        Suspects::Keys(keys) => plan.values_sql(keys, &fitted.columns, false),
        Suspects::Contents(hashes) => plan.content_values_sql(hashes, &fitted.columns),
    };
    let mut found: Vec<Vec<Values>> = vec![Vec::new(); suspects.len()];
    // A session may round floats to compare them: not those that are written.
    let exact = format!("SET extra_float_digits = 3; {sql}; {}", plan.settings());
    let mut sets = source.sets(&exact).await?;
    if sets.len() != 3 {
        return Err(Trouble::unexpected(source.side, "not three results"));
    }
    for mut row in sets.swap_remove(1) {
        let number: usize = source.number(row.first())?;
        let values = row.split_off(2);
        let version = row.pop().flatten().unwrap_or_default();
        let slot = found.get_mut(number);
        let slot = slot.ok_or_else(|| Trouble::unexpected(source.side, "a row too many"))?;
        slot.push(Values { version, values });
    }
    Ok(found.into_iter().map(|mut rows| if rows.len() == 1 { rows.pop() } else { None }).collect())
}
