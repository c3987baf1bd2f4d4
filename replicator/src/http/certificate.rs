//! Client certificates: what they say, and whose they are.

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::{CertificateConfig, Role};

/// The names in a client certificate that its authority vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// As RFC 4514 writes it.
    pub subject: String,
    /// DNS names, e-mail addresses and URIs.
    pub sans: Vec<String>,
}

impl Presented {
    /// Of a certificate whose chain was verified.
    ///
    /// # Errors
    /// A sentence: it can't be read.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, String> {
        let unreadable = |error| format!("the client's certificate can't be read: {error}");
        let certificate = Certificate::from_der(der).map_err(unreadable)?.tbs_certificate;
        let names = certificate.get::<SubjectAltName>().map_err(unreadable)?;
        let names = names.map(|(_, names)| names.0).unwrap_or_default();
        let sans = names.iter().filter_map(|name| match name {
            GeneralName::Rfc822Name(text)
            | GeneralName::DnsName(text)
            | GeneralName::UniformResourceIdentifier(text) => Some(text.to_string()),
            _ => None,
        });
        Ok(Self { subject: certificate.subject.to_string(), sans: sans.collect() })
    }

    /// Name and role of the first rule that this certificate meets.
    pub fn find<'a>(&self, rules: &'a [CertificateConfig]) -> Option<(&'a str, Role)> {
        let meets = |rule: &&CertificateConfig| match (&rule.subject, &rule.san) {
            (Some(subject), None) => *subject == self.subject,
            (None, Some(san)) => self.sans.contains(san),
            _ => false,
        };
        rules.iter().find(meets).map(|rule| (rule.name.as_str(), rule.role))
    }
}
