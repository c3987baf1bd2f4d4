//! `cutover verify`.

use std::time::Duration;

use crate::verify::{Verdict, VerifyRequest, VerifyState, VerifyStatus};

use super::args::{CommonArgs, VerifyArgs};
use super::client::Client;
use super::exit::Exit;
use super::failure::Failure;
use super::render::{render_verified, render_verifying};
use super::run::actor;
use super::screen::Screen;

/// Between two looks at the progress.
const WAIT: Duration = Duration::from_millis(500);
/// What a sidecar that stopped answering means to a verification.
const UNSEEN: &str = "unknown; a verification only reads, and ends with the sidecar";

/// Compares the two sides, and says what differs. Exit code 9 if something does, 1 if something
/// could not be compared.
pub fn verify(
    client: &Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &VerifyArgs,
) -> Result<Exit, Failure> {
    let failed = |error| client.failure(error, UNSEEN);
    let mut status = if args.stop {
        client.stop_verify("last").map_err(failed)?
    } else if args.attach {
        client.verified("last", Duration::ZERO).map_err(failed)?
    } else {
        client.verify(&request(common, args), screen).map_err(failed)?
    };
    let hint = " it goes on without this command: cutover verify --attach, or --stop";
    if status.state == VerifyState::Running {
        screen.progress(&format!(" verification {} ({})\n{hint}", status.id, status.mode.name()));
    }
    while status.state == VerifyState::Running {
        if screen.can_replace() {
            screen.replace(&render_verifying(&status.progress));
        }
        status = client.verified(&status.id, WAIT).map_err(failed)?;
    }
    end(screen, args, &status)
}

fn end(screen: &Screen, args: &VerifyArgs, status: &VerifyStatus) -> Result<Exit, Failure> {
    if let Some(error) = &status.error {
        return Err(Failure::new(Exit::Failed, error.clone()));
    }
    let Some(report) = &status.report else { return Ok(Exit::Failed) };
    if args.markdown {
        screen.result(&report.markdown());
    } else {
        screen.result(&render_verified(report, screen.out_paint()));
    }
    if args.continuous && report.verdict == Verdict::Equal {
        screen.progress(" rows that change are looked at again from now on: cutover status");
    }
    screen.object(report);
    Ok(match report.verdict {
        Verdict::Equal => Exit::Done,
        Verdict::Different => Exit::Mismatch,
        Verdict::Incomplete => Exit::Failed,
    })
}

fn request(common: &CommonArgs, args: &VerifyArgs) -> VerifyRequest {
    VerifyRequest {
        mode: args.mode,
        tables: args.table.clone(),
        predicates: args.predicates.clone(),
        sample_percent: args.sample,
        connections: args.connections,
        rows_per_second: args.rate,
        unlimited: args.unlimited,
        chunk_rows: args.chunk_rows,
        settle_ms: args.settle.map(|time| time.as_millis() as u64),
        fresh: args.fresh,
        rows_only: args.rows_only,
        continuous: args.continuous,
        actor: actor(common),
        reason: common.reason.clone(),
    }
}
