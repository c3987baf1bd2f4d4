//! Sessions of others that are in the middle of something, which the fence would cut.

use super::{PostgresFence, acts, doing};
use crate::api::Check;
use crate::fence::long::{NAME, NAMED_MAX, SECONDS, unnamed};
use crate::ports::PortResult;
use crate::sql::{Sql, TextRow, soon};

/// How a statement may begin to be called by that: anything else could be a value.
const VERBS: &str = "'SELECT', 'WITH', 'INSERT', 'UPDATE', 'DELETE', 'MERGE', 'COPY', 'TRUNCATE', \
     'VACUUM', 'ANALYZE', 'REINDEX', 'CLUSTER', 'REFRESH', 'CREATE', 'ALTER', 'DROP', 'LOCK', 'CALL', \
     'DO', 'FETCH', 'EXECUTE', 'EXPLAIN', 'BEGIN', 'COMMIT', 'SET', 'SHOW', 'DECLARE'";

/// Who is in a statement or in a transaction for a while, the longest first. Of a statement only its first
/// word is read. To be asked within the database, whose tables it names.
fn busy_sql(database: &str) -> String {
    format!(
        "SELECT pid, usename, application_name, datname, state, backend_xid IS NOT NULL AS writes, \
                extract(epoch FROM pg_catalog.clock_timestamp() \
                        - coalesce(xact_start, query_start))::bigint AS seconds, \
                CASE WHEN verb IN ({VERBS}) THEN verb END AS verb, \
                (SELECT pg_catalog.array_to_string((pg_catalog.array_agg(DISTINCT l.mode || ' on ' \
                        || l.relation::pg_catalog.regclass))[1:3], ', ') \
                 FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation \
                 WHERE l.pid = busy.pid AND l.granted AND l.locktype = 'relation' \
                 AND l.relation >= 16384 AND c.relkind IN ('r', 'p', 'm')) AS locks, \
                count(*) OVER () AS found \
         FROM (SELECT *, upper(substring(query FROM '^\\s*([A-Za-z]+)')) AS verb \
               FROM pg_catalog.pg_stat_activity) AS busy \
         WHERE {} AND ((state = 'active' AND query_start < pg_catalog.clock_timestamp() \
                        - interval '{SECONDS} s') \
                       OR xact_start < pg_catalog.clock_timestamp() - interval '{SECONDS} s') \
         ORDER BY coalesce(xact_start, query_start) LIMIT {NAMED_MAX}",
        acts::foreign(database)
    )
}

/// One finding for each, and one for all that are not named.
pub(super) async fn sessions(fence: &PostgresFence, admin: &Sql) -> PortResult<Vec<Check>> {
    let rows = admin.rows(&busy_sql(fence.database()), soon()).await;
    let rows = rows.map_err(doing(fence.place, "looking for long queries and transactions"))?;
    let found: usize = rows.first().and_then(|row| row.get("found")?.parse().ok()).unwrap_or(0);
    let mut checks: Vec<_> = rows.iter().map(|row| check(row, fence.place)).collect();
    checks.extend(unnamed(found, fence.place, "SELECT * FROM pg_stat_activity"));
    Ok(checks)
}

fn check(row: &TextRow, place: &str) -> Check {
    let or = |name, otherwise| row.get(name).filter(|text| !text.is_empty()).unwrap_or(otherwise);
    let writes = row.is_true("writes");
    let what = match (row.get("state"), row.get("verb")) {
        (Some("active"), Some(verb)) => format!("running {verb}"),
        (Some("active"), None) => "running a statement".to_owned(),
        (state, verb) => {
            let state = state.unwrap_or("in a state that we can't see");
            verb.map_or_else(|| state.to_owned(), |verb| format!("{state} after {verb}"))
        }
    };
    let locks = row.get("locks").map(|locks| format!(", has {locks}")).unwrap_or_default();
    let evidence = format!(
        "{place}: pid {} of role {} ({}) in database {} for {} s: {what}{locks}; {}",
        or("pid", "?"),
        or("usename", "-"),
        or("application_name", "no name"),
        or("datname", "?"),
        or("seconds", "?"),
        match writes {
            true => "it writes",
            false => "it has written nothing",
        }
    );
    let fix = match writes {
        true => {
            "the gate waits for a writer as soon as it has written for half of --max-pause; the fence \
             ends whoever is left, and what was not committed is rolled back"
        }
        false => "the fence ends it: wait until it is done, or tell whoever runs it",
    };
    Check::warn(NAME, evidence, fix)
}
