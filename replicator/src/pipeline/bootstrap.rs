//! The first start: everything that could stand in the way, looked at before anything is touched.

use cutover::api::PipelinePhase;

use super::Pipeline;
use super::failure::{EXIT_BLOCKED, Failure};
use crate::check::{self, CheckRequest};
use crate::store::Stage;

impl Pipeline {
    /// Checks, and records that the pipeline may begin.
    ///
    /// # Errors
    /// Blockers, all of them, with exit code 3; nothing has been touched then.
    pub(super) async fn first_start(&mut self) -> Result<(), Failure> {
        self.shared.enter(PipelinePhase::Starting);
        let report = check::check(&CheckRequest::of(&self.config, &self.blue, &self.green)).await;
        if report.is_unreachable() {
            // A server that is down now may be there in a minute; that is no verdict about it.
            return Err(Failure::retry("check", report.summary()));
        }
        if !report.is_clean() {
            eprintln!("{report}");
        }
        if report.exit_code() != 0 {
            return Err(Failure {
                exit_code: EXIT_BLOCKED,
                ..Failure::halt("check", report.summary(), "replicator check, after each fix")
            });
        }
        Ok(self.store.save_stage(&Stage::Preparing)?)
    }
}
