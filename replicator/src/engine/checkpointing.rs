//! The checkpoint thread: writes how far green is, one synced write for all that waited.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use decoders::Lsn;
use tokio::sync::watch;

use super::frontier::Frontier;
use crate::store::{Checkpoint, Store, StoreError};

/// The thread rests so long behind a write. What is applied meanwhile is covered by the next one;
/// at 500 transactions a second, a write for each takes more of the machine than applying does. A
/// marker becomes durable no later than this: what a write pause can bear.
const REST: Duration = Duration::from_millis(10);

/// Writes checkpoints until `wake`'s senders are gone. `durable` hears of each.
///
/// # Errors
/// The store's: a full disk, for instance. Green is not affected; blue keeps its log.
pub fn run(
    store: &Store,
    progress: &Arc<watch::Sender<Frontier>>,
    durable: &watch::Sender<Lsn>,
    wake: &Receiver<()>,
) -> Result<(), StoreError> {
    while wake.recv().is_ok() {
        let frontier = *progress.borrow();
        if frontier.applied() > frontier.durable() {
            store.save_checkpoint(&Checkpoint {
                durable: frontier.applied(),
                applied_transaction: frontier.applied_transaction(),
            })?;
            progress.send_modify(|now| now.checkpointed(frontier.applied()));
            durable.send_replace(frontier.applied());
            std::thread::sleep(REST);
        }
    }
    Ok(())
}
