//! Server certificates: who is believed, and the hash that ties SCRAM to one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Tagged};

use super::error::TlsError;

/// Encrypts without knowing to whom: `sslmode=require` and below without a root certificate.
/// The handshake's signature is still checked, so the peer owns the certificate that it shows and
/// channel binding means something.
#[derive(Debug)]
pub(crate) struct UncheckedVerifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl UncheckedVerifier {
    pub fn new(algorithms: WebPkiSupportedAlgorithms) -> UncheckedVerifier {
        UncheckedVerifier { algorithms }
    }
}

impl ServerCertVerifier for UncheckedVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks the chain (`verify-ca`) and, if asked, the name (`verify-full`).
#[derive(Debug)]
pub(crate) struct ChainVerifier {
    roots: Arc<RootCertStore>,
    /// The root file's certificates as they are. webpki refuses a CA certificate as a server's own
    /// (`CaUsedAsEndEntity`); OpenSSL, and so libpq, accepts one that is listed literally.
    pinned: Vec<CertificateDer<'static>>,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ChainVerifier {
    pub fn new(
        certificates: Vec<CertificateDer<'static>>,
        check_name: bool,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<ChainVerifier, TlsError> {
        let mut roots = RootCertStore::empty();
        // Certificates that webpki cannot use as an anchor may still be pinned.
        let (_, ignored) = roots.add_parsable_certificates(certificates.iter().cloned());
        if ignored > 0 {
            tracing::debug!(ignored, "some root certificates cannot be trust anchors");
        }
        Ok(ChainVerifier { roots: Arc::new(roots), pinned: certificates, check_name, algorithms })
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            check_validity(end_entity, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        if self.check_name
            && let Err(error) = verify_server_name(&parsed, server_name)
            && !common_name_matches(end_entity, server_name)
        {
            return Err(error);
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate)
        .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))).into())
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = parse(certificate)?.tbs_certificate.validity;
    let now_seconds = now.as_secs();
    if now_seconds < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now_seconds > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// libpq's fallback: a certificate without alternative names is matched by its common name,
/// literally or by a leading `*.` that stands for one label.
fn common_name_matches(certificate: &CertificateDer<'_>, server_name: &ServerName<'_>) -> bool {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
    let Ok(certificate) = parse(certificate) else {
        return false;
    };
    let extensions = certificate.tbs_certificate.extensions.unwrap_or_default();
    if extensions.iter().any(|extension| extension.extn_id == SUBJECT_ALT_NAME) {
        return false;
    }
    let host = server_name.to_str();
    let subject = &certificate.tbs_certificate.subject;
    let common_name = subject
        .0
        .iter()
        .flat_map(|relative| relative.0.iter())
        .rfind(|attribute| attribute.oid == COMMON_NAME);
    let Some(attribute) = common_name else {
        return false;
    };
    let value = &attribute.value;
    let text = match value.tag() {
        x509_cert::der::Tag::Utf8String => {
            value.decode_as::<Utf8StringRef<'_>>().map(|s| s.as_str().to_owned())
        }
        x509_cert::der::Tag::PrintableString => {
            value.decode_as::<PrintableStringRef<'_>>().map(|s| s.as_str().to_owned())
        }
        x509_cert::der::Tag::TeletexString => {
            value.decode_as::<TeletexStringRef<'_>>().map(|s| s.as_str().to_owned())
        }
        _ => value.decode_as::<Ia5StringRef<'_>>().map(|s| s.as_str().to_owned()),
    };
    let Ok(pattern) = text else {
        return false;
    };
    if pattern.contains('\0') {
        return false;
    }
    match pattern.strip_prefix("*.") {
        Some(suffix) => {
            matches!(server_name, ServerName::DnsName(_))
                && suffix.contains('.')
                && host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(suffix))
        }
        None => pattern.eq_ignore_ascii_case(&host),
    }
}

/// `tls-server-end-point` data of a certificate (RFC 5929 section 4.1): its hash by the function
/// of its own signature, with MD5 and SHA-1 replaced by SHA-256.
///
/// `None` if the signature's hash is unknown or undefined (Ed25519): OpenSSL's servers offer no
/// channel binding then either.
pub(super) fn end_point_hash(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let algorithm = Certificate::from_der(certificate).ok()?.signature_algorithm;
    let oid = algorithm.oid.to_string();
    let hash_oid = if oid == "1.2.840.113549.1.1.10" {
        // RSASSA-PSS names its hash in the parameters, SHA-1 by default.
        pss_hash(&algorithm).unwrap_or_else(|| "1.3.14.3.2.26".to_owned())
    } else {
        oid
    };
    match hash_oid.as_str() {
        // md5, sha1, and sha256 with RSA; ecdsa with SHA-1 and SHA-256; dsa with SHA-1 and SHA-256;
        // the bare SHA-1 and SHA-256 of PSS parameters.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.2.840.10040.4.3"
        | "2.16.840.1.101.3.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Sha384::digest(certificate).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// The hash named by RSASSA-PSS parameters (RFC 4055 section 3.1): `[0]` wraps its identifier.
fn pss_hash(algorithm: &x509_cert::spki::AlgorithmIdentifierOwned) -> Option<String> {
    use x509_cert::der::asn1::ContextSpecific;
    use x509_cert::der::{SliceReader, TagNumber};
    let parameters = algorithm.parameters.as_ref()?;
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let hash = ContextSpecific::<x509_cert::spki::AlgorithmIdentifierOwned>::decode_explicit(
        &mut reader,
        TagNumber::N0,
    )
    .ok()??;
    Some(hash.value.oid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair,
        PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
    };
    use std::time::Duration;

    fn self_signed(
        algorithm: &'static SignatureAlgorithm,
        names: &[&str],
        common_name: &str,
    ) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn verify(
        shown: &CertificateDer<'_>,
        root: &CertificateDer<'static>,
        host: Option<&'static str>,
        year: u64,
    ) -> Result<(), Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let verifier = ChainVerifier::new(vec![root.clone()], host.is_some(), algorithms).unwrap();
        let name = ServerName::try_from(host.unwrap_or("unused.test")).unwrap();
        let now = Duration::from_secs((year - 1970) * 31_557_600);
        let now = UnixTime::since_unix_epoch(now);
        verifier.verify_server_cert(shown, &[], &name, &[], now).map(|_| ())
    }

    #[test]
    fn a_self_signed_certificate_is_its_own_root_only_literally() {
        let own = self_signed(&PKCS_ECDSA_P256_SHA256, &["db.test"], "x");
        let other = self_signed(&PKCS_ECDSA_P256_SHA256, &["db.test"], "x");
        assert_eq!(verify(&own, &own, None, 2030), Ok(()));
        assert_eq!(verify(&own, &own, Some("db.test"), 2030), Ok(()));
        assert!(verify(&own, &own, Some("else.test"), 2030).is_err());
        assert!(verify(&own, &other, None, 2030).is_err());
        assert_eq!(verify(&own, &own, None, 2045), Err(CertificateError::Expired.into()));
        assert_eq!(verify(&own, &own, None, 2015), Err(CertificateError::NotValidYet.into()));
    }

    #[test]
    fn the_common_name_counts_only_without_alternative_names() {
        let only = self_signed(&PKCS_ECDSA_P256_SHA256, &[], "Db.Test");
        assert_eq!(verify(&only, &only, Some("db.test"), 2030), Ok(()));
        assert!(verify(&only, &only, Some("x.db.test"), 2030).is_err());
        let both = self_signed(&PKCS_ECDSA_P256_SHA256, &["alt.test"], "db.test");
        assert!(verify(&both, &both, Some("db.test"), 2030).is_err());
        let wild = self_signed(&PKCS_ECDSA_P256_SHA256, &[], "*.db.test");
        assert_eq!(verify(&wild, &wild, Some("a.db.test"), 2030), Ok(()));
        for host in ["db.test", "a.b.db.test"] {
            assert!(verify(&wild, &wild, Some(host), 2030).is_err(), "{host}");
        }
    }

    #[test]
    fn the_binding_hash_follows_the_signature() {
        let hash = |algorithm| {
            let certificate = self_signed(algorithm, &["db.test"], "x");
            (end_point_hash(&certificate), certificate)
        };
        let (found, certificate) = hash(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(found, Some(Sha256::digest(&certificate).to_vec()));
        let (found, certificate) = hash(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(found, Some(Sha384::digest(&certificate).to_vec()));
        assert_eq!(hash(&PKCS_ED25519).0, None);
        assert_eq!(end_point_hash(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), None);
    }
}
