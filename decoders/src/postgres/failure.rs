//! What an error of a connection means for a source: try again, or stop with a remedy.
//!
//! The server's message is shown, its detail is not: details quote row values.

use super::error::{ConnectError, ServerError, WireError};
use super::session::{describe, is_transient};
use crate::source::{Disposition, SourceError};
use crate::spool::SpoolError;

/// An error of an SQL session. `doing` completes "can't ..", as in "create the publication x".
pub(super) fn of_session(doing: &str, error: tokio_postgres::Error) -> SourceError {
    let server = error.as_db_error().map(ServerError::from_db);
    SourceError {
        disposition: disposition(is_transient(&error)),
        message: format!("can't {doing}: {}", describe(&error)),
        remedy: server.as_ref().and_then(remedy),
        cause: Some(Box::new(error)),
    }
}

/// An error of a replication connection.
pub(super) fn of_wire(doing: &str, error: WireError) -> SourceError {
    SourceError {
        disposition: disposition(error.is_transient()),
        message: format!("can't {doing}: {error}"),
        remedy: error.server_error().and_then(remedy),
        cause: Some(Box::new(error)),
    }
}

/// No connection came about.
pub(super) fn of_connect(error: ConnectError) -> SourceError {
    SourceError {
        disposition: disposition(error.is_transient()),
        message: format!("can't connect to the source: {error}"),
        remedy: error.server_error().and_then(remedy),
        cause: Some(Box::new(error)),
    }
}

/// The spool failed. The source has everything; a new stream may go on without a spool.
pub(super) fn of_spool(error: SpoolError) -> SourceError {
    SourceError {
        disposition: Disposition::Retry,
        message: error.message.clone(),
        remedy: Some(error.remedy.clone()),
        cause: Some(Box::new(error)),
    }
}

fn disposition(transient: bool) -> Disposition {
    if transient { Disposition::Retry } else { Disposition::Halt }
}

/// What to do about the errors that a source's set-up and stream meet.
fn remedy(error: &ServerError) -> Option<String> {
    let text = match error.sqlstate.as_str() {
        "42501" => {
            "give the role the missing right: REPLICATION for slots and streams; CREATE on the \
             database and ownership of the tables for publications"
        }
        "53400" => "raise max_replication_slots or max_wal_senders, or drop slots no longer used",
        "55000" => {
            "see the source's log; wal_level must be logical, and a slot whose WAL was removed \
             has to be created anew, with a new copy"
        }
        "58P01" => {
            "WAL that the slot needs is gone: run `replicator teardown`, raise \
             max_slot_wal_keep_size, and start with a new copy"
        }
        // A publication that is missing at the moment of the change that is being decoded.
        "42704" => {
            "the publication must have existed before the slot was created: run `replicator \
             teardown` and start with a new copy"
        }
        "42710" => "run `replicator teardown`, or choose another name",
        _ => return None,
    };
    Some(text.to_owned())
}
