//! The checkpoint thread: writes how far green is, one synced write for all that waited.

use std::sync::Arc;

use crossbeam_channel::Receiver;
use tokio::sync::watch;

use super::frontier::Frontier;
use crate::store::{Checkpoint, Store, StoreError};

/// Writes checkpoints until `wake`'s senders are gone.
///
/// A synced write takes about 3 ms; what is applied meanwhile is covered by the next one, so the
/// grouping needs no timer.
///
/// # Errors
/// The store's: a full disk, for instance. Green is not affected; blue keeps its log.
pub fn run(
    store: &Store,
    progress: &Arc<watch::Sender<Frontier>>,
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
        }
    }
    Ok(())
}
