//! The rows of one table that a batch touches.

use std::collections::HashMap;

use decoders::change::{ChangeEvent, Row};

use super::images::Images;
use super::key::{Forms, Holder, Key, Keys, Slot};
use super::{NetPlan, NetTable, NetUpdate, UpdateGroup, Why};
use crate::plan::ColumnSet;

/// What becomes of one row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It was on green before and stays.
    Existing,
    /// It was on green before and goes.
    Deleted,
    /// The batch creates it.
    Created,
    /// The batch created it and removed it again.
    Vanished,
}

/// A row that was on green before, or that the batch created.
#[derive(Debug)]
struct Entity<'a> {
    fate: Fate,
    /// Of an existing row: the image that names it as it was before the batch.
    before: &'a Row,
    /// What it is sorted by: of an existing row the key before the batch, else the present one.
    key: Key<'a>,
    images: Images<'a>,
}

/// The keys of one change, before and after it; the same for a row that keeps its key.
struct ChangeKeys<'a> {
    before: Key<'a>,
    after: Key<'a>,
    forms: Forms,
}

/// The rows of one table with a key.
#[derive(Default)]
pub(super) struct Entities<'a> {
    keys: Keys<'a>,
    all: Vec<Entity<'a>>,
    forms: Forms,
    /// An existing row got another key.
    moved: bool,
}

/// What a change did to the entities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It is part of them now.
    Yes,
    /// Its key is in another form (text, binary) than those before: not comparable.
    OtherForm,
}

impl<'a> Entities<'a> {
    /// Takes a change in; `positions` are those of the key. A refused change leaves them useless.
    pub fn take(&mut self, change: &'a ChangeEvent, positions: &[usize]) -> Result<Taken, Why> {
        let Some(keys) = change_keys(change, positions)? else { return Ok(Taken::Yes) };
        let forms = self.forms.and(keys.forms);
        if forms.mixed() {
            return Ok(Taken::OtherForm);
        }
        self.forms = forms;
        match change {
            ChangeEvent::Insert { new, .. } => self.insert(new, keys.after, positions)?,
            ChangeEvent::Update { old, new, .. } => {
                let before = old.as_ref().map_or(new, |old| old.row());
                self.update(before, new, &keys, positions)?;
            }
            ChangeEvent::Delete { old, .. } => self.delete(old.row(), keys.before, positions)?,
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Message { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => {}
        }
        Ok(Taken::Yes)
    }

    fn insert(&mut self, new: &'a Row, key: Key<'a>, positions: &[usize]) -> Result<(), Why> {
        let id = self.next_id()?;
        let slot = self.keys.slot(key, positions);
        if let Holder::Entity(_) = slot.holder {
            return Err(Why::KeyTaken);
        }
        slot.holder = Holder::Entity(id);
        let images = Images::One(new);
        self.all.push(Entity { fate: Fate::Created, before: new, key, images });
        Ok(())
    }

    fn update(
        &mut self,
        before: &'a Row,
        new: &'a Row,
        keys: &ChangeKeys<'a>,
        positions: &[usize],
    ) -> Result<(), Why> {
        let next = self.next_id()?;
        let slot = self.keys.slot(keys.before, positions);
        let id = resolve(&mut self.all, slot, before, keys.before, next)?;
        self.all[id as usize].images.push(new);
        if keys.before.same(&keys.after, positions) {
            return Ok(());
        }
        slot.holder = Holder::Nobody;
        let target = self.keys.slot(keys.after, positions);
        if let Holder::Entity(_) = target.holder {
            return Err(Why::KeyTaken);
        }
        target.holder = Holder::Entity(id);
        let entity = &mut self.all[id as usize];
        match entity.fate {
            Fate::Created => entity.key = keys.after,
            _ => self.moved = true,
        }
        Ok(())
    }

    fn delete(&mut self, old: &'a Row, key: Key<'a>, positions: &[usize]) -> Result<(), Why> {
        let next = self.next_id()?;
        let slot = self.keys.slot(key, positions);
        let id = resolve(&mut self.all, slot, old, key, next)?;
        slot.holder = Holder::Nobody;
        let entity = &mut self.all[id as usize];
        entity.fate = match entity.fate {
            Fate::Created | Fate::Vanished => Fate::Vanished,
            Fate::Existing | Fate::Deleted => Fate::Deleted,
        };
        entity.images = Images::None;
        Ok(())
    }

    fn next_id(&self) -> Result<u32, Why> {
        u32::try_from(self.all.len()).map_err(|_| Why::TooMany)
    }

    /// Puts what they come to into `out`. `false` if that can't be said by sets, and `out` is to be
    /// thrown away: a row takes the key of another that has to move away first (the order of the
    /// updates matters), or an update has nothing to set.
    pub fn finish<P: NetPlan>(
        mut self,
        plan: &P,
        positions: &[usize],
        out: &mut NetTable<'a, P>,
    ) -> bool {
        if self.moved && self.keys.iter().any(|slot| self.must_wait(slot)) {
            return false;
        }
        // Most keys are sorted by what is beside the number here, without a look at the row.
        let key = |id: u32| &self.all[id as usize].key;
        let mut order: Vec<(u128, u32)> =
            self.all.iter().zip(0..).map(|(entity, id)| (entity.key.packed(), id)).collect();
        order.sort_unstable_by(|(a, a_id), (b, b_id)| {
            a.cmp(b).then_with(|| key(*a_id).order(key(*b_id), positions))
        });
        let mut groups: HashMap<ColumnSet, usize> = HashMap::new();
        for (_, id) in order {
            let entity = &mut self.all[id as usize];
            let images = std::mem::take(&mut entity.images);
            match (entity.fate, images.merged()) {
                (Fate::Deleted, _) => out.deletes.push(entity.before),
                (Fate::Created, Some(row)) => out.inserts.push(row),
                (Fate::Existing, Some(new)) => {
                    let present = ColumnSet::present(&new);
                    let last = out.updates.len();
                    let at = *groups.entry(present).or_insert_with_key(|present| {
                        let present = present.clone();
                        out.updates.push(UpdateGroup { present, rows: Vec::new() });
                        last
                    });
                    out.updates[at].rows.push(NetUpdate { key: entity.before, new });
                }
                (Fate::Vanished, _) | (Fate::Created | Fate::Existing, None) => {}
            }
        }
        out.updates.iter().all(|group| plan.can_set(&group.present))
    }

    /// Whether an existing row has this key now, which another existing row had before and that is
    /// still there.
    fn must_wait(&self, slot: &Slot<'a>) -> bool {
        let stays = |id: u32| self.all[id as usize].fate == Fate::Existing;
        match (slot.holder, slot.native) {
            (Holder::Entity(now), Some(native)) => now != native && stays(now) && stays(native),
            _ => false,
        }
    }
}

/// The entity that has the slot's key; an existing row that is seen for the first time becomes one.
fn resolve<'a>(
    all: &mut Vec<Entity<'a>>,
    slot: &mut Slot<'a>,
    before: &'a Row,
    key: Key<'a>,
    next: u32,
) -> Result<u32, Why> {
    match slot.holder {
        Holder::Entity(id) => Ok(id),
        Holder::Nobody => Err(Why::RowGone),
        Holder::Unseen => {
            all.push(Entity { fate: Fate::Existing, before, key, images: Images::None });
            slot.holder = Holder::Entity(next);
            slot.native = Some(next);
            Ok(next)
        }
    }
}

/// `None` for changes without a row.
fn change_keys<'a>(
    change: &'a ChangeEvent,
    positions: &[usize],
) -> Result<Option<ChangeKeys<'a>>, Why> {
    let key = |new, old| Key::of(positions, new, old).ok_or(Why::Unfit);
    let (before, (after, forms)) = match change {
        ChangeEvent::Insert { new, .. } => (None, key(new, new)?),
        ChangeEvent::Update { old: None, new, .. } => (None, key(new, new)?),
        ChangeEvent::Update { old: Some(old), new, .. } => {
            (Some(key(old.row(), old.row())?), key(new, old.row())?)
        }
        ChangeEvent::Delete { old, .. } => (None, key(old.row(), old.row())?),
        ChangeEvent::Truncate { .. }
        | ChangeEvent::Message { .. }
        | ChangeEvent::Definition(_)
        | ChangeEvent::Distributed(_) => {
            return Ok(None);
        }
    };
    Ok(Some(match before {
        None => ChangeKeys { before: after, after, forms },
        Some((before, old_forms)) => ChangeKeys { before, after, forms: forms.and(old_forms) },
    }))
}
