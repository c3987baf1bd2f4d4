//! A window that is with the lanes, and what becomes of it.

use decoders::{Lsn, Transaction};
use sinks::TargetError;
use tokio::sync::OwnedSemaphorePermit;

use super::hold::Admission;
use super::lanes::Outcome;
use super::schedule::Schedule;
use super::totals::AppliedTotals;
use super::window::Window;

/// A window whose shares are with the lanes.
pub(super) struct InFlight {
    /// Its last end; `None` for a part that does not end.
    pub end: Option<Lsn>,
    /// Transactions of blue that end in it.
    pub ended: u64,
    /// Given up when it is on green, or given up itself.
    pub admission: Admission,
    pub permits: Vec<OwnedSemaphorePermit>,
    /// Shares whose outcome is not known.
    pub running: usize,
    /// Several lanes have one.
    pub is_shared: bool,
    /// A schema change: nothing behind it is looked at before it is on green.
    pub is_definition: bool,
    /// What green refused beside the others.
    pub refused: Vec<Transaction>,
    pub error: Option<TargetError>,
    pub cancelled: bool,
    pub totals: AppliedTotals,
}

impl InFlight {
    /// A window, its transactions and what may be applied beside each other. One lane has it all.
    pub fn new(window: Window, admission: Admission) -> (Self, Vec<Transaction>, Schedule) {
        let (end, is_definition) = (window.end(), window.is_definition());
        let Window { transactions, permits, schedule, .. } = window;
        let flight = Self {
            end,
            ended: transactions.iter().filter(|transaction| transaction.part.ends()).count() as u64,
            admission,
            permits,
            running: 1,
            is_shared: false,
            is_definition,
            refused: Vec::new(),
            error: None,
            cancelled: false,
            totals: AppliedTotals::default(),
        };
        (flight, transactions, schedule)
    }

    /// One that was sent and that green has not answered.
    pub fn sent(window: Window, admission: Admission) -> Self {
        let (mut flight, transactions, _) = Self::new(window, admission);
        flight.totals = AppliedTotals::of(&transactions);
        flight
    }

    /// One of its shares has come to an end.
    pub fn done(&mut self, outcome: Outcome) {
        self.running -= 1;
        match outcome {
            Outcome::Applied(applied, totals) => {
                self.totals.add(&totals);
                self.totals.batches += u64::from(applied.end_lsn.is_some());
            }
            Outcome::Conflict(transactions, error) if self.is_shared => {
                tracing::debug!(%error, "a share of a window was refused");
                self.totals.conflicts += 1;
                self.refused.extend(transactions);
            }
            Outcome::Conflict(_, error) | Outcome::Failed(error) => {
                self.error.get_or_insert(error);
            }
            Outcome::Cancelled => self.cancelled = true,
            Outcome::Gone => {
                // Its panic goes on when the threads are joined.
                self.cancelled = true;
                self.running = 0;
            }
        }
    }
}
