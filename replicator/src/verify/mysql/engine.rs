//! The engine as a verification of MySQL or MariaDB needs it: a target that can be held at a position.

use std::sync::Arc;
use std::time::Duration;

use cutover::Side;
use cutover::api::PipelinePhase;
use decoders::Lsn;
use decoders::mysql::Found;
use decoders::mysql::gtid::BinlogPosition;
use tokio::sync::watch;

use super::slices::{Held, Reached, Stream};
use crate::engine::frontier::Frontier;
use crate::engine::hold;
use crate::pipeline::mysql::Reading;
use crate::status::Shared;
use crate::verify::Trouble;

/// How often is looked whether a position has been read: at first, and at last. Each look goes through all
/// transactions that are under way.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];

/// A pipeline's stream.
#[derive(Clone)]
pub struct EngineStream {
    /// What it knows of itself.
    pub shared: Arc<Shared>,
    /// What it tells of its positions and sessions.
    pub reading: Reading,
}

impl EngineStream {
    fn source(&self) -> Side {
        self.shared.direction.from()
    }

    fn down(&self) -> Trouble {
        let what = format!("nothing streams ({})", self.shared.phase().name());
        Trouble { is_transient: true, ..Trouble::new(self.source(), what) }
    }

    fn find(&self, position: &BinlogPosition) -> Found {
        self.reading.ledger().map_or(Found::Unread(Lsn(0)), |ledger| ledger.find(position))
    }
}

impl Stream for EngineStream {
    type Held = HeldEngine;

    async fn hold(&self) -> Result<HeldEngine, Trouble> {
        let phases = [PipelinePhase::Streaming, PipelinePhase::CatchingUp];
        if !phases.contains(&self.shared.phase()) || !*self.shared.carries.borrow() {
            return Err(self.down());
        }
        Ok(HeldEngine { stream: self.clone(), held: self.shared.hold.hold().await })
    }

    fn lag_seconds(&self) -> Option<f64> {
        self.shared.lag_now().seconds
    }

    fn sessions(&self) -> Vec<u32> {
        self.reading.sessions()
    }
}

/// A target that is held.
pub struct HeldEngine {
    stream: EngineStream,
    held: hold::Held,
}

impl Held for HeldEngine {
    async fn reach(&mut self, position: &BinlogPosition) -> Result<Reached, Trouble> {
        let [mut pause, longest] = LOOK_EVERY;
        let limit = loop {
            match self.stream.find(position) {
                Found::At(number) => break number,
                Found::Nowhere => return Ok(Reached::Beyond),
                // All of it is wanted, and what waits takes the room of what is still to be read.
                Found::Unread(number) => self.held.let_through(number),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(longest);
        };
        if self.held.newest() > limit {
            return Ok(Reached::Beyond);
        }
        self.held.let_through(limit);
        let mut progress = self.stream.shared.progress.subscribe();
        tokio::select! {
            () = self.held.until_waiting_at(limit) => {}
            applied = applied(&mut progress, limit) => {
                applied.map_err(|_| self.stream.down())?;
            }
        }
        Ok(Reached::Exactly)
    }
}

async fn applied(
    progress: &mut watch::Receiver<Frontier>,
    limit: Lsn,
) -> Result<(), watch::error::RecvError> {
    progress.wait_for(|frontier| frontier.applied() >= limit).await.map(drop)
}
