//! The exit codes. Scripts depend on them: a number never changes its meaning.

use std::process::ExitCode;

use crate::api::{ErrorCode, Outcome};
use crate::phase::Phase;

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; or the plan is ready.
    Done = 0,
    /// Something failed that has no code of its own; the state is printed.
    Failed = 1,
    /// The command line, the confirmation or the token is wrong. Nothing was touched.
    Usage = 2,
    /// A precheck failed. Nothing was touched.
    NotReady = 3,
    /// What was waited for did not come in time; for a run: the gate. No client was held.
    TimedOut = 4,
    /// The run was aborted and everything was put back: the side that served before serves.
    Aborted = 5,
    /// The clients were taken back: blue serves, with everything that green had committed when it was closed.
    RolledBack = 6,
    /// A person has to decide; the side that may not serve stays closed.
    Held = 7,
    /// Another run is active, or another sidecar acts for the pipeline.
    Busy = 8,
    /// What was verified is not what it has to be.
    Mismatch = 9,
    /// The sidecar can't be reached. A run may be going on.
    Unreachable = 10,
    /// The sidecar answers, but can't do this now: nothing streams, or a server does not answer it.
    /// Nothing was touched.
    NotNow = 11,
    /// This command does not watch any more, or could not read the answer to its order. The sidecar goes on: a run
    /// may be going on, or begin.
    Unwatched = 12,
    /// Interrupted before the gate passed. Nothing was touched.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed | Outcome::Drilled => Exit::Done,
            Outcome::RolledBack => Exit::RolledBack,
            Outcome::PrecheckFailed => Exit::NotReady,
            Outcome::GateTimeout => Exit::TimedOut,
            Outcome::Aborted => Exit::Aborted,
            Outcome::Held => Exit::Held,
        }
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadRequest
            | ErrorCode::Unauthorized
            | ErrorCode::Forbidden
            | ErrorCode::Unsupported => Exit::Usage,
            ErrorCode::PrecheckFailed => Exit::NotReady,
            ErrorCode::Busy | ErrorCode::Superseded => Exit::Busy,
            ErrorCode::Unavailable => Exit::NotNow,
            ErrorCode::NotFound | ErrorCode::TooLate | ErrorCode::Internal => Exit::Failed,
        }
    }
}

impl Exit {
    /// For a run that is over but left no report.
    pub fn of_final_phase(phase: Phase) -> Self {
        match phase {
            Phase::Done => Exit::Done,
            Phase::Aborted => Exit::Aborted,
            Phase::Held => Exit::Held,
            _ => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_the_documented_codes() {
        let codes = [
            (Outcome::Completed, 0),
            (Outcome::PrecheckFailed, 3),
            (Outcome::GateTimeout, 4),
            (Outcome::Aborted, 5),
            (Outcome::RolledBack, 6),
            (Outcome::Held, 7),
        ];
        for (outcome, code) in codes {
            assert_eq!(Exit::from(outcome) as u8, code, "{outcome:?}");
        }
    }

    #[test]
    fn errors_have_the_documented_codes() {
        let codes = [
            (ErrorCode::BadRequest, 2),
            (ErrorCode::Unauthorized, 2),
            (ErrorCode::Forbidden, 2),
            (ErrorCode::PrecheckFailed, 3),
            (ErrorCode::Busy, 8),
            (ErrorCode::Unavailable, 11),
            (ErrorCode::Internal, 1),
            (ErrorCode::TooLate, 1),
            (ErrorCode::NotFound, 1),
        ];
        for (code, number) in codes {
            assert_eq!(Exit::from(code) as u8, number, "{code:?}");
        }
        assert_eq!(Exit::Unreachable as u8, 10);
        assert_eq!(Exit::Unwatched as u8, 12);
        assert_eq!(Exit::Interrupted as u8, 130);
    }
}
