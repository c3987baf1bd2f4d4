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
//! Only what the source really did not send stays [`Cell::Unchanged`].
//!
//! What is absent on purpose: IO, and memory of transactions gone by other than the order check.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::change::{
    Cell, ChangeEvent, Lsn, OldRow, Part, QualifiedName, ReplicaIdentity, Row, TableId,
    TableSchema, Transaction, Value,
};
use crate::postgres::pgoutput::{Begin, Commit, Delete, Insert, Message, Truncate, Update};

/// Above this a transaction is delivered in parts, unless configured otherwise: 16 MiB.
pub const PART_BYTES_DEFAULT: usize = 16 << 20;

/// Why a message can't follow those before it. The stream is not to be trusted beyond it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A message that only exists inside a transaction came outside of one.
    #[error("{0} outside of a transaction")]
    Stray(&'static str),
    /// A transaction starts before the last one ended.
    #[error("transaction {inner} begins inside transaction {outer}")]
    NestedBegin {
        /// The one that is open.
        outer: u32,
        /// The one that starts.
        inner: u32,
    },
    /// The commit is not the one that Begin promised.
    #[error(
        "transaction {xid} began for the commit at {begun} and ends with the one at {committed}"
    )]
    OtherCommit {
        /// The open transaction.
        xid: u32,
        /// Commit LSN by its Begin.
        begun: Lsn,
        /// Commit LSN by its Commit.
        committed: Lsn,
    },
    /// Commits come in the order of their LSNs, and a record ends behind its start.
    #[error("the commit at {later} ending at {end} does not follow {earlier}")]
    OutOfOrder {
        /// End of the commit before.
        earlier: Lsn,
        /// This commit's LSN.
        later: Lsn,
        /// Its end.
        end: Lsn,
    },
    /// A row of a table that was never described.
    #[error("a change to the table with OID {}, which the stream has not described", .0.0)]
    UnknownTable(TableId),
    /// A change that contradicts its table's description.
    #[error("a change to {table} can't be applied: {kind}")]
    Row {
        /// The table.
        table: QualifiedName,
        /// What is wrong.
        kind: RowError,
    },
}

/// What is wrong with the images of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Image and description differ in width.
    #[error("the row has {found} columns, the table {expected}")]
    Width {
        /// Columns of the table.
        expected: usize,
        /// Cells of the image.
        found: usize,
    },
    /// A gap where the source has nothing to leave out.
    #[error("the value of column {0} was left out")]
    Gap(usize),
    /// The table has no replica identity that could find the row.
    #[error("the table has no key that could find the row")]
    NoKey,
    /// NULL in a column of the key.
    #[error("column {0} of the key is NULL")]
    NullInKey(usize),
    /// The old image is not of the kind that the table's replica identity calls for. A root and
    /// its partitions with different identities can do that under `publish_via_partition_root`.
    #[error("the old row does not fit the table's replica identity")]
    OldImage,
}

/// Puts messages together. One per stream: a reconnect starts with a new one.
#[derive(Debug)]
pub struct Assembler {
    part_bytes: usize,
    tables: HashMap<TableId, Arc<TableSchema>>,
    open: Option<Open>,
    last_end: Lsn,
}

/// The transaction between its Begin and its Commit.
#[derive(Debug)]
struct Open {
    begin: Begin,
    origin: Option<Arc<str>>,
    changes: Vec<ChangeEvent>,
    bytes: usize,
    /// Whether a part of it has been handed out.
    cut: bool,
}

impl Assembler {
    /// An assembler that hands out a transaction in parts of about `part_bytes` each.
    pub fn new(part_bytes: usize) -> Self {
        Self { part_bytes, tables: HashMap::new(), open: None, last_end: Lsn::INVALID }
    }

    /// Whether a transaction has begun and not ended. Only when none is does a position between
    /// messages mean "everything up to here has been delivered".
    pub fn is_open(&self) -> bool {
        self.open.is_some()
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
        let change = match message {
            Message::Begin(begin) => return self.begin(begin).map(|()| None),
            Message::Commit(commit) => return self.commit(&commit).map(Some),
            Message::Origin(origin) => {
                let open = self.open.as_mut().ok_or(AssembleError::Stray("an origin"))?;
                open.origin = Some(origin.name.into());
                return Ok(None);
            }
            Message::Relation(relation) => {
                self.describe(relation.0);
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

    fn begin(&mut self, begin: Begin) -> Result<(), AssembleError> {
        if let Some(open) = &self.open {
            return Err(AssembleError::NestedBegin { outer: open.begin.xid, inner: begin.xid });
        }
        self.open = Some(Open { begin, origin: None, changes: Vec::new(), bytes: 0, cut: false });
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<Transaction, AssembleError> {
        let open = self.open.take().ok_or(AssembleError::Stray("a commit"))?;
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
        let part = if open.cut { Part::Last } else { Part::Whole };
        Ok(open.into_part(part, Some(commit.end_lsn)))
    }

    /// Remembers a description; the one before stays in use while it says the same.
    fn describe(&mut self, schema: TableSchema) {
        match self.tables.entry(schema.id) {
            Entry::Occupied(known) if **known.get() == schema => {}
            Entry::Occupied(mut known) => {
                known.insert(Arc::new(schema));
            }
            Entry::Vacant(unknown) => {
                unknown.insert(Arc::new(schema));
            }
        }
    }

    fn table(&self, id: TableId) -> Result<Arc<TableSchema>, AssembleError> {
        self.tables.get(&id).cloned().ok_or(AssembleError::UnknownTable(id))
    }

    fn insert(&self, Insert { table, new }: Insert) -> Result<ChangeEvent, AssembleError> {
        let table = self.table(table)?;
        let checked = check_width(&table, &new).and_then(|()| check_gapless(&new));
        checked.map_err(|kind| on(&table, kind))?;
        Ok(ChangeEvent::Insert { table, new })
    }

    fn update(&self, Update { table, old, mut new }: Update) -> Result<ChangeEvent, AssembleError> {
        let table = self.table(table)?;
        let checked = match &old {
            None => check_width(&table, &new).and_then(|()| check_key_in_new(&table, &new)),
            Some(old) => check_old(&table, old)
                .and_then(|()| check_width(&table, &new))
                .and_then(|()| fill_gaps(&table, old, &mut new)),
        };
        checked.map_err(|kind| on(&table, kind))?;
        Ok(ChangeEvent::Update { table, old, new })
    }

    fn delete(&self, Delete { table, old }: Delete) -> Result<ChangeEvent, AssembleError> {
        let table = self.table(table)?;
        check_old(&table, &old).map_err(|kind| on(&table, kind))?;
        Ok(ChangeEvent::Delete { table, old })
    }

    fn truncate(&self, truncate: Truncate) -> Result<ChangeEvent, AssembleError> {
        let tables = truncate.tables.into_iter().map(|id| self.table(id));
        Ok(ChangeEvent::Truncate {
            tables: tables.collect::<Result<_, _>>()?,
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
        ChangeEvent::Truncate { .. } | ChangeEvent::Message { .. } => 0,
    };
    size_of::<ChangeEvent>() + rows
}

fn on(table: &TableSchema, kind: RowError) -> AssembleError {
    AssembleError::Row { table: table.name.clone(), kind }
}

fn check_width(table: &TableSchema, row: &Row) -> Result<(), RowError> {
    let (expected, found) = (table.columns.len(), row.width());
    if expected == found { Ok(()) } else { Err(RowError::Width { expected, found }) }
}

fn check_gapless(row: &Row) -> Result<(), RowError> {
    match row.cells().position(|cell| cell == Cell::Unchanged) {
        None => Ok(()),
        Some(at) => Err(RowError::Gap(at)),
    }
}

/// No old image: the key did not change, so it is in the new one.
fn check_key_in_new(table: &TableSchema, new: &Row) -> Result<(), RowError> {
    if table.identity == ReplicaIdentity::Full {
        return Err(RowError::OldImage);
    }
    check_key(table, new)
}

/// An old image has no gaps (the source detoasts it), fits the identity and holds a whole key.
fn check_old(table: &TableSchema, old: &OldRow) -> Result<(), RowError> {
    check_width(table, old.row())?;
    check_gapless(old.row())?;
    match (old, table.identity == ReplicaIdentity::Full) {
        (OldRow::Full(_), true) => Ok(()),
        (OldRow::Key(key), false) => check_key(table, key),
        (OldRow::Full(_), false) | (OldRow::Key(_), true) => Err(RowError::OldImage),
    }
}

/// There is a key, and `row` has a value for each of its columns.
fn check_key(table: &TableSchema, row: &Row) -> Result<(), RowError> {
    let mut keyless = true;
    for (at, (column, cell)) in table.columns.iter().zip(row.cells()).enumerate() {
        if !column.in_key {
            continue;
        }
        keyless = false;
        match cell {
            Cell::Unchanged => return Err(RowError::Gap(at)),
            Cell::Value(Value::Null) => return Err(RowError::NullInKey(at)),
            Cell::Value(_) => {}
        }
    }
    if keyless { Err(RowError::NoKey) } else { Ok(()) }
}

/// Takes values that `new` leaves out from `old`, where that holds them.
fn fill_gaps(table: &TableSchema, old: &OldRow, new: &mut Row) -> Result<(), RowError> {
    let full = matches!(old, OldRow::Full(_));
    if new.is_complete() {
        return Ok(());
    }
    for (at, column) in table.columns.iter().enumerate() {
        if new.cell(at) != Some(Cell::Unchanged) || !(full || column.in_key) {
            continue;
        }
        // NULL is never TOASTed: an old image that says NULL here does not hold the column.
        if old.row().value(at).is_none_or(Value::is_null) {
            return Err(RowError::OldImage);
        }
        new.take_cell(at, old.row());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
