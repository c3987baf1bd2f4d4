//! How the sessions of this process are told from everybody else's on a server.
//!
//! A role and an `application_name` are not enough: another sidecar, or a check that somebody has
//! started by hand, has both. So each session of ours wears a badge: an advisory lock, taken together
//! with its settings and kept for its life. The first key is drawn for the process, and says whose
//! session it is. The second is drawn for the session: with a key that all share, any role could ask
//! for the lock exclusively, and from then on nobody new would get it.
//!
//! Keys can be read in `pg_locks`, so a badge proves nothing about somebody who means to forge it. For
//! that the role is there: only who can log in as our own role passes for us.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// A number that nobody can guess: the standard library seeds its hashers from the system.
fn drawn() -> u32 {
    RandomState::new().hash_one("badge") as u32
}

fn of_process() -> u32 {
    static CLASS: OnceLock<u32> = OnceLock::new();
    *CLASS.get_or_init(drawn)
}

/// Puts the badge on the session that runs this statement. It is not waited for.
pub fn take_sql() -> String {
    let (class, session) = (of_process().cast_signed(), drawn().cast_signed());
    format!("SELECT pg_catalog.pg_try_advisory_lock_shared({class}, {session})")
}

/// The `pid`s of this server's sessions that wear a badge of this process, as a query.
pub fn wearers_sql() -> String {
    let class = of_process();
    format!(
        "SELECT badge.pid FROM pg_catalog.pg_locks badge WHERE badge.locktype = 'advisory' \
         AND badge.objsubid = 2 AND badge.classid = {class}::oid AND badge.mode = 'ShareLock' \
         AND badge.granted"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_a_process_share_one_key_only() {
        let (first, second) = (take_sql(), take_sql());
        assert_ne!(first, second);
        let class = of_process();
        assert!(first.contains(&format!("({}, ", class.cast_signed())), "{first}");
        assert!(wearers_sql().contains(&format!("{class}::oid")));
    }
}
