//! TLS towards clients. Certificates are read again when their files have changed, so a new one takes
//! effect with the next handshake, and nobody is disconnected.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::config::ProxyTls;
use super::lock;

/// What PostgreSQL's clients call their protocol (PostgreSQL manual, "SSL Session Encryption").
pub(super) const ALPN: &[u8] = b"postgresql";

/// With the files of the configuration. `protocols`: what clients may say that they speak.
///
/// # Errors
/// What of the files can't be used.
pub(super) fn acceptor(tls: &ProxyTls, protocols: &[&[u8]]) -> Result<TlsAcceptor, String> {
    let files = Files { certificate: tls.certificate.clone(), key: tls.key.clone() };
    let stamp = files.stamp();
    let provider = provider();
    let current = files.read(&provider)?;
    let kept = Mutex::new(Kept { stamp, current: Arc::new(current), complained_of: None });
    accepting(
        &provider,
        Arc::new(Certificates { files, provider: provider.clone(), kept }),
        protocols,
    )
}

/// With a certificate that is signed by itself, and only of this life: it keeps bytes from who listens.
///
/// # Errors
/// The system has no randomness.
pub(super) fn makeshift_acceptor() -> Result<TlsAcceptor, String> {
    let failed = |error: &dyn std::fmt::Display| format!("no certificate can be made: {error}");
    let made = rcgen::generate_simple_self_signed(vec!["cutover-proxy".to_owned()]);
    let made = made.map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let key = key.map_err(|error| failed(&error))?;
    let provider = provider();
    let current = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider);
    let current = Arc::new(current.map_err(|error| failed(&error))?);
    accepting(&provider, Arc::new(rustls::sign::SingleCertAndKey::from(current)), &[])
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn accepting(
    provider: &Arc<CryptoProvider>,
    certificates: Arc<dyn ResolvesServerCert>,
    protocols: &[&[u8]],
) -> Result<TlsAcceptor, String> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// When each file was changed, and its length; `None`: it can't be looked at.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Files {
    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }

    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let failed =
            |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(&self.certificate, &error))?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| failed(&self.key, &error))?;
        // Also says whether they belong together.
        CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| failed(&self.certificate, &error))
    }
}

#[derive(Debug)]
struct Kept {
    /// Of the files that `current` was read from.
    stamp: Stamp,
    current: Arc<CertifiedKey>,
    /// Files that could not be used, and that the log has.
    complained_of: Option<Stamp>,
}

/// The certificate that the files hold now, or did when they last could be used.
#[derive(Debug)]
struct Certificates {
    files: Files,
    provider: Arc<CryptoProvider>,
    kept: Mutex<Kept>,
}

impl Certificates {
    fn current(&self) -> Arc<CertifiedKey> {
        let mut kept = lock(&self.kept);
        let stamp = self.files.stamp();
        if stamp != kept.stamp {
            match self.files.read(&self.provider) {
                Ok(read) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "read again");
                    *kept = Kept { stamp, current: Arc::new(read), complained_of: None };
                }
                // One file may have been written and the other not yet: the next handshake looks again.
                Err(why) if kept.complained_of != Some(stamp) => {
                    tracing::error!("the certificate before goes on being used: {why}");
                    kept.complained_of = Some(stamp);
                }
                Err(_) => {}
            }
        }
        kept.current.clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read_again_once_both_files_belong_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = Files { certificate: path("cert"), key: path("key") };
        let make = || rcgen::generate_simple_self_signed(vec!["db".to_owned()]).unwrap();
        let (first, second) = (make(), make());
        std::fs::write(&files.certificate, first.cert.pem()).unwrap();
        std::fs::write(&files.key, first.signing_key.serialize_pem()).unwrap();
        let provider = provider();
        let kept = Mutex::new(Kept {
            stamp: files.stamp(),
            current: Arc::new(files.read(&provider).unwrap()),
            complained_of: None,
        });
        let certificates = Certificates { files, provider, kept };
        let shown = || certificates.current().cert[0].clone();
        assert_eq!(shown(), *first.cert.der());
        std::fs::write(&certificates.files.certificate, second.cert.pem()).unwrap();
        assert_eq!(shown(), *first.cert.der());
        std::fs::write(&certificates.files.key, second.signing_key.serialize_pem()).unwrap();
        assert_eq!(shown(), *second.cert.der());
        std::fs::remove_file(&certificates.files.key).unwrap();
        assert_eq!(shown(), *second.cert.der());
    }
}
