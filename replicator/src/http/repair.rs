//! `/v1/repair`.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use cutover::api::{ApiError, ErrorCode};
use cutover::audit::{Asker, Event, Kind};
use cutover::verify::repair::{RepairPlan, RepairRequest, RepairStatus};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Api;
use super::caller::Identity;
use super::routes::Refusal;
use super::verify::{Patience, WAIT_MAX};
use crate::chronicle::Chronicle;
use crate::config::Role;
use crate::verify::Verifier;

/// What `cutover --yes` confirms with.
const UNASKED: &str = "--yes";

type Body = Result<Json<RepairRequest>, JsonRejection>;

/// `POST /v1/repair/plan`.
pub(super) async fn plan(State(api): State<Api>, body: Body) -> Result<Json<RepairPlan>, Refusal> {
    let Json(request) = body?;
    Ok(Json(api.verifier.repair_plan(&request).await?))
}

/// `POST /v1/repair`.
pub(super) async fn start(
    State(api): State<Api>,
    Extension(who): Extension<Identity>,
    body: Body,
) -> Result<(StatusCode, Json<RepairStatus>), Refusal> {
    let Json(mut request) = body?;
    may_confirm(&who, request.confirmation.as_deref())?;
    let asker = who.asker(request.actor.take());
    request.actor = Some(asker.to_string());
    let verifier = api.verifier.clone();
    let status = verifier.repair(request)?;
    tokio::spawn(write_down_its_end(verifier, api.chronicle, status.id.clone(), asker));
    Ok((StatusCode::ACCEPTED, Json(status)))
}

/// Whoever has read the name of the database may repair it; whoever goes without must be trusted
/// with more.
fn may_confirm(who: &Identity, confirmation: Option<&str>) -> Result<(), ApiError> {
    if confirmation != Some(UNASKED) || who.role >= Role::Flip {
        return Ok(());
    }
    let what = format!(
        "{} has the role {}: the confirmation {UNASKED} needs flip, the database's name does not",
        who.name,
        who.role.name()
    );
    Err(ApiError::new(ErrorCode::Forbidden, what, "the request's body"))
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
async fn write_down_its_end(verifier: Verifier, chronicle: Chronicle, id: String, asker: Asker) {
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
    chronicle.audit().note(event.asked_by(asker));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whoever_may_flip_goes_without_the_databases_name() {
        let who = |role| Identity { name: "token:a".into(), role, peer: "10.0.0.1:1".into() };
        for (role, unasked) in [(Role::Operate, false), (Role::Flip, true)] {
            assert_eq!(may_confirm(&who(role), Some(UNASKED)).is_ok(), unasked);
            assert!(may_confirm(&who(role), Some("shop")).is_ok());
            assert!(may_confirm(&who(role), None).is_ok(), "that is refused elsewhere");
        }
        let refused = may_confirm(&who(Role::Operate), Some(UNASKED)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Forbidden);
    }
}
