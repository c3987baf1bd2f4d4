//! Statements for several sessions, handed out so that none waits for another's table lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use decoders::QualifiedName;
use tokio::sync::Notify;

use super::task::Task;

/// How much of a table a job needs to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// Others of this kind may work on the table at the same time (`CREATE INDEX` takes SHARE).
    Shared,
    /// Nobody else may (`ALTER TABLE`).
    Exclusive,
    /// The same, and all other jobs of the table come first.
    Adoption,
}

/// Statements that one session runs one after another.
#[derive(Debug)]
pub(super) struct Job {
    pub tables: Vec<QualifiedName>,
    pub need: Need,
    /// How much there is to do, in any unit: the tables' bytes, for work that reads them.
    pub cost: u64,
    pub tasks: Vec<Task>,
}

/// Nothing here is looked through from end to end while thousands of jobs wait.
#[derive(Debug, Default)]
struct State {
    /// Jobs that may be given out as soon as their tables are free, by their place in the order.
    waiting: BTreeMap<usize, Job>,
    /// Jobs of tables that are not ready, each under the first such table.
    parked: BTreeMap<QualifiedName, Vec<(usize, Job)>>,
    /// Tables whose jobs may be given out; `None`: all.
    ready: Option<BTreeSet<QualifiedName>>,
    /// Jobs that are not given out yet and that an adoption has to wait for, by tables.
    before_adoption: BTreeMap<Vec<QualifiedName>, usize>,
    /// Cost of what waits and of what is being worked on.
    cost_left: u64,
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
        Self::with(jobs, None)
    }

    /// A queue that gives nothing out until it is told which tables are ready.
    pub(super) fn held(jobs: impl IntoIterator<Item = Job>) -> Self {
        Self::with(jobs, Some(BTreeSet::new()))
    }

    fn with(jobs: impl IntoIterator<Item = Job>, ready: Option<BTreeSet<QualifiedName>>) -> Self {
        let mut state = State { ready, ..State::default() };
        for (at, job) in jobs.into_iter().enumerate() {
            state.cost_left += job.cost;
            if job.need != Need::Adoption {
                *state.before_adoption.entry(job.tables.clone()).or_default() += 1;
            }
            state.put(at, job);
        }
        Self { state: Mutex::new(state), freed: Notify::new() }
    }

    /// Jobs of this table may be given out.
    pub(super) fn ready(&self, table: QualifiedName) {
        self.state().unpark(table);
        self.freed.notify_waiters();
    }

    /// All jobs may be given out.
    pub(super) fn all_ready(&self) {
        let mut state = self.state();
        state.ready = None;
        let parked = std::mem::take(&mut state.parked);
        state.waiting.extend(parked.into_values().flatten());
        drop(state);
        self.freed.notify_waiters();
    }

    /// Jobs that wait.
    pub(super) fn len(&self) -> usize {
        let state = self.state();
        state.waiting.len() + state.parked.values().map(Vec::len).sum::<usize>()
    }

    /// What a job is of all that is left to do, itself included: above 0, up to 1.
    pub(super) fn share(&self, job: &Job) -> f64 {
        job.cost.max(1) as f64 / self.state().cost_left.max(1) as f64
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
                if state.has_failed || (state.waiting.is_empty() && state.parked.is_empty()) {
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
        state.cost_left = state.cost_left.saturating_sub(job.cost);
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
    /// Puts a job where its tables allow.
    fn put(&mut self, at: usize, job: Job) {
        let ready = self.ready.as_ref();
        let is_ready = |table: &QualifiedName| ready.is_none_or(|ready| ready.contains(table));
        match job.tables.iter().find(|table| !is_ready(table)).cloned() {
            Some(table) => self.parked.entry(table).or_default().push((at, job)),
            None => {
                self.waiting.insert(at, job);
            }
        }
    }

    fn unpark(&mut self, table: QualifiedName) {
        let Some(ready) = &mut self.ready else { return };
        let parked = self.parked.remove(&table);
        ready.insert(table);
        for (at, job) in parked.into_iter().flatten() {
            self.put(at, job);
        }
    }

    fn take(&mut self) -> Option<Job> {
        let is_free = |job: &Job| {
            job.tables.iter().all(|table| match (self.busy.get(table), job.need) {
                (None, _) => true,
                (Some((_, is_exclusive)), Need::Shared) => !is_exclusive,
                (Some(_), Need::Exclusive | Need::Adoption) => false,
            })
        };
        let is_last = |job: &Job| {
            job.need != Need::Adoption || !self.before_adoption.contains_key(&job.tables)
        };
        let mut waiting = self.waiting.iter();
        let at = *waiting.find(|(_, job)| is_free(job) && is_last(job))?.0;
        let job = self.waiting.remove(&at)?;
        if job.need != Need::Adoption
            && let Some(count) = self.before_adoption.get_mut(&job.tables)
        {
            *count -= 1;
            if *count == 0 {
                self.before_adoption.remove(&job.tables);
            }
        }
        for table in &job.tables {
            let busy = self.busy.entry(table.clone()).or_insert((0, false));
            busy.0 += 1;
            busy.1 |= job.need != Need::Shared;
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn job(tables: &[&str], need: Need) -> Job {
        let tables = tables.iter().map(|name| QualifiedName::new("s", *name)).collect();
        Job { tables, need, cost: 1, tasks: Vec::new() }
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

    #[tokio::test]
    async fn jobs_wait_for_their_table_and_adoptions_for_all_others() {
        let queue = Queue::held([
            job(&["a"], Need::Adoption),
            job(&["a"], Need::Shared),
            job(&["b"], Need::Shared),
        ]);
        assert!(queue.next().now_or_never().is_none());
        queue.ready(QualifiedName::new("s", "a"));
        let build = queue.next().await.unwrap();
        assert_eq!((build.need, queue.share(&build)), (Need::Shared, 1.0 / 3.0));
        assert!(queue.next().now_or_never().is_none(), "the index is not there yet");
        queue.give_back(&build, true);
        let adoption = queue.next().await.unwrap();
        assert_eq!(adoption.need, Need::Adoption);
        queue.give_back(&adoption, true);
        let (last, ()) = tokio::join!(queue.next(), async { queue.all_ready() });
        let last = last.unwrap();
        assert_eq!((names(&last), queue.share(&last)), (vec!["b"], 1.0));
    }
}
