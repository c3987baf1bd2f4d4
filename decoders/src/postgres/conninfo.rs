//! Where a database is and how to get in: libpq's connection parameters.
//!
//! Everything an operator's `psql` understands is read the same way here: URL or keyword form,
//! the `PG*` environment, the password file, and libpq's defaults (PostgreSQL manual, libpq,
//! "Parameter Key Words" and "Environment Variables"). A parameter that we cannot honour is
//! refused by name, never ignored, unless ignoring it is harmless.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::parameters;
use super::passfile;

pub use super::dsn::DsnError;
pub use super::options::{ChannelBinding, SslMode, SslNegotiation, TargetSessionAttrs, TlsVersion};
pub use super::parameters::ConnInfoError;

/// A secret that neither `Debug` nor any error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(secret: impl Into<String>) -> Password {
        Password(secret.into())
    }

    /// The secret itself, for the authentication exchange or a child's environment.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub address: HostAddress,
    pub port: u16,
}

/// The form of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAddress {
    /// Directory of a Unix socket.
    Socket(PathBuf),
    /// A name (or address text) to resolve and to find in the certificate.
    Name(String),
    /// `hostaddr`: where to connect, and the name that the certificate must have.
    Address { address: IpAddr, name: Option<String> },
}

impl Host {
    /// The file of a Unix socket.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            HostAddress::Socket(directory) => {
                Some(directory.join(format!(".s.PGSQL.{}", self.port)))
            }
            HostAddress::Name(_) | HostAddress::Address { .. } => None,
        }
    }

    /// Whether it is this machine: a socket, or an address of loopback.
    pub fn is_here(&self) -> bool {
        match &self.address {
            HostAddress::Socket(_) => true,
            HostAddress::Name(name) => {
                name == "localhost"
                    || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            HostAddress::Address { address, .. } => address.is_loopback(),
        }
    }

    /// Host name for the certificate and SNI.
    pub fn name(&self) -> Option<&str> {
        match &self.address {
            HostAddress::Socket(_) => None,
            HostAddress::Name(name) => Some(name),
            HostAddress::Address { name, .. } => name.as_deref(),
        }
    }

    /// Text for the `host` keyword, `PGHOST` and password files.
    fn text(&self) -> String {
        match &self.address {
            HostAddress::Socket(directory) => directory.display().to_string(),
            HostAddress::Name(name) => name.clone(),
            HostAddress::Address { address, name } => {
                name.clone().unwrap_or_else(|| address.to_string())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            HostAddress::Socket(directory) => {
                write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port)
            }
            HostAddress::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            HostAddress::Name(name) => write!(f, "{name}:{}", self.port),
            HostAddress::Address { address, name: None } => write!(f, "{address}:{}", self.port),
            HostAddress::Address { address, name: Some(name) } => {
                write!(f, "{name} ({address}):{}", self.port)
            }
        }
    }
}

/// When a silent TCP peer is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpLiveness {
    pub keepalives: bool,
    pub keepalive_idle: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_count: u32,
    /// Unacknowledged data or probes for this long end the connection; `None`: the system's (~15 min).
    pub user_timeout: Option<Duration>,
}

impl Default for TcpLiveness {
    /// Notices a vanished peer within about 15-20 s even while we only wait. libpq's defaults
    /// leave that to the kernel: two hours.
    fn default() -> TcpLiveness {
        TcpLiveness {
            keepalives: true,
            keepalive_idle: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 3,
            user_timeout: Some(Duration::from_secs(15)),
        }
    }
}

/// Files and rules for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SslFiles {
    pub root_certificate: RootCertificate,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub send_server_name: bool,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
}

/// Where trusted roots come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificate {
    /// `~/.postgresql/root.crt`, if it exists.
    Default,
    File(PathBuf),
    /// `sslrootcert=system`
    System,
}

/// Everything needed to reach one database.
///
/// `Display` (= [`ConnInfo::redacted`]) and `Debug` hide the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) dbname: String,
    pub(super) password: Option<Password>,
    pub(super) passfile: Option<PathBuf>,
    pub sslmode: SslMode,
    pub ssl: SslFiles,
    pub sslnegotiation: SslNegotiation,
    pub channel_binding: ChannelBinding,
    pub target_session_attrs: TargetSessionAttrs,
    /// Per address, for connecting, TLS and authentication together; `None` waits for ever.
    pub connect_timeout: Option<Duration>,
    pub application_name: Option<String>,
    /// Command-line options for the server process (`-c name=value`).
    pub options: Option<String>,
    pub tcp: TcpLiveness,
}

impl ConnInfo {
    /// Reads a URL or keyword string, filling gaps from the process environment and defaults.
    pub fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
        ConnInfo::parse_with(text, |name| std::env::var(name).ok())
    }

    /// The same with an environment of the caller's choice (also asked for `HOME`).
    pub fn parse_with(
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<ConnInfo, ConnInfoError> {
        parameters::read(text, environment)
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// The same server and rules, another database.
    pub fn with_dbname(&self, dbname: &str) -> ConnInfo {
        ConnInfo { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// The same without a client certificate: for logins that are not ours.
    #[must_use]
    pub fn without_certificate(&self) -> ConnInfo {
        let mut info = self.clone();
        info.ssl.certificate = None;
        info.ssl.key = None;
        info
    }

    /// The same place as another user; the password is looked up anew unless given.
    pub fn with_user(&self, user: &str, password: Option<Password>) -> ConnInfo {
        ConnInfo { user: user.to_owned(), password, ..self.clone() }
    }

    /// The same parameters with only this host.
    pub fn with_host(&self, host: Host) -> ConnInfo {
        ConnInfo { hosts: vec![host], ..self.clone() }
    }

    /// The password for one of the hosts: given, from `PGPASSWORD`, or from the password file.
    pub fn password_for(&self, host: &Host) -> Option<Password> {
        if let Some(password) = &self.password {
            return Some(password.clone());
        }
        let path = self.passfile.as_deref()?;
        let text = host.text();
        let target = passfile::Target {
            host: &text,
            port: host.port,
            dbname: &self.dbname,
            user: &self.user,
        };
        match passfile::lookup(path, target) {
            Ok(password) => password.map(Password),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "password file could not be read");
                None
            }
        }
    }

    /// A URL without the password, for logs, reports and the API.
    pub fn redacted(&self) -> String {
        use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
        const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
        let encode = |text: &str| utf8_percent_encode(text, KEEP).to_string();
        let hosts: Vec<String> = self
            .hosts
            .iter()
            .map(|host| match &host.address {
                HostAddress::Name(name) if name.contains(':') => format!("[{name}]:{}", host.port),
                _ => format!("{}:{}", encode(&host.text()), host.port),
            })
            .collect();
        let secret = if self.password.is_some() { ":***" } else { "" };
        format!(
            "postgresql://{}{secret}@{}/{}?sslmode={}",
            encode(&self.user),
            hosts.join(","),
            encode(&self.dbname),
            self.sslmode
        )
    }

    /// Whether both name the same host, port and database by their text. A guard against a
    /// pasted URL only: two names may still lead to one server, which the system identifier tells.
    pub fn same_database(&self, other: &ConnInfo) -> bool {
        self.dbname == other.dbname && self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// Environment for a libpq child process (`pg_dump`), which keeps the secret out of its argv.
    /// `host` is the one that was reached.
    pub fn libpq_environment(&self, host: &Host) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("PGHOST", host.text()),
            ("PGPORT", host.port.to_string()),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.dbname.clone()),
            ("PGSSLMODE", self.sslmode.to_string()),
            ("PGCHANNELBINDING", self.channel_binding.to_string()),
        ];
        if let HostAddress::Address { address, .. } = &host.address {
            environment.push(("PGHOSTADDR", address.to_string()));
        }
        if let Some(password) = self.password_for(host) {
            environment.push(("PGPASSWORD", password.0));
        }
        if let Some(timeout) = self.connect_timeout {
            environment.push(("PGCONNECT_TIMEOUT", timeout.as_secs().max(2).to_string()));
        }
        if let Some(options) = &self.options {
            environment.push(("PGOPTIONS", options.clone()));
        }
        match &self.ssl.root_certificate {
            RootCertificate::Default => {}
            RootCertificate::File(path) => {
                environment.push(("PGSSLROOTCERT", path.display().to_string()));
            }
            RootCertificate::System => environment.push(("PGSSLROOTCERT", "system".to_owned())),
        }
        for (variable, path) in [("PGSSLCERT", &self.ssl.certificate), ("PGSSLKEY", &self.ssl.key)]
        {
            if let Some(path) = path {
                environment.push((variable, path.display().to_string()));
            }
        }
        environment
    }
}

impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl FromStr for ConnInfo {
    type Err = ConnInfoError;
    fn from_str(text: &str) -> Result<ConnInfo, ConnInfoError> {
        ConnInfo::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
        ConnInfo::parse_with(text, |name| (name == "HOME").then(|| "/nonexistent".to_owned()))
    }

    fn good(text: &str) -> ConnInfo {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> String {
        match parse(text) {
            Ok(info) => panic!("{text}: {info:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn url_and_keywords_mean_the_same() {
        let url = good("postgres://u:p%40w@h1:6000,[::1]/d?sslmode=require&connect_timeout=3");
        let keywords = good(
            "host=h1,::1 port=6000, user=u password=p@w dbname=d sslmode=require connect_timeout=3",
        );
        assert_eq!(url, keywords);
        assert_eq!(url.hosts()[1].to_string(), "[::1]:5432");
        assert_eq!(url.connect_timeout, Some(Duration::from_secs(3)));
    }

    #[test]
    fn the_password_is_shown_nowhere() {
        let info = good("postgres://u:topsecret@h/d");
        for shown in [info.to_string(), format!("{info:?}"), info.redacted()] {
            assert!(!shown.contains("topsecret"), "{shown}");
        }
        assert_eq!(info.to_string(), "postgresql://u:***@h:5432/d?sslmode=prefer");
        for broken in [
            "host=h password=topsecret port=topsecret",
            "host=h password=topsecret sslmode=topsecret",
            "password=topsecret topsecret",
            "password='topsecret",
            "postgres://u:topsecret%@h/d",
            "postgres://u:top/secret@h/d",
        ] {
            let error = refused(broken);
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn hosts_take_each_form() {
        let socket = good("postgres://%2Frun%2Fpg:7000/d?user=u");
        assert_eq!(socket.hosts()[0].socket_path(), Some("/run/pg/.s.PGSQL.7000".into()));
        let query = good("postgres:///d?host=/run/pg&user=u");
        assert_eq!(query.hosts()[0].socket_path(), Some("/run/pg/.s.PGSQL.5432".into()));
        let address = good("host=db.test hostaddr=10.0.0.1 user=u");
        assert_eq!(address.hosts()[0].name(), Some("db.test"));
        assert_eq!(address.hosts()[0].to_string(), "db.test (10.0.0.1):5432");
        assert!(good("user=u").hosts()[0].socket_path().is_some());
        assert_eq!(good("user=u host=h").dbname(), "u");
        refused("host=a,b,c port=1,2 user=u");
        refused("host=a,b hostaddr=10.0.0.1 user=u");
        refused("hostaddr=db.test user=u");
        refused("host=h port=0 user=u");
        refused("host=h port=65536 user=u");
    }

    #[test]
    fn unknown_and_unsupported_keywords_are_named() {
        assert_eq!(
            refused("hots=h"),
            "unknown connection parameter \"hots\" (did you mean \"host\"?)"
        );
        assert_eq!(
            refused("postgres://h/d?ssl_mode=require"),
            "unknown connection parameter \"ssl_mode\" (did you mean \"sslmode\"?)"
        );
        assert_eq!(refused("zzzzzz=1"), "unknown connection parameter \"zzzzzz\"");
        for keyword in ["service", "sslcrl", "requirepeer", "require_auth", "replication"] {
            let error = refused(&format!("host=h user=u {keyword}=x"));
            assert!(error.contains(keyword) && error.contains("not supported"), "{error}");
        }
        refused("host=h user=u gssencmode=require");
        good("host=h user=u gssencmode=prefer krbsrvname=x client_encoding=LATIN1");
    }

    #[test]
    fn enumerations_name_their_values_and_weak_combinations_are_refused() {
        assert_eq!(
            refused("host=h user=u sslmode=on"),
            "invalid sslmode: expected disable, allow, prefer, require, verify-ca or verify-full"
        );
        assert_eq!(good("host=h user=u sslrootcert=system").sslmode, SslMode::VerifyFull);
        refused("host=h user=u sslrootcert=system sslmode=require");
        refused("host=h user=u sslnegotiation=direct");
        good("host=h user=u sslnegotiation=direct sslmode=require");
        assert_eq!(good("postgres://u@h/?ssl=true").sslmode, SslMode::Require);
        assert_eq!(good("host=h user=u connect_timeout=0").connect_timeout, None);
        assert_eq!(good("host=h user=u tcp_user_timeout=0").tcp.user_timeout, None);
        refused("host=h user=u connect_timeout=soon");
    }

    #[test]
    fn the_environment_fills_gaps_only() {
        let environment = |name: &str| {
            let value = match name {
                "HOME" => "/nonexistent",
                "PGHOST" => "from-env",
                "PGUSER" => "env-user",
                "PGPASSWORD" => "env-password",
                "PGSSLMODE" => "disable",
                "PGPORT" => "",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let info = ConnInfo::parse_with("user=given", environment).unwrap();
        assert_eq!(info.user(), "given");
        assert_eq!(info.hosts()[0].to_string(), "from-env:5432");
        assert_eq!(info.sslmode, SslMode::Disable);
        let host = info.hosts()[0].clone();
        assert_eq!(info.password_for(&host), Some(Password::new("env-password")));
        let child = info.libpq_environment(&host);
        assert!(child.contains(&("PGPASSWORD", "env-password".to_owned())));
        assert!(child.contains(&("PGSSLMODE", "disable".to_owned())));
    }

    #[test]
    fn same_database_compares_text() {
        let one = good("host=a,b user=u dbname=d");
        assert!(one.same_database(&good("postgres://x@b/d")));
        assert!(!one.same_database(&good("postgres://x@b/e")));
        assert!(!one.same_database(&good("postgres://x@b:1/d")));
    }
}
