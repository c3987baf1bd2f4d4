//! Versions of collations: indexes are in the order of the library that built them.

use std::collections::{BTreeMap, BTreeSet};

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::ObjectFinding;

use super::super::reader::{Reader, Trouble};
use super::shape::qualified;

/// The first version that knows the version of a database's own collation.
const OF_DATABASE: u32 = 150_000;
/// So many indexes are named.
const NAMED: usize = 5;

/// A collation in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Collation {
    /// What the catalog has noted.
    recorded: Option<String>,
    /// What the library says.
    actual: Option<String>,
    /// Indexes that sort by it.
    indexes: BTreeSet<String>,
}

/// By name; the database's own is `default`.
pub(in super::super) type Collations = BTreeMap<String, Collation>;

/// Those that columns and indexes of `tables` sort by.
pub(super) async fn read(
    reader: &Reader,
    tables: &BTreeSet<String>,
) -> Result<Collations, Trouble> {
    let (recorded, actual) = match reader.session().server_version() >= OF_DATABASE {
        true => (
            "CASE l.collprovider WHEN 'd' THEN d.datcollversion ELSE l.collversion END",
            "CASE l.collprovider WHEN 'd' THEN pg_database_collation_actual_version(d.oid) \
                  ELSE pg_collation_actual_version(l.oid) END",
        ),
        false => ("l.collversion", "pg_collation_actual_version(l.oid)"),
    };
    let sql = format!(
        "SELECT {table}, CASE l.collprovider WHEN 'd' THEN 'default' ELSE {name} END, u.index, \
                {recorded}, {actual} \
         FROM (SELECT x.indrelid AS relation, k.coll, {index} AS index \
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid \
               JOIN pg_namespace ni ON ni.oid = i.relnamespace \
               CROSS JOIN LATERAL unnest(x.indcollation::oid[]) k (coll) \
               UNION SELECT a.attrelid, a.attcollation, NULL FROM pg_attribute a \
               WHERE a.attnum > 0 AND NOT a.attisdropped) u \
         JOIN pg_class c ON c.oid = u.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_collation l ON l.oid = u.coll JOIN pg_namespace nl ON nl.oid = l.collnamespace \
         JOIN pg_database d ON d.datname = current_database() \
         WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' \
           AND n.nspname NOT IN ('information_schema', '_cutover')",
        table = qualified("n.nspname", "c.relname"),
        name = qualified("nl.nspname", "l.collname"),
        index = qualified("ni.nspname", "i.relname"),
    );
    let mut found = Collations::new();
    for row in reader.rows(&sql).await? {
        let [Some(table), Some(name), index, recorded, actual] = row.as_slice() else { continue };
        if tables.contains(table) {
            let one = found.entry(name.clone()).or_default();
            (one.recorded, one.actual) = (recorded.clone(), actual.clone());
            one.indexes.extend(index.clone());
        }
    }
    Ok(found)
}

fn named(indexes: &BTreeSet<String>) -> String {
    let first: Vec<&str> = indexes.iter().take(NAMED).map(String::as_str).collect();
    match indexes.len().saturating_sub(NAMED) {
        0 if first.is_empty() => "no index sorts by it".to_owned(),
        0 => format!("indexes: {}", first.join(", ")),
        more => format!("indexes: {} and {more} more", first.join(", ")),
    }
}

/// `sides`: source and target. What the target's indexes were built with has to be what it has now.
pub(in super::super) fn compare(
    read: [&Result<Collations, String>; 2],
    [from, to]: [Side; 2],
) -> Vec<ObjectFinding> {
    let mut findings = Vec::new();
    let none = Collations::new();
    for (side, read) in [from, to].into_iter().zip(read) {
        if let Err(why) = read {
            findings.push(ObjectFinding {
                severity: Severity::Warn,
                kind: "collation".into(),
                object: side.to_string(),
                what: format!("the versions can't be read: {why}"),
                fix: None,
            });
        }
    }
    let [source, target] = read.map(|read| read.as_ref().unwrap_or(&none));
    for (side, all) in [(from, source), (to, target)] {
        for (name, one) in all {
            let (Some(recorded), Some(actual)) = (&one.recorded, &one.actual) else { continue };
            if recorded == actual {
                continue;
            }
            let is_damage = side == to && !one.indexes.is_empty();
            let refresh = match name.as_str() {
                "default" => "ALTER DATABASE .. REFRESH COLLATION VERSION".to_owned(),
                name => format!("ALTER COLLATION {name} REFRESH VERSION"),
            };
            findings.push(ObjectFinding {
                severity: if is_damage { Severity::Fail } else { Severity::Warn },
                kind: "collation".into(),
                object: name.clone(),
                what: format!(
                    "version {recorded} is recorded on {side}, its library has {actual}: indexes may \
                     be out of order; REINDEX them, then {refresh} ({})",
                    named(&one.indexes)
                ),
                fix: None,
            });
        }
    }
    for (name, here) in source {
        let Some(there) = target.get(name) else { continue };
        if let (Some(one), Some(other)) = (&here.actual, &there.actual)
            && one != other
        {
            findings.push(ObjectFinding {
                severity: Severity::Warn,
                kind: "collation".into(),
                object: name.clone(),
                what: format!(
                    "version: {one} on {from}, {other} on {to}; texts may sort differently ({})",
                    named(&there.indexes)
                ),
                fix: None,
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collations(recorded: &str, actual: &str, indexes: &[&str]) -> Result<Collations, String> {
        let one = Collation {
            recorded: Some(recorded.into()),
            actual: Some(actual.into()),
            indexes: indexes.iter().map(|&index| index.to_owned()).collect(),
        };
        Ok(Collations::from([("default".to_owned(), one)]))
    }

    #[test]
    fn only_indexes_of_the_target_are_damaged_by_another_library() {
        let found = |source: &Result<_, _>, target: &Result<_, _>| -> Vec<Severity> {
            let found = compare([source, target], [Side::Blue, Side::Green]);
            found.into_iter().map(|found| found.severity).collect()
        };
        let (old, new) = (collations("1", "1", &["i"]), collations("2", "2", &["i"]));
        assert_eq!(found(&old, &old), []);
        assert_eq!(found(&old, &new), [Severity::Warn]);
        let stale = collations("0", "1", &["i"]);
        assert_eq!(found(&old, &stale), [Severity::Fail]);
        assert_eq!(found(&stale, &old), [Severity::Warn]);
        assert_eq!(found(&old, &collations("0", "1", &[])), [Severity::Warn]);
        let unknown = Err("no such locale".to_owned());
        assert_eq!(found(&old, &unknown), [Severity::Warn]);
    }
}
