//! The HTTP API: where it listens, and who may do what.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Longest name of a token or a certificate, bytes.
const NAME_BYTES_MAX: usize = 64;

/// The HTTP API. Beside its address there is a Unix socket in the state directory
/// ([`Config::api_socket`](super::Config::api_socket)), which needs no configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Address to listen on. Anything but loopback needs `tls`, or `insecure_http`.
    pub listen: SocketAddr,
    /// File with a bearer token of the role `flip`. Where neither this nor `tokens` is given, the
    /// sidecar makes one in the state directory.
    pub token_file: Option<PathBuf>,
    /// Bearer tokens with names and roles.
    pub tokens: Vec<TokenConfig>,
    /// Client certificates with names and roles. Needs `tls.client_ca_file`.
    pub certificates: Vec<CertificateConfig>,
    /// Names under which clients reach the API, beside `listen`, `localhost` and the address that
    /// they connect to. Requests for any other host are refused.
    pub hosts: BTreeSet<String>,
    /// Who may scrape `/metrics`.
    pub metrics: MetricsAccess,
    /// Serve TLS.
    pub tls: Option<TlsFiles>,
    /// Listen without TLS on an address that others can reach: tokens travel in the clear.
    pub insecure_http: bool,
    /// Most connections over TCP at once. Never more than a quarter of the process's descriptors.
    pub connections_max: usize,
    /// Most of them from one address.
    pub connections_per_address_max: usize,
    /// How long a client may take for a TLS handshake, and for the head of a request.
    pub header_timeout_ms: u64,
    /// How long it may take for the body.
    pub body_timeout_ms: u64,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7654)),
            token_file: None,
            tokens: Vec::new(),
            certificates: Vec::new(),
            hosts: BTreeSet::new(),
            metrics: MetricsAccess::Read,
            tls: None,
            insecure_http: false,
            connections_max: 128,
            connections_per_address_max: 64,
            header_timeout_ms: 10_000,
            body_timeout_ms: 10_000,
        }
    }
}

/// What a client may do. Each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look: status, metrics, plans, history, reports, the audit log.
    Read,
    /// Verify and repair, and stop what is under way: whatever leaves the clients where they are.
    /// Verifications name keys of rows.
    Operate,
    /// Cut over, roll back, drill, finish.
    Flip,
}

impl Role {
    /// The name as it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Flip => "flip",
        }
    }
}

/// Who may scrape `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsAccess {
    /// Whoever has the role `read`.
    #[default]
    Read,
    /// Everybody who reaches the address.
    Open,
}

/// A bearer token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Whose it is; the audit log names it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Its file, which nobody but its owner may read. It is read at every request, so a token is
    /// changed by changing the file.
    pub file: PathBuf,
}

/// A client certificate, named by its subject or by one of its alternative names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// Whose it is; the audit log names it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The whole subject as RFC 4514 writes it, for example `CN=ann,O=Shop`.
    pub subject: Option<String>,
    /// A DNS name, an e-mail address or a URI among the subject alternative names.
    pub san: Option<String>,
}

/// Files of the TLS listener. They are read at every connection, so a certificate is renewed by
/// changing the files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate and what leads from it to its authority, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM, which nobody but its owner may read.
    pub key_file: PathBuf,
    /// Authorities of client certificates, PEM. A client without a certificate needs a token.
    pub client_ca_file: Option<PathBuf>,
}

impl ApiConfig {
    /// Everything that can be seen to be wrong without opening a file.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.listen.ip().is_loopback() && self.tls.is_none() && !self.insecure_http {
            problems.push(format!(
                "api.listen {}: an address that others can reach needs api.tls (cert_file, key_file); \
                 api.insecure_http = true goes without, and tokens travel in the clear",
                self.listen
            ));
        }
        let tokens = self.tokens.iter().map(|token| ("api.tokens", &token.name));
        let certificates = self.certificates.iter().map(|one| ("api.certificates", &one.name));
        for (place, name) in tokens.clone().chain(certificates.clone()) {
            if !is_name(name) {
                problems.push(format!(
                    "{place} {name:?}: a name has 1 to {NAME_BYTES_MAX} letters, digits and . _ - @"
                ));
            }
        }
        for names in [tokens.collect::<Vec<_>>(), certificates.collect()] {
            let mut seen = BTreeSet::new();
            for (place, name) in names {
                if !seen.insert(name) {
                    problems.push(format!("{place} {name:?}: the name is given twice"));
                }
            }
        }
        for one in &self.certificates {
            if one.subject.is_some() == one.san.is_some() {
                let name = &one.name;
                problems
                    .push(format!("api.certificates {name:?}: give subject or san, one of them"));
            }
        }
        let has_ca = self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if !self.certificates.is_empty() && !has_ca {
            problems.push("api.certificates: they need api.tls.client_ca_file".into());
        }
        for (key, value) in [
            ("connections_max", self.connections_max as u64),
            ("connections_per_address_max", self.connections_per_address_max as u64),
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
        ] {
            if value == 0 {
                problems.push(format!("api.{key}: more than 0"));
            }
        }
        problems
    }
}

/// The audit log tells names from what clients say of themselves by the blank behind them.
fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{ENDS, parse};

    fn problems(api: &str) -> Vec<String> {
        parse(&format!("{ENDS}[api]\n{api}")).unwrap().problems()
    }

    #[test]
    fn beyond_loopback_there_is_tls_or_somebody_has_written_that_there_is_none() {
        let token = "listen = '0.0.0.0:7654'\ntoken_file = '/token'\n";
        assert!(problems(token)[0].starts_with("api.listen"), "{:?}", problems(token));
        let tls = "[api.tls]\ncert_file = '/c'\nkey_file = '/k'\n";
        for enough in [format!("{token}insecure_http = true"), format!("{token}{tls}")] {
            assert!(problems(&enough).is_empty(), "{enough}: {:?}", problems(&enough));
        }
        assert!(problems("listen = '127.0.0.1:7654'").is_empty());
    }

    #[test]
    fn names_are_told_from_claims_and_from_each_other() {
        let token =
            |name: &str| format!("[[api.tokens]]\nname = '{name}'\nrole = 'read'\nfile = '/t'\n");
        assert!(problems(&token("prometheus-1@ops")).is_empty());
        for bad in ["", "two words", "a:b", "\u{e4}"] {
            assert_eq!(problems(&token(bad)).len(), 1, "{bad}");
        }
        let twice = problems(&(token("a") + &token("a")));
        assert!(twice.len() == 1 && twice[0].contains("twice"), "{twice:?}");
    }

    #[test]
    fn a_certificate_is_named_in_one_way_and_needs_an_authority() {
        let ca = "[api.tls]\ncert_file = '/c'\nkey_file = '/k'\nclient_ca_file = '/a'\n";
        let one = |how: &str| format!("[[api.certificates]]\nname = 'ann'\nrole = 'flip'\n{how}");
        assert!(problems(&format!("{ca}{}", one("san = 'ann@shop'\n"))).is_empty());
        assert_eq!(problems(&one("san = 'ann@shop'\n")).len(), 1);
        for neither in ["", "san = 'a'\nsubject = 'CN=a'\n"] {
            let found = problems(&format!("{ca}{}", one(neither)));
            assert!(found.len() == 1 && found[0].contains("one of them"), "{found:?}");
        }
    }

    #[test]
    fn nothing_is_accepted_for_nothing() {
        for key in ["connections_max", "header_timeout_ms", "body_timeout_ms"] {
            assert_eq!(problems(&format!("{key} = 0")).len(), 1, "{key}");
        }
    }
}
