//! Who waits for tables that are being copied, and whom the copy waits for.
//!
//! A chunk is read under ACCESS SHARE. Only ACCESS EXCLUSIVE conflicts with that (TRUNCATE, most of
//! ALTER TABLE, VACUUM FULL), but behind one who waits for it every reader of the table waits, too.
//! So whoever has waited for a while is let in: the chunk is broken off and read again afterwards.
//! Each time it may take twice as long as before, or a table with many visitors would never be copied.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use decoders::postgres::session::{Session, describe};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::counters::TableCounters;
use super::run::Run;

/// How often blue is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long somebody waits behind a chunk, the first time.
const YIELD_AFTER: Duration = Duration::from_secs(1);
/// Doubling ends here: more than a month.
const DOUBLINGS_MAX: u32 = 22;

/// Those who have or want ACCESS EXCLUSIVE on one of the tables. Application names are the only
/// thing told of them: statements may hold values.
const VISITORS: &str = "
    SELECT l.relation, l.pid, l.granted, coalesce(a.application_name, '')
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
      AND l.relation = ANY ($1) AND l.pid IS NOT NULL
      AND l.database = (SELECT oid FROM pg_catalog.pg_database
                        WHERE datname = pg_catalog.current_database())
    ORDER BY l.granted DESC, l.pid";

struct Visitor {
    table: u32,
    pid: i32,
    is_granted: bool,
    application: String,
}

/// Lets others in for as long as it is polled; ends with the reason when `keeper` no longer answers.
pub(super) async fn watch(keeper: &Session, run: &Run) -> String {
    let mut waiting_since: HashMap<(u32, i32), Instant> = HashMap::new();
    let mut tick = interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let is_read = |table: &&TableCounters| table.chunks_locked.load(Ordering::Acquire) > 0;
        let is_busy = |table: &&TableCounters| table.busy_since().is_some();
        let concerned: Vec<&TableCounters> =
            run.tables.iter().filter(|table| is_read(table) || is_busy(table)).collect();
        let ids: Vec<u32> = concerned.iter().map(|table| table.plan.id.0).collect();
        let visitors = match visitors(keeper, &ids).await {
            Ok(visitors) => visitors,
            Err(error) => return describe(&error),
        };
        let now = Instant::now();
        waiting_since.retain(|(table, pid), _| {
            let is_it = |one: &Visitor| !one.is_granted && (one.table, one.pid) == (*table, *pid);
            visitors.iter().any(is_it)
        });
        for table in concerned.iter().copied().filter(is_read) {
            let of_table = |one: &&Visitor| !one.is_granted && one.table == table.plan.id.0;
            let longest = visitors.iter().filter(of_table).max_by_key(|one| {
                let since = waiting_since.entry((one.table, one.pid)).or_insert(now);
                now - *since
            });
            let Some(visitor) = longest else { continue };
            let since = waiting_since.get(&(visitor.table, visitor.pid));
            if since.is_some_and(|since| now - *since >= patience(*table.yields.borrow())) {
                tracing::info!(
                    table = %table.plan.name,
                    pid = visitor.pid,
                    application = visitor.application,
                    "the copy lets somebody in who waits for a table, and reads the chunk again later"
                );
                table.is_busy(true);
                table.yields.send_modify(|yields| *yields += 1);
                waiting_since.remove(&(visitor.table, visitor.pid));
            }
        }
        run.waits_for(words(concerned.into_iter().filter(is_busy), &visitors));
    }
}

fn patience(yields: u32) -> Duration {
    YIELD_AFTER * 2_u32.saturating_pow(yields.min(DOUBLINGS_MAX))
}

async fn visitors(keeper: &Session, tables: &[u32]) -> Result<Vec<Visitor>, tokio_postgres::Error> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let rows = keeper.query(VISITORS, &[&tables]).await?;
    rows.iter()
        .map(|row| {
            Ok(Visitor {
                table: row.try_get(0)?,
                pid: row.try_get(1)?,
                is_granted: row.try_get(2)?,
                application: row.try_get(3)?,
            })
        })
        .collect()
}

/// What the copy waits for; `None` if no lock.
fn words<'a>(
    busy: impl Iterator<Item = &'a TableCounters>,
    visitors: &[Visitor],
) -> Option<String> {
    const SHOWN: usize = 3;
    let mut tables: Vec<String> = busy
        .map(|table| {
            let who = visitors.iter().find(|one| one.table == table.plan.id.0);
            match who {
                Some(Visitor { pid, is_granted, application, .. }) => format!(
                    "{} ({} by pid {pid}, application {application:?})",
                    table.plan.name,
                    if *is_granted { "locked" } else { "awaited" },
                ),
                None => table.plan.name.to_string(),
            }
        })
        .collect();
    if tables.is_empty() {
        return None;
    }
    let more = tables.len().saturating_sub(SHOWN);
    tables.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("locks on blue to copy {}{more}", tables.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_visit_may_take_twice_as_long() {
        let seconds: Vec<u64> = (0..5).map(|yields| patience(yields).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16]);
        assert!(patience(u32::MAX) > Duration::from_secs(30 * 24 * 3_600));
    }
}
