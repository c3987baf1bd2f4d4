//! Leases: compare-and-set rows, each on its server.

use std::time::Duration;

use tokio::time::Instant;

use super::super::process::Link;
use super::super::world::{SimLease, State};
use super::{LEASE, SimLink, soon};
use crate::ports::{Epoch, Lease, LeaseRow, Nature, PortError, PortResult};
use crate::side::Side;

impl Lease for SimLink {
    async fn acquire(&self, epoch: Epoch) -> PortResult<()> {
        let to = self.direction.to();
        let mut seen: Option<(SimLease, Instant)> = None;
        loop {
            let sent = Instant::now();
            let found = self.lease_row(to).await?;
            let is_free = found.as_ref().is_none_or(|row| {
                row.directory.is_none() || row.directory == Some(self.link.process.directory)
            });
            let is_stale = match (&found, &seen) {
                (Some(row), Some((before, since))) if row == before => sent - *since > LEASE,
                (Some(row), Some((before, _))) if row.directory == before.directory => {
                    return Err(held_by_another());
                }
                _ => false,
            };
            if (is_free || is_stale) && take_lease(&self.link, to, found.clone(), epoch).await? {
                break;
            }
            if let Some(row) = found
                && seen.as_ref().is_none_or(|(before, _)| *before != row)
            {
                seen = Some((row, Instant::now()));
            }
            self.link.process.sleep(Duration::from_millis(200)).await;
        }
        self.link.process.watch(&self.link.shared);
        Ok(())
    }
    fn left(&self) -> Duration {
        let (until, _, _) = *self.link.process.lease.lock().unwrap();
        until.saturating_duration_since(Instant::now()).min(self.link.process.left())
    }
    async fn renew(&self) -> PortResult<()> {
        renew(&self.link).await
    }
    async fn look(&self, _: Instant) -> PortResult<Option<LeaseRow>> {
        let row = self.lease_row(self.direction.to()).await?;
        let holder = |row: &SimLease| {
            row.directory.map(|directory| directory.to_string()).unwrap_or_default()
        };
        Ok(row.map(|row| LeaseRow { epoch: row.epoch, holder: holder(&row) }))
    }
    async fn inherit(&self, from: &LeaseRow) -> PortResult<bool> {
        let (to, ours) = (self.direction.to(), self.link.process.directory);
        let mut seen: Option<(SimLease, Instant)> = None;
        loop {
            let sent = Instant::now();
            let Some(found) = self.lease_row(to).await? else { return Ok(false) };
            let is_ours = found.directory == Some(ours);
            let is_his = found.directory.is_some_and(|holder| holder.to_string() == from.holder);
            if found.epoch != from.epoch || !(is_ours || is_his) {
                return Ok(false);
            }
            let is_stale = match &seen {
                Some((row, _)) if *row != found => return Err(held_by_another()),
                Some((_, since)) => sent - *since > LEASE,
                None => false,
            };
            if (is_ours || is_stale)
                && take_lease(&self.link, to, Some(found.clone()), from.epoch).await?
            {
                return Ok(true);
            }
            seen.get_or_insert((found, Instant::now()));
            self.link.process.sleep(Duration::from_millis(200)).await;
        }
    }
    async fn release(&self) {
        self.link.process.go_on().await;
        self.link.process.unwatch(&self.link.shared);
        let side = {
            let mut held = self.link.process.lease.lock().unwrap();
            if held.2.take().is_none() {
                return;
            }
            held.1
        };
        let ours = self.link.process.directory;
        let release = move |state: &mut State| {
            let row = state.side(side).lease.as_mut();
            if let Some(row) = row.filter(|row| row.directory == Some(ours)) {
                row.directory = None;
                row.renewal += 1;
            }
            Ok(())
        };
        let deadline = Instant::now() + Duration::from_secs(1);
        // Whoever wants it waits until it has run out.
        let _unheard = self.link.act("give_lease_back", Some(side), deadline, release).await;
    }
}

impl SimLink {
    async fn lease_row(&self, side: Side) -> PortResult<Option<SimLease>> {
        let row = move |state: &mut State| Ok(state.side(side).lease.clone());
        self.link.act("read_lease", Some(side), soon(), row).await
    }
}

fn held_by_another() -> PortError {
    PortError::new("lease", "another sidecar acts").of(Nature::Superseded)
}

/// Compare-and-set; counted from before the statement was sent.
async fn take_lease(
    link: &Link,
    side: Side,
    found: Option<SimLease>,
    epoch: Epoch,
) -> PortResult<bool> {
    let (sent, directory) = (Instant::now(), link.process.directory);
    let take = move |state: &mut State| {
        let row = &mut state.side(side).lease;
        if *row != found {
            return Ok(false);
        }
        let renewal = found.map_or(0, |row| row.renewal) + 1;
        *row = Some(SimLease { directory: Some(directory), epoch, renewal });
        Ok(true)
    };
    let is_ours = link.act("take_lease", Some(side), soon(), take).await?;
    if is_ours {
        *link.process.lease.lock().unwrap() = (sent + LEASE, side, Some(epoch));
    }
    Ok(is_ours)
}

/// Counted from before the statement was sent.
pub async fn renew(link: &Link) -> PortResult<()> {
    let sent = Instant::now();
    let (_, side, epoch) = *link.process.lease.lock().unwrap();
    let Some(epoch) = epoch else { return Ok(()) };
    let directory = Some(link.process.directory);
    let renew = move |state: &mut State| {
        let row = state.side(side).lease.as_mut();
        let row = row.filter(|row| row.directory == directory && row.epoch == epoch);
        Ok(row.map(|row| row.renewal += 1).is_some())
    };
    let is_ours = link.act("renew", Some(side), sent + Duration::from_secs(1), renew).await?;
    let mut held = link.process.lease.lock().unwrap();
    if held.2 == Some(epoch) {
        held.0 = if is_ours { sent + LEASE } else { Instant::now() };
    }
    Ok(())
}
