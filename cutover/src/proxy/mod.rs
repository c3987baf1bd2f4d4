//! The embedded proxy: a TCP proxy that knows enough of its clients' protocol to hold every one of
//! them between two transactions and to take its session to the other side.
//!
//! ```text
//! worker     threads that serve clients; arrivals, descriptors: how many there may be
//! postgres   the protocol of PostgreSQL: from a connection to its end
//! mysql      the same of MySQL and MariaDB
//! entrance   past the gate with a client that has no session yet
//! opposite   what is on the side that it does not lead to, before anybody goes there
//! gate       what all sessions look at: side, hold    <---- control: orders over a socket
//! ```
//!
//! It is a process of its own (`replicator proxy`), so that no death of the sidecar touches a
//! client. Where it leads is in a file beside its control socket and outlives it; a hold does not.

mod arrivals;
mod config;
pub mod control;
mod descriptors;
mod ending;
mod entrance;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod gate;
mod mysql;
mod named;
mod opposite;
mod postgres;
mod pump;
mod stream;
mod tls;
mod users_file;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decoders::postgres::conninfo::TargetSessionAttrs;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

pub use config::{InTransaction, ProxyConfig, ProxyTls, UserTypes};
pub use named::{Named, told};
pub use opposite::{End, Opposite, Server};

use crate::login::Login;
use crate::side::Side;
use arrivals::{Arrival, Arrivals, Limits};
use control::Orders;
use gate::Gates;
use mysql::Mysql;
use postgres::Postgres;
use tls::{acceptor, makeshift_acceptor};
use worker::{Worker, accept};

/// The proxy can't be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProxyError(String);

/// Why the proxy can't lead to what a connection string says. Which of several hosts is meant would
/// show only after a login, and the login is the client's.
pub(crate) fn unusable(login: &Login) -> Option<&'static str> {
    let Login::Postgres(info) = login else { return None };
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

/// A protocol, and what its sessions share.
trait Engine: Send + Sync + Sized + 'static {
    /// Serves a client until it leaves.
    fn serve(
        shared: Arc<Shared<Self>>,
        stream: TcpStream,
        arrival: &Arrival,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// What a client is told first and last when there are too many.
    fn too_many() -> Vec<u8>;

    /// What it was told is that side.
    fn end(&self, side: Side) -> End;

    /// Numbers by which the server of that side knows the sessions of its clients.
    fn servers(&self, side: Side) -> Vec<u32>;

    /// Sessions are about to be asked what they carry.
    fn begin_survey(&self);

    /// Which server answers on that side.
    fn server(&self, side: Side, until: Instant) -> impl Future<Output = Opposite> + Send;

    /// Users of the survey whom that side does not let in, and why.
    fn refused(
        &self,
        side: Side,
        until: Instant,
    ) -> impl Future<Output = BTreeMap<String, String>> + Send;

    /// Of the users of the survey and our own, those whom that side lets in from here without a question.
    fn unasked(&self, side: Side, until: Instant) -> impl Future<Output = BTreeSet<String>> + Send;
}

/// What all sessions share.
struct Shared<E> {
    config: ProxyConfig,
    /// Most clients at a time, as far as there are file descriptors for them.
    clients_max: usize,
    engine: E,
    gates: Arc<Gates>,
    tls: Option<TlsAcceptor>,
    totals: Totals,
    orders: Mutex<Orders>,
    orders_file: PathBuf,
    address: SocketAddr,
    stop: Arc<Notify>,
}

/// Nothing here can be left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A proxy that runs; it ends when this is dropped.
pub struct Proxy {
    address: SocketAddr,
    stop: Arc<Notify>,
    tasks: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Starts it: the control socket at `control`, and beside it the file that says where clients
    /// belong. Both ends are of one engine.
    ///
    /// # Errors
    /// What of the configuration can't be used, or which address or path.
    pub async fn start(
        config: ProxyConfig,
        control: &Path,
        blue: impl Into<Login>,
        green: impl Into<Login>,
    ) -> Result<Self, ProxyError> {
        let (blue, green) = (blue.into(), green.into());
        for (side, login) in [(Side::Blue, &blue), (Side::Green, &green)] {
            if let Some(why) = unusable(login) {
                return Err(ProxyError(format!("{side}: {why}")));
            }
        }
        match (blue, green) {
            (Login::Postgres(blue), Login::Postgres(green)) => {
                let engine = Postgres::new(&config, *blue, *green).map_err(ProxyError)?;
                let tls = config.tls.as_ref().map(|tls| acceptor(tls, &[tls::ALPN]));
                let tls = tls.transpose().map_err(ProxyError)?;
                Self::run(config, control, engine, tls).await
            }
            (Login::Mysql(blue), Login::Mysql(green)) => {
                let engine = Mysql::new(&config, blue, green).map_err(ProxyError)?;
                // As these servers do: passwords of `caching_sha2_password` come by TLS, whoever's.
                let tls = config.tls.as_ref();
                let tls = tls.map_or_else(makeshift_acceptor, |tls| acceptor(tls, &[]));
                let tls = Some(tls.map_err(ProxyError)?);
                Self::run(config, control, engine, tls).await
            }
            _ => Err(ProxyError("blue and green have to be of one engine".into())),
        }
    }

    async fn run<E: Engine>(
        config: ProxyConfig,
        control: &Path,
        engine: E,
        tls: Option<TlsAcceptor>,
    ) -> Result<Self, ProxyError> {
        let failed = |what: String| move |error: io::Error| ProxyError(format!("{what}: {error}"));
        let orders_file = control.with_extension("route");
        let orders =
            Orders::read(&orders_file).map_err(failed(orders_file.display().to_string()))?;
        let socket = control::bind(control).await.map_err(failed(control.display().to_string()))?;
        let place = config.listen.to_string();
        let listener = TcpListener::bind(config.listen).await.map_err(failed(place.clone()))?;
        let address = listener.local_addr().map_err(failed(place))?;
        let threads = config.threads();
        let clients_max = room_for(config.clients_max)?;
        let arrivals =
            Arc::new(Arrivals::new(Limits::new(clients_max, config.clients_per_address_max)));
        let stop = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            config,
            clients_max,
            engine,
            gates: Arc::new(Gates::new(orders.side)),
            tls,
            totals: Totals::default(),
            orders: Mutex::new(orders),
            orders_file,
            address,
            stop: stop.clone(),
        });
        let workers = (0..threads).map(|at| Worker::start(shared.clone(), at));
        let workers: Vec<_> =
            workers.collect::<io::Result<_>>().map_err(failed("no thread".to_owned()))?;
        tracing::info!(%address, side = %orders.side, threads, "the proxy takes clients");
        let tasks = vec![
            tokio::spawn(accept::<E>(listener, workers, arrivals)),
            tokio::spawn(control::obey(shared, socket)),
        ];
        Ok(Self { address, stop, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it is told to end over its control socket.
    pub async fn stopped(&self) {
        self.stop.notified().await;
    }
}

/// As many of `wanted` clients as there can be file descriptors for.
fn room_for(wanted: usize) -> Result<usize, ProxyError> {
    let descriptors = descriptors::raise()
        .map_err(|error| ProxyError(format!("the limit of file descriptors: {error}")))?;
    let possible = descriptors::clients_of(descriptors);
    if possible >= wanted {
        return Ok(wanted);
    }
    let needed = descriptors::of_clients(wanted);
    let what = format!(
        "{descriptors} file descriptors are enough for {possible} clients, and \
         cutover.proxy.clients_max = {wanted} takes {needed}: raise the limit (ulimit -Hn, systemd: \
         LimitNOFILE)"
    );
    if possible == 0 {
        return Err(ProxyError(what));
    }
    tracing::error!("{what}; until then it takes {possible}");
    Ok(possible)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
