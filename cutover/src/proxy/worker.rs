//! Threads that serve clients. Each has a runtime of its own, so a client's bytes never wake another
//! thread on their way.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Engine, Shared};

/// A thread that serves clients.
pub(super) struct Worker {
    clients: mpsc::UnboundedSender<StdStream>,
    _thread: JoinHandle<()>,
}

impl Worker {
    /// Starts it. It ends, and its sessions with it, when its sender is dropped.
    ///
    /// # Errors
    /// The system has no thread or no epoll instance left.
    pub fn start<E: Engine>(shared: Arc<Shared<E>>, at: usize) -> io::Result<Self> {
        let (clients, mut arrivals) = mpsc::unbounded_channel::<StdStream>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = async move {
            while let Some(stream) = arrivals.recv().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(shared, stream).await {
                        tracing::debug!("a client's connection broke: {error}");
                    }
                });
            }
        };
        let thread = std::thread::Builder::new().name(format!("proxy-{at}"));
        let thread = thread.spawn(move || runtime.block_on(serving))?;
        Ok(Self { clients, _thread: thread })
    }
}

async fn serve<E: Engine>(shared: Arc<Shared<E>>, stream: StdStream) -> io::Result<()> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    E::serve(shared, stream).await
}

/// Hands clients to the workers in turn. Its end is theirs.
pub(super) async fn accept(listener: TcpListener, workers: Vec<Worker>) {
    let mut next = 0;
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| stream.into_std());
        match accepted {
            Ok(stream) => {
                next = (next + 1) % workers.len();
                if workers[next].clients.send(stream).is_err() {
                    tracing::error!("a thread of the proxy has stopped");
                }
            }
            Err(error) => {
                // Out of file descriptors, as a rule.
                tracing::warn!("a client could not be taken: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
