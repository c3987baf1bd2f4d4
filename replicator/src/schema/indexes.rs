//! Indexes and the constraints that are indexes, many at a time.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;

use super::classify::Group;
use super::constraints::{self, two_steps};
use super::queue::{Job, Need};
use super::task::{BUILT, RESTORED, Task};

/// Orders the work: large tables first, and of each table what needs it to itself before what can
/// be built together. Constraints adopt their indexes last.
pub(super) fn jobs(
    indexes: Vec<(QualifiedName, Group)>,
    sizes: &BTreeMap<QualifiedName, u64>,
    partitioned: &BTreeSet<QualifiedName>,
    attached: &BTreeSet<String>,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (table, group) in indexes {
        let is_needed = is_needed(&table, &group, attached);
        let cost = sizes.get(&table).copied().unwrap_or(0);
        let job = |need, cost, tasks| Job { tables: vec![table.clone()], need, cost, tasks };
        let steps = group.first().and_then(|entry| two_steps(entry, &table, partitioned));
        if let Some(steps) = steps {
            let mut group = group.into_iter();
            let Some(entry) = group.next() else { continue };
            let build = Task { is_needed, ..Task::step(entry.clone(), steps.build, BUILT) };
            jobs.push(job(Need::Shared, cost, vec![build]));
            let adopt = Task::step(entry, steps.adopt, RESTORED);
            let adopt = std::iter::once(adopt).chain(group.map(Task::whole)).collect();
            jobs.push(job(Need::Adoption, 0, adopt));
            continue;
        }
        let is_index =
            group.iter().all(|entry| entry.toc.kind == "INDEX" && entry.sql.starts_with("CREATE "));
        let need = if is_index { Need::Shared } else { Need::Exclusive };
        let task = |entry| Task { is_needed, ..Task::whole(entry) };
        jobs.push(job(need, cost, group.into_iter().map(task).collect()));
    }
    let order = |job: &Job| match job.need {
        Need::Exclusive => 0,
        Need::Shared => 1,
        Need::Adoption => 2,
    };
    // Stable, so that objects of one table keep the dump's order.
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.cost), job.tables.clone(), order(job)));
    jobs
}

/// Whether the rest of the schema or the stream can't do without it: a primary key, an index that
/// others are attached to, or one that more is said of (REPLICA IDENTITY, CLUSTER).
fn is_needed(table: &QualifiedName, group: &Group, attached: &BTreeSet<String>) -> bool {
    let Some(entry) = group.first() else { return false };
    let name = match entry.toc.kind.as_str() {
        "CONSTRAINT" => constraints::name(entry, table).unwrap_or_default(),
        _ => entry.toc.name.as_str(),
    };
    let index = QualifiedName::new(table.schema.clone(), name).to_string();
    group.len() > 1 || entry.sql.contains(" PRIMARY KEY ") || attached.contains(&index)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::script::{Entry, Settings, Toc};

    fn group(kind: &str, name: &str, sql: &str) -> Group {
        let toc = Toc { name: name.into(), kind: kind.into(), schema: "s".into() };
        let settings = Arc::new(Settings::new());
        vec![Entry { ordinal: 0, toc: Arc::new(toc), sql: sql.into(), settings }]
    }

    #[test]
    fn large_tables_come_first_and_adoptions_last() {
        let (small, large) = (QualifiedName::new("s", "small"), QualifiedName::new("s", "large"));
        let sizes = BTreeMap::from([(small.clone(), 1), (large.clone(), 1_000)]);
        let key = r#"ALTER TABLE ONLY "s"."large" ADD CONSTRAINT "k" PRIMARY KEY ("id");"#;
        let work = vec![
            (small.clone(), group("CONSTRAINT", "small x", "ALTER TABLE ..")),
            (large.clone(), group("INDEX", "i", "CREATE INDEX ..")),
            (large.clone(), group("CONSTRAINT", "large k", key)),
            (large.clone(), group("CONSTRAINT", "large x", "ALTER TABLE ..")),
        ];
        let order: Vec<(String, Need)> = jobs(work, &sizes, &BTreeSet::new(), &BTreeSet::new())
            .into_iter()
            .map(|job| (job.tables[0].name.clone(), job.need))
            .collect();
        let (small, large) = ("small".to_owned(), "large".to_owned());
        assert_eq!(
            order,
            [
                (large.clone(), Need::Exclusive),
                (large.clone(), Need::Shared),
                (large.clone(), Need::Shared),
                (small, Need::Exclusive),
                (large, Need::Adoption),
            ]
        );
    }
}
