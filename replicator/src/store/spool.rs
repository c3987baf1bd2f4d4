//! The spool of the stream: changes of transactions that run on blue, until they commit.
//!
//! A RocksDB of its own, in the directory `spool` of the state directory, made when the first batch
//! comes and removed whole when no batch is left. Apart from the notebook for two reasons: a disk
//! that the spool fills does not take the checkpoint with it, and removing files gives room back at
//! once where deleting keys would wait for compactions.
//!
//! Batches are keyed by their number, which only grows, and are read once: files never overlap, so
//! RocksDB moves them from level to level without writing them again. Nothing is logged and nothing
//! is synced; what is lost with the process, blue sends again.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decoders::spool::{Generation, Spool, SpoolError};
use nix::sys::statvfs::statvfs;
use rocksdb::{BlockBasedOptions, DB, Options, ReadOptions, WriteOptions};

/// Bytes of each of RocksDB's buffers, of which there are at most [`BUFFERS`].
const BUFFER_BYTES: usize = 8 << 20;
const BUFFERS: i32 = 3;

/// Files that RocksDB keeps open.
const OPEN_FILES: i32 = 128;

/// The spool never takes the last of a disk: this share of it stays free, or [`RESERVE_BYTES_MAX`]
/// if that is less.
const RESERVE_SHARE: u64 = 10;
const RESERVE_BYTES_MAX: u64 = 2 << 30;

/// After so many bytes the free space is looked at again.
const LOOK_EVERY_BYTES: u64 = 8 << 20;

/// The spool in the state directory. Cheap to clone.
#[derive(Clone)]
pub struct RocksSpool {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    generation: u64,
    db: Option<DB>,
    /// Written since the free space was last looked at.
    unlooked_bytes: u64,
    /// It has failed; see [`RocksSpool::is_usable`].
    failed: bool,
    /// RocksDB's threads have been ended for good.
    ended: bool,
}

impl RocksSpool {
    /// The spool of a state directory that this process holds. Nothing is opened yet.
    pub(super) fn new(state_dir: &Path, name: &str) -> Self {
        Self { path: state_dir.join(name), state: Arc::default() }
    }

    /// Whether it has not failed in this process, and blue can make use of it. Without a spool the stream goes on as well: large
    /// transactions are then read when they commit.
    pub fn is_usable(&self) -> bool {
        !self.locked().failed
    }

    /// Whether no batch waits in it.
    pub fn is_empty(&self) -> bool {
        self.locked().db.is_none()
    }

    /// Ends RocksDB's own threads; nothing is written after this.
    pub(super) fn quiesce(&self) {
        let mut state = self.locked();
        state.ended = true;
        if let Some(db) = &state.db {
            db.cancel_all_background_work(true);
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // What a panic leaves behind is a database that is emptied before it is used again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for the stream that has the spool now.
    fn of(&self, generation: Generation) -> Result<MutexGuard<'_, State>, SpoolError> {
        let state = self.locked();
        if state.generation != generation.0 || state.ended {
            return Err(self.error("used", "it belongs to a newer stream, or to none"));
        }
        Ok(state)
    }

    fn open(&self) -> Result<DB, rocksdb::Error> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(BUFFER_BYTES);
        options.set_max_write_buffer_number(BUFFERS);
        options.set_max_open_files(OPEN_FILES);
        options.set_keep_log_file_num(1);
        options.set_max_log_file_size(1 << 20);
        // Blocks are read once. What is worth keeping is in the page cache.
        let mut blocks = BlockBasedOptions::default();
        blocks.disable_cache();
        options.set_block_based_table_factory(&blocks);
        DB::open(&options, &self.path)
    }

    fn remove(&self) -> Result<(), SpoolError> {
        match std::fs::remove_dir_all(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.error("emptied", error)),
        }
    }

    /// Refuses to take the last of the disk.
    fn check_room(&self, state: &mut State, bytes: u64) -> Result<(), SpoolError> {
        state.unlooked_bytes += bytes;
        if state.db.is_some() && state.unlooked_bytes < LOOK_EVERY_BYTES {
            return Ok(());
        }
        state.unlooked_bytes = 0;
        let disk = self.path.parent().unwrap_or(&self.path);
        let disk = statvfs(disk).map_err(|error| self.error("looked at", error))?;
        let unit = disk.fragment_size();
        let free = disk.blocks_available().saturating_mul(unit);
        let reserve = (disk.blocks().saturating_mul(unit) / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
        if free < reserve {
            return Err(
                self.error("written", format!("{} MiB are left on its disk, too few", free >> 20))
            );
        }
        Ok(())
    }

    fn error(&self, action: &str, cause: impl std::fmt::Display) -> SpoolError {
        SpoolError {
            message: format!("the spool {} can't be {action}: {cause}", self.path.display()),
            remedy: format!(
                "nothing is lost; large transactions are read when they commit from now on. Give \
                 {} more room and start again, or set apply.streaming = \"off\"",
                self.path.display()
            ),
        }
    }
}

impl std::fmt::Debug for RocksSpool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksSpool").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Spool for RocksSpool {
    fn begin(&self) -> Result<Generation, SpoolError> {
        let mut state = self.locked();
        state.generation += 1;
        state.db = None;
        let removed = self.remove();
        state.failed |= removed.is_err();
        removed.map(|()| Generation(state.generation))
    }

    fn put(&self, generation: Generation, number: u64, batch: &[u8]) -> Result<(), SpoolError> {
        let mut state = self.of(generation)?;
        let mut write = || {
            self.check_room(&mut state, batch.len() as u64)?;
            let failed = |error: rocksdb::Error| self.error("written", error.into_string());
            let db = match &state.db {
                Some(db) => db,
                None => state.db.insert(self.open().map_err(failed)?),
            };
            let mut unlogged = WriteOptions::default();
            unlogged.disable_wal(true);
            db.put_opt(key(number), batch, &unlogged).map_err(failed)
        };
        let written = write();
        state.failed |= written.is_err();
        written
    }

    fn get(&self, generation: Generation, number: u64) -> Result<Vec<u8>, SpoolError> {
        let mut state = self.of(generation)?;
        let read = match &state.db {
            None => Ok(None),
            Some(db) => db.get_opt(key(number), &ReadOptions::default()),
        };
        let read = match read {
            Ok(Some(batch)) => Ok(batch),
            Ok(None) => Err(self.error("read", format!("batch {number} is gone"))),
            Err(error) => Err(self.error("read", error.into_string())),
        };
        state.failed |= read.is_err();
        read
    }

    fn discard(
        &self,
        generation: Generation,
        numbers: &[Range<u64>],
        is_last: bool,
    ) -> Result<(), SpoolError> {
        let mut state = self.of(generation)?;
        if is_last {
            state.db = None;
            return self.remove();
        }
        let Some(db) = &state.db else { return Ok(()) };
        let failed = |error: rocksdb::Error| self.error("emptied", error.into_string());
        for range in numbers {
            let (from, to) = (key(range.start), key(range.end));
            // Whole files at once, then what is left at their edges.
            db.delete_file_in_range(from, key(range.end.saturating_sub(1))).map_err(failed)?;
            let mut batch = rocksdb::WriteBatch::default();
            batch.delete_range(from, to);
            let mut unlogged = WriteOptions::default();
            unlogged.disable_wal(true);
            db.write_opt(batch, &unlogged).map_err(failed)?;
        }
        Ok(())
    }

    fn retire(&self) {
        self.locked().failed = true;
    }
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> (tempfile::TempDir, RocksSpool) {
        let directory = tempfile::tempdir().unwrap();
        let spool = RocksSpool::new(directory.path(), "spool");
        (directory, spool)
    }

    /// Bytes of the files in a directory.
    fn used_bytes(path: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(path) else { return 0 };
        // A file may go while it is looked at.
        entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }

    fn batch(number: u64) -> Vec<u8> {
        let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..1 << 20).map(|_| next()).collect()
    }

    #[test]
    fn batches_come_back_as_they_were_put_and_the_last_discard_frees_the_disk() {
        let (_directory, spool) = spool();
        let generation = spool.begin().unwrap();
        assert_eq!(used_bytes(&spool.path), 0, "nothing is made before it is needed");
        assert!(spool.is_empty());
        for number in 1..=64 {
            spool.put(generation, number, &batch(number)).unwrap();
        }
        assert!(!spool.is_empty());
        assert!(used_bytes(&spool.path) > 32 << 20);
        for number in 1..=64 {
            assert!(spool.get(generation, number).unwrap() == batch(number), "batch {number}");
        }
        assert!(spool.get(generation, 65).is_err());
        spool.discard(generation, std::slice::from_ref(&(1..65)), true).unwrap();
        assert!(spool.is_empty());
        assert_eq!(used_bytes(&spool.path), 0);
    }

    #[test]
    fn what_others_left_behind_frees_room_while_one_stays() {
        let (_directory, spool) = spool();
        let generation = spool.begin().unwrap();
        for number in 1..=128 {
            spool.put(generation, number, &batch(number)).unwrap();
        }
        // Number 100 belongs to a transaction that goes on.
        spool.discard(generation, &[1..100, 101..129], false).unwrap();
        assert!(spool.get(generation, 99).is_err() && spool.get(generation, 101).is_err());
        assert!(spool.get(generation, 100).unwrap() == batch(100));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // Files are removed by a thread of RocksDB.
        while used_bytes(&spool.path) > 64 << 20 {
            assert!(std::time::Instant::now() < deadline, "{}", used_bytes(&spool.path));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_new_stream_finds_it_empty_and_the_one_before_is_shut_out() {
        let (_directory, spool) = spool();
        let first = spool.begin().unwrap();
        spool.put(first, 1, b"one").unwrap();
        let second = spool.begin().unwrap();
        assert!(spool.put(first, 2, b"late").is_err());
        assert!(spool.get(second, 1).is_err());
        assert_eq!(used_bytes(&spool.path), 0);
    }

    #[test]
    fn a_process_that_died_leaves_nothing() {
        let (_directory, spool) = spool();
        let generation = spool.begin().unwrap();
        for number in 1..=20 {
            spool.put(generation, number, &batch(number)).unwrap();
        }
        // As a kill leaves it: files that nobody has closed. The living one still writes to its own.
        let left = tempfile::tempdir().unwrap();
        let path = left.path().join("spool");
        std::fs::create_dir(&path).unwrap();
        for entry in std::fs::read_dir(&spool.path).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        }
        assert!(used_bytes(&path) > 0);
        let spool = RocksSpool::new(left.path(), "spool");
        spool.begin().unwrap();
        assert_eq!(used_bytes(&spool.path), 0);
        assert!(spool.is_usable());
    }

    #[test]
    fn a_spool_that_fails_says_what_to_do_and_is_not_used_again() {
        let spool = RocksSpool::new(Path::new("/proc/no/such"), "spool");
        let generation = spool.begin().unwrap();
        let error = spool.put(generation, 1, b"x").unwrap_err();
        assert!(error.message.contains("/proc/no/such/spool"), "{error}");
        assert!(error.remedy.contains("nothing is lost"));
        assert!(!spool.is_usable());
    }
}
