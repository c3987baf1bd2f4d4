//! What is left of the engine where there is none.

use cutover::evidence::Committed;
use cutover::lag::LagReading;
use cutover::marker::Token;
use cutover::ports::{
    Handed, Leaks, MarkerDecoded, MarkerDurable, Obstacle, PortError, PortResult, Progress,
    Replication,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::controlling::{in_time, of_failure};
use crate::pipeline::failure::Failure;
use crate::pipeline::{TriggersAlone, mysql};
use crate::schema::mysql::Automation;

/// What a watchdog brings to the side that opens, by what is noted there.
pub enum Brings {
    /// Triggers and events of MySQL and MariaDB.
    Mysql(Box<Automation>),
    /// The states of PostgreSQL's triggers and rules.
    Postgres(Box<TriggersAlone>),
}

/// A watchdog has no stream; what would need one is left to the next sidecar.
pub struct NoEngine {
    progress: watch::Sender<Progress>,
    brings: Brings,
}

impl NoEngine {
    /// With what it brings to the side that opens.
    pub fn new(brings: Brings) -> Self {
        let lag = LagReading {
            at: Instant::now(),
            seconds: None,
            bytes: None,
            transactions: 0,
            drain_estimate_seconds: None,
            reason: Some("a watchdog has no engine".into()),
        };
        let blocked = lag.reason.clone().map(Obstacle::passing);
        let progress = Progress { lag, blocked, transactions_per_second: None };
        Self { progress: watch::Sender::new(progress), brings }
    }
}

fn absent<T>() -> PortResult<T> {
    Err(PortError::new("stream", "a watchdog has no engine")
        .remedy("start the sidecar: replicator run"))
}

impl Replication for NoEngine {
    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
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

    async fn hand_over(&self, _proof: &Committed, deadline: Instant) -> PortResult<Handed> {
        let bringing = async {
            match &self.brings {
                Brings::Mysql(automation) => Ok(mysql::handed(automation.bring().await?)),
                Brings::Postgres(triggers) => triggers.bring().await,
            }
        };
        let made = in_time("making triggers and events", deadline, bringing).await?;
        made.map_err(|failure: Failure| of_failure(failure))
    }

    async fn finish(&self, _token: &Token) -> PortResult<()> {
        absent()
    }
}
