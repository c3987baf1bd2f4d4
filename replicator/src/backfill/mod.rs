//! The copy of what is there already: rows through COPY, from one snapshot, many at a time.

mod analyze;
mod chunks;
mod claim;
mod config;
mod contention;
pub(crate) mod copied_at;
mod counters;
mod emptying;
mod error;
pub(crate) mod guard;
pub mod mysql;
mod pacing;
pub(crate) mod progress;
mod render;
mod run;
mod setting;
mod throttle;
pub(crate) mod tuning;
mod worker;

pub use analyze::analyze;
pub use claim::{cleanup, record_copied};
pub use config::CopyConfig;
pub use error::BackfillError;
pub use progress::{
    BackfillProgress, Phase, ProgressSender, Steps, TableProgress, TableState, Total,
};
pub use render::render;
pub use run::{Backfill, Columns, CopiedTable, LeftTable, Summary, TableEvent, TableEvents};
pub use setting::Setting;

use std::future::Future;

use tokio::sync::watch;

/// Becomes true when everything has to stop. A dropped sender means the same.
pub type Cancel = watch::Receiver<bool>;

/// Waits for the request to stop.
pub(crate) async fn cancelled(cancel: &Cancel) {
    let mut cancel = cancel.clone();
    // An error means that nobody is left who could want the result.
    let _ = cancel.wait_for(|stop| *stop).await;
}

/// `work`, unless the request to stop comes first.
pub(crate) async fn unless_cancelled<T>(
    cancel: &Cancel,
    work: impl Future<Output = Result<T, BackfillError>>,
) -> Result<T, BackfillError> {
    tokio::select! {
        biased;
        () = cancelled(cancel) => Err(BackfillError::Cancelled),
        result = work => result,
    }
}
