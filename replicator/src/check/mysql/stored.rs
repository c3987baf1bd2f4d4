//! Views, triggers, routines and events, which run in somebody's name and which not everybody may
//! make.

use super::super::finding::{Finding, Fix, Side, count};
use super::facts::SideFacts;
use super::{BinlogCheckRequest, setting};
use decoders::mysql::server::literal;

pub(super) fn evaluate(
    request: &BinlogCheckRequest,
    blue: &SideFacts,
    green: &SideFacts,
) -> Vec<Finding> {
    if request.schema_exists {
        return Vec::new();
    }
    let findings = [definers(blue, green), trusted(blue, green)];
    findings.into_iter().flatten().collect()
}

/// A definer that is missing lets the object be made and fail at its first use.
fn definers(blue: &SideFacts, green: &SideFacts) -> Option<Finding> {
    let (stored, accounts) = (blue.stored.as_ref().ok()?, green.accounts.as_ref().ok()?);
    let missing: Vec<&String> =
        stored.definers.iter().filter(|definer| !accounts.contains(*definer)).collect();
    if missing.is_empty() {
        return Some(Finding::ok("definers", Side::Green, "green has all definers"));
    }
    let create = |account: &&String| {
        let (user, host) = account.rsplit_once('@').unwrap_or((account, ""));
        let account = format!("{}@{}", literal(user), literal(host));
        // A role of MariaDB has no host.
        match host {
            "" => format!("CREATE ROLE {}", literal(user)),
            _ => format!("CREATE USER {account} ACCOUNT LOCK"),
        }
    };
    let statements = missing.iter().map(create).collect();
    Some(
        Finding::warning(
            "definers",
            Side::Green,
            "views, triggers, routines or events run in the name of accounts that green does not have: \
             they fail when they are used",
        )
        .evidence(count(missing.len(), "account"))
        .objects(missing.into_iter().cloned().collect())
        .fix(Fix::Sql {
            side: Side::Green,
            statements,
            then: Some("grant them what they have on blue".to_owned()),
        }),
    )
}

/// A server that writes a binlog takes functions and triggers from accounts with SUPER, or from
/// everybody if it is told to.
fn trusted(blue: &SideFacts, green: &SideFacts) -> Option<Finding> {
    let (stored, variables) = (blue.stored.as_ref().ok()?, green.variables.as_ref().ok()?);
    let rights = green.rights.as_ref().ok()?;
    let may = !variables.is_on("log_bin")
        || variables.is_on("log_bin_trust_function_creators")
        || rights.has(&["SUPER"]);
    if may || stored.functions_and_triggers == 0 {
        return None;
    }
    Some(
        Finding::blocker(
            "function-creators",
            Side::Green,
            "green does not let the account make functions and triggers",
        )
        .evidence("log_bin_trust_function_creators = OFF, and the account has no SUPER")
        .fix(setting(&green.server, Side::Green, "log_bin_trust_function_creators", "ON")),
    )
}
