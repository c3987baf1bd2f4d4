//! Two PostgreSQL databases.

use std::sync::{Mutex, OnceLock};

use decoders::postgres::conninfo::ConnInfo;

use super::{Databases, Pair, PairWorld};
use crate::counts::PostgresCounts;
use crate::decision::PostgresDecision;
use crate::fence::PostgresFence;
use crate::lease::{Tenant, Uncontested};
use crate::login::Login;
use crate::ports::SystemClock;
use crate::sequences::PostgresSequences;
use crate::side::{Direction, Side};
use crate::switch::Switch;
use crate::way_back::NoWayBack;

/// Databases of PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Databases for Postgres {
    type Fence = PostgresFence;
    type Decision = PostgresDecision;
    type Sequences = PostgresSequences;
    type Counts = PostgresCounts;
}

/// Two PostgreSQL databases.
pub type PostgresPair<J> = Pair<Postgres, J>;

/// One direction between two PostgreSQL databases.
pub type PostgresWorld<J, R, B = NoWayBack, L = Uncontested> = PairWorld<Postgres, J, R, B, L>;

impl<J> PostgresPair<J> {
    /// `publications` name the replicated tables on blue and on green. No connection is opened yet.
    pub fn new(
        blue: &ConnInfo,
        green: &ConnInfo,
        publications: [&str; 2],
        switch: Switch,
        journal: J,
    ) -> Self {
        let [on_blue, on_green] = publications;
        Self {
            fences: [
                PostgresFence::new(blue.clone(), on_blue),
                PostgresFence::around(Side::Green, green.clone(), on_green),
            ],
            decisions: [
                PostgresDecision::new(blue.clone(), Side::Blue),
                PostgresDecision::new(green.clone(), Side::Green),
            ],
            sequences: [
                PostgresSequences::new(blue.clone(), green.clone(), Direction::Forward),
                PostgresSequences::new(green.clone(), blue.clone(), Direction::Back),
            ],
            counts: [
                PostgresCounts::new(blue.clone(), green.clone(), on_blue, Direction::Forward),
                PostgresCounts::new(green.clone(), blue.clone(), on_green, Direction::Back),
            ],
            switch,
            journal,
            clock: SystemClock,
            servers: Mutex::new((Login::from(blue).unseen(), Login::from(green).unseen())),
            judge: OnceLock::new(),
            comparer: OnceLock::new(),
        }
    }

    /// The same; a commit is refused unless this tenant holds its lease and the side has the marker, and
    /// what is closed is closed in its name. `streams` are the pipelines that apply to blue and to green.
    pub fn leased_to(self, tenant: &Tenant, streams: [&str; 2]) -> Self {
        self.leased(tenant, streams, PostgresFence::leased_to, PostgresDecision::on)
    }
}
