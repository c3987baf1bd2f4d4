//! Row images: they fit their table, can be found again, and hold all that the stream knows.

use super::error::{AssembleError, RowError};
use super::tables::Described;
use crate::change::{Cell, OldRow, ReplicaIdentity, Row, TableSchema, Value};

pub(super) fn on(table: &TableSchema, kind: RowError) -> AssembleError {
    AssembleError::Row { table: table.name.clone(), kind }
}

pub(super) fn check_width(table: &Described, row: &Row) -> Result<(), RowError> {
    let (expected, found) = (table.schema.columns.len(), row.width());
    if expected == found { Ok(()) } else { Err(RowError::Width { expected, found }) }
}

pub(super) fn check_gapless(row: &Row) -> Result<(), RowError> {
    if row.is_complete() {
        return Ok(());
    }
    let gap = row.cells().position(|cell| cell == Cell::Unchanged);
    gap.map_or(Ok(()), |at| Err(RowError::Gap(at)))
}

/// No old image: the key did not change, so it is in the new one.
pub(super) fn check_key_in_new(table: &Described, new: &Row) -> Result<(), RowError> {
    if table.schema.identity == ReplicaIdentity::Full {
        return Err(RowError::OldImage);
    }
    check_key(table, new)
}

/// An old image has no gaps (the source detoasts it), fits the identity and holds a whole key.
pub(super) fn check_old(table: &Described, old: &OldRow) -> Result<(), RowError> {
    check_width(table, old.row())?;
    check_gapless(old.row())?;
    match (old, table.schema.identity == ReplicaIdentity::Full) {
        (OldRow::Full(_), true) => Ok(()),
        (OldRow::Key(key), false) => check_key(table, key),
        (OldRow::Full(_), false) | (OldRow::Key(_), true) => Err(RowError::OldImage),
    }
}

/// There is a key, and `row` has a value for each of its columns.
fn check_key(table: &Described, row: &Row) -> Result<(), RowError> {
    for &at in &table.key {
        match row.cell(at) {
            Some(Cell::Value(Value::Null)) => return Err(RowError::NullInKey(at)),
            Some(Cell::Value(_)) => {}
            Some(Cell::Unchanged) | None => return Err(RowError::Gap(at)),
        }
    }
    if table.key.is_empty() { Err(RowError::NoKey) } else { Ok(()) }
}

/// Takes values that `new` leaves out from `old`, where that holds them.
pub(super) fn fill_gaps(table: &Described, old: &OldRow, new: &mut Row) -> Result<(), RowError> {
    let full = matches!(old, OldRow::Full(_));
    if new.is_complete() {
        return Ok(());
    }
    for (at, column) in table.schema.columns.iter().enumerate() {
        if new.cell(at) != Some(Cell::Unchanged) || !(full || column.in_key) {
            continue;
        }
        // NULL is never TOASTed: an old image that says NULL here does not hold the column.
        if old.row().value(at).is_none_or(Value::is_null) {
            return Err(RowError::OldImage);
        }
        new.take_cell(at, old.row());
    }
    Ok(())
}
