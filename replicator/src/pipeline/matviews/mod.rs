//! Materialized views on the target, refreshed before a cutover holds its clients: no stream carries what they hold.
//!
//! A REFRESH runs the view's query in the name of the view's owner, in a security-restricted operation, and with the
//! `search_path` of our session, which is empty. `REFRESH .. CONCURRENTLY` runs code of the owner as us before the minor
//! releases of February 2024, and on 10 and 11 for ever (CVE-2024-0985), so it is never used. (Without those of November
//! 2020 and May 2022, CVE-2020-25695 and CVE-2022-1552, the owner of any table can leave such an operation, as with a
//! superuser's VACUUM.) A query may still call a function that writes, and event triggers fire for a REFRESH: rows that
//! come to be like that are in no stream. So our session is a replica's where our role may, which keeps event triggers
//! quiet, and a refresh that has written to a table is rolled back.

mod refresh;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cutover::Direction;
use cutover::api::{Act, Check, Severity};
use cutover::ports::{PortError, PortResult, Refreshed};
use cutover::verify::{Accepted, ObjectFinding, accepting};
use decoders::postgres::catalog::quote_ident;
use decoders::postgres::session::{self, Session};

use super::arming::{SlotRoute, of_door};
use super::failure::{Failure, of_connect};
use crate::check::finding::count;
use crate::schema::MaterializedViews;
use refresh::{Refused, prepare, refresh};
use view::{View, all, in_order};

/// As `--accept-differences` names one. Definitions compare it as a `view`: whoever accepts another definition has not
/// accepted old rows.
const KIND: &str = "materialized view";
/// The check that says which can't be refreshed.
const CHECK: &str = "materialized-views";
/// `application_name` of the sessions here.
const NAME: &str = "cutover views";

/// A refresh that was made is not made again by a next try within this time.
const KEPT: Duration = Duration::from_secs(300);

/// So many statements are in one text.
const NAMED_MAX: usize = 20;

/// Whether a run refreshes it.
fn is_refreshed(view: &View, accepted: &[Accepted]) -> bool {
    let is_accepted = || accepting(accepted, KIND, &view.name.to_string()).is_some();
    view.may && view.is_populated && !is_accepted()
}

/// How to let a run leave this one as it is.
fn acceptance(view: &View) -> String {
    let name = view.name.to_string().replace('\'', r"'\''");
    format!("to leave it as it is: --accept-differences='{KIND} {name}=REASON'")
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
            // Its errors say which side they mean.
            let guard = self.door.enter(side).await;
            let guard = guard.map_err(|error| self.ends.put(of_door(error)))?;
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
                    // Of a whole database the comparison of views tells it.
                    let tells_empty = !self.config.tables.takes_all();
                    let left = views.iter().filter_map(|view| match view.is_populated {
                        true if view.may => None,
                        true => Some(not_ours(view, to)),
                        false => tells_empty.then(|| not_populated(view, to)),
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
        views.retain(|view| is_refreshed(view, accepted));
        let left = match all - views.len() {
            0 => String::new(),
            left => format!(", {left} left as they are"),
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
                        acceptance(view)
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
        if all == 0 {
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
        let refreshed = views.iter().filter(|view| is_refreshed(view, accepted));
        let act =
            |view: &View| Act { step: "gate".into(), place: place.into(), text: view.statement() };
        Ok(refreshed.map(act).collect())
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
