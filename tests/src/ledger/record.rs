//! What the clients of the ledger were told.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The id of one write: client and its sequence number.
pub type Id = (i32, i64);

/// How one transaction ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Acknowledged,
    /// COMMIT was sent, and the answer never came.
    Indeterminate(String),
    /// It certainly did not commit.
    Refused(String),
}

/// Shared by all clients of one workload.
#[derive(Debug)]
pub struct Record {
    accounts: u32,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    acknowledged: HashSet<Id>,
    indeterminate: HashSet<Id>,
    refused: HashSet<Id>,
    /// Times of acknowledgements, in order, because they are taken under the lock.
    times: Vec<Instant>,
    slowest: Duration,
    connection_errors: usize,
    errors: Vec<String>,
    log: Option<File>,
}

impl Notes {
    fn write(&mut self, id: Id, outcome: &Outcome) -> Result<()> {
        let letter = match outcome {
            Outcome::Acknowledged => 'A',
            Outcome::Indeterminate(_) => 'I',
            Outcome::Refused(_) => 'R',
        };
        if let Some(log) = &mut self.log {
            writeln!(log, "{letter} {} {}", id.0, id.1).context("cannot write the ledger's log")?;
        }
        Ok(())
    }
}

impl Record {
    pub fn new(accounts: u32, log: Option<&Path>) -> Result<Record> {
        let log = match log {
            Some(path) => Some(
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("cannot open {}", path.display()))?,
            ),
            None => None,
        };
        let notes = Notes { log, ..Notes::default() };
        Ok(Record { accounts, notes: Mutex::new(notes) })
    }

    /// Notes the end of one transaction. `took` is the time from its start to its answer.
    pub fn note(&self, id: Id, outcome: Outcome, took: Duration) -> Result<()> {
        let mut notes = self.lock();
        notes.write(id, &outcome)?;
        match outcome {
            Outcome::Acknowledged => {
                notes.times.push(Instant::now());
                notes.slowest = notes.slowest.max(took);
                notes.acknowledged.insert(id);
            }
            Outcome::Indeterminate(error) => {
                notes.indeterminate.insert(id);
                notes.errors.push(error);
            }
            Outcome::Refused(error) => {
                notes.refused.insert(id);
                notes.errors.push(error);
            }
        }
        Ok(())
    }

    /// Notes the end of a transaction of a client that connects past the router: it counts for what
    /// has to be there, not for what the router's clients notice.
    pub fn note_direct(&self, id: Id, outcome: Outcome) -> Result<()> {
        let mut notes = self.lock();
        notes.write(id, &outcome)?;
        match outcome {
            Outcome::Acknowledged => notes.acknowledged.insert(id),
            Outcome::Indeterminate(_) => notes.indeterminate.insert(id),
            Outcome::Refused(_) => notes.refused.insert(id),
        };
        Ok(())
    }

    /// Notes a connection that could not be made.
    pub fn note_connection_error(&self, error: String) {
        let mut notes = self.lock();
        notes.connection_errors += 1;
        notes.errors.push(error);
    }

    pub fn accounts(&self) -> u32 {
        self.accounts
    }

    /// Number of acknowledged writes.
    pub fn acknowledged(&self) -> usize {
        self.lock().acknowledged.len()
    }

    pub fn acknowledged_ids(&self) -> HashSet<Id> {
        self.lock().acknowledged.clone()
    }

    pub fn indeterminate_ids(&self) -> HashSet<Id> {
        self.lock().indeterminate.clone()
    }

    /// Number of errors that clients saw, of every kind.
    pub fn client_errors(&self) -> usize {
        let notes = self.lock();
        notes.connection_errors + notes.indeterminate.len() + notes.refused.len()
    }

    pub fn last_error(&self) -> Option<String> {
        self.lock().errors.last().cloned()
    }

    /// What went wrong, each text once, in order of the first appearance.
    pub fn errors(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        self.lock().errors.iter().filter(|error| seen.insert(*error)).cloned().collect()
    }

    /// The longest time from the start to the answer of an acknowledged transaction.
    pub fn slowest(&self) -> Duration {
        self.lock().slowest
    }

    /// See [`super::Ledger::longest_gap`].
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let notes = self.lock();
        let times = notes.times.iter().filter(|at| **at >= since);
        let mut longest = Duration::ZERO;
        let mut last = since;
        for at in times {
            longest = longest.max(at.duration_since(last));
            last = *at;
        }
        longest
    }

    /// Acknowledged writes since then.
    pub fn acknowledged_since(&self, since: Instant) -> usize {
        self.lock().times.iter().rev().take_while(|at| **at >= since).count()
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // A panic of another client makes the run fail by itself; notes are whole at any time.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_counts_from_the_start_of_the_part() -> Result<()> {
        let record = Record::new(1, None)?;
        let start = Instant::now();
        record.note((1, 1), Outcome::Acknowledged, Duration::ZERO)?;
        record.note((1, 2), Outcome::Refused("no".into()), Duration::ZERO)?;
        assert!(record.longest_gap(start) <= start.elapsed());
        assert_eq!(record.longest_gap(Instant::now()), Duration::ZERO);
        assert_eq!((record.acknowledged(), record.client_errors()), (1, 1));
        Ok(())
    }
}
