//! A table without a key: as many copies of each content as the source has.

use std::collections::{BTreeMap, BTreeSet};

use decoders::change::ChangeEvent;
use sinks::mysql::Fitted;
use tokio::time::Instant;

use super::super::compare::{self, CONTENTS_ROWS, digest, packed, shown};
use super::super::plan::{Chunk, SOURCE, TARGET};
use super::super::side::{ByteRow, Reader};
use super::images::Image;
use super::keyed::{DOING, Outcome, commit};
use super::site::{Site, trouble};
use super::subjects::Table;
use crate::verify::Trouble;
use crate::verify::compare::portions;

/// Rows with one content that are written together.
const COPIES_MAX: u64 = 1000;
/// All of the table.
pub(super) const ALL: Chunk = Chunk { number: 0, range: None };

/// A content that does not have the same number of rows on both sides.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Rows on the source and on the target.
    pub counts: [u64; 2],
    /// One of them.
    image: Option<Image>,
}

impl Content {
    /// What makes the numbers equal. `None`: too many at once.
    pub fn changes(&self, table: &Table) -> Option<Vec<ChangeEvent>> {
        let [here, there] = self.counts;
        let count = here.abs_diff(there);
        let image = self.image.as_ref().filter(|_| count <= COPIES_MAX)?;
        let change = match here > there {
            true => table.images.insert(image),
            false => table.images.delete(image),
        };
        Some(vec![change; usize::try_from(count).ok()?])
    }
}

/// The statements that look at a table.
pub(super) struct Questions<'a>(pub &'a Table);

impl Questions<'_> {
    pub fn buckets(&self, side: usize) -> String {
        self.0.plan.buckets_sql(side, &ALL)
    }

    pub fn contents(&self, side: usize, buckets: &[String]) -> String {
        let Table { plan, images } = self.0;
        plan.contents_with_sql(side, images.select(side), &ALL, buckets)
    }

    /// Buckets to be read together.
    pub fn portions(apart: &[(String, u64)]) -> Vec<Vec<String>> {
        portions(apart, CONTENTS_ROWS)
    }

    /// Counts rows by content.
    pub fn count(&self, found: &mut BTreeMap<String, Content>, side: usize, rows: Vec<ByteRow>) {
        let plan = &self.0.plan;
        for mut row in rows {
            let image = row.split_off(plan.columns.len().min(row.len()));
            let content = found.entry(shown(digest(&packed(&plan.columns, &row)))).or_default();
            content.counts[side] += 1;
            content.image.get_or_insert(image);
        }
    }
}

/// What was done to contents.
#[derive(Debug, Default)]
pub(super) struct WrittenLoose {
    pub inserted: u64,
    pub deleted: u64,
    /// Contents that were equal.
    pub equal: u64,
    /// Contents that were left, and why.
    pub left: Vec<String>,
}

/// Makes the numbers of these contents equal, before `until`. `None`: somebody was in the way, or it took
/// too long.
///
/// # Errors
/// A server's, and the reason why nothing may be written now.
pub(super) async fn write(
    site: &mut Site,
    source: &mut Reader,
    (table, fitted): (&Table, &Fitted),
    contents: &BTreeSet<&str>,
    until: Instant,
) -> Result<Option<WrittenLoose>, Trouble> {
    let writing = held(site, source, (table, fitted), contents);
    match tokio::time::timeout_at(until, writing).await {
        Ok(Ok(written)) => Ok(written),
        Ok(Err(trouble)) => {
            site.lose_pen();
            if trouble.is_transient { Ok(None) } else { Err(trouble) }
        }
        Err(_) => {
            site.lose_pen();
            Ok(None)
        }
    }
}

async fn held(
    site: &mut Site,
    source: &mut Reader,
    (table, fitted): (&Table, &Fitted),
    contents: &BTreeSet<&str>,
) -> Result<Option<WrittenLoose>, Trouble> {
    let target = site.target();
    begin(site).await?;
    let questions = Questions(table);
    let (here, there) = (questions.buckets(SOURCE), questions.buckets(TARGET));
    let pen = site.pen().await?;
    let (here, there) = tokio::join!(source.rows(DOING, &here), pen.rows(&there));
    let there = there.map_err(|error| trouble(target, &error))?;
    let (_, apart) = compare::apart([source.side, target], [here?, there])?;
    let mut found = BTreeMap::new();
    for buckets in Questions::portions(&apart) {
        let (here, there) =
            (questions.contents(SOURCE, &buckets), questions.contents(TARGET, &buckets));
        let pen = site.pen().await?;
        let (here, there) = tokio::join!(source.rows(DOING, &here), pen.rows(&there));
        questions.count(&mut found, SOURCE, here?);
        questions.count(&mut found, TARGET, there.map_err(|error| trouble(target, &error))?);
        found.retain(|hash, content| {
            contents.contains(hash.as_str()) && content.counts[SOURCE] != content.counts[TARGET]
        });
    }
    let mut written =
        WrittenLoose { equal: (contents.len() - found.len()) as u64, ..WrittenLoose::default() };
    let mut all = Vec::new();
    for content in found.values() {
        match content.changes(table) {
            Some(changes) => all.push((content.counts, changes)),
            None => written.left.push("too many of the same".to_owned()),
        }
    }
    // Deletes first.
    all.sort_by_key(|([here, there], _)| here > there);
    let together: Vec<ChangeEvent> =
        all.iter().flat_map(|(_, changes)| changes.iter().cloned()).collect();
    match commit(site, fitted, &together).await? {
        None => {
            for (counts, _) in &all {
                written.add(*counts);
            }
            return Ok(Some(written));
        }
        Some(Outcome::Refused(_)) => {}
        Some(_) => return Ok(None),
    }
    // One of them is at fault, and the others are not to suffer for it.
    for (counts, changes) in &all {
        begin(site).await?;
        match commit(site, fitted, changes).await? {
            None => written.add(*counts),
            Some(Outcome::Refused(refusal)) => written.left.push(refusal.why),
            Some(_) => return Ok(None),
        }
    }
    Ok(Some(written))
}

async fn begin(site: &mut Site) -> Result<(), Trouble> {
    let target = site.target();
    let begun = site.pen().await?.begin().await;
    begun.map_err(|error| trouble(target, &error))
}

impl WrittenLoose {
    fn add(&mut self, [here, there]: [u64; 2]) {
        self.inserted += here.saturating_sub(there);
        self.deleted += there.saturating_sub(here);
    }
}
