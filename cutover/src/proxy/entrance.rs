//! Past the gate with a client that has no session yet.

use super::gate::{Gate, Gates, Presence, Standing};

/// Waits while clients are held.
pub(super) async fn pass_gate(gates: &Gates, presence: &Presence) -> Gate {
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
