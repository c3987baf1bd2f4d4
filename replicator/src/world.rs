//! The controller's world: real servers, the running engine, the journal in the state directory.

use cutover::decision::PostgresDecision;
use cutover::fence::PostgresFence;
use cutover::ports::{SystemClock, World};
use cutover::sequences::PostgresSequences;
use cutover::switch::{Switch, SwitchConfigError};
use decoders::postgres::conninfo::ConnInfo;

use crate::config::Config;
use crate::controlling::EngineReplication;
use crate::store::{RocksJournal, Store};

/// All ports of one pipeline.
pub struct SidecarWorld {
    fence: PostgresFence,
    switch: Switch,
    replication: EngineReplication,
    sequences: PostgresSequences,
    decision: PostgresDecision,
    journal: RocksJournal,
    clock: SystemClock,
}

impl SidecarWorld {
    /// Connects nothing yet.
    ///
    /// # Errors
    /// Traffic switches that can't work together.
    pub fn new(
        config: &Config,
        blue: &ConnInfo,
        green: &ConnInfo,
        replication: EngineReplication,
        store: Store,
    ) -> Result<Self, SwitchConfigError> {
        Ok(Self {
            fence: PostgresFence::new(blue.clone(), config.publication()),
            switch: Switch::new(&config.cutover, blue, green)?,
            replication,
            sequences: PostgresSequences::new(blue.clone(), green.clone()),
            decision: PostgresDecision::new(green.clone()),
            journal: RocksJournal::new(store),
            clock: SystemClock,
        })
    }
}

impl World for SidecarWorld {
    type Fence = PostgresFence;
    type Switch = Switch;
    type Replication = EngineReplication;
    type Sequences = PostgresSequences;
    type Decision = PostgresDecision;
    type Journal = RocksJournal;
    type Clock = SystemClock;

    fn fence(&self) -> &PostgresFence {
        &self.fence
    }

    fn switch(&self) -> &Switch {
        &self.switch
    }

    fn replication(&self) -> &EngineReplication {
        &self.replication
    }

    fn sequences(&self) -> &PostgresSequences {
        &self.sequences
    }

    fn decision(&self) -> &PostgresDecision {
        &self.decision
    }

    fn journal(&self) -> &RocksJournal {
        &self.journal
    }

    fn clock(&self) -> &SystemClock {
        &self.clock
    }
}
