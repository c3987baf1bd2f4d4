//! The door of a side that is closed to everybody: how sessions of our own get in all the same.

use std::fmt;
use std::future::Future;

use crate::ports::PortResult;

/// Whoever opens a session to a side that may be sealed enters by its door, and keeps the guard
/// until the session is there (or could not be opened).
///
/// A side that is not sealed lets everybody in: then this costs nothing.
pub trait Door: Send + Sync {
    /// The door is ajar for our own role until the guard is dropped. Several may be inside at a
    /// time. An error: it could not be opened, and nobody would get in.
    fn enter(&self) -> impl Future<Output = PortResult<DoorGuard>> + Send;
}

/// Keeps a door ajar. Dropping it returns at once; the door is closed behind the last one by a
/// task of its own, so it has to be dropped inside a Tokio runtime (else the door stays ajar until
/// the next [`reseal`](super::PostgresFence::reseal)).
#[must_use = "the door closes when this is dropped"]
pub struct DoorGuard(Option<Box<dyn FnOnce() + Send + Sync>>);

impl DoorGuard {
    /// Of a door that nobody has to close.
    pub fn nothing() -> Self {
        Self(None)
    }

    /// Calls `leave` when it is dropped.
    pub fn new(leave: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(leave)))
    }

    /// Whether it keeps a door ajar: the side is sealed.
    pub fn is_needed(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for DoorGuard {
    fn drop(&mut self) {
        if let Some(leave) = self.0.take() {
            leave();
        }
    }
}

impl fmt::Debug for DoorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorGuard").field("needed", &self.is_needed()).finish()
    }
}

/// The door of a side that is never sealed.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenDoor;

impl Door for OpenDoor {
    async fn enter(&self) -> PortResult<DoorGuard> {
        Ok(DoorGuard::nothing())
    }
}
