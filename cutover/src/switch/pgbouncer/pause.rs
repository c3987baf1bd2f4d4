//! `PAUSE` statements that are on their way.
//!
//! A statement that was handed to a connection can't be taken back: dropping the future that
//! waits for its answer leaves it in a queue or in a socket, and it may be carried out *after* a
//! `RESUME` that was sent later over another connection. So each is sent by a task of its own,
//! which knows whether it has been answered, and whoever resumes looks at them first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sql::{Sql, SqlError, ident, soon};

/// Allows one hold to send `PAUSE`, until the next hold or the next resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

#[derive(Default)]
struct State {
    ticket: u64,
    sent: Vec<Sent>,
}

/// A statement that may not have been carried out yet.
pub(super) struct Sent {
    pub database: String,
    task: JoinHandle<()>,
}

impl Sent {
    /// Whether it was answered, or its connection is gone.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

/// The statements of one member.
#[derive(Default)]
pub(super) struct Pauses(Mutex<State>);

impl Pauses {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hold begins.
    pub fn begin(&self) -> Ticket {
        let mut state = self.lock();
        state.ticket += 1;
        Ticket(state.ticket)
    }

    /// No hold that began earlier sends anything from here on. What was sent already.
    pub fn end(&self) -> Vec<Sent> {
        let mut state = self.lock();
        state.ticket += 1;
        std::mem::take(&mut state.sent)
    }

    /// Sends `PAUSE` over `console` and waits for the answer until the deadline. `None`: none came,
    /// or the hold is over.
    pub async fn send(
        &self,
        ticket: Ticket,
        console: std::sync::Arc<Sql>,
        database: &str,
        deadline: Instant,
    ) -> Option<Result<(), SqlError>> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.ticket != ticket.0 {
                return None;
            }
            let pause = format!("PAUSE {}", ident(database));
            let task = tokio::spawn(async move {
                // Longer than a hold waits: it is over when it was answered.
                let result = console.run(&pause, soon()).await;
                if let Err(Err(error)) = answer.send(result) {
                    tracing::debug!("{pause}, which nobody waits for: {}", error.text);
                }
            });
            state.sent.retain(|sent| !sent.is_over());
            state.sent.push(Sent { database: database.to_owned(), task });
        }
        tokio::time::timeout_at(deadline, answered).await.ok()?.ok()
    }
}
