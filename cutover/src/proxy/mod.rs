//! The embedded proxy: a TCP proxy that knows enough of PostgreSQL's protocol to hold every client
//! between two transactions and to take its session to the other side.
//!
//! ```text
//! listener   a connection: TLS, startup packet, gate, login passed on ----> session
//! session    in full flight | brought to rest | held | moved or cut
//!   frames, turns, talk     what the messages that pass by say about it
//!   inspect                 what its own server says that it carries
//!   login, scram, vouch,
//!   users                   getting in on the other side in its name
//!   replay                  the same session there
//! opposite   what is on the side that it does not lead to, before anybody goes there
//! gate       what all sessions look at: side, hold    <---- control: orders over a socket
//! ```
//!
//! A session is moved by asking, not by parsing: at rest, its own server is asked for its
//! settings, role and prepared statements, and for what ties it to that server (temporary objects,
//! advisory locks, LISTEN, cursors WITH HOLD, SQL's PREPARE). Who is tied, and who logs in with
//! something that the proxy can't repeat, is counted beforehand and cut at the flip with one
//! 57P01. What no server tells about a session is lost in a move, as with any pooler: `currval`,
//! `lastval`, seeds of random numbers, what procedural languages keep, and custom settings that
//! only functions set. Types that users have made have other OIDs on the other side: who has named
//! one in a Parse is tied, because a driver that does goes on doing it. What a driver has kept of
//! the *answers* - OIDs of result columns, of the elements of an array that it sends in binary -
//! passes by unseen and is out of date after a move.
//!
//! It is a process of its own (`replicator proxy`), so that no death of the sidecar touches a
//! client. Where it leads is in a file beside its control socket and outlives it; a hold does not.

mod admit;
mod cancel;
mod config;
pub mod control;
mod customs;
mod frames;
mod gate;
mod inspect;
mod listener;
mod login;
mod messages;
mod opposite;
mod replay;
mod scram;
mod session;
mod startup;
mod stream;
mod talk;
mod turns;
mod users;
mod vouch;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decoders::postgres::conninfo::{ConnInfo, TargetSessionAttrs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub use config::{InTransaction, ProxyConfig, ProxyTls};
pub use opposite::{End, Opposite, Server};

use crate::side::Side;
use cancel::Cancels;
use control::Orders;
use gate::Gates;
use listener::Worker;
use users::Users;

/// The proxy can't be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProxyError(String);

/// The two servers.
#[derive(Debug, Clone)]
struct Ends {
    blue: ConnInfo,
    green: ConnInfo,
}

impl Ends {
    fn of(&self, side: Side) -> &ConnInfo {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// Whether clients may ask for a database of this name.
    fn serves(&self, database: &[u8]) -> bool {
        Side::ALL.iter().any(|side| self.of(*side).dbname().as_bytes() == database)
    }
}

/// Why the proxy can't lead to what a connection string says. Which of several hosts is meant would
/// show only after a login, and the login is the client's.
pub(crate) fn unusable(info: &ConnInfo) -> Option<&'static str> {
    (info.hosts().len() > 1 && info.target_session_attrs != TargetSessionAttrs::Any).then_some(
        "the embedded proxy can't choose among several hosts by target_session_attrs; name the \
         one host that serves",
    )
}

/// Counts since the start.
#[derive(Debug, Default)]
struct Totals {
    moved: AtomicU64,
    cut: AtomicU64,
}

/// What all sessions share.
struct Shared {
    config: ProxyConfig,
    ends: Ends,
    gates: Arc<Gates>,
    users: Users,
    cancels: Cancels,
    trials: opposite::Trials,
    tls: Option<TlsAcceptor>,
    totals: Totals,
    orders: Mutex<Orders>,
    orders_file: PathBuf,
    address: SocketAddr,
    stop: Notify,
}

/// Nothing here can be left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A proxy that runs; it ends when this is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Starts it: the control socket at `control`, and beside it the file that says where clients
    /// belong.
    ///
    /// # Errors
    /// What of the configuration can't be used, or which address or path.
    pub async fn start(
        config: ProxyConfig,
        control: &Path,
        blue: ConnInfo,
        green: ConnInfo,
    ) -> Result<Self, ProxyError> {
        let failed = |what: String| move |error: io::Error| ProxyError(format!("{what}: {error}"));
        for (side, info) in [(Side::Blue, &blue), (Side::Green, &green)] {
            if let Some(why) = unusable(info) {
                return Err(ProxyError(format!("{side}: {why}")));
            }
        }
        let orders_file = control.with_extension("route");
        let orders =
            Orders::read(&orders_file).map_err(failed(orders_file.display().to_string()))?;
        let users = Users::read(config.users_file.as_deref()).map_err(ProxyError)?;
        let tls = config.tls.as_ref().map(acceptor).transpose().map_err(ProxyError)?;
        let socket = control::bind(control).await.map_err(failed(control.display().to_string()))?;
        let place = config.listen.to_string();
        let listener = TcpListener::bind(config.listen).await.map_err(failed(place.clone()))?;
        let address = listener.local_addr().map_err(failed(place))?;
        let threads = config.threads();
        let shared = Arc::new(Shared {
            config,
            ends: Ends { blue, green },
            gates: Arc::new(Gates::new(orders.side)),
            users,
            cancels: Cancels::default(),
            trials: opposite::Trials::default(),
            tls,
            totals: Totals::default(),
            orders: Mutex::new(orders),
            orders_file,
            address,
            stop: Notify::new(),
        });
        let workers = (0..threads).map(|at| Worker::start(shared.clone(), at));
        let workers: Vec<_> =
            workers.collect::<io::Result<_>>().map_err(failed("no thread".to_owned()))?;
        tracing::info!(%address, side = %orders.side, threads, "the proxy takes clients");
        let tasks = vec![
            tokio::spawn(accept(listener, workers)),
            tokio::spawn(control::obey(shared.clone(), socket)),
        ];
        Ok(Self { shared, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Waits until it is told to end over its control socket.
    pub async fn stopped(&self) {
        self.shared.stop.notified().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Hands clients to the workers in turn. Its end is theirs.
async fn accept(listener: TcpListener, workers: Vec<Worker>) {
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

fn acceptor(tls: &ProxyTls) -> Result<TlsAcceptor, String> {
    let failed = |path: &Path, why: String| format!("{}: {why}", path.display());
    let chain = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(&tls.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| failed(&tls.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| failed(&tls.certificate, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
