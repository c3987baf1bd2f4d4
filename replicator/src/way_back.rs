//! A stream as the way back of the runs that go in the other direction.

use std::time::Duration;

use cutover::api::{Act, Check};
use cutover::evidence::Committed;
use cutover::marker::Token;
use cutover::ports::{
    Leaks, MarkerDecoded, MarkerWritten, PortError, PortResult, Replication as _, Standby,
    WayBackStream,
};
use decoders::Lsn;
use tokio::time::Instant;

use crate::controlling::{EngineReplication, in_time, of_failure};
use crate::pipeline::route::Route;

/// A way back that is further behind is not ready, seconds.
const LAG_SECONDS_MAX: f64 = 1.0;

/// For triggers that can't be kept quiet but by removing them. It is tried again.
const QUIET_TIMEOUT: Duration = Duration::from_secs(10);

impl<R: Route> WayBackStream for EngineReplication<R> {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        let mut checks = self.route.inspect(&self.store).await?;
        checks.extend(self.look_for_strangers());
        Ok(checks)
    }

    async fn arm(&self, _token: &Token, deadline: Instant) -> PortResult<String> {
        let arming = async {
            let armed = self.route.arm(&self.store, &self.shared).await;
            let armed = armed.map_err(|failure| of_failure(self.route.put(failure)))?;
            self.route.open_marker().await?;
            self.becomes_hot().await?;
            Ok(armed)
        };
        let armed = tokio::time::timeout_at(deadline, arming).await;
        armed.unwrap_or_else(|_| {
            let why = self.standby().blocked.unwrap_or_else(|| "it has no reason to give".into());
            Err(PortError::new("way back", format!("it was not ready in time: {why}")))
        })
    }

    fn standby(&self) -> Standby {
        let lag = self.shared.lag_now();
        let blocked = match lag.seconds {
            _ if !*self.shared.hot.borrow() => {
                let doing = || format!("it does not stream ({})", self.shared.phase().name());
                Some(self.shared.trouble().unwrap_or_else(doing))
            }
            None => Some("its lag is not known".into()),
            Some(seconds) if seconds > LAG_SECONDS_MAX => {
                Some(format!("it is {seconds:.1} s behind"))
            }
            Some(_) => None,
        };
        Standby { blocked, foreign: self.foreign() }
    }

    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        let written = tokio::time::timeout_at(deadline, self.route.mark(token)).await;
        let (xid, _) = written.map_err(|_| self.late(&format!("the marker {token}")))??;
        Ok(MarkerWritten::new(token.clone(), xid))
    }

    async fn await_decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        cutover::ports::Replication::await_decoded(self, token, deadline).await
    }

    async fn turn(&self, proof: &Committed, token: &Token, since: Lsn) -> PortResult<()> {
        if proof.to() != self.route.direction().from() {
            return Err(PortError::new(
                "stream",
                format!("{} serves, and this stream does not leave it", proof.to()),
            ));
        }
        let deadline = Instant::now() + QUIET_TIMEOUT;
        let quiet = in_time("removing triggers", deadline, self.route.quiet_automation()).await;
        match quiet.and_then(|quiet| quiet.map_err(|failure| of_failure(self.route.put(failure)))) {
            Ok(None) => {}
            Ok(Some(done)) => tracing::info!("{done}"),
            Err(error) if self.route.quiets_by_itself() => {
                tracing::warn!(place = error.place, "to be tried again by the stream: {error}");
            }
            Err(error) => return Err(error),
        }
        let (store, marker) = (self.store.clone(), token.clone());
        let turned = tokio::task::spawn_blocking(move || store.turn(&marker, since)).await;
        let turned =
            turned.map_err(|error| PortError::new("state directory", error.to_string()))?;
        turned.map_err(|error| {
            PortError::new("state directory", error.to_string())
                .remedy(error.remedy())
                .caused_by(error)
        })?;
        // First the one that must not apply any more.
        self.peer.stand_by(token, since);
        self.shared.carry();
        Ok(())
    }

    async fn beat(&self, token: &Token, deadline: Instant) -> PortResult<Duration> {
        let began = Instant::now();
        let arriving = async {
            let (_, end) = self.route.mark(token).await?;
            let end = self.route.position(end).await;
            let mut progress = self.shared.progress.subscribe();
            let arrived = progress.wait_for(|frontier| frontier.durable() >= end).await;
            arrived.map(drop).map_err(|_| PortError::new("stream", "the engine is gone"))
        };
        let arrived = tokio::time::timeout_at(deadline, arriving).await;
        arrived.map_err(|_| {
            let trouble = self.shared.trouble().map_or(String::new(), |why| format!(": {why}"));
            let late = self.late(&format!("the sign of life {token}"));
            PortError::new(late.place, format!("{}{trouble}", late.what))
        })??;
        Ok(began.elapsed())
    }

    fn describe(&self) -> Vec<Act> {
        self.route.describe()
    }

    fn turning(&self) -> Vec<Act> {
        self.route.quieting()
    }
}

impl<R: Route> EngineReplication<R> {
    /// Row changes that came although the stream stands by.
    fn foreign(&self) -> Leaks {
        match *self.shared.carries.borrow() {
            true => Leaks::default(),
            false => self.leaks(),
        }
    }

    /// Whether somebody else has written to the side that must not be written, as far as this
    /// stream has read. Nothing while nobody reads.
    fn look_for_strangers(&self) -> Option<Check> {
        const NAME: &str = "foreign-writes";
        let direction = self.route.direction();
        let (source, target) = (direction.from(), direction.to());
        if *self.shared.carries.borrow() || !*self.shared.hot.borrow() {
            return None;
        }
        let foreign = self.foreign();
        if foreign.count == 0 {
            let seen = format!("nobody else has written to {source} since the way back was armed");
            return Some(Check::ok(NAME, seen));
        }
        Some(Check::fail(
            NAME,
            format!(
                "{source} was written by somebody else: {} row changes, the first: {}. {source} may \
                 differ from {target} there",
                foreign.count,
                foreign.first.as_deref().unwrap_or("unknown")
            ),
            format!(
                "find out who writes to {source}, and make its rows equal to {target}'s again. Then \
                 say so: {}; the next run arms the way back anew",
                self.route.rearming()
            ),
        ))
    }

    /// Waits until the stream has read everything that was there when it began to wait.
    async fn becomes_hot(&self) -> PortResult<()> {
        let gone = || PortError::new("stream", "the engine is gone");
        let mut hot = self.shared.hot.subscribe();
        hot.wait_for(|hot| *hot).await.map_err(|_| gone())?;
        let head = self.route.position(self.route.head().await?).await;
        let mut progress = self.shared.progress.subscribe();
        // Foreign changes are held, and what is behind them is only received.
        progress.wait_for(|frontier| frontier.received() >= head).await.map_err(|_| gone())?;
        Ok(())
    }
}
