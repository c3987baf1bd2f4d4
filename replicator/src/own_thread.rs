//! Work whose sockets should wake nobody but itself.
//!
//! On the shared runtime whoever hears a socket may be another thread than the one that goes on with what
//! came, and a third one is woken to listen meanwhile. Each of them is a turn of the scheduler that a
//! small transaction waits for.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::oneshot;

/// How long its end waits for what blocks.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// Runs `work` on a thread with a runtime of its own, which both end with it. Connections belong to the
/// runtime that they are opened in: what is to last longer must not be opened in there.
///
/// Dropped before its end it drops `work`, over there and soon. A panic goes on here.
pub async fn on_own_thread<F: Future>(work: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F::Output: Send + 'static,
{
    let (_waits, mut left) = oneshot::channel::<Infallible>();
    let done = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the operating system refuses an epoll instance");
        let done = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = &mut left => None,
                done = work() => Some(done),
            }
        });
        // A name that is being looked up may take half a minute, and nobody wants to know any more.
        runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        done
    });
    match done.await {
        Ok(Some(done)) => done,
        Ok(None) => unreachable!("we hold the other end"),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_it_gives_comes_back() {
        let here = std::thread::current().id();
        let there = on_own_thread(|| async { std::thread::current().id() }).await;
        assert_ne!(here, there);
    }

    #[tokio::test]
    async fn who_leaves_takes_the_work_along() {
        let alive = Arc::new(());
        let (say, begun) = oneshot::channel();
        let held = Arc::clone(&alive);
        let work = on_own_thread(move || async move {
            let _held = held;
            let _ = say.send(());
            std::future::pending::<()>().await
        });
        tokio::select! {
            () = work => unreachable!("it has no end"),
            begun = begun => begun.unwrap(),
        }
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    #[should_panic(expected = "over there")]
    async fn a_panic_goes_on_here() {
        on_own_thread(|| async { panic!("over there") }).await
    }
}
