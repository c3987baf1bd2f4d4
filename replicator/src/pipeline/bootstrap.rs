//! The first start: everything that could stand in the way, looked at before anything is touched.

use cutover::api::PipelinePhase;

use super::Pipeline;
use super::failure::{EXIT_BLOCKED, Failure};
use super::preflight::{Moment, preflight};
use crate::store::Stage;

impl Pipeline {
    /// Checks, and records that the pipeline may begin.
    ///
    /// # Errors
    /// Blockers, all of them, with exit code 3; nothing has been touched then. A server that is
    /// only down is no blocker: it may be there in a minute.
    pub(super) async fn first_start(&mut self) -> Result<(), Failure> {
        self.shared.enter(PipelinePhase::Starting);
        let found =
            preflight(&self.config, &self.ends.source, &self.ends.target, Moment::FirstStart).await;
        let report = &found.report;
        if report.exit_code() != 0 {
            if let Some(unreachable) = found.only_unreachable() {
                return Err(Failure::retry("check", unreachable));
            }
            eprintln!("{report}");
            let ids: Vec<_> = report.blocking().map(|finding| finding.id).collect();
            return Err(Failure {
                exit_code: EXIT_BLOCKED,
                ..Failure::halt(
                    "check",
                    format!("{} in the way: {}", report.blockers, ids.join(", ")),
                    "remove them as shown above, then: replicator check",
                )
            });
        }
        if report.warnings > 0 {
            eprintln!("{report}");
        }
        Ok(self.store.save_stage(&Stage::Preparing)?)
    }
}
