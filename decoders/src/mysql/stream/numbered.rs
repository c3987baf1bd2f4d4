//! The stream of a binlog as the engine takes it: transactions with numbers, see
//! [`Ledger`](crate::mysql::Ledger), and nothing in them but changes of rows. Of our own tables it has
//! what somebody looks for: an applier's mark, and the rows of the table of markers.
//!
//! A transaction that concerns none of the tables is an idle position. A statement that changes or may
//! change a table is a [`Definition`](crate::change::Definition), and it is for the applier to say whether
//! it is repeated: so everything before it is on the target when it is not. So are the steps of distributed
//! transactions ([`Distributed`]): the applier keeps what was prepared.
//!
//! # Schema changes of an applier
//! A schema change has no transaction that a mark could be in. An applier notes each in a table of its
//! own before it runs it, and a statement about the same objects is it until the note is closed.

use std::sync::Arc;

use super::definitions;
use super::noted::NotedChanges;
use super::transaction::{Change, Outcome, Transaction as Group};
use super::{BinlogStream, StreamOptions};
use crate::change::{ChangeEvent, Distributed, Lsn, Part, Position, QualifiedName, Transaction};
use crate::mysql::gtid::BinlogPosition;
use crate::mysql::server::ServerUrl;
use crate::mysql::{Flavor, Ledger, Place};
use crate::source::{Source, SourceError, SourceEvent};

const OWN_SCHEMA: &str = "_cutover";
/// Where appliers say whose their transactions are, with a proof: the first change of each of them is to it,
/// which is how a stream the other way round knows them.
pub const MARK_TABLE: &str = "mark";
/// Where appliers keep their progress. Those of a version that had no proofs began their transactions here.
const PROGRESS_TABLE: &str = "progress";
/// Where markers are written: how far the stream has been read is known when one comes out.
const MARKER_TABLE: &str = "marker";

/// Where appliers note a schema change before they run it.
pub const DEFINITION_TABLE: &str = "definition";

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
    /// Prefix of the messages that stand for an applier's mark; their content is a [`claim`].
    own_prefix: &'static str,
    /// Up to where marks without a proof are told.
    unproven_until: Option<BinlogPosition>,
    /// What the version that wrote the log's first file does.
    version_logs_cascades: bool,
    /// Schema changes that appliers have noted and that have not come.
    noted: NotedChanges,
}

impl NumberedStream {
    /// Opens the stream behind `place`. `own_prefix` is the prefix of the message that a transaction
    /// of an applier begins with instead of its mark. It says what the mark claims: whether that is
    /// proven is for who knows the secret.
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
        let unproven_until = options.unproven_until.take();
        options.always = [MARK_TABLE, PROGRESS_TABLE, MARKER_TABLE, DEFINITION_TABLE]
            .map(|name| QualifiedName::new(OWN_SCHEMA, name))
            .into();
        let stream = BinlogStream::open(url, options).await?;
        // Of the server's family: a position that was stored before the first transaction is empty, and
        // says of neither that it is its own.
        let place = Place { position: stream.start().clone(), ..place };
        let ledger = Arc::new(Ledger::new(place));
        let version_logs_cascades = stream.version_logs_cascades();
        Ok(NumberedStream {
            stream,
            ledger,
            open: None,
            own_prefix,
            unproven_until,
            version_logs_cascades,
            noted: NotedChanges::default(),
        })
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

    /// `None`: nothing to tell yet.
    fn event(&mut self, group: Group) -> Option<SourceEvent> {
        let changes = self.changes(&group);
        let number = match self.open {
            Some(number) => number,
            None => self.ledger.number(group.id),
        };
        let ends = group.part.ends();
        self.open = (!ends).then_some(number);
        let end = Lsn(number.0 + 1);
        if group.part == Part::Whole && changes.is_empty() {
            // A position behind a note would be one from which its statement is nobody's.
            let is_told = !self.noted.is_one_running() || self.ledger.is_full();
            return is_told.then_some(SourceEvent::Idle(Position::Lsn(end)));
        }
        Some(SourceEvent::Transaction(Transaction {
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

    fn changes(&mut self, group: &Group) -> Vec<ChangeEvent> {
        let mut changes = Vec::with_capacity(group.changes.len());
        // Whether foreign keys were checked, and what `changes` say of it.
        let (mut checked, mut said) = (true, true);
        // What the first change claims: what is noted behind it is noted by whoever can prove it.
        let mut claimed = None;
        for change in &group.changes {
            match change {
                Change::Row(row) => match self.row(row, group, &mut claimed) {
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
                    let selection = self.stream.selection();
                    let change =
                        definitions::change(statement, &group.id, selection, self.flavor());
                    // Only here: the mark of an applier has to be the first change.
                    changes.extend(change.as_ref().and_then(|change| self.mark_of(change)));
                    changes.extend(change);
                }
                Change::ForeignKeyChecks(now) => checked = *now,
                Change::XaRollback(id) => {
                    let step = Distributed::RolledBack(id.to_string().into());
                    changes.push(ChangeEvent::Distributed(step));
                }
                Change::XaCommit(id) => {
                    let step = Distributed::Committed(id.to_string().into());
                    changes.push(ChangeEvent::Distributed(step));
                }
            }
        }
        if !said {
            changes.push(foreign_key_checks(true));
        }
        // One that was committed as soon as it was prepared, and came whole, is as any other.
        let is_kept = group.part != Part::Whole || group.outcome != Outcome::Committed;
        if group.distributed && is_kept {
            changes.insert(0, ChangeEvent::Distributed(Distributed::Keeps));
            if let Outcome::Prepared(id) = &group.outcome {
                let step = Distributed::Prepared(id.to_string().into());
                changes.push(ChangeEvent::Distributed(step));
            }
        }
        changes
    }

    fn flavor(&self) -> Flavor {
        match self.stream.server().is_mariadb() {
            true => Flavor::Mariadb,
            false => Flavor::Mysql,
        }
    }

    /// The mark of the applier that has noted this schema change.
    fn mark_of(&mut self, change: &ChangeEvent) -> Option<ChangeEvent> {
        let ChangeEvent::Definition(definition) = change else { return None };
        let claim = self.noted.take(definition)?;
        Some(self.mark(claim))
    }

    fn mark(&self, claim: Vec<u8>) -> ChangeEvent {
        ChangeEvent::Message { prefix: self.own_prefix.to_owned(), content: claim.into() }
    }

    /// Whether the group may be of an applier that had no proofs.
    fn is_before_proofs(&self, group: &Group) -> bool {
        self.unproven_until.as_ref().is_some_and(|until| until.contains(&group.id))
    }

    /// What becomes of a change to our own tables: nothing, the mark of an applier, or the
    /// row of a marker as it is. `None` for all others. `claimed` is what the group's mark says.
    fn row(
        &mut self,
        row: &ChangeEvent,
        group: &Group,
        claimed: &mut Option<Vec<u8>>,
    ) -> Option<Option<ChangeEvent>> {
        let (table, new) = match row {
            ChangeEvent::Insert { table, .. } | ChangeEvent::Delete { table, .. } => (table, None),
            ChangeEvent::Update { table, new, .. } => (table, Some(new)),
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Message { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => return None,
        };
        if table.name.schema != OWN_SCHEMA {
            return None;
        }
        if table.name.name == MARKER_TABLE && matches!(row, ChangeEvent::Insert { .. }) {
            return Some(Some(row.clone()));
        }
        if table.name.name == DEFINITION_TABLE {
            let unproven = self.is_before_proofs(group);
            self.noted.row(row, claimed.as_deref(), unproven);
        }
        let value = |name: &str| {
            let at = table.column_names().position(|column| column == name)?;
            new?.value(at)?.bytes().map(<[u8]>::to_vec)
        };
        let claim = match &*table.name.name {
            MARK_TABLE => value("pipeline")
                .zip(value("claim"))
                .map(|(pipeline, proof)| claim(&pipeline, &proof)),
            PROGRESS_TABLE if self.is_before_proofs(group) => value("pipeline"),
            _ => None,
        };
        if claim.is_some() {
            claimed.clone_from(&claim);
        }
        Some(claim.map(|claim| self.mark(claim)))
    }
}

/// The content of a message that stands for a mark: the words of its row behind a zero, then the pipeline. The
/// pipeline alone stands for a mark of a version that had no proofs.
fn claim(pipeline: &[u8], proof: &[u8]) -> Vec<u8> {
    [b"\0", proof, b" ", pipeline].concat()
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
                SourceEvent::Transaction(group) => {
                    if let Some(event) = self.event(group) {
                        return Ok(event);
                    }
                }
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
