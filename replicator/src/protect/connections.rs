//! How many connections blue may be asked for, in one place.
//!
//! | session on blue | how many | counted here |
//! |---|---|---|
//! | probes: head (every 100 ms), slot (every s) | 2 | no, always there |
//! | slot creation, then the stream (a walsender) | 1 | no, always there |
//! | set-up, then the watch for schema changes | 1 | no, always there |
//! | short ones: catalogs, teardown of what is left over | 1 | no, one at a time |
//! | the schema's set-up, and two pg_dump at once | 3 | yes, before the rows |
//! | the copy's keeper of snapshot and locks | 1 | yes |
//! | copy workers | the rest | yes |
//!
//! A cutover uses the connections that the copy has given back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ProtectConfig;
use crate::backfill::CopyConfig;
use crate::backfill::tuning::WORKERS_MAX;

/// Connections that are always there or come one at a time; see the table above.
pub(crate) const BESIDES_THE_COPY: usize = 5;
/// Fewest connections that are asked for, whatever blue's `max_connections`.
const TOTAL_MIN: usize = BESIDES_THE_COPY + 3;

/// Permission to be connected to blue; given back when dropped.
pub type Permit = OwnedSemaphorePermit;

/// The connections that schema and copy may take at the same time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlueConnections {
    free: Arc<Semaphore>,
    count: usize,
    /// The operator has said how many, so blue's own limits are his business.
    is_configured: bool,
}

impl BlueConnections {
    /// As configured. What is left to us is bounded again by what blue reports
    /// ([`BlueConnections::room`]).
    pub fn new(protect: &ProtectConfig, copy: &CopyConfig) -> Self {
        let total = protect
            .blue_connections
            .fixed()
            .map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let workers = copy.workers.count_or(WORKERS_MAX);
        let total = total.unwrap_or(workers.saturating_add(BESIDES_THE_COPY + 1)).max(TOTAL_MIN);
        let count = (total - BESIDES_THE_COPY).min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(count)),
            count,
            is_configured: protect.blue_connections.fixed().is_some()
                || copy.workers.fixed().is_some(),
        }
    }

    /// Workers that the copy may have besides its keeper, if blue allows `max_connections` in all.
    pub(crate) fn room(&self, max_connections: usize) -> usize {
        let most = match self.is_configured {
            true => self.count,
            false => self.count.min((max_connections / 10).max(TOTAL_MIN) - BESIDES_THE_COPY),
        };
        most.saturating_sub(1).max(1)
    }

    /// Waits until one more connection may be made.
    pub async fn permit(&self) -> Permit {
        self.permits(1).await
    }

    /// Waits until `count` more may be made; never more than there are in all.
    pub async fn permits(&self, count: usize) -> Permit {
        let count = u32::try_from(count.min(self.count)).unwrap_or(u32::MAX);
        match Arc::clone(&self.free).acquire_many_owned(count).await {
            Ok(permit) => permit,
            // Nobody closes it. If somebody did, nobody would get through any more.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Default for BlueConnections {
    fn default() -> Self {
        Self::new(&ProtectConfig::default(), &CopyConfig::default())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::backfill::Setting;

    fn connections(total: Setting, workers: Setting) -> BlueConnections {
        BlueConnections::new(
            &ProtectConfig { blue_connections: total, ..ProtectConfig::default() },
            &CopyConfig { workers, ..CopyConfig::default() },
        )
    }

    #[test]
    fn the_copy_gets_what_is_left() {
        let auto = connections(Setting::Auto, Setting::Auto);
        assert_eq!((auto.room(100), auto.room(1_000), auto.room(20)), (4, WORKERS_MAX, 2));
        assert_eq!(connections(Setting::Fixed(12), Setting::Auto).room(100), 6);
        assert_eq!(connections(Setting::Auto, Setting::Fixed(20)).room(100), 20);
        assert_eq!(connections(Setting::Fixed(3), Setting::Auto).room(100), 2, "the least");
    }

    #[test]
    fn nobody_gets_one_too_many() {
        let connections = connections(Setting::Fixed(8), Setting::Auto);
        let three = connections.permits(3).now_or_never().unwrap();
        assert!(connections.permit().now_or_never().is_none());
        drop(three);
        assert!(connections.permit().now_or_never().is_some());
        assert!(connections.permits(100).now_or_never().is_some(), "all there are");
    }
}
