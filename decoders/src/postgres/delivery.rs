//! From one message of pgoutput to what it completes: the rules that hold for every way of reading
//! a slot. No await in here, so that a reader stays cancel-safe.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::pgoutput::{self, Begin, Commit, Message, Relation};
use super::types::is_binary_safe;
use crate::assemble::{AssembleError, Assembler, Moment};
use crate::change::{Column, Lsn, Part, Position, Transaction};
use crate::source::{SourceError, SourceEvent};

/// What one reader of a slot has handed out, and the transaction that it is in.
#[derive(Debug)]
pub(super) struct Delivery {
    slot: String,
    assembler: Assembler,
    /// The types that travel in binary; `None` if all values are text.
    binary: Option<BTreeSet<u32>>,
    /// Everything up to here has been handed out.
    delivered: Lsn,
}

impl Delivery {
    pub(super) fn new(
        slot: impl Into<String>,
        assembler: Assembler,
        binary: Option<BTreeSet<u32>>,
        start: Lsn,
    ) -> Self {
        Self { slot: slot.into(), assembler, binary, delivered: start }
    }

    /// Everything up to here has been handed out.
    pub(super) fn delivered(&self) -> Lsn {
        self.delivered
    }

    /// Whether values travel in binary.
    pub(super) fn is_binary(&self) -> bool {
        self.binary.is_some()
    }

    /// Whether a transaction has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        self.assembler.is_open()
    }

    /// Takes one message of the output plugin.
    pub(super) fn message(&mut self, payload: &Bytes) -> Result<Option<SourceEvent>, SourceError> {
        let message = pgoutput::decode(payload).map_err(|error| self.not_understood(error))?;
        self.check_types(&message)?;
        let pushed = self.assembler.push(message, payload.len());
        self.pushed(pushed)
    }

    /// A moment behind everything that was taken so far: see [`Assembler::moment`].
    pub(super) fn moment(&mut self) -> Moment {
        self.assembler.moment()
    }

    /// Begins a transaction whose messages were received while it ran.
    pub(super) fn begin_streamed(&mut self, begin: Begin) -> Result<(), AssembleError> {
        self.assembler.begin_streamed(begin)
    }

    /// Takes a message of that transaction, received at `at`.
    pub(super) fn streamed(
        &mut self,
        frame: &Bytes,
        at: Moment,
    ) -> Result<Option<SourceEvent>, SourceError> {
        let message = pgoutput::decode_streamed(frame);
        let message = message.map_err(|error| self.not_understood(error))?;
        self.check_types(&message)?;
        let pushed = self.assembler.push_received(message, frame.len(), at);
        self.pushed(pushed)
    }

    /// Ends that transaction.
    pub(super) fn end_streamed(
        &mut self,
        commit: Commit,
    ) -> Result<Option<SourceEvent>, SourceError> {
        let pushed = self.assembler.push(Message::Commit(commit), 0);
        self.pushed(pushed)
    }

    fn pushed(
        &mut self,
        pushed: Result<Option<Transaction>, AssembleError>,
    ) -> Result<Option<SourceEvent>, SourceError> {
        match pushed.map_err(|error| self.not_assembled(error))? {
            Some(transaction) => self.transaction(transaction).map(Some),
            None => Ok(None),
        }
    }

    /// The source says that everything up to `end` has been sent: news, unless a transaction is
    /// open or that much is known.
    pub(super) fn idle(&mut self, end: Lsn) -> Option<SourceEvent> {
        let news = !self.is_open() && end > self.delivered;
        news.then(|| self.advance(end))
    }

    fn advance(&mut self, end: Lsn) -> SourceEvent {
        self.delivered = end;
        SourceEvent::Idle(Position::Lsn(end))
    }

    fn transaction(&mut self, transaction: Transaction) -> Result<SourceEvent, SourceError> {
        if transaction.commit_lsn < self.delivered {
            return Err(SourceError::halt(
                format!(
                    "transaction {} with its commit at {} arrived after everything up to {} had \
                     been reported as delivered",
                    transaction.xid, transaction.commit_lsn, self.delivered
                ),
                "the order of the stream is broken; keep the slot and report this",
            ));
        }
        match transaction.end_lsn {
            // Nothing in it is published: only its position counts. Servers before 15 send those.
            Some(end) if transaction.part == Part::Whole && transaction.changes.is_empty() => {
                Ok(self.advance(end))
            }
            end => {
                self.delivered = end.unwrap_or(self.delivered);
                Ok(SourceEvent::Transaction(transaction))
            }
        }
    }

    /// The form of values is chosen when a reader opens, from the tables as they are then. A table
    /// may get a column that can't travel in binary later; its first change brings its description.
    fn check_types(&self, message: &Message) -> Result<(), SourceError> {
        let (Message::Relation(Relation(table)), Some(chosen)) = (message, &self.binary) else {
            return Ok(());
        };
        let safe =
            |column: &Column| is_binary_safe(column.type_oid) || chosen.contains(&column.type_oid);
        if table.columns.iter().all(safe) {
            return Ok(());
        }
        Err(SourceError::halt(
            format!(
                "the columns of {} changed after the stream had chosen binary values, and one of \
                 them can't travel so",
                table.name
            ),
            "set apply.binary = \"off\" in the configuration, then resume",
        ))
    }

    fn not_assembled(&self, error: AssembleError) -> SourceError {
        let AssembleError::MadeAgain { table, .. } = &error else {
            return self.not_understood(error);
        };
        SourceError::halt(
            format!("the stream stops behind {}: {error}", self.delivered),
            format!(
                "the rows that {table} had are gone on blue and are on green still. On green: TRUNCATE \
                 {table}; it goes on by itself then; at last: cutover verify --table '{table}'"
            ),
        )
        .caused_by(error)
    }

    /// Something arrived that is not what the protocol allows there.
    pub(super) fn not_understood(
        &self,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> SourceError {
        SourceError::halt(
            format!(
                "the stream from the replication slot {} can't be followed behind {}: {error}",
                self.slot, self.delivered
            ),
            "nothing that came before was skipped, and the slot keeps what follows; keep it and report this",
        )
        .caused_by(error)
    }
}
