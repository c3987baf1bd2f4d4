//! Why setting green up can't go on.

use decoders::postgres::error::{ConnectError, hint_of, message_of};
use decoders::source::Disposition;
use tokio_postgres::error::DbError;

/// Why schema or rows could not be copied.
///
/// The server's DETAIL, and the message of data exceptions (SQLSTATE class 22), quote row values,
/// so they are left out: the error beneath is deliberately not kept.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// Asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// Anything else.
    #[error("{message}")]
    Failed {
        /// Start over, or wait for a person.
        disposition: Disposition,
        /// What was being done and what happened.
        message: String,
        /// The next thing for a person to do, where there is one.
        remedy: Option<String>,
    },
}

impl BackfillError {
    /// An error that starting over may heal.
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Failed { disposition: Disposition::Retry, message: message.into(), remedy: None }
    }

    /// An error that waits for somebody to act on `remedy`.
    pub fn halt(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed {
            disposition: Disposition::Halt,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// What a server or a connection said while `doing` something.
    pub fn database(doing: impl std::fmt::Display, error: &tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            let cause = std::error::Error::source(error)
                .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
            // Our own use of the client is not at fault when a connection breaks, and nothing
            // else happens below the protocol.
            return Self::retry(format!("{doing}: {cause}"));
        };
        let code = refusal.code().code();
        let message = format!("{doing}: {} (SQLSTATE {code})", harmless(refusal));
        match remedy(refusal) {
            _ if is_transient(code) => Self::retry(message),
            remedy => Self::Failed { disposition: Disposition::Halt, message, remedy },
        }
    }

    /// A connection that did not come about. `side` is "blue" or "green".
    pub fn connect(side: &str, error: &ConnectError) -> Self {
        let disposition = if error.is_transient() { Disposition::Retry } else { Disposition::Halt };
        Self::Failed { disposition, message: format!("{side}: {error}"), remedy: None }
    }

    /// Whether starting over may help; not if it was a request to stop.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed { disposition: Disposition::Retry, .. })
    }

    /// The same with advice, unless there is some already.
    #[must_use]
    pub fn or_remedy(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Failed { disposition, message, remedy } => Self::Failed {
                disposition,
                message,
                remedy: remedy.or_else(|| Some(advice.into())),
            },
            Self::Cancelled => Self::Cancelled,
        }
    }
}

/// The server's primary message without row values, and where in a COPY it was.
fn harmless(refusal: &DbError) -> String {
    let message = message_of(refusal);
    // Data exceptions quote the value behind the first quotation mark.
    let shown = if refusal.code().code().starts_with("22") {
        message.split('"').next().unwrap_or_default().trim_end_matches([' ', ':'])
    } else {
        message
    };
    // "COPY t, line 7, column c: "the value""
    let place = refusal
        .where_()
        .filter(|place| place.starts_with("COPY "))
        .and_then(|place| place.split(": \"").next())
        .and_then(|place| place.lines().next());
    match place {
        Some(place) => format!("{shown} at {place}"),
        None => shown.to_owned(),
    }
}

/// Conditions that pass without anybody's help (PostgreSQL manual, Appendix A).
///
/// Class 08 connection, class 40 rollback, 53300 too many connections, 55P03 lock not available,
/// 57014 cancelled by somebody, 57P01-57P03 the server goes or comes.
fn is_transient(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40"))
        || matches!(code, "53300" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "57P05")
}

fn remedy(refusal: &DbError) -> Option<String> {
    let text = match refusal.code().code() {
        "42501" => {
            "grant the missing privilege to the role that Cutover connects as, or run it as the owner"
        }
        "53100" => "free or add disk space on that server, then start again",
        "53200"
            if hint_of(refusal).is_some_and(|hint| hint.contains("max_locks_per_transaction")) =>
        {
            "raise max_locks_per_transaction on that server (it holds one lock for every table) and restart it"
        }
        "42704" if refusal.message().starts_with("role ") => {
            "create the role on green (CREATE ROLE ..), or set schema.owners = false"
        }
        "42704" if refusal.message().starts_with("tablespace ") => {
            "create the tablespace on green, or set schema.tablespaces = false"
        }
        "0A000" | "58P01" if refusal.message().contains("extension") => {
            "install the extension's package on green's server"
        }
        "42883" | "42P01" => {
            "a function may rely on search_path: give it one on blue (ALTER FUNCTION .. SET search_path = ..)"
        }
        code if code.starts_with("23") => {
            "green has a constraint that a row of blue does not meet there: make the constraint, and what it calls, \
             answer as on blue. Then: cutover retry"
        }
        _ => return hint_of(refusal).map(str::to_owned),
    };
    Some(text.to_owned())
}
