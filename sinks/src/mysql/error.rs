//! What green's errors mean for the stream, told without row values.
//!
//! MySQL and MariaDB quote values in many messages ("Duplicate entry 'x' for key .."), so what a server
//! says about rows is never passed on: only its error number, and the name of the key or constraint
//! where the message ends with one.

use decoders::mysql::server::{READ_ONLY_DATABASE, code, failure, identifier};
use decoders::source::{Disposition, SourceError};
use mysql_async::Error;

use crate::target::TargetError;

/// ER_NET_PACKET_TOO_LARGE.
const NET_PACKET_TOO_LARGE: u16 = 1153;

/// The error of a statement that holds no row values; the server's own words can be shown.
pub(super) fn target_error(doing: impl std::fmt::Display, error: Error) -> TargetError {
    of_source(failure(doing, error))
}

/// An error of the connection's side in the terms of a target.
pub(super) fn of_source(error: SourceError) -> TargetError {
    let SourceError { disposition, message, remedy, cause } = error;
    let remedy = match disposition {
        Disposition::Retry => remedy,
        Disposition::Halt => remedy.or_else(|| Some("See the server's own log".to_owned())),
    };
    TargetError { disposition, message, remedy, conflict: false, about_row: false, cause }
}

/// The error of a statement about rows: `doing` says where.
pub(super) fn of_rows(doing: &str, error: Error) -> TargetError {
    let Some(number) = code(&error) else {
        // The driver's errors hold no statement; a packet that it can't read is not shown.
        let mut told = target_error(doing, error);
        told.cause = None;
        return told;
    };
    let (named, about_row) = (named(&error), is_about_row(number, &error));
    let (text, remedy) = match database(&error) {
        None => {
            let (text, remedy) = describe(number);
            (text.to_owned(), remedy.to_owned())
        }
        Some(name) => (
            format!("nobody can write in the database {name} of green, which is read-only"),
            format!(
                "ALTER DATABASE {name} READ ONLY = 0 on green, then it goes on by itself; nothing of the \
                 transaction was kept"
            ),
        ),
    };
    let about = named.map(|name| format!(" ({name})")).unwrap_or_default();
    let message = format!("{doing}: {text}{about}, error {number}");
    let disposition = failure("", error).disposition;
    TargetError {
        disposition,
        message,
        remedy: (disposition == Disposition::Halt).then_some(remedy),
        conflict: matches!(number, 1022 | 1062 | 1169 | 1205 | 1213 | 1216 | 1217 | 1451 | 1452),
        about_row,
        cause: None,
    }
}

/// Whether the server refuses what a row holds, and not the table, the account or the moment: SQLSTATEs
/// of data and constraints, and what the servers report without one (a row or packet that is too large,
/// a value that has no partition or is refused by a check or a definition).
fn is_about_row(number: u16, error: &Error) -> bool {
    const WITHOUT_STATE: [u16; 14] = [
        1118,
        NET_PACKET_TOO_LARGE,
        1265,
        1364,
        1366,
        1416,
        1526,
        1644,
        1690,
        1748,
        3140,
        3643,
        3819,
        4025,
    ];
    let Error::Server(server) = error else { return false };
    let of_class = |class: &str| server.state.starts_with(class);
    of_class("22") || of_class("23") || WITHOUT_STATE.contains(&number)
}

/// The error for rows that are more than green takes in one message, before they are sent: in the middle of a
/// message a server may end the session instead of saying so.
pub(super) fn too_large(doing: &str) -> TargetError {
    let (text, remedy) = describe(NET_PACKET_TOO_LARGE);
    TargetError::halt(format!("{doing}: {text}"), remedy)
}

/// The key that stands at the end of a message. The value before it can't reach behind it.
fn named(error: &Error) -> Option<String> {
    let Error::Server(server) = error else { return None };
    let (_, rest) = server.message.rsplit_once(" for key '")?;
    let name = rest.strip_suffix('\'')?;
    (!name.contains('\'')).then(|| format!("key {name}"))
}

/// The database that is read-only, quoted. The message is of the server's catalog alone.
fn database(error: &Error) -> Option<String> {
    let Error::Server(server) = error else { return None };
    let rest = server.message.strip_prefix("Schema '")?.strip_suffix("' is in read only mode.")?;
    (server.code == READ_ONLY_DATABASE).then(|| identifier(rest))
}

fn describe(number: u16) -> (&'static str, &'static str) {
    const DIFFERS: &str = "Green holds other rows than blue had at this point. Nothing of the \
         transaction was kept and blue is untouched: compare the table on both sides, find out who \
         writes on green, and copy again";
    const SHAPE: &str = "The table was made or altered differently on green. Make it as on blue, then \
         it goes on by itself; nothing of the transaction was kept";
    match number {
        1032 => ("a row is not there", DIFFERS),
        1022 | 1062 | 1169 => ("a unique key has that value already", DIFFERS),
        1216 | 1452 => ("a foreign key has no such row to refer to", DIFFERS),
        1217 | 1451 => ("a foreign key still refers to the row", DIFFERS),
        1048 | 1364 => ("a column without NULL gets none", SHAPE),
        1264 | 1265 | 1292 | 1366 | 1406 => ("a value does not fit its column", SHAPE),
        3819 | 4025 => ("a CHECK constraint refuses a row", SHAPE),
        1054 | 1136 | 1146 => ("the table is not what it was", SHAPE),
        NET_PACKET_TOO_LARGE => (
            "a row, or both of its images, is larger than green's max_allowed_packet",
            "SET GLOBAL max_allowed_packet = 1073741824 on green, then it goes on by itself; \
             nothing of the transaction was kept",
        ),
        1205 => ("somebody on green holds a lock for too long", ""),
        1213 => ("a deadlock with somebody else on green", ""),
        1290 | 1836 | 3032 => (
            "green is read-only",
            "SET GLOBAL read_only = 0 on green, or give the replicator's account the right to write \
             nevertheless (CONNECTION_ADMIN on MySQL, READ ONLY ADMIN on MariaDB)",
        ),
        READ_ONLY_DATABASE => (
            "nobody can write in a database of green, which is read-only",
            "ALTER DATABASE .. READ ONLY = 0 on green, then it goes on by itself; nothing of the \
             transaction was kept",
        ),
        _ => ("green refuses it", "See the error number in the server's manual"),
    }
}

#[cfg(test)]
mod tests {
    use mysql_async::ServerError;

    use super::*;

    fn server(code: u16, message: &str) -> Error {
        Error::Server(ServerError { code, message: message.into(), state: "23000".into() })
    }

    #[test]
    fn a_message_about_rows_names_the_key_and_no_value() {
        let error = server(1062, "Duplicate entry 'sec'' for key 'x' for key 't.PRIMARY'");
        let told = of_rows("INSERT into `t`", error);
        assert!(told.message.contains("key t.PRIMARY"), "{told}");
        assert!(!told.message.contains("sec") && told.cause.is_none());
        assert!(told.conflict && told.disposition == Disposition::Halt);
        let told =
            of_rows("INSERT", server(1366, "Incorrect value: 'secret' for column 'a' at row 1"));
        assert!(!told.message.contains("secret"), "{told}");
    }

    #[test]
    fn a_row_is_told_from_everything_else_that_is_refused() {
        let of = |code: u16, state: &str| {
            let error = ServerError { code, message: "x".into(), state: state.into() };
            of_rows("INSERT", Error::Server(error)).about_row
        };
        for (code, state) in
            [(1062, "23000"), (1406, "22001"), (1366, "HY000"), (3819, "HY000"), (4025, "23000")]
        {
            assert!(of(code, state), "{code}");
        }
        // Denied, read-only, no such table or column, full.
        for (code, state) in [
            (1142, "42000"),
            (1290, "HY000"),
            (1146, "42S02"),
            (1054, "42S22"),
            (1114, "HY000"),
            (1205, "HY000"),
        ] {
            assert!(!of(code, state), "{code}");
        }
    }

    #[test]
    fn a_database_that_is_read_only_is_named_with_what_opens_it() {
        let told = of_rows("INSERT", server(3989, "Schema 'it`s' is in read only mode."));
        assert_eq!(told.disposition, Disposition::Halt);
        assert!(told.message.contains("the database `it``s` of green"), "{told}");
        let remedy = told.remedy.unwrap();
        assert!(remedy.starts_with("ALTER DATABASE `it``s` READ ONLY = 0 on green"), "{remedy}");
        // In other words of another version.
        let told = of_rows("INSERT", server(3989, "it is shut"));
        assert!(told.remedy.unwrap().contains("READ ONLY = 0"));
    }

    #[test]
    fn waiting_helps_against_locks() {
        for number in [1205, 1213] {
            let told = of_rows("UPDATE", server(number, "x"));
            assert_eq!(told.disposition, Disposition::Retry);
            assert!(told.conflict);
        }
    }
}
