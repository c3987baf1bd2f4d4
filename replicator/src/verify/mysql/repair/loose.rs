//! A table without a key: as many copies of each content as the source has.

use std::collections::{BTreeMap, BTreeSet};

use cutover::verify::repair::RepairedTable;
use decoders::change::ChangeEvent;
use sinks::mysql::Fitted;
use tokio::time::Instant;

use super::super::compare::{self, CONTENTS_ROWS, digest, packed, shown};
use super::super::keys::Key;
use super::super::plan::{Chunk, SOURCE, TARGET, TablePlan};
use super::super::side::{ByteRow, Reader};
use super::images::Image;
use super::job::left;
use super::keyed::{DOING, Outcome, UNDEFINED, commit};
use super::site::{Site, trouble};
use super::subjects::Table;
use crate::verify::Trouble;
use crate::verify::compare::portions;

/// Rows with one content that are written together.
const COPIES_MAX: u64 = 1000;
/// All of the table.
pub(super) const ALL: Chunk = Chunk { number: 0, range: None };

/// A content that does not have the same number of rows on both sides.
#[derive(Debug)]
pub(super) struct Content {
    /// Rows on the source and on the target.
    pub counts: [u64; 2],
    /// One of them.
    image: Image,
    /// The other side has rows with these values as another content.
    is_undefined: bool,
}

impl Content {
    /// Of what was seen on both sides, what differs in number.
    pub fn apart([source, target]: [Seen<'_>; 2]) -> BTreeMap<String, Content> {
        let mut found = BTreeMap::new();
        for (side, seen) in [(SOURCE, source), (TARGET, target)] {
            for (hash, (rows, image)) in seen.rows {
                let empty = Content { counts: [0, 0], image, is_undefined: false };
                found.entry(hash).or_insert(empty).counts[side] = rows;
            }
        }
        found.retain(|_, content| content.counts[SOURCE] != content.counts[TARGET]);
        let added = |content: &Content| content.counts[SOURCE] > content.counts[TARGET];
        let images: BTreeSet<(&Image, bool)> =
            found.values().map(|content| (&content.image, added(content))).collect();
        let is_undefined = |content: &Content| images.contains(&(&content.image, !added(content)));
        let undefined: BTreeSet<String> = found
            .iter()
            .filter(|(_, content)| is_undefined(content))
            .map(|(hash, _)| hash.clone())
            .collect();
        for (hash, content) in &mut found {
            content.is_undefined = undefined.contains(hash);
        }
        found
    }

    /// The change that makes the numbers equal, and how often; or why it is left.
    pub fn change(&self, table: &Table) -> Result<(ChangeEvent, u64), &'static str> {
        let [here, there] = self.counts;
        let count = here.abs_diff(there);
        if self.is_undefined {
            return Err(UNDEFINED);
        }
        if count > COPIES_MAX {
            return Err("too many of the same");
        }
        let change = match here > there {
            true => table.images.insert(&self.image),
            false => table.images.delete(&self.image),
        };
        Ok((change, count))
    }
}

/// Rows of one side that were looked for, by content. The others are forgotten as they come: all of a
/// table's rows are looked at.
pub(super) struct Seen<'a> {
    plan: &'a TablePlan,
    wanted: &'a BTreeSet<&'a str>,
    rows: BTreeMap<String, (u64, Image)>,
}

impl Seen<'_> {
    pub fn take(&mut self, mut row: ByteRow) {
        let image = row.split_off(self.plan.columns.len().min(row.len()));
        let hash = shown(digest(&packed(&self.plan.columns, &row)));
        if self.wanted.contains(hash.as_str()) {
            self.rows.entry(hash).or_insert((0, image)).0 += 1;
        }
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

    /// Nothing yet.
    pub fn seen<'a>(&'a self, wanted: &'a BTreeSet<&'a str>) -> Seen<'a> {
        Seen { plan: &self.0.plan, wanted, rows: BTreeMap::new() }
    }
}

/// Makes the numbers of the contents that are `open` equal, before `until`. What is done is taken out of
/// them and told at once, also if this is dropped half-way. Whether it came to its end: somebody may be in
/// the way, or it takes too long.
///
/// # Errors
/// A server's, and the reason why nothing may be written now.
pub(super) async fn write(
    site: &mut Site,
    source: &mut Reader,
    (table, fitted): (&Table, &Fitted),
    (open, tally): (&mut BTreeSet<&str>, &mut RepairedTable),
    until: Instant,
) -> Result<bool, Trouble> {
    let writing = held(site, source, (table, fitted), (open, tally));
    match tokio::time::timeout_at(until, writing).await {
        Ok(Ok(is_done)) => Ok(is_done),
        Ok(Err(trouble)) => {
            site.lose_pen();
            if trouble.is_transient { Ok(false) } else { Err(trouble) }
        }
        Err(_) => {
            site.lose_pen();
            Ok(false)
        }
    }
}

async fn held(
    site: &mut Site,
    source: &mut Reader,
    (table, fitted): (&Table, &Fitted),
    (open, tally): (&mut BTreeSet<&str>, &mut RepairedTable),
) -> Result<bool, Trouble> {
    let target = site.target();
    begin(site).await?;
    let questions = Questions(table);
    let (here, there) = (questions.buckets(SOURCE), questions.buckets(TARGET));
    let pen = site.pen().await?;
    let (here, there) = tokio::join!(source.rows(DOING, &here), pen.rows(&there));
    let there = there.map_err(|error| trouble(target, &error))?;
    let (_, apart) = compare::apart([source.side, target], [here?, there])?;
    let mut seen = [questions.seen(open), questions.seen(open)];
    let [of_source, of_target] = &mut seen;
    for buckets in Questions::portions(&apart) {
        let (here, there) =
            (questions.contents(SOURCE, &buckets), questions.contents(TARGET, &buckets));
        let pen = site.pen().await?;
        let (here, there) = tokio::join!(
            source.each_row(DOING, &here, |row| of_source.take(row)),
            pen.each_row(&there, |row| of_target.take(row)),
        );
        here?;
        there.map_err(|error| trouble(target, &error))?;
    }
    let found = Content::apart(seen);
    tally.equal_before += (open.len() - found.len()) as u64;
    open.retain(|hash| found.contains_key(*hash));
    let mut all = Vec::new();
    for (hash, content) in &found {
        match content.change(table) {
            Ok(change) => all.push((hash.as_str(), content.counts, change)),
            Err(why) => leave(table, (open, tally), hash, why),
        }
    }
    // Deletes first.
    all.sort_by_key(|(_, [here, there], _)| here > there);
    let together: Vec<_> = all.iter().map(|(.., change)| change.clone()).collect();
    match commit(site, fitted, &together).await? {
        None => {
            for (hash, counts, _) in &all {
                finish((open, tally), hash, *counts);
            }
            return Ok(true);
        }
        Some(Outcome::Refused(_)) => {}
        Some(_) => return Ok(false),
    }
    // One of them is at fault, and the others are not to suffer for it.
    for (hash, counts, change) in &all {
        begin(site).await?;
        match commit(site, fitted, std::slice::from_ref(change)).await? {
            None => finish((open, tally), hash, *counts),
            Some(Outcome::Refused(refusal)) => leave(table, (open, tally), hash, &refusal.why),
            Some(_) => return Ok(false),
        }
    }
    Ok(true)
}

fn finish(
    (open, tally): (&mut BTreeSet<&str>, &mut RepairedTable),
    hash: &str,
    [here, there]: [u64; 2],
) {
    open.remove(hash);
    tally.inserted += here.saturating_sub(there);
    tally.deleted += there.saturating_sub(here);
}

fn leave(
    table: &Table,
    (open, tally): (&mut BTreeSet<&str>, &mut RepairedTable),
    hash: &str,
    why: &str,
) {
    open.remove(hash);
    left(&table.plan, &Key::new(), why, tally);
}

async fn begin(site: &mut Site) -> Result<(), Trouble> {
    let target = site.target();
    let begun = site.pen().await?.begin().await;
    begun.map_err(|error| trouble(target, &error))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{row, table};
    use super::*;

    fn hash(table: &Table, row: ByteRow) -> String {
        shown(digest(&packed(&table.plan.columns, &row[..2].to_vec())))
    }

    #[test]
    fn only_contents_that_are_looked_for_are_kept() {
        let table = table(false);
        let [one, other] = [row("1", "1:a", "a"), row("2", "1:a", "a")];
        let (of_one, of_other) = (hash(&table, one.clone()), hash(&table, other.clone()));
        let wanted = BTreeSet::from([of_one.as_str()]);
        let questions = Questions(&table);
        let mut seen = [questions.seen(&wanted), questions.seen(&wanted)];
        for _ in 0..3 {
            seen[SOURCE].take(one.clone());
            seen[SOURCE].take(other.clone());
        }
        seen[TARGET].take(one);
        assert!(!seen[SOURCE].rows.contains_key(&of_other));
        let found = Content::apart(seen);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&of_one]);
        let (change, times) = found[&of_one].change(&table).unwrap();
        assert!(matches!(change, ChangeEvent::Insert { .. }) && times == 2);
    }

    #[test]
    fn values_that_both_sides_show_differently_are_not_written_anew() {
        let table = table(false);
        let (here, there) = (row("1", "1:a", "a"), row("1", "2:a", "a"));
        let both = [hash(&table, here.clone()), hash(&table, there.clone())];
        let wanted = both.iter().map(String::as_str).collect();
        let questions = Questions(&table);
        let mut seen = [questions.seen(&wanted), questions.seen(&wanted)];
        seen[SOURCE].take(here);
        seen[TARGET].take(there);
        let found = Content::apart(seen);
        assert_eq!(found.len(), 2);
        assert!(found.values().all(|content| content.change(&table).unwrap_err() == UNDEFINED));
    }

    #[test]
    fn what_is_written_is_told_before_all_is_done() {
        let mut open = BTreeSet::from(["a", "b", "c"]);
        let mut tally = RepairedTable::default();
        finish((&mut open, &mut tally), "a", [3, 1]);
        leave(&table(false), (&mut open, &mut tally), "b", "a check");
        assert_eq!((tally.inserted, tally.deleted, tally.refused), (2, 0, 1));
        assert_eq!(open, BTreeSet::from(["c"]));
    }
}
