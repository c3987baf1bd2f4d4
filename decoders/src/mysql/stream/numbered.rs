//! The stream of a binlog as the engine takes it: transactions with numbers, see
//! [`Ledger`](crate::mysql::Ledger), and nothing in them but changes of rows. Of our own tables it has
//! what somebody looks for: an applier's mark, and the rows of the table of markers.
//!
//! A transaction that concerns none of the tables is an idle position. What can't be repeated on a
//! target stops the stream at exactly that transaction: statements that change or may change a table,
//! and distributed transactions that were prepared.

use std::sync::Arc;

use super::statement::{Kind, Statement};
use super::transaction::{Change, Outcome, Transaction as Group};
use super::{BinlogStream, StreamOptions};
use crate::change::{
    ChangeEvent, Lsn, Part, Position, QualifiedName, ReplicaIdentity, TableId, TableSchema,
    Transaction,
};
use crate::mysql::gtid::{BinlogPosition, TransactionId};
use crate::mysql::server::ServerUrl;
use crate::mysql::{Ledger, Place};
use crate::source::{Source, SourceError, SourceEvent};

const OWN_SCHEMA: &str = "_cutover";
/// Where appliers keep their progress. The first change of each of their transactions is to it, which
/// is how a stream the other way round knows them.
const PROGRESS_TABLE: &str = "progress";
/// Where markers are written: how far the stream has been read is known when one comes out.
const MARKER_TABLE: &str = "marker";

/// Prefix of the messages that say whether foreign keys were checked when the changes behind them were
/// made; `on` at the beginning of every part of a transaction.
const CHECKS_PREFIX: &str = "cutover.foreign_key_checks";

fn foreign_key_checks(checked: bool) -> ChangeEvent {
    let content = if checked { "on" } else { "off" };
    ChangeEvent::Message { prefix: CHECKS_PREFIX.to_owned(), content: content.into() }
}

/// Whether the source checked foreign keys for the changes behind this one, until it says otherwise:
/// rows written with `foreign_key_checks = 0` may refer to nothing, and cascade to nothing. `None` for a
/// change that says nothing of it.
pub fn foreign_keys_checked(change: &ChangeEvent) -> Option<bool> {
    match change {
        ChangeEvent::Message { prefix, content } if prefix == CHECKS_PREFIX => {
            Some(content == "on")
        }
        _ => None,
    }
}

/// A stream of a server's binlog whose transactions are numbered.
#[derive(Debug)]
pub struct NumberedStream {
    stream: BinlogStream,
    ledger: Arc<Ledger>,
    /// The transaction whose last part has not come: its number.
    open: Option<Lsn>,
    /// Prefix of the messages that stand for an applier's mark; their content is its pipeline.
    own_prefix: &'static str,
    /// What the version that wrote the log's first file does.
    version_logs_cascades: bool,
}

impl NumberedStream {
    /// Opens the stream behind `place`. `own_prefix` is the prefix of the message that a transaction
    /// of an applier begins with instead of the change to its progress.
    ///
    /// # Errors
    /// As for [`BinlogStream::open`].
    pub async fn open(
        url: &ServerUrl,
        mut options: StreamOptions,
        place: Place,
        own_prefix: &'static str,
    ) -> Result<NumberedStream, SourceError> {
        options.start = super::Start::Behind(place.position.clone());
        options.always =
            [PROGRESS_TABLE, MARKER_TABLE].map(|name| QualifiedName::new(OWN_SCHEMA, name)).into();
        let stream = BinlogStream::open(url, options).await?;
        // Of the server's family: a position that was stored before the first transaction is empty, and
        // says of neither that it is its own.
        let place = Place { position: stream.start().clone(), ..place };
        let ledger = Arc::new(Ledger::new(place));
        let version_logs_cascades = stream.version_logs_cascades();
        Ok(NumberedStream { stream, ledger, open: None, own_prefix, version_logs_cascades })
    }

    /// Whether the version that wrote the log has in it what cascading foreign keys do. It is the same
    /// for everything that this stream delivers: before a file of another kind it hands over to the next
    /// one.
    pub fn version_logs_cascades(&self) -> bool {
        self.version_logs_cascades
    }

    /// The numbers that were given, and what they stand for.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// Everything up to here has been delivered.
    pub fn position(&self) -> &BinlogPosition {
        self.stream.position()
    }

    /// Ends the stream.
    pub async fn close(self) {
        self.stream.close().await;
    }

    fn event(&mut self, group: Group) -> Result<SourceEvent, SourceError> {
        let changes = self.changes(&group)?;
        let number = match self.open {
            Some(number) => number,
            None => self.ledger.number(group.id),
        };
        let ends = group.part.ends();
        self.open = (!ends).then_some(number);
        let end = Lsn(number.0 + 1);
        if group.part == Part::Whole && changes.is_empty() {
            return Ok(SourceEvent::Idle(Position::Lsn(end)));
        }
        Ok(SourceEvent::Transaction(Transaction {
            part: group.part,
            xid: 0,
            commit_lsn: number,
            end_lsn: ends.then_some(end),
            committed_at_us: group.committed_at_us,
            origin: None,
            changes,
            bytes: group.bytes,
        }))
    }

    fn changes(&self, group: &Group) -> Result<Vec<ChangeEvent>, SourceError> {
        let mut changes = Vec::with_capacity(group.changes.len());
        // Whether foreign keys were checked, and what `changes` say of it.
        let (mut checked, mut said) = (true, true);
        for change in &group.changes {
            match change {
                Change::Row(row) => match self.row(row) {
                    Some(own) => changes.extend(own),
                    None => {
                        // Only here: the mark of an applier has to be the first change.
                        if said != checked {
                            changes.push(foreign_key_checks(checked));
                            said = checked;
                        }
                        changes.push(row.clone());
                    }
                },
                Change::Statement(statement) => {
                    changes.extend(self.statement(statement, &group.id)?);
                }
                Change::ForeignKeyChecks(now) => checked = *now,
                // Prepared behind the start, the stream would have ended there.
                Change::XaRollback(_) => {}
                Change::XaCommit(id) => {
                    return Err(SourceError::halt(
                        format!(
                            "{}: the distributed transaction {id} is committed, which was prepared \
                             before this stream began",
                            group.id
                        ),
                        XA_REMEDY,
                    ));
                }
            }
        }
        if !said {
            changes.push(foreign_key_checks(true));
        }
        match &group.outcome {
            Outcome::Prepared(id) if !changes.is_empty() => Err(SourceError::halt(
                format!("{}: the distributed transaction {id} is prepared (XA)", group.id),
                XA_REMEDY,
            )),
            _ => Ok(changes),
        }
    }

    /// What becomes of a change to our own tables: nothing, the mark of an applier's pipeline, or the
    /// row of a marker as it is. `None` for all others.
    fn row(&self, row: &ChangeEvent) -> Option<Option<ChangeEvent>> {
        let (table, new) = match row {
            ChangeEvent::Insert { table, .. } | ChangeEvent::Delete { table, .. } => (table, None),
            ChangeEvent::Update { table, new, .. } => (table, Some(new)),
            ChangeEvent::Truncate { .. } | ChangeEvent::Message { .. } => return None,
        };
        if table.name.schema != OWN_SCHEMA {
            return None;
        }
        if table.name.name == MARKER_TABLE && matches!(row, ChangeEvent::Insert { .. }) {
            return Some(Some(row.clone()));
        }
        let pipeline = new.filter(|_| table.name.name == PROGRESS_TABLE).and_then(|new| {
            let at = table.column_names().position(|name| name == "pipeline")?;
            new.value(at)?.bytes()
        });
        Some(pipeline.map(|pipeline| ChangeEvent::Message {
            prefix: self.own_prefix.to_owned(),
            content: pipeline.to_vec().into(),
        }))
    }

    /// What a statement comes to: nothing, or the emptying of tables.
    fn statement(
        &self,
        statement: &Statement,
        id: &TransactionId,
    ) -> Result<Option<ChangeEvent>, SourceError> {
        let selection = self.stream.selection();
        match statement.kind {
            Kind::View
            | Kind::Routine
            | Kind::Account
            | Kind::Maintenance
            | Kind::Server
            | Kind::Database
            | Kind::TemporaryTable => return Ok(None),
            Kind::DropDatabase
                if !statement.databases.is_empty()
                    && !statement.databases.iter().any(|name| selection.reaches(name)) =>
            {
                return Ok(None);
            }
            Kind::TruncateTable if !statement.tables.is_empty() => {
                let taken = statement.tables.iter().filter(|table| selection.takes(table));
                let names = taken.map(|table| selection.canonical(table));
                let tables: Box<[_]> = names.map(emptied).collect();
                return Ok((!tables.is_empty()).then_some(ChangeEvent::Truncate {
                    tables,
                    cascade: false,
                    restart_identity: false,
                }));
            }
            // Tables that are left out may change as they like.
            Kind::CreateTable
            | Kind::AlterTable
            | Kind::DropTable
            | Kind::RenameTable
            | Kind::Sequence
            | Kind::Index
                if !statement.tables.is_empty()
                    && !statement.tables.iter().any(|table| selection.takes(table)) =>
            {
                return Ok(None);
            }
            _ => {}
        }
        // Its first words: the rest may hold values.
        let words: Vec<&str> = statement.text.split_whitespace().take(3).collect();
        let tables = statement.tables.iter().map(|name| format!("{}.{}", name.schema, name.name));
        let tables: Vec<String> = tables.chain(statement.databases.iter().cloned()).collect();
        Err(SourceError::halt(
            format!(
                "{id}: a statement on the source may change tables that are moved ({} .. {}); schema \
                 changes are not repeated on the target yet. Everything before it is applied, nothing \
                 of it is",
                words.join(" "),
                tables.join(", ")
            ),
            "make a new copy of the source as it is now; until it is done, leave schemas as they are",
        ))
    }
}

const XA_REMEDY: &str = "distributed transactions (XA PREPARE) are not applied yet: end those that are \
                         prepared (XA RECOVER shows them), and make a new copy";

/// A table of which nothing but the name matters.
fn emptied(name: QualifiedName) -> Arc<TableSchema> {
    Arc::new(TableSchema {
        id: TableId(0),
        name,
        identity: ReplicaIdentity::Nothing,
        columns: Vec::new(),
    })
}

impl Source for NumberedStream {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        // Only what is durable makes room, and who learns of it asks again.
        if self.open.is_none() && self.ledger.is_full() {
            return std::future::pending().await;
        }
        loop {
            let event = Source::<Group, BinlogPosition>::next(&mut self.stream).await?;
            if self.stream.version_logs_cascades() != self.version_logs_cascades {
                return Ok(SourceEvent::Handover);
            }
            match event {
                SourceEvent::Transaction(group) => return self.event(group),
                // Every group has a number, so there is nothing between them to report.
                SourceEvent::Idle(_) => {}
                SourceEvent::Handover => return Ok(SourceEvent::Handover),
            }
        }
    }

    async fn keep_alive(&mut self) -> SourceError {
        Source::<Group, BinlogPosition>::keep_alive(&mut self.stream).await
    }

    async fn acknowledge(&mut self, durable: Position) -> Result<(), SourceError> {
        if let Some(number) = durable.lsn() {
            self.ledger.forget(number);
        }
        Ok(())
    }
}
