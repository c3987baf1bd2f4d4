//! The cutover's write-ahead journal.

use cutover::ports::{Entry, Journal, PortError, PortResult};

use super::{Store, StoreError};
use crate::chronicle::Chronicle;
use crate::watchdog::Guard;

pub(super) const FAMILY: &str = "journal";

/// The journal in the state directory. Keys are the entries' numbers, big-endian, so that the
/// order of the keys is the order of the entries.
#[derive(Clone)]
pub struct RocksJournal {
    store: Store,
    guard: Option<Guard>,
    chronicle: Option<Chronicle>,
}

impl RocksJournal {
    /// The journal of this state directory.
    pub fn new(store: Store) -> Self {
        Self { store, guard: None, chronicle: None }
    }

    /// The same; every entry is told to the watchdog before it is written here.
    pub fn watched_by(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// The same; every entry that is written here is told to the chronicle.
    pub fn chronicled_by(self, chronicle: Chronicle) -> Self {
        Self { chronicle: Some(chronicle), ..self }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> PortResult<T> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        let done = done.map_err(|error| PortError::new("journal", error.to_string()))?;
        done.map_err(|error| {
            PortError::new("journal", error.to_string()).remedy(error.remedy()).caused_by(error)
        })
    }
}

impl Journal for RocksJournal {
    async fn append(&self, entry: &Entry) -> PortResult<()> {
        if let Some(guard) = &self.guard {
            guard.tell(entry).await;
        }
        let written = entry.clone();
        self.blocking(move |store| store.append_entry(&written)).await?;
        if let Some(chronicle) = &self.chronicle {
            chronicle.tell(entry);
        }
        Ok(())
    }

    async fn read_all(&self) -> PortResult<Vec<Entry>> {
        self.blocking(|store| store.values(FAMILY)).await
    }
}

impl Store {
    fn append_entry(&self, entry: &Entry) -> Result<(), StoreError> {
        let key = entry.seq.to_be_bytes();
        // Two controllers over one journal would overwrite each other; RocksDB's lock keeps a
        // second process out, this keeps a second controller of the same process out, and an entry
        // that was given up because the disk hung.
        let last = self.last_key(FAMILY)?;
        if last.is_some_and(|last| *last >= key[..]) {
            return Err(StoreError::Io {
                path: self.path.clone(),
                action: "written",
                cause: format!("journal entry {} is not behind the last one", entry.seq),
            });
        }
        self.put(FAMILY, &key, entry)
    }
}

#[cfg(test)]
mod tests {
    use cutover::ports::{Epoch, Record};
    use jiff::Timestamp;

    use super::*;

    fn entry(seq: u64) -> Entry {
        Entry {
            seq,
            run: "7f3a".into(),
            epoch: Epoch(1),
            at: Timestamp::UNIX_EPOCH,
            record: Record::Began {
                request: serde_json::json!({"when_lag": "<1s"}),
                direction: cutover::Direction::Forward,
            },
        }
    }

    #[tokio::test]
    async fn entries_come_back_in_order_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        {
            let journal = RocksJournal::new(Store::open(directory.path()).unwrap());
            for seq in [1, 2, 255, 256, 300] {
                journal.append(&entry(seq)).await.unwrap();
            }
        }
        let journal = RocksJournal::new(Store::open(directory.path()).unwrap());
        let numbers: Vec<u64> =
            journal.read_all().await.unwrap().into_iter().map(|entry| entry.seq).collect();
        assert_eq!(numbers, [1, 2, 255, 256, 300]);
    }
}
