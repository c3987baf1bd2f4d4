//! The checkpoint thread: writes how far green is, one synced write for all that waited.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use decoders::source::Positions;
use tokio::sync::{Notify, watch};

use super::frontier::Frontier;
use crate::store::{Checkpoint, Store, StoreError};

/// The thread rests so long behind a write; what is applied meanwhile is covered by the next one.
/// At 500 transactions a second, a write for each took as much CPU as applying them. A marker that
/// falls into the rest becomes durable so much later, within a write pause.
const REST: Duration = Duration::from_millis(10);

/// Writes checkpoints until `wake`'s senders are gone. `written` hears of each; `positions` knows
/// what is written in the source's own terms, where they are others.
///
/// # Errors
/// The store's: a full disk, for instance. Green is not affected; blue keeps its log.
pub fn run(
    store: &Store,
    progress: &Arc<watch::Sender<Frontier>>,
    written: &Notify,
    wake: &Receiver<()>,
    positions: Option<&dyn Positions>,
) -> Result<(), StoreError> {
    while wake.recv().is_ok() {
        let frontier = *progress.borrow();
        if frontier.applied() > frontier.durable() {
            store.save_checkpoint(&Checkpoint {
                durable: frontier.applied(),
                applied_transaction: frontier.applied_transaction(),
                position: positions.and_then(|known| known.in_own_terms(frontier.applied())),
            })?;
            progress.send_modify(|now| now.checkpointed(frontier.applied()));
            written.notify_one();
            std::thread::sleep(REST);
        }
    }
    Ok(())
}
