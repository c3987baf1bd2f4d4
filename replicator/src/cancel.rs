//! A statement that nobody waits for any more is cancelled on its server, too.

use decoders::postgres::session::Session;

struct Running<'a> {
    session: &'a Session,
    answered: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (false, Ok(runtime)) = (self.answered, runtime) {
            let canceller = self.session.canceller();
            runtime.spawn(async move {
                if let Err(error) = canceller.cancel().await {
                    tracing::debug!("a cancel request could not be sent: {error}");
                }
            });
        }
    }
}

/// The answer to a statement that runs in `session`. Dropped before it is there, the statement is cancelled.
pub(crate) async fn cancelled_on_drop<T>(
    session: &Session,
    statement: impl Future<Output = T>,
) -> T {
    let mut running = Running { session, answered: false };
    let answer = statement.await;
    running.answered = true;
    answer
}
