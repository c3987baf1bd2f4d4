//! `cutover repair`.

use std::time::Duration;

use crate::verify::VerifyState;
use crate::verify::repair::{RepairRequest, RepairStatus};

use super::args::{CommonArgs, RepairArgs};
use super::client::{Client, ClientError};
use super::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::render::{render_repair_plan, render_repaired, render_repairing};
use super::run::actor;
use super::screen::Screen;

/// Between two looks at the progress.
const WAIT: Duration = Duration::from_millis(500);
const NOT_STARTED: &str = "unknown, but this command has changed nothing";
/// What a sidecar that stopped answering means to a repair.
const UNSEEN: &str = "unknown; what was repaired stays, and every other row is as the stream has \
                      made it, also if the sidecar has ended";

/// Shows what would be written, or asks and has it written. Exit code 9 if something still differs.
pub fn repair(
    client: &Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &RepairArgs,
) -> Result<Exit, Failure> {
    let failed = |error| client.failure(error, UNSEEN);
    let status = if args.stop {
        client.stop_repair("last").map_err(failed)?
    } else if args.attach {
        client.repaired("last", Duration::ZERO).map_err(failed)?
    } else {
        let mut request = request(common, args);
        if !args.plan {
            confirm::ensure_possible(args.yes)?;
        }
        if args.plan || !args.yes {
            let plan = client.repair_plan(&request, screen);
            let plan = plan.map_err(|error| client.failure(error, NOT_STARTED))?;
            if args.plan {
                screen.result(&render_repair_plan(&plan, screen.out_paint()));
                screen.object(&plan);
                return Ok(Exit::Done);
            }
            screen.notice(&render_repair_plan(&plan, screen.err_paint()));
            request.confirmation = Some(confirm::ask(&plan.database)?);
        }
        client.repair(&request, screen).map_err(|error| {
            let state = match error {
                ClientError::Unreachable(_) | ClientError::Foreign(_) => UNSEEN,
                ClientError::Refused(_) => NOT_STARTED,
            };
            client.failure(error, state)
        })?
    };
    follow(client, screen, status)
}

fn follow(client: &Client, screen: &Screen, mut status: RepairStatus) -> Result<Exit, Failure> {
    if status.state == VerifyState::Running {
        let hint = " it goes on without this command: cutover repair --attach, or --stop";
        screen.progress(&format!(" repair {}\n{hint}", status.id));
    }
    while status.state == VerifyState::Running {
        if screen.can_replace() {
            screen.replace(&render_repairing(&status));
        }
        let seen = client.repaired(&status.id, WAIT);
        status = seen.map_err(|error| client.failure(error, UNSEEN))?;
    }
    if let Some(error) = &status.error {
        return Err(Failure::new(Exit::Failed, error.clone()));
    }
    let Some(report) = &status.report else { return Ok(Exit::Failed) };
    screen.result(&render_repaired(report, screen.out_paint()));
    screen.object(report);
    let has_failed = |table: &crate::verify::repair::RepairedTable| table.error.is_some();
    Ok(match report.is_whole() {
        true => Exit::Done,
        false if report.stopped.is_some() || report.tables.iter().any(has_failed) => Exit::Failed,
        false => Exit::Mismatch,
    })
}

fn request(common: &CommonArgs, args: &RepairArgs) -> RepairRequest {
    RepairRequest {
        tables: args.table.clone(),
        settle_ms: args.settle.map(|time| time.as_millis() as u64),
        confirmation: args.yes.then(|| confirm::YES.to_owned()),
        actor: actor(common),
        reason: common.reason.clone(),
    }
}
