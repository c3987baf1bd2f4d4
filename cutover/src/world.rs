//! All ports of a pipeline between two PostgreSQL databases.

use std::sync::Mutex;

use decoders::postgres::conninfo::ConnInfo;

use crate::api::Server;
use crate::decision::PostgresDecision;
use crate::fence::PostgresFence;
use crate::ports::{Journal, Replication, SystemClock, World};
use crate::sequences::PostgresSequences;
use crate::switch::Switch;

/// Two PostgreSQL databases, the routers in front of them, and the sidecar's engine and journal.
pub struct PostgresWorld<J, R> {
    fence: PostgresFence,
    switch: Switch,
    sequences: PostgresSequences,
    decision: PostgresDecision,
    replication: R,
    journal: J,
    clock: SystemClock,
    servers: Mutex<(Server, Server)>,
}

impl<J: Journal, R: Replication> PostgresWorld<J, R> {
    /// `publication` names the replicated tables on blue. No connection is opened yet.
    pub fn new(
        blue: &ConnInfo,
        green: &ConnInfo,
        publication: &str,
        switch: Switch,
        journal: J,
        replication: R,
    ) -> Self {
        let server = |info: &ConnInfo| Server {
            url: info.redacted(),
            database: info.dbname().to_owned(),
            version: None,
            up: false,
        };
        Self {
            fence: PostgresFence::new(blue.clone(), publication),
            switch,
            sequences: PostgresSequences::new(blue.clone(), green.clone()),
            decision: PostgresDecision::new(green.clone()),
            replication,
            journal,
            clock: SystemClock,
            servers: Mutex::new((server(blue), server(green))),
        }
    }

    /// Blue and green as they are shown; the engine knows their versions and whether they are up.
    pub fn set_servers(&self, blue: Server, green: Server) {
        *self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (blue, green);
    }
}

impl<J, R> World for PostgresWorld<J, R>
where
    J: Journal + 'static,
    R: Replication + 'static,
{
    type Fence = PostgresFence;
    type Switch = Switch;
    type Replication = R;
    type Sequences = PostgresSequences;
    type Decision = PostgresDecision;
    type Journal = J;
    type Clock = SystemClock;

    fn fence(&self) -> &PostgresFence {
        &self.fence
    }

    fn switch(&self) -> &Switch {
        &self.switch
    }

    fn replication(&self) -> &R {
        &self.replication
    }

    fn sequences(&self) -> &PostgresSequences {
        &self.sequences
    }

    fn decision(&self) -> &PostgresDecision {
        &self.decision
    }

    fn journal(&self) -> &J {
        &self.journal
    }

    fn clock(&self) -> &SystemClock {
        &self.clock
    }

    fn servers(&self) -> (Server, Server) {
        self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
