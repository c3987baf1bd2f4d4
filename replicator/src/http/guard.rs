//! What stands before every route that is not open: who asks, from where, and whether he may.
//!
//! In this order: requests that a browser was made to send, the token or certificate or user, the
//! role, the body's kind, the body itself. Whoever fails at one of them has caused nothing but, up to
//! a quota, a line in the audit log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cutover::api::{ApiError, ErrorCode};
use cutover::audit::{Audit, Event, Kind};
use jiff::Timestamp;
use nix::unistd::{Uid, User};
use serde_json::json;

use super::browser::Hosts;
use super::caller::{Caller, Identity, Peer};
use super::keys::Keyring;
use super::quota::Quota;
use super::routes::Refusal;
use crate::config::{ApiConfig, CertificateConfig, Role};

/// The largest body of a request, bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Of a refused request's path, characters that are written down.
const PATH_SHOWN: usize = 200;

/// Cheap to clone.
#[derive(Clone)]
pub struct Guard(Arc<Inner>);

struct Inner {
    keys: Keyring,
    certificates: Vec<CertificateConfig>,
    hosts: Hosts,
    body_timeout: Duration,
    audit: Audit,
    quota: Mutex<Quota>,
    /// Of the user that the sidecar runs as.
    user: String,
}

impl Guard {
    /// For the API that is configured.
    pub fn new(config: &ApiConfig, keys: Keyring, audit: Audit) -> Self {
        Self(Arc::new(Inner {
            keys,
            certificates: config.certificates.clone(),
            hosts: Hosts::new(config.listen, &config.hosts),
            body_timeout: Duration::from_millis(config.body_timeout_ms),
            audit,
            quota: Mutex::new(Quota::new(Instant::now())),
            user: own_name(),
        }))
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    fn identify(&self, caller: &Caller, request: &Request) -> Result<Identity, ApiError> {
        let identity = |kind: &str, name: &str, role| Identity {
            name: format!("{kind}:{name}"),
            role,
            peer: caller.peer.to_string(),
        };
        if let Peer::Local { uid, .. } = caller.peer {
            // Nobody but our own user and root gets a connection.
            let name = if uid == 0 { "root" } else { &self.0.user };
            return Ok(identity("user", name, Role::Flip));
        }
        let refused = |what: &str| {
            ApiError::new(ErrorCode::Unauthorized, what, "replicator's API").next(
                "on the sidecar's host: cutover status --state-dir DIR (or --config FILE), as its \
                 user or root; elsewhere set CUTOVER_API_TOKEN, or give --token-file",
            )
        };
        if let Some(given) = request.headers().get(AUTHORIZATION) {
            let given = given.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
            let found = given.and_then(|given| self.0.keys.find(given));
            let (name, role) = found.ok_or_else(|| refused("the bearer token is wrong"))?;
            return Ok(identity("token", name, role));
        }
        let Some(certificate) = &caller.certificate else {
            return Err(refused("the bearer token is missing"));
        };
        let found = certificate.find(&self.0.certificates);
        let (name, role) = found.ok_or_else(|| {
            let subject = &certificate.subject;
            refused(&format!("no entry of api.certificates is for the certificate of {subject:?}"))
        })?;
        Ok(identity("certificate", name, role))
    }

    fn refuse(
        &self,
        caller: &Caller,
        who: Option<&Identity>,
        request: &Request,
        error: ApiError,
    ) -> Response {
        let mut quota = self.0.quota.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = quota.take(Instant::now());
        drop(quota);
        if let Some(unwritten) = taken {
            let path: String = request.uri().path().chars().take(PATH_SHOWN).collect();
            let status = error.code.http_status();
            let what = format!("{} {path}: {status}", request.method());
            tracing::warn!(peer = %caller.peer, "refused: {what}: {}", error.what);
            let mut detail = json!({ "status": status, "code": error.code, "what": error.what });
            if unwritten > 0 {
                detail["unwritten_before"] = unwritten.into();
            }
            let event = Event::new(Timestamp::now(), Kind::Refused, what, detail);
            let name = who.map(|who| who.name.clone());
            self.0.audit.note(event.by(name).seen_at(caller.peer.to_string()));
        }
        Refusal(error).into_response()
    }
}

/// Lets a request through to a route that `needs` a role.
pub(super) async fn admit(
    State((guard, needs)): State<(Guard, Role)>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let place = "replicator's API";
    if let Some(why) = guard.0.hosts.refusal(&caller, request.uri(), request.headers()) {
        let error = ApiError::new(ErrorCode::Forbidden, why, place);
        return guard.refuse(&caller, None, &request, error);
    }
    let who = match guard.identify(&caller, &request) {
        Ok(who) => who,
        Err(error) => return guard.refuse(&caller, None, &request, error),
    };
    if who.role < needs {
        let what =
            format!("{} has the role {}; this needs {}", who.name, who.role.name(), needs.name());
        let error = ApiError::new(ErrorCode::Forbidden, what, place);
        return guard.refuse(&caller, Some(&who), &request, error.next("ask with another token"));
    }
    if request.method() == Method::POST {
        if !is_json(&request) {
            let what = "every POST is JSON, also without a body: Content-Type: application/json";
            let error = ApiError::new(ErrorCode::BadRequest, what, "the request's head");
            return guard.refuse(&caller, Some(&who), &request, error);
        }
        let (parts, body) = request.into_parts();
        let read = tokio::time::timeout(guard.0.body_timeout, to_bytes(body, BODY_BYTES_MAX)).await;
        let refused = match read {
            Ok(Ok(bytes)) => {
                request = Request::from_parts(parts, Body::from(bytes));
                None
            }
            Ok(Err(_)) => {
                request = Request::from_parts(parts, Body::empty());
                Some(format!("it could not be read, or has more than {BODY_BYTES_MAX} bytes"))
            }
            Err(_) => {
                request = Request::from_parts(parts, Body::empty());
                Some("it did not come in time".to_owned())
            }
        };
        if let Some(what) = refused {
            let error = ApiError::new(ErrorCode::BadRequest, what, "the request's body");
            return guard.refuse(&caller, Some(&who), &request, error);
        }
    }
    request.extensions_mut().insert(who);
    next.run(request).await
}

fn own_name() -> String {
    let uid = Uid::effective();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    // Containers need not have a name for it.
    name.unwrap_or_else(|| uid.to_string())
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}
