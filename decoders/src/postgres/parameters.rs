//! From keywords and values to [`ConnInfo`]: which keywords there are, where gaps are filled from,
//! and what is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::conninfo::{
    ConnInfo, Host, HostAddress, Password, RootCertificate, SslFiles, TcpLiveness,
};
use super::dsn::{self, DsnError};
use super::options::{ChannelBinding, SslMode, SslNegotiation, TargetSessionAttrs, TlsVersion};

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

/// Reads the text, the environment and the defaults, in this order of precedence.
pub(super) fn read(
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
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
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
