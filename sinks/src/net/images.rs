//! The new images of one row, as one row.

use std::borrow::Cow;

use decoders::change::{Cell, Row};

/// The images that still count: a later value hides an earlier one, a gap lets it through.
#[derive(Default, Debug)]
pub(super) enum Images<'a> {
    /// The row was not changed.
    #[default]
    None,
    /// The usual case: the last image says it all.
    One(&'a Row),
    /// Oldest first.
    Many(Vec<&'a Row>),
}

impl<'a> Images<'a> {
    pub fn push(&mut self, new: &'a Row) {
        match self {
            Images::None => *self = Images::One(new),
            Images::One(last) if hides(new, last) => *last = new,
            Images::One(last) => *self = Images::Many(vec![*last, new]),
            Images::Many(all) => {
                while all.pop_if(|last| hides(new, last)).is_some() {}
                all.push(new);
            }
        }
    }

    /// What all of them come to; gaps where none has a value.
    pub fn merged(self) -> Option<Cow<'a, Row>> {
        match self {
            Images::None => None,
            Images::One(row) => Some(Cow::Borrowed(row)),
            Images::Many(all) => match all.as_slice() {
                [] => None,
                [row] => Some(Cow::Borrowed(*row)),
                [first, ..] => {
                    let cell = |at| all.iter().rev().find_map(|row| row.value(at));
                    let cells =
                        (0..first.width()).map(|at| cell(at).map_or(Cell::Unchanged, Cell::Value));
                    Some(Cow::Owned(cells.collect()))
                }
            },
        }
    }
}

/// Whether `new` has a value wherever `old` has one.
fn hides(new: &Row, old: &Row) -> bool {
    new.is_complete()
        || new
            .cells()
            .zip(old.cells())
            .all(|(new, old)| new.value().is_some() || old.value().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &str) -> Row {
        let cell = |at| match &cells[at..=at] {
            "?" => Cell::Unchanged,
            text => Cell::text(text),
        };
        (0..cells.len()).map(cell).collect()
    }

    fn merged(images: &[&str]) -> (Row, bool) {
        let rows: Vec<Row> = images.iter().map(|cells| row(cells)).collect();
        let mut all = Images::default();
        rows.iter().for_each(|row| all.push(row));
        let merged = all.merged().expect("images");
        (merged.as_ref().clone(), matches!(merged, Cow::Borrowed(_)))
    }

    #[test]
    fn later_values_win_and_gaps_let_earlier_ones_through() {
        assert_eq!(merged(&["abc"]), (row("abc"), true));
        assert_eq!(merged(&["abc", "def"]), (row("def"), true));
        assert_eq!(merged(&["abc", "d?f"]), (row("dbf"), false));
        assert_eq!(merged(&["a?c", "d?f"]), (row("d?f"), true));
        assert_eq!(merged(&["abc", "?e?", "??f"]), (row("aef"), false));
        assert_eq!(merged(&["abc", "?e?", "xyz"]), (row("xyz"), true));
        assert_eq!(merged(&["?b?", "a??"]), (row("ab?"), false));
        assert_eq!(merged(&["?b?", "a??", "xy?"]), (row("xy?"), true));
    }
}
