//! What is no row and comes by no stream, before a flip: accounts, settings, and the definitions of everything. A
//! difference that changes results or rights is a reason not to flip.

use cutover::api::{Check, Severity};
use cutover::verify::ObjectFinding;
use decoders::mysql::server::ServerUrl;

use crate::check::finding::{self, Finding, Fix};
use crate::check::mysql::{
    self as check, BinlogCheckRequest, DEFAULT_COLLATIONS, logins, read_only, settings,
};
use crate::config::Config;
use crate::pipeline::Ends;
use crate::verify::mysql::differences;

/// Findings of the preflight that are reasons not to flip, and those that are only told.
const REASONS: [&str; 2] = [logins::ID[0], settings::ID[0]];
const TOLD: [&str; 3] = [logins::ID[1], settings::ID[1], DEFAULT_COLLATIONS];
/// Definitions that differ.
const DEFINITIONS: &str = "definitions";
/// Objects in one finding.
const NAMED_MAX: usize = 10;

/// Compares source and target. Reads only.
pub(super) async fn compare(config: &Config, ends: &Ends<ServerUrl>) -> Vec<Check> {
    let mut request = BinlogCheckRequest::of(config, &ends.source, &ends.target);
    request.schema_exists = true;
    request.accept.clear();
    let report = check::check(&request, &ends.source, &ends.target).await;
    let is_accepted = |name: &str| config.check.accept.contains(name);
    let mut checks: Vec<Check> = (report.findings.iter())
        .filter(|finding| {
            let known = [&REASONS[..], &TOLD, &[read_only::ID]];
            known.iter().any(|ids| ids.contains(&finding.id))
        })
        .map(|finding| {
            let fails = REASONS.contains(&finding.id)
                && finding.severity != finding::Severity::Ok
                && !is_accepted(finding.id);
            of_finding(finding, fails, ends)
        })
        .collect();
    for name in [logins::ID[0], settings::ID[0]] {
        if !checks.iter().any(|check| check.name == name) {
            let unread = |finding: &&Finding| finding.id == "probe-failed";
            let why = report.findings.iter().filter(unread);
            let why: Vec<_> = why.map(|finding| finding.evidence.clone()).collect();
            let what = format!("{name} could not be compared: {}", ends.words(why.join("; ")));
            checks.push(Check::warn(
                name,
                what,
                "on both sides: GRANT SELECT ON mysql.* to our account",
            ));
        }
    }
    let sides = [(ends.direction.from(), &ends.source), (ends.direction.to(), &ends.target)];
    let sides = sides.map(|(side, url)| (side, url.clone()));
    match differences(sides, request.database.as_deref(), &config.tables).await {
        Ok(found) => checks.extend(of_definitions(&found, is_accepted(DEFINITIONS), ends)),
        Err(trouble) => checks.push(Check::warn(
            DEFINITIONS,
            format!("definitions could not be compared: {trouble}"),
            "if a right is missing, grant it",
        )),
    }
    checks
}

fn of_finding(finding: &Finding, fails: bool, ends: &Ends<ServerUrl>) -> Check {
    let mut what = finding.summary.clone();
    let named: Vec<_> = finding.objects.iter().take(NAMED_MAX).cloned().collect();
    if !named.is_empty() {
        let more = finding.objects.len().saturating_sub(named.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        what = format!("{what}: {}{more}", named.join("; "));
    } else if finding.severity != finding::Severity::Ok && !finding.evidence.is_empty() {
        what = format!("{what}: {}", finding.evidence);
    }
    let fix = finding.fix.as_ref().map(Fix::line).unwrap_or_default();
    let (what, fix) = (ends.words(what), ends.words(fix));
    // Nothing could be written there, so nobody may want it so.
    if finding.id == read_only::ID && finding.severity == finding::Severity::Blocker {
        return Check::fail(finding.id, what, fix);
    }
    let accept = format!("or, if that is wanted: accept = [{:?}] under [check]", finding.id);
    match (fails, finding.severity) {
        (true, _) => Check::fail(finding.id, what, format!("{fix}; {accept}")),
        (false, finding::Severity::Ok) => Check::ok(finding.id, what),
        (false, _) => Check::warn(finding.id, what, fix),
    }
}

fn of_definitions(
    found: &[ObjectFinding],
    is_accepted: bool,
    ends: &Ends<ServerUrl>,
) -> Vec<Check> {
    let (from, to) = (ends.direction.from(), ends.direction.to());
    if found.is_empty() {
        let what = format!("everything is defined on {to} as on {from}");
        return vec![Check::ok(DEFINITIONS, what)];
    }
    let mut checks = Vec::new();
    for severity in [Severity::Fail, Severity::Warn] {
        let these: Vec<_> = found.iter().filter(|one| one.severity == severity).collect();
        if these.is_empty() {
            continue;
        }
        let name = |one: &&ObjectFinding| format!("{} {}: {}", one.kind, one.object, one.what);
        let named: Vec<_> = these.iter().take(NAMED_MAX).map(name).collect();
        let what =
            format!("{} of what is no row differ on {to}: {}", these.len(), named.join("; "));
        let mended = mended(&these, from.name());
        let fix = format!("make {to} as {from} is ({mended}); `cutover verify` lists all");
        checks.push(match severity == Severity::Fail && !is_accepted {
            true => Check::fail(
                DEFINITIONS,
                what,
                format!("{fix}; or, if that is wanted: accept = [\"{DEFINITIONS}\"] under [check]"),
            ),
            false => Check::warn(DEFINITIONS, what, fix),
        });
    }
    checks
}

/// The statements that end the differences, or what shows those that make the objects.
fn mended(found: &[&ObjectFinding], from: &str) -> String {
    let table = |object: &str| object.splitn(3, "`.`").take(2).collect::<Vec<_>>().join("`.`");
    let show = |one: &ObjectFinding| match one.kind.as_str() {
        kind @ ("database" | "view" | "function" | "procedure" | "trigger" | "event") => {
            format!("on {from}: SHOW CREATE {} {}", kind.to_uppercase(), one.object)
        }
        _ => {
            let name = table(&one.object);
            let end = if name.ends_with('`') { "" } else { "`" };
            format!("on {from}: SHOW CREATE TABLE {name}{end}")
        }
    };
    let mut statements: Vec<String> =
        found.iter().map(|one| one.fix.clone().unwrap_or_else(|| show(one))).collect();
    statements.dedup();
    statements.truncate(NAMED_MAX);
    // What is done on one side is said of it once.
    let mut told = String::new();
    let mut place = "";
    for statement in &statements {
        let (here, sql) = statement.split_once(": ").unwrap_or(("", statement));
        let separator = if told.is_empty() { "" } else { "; " };
        match here == place {
            true => told.push_str(&format!("{separator}{sql}")),
            false => told.push_str(&format!("{separator}{statement}")),
        }
        place = here;
    }
    told
}
