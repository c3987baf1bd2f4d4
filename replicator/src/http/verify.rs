//! `/v1/verify`.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use cutover::verify::{VerifyRequest, VerifyStatus};
use serde::Deserialize;

use super::Api;
use super::routes::Refusal;

/// The longest that a request is held open.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// `POST /v1/verify`.
pub(super) async fn start(
    State(api): State<Api>,
    body: Result<Json<VerifyRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<VerifyStatus>), Refusal> {
    let Json(request) = body?;
    Ok((StatusCode::ACCEPTED, Json(api.verifier.start(request)?)))
}

#[derive(Deserialize)]
pub(super) struct Patience {
    #[serde(default)]
    wait_ms: u64,
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
