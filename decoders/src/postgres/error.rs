//! What can go wrong with a connection, and whether trying again may help.
//!
//! Nothing here holds a password, and `Display` of a server's error leaves out DETAIL, which may
//! quote row values, and what code of users has put into a message.

use std::fmt;
use std::io;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use tokio_postgres::error::DbError;

use super::splitter::FrameError;

/// Takes the place of a text that code of users has chosen.
const RAISED: &str =
    "an exception raised by a function or a trigger (its text is in the server's log)";
/// Functions of the server's languages through which code of users raises a text and a code of its own
/// choice: RAISE and ASSERT of PL/pgSQL, PL/Python, PL/Perl, PL/Tcl. The server names them in field `R`.
const RAISING: [&str; 7] = [
    "exec_stmt_raise",
    "exec_stmt_assert",
    "PLy_",
    "plperl_",
    "do_util_elog",
    "pltcl_",
    "throw_tcl_error",
];

/// The server's message, unless code of users has chosen it: it may quote rows, under any SQLSTATE.
pub fn message_of(error: &DbError) -> &str {
    match is_raised(error.routine()) {
        true => RAISED,
        false => error.message(),
    }
}

/// The server's hint, unless code of users has chosen it.
pub fn hint_of(error: &DbError) -> Option<&str> {
    error.hint().filter(|_| !is_raised(error.routine()))
}

fn is_raised(routine: Option<&str>) -> bool {
    routine.is_some_and(|routine| RAISING.iter().any(|raising| routine.starts_with(raising)))
}

/// An ErrorResponse (PostgreSQL manual, "Error and Notice Message Fields").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// Not localized when the server is 9.6 or later (field `V`): ERROR, FATAL or PANIC.
    pub severity: String,
    /// Five characters, for example `57P01`.
    pub sqlstate: String,
    /// Never a text that code of users has chosen.
    pub message: String,
    /// May contain row values: for the operator on request, not for logs.
    pub detail: Option<String>,
    pub hint: Option<Box<str>>,
    /// What it is about, if the server names anything.
    pub about: Option<Box<About>>,
}

/// Names of what a server's error is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    pub constraint: Option<String>,
    pub column: Option<String>,
    pub datatype: Option<String>,
}

impl About {
    /// Most errors name nothing, and errors travel through many hands.
    fn boxed(self) -> Option<Box<About>> {
        (self != About::default()).then(|| Box::new(self))
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.sqlstate)?;
        match &self.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

impl ServerError {
    /// Reads the fields. Before authentication their encoding is the server's own, so bytes that
    /// are not UTF-8 are replaced rather than refused.
    pub(super) fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<ServerError> {
        let mut error = ServerError {
            severity: String::new(),
            sqlstate: String::new(),
            message: String::new(),
            detail: None,
            hint: None,
            about: None,
        };
        let mut about = About::default();
        let mut plain_severity = None;
        let mut routine = None;
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => error.severity = value,
                b'V' => plain_severity = Some(value),
                b'C' => error.sqlstate = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value.into()),
                b'n' => about.constraint = Some(value),
                b'c' => about.column = Some(value),
                b'd' => about.datatype = Some(value),
                b'R' => routine = Some(value),
                _ => {}
            }
        }
        if let Some(severity) = plain_severity {
            error.severity = severity;
        }
        error.about = about.boxed();
        Ok(error.unless_raised(routine.as_deref()))
    }

    /// Without what code of users has chosen.
    fn unless_raised(self, routine: Option<&str>) -> ServerError {
        match is_raised(routine) {
            true => ServerError { message: RAISED.to_owned(), hint: None, about: None, ..self },
            false => self,
        }
    }

    /// As the client library has read it.
    pub fn from_db(error: &DbError) -> ServerError {
        let severity = match error.parsed_severity() {
            Some(severity) => severity.to_string(),
            None => error.severity().to_owned(),
        };
        ServerError {
            severity,
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(Into::into),
            about: About {
                constraint: error.constraint().map(str::to_owned),
                column: error.column().map(str::to_owned),
                datatype: error.datatype().map(str::to_owned),
            }
            .boxed(),
        }
        .unless_raised(error.routine())
    }

    /// The server refused who we are, not what we asked (class 28).
    pub fn is_authentication(&self) -> bool {
        self.sqlstate.starts_with("28")
    }

    /// Whether the same request may succeed later without anyone changing anything.
    ///
    /// Class 08 connection, 40 rollback, 53 resources (too many connections, disk full, memory),
    /// 55006 object in use (a slot still held by a dying walsender), 55P03 lock not available,
    /// 57P01-57P03, 57P05 shutdown, crash, starting up, idle timeout, 58030 I/O error.
    pub fn is_transient(&self) -> bool {
        matches!(self.sqlstate.get(..2), Some("08" | "40" | "53"))
            || matches!(
                self.sqlstate.as_str(),
                "55006" | "55P03" | "57P01" | "57P02" | "57P03" | "57P05" | "58030"
            )
    }
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {host}: {source}")]
    Io { host: String, source: io::Error },
    #[error("no connection to {host} within {} ms (connect_timeout)", .after.as_millis())]
    Timeout { host: String, after: Duration },
    #[error("TLS with {host} failed: {source}")]
    Tls { host: String, source: TlsError },
    #[error("authentication of user \"{user}\" at {host} failed: {reason}")]
    Authentication { user: String, host: String, reason: AuthError },
    #[error("{host} refused the connection: {source}")]
    Server { host: String, source: ServerError },
    #[error("unexpected answer from {host}: {source}")]
    Protocol { host: String, source: ProtocolError },
    #[error("{host} is not what target_session_attrs={wanted} asks for")]
    Attributes { host: String, wanted: &'static str },
    #[error("none of the hosts can be used: {}", join(.0))]
    Hosts(Vec<ConnectError>),
}

fn join(errors: &[ConnectError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl ConnectError {
    /// Whether trying again later may help without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            ConnectError::Resolve { .. }
            | ConnectError::Timeout { .. }
            | ConnectError::Attributes { .. } => true,
            // A TLS alert after the handshake (a refused client certificate) is no network error.
            ConnectError::Io { source, .. } => is_network(source),
            ConnectError::Tls { source, .. } => source.is_transient(),
            ConnectError::Authentication { reason, .. } => match reason {
                AuthError::Refused(error) => error.is_transient(),
                AuthError::NoPassword
                | AuthError::NoChannelBinding
                | AuthError::Unsupported(_)
                | AuthError::ServerUnproven(_)
                | AuthError::Exchange(_) => false,
            },
            // A database that lets nobody in (55000) does so until somebody opens it: a fence of ours
            // among others.
            ConnectError::Server { source, .. } => {
                source.is_transient() || source.sqlstate == "55000"
            }
            ConnectError::Protocol { .. } => false,
            ConnectError::Hosts(errors) => errors.iter().any(ConnectError::is_transient),
        }
    }

    /// What the system has said where no connection came about.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            ConnectError::Io { source, .. } | ConnectError::Resolve { source, .. } => Some(source),
            ConnectError::Hosts(errors) => errors.iter().find_map(ConnectError::io_error),
            _ => None,
        }
    }

    /// The server's own words, if it said any.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            ConnectError::Server { source, .. }
            | ConnectError::Authentication { reason: AuthError::Refused(source), .. } => {
                Some(source)
            }
            ConnectError::Hosts(errors) => errors.iter().find_map(ConnectError::server_error),
            _ => None,
        }
    }
}

/// Why TLS could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the server does not support TLS, but sslmode={0} requires it")]
    NotOffered(&'static str),
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error(
        "sslmode={sslmode} needs a root certificate: give sslrootcert=FILE, sslrootcert=system, or ~/.postgresql/root.crt"
    )]
    NoRoots { sslmode: &'static str },
    #[error("sslmode=verify-full needs a host name to compare the certificate with")]
    NoHostName,
    #[error("invalid TLS settings: {0}")]
    Settings(rustls::Error),
    #[error("{0}")]
    Handshake(io::Error),
}

impl TlsError {
    /// A handshake cut off by the network may work next time; a refused certificate will not.
    pub fn is_transient(&self) -> bool {
        match self {
            TlsError::Handshake(error) => is_network(error),
            TlsError::NotOffered(_)
            | TlsError::File { .. }
            | TlsError::NoRoots { .. }
            | TlsError::NoHostName
            | TlsError::Settings(_) => false,
        }
    }
}

/// Why the server and we do not accept each other.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("{0}")]
    Refused(ServerError),
    #[error(
        "the server asks for a password and none was given (PGPASSWORD, PGPASSFILE or ~/.pgpass)"
    )]
    NoPassword,
    #[error("channel_binding=require, but the server authenticates without it")]
    NoChannelBinding,
    #[error("the server asks for {0}, which is not supported")]
    Unsupported(String),
    /// SCRAM proves both sides; a server that cannot does not know the password.
    #[error("the server did not prove that it knows the password: {0}")]
    ServerUnproven(String),
    #[error("{0}")]
    Exchange(String),
}

/// Bytes that the protocol does not allow where they appeared.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("message '{}' at byte {offset} of the connection is malformed: {reason}", .tag.escape_ascii())]
    Malformed { tag: u8, offset: u64, reason: io::Error },
    #[error("message '{}' at byte {offset} of the connection is not expected while {during}", .tag.escape_ascii())]
    Unexpected { tag: u8, offset: u64, during: &'static str },
    #[error("the server answered the TLS request with byte {0:#04x}")]
    TlsAnswer(u8),
    #[error("a previous command on this connection was abandoned half-way")]
    Abandoned,
    #[error("{0}")]
    Other(String),
}

/// Why an established replication connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("connection to {host} lost: {source}")]
    Io { host: String, source: io::Error },
    #[error("{0}")]
    Server(ServerError),
    #[error("connection to {host}: {source}")]
    Protocol { host: String, source: ProtocolError },
}

impl WireError {
    /// Whether a new connection may get further.
    pub fn is_transient(&self) -> bool {
        match self {
            WireError::Io { .. } => true,
            WireError::Server(error) => error.is_transient(),
            WireError::Protocol { .. } => false,
        }
    }

    /// The server's own words, if it said any.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            WireError::Server(error) => Some(error),
            WireError::Io { .. } | WireError::Protocol { .. } => None,
        }
    }
}

/// `InvalidData` and `InvalidInput` are how rustls and postgres-protocol report bad bytes;
/// everything else comes from the operating system or the end of the stream.
pub(super) fn is_network(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str) -> ServerError {
        ServerError {
            severity: "FATAL".to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: "m".to_owned(),
            detail: Some("Key (id)=(secret row value)".to_owned()),
            hint: None,
            about: None,
        }
    }

    #[test]
    fn what_code_of_users_has_chosen_is_not_passed_on() {
        let shown = |routine| {
            let error = ServerError { hint: Some("m".into()), ..server("55000") };
            error.unless_raised(Some(routine)).to_string()
        };
        for routine in ["exec_stmt_raise", "exec_stmt_assert", "PLy_elog_impl", "throw_tcl_error"] {
            assert_eq!(shown(routine), format!("FATAL: {RAISED} (SQLSTATE 55000)"));
        }
        assert_eq!(shown("ExecConstraints"), "FATAL: m (SQLSTATE 55000); hint: m");
    }

    #[test]
    fn a_database_that_lets_nobody_in_may_be_opened() {
        let source = server("55000");
        assert!(!source.is_transient(), "a lost slot has the same code");
        assert!(ConnectError::Server { host: "h".to_owned(), source }.is_transient());
    }

    #[test]
    fn which_sqlstates_may_heal_by_themselves() {
        for sqlstate in [
            "08006", "08P01", "40001", "40P01", "53100", "53200", "53300", "55006", "55P03",
            "57P01", "57P02", "57P03", "57P05", "58030",
        ] {
            assert!(server(sqlstate).is_transient(), "{sqlstate}");
            assert!(WireError::Server(server(sqlstate)).is_transient());
        }
        for sqlstate in [
            "28P01", "28000", "3D000", "42501", "42704", "42P01", "22012", "0A000", "55000",
            "57P04", "XX000", "",
        ] {
            assert!(!server(sqlstate).is_transient(), "{sqlstate}");
        }
    }

    #[test]
    fn details_are_kept_but_not_displayed() {
        let error = server("23505");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.detail.is_some());
    }

    #[test]
    fn one_host_that_may_heal_is_enough() {
        let definite = || ConnectError::Server { host: "a".to_owned(), source: server("3D000") };
        let transient = ConnectError::Server { host: "b".to_owned(), source: server("57P03") };
        assert!(!ConnectError::Hosts(vec![definite(), definite()]).is_transient());
        assert!(ConnectError::Hosts(vec![definite(), transient]).is_transient());
    }
}
