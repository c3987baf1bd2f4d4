//! Schema changes that appliers have noted on this server ([`super::DEFINITION_TABLE`]) and not closed: a
//! statement about the same objects is the applier's, and nobody else's.
//!
//! One applier runs one schema change at a time, so there is at most one of each pipeline. A note that is
//! closed or removed marks nothing any more: the same statement is a client's then.

use std::collections::BTreeMap;

use crate::change::{ChangeEvent, Definition, Row, TableSchema};

/// What is noted, by pipeline.
#[derive(Debug, Default)]
pub(super) struct NotedChanges(BTreeMap<Vec<u8>, Noted>);

#[derive(Debug)]
struct Noted {
    /// What the transaction of the note says of whose it is.
    claim: Vec<u8>,
    kind: Vec<u8>,
    objects: Vec<u8>,
    /// The applier runs it now, and no person has to.
    is_running: bool,
}

impl NotedChanges {
    /// Takes a change of the table of notes. `claim`: what its transaction says of whose it is. Without one a
    /// note marks nothing, unless `unproven`: then whose it is stands in the note.
    pub fn row(&mut self, change: &ChangeEvent, claim: Option<&[u8]>, unproven: bool) {
        match change {
            ChangeEvent::Insert { table, new } | ChangeEvent::Update { table, new, .. } => {
                self.note(table, new, claim, unproven);
            }
            ChangeEvent::Delete { table, old } => match value(table, old.row(), "pipeline") {
                Some(pipeline) => drop(self.0.remove(&pipeline)),
                None => self.0.clear(),
            },
            _ => {}
        }
    }

    /// A note as it is now: one that is done marks nothing, one that waits for a person marks what they do.
    fn note(&mut self, table: &TableSchema, new: &Row, claim: Option<&[u8]>, unproven: bool) {
        let [pipeline, kind, objects, state] =
            ["pipeline", "kind", "objects", "state"].map(|name| value(table, new, name));
        let Some(pipeline) = pipeline else {
            // Whose it is can't be told: then none is known.
            self.0.clear();
            return;
        };
        self.0.remove(&pipeline);
        let claim = claim.map(<[u8]>::to_vec).or_else(|| unproven.then(|| pipeline.clone()));
        if let (Some(claim), Some(kind), Some(objects), Some(state)) = (claim, kind, objects, state)
            && [&b"begun"[..], b"waits"].contains(&&state[..])
        {
            let is_running = state == b"begun";
            self.0.insert(pipeline, Noted { claim, kind, objects, is_running });
        }
    }

    /// What the applier claims that has noted this schema change, which has come now.
    pub fn take(&mut self, definition: &Definition) -> Option<Vec<u8>> {
        let is_it = |noted: &Noted| {
            noted.kind == definition.kind.as_bytes()
                && noted.objects == definition.names().as_bytes()
        };
        let pipeline = self.0.iter().find(|(_, noted)| is_it(noted))?.0.clone();
        self.0.remove(&pipeline).map(|noted| noted.claim)
    }

    /// Whether an applier is at one: who begins to read behind its note would not know it.
    pub fn is_one_running(&self) -> bool {
        self.0.values().any(|noted| noted.is_running)
    }
}

fn value(table: &TableSchema, row: &Row, name: &str) -> Option<Vec<u8>> {
    let at = table.column_names().position(|column| column == name)?;
    row.value(at)?.bytes().map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{
        Column, OldRow, QualifiedName, ReplicaIdentity, RowBuilder, Safety, TableId,
    };

    fn table() -> Arc<TableSchema> {
        let column = |name: &str| Column {
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
            in_key: true,
        };
        Arc::new(TableSchema {
            id: TableId(1),
            name: QualifiedName::new("_cutover", "definition"),
            identity: ReplicaIdentity::Full,
            columns: ["pipeline", "kind", "objects", "state"].map(column).into(),
        })
    }

    fn altering(table: &str) -> Definition {
        Definition {
            place: String::new(),
            kind: "ALTER TABLE",
            objects: vec![QualifiedName::new("shop", table)],
            databases: Vec::new(),
            schema: "shop".into(),
            statement: bytes::Bytes::new(),
            text: String::new(),
            settings: Vec::new(),
            safety: Safety::default(),
            matters_to_rows: true,
        }
    }

    fn row(pipeline: &str, about: &str, state: &str) -> Row {
        let names = altering(about).names();
        let values = [pipeline, "ALTER TABLE", &names, state];
        let frame = bytes::Bytes::from(values.concat());
        let mut row = RowBuilder::new(&frame, values.len());
        let mut start = 0;
        for value in values {
            row.text(start..start + value.len());
            start += value.len();
        }
        row.finish()
    }

    fn noted(pipeline: &str, about: &str, state: &str) -> ChangeEvent {
        ChangeEvent::Insert { table: table(), new: row(pipeline, about, state) }
    }

    /// The note about `a` gets another state.
    fn updated(pipeline: &str, state: &str) -> ChangeEvent {
        let old = Some(OldRow::Full(row(pipeline, "a", "begun")));
        ChangeEvent::Update { table: table(), old, new: row(pipeline, "a", state) }
    }

    #[test]
    fn a_statement_is_its_who_noted_it_and_only_once() {
        let mut changes = NotedChanges::default();
        changes.row(&noted("one", "a", "begun"), Some(b"one"), false);
        changes.row(&noted("two", "b", "begun"), Some(b"two"), false);
        assert_eq!(changes.take(&altering("c")), None);
        assert_eq!(changes.take(&altering("a")).as_deref(), Some(&b"one"[..]));
        assert_eq!(changes.take(&altering("a")), None, "a client's");
        assert!(changes.is_one_running());
        assert_eq!(changes.take(&altering("b")).as_deref(), Some(&b"two"[..]));
        assert!(!changes.is_one_running());
    }

    #[test]
    fn what_a_person_does_instead_is_the_appliers() {
        let mut changes = NotedChanges::default();
        changes.row(&noted("one", "a", "begun"), Some(b"one"), false);
        changes.row(&updated("one", "waits"), Some(b"one"), false);
        assert!(!changes.is_one_running(), "it was refused");
        assert_eq!(changes.take(&altering("a")).as_deref(), Some(&b"one"[..]));
    }

    #[test]
    fn a_note_that_is_closed_or_removed_marks_nothing() {
        let removing = |pipeline: &str| ChangeEvent::Delete {
            table: table(),
            old: OldRow::Full(row(pipeline, "a", "waits")),
        };
        for end in [updated("one", "done"), removing("one")] {
            let mut changes = NotedChanges::default();
            changes.row(&noted("one", "a", "waits"), Some(b"one"), false);
            assert!(!changes.is_one_running(), "a person has to do it");
            changes.row(&noted("two", "b", "begun"), Some(b"two"), false);
            changes.row(&end, None, false);
            assert_eq!(changes.take(&altering("a")), None);
            assert!(changes.is_one_running(), "the other one's");
        }
    }

    #[test]
    fn a_note_marks_nothing_without_a_claim() {
        let mut changes = NotedChanges::default();
        changes.row(&noted("one", "a", "begun"), None, false);
        assert_eq!(changes.take(&altering("a")), None);
        changes.row(&noted("one", "a", "begun"), Some(b"claimed"), false);
        changes.row(&updated("one", "waits"), None, false);
        assert_eq!(changes.take(&altering("a")), None, "somebody else has written it since");
        changes.row(&noted("one", "a", "begun"), None, true);
        assert_eq!(
            changes.take(&altering("a")).as_deref(),
            Some(&b"one"[..]),
            "there were no proofs"
        );
    }
}
