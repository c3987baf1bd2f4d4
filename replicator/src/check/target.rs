//! Family: what on green would act by itself while changes are applied.

use std::collections::BTreeSet;

use decoders::postgres::catalog::{EventTrigger, ServerInfo, TableInfo, quote_ident};

use super::finding::{Finding, Fix, Side, count};
use super::request::CheckRequest;

pub(super) fn settings(green: &ServerInfo) -> Vec<Finding> {
    let mut findings = Vec::new();
    if green.is_on("default_transaction_read_only") == Some(true) {
        let role = quote_ident(&green.role.name);
        let database = quote_ident(&green.database);
        findings.push(
            Finding::blocker("green-read-only", Side::Green, "green's sessions are read-only")
                .evidence("default_transaction_read_only = on")
                .fix(Fix::advice(format!(
                    "find where it is set and undo it: ALTER SYSTEM RESET default_transaction_read_only \
                     and SELECT pg_reload_conf(); ALTER DATABASE {database} RESET \
                     default_transaction_read_only; ALTER ROLE {role} RESET default_transaction_read_only",
                ))),
        );
    }
    if let Some(standbys) = green.setting("synchronous_standby_names").filter(|s| !s.is_empty()) {
        findings.push(
            Finding::warning(
                "green-synchronous",
                Side::Green,
                "green waits for its standbys: the copy is slower, and as long as a standby is away \
                 nothing that is applied becomes durable, blue keeps its log, and no cutover can happen",
            )
            .evidence(format!(
                "synchronous_standby_names = {standbys}, synchronous_commit = {}",
                green.setting("synchronous_commit").unwrap_or("unknown")
            ))
            .fix(Fix::advice("consider switching it on again only before the cutover")),
        );
    }
    findings
}

/// Triggers and rules that fire under `session_replication_role = replica`. Where the schema is
/// copied they are blue's, and will be on green.
pub(super) fn firing_triggers(request: &CheckRequest, tables: &[TableInfo]) -> Option<Finding> {
    let (mut objects, mut statements) = (Vec::new(), Vec::new());
    let mut owners = BTreeSet::new();
    for table in tables {
        let before = objects.len();
        for trigger in table.triggers.iter().filter(|t| t.firing.fires_on_replica()) {
            let name = quote_ident(&trigger.name);
            objects.push(format!("{}: trigger {name} calls {}", table.name, trigger.function));
            statements.push(format!("ALTER TABLE {} DISABLE TRIGGER {name}", table.name));
        }
        for rule in table.rules.iter().filter(|r| r.firing.fires_on_replica()) {
            let name = quote_ident(&rule.name);
            objects.push(format!("{}: rule {name}", table.name));
            statements.push(format!("ALTER TABLE {} DISABLE RULE {name}", table.name));
        }
        if objects.len() > before && !table.access.own {
            owners.insert(quote_ident(&table.owner));
        }
    }
    if objects.is_empty() {
        return None;
    }
    let evidence = count(objects.len(), "trigger or rule enabled ALWAYS or REPLICA");
    let owners: Vec<_> = owners.into_iter().collect();
    // Whose they are on blue says nothing about green.
    if request.schema_exists() && !owners.is_empty() && !request.accepts_triggers {
        let summary = "triggers or rules on green fire for replicated changes too, and our role may not switch them \
                       off until the flip: what they do would be done twice";
        return Some(
            Finding::blocker("triggers-fire", Side::Green, summary)
                .evidence(evidence)
                .objects(objects)
                .fix(Fix::Sql {
                    side: Side::Green,
                    statements,
                    then: Some(format!(
                        "and, so that the flip can enable them: GRANT {} TO our role",
                        owners.join(", ")
                    )),
                }),
        );
    }
    Some(match request.accepts_triggers {
        true => Finding::warning(
            "triggers-fire",
            Side::Green,
            "triggers or rules fire for replicated changes too, as apply.accept_triggers allows: what they do is \
             done twice",
        )
        .evidence(evidence)
        .objects(objects),
        false => Finding::ok(
            "triggers-fire",
            Side::Green,
            "triggers or rules that fire for replicated changes too are off on green until the flip, which gives \
             them blue's states",
        )
        .evidence(evidence)
        .objects(objects),
    })
}

/// Without the right to `session_replication_role`, everything that fires for applications fires.
pub(super) fn replica_role(
    allowed: &Result<(), String>,
    green: &ServerInfo,
    tables: &[TableInfo],
) -> Finding {
    let Err(refusal) = allowed else {
        let summary = "triggers and foreign keys on green rest while changes are applied";
        return Finding::ok("replica-role", Side::Green, summary);
    };
    let mut objects = Vec::new();
    for table in tables {
        let triggers = table.triggers.iter().filter(|t| t.firing.fires_on_origin());
        objects
            .extend(triggers.map(|t| format!("{}: trigger {}", table.name, quote_ident(&t.name))));
        let keys = table.foreign_keys.iter();
        objects
            .extend(keys.map(|k| format!("{}: foreign key {}", table.name, quote_ident(&k.name))));
    }
    let finding = Finding::warning(
        "replica-role",
        Side::Green,
        "the role may not set session_replication_role: triggers and foreign keys on green act on \
         replicated changes, so triggers have to be disabled and foreign keys made last",
    )
    .evidence(refusal)
    .objects(objects);
    let role = quote_ident(&green.role.name);
    if green.major() >= 15 {
        let grant = format!("GRANT SET ON PARAMETER session_replication_role TO {role}");
        finding.fix(Fix::sql(Side::Green, vec![grant]))
    } else {
        finding.fix(Fix::advice(
            "connect to green as a superuser, or as the service's administrator role",
        ))
    }
}

/// Event triggers run while the schema is made, with the application's rules.
pub(super) fn event_triggers(request: &CheckRequest, green: &[EventTrigger]) -> Option<Finding> {
    let acting: Vec<&EventTrigger> = green
        .iter()
        .filter(|trigger| {
            trigger.firing.fires_on_replica()
                || (!request.schema_exists() && trigger.firing.fires_on_origin())
        })
        .collect();
    if acting.is_empty() {
        return None;
    }
    let events: BTreeSet<&str> = acting.iter().map(|trigger| trigger.event.as_str()).collect();
    Some(
        Finding::warning(
            "event-triggers",
            Side::Green,
            "event triggers on green act on what the engine does there",
        )
        .evidence(format!(
            "{} on {}",
            count(acting.len(), "event trigger"),
            events.into_iter().collect::<Vec<_>>().join(", ")
        ))
        .objects(acting.iter().map(|trigger| quote_ident(&trigger.name)).collect())
        .fix(Fix::Sql {
            side: Side::Green,
            statements: acting
                .iter()
                .map(|t| format!("ALTER EVENT TRIGGER {} DISABLE", quote_ident(&t.name)))
                .collect(),
            then: Some("enable them again at the cutover".into()),
        }),
    )
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;
    use decoders::ReplicaIdentity::Full;
    use decoders::postgres::catalog::{Firing, Rule, Trigger};

    use super::super::finding::Severity;
    use super::super::fixture::table;
    use super::*;
    use crate::schema::SchemaMode;

    fn with_triggers() -> TableInfo {
        let trigger = |name: &str, firing| Trigger {
            name: name.into(),
            firing,
            function: QualifiedName::new("S", "f"),
            row_level: true,
        };
        let mut table = table("T", Full, vec![]);
        table.triggers = vec![
            trigger("usual", Firing::Origin),
            trigger("Always", Firing::Always),
            trigger("off", Firing::Disabled),
        ];
        table.rules = vec![Rule { name: "r".into(), firing: Firing::Replica, instead: false }];
        table
    }

    #[test]
    fn what_fires_under_the_replica_role_blocks_where_it_can_not_be_switched() {
        let mut request = CheckRequest::new("main");
        let mut tables = [with_triggers()];
        let severity = |request: &CheckRequest, tables: &[TableInfo]| {
            firing_triggers(request, tables).unwrap().severity
        };
        assert_eq!(severity(&request, &tables), Severity::Ok);
        request.schema = SchemaMode::Existing;
        tables[0].access.own = true;
        assert_eq!(severity(&request, &tables), Severity::Ok);
        request.accepts_triggers = true;
        assert_eq!(severity(&request, &tables), Severity::Warning);
        request.accepts_triggers = false;
        tables[0].access.own = false;
        let existing = firing_triggers(&request, &tables).unwrap();
        assert_eq!((existing.severity, existing.side), (Severity::Blocker, Side::Green));
        assert_eq!(existing.objects.len(), 2);
        assert!(matches!(existing.fix, Some(Fix::Sql { statements, .. }) if statements == [
            "ALTER TABLE \"S\".\"T\" DISABLE TRIGGER \"Always\"",
            "ALTER TABLE \"S\".\"T\" DISABLE RULE \"r\"",
        ]));
    }

    #[test]
    fn without_the_replica_role_the_usual_triggers_matter() {
        let mut green = ServerInfo { version_num: 150_000, ..ServerInfo::default() };
        green.role.name = "m".into();
        let refused = replica_role(&Err("denied".into()), &green, &[with_triggers()]);
        assert_eq!(refused.objects.len(), 2);
        assert!(matches!(refused.fix, Some(Fix::Sql { .. })));
        green.version_num = 140_000;
        let older = replica_role(&Err("denied".into()), &green, &[]);
        assert!(matches!(older.fix, Some(Fix::Advice { .. })));
        assert_eq!(replica_role(&Ok(()), &green, &[]).severity, Severity::Ok);
    }

    #[test]
    fn settings_of_green_are_looked_at() {
        use decoders::postgres::catalog::Setting;
        let mut green = ServerInfo::default();
        let on = |value: &str| Setting { value: value.into(), unit: None };
        green.settings.insert("default_transaction_read_only".into(), on("on"));
        green.settings.insert("synchronous_standby_names".into(), on("a"));
        let ids: Vec<_> = settings(&green).iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["green-read-only", "green-synchronous"]);
        assert!(settings(&ServerInfo::default()).is_empty());
    }
}
