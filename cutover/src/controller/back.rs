//! The way back: everything that may have been done is undone.

use std::time::Duration;

use super::{Run, ownership, stop};
use crate::api::Step;
use crate::phase::{Input, Phase, State, Stop, StopKind};
use crate::ports::{Fence, Replication, TrafficSwitch, World};

/// How long one try of one act may take.
const TRY: Duration = Duration::from_secs(3);
/// How long the first try at opening blue may take: a session that is dead without a word is found
/// out by a try that has an end, and the next one opens another.
const FIRST_TRY: Duration = Duration::from_millis(400);
/// Clients wait at the routers while blue can't be opened. Beyond this they get blue's own error
/// instead, which they can handle better than silence.
const HOLD_MAX: Duration = Duration::from_millis(800);

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
                if give_up.kind == StopKind::Superseded {
                    return Input::GiveUp(give_up);
                }
                match self.again_or_give_up(self.limits.put_back, give_up).await {
                    Input::GiveUp(why) if self.only_routers_left => self.leave_router(&why),
                    input => input,
                }
            }
        }
    }

    /// Clients are served; a router that can't be told is a matter for its operator. If it is down it
    /// holds nobody, and leads where it did when it comes back.
    fn leave_router(&mut self, why: &Stop) -> Input {
        let (from, now) = (self.direction().from(), self.now());
        if let Some(pause) = &mut self.pause {
            pause.ended.get_or_insert(now);
        }
        self.note(format!(
            "{from} serves, but {} could not be told so: {}. See that it lets its clients go on",
            why.place, why.what
        ));
        Input::PutBack
    }

    async fn undo_all(&mut self, reached: Phase) -> Result<String, Stop> {
        let world = self.world;
        let mut errors = Vec::new();
        let mut done = Vec::new();
        let from = self.direction().from();

        // Reaching `gate` means that the hold may be under way; the fence comes after it.
        let fence_touched = reached >= Phase::Quiesced && !self.has_no_fence();
        let held = reached >= Phase::Gate;
        let mut fence_down = true;
        if let Some(undo) = self.undo.clone().filter(|_| fence_touched) {
            // Whatever hangs there, the routers get their turn within HOLD_MAX.
            let patience = match self.hold_left().filter(|_| held) {
                Some(left) => left.min(FIRST_TRY),
                None => TRY,
            };
            match world.fence().lower(&undo, self.now() + patience).await {
                Ok(()) => done.push(format!("{from}'s settings are as before")),
                // Neither blue nor the routers are ours to put back.
                Err(error) if error.is_superseded() => {
                    world.fence().leave().await;
                    return Err(stop(ownership::explained(world, error).await));
                }
                Err(error) => {
                    fence_down = false;
                    errors.push(stop(error));
                }
            }
        } else {
            world.fence().leave().await;
        }
        if held && (fence_down || self.hold_left().is_none()) {
            match world.switch().release(self.order.epoch, self.now() + TRY).await {
                Ok(()) => done.push(format!("the routers lead to {from}")),
                Err(error) => errors.push(stop(error)),
            }
        }
        let router_errors = errors.len() - usize::from(!fence_down);
        match world.replication().release(&self.token).await {
            Ok(()) => done.push("the stream goes on".to_owned()),
            Err(error) => errors.push(stop(error)),
        }
        self.only_routers_left = router_errors > 0 && errors.len() == router_errors;
        match errors.into_iter().next() {
            Some(why) => Err(why),
            None => Ok(done.join(", ")),
        }
    }

    /// For how long the routers may still hold because blue can't be opened; `None`: no longer. A
    /// recovered run has held its clients for long enough already.
    fn hold_left(&self) -> Option<Duration> {
        let until = self.until.filter(|_| self.pause.is_some())?;
        let left = until.saturating_duration_since(self.now());
        let tried_for = self.limits.put_back.saturating_sub(left);
        HOLD_MAX.checked_sub(tried_for).filter(|left| !left.is_zero())
    }
}
