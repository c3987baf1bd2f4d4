//! No way back: for pipelines without a stream from the new side to the old one.

use std::time::Duration;

use decoders::Lsn;
use tokio::time::Instant;

use crate::api::{Act, Check};
use crate::evidence::Committed;
use crate::marker::Token;
use crate::ports::{MarkerDecoded, MarkerWritten, PortError, PortResult, Standby, WayBackStream};

/// What is left of [`WayBackStream`] when nothing streams back. Only runs that waive the way back
/// go through; they never ask it for anything but its state.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoWayBack;

fn absent<T>() -> PortResult<T> {
    Err(PortError::new("way back", "nothing streams back from the new side to the old one")
        .remedy("cut over without a way back: --no-way-back"))
}

impl WayBackStream for NoWayBack {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        absent()
    }

    async fn arm(&self, _token: &Token, _deadline: Instant) -> PortResult<String> {
        absent()
    }

    fn standby(&self) -> Standby {
        Standby { blocked: Some("nothing streams back".into()), ..Standby::default() }
    }

    async fn mark(&self, _token: &Token, _deadline: Instant) -> PortResult<MarkerWritten> {
        absent()
    }

    async fn await_decoded(&self, _token: &Token, _: Instant) -> PortResult<MarkerDecoded> {
        absent()
    }

    async fn turn(&self, _proof: &Committed, _token: &Token, _since: Lsn) -> PortResult<()> {
        absent()
    }

    async fn beat(&self, _token: &Token, _deadline: Instant) -> PortResult<Duration> {
        absent()
    }

    fn describe(&self) -> Vec<Act> {
        Vec::new()
    }
}
