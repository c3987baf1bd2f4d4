//! Transactions that nothing is applied together with: schema changes and distributed transactions.

use std::sync::atomic::Ordering;

use decoders::change::{ChangeEvent, Definition, Distributed, Lsn, Transaction};
use mysql_async::Conn;

use super::super::definitions::{self, Arriving};
use super::super::error::target_error;
use super::super::prepared;
use super::super::script::{Purpose, Script};
use super::MysqlLane;
use crate::mark::Share;
use crate::target::{Applied, TargetError};

/// The error for one that came among others.
pub(super) fn not_alone() -> TargetError {
    TargetError::halt(
        "a schema change or a step of a distributed transaction came among other changes; nothing of them \
         is on green",
        "This is a defect of the engine: please report it",
    )
}

/// What transactions that come together are.
#[derive(Debug)]
pub(super) enum Turn<'a> {
    /// A schema change, with rows behind it at most.
    Definition(&'a Transaction, &'a Definition),
    /// A step of a distributed transaction.
    Step(&'a Transaction, &'a Distributed),
    /// Neither.
    Rows,
}

impl<'a> Turn<'a> {
    /// # Errors
    /// Something that has to stand alone does not: it must not be passed over.
    pub(super) fn of(transactions: &'a [Transaction]) -> Result<Turn<'a>, TargetError> {
        let count = |wanted: fn(&ChangeEvent) -> bool| {
            let changes = transactions.iter().flat_map(|transaction| &transaction.changes);
            changes.filter(|change| wanted(change)).count()
        };
        let definitions = count(|change| matches!(change, ChangeEvent::Definition(_)));
        let steps = count(|change| matches!(change, ChangeEvent::Distributed(_)));
        match (definitions, steps, transactions) {
            (0, 0, _) => Ok(Turn::Rows),
            (1, 0, [transaction]) => {
                let definition = transaction.definition().ok_or_else(not_alone)?;
                Ok(Turn::Definition(transaction, definition))
            }
            (0, _, [transaction]) => {
                let step = transaction.distributed().ok_or_else(not_alone)?;
                // Its identity comes behind what it keeps.
                let fits = match (step, transaction.changes.as_slice()) {
                    (Distributed::Keeps, [_, .., ChangeEvent::Distributed(last)]) => {
                        steps == 2 && matches!(last, Distributed::Prepared(_))
                    }
                    (Distributed::Keeps, _) => steps == 1,
                    (Distributed::Prepared(_), _) => false,
                    (Distributed::Committed(_) | Distributed::RolledBack(_), changes) => {
                        changes.len() == 1
                    }
                };
                if fits { Ok(Turn::Step(transaction, step)) } else { Err(not_alone()) }
            }
            _ => Err(not_alone()),
        }
    }
}

impl MysqlLane {
    /// Repeats a schema change, and moves the progress beyond it, in one transaction with the rows that
    /// come with it.
    pub(super) async fn define(
        &mut self,
        conn: &mut Conn,
        transaction: &Transaction,
        definition: &Definition,
        share: Share,
    ) -> Result<Applied, TargetError> {
        if self.open.begun {
            return Err(not_alone());
        }
        self.admit(transaction)?;
        let mut script = self.script();
        if definition.matters_to_rows || self.applies_definitions {
            let arriving = Arriving {
                definition,
                number: transaction.commit_lsn,
                pipeline: &self.pipeline,
                marks: &self.marks,
                server: &self.capabilities.server,
                applies: self.applies_definitions,
            };
            arriving.bring(conn).await?;
            self.definitions.fetch_add(1, Ordering::AcqRel);
            let set_up = self.set_up(conn).await;
            set_up.map_err(|error| target_error("setting up a session on green", error))?;
            self.begin(&mut script, conn).await?;
            let close = definitions::close_statement(&self.pipeline, transaction.commit_lsn);
            script.add(conn, &close, Some(1), 0, Purpose::Progress).await?;
        } else {
            tracing::warn!(
                place = definition.place,
                kind = definition.kind,
                objects = definition.names(),
                "not repeated on green, where rows do not need it"
            );
            self.begin(&mut script, conn).await?;
        }
        let is_row = |change: &&ChangeEvent| !matches!(change, ChangeEvent::Definition(_));
        let rows: Vec<&ChangeEvent> = transaction.changes.iter().filter(is_row).collect();
        self.learn(conn, rows.iter().copied()).await?;
        self.write_changes(&mut script, conn, rows, transaction.commit_lsn).await?;
        self.ended(transaction)?;
        self.finish(&mut script, conn, std::slice::from_ref(transaction), share).await
    }

    /// Keeps, applies or drops the changes of a distributed transaction, and moves the progress.
    pub(super) async fn distribute(
        &mut self,
        conn: &mut Conn,
        transaction: &Transaction,
        step: &Distributed,
        share: Share,
    ) -> Result<Applied, TargetError> {
        self.admit(transaction)?;
        let number = transaction.commit_lsn;
        let mut script = self.script();
        self.begin(&mut script, conn).await?;
        script.send(conn).await?;
        match step {
            Distributed::Keeps => {
                let (id, changes) = match transaction.changes.split_last() {
                    Some((ChangeEvent::Distributed(Distributed::Prepared(id)), changes)) => {
                        (Some(id), changes.get(1..).unwrap_or_default())
                    }
                    _ => (None, transaction.changes.get(1..).unwrap_or_default()),
                };
                let most = self.capabilities.packet_bytes;
                let first = transaction.part.starts();
                let of = (self.pipeline.as_str(), number);
                self.open.pieces = if first { 0 } else { self.open.pieces };
                self.open.pieces +=
                    prepared::keep(conn, of, self.open.pieces, changes, most).await?;
                match id {
                    Some(id) => prepared::name(conn, of, id).await?,
                    // Committed as soon as it was prepared.
                    None if transaction.part.ends() => {
                        self.apply_kept(&mut script, conn, number, number).await?;
                    }
                    None => {}
                }
            }
            Distributed::Committed(id) => {
                let kept = prepared::find(conn, &self.pipeline, id).await?;
                let kept = kept.ok_or_else(|| unknown(id, number))?;
                self.apply_kept(&mut script, conn, kept, number).await?;
                prepared::unname(conn, &self.pipeline, id).await?;
            }
            Distributed::RolledBack(id) => {
                // One that was prepared before the stream began has left nothing here.
                if let Some(kept) = prepared::find(conn, &self.pipeline, id).await? {
                    prepared::drop_pieces(conn, (&self.pipeline, kept)).await?;
                    prepared::unname(conn, &self.pipeline, id).await?;
                }
            }
            Distributed::Prepared(_) => return Err(not_alone()),
        }
        self.ended(transaction)?;
        self.finish(&mut script, conn, std::slice::from_ref(transaction), share).await
    }

    /// Writes what was kept under a number as the changes of the transaction `commit`, piece by piece, and
    /// drops it.
    async fn apply_kept(
        &mut self,
        script: &mut Script,
        conn: &mut Conn,
        kept: Lsn,
        commit: Lsn,
    ) -> Result<(), TargetError> {
        let mut piece = 0;
        while let Some(changes) = prepared::read(conn, (&self.pipeline, kept), piece).await? {
            self.learn(conn, changes.iter()).await?;
            self.write_changes(script, conn, changes.iter(), commit).await?;
            script.send(conn).await?;
            piece += 1;
        }
        prepared::drop_pieces(conn, (&self.pipeline, kept)).await
    }
}

fn unknown(id: &str, number: Lsn) -> TargetError {
    TargetError::halt(
        format!(
            "the distributed transaction {id} is committed by blue's transaction number {}, and was \
             prepared before this stream began: green does not have its changes. Everything before it is on \
             green, nothing of it and nothing behind it",
            number.0
        ),
        "end those that are prepared on blue (XA RECOVER shows them), and make a new copy",
    )
}

#[cfg(test)]
mod tests {
    use decoders::change::Part;
    use decoders::mysql::stream::Kind;

    use super::*;
    use crate::mysql::definitions;

    fn message() -> ChangeEvent {
        ChangeEvent::Message { prefix: "p".into(), content: "x".into() }
    }

    fn row() -> ChangeEvent {
        let tables = Box::default();
        ChangeEvent::Truncate { tables, cascade: false, restart_identity: false }
    }

    fn definition() -> ChangeEvent {
        ChangeEvent::Definition(definitions::tests::definition(Kind::AlterTable, 1).into())
    }

    fn step(step: Distributed) -> ChangeEvent {
        ChangeEvent::Distributed(step)
    }

    /// What changes are, transaction by transaction.
    fn turn<const N: usize>(transactions: [Vec<ChangeEvent>; N]) -> &'static str {
        let transactions = transactions.map(|changes| Transaction {
            part: Part::Whole,
            xid: 0,
            commit_lsn: Lsn(1),
            end_lsn: Some(Lsn(2)),
            committed_at_us: 0,
            origin: None,
            changes,
            bytes: 0,
        });
        match Turn::of(&transactions) {
            Ok(Turn::Definition(..)) => "definition",
            Ok(Turn::Step(..)) => "step",
            Ok(Turn::Rows) => "rows",
            Err(_) => "refused",
        }
    }

    #[test]
    fn a_schema_change_out_of_its_place_is_refused() {
        assert_eq!(turn([vec![message(), row()], vec![row()]]), "rows");
        assert_eq!(turn([vec![message(), definition(), row(), message()]]), "definition");
        assert_eq!(turn([vec![row(), definition()]]), "refused");
        assert_eq!(turn([vec![definition(), definition()]]), "refused");
        assert_eq!(turn([vec![definition(), step(Distributed::Keeps)]]), "refused");
        assert_eq!(turn([vec![definition()], vec![row()]]), "refused");
        assert_eq!(turn([vec![row()], vec![row(), definition()]]), "refused");
    }

    #[test]
    fn a_step_of_a_distributed_transaction_out_of_its_place_is_refused() {
        let prepared = || step(Distributed::Prepared("x".into()));
        let committed = || step(Distributed::Committed("x".into()));
        let keeps = || step(Distributed::Keeps);
        assert_eq!(turn([vec![keeps(), row(), prepared()]]), "step");
        assert_eq!(turn([vec![keeps(), prepared()]]), "step");
        assert_eq!(turn([vec![keeps(), row()]]), "step");
        assert_eq!(turn([vec![keeps()]]), "step");
        assert_eq!(turn([vec![committed()]]), "step");
        assert_eq!(turn([vec![prepared()]]), "refused");
        assert_eq!(turn([vec![committed(), row()]]), "refused");
        assert_eq!(turn([vec![row(), committed()]]), "refused");
        assert_eq!(turn([vec![keeps(), prepared(), row()]]), "refused");
        assert_eq!(turn([vec![keeps(), committed()]]), "refused");
        assert_eq!(turn([vec![keeps(), definition()]]), "refused");
        assert_eq!(turn([vec![committed()], vec![row()]]), "refused");
    }
}
