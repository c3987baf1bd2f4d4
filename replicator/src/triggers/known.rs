//! The triggers and rules of a source's tables and views that take part, as they were when definitions were compared.
//! What is changed between that and the fence would be in nobody's comparison.

use std::collections::BTreeMap;

use decoders::postgres::catalog::TableFilter;
use decoders::postgres::session::Session;
use sinks::TargetError;

use super::found::{CODE, Which, above, named_by_tables, unread, which};

/// Tables, partitioned ones, views and foreign tables.
const RELATIONS: &str = "'r', 'p', 'v', 'f'";

/// A row's `xmin` is another after any change of it. What partitions have of their parents' triggers comes and goes with
/// them. A view's own rule is what it shows.
fn all_sql() -> String {
    let found = named_by_tables(RELATIONS);
    format!(
        "WITH one AS (
           SELECT 'trigger' AS kind, g.tgrelid AS relid, g.tgname AS name,
                  pg_catalog.concat_ws(' ', g.oid, g.xmin, g.tgenabled) AS state, true AS alterable
           FROM pg_catalog.pg_trigger g {CODE} WHERE NOT g.tgisinternal AND f.nspname <> '_cutover'
          UNION ALL
           SELECT 'rule', r.ev_class, r.rulename, pg_catalog.concat_ws(' ', r.oid, r.xmin, r.ev_enabled), true
           FROM pg_catalog.pg_rewrite r WHERE r.rulename <> '_RETURN'
         ){found}"
    )
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known(BTreeMap<Which, One>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct One {
    state: String,
    is_of_partition: bool,
}

impl Known {
    /// What a source has now. Waits for no lock.
    ///
    /// # Errors
    /// The server's.
    pub async fn read(source: &Session, filter: &TableFilter) -> Result<Self, TargetError> {
        let mut all = BTreeMap::new();
        for row in source.query(&all_sql(), &[]).await.map_err(unread)? {
            // A partition takes part with the table that it is one of.
            if !above(&row)?.iter().any(|table| filter.takes(table)) {
                continue;
            }
            let state = row.try_get(4).map_err(unread)?;
            let is_of_partition = row.try_get(7).map_err(unread)?;
            all.insert(which(&row)?, One { state, is_of_partition });
        }
        Ok(Self(all))
    }

    /// One that is not as it was.
    pub fn changed<'a>(&'a self, now: &'a Self) -> Option<&'a Which> {
        let is_same = |which, one: &One| match self.0.get(which) {
            Some(before) => before.state == one.state,
            None => one.is_of_partition,
        };
        let changed = now.0.iter().find(|(which, one)| !is_same(*which, one));
        let gone = || {
            self.0.iter().find(|(which, one)| !now.0.contains_key(*which) && !one.is_of_partition)
        };
        changed.or_else(gone).map(|(which, _)| which)
    }
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;

    use super::super::found::Kind;
    use super::*;

    fn which(name: &str) -> Which {
        let table = QualifiedName::new("public", "t");
        Which { kind: Kind::Trigger, table, name: name.into() }
    }

    fn known(all: &[(&str, &str, bool)]) -> Known {
        let one = |(name, state, is_of_partition): &(&str, &str, bool)| {
            (which(name), One { state: (*state).into(), is_of_partition: *is_of_partition })
        };
        Known(all.iter().map(one).collect())
    }

    #[test]
    fn a_change_is_one_of_a_state_and_partitions_come_and_go() {
        let before = known(&[("a", "7O", false), ("b", "7O", true)]);
        let changed = |now: &[_]| before.changed(&known(now)).cloned();
        assert_eq!(changed(&[("a", "7O", false), ("b", "7O", true)]), None);
        assert_eq!(changed(&[("a", "8D", false), ("b", "7O", true)]), Some(which("a")));
        assert_eq!(changed(&[("a", "7O", false), ("b", "9D", true)]), Some(which("b")));
        assert_eq!(changed(&[("a", "7O", false), ("c", "7O", true)]), None);
        assert_eq!(changed(&[("a", "7O", false), ("d", "7O", false)]), Some(which("d")));
        assert_eq!(changed(&[("b", "7O", true)]), Some(which("a")));
    }
}
