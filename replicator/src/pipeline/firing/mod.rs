//! Triggers and rules that fire for replicated changes, in the life of a stream: off before it applies, kept in step
//! with the source by the watch, switched by the flip. [`crate::triggers`] says how.
//!
//! Nothing is switched off where the target may serve: see [`Door::may_serve`]. Whoever switches, one way or the other,
//! holds [`Firing::switching`] of that side from that question to the end, and a run asks for the flip only after it has
//! written down that it decides.

mod bringing;
mod leftovers;
mod planning;
mod quieting;

use std::sync::atomic::{AtomicBool, Ordering};

use cutover::Side;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use sinks::own::keys;
use sinks::postgres::target_error;
use tokio::sync::Mutex;

use super::failure::{Failure, of_connect};

pub use bringing::TriggersAlone;
pub use leftovers::keep;
pub(super) use quieting::Switching;

/// `application_name` of the sessions here.
const NAME: &str = "cutover triggers";

/// Workers can't start in a database that accepts no connections, before the minor releases of February 2025: what plans
/// parallel workers fails there.
const SETTINGS: &str =
    "SET default_transaction_read_only = off; SET max_parallel_workers_per_gather = 0";

/// Others wait for whoever waits for a lock on our own tables.
const PATIENCE: &str = "SET lock_timeout = '2s'";

/// What both directions of a pipeline know of their triggers. What is not known counts as yes.
pub struct Firing {
    /// Whether something is noted on blue, on green.
    noted: [AtomicBool; 2],
    /// Whether something fires on blue, on green, for what would be applied there.
    fires: [AtomicBool; 2],
    /// Whether nothing was left that fires on blue, on green, since a stream carries there. What fires later may have
    /// acted on what it applied. Not known after a restart: then the store says so.
    begun: [AtomicBool; 2],
    /// Held by whoever switches on blue, on green. One that does not answer keeps nobody from the other.
    switching: [Mutex<()>; 2],
}

impl Default for Firing {
    fn default() -> Self {
        let unknown = || [AtomicBool::new(true), AtomicBool::new(true)];
        Self {
            noted: unknown(),
            fires: unknown(),
            begun: Default::default(),
            switching: Default::default(),
        }
    }
}

impl Firing {
    fn is_noted(&self, side: Side) -> bool {
        self.noted[side as usize].load(Ordering::Relaxed)
    }

    fn notes(&self, side: Side, is_noted: bool) {
        self.noted[side as usize].store(is_noted, Ordering::Relaxed);
    }

    fn fires(&self, side: Side) -> bool {
        self.fires[side as usize].load(Ordering::Relaxed)
    }

    fn fires_on(&self, side: Side, fires: bool) {
        self.fires[side as usize].store(fires, Ordering::Relaxed);
    }

    fn switching(&self, side: Side) -> &Mutex<()> {
        &self.switching[side as usize]
    }

    fn has_begun(&self, side: Side) -> bool {
        self.begun[side as usize].load(Ordering::Relaxed)
    }

    fn begins(&self, side: Side) {
        self.begun[side as usize].store(true, Ordering::Relaxed);
    }
}

async fn open(info: &ConnInfo, end: &str) -> Result<Session, Failure> {
    let session = session::connect(info, NAME).await.map_err(|error| of_connect(end, &error))?;
    let set = session.batch_execute(&format!("{SETTINGS}; {PATIENCE}")).await;
    set.map_err(|error| target_error("making a session writable", &error))?;
    keys::refuse_strangers(&session).await?;
    Ok(session)
}
