//! All relations, as they are kept and as they are.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::postgres::catalog::{RelationRecord, TableFilter};
use sinks::catalog_record::{Kept, Records};

use super::judge::moved;

/// What is not as it is kept.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// To be kept as it is now; unproven, if rows may have moved.
    pub changed: Vec<Kept>,
    /// Kept, and there is no table of this name any more.
    pub gone: Vec<QualifiedName>,
    /// Kept, and the operator has left it out since.
    pub left_out: Vec<QualifiedName>,
    /// Another table has the name, and it is replicated.
    pub made_again: Vec<RelationRecord>,
    /// Replicated and not kept; parents before their partitions.
    pub joined: Vec<RelationRecord>,
}

impl Found {
    /// Whether rows may have moved: everything but harmless changes.
    pub fn is_harmless(&self) -> bool {
        self.gone.is_empty()
            && self.made_again.is_empty()
            && self.joined.is_empty()
            && self.changed.iter().all(|kept| kept.unproven.is_none())
    }
}

/// Of what the filter takes.
pub(super) fn compare(records: &Records, all: &[RelationRecord], filter: &TableFilter) -> Found {
    let by_oid: BTreeMap<u32, &Kept> =
        records.values().map(|kept| (kept.relation.oid, kept)).collect();
    let names: BTreeSet<&QualifiedName> = all.iter().map(|relation| &relation.name).collect();
    let mut found = Found::default();
    for relation in all.iter().filter(|relation| filter.takes(&relation.name)) {
        match records.get(&relation.name) {
            Some(kept) if kept.relation.oid == relation.oid => {
                if kept.relation != *relation {
                    found.changed.push(renewed(kept, relation, None));
                }
            }
            Some(_) if relation.membership.is_none() => {}
            Some(_) => found.made_again.push(relation.clone()),
            None if relation.membership.is_none() => {}
            None => match by_oid.get(&relation.oid) {
                // Renamed: the same rows, and no better known than before.
                Some(kept) => {
                    found.changed.push(renewed(kept, relation, kept.unproven.clone()));
                }
                None => found.joined.push(relation.clone()),
            },
        }
    }
    for name in records.keys() {
        match (filter.takes(name), names.contains(name)) {
            (false, _) => found.left_out.push(name.clone()),
            (true, false) => found.gone.push(name.clone()),
            (true, true) => {}
        }
    }
    found.joined.sort_by_key(|relation| (!relation.is_root, depth(relation, all)));
    found
}

fn renewed(kept: &Kept, relation: &RelationRecord, unproven: Option<String>) -> Kept {
    let mut why = moved(&kept.relation, relation);
    why.extend(unproven);
    Kept {
        relation: relation.clone(),
        former: kept.former.clone(),
        unproven: (!why.is_empty()).then(|| why.join("; ")),
    }
}

/// How many tables are above it.
fn depth(relation: &RelationRecord, all: &[RelationRecord]) -> usize {
    let (mut at, mut depth) = (relation, 0);
    while let Some(parent) = at.parents.first()
        && let Some(above) = all.iter().find(|other| other.oid == parent.oid)
    {
        (at, depth) = (above, depth + 1);
    }
    depth
}
