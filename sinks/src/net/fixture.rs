//! Tables and changes for the tests of this module.

use std::sync::Arc;

use decoders::change::{
    Cell, ChangeEvent, Column, OldRow, QualifiedName, ReplicaIdentity, Row, TableId, TableSchema,
};

use crate::plan::{Fire, TablePlan};
use crate::postgres::catalog::{
    Equality, GreenColumn, GreenTable, GreenTrigger, Identity, TableKind, UniqueKey,
};

const TEXT: u32 = 25;

/// A table of text columns; `key` of its columns, from the first on, are its primary key.
pub(super) struct Made {
    pub schema: TableSchema,
    pub green: GreenTable,
    pub fire: Fire,
}

impl Made {
    pub fn new(id: u32, identity: ReplicaIdentity, width: usize, key: usize) -> Self {
        let name = QualifiedName::new("public", format!("t{id}"));
        let in_key = |at| identity == ReplicaIdentity::Full || at < key;
        let columns = (0..width).map(|at| Column {
            name: format!("c{at}"),
            type_oid: TEXT,
            type_modifier: -1,
            in_key: in_key(at),
        });
        let schema = TableSchema {
            id: TableId(id),
            name: name.clone(),
            identity,
            columns: columns.collect(),
        };
        let columns = (0..width).map(|at| GreenColumn {
            name: format!("c{at}"),
            type_oid: TEXT,
            type_modifier: -1,
            type_name: "text".to_owned(),
            not_null: at < key,
            has_default: false,
            generated: None,
            identity: None,
            equality: Equality::Exact { schema: "pg_catalog".to_owned() },
            array: None,
            inner_oids: None,
        });
        let unique_keys = (key > 0).then(|| UniqueKey {
            name: format!("t{id}_pkey"),
            primary: true,
            columns: (0..key).map(|at| format!("c{at}")).collect(),
        });
        let green = GreenTable {
            oid: 90_000 + id,
            name,
            kind: TableKind::Plain,
            columns: columns.collect(),
            unique_keys: unique_keys.into_iter().collect(),
            triggers: Vec::new(),
            cascades: Vec::new(),
        };
        Made { schema, green, fire: Fire::OnReplica }
    }

    /// Its column at `at` is GENERATED ALWAYS AS IDENTITY.
    pub fn identity_always(mut self, at: usize) -> Self {
        self.green.columns[at].identity = Some(Identity::Always);
        self
    }

    /// Green has no unique index.
    pub fn without_index(mut self) -> Self {
        self.green.unique_keys.clear();
        self
    }

    /// It has a trigger that fires, and the operator accepted that.
    pub fn firing(mut self) -> Self {
        self.green.triggers.push(GreenTrigger {
            name: "t".to_owned(),
            fires_on_replica: true,
            fires_on_origin: true,
        });
        self.fire = Fire::Accepted;
        self
    }

    pub fn plan(self) -> Arc<TablePlan> {
        let plan = TablePlan::new(Arc::new(self.schema), self.green, self.fire);
        Arc::new(plan.expect("it fits"))
    }
}

/// `~` is NULL, `?` a gap.
pub(super) fn row<S: AsRef<str>>(cells: &[S]) -> Row {
    cells
        .iter()
        .map(|text| match text.as_ref() {
            "~" => Cell::NULL,
            "?" => Cell::Unchanged,
            text => Cell::text(text),
        })
        .collect()
}

pub(super) fn insert<S: AsRef<str>>(plan: &TablePlan, new: &[S]) -> ChangeEvent {
    ChangeEvent::Insert { table: plan.schema().clone(), new: row(new) }
}

pub(super) fn update<S: AsRef<str>>(plan: &TablePlan, new: &[S]) -> ChangeEvent {
    ChangeEvent::Update { table: plan.schema().clone(), old: None, new: row(new) }
}

pub(super) fn update_from<S: AsRef<str>>(plan: &TablePlan, old: &[S], new: &[S]) -> ChangeEvent {
    let (table, old) = (plan.schema().clone(), Some(old_row(plan, old)));
    ChangeEvent::Update { table, old, new: row(new) }
}

pub(super) fn delete<S: AsRef<str>>(plan: &TablePlan, old: &[S]) -> ChangeEvent {
    ChangeEvent::Delete { table: plan.schema().clone(), old: old_row(plan, old) }
}

pub(super) fn truncate(plans: &[&Arc<TablePlan>]) -> ChangeEvent {
    let tables = plans.iter().map(|plan| plan.schema().clone()).collect();
    ChangeEvent::Truncate { tables, cascade: false, restart_identity: false }
}

fn old_row<S: AsRef<str>>(plan: &TablePlan, old: &[S]) -> OldRow {
    match plan.schema().identity {
        ReplicaIdentity::Full => OldRow::Full(row(old)),
        _ => OldRow::Key(row(old)),
    }
}
