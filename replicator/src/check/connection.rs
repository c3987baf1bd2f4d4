//! Family: can both databases be reached at all, and are they the two that are meant.

use decoders::postgres::catalog::ServerInfo;
use decoders::postgres::error::{AuthError, ConnectError};

use super::facts::{Facts, Probe};
use super::finding::{Finding, Fix, Side};
use super::request::CheckRequest;

/// Why a side could not be reached. The message is the connection code's, which never names a
/// password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectFailure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What happened, with host and user.
    pub message: String,
}

/// Kinds of failed connections, by what to do about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// No server answers.
    Unreachable,
    /// Wrong password, unknown role, no entry in `pg_hba.conf`.
    Credentials,
    /// No such database.
    NoDatabase,
    /// All connections are taken.
    TooManyConnections,
    /// TLS could not be agreed on or the certificate is not trusted.
    Tls,
    /// Anything else, such as a connection string that can't be read.
    Other,
}

impl ConnectFailure {
    /// A failure that happened before any connection was tried.
    pub fn other(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Other, message: message.into() }
    }

    fn kind(error: &ConnectError) -> FailureKind {
        let by_sqlstate = |sqlstate: &str| match sqlstate {
            "3D000" => FailureKind::NoDatabase,
            "53300" => FailureKind::TooManyConnections,
            // Class 28; and 42501 for a role without CONNECT on the database.
            state if state.starts_with("28") || state == "42501" => FailureKind::Credentials,
            _ => FailureKind::Other,
        };
        match error {
            ConnectError::Resolve { .. }
            | ConnectError::Io { .. }
            | ConnectError::Timeout { .. } => FailureKind::Unreachable,
            ConnectError::Tls { .. } => FailureKind::Tls,
            ConnectError::Authentication { reason: AuthError::Refused(error), .. } => {
                by_sqlstate(&error.sqlstate)
            }
            ConnectError::Authentication { .. } => FailureKind::Credentials,
            ConnectError::Server { source, .. } => by_sqlstate(&source.sqlstate),
            ConnectError::Hosts(errors) => errors.last().map_or(FailureKind::Other, Self::kind),
            ConnectError::Protocol { .. } | ConnectError::Attributes { .. } => FailureKind::Other,
        }
    }
}

impl From<&ConnectError> for ConnectFailure {
    fn from(error: &ConnectError) -> Self {
        Self { kind: Self::kind(error), message: error.to_string() }
    }
}

pub(super) fn evaluate(request: &CheckRequest, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let failures =
        [(Side::Blue, facts.blue.as_ref().err()), (Side::Green, facts.green.as_ref().err())];
    for (side, failure) in failures {
        findings.push(match failure {
            Some(failure) => refused(side, failure),
            None => Finding::ok("reachable", side, "connected"),
        });
    }
    let server = |server: &Result<ServerInfo, _>| server.as_ref().ok().cloned();
    let blue = facts.blue.as_ref().ok().and_then(|facts| server(&facts.common.server));
    let green = facts.green.as_ref().ok().and_then(|facts| server(&facts.common.server));
    findings.extend(same_database(facts.same_database.as_ref(), blue.as_ref(), green.as_ref()));
    findings.extend(blue.iter().flat_map(blue_version));
    if let (Some(blue), Some(green)) = (&blue, &green) {
        findings.extend(versions(blue, green));
    }
    findings.extend(green.iter().filter(|green| green.in_recovery).map(|_| {
        Finding::blocker("green-standby", Side::Green, "green is a standby and can't be written")
            .evidence("pg_is_in_recovery() is true")
            .fix(Fix::advice("name green's primary in the connection string, or promote it"))
    }));
    if !request.schema_exists() && !request.resuming {
        findings.push(pg_dump(&request.pg_dump));
    }
    findings
}

fn refused(side: Side, failure: &ConnectFailure) -> Finding {
    let (id, summary, advice) = match failure.kind {
        FailureKind::Unreachable => (
            "unreachable",
            "no server answers",
            "check host and port, that the server runs, and listen_addresses and firewalls \
             between here and there",
        ),
        FailureKind::Credentials => (
            "wrong-credentials",
            "the server refuses this role or its password",
            "check user and password (PGPASSFILE, or a file named by url_file), and that \
             pg_hba.conf lets this machine in",
        ),
        FailureKind::NoDatabase => (
            "no-such-database",
            "the server has no such database",
            "create it, or correct its name",
        ),
        FailureKind::TooManyConnections => (
            "connections-exhausted",
            "the server has no connection left",
            "end unused sessions or raise max_connections (needs a restart)",
        ),
        FailureKind::Tls => (
            "tls-refused",
            "no trusted encrypted connection could be made",
            "check sslmode and sslrootcert against the server's certificate",
        ),
        FailureKind::Other => {
            ("connection-failed", "no connection could be made", "see what was seen")
        }
    };
    Finding::blocker(id, side, summary).evidence(&failure.message).fix(Fix::advice(advice))
}

fn same_database(
    same: Option<&Probe<bool>>,
    blue: Option<&ServerInfo>,
    green: Option<&ServerInfo>,
) -> Option<Finding> {
    let identifiers = match (blue, green) {
        (Some(blue), Some(green)) => format!(
            "database {:?} of system {} and database {:?} of system {}",
            blue.database,
            identifier(blue),
            green.database,
            identifier(green)
        ),
        _ => String::new(),
    };
    Some(match same? {
        Ok(true) => Finding::blocker(
            "same-database",
            Side::Both,
            "blue and green are one and the same database: it would be copied onto itself",
        )
        .evidence(format!("an advisory lock of one session is seen by the other; {identifiers}"))
        .fix(Fix::advice("give green the connection string of the new server")),
        Ok(false) => {
            Finding::ok("same-database", Side::Both, "blue and green are two different databases")
                .evidence(identifiers)
        }
        Err(error) => Finding::blocker(
            "same-database",
            Side::Both,
            "it could not be found out whether blue and green are the same database",
        )
        .evidence(error.to_string()),
    })
}

fn identifier(server: &ServerInfo) -> String {
    server.system_identifier.map_or_else(|| "(unknown)".to_owned(), |id| id.to_string())
}

fn blue_version(blue: &ServerInfo) -> Vec<Finding> {
    let mut findings = Vec::new();
    if blue.major() < 10 {
        let summary = "blue is older than PostgreSQL 10, which has no publications";
        findings.push(
            Finding::blocker("blue-too-old", Side::Blue, summary)
                .evidence(format!("server version {}", blue.version))
                .fix(Fix::advice("move it with pg_upgrade or pg_dump")),
        );
    }
    if blue.in_recovery {
        let summary = "blue is a standby; the stream is read from the primary";
        findings.push(
            Finding::blocker("blue-standby", Side::Blue, summary)
                .evidence("pg_is_in_recovery() is true")
                .fix(Fix::advice("name the primary in blue's connection string")),
        );
    }
    findings
}

/// Newest major version that this was tested with.
const NEWEST_TESTED: u32 = 18;

fn versions(blue: &ServerInfo, green: &ServerInfo) -> Vec<Finding> {
    let evidence = format!("blue {}, green {}", blue.version, green.version);
    let mut findings = Vec::new();
    if green.major() < blue.major() {
        let summary = "green is older than blue; only the same or a newer version is supported";
        findings.push(
            Finding::blocker("green-older", Side::Both, summary)
                .evidence(evidence.clone())
                .fix(Fix::advice("set up green with blue's major version or a newer one")),
        );
    } else if blue.major() >= 10 {
        let summary = "green's version is not older than blue's";
        findings.push(Finding::ok("versions", Side::Both, summary).evidence(evidence.clone()));
    }
    for (side, server) in [(Side::Blue, blue), (Side::Green, green)] {
        if server.major() > NEWEST_TESTED {
            let summary = format!("newer than PostgreSQL {NEWEST_TESTED}, the newest one tested");
            findings.push(
                Finding::warning("version-untested", side, summary).evidence(evidence.clone()),
            );
        }
    }
    findings
}

fn pg_dump(found: &Result<String, String>) -> Finding {
    match found {
        Ok(found) => {
            Finding::ok("pg-dump", Side::Here, "a fitting pg_dump is here").evidence(found)
        }
        Err(missing) => Finding::blocker(
            "pg-dump",
            Side::Here,
            "the schema can't be copied without a fitting pg_dump",
        )
        .evidence(missing)
        .fix(Fix::advice(
            "install the PostgreSQL client tools of green's major version, or name one with \
             schema.pg_dump, or make the schema yourself and use --schema existing",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn server(version_num: u32) -> ServerInfo {
        ServerInfo { version_num, version: version_num.to_string(), ..ServerInfo::default() }
    }

    #[test]
    fn green_may_be_the_same_or_newer() {
        let ids = |blue, green| -> Vec<&str> {
            versions(&server(blue), &server(green)).iter().map(|finding| finding.id).collect()
        };
        assert_eq!(ids(150_004, 140_010), ["green-older"]);
        assert_eq!(ids(150_004, 150_001), ["versions"]);
        assert_eq!(ids(100_023, 180_001), ["versions"]);
        assert_eq!(ids(180_001, 190_000), ["versions", "version-untested"]);
    }

    #[test]
    fn blue_has_to_be_a_primary_of_10_or_newer() {
        let old = ServerInfo { in_recovery: true, ..server(90_624) };
        let ids: Vec<_> = blue_version(&old).iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["blue-too-old", "blue-standby"]);
        assert!(blue_version(&server(100_000)).is_empty());
    }

    #[test]
    fn both_failures_are_reported_together() {
        let failure = |kind| ConnectFailure { kind, message: "seen".into() };
        let facts = Facts {
            blue: Err(failure(FailureKind::Unreachable)),
            green: Err(failure(FailureKind::Credentials)),
            same_database: None,
        };
        let mut request = CheckRequest::new("main");
        request.pg_dump = Ok("pg_dump 17".into());
        let findings = evaluate(&request, &facts);
        let blockers: Vec<_> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker)
            .map(|finding| (finding.id, finding.side))
            .collect();
        assert_eq!(blockers, [("unreachable", Side::Blue), ("wrong-credentials", Side::Green)]);
    }

    #[test]
    fn what_could_not_be_compared_is_not_assumed_to_differ() {
        let error = decoders::postgres::catalog::CatalogError::unexpected("x", "y");
        let finding = same_database(Some(&Err(error)), None, None).unwrap();
        assert_eq!(finding.severity, Severity::Blocker);
        assert_eq!(same_database(None, None, None), None);
    }
}
