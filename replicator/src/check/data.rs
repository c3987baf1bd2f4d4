//! Family: what is on blue and is in no change stream.

use decoders::postgres::catalog::{
    Extension, LargeObjects, Persistence, Relation, RelationKind, Subscription, TableInfo,
};

use super::finding::{Finding, Fix, Side, count};

pub(super) fn tables(tables: &[TableInfo]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let unlogged: Vec<&TableInfo> =
        tables.iter().filter(|table| table.persistence == Persistence::Unlogged).collect();
    if !unlogged.is_empty() {
        findings.push(
            Finding::warning(
                "unlogged-tables",
                Side::Blue,
                "changes of unlogged tables are not in the log: they will be empty on green",
            )
            .evidence(count(unlogged.len(), "table"))
            .objects(names(&unlogged))
            .fix(Fix::sql(
                Side::Blue,
                unlogged.iter().map(|t| format!("ALTER TABLE {} SET LOGGED", t.name)).collect(),
            )),
        );
    }
    let children: Vec<&TableInfo> =
        tables.iter().filter(|table| !table.inherits.is_empty()).collect();
    if !children.is_empty() {
        findings.push(
            Finding::warning(
                "inheritance",
                Side::Blue,
                "tables that inherit (not partitions): parent and children are moved each by itself, \
                 so a filter has to take them together",
            )
            .evidence(count(children.len(), "child table"))
            .objects(names(&children)),
        );
    }
    let ruled: Vec<String> = tables
        .iter()
        .flat_map(|table| {
            table.rules.iter().map(move |rule| format!("{}: {:?}", table.name, rule.name))
        })
        .collect();
    if !ruled.is_empty() {
        findings.push(
            Finding::warning(
                "rules",
                Side::Blue,
                "rules rewrite statements on blue; what they caused is replicated as rows, and on \
                 green they act again only once it is in production",
            )
            .evidence(count(ruled.len(), "rule"))
            .objects(ruled),
        );
    }
    findings
}

fn materialized_views(views: &[&Relation], refreshes: bool) -> Finding {
    const ID: &str = "materialized-views";
    let names = views.iter().map(|view| view.name.to_string());
    let evidence = count(views.len(), "materialized view");
    if refreshes {
        let summary = "what materialized views hold is not replicated; a cutover refreshes those of green \
                       before it holds clients";
        return Finding::ok(ID, Side::Blue, summary).evidence(evidence).objects(names.collect());
    }
    let summary = "what materialized views hold is not replicated; on green they are as old as their last refresh";
    let statements = views.iter().map(|view| format!("REFRESH MATERIALIZED VIEW {}", view.name));
    let statements = statements.collect::<Vec<_>>().join("; ");
    Finding::warning(ID, Side::Blue, summary)
        .evidence(evidence)
        .objects(names.collect())
        .fix(Fix::advice(format!("refresh them on green before the cutover: {statements}")))
}

/// What is no table. `refreshes`: a cutover refreshes green's materialized views.
pub(super) fn relations(relations: &[Relation], refreshes: bool) -> Vec<Finding> {
    let of = |kind| -> Vec<&Relation> { relations.iter().filter(|r| r.kind == kind).collect() };
    let listed = |relations: &[&Relation]| relations.iter().map(|r| r.name.to_string()).collect();
    let mut findings = Vec::new();
    let foreign = of(RelationKind::ForeignTable);
    if !foreign.is_empty() {
        findings.push(
            Finding::warning(
                "foreign-tables",
                Side::Blue,
                "rows of foreign tables live on another server and are not moved; green has to \
                 reach that server itself",
            )
            .evidence(count(foreign.len(), "foreign table"))
            .objects(listed(&foreign))
            .fix(Fix::advice(
                "check foreign servers and user mappings on green before the cutover",
            )),
        );
    }
    let materialized = of(RelationKind::MaterializedView);
    if !materialized.is_empty() {
        findings.push(materialized_views(&materialized, refreshes));
    }
    let configuration: Vec<String> = relations
        .iter()
        .filter(|relation| relation.kind == RelationKind::ExtensionConfig)
        .map(|r| format!("{} of {}", r.name, r.extension.as_deref().unwrap_or("an extension")))
        .collect();
    if !configuration.is_empty() {
        findings.push(
            Finding::warning(
                "extension-tables",
                Side::Blue,
                "tables of extensions hold configuration; they are left to the extension and do \
                 not follow changes",
            )
            .evidence(count(configuration.len(), "table"))
            .objects(configuration)
            .fix(Fix::advice("compare them on green before the cutover")),
        );
    }
    findings
}

pub(super) fn large_objects(large_objects: LargeObjects) -> Finding {
    if large_objects.count == 0 {
        return Finding::ok("large-objects", Side::Blue, "no large objects");
    }
    let evidence = if large_objects.count >= LargeObjects::COUNT_LIMIT {
        format!("{} or more", large_objects.count)
    } else {
        large_objects.count.to_string()
    };
    Finding::blocker(
        "large-objects",
        Side::Blue,
        "large objects are in no change stream: they would be missing on green",
    )
    .evidence(format!("{evidence} in pg_largeobject_metadata"))
    .fix(Fix::advice(
        "move their content into bytea columns, or copy them yourself while nothing writes \
         (pg_dump --large-objects), or remove what nothing refers to with vacuumlo",
    ))
    .acceptable()
}

pub(super) fn subscriptions(subscriptions: &[Subscription]) -> Option<Finding> {
    if subscriptions.is_empty() {
        return None;
    }
    Some(
        Finding::warning(
            "subscriptions",
            Side::Blue,
            "blue receives changes from elsewhere; after the cutover nobody does that on green",
        )
        .evidence(count(subscriptions.len(), "subscription"))
        .objects(subscriptions.iter().map(|s| s.name.clone()).collect())
        .fix(Fix::advice("plan how green takes over each subscription")),
    )
}

/// Extensions that keep tables' rows in places of their own: what a table looks like from outside is
/// neither in its files nor in the stream under its name.
pub(super) fn unmovable_extensions(extensions: &[Extension]) -> Option<Finding> {
    const UNMOVABLE: [&str; 2] = ["timescaledb", "citus"];
    let found = named(extensions, &UNMOVABLE);
    (!found.is_empty()).then(|| {
        Finding::blocker(
            "unmovable-extensions",
            Side::Blue,
            "extensions that keep rows in chunks or shards of their own, which this can't move",
        )
        .evidence(count(found.len(), "extension"))
        .objects(found)
        .fix(Fix::advice(
            "move this database with the extension's own means; if no table uses it, DROP EXTENSION",
        ))
    })
}

fn named(extensions: &[Extension], names: &[&str]) -> Vec<String> {
    extensions
        .iter()
        .filter(|extension| names.contains(&extension.name.as_str()))
        .map(|extension| format!("{} {}", extension.name, extension.version))
        .collect()
}

/// Extensions that keep data of their own outside of ordinary tables' rules.
pub(super) fn special_extensions(extensions: &[Extension]) -> Option<Finding> {
    const SPECIAL: [&str; 2] = ["pg_partman", "pg_cron"];
    let found = named(extensions, &SPECIAL);
    (!found.is_empty()).then(|| {
        Finding::warning(
            "special-extensions",
            Side::Blue,
            "extensions with state of their own (configuration, jobs), which is not moved",
        )
        .evidence(count(found.len(), "extension"))
        .objects(found)
        .fix(Fix::advice("check how each is to be set up on green; its jobs must not run on both"))
    })
}

fn names(tables: &[&TableInfo]) -> Vec<String> {
    tables.iter().map(|table| table.name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;
    use decoders::ReplicaIdentity::Full;

    use super::super::finding::Severity;
    use super::super::fixture::table;
    use super::*;

    #[test]
    fn what_does_not_travel_is_named() {
        let mut unlogged = table("U", Full, vec![]);
        unlogged.persistence = Persistence::Unlogged;
        let mut child = table("child", Full, vec![]);
        child.inherits = vec![7];
        let findings = tables(&[unlogged, child]);
        let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["unlogged-tables", "inheritance"]);
        let fix = Fix::sql(Side::Blue, vec!["ALTER TABLE \"S\".\"U\" SET LOGGED".into()]);
        assert_eq!(findings[0].fix, Some(fix));
    }

    #[test]
    fn relations_are_sorted_by_what_they_mean() {
        let relation = |kind| Relation {
            oid: 1,
            name: QualifiedName::new("S", "r"),
            kind,
            owner: "o".into(),
            populated: true,
            extension: Some("postgis".into()),
        };
        use RelationKind::{ExtensionConfig, ForeignTable, MaterializedView, View};
        let all = [ExtensionConfig, ForeignTable, MaterializedView, View].map(relation);
        let ids: Vec<_> = relations(&all, false).iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["foreign-tables", "materialized-views", "extension-tables"]);
        let severity = |refreshes| relations(&all, refreshes)[1].severity;
        assert_eq!((severity(true), severity(false)), (Severity::Ok, Severity::Warning));
    }

    #[test]
    fn extensions_with_rows_of_their_own_block() {
        let extension = |name: &str| Extension {
            name: name.into(),
            version: "1".into(),
            schema: "public".into(),
        };
        for name in ["timescaledb", "citus"] {
            let finding = unmovable_extensions(&[extension("hstore"), extension(name)]).unwrap();
            assert_eq!(
                (finding.severity, finding.objects),
                (Severity::Blocker, vec![format!("{name} 1")])
            );
        }
        assert_eq!(unmovable_extensions(&[extension("pg_cron")]), None);
        assert_eq!(
            special_extensions(&[extension("pg_cron")]).unwrap().severity,
            Severity::Warning
        );
    }

    #[test]
    fn large_objects_block_unless_accepted() {
        assert_eq!(large_objects(LargeObjects { count: 0 }).severity, Severity::Ok);
        let some = large_objects(LargeObjects { count: 1 });
        assert!(some.severity == Severity::Blocker && some.acceptable);
    }
}
