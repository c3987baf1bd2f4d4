//! Which database, and which way.
//!
//! Blue and green keep their names for ever; what a run, a stream or a proof is about is said by
//! a [`Direction`]. A cutover goes [`Direction::Forward`], a rollback is the same with the sides
//! swapped.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two databases.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The database that was in production when the move began.
    #[default]
    Blue,
    /// The one to move to.
    Green,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Blue, Side::Green];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Side::Blue => Side::Green,
            Side::Green => Side::Blue,
        }
    }

    /// As it is written: `blue`, `green`.
    pub fn name(self) -> &'static str {
        match self {
            Side::Blue => "blue",
            Side::Green => "green",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// From which database to which.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From blue to green: a cutover.
    #[default]
    Forward,
    /// From green to blue: a rollback.
    Back,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Forward, Direction::Back];

    /// The side that serves before such a run.
    pub fn from(self) -> Side {
        match self {
            Direction::Forward => Side::Blue,
            Direction::Back => Side::Green,
        }
    }

    /// The side that serves after it.
    pub fn to(self) -> Side {
        self.from().other()
    }

    /// The other way.
    pub fn reversed(self) -> Self {
        match self {
            Direction::Forward => Direction::Back,
            Direction::Back => Direction::Forward,
        }
    }

    /// The direction that leaves this side.
    pub fn leaving(side: Side) -> Self {
        match side {
            Side::Blue => Direction::Forward,
            Side::Green => Direction::Back,
        }
    }

    /// As it is written: `forward`, `back`.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Back => "back",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_lead_from_one_side_to_the_other() {
        for direction in Direction::ALL {
            assert_eq!(direction.from().other(), direction.to());
            assert_eq!(direction.reversed().from(), direction.to());
            assert_eq!(Direction::leaving(direction.from()), direction);
        }
        assert_eq!(Direction::default().from(), Side::Blue);
    }
}
