//! What differences of definitions mean for a run.

use super::accepted::{Accepted, accepting};
use super::wire::ObjectFinding;
use crate::api::{Check, Severity};
use crate::side::Direction;

/// What is done about a difference that has no statement of its own.
const BY_HAND: &str = "make both sides equal";

/// The checks' names in a plan.
const DEFINITIONS: &str = "definitions";
const SETTINGS: &str = "settings";
const RIGHTS: &str = "rights";
const LOGINS: &str = "logins";

/// Everything that was found about one comparison, and how much was compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Differences, and what could not be compared.
    pub findings: Vec<ObjectFinding>,
    /// Objects, settings, rights and roles that were compared.
    pub count: u64,
}

/// As checks of a run. What changes results or rights forbids a run forward, unless it is accepted by
/// name. A way back is never refused for it and a drill changes nothing over: both are told.
pub fn checks(
    compared: &Compared,
    direction: Direction,
    drill: bool,
    accepts: &[Accepted],
) -> Vec<Check> {
    if compared.findings.is_empty() {
        let (to, from, count) = (direction.to(), direction.from(), compared.count);
        let evidence =
            format!("{to} is as {from}: {count} definitions, settings, rights and roles");
        return vec![Check::ok(DEFINITIONS, evidence)];
    }
    let forbids = direction == Direction::Forward && !drill;
    let mut checks: Vec<_> =
        compared.findings.iter().map(|found| check(found, forbids, accepts)).collect();
    checks.sort_by_key(|check| std::cmp::Reverse(check.severity));
    checks
}

fn check(found: &ObjectFinding, forbids: bool, accepts: &[Accepted]) -> Check {
    let name = name_of(&found.kind);
    let evidence = format!("{} {}: {}", found.kind, found.object, found.what);
    let fix = found.fix.clone().unwrap_or_else(|| BY_HAND.into());
    if found.severity != Severity::Fail {
        return Check::warn(name, evidence, fix);
    }
    if let Some(accepted) = accepting(accepts, &found.kind, &found.object) {
        return Check::warn(name, format!("{evidence}; accepted: {}", accepted.reason), fix);
    }
    match forbids {
        true => {
            let object = format!("{} {}", found.kind, found.object).replace('\'', r"'\''");
            let go = format!("to go all the same: --accept-differences='{object}=REASON'");
            Check::fail(name, evidence, format!("{fix}; {go}"))
        }
        false => Check::warn(name, evidence, fix),
    }
}

fn name_of(kind: &str) -> &'static str {
    match kind {
        "database setting" | "role setting" | "server setting" => SETTINGS,
        "grant" | "owner" | "default privilege" | "database privilege" | "changed privilege" => {
            RIGHTS
        }
        "role" | "membership" | "password" => LOGINS,
        _ => DEFINITIONS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(severity: Severity) -> Compared {
        let finding = ObjectFinding {
            severity,
            kind: "view".into(),
            object: "\"public\".\"it's\"".into(),
            what: "green does not have it".into(),
            fix: Some("on green: CREATE VIEW ..".into()),
        };
        Compared { findings: vec![finding], count: 7 }
    }

    fn said(compared: &Compared, direction: Direction, accepts: &[Accepted]) -> Check {
        let mut checks = checks(compared, direction, false, accepts);
        assert_eq!(checks.len(), 1);
        checks.remove(0)
    }

    #[test]
    fn what_changes_results_forbids_a_run_forward_and_no_way_back() {
        let fail = one(Severity::Fail);
        let forward = said(&fail, Direction::Forward, &[]);
        assert_eq!(forward.severity, Severity::Fail);
        let fix = forward.fix.unwrap();
        assert!(fix.starts_with("on green: CREATE VIEW"), "{fix}");
        assert!(fix.contains("'view \"public\".\"it'\\''s\"=REASON'"), "{fix}");
        assert_eq!(said(&fail, Direction::Back, &[]).severity, Severity::Warn);
        assert_eq!(checks(&fail, Direction::Forward, true, &[])[0].severity, Severity::Warn);
        let equal = Compared { count: 7, ..Compared::default() };
        assert_eq!(said(&equal, Direction::Forward, &[]).severity, Severity::Ok);
    }

    #[test]
    fn what_is_accepted_is_told_with_its_reason() {
        let accepts = ["view public.it's=dropped next week".parse().unwrap()];
        let check = said(&one(Severity::Fail), Direction::Forward, &accepts);
        assert_eq!(check.severity, Severity::Warn);
        assert!(check.evidence.ends_with("accepted: dropped next week"), "{}", check.evidence);
    }
}
