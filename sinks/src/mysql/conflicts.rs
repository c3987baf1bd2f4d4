//! Which transactions must stay in order because of their changes to a table of green.
//!
//! Values are hashed as the source wrote them ([`crate::conflicts`]), which tells equal values only of
//! types that have one spelling for each: integers, decimals (always with the digits of their column),
//! times and bytes. Collations call texts equal that are spelled differently, and zeros have two signs.
//! A key over such a column keeps its whole table in order; one that is compared where a foreign key is
//! checked keeps everything in order, and so does a foreign key to what is no unique key: its parent's
//! changes don't show which rows are meant.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use decoders::change::TableSchema;
use decoders::mysql::catalog::{ForeignKey, KeyColumn, TableInfo, UniqueKey};

use super::literal::Kind;
use super::plan::Plan;
use super::read::GreenTable;
use crate::conflicts::{Reference, TableConflicts, TableFacts};

/// What green's definition of a table says about order. `parents` are the tables that its foreign keys
/// refer to, as far as they are there.
pub(super) fn conflicts(
    table: &Arc<TableSchema>,
    plan: &Plan,
    green: &GreenTable,
    parents: &[TableInfo],
    checks_foreign_keys: bool,
) -> TableConflicts {
    let info = &green.info;
    let spelled_alike = |name: &String| {
        let position = table.column_names().position(|column| column == name);
        position.is_some_and(|at| {
            matches!(
                plan.columns[at].kind,
                Kind::Integer | Kind::Decimal | Kind::Temporal | Kind::Bytes | Kind::Bits
            )
        })
    };
    // A prefix of a value, an expression: the values of the key are not those of the stream.
    let names = |key: &UniqueKey| -> Option<Vec<String>> {
        let whole = |part: &KeyColumn| part.column.clone().filter(|_| part.prefix.is_none());
        key.columns.iter().map(whole).collect()
    };
    let keys =
        info.unique_keys.iter().map(|key| names(key).filter(|key| key.iter().all(spelled_alike)));
    let keys: Vec<Option<Vec<String>>> = keys.collect();
    let in_order = keys.iter().any(Option::is_none);
    let identity = plan.key().filter(|key| {
        let name = |at: &usize| &table.columns[*at].name;
        key.iter().all(|at| spelled_alike(name(at)))
    });
    let references = info.foreign_keys.iter().map(|key| Reference {
        parent: key.references.clone(),
        columns: key.columns.iter().cloned().zip(key.referenced_columns.iter().cloned()).collect(),
    });
    let refers_loosely = checks_foreign_keys
        && info
            .foreign_keys
            .iter()
            .any(|key| !key.columns.iter().all(spelled_alike) || !refers_to_unique(key, parents));
    let mut columns = DefaultHasher::new();
    table.name.hash(&mut columns);
    let facts = TableFacts {
        identity: identity.map(<[usize]>::to_vec),
        in_order,
        unique: keys.into_iter().flatten().collect(),
        references: references.collect(),
        refers_loosely,
        referred: Vec::new(),
        tree: None,
        is_partitioned: false,
        columns: columns.finish(),
        acts: !info.triggers.is_empty() || (checks_foreign_keys && !green.cascading.is_empty()),
    };
    TableConflicts::new(table, &facts)
}

fn refers_to_unique(key: &ForeignKey, parents: &[TableInfo]) -> bool {
    let parent = parents.iter().find(|parent| parent.name == key.references);
    let same = |unique: &UniqueKey| {
        unique.columns.len() == key.referenced_columns.len()
            && unique.columns.iter().all(|part| {
                let column = part.column.as_ref().filter(|_| part.prefix.is_none());
                column.is_some_and(|column| key.referenced_columns.contains(column))
            })
    };
    parent.is_some_and(|parent| parent.unique_keys.iter().any(same))
}
