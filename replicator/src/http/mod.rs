//! The sidecar's HTTP server: the API that `cutover` talks to, metrics, and probes.
//!
//! | path | who asks | answers |
//! |---|---|---|
//! | `/v1/..` | `cutover`, scripts | see [`cutover::api`] |
//! | `/metrics` | Prometheus | everything, also while the servers are down |
//! | `/livez` | a supervisor | 200 as long as requests are answered at all |
//! | `/startupz` | a supervisor | 200 once API and state are up: the copy may take days |
//! | `/readyz` | a supervisor | 200 while the stream that carries runs, or has ended for good; 503 while it is halted |
//!
//! There are two ways in. The Unix socket in the state directory is for the sidecar's own user and
//! root, who may do everything. Over TCP every request but the probes carries a token or comes with a
//! client certificate, which has a role ([`crate::config::Role`]); `table.rs` says which role each
//! path needs.

mod accept;
mod audit;
mod browser;
mod caller;
mod certificate;
mod guard;
mod keys;
mod overview;
mod quota;
mod repair;
mod routes;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::alerts::Source;
use crate::chronicle::Chronicle;
use crate::config::{ApiConfig, Config};
use crate::controller::Controller;
use crate::descriptors;
use crate::status::Shared;
use crate::verify::Verifier;
use accept::Limits;
use guard::Guard;
use keys::Keyring;
use table::{router, table};
use tls::Certificate;

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// What the stream from blue to green knows of itself.
    pub shared: Arc<Shared>,
    /// Compares the two sides.
    pub verifier: Verifier,
    /// What the stream back knows of itself.
    pub back: Arc<Shared>,
    /// The controller.
    pub service: Controller,
    /// What alerts and metrics look at.
    pub source: Source,
    /// What is written down of requests and runs.
    pub chronicle: Chronicle,
}

/// Why the API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A token or a certificate.
    #[error("{0}")]
    Secret(String),
    /// The address is taken, for example.
    #[error("{address} can't be listened on: {cause}")]
    Address {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        cause: std::io::Error,
    },
}

/// The ways in, open; nobody is answered yet.
pub struct Doors {
    config: ApiConfig,
    keys: Keyring,
    certificate: Option<Arc<Certificate>>,
    tcp: TcpListener,
    socket: Option<UnixListener>,
    limits: Limits,
}

impl Doors {
    /// Reads tokens and certificates and binds address and socket, so that what is wrong is known
    /// before anything is touched. The state directory is there and ours alone.
    ///
    /// # Errors
    /// See [`BindError`]. A socket that can't be bound is only said: the address is enough.
    pub async fn open(config: &Config) -> Result<Self, BindError> {
        let limits = Limits::new(&config.api, descriptors::raise());
        let (api, state_dir) = (config.api.clone(), config.state_dir.clone());
        let read = move || {
            let certificate = api.tls.as_ref().map(Certificate::open).transpose()?;
            Ok((Keyring::open(&api, &state_dir)?, certificate.map(Arc::new)))
        };
        let read = tokio::task::spawn_blocking(read).await;
        let (keys, certificate) =
            read.unwrap_or_else(|error| Err(error.to_string())).map_err(BindError::Secret)?;
        let address = config.api.listen;
        let bound = TcpListener::bind(address).await;
        let tcp = bound.map_err(|cause| BindError::Address { address, cause })?;
        let socket = bind_socket(&config.api_socket());
        Ok(Self { config: config.api.clone(), keys, certificate, tcp, socket, limits })
    }

    /// Serves until `stop`; requests in flight are not waited for.
    pub async fn serve(self, api: Api, mut stop: watch::Receiver<bool>) {
        let guard = Guard::new(&self.config, self.keys, api.chronicle.audit().clone());
        let router = router(table(self.config.metrics), &guard).with_state(api);
        let over_tcp = accept::over_tcp(self.tcp, self.certificate, self.limits, router.clone());
        let over_socket = async {
            match self.socket {
                Some(socket) => accept::over_socket(socket, self.limits, router).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over_tcp => {}
            () = over_socket => {}
            // A dropped sender means that the process ends: the same.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

fn bind_socket(path: &Path) -> Option<UnixListener> {
    match accept::bind_local(path) {
        Ok(socket) => Some(socket),
        Err(error) => {
            let path: PathBuf = path.into();
            tracing::warn!(
                "the API's socket {} can't be bound ({error}); the commands need the token",
                path.display()
            );
            None
        }
    }
}
