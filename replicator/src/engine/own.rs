//! Our own writes in the log of a source: what the stream the other way round has applied there.
//!
//! They are left out, or every change would come back for ever. What is left out becomes an *idle
//! position*, never an empty transaction: that would still move a progress row on the other side,
//! which would come back as the next transaction to leave out, and so on without end.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use decoders::postgres::session::Session;
use decoders::{SourceError, SourceEvent, Transaction};
use sinks::mysql::own as binlog;
use sinks::own;
use sinks::own::keys::{self, Known};
use sinks::{LaneId, TargetError, progress};

use self::judge::{Whose, claim_of, judge, judge_claim};

/// Most lanes that a pipeline can ever have had.
pub const LANES_MAX: u16 = 64;

/// How long the source may take to say by what our own transactions are known.
const LEARN_TIMEOUT: Duration = Duration::from_secs(10);

/// The pipeline whose lanes write on the source of a stream, and by what they are known there.
#[derive(Clone, Debug)]
pub struct Counterpart {
    pipeline: String,
    witness: Witness,
}

/// What is believed.
#[derive(Clone, Debug)]
enum Witness {
    /// Whoever says it: for measurements and tests.
    Anybody,
    /// `_cutover.own_mark` of a MySQL or MariaDB source, as it was read last, and where to read it again.
    Claims(Box<binlog::Known>, Box<ServerUrl>),
    /// `_cutover.own_mark` of the source, as it was read last; the session is for reading it again.
    Keys(Box<Known>, Option<Arc<Session>>),
}

impl Counterpart {
    /// Every mark is believed: for measurements and tests.
    pub fn believing(pipeline: impl Into<String>) -> Self {
        Self { pipeline: pipeline.into(), witness: Witness::Anybody }
    }

    /// Of a MySQL or MariaDB source.
    ///
    /// # Errors
    /// The server's.
    pub async fn of_binlog(
        pipeline: impl Into<String>,
        source: &ServerUrl,
    ) -> Result<Self, TargetError> {
        let pipeline = pipeline.into();
        let known = Box::new(binlog::learn(source, &pipeline).await?);
        Ok(Self { pipeline, witness: Witness::Claims(known, Box::new(source.clone())) })
    }

    /// Up to where a binlog has marks of ours without a proof.
    pub fn unproven_until(&self) -> Option<BinlogPosition> {
        match &self.witness {
            Witness::Claims(known, _) => known.unproven_until.clone(),
            Witness::Anybody | Witness::Keys(..) => None,
        }
    }

    /// Of a PostgreSQL source, as `session` tells now and whenever it is asked again.
    ///
    /// # Errors
    /// The server's; halts if `_cutover` is not ours alone there.
    pub async fn learned(
        pipeline: impl Into<String>,
        session: Session,
    ) -> Result<Self, TargetError> {
        let pipeline = pipeline.into();
        let known = Box::new(keys::learn(&session, &pipeline).await?);
        Ok(Self { pipeline, witness: Witness::Keys(known, Some(Arc::new(session))) })
    }
}

/// Knows the transactions of one pipeline's lanes where they are written.
#[derive(Debug)]
pub struct OwnApply {
    counterpart: Counterpart,
    origins: BTreeSet<String>,
    /// The answer for the large transaction that is under way: only its first part shows it.
    inside: bool,
    /// The number of each lane's last transaction, where marks have numbers.
    last: BTreeMap<u16, u64>,
}

impl OwnApply {
    /// Of the pipeline that applies to the source of the stream.
    pub fn of(counterpart: Counterpart) -> Self {
        let origins = origins(&counterpart.pipeline);
        Self { counterpart, origins, inside: false, last: BTreeMap::new() }
    }

    /// Asks the source again if an event can't be judged by what is known: it may be from a lane that
    /// was opened since. Before [`OwnApply::is_ours`] of it.
    ///
    /// # Errors
    /// The source's.
    pub async fn look_again(&mut self, event: &SourceEvent) -> Result<(), SourceError> {
        let SourceEvent::Transaction(transaction) = event else { return Ok(()) };
        if !transaction.part.starts() || !self.is_claimed(transaction) {
            return Ok(());
        }
        let pipeline = &self.counterpart.pipeline;
        let learning = async {
            match &mut self.counterpart.witness {
                Witness::Anybody => Ok(()),
                Witness::Claims(known, source) => {
                    if judge_claim(transaction, pipeline, &self.last, known) == Whose::Ours {
                        return Ok(());
                    }
                    let learned = binlog::learn(source, pipeline).await?;
                    if known.secret != learned.secret {
                        self.last.clear();
                    }
                    **known = learned;
                    Ok(())
                }
                Witness::Keys(known, session) => {
                    let is_new = transaction.commit_lsn > known.as_of;
                    let whose = judge(transaction, pipeline, &self.origins, known);
                    if let (true, Some(session)) = (is_new && whose != Whose::Ours, session) {
                        **known = keys::learn(session, pipeline).await?;
                    }
                    Ok(())
                }
            }
        };
        let learned: Result<Result<(), TargetError>, _> =
            tokio::time::timeout(LEARN_TIMEOUT, learning).await;
        match learned {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match error.remedy {
                Some(remedy) => SourceError::halt(error.message, remedy),
                None => SourceError::retry(error.message),
            }),
            Err(_) => {
                let what = "the source does not say by what our own transactions are known";
                Err(SourceError::retry(what))
            }
        }
    }

    /// Whether the transaction, or this part of one, is ours. Every part has to be shown, in order.
    ///
    /// # Errors
    /// Halts at a transaction that only somebody with more rights than a client's can have written, and that
    /// none of our lanes has.
    pub fn is_ours(&mut self, transaction: &Transaction) -> Result<bool, SourceError> {
        if transaction.part.starts() {
            self.inside = self.is_claimed(transaction) && self.is_believed(transaction)?;
        }
        Ok(self.inside)
    }

    /// Whether somebody says that it is ours: of all others no more has to be known.
    fn is_claimed(&self, transaction: &Transaction) -> bool {
        transaction.origin.as_ref().is_some_and(|origin| self.origins.contains(&**origin))
            || transaction
                .changes
                .first()
                .is_some_and(|first| own::is_mark_of(first, &self.counterpart.pipeline))
    }

    fn is_believed(&mut self, transaction: &Transaction) -> Result<bool, SourceError> {
        let pipeline = &self.counterpart.pipeline;
        let whose = match &self.counterpart.witness {
            Witness::Anybody => Whose::Ours,
            Witness::Keys(known, _) => judge(transaction, pipeline, &self.origins, known),
            Witness::Claims(known, _) => judge_claim(transaction, pipeline, &self.last, known),
        };
        match whose {
            Whose::Ours => {
                if let Some(claim) = claim_of(transaction) {
                    self.last.insert(claim.lane, claim.number);
                }
                Ok(true)
            }
            Whose::Others { forged } => {
                if forged {
                    tracing::warn!(
                        pipeline,
                        commit = %transaction.commit_lsn,
                        xid = transaction.xid,
                        "somebody has marked a transaction as ours that is not; it is applied like any other"
                    );
                }
                Ok(false)
            }
            Whose::OriginWithoutLane => Err(SourceError::halt(
                format!(
                    "the transaction that commits at {} has a replication origin of pipeline {pipeline:?}, \
                     which has never written on this side. It is not applied, and nothing behind it",
                    transaction.commit_lsn
                ),
                "Find out who uses that origin (pg_replication_origin on the source): a role that may \
                     is a superuser, or was granted its functions. If its rows are to be moved, \
                     copy again: replicator teardown, then run with an empty green",
            )),
            Whose::MarkWithoutLane => Err(SourceError::halt(
                format!(
                    "transaction {} begins with a mark of pipeline {pipeline:?}, which has never written on \
                     this side. It is not applied, and nothing behind it",
                    transaction.commit_lsn.0
                ),
                "Find out which account besides ours may write to _cutover on the source (replicator check \
                 names them), and take the right away. If its rows are to be moved, copy again: replicator \
                 teardown, then run with an empty green",
            )),
            Whose::SecretWithoutOrigin => Err(SourceError::halt(
                format!(
                    "the transaction that commits at {} holds the secret of pipeline {pipeline:?}, without \
                     the replication origin that all of its transactions have. It is not applied, and nothing \
                     behind it",
                    transaction.commit_lsn
                ),
                "Somebody has read the source's log or our table _cutover.own_mark and writes in our name: find \
                     out which roles may use replication slots there. If its rows are to be moved, \
                     copy again: replicator teardown, then run with an empty green",
            )),
        }
    }
}

/// Names of the replication origins that a pipeline's lanes and repairs may have on their target.
pub fn origins(pipeline: &str) -> BTreeSet<String> {
    let lanes = (0..=LANES_MAX).map(LaneId).chain([progress::REPAIR]);
    lanes.map(|lane| progress::origin_name(pipeline, lane)).collect()
}

#[cfg(test)]
mod tests;
