//! From parameters to an authenticated connection: which hosts, which addresses, TLS or not, and
//! what comes after a failure. Shared by SQL sessions and replication connections.

use std::future::Future;

use super::conninfo::{
    ConnInfo, Host, HostAddress, Password, SslMode, SslNegotiation, TargetSessionAttrs,
};
use super::error::{AuthError, ConnectError, ProtocolError, ServerError, TlsError};
use super::tls::TlsSettings;
use super::transport::{Address, Transport, connect_tcp, connect_unix, request_tls};

/// One address of one host, with what is needed there.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub host: Host,
    pub address: Address,
    pub password: Option<Password>,
}

impl Endpoint {
    /// For messages.
    pub fn name(&self) -> String {
        self.host.to_string()
    }
}

/// What a connection turned out to lead to, as far as `target_session_attrs` asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerState {
    pub in_recovery: bool,
    pub read_only: bool,
}

/// Columns as [`ServerState`]. `default_transaction_read_only` is what libpq looks at, too.
pub(super) const STATE_SQL: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
     pg_catalog.current_setting('default_transaction_read_only') = 'on'";

/// The protocol that begins once bytes flow.
pub(super) trait Startup {
    type Output: Send;

    /// Sends the startup packet, authenticates, and waits until the server is ready.
    fn start(
        &self,
        transport: Transport,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<Self::Output, ConnectError>> + Send;

    /// Asks the server for its state; only called if the parameters care.
    fn state(
        &self,
        connection: &mut Self::Output,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<ServerState, ConnectError>> + Send;
}

/// Tries hosts and addresses in order (PostgreSQL manual, libpq, "Specifying Multiple Hosts").
///
/// A refused login ends the search, as in libpq: the other hosts would refuse it too.
pub(super) async fn establish<S: Startup + Sync>(
    info: &ConnInfo,
    startup: &S,
) -> Result<S::Output, ConnectError> {
    let wanted = info.target_session_attrs;
    // prefer-standby: first round standbys only, then anything.
    let rounds: &[TargetSessionAttrs] = match wanted {
        TargetSessionAttrs::PreferStandby => {
            &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any]
        }
        _ => &[wanted],
    };
    let mut errors = Vec::new();
    for round in rounds {
        for host in info.hosts() {
            let endpoints = match resolve(info, host).await {
                Ok(endpoints) => endpoints,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            for endpoint in endpoints {
                match attempt(info, startup, &endpoint, *round).await {
                    Ok(connection) => return Ok(connection),
                    Err(error @ ConnectError::Authentication { .. }) => return Err(error),
                    Err(error) => errors.push(error),
                }
            }
        }
    }
    match errors.len() {
        1 => Err(errors.remove(0)),
        _ => Err(ConnectError::Hosts(errors)),
    }
}

/// The first host that can be connected to, TLS as `sslmode` says; nothing is spoken.
pub(super) async fn open_first(info: &ConnInfo) -> Result<(Transport, Host), ConnectError> {
    let mut errors = Vec::new();
    for host in info.hosts() {
        let endpoints = match resolve(info, host).await {
            Ok(endpoints) => endpoints,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        for endpoint in endpoints {
            let (first, other) = tls_tries(info, &endpoint);
            let opening = async {
                match (open(info, &endpoint, first).await, other) {
                    (Err(error), Some(other)) if may_differ(&error) => {
                        open(info, &endpoint, other).await.map_err(|_| error)
                    }
                    (first, _) => first,
                }
            };
            match within(info, host, opening).await {
                Ok(transport) => return Ok((transport, host.clone())),
                Err(error) => errors.push(error),
            }
        }
    }
    match errors.len() {
        1 => Err(errors.remove(0)),
        _ => Err(ConnectError::Hosts(errors)),
    }
}

async fn resolve(info: &ConnInfo, host: &Host) -> Result<Vec<Endpoint>, ConnectError> {
    let password = info.password_for(host);
    let endpoint = |address| Endpoint { host: host.clone(), address, password: password.clone() };
    if let Some(path) = host.socket_path() {
        return Ok(vec![endpoint(Address::Unix(path))]);
    }
    let name = match &host.address {
        HostAddress::Address { address, .. } => {
            return Ok(vec![endpoint(Address::Tcp((*address, host.port).into()))]);
        }
        HostAddress::Name(name) => name,
        HostAddress::Socket(_) => return Ok(Vec::new()),
    };
    let failed = |source| ConnectError::Resolve { host: name.clone(), source };
    let lookup = tokio::net::lookup_host((name.as_str(), host.port));
    let addresses: Vec<_> = within(info, host, async { lookup.await.map_err(failed) })
        .await?
        .map(|address| endpoint(Address::Tcp(address)))
        .collect();
    if addresses.is_empty() {
        return Err(failed(std::io::Error::from(std::io::ErrorKind::NotFound)));
    }
    Ok(addresses)
}

/// Applies `connect_timeout` to one step towards one address.
async fn within<T>(
    info: &ConnInfo,
    host: &Host,
    future: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match info.connect_timeout {
        None => future.await,
        Some(after) => match tokio::time::timeout(after, future).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { host: host.to_string(), after }),
        },
    }
}

/// How one try treats TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsUse {
    Never,
    /// Take a "no" from the server for an answer.
    IfOffered,
    Always,
}

/// The first try and, where `sslmode` allows it, another.
fn tls_tries(info: &ConnInfo, endpoint: &Endpoint) -> (TlsUse, Option<TlsUse>) {
    match (&endpoint.address, info.sslmode) {
        (Address::Unix(_), _) | (_, SslMode::Disable) => (TlsUse::Never, None),
        (_, SslMode::Allow) => (TlsUse::Never, Some(TlsUse::Always)),
        (_, SslMode::Prefer) => (TlsUse::IfOffered, Some(TlsUse::Never)),
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => (TlsUse::Always, None),
    }
}

/// One address: the TLS tries that `sslmode` allows, then the check of the server's state.
async fn attempt<S: Startup + Sync>(
    info: &ConnInfo,
    startup: &S,
    endpoint: &Endpoint,
    wanted: TargetSessionAttrs,
) -> Result<S::Output, ConnectError> {
    let tries = tls_tries(info, endpoint);
    within(info, &endpoint.host, async {
        let first = try_once(info, startup, endpoint, tries.0).await;
        let mut connection = match (first, tries.1) {
            (Err(error), Some(other)) if may_differ(&error) => {
                match try_once(info, startup, endpoint, other).await {
                    Ok(connection) => connection,
                    // Of two refusals the wrong password says most; otherwise the first, because
                    // the second try was only a way around it.
                    Err(second) if is_wrong_password(&second) => return Err(second),
                    Err(_) => return Err(error),
                }
            }
            (first, _) => first?,
        };
        check_state(startup, &mut connection, endpoint, wanted).await?;
        Ok(connection)
    })
    .await
}

/// Whether the other kind of connection could fare better: `pg_hba.conf` tells them apart
/// (28000), and a failed handshake concerns TLS only. A wrong password stays wrong, and a second
/// try would count towards a lock-out.
fn may_differ(error: &ConnectError) -> bool {
    match error {
        ConnectError::Tls { .. } => true,
        ConnectError::Authentication { reason: AuthError::Refused(refusal), .. } => {
            refusal.sqlstate == "28000"
        }
        _ => false,
    }
}

fn is_wrong_password(error: &ConnectError) -> bool {
    error.server_error().is_some_and(|refusal| refusal.sqlstate == "28P01")
}

async fn try_once<S: Startup + Sync>(
    info: &ConnInfo,
    startup: &S,
    endpoint: &Endpoint,
    tls: TlsUse,
) -> Result<S::Output, ConnectError> {
    let transport = open(info, endpoint, tls).await?;
    startup.start(transport, endpoint).await
}

/// Connects and, if so decided, brings TLS up.
pub(super) async fn open(
    info: &ConnInfo,
    endpoint: &Endpoint,
    tls: TlsUse,
) -> Result<Transport, ConnectError> {
    let io = |source| ConnectError::Io { host: endpoint.name(), source };
    let failed = |source| ConnectError::Tls { host: endpoint.name(), source };
    let address = match &endpoint.address {
        Address::Unix(path) => {
            return connect_unix(path).await.map(Transport::Unix).map_err(io);
        }
        Address::Tcp(address) => *address,
    };
    if tls == TlsUse::Never {
        let stream = connect_tcp(address, &info.tcp).await.map_err(io)?;
        return Ok(Transport::Tcp(stream));
    }
    let settings = TlsSettings::new(info, &endpoint.host).map_err(failed)?;
    let mut stream = connect_tcp(address, &info.tcp).await.map_err(io)?;
    if info.sslnegotiation == SslNegotiation::Postgres {
        match (request_tls(&mut stream).await.map_err(io)?, tls) {
            (b'S', _) => {}
            (b'N', TlsUse::IfOffered) => return Ok(Transport::Tcp(stream)),
            (b'N', _) => return Err(failed(TlsError::NotOffered(info.sslmode.as_str()))),
            // An ErrorResponse this early comes from a server that cannot even fork, and nothing
            // vouches for its text (CVE-2024-10977).
            (b'E', _) => {
                return Err(io(std::io::Error::new(
                    std::io::ErrorKind::ConnectionRefused,
                    "the server answered the TLS request with an error",
                )));
            }
            (other, _) => {
                return Err(ConnectError::Protocol {
                    host: endpoint.name(),
                    source: ProtocolError::TlsAnswer(other),
                });
            }
        }
    }
    settings.handshake(stream).await.map_err(failed)
}

async fn check_state<S: Startup + Sync>(
    startup: &S,
    connection: &mut S::Output,
    endpoint: &Endpoint,
    wanted: TargetSessionAttrs,
) -> Result<(), ConnectError> {
    if wanted == TargetSessionAttrs::Any {
        return Ok(());
    }
    let state = startup.state(connection, endpoint).await?;
    let fits = match wanted {
        TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => true,
        TargetSessionAttrs::ReadWrite => !state.in_recovery && !state.read_only,
        TargetSessionAttrs::ReadOnly => state.in_recovery || state.read_only,
        TargetSessionAttrs::Primary => !state.in_recovery,
        TargetSessionAttrs::Standby => state.in_recovery,
    };
    if fits {
        return Ok(());
    }
    Err(ConnectError::Attributes { host: endpoint.name(), wanted: wanted.as_str() })
}

/// Sorts a server's refusal during startup.
pub(super) fn refused(info: &ConnInfo, endpoint: &Endpoint, error: ServerError) -> ConnectError {
    if error.is_authentication() {
        ConnectError::Authentication {
            user: info.user().to_owned(),
            host: endpoint.name(),
            reason: AuthError::Refused(error),
        }
    } else {
        ConnectError::Server { host: endpoint.name(), source: error }
    }
}
