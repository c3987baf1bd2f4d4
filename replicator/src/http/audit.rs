//! Every request that can change something is written down before it is acted on, and its answer
//! behind it.

use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use cutover::api::{ApiError, AuditPage, ErrorCode};
use cutover::audit::{Event, Kind, Part};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::caller::Identity;
use super::guard::Guard;
use super::routes::Refusal;

/// Answers to such requests are small; what is larger is not looked into.
const ANSWER_MAX: usize = 4 << 20;
/// Bytes of a request that are written down at most.
const SHOWN_MAX: usize = 4096;
/// Lines that are shown if nobody says how many.
const LAST: usize = 100;

/// Writes down a request that was let in, and its answer.
pub(super) async fn record(
    State(guard): State<Guard>,
    Extension(who): Extension<Identity>,
    request: Request,
    next: Next,
) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let is_abort = request.uri().path().ends_with("/abort");
    let (parts, body) = request.into_parts();
    // It is in memory already, and not too large: the guard has seen to that.
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let asked = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let asker = who.asker(asked["actor"].as_str().map(str::to_owned));
    let detail = if bytes.len() <= SHOWN_MAX { asked } else { json!({ "bytes": bytes.len() }) };
    let event = Event::new(Timestamp::now(), Kind::Request, what.clone(), detail);
    let event = event.asked_by(asker.clone()).seen_at(who.peer.clone());
    let audit = guard.audit();
    if is_abort {
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
        ..event.asked_by(asker).seen_at(who.peer)
    });
    Response::from_parts(parts, body)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    #[serde(default)]
    after: u64,
    last: Option<usize>,
    first: Option<usize>,
}

/// `GET /v1/audit`.
pub(super) async fn show(
    State(api): State<Api>,
    Query(which): Query<Which>,
) -> Result<Json<AuditPage>, Refusal> {
    let which = match (which.first, which.last) {
        (Some(first), None) => Part::First { after: which.after, lines: first },
        (None, last) => Part::Last { after: which.after, lines: last.unwrap_or(LAST) },
        (Some(_), Some(_)) => {
            let what = "give first or last, not both";
            return Err(ApiError::new(ErrorCode::BadRequest, what, "the request's query").into());
        }
    };
    let audit = api.chronicle.audit().clone();
    let read = tokio::task::spawn_blocking(move || audit.page(which)).await;
    let failed = |why: String| {
        let what = format!("the audit log can't be read: {why}");
        Refusal(ApiError::new(ErrorCode::Unavailable, what, "state directory"))
    };
    let page = read.map_err(|error| failed(error.to_string()))?;
    page.map(Json).map_err(|error| failed(error.to_string()))
}
