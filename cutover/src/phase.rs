//! The protocol: one pure function from a state and what has just happened to the next state and
//! what to do about it.
//!
//! ```text
//! REPLICATING -> ARMED -> GATE -> QUIESCED -> FENCED -> DRAINED -> SYNCED -> SEALED
//!      ^                                                                       |
//!      |  any failure, deadline or abort                      [point of no return: one row
//!   ABORTED <- ABORTING <----------------------------------     on green, compare-and-set]
//!                  |                                                           |
//!                HELD  <------ nobody can go on by himself ----------- COMMITTED -> FLIPPED
//!                                                  -> OPEN -> REVERSING -> WATCHING -> DONE
//! ```
//!
//! A rollback is the same protocol with the sides swapped. The texts below say blue for the side
//! that is closed and green for the one that opens.
//!
//! A state says what is *proven*; the effect that is under way is the one that [`step`] gave when
//! the state was entered. An input that does not belong to the state changes nothing.
//!
//! Why it is right:
//! - `Flip` carries a [`Committed`], which is only made from a commit verdict over a [`Sealed`],
//!   which is only made from a [`Drained`], which is only made from a marker that was written
//!   under a [`Fenced`] and is durable on green. Nothing else compiles.
//! - Up to and including `SYNCED` a stop leads to `ABORTING` at once. In `SEALED` a commit may be
//!   on its way to green, so a stop claims the verdict `abort` there: whoever inserts first wins,
//!   for both. From `COMMITTED` on a stop only drives the same effect again.

use serde::{Deserialize, Serialize};

use crate::evidence::{Committed, Drained, Fenced, Sealed, WayBack};

/// How far a run has come, as it is journaled and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing has been touched.
    Replicating,
    /// The world is ready for the window.
    Armed,
    /// The gate has passed.
    Gate,
    /// Every router member holds its clients: the pause has begun.
    Quiesced,
    /// No client can write to blue.
    Fenced,
    /// Everything blue acknowledged is durable on green.
    Drained,
    /// Green's sequences stand where blue's stand.
    Synced,
    /// Blue is closed in a way that survives its restart.
    Sealed,
    /// The point of no return is passed.
    Committed,
    /// Every router member points at green.
    Flipped,
    /// Clients write to green: the pause is over.
    Open,
    /// The streams have changed their roles: what green writes goes to blue.
    Reversing,
    /// A write of green was seen durable on blue: a rollback would lose nothing.
    Watching,
    /// Nothing is left to do.
    Done,
    /// Putting everything back.
    Aborting,
    /// Everything is as it was before the run.
    Aborted,
    /// A person has to decide.
    Held,
}

impl Phase {
    /// The name as it is journaled.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Replicating => "replicating",
            Phase::Armed => "armed",
            Phase::Gate => "gate",
            Phase::Quiesced => "quiesced",
            Phase::Fenced => "fenced",
            Phase::Drained => "drained",
            Phase::Synced => "synced",
            Phase::Sealed => "sealed",
            Phase::Committed => "committed",
            Phase::Flipped => "flipped",
            Phase::Open => "open",
            Phase::Reversing => "reversing",
            Phase::Watching => "watching",
            Phase::Done => "done",
            Phase::Aborting => "aborting",
            Phase::Aborted => "aborted",
            Phase::Held => "held",
        }
    }

    /// Whether the run is over.
    pub fn is_final(self) -> bool {
        matches!(self, Phase::Done | Phase::Aborted | Phase::Held)
    }

    /// Whether the point of no return is behind a run that has come this far.
    pub fn is_committed(self) -> bool {
        matches!(
            self,
            Phase::Committed
                | Phase::Flipped
                | Phase::Open
                | Phase::Reversing
                | Phase::Watching
                | Phase::Done
        )
    }
}

/// Why a run stops going forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// What kind of reason.
    pub kind: StopKind,
    /// What happened, one sentence.
    pub what: String,
    /// Where it happened.
    #[serde(rename = "where")]
    pub place: String,
    /// What a person can do about it.
    pub remedy: Option<String>,
}

/// Kinds of reasons to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopKind {
    /// A precheck failed.
    Precheck,
    /// The gate did not pass in time.
    GateTimeout,
    /// The pause would have become too long.
    Deadline,
    /// Somebody asked for it.
    Asked,
    /// An act failed, or a proof did.
    Failed,
    /// The process that ran it died.
    Crash,
    /// It was a drill, which goes no further.
    Drilled,
    /// Somebody else acts for this pipeline, or has acted since.
    Superseded,
}

/// How the time of watching after the flip ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEnd {
    /// It was over, or nothing was to be watched.
    Over,
    /// Somebody ended it before its time: the reason.
    Cut(String),
    /// Something was found that should not be: what.
    Breached(String),
}

/// What green's decision row says about an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Green serves.
    Commit,
    /// Blue serves.
    Abort,
}

impl Verdict {
    /// The value as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Commit => "commit",
            Verdict::Abort => "abort",
        }
    }
}

/// What is proven, with the proofs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing has been touched.
    Replicating,
    /// Ready for the window; waiting for the gate.
    Armed,
    /// The gate has passed; holding the routers.
    Gate,
    /// The routers hold; fencing blue.
    Quiesced,
    /// Blue is fenced; draining.
    Fenced(Fenced),
    /// Drained; setting sequences.
    Drained(Drained),
    /// Sequences are set and the way back reads; sealing blue.
    Synced(Drained, WayBack),
    /// Sealed; deciding.
    Sealed(Sealed),
    /// Decided; pointing the routers at green.
    Committed(Committed),
    /// The routers point at green; letting clients go on.
    Flipped(Committed),
    /// Clients write to green; turning the streams.
    Open(Committed),
    /// The streams are turned; waiting for the way back to carry.
    Reversing(Committed),
    /// The way back carries; watching.
    Watching(Committed),
    /// Over.
    Done,
    /// Putting everything back.
    Aborting {
        /// How far the run had come.
        reached: Phase,
        /// Why.
        why: Stop,
    },
    /// Put back.
    Aborted {
        /// Why.
        why: Stop,
    },
    /// A person has to decide.
    Held {
        /// How far the run had come.
        reached: Phase,
        /// What is in the way.
        why: Stop,
    },
}

impl State {
    /// The state without its proofs.
    pub fn phase(&self) -> Phase {
        match self {
            State::Replicating => Phase::Replicating,
            State::Armed => Phase::Armed,
            State::Gate => Phase::Gate,
            State::Quiesced => Phase::Quiesced,
            State::Fenced(_) => Phase::Fenced,
            State::Drained(_) => Phase::Drained,
            State::Synced(..) => Phase::Synced,
            State::Sealed(_) => Phase::Sealed,
            State::Committed(_) => Phase::Committed,
            State::Flipped(_) => Phase::Flipped,
            State::Open(_) => Phase::Open,
            State::Reversing(_) => Phase::Reversing,
            State::Watching(_) => Phase::Watching,
            State::Done => Phase::Done,
            State::Aborting { .. } => Phase::Aborting,
            State::Aborted { .. } => Phase::Aborted,
            State::Held { .. } => Phase::Held,
        }
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Somebody started the run.
    Start,
    /// The world is ready.
    Armed,
    /// The gate has passed.
    GatePassed,
    /// Every member holds.
    TrafficHeld,
    /// No client can write to blue.
    Fenced(Fenced),
    /// The marker is durable on green.
    Drained(Drained),
    /// Green's sequences are set, and the way back reads unless it was waived.
    SequencesSet(WayBack),
    /// Blue is closed.
    Sealed(Sealed),
    /// Green's row says commit.
    DecidedCommit(Committed),
    /// Green's row says abort.
    DecidedAbort(Stop),
    /// No commit was ever sent to green: the reason.
    NotDecided(Stop),
    /// Every member points at green.
    Flipped,
    /// Every member lets its clients go on, and was seen to reach green.
    Released,
    /// The way back carries now, and what comes from blue is held. Durable.
    StreamsTurned,
    /// There is no way back: the stream from blue has ended for ever, and nothing is left to do.
    StreamEnded,
    /// A write of green was seen durable on blue.
    WayBackProven,
    /// The time of watching is over.
    WatchEnded(WatchEnd),
    /// The effect under way failed, a deadline has passed, or somebody asked to stop.
    Stop(Stop),
    /// Everything is as it was.
    PutBack,
    /// The effect under way has been tried for as long as it is sensible.
    GiveUp(Stop),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ready everything that can be readied before the window.
    Arm,
    /// Wait until the gate has held for long enough.
    AwaitGate,
    /// Hold the clients at every router member. The pause begins.
    HoldTraffic,
    /// Make blue refuse writes, and prove it.
    RaiseFence,
    /// Write the marker and wait until it is durable on green.
    Drain(Fenced),
    /// Set green's sequences; show that the way back reads.
    SyncSequences(Drained),
    /// Close blue durably, and prove that nothing was written since the marker.
    Seal(Drained, WayBack),
    /// Insert the verdict `commit` on green.
    Decide(Sealed),
    /// Insert the verdict `abort` on green, unless `commit` is already there.
    ClaimAbort(Sealed, Stop),
    /// Point every router member at green.
    Flip(Committed),
    /// Let the clients go on. The pause ends.
    Release(Committed),
    /// Let the way back carry and the stream from blue stand by, or end it if there is none.
    TurnStreams(Committed),
    /// Wait until a write of green is durable on blue.
    ConfirmWayBack(Committed),
    /// Watch how green does.
    Watch(Committed),
    /// Undo everything that may have been done by a run that came this far.
    PutBack {
        /// How far the run had come; the next phase's act may have begun.
        reached: Phase,
    },
}

/// The next state and what to do in it.
pub fn step(state: State, input: Input) -> (State, Option<Effect>) {
    use State as S;
    match (state, input) {
        (S::Replicating, Input::Start) => (S::Replicating, Some(Effect::Arm)),
        (S::Replicating, Input::Armed) => (S::Armed, Some(Effect::AwaitGate)),
        (S::Armed, Input::GatePassed) => (S::Gate, Some(Effect::HoldTraffic)),
        (S::Gate, Input::TrafficHeld) => (S::Quiesced, Some(Effect::RaiseFence)),
        (S::Quiesced, Input::Fenced(fenced)) => {
            (S::Fenced(fenced.clone()), Some(Effect::Drain(fenced)))
        }
        (S::Fenced(fenced), Input::Drained(drained)) if drained.is_of(&fenced) => {
            (S::Drained(drained.clone()), Some(Effect::SyncSequences(drained)))
        }
        (S::Drained(drained), Input::SequencesSet(way_back)) if way_back.is_of(&drained) => {
            (S::Synced(drained.clone(), way_back.clone()), Some(Effect::Seal(drained, way_back)))
        }
        (S::Synced(drained, way_back), Input::Sealed(sealed))
            if sealed.is_of(&drained) && *sealed.way_back() == way_back =>
        {
            (S::Sealed(sealed.clone()), Some(Effect::Decide(sealed)))
        }
        (S::Sealed(sealed), Input::DecidedCommit(committed)) if committed.is_of(&sealed) => {
            (S::Committed(committed.clone()), Some(Effect::Flip(committed)))
        }
        (S::Committed(committed), Input::Flipped) => {
            (S::Flipped(committed.clone()), Some(Effect::Release(committed)))
        }
        (S::Flipped(committed), Input::Released) => {
            (S::Open(committed.clone()), Some(Effect::TurnStreams(committed)))
        }
        (S::Open(committed), Input::StreamsTurned) => {
            (S::Reversing(committed.clone()), Some(Effect::ConfirmWayBack(committed)))
        }
        (S::Open(_), Input::StreamEnded) => (S::Done, None),
        (S::Reversing(committed), Input::WayBackProven) => {
            (S::Watching(committed.clone()), Some(Effect::Watch(committed)))
        }
        (S::Watching(_), Input::WatchEnded(_)) => (S::Done, None),

        // A commit may be on its way: only the row on green can tell.
        (S::Sealed(sealed), Input::Stop(why)) => {
            (S::Sealed(sealed.clone()), Some(Effect::ClaimAbort(sealed, why)))
        }
        (S::Sealed(_), Input::DecidedAbort(why) | Input::NotDecided(why)) => {
            put_back(Phase::Sealed, why)
        }
        (S::Sealed(_), Input::GiveUp(why)) => (S::Held { reached: Phase::Sealed, why }, None),

        // Forward only.
        (S::Committed(committed), Input::Stop(_)) => {
            (S::Committed(committed.clone()), Some(Effect::Flip(committed)))
        }
        (S::Flipped(committed), Input::Stop(_)) => {
            (S::Flipped(committed.clone()), Some(Effect::Release(committed)))
        }
        (S::Open(committed), Input::Stop(_)) => {
            (S::Open(committed.clone()), Some(Effect::TurnStreams(committed)))
        }
        (S::Reversing(committed), Input::Stop(_)) => {
            (S::Reversing(committed.clone()), Some(Effect::ConfirmWayBack(committed)))
        }
        (S::Watching(committed), Input::Stop(_)) => {
            (S::Watching(committed.clone()), Some(Effect::Watch(committed)))
        }
        // Clients are served by green: a missing way back is an alert, nothing to hold anybody for.
        (S::Reversing(_) | S::Watching(_), Input::GiveUp(_)) => (S::Done, None),
        (state @ (S::Committed(_) | S::Flipped(_) | S::Open(_)), Input::GiveUp(why)) => {
            (S::Held { reached: state.phase(), why }, None)
        }

        // Before the decision every stop goes back.
        (
            state @ (S::Replicating
            | S::Armed
            | S::Gate
            | S::Quiesced
            | S::Fenced(_)
            | S::Drained(_)
            | S::Synced(..)),
            Input::Stop(why) | Input::GiveUp(why),
        ) => put_back(state.phase(), why),
        (S::Aborting { why, .. }, Input::PutBack) => (S::Aborted { why }, None),
        (S::Aborting { reached, why }, Input::Stop(_)) => {
            (S::Aborting { reached, why }, Some(Effect::PutBack { reached }))
        }
        (S::Aborting { reached, .. }, Input::GiveUp(why)) => (S::Held { reached, why }, None),

        (state, _) => (state, None),
    }
}

fn put_back(reached: Phase, why: Stop) -> (State, Option<Effect>) {
    (State::Aborting { reached, why }, Some(Effect::PutBack { reached }))
}

/// What the journal and green say about a run whose process died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No commit can ever have been sent to green, or its row says abort.
    NotCommitted {
        /// How far the run had come.
        reached: Phase,
    },
    /// Green's row says commit.
    Committed {
        /// How far the run had come.
        reached: Phase,
        /// The proof.
        committed: Committed,
    },
    /// A commit may have been sent, and green can't be read.
    Unknown {
        /// How far the run had come.
        reached: Phase,
        /// What is in the way.
        why: Stop,
    },
}

/// Where to go on after a crash, and with what.
pub fn resume(found: Found) -> (State, Option<Effect>) {
    match found {
        Found::NotCommitted { reached } => {
            let why = Stop {
                kind: StopKind::Crash,
                what: format!("the sidecar stopped during the run, in phase {}", reached.name()),
                place: "sidecar".into(),
                remedy: Some("start a new run with: cutover --when-lag '<1s'".into()),
            };
            put_back(reached, why)
        }
        Found::Committed { reached, committed } => match reached {
            Phase::Open => (State::Open(committed.clone()), Some(Effect::TurnStreams(committed))),
            Phase::Reversing => {
                (State::Reversing(committed.clone()), Some(Effect::ConfirmWayBack(committed)))
            }
            Phase::Watching => (State::Watching(committed.clone()), Some(Effect::Watch(committed))),
            // Flipped too: a RESUME is only right if the flip is still in place, so look again.
            _ => (State::Committed(committed.clone()), Some(Effect::Flip(committed))),
        },
        Found::Unknown { reached, why } => (State::Held { reached, why }, None),
    }
}

#[cfg(test)]
mod tests;
