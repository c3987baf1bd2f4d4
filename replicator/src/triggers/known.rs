//! All triggers and rules of users on a source, as they were when definitions were compared. What is changed between
//! that and the fence would be in nobody's comparison.

use std::collections::BTreeMap;

use decoders::postgres::session::Session;
use sinks::TargetError;
use sinks::postgres::target_error;

/// A row's `xmin` is another after any change of it. What partitions have of their parents' triggers comes and goes with
/// them.
const ALL: &str = "
SELECT 'trigger', g.oid, pg_catalog.concat(g.xmin, g.tgenabled),
       pg_catalog.format('%I on %s', g.tgname, c.oid::pg_catalog.regclass), c.relispartition
FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
WHERE NOT g.tgisinternal AND f.nspname <> '_cutover'
UNION ALL
SELECT 'rule', r.oid, pg_catalog.concat(r.xmin, r.ev_enabled),
       pg_catalog.format('%I on %s', r.rulename, c.oid::pg_catalog.regclass), c.relispartition
FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind IN ('r', 'p')
WHERE r.oid >= 16384";

/// By kind and oid.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known(BTreeMap<(String, u32), One>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct One {
    state: String,
    name: String,
    of_partition: bool,
}

impl Known {
    /// What a source has now. Waits for no lock.
    ///
    /// # Errors
    /// The server's.
    pub async fn read(source: &Session) -> Result<Self, TargetError> {
        let failed = |error| target_error("reading triggers and rules", &error);
        let mut all = BTreeMap::new();
        for row in source.query(ALL, &[]).await.map_err(failed)? {
            let key = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
            let one = One {
                state: row.try_get(2).map_err(failed)?,
                name: row.try_get(3).map_err(failed)?,
                of_partition: row.try_get(4).map_err(failed)?,
            };
            all.insert(key, one);
        }
        Ok(Self(all))
    }

    /// One that is not as it was, for people.
    pub fn changed(&self, now: &Self) -> Option<String> {
        let is_same = |key, one: &One| match self.0.get(key) {
            Some(before) => before.state == one.state,
            None => one.of_partition,
        };
        let changed = now.0.iter().find(|(key, one)| !is_same(*key, one));
        let gone =
            || self.0.iter().find(|(key, one)| !now.0.contains_key(*key) && !one.of_partition);
        changed.or_else(gone).map(|((kind, _), one)| format!("{kind} {}", one.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(all: &[(u32, &str, bool)]) -> Known {
        let one = |(oid, state, of_partition): &(u32, &str, bool)| {
            let one =
                One { state: (*state).into(), name: oid.to_string(), of_partition: *of_partition };
            (("trigger".to_owned(), *oid), one)
        };
        Known(all.iter().map(one).collect())
    }

    #[test]
    fn a_change_is_one_of_a_state_and_partitions_come_and_go() {
        let before = known(&[(1, "7O", false), (2, "7O", true)]);
        let changed = |now| before.changed(&known(now));
        assert_eq!(changed(&[(1, "7O", false), (2, "7O", true)]), None);
        assert_eq!(changed(&[(1, "8D", false), (2, "7O", true)]), Some("trigger 1".into()));
        assert_eq!(changed(&[(1, "7O", false), (2, "9D", true)]), Some("trigger 2".into()));
        assert_eq!(changed(&[(1, "7O", false), (3, "7O", true)]), None);
        assert_eq!(changed(&[(1, "7O", false), (4, "7O", false)]), Some("trigger 4".into()));
        assert_eq!(changed(&[(2, "7O", true)]), Some("trigger 1".into()));
    }
}
