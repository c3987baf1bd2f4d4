//! Cancel requests: a client keeps the key that it was given at its login, whichever server its
//! session is on now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decoders::postgres::conninfo::Host;
use decoders::postgres::raw;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Ends;
use super::startup::cancel_packet;
use crate::side::Side;

/// How long a request may take.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Where a session is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub side: Side,
    pub host: Host,
    /// The server's own key.
    pub key: Vec<u8>,
}

impl Place {
    /// The process that serves it: BackendKeyData begins with that.
    fn pid(&self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.key.first_chunk::<4>()?))
    }
}

type Places = HashMap<Vec<u8>, Place>;

/// All sessions by their clients' keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancels(Arc<Mutex<Places>>);

/// An entry that goes with its session.
#[derive(Debug)]
pub(super) struct Entry {
    all: Cancels,
    key: Vec<u8>,
}

impl Cancels {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session.
    pub fn enter(&self, place: Place) -> Entry {
        let key = place.key.clone();
        self.lock().insert(key.clone(), place);
        Entry { all: self.clone(), key }
    }

    /// Process ids of the sessions on `side`.
    pub fn servers(&self, side: Side) -> Vec<u32> {
        let here = |place: &&Place| place.side == side;
        self.lock().values().filter(here).filter_map(Place::pid).collect()
    }

    /// Passes a request on. Nobody is told how it went, as with any server; a held session has
    /// nothing to cancel.
    pub async fn forward(&self, key: &[u8], ends: &Ends) {
        let Some(place) = self.lock().get(key).cloned() else { return };
        let info = ends.of(place.side).with_host(place.host);
        let request = async {
            let mut server = raw::connect(&info).await.map_err(std::io::Error::other)?;
            server.write_all(&cancel_packet(&place.key)).await?;
            server.flush().await?;
            // The server closes once it has sent the signal.
            server.read(&mut [0]).await
        };
        match tokio::time::timeout(REQUEST_MAX, request).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!("a cancel request failed: {error}"),
            Err(_) => tracing::debug!("a cancel request had no answer in time"),
        }
    }
}

impl Entry {
    /// The process that serves the session now. 0: the server has not said.
    pub fn server_pid(&self) -> u32 {
        self.all.lock().get(&self.key).and_then(Place::pid).unwrap_or_default()
    }

    /// Its session is on another server now.
    pub fn moved(&self, place: Place) {
        self.all.lock().insert(self.key.clone(), place);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}
