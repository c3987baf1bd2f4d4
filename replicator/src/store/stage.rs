//! How far the set-up of the pipeline got, so that a restart neither repeats nor skips a part.
//!
//! Each stage is recorded *before* the acts that it names, so whatever a crash leaves behind
//! belongs to a stage that says whose it is and how it is cleaned up.

use decoders::postgres::stream::SystemIdentity;
use serde::{Deserialize, Serialize};
use sinks::progress::StreamIdentity;

use super::{Store, StoreError};

pub(super) const FAMILY: &str = "stage";
const KEYS: [&str; 2] = ["forward", "back"];

/// The durable stages of a pipeline, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// The checks have passed; publication and slot may exist and are ours.
    Preparing,
    /// The slot is there and green is being filled. The snapshot died with the process that wrote
    /// this: a restart starts over with a new slot. Which of green's tables hold our rows, and may
    /// be emptied, is recorded on green itself (`backfill::claim`).
    Copying {
        /// The stream that would have followed the copy.
        stream: StreamIdentity,
    },
    /// All rows are there. Indexes and constraints are being made; a restart goes on with them.
    Finishing {
        /// The stream that will follow.
        stream: StreamIdentity,
    },
    /// The stream has taken over.
    Streaming {
        /// The stream.
        stream: StreamIdentity,
    },
    /// Green is open. Nothing of blue may ever be applied to it again.
    CutOver {
        /// The stream that ended.
        stream: StreamIdentity,
        /// The marker behind which nothing was applied.
        marker: String,
    },
}

impl Stage {
    /// The stream, once its slot exists.
    pub fn stream(&self) -> Option<&StreamIdentity> {
        match self {
            Stage::Preparing => None,
            Stage::Copying { stream }
            | Stage::Finishing { stream }
            | Stage::Streaming { stream }
            | Stage::CutOver { stream, .. } => Some(stream),
        }
    }
}

/// Who blue was when its slot was made: checked whenever the stream is opened, because a server
/// that was failed over or restored has another history under the same numbers.
const SOURCE_KEYS: [&str; 2] = ["forward-source", "back-source"];

impl Store {
    /// Blue's identity; `None` before the slot exists.
    pub fn source(&self) -> Result<Option<SystemIdentity>, StoreError> {
        self.get(FAMILY, self.key(SOURCE_KEYS))
    }

    /// Records blue's identity; durable when this returns.
    pub fn save_source(&self, source: &SystemIdentity) -> Result<(), StoreError> {
        self.put(FAMILY, self.key(SOURCE_KEYS), source)
    }

    /// The stage that was reached; `None` for a pipeline that never started.
    pub fn stage(&self) -> Result<Option<Stage>, StoreError> {
        self.get(FAMILY, self.key(KEYS))
    }

    /// Records a stage; durable when this returns.
    pub fn save_stage(&self, stage: &Stage) -> Result<(), StoreError> {
        self.put(FAMILY, self.key(KEYS), stage)
    }

    /// Records that the stream has ended for good, behind that marker; durable when this returns. A
    /// stream that never began has nothing to end.
    pub fn end(&self, marker: String) -> Result<(), StoreError> {
        if let Some(stream) = self.stage()?.as_ref().and_then(Stage::stream).cloned() {
            self.save_stage(&Stage::CutOver { stream, marker: marker.clone() })?;
        }
        match self.binlog_stream()? {
            Some(_) => self.end_binlog_stream(&marker),
            None => Ok(()),
        }
    }

    /// Forgets everything about the pipeline (teardown).
    pub fn forget_stage(&self) -> Result<(), StoreError> {
        self.delete(FAMILY, self.key(SOURCE_KEYS))?;
        self.forget_role()?;
        self.delete(FAMILY, self.key(KEYS))
    }
}
