//! Triggers and rules that a flip had to leave off on the side that it opened: tried again until they are set. It needs
//! nobody but the side that serves, so it goes on beside the streams and after them, whether or not the other side
//! lives.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;

use super::super::arming::{SlotRoute, of_door};
use super::super::failure::Failure;
use super::open;
use crate::status::{LeftOff, Shared};
use crate::triggers::{Triggers, Way};

/// The first and the longest pause between two rounds. Each round waits longer for its locks, and writers wait behind
/// it, so the pauses grow, too.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether there is anything to do. Each look reads the journal, for as long as anything is noted.
const LOOK: Duration = Duration::from_secs(10);

/// Switches what is noted on a target that serves, until nothing is. Never returns. Shown by both streams.
pub async fn keep(route: Arc<SlotRoute>, streams: [Arc<Shared>; 2]) {
    let to = route.ends.direction.to();
    let mut pauses = pauses();
    let mut tries = 0;
    // Whether it was shown by this task: the other direction's shows its own.
    let mut is_shown = false;
    loop {
        let mut pause = LOOK;
        let settled = match route.firing.is_noted(to) {
            true => settle(&route, tries).await,
            false => Ok(None),
        };
        match settled {
            Ok(Some(left)) if !left.what.is_empty() => {
                tracing::error!(
                    pipeline = route.config.name,
                    "NOT MADE on {to}, and tried again: {}",
                    left.what.join("; ")
                );
                streams.iter().for_each(|stream| stream.leaves_off(Some(left.clone())));
                is_shown = true;
                tries += 1;
                pause = pauses.next().unwrap_or(PAUSE_MAX);
            }
            Ok(_) => {
                if is_shown {
                    streams.iter().for_each(|stream| stream.leaves_off(None));
                    is_shown = false;
                }
                if tries > 0 {
                    (tries, pauses) = (0, self::pauses());
                }
            }
            // What is shown stays shown.
            Err(failure) => {
                let place = failure.place;
                tracing::warn!(place, "triggers to be switched on {to}: {}", failure.what);
                pause = pauses.next().unwrap_or(PAUSE_MAX);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// One round; what is still off. `None`: the side does not serve.
async fn settle(route: &SlotRoute, tries: u32) -> Result<Option<LeftOff>, Failure> {
    let to = route.ends.direction.to();
    let served = async || route.door.served_since(to).await.map_err(of_door);
    if served().await?.is_none() {
        return Ok(None);
    }
    let target = open(&route.ends.target, "green").await.map_err(|error| route.ends.put(error))?;
    let _switching = route.firing.switching(to).lock().await;
    let Some(since) = served().await? else { return Ok(None) };
    let triggers = Triggers::of(&route.config, route.ends.direction);
    let way = if tries == 0 { Way::Beside } else { Way::Again(tries) };
    let switched =
        triggers.bring(&target, way).await.map_err(|error| route.ends.put(error.into()))?;
    route.firing.notes(to, !triggers.notes(&target).await?.is_empty());
    for which in &switched.done {
        tracing::warn!(
            pipeline = route.config.name,
            "{which} on {to} is as noted since {}: clients were served without it from {since} on ({} s); what it \
             would have done for their writes was not done",
            Timestamp::now(),
            Timestamp::now().duration_since(since).as_secs()
        );
    }
    for which in &switched.gone {
        tracing::warn!("{which} on {to} is not there any more: its note is struck out");
    }
    Ok(Some(LeftOff { what: switched.missing, side: to, since }))
}
