//! When a run ends a verification.
//!
//! What is compared is the target with the side that serves. From a run's pause on there is no such
//! pair for a while; once clients write to the other side every one of their rows would be found to
//! differ, before the streams have changed their roles. And the pause is no time to read tables.

use std::sync::Arc;
use std::time::Duration;

use cutover::api::RunStatus;
use cutover::phase::Phase;

use super::ground;
use super::reader::Trouble;
use crate::status::Shared;
use crate::store::{Ground, Store};

/// Gives the last run.
pub type Runs = Arc<dyn Fn() -> Option<RunStatus> + Send + Sync>;

/// How often runs are looked at: nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the two sides are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Where they were.
    None,
    /// A run keeps clients waiting, or is about to change the roles.
    Pausing,
    /// Rows may have been moved outside of the stream since it began.
    Moved,
    /// The roles have changed, or it is another copy.
    Turned,
}

/// What a verification stands on, and the run before it.
pub(super) struct Turning {
    /// Of the stream from the source to the target.
    pub shared: Arc<Shared>,
    store: Store,
    pub ground: Ground,
    runs: Runs,
    before: Option<RunStatus>,
    /// How often rows were found to be moved outside of the stream.
    times_moved: u64,
}

impl Turning {
    /// Of a stream, its direction's store, and what is known of runs.
    pub fn new(shared: Arc<Shared>, store: Store, ground: Ground, runs: Runs) -> Self {
        let before = runs();
        let times_moved = shared.catalog.times_moved();
        Self { shared, store, ground, runs, before, times_moved }
    }

    /// Ends when the two sides are not what they were any more, or are about to change.
    pub async fn ended(&self) -> Trouble {
        until_refused(&self.shared, || self.check().err()).await
    }

    /// # Errors
    /// What was compared up to now may not be true of the two sides.
    pub fn check(&self) -> Result<(), Trouble> {
        let ended = |why: &str| Err(Trouble::new("verification", why));
        match self.now()? {
            Turn::None => Ok(()),
            Turn::Pausing => {
                ended("a run has begun its pause; what was found so far is not remembered")
            }
            Turn::Moved => ended(
                "a table was changed on blue in a way that may have moved rows; what was found so far is not \
                 remembered (cutover status names the table)",
            ),
            Turn::Turned => {
                ended("the sides have changed their roles; what was found is not remembered")
            }
        }
    }

    /// # Errors
    /// The state directory can't be read.
    pub fn now(&self) -> Result<Turn, Trouble> {
        // The run first: one that ends meanwhile has changed the ground before.
        let run = (self.runs)();
        let is_pausing = run.is_some_and(|run| is_turning(self.before.as_ref(), &run));
        let ground = ground(&self.store);
        let ground = ground.map_err(|error| Trouble::new("state directory", error.to_string()))?;
        let stands = ground.as_ref() == Some(&self.ground) && *self.shared.carries.borrow();
        let has_moved = self.shared.catalog.times_moved() != self.times_moved;
        Ok(match (stands, is_pausing) {
            (false, _) => Turn::Turned,
            (true, _) if has_moved => Turn::Moved,
            (true, true) => Turn::Pausing,
            (true, false) => Turn::None,
        })
    }
}

/// What `refuses` says as soon as it says something: it is asked when the stream carries no more, and every
/// now and then, because of runs.
pub(super) async fn until_refused<T>(shared: &Shared, refuses: impl Fn() -> Option<T>) -> T {
    let mut carries = shared.carries.subscribe();
    loop {
        if let Some(why) = refuses() {
            return why;
        }
        // Whoever sends lives as long as the stream.
        let turned = carries.wait_for(|carries| !*carries);
        let _ = tokio::time::timeout(LOOK_EVERY, turned).await;
    }
}

/// Whether a run is between its pause and the change of the streams' roles, or has been there since
/// `before`.
fn is_turning(before: Option<&RunStatus>, now: &RunStatus) -> bool {
    let is_new = before.is_none_or(|before| before.run != now.run || before.phase != now.phase);
    match now.phase {
        Phase::Quiesced
        | Phase::Fenced
        | Phase::Drained
        | Phase::Synced
        | Phase::Sealed
        | Phase::Committed
        | Phase::Flipped
        | Phase::Open => true,
        Phase::Reversing | Phase::Watching | Phase::Done => {
            // One that had turned the streams before may go on to its end.
            let had_turned = before.is_some_and(|before| {
                before.run == now.run
                    && matches!(before.phase, Phase::Reversing | Phase::Watching | Phase::Done)
            });
            is_new && !had_turned
        }
        Phase::Replicating
        | Phase::Armed
        | Phase::Gate
        | Phase::Aborting
        | Phase::Aborted
        | Phase::Held => false,
    }
}

#[cfg(test)]
mod tests {
    use cutover::Direction;
    use cutover::ports::Epoch;
    use jiff::Timestamp;

    use super::*;

    fn run(name: &str, phase: Phase) -> RunStatus {
        let started = Timestamp::UNIX_EPOCH;
        let hub = cutover::hub::RunHub::new(name, Epoch(1), Direction::Forward, started);
        RunStatus { phase, ..hub.status() }
    }

    #[test]
    fn a_run_ends_it_from_its_pause_on() {
        let turns = |before: Option<RunStatus>, now| is_turning(before.as_ref(), &now);
        assert!(!turns(None, run("a", Phase::Gate)) && turns(None, run("a", Phase::Quiesced)));
        assert!(turns(Some(run("a", Phase::Gate)), run("a", Phase::Open)));
        assert!(turns(Some(run("a", Phase::Gate)), run("a", Phase::Done)), "too quick to be seen");
        assert!(turns(Some(run("a", Phase::Done)), run("b", Phase::Watching)));
        assert!(!turns(Some(run("a", Phase::Done)), run("a", Phase::Done)));
        assert!(!turns(Some(run("a", Phase::Watching)), run("a", Phase::Done)));
        assert!(!turns(Some(run("a", Phase::Done)), run("b", Phase::Aborted)));
    }
}
