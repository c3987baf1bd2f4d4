//! Connections: how many, for how long, and whose.
//!
//! | | TCP | Unix socket |
//! |---|---|---|
//! | who gets a connection | everybody, up to a number in all and from one address | the sidecar's user and root |
//! | what a flood costs | that number of descriptors | nothing: it has a number of its own |

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::Uid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::caller::{Caller, Peer};
use super::certificate::Presented;
use super::tls::Certificate;
use crate::config::ApiConfig;

/// Most connections over the socket at once.
const LOCAL_MAX: usize = 32;
/// The API never has more than this part of the process's descriptors.
const DESCRIPTORS_PART: usize = 4;
/// Before the next try when the system has no descriptor left.
const AGAIN: Duration = Duration::from_millis(100);

/// How many connections there may be, and how long a request may take to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    connections_max: usize,
    per_address_max: usize,
    header_timeout: Duration,
}

impl Limits {
    /// As configured, in a process that may have so many descriptors.
    pub fn new(config: &ApiConfig, descriptors: usize) -> Self {
        let most = (descriptors / DESCRIPTORS_PART).max(1);
        if config.connections_max > most {
            tracing::warn!(
                descriptors,
                connections_max = most,
                "api.connections_max {} would leave too few descriptors for the databases; it is less",
                config.connections_max
            );
        }
        let connections_max = config.connections_max.min(most);
        Self {
            connections_max,
            per_address_max: config.connections_per_address_max.min(connections_max),
            header_timeout: Duration::from_millis(config.header_timeout_ms),
        }
    }
}

/// Binds the socket, for our own user only: whoever comes in between is told apart by his user.
///
/// # Errors
/// The path can't be used.
pub fn bind_local(path: &Path) -> io::Result<UnixListener> {
    // The state directory is ours alone, so nobody answers there: it is left from an earlier life.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The connections of one listener that are open.
#[derive(Debug)]
struct Room {
    all_max: usize,
    each_max: usize,
    taken: Mutex<HashMap<Option<IpAddr>, usize>>,
}

impl Room {
    fn new(all_max: usize, each_max: usize) -> Arc<Self> {
        Arc::new(Self { all_max, each_max, taken: Mutex::default() })
    }

    /// A place for one more, until it is dropped.
    fn enter(self: &Arc<Self>, from: Option<IpAddr>) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let each = taken.get(&from).copied().unwrap_or(0);
        if all >= self.all_max || each >= self.each_max {
            return None;
        }
        taken.insert(from, each + 1);
        Some(Place { room: Arc::clone(self), from })
    }
}

#[derive(Debug)]
struct Place {
    room: Arc<Room>,
    from: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(each) = taken.get_mut(&self.from) {
            *each -= 1;
            if *each == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

/// Serves what connects over TCP; never returns.
pub async fn over_tcp(
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
    limits: Limits,
    router: Router,
) {
    let room = Room::new(limits.connections_max, limits.per_address_max);
    let mut is_full = false;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("the API takes no connection: {error}");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        // Dropping the connection closes it.
        let Some(place) = room.enter(Some(address.ip().to_canonical())) else {
            if !is_full {
                tracing::warn!(from = %address.ip(), ?limits, "the API has no place for more connections");
            }
            is_full = true;
            continue;
        };
        is_full = false;
        let (certificate, router) = (certificate.clone(), router.clone());
        tokio::spawn(async move {
            let _place = place;
            let caller = Caller {
                peer: Peer::Address(address),
                local: stream.local_addr().ok(),
                is_tls: certificate.is_some(),
                certificate: None,
            };
            match certificate {
                None => converse(stream, caller, limits, router).await,
                Some(certificate) => match encrypted(stream, &certificate, caller, limits).await {
                    Ok((stream, caller)) => converse(stream, caller, limits, router).await,
                    Err(why) => tracing::debug!(peer = %address, "no TLS: {why}"),
                },
            }
        });
    }
}

async fn encrypted(
    stream: TcpStream,
    certificate: &Certificate,
    caller: Caller,
    limits: Limits,
) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, Caller), String> {
    let accepting = TlsAcceptor::from(certificate.current()).accept(stream);
    let accepted = tokio::time::timeout(limits.header_timeout, accepting).await;
    let stream =
        accepted.map_err(|_| "no handshake in time")?.map_err(|error| error.to_string())?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = shown.map(Presented::read).transpose()?.map(Arc::new);
    Ok((stream, Caller { certificate, ..caller }))
}

/// Serves our own user and root over the socket; never returns.
pub async fn over_socket(listener: UnixListener, limits: Limits, router: Router) {
    let room = Room::new(LOCAL_MAX, LOCAL_MAX);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("the API's socket takes no connection: {error}");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let peer = match admitted(&stream) {
            Ok(peer) => peer,
            Err(why) => {
                tracing::warn!("a connection to the API's socket was closed: {why}");
                continue;
            }
        };
        let Some(place) = room.enter(None) else { continue };
        let router = router.clone();
        tokio::spawn(async move {
            let _place = place;
            let caller = Caller { peer, local: None, is_tls: false, certificate: None };
            converse(stream, caller, limits, router).await;
        });
    }
}

fn admitted(stream: &UnixStream) -> Result<Peer, String> {
    let peer = stream.peer_cred().map_err(|error| error.to_string())?;
    let (uid, pid) = (peer.uid(), peer.pid());
    if may_connect(uid, Uid::effective().as_raw()) {
        Ok(Peer::Local { uid, pid })
    } else {
        Err(format!("user {uid} is neither root nor the sidecar's own"))
    }
}

fn may_connect(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    limits: Limits,
    router: Router,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: axum::http::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a connection to the API ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_from_one_address_and_come_back() {
        let room = Room::new(3, 2);
        let [a, b] = ["127.0.0.1", "10.0.0.1"].map(|ip| Some(ip.parse().unwrap()));
        let first = room.enter(a).unwrap();
        let _second = room.enter(a).unwrap();
        assert!(room.enter(a).is_none(), "one address has its share");
        let _third = room.enter(b).unwrap();
        assert!(room.enter(b).is_none(), "all places are taken");
        drop(first);
        let _again = room.enter(b).unwrap();
        assert!(room.enter(a).is_none());
    }

    #[test]
    fn the_databases_keep_most_descriptors() {
        let config = ApiConfig::default();
        assert_eq!(Limits::new(&config, 65_536).connections_max, config.connections_max);
        let few = Limits::new(&config, 128);
        assert_eq!((few.connections_max, few.per_address_max), (32, 32));
    }

    #[test]
    fn the_socket_is_for_our_own_user_and_root() {
        assert!(may_connect(0, 1000) && may_connect(1000, 1000));
        assert!(!may_connect(1001, 1000) && !may_connect(1000, 0));
    }
}
