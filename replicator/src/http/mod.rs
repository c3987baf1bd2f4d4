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
//! With a token, everything but the three probes asks for it.

mod audit;
mod auth;
mod overview;
mod repair;
mod routes;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::alerts::Source;
use crate::chronicle::Chronicle;
use crate::controller::Controller;
use crate::status::Shared;
use crate::verify::Verifier;
pub use auth::Token;

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

/// Binds the address, so that a taken port is known before anything is touched.
///
/// # Errors
/// The operating system's.
pub async fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// Serves until `stop`; requests in flight are not waited for.
pub async fn serve(
    listener: TcpListener,
    api: Api,
    token: Option<Token>,
    mut stop: watch::Receiver<bool>,
) {
    let guarded = Router::new()
        .route("/v1/status", get(routes::status))
        .route("/v1/plan", post(routes::plan))
        .route("/v1/cutover", post(routes::start))
        .route("/v1/cutover/{run}", get(routes::update))
        .route("/v1/cutover/{run}/abort", post(routes::abort))
        .route("/v1/cutover/{run}/report", get(routes::report))
        .route("/v1/audit", get(audit::show))
        .route("/v1/rollback", post(routes::rollback))
        .route("/v1/finish", get(routes::finish_plan).post(routes::finish))
        .route("/v1/retry", post(routes::retry))
        .route("/v1/history", get(routes::history))
        .route("/v1/verify", post(verify::start))
        .route("/v1/verify/{id}", get(verify::status))
        .route("/v1/verify/{id}/stop", post(verify::stop))
        .route("/v1/repair/plan", post(repair::plan))
        .route("/v1/repair", post(repair::start))
        .route("/v1/repair/{id}", get(repair::status))
        .route("/v1/repair/{id}/stop", post(repair::stop))
        .route("/metrics", get(routes::metrics))
        // Whoever has no token is turned away before this one is asked.
        .route_layer(middleware::from_fn_with_state(api.clone(), audit::record))
        .route_layer(middleware::from_fn_with_state(token, auth::require));
    let open = Router::new()
        .route("/livez", get(routes::livez))
        .route("/readyz", get(routes::readyz))
        .route("/startupz", get(routes::startupz));
    let router = guarded.merge(open).fallback(routes::not_found).with_state(api);
    let stopped = async move {
        // A dropped sender means that the process ends: the same.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let served = tokio::select! {
        served = std::future::IntoFuture::into_future(axum::serve(listener, router)) => served,
        () = stopped => return,
    };
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP server stopped");
    }
}
