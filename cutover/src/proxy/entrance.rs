//! Past the gate with a client that has no session yet.

use std::time::Duration;

use tokio::time::Instant;
use tokio::time::error::Elapsed;

use super::gate::{Gate, Gates, Presence, Standing};

/// Until when a client has to have logged in. The time that it is held does not count.
pub(super) struct Patience {
    until: Instant,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { until: Instant::now() + limit }
    }

    /// Does something of the login.
    ///
    /// # Errors
    /// It has taken too long.
    pub async fn limit<T>(&self, doing: impl Future<Output = T>) -> Result<T, Elapsed> {
        tokio::time::timeout_at(self.until, doing).await
    }

    /// Waits while clients are held.
    pub async fn pass_gate(&mut self, gates: &Gates, presence: &Presence) -> Gate {
        let began = Instant::now();
        let gate = pass_gate(gates, presence).await;
        self.until += began.elapsed();
        gate
    }
}

async fn pass_gate(gates: &Gates, presence: &Presence) -> Gate {
    loop {
        let gate = gates.now();
        gates.seen(&presence.handle, gate.generation, Standing::Entering);
        if gate.hold.is_none() {
            return gate;
        }
        gates.changed(&presence.handle, gate.generation).await;
    }
}

/// Does something while the gate may change. `None`: clients belong elsewhere now.
pub(super) async fn beside_gate<T>(
    gates: &Gates,
    presence: &Presence,
    mut gate: Gate,
    doing: impl Future<Output = T>,
) -> Option<T> {
    let side = gate.side;
    gates.seen(&presence.handle, gate.generation, Standing::LoggingIn);
    let mut doing = std::pin::pin!(doing);
    loop {
        tokio::select! {
            done = &mut doing => return Some(done),
            () = gates.changed(&presence.handle, gate.generation) => {
                gate = gates.now();
                if gate.side != side {
                    return None;
                }
                gates.seen(&presence.handle, gate.generation, Standing::LoggingIn);
            }
        }
    }
}
