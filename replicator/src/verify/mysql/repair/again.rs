//! Rows that were repaired, looked at again, at one moment of both sides.

use std::collections::{BTreeMap, BTreeSet};

use cutover::verify::repair::RepairedTable;

use super::super::compare;
use super::super::keys::{self, Key};
use super::super::plan::{SOURCE, TARGET};
use super::super::side::close;
use super::super::slices::{self, Pair};
use super::changes::{Manner, Need, Rows};
use super::job::group_rows;
use super::keyed::DOING;
use super::loose::{Content, Questions};
use super::site::Site;
use super::subjects::{Subject, Suspects, Table};
use crate::verify::Trouble;

/// Counts which of the rows are equal now.
pub(super) async fn look(site: &Site, subjects: &[Subject], tallies: &mut [RepairedTable]) {
    let wrong = |tally: &mut RepairedTable, trouble: &Trouble| {
        tally.error.get_or_insert_with(|| format!("its rows were not looked at again: {trouble}"));
    };
    let mut pair = match one(site).await {
        Ok(pair) => pair,
        Err(trouble) => {
            tallies.iter_mut().for_each(|tally| wrong(tally, &trouble));
            return;
        }
    };
    for (subject, tally) in subjects.iter().zip(tallies) {
        let Ok(table) = &subject.table else { continue };
        match equal(&mut pair, table, &subject.suspects).await {
            Ok(equal) => tally.verified += equal,
            Err(trouble) => wrong(tally, &trouble),
        }
    }
    close(pair.source).await;
    close(pair.target).await;
}

/// A session on each side that see the same.
pub(super) async fn one(site: &Site) -> Result<Pair, Trouble> {
    let mut pairs = slices::open(site.both(), &site.stream, 1).await?;
    pairs.pop().ok_or_else(|| Trouble::unexpected(site.target(), "no sessions"))
}

async fn equal(pair: &mut Pair, table: &Table, suspects: &Suspects) -> Result<u64, Trouble> {
    match suspects {
        Suspects::Keys(keys) => {
            let mut equal = 0;
            for group in keys.chunks(group_rows(&table.plan)) {
                let Some(rows) = rows(pair, table, group).await? else { continue };
                let is_equal = |key: &&Key| {
                    matches!(rows.need(&table.images, key, Manner::Updated), Need::Equal)
                };
                equal += group.iter().filter(is_equal).count() as u64;
            }
            Ok(equal)
        }
        Suspects::Contents(contents) => {
            let wanted = contents.iter().map(String::as_str).collect();
            let found = contents_apart(pair, table, &wanted).await?;
            Ok((wanted.len() - found.len()) as u64)
        }
    }
}

/// The rows with these keys. `None`: a key can't be written as one.
pub(super) async fn rows<'a>(
    pair: &mut Pair,
    table: &'a Table,
    keys: &[Key],
) -> Result<Option<Rows<'a>>, Trouble> {
    let Some(condition) = keys::condition(&table.plan, keys) else { return Ok(None) };
    let sql = [SOURCE, TARGET]
        .map(|side| table.plan.rows_where_sql(side, table.images.select(side), &condition));
    let mut rows = Rows::new(&table.plan);
    let [here, there] = compare::both(pair, &sql).await?;
    rows.take(SOURCE, here);
    rows.take(TARGET, there);
    Ok(Some(rows))
}

/// Which of these contents of a table without a key do not have the same number of rows.
pub(super) async fn contents_apart(
    pair: &mut Pair,
    table: &Table,
    wanted: &BTreeSet<&str>,
) -> Result<BTreeMap<String, Content>, Trouble> {
    let questions = Questions(table);
    let sql = [SOURCE, TARGET].map(|side| questions.buckets(side));
    let sides = [pair.source.side, pair.target.side];
    let (_, apart) = compare::apart(sides, compare::both(pair, &sql).await?)?;
    let mut seen = [questions.seen(wanted), questions.seen(wanted)];
    let [of_source, of_target] = &mut seen;
    for buckets in Questions::portions(&apart) {
        let [here, there] = [SOURCE, TARGET].map(|side| questions.contents(side, &buckets));
        tokio::try_join!(
            pair.source.each_row(DOING, &here, |row| of_source.take(row)),
            pair.target.each_row(DOING, &there, |row| of_target.take(row)),
        )?;
    }
    Ok(Content::apart(seen))
}
