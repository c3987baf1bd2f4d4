//! Events of one binlog stream, put together into whole groups.
//!
//! ```text
//! MySQL    GTID  BEGIN  (TABLE_MAP ROWS+)*  XID | COMMIT        a transaction
//!          GTID  statement                                     DDL, which commits by itself
//!          GTID  XA START  rows  XA END  XA_PREPARE             prepared
//!          GTID  XA COMMIT | XA ROLLBACK                        and its end, any time later
//!          GTID  BEGIN  statement  rows  XID                    CREATE TABLE .. SELECT
//! MariaDB  the same without BEGIN: the GTID event opens the group
//! ```
//!
//! What is absent on purpose: IO, and any use of `log_pos`, which neither server sets inside of every
//! group.

use std::sync::Arc;

use crate::change::{ChangeEvent, OldRow, Part, QualifiedName};
use crate::mysql::catalog::TableInfo;
use crate::mysql::gtid::{BinlogPosition, MariadbGtidEvent, TransactionId};
use crate::mysql::{Body, Event, Query, Rows, Selection, Session};

use super::error::StreamFault;
use super::lexer::Dialect;
use super::rows;
use super::statement::{Kind, Sorted, Statement, sort};
use super::tables::{Known, Tables};
use super::transaction::{Change, Outcome, Transaction};
use super::xa::XaId;

/// Puts events together. One per stream: a reconnect starts with a new one.
#[derive(Debug)]
pub struct Assembler {
    part_bytes: usize,
    tables: Tables,
    position: BinlogPosition,
    open: Option<Open>,
}

/// The group between its GTID and its end.
#[derive(Debug)]
struct Open {
    id: TransactionId,
    server_id: u32,
    committed_at_us: i64,
    /// A statement ends the group, unless BEGIN or its like came before.
    framed: bool,
    changes: Vec<Change>,
    bytes: usize,
    /// Whether a part of it has been handed out.
    cut: bool,
    /// It began as a distributed transaction.
    distributed: bool,
    /// The last change was made without checking foreign keys.
    unchecked: bool,
}

impl Assembler {
    /// An assembler behind `position`, for the tables of `selection`, which hands out a group in parts
    /// of about `part_bytes` each.
    pub fn new(position: BinlogPosition, selection: Selection, part_bytes: usize) -> Self {
        Assembler { part_bytes, tables: Tables::new(selection), position, open: None }
    }

    /// The tables whose rows are delivered.
    pub fn selection(&self) -> &Selection {
        self.tables.selection()
    }

    /// Lets rows keep the image that they came as: see [`Row::image`](crate::change::Row::image).
    pub fn keep_images(&mut self) {
        self.tables.keep_images();
    }

    /// Delivers the rows of these tables whatever filter and database say.
    pub fn always(&mut self, tables: Vec<QualifiedName>) {
        self.tables.always(tables);
    }

    /// Tables whose rows are not delivered whatever the selection says.
    pub fn leave_out(&mut self, tables: Vec<QualifiedName>) {
        self.tables.leave_out(tables);
    }

    /// Everything up to here has been delivered.
    pub fn position(&self) -> &BinlogPosition {
        &self.position
    }

    /// Whether a group has begun and not ended.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The group that is open.
    pub fn open_id(&self) -> Option<&TransactionId> {
        self.open.as_ref().map(|open| &open.id)
    }

    /// The table whose catalog entry has to be given to [`Assembler::describe`] before `event` is
    /// pushed.
    pub fn missing(&self, event: &Event) -> Option<QualifiedName> {
        match &event.body {
            Body::TableMap(map) => self.tables.missing(map),
            Body::Rows(rows) if !rows.is_complete() => self.tables.missing_for(rows.table_id),
            _ => None,
        }
    }

    /// Keeps what the catalog says of a table; `None` if it is not there.
    pub fn describe(&mut self, name: QualifiedName, table: Option<TableInfo>) {
        self.tables.describe(name, table);
    }

    /// Takes the next event; gives the transaction or the part that it completes.
    ///
    /// # Errors
    /// See [`StreamFault`]. The assembler is of no use afterwards.
    pub fn push(&mut self, event: Event) -> Result<Option<Transaction>, StreamFault> {
        let seconds = event.header.timestamp;
        match event.body {
            Body::Gtid(gtid) => {
                let id = TransactionId::Mysql(gtid.gtid.ok_or(StreamFault::Anonymous)?);
                let at = gtid.immediate_commit_us.and_then(|us| i64::try_from(us).ok());
                self.begin(
                    id,
                    event.header.server_id,
                    at.unwrap_or_else(|| micros(seconds)),
                    false,
                    false,
                )
            }
            Body::MariadbGtid(gtid) => {
                let framed = !gtid.has(MariadbGtidEvent::STANDALONE);
                let id = TransactionId::Mariadb(gtid.gtid);
                let prepares = gtid.has(MariadbGtidEvent::PREPARED_XA);
                self.begin(id, event.header.server_id, micros(seconds), framed, prepares)
            }
            Body::Query(query) => self.query(&query, seconds),
            Body::TableMap(map) => self.tables.map(map).map(|()| None),
            Body::Rows(rows) => self.rows(&rows),
            Body::Xid(_) => self.end(seconds, Outcome::Committed).map(Some),
            Body::XaPrepare(prepare) if prepare.one_phase => {
                self.end(seconds, Outcome::Committed).map(Some)
            }
            Body::XaPrepare(prepare) => {
                self.end(seconds, Outcome::Prepared(XaId::from(&prepare))).map(Some)
            }
            Body::StatementContext => Err(StreamFault::StatementFormat),
            Body::Incident(incident) => Err(StreamFault::Incident(incident.message)),
            // The payload's events are pushed one by one.
            Body::Payload(_) => Ok(None),
            // A server that ends its file inside of a group crashed while it wrote it: the group is
            // void, as it is for the server's own replicas.
            Body::FormatDescription(_) if self.open.as_ref().is_some_and(|open| open.cut) => {
                Err(StreamFault::OutOfOrder("a large group has no end"))
            }
            Body::FormatDescription(_) => {
                self.open = None;
                Ok(None)
            }
            Body::Rotate(_)
            | Body::Stop
            | Body::PreviousGtids(_)
            | Body::MariadbGtidList(_)
            | Body::BinlogCheckpoint(_)
            | Body::RowsQuery(_)
            | Body::Heartbeat(_)
            | Body::Ignored => Ok(None),
        }
    }

    fn begin(
        &mut self,
        id: TransactionId,
        server_id: u32,
        committed_at_us: i64,
        framed: bool,
        distributed: bool,
    ) -> Result<Option<Transaction>, StreamFault> {
        if self.open.is_some() {
            return Err(StreamFault::OutOfOrder("a group begins inside of another"));
        }
        self.open = Some(Open {
            id,
            server_id,
            committed_at_us,
            framed,
            changes: Vec::new(),
            bytes: 0,
            cut: false,
            distributed,
            unchecked: false,
        });
        Ok(None)
    }

    fn query(&mut self, query: &Query, seconds: u32) -> Result<Option<Transaction>, StreamFault> {
        let open = self.open.as_mut().ok_or(StreamFault::OutOfOrder("a statement has no GTID"))?;
        let text = query.text().map_err(|fault| StreamFault::Rows {
            table: QualifiedName::new(&query.schema, "a statement"),
            error: rows::RowsError::Value(fault),
        })?;
        let dialect = Dialect::of(query.session.sql_mode);
        let change = match sort(&query.schema, &text, dialect) {
            Sorted::Begin => {
                open.framed = true;
                return Ok(None);
            }
            Sorted::XaFrame => {
                (open.framed, open.distributed) = (true, true);
                return Ok(None);
            }
            Sorted::Savepoint => return Ok(None),
            Sorted::Commit => return self.end(seconds, Outcome::Committed).map(Some),
            // What was rolled back is logged only if a part of it could not be.
            Sorted::Rollback if open.changes.is_empty() && !open.cut => {
                return self.end(seconds, Outcome::Committed).map(Some);
            }
            Sorted::Rollback | Sorted::RollbackToSavepoint => {
                return Err(StreamFault::PartlyRolledBack);
            }
            Sorted::Data => return Err(StreamFault::StatementFormat),
            Sorted::XaCommit(id) => Change::XaCommit(id.ok_or(StreamFault::XaIdentity)?),
            Sorted::XaRollback(id) => Change::XaRollback(id.ok_or(StreamFault::XaIdentity)?),
            Sorted::Standing { kind, tables, databases } => {
                // MariaDB may log an ALTER TABLE in two halves, of which only the second counts.
                const START_OR_ROLLBACK_ALTER: u8 = 2 | 8;
                if query
                    .session
                    .alter_flags
                    .is_some_and(|flags| flags & START_OR_ROLLBACK_ALTER != 0)
                {
                    return self.end(seconds, Outcome::Committed).map(Some);
                }
                if !matches!(
                    kind,
                    Kind::Account | Kind::Maintenance | Kind::TemporaryTable | Kind::Server
                ) {
                    self.tables.forget_catalog();
                }
                open.check(true);
                Change::Statement(Statement {
                    schema: query.schema.clone(),
                    text,
                    kind,
                    tables,
                    databases,
                    raw: query.statement.clone(),
                    session: Session::clone(&query.session),
                })
            }
        };
        let ends = !open.framed || matches!(change, Change::XaCommit(_) | Change::XaRollback(_));
        let bytes = query.statement.len();
        open.changes.push(change);
        open.bytes += bytes + size_of::<Change>();
        if ends { self.end(seconds, Outcome::Committed).map(Some) } else { Ok(None) }
    }

    fn rows(&mut self, event: &Rows) -> Result<Option<Transaction>, StreamFault> {
        let open = self.open.as_mut().ok_or(StreamFault::OutOfOrder("rows have no GTID"))?;
        let described = match self.tables.get(event.table_id) {
            None if event.width == 0 => return Ok(None),
            None => return Err(StreamFault::UnknownTable),
            Some(Known::Skipped) => return Ok(None),
            Some(Known::Described(described)) => Arc::clone(described),
        };
        let lacks = !event.is_complete();
        let changes = match lacks && !self.tables.are_generated(&described, event) {
            true => Err(rows::RowsError::Incomplete),
            false => rows::changes(event, &described),
        };
        let changes = changes
            .map_err(|error| StreamFault::Rows { table: described.schema.name.clone(), error })?;
        if !changes.is_empty() {
            open.check(event.flags & Rows::NO_FOREIGN_KEY_CHECKS == 0);
        }
        for change in changes {
            open.bytes += heap_bytes(&change);
            open.changes.push(Change::Row(change));
        }
        if open.bytes < self.part_bytes {
            return Ok(None);
        }
        let part = if open.cut { Part::Middle } else { Part::First };
        open.cut = true;
        Ok(Some(open.part(part)))
    }

    fn end(&mut self, seconds: u32, outcome: Outcome) -> Result<Transaction, StreamFault> {
        let mut open =
            self.open.take().ok_or(StreamFault::OutOfOrder("an end has no beginning"))?;
        self.position.add(&open.id);
        if let TransactionId::Mariadb(_) = open.id {
            // The GTID event has the time of the first statement, the end that of the commit.
            open.committed_at_us = open.committed_at_us.max(micros(seconds));
        }
        let mut last = open.part(if open.cut { Part::Last } else { Part::Whole });
        last.position = Some(self.position.clone());
        last.outcome = outcome;
        Ok(last)
    }
}

impl Open {
    /// Says whether the changes that follow were made with foreign keys checked.
    fn check(&mut self, checked: bool) {
        if self.unchecked == checked {
            self.unchecked = !checked;
            self.changes.push(Change::ForeignKeyChecks(checked));
        }
    }

    /// What has come since the part before. Each part begins and ends with foreign keys checked.
    fn part(&mut self, part: Part) -> Transaction {
        self.check(true);
        Transaction {
            part,
            id: self.id.clone(),
            position: None,
            outcome: Outcome::Committed,
            distributed: self.distributed,
            committed_at_us: self.committed_at_us,
            server_id: self.server_id,
            changes: std::mem::take(&mut self.changes),
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

fn micros(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000_000
}

/// What a row occupies: its values, which are copies here, and where they are.
fn heap_bytes(change: &ChangeEvent) -> usize {
    let row = |row: &crate::change::Row| {
        let values = row.cells().filter_map(|cell| cell.value()?.bytes()).map(<[u8]>::len);
        let image = row.image().map_or(0, |image| image.bytes.len());
        row.heap_bytes() + values.sum::<usize>() + image
    };
    let rows = match change {
        ChangeEvent::Insert { new, .. } => row(new),
        ChangeEvent::Update { old, new, .. } => {
            row(new) + old.as_ref().map(OldRow::row).map_or(0, row)
        }
        ChangeEvent::Delete { old, .. } => row(old.row()),
        ChangeEvent::Truncate { .. }
        | ChangeEvent::Message { .. }
        | ChangeEvent::Definition(_)
        | ChangeEvent::Distributed(_) => 0,
    };
    size_of::<Change>() + rows
}
