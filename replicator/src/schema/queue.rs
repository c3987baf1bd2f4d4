//! Statements for several sessions, handed out so that none waits for another's table lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use decoders::QualifiedName;
use tokio::sync::Notify;

use super::classify::Group;

/// How much of a table a job needs to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// Others of this kind may work on the table at the same time (`CREATE INDEX` takes SHARE).
    Shared,
    /// Nobody else may (`ALTER TABLE`).
    Exclusive,
}

/// Statements that one session runs one after another.
#[derive(Debug)]
pub(super) struct Job {
    pub tables: Vec<QualifiedName>,
    pub need: Need,
    pub group: Group,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Jobs at work on a table, and whether the one has it to itself.
    busy: BTreeMap<QualifiedName, (usize, bool)>,
    has_failed: bool,
}

/// The jobs, in order of preference.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    freed: Notify,
}

impl Queue {
    pub(super) fn new(jobs: impl IntoIterator<Item = Job>) -> Self {
        let state = State { waiting: jobs.into_iter().collect(), ..State::default() };
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changes are single steps, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job whose tables are free; waits if there are only others. `None`: all are given
    /// out, or one has failed.
    pub(super) async fn next(&self) -> Option<Job> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on no `give_back` is missed.
            freed.as_mut().enable();
            {
                let mut state = self.state();
                if state.has_failed || state.waiting.is_empty() {
                    return None;
                }
                if let Some(job) = state.take() {
                    return Some(job);
                }
            }
            freed.await;
        }
    }

    /// Frees a job's tables.
    pub(super) fn give_back(&self, job: &Job, is_done: bool) {
        let mut state = self.state();
        state.has_failed |= !is_done;
        for table in &job.tables {
            if let Some((count, _)) = state.busy.get_mut(table) {
                *count -= 1;
                if *count == 0 {
                    state.busy.remove(table);
                }
            }
        }
        drop(state);
        self.freed.notify_waiters();
    }
}

impl State {
    fn take(&mut self) -> Option<Job> {
        let is_free = |job: &Job| {
            job.tables.iter().all(|table| match (self.busy.get(table), job.need) {
                (None, _) => true,
                (Some((_, is_exclusive)), Need::Shared) => !is_exclusive,
                (Some(_), Need::Exclusive) => false,
            })
        };
        let at = self.waiting.iter().position(is_free)?;
        let job = self.waiting.remove(at)?;
        for table in &job.tables {
            let busy = self.busy.entry(table.clone()).or_insert((0, false));
            busy.0 += 1;
            busy.1 |= job.need == Need::Exclusive;
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(tables: &[&str], need: Need) -> Job {
        let tables = tables.iter().map(|name| QualifiedName::new("s", *name)).collect();
        Job { tables, need, group: Vec::new() }
    }

    fn names(job: &Job) -> Vec<&str> {
        job.tables.iter().map(|table| table.name.as_str()).collect()
    }

    #[tokio::test]
    async fn jobs_on_a_busy_table_wait_and_others_pass() {
        let queue = Queue::new([
            job(&["a"], Need::Exclusive),
            job(&["a"], Need::Shared),
            job(&["a"], Need::Shared),
            job(&["b"], Need::Exclusive),
        ]);
        let first = queue.next().await.unwrap();
        let second = queue.next().await.unwrap();
        assert_eq!((names(&first), names(&second)), (vec!["a"], vec!["b"]));
        let (third, ()) = tokio::join!(queue.next(), async { queue.give_back(&first, true) });
        assert_eq!(names(&third.unwrap()), ["a"]);
        assert_eq!(names(&queue.next().await.unwrap()), ["a"], "shared with the third");
        assert!(queue.next().await.is_none());
    }

    #[tokio::test]
    async fn a_failure_ends_the_work() {
        let queue = Queue::new([job(&["a"], Need::Exclusive), job(&["b"], Need::Exclusive)]);
        let first = queue.next().await.unwrap();
        queue.give_back(&first, false);
        assert!(queue.next().await.is_none());
    }
}
