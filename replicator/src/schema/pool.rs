//! Several sessions on green that work through a queue of statements.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use decoders::postgres::conninfo::ConnInfo;
use futures_util::future::try_join_all;

use super::marks::Marks;
use super::put_off;
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
    /// Marks of what had to be put off.
    pub put_off: Mutex<BTreeSet<String>>,
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
        if self.is_put_off(&task.mark()) {
            step.finish();
            return Ok(0);
        }
        match restorer.run_marked(&task.entry, task.sql(), &task.mark()).await? {
            Outcome::Done => {}
            Outcome::Existed => {
                tracing::info!(object = task.entry.toc.describe(), "was on green already");
            }
            Outcome::Violated(error) => {
                let Some(substitute) = put_off::substitute(task) else { return Err(error) };
                restorer.put_off(&task.entry, &substitute).await?;
                let marks = substitute.steps.iter();
                let marks = marks.map(|step| Marks::statement(task.entry.ordinal, step));
                self.all_put_off().extend(marks);
                tracing::warn!(
                    object = task.entry.toc.describe(),
                    find = substitute.put_off.find,
                    "put off, because rows violate it: {error}"
                );
            }
        }
        step.finish();
        Ok(1)
    }

    fn all_put_off(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_put_off(&self, mark: &str) -> bool {
        self.all_put_off().contains(mark)
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
