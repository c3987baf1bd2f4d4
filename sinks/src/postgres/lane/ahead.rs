//! Small transactions that are sent before those before them are answered.
//!
//! Near the source's head a transaction often comes while the one before is being committed. Sent at once,
//! it is at hand when green is done, and no answer has to travel, wake us, and wake green again first.
//!
//! # Why it ends as if one had waited for the other
//! Each has its own BEGIN, COMMIT and Sync (PostgreSQL manual, 54.2.4 Pipelining), so the answers come in
//! order and the source is told of nothing that was not answered. When an earlier one fails, nothing of a
//! later one stays:
//! - if one of its statements fails, green leaves out everything up to its Sync, and its transaction block is
//!   still there, aborted: BEGIN of the later one is refused in it, and the rest up to the next Sync left out;
//! - if its COMMIT fails, green is outside of a transaction, and the later one begins. But its first statement is
//!   [`ADVANCE`](crate::progress::ADVANCE), which demands the progress that the earlier one would have left.
//!
//! A failure ends the lane. The next one begins where green's progress says, as after any other.

use std::collections::VecDeque;

use decoders::change::{Lsn, Part, Transaction};

use super::{FEWEST_CHANGES, Open, PgLane};
use crate::mark::Share;
use crate::postgres::pipeline::{self, Failure, Pipeline, Purpose};
use crate::postgres::wire::Wire;
use crate::target::{Applied, TargetError};

/// Frames of the source that are sent without an answer to those before: they have to fit into the
/// socket, or sending would wait for green after all.
const MOST_BYTES: usize = 32 << 10;

/// What was sent and is not answered, oldest first.
#[derive(Default)]
pub(super) struct Ahead {
    sent: VecDeque<Sent>,
    /// What has become of the oldest, once that is known.
    decided: Option<Result<(), Failure>>,
}

/// A transaction of green.
struct Sent {
    unanswered: VecDeque<Purpose>,
    applied: Applied,
    /// Where the lane's progress was before.
    before: Option<Lsn>,
}

impl Ahead {
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// The end of what is on green for certain, if that is not the newest that was sent.
    pub fn committed(&self) -> Option<Option<Lsn>> {
        self.sent.front().map(|oldest| oldest.before)
    }
}

impl PgLane {
    /// Whether they are small, whole, and written without asking green anything first.
    pub(super) fn is_ready_for(&self, transactions: &[Transaction]) -> bool {
        let is_small = transactions.iter().map(|each| each.changes.len()).sum::<usize>()
            < FEWEST_CHANGES
            && transactions.iter().map(|each| each.bytes).sum::<usize>() <= MOST_BYTES;
        let mut each = transactions.iter();
        is_small
            && !transactions.is_empty()
            && self.wire.is_some()
            && !self.open.begun
            && !matches!(self.ahead.decided, Some(Err(_)))
            && each.all(|each| {
                each.part == Part::Whole && each.changes.iter().all(|c| self.writer.is_ready(c))
            })
    }

    pub(super) async fn send_ahead(
        &mut self,
        transactions: &[Transaction],
    ) -> Result<(), TargetError> {
        let Some(mut wire) = self.wire.take() else { return Err(super::failed_before()) };
        match self.write_ahead(&mut wire, transactions).await {
            Ok(sent) => {
                self.ahead.sent.push_back(sent);
                self.wire = Some(wire);
                Ok(())
            }
            Err(failure) => Err(self.give_up(wire, failure).await),
        }
    }

    async fn write_ahead(
        &mut self,
        wire: &mut Wire,
        transactions: &[Transaction],
    ) -> Result<Sent, Failure> {
        self.expect(Share::ALL);
        self.take(transactions)?;
        let before = self.mark.end;
        let frame = self.frame.clone();
        let mut pipe = Pipeline::new(wire);
        let mark = self.begin(&mut pipe, Share::ALL).await?;
        let Some(mark) = mark else {
            return Err(TargetError::retry("a transaction that did not end was sent ahead").into());
        };
        for transaction in transactions {
            for change in &transaction.changes {
                self.writer.change(&mut pipe, change, transaction.commit_lsn).await?;
            }
        }
        frame.send(&mut pipe, &frame.commit, "committing on green").await?;
        let unanswered = pipe.leave().await?;
        let applied = Applied {
            end_lsn: self.written,
            transactions: self.open.commits.len() as u64,
            changes: transactions.iter().map(|each| each.changes.len() as u64).sum(),
        };
        // What the next one builds on.
        self.mark = mark;
        self.open = Open::default();
        self.ways.row_by_row += 1;
        Ok(Sent { unanswered, applied, before })
    }

    /// Waits until it is known what became of the oldest. Cancel-safe.
    pub(super) async fn decide(&mut self) {
        let Some(oldest) = self.ahead.sent.front_mut() else {
            return std::future::pending().await;
        };
        if self.ahead.decided.is_some() {
            return;
        }
        let Some(wire) = &mut self.wire else {
            self.ahead.decided = Some(Err(super::failed_before().into()));
            return;
        };
        while !oldest.unanswered.is_empty() {
            if let Err(failure) = pipeline::oldest(wire, &mut oldest.unanswered).await {
                self.ahead.decided = Some(Err(failure));
                return;
            }
        }
        self.ahead.decided = Some(Ok(()));
    }

    /// What became of the oldest.
    pub(super) async fn take_decided(&mut self) -> Result<Applied, TargetError> {
        if self.ahead.is_empty() {
            return Err(TargetError::retry("an answer was waited for that nothing was sent for"));
        }
        self.decide().await;
        match (self.ahead.decided.take(), self.ahead.sent.pop_front()) {
            (Some(Ok(())), Some(oldest)) => Ok(oldest.applied),
            (Some(Err(failure)), _) => {
                // Of what was sent behind it nothing is on green, and the mark says that it is.
                self.ahead.sent.clear();
                let Some(wire) = self.wire.take() else { return Err(failure.error) };
                let error = self.give_up(wire, failure).await;
                self.wire = None;
                Err(error)
            }
            _ => Err(super::failed_before()),
        }
    }
}
