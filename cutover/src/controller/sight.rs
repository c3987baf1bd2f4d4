//! What stands in the way of a run at one moment.
//!
//! The gate asks while it waits, and a plan asks once. Both ask here, so a plan can't be ready where
//! the gate would refuse.

use std::time::Duration;

use super::Order;
use crate::api::{Check, Severity};
use crate::ports::{Clock, Fence, Obstacle, Progress, Replication, WayBackStream, World, Writers};

/// An answer that takes longer than this counts as none.
const WRITERS_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the run has armed its way back by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Armed {
    /// What does not stream is not ready.
    Yes,
    /// It will, before its gate: that the way back does not stream says nothing.
    NotYet,
}

/// Everything but rows and definitions that a run goes by when it begins.
#[derive(Debug)]
pub(crate) struct Sight {
    /// The stream, with what blocks a run.
    pub(crate) progress: Progress,
    /// What is under way on the side that serves.
    pub(crate) writers: Writers,
    /// What verifications have found.
    pub(crate) proof: Option<Check>,
}

impl Sight {
    /// The world as it is now. Reads only.
    pub(crate) async fn take<W: World>(world: &W, order: &Order, armed: Armed) -> Self {
        let news = world.replication().progress();
        let mut progress = news.borrow().clone();
        if news.has_changed().is_err() {
            progress.blocked = Some(Obstacle::passing("the engine has stopped"));
        }
        if order.way_back {
            let obstacle = way_back(world, armed);
            progress.blocked = progress.blocked.or(obstacle);
        }
        let proof = match world.proof(order) {
            _ if order.drill => None,
            Ok(check) => check,
            Err(error) => {
                let why = format!("{} ({})", error.what, error.place);
                progress.blocked.get_or_insert(Obstacle::staying(why));
                None
            }
        };
        let writers = match writers(world).await {
            Ok(writers) => writers,
            Err(why) => {
                let from = world.direction().from();
                let why = format!("{from} can't be asked for its writers: {why}");
                progress.blocked.get_or_insert(Obstacle::passing(why));
                Writers::default()
            }
        };
        Self { progress, writers, proof }
    }

    /// What verifications forbid: it ends a run.
    pub(crate) fn refusal(&self) -> Option<&Check> {
        self.proof.as_ref().filter(|check| check.severity == Severity::Fail)
    }
}

/// A side that somebody else writes, or a way back that is not ready.
fn way_back<W: World>(world: &W, armed: Armed) -> Option<Obstacle> {
    let standby = world.way_back().standby();
    if standby.foreign.count > 0 {
        return Some(Obstacle::staying(format!(
            "{} was written by somebody else: {} row changes, the first in {}",
            world.direction().to(),
            standby.foreign.count,
            standby.foreign.first.as_deref().unwrap_or("an unknown table")
        )));
    }
    way_back_blocked(world).filter(|_| armed == Armed::Yes).map(Obstacle::passing)
}

/// Why the way back is not ready, if it is not.
pub(super) fn way_back_blocked<W: World>(world: &W) -> Option<String> {
    let why = world.way_back().standby().blocked?;
    Some(format!("the way back is not ready: {why}"))
}

async fn writers<W: World>(world: &W) -> Result<Writers, String> {
    let deadline = world.clock().now() + WRITERS_TIMEOUT;
    tokio::select! {
        biased;
        answer = world.fence().writers() => answer.map_err(|error| error.what),
        () = world.clock().sleep_until(deadline) => Err("no answer".into()),
    }
}
