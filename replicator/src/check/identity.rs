//! Family: can each row that changes be told apart.

use decoders::postgres::catalog::{MissingIdentity, ResolvedIdentity, TableInfo, quote_ident};

use super::finding::{Finding, Fix, Side, count};

pub(super) fn evaluate(tables: &[TableInfo]) -> Vec<Finding> {
    let decoded: Vec<&TableInfo> = tables.iter().filter(|table| table.is_decoded()).collect();
    let mut findings = vec![missing(&decoded)];
    findings.extend(full(&decoded));
    findings.extend(incomparable(&decoded));
    findings.extend(nondeterministic(&decoded));
    findings
}

fn missing(tables: &[&TableInfo]) -> Finding {
    let missing: Vec<(&TableInfo, MissingIdentity)> = tables
        .iter()
        .filter_map(|table| match table.identity {
            ResolvedIdentity::Missing(why) => Some((*table, why)),
            _ => None,
        })
        .collect();
    if missing.is_empty() {
        return Finding::ok("identity-missing", Side::Blue, "every table has a replica identity")
            .evidence(count(tables.len(), "table"));
    }
    Finding::blocker(
        "identity-missing",
        Side::Blue,
        "tables without a replica identity: once they are published, the application's own \
         UPDATE and DELETE on them fail on blue",
    )
    .evidence(count(missing.len(), "table"))
    .objects(
        missing.iter().map(|(table, why)| format!("{}: {}", table.name, reason(*why))).collect(),
    )
    .fix(Fix::sql(
        Side::Blue,
        missing.iter().filter_map(|(table, why)| remedy_of(table, *why)).collect(),
    ))
}

fn reason(why: MissingIdentity) -> &'static str {
    match why {
        MissingIdentity::NoPrimaryKey => "no primary key",
        MissingIdentity::DeferrablePrimaryKey => {
            "the primary key is DEFERRABLE or not valid, so it identifies nothing"
        }
        MissingIdentity::IndexGone => "the index that REPLICA IDENTITY names is gone or not valid",
        MissingIdentity::GeneratedKey => {
            "a column of its key is generated: it is not in the stream, so no row can be found by it"
        }
        MissingIdentity::GeneratedRefused => {
            "a column of its identity is generated, which this version refuses; FULL would be, too: it needs a \
             unique index over NOT NULL columns that are not generated, or has to be excluded (tables.exclude)"
        }
        MissingIdentity::Nothing => "REPLICA IDENTITY NOTHING",
    }
}

/// Nothing, where only another index would help and there is none.
fn remedy_of(table: &TableInfo, why: MissingIdentity) -> Option<String> {
    let has_index = table.unique_indexes.iter().any(|index| index.can_identify(&table.columns));
    (has_index || why != MissingIdentity::GeneratedRefused).then(|| remedy(table))
}

/// The cheapest identity that the table's definition allows: the primary key, a unique index over
/// NOT NULL columns (the one with the fewest), else the whole row.
fn remedy(table: &TableInfo) -> String {
    let usable = || table.unique_indexes.iter().filter(|index| index.can_identify(&table.columns));
    let identity = if usable().any(|index| index.primary) {
        "DEFAULT".to_owned()
    } else {
        match usable().min_by_key(|index| index.columns.len()) {
            Some(index) => format!("USING INDEX {}", quote_ident(&index.name)),
            None => "FULL".to_owned(),
        }
    };
    format!("ALTER TABLE {} REPLICA IDENTITY {identity}", table.name)
}

/// FULL works, at a price: whole old rows in the log, and a search for each on green.
fn full(tables: &[&TableInfo]) -> Option<Finding> {
    let full: Vec<&&TableInfo> =
        tables.iter().filter(|table| table.identity == ResolvedIdentity::Full).collect();
    if full.is_empty() {
        return None;
    }
    let better: Vec<String> = full
        .iter()
        .filter(|table| table.unique_indexes.iter().any(|i| i.can_identify(&table.columns)))
        .map(|table| remedy(table))
        .collect();
    let finding = Finding::warning(
        "identity-full",
        Side::Blue,
        "REPLICA IDENTITY FULL: every UPDATE and DELETE logs the whole old row, and finding that \
         row on green is slow in a large table",
    )
    .evidence(count(full.len(), "table"))
    .objects(full.iter().map(|table| table.name.to_string()).collect());
    Some(if better.is_empty() { finding } else { finding.fix(Fix::sql(Side::Blue, better)) })
}

/// Under FULL rows are found by comparing all columns, which some types have no `=` for.
fn incomparable(tables: &[&TableInfo]) -> Option<Finding> {
    let objects: Vec<String> = tables
        .iter()
        .filter(|table| table.identity == ResolvedIdentity::Full)
        .flat_map(|table| {
            table.copied_columns().filter(|column| !column.comparable).map(|column| {
                format!("{}.{} ({})", table.name, quote_ident(&column.name), column.type_name)
            })
        })
        .collect();
    (!objects.is_empty()).then(|| {
        Finding::warning(
            "identity-full-incomparable",
            Side::Blue,
            "rows are found by all their columns, and these have types without an equality \
             operator: they are compared by their text",
        )
        .evidence(count(objects.len(), "column"))
        .objects(objects)
    })
}

/// Keys under a nondeterministic collation: unequal bytes can be one key.
fn nondeterministic(tables: &[&TableInfo]) -> Option<Finding> {
    let objects: Vec<String> = tables
        .iter()
        .flat_map(|table| {
            let keys = table.key_columns().unwrap_or_default();
            keys.into_iter()
                .filter(|column| !column.deterministic)
                .map(|column| format!("{}.{}", table.name, quote_ident(&column.name)))
        })
        .collect();
    (!objects.is_empty()).then(|| {
        Finding::warning(
            "identity-nondeterministic",
            Side::Blue,
            "key columns with a nondeterministic collation: different spellings are the same key, \
             and must be on green too",
        )
        .evidence(count(objects.len(), "column"))
        .objects(objects)
    })
}

#[cfg(test)]
mod tests {
    use decoders::ReplicaIdentity::{Default, Full, Nothing};
    use decoders::postgres::catalog::{Persistence, TableKind};

    use super::super::finding::Severity;
    use super::super::fixture::{table, unique};
    use super::*;

    fn statements(finding: &Finding) -> &[String] {
        match &finding.fix {
            Some(Fix::Sql { statements, .. }) => statements,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_cheapest_identity_is_suggested() {
        let nullable = {
            let mut table = table("nullable", Default, vec![unique("u", &[1], false)]);
            table.columns[0].not_null = false;
            table
        };
        let tables = [
            table("pk", Default, vec![unique("pk", &[1], true)]),
            table("off", Nothing, vec![unique("pk", &[1], true)]),
            table("two", Default, vec![unique("wide", &[1, 2], false), unique("b", &[2], false)]),
            table("expression", Default, vec![unique("e", &[0], false)]),
            nullable,
        ];
        let findings = evaluate(&tables);
        assert_eq!(findings[0].severity, Severity::Blocker);
        assert_eq!(
            statements(&findings[0]),
            [
                "ALTER TABLE \"S\".\"off\" REPLICA IDENTITY DEFAULT",
                "ALTER TABLE \"S\".\"two\" REPLICA IDENTITY USING INDEX \"b\"",
                "ALTER TABLE \"S\".\"expression\" REPLICA IDENTITY FULL",
                "ALTER TABLE \"S\".\"nullable\" REPLICA IDENTITY FULL",
            ]
        );
    }

    #[test]
    fn only_what_is_decoded_needs_an_identity() {
        let mut root = table("root", Default, vec![]);
        root.kind = TableKind::PartitionRoot;
        let mut unlogged = table("unlogged", Default, vec![]);
        unlogged.persistence = Persistence::Unlogged;
        let findings = evaluate(&[root, unlogged]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Ok);
    }

    #[test]
    fn full_is_warned_of_and_a_better_index_named() {
        let mut bare = table("bare", Full, vec![]);
        bare.columns[1].comparable = false;
        let findings = evaluate(&[bare, table("better", Full, vec![unique("b", &[2], false)])]);
        let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["identity-missing", "identity-full", "identity-full-incomparable"]);
        assert_eq!(
            statements(&findings[1]),
            ["ALTER TABLE \"S\".\"better\" REPLICA IDENTITY USING INDEX \"b\""]
        );
    }
}
