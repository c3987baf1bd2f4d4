//! What our role may do on blue, and what else a run would stumble over.

use decoders::postgres::lock_room::PROVIDED;

use super::{PostgresFence, busy, claim, doing, grants};
use crate::api::Check;
use crate::marker::MarkerKind;
use crate::ports::PortResult;
use crate::sql::{Sql, TextRow, ident, literal, soon};

/// The database's settings, and whether we may change them: for that the owner's privileges are
/// needed (`USAGE`), not only the right to take them on (`MEMBER`).
pub(super) fn prior_sql(database: &str) -> String {
    format!(
        "SELECT pg_catalog.clock_timestamp() AS at, d.datallowconn AS allow_connections, \
                (SELECT substr(s, length('default_transaction_read_only=') + 1) \
                 FROM pg_catalog.pg_db_role_setting r, unnest(r.setconfig) s \
                 WHERE r.setdatabase = d.oid AND r.setrole = 0 \
                 AND s LIKE 'default\\_transaction\\_read\\_only=%') AS read_only, \
                pg_catalog.pg_has_role(current_user, d.datdba, 'USAGE') AS may_alter \
         FROM pg_catalog.pg_database d WHERE d.datname = {}",
        literal(database)
    )
}

/// Roles that could log in to the database and are not the one that we log in as. Superusers can't be kept out this way.
pub(super) fn roles_sql(database: &str) -> String {
    format!(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolcanlogin AND NOT rolsuper \
         AND rolname <> session_user \
         AND pg_catalog.has_database_privilege(rolname, {}, 'CONNECT') ORDER BY 1",
        literal(database)
    )
}

/// Those of them that we may not alter although we have CREATEROLE: from version 16 on it takes
/// the ADMIN option for each role, before that a superuser for roles with REPLICATION (manual,
/// ALTER ROLE).
fn unalterable_sql(database: &str, version_num: u32) -> String {
    let refused = if version_num >= 160_000 {
        "NOT pg_catalog.pg_has_role(current_user, rolname, 'USAGE WITH ADMIN OPTION')"
    } else {
        "(SELECT rolreplication FROM pg_catalog.pg_roles r WHERE r.rolname = may_connect.rolname)"
    };
    format!(
        "SELECT rolname FROM ({}) AS may_connect WHERE {refused} ORDER BY 1",
        roles_sql(database)
    )
}

const RIGHTS: &str = "SELECT r.rolsuper AS superuser, r.rolcreaterole AS createrole, \
     pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'USAGE') AS signal, \
     pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS stats, \
     pg_catalog.pg_is_in_recovery() AS in_recovery, \
     pg_catalog.current_setting('default_transaction_read_only') AS read_only, \
     current_user AS who \
     FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

/// Every finding at once.
pub(super) async fn inspect(fence: &PostgresFence) -> PortResult<Vec<Check>> {
    let deadline = soon();
    let admin = fence.admin.get(deadline).await?;
    let database = fence.database();
    let rights =
        admin.row(RIGHTS, deadline).await.map_err(doing(fence.place, "reading our rights"))?;
    let prior = admin
        .row(&prior_sql(database), deadline)
        .await
        .map_err(doing(fence.place, "reading settings"))?;
    let who = rights.get("who").unwrap_or("our role").to_owned();

    let place = fence.place;
    let mut checks = vec![primary(&rights, place), open_for_writes(&rights, database, place)];
    checks.push(seal(fence, &admin, &rights, &prior, &who).await?);
    checks.push(match prior.is_true("may_alter") {
        true => airlock(fence, &admin, &rights, &who).await?,
        false => own_role(fence, &admin, &who).await?,
    });
    checks.push(unclaimed(fence, &admin).await?);
    checks.push(signal(&rights, &who));
    checks.push(stats(&rights, &who));
    let tables = fence.tables(&admin, deadline).await?;
    checks.push(if tables.is_empty() {
        Check::fail(
            "publication",
            format!("publication {} has no tables", ident(&fence.publication)),
            "start replication first",
        )
    } else {
        Check::ok("publication", format!("{} tables", tables.len()))
    });
    if !prior.is_true("may_alter") {
        checks.push(lockable(fence, &admin, tables.len() as u64, &who).await?);
        checks.push(lock_room(fence, &admin).await?);
    }
    checks.push(marker(fence, &admin).await?);
    let prepared = fence.prepared(&admin, deadline).await?;
    checks.push(if prepared.is_empty() {
        Check::ok("prepared-transactions", "none")
    } else {
        Check::warn(
            "prepared-transactions",
            prepared.join(", "),
            "COMMIT PREPARED or ROLLBACK PREPARED them; the gate waits until there are none",
        )
    });
    checks.extend(sessions(fence, &admin, &rights).await?);
    checks.extend(busy::sessions(fence, &admin).await?);
    Ok(checks)
}

fn primary(rights: &TextRow, place: &str) -> Check {
    let name = format!("{place}-primary");
    if rights.is_true("in_recovery") {
        let fix = format!("point --{place} at the primary");
        return Check::fail(name, format!("{place} is a standby"), fix);
    }
    Check::ok(name, format!("{place} is a primary"))
}

fn open_for_writes(rights: &TextRow, database: &str, place: &str) -> Check {
    let name = format!("{place}-writable");
    if rights.get("read_only") != Some("off") {
        return Check::fail(
            name,
            format!("{place} is read-only by default already"),
            format!(
                "on {place}: ALTER DATABASE {} RESET default_transaction_read_only",
                ident(database)
            ),
        );
    }
    Check::ok(name, format!("{place} accepts writes"))
}

async fn seal(
    fence: &PostgresFence,
    admin: &Sql,
    rights: &TextRow,
    prior: &TextRow,
    who: &str,
) -> PortResult<Check> {
    let database = fence.database();
    let own = format!("ALTER DATABASE {} OWNER TO {}", ident(database), ident(who));
    if prior.is_true("may_alter") {
        // The seal is put on, and taken off, from another database.
        return Ok(match fence.outside.get(soon()).await {
            Ok(_) => {
                let right = if rights.is_true("superuser") { "a superuser" } else { "the owner" };
                Check::ok(
                    "fence-layers",
                    format!(
                        "as {right}: ALLOW_CONNECTIONS false (for superusers too), every other \
                         session ended, read-only default"
                    ),
                )
            }
            Err(error) => Check::fail(
                "fence-layers",
                format!("no other database to seal {} from: {error}", fence.place),
                format!("GRANT CONNECT ON DATABASE postgres TO {}", ident(who)),
            ),
        });
    }
    if !rights.is_true("createrole") {
        return Ok(Check::fail(
            "fence-layers",
            format!("role {who} neither owns database {database} nor may alter roles"),
            own,
        ));
    }
    let refused = admin
        .rows(&unalterable_sql(database, admin.version_num()), soon())
        .await
        .map_err(doing(fence.place, "listing the roles that we may alter"))?;
    let refused: Vec<_> = refused.iter().filter_map(|row| row.at(0)).map(ident).collect();
    if !refused.is_empty() {
        let refused = refused.join(", ");
        return Ok(Check::fail(
            "fence-layers",
            format!(
                "role {who} does not own database {database}, and may not take LOGIN from roles \
                 that may connect to it: {refused}"
            ),
            own,
        ));
    }
    let rows = admin
        .rows(
            "SELECT string_agg(rolname, ', ') FROM pg_catalog.pg_roles \
             WHERE rolsuper AND rolcanlogin",
            soon(),
        )
        .await
        .map_err(doing(fence.place, "listing superusers"))?;
    let superusers = rows.first().and_then(|row| row.at(0)).unwrap_or("none").to_owned();
    Ok(Check::warn(
        "fence-layers",
        format!(
            "role {who} does not own database {database}: {} is closed with NOLOGIN for every \
             role, on all of the server's databases, and not for superusers ({superusers}); any \
             transaction elsewhere on the server during the pause stops the run, and every table is \
             locked, so the pause grows with their number",
            fence.place
        ),
        own,
    ))
}

/// Whether CONNECT can be taken from everybody else while a session of ours comes in.
async fn airlock(
    fence: &PostgresFence,
    admin: &Sql,
    rights: &TextRow,
    who: &str,
) -> PortResult<Check> {
    let (place, database) = (fence.place, fence.database());
    let connect = grants::read(admin, place, database, soon()).await?;
    let mut others: Vec<_> = connect.of_others().map(|grant| literal(&grant.grantor)).collect();
    others.sort();
    others.dedup();
    if !others.is_empty() && !rights.is_true("superuser") {
        let query = format!(
            "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ({}) \
             AND NOT pg_catalog.pg_has_role(current_user, oid, 'MEMBER') ORDER BY 1",
            others.join(", ")
        );
        let rows = admin.rows(&query, soon()).await;
        let rows = rows.map_err(doing(place, "looking for who granted CONNECT"))?;
        let roles: Vec<_> = rows.iter().filter_map(|row| row.at(0)).map(ident).collect();
        if !roles.is_empty() {
            let roles = roles.join(", ");
            return Ok(Check::warn(
                "fence-airlock",
                format!(
                    "CONNECT on {database} was granted by {roles}, and role {who} can't take that \
                     back: a session of ours that is lost while {place} is closed stays out"
                ),
                format!("GRANT {roles} TO {}", ident(who)),
            ));
        }
    }
    // These come through the door with us, for as long as it is ajar.
    let found = under_our_role(fence, admin).await?;
    if found > 0 {
        return Ok(Check::warn(
            "fence-airlock",
            format!(
                "{found} sessions of others use our role {who}: while {place} is closed they come \
                 in whenever a session of ours has to, and are closed again"
            ),
            "give cutover a role of its own",
        ));
    }
    Ok(Check::ok("fence-airlock", "sessions of ours that are lost can come back"))
}

/// Sessions of others that log in as our own role.
async fn under_our_role(fence: &PostgresFence, admin: &Sql) -> PortResult<u64> {
    let query = format!(
        "SELECT count(*) AS found FROM pg_catalog.pg_stat_activity WHERE usename = session_user \
         AND application_name NOT LIKE 'cutover%' AND {}",
        super::acts::foreign(fence.database())
    );
    let row = admin.row(&query, soon()).await.and_then(|row| row.number::<u64>("found"));
    row.map_err(doing(fence.place, "looking for sessions under our role"))
}

/// Where roles are locked out, our own is not: whoever else logs in as it is closed and comes back,
/// and writes once the table locks are gone, while the other side serves.
async fn own_role(fence: &PostgresFence, admin: &Sql, who: &str) -> PortResult<Check> {
    const NAME: &str = "fence-own-role";
    let found = under_our_role(fence, admin).await?;
    if found == 0 {
        return Ok(Check::ok(NAME, format!("nobody else uses our role {who}")));
    }
    Ok(Check::fail(
        NAME,
        format!(
            "{found} sessions of others use our role {who}, which may log in to {} whatever is \
             sealed",
            fence.place
        ),
        "give cutover a role of its own, or make it the owner of the database",
    ))
}

/// Whether what a run would close says that somebody else has closed it.
async fn unclaimed(fence: &PostgresFence, admin: &Sql) -> PortResult<Check> {
    const NAME: &str = "fence-claim";
    let (place, database) = (fence.place, fence.database());
    let found = claim::find(admin, place, database, soon()).await?;
    Ok(match found {
        None => Check::ok(NAME, "nobody else has closed it, and not taken that back"),
        Some(found) => Check::fail(
            NAME,
            format!(
                "{place} is open, and its comment says that it was closed by {}: somebody has opened \
                 it by hand",
                found.claim
            ),
            format!(
                "make sure that it is {place} that serves, and that no other sidecar acts for it; \
                 then: COMMENT ON DATABASE {} IS NULL",
                ident(database)
            ),
        ),
    })
}

fn signal(rights: &TextRow, who: &str) -> Check {
    if rights.is_true("superuser") || rights.is_true("signal") {
        return Check::ok("fence-terminate", "sessions of others can be closed");
    }
    Check::fail(
        "fence-terminate",
        format!("role {who} may not close the sessions of other roles"),
        format!("GRANT pg_signal_backend TO {}", ident(who)),
    )
}

fn stats(rights: &TextRow, who: &str) -> Check {
    if rights.is_true("superuser") || rights.is_true("stats") {
        return Check::ok("fence-scan", "sessions of others can be seen");
    }
    Check::fail(
        "fence-scan",
        format!("role {who} can't see what the sessions of other roles do"),
        format!("GRANT pg_read_all_stats TO {}", ident(who)),
    )
}

/// A row marker needs its table, published.
async fn marker(fence: &PostgresFence, admin: &Sql) -> PortResult<Check> {
    match MarkerKind::for_version(admin.version_num()) {
        MarkerKind::Message => Ok(Check::ok("marker", "a logical message")),
        MarkerKind::Row => {
            let query = format!(
                "SELECT count(*) AS there FROM pg_catalog.pg_publication_tables \
                 WHERE pubname = {} AND schemaname = '_cutover' AND tablename = 'marker'",
                literal(&fence.publication)
            );
            let row = admin.row(&query, soon()).await;
            let there: u64 = row
                .and_then(|row| row.number("there"))
                .map_err(doing(fence.place, "looking for the marker's table"))?;
            Ok(if there == 1 {
                Check::ok("marker", "a row in _cutover.marker")
            } else {
                Check::fail(
                    "marker",
                    format!(
                        "publication {} does not have table _cutover.marker, which this version \
                         of PostgreSQL needs to prove a drain",
                        ident(&fence.publication)
                    ),
                    "restart the sidecar: it creates and publishes the table",
                )
            })
        }
    }
}

/// LOCK TABLE .. IN SHARE MODE needs UPDATE, DELETE or TRUNCATE (manual, LOCK).
async fn lockable(fence: &PostgresFence, admin: &Sql, tables: u64, who: &str) -> PortResult<Check> {
    // By OID: names would have to be looked up in schemas that we may not enter.
    let query = format!(
        "SELECT format('%I.%I', t.schemaname, t.tablename) \
         FROM pg_catalog.pg_publication_tables t \
         JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
         WHERE t.pubname = {} AND t.schemaname <> '_cutover' AND NOT \
         (pg_catalog.has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE') \
          AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')) ORDER BY 1",
        literal(&fence.publication)
    );
    let rows = admin
        .rows(&query, soon())
        .await
        .map_err(doing(fence.place, "reading our rights on tables"))?;
    let refused: Vec<_> = rows.iter().filter_map(|row| row.at(0)).collect();
    Ok(match refused.first() {
        None => Check::ok("fence-locks", format!("{tables} tables can be locked")),
        Some(first) => Check::fail(
            "fence-locks",
            format!("role {who} may not lock {} tables, the first: {first}", refused.len()),
            format!(
                "GRANT UPDATE ON {0} TO {1} (and USAGE on their schemas)",
                refused.join(", "),
                ident(who)
            ),
        ),
    })
}

/// Whether the server's lock table has room for a lock on each replicated table and on its children,
/// which `LOCK TABLE` locks, too.
async fn lock_room(fence: &PostgresFence, admin: &Sql) -> PortResult<Check> {
    const NAME: &str = "lock-slots";
    let query = format!(
        "WITH RECURSIVE locked(oid) AS ( \
             SELECT c.oid FROM pg_catalog.pg_publication_tables t \
             JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
             WHERE t.pubname = {} AND t.schemaname <> '_cutover' \
             UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
             JOIN locked ON i.inhparent = locked.oid) \
         SELECT (SELECT count(*) FROM locked) AS tables, \
                (SELECT count(*) FROM pg_catalog.pg_locks \
                 WHERE NOT fastpath AND mode <> 'SIReadLock') AS taken, \
                {PROVIDED} AS slots",
        literal(&fence.publication)
    );
    let failed = doing(fence.place, "reading how many locks there is room for");
    let row = admin.row(&query, soon()).await.map_err(&failed)?;
    let number = |name| row.number::<u64>(name).map_err(&failed);
    let (tables, taken, slots) = (number("tables")?, number("taken")?, number("slots")?);
    let found = format!("{tables} tables to lock, room for {slots} locks, {taken} of them taken");
    Ok(match tables + taken > slots {
        true => Check::fail(
            NAME,
            found,
            format!(
                "raise max_locks_per_transaction on {} (needs a restart), or make the role that cuts \
                 over the owner of {}: then no table is locked",
                fence.place,
                ident(fence.database())
            ),
        ),
        false => Check::ok(NAME, found),
    })
}

/// Whom a run would throw out, and whom it can't.
async fn sessions(fence: &PostgresFence, admin: &Sql, rights: &TextRow) -> PortResult<Vec<Check>> {
    let query = format!(
        "SELECT coalesce(usename, '-') AS role, \
                coalesce(nullif(application_name, ''), backend_type, 'no name') AS name, \
                coalesce(host(client_addr), 'local') AS addr, count(*) AS sessions, \
                bool_or(coalesce(r.rolsuper, false)) AS superuser \
         FROM pg_catalog.pg_stat_activity LEFT JOIN pg_catalog.pg_roles r ON rolname = usename \
         WHERE {} GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 20",
        super::acts::foreign(fence.database())
    );
    let rows = admin.rows(&query, soon()).await.map_err(doing(fence.place, "listing sessions"))?;
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            format!(
                "{}x {} as {} from {}",
                row.get("sessions").unwrap_or("?"),
                row.get("name").unwrap_or("?"),
                row.get("role").unwrap_or("?"),
                row.get("addr").unwrap_or("?")
            )
        })
        .collect();
    let mut checks = vec![if shown.is_empty() {
        Check::ok("sessions", format!("no other session on {}", fence.place))
    } else {
        Check::ok("sessions", format!("will be closed on {}: {}", fence.place, shown.join("; ")))
    }];
    let superusers = rows.iter().any(|row| row.is_true("superuser"));
    if superusers && !rights.is_true("superuser") {
        checks.push(Check::fail(
            "superuser-sessions",
            format!("a superuser has sessions on {} that only a superuser can close", fence.place),
            "close them, or connect as a superuser",
        ));
    }
    Ok(checks)
}
