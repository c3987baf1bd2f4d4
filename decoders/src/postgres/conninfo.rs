//! Where a database is and how to get in: libpq's connection parameters.
//!
//! Everything an operator's `psql` understands is read the same way here: URL or keyword form,
//! the `PG*` environment, the password file, and libpq's defaults (PostgreSQL manual, libpq,
//! "Parameter Key Words" and "Environment Variables"). A parameter that we cannot honour is
//! refused by name, never ignored, unless ignoring it is harmless.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::dsn::{self, DsnError};
use super::passfile;

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

/// Why connection parameters were refused. Never carries a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    #[error(transparent)]
    Syntax(#[from] DsnError),
    #[error("unknown connection parameter \"{keyword}\"{}", hint(.closest))]
    Unknown { keyword: String, closest: Option<&'static str> },
    #[error("connection parameter \"{keyword}\" is not supported: {reason}")]
    Unsupported { keyword: &'static str, reason: &'static str },
    #[error("invalid {keyword}: expected {expected}")]
    Invalid { keyword: &'static str, expected: &'static str },
    #[error(
        "{left} and {right} have different numbers of elements ({left_count} and {right_count})"
    )]
    Count { left: &'static str, right: &'static str, left_count: usize, right_count: usize },
    #[error("sslmode={sslmode} is too weak with {with}; use sslmode={needed}")]
    WeakSslMode { sslmode: SslMode, with: &'static str, needed: &'static str },
    #[error("no user name given and the operating system's could not be found out; set user=")]
    NoUser,
}

fn hint(closest: &Option<&'static str>) -> String {
    closest.map_or_else(String::new, |keyword| format!(" (did you mean \"{keyword}\"?)"))
}

macro_rules! keyword_enum {
    ($(#[$meta:meta])* $name:ident, $keyword:literal, $expected:literal, { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// The value as libpq spells it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ConnInfoError;
            fn from_str(text: &str) -> Result<$name, ConnInfoError> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(ConnInfoError::Invalid { keyword: $keyword, expected: $expected }),
                }
            }
        }
    };
}

keyword_enum! {
    /// How much TLS is asked for, weakest first. Ignored on Unix sockets, as in libpq.
    SslMode, "sslmode", "disable, allow, prefer, require, verify-ca or verify-full", {
        /// Never.
        Disable = "disable",
        /// Plain first; TLS if the server refuses that.
        Allow = "allow",
        /// TLS first; plain if the server cannot or refuses.
        Prefer = "prefer",
        /// TLS. The chain is checked only when a root certificate file exists.
        Require = "require",
        /// TLS and a chain to a trusted root.
        VerifyCa = "verify-ca",
        /// TLS, chain, and the host's name in the certificate.
        VerifyFull = "verify-full",
    }
}

keyword_enum! {
    /// Whether SCRAM must be tied to the TLS session.
    ChannelBinding, "channel_binding", "disable, prefer or require", {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
    }
}

keyword_enum! {
    /// How TLS is started.
    SslNegotiation, "sslnegotiation", "postgres or direct", {
        Postgres = "postgres",
        /// PostgreSQL 17+: the TLS handshake without a preceding request.
        Direct = "direct",
    }
}

keyword_enum! {
    /// Which servers of several will do.
    TargetSessionAttrs, "target_session_attrs",
    "any, read-write, read-only, primary, standby or prefer-standby", {
        Any = "any",
        ReadWrite = "read-write",
        ReadOnly = "read-only",
        Primary = "primary",
        Standby = "standby",
        PreferStandby = "prefer-standby",
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

keyword_enum! {
    /// Protocol versions that rustls speaks.
    TlsVersion, "ssl_min_protocol_version", "TLSv1.2 or TLSv1.3", {
        Tls12 = "TLSv1.2",
        Tls13 = "TLSv1.3",
    }
}

/// Everything needed to reach one database.
///
/// `Display` (= [`ConnInfo::redacted`]) and `Debug` hide the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    hosts: Vec<Host>,
    user: String,
    dbname: String,
    password: Option<Password>,
    passfile: Option<PathBuf>,
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

/// Keywords that are understood, or refused with a reason; the closest is offered for a typo.
const KEYWORDS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "passfile",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslsni",
    "sslcertmode",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "fallback_application_name",
    "options",
    "target_session_attrs",
    "load_balance_hosts",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "client_encoding",
    "gssencmode",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "sslcompression",
    "min_protocol_version",
    "max_protocol_version",
    "service",
    "servicefile",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "requirepeer",
    "require_auth",
    "replication",
];

/// Environment variables and the keywords they stand for.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLSNI", "sslsni"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSERVICE", "service"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
];

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
        let mut values: BTreeMap<&'static str, String> = BTreeMap::new();
        for (keyword, value) in dsn::split(text)? {
            let known = KEYWORDS
                .iter()
                .find(|known| **known == keyword)
                .ok_or_else(|| ConnInfoError::Unknown { closest: closest(&keyword), keyword })?;
            values.insert(known, value);
        }
        // An empty value counts as not given, in the string as in the environment.
        values.retain(|_, value| !value.is_empty());
        for (variable, keyword) in ENVIRONMENT {
            if !values.contains_key(keyword)
                && let Some(value) = environment(variable).filter(|value| !value.is_empty())
            {
                values.insert(keyword, value);
            }
        }
        let home = environment("HOME").map(PathBuf::from);
        from_values(&values, home.as_deref())
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

fn from_values(
    values: &BTreeMap<&'static str, String>,
    home: Option<&Path>,
) -> Result<ConnInfo, ConnInfoError> {
    let get = |keyword: &str| values.get(keyword).map(String::as_str);
    refuse_unsupported(&get)?;

    let account = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let user = match get("user") {
        Some(user) => user.to_owned(),
        None => account().ok_or(ConnInfoError::NoUser)?.name,
    };
    let home = home.map(Path::to_owned).or_else(|| account().map(|account| account.dir));
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let existing = |name: &str| in_home(name).filter(|path| path.exists());

    let root_certificate = match get("sslrootcert") {
        None => RootCertificate::Default,
        Some("system") => RootCertificate::System,
        Some(path) => RootCertificate::File(path.into()),
    };
    let root_certificate = match (root_certificate, in_home(".postgresql/root.crt")) {
        (RootCertificate::Default, Some(path)) if path.exists() => RootCertificate::File(path),
        (root_certificate, _) => root_certificate,
    };
    let sslnegotiation = parsed(get("sslnegotiation"), SslNegotiation::Postgres)?;
    // sslrootcert=system makes verify-full the default and anything weaker an error.
    let system = root_certificate == RootCertificate::System;
    let default_mode = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let sslmode = parsed(get("sslmode"), default_mode)?;
    let weak = |with, needed| ConnInfoError::WeakSslMode { sslmode, with, needed };
    if system && sslmode != SslMode::VerifyFull {
        return Err(weak("sslrootcert=system", "verify-full"));
    }
    if sslnegotiation == SslNegotiation::Direct && sslmode < SslMode::Require {
        return Err(weak("sslnegotiation=direct", "require"));
    }
    let send_certificate = match get("sslcertmode") {
        None | Some("allow") => true,
        Some("disable") => false,
        Some(_) => {
            return Err(ConnInfoError::Invalid {
                keyword: "sslcertmode",
                expected: "allow or disable",
            });
        }
    };
    let own_file = |keyword, default| {
        get(keyword).map(PathBuf::from).or_else(|| existing(default)).filter(|_| send_certificate)
    };

    let defaults = TcpLiveness::default();
    let seconds = |keyword, default: Duration| {
        Ok::<_, ConnInfoError>(match number(keyword, get(keyword))? {
            None | Some(0) => default,
            Some(count) => Duration::from_secs(count),
        })
    };
    let tcp = TcpLiveness {
        keepalives: number("keepalives", get("keepalives"))?.unwrap_or(1) != 0,
        keepalive_idle: seconds("keepalives_idle", defaults.keepalive_idle)?,
        keepalive_interval: seconds("keepalives_interval", defaults.keepalive_interval)?,
        keepalive_count: match number("keepalives_count", get("keepalives_count"))? {
            None | Some(0) => defaults.keepalive_count,
            Some(count) => u32::try_from(count).unwrap_or(u32::MAX),
        },
        user_timeout: match number("tcp_user_timeout", get("tcp_user_timeout"))? {
            None => defaults.user_timeout,
            Some(0) => None,
            Some(milliseconds) => Some(Duration::from_millis(milliseconds)),
        },
    };
    let connect_timeout = match number("connect_timeout", get("connect_timeout"))? {
        None => Some(Duration::from_secs(10)),
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
    };

    Ok(ConnInfo {
        hosts: hosts(get("host"), get("hostaddr"), get("port"))?,
        dbname: get("dbname").unwrap_or(&user).to_owned(),
        user,
        password: get("password").map(Password::new),
        passfile: get("passfile").map(PathBuf::from).or_else(|| in_home(".pgpass")),
        sslmode,
        ssl: SslFiles {
            root_certificate,
            certificate: own_file("sslcert", ".postgresql/postgresql.crt"),
            key: own_file("sslkey", ".postgresql/postgresql.key"),
            send_server_name: get("sslsni") != Some("0"),
            min_version: version("ssl_min_protocol_version", get("ssl_min_protocol_version"))?,
            max_version: version("ssl_max_protocol_version", get("ssl_max_protocol_version"))?,
        },
        sslnegotiation,
        channel_binding: parsed(get("channel_binding"), ChannelBinding::Prefer)?,
        target_session_attrs: parsed(get("target_session_attrs"), TargetSessionAttrs::Any)?,
        connect_timeout,
        application_name: get("application_name")
            .or_else(|| get("fallback_application_name"))
            .map(str::to_owned),
        options: get("options").map(str::to_owned),
        tcp,
    })
}

/// Parameters that change who is trusted must not be dropped silently.
fn refuse_unsupported<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Result<(), ConnInfoError> {
    let refused: &[(&'static str, &'static str)] = &[
        ("service", "write the parameters out instead of naming a service file entry"),
        ("servicefile", "write the parameters out instead of naming a service file"),
        ("sslpassword", "use a client key without a passphrase, readable by its owner only"),
        ("sslcrl", "certificate revocation lists are not checked"),
        ("sslcrldir", "certificate revocation lists are not checked"),
        ("requirepeer", "the server's process owner is not checked"),
        ("require_auth", "use channel_binding=require or a verifying sslmode"),
        ("replication", "the program chooses the connection's mode itself"),
    ];
    for (keyword, reason) in refused {
        if get(keyword).is_some() {
            return Err(ConnInfoError::Unsupported { keyword, reason });
        }
    }
    match get("gssencmode") {
        None | Some("disable" | "prefer") => {}
        Some(_) => {
            return Err(ConnInfoError::Unsupported {
                keyword: "gssencmode",
                reason: "there is no GSSAPI encryption; use disable, or TLS",
            });
        }
    }
    match get("load_balance_hosts") {
        None | Some("disable") => Ok(()),
        Some(_) => Err(ConnInfoError::Unsupported {
            keyword: "load_balance_hosts",
            reason: "hosts are tried in the order given; use disable",
        }),
    }
}

fn parsed<T: FromStr<Err = ConnInfoError>>(
    value: Option<&str>,
    default: T,
) -> Result<T, ConnInfoError> {
    value.map_or(Ok(default), str::parse)
}

/// TLS 1.0 and 1.1 as a lower bound are met by anything that rustls agrees to.
fn version(
    keyword: &'static str,
    value: Option<&str>,
) -> Result<Option<TlsVersion>, ConnInfoError> {
    match value {
        None => Ok(None),
        Some("TLSv1" | "TLSv1.1") if keyword == "ssl_min_protocol_version" => Ok(None),
        Some(value) => value
            .parse()
            .map(Some)
            .map_err(|_| ConnInfoError::Invalid { keyword, expected: "TLSv1.2 or TLSv1.3" }),
    }
}

fn number(keyword: &'static str, value: Option<&str>) -> Result<Option<u64>, ConnInfoError> {
    value
        .map(|text| text.trim().parse::<i64>().map(|number| u64::try_from(number).unwrap_or(0)))
        .transpose()
        .map_err(|_| ConnInfoError::Invalid { keyword, expected: "a whole number" })
}

fn hosts(
    names: Option<&str>,
    addresses: Option<&str>,
    ports: Option<&str>,
) -> Result<Vec<Host>, ConnInfoError> {
    let split = |list: Option<&str>| -> Vec<String> {
        list.map(|list| list.split(',').map(|item| item.trim().to_owned()).collect())
            .unwrap_or_default()
    };
    let (names, addresses, ports) = (split(names), split(addresses), split(ports));
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(ConnInfoError::Count {
            left: "host",
            right: "hostaddr",
            left_count: names.len(),
            right_count: addresses.len(),
        });
    }
    let count = names.len().max(addresses.len()).max(1);
    if ports.len() > 1 && ports.len() != count {
        return Err(ConnInfoError::Count {
            left: "port",
            right: "host",
            left_count: ports.len(),
            right_count: count,
        });
    }
    let item = |list: &[String], at: usize| list.get(at).filter(|text| !text.is_empty()).cloned();
    (0..count)
        .map(|at| {
            let port = match item(&ports, if ports.len() == 1 { 0 } else { at }) {
                None => 5432,
                Some(text) => match text.parse::<u16>() {
                    Ok(port) if port > 0 => port,
                    _ => {
                        return Err(ConnInfoError::Invalid {
                            keyword: "port",
                            expected: "a number from 1 to 65535",
                        });
                    }
                },
            };
            let name = item(&names, at);
            let address = match (item(&addresses, at), name) {
                (Some(address), name) => HostAddress::Address {
                    address: address.parse().map_err(|_| ConnInfoError::Invalid {
                        keyword: "hostaddr",
                        expected: "an IPv4 or IPv6 address",
                    })?,
                    name,
                },
                (None, Some(name)) if name.starts_with('/') => HostAddress::Socket(name.into()),
                (None, Some(name)) if name.starts_with('@') => {
                    return Err(ConnInfoError::Unsupported {
                        keyword: "host",
                        reason: "sockets in the abstract namespace are not supported",
                    });
                }
                (None, Some(name)) => HostAddress::Name(name),
                (None, None) => HostAddress::Socket(default_socket_directory()),
            };
            Ok(Host { address, port })
        })
        .collect()
}

/// Debian's and the PGDG's libpq look in `/var/run/postgresql`, an upstream build in `/tmp`.
fn default_socket_directory() -> PathBuf {
    let packaged = Path::new("/var/run/postgresql");
    if packaged.is_dir() { packaged.into() } else { "/tmp".into() }
}

/// The known keyword with the smallest edit distance, if it is near enough to be a typo.
fn closest(keyword: &str) -> Option<&'static str> {
    KEYWORDS
        .iter()
        .map(|known| (edit_distance(keyword, known), *known))
        .min()
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .map(|(_, known)| known)
}

fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[right.len()]
}
