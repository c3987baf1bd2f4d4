//! How our own sessions get into a side that a cutover has closed.
//!
//! The streams and their probes outlive the run that closed it, so they can't ask the run. What is
//! closed, and with which prior settings, is in the journal.

use std::sync::Arc;
use std::time::Duration;

use cutover::api::Outcome;
use cutover::ports::{Airlock, Entry, Fence, Journal, PortError, PortResult, Record};
use cutover::{Direction, PostgresPair, Side};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::RocksJournal;

/// How long opening the door may take.
const OPENING: Duration = Duration::from_secs(5);

/// Lets our sessions into either side. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    pair: Arc<PostgresPair<RocksJournal>>,
    journal: RocksJournal,
    recovered: watch::Sender<bool>,
}

impl Door {
    /// The door of both sides, by what the journal says.
    pub fn new(pair: Arc<PostgresPair<RocksJournal>>, journal: RocksJournal) -> Self {
        Self { pair, journal, recovered: watch::Sender::new(false) }
    }

    /// What an earlier life left behind is settled: from now on the door of a closed side opens.
    pub fn recovered(&self) {
        self.recovered.send_replace(true);
    }

    /// Whoever connects to `side` holds the guard until it is in. A side that is open needs none.
    /// Waits for [`Door::recovered`] if it is closed.
    ///
    /// # Errors
    /// The journal's, and those of the side's server.
    pub async fn enter(&self, side: Side) -> PortResult<Airlock> {
        if self.closed(side).await?.is_none() {
            return Ok(Airlock::default());
        }
        // Before, the door may be ajar, and has to be closed first. We hold the sender.
        let _ = self.recovered.subscribe().wait_for(|recovered| *recovered).await;
        // The recovery may have opened it.
        let Some(undo) = self.closed(side).await? else { return Ok(Airlock::default()) };
        let undo = serde_json::from_value(undo).map_err(|error| {
            PortError::new("journal", format!("{side}'s prior settings can't be read: {error}"))
        })?;
        self.pair.fence(side).airlock(&undo, Instant::now() + OPENING).await
    }

    /// Whether [`Door::recovered`] was said.
    pub fn is_recovered(&self) -> bool {
        *self.recovered.borrow()
    }

    /// Since when `side` serves, by the decision of the last committed run; `None` if it does not, or no run was
    /// committed.
    ///
    /// # Errors
    /// The journal's.
    pub async fn served_since(&self, side: Side) -> PortResult<Option<Timestamp>> {
        Ok(served_since(&self.journal.read_all().await?, side))
    }

    /// Whether the last run that may have been decided went this way: clients may be served where it leads, whatever
    /// the roles of the streams say yet.
    ///
    /// # Errors
    /// The journal's.
    pub async fn may_serve(&self, direction: Direction) -> PortResult<bool> {
        Ok(may_be_decided(&self.journal.read_all().await?, direction))
    }

    /// The prior settings of `side`, if it is the one that is closed.
    async fn closed(&self, side: Side) -> PortResult<Option<serde_json::Value>> {
        let closed = closed(&self.journal.read_all().await?);
        Ok(closed.filter(|(closed, _)| *closed == side).map(|(_, undo)| undo))
    }
}

/// The side that the last committed run has closed, and its settings before.
fn closed(entries: &[Entry]) -> Option<(Side, serde_json::Value)> {
    let committed = entries.iter().rev().find(
        |entry| matches!(&entry.record, Record::Reached { phase, .. } if phase.is_committed()),
    )?;
    let of_run = || entries.iter().filter(|entry| entry.epoch == committed.epoch);
    let direction = of_run().find_map(|entry| match &entry.record {
        Record::Began { direction, .. } => Some(*direction),
        _ => None,
    });
    let undo = of_run().rev().find_map(|entry| match &entry.record {
        Record::Reached { detail, .. } => detail.get("undo").filter(|undo| !undo.is_null()),
        _ => None,
    });
    Some((direction.unwrap_or(Direction::Forward).from(), undo?.clone()))
}

/// When the last committed run was decided, if it led to `side`.
fn served_since(entries: &[Entry], side: Side) -> Option<Timestamp> {
    let is_committed = |entry: &&Entry| matches!(&entry.record, Record::Reached { phase, .. } if phase.is_committed());
    let epoch = entries.iter().rev().find(is_committed)?.epoch;
    let of_run = || entries.iter().filter(|entry| entry.epoch == epoch);
    let direction = of_run().find_map(|entry| match &entry.record {
        Record::Began { direction, .. } => Some(*direction),
        _ => None,
    });
    let to = direction.unwrap_or(Direction::Forward).to();
    of_run().find(is_committed).map(|entry| entry.at).filter(|_| to == side)
}

/// Whether the last of the runs whose decision was made, or was about to be, went this way. One that was given up
/// before leaves clients where they were.
fn may_be_decided(entries: &[Entry], direction: Direction) -> bool {
    let began = entries.iter().rev().filter_map(|entry| match &entry.record {
        Record::Began { direction, .. } => Some((entry.epoch, *direction)),
        _ => None,
    });
    let decided = began.into_iter().find(|(epoch, _)| {
        let of_run =
            || entries.iter().filter(|entry| entry.epoch == *epoch).map(|entry| &entry.record);
        let is_undecided = of_run().any(|record| {
            let Record::Ended { report } = record else { return false };
            !matches!(report.outcome, Outcome::Completed | Outcome::RolledBack | Outcome::Held)
        });
        let may_be = of_run().any(|record| match record {
            Record::Reached { phase, next, .. } => {
                phase.is_committed() || next.as_deref() == Some("decide")
            }
            _ => false,
        });
        may_be && !is_undecided
    });
    decided.is_some_and(|(_, went)| went == direction)
}

#[cfg(test)]
mod tests {
    use cutover::Phase;
    use cutover::ports::Epoch;
    use serde_json::json;

    use super::*;

    fn run(epoch: u64, direction: Direction, phases: &[Phase]) -> Vec<Entry> {
        let entry = |record| Entry {
            seq: 0,
            run: "abc".into(),
            epoch: Epoch(epoch),
            at: Timestamp::UNIX_EPOCH,
            record,
        };
        let mut entries = vec![entry(Record::Began { request: json!({}), direction })];
        entries.extend(phases.iter().map(|phase| {
            let detail = match phase {
                Phase::Gate => json!({ "undo": epoch }),
                _ => json!({}),
            };
            entry(Record::Reached { phase: *phase, seen: String::new(), next: None, detail })
        }));
        entries
    }

    #[test]
    fn the_last_committed_run_has_closed_the_side_it_left() {
        assert_eq!(closed(&[]), None);
        let mut entries = run(1, Direction::Forward, &[Phase::Gate, Phase::Aborted]);
        assert_eq!(closed(&entries), None);
        entries.extend(run(2, Direction::Forward, &[Phase::Gate, Phase::Committed, Phase::Open]));
        entries.extend(run(3, Direction::Back, &[Phase::Gate, Phase::Sealed]));
        assert_eq!(closed(&entries), Some((Side::Blue, json!(2))));
        entries.extend(run(4, Direction::Back, &[Phase::Gate, Phase::Committed]));
        assert_eq!(closed(&entries), Some((Side::Green, json!(4))));
    }

    #[test]
    fn a_side_may_serve_from_the_moment_a_run_to_it_is_about_to_decide() {
        let forward = |entries: &[Entry]| may_be_decided(entries, Direction::Forward);
        assert!(!forward(&[]));
        let mut entries = run(1, Direction::Forward, &[Phase::Gate, Phase::Sealed]);
        assert!(!forward(&entries));
        if let Record::Reached { next, .. } = &mut entries[2].record {
            *next = Some("decide".into());
        }
        assert!(forward(&entries) && !may_be_decided(&entries, Direction::Back));
        entries.extend(run(2, Direction::Back, &[Phase::Gate, Phase::Committed]));
        assert!(!forward(&entries) && may_be_decided(&entries, Direction::Back));
        entries.extend(run(3, Direction::Forward, &[Phase::Gate, Phase::Aborted]));
        assert!(!forward(&entries) && may_be_decided(&entries, Direction::Back));
    }
}
