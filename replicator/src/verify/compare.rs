//! One chunk of a table, compared.

use std::collections::HashMap;
use std::time::Duration;

use cutover::verify::Mode;
use tokio::time::Instant;

use super::copied::Rows;
use super::gate::Pass;
use super::plan::{Range, TablePlan};
use super::reader::{Reader, TextRow, Trouble};
use super::settle::{Settled, Suspects, settle};
use super::work::{Bench, Pair, Shop};

/// Buckets that a table without a key is hashed into, less one.
const BUCKETS_MASK: i64 = 4095;

/// Rows of a side whose hashes are here at a time.
const CONTENTS_ROWS: u64 = 200_000;

/// What both sides say; and what the slower one took, if clients were spared.
type Timed<T> = ([T; 2], Option<Duration>);

/// What a chunk has come to.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub rows: u64,
    pub rechecked: u64,
    pub settled: Settled,
}

/// A range of a table with a key. Where both sides are read at about the same time and have the
/// same content, that is the proof; only what differs has to be looked at in order.
pub(super) async fn range(
    shop: &Shop,
    pair: &Pair,
    bench: &Bench,
    range: &Range,
    enough: usize,
) -> Result<Compared, Trouble> {
    let (source, table) = (&pair.source, &bench.plan);
    let is_full = shop.mode == Mode::Full;
    let mut rows = 0;
    if !is_full {
        let sql = [false, true].map(|side| table.sum_sql(range, side));
        let ([here, there], took) = both(shop, pair, &sql).await?;
        rows = source.number(here.first().and_then(|row| row.first()))?;
        bench.took(rows, took);
        if here == there {
            return Ok(Compared { rows, ..Compared::default() });
        }
    }
    let sql = [false, true].map(|side| table.copy_sql(range, side, is_full));
    let ([here, there], took) = copies(shop, pair, &sql).await?;
    rows = rows.max(here.len() as u64);
    bench.took(here.len() as u64, took);
    let keys = here.apart(&there, table.key.len());
    drop((here, there));
    let keys = keys.ok_or_else(|| Trouble::unexpected("verification", "a key with NULL"))?;
    let rechecked = keys.len() as u64;
    let settled = settle(shop, pair, table, &Suspects::Keys(keys), enough).await?;
    Ok(Compared { rows, rechecked, settled })
}

/// A statement for each side, when clients can bear it. What follows a difference waits
/// for the stream more than it reads, and is not counted.
async fn both(shop: &Shop, pair: &Pair, sql: &[String; 2]) -> Result<Timed<Vec<TextRow>>, Trouble> {
    let pass = shop.gate.enter().await;
    let [here, there] = sql.each_ref().map(String::as_str);
    in_turn(&pass, pair.source.rows(here), pair.target.rows(there)).await
}

/// The same of rows that come here.
async fn copies(shop: &Shop, pair: &Pair, sql: &[String; 2]) -> Result<Timed<Rows>, Trouble> {
    let pass = shop.gate.enter().await;
    let [here, there] = sql.each_ref().map(String::as_str);
    in_turn(&pass, pair.source.copied(here), pair.target.copied(there)).await
}

/// Both at once; one after the other while clients are spared, because both sides often are on one
/// machine.
async fn in_turn<T>(
    pass: &Pass<'_>,
    here: impl Future<Output = Result<T, Trouble>>,
    there: impl Future<Output = Result<T, Trouble>>,
) -> Result<Timed<T>, Trouble> {
    if !pass.is_sparing() {
        let (here, there) = tokio::try_join!(here, there)?;
        return Ok(([here, there], None));
    }
    let began = Instant::now();
    let here = here.await?;
    let turned = Instant::now();
    let there = there.await?;
    Ok(([here, there], Some((turned - began).max(turned.elapsed()))))
}

/// A whole table without a key: rows with the same content are counted.
pub(super) async fn multiset(
    shop: &Shop,
    pair: &Pair,
    table: &TablePlan,
    enough: usize,
) -> Result<Compared, Trouble> {
    let (source, target) = (&pair.source, &pair.target);
    let sql = table.buckets_sql(BUCKETS_MASK);
    let ([here, there], _) = both(shop, pair, &[sql.clone(), sql]).await?;
    let mut rows = 0;
    for row in &here {
        rows += source.number::<u64>(row.get(1))?;
    }
    let size = |row: Option<&TextRow>| row.map_or(Ok(0), |row| source.number::<u64>(row.get(1)));
    let (here, mut there) = (buckets(source, here)?, buckets(target, there)?);
    let mut apart: Vec<(i64, u64)> = Vec::new();
    for (at, row) in here {
        let other = there.remove(&at);
        if other.as_ref() != Some(&row) {
            apart.push((at, size(Some(&row))?.max(size(other.as_ref())?)));
        }
    }
    for (at, row) in there {
        apart.push((at, size(Some(&row))?));
    }
    if apart.is_empty() {
        return Ok(Compared { rows, ..Compared::default() });
    }
    apart.sort_unstable();
    let mut hashes: Vec<i64> = Vec::new();
    for portion in portions(&apart, CONTENTS_ROWS) {
        // Enough is known: the table is not equal, or written too much to tell.
        if hashes.len() > enough {
            break;
        }
        let sql = table.contents_sql(BUCKETS_MASK, &portion);
        let ([here, there], _) = both(shop, pair, &[sql.clone(), sql]).await?;
        let (here, mut there) = (buckets(source, here)?, buckets(target, there)?);
        hashes.extend(here.into_iter().filter_map(|(hash, count)| {
            (there.remove(&hash).as_ref() != Some(&count)).then_some(hash)
        }));
        hashes.extend(there.into_keys());
    }
    hashes.sort_unstable();
    let rechecked = hashes.len() as u64;
    // A look has one literal for each: what is beyond is as good as "everything".
    let is_cut = hashes.len() > enough;
    hashes.truncate(enough);
    let mut settled = settle(shop, pair, table, &Suspects::Contents(hashes), enough).await?;
    if is_cut {
        settled.unsettled += 1;
    }
    Ok(Compared { rows, rechecked, settled })
}

/// Buckets, each with its rows, in groups of at most so many rows: the hashes of a whole table may
/// not fit into memory.
pub(super) fn portions<K: Clone>(buckets: &[(K, u64)], rows: u64) -> Vec<Vec<K>> {
    let mut portions: Vec<Vec<K>> = Vec::new();
    let mut left = 0;
    for (bucket, size) in buckets {
        match portions.last_mut().filter(|_| *size <= left) {
            Some(portion) => portion.push(bucket.clone()),
            None => {
                portions.push(vec![bucket.clone()]);
                left = rows;
            }
        }
        left = left.saturating_sub(*size);
    }
    portions
}

fn buckets(reader: &Reader, rows: Vec<TextRow>) -> Result<HashMap<i64, TextRow>, Trouble> {
    rows.into_iter().map(|row| Ok((reader.number(row.first())?, row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_rows_than_fit_come_at_a_time() {
        let found = portions(&[(1, 40), (2, 60), (3, 1), (4, 500), (5, 0), (6, 100)], 100);
        assert_eq!(found, [vec![1, 2], vec![3], vec![4, 5], vec![6]]);
        assert_eq!(portions::<i64>(&[], 100), Vec::<Vec<i64>>::new());
    }
}
