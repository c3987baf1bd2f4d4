//! Which transactions touch the same rows: a transaction's write set, as 64-bit hashes; pure.
//!
//! # What has to stay in order
//! Rows are found by their replica identity. Two transactions that wrote a row of one identity, old
//! or new, share a hash, so they stay in order. Those that share none touch different rows, and what
//! a statement does to a row depends on no other row, except that a constraint may refuse it. So in
//! any order the outcome is the same or an error, never another outcome.
//!
//! Hashed beside the identity: new values of the other unique indexes (the stream has no old ones),
//! and the values of foreign keys as the parent's key. So whatever a constraint refuses in one order
//! stood there before, and is not put there by those that share no hash; once they are done, what
//! was refused can be applied. References are *reads*: two children of one parent do not need each
//! other's order.
//!
//! A value is hashed as the source wrote it. A table where that does not tell which values are
//! equal (1.0 and 1.00, citext), or whose identity is no unique index of the target, or that has
//! constraints whose values the stream does not show (over expressions, exclusion constraints), is
//! one hash, beside those of its keys, which its children need.
//!
//! Where foreign keys are checked, a child must not come after the removal of its parent that
//! followed it: no order would be accepted then. So what can't be told to be that removal keeps all
//! order: a child whose value is not spelled as its parent's, and an UPDATE or DELETE that does not
//! show the old value of a key that foreign keys refer to.
//!
//! Partitions are known by the name of the topmost table of their tree: a foreign key may refer to
//! one of them while the changes come as another's.

use std::hash::{DefaultHasher, Hash, Hasher};

use decoders::change::{ChangeEvent, OldRow, QualifiedName, Row, TableSchema};

/// What a transaction wrote, and what it counts on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteSet {
    /// Hashes of what it wrote: nothing else that writes or reads one of these may overtake it.
    pub writes: Vec<u64>,
    /// Hashes of what it refers to: whoever writes one of these may not overtake it.
    pub reads: Vec<u64>,
    /// Nothing may overtake it.
    pub everything: bool,
}

impl WriteSet {
    /// For the next transaction.
    pub fn clear(&mut self) {
        self.writes.clear();
        self.reads.clear();
        self.everything = false;
    }
}

/// Columns that are compared together, under the name of the key that they are compared as.
#[derive(Clone, PartialEq, Eq, Debug)]
struct KeyColumns {
    seed: u64,
    positions: Box<[usize]>,
    /// Whether all of them are in the replica identity, so that every old image has them.
    in_identity: bool,
}

impl KeyColumns {
    /// `columns` are the stream's positions, each with the name of the key's column there.
    fn new(table: &QualifiedName, mut columns: Vec<(&str, usize)>, schema: &TableSchema) -> Self {
        // Whoever names the key lists its columns in an order of their own.
        columns.sort_unstable();
        let mut hasher = DefaultHasher::new();
        table.hash(&mut hasher);
        columns.iter().for_each(|(name, _)| name.hash(&mut hasher));
        let positions: Box<[usize]> = columns.into_iter().map(|(_, at)| at).collect();
        let in_identity = positions.iter().all(|at| schema.columns[*at].in_key);
        Self { seed: hasher.finish(), positions, in_identity }
    }

    /// The hash of a row's values; `None` if one is NULL, which equals nothing, or was not sent.
    fn hash(&self, row: &Row) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        for at in &self.positions {
            let bytes = row.value(*at)?.bytes()?;
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        }
        Some(hasher.finish())
    }
}

/// A foreign key as far as order is concerned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// The table that is referred to; of a partition, the topmost table of its tree.
    pub parent: QualifiedName,
    /// Columns here, each with the parent's column that it must match.
    pub columns: Vec<(String, String)>,
}

/// What a target knows of a table that matters for order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableFacts {
    /// The stream's positions of the columns that find a row, if they are a unique index of the
    /// target over NOT NULL columns, and equal values are spelled alike.
    pub identity: Option<Vec<usize>>,
    /// Has constraints whose values the stream does not show, or not spelled alike.
    pub in_order: bool,
    /// Columns of its other unique indexes.
    pub unique: Vec<Vec<String>>,
    /// Its foreign keys.
    pub references: Vec<Reference>,
    /// A foreign key that is checked compares values that need not be spelled as the parent's.
    pub refers_loosely: bool,
    /// Columns of its keys that foreign keys which are checked refer to.
    pub referred: Vec<Vec<String>>,
    /// The topmost table of the tree that it is a partition in.
    pub tree: Option<QualifiedName>,
    /// It is a partitioned table: see [`TableConflicts::is_partitioned`].
    pub is_partitioned: bool,
    /// See [`TableConflicts::columns`].
    pub columns: u64,
    /// Something acts when it is written: triggers that fire, cascades.
    pub acts: bool,
}

/// Which transactions must stay in order because of their changes to one table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableConflicts {
    acts: bool,
    in_order: bool,
    refers_loosely: bool,
    /// Foreign keys refer to a key that is not in the replica identity.
    is_referred_beside: bool,
    is_partitioned: bool,
    columns: u64,
    whole: u64,
    identity: Option<KeyColumns>,
    unique: Vec<KeyColumns>,
    references: Vec<KeyColumns>,
}

impl TableConflicts {
    /// For one version of a source table.
    pub fn new(schema: &TableSchema, facts: &TableFacts) -> Self {
        let position = |wanted: &str| schema.column_names().position(|name| name == wanted);
        let mut hasher = DefaultHasher::new();
        schema.name.hash(&mut hasher);
        let tree = facts.tree.as_ref().unwrap_or(&schema.name);
        let identity = facts.identity.as_ref().map(|positions| {
            let columns = positions.iter().map(|at| (&*schema.columns[*at].name, *at)).collect();
            KeyColumns::new(tree, columns, schema)
        });
        let mut unique = Vec::new();
        let mut in_order = facts.in_order;
        for names in &facts.unique {
            let columns = names.iter().map(|name| Some((&**name, position(name)?))).collect();
            let Some(columns) = columns else {
                in_order = true;
                continue;
            };
            let key = KeyColumns::new(tree, columns, schema);
            if identity.as_ref() != Some(&key) && !unique.contains(&key) {
                unique.push(key);
            }
        }
        let mut references = Vec::new();
        for reference in &facts.references {
            let columns = reference.columns.iter();
            let columns = columns.map(|(own, parents)| Some((&**parents, position(own)?)));
            let Some(columns) = columns.collect::<Option<_>>() else { continue };
            let key = KeyColumns::new(&reference.parent, columns, schema);
            // A foreign key to a partitioned table has one for each partition.
            if !references.contains(&key) {
                references.push(key);
            }
        }
        let shown = |name: &String| position(name).is_some_and(|at| schema.columns[at].in_key);
        Self {
            acts: facts.acts,
            in_order,
            refers_loosely: facts.refers_loosely,
            is_referred_beside: facts.referred.iter().any(|names| !names.iter().all(shown)),
            is_partitioned: facts.is_partitioned,
            columns: facts.columns,
            whole: hasher.finish(),
            identity,
            unique,
            references,
        }
    }

    /// A table of which only the stream's word is known.
    pub fn by_identity(schema: &TableSchema) -> Self {
        let key: Vec<usize> = schema.key_positions().collect();
        let identity = (!key.is_empty()).then_some(key);
        Self::new(schema, &TableFacts { identity, ..TableFacts::default() })
    }

    /// Whether rows of other tables may be its rows: those of its partitions, if changes come as
    /// theirs. Their hashes can't be compared with the table's.
    pub fn is_partitioned(&self) -> bool {
        self.is_partitioned
    }

    /// A hash of the columns: tables with others can't be its partitions.
    pub fn columns(&self) -> u64 {
        self.columns
    }

    /// Adds what a change to this table touches.
    pub fn add(&self, change: &ChangeEvent, set: &mut WriteSet) {
        if self.acts {
            set.everything = true;
            return;
        }
        let (old, new) = match change {
            ChangeEvent::Insert { new, .. } => (None, Some(new)),
            ChangeEvent::Update { old, new, .. } => (old.as_ref(), Some(new)),
            ChangeEvent::Delete { old, .. } => (Some(old), None),
            // Comes alone: it does not say which rows.
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => {
                set.everything = true;
                return;
            }
            ChangeEvent::Message { .. } => return,
        };
        let hides_old = !matches!(old, Some(OldRow::Full(_)));
        let changes_old = !matches!(change, ChangeEvent::Insert { .. });
        set.everything |= self.refers_loosely && new.is_some()
            || self.is_referred_beside && changes_old && hides_old;
        if self.in_order {
            set.writes.push(self.whole);
        }
        match &self.identity {
            Some(identity) => {
                // What the row is found by, and what it is found by from then on. Without a value
                // (a TOASTed part of the key that was not sent) it can't be told from others.
                let images = [old.map(OldRow::row), new];
                for image in images.into_iter().flatten() {
                    match identity.hash(image) {
                        Some(hash) => set.writes.push(hash),
                        None => set.everything = true,
                    }
                }
            }
            None if self.in_order => {}
            // Rows that are only added keep no order among themselves.
            None if matches!(change, ChangeEvent::Insert { .. }) => set.reads.push(self.whole),
            None => set.writes.push(self.whole),
        }
        let keys = self.unique.iter().map(|key| (key, true));
        for (key, is_write) in keys.chain(self.references.iter().map(|key| (key, false))) {
            let before = old.filter(|old| key.in_identity || matches!(old, OldRow::Full(_)));
            let hashes = before.and_then(|old| key.hash(old.row())).into_iter();
            let hashes = hashes.chain(new.and_then(|new| key.hash(new)));
            match is_write {
                true => set.writes.extend(hashes),
                false => set.reads.extend(hashes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use decoders::change::{Cell, Column, ReplicaIdentity, TableId};

    use super::*;

    fn schema(name: &str, columns: &[&str], key: &[&str]) -> Arc<TableSchema> {
        let columns = columns.iter().map(|name| Column {
            name: (*name).to_owned(),
            type_oid: 25,
            type_modifier: -1,
            in_key: key.contains(name),
        });
        Arc::new(TableSchema {
            id: TableId(1),
            name: QualifiedName::new("public", name),
            identity: ReplicaIdentity::Default,
            columns: columns.collect(),
        })
    }

    fn row(values: &[&str]) -> Row {
        let cell = |value: &&'static str| match *value {
            "~" => Cell::NULL,
            "?" => Cell::Unchanged,
            text => Cell::text(text),
        };
        let values: Vec<&'static str> =
            values.iter().map(|value| &*Box::leak((*value).to_owned().into_boxed_str())).collect();
        values.iter().map(cell).collect()
    }

    fn insert(table: &Arc<TableSchema>, values: &[&str]) -> ChangeEvent {
        ChangeEvent::Insert { table: table.clone(), new: row(values) }
    }

    fn update(table: &Arc<TableSchema>, old: Option<&[&str]>, new: &[&str]) -> ChangeEvent {
        let old = old.map(|old| OldRow::Key(row(old)));
        ChangeEvent::Update { table: table.clone(), old, new: row(new) }
    }

    fn delete(table: &Arc<TableSchema>, old: &[&str]) -> ChangeEvent {
        ChangeEvent::Delete { table: table.clone(), old: OldRow::Key(row(old)) }
    }

    fn set(conflicts: &TableConflicts, changes: &[ChangeEvent]) -> WriteSet {
        let mut set = WriteSet::default();
        changes.iter().for_each(|change| conflicts.add(change, &mut set));
        set
    }

    fn meet(one: &WriteSet, other: &WriteSet) -> bool {
        let both = |a: &[u64], b: &[u64]| a.iter().any(|hash| b.contains(hash));
        both(&one.writes, &other.writes)
            || both(&one.writes, &other.reads)
            || both(&one.reads, &other.writes)
    }

    #[test]
    fn a_row_is_met_by_its_old_and_its_new_key() {
        let table = schema("t", &["id", "a"], &["id"]);
        let conflicts = TableConflicts::by_identity(&table);
        let moved = set(&conflicts, &[update(&table, Some(&["1", "~"]), &["2", "x"])]);
        for (change, meets) in [
            (insert(&table, &["1", "x"]), true),
            (delete(&table, &["2", "~"]), true),
            (update(&table, None, &["2", "y"]), true),
            (update(&table, None, &["3", "x"]), false),
        ] {
            assert_eq!(meet(&moved, &set(&conflicts, &[change])), meets);
        }
    }

    #[test]
    fn unique_values_meet_where_the_stream_has_them() {
        let table = schema("t", &["id", "a", "b"], &["id"]);
        let facts = TableFacts {
            identity: Some(vec![0]),
            unique: vec![vec!["id".into()], vec!["b".into(), "a".into()]],
            ..TableFacts::default()
        };
        let conflicts = TableConflicts::new(&table, &facts);
        let one = set(&conflicts, &[insert(&table, &["1", "x", "y"])]);
        assert_eq!(one.writes.len(), 2, "the identity is hashed once");
        assert!(meet(&one, &set(&conflicts, &[insert(&table, &["2", "x", "y"])])));
        assert!(!meet(&one, &set(&conflicts, &[insert(&table, &["2", "y", "x"])])));
        let null = set(&conflicts, &[insert(&table, &["3", "x", "~"])]);
        assert!(!meet(&null, &set(&conflicts, &[insert(&table, &["4", "x", "~"])])));
    }

    #[test]
    fn children_wait_for_their_parent_and_not_for_each_other() {
        let parent = schema("p", &["b", "a"], &["a", "b"]);
        let child = schema("c", &["id", "pa", "pb"], &["id"]);
        let parents = TableConflicts::by_identity(&parent);
        let columns = vec![("pa".into(), "a".into()), ("pb".into(), "b".into())];
        let reference = Reference { parent: parent.name.clone(), columns };
        let facts = TableFacts {
            identity: Some(vec![0]),
            references: vec![reference],
            ..TableFacts::default()
        };
        let children = TableConflicts::new(&child, &facts);
        let one = set(&children, &[insert(&child, &["1", "x", "y"])]);
        let other = set(&children, &[insert(&child, &["2", "x", "y"])]);
        assert!(!meet(&one, &other));
        assert!(meet(&one, &set(&parents, &[insert(&parent, &["y", "x"])])));
        assert!(!meet(&one, &set(&parents, &[insert(&parent, &["x", "y"])])));
        let orphan = set(&children, &[insert(&child, &["3", "~", "y"])]);
        assert!(orphan.reads.is_empty());
    }

    #[test]
    fn a_table_without_identity_is_one_thing_that_may_only_grow_in_any_order() {
        let table = schema("t", &["a"], &[]);
        let conflicts = TableConflicts::by_identity(&table);
        let one = set(&conflicts, &[insert(&table, &["x"])]);
        assert!(!meet(&one, &set(&conflicts, &[insert(&table, &["x"])])));
        let gone = ChangeEvent::Delete { table: table.clone(), old: OldRow::Full(row(&["y"])) };
        assert!(meet(&one, &set(&conflicts, &[gone])));
    }

    #[test]
    fn what_can_not_be_told_apart_keeps_all_order() {
        let table = schema("t", &["id", "a"], &["id"]);
        let conflicts = TableConflicts::by_identity(&table);
        let truncate = ChangeEvent::Truncate {
            tables: [table.clone()].into(),
            cascade: false,
            restart_identity: false,
        };
        assert!(set(&conflicts, &[truncate]).everything);
        assert!(set(&conflicts, &[update(&table, None, &["?", "x"])]).everything);
        assert!(set(&conflicts, &[update(&table, Some(&["1", "~"]), &["?", "x"])]).everything);
        assert!(!set(&conflicts, &[update(&table, Some(&["1", "~"]), &["2", "?"])]).everything);
        // A unique index over a column that the stream does not have.
        let unique = vec![vec!["generated".into()]];
        let facts = TableFacts { identity: Some(vec![0]), unique, ..TableFacts::default() };
        let conflicts = TableConflicts::new(&table, &facts);
        let one = set(&conflicts, &[insert(&table, &["1", "x"])]);
        assert!(meet(&one, &set(&conflicts, &[insert(&table, &["2", "y"])])));
        let facts = TableFacts { identity: Some(vec![0]), acts: true, ..TableFacts::default() };
        let conflicts = TableConflicts::new(&table, &facts);
        assert!(set(&conflicts, &[insert(&table, &["1", "x"])]).everything);
    }
}
