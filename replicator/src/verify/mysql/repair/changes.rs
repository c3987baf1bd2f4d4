//! What makes rows equal.

use std::collections::HashMap;

use decoders::change::ChangeEvent;

use super::super::compare::differing;
use super::super::keys::{Key, identity, key_of};
use super::super::plan::{SOURCE, TARGET, TablePlan};
use super::super::side::ByteRow;
use super::images::{Image, Images};

/// A change, and in which order changes go: what frees a unique value before what takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    Delete,
    Update,
    Insert,
}

/// How changed rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// With the columns that differ.
    Updated,
    /// Taken out and put in again: for unique values that change places.
    Anew,
}

/// What a row needs.
#[derive(Debug)]
pub(super) enum Need {
    /// Nothing.
    Equal,
    /// The target lacks it, has other values, or has one too many: this act is its name.
    Act(Act, Vec<(Act, ChangeEvent)>),
    /// Nobody can tell which is which.
    Twice,
    /// What would be written is what is there, and differs all the same.
    Undefined,
}

/// Rows of both sides with one key.
#[derive(Debug, Default)]
struct Sides([Vec<(ByteRow, Image)>; 2]);

/// Rows of both sides by key.
pub(super) struct Rows<'a> {
    plan: &'a TablePlan,
    by_key: HashMap<Vec<Vec<u8>>, Sides>,
}

impl<'a> Rows<'a> {
    pub fn new(plan: &'a TablePlan) -> Self {
        Self { plan, by_key: HashMap::new() }
    }

    /// Takes a side's rows: what is compared, and behind it the whole row.
    pub fn take(&mut self, side: usize, rows: Vec<ByteRow>) {
        for mut row in rows {
            let image = row.split_off(self.plan.columns.len().min(row.len()));
            let key = identity(self.plan, &key_of(self.plan, &row));
            self.by_key.entry(key).or_default().0[side].push((row, image));
        }
    }

    /// What the row with this key needs.
    pub fn need(&self, images: &Images, key: &Key, manner: Manner) -> Need {
        let empty = Sides::default();
        let sides = self.by_key.get(&identity(self.plan, key)).unwrap_or(&empty);
        match [sides.0[SOURCE].as_slice(), sides.0[TARGET].as_slice()] {
            [[], []] => Need::Equal,
            [[(_, here)], []] => Need::Act(Act::Insert, vec![(Act::Insert, images.insert(here))]),
            [[], [(_, there)]] => Need::Act(Act::Delete, vec![(Act::Delete, images.delete(there))]),
            [[(here, _)], [(there, _)]] if differing(self.plan, here, there).is_empty() => {
                Need::Equal
            }
            [[(_, here)], [(_, there)]] if here == there => Need::Undefined,
            [[(_, here)], [(_, there)]] => {
                let changes = match manner {
                    Manner::Updated => vec![(Act::Update, images.update(there, here))],
                    Manner::Anew => vec![
                        (Act::Delete, images.delete(there)),
                        (Act::Insert, images.insert(here)),
                    ],
                };
                Need::Act(Act::Update, changes)
            }
            _ => Need::Twice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{row, table};
    use super::*;

    #[test]
    fn a_row_that_a_write_would_leave_as_it_is_is_not_written() {
        let table = table(true);
        let mut rows = Rows::new(&table.plan);
        rows.take(SOURCE, vec![row("1", "1:a", "a"), row("2", "1:a", "a"), row("3", "2:b", "b")]);
        rows.take(TARGET, vec![row("1", "2:a", "a"), row("2", "1:b", "b"), row("3", "2:b", "b")]);
        let need = |id: &str| rows.need(&table.images, &vec![id.to_owned()], Manner::Updated);
        assert!(matches!(need("1"), Need::Undefined));
        assert!(matches!(need("2"), Need::Act(Act::Update, _)));
        assert!(matches!(need("3"), Need::Equal));
    }
}
