//! `/v1/repair`.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use cutover::audit::{Event, Kind};
use cutover::verify::repair::{RepairPlan, RepairRequest, RepairStatus};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Api;
use super::routes::Refusal;
use super::verify::{Patience, WAIT_MAX};
use crate::chronicle::Chronicle;
use crate::verify::Verifier;

type Body = Result<Json<RepairRequest>, JsonRejection>;

/// `POST /v1/repair/plan`.
pub(super) async fn plan(State(api): State<Api>, body: Body) -> Result<Json<RepairPlan>, Refusal> {
    let Json(request) = body?;
    Ok(Json(api.verifier.repair_plan(&request).await?))
}

/// `POST /v1/repair`.
pub(super) async fn start(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<RepairStatus>), Refusal> {
    let Json(request) = body?;
    let actor = request.actor.clone();
    let verifier = api.verifier.clone();
    let status = verifier.repair(request)?;
    tokio::spawn(write_down_its_end(verifier, api.chronicle, status.id.clone(), actor));
    Ok((StatusCode::ACCEPTED, Json(status)))
}

/// `GET /v1/repair/{id}`.
pub(super) async fn status(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(patience): Query<Patience>,
) -> Result<Json<RepairStatus>, Refusal> {
    let wait = Duration::from_millis(patience.wait_ms).min(WAIT_MAX);
    Ok(Json(api.verifier.repair_status(&id, wait).await?))
}

/// `POST /v1/repair/{id}/stop`.
pub(super) async fn stop(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<RepairStatus>, Refusal> {
    Ok(Json(api.verifier.stop_repair(&id).await?))
}

/// Counts only: keys are for the one who asked.
async fn write_down_its_end(
    verifier: Verifier,
    chronicle: Chronicle,
    id: String,
    actor: Option<String>,
) {
    let ended = loop {
        match verifier.repair_status(&id, WAIT_MAX).await {
            Ok(status) if status.report.is_none() && status.error.is_none() => {}
            ended => break ended,
        }
    };
    let report = ended.ok().and_then(|status| status.report);
    let detail = report.map_or(Value::Null, |report| {
        let tables = report.tables.iter().map(|table| {
            json!({
                "table": table.table, "inserted": table.inserted, "updated": table.updated,
                "deleted": table.deleted, "verified": table.verified, "of": table.rows,
            })
        });
        json!({ "verification": report.verification, "whole": report.is_whole(),
                "tables": tables.collect::<Vec<_>>() })
    });
    let what = match &detail {
        Value::Null => format!("repair {id} failed"),
        _ => format!("repair {id} is over"),
    };
    let event = Event::new(Timestamp::now(), Kind::Answer, what, detail);
    chronicle.audit().note(event.by(actor));
}
