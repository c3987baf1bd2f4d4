//! Family: things that green's version no longer has.

use decoders::postgres::catalog::{ColumnInfo, TableInfo, quote_ident};

use super::facts::Legacy;
use super::finding::{Finding, Fix, Side, count};

/// `abstime`, `reltime`, `tinterval` and their arrays (removed in 12), with what replaces them.
const REMOVED_TYPES: [(u32, Option<&str>); 6] = [
    (702, Some("timestamp with time zone")),
    (703, Some("interval")),
    (704, None),
    (1023, Some("timestamp with time zone[]")),
    (1024, Some("interval[]")),
    (1025, None),
];

/// `unknown` as a column's type (not allowed since 10, but kept by upgrades).
const UNKNOWN: u32 = 705;

/// Types that hold OIDs of objects as names: `regproc`, `regprocedure`, `regoper`, `regoperator`,
/// `regclass`, `regtype`, `regrole`, `regnamespace`, `regconfig`, `regdictionary`, `regcollation`.
const OBJECT_TYPES: [u32; 11] = [24, 2202, 2203, 2204, 2205, 2206, 4096, 4089, 3734, 3769, 4191];

pub(super) fn tables(green_major: u32, tables: &[TableInfo]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let with_oids: Vec<&TableInfo> = tables.iter().filter(|table| table.has_oids).collect();
    if green_major >= 12 && !with_oids.is_empty() {
        findings.push(
            Finding::blocker(
                "with-oids",
                Side::Blue,
                "tables WITH OIDS are not possible since PostgreSQL 12, and the hidden column does \
                 not travel",
            )
            .evidence(count(with_oids.len(), "table"))
            .objects(with_oids.iter().map(|table| table.name.to_string()).collect())
            .fix(Fix::sql(
                Side::Blue,
                with_oids
                    .iter()
                    .map(|table| format!("ALTER TABLE {} SET WITHOUT OIDS", table.name))
                    .collect(),
            )),
        );
    }
    if green_major >= 12 {
        findings.extend(removed_types(tables));
    }
    let objects = columns(tables, |column| OBJECT_TYPES.contains(&column.type_oid));
    if !objects.is_empty() {
        findings.push(
            Finding::warning(
                "object-columns",
                Side::Blue,
                "columns refer to database objects (reg.. types): the objects must be on green \
                 before the rows",
            )
            .evidence(count(objects.len(), "column"))
            .objects(objects.iter().map(|(text, ..)| text.clone()).collect()),
        );
    }
    findings
}

fn removed_types(tables: &[TableInfo]) -> Option<Finding> {
    let removed = columns(tables, |column| {
        column.type_oid == UNKNOWN || REMOVED_TYPES.iter().any(|(oid, _)| *oid == column.type_oid)
    });
    if removed.is_empty() {
        return None;
    }
    let statements: Vec<String> = removed
        .iter()
        .filter_map(|(_, table, column)| {
            let replacement = match column.type_oid {
                UNKNOWN => "text",
                oid => REMOVED_TYPES.iter().find(|(removed, _)| *removed == oid)?.1?,
            };
            let name = quote_ident(&column.name);
            Some(format!(
                "ALTER TABLE {} ALTER COLUMN {name} TYPE {replacement} USING {name}::{replacement}",
                table.name
            ))
        })
        .collect();
    let finding = Finding::blocker(
        "removed-types",
        Side::Blue,
        "columns have types that green's version does not have",
    )
    .evidence(count(removed.len(), "column"))
    .objects(removed.iter().map(|(text, ..)| text.clone()).collect());
    Some(if statements.len() == removed.len() {
        finding.fix(Fix::sql(Side::Blue, statements))
    } else {
        finding
            .fix(Fix::advice("change the columns' types on blue; tinterval becomes two timestamps"))
    })
}

fn columns(
    tables: &[TableInfo],
    wanted: impl Fn(&ColumnInfo) -> bool,
) -> Vec<(String, &TableInfo, &ColumnInfo)> {
    let mut found = Vec::new();
    for table in tables {
        for column in table.columns.iter().filter(|column| wanted(column)) {
            let name = quote_ident(&column.name);
            found.push((format!("{}.{name} {}", table.name, column.type_name), table, column));
        }
    }
    found
}

pub(super) fn objects(green_major: u32, copied: bool, legacy: &Legacy) -> Vec<Finding> {
    let mut findings = Vec::new();
    if green_major >= 14 && copied {
        if !legacy.postfix_operators.is_empty() {
            let drops = legacy.postfix_operators.iter().map(|o| format!("DROP OPERATOR {o}"));
            findings.push(
                Finding::blocker(
                    "postfix-operators",
                    Side::Blue,
                    "postfix operators are not possible since PostgreSQL 14",
                )
                .evidence(count(legacy.postfix_operators.len(), "operator"))
                .fix(Fix::sql(Side::Blue, drops.collect()))
                .objects(legacy.postfix_operators.clone()),
            );
        }
        if !legacy.old_polymorphics.is_empty() {
            findings.push(
                Finding::blocker(
                    "old-polymorphics",
                    Side::Blue,
                    "aggregates or operators use array functions whose arguments changed in \
                     PostgreSQL 14",
                )
                .evidence(count(legacy.old_polymorphics.len(), "object"))
                .objects(legacy.old_polymorphics.clone())
                .fix(Fix::advice(
                    "drop them on blue and make them again on green with anycompatiblearray and \
                     anycompatible",
                )),
            );
        }
    }
    if copied && !legacy.c_functions.is_empty() {
        findings.push(
            Finding::warning(
                "c-functions",
                Side::Blue,
                "functions in C outside of extensions: green's machine needs their libraries",
            )
            .evidence(count(legacy.c_functions.len(), "function"))
            .objects(legacy.c_functions.clone()),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use decoders::ReplicaIdentity::Full;

    use super::super::fixture::table;
    use super::*;

    #[test]
    fn removed_types_matter_from_12_on() {
        let mut old = table("T", Full, vec![]);
        old.has_oids = true;
        old.columns[1].type_oid = 702;
        old.columns[1].type_name = "abstime".into();
        let all = [old];
        assert!(tables(11, &all).is_empty());
        let findings = tables(12, &all);
        let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["with-oids", "removed-types"]);
        let alter = "ALTER TABLE \"S\".\"T\" ALTER COLUMN \"B\" TYPE timestamp with time zone \
                     USING \"B\"::timestamp with time zone";
        assert_eq!(findings[1].fix, Some(Fix::sql(Side::Blue, vec![alter.to_owned()])));
    }

    #[test]
    fn a_type_without_a_successor_gets_advice() {
        let mut old = table("T", Full, vec![]);
        old.columns[0].type_oid = 704;
        let findings = tables(18, &[old]);
        assert!(matches!(findings[0].fix, Some(Fix::Advice { .. })));
    }

    #[test]
    fn operators_matter_only_where_the_schema_is_copied() {
        let legacy =
            Legacy { postfix_operators: vec!["s.!! (integer, NONE)".into()], ..Legacy::default() };
        assert_eq!(objects(14, true, &legacy).len(), 1);
        assert!(objects(13, true, &legacy).is_empty());
        assert!(objects(18, false, &legacy).is_empty());
    }
}
