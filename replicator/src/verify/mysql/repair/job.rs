//! One repair between two servers of MySQL or MariaDB.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cutover::verify::KeyPart;
use cutover::verify::repair::{LeftRow, RepairedTable};
use decoders::postgres::catalog::TablePattern;
use sinks::mysql::Fitted;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::found::Found;
use super::super::keys::Key;
use super::super::plan::TablePlan;
use super::super::side::close;
use super::super::slices::{self, Moment};
use super::again;
use super::groups::Groups;
use super::keyed::{self, Outcome};
use super::loose;
use super::site::{Site, trouble};
use super::subjects::{Subject, Suspects, Table, subjects};
use crate::schema::mysql::qualified;
use crate::verify::Trouble;
use crate::verify::repair::{STOPPED, Standing};

/// Rows that are written together.
const GROUP_ROWS: u64 = 500;
/// Bytes of a table's rows that are in memory together, by their average width.
const GROUP_BYTES: u64 = 4 << 20;
/// Nothing is begun in a moment that is older: the stream waits.
const MOMENT: Duration = Duration::from_millis(500);
/// The longest that the stream is kept waiting.
const HELD_MAX: Duration = Duration::from_secs(5);
/// Before another moment is looked for.
const PAUSE: Duration = Duration::from_millis(200);
/// Rows that were left, in a table's report.
const NAMED: usize = 100;

/// What is asked for, and where progress is told.
pub(in crate::verify) struct Asked<'a> {
    /// Tables; none: all with differences.
    pub patterns: &'a [TablePattern],
    /// How long somebody may be in the way of a row.
    pub settle: Duration,
    /// Why nothing may be written now; `None`: it may.
    pub standing: &'a Standing,
    /// Nobody wants it to go on.
    pub stop: watch::Receiver<bool>,
    /// Rows that it is about.
    pub rows: &'a AtomicU64,
    /// Rows that are done.
    pub rows_done: &'a AtomicU64,
}

/// Repairs what was found. Gives back also why it ended early.
///
/// # Errors
/// It could not begin. What goes wrong with a table is in its report.
pub(in crate::verify) async fn repair(
    found: &Found,
    asked: &Asked<'_>,
) -> Result<(Vec<RepairedTable>, Option<String>), Trouble> {
    let mut site = Site::open(found, asked.standing.clone()).await?;
    let subjects = subjects(found, &site.ends, asked.patterns).await?;
    let rows = subjects.iter().map(|subject| subject.suspects.len() as u64).sum();
    asked.rows.store(rows, Ordering::Relaxed);
    let mut tables = Vec::new();
    let mut stopped = None;
    for subject in &subjects {
        let mut tally = RepairedTable {
            table: qualified(&subject.name),
            rows: subject.suspects.len() as u64,
            beyond: subject.beyond,
            error: subject.table.as_ref().err().cloned(),
            ..RepairedTable::default()
        };
        if let (Ok(table), None) = (&subject.table, &stopped) {
            let mut desk = Desk { site: &mut site, asked, table };
            if let Err(trouble) = desk.table(subject, &mut tally).await {
                tally.error = Some(trouble.to_string());
                stopped = site.standing();
            }
            if *asked.stop.borrow() {
                stopped = Some(STOPPED.to_owned());
            }
        }
        tables.push(tally);
        if stopped.is_some() {
            break;
        }
    }
    if stopped.is_none() {
        again::look(&site, &subjects, &mut tables).await;
    }
    Ok((tables, stopped))
}

/// One table's repair.
struct Desk<'a, 'b> {
    site: &'a mut Site,
    asked: &'a Asked<'b>,
    table: &'a Table,
}

impl Desk<'_, '_> {
    async fn table(&mut self, subject: &Subject, tally: &mut RepairedTable) -> Result<(), Trouble> {
        let target = self.site.target();
        let pen = self.site.pen().await?;
        let fitted = pen.fit(self.table.images.schema.clone()).await;
        let fitted = fitted.map_err(|error| trouble(target, &error))?;
        match &subject.suspects {
            Suspects::Keys(keys) => self.keyed(keys, &fitted, tally).await,
            Suspects::Contents(contents) => self.loose(contents, &fitted, tally).await,
        }
    }

    /// A moment, unless it is not to go on. Gives none if there is time to look for another one.
    async fn moment(
        &self,
        until: Instant,
    ) -> Result<Option<Moment<super::super::engine::HeldEngine>>, Trouble> {
        self.site.may_write()?;
        let moment = tokio::select! {
            moment = slices::moment(self.site.both(), &self.site.stream) => moment,
            () = self.site.ended(&self.asked.stop) => {
                self.site.may_write()?;
                return Ok(None);
            }
        };
        match moment {
            Ok(moment) => Ok(Some(moment)),
            Err(trouble) if trouble.is_transient && Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn is_stopped(&self) -> bool {
        *self.asked.stop.borrow()
    }

    fn done(&self, rows: usize) {
        self.asked.rows_done.fetch_add(rows as u64, Ordering::Relaxed);
    }

    async fn keyed(
        &mut self,
        keys: &[Key],
        fitted: &Fitted,
        tally: &mut RepairedTable,
    ) -> Result<(), Trouble> {
        let all: Vec<usize> = (0..keys.len()).collect();
        let mut groups = Groups::new(all, group_rows(&self.table.plan));
        let mut until = Instant::now() + self.asked.settle;
        while groups.has_more() && !self.is_stopped() {
            let Some(moment) = self.moment(until).await? else { continue };
            let Moment { held, mut source, since } = moment;
            let mut is_in_the_way = false;
            while let Some((group, manner)) = groups.queue.pop_front() {
                let of_group: Vec<Key> = group.iter().map(|at| keys[*at].clone()).collect();
                let rows = (of_group.as_slice(), manner);
                let table = (self.table, fitted);
                let ends = since + HELD_MAX;
                let ended = self.site.ended(&self.asked.stop);
                let outcome = tokio::select! {
                    outcome = keyed::write(self.site, &mut source, table, rows, ends) => outcome?,
                    () = ended => {
                        // Before the stream goes on, as when it takes too long.
                        self.site.lose_pen();
                        groups.queue.push_front((group, manner));
                        break;
                    }
                };
                match outcome {
                    Outcome::Done(written) => {
                        tally.inserted += written.inserted;
                        tally.updated += written.updated;
                        tally.deleted += written.deleted;
                        tally.equal_before += written.equal;
                        for (at, why) in written.left {
                            left(&self.table.plan, &of_group[at], why, tally);
                        }
                        self.done(group.len());
                        until = Instant::now() + self.asked.settle;
                    }
                    Outcome::Later => {
                        groups.queue.push_front((group, manner));
                        is_in_the_way = true;
                    }
                    Outcome::Refused(refusal) => groups.refused(group, manner, refusal),
                }
                if is_in_the_way || since.elapsed() > MOMENT || self.is_stopped() {
                    break;
                }
            }
            drop(held);
            close(source).await;
            if is_in_the_way {
                if Instant::now() >= until {
                    tally.in_motion += groups.rows();
                    groups.queue.clear();
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        for (at, refusal) in &groups.alone {
            left(&self.table.plan, &keys[*at], &refusal.why, tally);
        }
        self.done(groups.alone.len());
        Ok(())
    }

    async fn loose(
        &mut self,
        contents: &[String],
        fitted: &Fitted,
        tally: &mut RepairedTable,
    ) -> Result<(), Trouble> {
        let mut open: BTreeSet<&str> = contents.iter().map(String::as_str).collect();
        let until = Instant::now() + self.asked.settle;
        while !self.is_stopped() {
            let Some(moment) = self.moment(until).await? else { continue };
            let Moment { held, mut source, since } = moment;
            let table = (self.table, fitted);
            let ends = since + HELD_MAX;
            let ended = self.site.ended(&self.asked.stop);
            let before = open.len();
            let work = (&mut open, &mut *tally);
            let written = tokio::select! {
                written = loose::write(self.site, &mut source, table, work, ends) => written,
                () = ended => {
                    self.site.lose_pen();
                    Ok(false)
                }
            };
            drop(held);
            close(source).await;
            self.done(before - open.len());
            if written? {
                return Ok(());
            }
            if Instant::now() >= until {
                tally.in_motion += open.len() as u64;
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// Counts a row that stays as it is.
pub(super) fn left(plan: &TablePlan, key: &Key, why: &str, tally: &mut RepairedTable) {
    tally.refused += 1;
    if tally.left.len() < NAMED {
        let part = |(column, value): (&super::super::canonical::Column, &String)| KeyPart {
            column: column.name.clone(),
            value: value.clone(),
        };
        let key = plan.key().iter().zip(key).map(part).collect();
        tally.left.push(LeftRow { key, why: why.to_owned() });
    }
}

pub(super) fn group_rows(plan: &TablePlan) -> usize {
    let width = plan.info.bytes / plan.info.estimated_rows.unwrap_or_default().max(1);
    (GROUP_BYTES / width.max(1)).clamp(1, GROUP_ROWS) as usize
}
