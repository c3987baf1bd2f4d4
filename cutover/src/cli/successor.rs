//! The rollback that the sidecar begins by itself when a monitor is breached: whoever follows the
//! cutover sees it, too, and ends with it.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::api::{ApiError, ErrorCode, RunReport, RunStatus};
use crate::side::Direction;

use super::client::Client;
use super::exit::Exit;
use super::failure::Failure;

/// Between two looks for it.
const RETRY: Duration = Duration::from_millis(250);
/// The sidecar begins it at once or, if the way back has to recover first, in so long.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Waits for the rollback that answers the breach of this run. A message in `from` that
/// `interrupts` ends the wait, not the rollback.
pub fn wait<T>(
    client: &Client,
    report: &RunReport,
    from: &Receiver<T>,
    interrupts: impl Fn(&T) -> bool,
) -> Result<RunStatus, Failure> {
    let gives_up_at = Instant::now() + PATIENCE;
    loop {
        // Not answering is one of the reasons to be patient.
        if let Ok(update) = client.update("current", u64::MAX, Duration::ZERO)
            && update.status.epoch > report.epoch
            && update.status.direction == Direction::Back
        {
            return Ok(update.status);
        }
        let (exit, why) = match from.recv_timeout(RETRY) {
            Ok(message) if interrupts(&message) => {
                (Exit::Unwatched, "no longer watching: it may still begin")
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) if Instant::now() < gives_up_at => continue,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(RETRY);
                continue;
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => (Exit::Failed, "it did not begin"),
        };
        let what = format!("a monitor was breached, and a rollback is due: {why}");
        return Err(Failure::new(
            exit,
            ApiError::new(ErrorCode::Unavailable, what, "sidecar")
                .in_state(format!("{} serves", report.serving))
                .next("cutover status, then: cutover rollback"),
        ));
    }
}

/// How the command that asked for the cutover ends with the rollback: what means that nothing has
/// happened to the clients means here that they are where the breach was.
pub fn exit(of_rollback: Exit) -> Exit {
    match of_rollback {
        Exit::NotReady | Exit::TimedOut | Exit::Aborted | Exit::Interrupted => Exit::Failed,
        exit => exit,
    }
}
