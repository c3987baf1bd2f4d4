//! The process's limit of open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than this is of no use, and some systems have no bound.
const ENOUGH: u64 = 65_536;

/// Raises the soft limit towards the hard one; how many descriptors the process may have now.
pub fn raise() -> usize {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!("the limit of open files can't be read: {error}");
            return 1024;
        }
    };
    let wanted = hard.min(ENOUGH).max(soft);
    let now = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(soft, "the limit of open files can't be raised: {error}");
            soft
        }
    };
    usize::try_from(now.min(ENOUGH)).unwrap_or(usize::MAX)
}
