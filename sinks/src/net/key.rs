//! Keys of rows, compared as they came.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use decoders::change::{Row, Value};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// The key of one row state: the images that hold its values, and their first bytes packed so
/// that most keys are hashed, compared and sorted without looking at the row again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// Per column two bytes of form and length, then the value; cut off or filled up with zeros.
    packed: u128,
    /// Nothing was cut off: equal `packed` means equal keys.
    exact: bool,
    /// The new image has a gap where a TOASTed key column did not change: the old one has it.
    images: (&'a Row, &'a Row),
}

/// In which forms the key columns of a table came, a bit per column (an index has 32 at most,
/// `INDEX_MAX_KEYS`).
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Forms {
    text: u32,
    binary: u32,
}

impl Forms {
    pub fn and(self, other: Forms) -> Forms {
        Forms { text: self.text | other.text, binary: self.binary | other.binary }
    }

    /// Whether a column came in both.
    pub fn mixed(self) -> bool {
        self.text & self.binary != 0
    }
}

const PACKED_BYTES: usize = 16;
/// Longer values are cut off in any case.
const LENGTH_MAX: usize = (1 << 14) - 1;

impl<'a> Key<'a> {
    /// The values at `positions` of `new`, or of `old` where `new` has a gap. `None` if both have.
    pub fn of(positions: &[usize], new: &'a Row, old: &'a Row) -> Option<(Self, Forms)> {
        let mut packed = [0; PACKED_BYTES];
        let mut used = 0;
        let mut forms = Forms::default();
        let images = (new, old);
        for (nth, at) in positions.iter().enumerate() {
            let bit = 1 << (nth % 32);
            let (form, bytes) = parts(Some(value(images, *at)?));
            match form {
                1 => forms.text |= bit,
                2 => forms.binary |= bit,
                _ => {}
            }
            let head = (form << 14 | bytes.len().min(LENGTH_MAX) as u16).to_be_bytes();
            for part in [&head[..], bytes] {
                let room = &mut packed[used.min(PACKED_BYTES)..];
                let fits = part.len().min(room.len());
                room[..fits].copy_from_slice(&part[..fits]);
                used = used.saturating_add(part.len());
            }
        }
        let packed = u128::from_be_bytes(packed);
        Some((Self { packed, exact: used <= PACKED_BYTES, images }, forms))
    }

    /// The first bytes of the [`order`](Key::order).
    pub fn packed(&self) -> u128 {
        self.packed
    }

    /// Whether both are the same, byte for byte and in the same form.
    pub fn same(&self, other: &Key<'_>, positions: &[usize]) -> bool {
        // Lengths come before values, so a key that fits is never the beginning of one that
        // does not.
        self.packed == other.packed
            && (self.exact
                || positions.iter().all(|at| value(self.images, *at) == value(other.images, *at)))
    }

    /// A total order: column by column, by form, length and bytes.
    pub fn order(&self, other: &Key<'_>, positions: &[usize]) -> Ordering {
        let by_packed = self.packed.cmp(&other.packed);
        if by_packed != Ordering::Equal || self.exact {
            return by_packed;
        }
        let columns = positions.iter().map(|at| {
            let (own, other) = (value(self.images, *at), value(other.images, *at));
            let ((own_form, own), (other_form, other)) = (parts(own), parts(other));
            let by_form = own_form.cmp(&other_form);
            by_form.then(own.len().cmp(&other.len())).then_with(|| own.cmp(other))
        });
        columns.fold(Ordering::Equal, Ordering::then)
    }

    fn hash(&self, state: &RandomState, positions: &[usize]) -> u64 {
        if self.exact {
            return state.hash_one(self.packed);
        }
        let mut hasher = state.build_hasher();
        positions.iter().for_each(|at| value(self.images, *at).hash(&mut hasher));
        hasher.finish()
    }
}

/// The form, 0 for NULL, and the bytes.
fn parts(value: Option<Value<'_>>) -> (u16, &[u8]) {
    match value {
        None | Some(Value::Null) => (0, &[]),
        Some(Value::Text(bytes)) => (1, bytes),
        Some(Value::Binary(bytes)) => (2, bytes),
    }
}

fn value<'a>((new, old): (&'a Row, &'a Row), at: usize) -> Option<Value<'a>> {
    new.value(at).or_else(|| old.value(at))
}

/// Who has a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    /// The batch has not said anything about it yet.
    Unseen,
    /// No row, as the batch says.
    Nobody,
    /// This entity.
    Entity(u32),
}

/// What is known of one key.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    hash: u64,
    key: Key<'a>,
    /// Who has it now.
    pub holder: Holder,
    /// The existing row that had it before the batch, if the batch touched it.
    pub native: Option<u32>,
}

/// All keys of one table that the batch names.
#[derive(Default)]
pub(super) struct Keys<'a> {
    state: RandomState,
    slots: HashTable<Slot<'a>>,
}

impl<'a> Keys<'a> {
    /// The key's slot, made if need be.
    pub fn slot(&mut self, key: Key<'a>, positions: &[usize]) -> &mut Slot<'a> {
        let hash = key.hash(&self.state, positions);
        let same = |slot: &Slot<'a>| slot.hash == hash && slot.key.same(&key, positions);
        match self.slots.entry(hash, same, |slot| slot.hash) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(free) => {
                let slot = Slot { hash, key, holder: Holder::Unseen, native: None };
                free.insert(slot).into_mut()
            }
        }
    }

    /// All slots, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Slot<'a>> {
        self.slots.iter()
    }
}

#[cfg(test)]
mod tests {
    use decoders::change::Cell;
    use proptest::prelude::*;

    use super::*;

    fn cells() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        // A small alphabet with zeros and long common beginnings: what packing could confuse.
        let bytes = prop_oneof![
            prop::collection::vec(0..3u8, 0..6),
            prop::collection::vec(0..2u8, 0..3).prop_map(|end| [vec![7; 14], end].concat()),
            prop::collection::vec(Just(1u8), 0..20),
        ];
        prop::collection::vec((0..3u8, bytes), 2)
    }

    fn row(cells: &[(u8, Vec<u8>)]) -> Row {
        cells
            .iter()
            .map(|(form, bytes)| match form {
                0 => Cell::NULL,
                1 => Cell::text(bytes),
                _ => Cell::binary(bytes),
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..Default::default() })]

        #[test]
        fn keys_are_the_same_exactly_if_their_values_are(a in cells(), b in cells()) {
            let (a, b) = (row(&a), row(&b));
            let positions = [0, 1];
            let state = RandomState::new();
            let (key_a, _) = Key::of(&positions, &a, &a).expect("no gaps");
            let (key_b, _) = Key::of(&positions, &b, &b).expect("no gaps");
            prop_assert_eq!(key_a.same(&key_b, &positions), a == b);
            prop_assert_eq!(key_a.order(&key_b, &positions).is_eq(), a == b);
            prop_assert_eq!(
                key_a.order(&key_b, &positions),
                key_b.order(&key_a, &positions).reverse()
            );
            if a == b {
                prop_assert_eq!(key_a.hash(&state, &positions), key_b.hash(&state, &positions));
            }
        }
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let rows: Vec<Row> =
            ["9", "10", "100", "99", "1"].map(|text| row(&[(1, text.into())])).into();
        let mut keys: Vec<_> =
            rows.iter().map(|row| Key::of(&[0], row, row).expect("no gap").0).collect();
        keys.sort_by(|a, b| a.order(b, &[0]));
        let texts: Vec<_> =
            keys.iter().map(|key| key.images.0.value(0).and_then(Value::bytes)).collect();
        assert_eq!(texts, ["1", "9", "10", "99", "100"].map(|text| Some(text.as_bytes())));
    }

    #[test]
    fn a_gap_in_the_new_image_is_filled_from_the_old_one() {
        let (old, new) = (row(&[(1, vec![5])]), Row::from(vec![Cell::Unchanged]));
        let (before, _) = Key::of(&[0], &old, &old).expect("no gap");
        let (after, _) = Key::of(&[0], &new, &old).expect("filled");
        assert!(before.same(&after, &[0]));
        assert!(Key::of(&[0], &new, &new).is_none());
    }
}
