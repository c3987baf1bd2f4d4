//! Locks of others in the way of switching.
//!
//! A trigger waits for who writes to its table, a rule for who reads it, and everybody who comes later waits behind
//! us. So a try is short, and whoever is in the way is told to go, as far as we may. Autovacuum gets out of the way
//! by itself, but only once somebody has waited for `deadlock_timeout`; where we may not cancel it (that takes a
//! superuser, or `pg_signal_autovacuum_worker` from 18 on) the next try waits for that.

use decoders::postgres::session::{self, Session};
use tokio_postgres::types::ToSql;

use super::found::{Kind, Which};

/// How long a try waits for its locks.
const LOCK_TIMEOUT_MS: u32 = 100;

/// How often that is doubled, from one round of tries to the next.
const DOUBLED_MAX: u32 = 4;

/// How much longer than `deadlock_timeout`: a worker has to end its work.
const YIELD_MS: u32 = 250;

/// The longest that writers are kept waiting for autovacuum, whatever `deadlock_timeout` is.
const YIELD_MS_MAX: u32 = 2_000;

/// How many sessions are named.
const NAMED_MAX: usize = 5;

/// Who holds a lock that ours waits for, or waits for one in front of us, on tables of `$1` and `$2` (for triggers) or
/// `$3` and `$4` (for rules): whether it is autovacuum.
const IN_THE_WAY: &str = "
WITH wanted AS (
  SELECT c.oid, false AS is_rule
  FROM unnest($1::text[], $2::text[]) w(space, rel)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.space::name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel::name
 UNION ALL
  SELECT c.oid, true FROM unnest($3::text[], $4::text[]) w(space, rel)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.space::name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel::name
)
SELECT DISTINCT a.pid, a.backend_type IS NOT DISTINCT FROM 'autovacuum worker'
FROM wanted w JOIN pg_catalog.pg_locks l ON l.relation = w.oid
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND a.pid <> pg_catalog.pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND (w.is_rule OR l.mode NOT IN ('AccessShareLock', 'RowShareLock'))
ORDER BY 1";

const DEADLOCK_TIMEOUT: &str =
    "SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'";

/// Whose locks give way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Nobody works there yet: whoever is in the way is ended.
    Cleared,
    /// Clients may be at work: only autovacuum is told to go.
    Beside,
    /// The same, one after the other and with more patience each time: so often it was tried before.
    Again(u32),
}

impl Way {
    /// How long a try waits for its locks, and whoever comes behind it.
    pub(super) fn lock_timeout_ms(self) -> u32 {
        match self {
            Way::Cleared | Way::Beside => LOCK_TIMEOUT_MS,
            Way::Again(tries) => LOCK_TIMEOUT_MS << tries.min(DOUBLED_MAX),
        }
    }
}

/// Makes whoever is in the way of these let go, as far as we may. Gives how long the next try has to wait.
pub(super) async fn clear<'a>(
    target: &Session,
    all: impl Iterator<Item = &'a Which>,
    way: Way,
) -> u32 {
    let usual_ms = way.lock_timeout_ms();
    let (mut count, mut yields_later) = (0, false);
    for (pid, is_vacuum) in in_the_way(target, all).await {
        let sql = match is_vacuum {
            true => "SELECT pg_catalog.pg_cancel_backend($1)",
            false if way == Way::Cleared => "SELECT pg_catalog.pg_terminate_backend($1)",
            false => continue,
        };
        // One by one: a session of a superuser that we may not end is no reason to spare the others.
        match target.query_one(sql, &[&pid]).await {
            Ok(_) => count += 1,
            Err(error) => {
                yields_later |= is_vacuum;
                tracing::info!(pid, "a session can't be told to go: {}", session::describe(&error));
            }
        }
    }
    if count > 0 {
        tracing::warn!(
            "{count} sessions had locks on tables whose triggers are switched: ended, or cancelled if they were \
             autovacuum's"
        );
    }
    if !yields_later {
        return usual_ms;
    }
    let after_ms = match target.query_one(DEADLOCK_TIMEOUT, &[]).await {
        Ok(row) => row.try_get::<_, i32>(0).ok().and_then(|ms| u32::try_from(ms).ok()),
        Err(_) => None,
    };
    after_ms.unwrap_or(1_000).saturating_add(YIELD_MS).min(YIELD_MS_MAX).max(usual_ms)
}

/// Who is in the way of this one, in words to put behind an error; nothing if nobody is any more.
pub(super) async fn told<'a>(target: &Session, all: impl Iterator<Item = &'a Which>) -> String {
    let pids = in_the_way(target, all).await;
    let named: Vec<_> = pids.iter().take(NAMED_MAX).map(|(pid, _)| pid.to_string()).collect();
    match pids.len() {
        0 => String::new(),
        count if count > named.len() => format!(" (locked by sessions {}, ..)", named.join(", ")),
        _ => format!(" (locked by session {})", named.join(", ")),
    }
}

/// By process id: whether it is autovacuum.
async fn in_the_way<'a>(
    target: &Session,
    all: impl Iterator<Item = &'a Which>,
) -> Vec<(i32, bool)> {
    let [mut schemas, mut tables, mut rule_schemas, mut rule_tables] = [const { Vec::new() }; 4];
    for which in all {
        let (to_schemas, to_tables) = match which.kind {
            Kind::Trigger => (&mut schemas, &mut tables),
            Kind::Rule => (&mut rule_schemas, &mut rule_tables),
        };
        to_schemas.push(&*which.table.schema);
        to_tables.push(&*which.table.name);
    }
    let given: [&(dyn ToSql + Sync); 4] = [&schemas, &tables, &rule_schemas, &rule_tables];
    match target.query(IN_THE_WAY, &given).await {
        Ok(rows) => rows
            .iter()
            .filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)))
            .collect(),
        Err(error) => {
            tracing::info!("who holds locks can't be read: {}", session::describe(&error));
            Vec::new()
        }
    }
}
