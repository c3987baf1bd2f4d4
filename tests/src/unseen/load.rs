//! Rows that are written while the catalog changes. A statement that a change made impossible is
//! counted and not repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::postgres::connect_url;
use crate::stage::{APP, DATABASE, Stage};

const STATEMENTS: [&str; 10] = [
    "INSERT INTO customer (name) VALUES ('new')",
    "UPDATE customer SET feeling = 'happy' WHERE id = 1 + floor(random() * 100)::int",
    "UPDATE item SET qty = qty + 1 WHERE id = 1 + floor(random() * 50)::int",
    "INSERT INTO sales.orders SELECT max(id) + 1, 1, 1, 7 FROM sales.orders",
    "UPDATE wide SET a = a + 1 WHERE id = 1 + floor(random() * 500)::int",
    "UPDATE keyless SET y = y || '.' WHERE x = 1 + floor(random() * 50)::int",
    "UPDATE spare SET v = v || '.' WHERE id = 1 + floor(random() * 100)::int",
    "UPDATE measure SET v = v + 1 WHERE at = 1 + floor(random() * 1999)::int",
    "DELETE FROM sales.orders WHERE id = floor(random() * 300)::int",
    "UPDATE parent SET v = v || '.' WHERE id = floor(random() * 120)::int",
];

/// A client that writes until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl Load {
    pub async fn start(stage: &Stage) -> Result<Load> {
        let client = connect_url(&stage.blue.url_as(APP, DATABASE)).await?;
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let task = tokio::spawn(async move {
            for statement in STATEMENTS.iter().cycle() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                match client.batch_execute(statement).await {
                    Ok(()) => count.fetch_add(1, Ordering::SeqCst),
                    Err(error) if error.as_db_error().is_some() => 0,
                    Err(error) => return Err(error.into()),
                };
                // At most some hundred a second: two cores carry servers and sidecar, too.
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
            Ok(())
        });
        Ok(Load { stop, written, task })
    }

    /// Lets it finish its statement. How many were committed.
    pub async fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await??;
        Ok(self.written.load(Ordering::SeqCst))
    }
}
