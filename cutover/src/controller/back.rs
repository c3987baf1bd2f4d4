//! The way back: everything that may have been done is undone.

use std::time::Duration;

use super::{Run, stop};
use crate::api::Step;
use crate::phase::{Input, Phase, State, Stop};
use crate::ports::{Fence, Replication, TrafficSwitch, World};

/// How long one try of one act may take.
const TRY: Duration = Duration::from_secs(3);
/// Clients wait at the routers while blue can't be opened. Beyond this they get blue's own error
/// instead, which they can handle better than silence.
const HOLD_MAX: Duration = Duration::from_secs(2);

impl<W: World> Run<'_, W> {
    /// One try at putting everything back. Blue is opened first, then the routers: a client that
    /// is let go must not find a closed door.
    pub(super) async fn put_back(&mut self, reached: Phase, state: &State) -> Input {
        let at = self.begin(Step::Abort);
        self.until.get_or_insert(at.began + self.limits.put_back);
        self.waiting("putting everything back");
        let result = self.undo_all(reached).await;
        match result {
            Ok(seen) => {
                let now = self.now();
                if let Some(pause) = &mut self.pause {
                    pause.ended.get_or_insert(now);
                }
                self.stepped(at, Ok(&seen));
                Input::PutBack
            }
            Err(why) => {
                self.stepped(at, Err(&why));
                let give_up = match state {
                    State::Aborting { why: first, .. } => Stop {
                        what: format!("{} (the run was being stopped: {})", why.what, first.what),
                        ..why
                    },
                    _ => why,
                };
                self.again_or_give_up(self.limits.put_back, give_up).await
            }
        }
    }

    async fn undo_all(&mut self, reached: Phase) -> Result<String, Stop> {
        let world = self.world;
        let deadline = self.now() + TRY;
        let mut errors = Vec::new();
        let mut done = Vec::new();
        let from = self.direction().from();

        // Reaching `gate` means that the hold may be under way; the fence comes after it.
        let fence_touched = reached >= Phase::Quiesced && !self.has_no_fence();
        let held = reached >= Phase::Gate;
        let mut fence_down = true;
        if let Some(undo) = self.undo.clone().filter(|_| fence_touched) {
            match world.fence().lower(&undo, deadline).await {
                Ok(()) => done.push(format!("{from}'s settings are as before")),
                Err(error) => {
                    fence_down = false;
                    errors.push(stop(error));
                }
            }
        } else {
            world.fence().leave().await;
        }
        // A recovered run has held its clients for long enough already.
        let tried_for = match (self.pause, self.until) {
            (Some(_), Some(until)) => {
                self.limits.put_back.saturating_sub(until.saturating_duration_since(self.now()))
            }
            _ => Duration::MAX,
        };
        if held && (fence_down || tried_for >= HOLD_MAX) {
            match world.switch().release(self.order.epoch, deadline).await {
                Ok(()) => done.push(format!("the routers lead to {from}")),
                Err(error) => errors.push(stop(error)),
            }
        }
        match world.replication().release(&self.token).await {
            Ok(()) => done.push("the stream goes on".to_owned()),
            Err(error) => errors.push(stop(error)),
        }
        match errors.into_iter().next() {
            Some(why) => Err(why),
            None => Ok(done.join(", ")),
        }
    }
}
