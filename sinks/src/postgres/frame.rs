//! The statements around every transaction's rows.

use tokio_postgres::{Client, Statement};

use super::pipeline::{Failure, Param, Pipeline, Purpose};
use super::session::{Capabilities, OriginTracking, TriggerSuppression};
use crate::plan::one_row;
use crate::{own, progress};

/// Statements that frame every transaction.
pub(super) struct Frame {
    pub begin: Statement,
    /// Says that the transaction is ours; see [`own`].
    pub own: Option<Statement>,
    pub defer_constraints: Option<Statement>,
    pub advance: Statement,
    pub mark_origin: Option<Statement>,
    pub commit: Statement,
    pub save: Statement,
    /// Gives a row for each partitioned table of $2 that has a partition in $1, at any depth.
    pub related: Statement,
    pub release: Statement,
}

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

impl Frame {
    pub async fn prepare(
        client: &Client,
        capabilities: &Capabilities,
        pipeline: &str,
        may_mark: bool,
    ) -> Result<Self, tokio_postgres::Error> {
        let begin = client.prepare("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        let own = match may_mark {
            true => Some(client.prepare(&own::statement(pipeline)).await?),
            false => None,
        };
        let defer_constraints = match capabilities.triggers {
            TriggerSuppression::ReplicaRole => None,
            TriggerSuppression::RefuseTables => {
                Some(client.prepare("SET CONSTRAINTS ALL DEFERRED").await?)
            }
        };
        let mark_origin = match capabilities.origin {
            OriginTracking::Active { .. } => {
                let sql = "SELECT pg_catalog.pg_replication_origin_xact_setup($1, $2)";
                Some(client.prepare(sql).await?)
            }
            OriginTracking::Unavailable { .. } => None,
        };
        let advance = client.prepare(&one_row::demanded(&[], progress::ADVANCE)).await?;
        let commit = client.prepare("COMMIT").await?;
        let save = client.prepare(SAVE).await?;
        let release = client.prepare(RELEASE).await?;
        let related = client.prepare(RELATED).await?;
        Ok(Self {
            begin,
            own,
            defer_constraints,
            advance,
            mark_origin,
            commit,
            save,
            related,
            release,
        })
    }

    pub async fn begin(&self, pipe: &mut Pipeline<'_>) -> Result<(), Failure> {
        const DOING: &str = "beginning a transaction on green";
        self.send(pipe, &self.begin, DOING).await?;
        if let Some(own) = &self.own {
            self.send(pipe, own, DOING).await?;
        }
        match &self.defer_constraints {
            Some(defer) => self.send(pipe, defer, DOING).await,
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
        pipe.send(self.related.clone(), vec![tables, partitioned], 0, Purpose::Apart).await
    }

    pub async fn send(
        &self,
        pipe: &mut Pipeline<'_>,
        statement: &Statement,
        doing: &'static str,
    ) -> Result<(), Failure> {
        let none: Vec<Param<'_>> = Vec::new();
        pipe.send(statement.clone(), none, 0, Purpose::Frame(doing)).await
    }
}
