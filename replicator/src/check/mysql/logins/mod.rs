//! Accounts and roles, which no stream carries: whoever gets in on the source has to get in on the target, and
//! may do there what he did. What the fence has locked is judged as it was before.

mod compare;
mod read;
mod rights;

pub use compare::{Difference, compare};
pub use read::{Logins, account_text, read};
pub use rights::Right;

use super::super::finding::{Finding, Fix, Side, count};
use super::BinlogCheckRequest;
use super::facts::SideFacts;

/// Findings about accounts.
pub const ID: [&str; 2] = ["logins", "logins-differ"];

/// What a person types where a secret has to be carried, which is never shown here.
pub const BY_SECRET: &str = "for each of them what SHOW CREATE USER says on the other server (MySQL: after SET SESSION \
     print_identified_with_as_hex = ON), with ALTER USER in place of CREATE USER where it is there";

pub(super) fn evaluate(
    request: &BinlogCheckRequest,
    blue: &SideFacts,
    green: &SideFacts,
) -> Vec<Finding> {
    let (Ok(here), Ok(there)) = (&blue.logins, &green.logins) else { return Vec::new() };
    if here.is_mariadb != there.is_mariadb {
        return Vec::new();
    }
    let found = compare(here, there, request.database.as_deref());
    let (refusing, differing): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| one.refuses);
    let mut findings = Vec::new();
    if refusing.is_empty() {
        let what = "green lets in whom blue lets in, with what they may do";
        findings.push(Finding::ok(ID[0], Side::Green, what));
    } else {
        let what = "green would refuse clients or statements that blue takes: the cutover will not begin \
                    before that is mended";
        findings.push(finding(ID[0], what, &refusing));
    }
    if !differing.is_empty() {
        let what = "accounts are not the same on green; no client of blue is refused for that, unless a \
                    password with another salt is another one";
        findings.push(finding(ID[1], what, &differing));
    }
    findings
}

fn finding(id: &'static str, what: &str, found: &[Difference]) -> Finding {
    let objects = found.iter().map(|one| format!("{} {}", one.account, one.what)).collect();
    let statements: Vec<String> =
        found.iter().flat_map(|one| one.statements.iter().cloned()).collect();
    let secrets: Vec<&str> =
        found.iter().filter(|one| one.by_secret).map(|one| one.account.as_str()).collect();
    let then = (!secrets.is_empty()).then(|| format!("{}: {BY_SECRET}", secrets.join(", ")));
    let finding = Finding::warning(id, Side::Green, what.to_owned())
        .evidence(count(found.len(), "difference"))
        .objects(objects);
    finding.fix(match (statements.is_empty(), then) {
        (true, Some(then)) => Fix::advice(then),
        // An account has to be there before it is granted anything.
        (false, Some(then)) => Fix::advice(format!("{then}; then: {}", statements.join("; "))),
        (_, None) => Fix::sql(Side::Green, statements),
    })
}
