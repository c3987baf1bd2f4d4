//! What green's errors mean for the stream, told without row values.
//!
//! PostgreSQL quotes values in DETAIL and in many messages ("invalid input syntax for type integer:
//! .."), so a server's error is never passed on as it is: only its code, the names of the objects
//! it is about, and its message where the class of the code can't carry values.

use decoders::postgres::error::{ServerError, WireError};
use decoders::source::Disposition;

use crate::target::TargetError;

/// The parts of a server's error that hold no row values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE (PostgreSQL manual, appendix A), if the server sent one. `None`: the connection.
    pub code: Option<String>,
    /// A sentence without values.
    pub text: String,
}

impl Refusal {
    /// Reads an error.
    pub fn of(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::of_server(&ServerError::from_db(db)),
            None => Self { code: None, text: describe_client(error) },
        }
    }

    /// Reads an error of our own wire.
    pub(super) fn of_wire(error: &WireError) -> Self {
        match error {
            WireError::Server(error) => Self::of_server(error),
            WireError::Io { .. } | WireError::Protocol { .. } => {
                Self { code: None, text: format!("the connection to green failed: {error}") }
            }
        }
    }

    fn of_server(error: &ServerError) -> Self {
        Self { code: Some(error.sqlstate.clone()), text: describe(error) }
    }

    /// Whether the world may get better by itself.
    pub fn disposition(&self) -> Disposition {
        match &self.code {
            None => Disposition::Retry,
            Some(code) => disposition(code),
        }
    }

    /// Whether green's catalog may differ from what we remember of it.
    pub fn hints_at_changed_catalog(&self) -> bool {
        // feature_not_supported ("cached plan must not change result type"), undefined_column,
        // undefined_table, undefined_object, datatype_mismatch, generated_always.
        let codes = ["0A000", "42703", "42P01", "42704", "42804", "428C9"];
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// An error about `doing`.
    pub fn into_error(self, doing: &str) -> TargetError {
        let message = format!("{doing}: {}", self.text);
        let mut error = match self.disposition() {
            Disposition::Retry => TargetError::retry(message),
            Disposition::Halt => TargetError::halt(message, self.remedy()),
        };
        error.conflict = self.is_conflict();
        error
    }

    /// Whether the server refused it because of what other rows and transactions are at this
    /// moment: integrity_constraint_violation, serialization_failure, deadlock_detected.
    fn is_conflict(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        code.starts_with("23") || code == "40001" || code == "40P01"
    }

    fn remedy(&self) -> &'static str {
        match self.code.as_deref().unwrap_or_default() {
            "23505" => {
                "A row with the same key is on green already, so something other than the \
                 replicator wrote there, or green has a unique constraint that blue has not. \
                 Compare the table (cutover verify), remove the foreign row or the constraint, \
                 then it goes on by itself"
            }
            code if code.starts_with("23") => {
                "Green has a constraint that blue has not, or something other than the replicator \
                 wrote to green. Compare the table's definition and rows on both sides (cutover \
                 verify), correct green, then it goes on by itself"
            }
            "25006" => {
                "Make green writable: promote it if it is a standby, else reset \
                 default_transaction_read_only. The stream then goes on by itself"
            }
            "53100" => "Free or add disk space on green; the stream then goes on by itself",
            // undefined_function, undefined_table: of an expression of the table
            "42883" | "42P01" => {
                "If a constraint, an index, a default or a generated column of the table calls a function or reads a \
                 table by a name without its schema: the stream's sessions have an empty search_path. Set \
                 the function's own (ALTER FUNCTION .. SET search_path = ..) on green; otherwise make the \
                 table's definition there fit blue's. Then it goes on by itself"
            }
            "42501" => {
                "Grant the role that the replicator uses on green what is named above (BYPASSRLS, if that is \
                 row-level security)"
            }
            code if code.starts_with("22") || code.starts_with("42") => {
                "The table's definition on green does not fit blue's. Make them alike, then it \
                 goes on by itself"
            }
            code if code.starts_with("28") || code.starts_with("3D") => {
                "Correct user, password or database in green's URL"
            }
            _ => {
                "See green's server log for the full error, correct its cause; it then goes on by itself"
            }
        }
    }
}

/// `Retry` for what a reconnect may heal; everything else is a person's decision.
fn disposition(code: &str) -> Disposition {
    let retry = match code {
        // lock_not_available, query_canceled, idle_in_transaction_session_timeout,
        // transaction_timeout,
        // object_in_use (an origin or lock of a session that is about to end), io_error
        "55P03" | "57014" | "25P03" | "25P04" | "55006" | "58030" => true,
        // disk_full: somebody has to make room.
        "53100" => false,
        // connection exception, transaction rollback (serialization failure, deadlock),
        // insufficient resources (out of memory, too many connections)
        _ if code.starts_with("08") || code.starts_with("40") || code.starts_with("53") => true,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout
        _ => code.starts_with("57P"),
    };
    if retry { Disposition::Retry } else { Disposition::Halt }
}

/// Turns an error of `doing` (for example "reading green's progress") into the contract's.
pub fn target_error(doing: &str, error: &tokio_postgres::Error) -> TargetError {
    Refusal::of(error).into_error(doing)
}

/// The same for an error of our own wire.
pub(super) fn wire_error(doing: &str, error: &WireError) -> TargetError {
    Refusal::of_wire(error).into_error(doing)
}

fn describe(error: &ServerError) -> String {
    let code = error.sqlstate.as_str();
    let mut text = match message_may_quote_values(code) {
        true => match name_of(code) {
            Some(name) => format!("{name} ({code})"),
            None => format!("SQLSTATE {code}"),
        },
        false => format!("{} ({code})", error.message),
    };
    let Some(about) = &error.about else { return text };
    let named =
        [("constraint", &about.constraint), ("column", &about.column), ("type", &about.datatype)];
    for (kind, name) in named {
        if let Some(name) = name {
            text.push_str(&format!(", {kind} {name:?}"));
        }
    }
    text
}

/// Whether messages of this class can quote values: only classes known not to are passed on.
fn message_may_quote_values(code: &str) -> bool {
    const NAMES_ONLY: [&str; 13] =
        ["08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"];
    !NAMES_ONLY.iter().any(|class| code.starts_with(class))
}

fn name_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "22001" => "value too long for its type",
        "22003" => "number out of range",
        "22007" | "22008" => "date or time not accepted",
        "22021" => "character not in the database's encoding",
        "22P02" => "text not accepted by the type",
        "22P03" => "binary form not accepted by the type",
        "22P05" => "character not translatable to the database's encoding",
        "23502" => "NULL in a NOT NULL column",
        "23503" => "foreign key violation",
        "23505" => "unique violation",
        "23514" => "check violation",
        "23P01" => "exclusion violation",
        "P0001" => "an exception raised by a function on green",
        _ => return None,
    })
}

/// Errors of the client library are about the connection, except for one that is made by us.
fn describe_client(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("the connection to green failed: {source}"),
        None => format!("the connection to green failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_errors_stop_and_server_trouble_is_retried() {
        for code in
            ["23505", "22P02", "42501", "42703", "P0001", "XX000", "28P01", "53100", "25006"]
        {
            assert_eq!(disposition(code), Disposition::Halt, "{code}");
        }
        for code in ["40001", "40P01", "57P01", "53200", "08006", "57014"] {
            assert_eq!(disposition(code), Disposition::Retry, "{code}");
        }
    }

    #[test]
    fn messages_of_data_errors_are_not_passed_on() {
        for code in ["22P02", "23505", "P0001", "XX000", "38000"] {
            assert!(message_may_quote_values(code), "{code}");
        }
        assert!(!message_may_quote_values("42501"));
    }
}
