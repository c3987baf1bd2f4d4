//! File descriptors: as many as the system lets us have, and for how many clients they are enough.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a client may take at a time: its own connection, its server's, and for the moment of a move
/// the other server's.
const OF_A_CLIENT: u64 = 3;
/// What everything else may take: threads, listeners, our own sessions, orders, connections that are
/// being refused.
const OTHERS: u64 = 160;

/// Raises the limit to what the system allows, and says how many descriptors there may be.
///
/// # Errors
/// The system does not say.
pub(super) fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("the limit of {soft} file descriptors can't be raised to {hard}: {error}");
        return Ok(soft);
    }
    Ok(hard)
}

/// For how many clients that many are enough.
pub(super) fn clients_of(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(OTHERS) / OF_A_CLIENT).unwrap_or(usize::MAX)
}

/// How many it takes for that many clients.
pub(super) fn of_clients(clients: usize) -> u64 {
    u64::try_from(clients).unwrap_or(u64::MAX).saturating_mul(OF_A_CLIENT).saturating_add(OTHERS)
}

/// Whether there was none left.
pub(super) fn are_exhausted(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// A descriptor that is held back, so that who comes when there is no other can be told.
pub(super) struct Spare(Option<File>);

impl Spare {
    pub fn keep() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Does something with one descriptor more.
    pub fn lend<T>(&mut self, doing: impl FnOnce() -> T) -> T {
        drop(self.0.take());
        let done = doing();
        *self = Self::keep();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_enough_for_as_many_clients_as_it_takes() {
        for clients in [1, 55, 2_000] {
            assert_eq!(clients_of(of_clients(clients)), clients);
            assert_eq!(clients_of(of_clients(clients) - 1), clients - 1);
        }
        assert_eq!(clients_of(10), 0);
    }
}
