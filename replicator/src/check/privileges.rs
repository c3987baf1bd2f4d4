//! Family: what the two roles may do.

use std::collections::BTreeSet;

use decoders::postgres::catalog::{Provider, ServerInfo, TableInfo, quote_ident};

use super::finding::{Finding, Fix, Side, count};
use super::request::CheckRequest;

/// What blue's role needs: to decode, to read every table and to publish it.
pub(super) fn evaluate_blue(server: &ServerInfo, tables: &[TableInfo]) -> Vec<Finding> {
    let role = quote_ident(&server.role.name);
    vec![
        replication(server, &role),
        select(&role, tables),
        ownership(&role, server, tables),
        create_on_database(Side::Blue, server, "publication"),
        rows_hidden(Side::Blue, &role, tables),
    ]
}

/// What green's role needs.
pub(super) fn evaluate_green(
    request: &CheckRequest,
    server: &ServerInfo,
    tables: &[TableInfo],
    blue_tables: &[TableInfo],
) -> Vec<Finding> {
    let role = quote_ident(&server.role.name);
    let mut findings = vec![create_on_database(Side::Green, server, "schema _cutover")];
    if request.schema_exists() || request.resuming {
        let names: BTreeSet<_> = blue_tables.iter().map(|table| &table.name).collect();
        let taking_part: Vec<TableInfo> =
            tables.iter().filter(|table| names.contains(&table.name)).cloned().collect();
        findings.push(write(&role, &taking_part));
        findings.push(rows_hidden(Side::Green, &role, &taking_part));
    }
    if !server.role.may_replicate() {
        findings.push(
            Finding::warning(
                "green-replication",
                Side::Green,
                "the role may not decode green's changes, so there will be no way back",
            )
            .evidence(format!("role {role} lacks REPLICATION"))
            .fix(grant_replication(Side::Green, server, &role)),
        );
    }
    findings
}

fn replication(server: &ServerInfo, role: &str) -> Finding {
    if server.role.may_replicate() {
        return Finding::ok("replication-role", Side::Blue, "the role may decode changes");
    }
    Finding::blocker("replication-role", Side::Blue, "the role may not decode blue's changes")
        .evidence(format!("role {role} is neither superuser nor has REPLICATION"))
        .fix(grant_replication(Side::Blue, server, role))
}

fn grant_replication(side: Side, server: &ServerInfo, role: &str) -> Fix {
    let statement = match server.provider {
        Some(Provider::Rds) => format!("GRANT rds_replication TO {role}"),
        _ => format!("ALTER ROLE {role} REPLICATION"),
    };
    Fix::sql(side, vec![statement])
}

fn select(role: &str, tables: &[TableInfo]) -> Finding {
    let unreadable: Vec<&TableInfo> =
        tables.iter().filter(|table| !table.access.select && table.holds_rows()).collect();
    if unreadable.is_empty() {
        return Finding::ok("table-select", Side::Blue, "the role may read every table")
            .evidence(count(tables.len(), "table"));
    }
    Finding::blocker(
        "table-select",
        Side::Blue,
        "the role may not read tables that are to be copied",
    )
    .evidence(format!(
        "{} without SELECT or without USAGE on the schema",
        count(unreadable.len(), "table")
    ))
    .objects(unreadable.iter().map(|table| table.name.to_string()).collect())
    .fix(Fix::sql(Side::Blue, select_grants(role, &unreadable)))
}

fn write(role: &str, tables: &[TableInfo]) -> Finding {
    let closed: Vec<&TableInfo> =
        tables.iter().filter(|table| !(table.access.write && table.access.select)).collect();
    if closed.is_empty() {
        return Finding::ok("table-write", Side::Green, "the role may write every table")
            .evidence(count(tables.len(), "table"));
    }
    Finding::blocker(
        "table-write",
        Side::Green,
        "the role may not write tables that are to be filled",
    )
    .evidence(format!(
        "{} without SELECT, INSERT, UPDATE, DELETE and TRUNCATE, or without USAGE on the schema",
        count(closed.len(), "table")
    ))
    .objects(closed.iter().map(|table| table.name.to_string()).collect())
    .fix(Fix::sql(Side::Green, grants(role, &closed, "SELECT, INSERT, UPDATE, DELETE, TRUNCATE")))
}

/// What reading takes. A table that is not the role's needs its owner's role anyway
/// (`table-ownership`), which brings SELECT.
fn select_grants(role: &str, tables: &[&TableInfo]) -> Vec<String> {
    let is_covered = |grant: &String| {
        let of = |table: &&&TableInfo| grant.contains(&format!(" ON TABLE {} TO ", table.name));
        tables.iter().find(of).is_some_and(|table| !table.access.own)
    };
    let mut grants = grants(role, tables, "SELECT");
    grants.retain(|grant| !is_covered(grant));
    grants
}

/// USAGE on each schema once, then the table privileges.
fn grants(role: &str, tables: &[&TableInfo], privileges: &str) -> Vec<String> {
    let schemas: BTreeSet<&str> = tables.iter().map(|table| table.name.schema.as_str()).collect();
    let usage =
        schemas.iter().map(|s| format!("GRANT USAGE ON SCHEMA {} TO {role}", quote_ident(s)));
    let each =
        tables.iter().map(|table| format!("GRANT {privileges} ON TABLE {} TO {role}", table.name));
    usage.chain(each).collect()
}

/// Only its owner may add a table to a publication (manual, CREATE PUBLICATION, Notes).
fn ownership(role: &str, server: &ServerInfo, tables: &[TableInfo]) -> Finding {
    let foreign: Vec<&TableInfo> = tables.iter().filter(|table| !table.access.own).collect();
    if server.role.superuser || foreign.is_empty() {
        return Finding::ok("table-ownership", Side::Blue, "the role may publish every table");
    }
    let owners: BTreeSet<&str> = foreign.iter().map(|table| table.owner.as_str()).collect();
    Finding::blocker(
        "table-ownership",
        Side::Blue,
        "the role may not publish tables that it does not own",
    )
    .evidence(format!(
        "{} owned by {}",
        count(foreign.len(), "table"),
        owners.iter().map(|owner| quote_ident(owner)).collect::<Vec<_>>().join(", ")
    ))
    .objects(foreign.iter().map(|table| table.name.to_string()).collect())
    .fix(Fix::sql(
        Side::Blue,
        owners.iter().map(|owner| format!("GRANT {} TO {role}", quote_ident(owner))).collect(),
    ))
}

fn create_on_database(side: Side, server: &ServerInfo, what: &str) -> Finding {
    if server.may_create {
        let summary = format!("the role may create the {what}");
        return Finding::ok("database-create", side, summary);
    }
    let role = quote_ident(&server.role.name);
    let database = quote_ident(&server.database);
    Finding::blocker("database-create", side, format!("the role may not create the {what}"))
        .evidence(format!("no CREATE on database {database}"))
        .fix(Fix::sql(side, vec![format!("GRANT CREATE ON DATABASE {database} TO {role}")]))
}

/// Policies that bind our role would hide rows from the copy, or refuse rows on green.
fn rows_hidden(side: Side, role: &str, tables: &[TableInfo]) -> Finding {
    let hidden: Vec<&TableInfo> = tables.iter().filter(|table| table.access.rows_hidden).collect();
    if hidden.is_empty() {
        return Finding::ok("row-security", side, "no row-level security binds the role");
    }
    let forced = hidden.iter().filter(|table| table.row_security_forced).count();
    Finding::blocker(
        "row-security",
        side,
        "row-level security binds the role: rows could stay unseen or be refused",
    )
    .evidence(format!(
        "{}, {forced} of them FORCE ROW LEVEL SECURITY",
        count(hidden.len(), "table")
    ))
    .objects(hidden.iter().map(|table| table.name.to_string()).collect())
    .fix(Fix::sql(side, vec![format!("ALTER ROLE {role} BYPASSRLS")]))
}

#[cfg(test)]
mod tests {
    use decoders::ReplicaIdentity::Full;
    use decoders::postgres::catalog::TableAccess;

    use super::super::finding::Severity;
    use super::super::fixture::table;
    use super::*;

    fn server() -> ServerInfo {
        let mut server = ServerInfo { database: "Shop".into(), ..ServerInfo::default() };
        server.role.name = "Möver".into();
        server
    }

    #[test]
    fn each_missing_right_comes_with_its_grant() {
        let mut closed = table("T", Full, vec![]);
        closed.access = TableAccess { rows_hidden: true, ..TableAccess::default() };
        let findings = evaluate_blue(&server(), &[closed]);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Blocker));
        let statements: Vec<String> = findings
            .into_iter()
            .flat_map(|finding| match finding.fix {
                Some(Fix::Sql { statements, .. }) => statements,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            statements,
            [
                "ALTER ROLE \"Möver\" REPLICATION",
                "GRANT USAGE ON SCHEMA \"S\" TO \"Möver\"",
                "GRANT \"app\" TO \"Möver\"",
                "GRANT CREATE ON DATABASE \"Shop\" TO \"Möver\"",
                "ALTER ROLE \"Möver\" BYPASSRLS",
            ]
        );
    }

    #[test]
    fn rds_has_a_role_in_place_of_the_attribute() {
        let mut server = ServerInfo { provider: Some(Provider::Rds), ..server() };
        let fix = Fix::sql(Side::Blue, vec!["GRANT rds_replication TO r".into()]);
        assert_eq!(replication(&server, "r").fix, Some(fix));
        server.role.rds_replication = true;
        assert_eq!(replication(&server, "r").severity, Severity::Ok);
    }
}
