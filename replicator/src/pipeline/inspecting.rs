//! Whether a way back could be armed: looked at before a run touches anything.

use cutover::Side;
use cutover::api::Check;
use cutover::ports::{PortError, PortResult};
use decoders::QualifiedName;
use decoders::postgres::session::{self, Session};
use decoders::postgres::{origins, slot};
use sinks::own;

use super::arming::SlotRoute;
use crate::engine::own as ours;
use crate::store::{Stage, Store};

/// The first version that publishes TRUNCATE, as `server_version_num`.
const TRUNCATES_SINCE: u32 = 110_000;
/// What is left to do if there can't be a way back.
const WITHOUT: &str = "or cut over without a way back: --no-way-back";

/// Whether the server could decode for one more stream, and whether we may have one.
const SERVER: &str = "
SELECT current_setting('wal_level') = 'logical',
       current_setting('max_replication_slots')::int
         - (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int,
       current_setting('max_wal_senders')::int
         - (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int,
       (SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user)";

/// Tables of which an UPDATE would fail as soon as they are published: nothing identifies a row
/// (PostgreSQL manual, 31.1 Publication).
const UNIDENTIFIED: &str = "
SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND c.relkind = 'r' AND c.relreplident <> 'f'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
                  AND CASE c.relreplident WHEN 'i' THEN i.indisreplident
                                          WHEN 'd' THEN i.indisprimary ELSE false END)
ORDER BY 1 LIMIT 5";

/// Tables that our role may not write.
const UNWRITABLE: &str = "
SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND NOT (pg_catalog.has_table_privilege(c.oid, 'INSERT')
           AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
           AND pg_catalog.has_table_privilege(c.oid, 'DELETE'))
ORDER BY 1 LIMIT 5";

/// What fires in ordinary sessions: triggers, rules and cascades. Our own don't count: see `sinks::postgres::catalog`.
const FIRING: &str = "
SELECT pg_catalog.format('%I on %s', g.tgname, c.oid::regclass) FROM pg_catalog.pg_trigger g
JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND NOT g.tgisinternal AND f.nspname <> '_cutover' AND g.tgenabled = 'O'
UNION ALL
SELECT pg_catalog.format('%I on %s', r.rulename, c.oid::regclass) FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND c.relkind IN ('r', 'p') AND r.ev_enabled = 'O'
UNION ALL
SELECT pg_catalog.format('foreign key %I on %s', k.conname, k.conrelid::regclass)
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.confrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND k.contype = 'f'
  AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
ORDER BY 1 LIMIT 5";

/// What the role may do about origins: see `sinks::postgres::session`.
const ORIGINS: &str = "SELECT current_setting('is_superuser') = 'on'";

impl SlotRoute {
    /// Prechecks. Reads only.
    ///
    /// # Errors
    /// A server that can't be asked.
    pub(super) async fn inspected(&self, store: &Store) -> PortResult<Vec<Check>> {
        let direction = self.ends.direction;
        let (from, to) = (direction.from(), direction.to());
        let enter = |side| async move { self.door.enter(side).await };
        let _guards = [enter(from).await?, enter(to).await?];
        let connect = |end, info| async move {
            let session = self.connect(end, info).await;
            session.map_err(|failure| crate::controlling::of_failure(self.ends.put(failure)))
        };
        let source = connect("blue", &self.ends.source).await?;
        let target = connect("green", &self.ends.target).await?;
        let stage = store.stage().map_err(|error| {
            PortError::new("state directory", error.to_string()).remedy(error.remedy())
        })?;
        let mut checks = Vec::new();
        for (side, session) in [(from, &source), (to, &target)] {
            checks.push(tells_own(side, session).await?);
        }
        if !self.config.apply.accept_triggers {
            let quiet = self.could_be_quiet(&target).await;
            checks.push(
                quiet.map_err(|failure| crate::controlling::of_failure(self.ends.put(failure)))?,
            );
        }
        if matches!(stage, Some(Stage::Streaming { .. })) {
            checks.push(self.armed(from, &source).await?);
            return Ok(checks);
        }
        checks.extend(server(from, &source).await?);
        checks.push(truncates(from, &source));
        let names = self.theirs(&target).await;
        let names =
            names.map_err(|failure| crate::controlling::of_failure(self.ends.put(failure)))?;
        let names: Vec<_> = names.into_iter().filter(|name| name.schema != "_cutover").collect();
        checks.push(identified(from, &source, &names).await?);
        checks.push(writable(to, &target, &names).await?);
        if !self.config.apply.accept_triggers {
            checks.extend(ordinary(to, &target, &names).await?);
        }
        let strangers = origins::names(&source).await.map_err(|error| ask(from, error))?;
        let own = ours::origins(&self.config.counterpart());
        if let Some(name) = strangers.iter().find(|name| !own.contains(*name)) {
            checks.push(Check::warn(
                "way-back-origins",
                format!("somebody else replicates into {from}, too (origin {name:?})"),
                "end that, or what comes that way stands in the way of the cutover: it is not ours",
            ));
        }
        Ok(checks)
    }

    async fn armed(&self, from: Side, source: &Session) -> PortResult<Check> {
        const NAME: &str = "way-back-slot";
        let slot_name = self.config.slot();
        let found = slot::inspect(source, &slot_name).await.map_err(|error| ask(from, error))?;
        Ok(match found {
            Some(slot) if !slot.is_lost() => Check::ok(NAME, format!("{from} keeps {slot_name}")),
            _ => Check::warn(
                NAME,
                format!("{from} has lost the replication slot {slot_name}"),
                "it is made again",
            ),
        })
    }
}

/// Whether what we write there can be told from what others write.
async fn tells_own(side: Side, session: &Session) -> PortResult<Check> {
    const NAME: &str = "way-back-own";
    let version_num = session.server_version();
    if version_num >= own::MESSAGES_SINCE {
        let may_mark = own::may_mark(session, version_num).await;
        return Ok(match may_mark.map_err(|error| ask(side, error))? {
            true => Check::ok(NAME, format!("{side}: our writes carry a message")),
            false => Check::fail(
                NAME,
                format!("{side}: our role may not execute pg_logical_emit_message"),
                format!("on {side}: GRANT EXECUTE ON FUNCTION pg_logical_emit_message, {WITHOUT}"),
            ),
        });
    }
    let row = session.query_one(ORIGINS, &[]).await.map_err(|error| ask(side, error))?;
    Ok(match row.try_get(0).map_err(|error| ask(side, error))? {
        true => Check::ok(NAME, format!("{side}: our writes have a replication origin")),
        false => Check::fail(
            NAME,
            format!(
                "{side} is older than PostgreSQL 14, and our role there is no superuser: what we \
                 write can't be told from what clients write"
            ),
            format!("a superuser for our role on {side}, {WITHOUT}"),
        ),
    })
}

async fn server(from: Side, source: &Session) -> PortResult<Vec<Check>> {
    let row = source.query_one(SERVER, &[]).await.map_err(|error| ask(from, error))?;
    let read = || -> Result<(bool, i32, i32, bool), tokio_postgres::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
    };
    let (is_logical, slots, senders, may_replicate) = read().map_err(|error| ask(from, error))?;
    let check = |name: &str, holds: bool, what: String, fix: String| match holds {
        true => Check::ok(name, what),
        false => Check::fail(name, what, format!("{fix}, {WITHOUT}")),
    };
    Ok(vec![
        check(
            "way-back-wal-level",
            is_logical,
            format!("{from}: wal_level is {}logical", if is_logical { "" } else { "not " }),
            format!("on {from}: ALTER SYSTEM SET wal_level = logical, and restart it"),
        ),
        check(
            "way-back-slots",
            slots > 0 && senders > 0,
            format!("{from}: {slots} replication slots and {senders} WAL senders are free"),
            format!("on {from}: raise max_replication_slots and max_wal_senders, and restart it"),
        ),
        check(
            "way-back-role",
            may_replicate,
            format!("{from}: our role may {}replicate", if may_replicate { "" } else { "not " }),
            format!("on {from}: ALTER ROLE .. REPLICATION for our role"),
        ),
    ])
}

fn truncates(from: Side, source: &Session) -> Check {
    const NAME: &str = "way-back-truncate";
    match source.server_version() >= TRUNCATES_SINCE {
        true => Check::ok(NAME, format!("{from} publishes TRUNCATE")),
        false => Check::fail(
            NAME,
            format!("{from} is older than PostgreSQL 11 and does not publish TRUNCATE"),
            WITHOUT,
        ),
    }
}

async fn identified(from: Side, source: &Session, names: &[QualifiedName]) -> PortResult<Check> {
    const NAME: &str = "way-back-identity";
    let found = tables(from, source, UNIDENTIFIED, names).await?;
    Ok(match found.is_empty() {
        true => Check::ok(NAME, format!("{from}: every table identifies its rows")),
        false => Check::fail(
            NAME,
            format!(
                "published on {from}, these tables would refuse every UPDATE: {}",
                found.join(", ")
            ),
            format!("on {from}: ALTER TABLE .. REPLICA IDENTITY as on {}, {WITHOUT}", from.other()),
        ),
    })
}

async fn writable(to: Side, target: &Session, names: &[QualifiedName]) -> PortResult<Check> {
    const NAME: &str = "way-back-rights";
    let found = tables(to, target, UNWRITABLE, names).await?;
    Ok(match found.is_empty() {
        true => Check::ok(NAME, format!("{to}: our role may write every table")),
        false => Check::fail(
            NAME,
            format!("our role may not write on {to}: {}", found.join(", ")),
            format!("on {to}: GRANT INSERT, UPDATE, DELETE, TRUNCATE, {WITHOUT}"),
        ),
    })
}

/// Without the right to apply as a replica does, everything that fires for clients fires for the way back.
async fn ordinary(
    to: Side,
    target: &Session,
    names: &[QualifiedName],
) -> PortResult<Option<Check>> {
    // The session is this check's own, and nothing is written in it after this.
    match target.batch_execute("SET session_replication_role = replica").await {
        Ok(()) => return Ok(None),
        Err(error) if error.as_db_error().is_some() => {}
        Err(error) => return Err(ask(to, error)),
    }
    let (schemas, tables) = parts(names);
    let rows = target.query(FIRING, &[&schemas, &tables]).await;
    let found = first_column(to, rows)?;
    Ok((!found.is_empty()).then(|| {
        Check::fail(
            "way-back-triggers",
            format!(
                "on {to} these would repeat what {}'s did already: {}",
                to.other(),
                found.join(", ")
            ),
            format!("on {to}: let our role SET session_replication_role, {WITHOUT}"),
        )
    }))
}

fn parts(names: &[QualifiedName]) -> (Vec<&str>, Vec<&str>) {
    names.iter().map(|name| (&*name.schema, &*name.name)).unzip()
}

async fn tables(
    side: Side,
    session: &Session,
    sql: &str,
    names: &[QualifiedName],
) -> PortResult<Vec<String>> {
    let (schemas, tables) = parts(names);
    first_column(side, session.query(sql, &[&schemas, &tables]).await)
}

fn first_column(
    side: Side,
    rows: Result<Vec<tokio_postgres::Row>, tokio_postgres::Error>,
) -> PortResult<Vec<String>> {
    let rows = rows.map_err(|error| ask(side, error))?;
    let found = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
    found.map_err(|error| ask(side, error))
}

fn ask(side: Side, error: impl std::fmt::Display + 'static) -> PortError {
    let what = match (&error as &dyn std::any::Any).downcast_ref::<tokio_postgres::Error>() {
        Some(error) => session::describe(error),
        None => error.to_string(),
    };
    PortError::new(side.name(), format!("checking the way back: {what}"))
}
