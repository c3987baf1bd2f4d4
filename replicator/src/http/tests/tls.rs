//! TLS, and client certificates.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::config::{CertificateConfig, TlsFiles};

/// An authority, and the directory of what it has signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, sans: &[SanType]) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "Shop");
        params.subject_alt_names = sans.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        write_secret(&self.path(&format!("{name}.key")), &key.serialize_pem());
    }

    fn files(&self, clients: bool) -> TlsFiles {
        TlsFiles {
            cert_file: self.path("server.pem"),
            key_file: self.path("server.key"),
            client_ca_file: clients.then(|| self.path("ca.pem")),
        }
    }

    /// A connection that shows the certificate of `client`, if any.
    async fn connect(
        &self,
        site: &Site,
        client: Option<&str>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(name) => {
                let chain =
                    CertificateDer::pem_file_iter(self.path(&format!("{name}.pem"))).unwrap();
                let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, site.connect().await).await
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_restart_and_a_half_written_one_is_not_served() {
    let authority = Authority::new();
    authority.sign("server", &[dns("localhost")]);
    let site =
        Site::open(ApiConfig { tls: Some(authority.files(false)), ..ApiConfig::default() }).await;
    let shown = async || {
        let stream = authority.connect(&site, None).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown().await;
    let stream = authority.connect(&site, None).await.unwrap();
    let headers = format!("Host: localhost\r\n{}", bearer(Role::Read));
    assert_eq!(ask(stream, &Method::GET, "/v1/status", &headers).await.0, 200);
    let stream = authority.connect(&site, None).await.unwrap();
    assert_eq!(ask(stream, &Method::GET, "/v1/status", "Host: localhost\r\n").await.0, 401);

    let old_key = std::fs::read_to_string(authority.path("server.key")).unwrap();
    authority.sign("server", &[dns("localhost")]);
    let new_key = std::fs::read_to_string(authority.path("server.key")).unwrap();
    write_secret(&authority.path("server.key"), &old_key);
    assert_eq!(shown().await, first, "a certificate without its key");
    write_secret(&authority.path("server.key"), &new_key);
    assert_ne!(shown().await, first);
    let mut plain = site.connect().await;
    plain.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let _ended = plain.read_to_end(&mut bytes).await;
    assert!(!bytes.starts_with(b"HTTP"), "nothing is answered without TLS");
}

#[tokio::test]
async fn a_client_certificate_has_the_role_that_its_names_have() {
    let authority = Authority::new();
    authority.sign("server", &[dns("localhost")]);
    authority.sign("ann", &[]);
    authority.sign("grafana", &[SanType::URI("spiffe://shop/grafana".try_into().unwrap())]);
    authority.sign("mallory", &[dns("ann")]);
    let rule = |name: &str, role, subject: Option<&str>, san: Option<&str>| CertificateConfig {
        name: name.into(),
        role,
        subject: subject.map(str::to_owned),
        san: san.map(str::to_owned),
    };
    let config = ApiConfig {
        tls: Some(authority.files(true)),
        certificates: vec![
            rule("ann", Role::Flip, Some("O=Shop,CN=ann"), None),
            rule("grafana", Role::Read, None, Some("spiffe://shop/grafana")),
        ],
        ..ApiConfig::default()
    };
    let site = Site::open(config).await;
    let finish = async |client, more: &str| {
        let stream = authority.connect(&site, client).await.unwrap();
        let headers = format!("Host: localhost\r\n{JSON}{more}");
        ask(stream, &Method::POST, "/v1/finish", &headers).await.0
    };
    assert_eq!(finish(Some("ann"), "").await, 200);
    assert_eq!(finish(Some("grafana"), "").await, 403);
    assert_eq!(finish(Some("mallory"), "").await, 401);
    assert_eq!(finish(None, "").await, 401);
    assert_eq!(finish(None, &bearer(Role::Flip)).await, 200, "a token does as well");
    assert_eq!(finish(Some("ann"), "Authorization: Bearer guess\r\n").await, 401);
    let log = site.log("request").await;
    assert_eq!(log[0]["actor"], "certificate:ann");

    // Of an authority that nobody has named.
    let other = Authority::new();
    other.sign("ann", &[]);
    for end in ["pem", "key"] {
        std::fs::copy(other.path(&format!("ann.{end}")), authority.path(&format!("stray.{end}")))
            .unwrap();
    }
    let answered = match authority.connect(&site, Some("stray")).await {
        Err(_) => false,
        Ok(mut stream) => {
            let _sent = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            let mut bytes = Vec::new();
            let _ended = stream.read_to_end(&mut bytes).await;
            bytes.starts_with(b"HTTP")
        }
    };
    assert!(!answered);
}
