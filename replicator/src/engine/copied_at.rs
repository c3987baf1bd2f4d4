//! Tables whose rows were copied from a later snapshot than the others'.
//!
//! A table that was emptied or rewritten before its turn in the copy is read again from the
//! snapshot of a slot of its own. The slot's consistent point says exactly which transactions that
//! snapshot shows: those whose commit record is before it (PostgreSQL manual, 49.2.4 Exported
//! Snapshots). The stream begins earlier, so what it brings of them for this table is on the target
//! already and is left out. All other changes of the same transactions are applied.

use std::collections::BTreeMap;

use decoders::{ChangeEvent, Lsn, QualifiedName, Transaction};

/// By the name in the stream, the consistent point of the snapshot that a table was copied from.
/// Tables that are not here were copied where the stream begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopiedAt {
    tables: BTreeMap<QualifiedName, Lsn>,
    newest: Option<Lsn>,
}

impl CopiedAt {
    /// Whether a change of the table is in its copy.
    fn has(&self, table: &QualifiedName, commit: Lsn) -> bool {
        self.tables.get(table).is_some_and(|point| commit < *point)
    }

    /// Takes out what is in the copy of its table. Parts of one transaction have the commit of the
    /// whole.
    pub(super) fn leave_out(&self, transaction: &mut Transaction) {
        let commit = transaction.commit_lsn;
        if self.newest.is_none_or(|newest| commit >= newest) {
            return;
        }
        transaction.changes.retain_mut(|change| match change {
            ChangeEvent::Insert { table, .. }
            | ChangeEvent::Update { table, .. }
            | ChangeEvent::Delete { table, .. } => !self.has(&table.name, commit),
            ChangeEvent::Truncate { tables, .. } => {
                if tables.iter().any(|table| self.has(&table.name, commit)) {
                    let others = tables.iter().filter(|table| !self.has(&table.name, commit));
                    *tables = others.cloned().collect();
                }
                !tables.is_empty()
            }
            ChangeEvent::Message { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => true,
        });
    }
}

impl FromIterator<(QualifiedName, Lsn)> for CopiedAt {
    fn from_iter<T: IntoIterator<Item = (QualifiedName, Lsn)>>(tables: T) -> Self {
        let tables: BTreeMap<QualifiedName, Lsn> = tables.into_iter().collect();
        let newest = tables.values().copied().max();
        Self { tables, newest }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use decoders::{Cell, Part, ReplicaIdentity, Row, TableId, TableSchema};

    use super::*;

    fn table(name: &str) -> Arc<TableSchema> {
        Arc::new(TableSchema {
            id: TableId(1),
            name: QualifiedName::new("s", name),
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        })
    }

    fn insert(name: &str) -> ChangeEvent {
        ChangeEvent::Insert { table: table(name), new: Row::from(vec![Cell::text("x")]) }
    }

    fn left(commit: u64, changes: Vec<ChangeEvent>) -> Vec<ChangeEvent> {
        let copied_at: CopiedAt = [("late", 100), ("later", 200)]
            .map(|(name, lsn)| (QualifiedName::new("s", name), Lsn(lsn)))
            .into_iter()
            .collect();
        let mut transaction = Transaction {
            part: Part::Whole,
            xid: 1,
            commit_lsn: Lsn(commit),
            end_lsn: Some(Lsn(commit + 8)),
            committed_at_us: 0,
            origin: None,
            changes,
            bytes: 0,
        };
        copied_at.leave_out(&mut transaction);
        transaction.changes
    }

    #[test]
    fn what_a_later_copy_has_is_left_out_and_nothing_else() {
        let all = || vec![insert("late"), insert("later"), insert("other")];
        assert_eq!(left(99, all()), [insert("other")]);
        assert_eq!(left(100, all()), [insert("late"), insert("other")], "the point is not in it");
        assert_eq!(left(200, all()), all());
    }

    #[test]
    fn a_truncate_keeps_the_tables_that_it_still_concerns() {
        let truncate = |names: &[&str]| ChangeEvent::Truncate {
            tables: names.iter().map(|name| table(name)).collect(),
            cascade: true,
            restart_identity: false,
        };
        assert_eq!(left(50, vec![truncate(&["late", "other"])]), [truncate(&["other"])]);
        assert_eq!(left(50, vec![truncate(&["late", "later"])]), []);
        assert_eq!(left(150, vec![truncate(&["late", "later"])]), [truncate(&["late"])]);
    }
}
