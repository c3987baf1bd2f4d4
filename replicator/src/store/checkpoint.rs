//! How far green is known to be durable.

use decoders::Lsn;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

pub(super) const FAMILY: &str = "checkpoint";
const KEYS: [&str; 2] = ["forward", "back"];

/// Where to resume, and what blue may forget.
///
/// Written before blue is told: a slot that stands beyond `durable` was moved by somebody else,
/// and what lies between is lost to us (see `engine::resume`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Everything up to here is committed and flushed on green, or needs nothing done there.
    pub durable: Lsn,
    /// End of the last transaction among them. A green whose own progress is older than this has
    /// lost commits that blue was allowed to forget (restored from a backup, `fsync=off`).
    pub applied_transaction: Lsn,
    /// What `durable` is in the source's own terms, where the stream counts transactions
    /// ([`decoders::source::Positions`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

impl Store {
    /// The last checkpoint. `None` before the first, and after the state directory was lost.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.get(FAMILY, self.key(KEYS))
    }

    /// Records a checkpoint; durable when this returns (about 3 ms: group them).
    pub fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.put(FAMILY, self.key(KEYS), checkpoint)
    }

    /// Forgets the checkpoint, as the copy starts over with a new slot.
    pub fn forget_checkpoint(&self) -> Result<(), StoreError> {
        self.delete(FAMILY, self.key(KEYS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_survives_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint {
            durable: Lsn(0x1_0000_0042),
            applied_transaction: Lsn(0x1_0000_0001),
            position: Some("0-1-7".into()),
        };
        {
            let store = Store::open(directory.path()).unwrap();
            assert_eq!(store.checkpoint().unwrap(), None);
            store.save_checkpoint(&checkpoint).unwrap();
            let back = store.towards(cutover::Direction::Back);
            assert_eq!(back.checkpoint().unwrap(), None);
        }
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.checkpoint().unwrap(), Some(checkpoint));
        store.forget_checkpoint().unwrap();
        assert_eq!(store.checkpoint().unwrap(), None);
    }
}
