//! What goes from side to side: a stream's slot and publication, and the direction of a run.

use super::deck::Direction;
use crate::side::Side;
use crate::stage::DATABASE;

impl Side {
    /// The slot on this side that the other one is fed from.
    pub fn slot(self) -> String {
        match self {
            Side::Blue => format!("cutover_{DATABASE}"),
            Side::Green => format!("cutover_{DATABASE}_back"),
        }
    }

    /// The publication that goes with it.
    pub fn publication(self) -> String {
        self.slot()
    }

    /// A run that leaves this side.
    pub fn leaving(self) -> Direction {
        match self {
            Side::Blue => Direction::Forward,
            Side::Green => Direction::Back,
        }
    }
}

impl Direction {
    pub fn from(self) -> Side {
        match self {
            Direction::Forward => Side::Blue,
            Direction::Back => Side::Green,
        }
    }

    pub fn to(self) -> Side {
        self.from().other()
    }
}
