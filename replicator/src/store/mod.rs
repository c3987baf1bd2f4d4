//! The sidecar's durable memory: RocksDB lives here and nowhere else.
//!
//! # What is kept, and what losing it costs
//! | column family | holds | lost with the disk |
//! |---|---|---|
//! | `checkpoint` | how far green is known to be durable | a re-read from the slot's position |
//! | `stage` | how far the set-up of the pipeline got, and what each stream is for | see [`stage`], [`role`] |
//! | `verification` | how far a verification got | it starts anew |
//! | `journal` | the cutover's write-ahead journal | green's decision row still decides |
//!
//! Beside it, in a directory of its own, lies the [`spool`] of the stream, which is not durable.
//!
//! Every write is synced before it returns: callers group their writes, the store never delays.
//! Values are JSON, so that a person with `ldb` can read them at 3 a.m.

mod binlog;
mod checkpoint;
mod journal;
mod private;
mod role;
mod spool;
mod stage;
mod verification;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cutover::Direction;
use rocksdb::{ColumnFamilyDescriptor, DB, IteratorMode, Options, WriteOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use checkpoint::Checkpoint;
pub use journal::RocksJournal;
pub use role::Role;
pub use spool::RocksSpool;
pub use stage::Stage;
pub use verification::{FinishedChunk, Ground, KeptUp, Unfinished};

/// Bytes of log after which RocksDB writes its memory out.
const LOG_BYTES: u64 = 256 << 10;

/// The format of what is kept. It grows when a value changes its meaning; a directory without one is of
/// the first.
const FORMAT: u32 = 1;
/// Where the format is kept, in the family of [`stage`].
const FORMAT_KEY: &[u8] = b"format";

/// Column families, created when missing.
const FAMILIES: [&str; 4] =
    [checkpoint::FAMILY, stage::FAMILY, journal::FAMILY, verification::FAMILY];

/// Why the store can't go on. Every one of these stops the engine: without its memory it may not act.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has this state directory open.
    #[error("the state directory {path} is in use by another replicator")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// RocksDB could not read or write.
    #[error("the state directory {path} can't be {action}: {cause}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was tried: `opened`, `read`, `written`.
        action: &'static str,
        /// RocksDB's own words.
        cause: String,
    },
    /// Written in a format that this version does not know.
    #[error("the state directory {path} has format {found}; this version reads format {FORMAT}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A value that this version can't read.
    #[error(
        "the state directory {path} holds a value of {family} that this version can't read: {cause}"
    )]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The column family.
        family: &'static str,
        /// Why.
        cause: String,
    },
}

impl StoreError {
    /// What a person should do next.
    pub fn remedy(&self) -> String {
        match self {
            StoreError::InUse { path } => format!(
                "stop the other replicator, or give this one its own --state-dir (now {})",
                path.display()
            ),
            StoreError::Io { path, .. } => format!(
                "nothing is lost: green holds its own progress. Check free space and permissions of \
                 {} (df -h, ls -ld), then stop and start the replicator: its store takes no more writes until then",
                path.display()
            ),
            StoreError::Format { path, found } if *found > FORMAT => format!(
                "{} was written by a newer version: start that version again, or take a new --state-dir: \
                 green and blue hold what a stream needs to go on",
                path.display()
            ),
            StoreError::Format { path, .. } => format!(
                "{} was written by an older version: finish with that version, or take a new --state-dir: \
                 green and blue hold what a stream needs to go on",
                path.display()
            ),
            StoreError::Unreadable { path, .. } => {
                format!(
                    "was {} written by a newer version? start that version again",
                    path.display()
                )
            }
        }
    }
}

/// An open state directory, as the stream of one direction sees it: checkpoint, stage, role and
/// spool are the direction's own, the journal is everybody's. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    db: Arc<DB>,
    direction: Direction,
    spools: [RocksSpool; 2],
    path: PathBuf,
}

impl Store {
    /// Opens the state directory, creating it when missing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process holds it, [`StoreError::Format`] when another version wrote
    /// it, [`StoreError::Io`] otherwise.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self::open_unsettled(path)?;
        store.settle_format()?;
        Ok(store)
    }

    fn open_unsettled(path: &Path) -> Result<Self, StoreError> {
        let failed = |cause: String| StoreError::Io { path: path.into(), action: "opened", cause };
        private::prepare(path).map_err(|error| failed(error.to_string()))?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A few hundred small values: the defaults (64 MiB buffers, 64 background files) are for
        // databases, not for a notebook. The log's preallocation follows these sizes: small, so that
        // a full disk is seen within seconds and not when the preallocated space is used up.
        options.set_max_total_wal_size(LOG_BYTES);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(1 << 20);
        let families = FAMILIES.map(|name| {
            let mut options = Options::default();
            options.set_write_buffer_size(LOG_BYTES as usize / 2);
            ColumnFamilyDescriptor::new(name, options)
        });
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| {
            let cause = error.into_string();
            // The LOCK file is how RocksDB keeps a second process out; its error has no code of its own.
            if cause.contains("LOCK") && cause.contains("lock") {
                StoreError::InUse { path: path.into() }
            } else if cause.contains("olumn families not opened") {
                // Only a later version adds families.
                StoreError::Format { path: path.into(), found: FORMAT + 1 }
            } else {
                failed(cause)
            }
        })?;
        let spools = [RocksSpool::new(path, "spool"), RocksSpool::new(path, "spool-back")];
        Ok(Self { db: Arc::new(db), direction: Direction::Forward, spools, path: path.into() })
    }

    /// Refuses another format, and writes this one down where there is none yet.
    fn settle_format(&self) -> Result<(), StoreError> {
        match self.get::<u32>(stage::FAMILY, FORMAT_KEY)? {
            Some(FORMAT) => Ok(()),
            Some(found) => Err(StoreError::Format { path: self.path.clone(), found }),
            None => self.put(stage::FAMILY, FORMAT_KEY, &FORMAT),
        }
    }

    /// The same state directory for the stream of a direction.
    pub fn towards(&self, direction: Direction) -> Store {
        Self { direction, ..self.clone() }
    }

    /// Of the two keys of a value, the direction's.
    fn key(&self, [forward, back]: [&'static str; 2]) -> &'static [u8] {
        match self.direction {
            Direction::Forward => forward.as_bytes(),
            Direction::Back => back.as_bytes(),
        }
    }

    /// Ends RocksDB's own threads; nothing is written after this. For the end of the process: they
    /// must not outlive what C++ tears down there.
    pub fn quiesce(&self) {
        self.db.cancel_all_background_work(true);
        self.spools.iter().for_each(RocksSpool::quiesce);
    }

    /// Where the stream puts large transactions aside while they run.
    pub fn spool(&self) -> &RocksSpool {
        match self.direction {
            Direction::Forward => &self.spools[0],
            Direction::Back => &self.spools[1],
        }
    }

    /// The state directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn get<T: DeserializeOwned>(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        let bytes =
            self.db.get_cf(self.family(family), key).map_err(|error| self.io("read", error))?;
        bytes.map(|bytes| self.decode(family, &bytes)).transpose()
    }

    fn put<T: Serialize>(
        &self,
        family: &'static str,
        key: &[u8],
        value: &T,
    ) -> Result<(), StoreError> {
        let bytes = self.encode(family, value)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db
            .put_cf_opt(self.family(family), key, bytes, &synced)
            .map_err(|error| self.io("written", error))
    }

    fn delete(&self, family: &'static str, key: &[u8]) -> Result<(), StoreError> {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db
            .delete_cf_opt(self.family(family), key, &synced)
            .map_err(|error| self.io("written", error))
    }

    fn values<T: DeserializeOwned>(&self, family: &'static str) -> Result<Vec<T>, StoreError> {
        let mut values = Vec::new();
        for entry in self.db.iterator_cf(self.family(family), IteratorMode::Start) {
            let (_, bytes) = entry.map_err(|error| self.io("read", error))?;
            values.push(self.decode(family, &bytes)?);
        }
        Ok(values)
    }

    fn last_key(&self, family: &'static str) -> Result<Option<Box<[u8]>>, StoreError> {
        let mut newest_first = self.db.iterator_cf(self.family(family), IteratorMode::End);
        let entry = newest_first.next().transpose().map_err(|error| self.io("read", error))?;
        Ok(entry.map(|(key, _)| key))
    }

    fn family(&self, name: &'static str) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(name).expect("every family of FAMILIES is opened with the database")
    }

    fn encode<T: Serialize>(&self, family: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|error| self.unreadable(family, error))
    }

    fn decode<T: DeserializeOwned>(
        &self,
        family: &'static str,
        bytes: &[u8],
    ) -> Result<T, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| self.unreadable(family, error))
    }

    fn io(&self, action: &'static str, error: rocksdb::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), action, cause: error.into_string() }
    }

    fn unreadable(&self, family: &'static str, error: serde_json::Error) -> StoreError {
        StoreError::Unreadable { path: self.path.clone(), family, cause: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_kept_out() {
        let directory = tempfile::tempdir().unwrap();
        let first = Store::open(directory.path()).unwrap();
        let second = Store::open(directory.path());
        assert!(matches!(second, Err(StoreError::InUse { .. })), "got {:?}", second.err());
        drop(first);
        Store::open(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_of_before_formats_is_of_the_first_and_others_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.delete(stage::FAMILY, FORMAT_KEY).unwrap();
        store.save_stage(&Stage::Preparing).unwrap();
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.stage().unwrap(), Some(Stage::Preparing), "nothing is lost");
        assert_eq!(store.get::<u32>(stage::FAMILY, FORMAT_KEY).unwrap(), Some(1));
        drop(store);
        for other in [0, FORMAT + 1] {
            let store = Store::open(directory.path()).unwrap();
            store.put(stage::FAMILY, FORMAT_KEY, &other).unwrap();
            drop(store);
            let refused = Store::open(directory.path()).err().unwrap();
            assert!(
                matches!(refused, StoreError::Format { found, .. } if found == other),
                "{refused}"
            );
            assert!(refused.remedy().contains("--state-dir"), "{}", refused.remedy());
            // As whoever goes back to this version by hand would.
            let raw = Store::open_unsettled(directory.path()).unwrap();
            raw.put(stage::FAMILY, FORMAT_KEY, &FORMAT).unwrap();
        }
    }

    #[test]
    fn families_of_a_later_version_are_told_as_such() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path()).unwrap());
        let mut db = DB::open_cf(&Options::default(), directory.path(), FAMILIES).unwrap();
        db.create_cf("of_tomorrow", &Options::default()).unwrap();
        drop(db);
        let refused = Store::open(directory.path()).err().unwrap();
        assert!(matches!(refused, StoreError::Format { .. }), "{refused}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Store::open(Path::new("/proc/no/such")).err().unwrap();
        assert!(error.to_string().contains("/proc/no/such"), "{error}");
        assert!(error.remedy().contains("nothing is lost"));
    }
}
