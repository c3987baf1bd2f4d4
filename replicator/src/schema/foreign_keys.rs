//! Foreign keys: added at once without a check, then checked many at a time.
//!
//! `ADD .. NOT VALID` is quick. `VALIDATE` takes SHARE UPDATE EXCLUSIVE on the referencing and
//! ROW SHARE on the referenced table (PostgreSQL manual, ALTER TABLE, 13.3 Explicit Locking), so
//! checks of different tables never wait for each other, whatever they point to, and keys that
//! form a circle can't deadlock.

use std::collections::BTreeSet;

use decoders::QualifiedName;

use super::classify::{referenced, target};
use super::put_off::{enclosed, split_list};
use super::queue::{Job, Need};
use super::script::Entry;
use super::task::Task;

/// How a foreign key comes to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// As the dump says, in one step.
    Whole,
    /// Added without a check, then checked.
    InTwo {
        /// The first step.
        add: String,
        /// The second.
        validate: String,
    },
}

/// Decides for one. `partitioned` holds green's partitioned tables: a key from one can't be added
/// unchecked before PostgreSQL 18, and one to it would leave the partitions' share unchecked.
pub(super) fn way(entry: &Entry, partitioned: &BTreeSet<QualifiedName>) -> Way {
    let (Some(from), Some(to)) = (target(&entry.sql), referenced(&entry.sql)) else {
        return Way::Whole;
    };
    // "table constraint": what is behind the table's name is the constraint's.
    let Some(name) = entry.toc.name.strip_prefix(&format!("{} ", from.name)) else {
        return Way::Whole;
    };
    let Some(definition) = entry.sql.trim_end().strip_suffix(';') else { return Way::Whole };
    let is_checked = !definition.ends_with(" NOT VALID") && !definition.ends_with(" NOT ENFORCED");
    if !is_checked || partitioned.contains(&from) || partitioned.contains(&to) {
        return Way::Whole;
    }
    let name = name.replace('"', "\"\"");
    Way::InTwo {
        add: format!("{definition} NOT VALID;"),
        validate: format!("ALTER TABLE ONLY {from} VALIDATE CONSTRAINT \"{name}\";"),
    }
}

/// What a foreign key compares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ForeignKey {
    /// The referencing table.
    pub table: QualifiedName,
    referenced: QualifiedName,
    /// Columns of both, quoted.
    columns: Vec<(String, String)>,
    is_full: bool,
}

impl ForeignKey {
    /// Reads `ALTER TABLE .. FOREIGN KEY (..) REFERENCES t(..)`; `None` if it has another form.
    pub(super) fn parse(sql: &str) -> Option<Self> {
        let (table, to) = (target(sql)?, referenced(sql)?);
        let (from, rest) = enclosed(sql.split_once(" FOREIGN KEY (")?.1)?;
        let into = rest.trim_start().strip_prefix("REFERENCES ")?;
        let (into, rest) = enclosed(into.strip_prefix(&format!("{to}("))?)?;
        let (from, into) = (split_list(from), split_list(into));
        let is_plain = |column: &&str| column.starts_with('"');
        if from.len() != into.len() || !from.iter().chain(&into).all(is_plain) {
            return None;
        }
        let columns =
            from.iter().zip(&into).map(|(from, into)| (from.to_string(), into.to_string()));
        let is_full = rest.contains("MATCH FULL");
        Some(Self { table, referenced: to, columns: columns.collect(), is_full })
    }

    /// A query for `wanted` of rows `c` that have no parent.
    pub(super) fn orphans(&self, wanted: &str) -> String {
        let (Self { table, referenced, .. }, columns) = (self, &self.columns);
        let each = |one: &dyn Fn(&(String, String)) -> String, by: &str| {
            columns.iter().map(one).collect::<Vec<_>>().join(by)
        };
        let same = each(&|(from, into)| format!("p.{into} = c.{from}"), " AND ");
        // MATCH FULL allows all to be NULL and nothing in between.
        let counts = match self.is_full {
            true => each(&|(from, _)| format!("c.{from} IS NOT NULL"), " OR "),
            false => each(&|(from, _)| format!("c.{from} IS NOT NULL"), " AND "),
        };
        let counts = if self.is_full { format!("({counts})") } else { counts };
        format!(
            "SELECT {wanted} FROM {table} c WHERE {counts} AND NOT EXISTS (SELECT FROM {referenced} p \
             WHERE {same})"
        )
    }
}

/// One check for each key; those of one table wait for each other.
pub(super) fn jobs(checks: Vec<Task>, size: impl Fn(&QualifiedName) -> u64) -> Vec<Job> {
    let mut jobs: Vec<Job> = checks
        .into_iter()
        .map(|task| {
            let table = target(&task.entry.sql);
            let cost = table.iter().map(&size).sum();
            Job {
                tables: table.into_iter().collect(),
                need: Need::Exclusive,
                cost,
                tasks: vec![task],
            }
        })
        .collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.cost));
    jobs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::script::{Settings, Toc};

    fn entry(sql: &str) -> Entry {
        let toc =
            Toc { name: "a b \"k\" k".into(), kind: "FK CONSTRAINT".into(), schema: "s".into() };
        let settings = Arc::new(Settings::new());
        Entry { ordinal: 0, toc: Arc::new(toc), sql: sql.into(), settings }
    }

    const KEY: &str = r#"ALTER TABLE ONLY "s"."a b" ADD CONSTRAINT """k"" k" FOREIGN KEY ("x") REFERENCES "s"."p"("id") DEFERRABLE"#;

    #[test]
    fn keys_are_added_then_checked() {
        let way = way(&entry(&format!("{KEY};")), &BTreeSet::new());
        let validate = r#"ALTER TABLE ONLY "s"."a b" VALIDATE CONSTRAINT """k"" k";"#.to_owned();
        assert_eq!(way, Way::InTwo { add: format!("{KEY} NOT VALID;"), validate });
    }

    #[test]
    fn what_is_not_valid_on_blue_stays_so_and_partitioned_tables_go_at_once() {
        assert_eq!(way(&entry(&format!("{KEY} NOT VALID;")), &BTreeSet::new()), Way::Whole);
        let partitioned = BTreeSet::from([QualifiedName::new("s", "p")]);
        assert_eq!(way(&entry(&format!("{KEY};")), &partitioned), Way::Whole);
    }
}
