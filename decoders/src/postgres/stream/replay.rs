//! A streamed transaction that has committed, on its way back from the spool.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;

use bytes::{Buf, Bytes};

use super::spooling::{BlockError, Running, SpoolingError};
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
    arrived: VecDeque<(Moment, Bytes)>,
    /// The batch that is being read.
    at: Moment,
    rest: Bytes,
    read_frames: u64,
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
            read_frames: 0,
        }
    }

    /// The next message, without those of subtransactions that were rolled back.
    pub(super) fn next(&mut self) -> Result<Replayed, SpoolingError> {
        loop {
            while let Some(frame) = self.frame()? {
                if streamed_xid(&frame)?.is_none_or(|xid| !self.running.aborted.contains(&xid)) {
                    return Ok(Replayed::Frame(frame, self.at));
                }
            }
            match self.arrived.pop_front() {
                Some((at, batch)) => (self.at, self.rest) = (at, batch),
                None if self.asked > 0 || !self.left.is_empty() => return Ok(Replayed::Wait),
                None => return Ok(Replayed::End(self.end()?)),
            }
        }
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
    pub(super) fn arrived(&mut self, number: Moment, batch: Bytes) {
        self.asked = self.asked.saturating_sub(1);
        self.arrived.push_back((number, batch));
    }

    /// What the transaction had in the spool.
    pub(super) fn into_batches(self) -> Vec<Range<Moment>> {
        self.running.batches
    }

    fn frame(&mut self) -> Result<Option<Bytes>, BlockError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let length = match self.rest.remaining() {
            0..4 => None,
            _ => Some(self.rest.get_u32() as usize),
        };
        match length.filter(|length| *length <= self.rest.remaining()) {
            Some(length) => {
                self.read_frames += 1;
                Ok(Some(self.rest.split_to(length)))
            }
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
