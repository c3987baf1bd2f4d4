//! TLS by rustls with libpq's rules for files and `sslmode` (PostgreSQL manual, libpq,
//! "SSL Support"): which roots are trusted, when a chain and a name are checked, which client
//! certificate is shown.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificate::{ChainVerifier, UncheckedVerifier, end_point_hash};
use super::conninfo::{ConnInfo, Host, RootCertificate, SslMode, SslNegotiation, TlsVersion};
use super::error::TlsError;
use super::transport::Transport;

/// A handshake prepared: files are read and checked before any socket is opened.
#[derive(Clone)]
pub(super) struct TlsSettings {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    /// The server's certificate is held against roots that are trusted.
    verifies: bool,
}

impl TlsSettings {
    pub fn new(info: &ConnInfo, host: &Host) -> Result<TlsSettings, TlsError> {
        if info.sslmode == SslMode::VerifyFull && host.name().is_none() {
            return Err(TlsError::NoHostName);
        }
        let parsed = host.name().map(|name| ServerName::try_from(name.to_owned()));
        let server_name = match parsed {
            Some(Ok(name)) => Some(name),
            Some(Err(_)) if info.sslmode == SslMode::VerifyFull => {
                return Err(TlsError::NoHostName);
            }
            // Not a DNS name (or none at all): nothing to announce, and nothing is compared.
            Some(Err(_)) | None => None,
        };

        let provider = Arc::new(ring::default_provider());
        let (verifier, verifies) = verifier(info, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(info))
            .map_err(TlsError::Settings)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &info.ssl.certificate {
            Some(certificate) => {
                let key = info.ssl.key.as_ref().ok_or_else(|| TlsError::File {
                    path: certificate.display().to_string(),
                    reason: "there is a client certificate but no sslkey".to_owned(),
                })?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                    .map_err(TlsError::Settings)?
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = info.ssl.send_server_name && server_name.is_some();
        if info.sslnegotiation == SslNegotiation::Direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(TlsSettings {
            verifies,
            config: Arc::new(config),
            server_name: server_name
                .unwrap_or_else(|| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())),
        })
    }

    pub async fn handshake(self, stream: TcpStream) -> Result<Transport, TlsError> {
        let stream = TlsConnector::from(self.config)
            .connect(self.server_name, stream)
            .await
            .map_err(TlsError::Handshake)?;
        let certificates = stream.get_ref().1.peer_certificates();
        let end_point =
            certificates.and_then(|chain| chain.first()).and_then(|leaf| end_point_hash(leaf));
        Ok(Transport::Tls { stream: Box::new(stream), end_point, is_verified: self.verifies })
    }
}

/// libpq checks the chain in *every* mode once a root file was loaded, and asks for one only in
/// the verify modes. And whether anything is checked.
fn verifier(
    info: &ConnInfo,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<dyn ServerCertVerifier>, bool), TlsError> {
    let must_verify = info.sslmode >= SslMode::VerifyCa;
    let check_name = info.sslmode == SslMode::VerifyFull;
    let roots = match &info.ssl.root_certificate {
        RootCertificate::Default => None,
        RootCertificate::System => {
            let loaded = rustls_native_certs::load_native_certs();
            for error in &loaded.errors {
                tracing::warn!(%error, "a system root certificate could not be read");
            }
            if loaded.certs.is_empty() {
                return Err(TlsError::File {
                    path: "sslrootcert=system".to_owned(),
                    reason: "the system has no root certificates".to_owned(),
                });
            }
            Some(loaded.certs)
        }
        RootCertificate::File(path) if path.exists() => Some(certificates(path)?),
        RootCertificate::File(path) if must_verify => {
            return Err(TlsError::File {
                path: path.display().to_string(),
                reason: "the root certificate file does not exist".to_owned(),
            });
        }
        RootCertificate::File(path) => {
            tracing::warn!(
                path = %path.display(), sslmode = %info.sslmode,
                "root certificate file does not exist: the server's certificate is not verified"
            );
            None
        }
    };
    let algorithms = provider.signature_verification_algorithms;
    match roots {
        Some(roots) => {
            let verifier = ChainVerifier::new(roots, check_name, algorithms)?;
            Ok((Arc::new(verifier), true))
        }
        None if must_verify => Err(TlsError::NoRoots { sslmode: info.sslmode.as_str() }),
        None => Ok((Arc::new(UncheckedVerifier::new(algorithms)), false)),
    }
}

fn versions(info: &ConnInfo) -> Vec<&'static SupportedProtocolVersion> {
    use rustls::version::{TLS12, TLS13};
    match (info.ssl.min_version, info.ssl.max_version) {
        (Some(TlsVersion::Tls13), _) => vec![&TLS13],
        (_, Some(TlsVersion::Tls12)) => vec![&TLS12],
        _ => vec![&TLS13, &TLS12],
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |reason: String| TlsError::File { path: path.display().to_string(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("no certificate in the file".to_owned()));
    }
    Ok(certificates)
}

/// libpq refuses a key that others may read: 0600, or 0640 if root owns it.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    use std::os::unix::fs::MetadataExt;
    let failed = |reason: String| TlsError::File { path: path.display().to_string(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(failed(
            "group or others have access to the private key; permissions must be u=rw (0600) or less, \
             or u=rw,g=r (0640) or less if root owns it"
                .to_owned(),
        ));
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        failed(format!("no private key without a passphrase in the file: {error}"))
    })
}
