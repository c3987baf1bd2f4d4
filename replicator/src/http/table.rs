//! Every path of the API, and who may ask for it.

use axum::Router;
#[cfg(test)]
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};

use super::guard::{Guard, admit};
use super::{Api, audit, repair, routes, verify};
use crate::config::{MetricsAccess, Role};

/// A path and what answers there.
pub(super) struct Route<S> {
    #[cfg(test)]
    pub method: Method,
    pub path: &'static str,
    /// The least role; `None`: everybody who reaches the address.
    pub needs: Option<Role>,
    /// Whether it can change something: the request and its answer are written down.
    pub acts: bool,
    pub handler: MethodRouter<S>,
}

/// All routes.
pub(super) fn table(metrics: MetricsAccess) -> Vec<Route<Api>> {
    use Role::{Flip, Operate, Read};
    let look = |needs, path, handler| Route {
        #[cfg(test)]
        method: Method::GET,
        path,
        needs,
        acts: false,
        handler,
    };
    let of = |role, path, handler| look(Some(role), path, handler);
    let ask = |needs, path, handler| Route {
        #[cfg(test)]
        method: Method::POST,
        path,
        needs: Some(needs),
        acts: false,
        handler,
    };
    let act = |needs, path, handler| Route { acts: true, ..ask(needs, path, handler) };
    let scrape = (metrics == MetricsAccess::Read).then_some(Read);
    vec![
        look(None, "/livez", get(routes::livez)),
        look(None, "/readyz", get(routes::readyz)),
        look(None, "/startupz", get(routes::startupz)),
        look(scrape, "/metrics", get(routes::metrics)),
        of(Read, "/v1/status", get(routes::status)),
        of(Read, "/v1/history", get(routes::history)),
        of(Read, "/v1/cutover/{run}", get(routes::update)),
        of(Read, "/v1/cutover/{run}/report", get(routes::report)),
        of(Read, "/v1/audit", get(audit::show)),
        of(Read, "/v1/finish", get(routes::finish_plan)),
        ask(Read, "/v1/plan", post(routes::plan)),
        // Verifications and repairs name keys of rows.
        of(Operate, "/v1/verify/{id}", get(verify::status)),
        of(Operate, "/v1/repair/{id}", get(repair::status)),
        ask(Operate, "/v1/repair/plan", post(repair::plan)),
        act(Operate, "/v1/verify", post(verify::start)),
        act(Operate, "/v1/verify/{id}/stop", post(verify::stop)),
        act(Operate, "/v1/repair", post(repair::start)),
        act(Operate, "/v1/repair/{id}/stop", post(repair::stop)),
        act(Operate, "/v1/cutover/{run}/abort", post(routes::abort)),
        act(Operate, "/v1/retry", post(routes::retry)),
        act(Flip, "/v1/cutover", post(routes::start)),
        act(Flip, "/v1/rollback", post(routes::rollback)),
        act(Flip, "/v1/finish", post(routes::finish)),
    ]
}

/// The routes behind their guard.
pub(super) fn router<S: Clone + Send + Sync + 'static>(
    table: Vec<Route<S>>,
    guard: &Guard,
) -> Router<S> {
    let mut router = Router::new();
    for Route { path, needs, acts, mut handler, .. } in table {
        if acts {
            handler = handler.route_layer(from_fn_with_state(guard.clone(), audit::record));
        }
        // Outermost: whoever may not ask is turned away before anything is written down.
        if let Some(needs) = needs {
            handler = handler.route_layer(from_fn_with_state((guard.clone(), needs), admit));
        }
        router = router.route(path, handler);
    }
    router.fallback(routes::not_found)
}
