//! What the driver's and the server's errors mean for who waits.

use mysql_async::{DriverError, Error, IoError};

use crate::source::{Disposition, SourceError};

/// The error of what was attempted (`cannot connect to ..`), with its disposition and, where one is
/// known, its remedy.
pub fn failure(attempt: impl std::fmt::Display, error: Error) -> SourceError {
    let (disposition, remedy) = judge(&error);
    SourceError {
        disposition,
        message: format!("{attempt}: {}", describe(&error)),
        remedy: remedy.map(str::to_owned),
        cause: Some(Box::new(error)),
    }
}

/// One line; the server's own words with its error number.
pub fn describe(error: &Error) -> String {
    match error {
        Error::Server(server) => format!("{} (error {})", server.message, server.code),
        // The packet may hold values of rows.
        Error::Driver(DriverError::UnexpectedPacket { .. }) => "unexpected packet".to_owned(),
        Error::Io(IoError::Io(error)) => error.to_string(),
        error => error.to_string(),
    }
}

/// The server's error number, if it answered.
pub fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Server(server) => Some(server.code),
        _ => None,
    }
}

/// ER_SCHEMA_READ_ONLY: `ALTER DATABASE .. READ ONLY = 1` of MySQL, which binds everybody.
pub const READ_ONLY_DATABASE: u16 = 3989;

fn judge(error: &Error) -> (Disposition, Option<&'static str>) {
    use Disposition::{Halt, Retry};
    match error {
        Error::Io(IoError::Io(_)) => (Retry, None),
        Error::Io(IoError::Tls(_)) => {
            (Halt, Some("check ssl-mode and ssl-ca in the URL, and the server's certificate"))
        }
        Error::Driver(DriverError::ConnectionClosed) => (Retry, None),
        Error::Driver(DriverError::NoClientSslFlagFromServer) => {
            (Halt, Some("enable TLS on the server, or use ssl-mode=PREFERRED or DISABLED"))
        }
        // A server also asks for a plugin of its choice if it does not know the account.
        Error::Driver(
            DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled,
        ) => (
            Halt,
            Some(
                "check user and password; the account must authenticate with caching_sha2_password \
                 or mysql_native_password",
            ),
        ),
        Error::Server(server) => match server.code {
            // Too many connections, shutdown in progress, killed, out of resources, locks, starting.
            1040
            | 1053
            | 1077..=1079
            | 1129
            | 1158..=1161
            | 1203
            | 1205
            | 1213
            | 1226
            | 1317
            | 1927
            | 3032
            | 3169 => (Retry, None),
            // MySQL says 1045 also of an account that may not read the binlog.
            1044 | 1045 | 1130 | 1142 | 1143 | 1227 | 1370 | 1698 => (
                Halt,
                Some(
                    "check user, password and grants of the account; reading the binlog takes \
                     REPLICATION SLAVE",
                ),
            ),
            READ_ONLY_DATABASE => (
                Halt,
                Some(
                    "ALTER DATABASE .. READ ONLY = 0 on that server, for the database that it names",
                ),
            ),
            _ => (Halt, None),
        },
        _ => (Halt, None),
    }
}
