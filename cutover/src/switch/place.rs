//! Where a side is, for those who can't read a connection string: host, port, database.

use decoders::postgres::conninfo::{ConnInfo, HostAddress};

use crate::side::{Direction, Side};

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
    fn of(info: &ConnInfo) -> Self {
        let address = info.hosts().first().map(|host| {
            let name = match &host.address {
                HostAddress::Name(name) => name.clone(),
                HostAddress::Address { address, .. } => address.to_string(),
                HostAddress::Socket(path) => path.to_string_lossy().into_owned(),
            };
            (name, host.port)
        });
        Self { address, database: info.dbname().to_owned() }
    }
}

impl Places {
    pub fn new(blue: &ConnInfo, green: &ConnInfo) -> Self {
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
