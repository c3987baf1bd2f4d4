//! Messages of one replication stream, put together into whole transactions.
//!
//! ```text
//! decode ─► Message ─► Assembler::push ─► Transaction (whole, or First, Middle.., Last)
//!                       │ relation cache: OID ─► Arc<TableSchema>
//!                       └ rules of a stream: what breaks one is an error, never a guess
//! ```
//!
//! Row images leave here complete where the stream knows the value: a TOASTed value that an
//! UPDATE left out is taken from the old row if that holds it (always with REPLICA IDENTITY FULL).
//! Only what the source really did not send stays [`Cell::Unchanged`](crate::change::Cell).
//!
//! # Streamed transactions
//!
//! One that was received while it ran is pushed at its place in commit order, between
//! [`Assembler::begin_streamed`] and a Commit. Its tables were described to it alone: the server
//! sends each description once to every streamed transaction, whatever others were told, and
//! counts it as sent to the stream when that transaction commits (`get_schema_sent_in_streamed_txn`
//! and `cleanup_rel_sync_cache` in `pgoutput.c`).
//!
//! What is absent on purpose: IO, and memory of transactions gone by other than the order check.

mod error;
mod images;
mod tables;
#[cfg(test)]
mod tests;
use std::sync::Arc;

use crate::change::{ChangeEvent, Lsn, Part, TableSchema, Transaction, UNTOLD_ORIGIN};
use crate::postgres::pgoutput::{Begin, Commit, Delete, Insert, Message, Truncate, Update};

use self::images::{check_gapless, check_key_in_new, check_old, check_width, fill_gaps, on};
use self::tables::{Names, Tables};

pub use error::{AssembleError, RowError};
pub use tables::{KnownTables, Moment};

/// Above this a transaction is delivered in parts, unless configured otherwise: 16 MiB.
pub const PART_BYTES_DEFAULT: usize = 16 << 20;

/// Puts messages together. One per stream: a reconnect starts with a new one.
#[derive(Debug)]
pub struct Assembler {
    part_bytes: usize,
    tables: Tables,
    names: Names,
    now: Moment,
    open: Option<Open>,
    last_end: Lsn,
}

/// The transaction between its Begin and its Commit.
#[derive(Debug)]
struct Open {
    begin: Begin,
    origin: Option<Arc<str>>,
    /// What was described to it alone, if it was streamed.
    tables: Option<Tables>,
    changes: Vec<ChangeEvent>,
    bytes: usize,
    /// Whether a part of it has been handed out.
    cut: bool,
}

impl Assembler {
    /// An assembler that hands out a transaction in parts of about `part_bytes` each.
    pub fn new(part_bytes: usize) -> Self {
        Self {
            part_bytes,
            tables: Tables::default(),
            names: Names::default(),
            now: 0,
            open: None,
            last_end: Lsn::INVALID,
        }
    }

    /// The same, with what is known of tables before the stream describes them.
    pub fn knowing(self, known: KnownTables) -> Self {
        Self { names: Names::new(known), ..self }
    }

    /// Whether a transaction has begun and not ended. Only when none is does a position between
    /// messages mean "everything up to here has been delivered".
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// A moment behind everything that was pushed so far: when what is put aside was received.
    pub fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// Begins a transaction whose messages were received while it ran. Its Commit ends it.
    pub fn begin_streamed(&mut self, begin: Begin) -> Result<(), AssembleError> {
        self.begin(begin, Some(Tables::default()))
    }

    /// Takes the next message, which came in a frame of `frame_bytes`; gives the transaction or
    /// the part that it completes.
    ///
    /// A transaction without changes is given as well. Logical messages that belong to no
    /// transaction are dropped: they stand outside of commit order, and nothing of ours is sent
    /// that way; their LSN is covered by the next keepalive. Type messages are dropped too, since
    /// columns refer to types by OID, which the source's catalog explains.
    pub fn push(
        &mut self,
        message: Message,
        frame_bytes: usize,
    ) -> Result<Option<Transaction>, AssembleError> {
        // Only descriptions need a moment of their own.
        let now = match message {
            Message::Relation(_) => self.moment(),
            _ => self.now,
        };
        self.push_received(message, frame_bytes, now)
    }

    /// The same for a message that was received at `at` and put aside since then.
    pub fn push_received(
        &mut self,
        message: Message,
        frame_bytes: usize,
        at: Moment,
    ) -> Result<Option<Transaction>, AssembleError> {
        let change = match message {
            Message::Begin(begin) => return self.begin(begin, None).map(|()| None),
            Message::Commit(commit) => return self.commit(&commit).map(Some),
            Message::Origin(origin) => {
                let open = self.open.as_mut().ok_or(AssembleError::Stray("an origin"))?;
                open.origin = Some(origin.name.into());
                return Ok(None);
            }
            Message::Relation(relation) => {
                self.names.check(&relation.0)?;
                let streamed = self.open.as_mut().and_then(|open| open.tables.as_mut());
                streamed.unwrap_or(&mut self.tables).describe(relation.0, at);
                return Ok(None);
            }
            Message::Type(_) => return Ok(None),
            Message::Logical(message) if !message.transactional => return Ok(None),
            _ if self.open.is_none() => return Err(AssembleError::Stray("a change")),
            Message::Insert(insert) => self.insert(insert)?,
            Message::Update(update) => self.update(update)?,
            Message::Delete(delete) => self.delete(delete)?,
            Message::Truncate(truncate) => self.truncate(truncate)?,
            Message::Logical(message) => {
                ChangeEvent::Message { prefix: message.prefix, content: message.content }
            }
        };
        self.add(change, frame_bytes)
    }

    fn begin(&mut self, begin: Begin, tables: Option<Tables>) -> Result<(), AssembleError> {
        if let Some(open) = &self.open {
            return Err(AssembleError::NestedBegin { outer: open.begin.xid, inner: begin.xid });
        }
        let changes = Vec::new();
        let origin = tables.is_some().then(|| UNTOLD_ORIGIN.into());
        self.open = Some(Open { begin, origin, tables, changes, bytes: 0, cut: false });
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<Transaction, AssembleError> {
        let mut open = self.open.take().ok_or(AssembleError::Stray("a commit"))?;
        if open.begin.final_lsn != commit.commit_lsn {
            return Err(AssembleError::OtherCommit {
                xid: open.begin.xid,
                begun: open.begin.final_lsn,
                committed: commit.commit_lsn,
            });
        }
        if commit.commit_lsn < self.last_end || commit.end_lsn <= commit.commit_lsn {
            return Err(AssembleError::OutOfOrder {
                earlier: self.last_end,
                later: commit.commit_lsn,
                end: commit.end_lsn,
            });
        }
        self.last_end = commit.end_lsn;
        if let Some(tables) = open.tables.take() {
            self.tables.adopt(tables);
        }
        let part = if open.cut { Part::Last } else { Part::Whole };
        Ok(open.into_part(part, Some(commit.end_lsn)))
    }

    /// The descriptions that count for the open transaction.
    fn tables(&self) -> &Tables {
        let streamed = self.open.as_ref().and_then(|open| open.tables.as_ref());
        streamed.unwrap_or(&self.tables)
    }

    fn insert(&self, Insert { table, new }: Insert) -> Result<ChangeEvent, AssembleError> {
        let table = self.tables().get(table)?;
        let checked = check_width(table, &new).and_then(|()| check_gapless(&new));
        checked.map_err(|kind| on(&table.schema, kind))?;
        Ok(ChangeEvent::Insert { table: Arc::clone(&table.schema), new })
    }

    fn update(&self, Update { table, old, mut new }: Update) -> Result<ChangeEvent, AssembleError> {
        let table = self.tables().get(table)?;
        let checked = match &old {
            None => check_width(table, &new).and_then(|()| check_key_in_new(table, &new)),
            Some(old) => check_old(table, old)
                .and_then(|()| check_width(table, &new))
                .and_then(|()| fill_gaps(table, old, &mut new)),
        };
        checked.map_err(|kind| on(&table.schema, kind))?;
        Ok(ChangeEvent::Update { table: Arc::clone(&table.schema), old, new })
    }

    fn delete(&self, Delete { table, old }: Delete) -> Result<ChangeEvent, AssembleError> {
        let table = self.tables().get(table)?;
        check_old(table, &old).map_err(|kind| on(&table.schema, kind))?;
        Ok(ChangeEvent::Delete { table: Arc::clone(&table.schema), old })
    }

    fn truncate(&self, truncate: Truncate) -> Result<ChangeEvent, AssembleError> {
        let table = |id| Ok(Arc::clone(&self.tables().get(id)?.schema));
        let tables: Result<Box<[Arc<TableSchema>]>, _> =
            truncate.tables.into_iter().map(table).collect();
        Ok(ChangeEvent::Truncate {
            tables: tables?,
            cascade: truncate.cascade,
            restart_identity: truncate.restart_identity,
        })
    }

    /// Adds a change to the open transaction, cutting off a part when it gets too large.
    fn add(
        &mut self,
        change: ChangeEvent,
        frame_bytes: usize,
    ) -> Result<Option<Transaction>, AssembleError> {
        let open = self.open.as_mut().ok_or(AssembleError::Stray("a change"))?;
        open.bytes = open.bytes.saturating_add(frame_bytes).saturating_add(heap_bytes(&change));
        open.changes.push(change);
        if open.bytes < self.part_bytes {
            return Ok(None);
        }
        let part = if open.cut { Part::Middle } else { Part::First };
        let rest = Open {
            begin: open.begin.clone(),
            origin: open.origin.clone(),
            tables: open.tables.take(),
            changes: Vec::new(),
            bytes: 0,
            cut: true,
        };
        let full = std::mem::replace(open, rest);
        Ok(Some(full.into_part(part, None)))
    }
}

impl Default for Assembler {
    fn default() -> Self {
        Self::new(PART_BYTES_DEFAULT)
    }
}

impl Open {
    fn into_part(self, part: Part, end_lsn: Option<Lsn>) -> Transaction {
        Transaction {
            part,
            xid: self.begin.xid,
            commit_lsn: self.begin.final_lsn,
            end_lsn,
            committed_at_us: self.begin.committed_at_us,
            origin: self.origin,
            changes: self.changes,
            bytes: self.bytes,
        }
    }
}

/// What an event occupies beside its frame: for rows of many small values that is the larger
/// part, and a budget that did not count it would not bound memory.
fn heap_bytes(change: &ChangeEvent) -> usize {
    let rows = match change {
        ChangeEvent::Insert { new, .. } => new.heap_bytes(),
        ChangeEvent::Update { old, new, .. } => {
            new.heap_bytes() + old.as_ref().map_or(0, |old| old.row().heap_bytes())
        }
        ChangeEvent::Delete { old, .. } => old.row().heap_bytes(),
        ChangeEvent::Truncate { .. }
        | ChangeEvent::Message { .. }
        | ChangeEvent::Definition(_)
        | ChangeEvent::Distributed(_) => 0,
    };
    size_of::<ChangeEvent>() + rows
}
