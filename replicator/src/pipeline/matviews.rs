//! Materialized views on the target, refreshed before a cutover holds its clients: no stream carries what they hold.
//!
//! A REFRESH runs the view's query in the name of the view's owner, in a security-restricted operation, and with the
//! `search_path` of our session, which is empty. `REFRESH .. CONCURRENTLY` runs code of the owner as us before the minor
//! releases of February 2024, and on 10 and 11 for ever (CVE-2024-0985), so it is never used. (Without those of November
//! 2020 and May 2022, CVE-2020-25695 and CVE-2022-1552, the owner of any table can leave such an operation, as with a
//! superuser's VACUUM.) A query may still call a function that writes, and event triggers fire for a REFRESH: rows that
//! come to be like that are in no stream. So our session is a replica's where our role may, which keeps event triggers
//! quiet, and a refresh that has written to a table is rolled back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cutover::Direction;
use cutover::api::{Act, Check, Severity};
use cutover::ports::{PortError, PortResult, Refreshed};
use cutover::verify::{Accepted, ObjectFinding, accepting};
use decoders::QualifiedName;
use decoders::postgres::catalog::quote_ident;
use decoders::postgres::session::{self, Session};
use decoders::source::Disposition;
use sinks::postgres::{Refusal, target_error};

use super::arming::{SlotRoute, of_door};
use super::failure::{Failure, of_connect};
use super::record::make_writable;
use crate::cancel::cancelled_on_drop;
use crate::check::finding::count;
use crate::schema::MaterializedViews;

/// As `--accept-differences` names one. Definitions compare it as a `view`: whoever accepts another definition has not
/// accepted old rows.
const KIND: &str = "materialized view";
/// The check that says which can't be refreshed.
const CHECK: &str = "materialized-views";
/// `application_name` of the sessions here.
const NAME: &str = "cutover views";

/// Policies bound what an owner's query sees; with the `off` of our sessions it would fail.
const ROW_SECURITY: &str = "SET row_security = on";
/// Whoever reads a view keeps its lock, and the stream's TRUNCATE may wait behind us.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '10s'";
/// If we are gone, the statement ends; from 14 on.
const CONNECTION_CHECK: &str = "
SELECT pg_catalog.set_config(name, '10s', false) FROM pg_catalog.pg_settings
WHERE name = 'client_connection_check_interval'";
/// In a database that accepts no connections parallel workers can't start before the minor releases of February 2025,
/// which is an error of the statement.
const ALONE: &str = "
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
WHERE name IN ('max_parallel_workers_per_gather', 'max_parallel_maintenance_workers')";
/// Event triggers stay quiet.
const REPLICA: &str = "SET session_replication_role = replica";

/// A refresh that was made is not made again by a next try within this time.
const KEPT: Duration = Duration::from_secs(300);

/// Tables that this transaction has written to.
const WRITTEN: &str = "
SELECT pg_catalog.string_agg(DISTINCT c.oid::pg_catalog.regclass::text, ', ')
FROM pg_catalog.pg_stat_xact_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
WHERE c.relkind <> 'm' AND s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0";

/// Who holds a lock of a relation.
const HOLDERS: &str = "
SELECT pg_catalog.string_agg(pg_catalog.format('pid %s of role %s (%s)', a.pid, a.usename, a.application_name), ', ')
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";

/// The first version in which the right to refresh can be granted.
const MAINTAIN: u32 = 170_000;

/// So many statements are in one text.
const NAMED_MAX: usize = 20;

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
struct View {
    oid: u32,
    name: QualifiedName,
    owner: String,
    /// Our role may refresh it.
    may: bool,
    is_populated: bool,
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

    fn statement(&self) -> String {
        format!("REFRESH MATERIALIZED VIEW {}", self.name)
    }

    /// How to let a run leave this one as it is.
    fn acceptance(&self) -> String {
        let name = self.name.to_string().replace('\'', r"'\''");
        format!("to leave it as it is: --accept-differences='{KIND} {name}=REASON'")
    }
}

async fn all(session: &Session) -> Result<Vec<View>, Failure> {
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
async fn in_order(session: &Session, views: Vec<View>) -> Result<Vec<View>, Failure> {
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

/// Why one was not refreshed.
enum Refused {
    /// Trying again may help.
    Now(String),
    /// Its query fails.
    Always(String),
}

/// In a transaction of its own.
async fn refresh(session: &Session, view: &View) -> Result<(), Refused> {
    let refreshed = async {
        session.batch_execute("BEGIN READ WRITE").await?;
        session.batch_execute(&view.statement()).await?;
        session.query_one(WRITTEN, &[]).await?.try_get::<_, Option<String>>(0)
    };
    let refreshed = cancelled_on_drop(session, refreshed).await;
    let end = if matches!(refreshed, Ok(None)) { "COMMIT" } else { "ROLLBACK" };
    let ended = session.batch_execute(end).await;
    match refreshed.and_then(|written| ended.map(|()| written)) {
        Ok(None) => Ok(()),
        Ok(Some(tables)) => Err(Refused::Always(format!(
            "refreshing {} writes to {tables}, through a function or a trigger, which no stream would carry",
            view.name
        ))),
        Err(error) => Err(refused(session, view, &error).await),
    }
}

async fn refused(session: &Session, view: &View, error: &tokio_postgres::Error) -> Refused {
    /// Somebody holds a lock.
    const LOCKED: &str = "55P03";
    let refusal = Refusal::of(error);
    let mut what = format!("refreshing {}: {}", view.name, refusal.text);
    let code = refusal.code.as_deref().unwrap_or_default();
    if code == LOCKED {
        let holders = session.query_one(HOLDERS, &[&view.oid]).await;
        let holders = holders.and_then(|row| row.try_get::<_, Option<String>>(0));
        match holders {
            Ok(Some(holders)) => what.push_str(&format!("; it is held by {holders}")),
            Ok(None) => {}
            Err(error) => tracing::debug!("who holds a lock can't be told: {error}"),
        }
    }
    // A connection that its query makes, to a server of its own, fails for good until somebody mends that.
    match refusal.disposition() {
        Disposition::Retry if !code.starts_with("08") => Refused::Now(what),
        Disposition::Retry | Disposition::Halt => Refused::Always(what),
    }
}

fn accepts(accepted: &[Accepted], view: &View) -> bool {
    accepting(accepted, KIND, &view.name.to_string()).is_some()
}

impl SlotRoute {
    /// Whether views are refreshed. A way back does not wait for that.
    fn refreshes_views(&self) -> bool {
        self.config.schema.materialized_views == MaterializedViews::Refresh
            && self.ends.direction == Direction::Forward
    }

    /// Sessions on both sides, and whether the target is closed to everybody else.
    async fn view_sessions(&self) -> Result<([Session; 2], bool), Failure> {
        let open = async |end: &'static str, side, info| {
            let guard = self.door.enter(side).await.map_err(of_door)?;
            let session = session::connect(info, NAME).await;
            let session = session.map_err(|error| of_connect(end, &error))?;
            Ok::<_, Failure>((session, guard.is_ajar()))
        };
        let (source, _) = open("blue", self.ends.direction.from(), &self.ends.source).await?;
        let (target, is_closed) =
            open("green", self.ends.direction.to(), &self.ends.target).await?;
        Ok(([source, target], is_closed))
    }

    /// Those that are populated on the source, as the target has them, in the order in which they read each other.
    /// Which the source has populated is the application's matter.
    async fn views(&self, [source, target]: &[Session; 2]) -> Result<Vec<View>, Failure> {
        let there = all(source).await?.into_iter().filter(|view| view.is_populated);
        let there: BTreeSet<_> = there.map(|view| view.name).collect();
        let mut views = all(target).await?;
        views.retain(|view| there.contains(&view.name) && self.config.tables.takes(&view.name));
        if views.len() > 1 { in_order(target, views).await } else { Ok(views) }
    }

    /// What the comparison of definitions says of them: those that a run can't refresh because of our role's rights
    /// or because they hold nothing yet, or, on the way back, that none is.
    pub(crate) async fn views_left(&self) -> Result<Vec<ObjectFinding>, Failure> {
        if self.config.schema.materialized_views == MaterializedViews::Leave {
            return Ok(Vec::new());
        }
        let found = async {
            let views = self.views(&self.view_sessions().await?.0).await?;
            let to = self.ends.direction.to();
            Ok(match self.ends.direction {
                Direction::Forward => {
                    let left = views.iter().filter_map(|view| match view.is_populated {
                        true if view.may => None,
                        true => Some(not_ours(view, to)),
                        false => Some(not_populated(view, to)),
                    });
                    left.collect()
                }
                Direction::Back => not_refreshed(&views, to).into_iter().collect(),
            })
        };
        found.await.map_err(|failure| self.ends.put(failure))
    }

    fn view_port(&self, failure: Failure) -> PortError {
        crate::controlling::of_failure(self.ends.put(failure))
    }

    /// Refreshes all that our role may and that are not accepted as they are.
    pub(super) async fn views_refreshed(&self, accepted: &[Accepted]) -> PortResult<Refreshed> {
        if !self.refreshes_views() {
            return Ok(Refreshed::Nothing);
        }
        let read = async {
            let (sessions, is_closed) = self.view_sessions().await?;
            let views = self.views(&sessions).await?;
            let [_, target] = sessions;
            prepare(&target, is_closed).await?;
            Ok((target, views))
        };
        let (target, mut views) = read.await.map_err(|failure| self.view_port(failure))?;
        let all = views.len();
        views.retain(|view| view.may && view.is_populated && !accepts(accepted, view));
        let left = match all - views.len() {
            0 => String::new(),
            left => format!("; {left} left as they are"),
        };
        let to = self.ends.direction.to();
        let began = Instant::now();
        let mut slowest: Option<(Duration, &View)> = None;
        for view in &views {
            let since = Instant::now();
            // An earlier try has come past it.
            if self.kept().get(&view.oid).is_some_and(|at| since < *at + KEPT) {
                continue;
            }
            match refresh(&target, view).await {
                Ok(()) => {}
                Err(Refused::Now(what)) => return Err(PortError::new(to.name(), what)),
                Err(Refused::Always(what)) => {
                    self.kept().clear();
                    let fix = format!(
                        "mend the view on both sides and try again (a function that it calls finds nothing by \
                         a bare name unless it sets its own search_path); {}; or set \
                         schema.materialized_views = \"leave\" and refresh by hand",
                        view.acceptance()
                    );
                    let evidence = format!("on {to}: {what}");
                    return Ok(Refreshed::Refused(Check::fail(CHECK, evidence, fix)));
                }
            }
            let took = since.elapsed();
            self.kept().insert(view.oid, Instant::now());
            tracing::info!(view = %view.name, duration_ms = took.as_millis() as u64, "refreshed on {to}");
            if slowest.is_none_or(|(longest, _)| took > longest) {
                slowest = Some((took, view));
            }
        }
        // The next refresh begins anew.
        self.kept().clear();
        if views.is_empty() {
            return Ok(Refreshed::Nothing);
        }
        let slowest = slowest
            .map_or(String::new(), |(took, view)| format!(" ({took:.1?} of it for {})", view.name));
        Ok(Refreshed::Done(format!(
            "{} refreshed on {to} in {:.1?}{slowest}{left}",
            count(views.len(), "materialized view"),
            began.elapsed(),
        )))
    }

    /// When which view was refreshed by a try that has not come to its end.
    fn kept(&self) -> MutexGuard<'_, BTreeMap<u32, Instant>> {
        self.refreshed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statements of [`SlotRoute::views_refreshed`].
    pub(super) async fn refreshing_acts(&self, accepted: &[Accepted]) -> PortResult<Vec<Act>> {
        if !self.refreshes_views() {
            return Ok(Vec::new());
        }
        let read = async { self.views(&self.view_sessions().await?.0).await };
        let views = read.await.map_err(|failure| self.view_port(failure))?;
        let place = self.ends.direction.to().name();
        let refreshed =
            (views.iter()).filter(|view| view.may && view.is_populated && !accepts(accepted, view));
        let act =
            |view: &View| Act { step: "gate".into(), place: place.into(), text: view.statement() };
        Ok(refreshed.map(act).collect())
    }
}

/// A session that refreshes. `is_closed`: its database takes no other.
async fn prepare(session: &Session, is_closed: bool) -> Result<(), Failure> {
    make_writable(session).await?;
    let alone = if is_closed { ALONE } else { "" };
    let all = [ROW_SECURITY, LOCK_TIMEOUT, CONNECTION_CHECK, alone].join(";");
    let set = session.batch_execute(&all).await;
    set.map_err(|error| target_error("preparing a session for views", &error))?;
    match session.batch_execute(REPLICA).await {
        // Without the right to it, what a refresh writes is found all the same.
        Err(error) if error.as_db_error().is_some() => Ok(()),
        set => Ok(set.map_err(|error| target_error("preparing a session for views", &error))?),
    }
}

fn not_populated(view: &View, to: cutover::Side) -> ObjectFinding {
    ObjectFinding {
        severity: Severity::Fail,
        kind: KIND.into(),
        object: view.name.to_string(),
        what: format!("it is populated on {}, and not on {to}", to.other()),
        fix: Some(format!("on {to}: {}", view.statement())),
    }
}

fn not_ours(view: &View, to: cutover::Side) -> ObjectFinding {
    ObjectFinding {
        severity: Severity::Fail,
        kind: KIND.into(),
        object: view.name.to_string(),
        what: format!(
            "our role may not refresh it on {to}, so its rows would be as old as its last refresh there"
        ),
        fix: Some(format!(
            "on {to}: GRANT {} TO our role (on 17 and later GRANT MAINTAIN ON {} is enough), or set \
             schema.materialized_views = \"leave\" and refresh by hand",
            quote_ident(&view.owner),
            view.name
        )),
    }
}

/// On the way back: one line for all.
fn not_refreshed(views: &[View], to: cutover::Side) -> Option<ObjectFinding> {
    let first = views.first()?;
    let more = match views.len() {
        1 => String::new(),
        all => format!(" and {} more", all - 1),
    };
    let statements: Vec<_> = views.iter().take(NAMED_MAX).map(View::statement).collect();
    let rest = match views.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        rest => format!("; and {rest} more"),
    };
    Some(ObjectFinding {
        severity: Severity::Warn,
        kind: KIND.into(),
        object: format!("{}{more}", first.name),
        what: format!(
            "materialized views of {to} are as old as their last refresh there; a rollback does not wait for one"
        ),
        fix: Some(format!("on {to}, once it serves: {}{rest}", statements.join("; "))),
    })
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
