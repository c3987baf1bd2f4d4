//! A streamed transaction that has committed, on its way back from the spool.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;

use bytes::{Buf, Bytes};

use super::spooling::{BlockError, Running, SpoolingError};
use super::verdict::{Aborted, Evidence};
use crate::assemble::Moment;
use crate::postgres::pgoutput::{Commit, StreamCommit, streamed_xid};

/// Batches that are asked for before they are needed.
const BATCHES_AHEAD: usize = 2;

/// The transaction, and how far it was read.
#[derive(Debug)]
pub(super) struct Replay {
    commit: StreamCommit,
    running: Running,
    /// Batches that were not asked for yet, the next one last.
    left: Vec<Range<Moment>>,
    /// Asked for and not here yet.
    asked: usize,
    arrived: VecDeque<Judged>,
    /// The batch that is being read.
    at: Moment,
    rest: Bytes,
    aborted: Aborted,
    read_frames: u64,
}

/// A batch, and which of the subtransactions in it were rolled back.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) number: Moment,
    pub(super) batch: Bytes,
    pub(super) aborted: Aborted,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Replayed {
    /// A message of a block, and when it was received.
    Frame(Bytes, Moment),
    /// The spool has not given the next batch yet.
    Wait,
    /// That was all of it.
    End(Commit),
}

impl Replay {
    pub(super) fn new(commit: StreamCommit, running: Running) -> Self {
        let left = running.batches.iter().rev().cloned().collect();
        Self {
            commit,
            running,
            left,
            asked: 0,
            arrived: VecDeque::new(),
            at: 0,
            rest: Bytes::new(),
            aborted: Aborted::new(),
            read_frames: 0,
        }
    }

    /// The next message, without those of subtransactions that were rolled back.
    pub(super) fn next(&mut self) -> Result<Replayed, SpoolingError> {
        loop {
            while let Some(frame) = self.frame()? {
                if self.counts(&frame)? {
                    return Ok(Replayed::Frame(frame, self.at));
                }
            }
            match self.arrived.pop_front() {
                Some(Judged { number, batch, aborted }) => {
                    (self.at, self.rest, self.aborted) = (number, batch, aborted);
                }
                None if self.asked > 0 || !self.left.is_empty() => return Ok(Replayed::Wait),
                None => return Ok(Replayed::End(self.end()?)),
            }
        }
    }

    /// Whether a message is not undone by a rollback.
    fn counts(&self, frame: &Bytes) -> Result<bool, SpoolingError> {
        let xid = streamed_xid(frame)?;
        Ok(match xid.and_then(|xid| self.aborted.get(&xid)) {
            None => true,
            Some(Evidence::Told) => false,
            // The server thinks that we know the table from here on.
            Some(Evidence::Logged) => frame.first() == Some(&b'R'),
        })
    }

    /// Whether there is nothing to read before another batch arrives.
    pub(super) fn is_dry(&self) -> bool {
        self.rest.is_empty() && self.arrived.is_empty() && self.asked > 0
    }

    /// Numbers of batches that are now to be read from the spool, in order.
    pub(super) fn wanted(&mut self) -> impl Iterator<Item = Moment> {
        iter::from_fn(|| {
            if self.asked + self.arrived.len() >= BATCHES_AHEAD {
                return None;
            }
            let run = self.left.last_mut()?;
            let number = run.next();
            if run.is_empty() {
                self.left.pop();
            }
            self.asked += usize::from(number.is_some());
            number
        })
    }

    /// A batch that was asked for; they come in the order in which they were.
    pub(super) fn arrived(&mut self, batch: Judged) {
        self.asked = self.asked.saturating_sub(1);
        self.arrived.push_back(batch);
    }

    /// What the transaction had in the spool.
    pub(super) fn into_batches(self) -> Vec<Range<Moment>> {
        self.running.batches
    }

    fn frame(&mut self) -> Result<Option<Bytes>, BlockError> {
        match next_frame(&mut self.rest) {
            Some(frame) => {
                self.read_frames += 1;
                Ok(Some(frame))
            }
            None if self.rest.is_empty() => Ok(None),
            None => Err(self.incomplete()),
        }
    }

    fn end(&self) -> Result<Commit, BlockError> {
        if self.read_frames != self.running.frames {
            return Err(self.incomplete());
        }
        let StreamCommit { commit_lsn, end_lsn, committed_at_us, .. } = self.commit;
        Ok(Commit { commit_lsn, end_lsn, committed_at_us })
    }

    fn incomplete(&self) -> BlockError {
        let (expected, found) = (self.running.frames, self.read_frames);
        BlockError::Incomplete { xid: self.commit.xid, expected, found }
    }
}

/// Takes the next message out of a batch; `None` at its end, and where it is cut off.
pub(super) fn next_frame(batch: &mut Bytes) -> Option<Bytes> {
    let length = u32::from_be_bytes(*batch.first_chunk()?) as usize;
    if length > batch.len() - 4 {
        return None;
    }
    batch.advance(4);
    Some(batch.split_to(length))
}
