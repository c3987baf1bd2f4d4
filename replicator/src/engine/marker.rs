//! Markers in the stream, and what comes behind one.
//!
//! # Why a marker proves a drain
//! The controller writes a token on blue *after* blue was fenced. The stream is in commit order, so
//! when the token comes out, every write that blue acknowledged before the fence has come out
//! before it. A lag number can say zero because a sensor is blind; a token can't.
//!
//! # Why the stream is held behind it
//! Nothing but our own writes may follow the token. A row change that does is a fence that leaks.
//! It must neither be lost (blue may go on after an abort) nor be applied blindly (green may have
//! been opened): it waits here until the controller has decided.

use decoders::{Cell, ChangeEvent, Lsn, Transaction, Value};
use tokio::sync::watch;

/// Schema of our own objects on both databases. Changes to blue's are never applied to green.
pub const OWN_SCHEMA: &str = "_cutover";
/// Table of blue whose rows are markers, for servers whose pgoutput forwards no messages (10-13).
pub const MARKER_TABLE: &str = "marker";
/// Column of [`MARKER_TABLE`] that holds the token.
pub const MARKER_TOKEN_COLUMN: &str = "token";
/// Prefix of logical messages that are markers (14 and later).
pub const MARKER_PREFIX: &str = "cutover.marker";

/// What the controller sees of the marker that it waits for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MarkerState {
    /// The token that is awaited.
    pub armed: Option<String>,
    /// End of the transaction that carried it.
    pub seen_at: Option<Lsn>,
    /// Row changes that came behind it: leaks of the fence.
    pub leaked_changes: u64,
    /// Where the first of them was committed.
    pub first_leak_at: Option<Lsn>,
}

/// What is to happen with a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// On to green.
    Pass,
    /// Behind the marker: keep it until the controller has decided.
    Hold,
}

/// The gate that every transaction goes through on its way to green. Cheap to clone; all clones
/// are one gate.
#[derive(Clone)]
pub struct MarkerGate {
    state: watch::Sender<MarkerState>,
}

impl Default for MarkerGate {
    fn default() -> Self {
        Self { state: watch::Sender::new(MarkerState::default()) }
    }
}

impl MarkerGate {
    /// From now on `token` is awaited, and whatever follows it is held.
    pub fn arm(&self, token: &str) {
        let armed = MarkerState { armed: Some(token.into()), ..MarkerState::default() };
        self.state.send_replace(armed);
    }

    /// Nothing is awaited any more; what was held goes on to green.
    pub fn release(&self) {
        self.state.send_replace(MarkerState::default());
    }

    /// The state now and every change of it.
    pub fn watch(&self) -> watch::Receiver<MarkerState> {
        self.state.subscribe()
    }

    /// Takes our own changes out of `transaction` and says whether the rest may pass.
    pub fn admit(&self, transaction: &mut Transaction) -> Admission {
        let mut tokens = Vec::new();
        transaction.changes.retain(|change| match classify(change) {
            Kind::Row => true,
            Kind::Own(token) => {
                tokens.extend(token);
                false
            }
        });
        let rows = transaction.changes.len() as u64;
        let place = transaction.end_lsn.unwrap_or(transaction.commit_lsn);
        let mut admission = Admission::Pass;
        self.state.send_if_modified(|state| {
            let Some(armed) = &state.armed else { return false };
            if let Some(seen_at) = state.seen_at {
                // Also after a reconnect, when the marker itself is not delivered again.
                if place > seen_at {
                    admission = Admission::Hold;
                    state.leaked_changes += rows;
                    if rows > 0 && state.first_leak_at.is_none() {
                        state.first_leak_at = Some(place);
                    }
                    return rows > 0;
                }
                return false;
            }
            if tokens.iter().any(|token| token == armed) {
                state.seen_at = transaction.end_lsn;
                return true;
            }
            false
        });
        admission
    }
}

enum Kind {
    Row,
    /// Ours, with the token that it carries.
    Own(Option<String>),
}

fn classify(change: &ChangeEvent) -> Kind {
    match change {
        ChangeEvent::Message { prefix, content } if prefix == MARKER_PREFIX => {
            Kind::Own(String::from_utf8(content.to_vec()).ok())
        }
        // Messages of other programs carry nothing for green.
        ChangeEvent::Message { .. } => Kind::Own(None),
        ChangeEvent::Insert { table, new } | ChangeEvent::Update { table, new, .. }
            if table.name.schema == OWN_SCHEMA =>
        {
            let column = table.column_names().position(|name| name == MARKER_TOKEN_COLUMN);
            let cell = column.filter(|_| table.name.name == MARKER_TABLE).map(|at| &new.cells()[at]);
            Kind::Own(match cell {
                Some(Cell::Value(Value::Text(text))) => String::from_utf8(text.to_vec()).ok(),
                // The binary form of `text` is the text.
                Some(Cell::Value(Value::Binary(text))) => String::from_utf8(text.to_vec()).ok(),
                _ => None,
            })
        }
        ChangeEvent::Delete { table, .. } if table.name.schema == OWN_SCHEMA => Kind::Own(None),
        ChangeEvent::Truncate { tables, .. }
            if tables.iter().all(|table| table.name.schema == OWN_SCHEMA) =>
        {
            Kind::Own(None)
        }
        _ => Kind::Row,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use decoders::{Column, Part, QualifiedName, ReplicaIdentity, Row, TableId, TableSchema};

    use super::*;

    fn transaction(end: u64, changes: Vec<ChangeEvent>) -> Transaction {
        Transaction {
            part: Part::Whole,
            xid: 7,
            commit_lsn: Lsn(end - 8),
            end_lsn: Some(Lsn(end)),
            committed_at_us: 0,
            origin: None,
            changes,
            bytes: 1,
        }
    }

    fn insert(schema: &str, name: &str, column: &str, text: &'static str) -> ChangeEvent {
        let column =
            Column { name: column.into(), type_oid: 25, type_modifier: -1, in_key: true };
        let table = TableSchema {
            id: TableId(1),
            name: QualifiedName::new(schema, name),
            identity: ReplicaIdentity::Default,
            columns: vec![column],
        };
        let cell = Cell::Value(Value::Text(Bytes::from_static(text.as_bytes())));
        ChangeEvent::Insert { table: Arc::new(table), new: Row::from(vec![cell]) }
    }

    fn row() -> ChangeEvent {
        insert("public", "t", "a", "x")
    }

    fn message(token: &'static str) -> ChangeEvent {
        ChangeEvent::Message { prefix: MARKER_PREFIX.into(), content: Bytes::from_static(token.as_bytes()) }
    }

    #[test]
    fn both_forms_of_the_marker_are_seen_and_neither_reaches_green() {
        for marker in [message("e7"), insert(OWN_SCHEMA, MARKER_TABLE, MARKER_TOKEN_COLUMN, "e7")] {
            let gate = MarkerGate::default();
            gate.arm("e7");
            let mut carrying = transaction(100, vec![marker]);
            assert_eq!(gate.admit(&mut carrying), Admission::Pass);
            assert!(carrying.changes.is_empty());
            assert_eq!(gate.watch().borrow().seen_at, Some(Lsn(100)));
        }
    }

    #[test]
    fn another_token_is_not_the_marker() {
        let gate = MarkerGate::default();
        gate.arm("e7");
        gate.admit(&mut transaction(100, vec![message("e6")]));
        assert_eq!(gate.watch().borrow().seen_at, None);
        assert_eq!(gate.admit(&mut transaction(200, vec![row()])), Admission::Pass);
    }

    #[test]
    fn rows_behind_the_marker_are_held_and_counted_as_leaks() {
        let gate = MarkerGate::default();
        gate.arm("e7");
        gate.admit(&mut transaction(100, vec![row(), message("e7")]));
        assert_eq!(gate.admit(&mut transaction(200, vec![])), Admission::Hold);
        assert_eq!(gate.watch().borrow().leaked_changes, 0);
        assert_eq!(gate.admit(&mut transaction(300, vec![row(), row()])), Admission::Hold);
        let state = gate.watch().borrow().clone();
        assert_eq!((state.leaked_changes, state.first_leak_at), (2, Some(Lsn(300))));
        gate.release();
        assert_eq!(gate.admit(&mut transaction(400, vec![row()])), Admission::Pass);
    }
}
