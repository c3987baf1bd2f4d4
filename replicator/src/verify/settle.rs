//! Rows that were seen to differ are looked at until it is known whether they do. The rules are
//! [`cutover::verify::suspect`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cutover::verify::suspect::{LOOKS, Look, Ruling, Seen, Suspect};
use cutover::verify::{KeyPart, Mode, RowDifference, RowKind};
use decoders::Lsn;
use tokio::time::Instant;

use super::gate::Pass;
use super::plan::TablePlan;
use super::reader::{HEAD, RUNNING, Reader, TextRow, Trouble};
use super::work::{Pair, Shop};

/// Rows in one look.
const LOOK_ROWS: usize = 200;
/// Between two looks, at first and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// Rows that were seen to differ.
#[derive(Debug, Clone)]
pub(super) enum Suspects {
    /// By key.
    Keys(Vec<Vec<String>>),
    /// By the hash of their content, of a table without a key.
    Contents(Vec<i64>),
}

/// What has become of them.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub differences: Vec<RowDifference>,
    pub in_motion: u64,
    pub unsettled: u64,
}

impl Suspects {
    pub fn len(&self) -> usize {
        match self {
            Suspects::Keys(keys) => keys.len(),
            Suspects::Contents(hashes) => hashes.len(),
        }
    }

    fn part(&self, from: usize, to: usize) -> Self {
        match self {
            Suspects::Keys(keys) => Suspects::Keys(keys[from..to].to_vec()),
            Suspects::Contents(hashes) => Suspects::Contents(hashes[from..to].to_vec()),
        }
    }

    pub fn only(&self, numbers: &[usize]) -> Self {
        match self {
            Suspects::Keys(keys) => {
                Suspects::Keys(numbers.iter().map(|at| keys[*at].clone()).collect())
            }
            Suspects::Contents(hashes) => {
                Suspects::Contents(numbers.iter().map(|at| hashes[*at]).collect())
            }
        }
    }

    fn sql(&self, table: &TablePlan, target: bool) -> String {
        match self {
            Suspects::Keys(keys) => table.look_sql(keys, target),
            Suspects::Contents(hashes) => table.look_contents_sql(hashes),
        }
    }
}

/// Looks at all of them until each is settled or time is up. Gives up early past `enough`
/// differences.
pub(super) async fn settle(
    shop: &Shop,
    pair: &Pair,
    table: &TablePlan,
    suspects: &Suspects,
    enough: usize,
) -> Result<Settled, Trouble> {
    settle_within(shop.settle, shop, pair, table, suspects, enough).await
}

/// The same, within another time.
pub(super) async fn settle_within(
    time: Duration,
    shop: &Shop,
    pair: &Pair,
    table: &TablePlan,
    suspects: &Suspects,
    enough: usize,
) -> Result<Settled, Trouble> {
    let mut settled = Settled::default();
    // Each look at contents reads the whole table: all of them at once.
    let step = match suspects {
        Suspects::Keys(_) => LOOK_ROWS,
        Suspects::Contents(hashes) => hashes.len().max(1),
    };
    let mut from = 0;
    while from < suspects.len() && settled.differences.len() < enough {
        let to = (from + step).min(suspects.len());
        settle_part(time, shop, pair, table, suspects.part(from, to), &mut settled).await?;
        from = to;
    }
    Ok(settled)
}

async fn settle_part(
    time: Duration,
    shop: &Shop,
    pair: &Pair,
    table: &TablePlan,
    suspects: Suspects,
    settled: &mut Settled,
) -> Result<(), Trouble> {
    let until = Instant::now() + time;
    let mut states = vec![Suspect::default(); suspects.len()];
    let mut open: Vec<usize> = (0..suspects.len()).collect();
    let mut pause = PAUSE[0];
    let mut looks_done = 0;
    loop {
        let looked_at = suspects.only(&open);
        let began = Instant::now();
        let looks = look(shop, pair, table, &looked_at).await?;
        let took = began.elapsed();
        let mut left = Vec::new();
        for (number, look) in open.into_iter().zip(looks) {
            match states[number].observe(&look) {
                Ruling::Equal => {}
                // A number of rows proves nothing, so it need not be caught at rest either.
                Ruling::Open if shop.mode == Mode::Count && look.is_same() => {}
                Ruling::Different => {
                    settled.differences.push(difference(table, &suspects, number, &look));
                }
                Ruling::Open => left.push(number),
            }
        }
        open = left;
        if open.is_empty() {
            return Ok(());
        }
        looks_done += 1;
        // What is written all the time is known after so many; they take seconds, but those of a
        // table without a key, in which nothing is known without rest.
        let are_enough = looks_done >= LOOKS || matches!(suspects, Suspects::Contents(_));
        if Instant::now() >= until && are_enough {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = match suspects {
            Suspects::Keys(_) => (pause * 2).min(PAUSE[1]),
            // Rest is met by chance: the more often it is looked, the sooner; half of the time at most,
            // because each look reads the whole table.
            Suspects::Contents(_) => took.clamp(PAUSE[0], PAUSE[1]),
        };
    }
    let moving = open.iter().filter(|number| states[**number].is_moving()).count();
    settled.in_motion += moving as u64;
    settled.unsettled += (open.len() - moving) as u64;
    Ok(())
}

/// One look at some rows; in their order.
async fn look(
    shop: &Shop,
    pair: &Pair,
    table: &TablePlan,
    suspects: &Suspects,
) -> Result<Vec<Look>, Trouble> {
    let (before, _) = look_before(shop, pair, table, suspects).await?;
    look_on(shop, pair, table, suspects, before).await
}

/// The first half of a look: the source's rows and the log's position behind them; everything up to
/// there is on the target.
pub(super) async fn look_before(
    shop: &Shop,
    pair: &Pair,
    table: &TablePlan,
    suspects: &Suspects,
) -> Result<(Vec<Seen>, Lsn), Trouble> {
    let source = &pair.source;
    let sql = suspects.sql(table, false);
    let pass = enter(shop, suspects).await;
    let answer = source.sets(&format!("{sql}; {HEAD}")).await?;
    let [rows, head] = two(source, answer)?;
    let before = seen(source, suspects, &rows, suspects.len())?;
    drop(pass);
    let position = source.head(&head)?;
    shop.await_applied(position).await?;
    Ok((before, position))
}

/// The second half: the target's rows, and the source's again.
pub(super) async fn look_on(
    shop: &Shop,
    pair: &Pair,
    table: &TablePlan,
    suspects: &Suspects,
    before: Vec<Seen>,
) -> Result<Vec<Look>, Trouble> {
    let (source, target) = (&pair.source, &pair.target);
    let count = suspects.len();
    let sql = suspects.sql(table, false);
    let rows = target.rows(&suspects.sql(table, true)).await?;
    let there = seen(target, suspects, &rows, count)?;
    let pass = enter(shop, suspects).await;
    let answer = source.sets(&format!("{RUNNING}; {sql}")).await?;
    drop(pass);
    let [running, rows] = two(source, answer)?;
    let after = seen(source, suspects, &rows, count)?;
    let running = running.iter().map(|row| source.number(row.first()));
    let running = running.collect::<Result<BTreeSet<u32>, _>>()?;
    let sides = before.into_iter().zip(there).zip(after);
    Ok(sides
        .map(|((before, target), after)| Look { before, target, after, running: running.clone() })
        .collect())
}

/// A look at contents reads the whole table, as a chunk does, and waits as one does.
async fn enter<'a>(shop: &'a Shop, suspects: &Suspects) -> Option<Pass<'a>> {
    match suspects {
        Suspects::Keys(_) => None,
        Suspects::Contents(_) => Some(shop.gate.enter().await),
    }
}

fn two(reader: &Reader, sets: Vec<Vec<TextRow>>) -> Result<[Vec<TextRow>; 2], Trouble> {
    sets.try_into().map_err(|_| Trouble::unexpected(reader.side, "not two results"))
}

/// What was seen, by the number of the suspect.
fn seen(
    reader: &Reader,
    suspects: &Suspects,
    rows: &[TextRow],
    count: usize,
) -> Result<Vec<Seen>, Trouble> {
    let mut by_number: BTreeMap<usize, Vec<&TextRow>> = BTreeMap::new();
    for row in rows {
        by_number.entry(reader.number(row.first())?).or_default().push(row);
    }
    let is_content = matches!(suspects, Suspects::Contents(_));
    Ok((0..count)
        .map(|number| {
            let mut rows = by_number.remove(&number).unwrap_or_default();
            rows.sort_by_key(|row| row.get(3..).map(<[_]>::to_vec));
            let mut versions: Vec<_> = rows.iter().filter_map(|row| row[1].as_deref()).collect();
            versions.sort_unstable();
            Seen {
                version: versions.join(","),
                is_free: !is_content
                    && !rows.is_empty()
                    && rows.iter().all(|row| row[2].as_deref() == Some("t")),
                rows: rows.iter().map(|row| row[3..].to_vec()).collect(),
                is_count: is_content,
            }
        })
        .collect())
}

fn difference(table: &TablePlan, suspects: &Suspects, number: usize, look: &Look) -> RowDifference {
    let count = |seen: &Seen| match suspects {
        Suspects::Keys(_) => seen.rows.len() as u64,
        // One row that says how many.
        Suspects::Contents(_) => seen
            .rows
            .first()
            .and_then(|row| row.first()?.as_deref()?.parse().ok())
            .unwrap_or_default(),
    };
    let (here, there) = (count(&look.after), count(&look.target));
    let kind = match here.cmp(&there) {
        std::cmp::Ordering::Greater => RowKind::Missing,
        std::cmp::Ordering::Less => RowKind::Extra,
        std::cmp::Ordering::Equal => RowKind::Different,
    };
    let columns = match (kind, look.after.rows.first(), look.target.rows.first()) {
        (RowKind::Different, Some(source), Some(target)) => table
            .columns
            .iter()
            .zip(source.iter().zip(target))
            .filter(|(_, (source, target))| source != target)
            .map(|(name, _)| name.clone())
            .collect(),
        _ => Vec::new(),
    };
    let (key, row_hash) = match suspects {
        Suspects::Keys(keys) => {
            let parts = table.key.iter().zip(&keys[number]);
            let part = |(column, value): (&super::plan::KeyColumn, &String)| KeyPart {
                column: column.name.clone(),
                value: value.clone(),
            };
            (parts.map(part).collect(), None)
        }
        Suspects::Contents(hashes) => (Vec::new(), Some(format!("{:016x}", hashes[number]))),
    };
    RowDifference { kind, key, row_hash, columns, on_source: here, on_target: there }
}
