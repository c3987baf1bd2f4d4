//! Triggers that report TRUNCATE on a blue before PostgreSQL 11.
//!
//! Its pgoutput sends no TRUNCATE (PostgreSQL 11 release notes, E.30.3.4 Replication), so without
//! these the rows would stay on green. What they write is published and becomes an event in
//! [`crate::engine::truncation`], which says why there are two. They are made before the slot: a
//! TRUNCATE holds its table's lock to its transaction's end, so it is either committed when the
//! slot's snapshot is taken, or it fires them.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use cutover::marker::SCHEMA;
use decoders::QualifiedName;
use decoders::postgres::catalog::TableInfo;
use decoders::postgres::session::Session;
use decoders::postgres::state_schema;
use sinks::postgres::target_error;
use tokio_postgres::error::SqlState;

use super::failure::Failure;
use crate::engine::truncation::TABLE;

/// The first version whose pgoutput sends TRUNCATE, as `server_version_num`.
const SENT_SINCE: u32 = 110_000;

/// Triggers fire in the order of their names: `!` is before every letter and digit, so ours is the
/// first that sees the emptied table.
const BEFORE: &str = "!cutover_before_truncate";
const AFTER: &str = "!cutover_after_truncate";

/// A try waits this long for a table's lock, and whoever wants to write to the table waits behind
/// it.
const LOCK_TIMEOUT_MS: u32 = 300;
const TRIES: usize = 12;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The function runs as its owner, so the application needs no right on our schema.
const MAKE: &str = "
    CREATE SCHEMA IF NOT EXISTS _cutover;
    CREATE TABLE IF NOT EXISTS _cutover.truncated (
        id bigserial PRIMARY KEY, moment text NOT NULL, depth integer NOT NULL,
        schema_name text NOT NULL, table_name text NOT NULL);
    CREATE OR REPLACE FUNCTION _cutover.note_truncate() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        INSERT INTO _cutover.truncated (moment, depth, schema_name, table_name)
        VALUES (TG_WHEN, pg_catalog.pg_trigger_depth(), TG_TABLE_SCHEMA, TG_TABLE_NAME);
        RETURN NULL;
    END $$;
    REVOKE ALL ON FUNCTION _cutover.note_truncate() FROM PUBLIC";

/// Tables that have triggers of ours; the second column counts those that fire always.
const TRIGGERS: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text,
           pg_catalog.count(*) FILTER (WHERE g.tgenabled = 'A')
    FROM pg_catalog.pg_trigger g
    JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
    JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
    WHERE f.nspname = '_cutover' AND p.proname = 'note_truncate'
    GROUP BY 1, 2, 3 ORDER BY 2, 3";

/// Published tables that lack a trigger of ours, or have one that does not fire always.
const SILENT: &str = "
    SELECT n.nspname::text, c.relname::text
    FROM pg_catalog.pg_publication p
    JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
    JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE p.pubname = $1 AND n.nspname <> '_cutover'
      AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger g
           JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid
           JOIN pg_catalog.pg_namespace o ON o.oid = f.pronamespace
           WHERE g.tgrelid = c.oid AND g.tgenabled = 'A'
             AND o.nspname = '_cutover' AND f.proname = 'note_truncate') < 2
    ORDER BY 1, 2";

/// Whether a trigger of this name is one of ours; they stay on blue.
pub(crate) fn is_trigger(name: &str) -> bool {
    name == BEFORE || name == AFTER
}

/// Makes sure that every TRUNCATE of `tables` is reported, where blue doesn't do it by itself. What
/// has to be published for that is in the answer. Tables that have the triggers are not locked.
///
/// # Errors
/// Names the table that could not be locked; trying again goes on with that one.
pub(super) async fn report(
    blue: &Session,
    tables: &[TableInfo],
) -> Result<Option<QualifiedName>, Failure> {
    if blue.server_version() >= SENT_SINCE {
        return Ok(None);
    }
    let made = blue.batch_execute(&format!("{MAKE}; {}", state_schema::REVOKE)).await;
    made.map_err(|error| target_error("making the function that reports TRUNCATE", &error))?;
    let known: BTreeMap<u32, i64> =
        triggers(blue).await?.into_iter().map(|found| (found.oid, found.always)).collect();
    for table in tables.iter().filter(|table| table.is_decoded()) {
        let always = known.get(&table.oid);
        if always == Some(&2) {
            continue;
        }
        // Somebody has disabled or dropped one of the two.
        let again = if always.is_some() { drop_sql(&table.name) } else { String::new() };
        change(blue, &table.name, &format!("{again}{}", create_sql(&table.name))).await?;
    }
    Ok(Some(QualifiedName::new(SCHEMA, TABLE)))
}

/// Tables of the publication whose TRUNCATE would not be seen: somebody has disabled or dropped the
/// triggers since they were made.
///
/// # Errors
/// When blue can't be asked.
pub(super) async fn silent(
    blue: &Session,
    publication: &str,
) -> Result<Option<Failure>, tokio_postgres::Error> {
    if blue.server_version() >= SENT_SINCE {
        return Ok(None);
    }
    let mut names = Vec::new();
    for row in blue.query(SILENT, &[&publication]).await? {
        let name = QualifiedName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?);
        names.push(name.to_string());
    }
    Ok((!names.is_empty()).then(|| {
        Failure::halt(
            "blue",
            format!(
                "the triggers that report TRUNCATE are disabled or missing on {}: if a table was \
                 emptied that way since, its rows are still on green",
                names.join(", ")
            ),
            format!(
                "if none was: ALTER TABLE .. ENABLE ALWAYS TRIGGER \"{BEFORE}\", ENABLE ALWAYS \
                 TRIGGER \"{AFTER}\": it then goes on by itself. Otherwise, or if they were \
                 dropped, copy again: stop this sidecar, replicator teardown, then run with an empty green"
            ),
        )
    }))
}

/// Removes triggers, function and table, as far as they are there. How many tables had triggers
/// is in the answer.
///
/// # Errors
/// Names the table that could not be locked.
pub(super) async fn remove(blue: &Session) -> Result<usize, Failure> {
    let found = triggers(blue).await?;
    for table in &found {
        change(blue, &table.name, &drop_sql(&table.name)).await?;
    }
    let sql = "DROP FUNCTION IF EXISTS _cutover.note_truncate();
               DROP TABLE IF EXISTS _cutover.truncated";
    let dropped = blue.batch_execute(sql).await;
    dropped.map_err(|error| target_error("removing what reports TRUNCATE", &error))?;
    Ok(found.len())
}

struct Found {
    oid: u32,
    name: QualifiedName,
    always: i64,
}

async fn triggers(blue: &Session) -> Result<Vec<Found>, Failure> {
    let fail = |error| target_error("reading the triggers that report TRUNCATE", &error);
    let rows = blue.query(TRIGGERS, &[]).await.map_err(fail)?;
    let found = rows.iter().map(|row| {
        let name = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        Ok(Found { oid: row.try_get(0)?, name, always: row.try_get(3)? })
    });
    Ok(found.collect::<Result<_, tokio_postgres::Error>>().map_err(fail)?)
}

/// ALWAYS: sessions with `session_replication_role = replica` write to the stream, too.
fn create_sql(table: &QualifiedName) -> String {
    let one = |name, moment| {
        format!(
            "CREATE TRIGGER \"{name}\" {moment} TRUNCATE ON {table} FOR EACH STATEMENT \
             EXECUTE PROCEDURE _cutover.note_truncate();
             ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER \"{name}\";"
        )
    };
    one(BEFORE, "BEFORE") + &one(AFTER, "AFTER")
}

fn drop_sql(table: &QualifiedName) -> String {
    let one = |name| format!("DROP TRIGGER IF EXISTS \"{name}\" ON {table};");
    one(BEFORE) + &one(AFTER)
}

/// Runs statements that lock a table, in one transaction and in short tries.
async fn change(blue: &Session, table: &QualifiedName, sql: &str) -> Result<(), Failure> {
    let sql = format!("BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; {sql} COMMIT");
    let once = || async {
        let done = blue.batch_execute(&sql).await;
        if done.is_err() {
            // The connection may be what failed; the first error says so.
            let _ = blue.batch_execute("ROLLBACK").await;
        }
        done
    };
    let pauses = ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_max_times(TRIES - 1)
        .with_jitter();
    let is_busy = |error: &tokio_postgres::Error| {
        let busy = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        error.code().is_some_and(|code| busy.contains(code))
    };
    match once.retry(pauses).when(is_busy).await {
        Ok(()) => Ok(()),
        Err(error) if is_busy(&error) => Err(Failure {
            remedy: Some(format!("end the transactions that write to {table}")),
            ..Failure::retry(
                "blue",
                format!("{table} could not be locked for the triggers that report TRUNCATE"),
            )
        }),
        Err(error) => {
            Err(target_error(&format!("the triggers that report TRUNCATE of {table}"), &error)
                .into())
        }
    }
}
