//! After the decision, until the clients are served: what runs by itself is handed over, the routers lead
//! to the side that opens, and let their clients go on.

use std::time::Duration;

use tokio::time::Instant;

use super::{Run, ownership, stop};
use crate::evidence::Committed;
use crate::phase::{Stop, StopKind};
use crate::ports::{Fence, Handed, Nature, Replication, TrafficSwitch, World};

/// How long a look at the side that was left may take while clients wait for the flip.
const LOOK: Duration = Duration::from_millis(300);

impl<W: World> Run<'_, W> {
    pub(super) async fn flip(&mut self, committed: &Committed) -> Result<String, Stop> {
        let to = committed.to();
        self.waiting(format!("pointing the routers at {to}"));
        let deadline = self.try_until();
        if let Some(undo) = self.undo.clone() {
            self.still_closed(&undo, deadline).await?;
        }
        let handed = match self.hands_over {
            // With time of its own: what came before may have taken long.
            true => self.hand_over(committed, self.try_until()).await?,
            false => Handed::default(),
        };
        for missing in &handed.missing {
            self.note(format!("NOT MADE on {to}, and clients go on without it: {missing}"));
        }
        let deadline = self.try_until();
        self.waiting(format!("pointing the routers at {to}"));
        if let Some(undo) = &self.opening {
            // It is decided, and the other side is closed: this one may open.
            self.world.fence_of(to).lower(undo, deadline).await.map_err(stop)?;
        }
        match self.world.switch().switch(committed, deadline).await {
            Ok(members) => self.members = members,
            Err(error) => {
                self.open_switched(committed).await;
                return Err(stop(error));
            }
        }
        let handed = handed.made.map_or(String::new(), |made| format!("; {made}"));
        Ok(format!("{} routers point at {to}{handed}", self.members.len()))
    }

    async fn hand_over(&self, committed: &Committed, deadline: Instant) -> Result<Handed, Stop> {
        let (to, replication) = (committed.to(), self.world.replication());
        self.waiting(format!("making triggers and events on {to}"));
        match replication.hand_over(committed, deadline).await {
            // It lets nobody in yet, so it serves nobody, and our way in takes it from nobody.
            Err(error) if error.nature == Nature::ClosedDoor => {
                let entered = async {
                    if self.opening.is_none() {
                        return Err(error);
                    }
                    let _airlock = self.airlock(deadline).await?;
                    replication.hand_over(committed, deadline).await
                };
                // Clients wait for the door to open, and that needs none of this.
                Ok(entered.await.unwrap_or_else(|error| Handed {
                    made: None,
                    missing: vec![format!("{to} could not be entered: {}", error.what)],
                }))
            }
            handed => handed.map_err(stop),
        }
    }

    /// A member that can't be told keeps only its own clients waiting: it is decided.
    async fn open_switched(&mut self, committed: &Committed) {
        let opened = self.world.switch().open_switched(committed, self.try_until()).await;
        if opened.len() <= self.members.len() {
            return;
        }
        let to = committed.to();
        let names: Vec<_> = opened.iter().map(|member| member.member.as_str()).collect();
        self.note(format!("{} led to {to} before the others did", names.join(", ")));
        self.members = opened;
        self.hub.set(|status| status.serving = to.name().into());
    }

    /// The side that was left is closed, and by this run: who has stood still since the decision
    /// might find that others have gone on, and back.
    async fn still_closed(
        &self,
        undo: &<W::Fence as Fence>::Undo,
        deadline: Instant,
    ) -> Result<(), Stop> {
        let fence = self.world.fence();
        let looked = if self.is_recovered {
            // Whoever died here may have left the closed side's door ajar.
            fence.reseal(undo, deadline).await
        } else {
            let soon = deadline.min(self.now() + LOOK);
            match fence.still_ours(undo, soon).await {
                Err(error) if !error.is_superseded() => {
                    // It was sealed a moment ago. That it does not answer holds nobody up.
                    tracing::warn!("whether {} is still ours: {error}", self.direction().from());
                    Ok(())
                }
                looked => looked,
            }
        };
        match looked {
            Err(error) if error.is_superseded() => {
                Err(stop(ownership::explained(self.world, error).await))
            }
            looked => looked.map_err(stop),
        }
    }

    pub(super) async fn open(&mut self, committed: &Committed) -> Result<String, Stop> {
        self.waiting("letting the clients go on");
        let deadline = self.try_until();
        let world = self.world;
        world.switch().release(self.order.epoch, deadline).await.map_err(stop)?;
        let now = self.now();
        if let Some(pause) = &mut self.pause {
            pause.ended.get_or_insert(now);
        }
        let to = committed.to();
        self.hub.set(|status| status.serving = to.name().into());
        self.waiting("asking through the routers which server answers");
        let members = world.switch().verify(committed, deadline).await.map_err(stop)?;
        self.members = members;
        if let Some(wrong) = self.members.iter().find(|member| member.target != to.name()) {
            return Err(Stop {
                kind: StopKind::Failed,
                what: format!("{} leads to {}: {}", wrong.member, wrong.target, wrong.evidence),
                place: wrong.member.clone(),
                remedy: None,
            });
        }
        let verified = self.members.iter().filter(|member| member.verified).count();
        Ok(format!("{verified}/{} verified on {to}", self.members.len()))
    }
}
