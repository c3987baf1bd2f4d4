//! What an error of the server means for a source: try again, or stop with a remedy.

use tokio_postgres::error::SqlState;

use crate::source::{Disposition, SourceError};

/// An error of an SQL session. `doing` completes "can't ..", as in "create the publication x".
///
/// The server's message is taken, its detail is not: details quote row values.
pub(super) fn of_session(doing: &str, error: tokio_postgres::Error) -> SourceError {
    let failure = match error.as_db_error() {
        Some(db) => of_server(doing, db.code(), db.message()),
        None => SourceError::retry(format!("can't {doing}: the connection failed")),
    };
    failure.caused_by(error)
}

/// An error that the server reported by itself.
pub(super) fn of_server(doing: &str, state: &SqlState, message: &str) -> SourceError {
    let remedy = remedy(state);
    let disposition = if passes(state) { Disposition::Retry } else { Disposition::Halt };
    SourceError {
        disposition,
        message: format!("can't {doing}: {message} (SQLSTATE {})", state.code()),
        remedy: remedy.map(str::to_owned),
        cause: None,
    }
}

/// Whether waiting helps. Everything else needs a person, unless it is known to be harmless.
fn passes(state: &SqlState) -> bool {
    // 08 connection, 53 resources (too many connections, out of memory, disk full),
    // 57P shutdown and crash, 58 system errors, 40 deadlock and serialization.
    let class = &state.code()[..2];
    matches!(class, "08" | "53" | "40" | "58")
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::QUERY_CANCELED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::IDLE_SESSION_TIMEOUT,
        ]
        .contains(state)
}

fn remedy(state: &SqlState) -> Option<&'static str> {
    if *state == SqlState::INSUFFICIENT_PRIVILEGE {
        return Some(
            "give the role the missing right: REPLICATION for slots and streams, \
             CREATE on the database and ownership of the tables for publications",
        );
    }
    if *state == SqlState::CONFIGURATION_LIMIT_EXCEEDED {
        return Some(
            "raise max_replication_slots or max_wal_senders, or drop slots no longer used",
        );
    }
    if *state == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE {
        return Some("set wal_level = logical on the source and restart it");
    }
    None
}
