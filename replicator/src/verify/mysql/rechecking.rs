//! Rows that were written since, looked at again: all of them at one moment of both sides.
//!
//! What was noted when they are taken is applied before a moment is looked for, so whatever moment is
//! found has it, on both sides: what is seen is at least what was noted. A moment costs the source the
//! same whatever is looked at in it, so there are few, with pauses between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cutover::verify::Progress;
use decoders::{Lsn, QualifiedName};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::compare::{self, Compared, Meeting};
use super::found::Found;
use super::job::{SLICE, Verification};
use super::keys;
use super::line::Bench;
use super::plan::{SOURCE, TARGET, TablePlan};
use super::side::{End, close};
use super::slices::{self, Pair};
use crate::engine::touched::{Cascades, Dirty, Key, TouchedRows, Watched};
use crate::schema::mysql::qualified;
use crate::verify::Trouble;
use crate::verify::continuous::{Continuous, Looker};
use crate::verify::settle::Settled;
use crate::verify::work::Counts;

/// Between two looks.
const REST: Duration = Duration::from_secs(2);
/// The same, where a moment is one in which nobody commits: all of MySQL's are.
const REST_OF_LOCKS: Duration = Duration::from_secs(5);
/// The longest, after moments that were looked for in vain: each costs the source as much.
const REST_MAX: Duration = Duration::from_secs(60);
/// Rows of one statement.
const STEP_ROWS: usize = 500;
/// How long the stream may take to apply what was noted.
const APPLY: Duration = Duration::from_secs(60);
/// Differences of a statement's rows after which no more are looked for.
const ENOUGH: usize = 10_000;
/// Pairs of sessions for a table that has to be compared again.
const CONNECTIONS: u32 = 1;

/// What is noted of a table. `cascades`: what foreign keys do is not in the stream.
pub(super) fn watched(plan: &TablePlan, all: &[&TablePlan], cascades: bool) -> Watched {
    Watched {
        name: plan.name.clone(),
        key: plan.key().iter().map(|column| column.name.clone()).collect(),
        columns: plan.info.columns.iter().map(|column| column.name.clone()).collect(),
        cascades: if cascades { cascading(plan, all) } else { Cascades::default() },
    }
}

/// A table whose rows change along with those of one that is not among them, and that one.
pub(super) fn unwatched<'a>(
    all: &[&'a TablePlan],
) -> Option<(&'a QualifiedName, &'a QualifiedName)> {
    all.iter().find_map(|child| {
        let mut keys = child.info.foreign_keys.iter().filter(|key| key.cascades());
        let key = keys.find(|key| all.iter().all(|parent| parent.name != key.references))?;
        Some((&child.name, &key.references))
    })
}

/// The tables whose rows change along with those of this one, directly or by way of others.
fn cascading(plan: &TablePlan, all: &[&TablePlan]) -> Cascades {
    let mut columns = BTreeSet::new();
    let mut tables = BTreeSet::new();
    let mut parents = vec![&plan.name];
    while let Some(parent) = parents.pop() {
        for child in all {
            let keys = child.info.foreign_keys.iter();
            for key in keys.filter(|key| key.references == *parent && key.cascades()) {
                if *parent == plan.name {
                    columns.extend(key.referenced_columns.iter().cloned());
                }
                if tables.insert(child.name.clone()) {
                    parents.push(&child.name);
                }
            }
        }
    }
    Cascades { columns: columns.into_iter().collect(), tables: tables.into_iter().collect() }
}

/// Two servers of MySQL or MariaDB.
pub(in crate::verify) struct BinlogLooker {
    found: Arc<Found>,
    ends: Option<[End; 2]>,
    /// The last look has held commits of the source, or tried to.
    has_locked: bool,
    /// Looks in a row that came to nothing.
    failed: u32,
}

/// Whether a moment is one in which nobody commits.
fn locks_commits(ends: &[End; 2]) -> bool {
    !ends[SOURCE].server.is_mariadb()
}

impl BinlogLooker {
    /// Of what was compared.
    pub fn new(found: Arc<Found>) -> Self {
        Self { found, ends: None, has_locked: false, failed: 0 }
    }

    fn bench(&self, table: &QualifiedName) -> Option<&Arc<Bench>> {
        self.found.benches.iter().find(|bench| bench.plan.name == *table)
    }

    /// Waits until the target has everything before `through`.
    async fn applied(&self, through: Lsn) -> Result<(), Trouble> {
        let mut progress = self.found.pair.stream.shared.progress.subscribe();
        let applied = progress.wait_for(|frontier| frontier.applied() >= through);
        match tokio::time::timeout(APPLY, applied).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Trouble {
                is_transient: true,
                ..Trouble::new("stream", "what is to be looked at again has not been applied yet")
            }),
        }
    }

    async fn open(&mut self) -> Result<Pair, Trouble> {
        let ends = match &self.ends {
            Some(ends) => ends,
            None => self.ends.insert(self.found.ends().await?),
        };
        self.has_locked = locks_commits(ends);
        let both = [&ends[SOURCE], &ends[TARGET]];
        let mut pairs = slices::open(both, &self.found.pair.stream, 1).await?;
        pairs.pop().ok_or_else(|| Trouble::unexpected(self.found.source(), "no sessions"))
    }

    /// Looks at these rows. What was done is taken out of them.
    async fn rows(
        &mut self,
        continuous: &Continuous,
        rows: &mut Vec<TouchedRows>,
        through: Lsn,
    ) -> Result<(), Trouble> {
        self.applied(through).await?;
        let mut pair = self.open().await?;
        while let Some((table, of_table)) = rows.last_mut() {
            let Some(bench) = self.bench(table).filter(|_| !of_table.is_empty()).cloned() else {
                rows.pop();
                continue;
            };
            let from = of_table.len().saturating_sub(STEP_ROWS);
            let step: Vec<Key> = of_table[from..].iter().map(|(key, _)| key.clone()).collect();
            match keys::written(&bench.plan, &step) {
                Some(condition) => {
                    step_of(continuous, &bench, &mut pair, &condition, step.len() as u64).await?;
                }
                None => {
                    let why = "a key of it can't be asked for";
                    let since = of_table.iter().map(|(_, since)| *since).min();
                    let since = since.unwrap_or_else(Instant::now);
                    continuous.touched.note_dirty(table, Dirty { since, why });
                }
            }
            of_table.truncate(from);
        }
        close(pair.source).await;
        close(pair.target).await;
        Ok(())
    }

    /// A table from its first to its last row.
    async fn whole(
        &self,
        continuous: &Continuous,
        bench: &Arc<Bench>,
        through: Lsn,
    ) -> Result<(), Trouble> {
        self.applied(through).await?;
        let (pair, request) = (&self.found.pair, &self.found.request);
        let again = Arc::new(Bench::new(bench.plan.clone(), None));
        let verification = Verification {
            id: "00000000".to_owned(),
            started: Timestamp::now(),
            request: cutover::verify::VerifyRequest {
                connections: Some(CONNECTIONS),
                ..request.clone()
            },
            source: (self.found.source(), pair.source.clone()),
            target: (self.found.target(), pair.target.clone()),
            database: pair.database.clone(),
            filter: pair.tables.clone(),
            stream: Arc::new(pair.stream.clone()),
            slice: SLICE,
            before: Vec::new(),
            finished: None,
            progress: watch::Sender::new(Progress::default()),
        };
        // A pause is no time to read tables.
        tokio::select! {
            all = verification.again(vec![Arc::clone(&again)]) => all?,
            trouble = continuous.turning.ended() => return Err(trouble),
        }
        continuous.turning.check()?;
        let report = again.report.lock().await.clone();
        continuous.rechecked(report.rows);
        if let Some(error) = report.error {
            return Err(Trouble::new("verification", error));
        }
        let differences = again.found.lock().await.clone();
        let mut settled = Settled { differences, ..Settled::default() };
        continuous.take_new(&qualified(&bench.plan.name), &mut settled).await?;
        let compared = Compared { rows: 0, rechecked: report.rows, settled };
        bench.take(compared, &Counts::default(), 0.0).await;
        match report.unsettled {
            0 => Ok(()),
            _ => Err(Trouble::new("verification", "rows of a table could not be settled")),
        }
    }
}

/// Rows of one table for which `condition` holds, whatever else it finds.
async fn step_of(
    continuous: &Continuous,
    bench: &Arc<Bench>,
    pair: &mut Pair,
    condition: &str,
    rechecked: u64,
) -> Result<(), Trouble> {
    let plan = &bench.plan;
    let sql = [SOURCE, TARGET].map(|side| plan.rows_where_sql(side, "''", condition));
    let mut meeting = Meeting::new(plan, ENOUGH);
    for (side, rows) in compare::both(pair, &sql).await?.into_iter().enumerate() {
        for row in rows {
            if !meeting.take(side, row) {
                break;
            }
        }
    }
    let mut settled = Settled { differences: meeting.end(), ..Settled::default() };
    // In and behind a pause clients write the other side: what was seen then is no difference.
    continuous.turning.check()?;
    continuous.rechecked(rechecked);
    continuous.take_new(&qualified(&plan.name), &mut settled).await?;
    bench.take(Compared { rows: 0, rechecked, settled }, &Counts::default(), 0.0).await;
    Ok(())
}

impl Looker for BinlogLooker {
    /// The rows of all tables, then one table as a whole.
    async fn look(&mut self, continuous: &Continuous) -> Result<bool, Trouble> {
        let touched = &continuous.touched;
        self.has_locked = false;
        let (mut rows, through) = touched.take_rows();
        if !rows.is_empty() {
            // A pause is no time to hold anybody.
            let looked = tokio::select! {
                looked = self.rows(continuous, &mut rows, through) => looked,
                trouble = continuous.turning.ended() => Err(trouble),
            };
            touched.settle_rows(rows);
            looked?;
        }
        if let Some((table, dirty, through)) = touched.take_dirty()
            && let Some(bench) = self.bench(&table).cloned()
        {
            self.has_locked |= self.ends.as_ref().is_none_or(locks_commits);
            let compared = self.whole(continuous, &bench, through).await;
            match &compared {
                Ok(()) => touched.settle(&table, Vec::new()),
                Err(_) => {
                    touched.soil(&table, dirty);
                    touched.postpone(&table);
                }
            }
            compared?;
        }
        self.failed = 0;
        Ok(false)
    }

    fn rest(&self) -> Duration {
        match self.has_locked {
            true => (REST_OF_LOCKS * 2_u32.pow(self.failed.min(8))).min(REST_MAX),
            false => REST,
        }
    }

    fn recover(&mut self) {
        self.ends = None;
        self.failed += 1;
    }
}
