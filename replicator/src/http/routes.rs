//! One function for each path.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use cutover::Direction;
use cutover::api::{
    AbortRequest, ApiError, Check, ErrorCode, FinishPlan, FinishReport, FinishRequest, History,
    PipelinePhase, Plan, PlanRequest, Retried, RetryRequest, RunReport, RunStatus, RunUpdate,
    SCHEMA_VERSION, StartCutover, Status,
};
use serde::Deserialize;

use super::caller::Identity;
use super::{Api, overview, verify};
use crate::metrics;
use crate::status::Shared;

/// The longest that a request for events is held open.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// An error on its way out.
pub(super) struct Refusal(pub ApiError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status());
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(self.0)).into_response()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Refusal(error)
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Refusal(ApiError::new(ErrorCode::BadRequest, rejection.body_text(), "the request's body"))
    }
}

type Answer<T> = Result<Json<T>, Refusal>;
type Body<T> = Result<Json<T>, JsonRejection>;

pub(super) async fn status(State(api): State<Api>) -> Json<Status> {
    Json(overview::status(&api).await)
}

pub(super) async fn plan(State(api): State<Api>, body: Body<PlanRequest>) -> Answer<Plan> {
    let Json(request) = body?;
    let plan = api.service.plan(request).await?;
    // A rollback ends a repair, and is not kept waiting by one.
    let repairing = match plan.direction {
        Direction::Forward => api.verifier.refuse_while_repairing().err(),
        Direction::Back => None,
    };
    Ok(Json(match repairing {
        Some(error) => {
            let next = error.next_command.unwrap_or_else(|| "cutover status".into());
            plan.with(Check::fail("repair", error.what, next))
        }
        None => plan,
    }))
}

/// A request that changes something goes on to its end although its sender may be gone: an act that
/// is dropped in the middle is worse than one that nobody hears of.
async fn to_its_end<T: Send + 'static>(
    act: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(act).await;
    let done =
        done.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string(), "API"))?;
    Ok(done?)
}

pub(super) async fn start(
    State(api): State<Api>,
    Extension(who): Extension<Identity>,
    body: Body<StartCutover>,
) -> Result<(StatusCode, Json<RunStatus>), Refusal> {
    let Json(mut request) = body?;
    request.actor = who.actor(request.actor);
    let service = api.service.clone();
    api.verifier.refuse_while_repairing()?;
    api.verifier.admit(&request)?;
    let starting = service.clone();
    let status = to_its_end(async move { starting.start(request).await }).await?;
    let (verifier, chronicle) = (api.verifier.clone(), api.chronicle.clone());
    tokio::spawn(verify::write_down_at_the_fence(service, verifier, chronicle, status.clone()));
    Ok((StatusCode::ACCEPTED, Json(status)))
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Extension(who): Extension<Identity>,
    body: Body<StartCutover>,
) -> Result<(StatusCode, Json<RunStatus>), Refusal> {
    let Json(mut request) = body?;
    request.actor = who.actor(request.actor);
    // Nothing keeps a rollback waiting: a repair writes no more once a run is under way.
    api.verifier.stop_repairing();
    let status = to_its_end(async move { api.service.rollback(request).await }).await?;
    Ok((StatusCode::ACCEPTED, Json(status)))
}

pub(super) async fn finish_plan(State(api): State<Api>) -> Answer<FinishPlan> {
    Ok(Json(api.service.finish_plan().await?))
}

pub(super) async fn finish(
    State(api): State<Api>,
    Extension(who): Extension<Identity>,
    body: Body<FinishRequest>,
) -> Answer<FinishReport> {
    let Json(mut request) = body?;
    request.actor = who.actor(request.actor);
    Ok(Json(to_its_end(async move { api.service.finish(request).await }).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Since {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

pub(super) async fn update(
    State(api): State<Api>,
    Path(run): Path<String>,
    Query(since): Query<Since>,
) -> Answer<RunUpdate> {
    let wait = Duration::from_millis(since.wait_ms).min(WAIT_MAX);
    Ok(Json(api.service.update(&run, since.after, wait).await?))
}

pub(super) async fn abort(
    State(api): State<Api>,
    Extension(who): Extension<Identity>,
    Path(run): Path<String>,
    body: Body<AbortRequest>,
) -> Answer<RunStatus> {
    let Json(mut request) = body?;
    request.actor = who.actor(request.actor);
    Ok(Json(to_its_end(async move { api.service.abort(&run, request).await }).await?))
}

pub(super) async fn report(State(api): State<Api>, Path(run): Path<String>) -> Answer<RunReport> {
    Ok(Json(api.service.report(&run).await?))
}

/// Streams that wait, halted or for a server, try again now. What streams is not disturbed.
pub(super) async fn retry(
    State(api): State<Api>,
    body: Body<RetryRequest>,
) -> Result<Json<Retried>, Refusal> {
    let Json(_request) = body?;
    let waits = |shared: &&Arc<Shared>| shared.trouble().is_some() && !*shared.hot.borrow();
    let waiting = [&api.shared, &api.back].into_iter().filter(waits);
    let streams = waiting.map(|shared| {
        shared.retry.notify_one();
        shared.direction
    });
    Ok(Json(Retried { schema_version: SCHEMA_VERSION, streams: streams.collect() }))
}

pub(super) async fn history(State(api): State<Api>) -> Answer<History> {
    Ok(Json(api.service.history().await?))
}

pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Refusal> {
    let history = api.service.history().await?;
    let sample = overview::sample(&api, &history).await;
    let text = metrics::render(&sample)
        .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string(), "metrics"))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// Says nothing about the databases: a supervisor that restarts the sidecar because blue is down
/// would only make it forget what it waits for.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, String) {
    use PipelinePhase as Phase;
    probe(&api, |phase| {
        matches!(phase, Phase::CatchingUp | Phase::Streaming | Phase::CuttingOver | Phase::CutOver)
    })
}

/// The state directory was taken before requests were answered. A supervisor that waits for the copy
/// would end it, and it would begin again.
pub(super) async fn startupz(State(api): State<Api>) -> String {
    format!("{}\n", api.carrying().phase().name())
}

fn probe(api: &Api, is_fine: impl Fn(PipelinePhase) -> bool) -> (StatusCode, String) {
    let phase = api.carrying().phase();
    let code = if is_fine(phase) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", phase.name()))
}

pub(super) async fn not_found() -> Refusal {
    Refusal(ApiError::new(ErrorCode::NotFound, "there is no such page", "replicator's API"))
}
