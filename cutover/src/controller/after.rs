//! After the clients are served: the streams change their roles, the way back is confirmed, and
//! the new side is watched.

use jiff::SignedDuration;

use super::acts::internal;
use super::{Run, stop};
use crate::api::{Breach, Step};
use crate::evidence::Committed;
use crate::phase::{Input, Stop, WatchEnd};
use crate::ports::{Clock, Fence, Replication, Sequences, WayBackStream, World};

impl<W: World> Run<'_, W> {
    /// What carries changes: from now on the way back, or nothing at all if there is none.
    pub(super) async fn turn_streams(
        &mut self,
        committed: &Committed,
    ) -> Result<(String, Input), Stop> {
        let world = self.world;
        let from = self.direction().from();
        if !self.order.way_back {
            self.waiting("closing the stream");
            world.replication().finish(&self.token).await.map_err(stop)?;
            world.fence().leave().await;
            world.sequences().leave().await;
            self.note_leaks();
            return Ok((format!("the stream from {from} is closed"), Input::StreamEnded));
        }
        self.waiting("turning the streams");
        let marker = self.marker.ok_or_else(|| internal("the marker's position is not known"))?;
        // The fence's sessions have done their work: the seal stands. Where they hold table locks, the way
        // back could not apply anything under them.
        world.fence().leave().await;
        world.sequences().leave().await;
        world.way_back().turn(committed, &self.token, marker).await.map_err(stop)?;
        self.note_leaks();
        Ok((format!("what {} writes goes to {from}", committed.to()), Input::StreamsTurned))
    }

    fn note_leaks(&mut self) {
        let leaks = self.world.replication().leaks();
        if leaks.count > 0 {
            self.note(format!(
                "{} row changes came from {} after the marker and were NOT applied, the first: {}",
                leaks.count,
                self.direction().from(),
                leaks.first.as_deref().unwrap_or("unknown")
            ));
        }
    }

    /// A sign of life of the new primary has to arrive on the old one.
    pub(super) async fn confirm_way_back(&mut self, committed: &Committed) -> Result<String, Stop> {
        let from = self.direction().from();
        self.waiting(format!("waiting for a write of {} to arrive on {from}", committed.to()));
        // The journal's next number: no two tries, in whichever life, share one.
        let token = self.token.beat(self.seq);
        let deadline = self.try_until();
        let took = self.world.way_back().beat(&token, deadline).await.map_err(stop)?;
        self.way_back = Some(true);
        Ok(format!("a write of {} was on {from} after {took:.1?}", committed.to()))
    }

    /// Clients are served; what is missing is said loudly, and nobody is held for it.
    pub(super) fn no_way_back(&mut self, why: &Stop) {
        self.way_back = Some(false);
        self.note(format!(
            "THERE IS NO WAY BACK: {} ({}). {} serves, with all that was acknowledged before; a rollback \
             is not possible until the stream back to {} runs again",
            why.what,
            why.place,
            self.direction().to(),
            self.direction().from()
        ));
    }

    /// Watches until the time is over or somebody ends it. Who watches what is not the matter here:
    /// what they find comes through the hub.
    pub(super) async fn watch(&mut self, committed: &Committed) -> Input {
        let left = match self.watch_until {
            Some(until) => until.duration_since(self.world.clock().wall()),
            None => SignedDuration::ZERO,
        };
        // The wall clock may have been set: never longer than was ordered.
        let left = left.max(SignedDuration::ZERO).unsigned_abs().min(self.order.watch);
        if left.is_zero() {
            return Input::WatchEnded(WatchEnd::Over);
        }
        let at = self.begin(Step::Watch);
        self.waiting(format!("watching {}", committed.to()));
        let ends = self
            .world
            .clock()
            .wall()
            .saturating_add(SignedDuration::try_from(left).unwrap_or_default());
        self.hub.set(|status| status.watch_until = ends.ok());
        let until = self.now() + left;
        let end = tokio::select! {
            biased;
            end = self.hub.watch_ended() => end,
            () = self.world.clock().sleep_until(until) => WatchEnd::Over,
        };
        self.notes.extend(self.hub.remarks());
        match &end {
            WatchEnd::Over => self.stepped(at, Ok("nothing was found")),
            WatchEnd::Cut(why) => self.stepped(at, Ok(why)),
            WatchEnd::Breached(what) => {
                self.breach = Some(Breach { at: self.world.clock().wall(), what: what.clone() });
                self.note(format!("while watching {}: {what}", committed.to()));
                let why = Stop { place: committed.to().name().into(), ..internal(what) };
                self.stepped(at, Err(&why));
            }
        }
        Input::WatchEnded(end)
    }
}
