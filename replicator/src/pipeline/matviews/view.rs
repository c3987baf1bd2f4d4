//! The materialized views of a side, and which of them reads which.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::postgres::session::Session;
use sinks::postgres::target_error;

use super::super::failure::Failure;

/// The first version in which the right to refresh can be granted.
const MAINTAIN: u32 = 170_000;

/// Those of no extension, and whether our role may refresh them. Those whose query calls a function of a user come last:
/// what it reads is not known to the server.
const VIEWS: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') OR {maintain}, c.relispopulated
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', '_cutover')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                  WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY EXISTS (SELECT FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d ON d.objid = r.oid
                 WHERE r.ev_class = c.oid AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
                   AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid >= 16384), 2, 3";

/// Which view reads which, plain ones included.
const READS: &str = "
SELECT DISTINCT r.ev_class, d.refobjid
FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
 AND d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
 AND d.refobjid <> r.ev_class
JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')";

/// One of a side.
pub(super) struct View {
    pub oid: u32,
    pub name: QualifiedName,
    pub owner: String,
    /// Our role may refresh it.
    pub may: bool,
    pub is_populated: bool,
}

impl View {
    fn read(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            oid: row.try_get(0)?,
            name: QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
            owner: row.try_get(3)?,
            may: row.try_get(4)?,
            is_populated: row.try_get(5)?,
        })
    }

    pub fn statement(&self) -> String {
        format!("REFRESH MATERIALIZED VIEW {}", self.name)
    }
}

/// All of a side.
pub(super) async fn all(session: &Session) -> Result<Vec<View>, Failure> {
    let maintain = match session.server_version() >= MAINTAIN {
        true => "pg_catalog.has_table_privilege(c.oid, 'MAINTAIN')",
        false => "false",
    };
    let read = async {
        let rows = session.query(&VIEWS.replace("{maintain}", maintain), &[]).await?;
        rows.iter().map(View::read).collect::<Result<Vec<_>, tokio_postgres::Error>>()
    };
    Ok(read.await.map_err(|error| target_error("listing materialized views", &error))?)
}

/// Those that others read come first.
pub(super) async fn in_order(session: &Session, views: Vec<View>) -> Result<Vec<View>, Failure> {
    let read = async {
        let rows = session.query(READS, &[]).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<Vec<(u32, u32)>, tokio_postgres::Error>>()
    };
    let pairs = read.await.map_err(|error| target_error("ordering materialized views", &error))?;
    let mut reads: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (view, read) in pairs {
        reads.entry(view).or_default().push(read);
    }
    let order = ordered(views.iter().map(|view| view.oid), &reads);
    let mut views: BTreeMap<u32, View> = views.into_iter().map(|view| (view.oid, view)).collect();
    Ok(order.into_iter().filter_map(|oid| views.remove(&oid)).collect())
}

/// Each behind all that it reads, those in between included.
fn ordered(of: impl Iterator<Item = u32>, reads: &BTreeMap<u32, Vec<u32>>) -> Vec<u32> {
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for first in of {
        // Each with how many of what it reads were looked at. A chain of views may be too long to recurse.
        let mut path = vec![(first, 0)];
        while let Some((oid, at)) = path.pop() {
            if at == 0 && !seen.insert(oid) {
                continue;
            }
            match reads.get(&oid).and_then(|reads| reads.get(at)) {
                Some(next) => path.extend([(oid, at + 1), (*next, 0)]),
                None => order.push(oid),
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_view_comes_behind_all_that_it_reads() {
        let reads = BTreeMap::from([(1, vec![4, 2]), (2, vec![3]), (4, vec![3]), (5, vec![])]);
        assert_eq!(ordered([1, 2, 3, 4, 5].into_iter(), &reads), [3, 4, 2, 1, 5]);
        // Longer than any stack is deep.
        let chain = (0..300_000).map(|at| (at, vec![at + 1])).collect();
        assert_eq!(ordered([0].into_iter(), &chain).first(), Some(&300_000));
    }
}
