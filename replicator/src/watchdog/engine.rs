//! What is left of the engine where there is none.

use cutover::lag::LagReading;
use cutover::marker::Token;
use cutover::ports::{
    Leaks, MarkerDecoded, MarkerDurable, PortError, PortResult, Progress, Replication,
};
use tokio::sync::watch;
use tokio::time::Instant;

/// A watchdog has no stream; what would need one is left to the next sidecar.
pub struct NoEngine(watch::Sender<Progress>);

impl Default for NoEngine {
    fn default() -> Self {
        let lag = LagReading {
            at: Instant::now(),
            seconds: None,
            bytes: None,
            transactions: 0,
            drain_estimate_seconds: None,
            reason: Some("a watchdog has no engine".into()),
        };
        let blocked = lag.reason.clone();
        Self(watch::Sender::new(Progress { lag, blocked, transactions_per_second: None }))
    }
}

fn absent<T>() -> PortResult<T> {
    Err(PortError::new("stream", "a watchdog has no engine")
        .remedy("start the sidecar: replicator run"))
}

impl Replication for NoEngine {
    fn progress(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    async fn arm(&self, _token: &Token) -> PortResult<()> {
        absent()
    }

    async fn await_marker(&self, _token: &Token, _deadline: Instant) -> PortResult<MarkerDurable> {
        absent()
    }

    async fn await_decoded(&self, _token: &Token, _deadline: Instant) -> PortResult<MarkerDecoded> {
        absent()
    }

    fn leaks(&self) -> Leaks {
        Leaks::default()
    }

    async fn release(&self, _token: &Token) -> PortResult<()> {
        // The one that was armed has died with its process.
        Ok(())
    }

    async fn finish(&self, _token: &Token) -> PortResult<()> {
        absent()
    }
}
