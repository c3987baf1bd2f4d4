//! Family: what green's role may make for others, and whether it can close green for the way back.

use std::collections::BTreeSet;

use decoders::postgres::catalog::{Extension, ServerInfo, TableInfo, quote_ident};

use super::facts::Powers;
use super::finding::{Finding, Fix, Side, count};

/// What the copy of the schema needs beyond its own objects.
pub(super) fn of_schema(
    owners: bool,
    server: &ServerInfo,
    powers: &Powers,
    [blue, green]: [&[Extension]; 2],
    tables: &[TableInfo],
    green_roles: &[String],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Services let their own administrators create what they offer.
    if server.provider.is_none() {
        findings.extend(untrusted(powers, blue, green));
    }
    if owners && !server.role.superuser {
        findings.extend(unsettable(server, powers, tables, green_roles));
    }
    findings
}

fn untrusted(powers: &Powers, blue: &[Extension], green: &[Extension]) -> Option<Finding> {
    let is_there = |name: &String| green.iter().any(|there| there.name == *name);
    let refused: Vec<String> = blue
        .iter()
        .map(|extension| &extension.name)
        .filter(|name| powers.superuser_extensions.contains(name) && !is_there(name))
        .map(|name| quote_ident(name))
        .collect();
    (!refused.is_empty()).then(|| {
        Finding::blocker(
            "extensions-untrusted",
            Side::Green,
            "extensions of blue may be created by superusers only, and the role on green is none",
        )
        .evidence(count(refused.len(), "extension"))
        .objects(refused.clone())
        .fix(Fix::Sql {
            side: Side::Green,
            statements: refused
                .iter()
                .map(|name| format!("CREATE EXTENSION IF NOT EXISTS {name}"))
                .collect(),
            then: Some("nothing: run them as a superuser, in green's database".into()),
        })
    })
}

fn unsettable(
    server: &ServerInfo,
    powers: &Powers,
    tables: &[TableInfo],
    green_roles: &[String],
) -> Option<Finding> {
    let role = quote_ident(&server.role.name);
    let owners: BTreeSet<&String> = tables
        .iter()
        .map(|table| &table.owner)
        .filter(|owner| powers.unsettable_roles.contains(owner) || !green_roles.contains(owner))
        .collect();
    (!owners.is_empty()).then(|| {
        Finding::blocker(
            "roles-unsettable",
            Side::Green,
            "the role on green may not give objects to their owners",
        )
        .evidence(format!("{} that {role} can't SET ROLE to", count(owners.len(), "owner")))
        .objects(owners.iter().map(|owner| quote_ident(owner)).collect())
        .fix(Fix::sql(
            Side::Green,
            owners.iter().map(|owner| format!("GRANT {} TO {role}", quote_ident(owner))).collect(),
        ))
    })
}

/// A rollback closes green as a cutover closes blue. Without the rights a rollback is refused, which
/// is late to hear of it.
pub(super) fn of_fence(server: &ServerInfo, powers: &Powers) -> Option<Finding> {
    let role = quote_ident(&server.role.name);
    let mut statements = Vec::new();
    if !powers.may_signal {
        statements.push(format!("GRANT pg_signal_backend TO {role}"));
    }
    if !powers.may_alter_database {
        let database = quote_ident(&server.database);
        statements.push(format!("ALTER DATABASE {database} OWNER TO {role}"));
    }
    (!statements.is_empty()).then(|| {
        Finding::warning(
            "green-fence",
            Side::Green,
            "the role may not close green to its clients, so there will be no way back by rollback",
        )
        .evidence(match (powers.may_signal, powers.may_alter_database) {
            (true, _) => format!("role {role} does not own the database"),
            (false, true) => format!("role {role} may not end sessions of other roles"),
            (false, false) => format!(
                "role {role} does not own the database and may not end sessions of other roles"
            ),
        })
        .fix(Fix::sql(Side::Green, statements))
    })
}

#[cfg(test)]
mod tests {
    use decoders::ReplicaIdentity::Full;

    use super::super::finding::Severity;
    use super::super::fixture::table;
    use super::*;

    fn server() -> ServerInfo {
        let mut server = ServerInfo { database: "Shop".into(), ..ServerInfo::default() };
        server.role.name = "mover".into();
        server
    }

    fn extension(name: &str) -> Extension {
        Extension { name: name.into(), version: "1".into(), schema: "public".into() }
    }

    fn statements(finding: &Finding) -> &[String] {
        match &finding.fix {
            Some(Fix::Sql { statements, .. }) => statements,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_only_a_superuser_may_make_is_named_before_anything_is_made() {
        let powers = Powers {
            superuser_extensions: vec!["pgstattuple".into()],
            unsettable_roles: vec!["app".into()],
            ..Powers::default()
        };
        let blue = [extension("pgstattuple"), extension("citext")];
        let tables = [table("t", Full, vec![])];
        let roles = ["app".to_owned()];
        let found = of_schema(true, &server(), &powers, [&blue, &[]], &tables, &roles);
        assert!(found.iter().all(|finding| finding.severity == Severity::Blocker));
        assert_eq!(statements(&found[0]), ["CREATE EXTENSION IF NOT EXISTS \"pgstattuple\""]);
        assert_eq!(statements(&found[1]), ["GRANT \"app\" TO \"mover\""]);
        let installed = [extension("pgstattuple")];
        let found = of_schema(false, &server(), &powers, [&blue, &installed], &tables, &roles);
        assert_eq!(found, []);
    }

    #[test]
    fn the_rights_for_the_way_back_are_asked_for_in_time() {
        let finding = of_fence(&server(), &Powers::default()).unwrap();
        assert_eq!(
            statements(&finding),
            ["GRANT pg_signal_backend TO \"mover\"", "ALTER DATABASE \"Shop\" OWNER TO \"mover\""]
        );
        let powers = Powers { may_signal: true, may_alter_database: true, ..Powers::default() };
        assert_eq!(of_fence(&server(), &powers), None);
    }
}
