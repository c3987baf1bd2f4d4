//! What is written down: sequences, decisions, the journal.

use std::time::Duration;

use decoders::Lsn;
use tokio::time::Instant;

use super::super::world::{SimLease, State};
use super::{Paper, SimDecision, SimLink, soon};
use crate::api::{Act, Check};
use crate::phase::Verdict;
use crate::ports::{
    Decision, Entry, Epoch, Journal, PortError, PortResult, SequenceReport, Sequences,
};
use crate::side::Direction;

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
    fn is_beside_rows(&self) -> bool {
        true
    }
    fn describe(&self) -> Vec<Act> {
        Vec::new()
    }
}

impl SimDecision {
    async fn decide(
        &self,
        name: &'static str,
        epoch: Epoch,
        verdict: Verdict,
        deadline: Instant,
        refusal: impl FnOnce(&mut State) -> Option<PortError> + Send + 'static,
    ) -> PortResult<Verdict> {
        let side = self.side;
        let decide = move |state: &mut State| {
            if !state.side(side).decisions.contains_key(&epoch) {
                if let Some(refused) = refusal(state) {
                    return Err(refused);
                }
                if verdict == Verdict::Commit {
                    state.committed(side);
                }
            }
            let decided = *state.side(side).decisions.entry(epoch).or_insert(verdict);
            state.say(format!("epoch {epoch}: {}", decided.name()));
            Ok(decided)
        };
        self.link.act(name, Some(side), deadline, decide).await
    }
}

impl Decision for SimDecision {
    async fn prepare(&self) -> PortResult<()> {
        let side = self.side;
        let server = move |state: &mut State| Ok(state.side(side).failovers);
        let server = self.link.act("prepare_decision", Some(side), soon(), server).await?;
        *self.prepared.lock().unwrap() = Some(server);
        Ok(())
    }
    async fn last_epoch(&self) -> PortResult<Epoch> {
        let side = self.side;
        let last = move |state: &mut State| {
            Ok(state.side(side).decisions.keys().next_back().copied().unwrap_or_default())
        };
        self.link.act("last_epoch", Some(side), soon(), last).await
    }
    async fn commit(&self, epoch: Epoch, marker: Lsn, deadline: Instant) -> PortResult<Verdict> {
        let (side, directory) = (self.side, self.link.process.directory);
        let refused = move |why: &str| PortError::new(side.name(), why);
        let asked = self.link.shared.lock().side(side).failovers;
        if *self.prepared.lock().unwrap() != Some(asked) {
            return Err(refused("the session was lost"));
        }
        let refusal = move |state: &mut State| {
            if state.side(side).failovers != asked {
                return Some(refused("the session ends before its answer").in_doubt());
            }
            let into = Direction::leaving(side.other());
            if (state.stream(into).applied as u64) < marker.0 {
                // Only a failover takes it away, and then the session was lost: an old primary that goes
                // on answering is not simulated.
                state.violated(format!("{side} lacks the marker and has kept its sessions"));
            }
            let lease = state.side(side).lease.clone();
            let is_leased = |row: SimLease| row.directory == Some(directory) && row.epoch == epoch;
            let is_leased = lease.is_some_and(is_leased);
            (!is_leased).then(|| refused("another sidecar has taken the lease"))
        };
        self.decide("commit", epoch, Verdict::Commit, deadline, refusal).await
    }
    async fn abort(&self, epoch: Epoch, deadline: Instant) -> PortResult<Verdict> {
        self.decide("abort", epoch, Verdict::Abort, deadline, |_| None).await
    }
    async fn read(&self, epoch: Epoch, deadline: Instant) -> PortResult<Option<Verdict>> {
        let side = self.side;
        let read = move |state: &mut State| Ok(state.side(side).decisions.get(&epoch).copied());
        self.link.act("read_decision", Some(side), deadline, read).await
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
