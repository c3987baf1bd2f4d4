//! A connection before its first byte, and TLS when its user asks for it. For those who bring their
//! own protocol, such as a proxy.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ServerUrl, SslMode};
use crate::MaybeTls;
use crate::postgres::{ChainVerifier, UncheckedVerifier};

/// After this long without a word it is asked whether the server is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// How long a server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Bytes to and from a server.
pub type RawConnection = MaybeTls<TlsStream<TcpStream>>;

impl RawConnection {
    /// Connects. Nothing is said yet.
    ///
    /// # Errors
    /// The server can't be reached.
    pub async fn open(url: &ServerUrl) -> io::Result<Self> {
        let connecting = TcpStream::connect(url.address());
        let stream = tokio::time::timeout(CONNECT_MAX, connecting).await;
        let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))?;
        Ok(RawConnection::Plain(stream))
    }

    /// Encrypts from here on, with the URL's rules.
    ///
    /// # Errors
    /// The handshake failed, or a file of the URL's can't be used.
    pub async fn secure(self, url: &ServerUrl) -> io::Result<Self> {
        let RawConnection::Plain(stream) = self else { return Ok(self) };
        let (host, _) = url.address();
        let name = ServerName::try_from(host.to_owned());
        let name = name.unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        let connector = TlsConnector::from(Arc::new(settings(url)?));
        let handshake = connector.connect(name, stream);
        let stream = tokio::time::timeout(CONNECT_MAX, handshake).await;
        let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(RawConnection::Tls(Box::new(stream)))
    }
}

fn settings(url: &ServerUrl) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier: Arc<dyn ServerCertVerifier> = match url.ssl_mode() {
        SslMode::Disabled | SslMode::Preferred | SslMode::Required => {
            Arc::new(UncheckedVerifier::new(algorithms))
        }
        mode @ (SslMode::VerifyCa | SslMode::VerifyIdentity) => {
            let roots = match url.ca() {
                Some(path) => certificates(path)?,
                None => rustls_native_certs::load_native_certs().certs,
            };
            let check_name = mode == SslMode::VerifyIdentity;
            let verifier = ChainVerifier::new(roots, check_name, algorithms);
            Arc::new(verifier.map_err(|error| invalid(error.to_string()))?)
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match url.identity() {
        Some((chain, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| invalid(format!("{}: {error}", key.display())))?;
            let config = builder.with_client_auth_cert(certificates(chain)?, private);
            config.map_err(|error| invalid(error.to_string()))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| invalid(format!("{}: {error}", path.display())))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
