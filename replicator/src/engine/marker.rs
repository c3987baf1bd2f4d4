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

use cutover::marker::{self, Token};
use cutover::ports::Leaks;
use decoders::mysql::stream::foreign_keys_checked;
use decoders::{ChangeEvent, Lsn, Part, TableSchema, Transaction};
use tokio::sync::watch;

/// What the controller sees of the marker that it waits for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MarkerState {
    /// The token that is awaited.
    pub armed: Option<Token>,
    /// End of the transaction that carried it.
    pub seen_at: Option<Lsn>,
    /// Row changes that came behind it.
    pub leaks: Leaks,
    /// The newest marker that came behind it, its end, and the leaks up to there.
    pub later: Option<(Token, Lsn, Leaks)>,
}

/// What is to happen with a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// On to green.
    Pass,
    /// Behind the marker: keep it until the controller has decided.
    Hold,
    /// Behind the marker, and nothing in it concerns the other side: only its position counts. It
    /// must not be kept, or a gate that stays closed would pin the source's log.
    Nothing,
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
    /// From now on `token` is awaited, and whatever follows it is held. Arming the same token
    /// again changes nothing.
    ///
    /// # Errors
    /// The token that is armed already, if it is another one.
    pub fn arm(&self, token: &Token) -> Result<(), Token> {
        let mut armed_already = None;
        self.state.send_if_modified(|state| match &state.armed {
            Some(armed) if armed == token => false,
            Some(armed) => {
                armed_already = Some(armed.clone());
                false
            }
            None => {
                *state = MarkerState { armed: Some(token.clone()), ..MarkerState::default() };
                true
            }
        });
        armed_already.map_or(Ok(()), Err)
    }

    /// `token` is not awaited any more; what was held goes on to green. Another token stays.
    pub fn release(&self, token: &Token) {
        self.state.send_if_modified(|state| {
            let ours = state.armed.as_ref() == Some(token);
            if ours {
                *state = MarkerState::default();
            }
            ours
        });
    }

    /// As if the marker `token` had been seen at `since`: whatever its source commits at or behind
    /// that is held, until [`MarkerGate::open`]. For a stream that stands by, before its first read
    /// or behind a marker that was read. Closed already at the same place: nothing changes.
    pub fn close(&self, token: &Token, since: Lsn) {
        self.state.send_if_modified(|state| {
            let is_closed = state.armed.as_ref() == Some(token) && state.seen_at == Some(since);
            if !is_closed {
                let armed = Some(token.clone());
                *state = MarkerState { armed, seen_at: Some(since), ..MarkerState::default() };
            }
            !is_closed
        });
    }

    /// Whatever was awaited or held: nothing is any more.
    pub fn open(&self) {
        self.state.send_if_modified(|state| {
            let was_closed = *state != MarkerState::default();
            *state = MarkerState::default();
            was_closed
        });
    }

    /// Whether a cutover is awaiting its marker, or is past it.
    pub fn is_armed(&self) -> bool {
        self.state.borrow().armed.is_some()
    }

    /// Whether the marker that is awaited has come.
    pub fn is_reached(&self) -> bool {
        let state = self.state.borrow();
        state.armed.is_some() && state.seen_at.is_some()
    }

    /// The state now and every change of it.
    pub fn watch(&self) -> watch::Receiver<MarkerState> {
        self.state.subscribe()
    }

    /// Takes our own changes out of `transaction` and says whether the rest may pass.
    pub fn admit(&self, transaction: &mut Transaction) -> Admission {
        let mut tokens = Vec::new();
        transaction.changes.retain(|change| {
            tokens.extend(marker::token_in(change));
            !is_own(change)
        });
        let place = transaction.commit_lsn;
        let mut admission = Admission::Pass;
        self.state.send_if_modified(|state| {
            let Some(armed) = &state.armed else { return false };
            let Some(seen_at) = state.seen_at else {
                if tokens.contains(armed) {
                    state.seen_at = transaction.end_lsn;
                }
                return state.seen_at.is_some();
            };
            // By position, so that it holds after a reconnect too, when the marker itself is not
            // delivered again. A commit record begins where the one before it ends, or later; the
            // marker's own begins before its end. All parts of a transaction have the same.
            if place < seen_at {
                return false;
            }
            let is_empty = transaction.changes.is_empty() && transaction.part == Part::Whole;
            admission = if is_empty { Admission::Nothing } else { Admission::Hold };
            // The last part of a cut transaction may be empty; the transaction is not.
            let changes = transaction.changes.len() as u64;
            let leaked = if transaction.part == Part::Whole { changes } else { changes.max(1) };
            if leaked > 0 {
                state.leaks.count += leaked;
                let first = &mut state.leaks.first;
                first.get_or_insert_with(|| {
                    let what =
                        transaction.changes.first().map_or("a large transaction".into(), describe);
                    format!("{what}, transaction {}, at {place}", transaction.xid)
                });
            }
            if let (Some(token), Some(end)) = (tokens.pop(), transaction.end_lsn) {
                state.later = Some((token, end, state.leaks.clone()));
            }
            true
        });
        admission
    }
}

/// Whether a change is none of green's business: our own tables, and messages, which carry no rows but
/// may say how those behind them were written.
fn is_own(change: &ChangeEvent) -> bool {
    let own = |table: &TableSchema| table.name.schema == marker::SCHEMA;
    match change {
        ChangeEvent::Message { .. } => foreign_keys_checked(change).is_none(),
        ChangeEvent::Definition(_) | ChangeEvent::Distributed(_) => false,
        ChangeEvent::Insert { table, .. }
        | ChangeEvent::Update { table, .. }
        | ChangeEvent::Delete { table, .. } => own(table),
        ChangeEvent::Truncate { tables, .. } => tables.iter().all(|table| own(table)),
    }
}

/// Operation and table; never values.
fn describe(change: &ChangeEvent) -> String {
    match change {
        ChangeEvent::Insert { table, .. } => format!("insert into {}", table.name),
        ChangeEvent::Update { table, .. } => format!("update of {}", table.name),
        ChangeEvent::Delete { table, .. } => format!("delete from {}", table.name),
        ChangeEvent::Truncate { tables, .. } => {
            let names: Vec<_> = tables.iter().map(|table| table.name.to_string()).collect();
            format!("truncate of {}", names.join(", "))
        }
        ChangeEvent::Message { prefix, .. } => format!("message {prefix:?}"),
        ChangeEvent::Definition(definition) => {
            format!("{} of {}", definition.kind, definition.names())
        }
        ChangeEvent::Distributed(_) => "a distributed transaction (XA)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use cutover::ports::Epoch;
    use decoders::{Cell, Column, QualifiedName, ReplicaIdentity, Row, TableId};

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

    fn insert(schema: &str, name: &str, column: &str, text: String) -> ChangeEvent {
        let column = Column { name: column.into(), type_oid: 25, type_modifier: -1, in_key: true };
        let table = TableSchema {
            id: TableId(1),
            name: QualifiedName::new(schema, name),
            identity: ReplicaIdentity::Default,
            columns: vec![column],
        };
        ChangeEvent::Insert { table: Arc::new(table), new: Row::from(vec![Cell::text(&text)]) }
    }

    fn row() -> ChangeEvent {
        insert("public", "t", "a", "x".into())
    }

    fn message(token: &Token) -> ChangeEvent {
        let content = Bytes::from(token.to_string());
        ChangeEvent::Message { prefix: marker::MESSAGE_PREFIX.into(), content }
    }

    fn token(epoch: u64) -> Token {
        Token::draining("abc", Epoch(epoch))
    }

    #[test]
    fn both_forms_of_the_marker_are_seen_and_neither_reaches_green() {
        let in_row = insert(marker::SCHEMA, marker::MARKER_TABLE, "token", token(7).to_string());
        for marker in [message(&token(7)), in_row] {
            let gate = MarkerGate::default();
            gate.arm(&token(7)).unwrap();
            let mut carrying = transaction(100, vec![marker]);
            assert_eq!(gate.admit(&mut carrying), Admission::Pass);
            assert!(carrying.changes.is_empty());
            assert_eq!(gate.watch().borrow().seen_at, Some(Lsn(100)));
        }
    }

    #[test]
    fn what_says_how_rows_were_written_stays_with_them() {
        let checks = ChangeEvent::Message {
            prefix: "cutover.foreign_key_checks".into(),
            content: Bytes::from_static(b"off"),
        };
        let mut carrying = transaction(100, vec![checks.clone(), row()]);
        assert_eq!(MarkerGate::default().admit(&mut carrying), Admission::Pass);
        assert_eq!(carrying.changes, [checks, row()]);
    }

    #[test]
    fn another_token_is_not_the_marker() {
        let gate = MarkerGate::default();
        gate.arm(&token(7)).unwrap();
        gate.admit(&mut transaction(100, vec![message(&token(6))]));
        assert_eq!(gate.watch().borrow().seen_at, None);
        assert_eq!(gate.admit(&mut transaction(200, vec![row()])), Admission::Pass);
    }

    #[test]
    fn only_one_token_at_a_time() {
        let gate = MarkerGate::default();
        gate.arm(&token(7)).unwrap();
        gate.arm(&token(7)).unwrap();
        assert_eq!(gate.arm(&token(8)), Err(token(7)));
        gate.release(&token(7));
        gate.arm(&token(8)).unwrap();
    }

    #[test]
    fn rows_behind_the_marker_are_held_and_counted_as_leaks() {
        let gate = MarkerGate::default();
        gate.arm(&token(7)).unwrap();
        gate.admit(&mut transaction(100, vec![row(), message(&token(7))]));
        assert_eq!(gate.admit(&mut transaction(200, vec![])), Admission::Nothing);
        assert_eq!(gate.watch().borrow().leaks.count, 0);
        assert_eq!(gate.admit(&mut transaction(300, vec![row(), row()])), Admission::Hold);
        let state = gate.watch().borrow().clone();
        assert_eq!(state.leaks.count, 2);
        let first = state.leaks.first.unwrap();
        assert!(first.contains("insert into") && first.contains("0/124"), "{first}");
        gate.release(&token(7));
        assert_eq!(gate.admit(&mut transaction(400, vec![row()])), Admission::Pass);
    }

    #[test]
    fn a_closed_gate_holds_everything_but_markers_and_opens_again() {
        let gate = MarkerGate::default();
        gate.close(&token(7), Lsn(0));
        assert_eq!(gate.admit(&mut transaction(100, vec![row()])), Admission::Hold);
        let back = token(8).way_back();
        assert_eq!(gate.admit(&mut transaction(200, vec![message(&back)])), Admission::Nothing);
        let later = gate.watch().borrow().later.clone().unwrap();
        assert_eq!((later.0, later.1, later.2.count), (back, Lsn(200), 1));
        gate.close(&token(7), Lsn(0));
        assert_eq!(gate.watch().borrow().leaks.count, 1, "closing twice forgets nothing");
        gate.open();
        assert_eq!(gate.admit(&mut transaction(300, vec![row()])), Admission::Pass);
    }

    #[test]
    fn a_large_transaction_right_behind_the_marker_is_held_from_its_first_part() {
        let gate = MarkerGate::default();
        gate.arm(&token(7)).unwrap();
        gate.admit(&mut transaction(100, vec![message(&token(7))]));
        let part = |part, end, changes| Transaction {
            part,
            commit_lsn: Lsn(100),
            end_lsn: end,
            ..transaction(200, changes)
        };
        let mut first = part(Part::First, None, vec![row()]);
        let mut last = part(Part::Last, Some(Lsn(200)), vec![]);
        assert_eq!(gate.admit(&mut first), Admission::Hold);
        assert_eq!(gate.admit(&mut last), Admission::Hold);
        assert_eq!(gate.watch().borrow().leaks.count, 2);
    }

    #[test]
    fn the_second_marker_says_how_much_leaked_before_it() {
        let gate = MarkerGate::default();
        gate.arm(&token(7)).unwrap();
        gate.admit(&mut transaction(100, vec![message(&token(7))]));
        gate.admit(&mut transaction(200, vec![row()]));
        gate.admit(&mut transaction(300, vec![message(&token(7).sealing())]));
        gate.admit(&mut transaction(400, vec![row()]));
        let state = gate.watch().borrow().clone();
        let (seal, end, leaks) = state.later.unwrap();
        assert_eq!((seal, end, leaks.count), (token(7).sealing(), Lsn(300), 1));
        assert_eq!(state.leaks.count, 2);
    }
}
