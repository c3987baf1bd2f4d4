//! What a change looks like, without its values: changes of one shape share a statement.

use decoders::change::{ChangeEvent, OldRow, Row};

use super::TablePlan;
use super::bind::Locator;
use crate::target::TargetError;

/// A set of columns, by position. The usual case, all of them, costs nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ColumnSet {
    /// Every column.
    All,
    /// Those whose bit is set, 64 columns a word.
    Some(Box<[u64]>),
}

impl ColumnSet {
    /// The columns of a row image that have values.
    pub fn present(row: &Row) -> Self {
        if row.is_complete() {
            return ColumnSet::All;
        }
        let mut words = vec![0u64; row.width().div_ceil(64)];
        for (at, cell) in row.cells().enumerate() {
            if cell.value().is_some() {
                words[at / 64] |= 1 << (at % 64);
            }
        }
        ColumnSet::Some(words.into())
    }

    /// Whether the column at `position` is in the set.
    pub fn contains(&self, position: usize) -> bool {
        match self {
            ColumnSet::All => true,
            ColumnSet::Some(words) => {
                words.get(position / 64).is_some_and(|word| word & (1 << (position % 64)) != 0)
            }
        }
    }
}

/// Which image says what the row was before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OldImage {
    /// None: the key did not change and is in the new row.
    InNew,
    /// The old image.
    InOld,
}

/// What is known of a GENERATED ALWAYS identity column in an UPDATE. PostgreSQL refuses to set
/// such a column, even to the value that it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IdentityColumn {
    /// There is none, or it keeps its value: left out of SET.
    Kept,
    /// Nothing tells: update if the row has the value, replace the row otherwise.
    Unknown,
    /// It changes: the row is replaced.
    Changed,
}

/// The form of one change.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Shape {
    /// A new row.
    Insert,
    /// A changed row.
    Update {
        /// Columns that the new image has.
        present: ColumnSet,
        /// Where the key's values are.
        key: OldImage,
        /// About an identity column.
        identity: IdentityColumn,
    },
    /// A removed row.
    Delete,
}

impl TablePlan {
    /// The shape of a change to this table, after checking that it has every value that its
    /// statement needs. `None` for changes without a row (TRUNCATE, messages).
    pub fn shape(&self, change: &ChangeEvent) -> Result<Option<Shape>, TargetError> {
        match change {
            ChangeEvent::Insert { new, .. } => {
                self.check_width(new)?;
                match ColumnSet::present(new) {
                    ColumnSet::All => Ok(Some(Shape::Insert)),
                    ColumnSet::Some(_) => Err(self.gap("INSERT")),
                }
            }
            ChangeEvent::Update { old, new, .. } => {
                self.check_width(new)?;
                let present = ColumnSet::present(new);
                let key = match old {
                    None => {
                        self.check_key("UPDATE", new, false)?;
                        OldImage::InNew
                    }
                    Some(old) => {
                        self.check_width(old.row())?;
                        self.check_key("UPDATE", old.row(), matches!(old, OldRow::Full(_)))?;
                        OldImage::InOld
                    }
                };
                let identity = self.identity_column(old.as_ref(), new);
                Ok(Some(Shape::Update { present, key, identity }))
            }
            ChangeEvent::Delete { old, .. } => {
                self.check_width(old.row())?;
                self.check_key("DELETE", old.row(), matches!(old, OldRow::Full(_)))?;
                Ok(Some(Shape::Delete))
            }
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Message { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => Ok(None),
        }
    }

    fn check_width(&self, row: &Row) -> Result<(), TargetError> {
        if row.width() == self.schema().columns.len() {
            return Ok(());
        }
        Err(TargetError::halt(
            format!(
                "a row of {} has {} columns where its table has {}",
                self.schema().name,
                row.width(),
                self.schema().columns.len()
            ),
            "This is a defect of the decoder: please report it",
        ))
    }

    /// Whether `row` holds what the row is found by.
    fn check_key(&self, op: &str, row: &Row, full: bool) -> Result<(), TargetError> {
        let whole = match self.locator() {
            Locator::Key(positions) => positions.iter().all(|at| row.value(*at).is_some()),
            Locator::WholeRow if full => row.is_complete(),
            Locator::WholeRow => false,
            Locator::Missing => {
                return Err(TargetError::halt(
                    format!(
                        "{op} on {}: the table has no replica identity, so the row can't be found",
                        self.schema().name
                    ),
                    "On blue, add a primary key, or ALTER TABLE .. REPLICA IDENTITY FULL; then copy \
                     the table again",
                ));
            }
        };
        if whole { Ok(()) } else { Err(self.gap(op)) }
    }

    fn gap(&self, op: &str) -> TargetError {
        TargetError::halt(
            format!("{op} on {}: a value that is needed was not sent", self.schema().name),
            "Check the table's REPLICA IDENTITY on blue; copy the table again if it was changed \
             while the stream ran",
        )
    }

    fn identity_column(&self, old: Option<&OldRow>, new: &Row) -> IdentityColumn {
        let Some(at) = self.identity_always() else { return IdentityColumn::Kept };
        let Some(value) = new.value(at) else { return IdentityColumn::Kept };
        let in_key = self.schema().columns[at].in_key;
        let known = match old {
            None if in_key => return IdentityColumn::Kept,
            None => None,
            Some(OldRow::Full(row)) => row.value(at),
            Some(OldRow::Key(row)) if in_key => row.value(at),
            Some(OldRow::Key(_)) => None,
        };
        match known {
            Some(before) if before == value => IdentityColumn::Kept,
            Some(_) => IdentityColumn::Changed,
            None => IdentityColumn::Unknown,
        }
    }
}
