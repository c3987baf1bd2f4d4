//! Two servers of MySQL or MariaDB.

use std::sync::{Mutex, OnceLock};

use decoders::mysql::server::ServerUrl;

use super::{Databases, Pair, PairWorld};
use crate::counts::MomentCounts;
use crate::decision::MysqlDecision;
use crate::fence::MysqlFence;
use crate::lease::{Tenant, Uncontested};
use crate::login::Login;
use crate::ports::SystemClock;
use crate::sequences::MysqlSequences;
use crate::side::{Direction, Side};
use crate::switch::Switch;
use crate::way_back::NoWayBack;

/// Servers of MySQL or MariaDB.
#[derive(Debug, Clone, Copy)]
pub struct Mysql;

impl Databases for Mysql {
    type Fence = MysqlFence;
    type Decision = MysqlDecision;
    type Sequences = MysqlSequences;
    type Counts = MomentCounts;
}

/// Two servers of MySQL or MariaDB.
pub type MysqlPair<J> = Pair<Mysql, J>;

/// One direction between two servers of MySQL or MariaDB.
pub type MysqlWorld<J, R, B = NoWayBack, L = Uncontested> = PairWorld<Mysql, J, R, B, L>;

impl<J> MysqlPair<J> {
    /// What is moved is the database that either URL names; all of them, if none does. No connection
    /// is opened yet.
    pub fn new(blue: &ServerUrl, green: &ServerUrl, switch: Switch, journal: J) -> Self {
        let database = blue.database().or(green.database()).map(str::to_owned);
        let [blue, green] = [blue, green].map(|url| url.in_database(database.as_deref()));
        Self {
            fences: [MysqlFence::new(blue.clone()), MysqlFence::around(Side::Green, green.clone())],
            decisions: [
                MysqlDecision::new(blue.clone(), Side::Blue),
                MysqlDecision::new(green.clone(), Side::Green),
            ],
            counts: [Direction::Forward, Direction::Back].map(MomentCounts::new),
            switch,
            journal,
            clock: SystemClock,
            servers: Mutex::new((Login::from(&blue).unseen(), Login::from(&green).unseen())),
            judge: OnceLock::new(),
            comparer: OnceLock::new(),
            sequences: [
                MysqlSequences::new(blue.clone(), green.clone(), Direction::Forward),
                MysqlSequences::new(green, blue, Direction::Back),
            ],
        }
    }

    /// The same; a commit is refused unless this tenant holds its lease and the side has the marker, and
    /// what is closed is closed in its name. `streams` are the pipelines that apply to blue and to green.
    pub fn leased_to(self, tenant: &Tenant, streams: [&str; 2]) -> Self {
        self.leased(tenant, streams, MysqlFence::leased_to, MysqlDecision::on)
    }
}
