//! Connections to MySQL and MariaDB. Driver, authentication and TLS are `mysql_async`'s.

mod failure;
mod raw;
mod url;

use std::fmt;

use mysql_async::prelude::Queryable;
use mysql_async::{DriverError, Error};

pub use mysql_async::Conn;

pub use failure::{READ_ONLY_DATABASE, code, describe, failure};
pub use raw::RawConnection;
pub use url::{ParseUrlError, ServerUrl, SslMode, is_mysql_url};

use super::Flavor;
use crate::source::SourceError;

/// What a server says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Its family.
    pub flavor: Flavor,
    /// Its version as it says it.
    pub version: String,
    /// Major, minor and patch version.
    pub number: (u16, u16, u16),
    /// Its `server_id`.
    pub server_id: u32,
}

impl Server {
    /// Asks the server.
    ///
    /// # Errors
    /// The question failed.
    pub async fn read(conn: &mut Conn) -> Result<Server, SourceError> {
        let row: Result<Option<(String, u32)>, _> =
            conn.query_first("SELECT @@version, @@server_id").await;
        let row = row.map_err(|error| failure("cannot ask the server for its version", error))?;
        let (version, server_id) =
            row.ok_or_else(|| SourceError::retry("the server does not say its version"))?;
        let flavor = match version.contains("MariaDB") {
            true => Flavor::Mariadb,
            false => Flavor::Mysql,
        };
        Ok(Server { flavor, number: number(&version), version, server_id })
    }

    /// Whether it is MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.flavor == Flavor::Mariadb
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flavor {
            Flavor::Mysql => write!(f, "MySQL {}", self.version),
            Flavor::Mariadb => write!(f, "MariaDB {}", self.version),
        }
    }
}

/// The first three numbers in `10.11.19-MariaDB-log`.
pub(super) fn number(version: &str) -> (u16, u16, u16) {
    let digits = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().unwrap_or(0)
    };
    let mut parts = version.split('.').map(digits);
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// What tells a server from others with the same data: `server_uuid` of MySQL, `server_id` of MariaDB.
///
/// MariaDB has nothing better: its `server_uid` is made of the host's network address, which a container
/// changes at every start. Servers that replicate each other have to differ in `server_id`, so a replica
/// that could hold the same transactions in another order is told apart; one that does not hold them at
/// all refuses the position.
///
/// # Errors
/// The question failed.
pub async fn identity(conn: &mut Conn, server: &Server) -> Result<String, SourceError> {
    if server.is_mariadb() {
        return Ok(server.server_id.to_string());
    }
    let uuid: Result<Option<String>, _> = conn.query_first("SELECT @@server_uuid").await;
    let uuid = uuid.map_err(|error| failure("cannot ask the server who it is", error))?;
    uuid.ok_or_else(|| SourceError::retry("the server does not say who it is"))
}

/// Opens a connection in UTC with UTF-8 text.
///
/// # Errors
/// The server can't be reached or refuses; [`SourceError::disposition`] says whether waiting helps.
pub async fn connect(url: &ServerUrl) -> Result<Conn, SourceError> {
    open(url, false).await
}

/// The same, for who writes: an UPDATE counts the rows that it found, not those that it altered
/// (`CLIENT_FOUND_ROWS`).
///
/// # Errors
/// As for [`connect`].
pub async fn connect_to_write(url: &ServerUrl) -> Result<Conn, SourceError> {
    open(url, true).await
}

/// Opens a connection to something that speaks the protocol and is no server, such as a router's
/// console: nothing is asked of it but the login.
///
/// # Errors
/// As for [`connect`].
pub async fn connect_to_console(url: &ServerUrl) -> Result<Conn, SourceError> {
    let attempt = format!("cannot connect to {url}");
    log_in(url, false).await.map_err(|error| failure(&attempt, error))
}

async fn open(url: &ServerUrl, found_rows: bool) -> Result<Conn, SourceError> {
    let attempt = format!("cannot connect to {url}");
    let conn = log_in(url, found_rows).await;
    let mut conn = conn.map_err(|error| failure(&attempt, error))?;
    let session = "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = ''";
    conn.query_drop(session).await.map_err(|error| failure(&attempt, error))?;
    Ok(conn)
}

async fn log_in(url: &ServerUrl, found_rows: bool) -> Result<Conn, Error> {
    let tls = url.ssl_mode() != SslMode::Disabled;
    match Conn::new(url.opts(tls, found_rows)).await {
        Err(Error::Driver(DriverError::NoClientSslFlagFromServer))
            if url.ssl_mode() == SslMode::Preferred =>
        {
            Conn::new(url.opts(false, found_rows)).await
        }
        conn => conn,
    }
}

/// A text as an SQL literal, under `sql_mode` without NO_BACKSLASH_ESCAPES.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name as an SQL identifier.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(number("10.11.19-MariaDB-log"), (10, 11, 19));
        assert_eq!(number("9.7.4"), (9, 7, 4));
        assert_eq!(number("8.4"), (8, 4, 0));
    }
}
