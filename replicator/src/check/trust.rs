//! Who could run code as our role, or write what we believe.

use std::collections::BTreeSet;

use decoders::postgres::catalog::{ServerInfo, TableInfo, quote_ident};
use decoders::postgres::state_schema;

use super::facts::TableCode;
use super::finding::{Finding, Fix, Side, count};

/// Everything in `_cutover` has to be ours alone.
pub(super) fn state_schema(side: Side, strangers: &[String]) -> Finding {
    const ID: &str = "state-schema";
    match strangers {
        [] => Finding::ok(ID, side, "nobody else has anything in the schema _cutover"),
        _ => Finding::blocker(
            ID,
            side,
            "the schema _cutover is not ours alone: whoever made it could forge what we believe, or run \
             code with our rights",
        )
        .evidence(strangers.join("; "))
        .fix(Fix::advice(state_schema::REMEDY)),
    }
}

/// Constraints, generated columns, defaults, index expressions, domains and ALWAYS triggers of a table run as who
/// writes to it: on green our role from the copy on, on blue after a flip. `code`: what does now.
pub(super) fn table_code(
    side: Side,
    server: &ServerInfo,
    tables: &[TableInfo],
    code: &[TableCode],
) -> Finding {
    const ID: &str = "table-code";
    let role = &server.role;
    let moved: BTreeSet<_> = tables.iter().map(|table| &table.name).collect();
    let objects: Vec<String> = (code.iter())
        .filter(|code| moved.contains(&code.table))
        .map(|code| format!("{}: {}, by {}", code.table, code.what, quote_ident(&code.owner)))
        .collect();
    let owners: BTreeSet<&str> = tables.iter().map(|table| table.owner.as_str()).collect();
    let others: Vec<String> =
        owners.into_iter().filter(|owner| **owner != role.name).map(quote_ident).collect();
    let (summary, advice) = match (role.superuser && !others.is_empty(), objects.is_empty()) {
        (true, _) => (
            "our role is a superuser, and code in the definitions of moved tables runs with its rights \
             wherever we write: their owners can become superusers that way",
            "use a role that is no superuser (docs/reference/privileges.md), or move only what trusted owners have defined",
        ),
        (false, false) => (
            "code of others in the definitions of moved tables runs with our role's rights wherever we write",
            "look at what it does, or let our role have no rights but those that the move needs",
        ),
        (false, true) => {
            let summary = "no code of others runs with our role's rights where we write";
            return Finding::ok(ID, side, summary);
        }
    };
    let evidence = match others.is_empty() {
        true => count(objects.len(), "object"),
        false => format!("{}; owners: {}", count(objects.len(), "object"), others.join(", ")),
    };
    Finding::warning(ID, side, summary).evidence(evidence).objects(objects).fix(Fix::advice(advice))
}

#[cfg(test)]
mod tests {
    use decoders::ReplicaIdentity;
    use decoders::change::QualifiedName;

    use super::super::finding::Severity;
    use super::super::fixture::table;
    use super::*;

    #[test]
    fn a_schema_that_is_not_ours_is_a_blocker() {
        assert_eq!(state_schema(Side::Blue, &[]).severity, Severity::Ok);
        let found = state_schema(Side::Green, &["schema _cutover is owned by app".to_owned()]);
        assert_eq!(found.severity, Severity::Blocker);
        assert!(found.evidence.contains("app"));
    }

    #[test]
    fn a_superuser_is_warned_of_other_owners() {
        let mut server = ServerInfo::default();
        let mut table = table("t", ReplicaIdentity::Full, vec![]);
        table.owner = "app".into();
        server.role.superuser = true;
        let found = table_code(Side::Blue, &server, std::slice::from_ref(&table), &[]);
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.evidence.contains("app"), "{}", found.evidence);
        server.role.superuser = false;
        let found = table_code(Side::Blue, &server, std::slice::from_ref(&table), &[]);
        assert_eq!(found.severity, Severity::Ok);
        server.role.superuser = true;
        table.owner = server.role.name.clone();
        assert_eq!(table_code(Side::Blue, &server, &[table], &[]).severity, Severity::Ok);
    }

    #[test]
    fn what_runs_with_our_rights_is_named_with_its_owner() {
        let table = table("t", ReplicaIdentity::Full, vec![]);
        let code = |name: &str| TableCode {
            table: QualifiedName::new("S", name),
            owner: "Other".into(),
            what: "constraint c calls f(integer)".into(),
        };
        let all = [code("t"), code("not_moved")];
        let found = table_code(Side::Green, &ServerInfo::default(), &[table], &all);
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(found.objects, ["\"S\".\"t\": constraint c calls f(integer), by \"Other\""]);
    }
}
