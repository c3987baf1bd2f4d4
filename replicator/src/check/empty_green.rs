//! Family: is green ready for a copy of blue's schema.

use std::collections::BTreeSet;

use decoders::postgres::catalog::{
    EventTrigger, Extension, Relation, RelationKind, Role, SequenceInfo, ServerInfo, TableInfo,
    UserType, quote_ident,
};

use super::facts::Content;
use super::finding::{Finding, Fix, Side, count};

/// Green's objects by kind, of which there should be none.
pub(super) struct GreenObjects<'a> {
    pub tables: &'a [TableInfo],
    pub relations: &'a [Relation],
    pub sequences: &'a [SequenceInfo],
    pub types: &'a [UserType],
    pub content: &'a Content,
}

pub(super) fn not_empty(green: &GreenObjects<'_>) -> Finding {
    let named = |kind: &str, name: &dyn std::fmt::Display| format!("{kind} {name}");
    let mut objects: Vec<String> = Vec::new();
    objects.extend(green.tables.iter().map(|table| {
        let filled = green.content.filled.contains(&table.name);
        format!("table {}{}", table.name, if filled { " (with rows)" } else { "" })
    }));
    objects.extend(green.relations.iter().filter_map(|relation| {
        let kind = match relation.kind {
            RelationKind::View => "view",
            RelationKind::MaterializedView => "materialized view",
            RelationKind::ForeignTable => "foreign table",
            RelationKind::ExtensionConfig => return None,
        };
        Some(named(kind, &relation.name))
    }));
    let alone = green.sequences.iter().filter(|sequence| sequence.owned_by.is_none());
    objects.extend(alone.map(|sequence| named("sequence", &sequence.name)));
    objects.extend(green.types.iter().map(|user_type| named("type", &user_type.name)));
    objects.extend(green.content.functions.iter().map(|function| named("function", function)));
    if objects.is_empty() {
        return Finding::ok("green-not-empty", Side::Green, "green is empty");
    }
    Finding::blocker(
        "green-not-empty",
        Side::Green,
        "green holds objects already, and blue's schema is to be copied into it",
    )
    .evidence(count(objects.len(), "object"))
    .objects(objects)
    .fix(Fix::advice(
        "make sure that this really is green; then give it a fresh database, or keep what is there \
         with --schema existing",
    ))
}

/// Schemas without anything in them, which CREATE SCHEMA would trip over.
pub(super) fn schemas(blue: &[TableInfo], green: &[String]) -> Option<Finding> {
    let coming: BTreeSet<&str> = blue.iter().map(|table| table.name.schema.as_str()).collect();
    let there: Vec<String> = green
        .iter()
        .filter(|schema| *schema != "public" && coming.contains(schema.as_str()))
        .map(|schema| quote_ident(schema))
        .collect();
    (!there.is_empty()).then(|| {
        Finding::warning(
            "green-schemas",
            Side::Green,
            "schemas of blue exist on green already; they are used as they are",
        )
        .evidence(count(there.len(), "schema"))
        .objects(there)
    })
}

/// Roles that own or are granted something and that green does not have.
pub(super) fn roles(owners: bool, blue: &[Role], green: &[String]) -> Finding {
    let missing: Vec<&Role> = blue.iter().filter(|role| !green.contains(&role.name)).collect();
    if missing.is_empty() {
        return Finding::ok(
            "roles-missing",
            Side::Green,
            "green has every role that objects refer to",
        )
        .evidence(count(blue.len(), "role"));
    }
    let finding = if owners {
        Finding::blocker(
            "roles-missing",
            Side::Green,
            "roles that own something or have privileges on blue are missing on green",
        )
    } else {
        Finding::warning(
            "roles-missing",
            Side::Green,
            "roles of blue are missing on green; owners and privileges are not copied anyway",
        )
    };
    finding
        .evidence(format!(
            "{}; passwords and settings come along with: pg_dumpall --roles-only",
            count(missing.len(), "role")
        ))
        .objects(missing.iter().map(|role| quote_ident(&role.name)).collect())
        .fix(Fix::sql(Side::Green, missing.iter().map(|role| create_role(role)).collect()))
}

fn create_role(role: &Role) -> String {
    let mut sql = format!("CREATE ROLE {}", quote_ident(&role.name));
    let attributes = [
        (role.login, " LOGIN"),
        (!role.inherit, " NOINHERIT"),
        (role.create_role, " CREATEROLE"),
        (role.create_db, " CREATEDB"),
    ];
    for (wanted, attribute) in attributes {
        if wanted {
            sql.push_str(attribute);
        }
    }
    sql
}

pub(super) fn tablespaces(copied: bool, blue: &[TableInfo], green: &[String]) -> Option<Finding> {
    let used: BTreeSet<&str> =
        blue.iter().filter_map(|table| table.tablespace.as_deref()).collect();
    let missing: Vec<String> = used
        .into_iter()
        .filter(|name| !green.iter().any(|there| there == name))
        .map(quote_ident)
        .collect();
    if missing.is_empty() || !copied {
        return None;
    }
    Some(
        Finding::blocker(
            "tablespaces-missing",
            Side::Green,
            "tables of blue lie in tablespaces that green does not have",
        )
        .evidence(count(missing.len(), "tablespace"))
        .objects(missing)
        .fix(Fix::advice(
            "CREATE TABLESPACE .. LOCATION .. on green, or put everything into the default one \
             with schema.tablespaces = false",
        )),
    )
}

/// Extensions have to be on green: installed, or installable when the schema is copied.
pub(super) fn extensions(
    schema_exists: bool,
    blue: &[Extension],
    green: &[Extension],
    available: &[(String, Vec<String>)],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut unavailable, mut missing, mut older) = (Vec::new(), Vec::new(), Vec::new());
    for extension in blue {
        let installed = green.iter().find(|there| there.name == extension.name);
        let offered = available.iter().find(|(name, _)| *name == extension.name);
        let version = match (installed, offered) {
            (Some(there), _) => Some(there.version.as_str()),
            (None, Some((_, versions))) => {
                if schema_exists {
                    missing.push(extension);
                }
                versions.first().map(String::as_str)
            }
            (None, None) => {
                unavailable.push(format!("{} {}", quote_ident(&extension.name), extension.version));
                None
            }
        };
        if let Some(version) = version
            && is_older(version, &extension.version)
        {
            older.push(format!(
                "{}: blue {}, green {version}",
                quote_ident(&extension.name),
                extension.version
            ));
        }
    }
    if !unavailable.is_empty() {
        findings.push(
            Finding::blocker(
                "extensions-unavailable",
                Side::Green,
                "extensions of blue can't be installed on green",
            )
            .evidence(count(unavailable.len(), "extension"))
            .objects(unavailable)
            .fix(Fix::advice("install their packages on green's machine, for its major version")),
        );
    }
    if !missing.is_empty() {
        let create = |e: &&Extension| {
            let name = quote_ident(&e.name);
            let schema = quote_ident(&e.schema);
            // A schema that is not there yet is no excuse; pg_catalog can't be named in it.
            if e.schema == "pg_catalog" {
                format!("CREATE EXTENSION {name}")
            } else {
                format!("CREATE EXTENSION {name} SCHEMA {schema}")
            }
        };
        findings.push(
            Finding::blocker(
                "extensions-missing",
                Side::Green,
                "extensions of blue are not installed on green",
            )
            .evidence(count(missing.len(), "extension"))
            .objects(missing.iter().map(|extension| quote_ident(&extension.name)).collect())
            .fix(Fix::sql(Side::Green, missing.iter().map(create).collect())),
        );
    }
    if !older.is_empty() {
        findings.push(
            Finding::warning(
                "extensions-older",
                Side::Green,
                "green's extensions are older than blue's: their types and functions may be fewer",
            )
            .evidence(count(older.len(), "extension"))
            .objects(older),
        );
    }
    if findings.is_empty() {
        findings.push(
            Finding::ok(
                "extensions",
                Side::Green,
                "green has every extension of blue or can have it",
            )
            .evidence(count(blue.len(), "extension")),
        );
    }
    findings
}

/// Compares versions number by number; what is not a number does not count.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(version) < numbers(than)
}

/// Event triggers on blue: pg_dump takes them, creating them needs a superuser.
pub(super) fn blue_event_triggers(
    triggers: &[EventTrigger],
    green: &ServerInfo,
) -> Option<Finding> {
    if triggers.is_empty() || green.role.superuser {
        return None;
    }
    Some(
        Finding::warning(
            "event-triggers-copied",
            Side::Blue,
            "event triggers of blue can be made on green by a superuser only",
        )
        .evidence(count(triggers.len(), "event trigger"))
        .objects(triggers.iter().map(|trigger| quote_ident(&trigger.name)).collect())
        .fix(Fix::advice(
            "leave them out with schema.skip_kinds = [\"EVENT TRIGGER\"] and make them by hand",
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn extension(name: &str, version: &str) -> Extension {
        Extension { name: name.into(), version: version.into(), schema: "Ext".into() }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(is_older("1.9", "1.10"));
        assert!(is_older("2.5.5", "3.0"));
        assert!(!is_older("3.4.0dev", "3.4.0"));
        assert!(!is_older("1.10", "1.9"));
    }

    #[test]
    fn extensions_are_told_apart_by_what_to_do() {
        let blue = [extension("gone", "1.0"), extension("a-b", "1.2"), extension("old", "3.0")];
        let available = [
            ("a-b".to_owned(), vec!["1.2".to_owned()]),
            ("old".to_owned(), vec!["2.9".to_owned()]),
        ];
        let ids = |exists| -> Vec<(&str, usize)> {
            extensions(exists, &blue, &[], &available)
                .iter()
                .map(|finding| (finding.id, finding.objects.len()))
                .collect()
        };
        assert_eq!(ids(false), [("extensions-unavailable", 1), ("extensions-older", 1)]);
        assert_eq!(
            ids(true),
            [("extensions-unavailable", 1), ("extensions-missing", 2), ("extensions-older", 1)]
        );
        let findings = extensions(true, &blue[1..2], &[], &available);
        let fix = vec!["CREATE EXTENSION \"a-b\" SCHEMA \"Ext\"".to_owned()];
        assert_eq!(findings[0].fix, Some(Fix::sql(Side::Green, fix)));
        assert_eq!(extensions(true, &[], &[], &[])[0].severity, Severity::Ok);
    }

    #[test]
    fn missing_roles_come_with_their_attributes() {
        let role = Role {
            name: "App \"x\"".into(),
            login: true,
            inherit: false,
            create_role: false,
            create_db: true,
        };
        let finding = roles(true, std::slice::from_ref(&role), &["postgres".into()]);
        assert_eq!(finding.severity, Severity::Blocker);
        let create = vec!["CREATE ROLE \"App \"\"x\"\"\" LOGIN NOINHERIT CREATEDB".to_owned()];
        assert_eq!(finding.fix, Some(Fix::sql(Side::Green, create)));
        assert_eq!(roles(false, &[role], &[]).severity, Severity::Warning);
    }
}
