//! How far a verification got, so that a restart reads nothing twice.
//!
//! The only values of rows that are kept here: the keys at which chunks begin and end, and those of
//! rows that differ. They are gone when the verification has come to its end.

use cutover::Side;
use cutover::verify::{RowDifference, VerifyRequest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sinks::mysql::BinlogStreamIdentity;
use sinks::progress::StreamIdentity;

use super::{Role, Stage, Store, StoreError};

pub(super) const FAMILY: &str = "verification";
const HEAD: &[u8] = b"head";
/// Before the table and the number of a chunk.
const CHUNK: &[u8] = b"chunk/";
/// Behind all chunks: `0` comes after `/`.
const CHUNKS_END: &[u8] = b"chunk0";

/// What a verification stands on: with another one nothing of it is true any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ground {
    /// The stream that keeps the target its source's copy; another one after a new copy.
    pub stream: KeptUp,
    /// The role of the stream the other way round, which names the run that has turned the two last:
    /// behind it the other side may have been written.
    pub turn: Role,
}

/// The stream that keeps a copy up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeptUp {
    /// Of a slot.
    Slot(StreamIdentity),
    /// Of a binlog.
    Binlog(BinlogStreamIdentity),
}

/// A verification that has begun and not ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Unfinished {
    /// Its name.
    pub id: String,
    /// What was asked for.
    pub request: VerifyRequest,
    /// When it began.
    pub started: Timestamp,
    /// The side that is taken as right.
    pub source: Side,
    /// What it stands on: another one, and all proofs are void.
    pub ground: Ground,
}

/// A chunk that was compared, and every suspicious row of which was settled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FinishedChunk {
    /// The table, quoted.
    pub table: String,
    /// What was compared of its rows, and how; another one, and the chunk has to be read again.
    pub plan: u64,
    /// In the order of keys.
    pub number: u64,
    /// The first key; `None`: from the beginning.
    pub lo: Option<Vec<String>>,
    /// The key behind the last one; `None`: to the end.
    pub hi: Option<Vec<String>>,
    /// Rows of the source.
    pub rows: u64,
    /// Rows that were looked at again.
    pub rechecked: u64,
    /// Rows that were never at rest.
    pub in_motion: u64,
    /// Rows that differ.
    pub differences: Vec<RowDifference>,
}

impl Store {
    /// What a verification in this direction stands on now; `None` if there is no copy that is kept
    /// up.
    pub fn ground(&self) -> Result<Option<Ground>, StoreError> {
        let stream = match self.stage()? {
            Some(Stage::Streaming { stream }) => Some(KeptUp::Slot(stream)),
            Some(_) => None,
            None => self.binlog_stream()?.map(KeptUp::Binlog),
        };
        let (Role::Carry, Some(stream)) = (self.role()?, stream) else { return Ok(None) };
        let turn = self.towards(self.direction.reversed()).role()?;
        Ok(Some(Ground { stream, turn }))
    }

    /// The verification that has not ended, if there is one.
    pub fn unfinished_verification(&self) -> Result<Option<Unfinished>, StoreError> {
        self.get(FAMILY, HEAD)
    }

    /// Records that one begins, and forgets the last one's chunks; durable when this returns.
    pub fn begin_verification(&self, head: &Unfinished) -> Result<(), StoreError> {
        self.forget_verification()?;
        self.put(FAMILY, HEAD, head)
    }

    /// Records a chunk. It survives the process; after a power cut the last ones may have to be
    /// read again.
    pub fn save_verified(&self, chunk: &FinishedChunk) -> Result<(), StoreError> {
        let mut key = CHUNK.to_vec();
        key.extend(chunk.table.as_bytes());
        key.push(0);
        key.extend(chunk.number.to_be_bytes());
        let bytes = self.encode(FAMILY, chunk)?;
        let written = self.db.put_cf(self.family(FAMILY), key, bytes);
        written.map_err(|error| self.io("written", error))
    }

    /// All chunks that were recorded: by table, then in the order of their numbers.
    pub fn verified_chunks(&self) -> Result<Vec<FinishedChunk>, StoreError> {
        let mut chunks = Vec::new();
        let from = rocksdb::IteratorMode::From(CHUNK, rocksdb::Direction::Forward);
        for entry in self.db.iterator_cf(self.family(FAMILY), from) {
            let (key, bytes) = entry.map_err(|error| self.io("read", error))?;
            if !key.starts_with(CHUNK) {
                break;
            }
            chunks.push(self.decode(FAMILY, &bytes)?);
        }
        Ok(chunks)
    }

    /// Forgets all of it.
    pub fn forget_verification(&self) -> Result<(), StoreError> {
        self.delete(FAMILY, HEAD)?;
        let deleted = self.db.delete_range_cf(self.family(FAMILY), CHUNK, CHUNKS_END);
        deleted.map_err(|error| self.io("written", error))
    }
}

#[cfg(test)]
mod tests {
    use cutover::marker::Token;
    use cutover::ports::Epoch;
    use decoders::Lsn;

    use super::*;

    fn chunk(table: &str, number: u64) -> FinishedChunk {
        FinishedChunk {
            table: table.into(),
            plan: 1,
            number,
            lo: Some(vec![number.to_string()]),
            hi: None,
            rows: 7,
            rechecked: 0,
            in_motion: 0,
            differences: Vec::new(),
        }
    }

    #[test]
    fn a_ground_is_lost_with_the_copy_and_with_each_turn() {
        let directory = tempfile::tempdir().unwrap();
        let forward = Store::open(directory.path()).unwrap();
        let back = forward.towards(cutover::Direction::Back);
        let stream = |consistent_point| StreamIdentity {
            pipeline: "main".into(),
            system_identifier: "1".into(),
            database: "d".into(),
            slot: "s".into(),
            consistent_point: Lsn(consistent_point),
        };
        assert_eq!(forward.ground().unwrap(), None);
        let streaming = |at| Stage::Streaming { stream: stream(at) };
        forward.save_stage(&streaming(1)).unwrap();
        back.save_stage(&streaming(5)).unwrap();
        let first = forward.ground().unwrap();
        assert!(first.is_some() && back.ground().unwrap().is_none(), "it stands by");
        let run = |epoch| Token::draining("abc", Epoch(epoch));
        back.turn(&run(1), Lsn(100)).unwrap();
        assert!(forward.ground().unwrap().is_none() && back.ground().unwrap().is_some());
        forward.turn(&run(2), Lsn(200)).unwrap();
        let second = forward.ground().unwrap();
        assert!(second.is_some() && second != first, "clients may have written to the other side");
        forward.save_stage(&streaming(2)).unwrap();
        assert_ne!(forward.ground().unwrap(), second, "another copy");
        let over = Stage::CutOver { stream: stream(2), marker: "m".into() };
        forward.save_stage(&over).unwrap();
        assert_eq!(forward.ground().unwrap(), None);
    }

    #[test]
    fn chunks_survive_in_order_until_they_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        {
            let store = Store::open(directory.path()).unwrap();
            for number in [300, 2, 1] {
                store.save_verified(&chunk("\"s\".\"b\"", number)).unwrap();
            }
            store.save_verified(&chunk("\"s\".\"a\"", 9)).unwrap();
        }
        let store = Store::open(directory.path()).unwrap();
        let found: Vec<u64> =
            store.verified_chunks().unwrap().iter().map(|chunk| chunk.number).collect();
        assert_eq!(found, [9, 1, 2, 300]);
        store.forget_verification().unwrap();
        assert_eq!(store.verified_chunks().unwrap(), []);
        assert_eq!(store.unfinished_verification().unwrap(), None);
    }
}
