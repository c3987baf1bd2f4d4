//! Threads that serve clients. Each has a runtime of its own, so a client's bytes never wake another
//! thread on their way.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::arrivals::{Arrival, Arrivals, Full};
use super::descriptors::{Spare, are_exhausted};
use super::{Engine, Shared};

/// After this long without a word it is asked whether the client is still there, this often and this
/// many times. One that is lost without a word would keep its session and locks for ever.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 6;
/// After a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are refused for the same reason are told of together, this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// A client on its way to a thread.
type Handover = (StdStream, Arrival);

/// A thread that serves clients.
pub(super) struct Worker {
    clients: mpsc::UnboundedSender<Handover>,
    _thread: JoinHandle<()>,
}

impl Worker {
    /// Starts it. It ends, and its sessions with it, when its sender is dropped. A session that
    /// panics ends alone.
    ///
    /// # Errors
    /// The system has no thread or no epoll instance left.
    pub fn start<E: Engine>(shared: Arc<Shared<E>>, at: usize) -> io::Result<Self> {
        let (clients, mut arrivals) = mpsc::unbounded_channel::<Handover>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = async move {
            while let Some((stream, arrival)) = arrivals.recv().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(shared, stream, &arrival).await {
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

async fn serve<E: Engine>(
    shared: Arc<Shared<E>>,
    stream: StdStream,
    arrival: &Arrival,
) -> io::Result<()> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    E::serve(shared, stream, arrival).await
}

/// Makes the system ask whether whoever is at the other end still is.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_COUNT);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Hands clients to the workers in turn. Its end is theirs.
pub(super) async fn accept<E: Engine>(
    listener: TcpListener,
    workers: Vec<Worker>,
    arrivals: Arc<Arrivals>,
) {
    let mut next = 0;
    let mut spare = Spare::keep();
    let mut refused = Refused::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if are_exhausted(&error) => {
                refused.tell("there is no file descriptor left; raise the limit (LimitNOFILE)");
                // It is still there to be taken.
                let taken = spare.lend(|| turn_away::<E>(&listener));
                if !taken {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
            Err(error) => {
                tracing::warn!("a client could not be taken: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let arrival = match arrivals.enter(from.ip()) {
            Ok(arrival) => arrival,
            Err(full) => {
                refused.tell(match full {
                    Full::All => {
                        "there are as many connections as cutover.proxy.clients_max allows"
                    }
                    Full::Address => "one address has as many connections as it may have",
                });
                refuse::<E>(&stream);
                continue;
            }
        };
        match stream.into_std() {
            Ok(stream) => {
                next = (next + 1) % workers.len();
                if workers[next].clients.send((stream, arrival)).is_err() {
                    tracing::error!("a thread of the proxy has stopped");
                }
            }
            Err(error) => tracing::warn!("a client could not be handed over: {error}"),
        }
    }
}

/// Takes a connection that waits already, and refuses it. Whether there was one.
fn turn_away<E: Engine>(listener: &TcpListener) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match listener.poll_accept(&mut context) {
        std::task::Poll::Ready(Ok((stream, _))) => {
            refuse::<E>(&stream);
            true
        }
        std::task::Poll::Ready(Err(_)) | std::task::Poll::Pending => false,
    }
}

/// Says that there are too many, as far as the socket takes it at once, and closes.
fn refuse<E: Engine>(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).send(&E::too_many()) {
        tracing::debug!("a client that was refused was gone first: {error}");
    }
}

/// Connections that were refused and that the log does not have yet.
#[derive(Default)]
struct Refused {
    count: u64,
    told: Option<Instant>,
}

impl Refused {
    fn tell(&mut self, why: &str) {
        self.count += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            tracing::error!(connections = self.count, "clients are refused: {why}");
            *self = Self { count: 0, told: Some(Instant::now()) };
        }
    }
}

#[cfg(test)]
mod tests;
