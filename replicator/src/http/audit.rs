//! Every request that can change something is written down before it is acted on, and its answer
//! behind it.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cutover::api::{ApiError, AuditPage, ErrorCode};
use cutover::audit::{self, Event, Kind};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::routes::Refusal;

/// The largest request, bytes.
const REQUEST_MAX: usize = 64 << 10;
/// Answers to such requests are small; what is larger is not looked into.
const ANSWER_MAX: usize = 4 << 20;
/// Bytes of a request that are written down at most.
const SHOWN_MAX: usize = 4096;
/// Lines that are shown if nobody says how many.
const LAST: usize = 100;

/// Plans only look.
const READS: [&str; 2] = ["/v1/plan", "/v1/repair/plan"];

/// Writes down a request and its answer.
pub(super) async fn record(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET
        || request.method() == Method::HEAD
        || READS.contains(&path.as_str())
    {
        return next.run(request).await;
    }
    let method = request.method().to_string();
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, REQUEST_MAX).await else {
        let what = format!("a request may have {REQUEST_MAX} bytes at most");
        return Refusal(ApiError::new(ErrorCode::BadRequest, what, "the request's body"))
            .into_response();
    };
    let asked = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let actor = asked["actor"].as_str().map(str::to_owned);
    let what = format!("{method} {path}");
    let detail = if bytes.len() <= SHOWN_MAX { asked } else { json!({ "bytes": bytes.len() }) };
    let event = Event::new(Timestamp::now(), Kind::Request, what.clone(), detail);
    let event = event.by(actor.clone());
    let audit = api.chronicle.audit();
    if path.ends_with("/abort") {
        // Nothing may be in the way of going back.
        audit.note(event);
    } else if let Err(error) = audit.write(event).await {
        let refusal = ApiError::new(ErrorCode::Unavailable, error.what, error.place)
            .in_state("unchanged: what can't be written down is not begun")
            .next(error.remedy.unwrap_or_else(|| "cutover status".into()));
        return Refusal(refusal).into_response();
    }
    let answer = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    let (parts, body) = answer.into_parts();
    let status = parts.status.as_u16();
    let (said, body) = match to_bytes(body, ANSWER_MAX).await {
        Ok(bytes) => (serde_json::from_slice(&bytes).unwrap_or(Value::Null), Body::from(bytes)),
        Err(error) => {
            tracing::error!("an answer to {what} could not be read: {error}");
            (Value::Null, Body::empty())
        }
    };
    let detail = json!({
        "status": status, "code": said["code"], "what": said["what"], "run": said["run"],
    });
    let event = Event::new(Timestamp::now(), Kind::Answer, format!("{what}: {status}"), detail);
    audit.note(Event {
        run: said["run"].as_str().map(str::to_owned),
        epoch: said["epoch"].as_u64(),
        ..event.by(actor)
    });
    Response::from_parts(parts, body)
}

#[derive(Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    after: u64,
    last: Option<usize>,
}

/// `GET /v1/audit`.
pub(super) async fn show(
    State(api): State<Api>,
    Query(which): Query<Which>,
) -> Result<Json<AuditPage>, Refusal> {
    let path = api.chronicle.audit().path().to_owned();
    let last = which.last.unwrap_or(LAST);
    let read = tokio::task::spawn_blocking(move || audit::page(&path, which.after, last)).await;
    let failed = |why: String| {
        let what = format!("the audit log can't be read: {why}");
        Refusal(ApiError::new(ErrorCode::Unavailable, what, "state directory"))
    };
    let page = read.map_err(|error| failed(error.to_string()))?;
    page.map(Json).map_err(|error| failed(error.to_string()))
}
