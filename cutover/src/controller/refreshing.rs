//! Materialized views of the side that is to open, refreshed while the gate waits.
//!
//! No stream carries what a materialized view holds, so on green it is as old as its last refresh there. A refresh
//! may take minutes, so it begins when the lag has held and the rows were compared, before the last looks, and the
//! gate is observed meanwhile. Whoever stops the run ends the statement, too. If the gate then does not pass for
//! long, the views are refreshed once more.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::Run;
use super::acts::precheck_failed;
use crate::phase::Stop;
use crate::ports::{PortResult, Refreshed, Replication, World};

/// A refresh is good for this long, beyond the time for which the gate has to hold and a multiple of the time that it
/// took: catching up with what came meanwhile must not make it old.
const GOOD: Duration = Duration::from_secs(300);
/// After one that could not be made, before the next.
const AGAIN: Duration = Duration::from_secs(2);

/// How far the refresh has come.
pub(super) enum Views<'a> {
    /// Not begun, or to be tried again: since when, and why.
    Stale(Instant, Option<String>),
    /// Since when it is under way.
    Refreshing(Instant, Pin<Box<dyn Future<Output = PortResult<Refreshed>> + Send + 'a>>),
    /// Until when, and what was done.
    Fresh(Instant, Option<String>),
    /// A drill changes nothing on green.
    Unwanted,
}

impl Views<'_> {
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        match self {
            Views::Fresh(until, _) => now < *until,
            Views::Unwanted => true,
            Views::Stale(..) | Views::Refreshing(..) => false,
        }
    }

    /// Whether nothing is under way, and nothing is to be waited for before it begins.
    fn is_due(&self, now: Instant) -> bool {
        match self {
            Views::Stale(since, _) => now >= *since,
            Views::Refreshing(..) | Views::Unwanted => false,
            Views::Fresh(..) => !self.is_fresh(now),
        }
    }

    pub(super) fn waiting_for(&self) -> Option<String> {
        match self {
            Views::Stale(_, why) => {
                why.as_ref().map(|why| format!("materialized views could not be refreshed: {why}"))
            }
            Views::Refreshing(..) => {
                Some("refreshing materialized views; --gate-timeout bounds it".into())
            }
            Views::Fresh(..) | Views::Unwanted => None,
        }
    }

    /// What was done, if anything was.
    pub(super) fn done(&self) -> Option<&str> {
        match self {
            Views::Fresh(_, done) => done.as_deref(),
            Views::Stale(..) | Views::Refreshing(..) | Views::Unwanted => None,
        }
    }

    pub(super) async fn refreshed(&mut self) -> PortResult<Refreshed> {
        match self {
            Views::Refreshing(_, refresh) => refresh.await,
            Views::Stale(..) | Views::Fresh(..) | Views::Unwanted => std::future::pending().await,
        }
    }
}

impl<'a, W: World> Run<'a, W> {
    pub(super) fn views(&self) -> Views<'a> {
        match self.order.drill {
            true => Views::Unwanted,
            false => Views::Stale(self.now(), None),
        }
    }

    /// Begins a refresh where one is due.
    pub(super) fn keep_fresh(&self, views: &mut Views<'a>) {
        let (order, world, now) = (self.order, self.world, self.now());
        if views.is_due(now) {
            let refresh = world.replication().refresh(&order.accepts);
            *views = Views::Refreshing(now, Box::pin(refresh));
        }
    }

    /// What a refresh has come to. A view that can't be refreshed does not mend itself.
    pub(super) fn after_refresh(
        &mut self,
        views: &Views<'_>,
        refreshed: PortResult<Refreshed>,
    ) -> Result<Views<'a>, Stop> {
        let now = self.now();
        let took = match views {
            Views::Refreshing(began, _) => now.duration_since(*began),
            Views::Stale(..) | Views::Fresh(..) | Views::Unwanted => Duration::ZERO,
        };
        let until = now + GOOD + self.order.hold_for + 3 * took;
        match refreshed {
            Ok(Refreshed::Nothing) => Ok(Views::Fresh(until, None)),
            Ok(Refreshed::Done(done)) => Ok(Views::Fresh(until, Some(done))),
            Ok(Refreshed::Refused(check)) => {
                let stop = precheck_failed(&check, 1);
                self.checks.push(check);
                Err(stop)
            }
            Err(error) => {
                let why = format!("{} ({})", error.what, error.place);
                Ok(Views::Stale(now + AGAIN, Some(why)))
            }
        }
    }
}
