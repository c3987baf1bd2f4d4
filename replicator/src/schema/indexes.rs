//! Indexes and the constraints that are indexes, many at a time.

use std::collections::BTreeMap;

use decoders::QualifiedName;

use super::classify::Group;
use super::queue::{Job, Need};

/// Orders the work: large tables first, and of each table the constraints, which need it to
/// themselves, before the plain indexes, which can be built together.
pub(super) fn jobs(
    indexes: Vec<(QualifiedName, Group)>,
    sizes: &BTreeMap<QualifiedName, i64>,
) -> Vec<Job> {
    let mut jobs: Vec<Job> = indexes
        .into_iter()
        .map(|(table, group)| {
            let is_index = group.iter().all(|entry| entry.toc.kind == "INDEX")
                && group.iter().all(|entry| entry.sql.starts_with("CREATE "));
            let need = if is_index { Need::Shared } else { Need::Exclusive };
            Job { tables: vec![table], need, group }
        })
        .collect();
    let size = |job: &Job| job.tables.iter().filter_map(|table| sizes.get(table)).sum::<i64>();
    // Stable, so that objects of one table keep the dump's order.
    jobs.sort_by_key(|job| (-size(job), job.tables.clone(), job.need == Need::Shared));
    jobs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::script::{Entry, Settings, Toc};

    fn group(kind: &str, sql: &str) -> Group {
        let toc = Toc { name: "x".into(), kind: kind.into(), schema: "s".into() };
        let settings = Arc::new(Settings::new());
        vec![Entry { ordinal: 0, toc: Arc::new(toc), sql: sql.into(), settings }]
    }

    #[test]
    fn large_tables_come_first_and_constraints_before_indexes() {
        let (small, large) = (QualifiedName::new("s", "small"), QualifiedName::new("s", "large"));
        let sizes = BTreeMap::from([(small.clone(), 1), (large.clone(), 1_000)]);
        let work = vec![
            (small.clone(), group("CONSTRAINT", "ALTER TABLE ..")),
            (large.clone(), group("INDEX", "CREATE INDEX ..")),
            (large.clone(), group("CONSTRAINT", "ALTER TABLE ..")),
        ];
        let order: Vec<(String, Need)> = jobs(work, &sizes)
            .into_iter()
            .map(|job| (job.tables[0].name.clone(), job.need))
            .collect();
        assert_eq!(
            order,
            [
                ("large".to_owned(), Need::Exclusive),
                ("large".to_owned(), Need::Shared),
                ("small".to_owned(), Need::Exclusive)
            ]
        );
    }
}
