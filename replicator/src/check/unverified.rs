//! Family: connections over which nobody knows who answers.

use cutover::login::Login;
use decoders::mysql::server::SslMode as MysqlSslMode;
use decoders::postgres::conninfo::{ConnInfo, Host, RootCertificate, SslMode};

use super::finding::{Finding, Fix, Side};

/// Sides whose server nobody verifies, although it is another machine: without a certificate that is
/// checked, whoever is in between reads and changes everything, TLS or not.
pub fn unverified(blue: &Login, green: &Login) -> Vec<Finding> {
    let sides = [(Side::Blue, blue), (Side::Green, green)];
    sides.into_iter().filter_map(|(side, login)| of(side, login)).collect()
}

fn of(side: Side, login: &Login) -> Option<Finding> {
    let (evidence, fix) = match login {
        Login::Postgres(info) if is_verified(info) => return None,
        Login::Postgres(info) => (
            format!("sslmode={}; the proxy passes no password in the clear over it", info.sslmode),
            "give the connection string sslmode=verify-full and sslrootcert",
        ),
        Login::Mysql(url) if url.is_verified() => return None,
        Login::Mysql(url) => {
            let mode = match url.ssl_mode() {
                MysqlSslMode::Disabled => "DISABLED",
                MysqlSslMode::Preferred => "PREFERRED",
                MysqlSslMode::Required => "REQUIRED",
                MysqlSslMode::VerifyCa | MysqlSslMode::VerifyIdentity => return None,
            };
            (
                format!("ssl-mode={mode}; the proxy shows no password over it"),
                "give the connection string ssl-mode=VERIFY_IDENTITY and ssl-ca",
            )
        }
    };
    let what = "nobody verifies that it is this server that answers";
    Some(Finding::warning("unverified-tls", side, what).evidence(evidence).fix(Fix::advice(fix)))
}

fn is_verified(info: &ConnInfo) -> bool {
    info.hosts().iter().all(Host::is_here)
        || match info.sslmode {
            SslMode::VerifyCa | SslMode::VerifyFull => true,
            // As libpq does: with a root certificate it is checked.
            SslMode::Require => matches!(info.ssl.root_certificate, RootCertificate::File(_)),
            SslMode::Disable | SslMode::Allow | SslMode::Prefer => false,
        }
}
