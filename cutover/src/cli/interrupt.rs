//! ^C as a message, so that it never cuts through a run.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// From now on SIGINT no longer ends this process; each sends a `message()` instead.
pub fn forward<T: Send + 'static>(
    to: Sender<T>,
    message: impl Fn() -> T + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Registered here, not in the thread: after this function none is missed.
    let mut interrupts = {
        let _inside = runtime.enter();
        signal(SignalKind::interrupt())?
    };
    thread::Builder::new().name("interrupts".into()).spawn(move || {
        runtime.block_on(async {
            while interrupts.recv().await.is_some() {
                if to.send(message()).is_err() {
                    break;
                }
            }
        });
    })?;
    Ok(())
}
