//! Where a side is, for those who can't read a connection string: host, port, database.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::login::Login;
use crate::ports::Epoch;
use crate::side::{Direction, Side};

/// How far a router has come in a run whose acts can't be looked up: nobody is told again to switch
/// whose clients go on already.
#[derive(Debug, Default)]
pub(super) struct Course(Mutex<Option<(Epoch, bool)>>);

impl Course {
    /// It was switched in this run.
    pub fn switched(&self, epoch: Epoch) {
        *self.lock() = Some((epoch, false));
    }

    /// And its clients were let go on.
    pub fn opened(&self, epoch: Epoch) {
        *self.lock() = Some((epoch, true));
    }

    /// Whether it was switched in this run.
    pub fn is_switched(&self, epoch: Epoch) -> bool {
        self.lock().is_some_and(|(of, _)| of == epoch)
    }

    /// Whether its clients were let go on after that.
    pub fn is_open(&self, epoch: Epoch) -> bool {
        *self.lock() == Some((epoch, true))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Epoch, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One side's address.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Host and port of the first host.
    pub address: Option<(String, u16)>,
    pub database: String,
}

/// Blue's and green's.
#[derive(Debug, Clone)]
pub(super) struct Places([Place; 2]);

impl Place {
    fn of(end: &Login) -> Self {
        Self { address: end.address(), database: end.database().to_owned() }
    }
}

impl Places {
    pub fn new(blue: &Login, green: &Login) -> Self {
        Self([Place::of(blue), Place::of(green)])
    }

    /// The side that a run in this direction closes, and the one that it opens.
    pub fn of(&self, direction: Direction) -> (&Place, &Place) {
        let [blue, green] = &self.0;
        match direction {
            Direction::Forward => (blue, green),
            Direction::Back => (green, blue),
        }
    }
}

/// The direction of a run that leads to `to`.
pub(super) fn leading_to(to: Side) -> Direction {
    Direction::leaving(to).reversed()
}
