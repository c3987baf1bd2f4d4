//! TLS for the TCP listener.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};

use super::keys::secret;
use crate::config::TlsFiles;

/// What the files hold.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    chain: Vec<u8>,
    key: String,
    authorities: Option<Vec<u8>>,
}

struct Loaded {
    /// What the files held when they were read last, usable or not.
    contents: Contents,
    config: Arc<ServerConfig>,
}

/// The listener's certificate. Its files are read at every connection; what can't be used (a
/// certificate that is written before its key) leaves the last one in place, and the log says so.
pub struct Certificate {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(files: &TlsFiles) -> Result<Self, String> {
        let contents = read(files)?;
        let config = build(files, &contents)?;
        Ok(Self { files: files.clone(), loaded: Mutex::new(Loaded { contents, config }) })
    }

    /// What the next connection is served with.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&self.files) {
            Ok(contents) if contents == loaded.contents => {}
            Ok(contents) => {
                match build(&self.files, &contents) {
                    Ok(config) => {
                        tracing::info!("the API's certificate was renewed");
                        loaded.config = config;
                    }
                    Err(problem) => {
                        tracing::error!("the API's certificate stays the old one: {problem}");
                    }
                }
                loaded.contents = contents;
            }
            Err(problem) => tracing::error!("the API's certificate stays the old one: {problem}"),
        }
        Arc::clone(&loaded.config)
    }
}

fn read(files: &TlsFiles) -> Result<Contents, String> {
    let bytes = |key: &str, path: &Path| {
        std::fs::read(path).map_err(|error| format!("api.tls.{key} {}: {error}", path.display()))
    };
    Ok(Contents {
        chain: bytes("cert_file", &files.cert_file)?,
        key: secret(&files.key_file).map_err(|problem| format!("api.tls.key_file {problem}"))?,
        authorities: files
            .client_ca_file
            .as_deref()
            .map(|path| bytes("client_ca_file", path))
            .transpose()?,
    })
}

fn build(files: &TlsFiles, contents: &Contents) -> Result<Arc<ServerConfig>, String> {
    let wrong =
        |key: &str, path: &Path, why: String| format!("api.tls.{key} {}: {why}", path.display());
    let of_chain = |why: String| wrong("cert_file", &files.cert_file, why);
    let chain = certificates(&contents.chain).map_err(of_chain)?;
    let key = PrivateKeyDer::from_pem_slice(contents.key.as_bytes())
        .map_err(|error| wrong("key_file", &files.key_file, error.to_string()))?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match (&files.client_ca_file, &contents.authorities) {
        (Some(path), Some(bytes)) => {
            let of_authorities = |why: String| wrong("client_ca_file", path, why);
            let mut roots = RootCertStore::empty();
            for authority in certificates(bytes).map_err(of_authorities)? {
                roots.add(authority).map_err(|error| of_authorities(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| of_authorities(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| of_chain(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not ask for the client's certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| error.to_string())?;
    if read.is_empty() { Err("it holds no certificate".into()) } else { Ok(read) }
}
