//! The checkpoint thread: writes how far green is, one synced write for all that waited.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use decoders::source::Positions;
use tokio::sync::{Notify, watch};

use super::frontier::Frontier;
use super::marker::MarkerGate;
use crate::store::{Checkpoint, Store, StoreError};

/// The thread rests so long behind a write; what is applied meanwhile is covered by the next one.
/// At 500 transactions a second, a write for each took as much CPU as applying them.
const REST: Duration = Duration::from_millis(10);

/// Who calls the thread.
pub struct Calls {
    /// Something was applied.
    pub wake: Receiver<()>,
    /// Ends a rest: somebody waits.
    pub hurry: Receiver<()>,
    /// There is no rest while a marker is awaited: who waits for that does so within a write pause.
    pub gate: MarkerGate,
}

/// Writes checkpoints until the senders of wakes are gone. `written` hears of each; `positions` knows
/// what is written in the source's own terms, where they are others.
///
/// # Errors
/// The store's: a full disk, for instance. Green is not affected; blue keeps its log.
pub fn run(
    store: &Store,
    progress: &Arc<watch::Sender<Frontier>>,
    written: &Notify,
    calls: &Calls,
    positions: Option<&dyn Positions>,
) -> Result<(), StoreError> {
    while calls.wake.recv().is_ok() {
        let frontier = *progress.borrow();
        if frontier.applied() > frontier.durable() {
            store.save_checkpoint(&Checkpoint {
                durable: frontier.applied(),
                applied_transaction: frontier.applied_transaction(),
                position: positions.and_then(|known| known.in_own_terms(frontier.applied())),
            })?;
            progress.send_modify(|now| now.checkpointed(frontier.applied()));
            written.notify_one();
            if !calls.gate.is_armed() {
                // Nobody is in a hurry, or nobody can be any more.
                let _ = calls.hurry.recv_timeout(REST);
            }
        }
    }
    Ok(())
}
