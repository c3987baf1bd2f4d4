//! What a stream of a binlog tells others while it runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decoders::mysql::Ledger;
use decoders::mysql::server::Conn;

/// Cheap to clone; all clones are about one stream.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of the newest run.
    ledger: Option<Arc<Ledger>>,
    /// Our own sessions on the source, by what they are for: their number there.
    sessions: BTreeMap<&'static str, u32>,
}

impl Reading {
    /// The numbers of the newest run; `None` before the first.
    pub fn ledger(&self) -> Option<Arc<Ledger>> {
        self.lock().ledger.clone()
    }

    /// The stream's own sessions on the source, by their number there; some may be gone already.
    pub fn sessions(&self) -> Vec<u32> {
        self.lock().sessions.values().copied().collect()
    }

    /// A session on the source in place of the one that was there for the same before.
    pub fn opened(&self, what_for: &'static str, session: &Conn) {
        self.lock().sessions.insert(what_for, session.id());
    }

    pub(super) fn begins(&self, ledger: Arc<Ledger>) {
        self.lock().ledger = Some(ledger);
    }

    /// Nothing that runs under the lock panics half-way.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
