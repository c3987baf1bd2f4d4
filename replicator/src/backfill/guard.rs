//! Work on servers that ends when it is no longer wanted.

use std::future::Future;
use std::time::Duration;

use decoders::postgres::session::Canceller;

use super::{BackfillError, Cancel, cancelled};

/// How long a request to stop waits for servers to hear of it. A server that does not answer
/// notices the closed connection later.
const CANCEL_DEADLINE: Duration = Duration::from_millis(500);

/// Cancels statements if it is dropped before it is told that they have ended.
struct Armed(Option<Vec<Canceller>>);

impl Drop for Armed {
    fn drop(&mut self) {
        if let Some(cancellers) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(cancel_all(cancellers));
        }
    }
}

async fn cancel_all(cancellers: Vec<Canceller>) {
    let requests = cancellers.iter().map(|canceller| async {
        match tokio::time::timeout(CANCEL_DEADLINE, canceller.cancel()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a statement could not be cancelled"),
            Err(_) => tracing::debug!("a statement could not be cancelled in time"),
        }
    });
    futures_util::future::join_all(requests).await;
}

/// Runs `work`, whose statements the `cancellers` can stop. On a request to stop they are
/// cancelled before this returns; if this future is dropped, soon after.
pub(crate) async fn guarded<T>(
    cancellers: Vec<Canceller>,
    cancel: &Cancel,
    work: impl Future<Output = T>,
) -> Result<T, BackfillError> {
    let mut armed = Armed(Some(cancellers));
    tokio::select! {
        biased;
        () = cancelled(cancel) => {
            if let Some(cancellers) = armed.0.take() {
                cancel_all(cancellers).await;
            }
            Err(BackfillError::Cancelled)
        }
        result = work => {
            armed.0 = None;
            Ok(result)
        }
    }
}
