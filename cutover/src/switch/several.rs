//! All routers at once: several members of one kind, of several kinds, or none.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Router, Switch};
use crate::api::{Check, Member};
use crate::evidence::Committed;
use crate::ports::{Epoch, Moves, PortError, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::Side;

const NONE: &str = "no traffic switch is configured";
const NAME_ONE: &str = "add [[cutover.pgbouncer]], [[cutover.haproxy]], [[cutover.proxysql]], \
                        [cutover.proxy], [cutover.webhook] or [cutover.command] to the configuration";

impl Switch {
    fn some(&self) -> PortResult<&[Router]> {
        match &self.0[..] {
            [] => Err(PortError::new("router", NONE).remedy(NAME_ONE)),
            routers => Ok(routers),
        }
    }
}

/// The first error, if there is one; the others are logged.
fn all<T>(results: Vec<PortResult<T>>) -> PortResult<Vec<T>> {
    let mut done = Vec::new();
    let mut first = None;
    for result in results {
        match (result, &first) {
            (Ok(one), _) => done.push(one),
            (Err(error), None) => first = Some(error),
            (Err(error), Some(_)) => tracing::error!("{}: {error}", error.place),
        }
    }
    first.map_or(Ok(done), Err)
}

impl TrafficSwitch for Switch {
    fn traits(&self) -> SwitchTraits {
        let each: Vec<_> = self.0.iter().map(TrafficSwitch::traits).collect();
        let transparent = |one: &SwitchTraits| one.moves == Moves::Transparently;
        SwitchTraits {
            holds: !each.is_empty() && each.iter().all(|one| one.holds),
            moves: match !each.is_empty() && each.iter().all(transparent) {
                true => Moves::Transparently,
                false => Moves::ByReconnect,
            },
            members: each.iter().map(|one| one.members).sum(),
        }
    }

    async fn inspect(&self, from: Side, max_pause: Duration) -> PortResult<Vec<Check>> {
        if self.0.is_empty() {
            let what = format!("{NONE}, so clients could not be moved");
            return Ok(vec![Check::fail("router", what, NAME_ONE)]);
        }
        let checks = join_all(self.0.iter().map(|router| router.inspect(from, max_pause))).await;
        Ok(all(checks)?.into_iter().flatten().collect())
    }

    async fn arm(&self, to: Side, deadline: Instant) -> PortResult<()> {
        let routers = self.some()?;
        all(join_all(routers.iter().map(|router| router.arm(to, deadline))).await).map(|_| ())
    }

    async fn hold(&self, epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let routers = self.some()?;
        let mut said = Vec::new();
        // First those whose clients notice nothing: should one of them not come to rest, the
        // others have not cut anybody for nothing.
        for holds in [true, false] {
            let group = routers.iter().filter(|router| router.traits().holds == holds);
            let held = join_all(group.map(|router| router.hold(epoch, deadline))).await;
            said.extend(all(held)?);
        }
        Ok(said.join(", "))
    }

    async fn holding(&self, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        let routers = self.some()?;
        let held = join_all(routers.iter().map(|router| router.holding(epoch, deadline))).await;
        Ok(all(held)?.into_iter().all(|held| held))
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let routers = self.some()?;
        let moved = join_all(routers.iter().map(|router| router.switch(proof, deadline))).await;
        Ok(all(moved)?.into_iter().flatten().collect())
    }

    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        let opening = self.0.iter().map(|router| router.open_switched(proof, deadline));
        join_all(opening).await.into_iter().flatten().collect()
    }

    async fn release(&self, epoch: Epoch, deadline: Instant) -> PortResult<()> {
        // Without any, nothing can have been held. One that fails keeps no other from it.
        let released = self.0.iter().map(|router| router.release(epoch, deadline));
        all(join_all(released).await).map(|_| ())
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let routers = self.some()?;
        let found = join_all(routers.iter().map(|router| router.verify(proof, deadline))).await;
        Ok(all(found)?.into_iter().flatten().collect())
    }

    fn name(&self) -> String {
        match &self.0[..] {
            [] => "none".into(),
            routers => routers.iter().map(TrafficSwitch::name).collect::<Vec<_>>().join(", "),
        }
    }

    fn describe(&self, to: Side) -> SwitchActs {
        let mut acts = SwitchActs::default();
        for router in &self.0 {
            let one = router.describe(to);
            acts.hold.extend(one.hold);
            acts.switch.extend(one.switch);
            acts.release.extend(one.release);
            acts.verify.extend(one.verify);
        }
        acts
    }
}
