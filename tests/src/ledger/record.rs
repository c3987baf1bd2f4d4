//! What the clients of the ledger were told.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
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
    errors: Vec<Seen>,
    log: Option<File>,
}

/// An error that a client saw.
#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Who had a transaction cut off or refused; `None` where no connection could be made.
    client: Option<i32>,
    text: String,
}

/// What clients noticed in a part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noticed {
    /// Transactions that ended with an error.
    pub cut: usize,
    /// Most of them that one client had.
    pub cut_of_one: usize,
    /// Attempts to connect that failed.
    pub turned_away: usize,
}

impl Noticed {
    /// Errors of every kind.
    pub fn errors(self) -> usize {
        self.cut + self.turned_away
    }
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

    fn see(&mut self, client: Option<i32>, text: String) {
        self.errors.push(Seen { at: Instant::now(), client, text });
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
                notes.see(Some(id.0), error);
            }
            Outcome::Refused(error) => {
                notes.refused.insert(id);
                notes.see(Some(id.0), error);
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
        notes.see(None, error);
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
        self.lock().errors.last().map(|error| error.text.clone())
    }

    /// What went wrong, each text once, in order of the first appearance.
    pub fn errors(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let notes = self.lock();
        let texts = notes.errors.iter().map(|error| &error.text);
        texts.filter(|text| seen.insert(*text)).cloned().collect()
    }

    /// What clients noticed in this part of the run.
    pub fn noticed(&self, part: &Range<Instant>) -> Noticed {
        let notes = self.lock();
        let mut cut: HashMap<i32, usize> = HashMap::new();
        let mut turned_away = 0;
        for error in notes.errors.iter().filter(|error| part.contains(&error.at)) {
            match error.client {
                Some(client) => *cut.entry(client).or_default() += 1,
                None => turned_away += 1,
            }
        }
        let cut_of_one = cut.values().copied().max().unwrap_or(0);
        Noticed { cut: cut.values().sum(), cut_of_one, turned_away }
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

    #[test]
    fn errors_belong_to_a_part_of_the_run() -> Result<()> {
        let record = Record::new(1, None)?;
        let refuse = |id| record.note(id, Outcome::Refused("no".into()), Duration::ZERO);
        refuse((1, 1))?;
        let start = Instant::now();
        refuse((1, 2))?;
        refuse((1, 3))?;
        refuse((2, 1))?;
        record.note_connection_error("away".into());
        let noticed = record.noticed(&(start..Instant::now()));
        assert_eq!(noticed, Noticed { cut: 3, cut_of_one: 2, turned_away: 1 });
        assert_eq!((noticed.errors(), record.client_errors()), (4, 5));
        Ok(())
    }
}
