//! What the workers do next. Cutting a table is a task as well: its chunks are copied by whoever is
//! free while the rest of it is still being cut.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::marks::Mark;

/// A piece of work; tables by their place in the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Task {
    /// Find where the table's chunks end.
    Cut { table: usize },
    /// Copy a chunk of it.
    Copy { table: usize, mark: Mark },
}

#[derive(Debug, Default)]
struct State {
    tasks: VecDeque<Task>,
    /// Workers that may still add tasks.
    cutting: usize,
}

/// Tasks in order: chunks that are known come before tables that are not cut.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next task. Waits while there is none but another worker may find some; `None` when
    /// everything is taken.
    pub(super) async fn next(&self) -> Option<Task> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let next = self.with(|state| match state.tasks.pop_front() {
                Some(task) => {
                    state.cutting += usize::from(matches!(task, Task::Cut { .. }));
                    Some(Some(task))
                }
                None if state.cutting == 0 => Some(None),
                None => None,
            });
            match next {
                Some(next) => return next,
                None => changed.await,
            }
        }
    }

    /// Adds a task: a chunk before the tables that are not cut, a table at the end.
    pub(super) fn add(&self, task: Task) {
        self.with(|state| {
            let is_chunk = |task: &Task| matches!(task, Task::Copy { .. });
            let at = match is_chunk(&task) {
                true => state.tasks.iter().take_while(|task| is_chunk(task)).count(),
                false => state.tasks.len(),
            };
            state.tasks.insert(at, task);
        });
        self.changed.notify_waiters();
    }

    /// A table is cut.
    pub(super) fn cut(&self) {
        self.with(|state| state.cutting -= 1);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::mysql::marks::Range;

    #[tokio::test]
    async fn who_waits_gets_what_another_finds() {
        let queue = Queue::default();
        queue.add(Task::Cut { table: 0 });
        assert_eq!(queue.next().await, Some(Task::Cut { table: 0 }));
        let mark = Mark { chunk: 0, range: Range::default(), is_done: false, rows: 0, bytes: 0 };
        let chunk = Task::Copy { table: 0, mark };
        let (next, ()) = tokio::join!(queue.next(), async { queue.add(chunk.clone()) });
        assert_eq!(next, Some(chunk));
        let (next, ()) = tokio::join!(queue.next(), async { queue.cut() });
        assert_eq!(next, None);
    }
}
