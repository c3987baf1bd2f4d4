//! Rows that are written while the catalog changes. A statement that a change made impossible is
//! counted and not repeated.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

/// A session that writes.
pub trait Writer: Send + 'static {
    /// Runs one statement. Whether the server took it; an error is one of the connection.
    fn write(&mut self, statement: &str) -> impl Future<Output = Result<bool>> + Send;
}

/// A client that writes until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl Load {
    /// Runs the statements one after the other, again and again.
    pub fn start(mut writer: impl Writer, statements: &'static [&'static str]) -> Load {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let task = tokio::spawn(async move {
            for statement in statements.iter().cycle() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let taken = writer.write(statement).await?;
                count.fetch_add(u64::from(taken), Ordering::SeqCst);
                // At most some hundred a second: two cores carry servers and sidecar, too.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            Ok(())
        });
        Load { stop, written, task }
    }

    /// Lets it finish its statement. How many were committed.
    pub async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await??;
        Ok(self.written.load(Ordering::SeqCst))
    }
}
