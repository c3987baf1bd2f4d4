//! Whether a way back could be armed: the preflight the other way round, as far as it matters for a
//! stream without a copy.

use cutover::api::Check;
use decoders::mysql::server::ServerUrl;

use super::replica_id;
use crate::check::finding::{Finding, Fix, Severity};
use crate::check::mysql::{self as check, BinlogCheckRequest, logins, row_events, settings};
use crate::config::Config;
use crate::pipeline::Ends;

/// What is left to do if there can't be a way back.
const WITHOUT: &str = "or cut over without a way back: --no-way-back";

/// Findings that mean nothing for a target that serves now, or is closed by us: the fence stops events, the
/// flip takes triggers away, and read-only mode does not bind our account.
/// What is compared in the direction of the flip is not compared the other way round.
const NOT_HERE: [&str; 8] = [
    "events",
    "triggers",
    "green-read-only",
    "older-version",
    logins::ID[0],
    logins::ID[1],
    settings::ID[0],
    settings::ID[1],
];

/// Prechecks. Reads only. `config` and `ends` are those of the way back.
pub(super) async fn inspect(config: &Config, ends: &Ends<ServerUrl>) -> Vec<Check> {
    let mut request = BinlogCheckRequest::of(config, &ends.source, &ends.target);
    request.schema_exists = true;
    request.server_ids = vec![replica_id(&config.name)];
    let report = check::check(&request, &ends.source, &ends.target).await;
    let findings = report.findings.iter().filter(|finding| !NOT_HERE.contains(&finding.id));
    findings
        .filter(|finding| finding.severity != Severity::Ok || finding.id == row_events::ID)
        .map(|finding| of_finding(finding, ends))
        .collect()
}

fn of_finding(finding: &Finding, ends: &Ends<ServerUrl>) -> Check {
    let mut what = finding.summary.clone();
    if !finding.evidence.is_empty() {
        what = format!("{what} ({})", finding.evidence);
    }
    let named: Vec<_> = finding.objects.iter().take(10).cloned().collect();
    if !named.is_empty() {
        what = format!("{what}: {}", named.join(", "));
    }
    let fix = finding.fix.as_ref().map(Fix::line).unwrap_or_default();
    let name = format!("way-back-{}", finding.id);
    let (what, fix) = (ends.words(what), ends.words(fix));
    match finding.severity {
        Severity::Blocker => Check::fail(name, what, format!("{fix}; {WITHOUT}")),
        Severity::Warning => Check::warn(name, what, fix),
        Severity::Ok => Check::ok(name, what),
    }
}
