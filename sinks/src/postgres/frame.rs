//! The statements around every transaction's rows.

use tokio_postgres::types::ToSql;

use super::pipeline::{Failure, Param, Pipeline, Purpose};
use super::session::{Capabilities, OriginTracking, TriggerSuppression};
use super::wire::{Statement, Wire};
use crate::plan::one_row;
use crate::target::TargetError;
use crate::{own, progress};

/// Statements that frame every transaction.
pub(super) struct Frame {
    pub begin: Statement,
    /// Says that the transaction is ours, and what it says; see [`own`].
    pub own: Option<(Statement, String)>,
    pub defer_constraints: Option<Statement>,
    pub advance: Statement,
    pub mark_origin: Option<Statement>,
    /// `own`, `mark_origin` and `advance` in one, right behind BEGIN, for a transaction of which
    /// everything is known before its first row: it takes their parameters, `advance`'s first, then
    /// [`Frame::own_parameter`]. The
    /// progress comes before the mark then, but no stream carries it.
    pub enter: Statement,
    pub commit: Statement,
    pub save: Statement,
    /// Gives a row for each partitioned table of $2 that has a partition in $1, at any depth.
    pub related: Statement,
    pub release: Statement,
}

/// A parameter of one of these statements.
pub(super) type Parameter = Box<dyn ToSql + Sync + Send>;

const BEGINNING: &str = "beginning a transaction on green";

/// Inside a transaction whose earlier changes must stay if a batch is refused.
const SAVE: &str = "SAVEPOINT cutover_batch";
const RELEASE: &str = "RELEASE SAVEPOINT cutover_batch";
/// Of what was written in this transaction nothing can be attached any more before it ends: ATTACH
/// PARTITION locks the table exclusively (PostgreSQL manual, ALTER TABLE).
const RELATED: &str = "
WITH RECURSIVE up(oid) AS (
  SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = ANY ($1::oid[])
 UNION
  SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
)
SELECT FROM up WHERE oid = ANY ($2::oid[])";
pub(super) const BACK: &str =
    "ROLLBACK TO SAVEPOINT cutover_batch; RELEASE SAVEPOINT cutover_batch";

/// Says where the transaction came from: the end and the time of blue's last commit are the parameters
/// from `first` on.
fn origin_call(first: usize) -> String {
    format!("pg_catalog.pg_replication_origin_xact_setup(${first}, ${})", first + 1)
}

impl Frame {
    pub async fn prepare(
        wire: &mut Wire,
        capabilities: &Capabilities,
        own_content: Option<String>,
    ) -> Result<Self, TargetError> {
        const DOING: &str = "preparing the lane on green";
        let begin =
            wire.prepare("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", &[], DOING).await?;
        let own = match own_content {
            Some(content) => {
                let sql = format!("SELECT {}", own::call(1));
                Some((wire.prepare(&sql, &[], DOING).await?, content))
            }
            None => None,
        };
        let defer_constraints = match capabilities.triggers {
            TriggerSuppression::ReplicaRole => None,
            TriggerSuppression::RefuseTables => {
                Some(wire.prepare("SET CONSTRAINTS ALL DEFERRED", &[], DOING).await?)
            }
        };
        let marks_origin = matches!(capabilities.origin, OriginTracking::Active { .. });
        let mark_origin = match marks_origin {
            true => {
                let sql = format!("SELECT {}", origin_call(1));
                Some(wire.prepare(&sql, &[], DOING).await?)
            }
            false => None,
        };
        let advance = wire.prepare(&one_row::demanded(&[], progress::ADVANCE), &[], DOING).await?;
        let mut next = progress::ADVANCE_PARAMETERS + 1;
        let own_call = own.is_some().then(|| own::call(next));
        next += usize::from(own_call.is_some());
        let origin_call = marks_origin.then(|| origin_call(next));
        let calls = own_call.into_iter().chain(origin_call);
        let enter = calls.fold(progress::ADVANCE.to_owned(), |sql, call| format!("{sql}, {call}"));
        let enter = wire.prepare(&one_row::demanded(&[], &enter), &[], DOING).await?;
        let commit = wire.prepare("COMMIT", &[], DOING).await?;
        let save = wire.prepare(SAVE, &[], DOING).await?;
        let release = wire.prepare(RELEASE, &[], DOING).await?;
        let related = wire.prepare(RELATED, &[], DOING).await?;
        Ok(Self {
            begin,
            own,
            defer_constraints,
            advance,
            mark_origin,
            enter,
            commit,
            save,
            related,
            release,
        })
    }

    /// Begins a transaction of which not everything is known yet: our mark is the first that it writes.
    pub async fn begin(&self, pipe: &mut Pipeline<'_>) -> Result<(), Failure> {
        self.begin_unmarked(pipe).await?;
        match &self.own {
            Some((own, content)) => pipe.send(own, &[content], 0, Purpose::Frame(BEGINNING)).await,
            None => Ok(()),
        }
    }

    /// What `enter` takes for the mark.
    pub fn own_parameter(&self) -> Option<Parameter> {
        self.own.as_ref().map(|(_, content)| Box::new(content.clone()) as Parameter)
    }

    /// Begins a transaction that is known to its end, with everything that [`Frame::enter`] says.
    pub async fn begin_whole(
        &self,
        pipe: &mut Pipeline<'_>,
        params: &[Parameter],
    ) -> Result<(), Failure> {
        self.begin_unmarked(pipe).await?;
        pipe.send(&self.enter, params, 0, Purpose::Progress).await
    }

    async fn begin_unmarked(&self, pipe: &mut Pipeline<'_>) -> Result<(), Failure> {
        self.send(pipe, &self.begin, BEGINNING).await?;
        match &self.defer_constraints {
            Some(defer) => self.send(pipe, defer, BEGINNING).await,
            None => Ok(()),
        }
    }

    /// Refuses the batch if one of `tables`, all of which it has written, is a partition of one of
    /// `partitioned`: the same rows came under two names, and their order is lost.
    pub async fn check_apart(
        &self,
        pipe: &mut Pipeline<'_>,
        tables: Vec<u32>,
        partitioned: Vec<u32>,
    ) -> Result<(), Failure> {
        pipe.send(&self.related, &[tables, partitioned], 0, Purpose::Apart).await
    }

    pub async fn send(
        &self,
        pipe: &mut Pipeline<'_>,
        statement: &Statement,
        doing: &'static str,
    ) -> Result<(), Failure> {
        let none: [Param<'_>; 0] = [];
        pipe.send(statement, &none, 0, Purpose::Frame(doing)).await
    }
}
