//! Several sessions on green that work through a queue of statements.

use std::collections::BTreeSet;

use decoders::postgres::conninfo::ConnInfo;
use futures_util::future::try_join_all;

use super::queue::{Job, Queue};
use super::session::{BuildResources, Outcome, Restorer};
use super::task::Task;
use crate::backfill::progress::Step;
use crate::backfill::tuning::IndexTuning;
use crate::backfill::{BackfillError, Cancel, ProgressSender};

/// What all sessions share.
pub(super) struct Pool<'a> {
    pub green: &'a ConnInfo,
    pub tuning: &'a IndexTuning,
    pub progress: &'a ProgressSender,
    pub cancel: &'a Cancel,
    /// Marks of what an earlier call has done.
    pub done: BTreeSet<String>,
}

impl Pool<'_> {
    /// Those that no earlier call has done.
    pub(super) fn open(&self, tasks: Vec<Task>) -> Vec<Task> {
        tasks.into_iter().filter(|task| !self.done.contains(&task.mark())).collect()
    }

    /// Those in which an earlier call has left something to do.
    pub(super) fn open_jobs(&self, jobs: Vec<Job>) -> Vec<Job> {
        jobs.into_iter()
            .map(|job| Job { tasks: self.open(job.tasks), ..job })
            .filter(|job| !job.tasks.is_empty())
            .collect()
    }

    /// Executes one and writes it down.
    pub(super) async fn restore(
        &self,
        restorer: &mut Restorer,
        task: &Task,
    ) -> Result<usize, BackfillError> {
        let step = Step::begin(self.progress, task.entry.toc.describe());
        let outcome = restorer.run_marked(&task.entry, task.sql(), &task.mark()).await?;
        if outcome == Outcome::Existed {
            tracing::info!(object = task.entry.toc.describe(), "was on green already");
        }
        step.finish();
        Ok(1)
    }

    /// Works until nothing is left. Gives back the number of statements.
    pub(super) async fn run(&self, queue: &Queue) -> Result<usize, BackfillError> {
        let sessions = self.tuning.jobs.min(queue.len());
        let counts = try_join_all((0..sessions).map(|_| self.worker(queue))).await?;
        Ok(counts.into_iter().sum())
    }

    async fn worker(&self, queue: &Queue) -> Result<usize, BackfillError> {
        let mut restorer = None;
        let mut statements = 0;
        while let Some(job) = queue.next().await {
            let result = self.job(queue, &job, &mut restorer).await;
            queue.give_back(&job, result.is_ok());
            statements += result?;
        }
        Ok(statements)
    }

    async fn job(
        &self,
        queue: &Queue,
        job: &Job,
        restorer: &mut Option<Restorer>,
    ) -> Result<usize, BackfillError> {
        let restorer = match restorer {
            Some(restorer) => restorer,
            None => restorer.insert(Restorer::open(self.green, "", self.cancel).await?),
        };
        let helpers = self.tuning.parallel_workers(queue.share(job));
        let memory_mib = match job.tasks.iter().all(Task::is_sort) {
            true => self.tuning.build_memory_mib(job.cost, helpers.unwrap_or(0)),
            false => self.tuning.memory_mib,
        };
        restorer.set_resources(BuildResources { memory_mib, helpers }).await?;
        let mut statements = 0;
        for task in &job.tasks {
            statements += self.restore(restorer, task).await?;
        }
        Ok(statements)
    }
}
