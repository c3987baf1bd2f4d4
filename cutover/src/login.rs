//! How a side is reached, or a router in front of it, whatever its engine.

use decoders::mysql::server::{ServerUrl, is_mysql_url};
use decoders::postgres::conninfo::{ConnInfo, HostAddress};

use crate::api::Server;

/// A server's address and the account to use.
#[derive(Debug, Clone)]
pub enum Login {
    /// PostgreSQL.
    Postgres(Box<ConnInfo>),
    /// MySQL or MariaDB.
    Mysql(ServerUrl),
}

impl Login {
    /// Reads a connection string: a URL of MySQL or MariaDB, or anything that PostgreSQL takes.
    ///
    /// # Errors
    /// A sentence: what is wrong with it, without the string itself.
    pub fn parse(text: &str) -> Result<Login, String> {
        match is_mysql_url(text.trim()) {
            true => match ServerUrl::parse(text) {
                Ok(url) => Ok(Login::Mysql(url)),
                Err(error) => Err(error.to_string()),
            },
            false => match ConnInfo::parse(text) {
                Ok(info) => Ok(Login::from(&info)),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// A client of `end`, or of a router in front of it.
    ///
    /// # Errors
    /// The same, or it leads to another engine.
    pub(crate) fn of_client(text: &str, end: &Login) -> Result<Login, String> {
        let client = Login::parse(text)?;
        client.must_be_of_the_engine_of(end)?;
        Ok(client)
    }

    /// # Errors
    /// A sentence: this one leads to another engine than `end`, which is blue's.
    pub fn must_be_of_the_engine_of(&self, end: &Login) -> Result<(), String> {
        match (self, end) {
            (Login::Postgres(_), Login::Mysql(_)) => {
                Err("it leads to PostgreSQL, and blue is MySQL or MariaDB".into())
            }
            (Login::Mysql(_), Login::Postgres(_)) => {
                Err("it leads to MySQL or MariaDB, and blue is PostgreSQL".into())
            }
            _ => Ok(()),
        }
    }

    /// Of PostgreSQL.
    pub(crate) fn postgres(&self) -> Option<&ConnInfo> {
        match self {
            Login::Postgres(info) => Some(info),
            Login::Mysql(_) => None,
        }
    }

    /// For people, without the password.
    pub(crate) fn redacted(&self) -> String {
        match self {
            Login::Postgres(info) => info.redacted(),
            Login::Mysql(url) => url.to_string(),
        }
    }

    /// The server behind it, before anybody has asked it.
    pub fn unseen(&self) -> Server {
        let database = self.database().to_owned();
        Server { url: self.redacted(), database, version: None, up: false }
    }

    /// Host and port of the first host.
    pub(crate) fn address(&self) -> Option<(String, u16)> {
        let info = match self {
            Login::Postgres(info) => info,
            Login::Mysql(url) => {
                let (host, port) = url.address();
                return Some((host.to_owned(), port));
            }
        };
        info.hosts().first().map(|host| {
            let name = match &host.address {
                HostAddress::Name(name) => name.clone(),
                HostAddress::Address { address, .. } => address.to_string(),
                HostAddress::Socket(path) => path.to_string_lossy().into_owned(),
            };
            (name, host.port)
        })
    }

    /// The database; empty where none is named.
    pub(crate) fn database(&self) -> &str {
        match self {
            Login::Postgres(info) => info.dbname(),
            Login::Mysql(url) => url.database().unwrap_or_default(),
        }
    }
}

impl From<&ConnInfo> for Login {
    fn from(info: &ConnInfo) -> Self {
        Login::Postgres(Box::new(info.clone()))
    }
}

impl From<&ServerUrl> for Login {
    fn from(url: &ServerUrl) -> Self {
        Login::Mysql(url.clone())
    }
}

impl From<ConnInfo> for Login {
    fn from(info: ConnInfo) -> Self {
        Login::Postgres(Box::new(info))
    }
}

impl From<ServerUrl> for Login {
    fn from(url: ServerUrl) -> Self {
        Login::Mysql(url)
    }
}
