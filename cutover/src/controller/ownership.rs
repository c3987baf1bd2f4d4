//! Before a journal is believed: is it still the one that counts?
//!
//! A state directory can be superseded while its sidecar is dead or its machine stands still: by
//! another one that took the pipeline over (`replicator run` with an empty directory adopts the
//! stream), or by a newer state of itself, when it comes back from a backup. What a superseded one
//! would put back, seal or flip was somebody else's since. The closed side refuses by itself
//! ([`Claim`]); here it is found out before anything is tried, so that it can be said who serves.
//!
//! A claim of a run that the journal does not know is another directory's. What may be done about
//! it says the row of its decision, on the side that it was to open:
//!
//! - `commit`: that side serves. Whoever finds this does nothing but say so, and ends.
//! - `abort`: the run can never be committed. Its fence is taken down in its name, by the undo list in
//!   the claim.
//! - none, and the lease's row names that very run: the table is the one that the run would have
//!   decided in, and it has not. The lease is inherited once it has not been renewed for its whole
//!   length; from then on the run's commit is refused, because it needs that row. What the decision
//!   says *then* is final: no row is made `abort`. So a fence that a dead sidecar has left is taken
//!   down by the next sidecar, wherever it is started, without anybody's help, and while it lives it
//!   is left alone.
//! - none, and the lease's row is another's, or gone (a teardown removes both tables, and a sealed side
//!   stays sealed): nobody can tell whether it was decided. Then the answer is a person's, who gets the
//!   statements.
//!
//! A server that does not answer is no reason to stop: going back must work without the other side,
//! and its own claim guards each side.

use std::time::Duration;

use super::World;
use crate::phase::Verdict;
use crate::ports::{
    Claim, Claimed, Clock, Decision, Entry, Fence, Lease, LeaseRow, Nature, PortError, PortResult,
    TrafficSwitch,
};
use crate::side::{Direction, Side};

/// How long one question may take.
const ASK: Duration = Duration::from_secs(2);
/// How long taking down a dead one's fence may take.
const TAKE_DOWN: Duration = Duration::from_secs(10);

type Found<W> = Claimed<<<W as World>::Fence as Fence>::Undo>;

/// Whether the journal has an entry of this run.
fn knows(entries: &[Entry], claim: &Claim) -> bool {
    entries.iter().any(|entry| entry.run == claim.run && entry.epoch == claim.epoch)
}

/// Ends with an error of [`Nature::Superseded`] if others act for the pipeline, or have acted since
/// the journal's last entry; takes down what a dead one has left.
pub(super) async fn settle<'a, W: World + 'a>(
    world_of: &impl Fn(Direction) -> Option<&'a W>,
    entries: &[Entry],
) -> PortResult<()> {
    let [blue, green] = Side::ALL.map(|side| claimed(world_of, side));
    let (blue, green) = tokio::join!(blue, green);
    let mut found = [(Side::Blue, blue), (Side::Green, green)];
    // The newest first: the older one is what it has left behind it.
    found.sort_by_key(|(_, found)| std::cmp::Reverse(found.as_ref().map(|f| f.claim.epoch)));
    for (at, (side, claimed)) in found.iter().enumerate() {
        let Some(claimed) = claimed.as_ref().filter(|found| !knows(entries, &found.claim)) else {
            continue;
        };
        let other = found[1 - at].1.as_ref();
        if let Some(world) = world_of(Direction::leaving(*side)) {
            take_down(world, claimed, other).await?;
        }
    }
    for direction in Direction::ALL {
        if let Some(world) = world_of(direction) {
            passed_by(world, entries).await?;
        }
    }
    Ok(())
}

async fn claimed<'a, W: World + 'a>(
    world_of: &impl Fn(Direction) -> Option<&'a W>,
    side: Side,
) -> Option<Found<W>> {
    let world = world_of(Direction::leaving(side))?;
    let deadline = world.clock().now() + ASK;
    match world.fence().claimed(deadline).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("whether somebody else has closed {side}: {error}");
            None
        }
    }
}

/// Of a run from this world's side that the journal does not know.
async fn take_down<W: World>(
    world: &W,
    found: &Found<W>,
    other: Option<&Found<W>>,
) -> PortResult<()> {
    let (from, to) = (world.direction().from(), world.direction().to());
    let (claim, undo) = (&found.claim, &found.undo);
    let deadline = world.clock().now() + TAKE_DOWN;
    let _airlock = match other {
        Some(other) => Some(world.fence_of(to).airlock(&other.undo, deadline).await?),
        None => None,
    };
    let nobody_knows = |why: String| {
        let open = world.fence_of(from).describe(undo).lower;
        let open: Vec<_> = open.into_iter().map(|act| act.text).collect();
        PortError::new(
            from.name(),
            format!("{from} is closed by {claim}, and nobody can tell what {to} decided: {why}"),
        )
        .remedy(format!(
            "if {to} serves, nothing: clients belong there. Only if it does not, and that sidecar is \
             stopped for good, open {from}, in one session (on PostgreSQL, of another database of \
             its server): {}",
            open.join("; ")
        ))
    };
    let verdict = match world.decision().read(claim.epoch, deadline).await {
        Err(error) => return Err(nobody_knows(error.what)),
        Ok(Some(verdict)) => verdict,
        Ok(None) => {
            let row = LeaseRow { epoch: claim.epoch, holder: claim.holder.clone() };
            if !world.lease().inherit(&row).await? {
                let why = format!("there is no row for epoch {}, and no lease of it", claim.epoch);
                return Err(nobody_knows(why));
            }
            let decided = world.decision().abort(claim.epoch, deadline).await;
            world.lease().release().await;
            decided?
        }
    };
    match verdict {
        Verdict::Commit => Err(gone_on(to, &claim.to_string())),
        Verdict::Abort => open(world, found).await,
    }
}

/// Puts back what is known to be aborted, in the name of who has closed it.
async fn open<W: World>(world: &W, found: &Found<W>) -> PortResult<()> {
    let (from, claim) = (world.direction().from(), &found.claim);
    let deadline = world.clock().now() + TAKE_DOWN;
    world.fence().lower(&found.undo, deadline).await?;
    world.fence().leave().await;
    let release = async {
        world.switch().arm(world.direction().to(), deadline).await?;
        world.switch().release(claim.epoch, deadline).await
    };
    if let Err(error) = release.await {
        tracing::error!("clients may still wait: the routers were not let go: {error}");
    }
    tracing::warn!(
        "{from} was left closed by {claim}, which is gone and was never decided: {from} is open again"
    );
    Ok(())
}

/// Whether somebody else has changed over although no claim says so any more.
async fn passed_by<W: World>(world: &W, entries: &[Entry]) -> PortResult<()> {
    let (to, deadline) = (world.direction().to(), world.clock().now() + ASK);
    let looking = async {
        let Some(row) = world.lease().look(deadline).await? else { return Ok(None) };
        if entries.iter().any(|entry| entry.epoch == row.epoch) {
            return Ok(None);
        }
        let verdict = world.decision().read(row.epoch, deadline).await?;
        Ok(verdict.filter(|verdict| *verdict == Verdict::Commit).map(|_| row.epoch))
    };
    match looking.await {
        Ok(None) => Ok(()),
        Ok(Some(epoch)) => Err(gone_on(to, &format!("another sidecar (epoch {epoch})"))),
        // A closed side says so by its claim.
        Err(PortError { nature: Nature::ClosedDoor, .. }) => Ok(()),
        Err(error) => {
            tracing::warn!("whether another sidecar has changed over to {to}: {error}");
            Ok(())
        }
    }
}

fn gone_on(serves: Side, who: &str) -> PortError {
    PortError::new(
        serves.name(),
        format!(
            "{serves} was opened by {who}, of which this state directory knows nothing: it is not \
             the one that counts any more, and changes nothing"
        ),
    )
    .remedy(format!(
        "stop this sidecar for good; {serves} serves unless the sidecar that acted says otherwise \
         (cutover status, on its host)"
    ))
    .of(Nature::Superseded)
}

/// An error of who found a side closed by somebody else, and who serves, if that can be told.
pub(super) async fn explained<W: World>(world: &W, error: PortError) -> PortError {
    let deadline = world.clock().now() + ASK;
    let Ok(Some(found)) = world.fence().claimed(deadline).await else { return error };
    match world.decision().read(found.claim.epoch, deadline).await {
        Ok(Some(Verdict::Commit)) => gone_on(world.direction().to(), &found.claim.to_string()),
        _ => error,
    }
}
