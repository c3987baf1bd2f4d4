//! The end of the way back: both streams end for good and nothing of ours stays on the servers,
//! except for the decisions and the seal of the side that was left.
//!
//! Every step is written down before it is done, and may be done twice: after a crash it goes on
//! from the beginning.

use std::sync::Arc;
use std::time::Duration;

use super::{Finish, Standing};
use crate::api::{Act, FinishPlan, FinishReport, FinishState, SCHEMA_VERSION};
use crate::marker::Token;
use crate::ports::{
    Clock, Entry, Fence, Journal, Leftover, PortResult, Record, Replication, World,
};
use crate::side::Direction;

/// The step that says that everything is done.
pub(crate) const LAST: &str = "done";
/// How long one step may take.
const STEP: Duration = Duration::from_secs(60);

/// Ends the way back. May be called again after an error or a crash.
pub async fn finish<W: World>(
    world_of: impl Fn(Direction) -> Option<Arc<W>>,
    standing: &Standing,
    actor: Option<String>,
) -> PortResult<FinishReport> {
    let worlds = standby_first(world_of, standing);
    let mut report = FinishReport {
        schema_version: SCHEMA_VERSION,
        serving: standing.serving.name().into(),
        removed: Vec::new(),
        sealed: standing.sealed.as_ref().map(|closed| closed.side.name().to_owned()),
        reopen: reopen(&worlds, standing)?,
        unneeded: unneeded(&worlds, standing).await?,
    };
    if standing.finish == Finish::Done {
        return Ok(report);
    }
    let mut seq = standing.next_seq;
    for world in &worlds {
        let direction = world.direction();
        note(world.as_ref(), standing, &mut seq, format!("end {direction}"), &actor).await?;
        let token = Token::draining("finish", standing.epoch);
        world.replication().finish(&token).await?;
        report.removed.push(format!("the stream {direction}"));
    }
    for what in Leftover::ALL {
        for world in &worlds {
            let step = format!("{} {}", what.name(), world.direction());
            note(world.as_ref(), standing, &mut seq, step, &actor).await?;
            let deadline = world.clock().now() + STEP;
            report.removed.push(world.replication().remove(what, deadline).await?);
        }
    }
    if let Some(world) = worlds.first() {
        note(world.as_ref(), standing, &mut seq, LAST.to_owned(), &actor).await?;
    }
    Ok(report)
}

/// What [`finish`] would do. `database`: the name that the operator has to type. `refused`: why only
/// by force.
pub async fn plan<W: World>(
    world_of: impl Fn(Direction) -> Option<Arc<W>>,
    standing: &Standing,
    database: String,
    refused: Option<String>,
) -> PortResult<FinishPlan> {
    let worlds = standby_first(world_of, standing);
    let unneeded = unneeded(&worlds, standing).await?;
    let ends = worlds.iter().map(|world| Act {
        step: "finish".into(),
        place: "sidecar".into(),
        text: format!("end the stream {} for good", world.direction()),
    });
    let removals = Leftover::ALL
        .into_iter()
        .flat_map(|what| worlds.iter().map(move |world| world.replication().removal(what)));
    let acts = match standing.finish {
        Finish::Done => Vec::new(),
        Finish::NotAsked | Finish::UnderWay => ends.chain(removals).collect(),
    };
    Ok(FinishPlan {
        schema_version: SCHEMA_VERSION,
        state: standing.finish.into(),
        serving: standing.serving.name().into(),
        sealed: standing.sealed.as_ref().map(|closed| closed.side.name().to_owned()),
        database,
        refused,
        acts,
        reopen: reopen(&worlds, standing)?,
        unneeded,
    })
}

/// The ports of both directions, those of the stream that carries last: it is the one that must not
/// lose anything while the other goes.
fn standby_first<W: World>(
    world_of: impl Fn(Direction) -> Option<Arc<W>>,
    standing: &Standing,
) -> Vec<Arc<W>> {
    let carries = Direction::leaving(standing.serving);
    [carries.reversed(), carries].into_iter().filter_map(world_of).collect()
}

/// What only the streams need of the serving side's tables. Not asked for once all is done: by then others may
/// rely on it.
async fn unneeded<W: World>(worlds: &[Arc<W>], standing: &Standing) -> PortResult<Vec<String>> {
    let carries = Direction::leaving(standing.serving);
    let at = worlds.iter().position(|world| world.direction() == carries);
    match at.filter(|_| standing.finish != Finish::Done) {
        Some(at) => worlds[at].replication().unneeded(worlds[at].clock().now() + STEP).await,
        None => Ok(Vec::new()),
    }
}

/// The statements that would open the side that was left. Nobody but a person runs them.
fn reopen<W: World>(worlds: &[Arc<W>], standing: &Standing) -> PortResult<Vec<String>> {
    let (Some(world), Some(closed)) = (worlds.first(), &standing.sealed) else {
        return Ok(Vec::new());
    };
    let Some(undo) = super::read_undo::<W>(standing, closed.side)? else { return Ok(Vec::new()) };
    let acts = world.fence_of(closed.side).describe(&undo).lower;
    Ok(acts.into_iter().map(|act| format!("{}: {}", act.place, act.text)).collect())
}

async fn note<W: World>(
    world: &W,
    standing: &Standing,
    seq: &mut u64,
    step: String,
    actor: &Option<String>,
) -> PortResult<()> {
    let entry = Entry {
        seq: *seq,
        run: "finish".into(),
        epoch: standing.epoch,
        at: world.clock().wall(),
        record: Record::Finishing { step, actor: actor.clone() },
    };
    // A failed append may have been written all the same: its number is used up.
    *seq += 1;
    world.journal().append(&entry).await
}

impl From<Finish> for FinishState {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::NotAsked => FinishState::NotAsked,
            Finish::UnderWay => FinishState::UnderWay,
            Finish::Done => FinishState::Done,
        }
    }
}
