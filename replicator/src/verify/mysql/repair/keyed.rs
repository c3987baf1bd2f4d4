//! Some rows of a table with a key, written while the target is held: the order that [`super`] argues
//! about.

use decoders::change::{ChangeEvent, Lsn};
use decoders::source::Disposition;
use sinks::TargetError;
use sinks::mysql::Fitted;
use tokio::time::Instant;

use super::super::keys::{self, Key};
use super::super::plan::{SOURCE, TARGET};
use super::super::side::Reader;
use super::changes::{Act, Manner, Need, Rows};
use super::site::{Site, trouble};
use super::subjects::Table;
use crate::verify::Trouble;

pub(super) const DOING: &str = "reading rows for a repair";
/// Of a key that can't be one.
const NO_KEY: &str = "its key can't be written as one of its column's type";
const TWICE: &str = "the key is not unique on one of the sides";
/// Of a row that a write would leave as it is.
pub(super) const UNDEFINED: &str = "both sides were given the same values and show them differently: \
     their columns are defined differently";

/// What was done to rows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub equal: u64,
    /// Rows that were left, by their place in the group, and why.
    pub left: Vec<(usize, &'static str)>,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Committed, or there was nothing to do.
    Done(Written),
    /// Somebody was in the way, or it took too long: another moment.
    Later,
    /// The target has refused a row that was to be written, and nothing was.
    Refused(Refusal),
}

/// Why the target has refused a row.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub why: String,
    /// Because of what other rows are now: it may be taken together with them.
    pub conflict: bool,
}

impl Outcome {
    /// What an error of the target means.
    pub fn of(site: &mut Site, error: TargetError) -> Result<Self, Trouble> {
        match error.disposition {
            Disposition::Retry => Ok(Outcome::Later),
            Disposition::Halt => {
                site.lose_pen();
                Err(trouble(site.target(), &error))
            }
        }
    }
}

/// Makes the rows with these keys equal, before `until`.
///
/// # Errors
/// A server's, and the reason why nothing may be written now.
pub(super) async fn write(
    site: &mut Site,
    source: &mut Reader,
    (table, fitted): (&Table, &Fitted),
    (keys, manner): (&[Key], Manner),
    until: Instant,
) -> Result<Outcome, Trouble> {
    let Some(condition) = keys::condition(&table.plan, keys) else {
        return Ok(Outcome::Refused(Refusal { why: NO_KEY.into(), conflict: false }));
    };
    let writing = under_lock(site, source, (table, fitted), (keys, manner), &condition);
    match tokio::time::timeout_at(until, writing).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(trouble)) => {
            site.lose_pen();
            if trouble.is_transient { Ok(Outcome::Later) } else { Err(trouble) }
        }
        Err(_) => {
            site.lose_pen();
            Ok(Outcome::Later)
        }
    }
}

async fn under_lock(
    site: &mut Site,
    source: &mut Reader,
    (table, fitted): (&Table, &Fitted),
    (keys, manner): (&[Key], Manner),
    condition: &str,
) -> Result<Outcome, Trouble> {
    let sql = |side: usize| table.plan.rows_where_sql(side, table.images.select(side), condition);
    let pen = site.pen().await?;
    if let Err(error) = pen.begin().await {
        return Outcome::of(site, error);
    }
    let (here_sql, there_sql) = (sql(SOURCE), format!("{} FOR UPDATE", sql(TARGET)));
    let (here, there) = tokio::join!(source.rows(DOING, &here_sql), pen.rows(&there_sql));
    let here = here?;
    let there = match there {
        Ok(there) => there,
        Err(error) => return Outcome::of(site, error),
    };
    let mut rows = Rows::new(&table.plan);
    rows.take(SOURCE, here);
    rows.take(TARGET, there);
    let mut written = Written::default();
    let mut changes: Vec<(Act, ChangeEvent)> = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        match rows.need(&table.images, key, manner) {
            Need::Equal => written.equal += 1,
            Need::Twice => written.left.push((at, TWICE)),
            Need::Undefined => written.left.push((at, UNDEFINED)),
            Need::Act(act, more) => {
                match act {
                    Act::Delete => written.deleted += 1,
                    Act::Update => written.updated += 1,
                    Act::Insert => written.inserted += 1,
                }
                changes.extend(more);
            }
        }
    }
    changes.sort_by_key(|(act, _)| *act);
    let changes: Vec<_> = changes.into_iter().map(|(_, change)| (change, 1)).collect();
    Ok(match commit(site, fitted, &changes).await? {
        None => Outcome::Done(written),
        Some(outcome) => outcome,
    })
}

/// Writes and commits, each change as often as it says, or ends the transaction if there is nothing to
/// write. `None`: it is done.
///
/// # Errors
/// The target refuses what is about no row: the next one would not be taken either.
pub(super) async fn commit(
    site: &mut Site,
    fitted: &Fitted,
    changes: &[(ChangeEvent, u64)],
) -> Result<Option<Outcome>, Trouble> {
    if changes.is_empty() {
        site.pen().await?.roll_back().await;
        return Ok(None);
    }
    site.may_commit().await?;
    let pen = site.pen().await?;
    if let Err(error) = pen.write(fitted, changes, Lsn::INVALID).await {
        if error.disposition == Disposition::Halt && error.about_row {
            let refusal = Refusal { why: error.message, conflict: error.conflict };
            return Ok(Some(Outcome::Refused(refusal)));
        }
        return Outcome::of(site, error).map(Some);
    }
    // Whether it is committed is not known then: the next look sees it.
    Ok(pen.commit().await.is_err().then_some(Outcome::Later))
}
