//! Where a server is and how to reach it: `mysql://user@host:port/database?ssl-mode=..`.

use std::fmt;
use std::path::{Path, PathBuf};

use mysql_async::{ClientIdentity, Opts, OptsBuilder, SslOpts};
use percent_encoding::percent_decode_str;

/// How the connection is protected, in the words of the servers' own clients (`--ssl-mode`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SslMode {
    /// Never TLS.
    Disabled,
    /// TLS if the server offers it; whom one talks to is not checked.
    #[default]
    Preferred,
    /// TLS or nothing; whom one talks to is not checked.
    Required,
    /// The server's certificate must come from a known authority.
    VerifyCa,
    /// .. and be for this host.
    VerifyIdentity,
}

/// A server's address and the account to use. `Display` shows no password.
#[derive(Clone)]
pub struct ServerUrl {
    opts: Opts,
    ssl_mode: SslMode,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// The text is not a server's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a URL of a MySQL or MariaDB server: {0}; write mysql://USER@HOST:PORT/DATABASE")]
pub struct ParseUrlError(String);

/// The largest packet that the source's sending thread may write: events are larger than the
/// `max_allowed_packet` of ordinary sessions (`MAX_MAX_ALLOWED_PACKET` in the servers' sources).
const PACKET_BYTES: usize = 1 << 30;

/// How long an idle connection is kept by the server, in seconds: a day.
const WAIT_TIMEOUT_S: usize = 86_400;

/// Whether a text means a MySQL or MariaDB server rather than PostgreSQL.
pub fn is_mysql_url(text: &str) -> bool {
    without_scheme(text).is_some()
}

fn without_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("mysql://").or_else(|| text.strip_prefix("mariadb://"))
}

impl ServerUrl {
    /// Reads a URL. A password that it lacks is taken from the environment variable `MYSQL_PWD`.
    ///
    /// Parameters: `ssl-mode` (`DISABLED`, `PREFERRED`, `REQUIRED`, `VERIFY_CA`, `VERIFY_IDENTITY`),
    /// `ssl-ca`, `ssl-cert`, `ssl-key` (paths of PEM files).
    ///
    /// # Errors
    /// The text is no such URL. The error does not repeat it, for it may hold a password.
    pub fn parse(text: &str) -> Result<ServerUrl, ParseUrlError> {
        let refuse = |reason: &str| ParseUrlError(reason.to_owned());
        let rest = without_scheme(text.trim()).ok_or_else(|| refuse("another scheme"))?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let opts = Opts::from_url(&format!("mysql://{address}"));
        let opts = opts.map_err(|_| refuse("malformed"))?;
        let password = match opts.pass() {
            Some(password) => Some(password.to_owned()),
            None => std::env::var("MYSQL_PWD").ok(),
        };
        let opts = OptsBuilder::from_opts(opts)
            .pass(password)
            .prefer_socket(false)
            .max_allowed_packet(Some(PACKET_BYTES))
            .wait_timeout(Some(WAIT_TIMEOUT_S))
            .tcp_keepalive(Some(std::time::Duration::from_secs(10)))
            .stmt_cache_size(0)
            .into();
        let mut url = ServerUrl { opts, ssl_mode: SslMode::default(), ca: None, identity: None };
        let (mut certificate, mut key) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| refuse("malformed parameter"))?;
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| refuse("malformed parameter"))?;
            match name {
                "ssl-mode" => {
                    url.ssl_mode = ssl_mode(&value).ok_or_else(|| refuse("unknown ssl-mode"))?;
                }
                "ssl-ca" => url.ca = Some(PathBuf::from(&*value)),
                "ssl-cert" => certificate = Some(PathBuf::from(&*value)),
                "ssl-key" => key = Some(PathBuf::from(&*value)),
                name => return Err(refuse(&format!("unknown parameter {name:?}"))),
            }
        }
        url.identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(refuse("ssl-cert and ssl-key belong together")),
        };
        Ok(url)
    }

    /// The database that the URL names, if it names one.
    pub fn database(&self) -> Option<&str> {
        self.opts.db_name().filter(|name| !name.is_empty())
    }

    /// The same server and account with this database named, or none.
    pub fn in_database(&self, database: Option<&str>) -> ServerUrl {
        let opts = OptsBuilder::from_opts(self.opts.clone()).db_name(database).into();
        ServerUrl { opts, ..self.clone() }
    }

    /// Host and port.
    pub fn address(&self) -> (&str, u16) {
        (self.opts.ip_or_hostname(), self.opts.tcp_port())
    }

    /// The account's name; may be empty.
    pub fn user(&self) -> &str {
        self.opts.user().unwrap_or_default()
    }

    /// Its password.
    pub fn password(&self) -> Option<&str> {
        self.opts.pass()
    }

    /// The same account at another address, say of a router. Whom one talks to is not checked there.
    pub fn at(&self, host: &str, port: u16) -> ServerUrl {
        let opts = OptsBuilder::from_opts(self.opts.clone());
        let opts = opts.ip_or_hostname(host).tcp_port(port).into();
        ServerUrl { opts, ssl_mode: SslMode::Preferred, ca: None, identity: None }
    }

    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// The same without a client certificate: for logins that are not ours.
    #[must_use]
    pub fn without_identity(&self) -> Self {
        Self { identity: None, ..self.clone() }
    }

    pub(super) fn identity(&self) -> Option<(&Path, &Path)> {
        self.identity.as_ref().map(|(chain, key)| (chain.as_path(), key.as_path()))
    }

    /// The same with TLS where it is offered, whatever the certificate: to a proxy of our own.
    #[must_use]
    pub fn preferring_tls(&self) -> Self {
        Self { ssl_mode: SslMode::Preferred, ..self.clone() }
    }

    /// Whether whoever answers is known to be the server: its certificate is checked, or it is this host.
    pub fn is_verified(&self) -> bool {
        let (host, _) = self.address();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        is_here || self.ssl_mode >= SslMode::VerifyCa
    }

    /// How the connection is protected.
    pub fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// What the driver needs, with TLS or without; whether affected rows are those that were found.
    pub(super) fn opts(&self, tls: bool, found_rows: bool) -> Opts {
        let builder = OptsBuilder::from_opts(self.opts.clone()).client_found_rows(found_rows);
        // No default database: every name that we use has its schema.
        let builder = builder.db_name(None::<String>);
        builder.ssl_opts(tls.then(|| self.ssl_opts())).into()
    }

    fn ssl_opts(&self) -> SslOpts {
        let mut options = SslOpts::default()
            .with_danger_accept_invalid_certs(self.ssl_mode < SslMode::VerifyCa)
            .with_danger_skip_domain_validation(self.ssl_mode < SslMode::VerifyIdentity);
        if let Some(ca) = &self.ca {
            options =
                options.with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true);
        }
        let identity = self.identity.clone();
        options.with_client_identity(
            identity.map(|(chain, key)| ClientIdentity::new(chain.into(), key.into())),
        )
    }
}

impl PartialOrd for SslMode {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

fn ssl_mode(text: &str) -> Option<SslMode> {
    Some(match text.to_ascii_uppercase().as_str() {
        "DISABLED" => SslMode::Disabled,
        "PREFERRED" => SslMode::Preferred,
        "REQUIRED" => SslMode::Required,
        "VERIFY_CA" => SslMode::VerifyCa,
        "VERIFY_IDENTITY" => SslMode::VerifyIdentity,
        _ => return None,
    })
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.opts.user().unwrap_or_default();
        write!(f, "mysql://{user}@{}:{}", self.opts.ip_or_hostname(), self.opts.tcp_port())?;
        match self.database() {
            Some(database) => write!(f, "/{database}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url = ServerUrl::parse("mariadb://me:se%20cret@db.example:3307/shop?ssl-mode=required");
        let url = url.unwrap();
        assert_eq!(url.to_string(), "mysql://me@db.example:3307/shop");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!((url.database(), url.ssl_mode()), (Some("shop"), SslMode::Required));
        assert_eq!(url.opts.pass(), Some("se cret"));
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_without_repeating_it() {
        for text in [
            "postgres://u:secret@h/d",
            "mysql://u:secret@h/d?ssl-mode=secret",
            "mysql://u:secret@h/d?secret",
            "mysql://u:secret@h/d?ssl-cert=x",
            "mysql://u:secret@h:port/d",
        ] {
            let error = ServerUrl::parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
