//! What is written down: sequences, decisions, the journal.

use std::time::Duration;

use tokio::time::Instant;

use super::super::world::{SimLease, State};
use super::{Paper, SimDecision, SimLink, soon};
use crate::api::{Act, Check};
use crate::phase::Verdict;
use crate::ports::{
    Decision, Entry, Epoch, Journal, PortError, PortResult, SequenceReport, Sequences,
};

impl Sequences for SimLink {
    async fn inspect(&self, _: bool) -> PortResult<Vec<Check>> {
        let to = self.direction.to();
        let end_sessions = move |state: &mut State| {
            state.side(to).sequence_sessions += 1;
            Ok(Vec::new())
        };
        self.link.act("inspect_sequences", Some(to), soon(), end_sessions).await
    }
    async fn copy(&self, deadline: Instant) -> PortResult<SequenceReport> {
        let direction = self.direction;
        let sessions = self.link.shared.lock().side(direction.to()).sequence_sessions;
        let copy = move |state: &mut State| {
            if state.side(direction.to()).sequence_sessions != sessions {
                return Err(PortError::new(direction.to().name(), "the session was ended"));
            }
            state.side(direction.to()).sequence = state.side(direction.from()).sequence;
            Ok(SequenceReport { count: 1 })
        };
        self.link.act("sequences", Some(direction.to()), deadline, copy).await
    }
    fn describe(&self) -> Vec<Act> {
        Vec::new()
    }
}

impl Decision for SimDecision {
    async fn prepare(&self) -> PortResult<()> {
        self.0.act("prepare_decision", Some(self.1), soon(), |_| Ok(())).await
    }
    async fn last_epoch(&self) -> PortResult<Epoch> {
        let side = self.1;
        let last = move |state: &mut State| {
            Ok(state.side(side).decisions.keys().next_back().copied().unwrap_or_default())
        };
        self.0.act("last_epoch", Some(side), soon(), last).await
    }
    async fn decide(
        &self,
        epoch: Epoch,
        verdict: Verdict,
        deadline: Instant,
    ) -> PortResult<Verdict> {
        let (side, directory) = (self.1, self.0.process.directory);
        let decide = move |state: &mut State| {
            let is_new = !state.side(side).decisions.contains_key(&epoch);
            let lease = state.side(side).lease.clone();
            let is_leased = |row: SimLease| row.directory == Some(directory) && row.epoch == epoch;
            if is_new && verdict == Verdict::Commit && !lease.is_some_and(is_leased) {
                return Err(PortError::new(side.name(), "another sidecar has taken the lease"));
            }
            if is_new && verdict == Verdict::Commit {
                state.committed(side);
            }
            let decided = *state.side(side).decisions.entry(epoch).or_insert(verdict);
            state.say(format!("epoch {epoch}: {}", decided.name()));
            Ok(decided)
        };
        self.0.act("decide", Some(side), deadline, decide).await
    }
    async fn read(&self, epoch: Epoch, deadline: Instant) -> PortResult<Option<Verdict>> {
        let side = self.1;
        let read = move |state: &mut State| Ok(state.side(side).decisions.get(&epoch).copied());
        self.0.act("read_decision", Some(side), deadline, read).await
    }
    fn describe(&self, _: Epoch) -> Vec<Act> {
        Vec::new()
    }
}

impl Journal for SimLink {
    async fn append(&self, entry: &Entry) -> PortResult<()> {
        // Through text, as a store would.
        let text = serde_json::to_vec(entry).unwrap();
        let entry: Entry = serde_json::from_slice(&text).unwrap();
        self.link.process.go_on().await;
        match &self.paper {
            Paper::Memory(entries) => {
                entries.lock().unwrap().push(entry);
                Ok(())
            }
            Paper::Disk => {
                // The watchdog is told first.
                self.link.process.pipe.lock().unwrap().push(entry.clone());
                self.link.process.beat(&self.link.shared);
                // A dead process writes nothing: unlike a server, its disk does not go on for it.
                let (before, fails) = {
                    let mut state = self.link.shared.lock();
                    let lossy = state.lossy;
                    (state.random.ms(0, 3), state.random.per_mille(lossy))
                };
                self.link.process.sleep(before).await;
                let directory = self.link.process.directory;
                let done = {
                    let mut state = self.link.shared.lock();
                    let last = state.journals[directory].last().map_or(0, |last| last.seq);
                    if entry.seq <= last {
                        Err(PortError::new("journal", format!("entry {} is not new", entry.seq)))
                    } else {
                        state.journals[directory].push(entry);
                        Ok(())
                    }
                };
                self.link.process.sleep(Duration::from_millis(1)).await;
                if fails {
                    return Err(PortError::new("journal", "the disk did not answer").in_doubt());
                }
                done
            }
        }
    }
    async fn read_all(&self) -> PortResult<Vec<Entry>> {
        self.link.process.go_on().await;
        Ok(match &self.paper {
            Paper::Memory(entries) => entries.lock().unwrap().clone(),
            Paper::Disk => self.link.shared.lock().journals[self.link.process.directory].clone(),
        })
    }
}
