//! `/v1/verify`.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use cutover::Phase;
use cutover::api::RunStatus;
use cutover::audit::{Event, Kind};
use cutover::verify::{VerifyRequest, VerifyStatus};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::routes::Refusal;
use crate::chronicle::Chronicle;
use crate::controller::Controller;
use crate::verify::Verifier;

/// The longest that a request is held open.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);

/// `POST /v1/verify`.
pub(super) async fn start(
    State(api): State<Api>,
    body: Result<Json<VerifyRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<VerifyStatus>), Refusal> {
    let Json(request) = body?;
    Ok((StatusCode::ACCEPTED, Json(api.verifier.start(request)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    #[serde(default)]
    pub(super) wait_ms: u64,
}

/// `GET /v1/verify/{id}`.
pub(super) async fn status(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(patience): Query<Patience>,
) -> Result<Json<VerifyStatus>, Refusal> {
    let wait = Duration::from_millis(patience.wait_ms).min(WAIT_MAX);
    Ok(Json(api.verifier.status(&id, wait).await?))
}

/// `POST /v1/verify/{id}/stop`.
pub(super) async fn stop(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<VerifyStatus>, Refusal> {
    Ok(Json(api.verifier.stop(&id).await?))
}

/// What a verification that goes on has not looked at when the clients are kept out, for the record:
/// that much is left to the stream's own row checks.
pub(super) async fn write_down_at_the_fence(
    service: Controller,
    verifier: Verifier,
    chronicle: Chronicle,
    run: RunStatus,
) {
    let mut after = run.last_event;
    while verifier.continuous().is_some() {
        let Ok(update) = service.update(&run.run, after, WAIT_MAX).await else { return };
        let now = update.status;
        if now.report.is_some() {
            return;
        }
        let is_fenced = (Phase::Fenced..=Phase::Flipped).contains(&now.phase);
        if let Some(status) = verifier.continuous().filter(|_| is_fenced) {
            let what = format!("verification at the fence: {}", status.sentence());
            let detail = json!({
                "unproven_rows": status.unproven_rows, "oldest_seconds": status.oldest_seconds,
                "dirty": status.dirty,
            });
            let event = Event::new(Timestamp::now(), Kind::Answer, what, detail);
            let (run, epoch) = (Some(now.run), Some(now.epoch));
            chronicle.audit().note(Event { run, epoch, ..event });
            return;
        }
        after = now.last_event;
    }
}
