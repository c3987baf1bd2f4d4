//! The end of a session on either side, whatever it speaks, and how long a move is tried.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::pump::Leftover;
use super::stream::ClientStream;

/// How long a move is tried again when the other side says that it can't just now.
pub(super) const MOVE_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
pub(super) const MOVE_PAUSE: Duration = Duration::from_millis(20);
/// How long an end may take: a client that is cut reads why, a server hears that its session is over.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// Gives a client what is left for it, and closes.
pub(super) async fn farewell(left: &mut Leftover, client: &mut ClientStream) {
    let ending = async {
        std::future::poll_fn(|cx| left.drain(cx, client)).await?;
        client.shutdown().await
    };
    match tokio::time::timeout(ENDING_MAX, ending).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a client was gone first: {error}"),
        Err(_) => tracing::debug!("a client does not read"),
    }
}

/// Tells a server that its session is over, in its own words. It may be gone, and nobody waits for it.
pub(super) async fn hang_up(mut server: impl AsyncWrite + Unpin, words: &[u8]) {
    let ended = async {
        server.write_all(words).await?;
        server.shutdown().await
    };
    let ended: Result<io::Result<()>, _> = tokio::time::timeout(ENDING_MAX, ended).await;
    if let Ok(Err(error)) = ended {
        tracing::trace!("the session was closed already: {error}");
    }
}
