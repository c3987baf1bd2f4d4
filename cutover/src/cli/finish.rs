//! `cutover finish`: the end of the way back.

use crate::api::{ApiError, ErrorCode, FinishRequest, FinishState};

use super::args::{CommonArgs, FinishArgs};
use super::client::{Client, ClientError};
use super::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::render::{render_finish_plan, render_finish_report};
use super::run::actor;
use super::screen::Screen;

const NOT_STARTED: &str = "unknown, but this command has removed nothing";

/// Shows what would be removed, asks, and has it removed.
pub fn finish(
    client: &Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &FinishArgs,
) -> Result<Exit, Failure> {
    confirm::ensure_possible(args.yes)?;
    let plan = client.finish_plan(screen).map_err(|error| client.failure(error, NOT_STARTED))?;
    let text = render_finish_plan(&plan, screen.err_paint());
    if let Some(why) = plan.refused.as_ref().filter(|_| !args.force_abandon_rollback) {
        screen.notice(&text);
        let error = ApiError::new(ErrorCode::Busy, why, "sidecar")
            .in_state(format!("unchanged: {} serves, the way back is kept", plan.serving))
            .next("cutover finish --force-abandon-rollback");
        return Err(Failure::new(Exit::Busy, error));
    }
    let confirmation = if args.yes || plan.state == FinishState::Done {
        screen.progress(&text);
        confirm::YES.to_owned()
    } else {
        screen.notice(&text);
        confirm::ask(&plan.database)?
    };
    let request = FinishRequest {
        actor: actor(common),
        confirmation: Some(confirmation),
        force_abandon_rollback: args.force_abandon_rollback,
    };
    let report = client.finish(&request, screen).map_err(|error| {
        let state = match error {
            ClientError::Unreachable(_) | ClientError::Foreign(_) => {
                "unknown: it may have been begun; `cutover finish` again ends it"
            }
            ClientError::Refused(_) => NOT_STARTED,
        };
        client.failure(error, state)
    })?;
    screen.result(&render_finish_report(&report, screen.out_paint()));
    screen.object(&report);
    Ok(Exit::Done)
}
