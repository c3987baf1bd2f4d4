//! One chunk of a table, compared in two snapshots of one moment.

use std::collections::HashMap;

use cutover::verify::{KeyPart, Mode, RowDifference, RowKind};
use mysql_async::prelude::Queryable;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::plan::{Chunk, SOURCE, TARGET, TablePlan};
use super::side::{ByteRow, Reader, bytes, number};
use super::slices::Pair;
use crate::verify::Trouble;
pub(super) use crate::verify::compare::Compared;
use crate::verify::compare::portions;
use crate::verify::settle::Settled;

/// Rows that go from a session to who compares them at a time, and how often they may wait.
const BATCH_ROWS: usize = 256;
const BATCHES_WAITING: usize = 4;
/// Rows of a side whose digests are here at a time.
pub(super) const CONTENTS_ROWS: u64 = 200_000;

const DOING: &str = "comparing rows";

/// Compares a chunk. At most `enough` differences are looked for.
pub(super) async fn chunk(
    pair: &mut Pair,
    plan: &TablePlan,
    mode: Mode,
    chunk: &Chunk,
    enough: usize,
) -> Result<Compared, Trouble> {
    if plan.key == 0 {
        return multiset(pair, plan, chunk, enough).await;
    }
    if mode != Mode::Full {
        let sql = [SOURCE, TARGET].map(|side| plan.sums_sql(side, chunk));
        let [here, there] = both(pair, &sql).await?;
        let rows = complete(pair.source.side, here.first(), 0)?;
        complete(pair.target.side, there.first(), 0)?;
        if here == there {
            return Ok(Compared { rows, ..Compared::default() });
        }
    }
    let compared = keyed(pair, plan, chunk, enough).await?;
    let rechecked = if mode == Mode::Full { 0 } else { compared.rows };
    Ok(Compared { rechecked, ..compared })
}

/// Rows by their key.
async fn keyed(
    pair: &mut Pair,
    plan: &TablePlan,
    chunk: &Chunk,
    enough: usize,
) -> Result<Compared, Trouble> {
    let sql = [SOURCE, TARGET].map(|side| plan.rows_sql(side, chunk));
    let mut meeting = Meeting::new(plan, enough);
    read(pair, &sql, |side, row| meeting.take(side, row)).await?;
    let rows = meeting.rows;
    let differences = meeting.end();
    let settled = Settled { differences, ..Settled::default() };
    Ok(Compared { rows, rechecked: 0, settled })
}

/// Both sides' rows of a chunk, which come in about the same order: what has met its equal is
/// forgotten, so little is kept.
pub(super) struct Meeting<'a> {
    plan: &'a TablePlan,
    waiting: HashMap<Vec<u8>, [Vec<ByteRow>; 2]>,
    differences: Vec<RowDifference>,
    enough: usize,
    rows: u64,
}

impl<'a> Meeting<'a> {
    pub fn new(plan: &'a TablePlan, enough: usize) -> Self {
        Self { plan, waiting: HashMap::new(), differences: Vec::new(), enough, rows: 0 }
    }

    /// Takes a row. Whether more are wanted.
    pub fn take(&mut self, side: usize, row: ByteRow) -> bool {
        self.rows += u64::from(side == SOURCE);
        let key = self.key(&row);
        let there = self.waiting.entry(key.clone()).or_default();
        match there[1 - side].pop() {
            None => there[side].push(row),
            Some(other) => {
                let (source, target) = if side == SOURCE { (&row, &other) } else { (&other, &row) };
                let columns = differing(self.plan, source, target);
                let found = (!columns.is_empty()).then(|| RowDifference {
                    columns,
                    ..self.difference(RowKind::Different, source, [1, 1])
                });
                self.differences.extend(found);
                if self.waiting.get(&key).is_some_and(|rows| rows.iter().all(Vec::is_empty)) {
                    self.waiting.remove(&key);
                }
            }
        }
        !self.is_cut()
    }

    /// Whether it ended before all rows had come.
    fn is_cut(&self) -> bool {
        self.differences.len() >= self.enough
    }

    fn key(&self, row: &ByteRow) -> Vec<u8> {
        packed(&self.plan.columns[..self.plan.key], row)
    }

    fn difference(&self, kind: RowKind, row: &ByteRow, counts: [u64; 2]) -> RowDifference {
        let part = |(column, value): (&super::canonical::Column, &Option<Vec<u8>>)| KeyPart {
            column: column.name.clone(),
            value: value.as_deref().map_or("NULL".to_owned(), |value| column.form.shown(value)),
        };
        RowDifference {
            kind,
            key: self.plan.key().iter().zip(row).map(part).collect(),
            row_hash: None,
            columns: Vec::new(),
            on_source: counts[SOURCE],
            on_target: counts[TARGET],
        }
    }

    /// Nothing more comes: who still waits has no counterpart, unless it was cut short.
    pub fn end(mut self) -> Vec<RowDifference> {
        let mut alone = Vec::new();
        let waiting = self.waiting.values().filter(|_| !self.is_cut());
        for [source, target] in waiting {
            for (rows, kind) in [(source, RowKind::Missing), (target, RowKind::Extra)] {
                let Some(row) = rows.first() else { continue };
                let counts = [source.len() as u64, target.len() as u64];
                alone.push(self.difference(kind, row, counts));
            }
        }
        self.differences.extend(alone);
        // The same report for the same rows.
        self.differences.sort_by(|one, other| {
            let key = |row: &RowDifference| -> Vec<String> {
                row.key.iter().map(|part| part.value.clone()).collect()
            };
            key(one).cmp(&key(other))
        });
        self.differences
    }
}

/// Names of the columns in which two rows differ.
pub(super) fn differing(plan: &TablePlan, source: &ByteRow, target: &ByteRow) -> Vec<String> {
    let columns = plan.columns.iter().zip(source.iter().zip(target));
    columns
        .filter(|(column, (one, two))| !column.form.is_same(one.as_deref(), two.as_deref()))
        .map(|(column, _)| column.name.clone())
        .collect()
}

/// Values in canonical form, one after the other, each with its length.
pub(super) fn packed(columns: &[super::canonical::Column], row: &ByteRow) -> Vec<u8> {
    let mut out = Vec::new();
    for (column, value) in columns.iter().zip(row) {
        match value {
            None => out.push(0),
            Some(value) => {
                let value = column.form.canonical(value);
                out.push(1);
                out.extend_from_slice(&(value.len() as u64).to_be_bytes());
                out.extend_from_slice(&value);
            }
        }
    }
    out
}

/// A whole table without a key: rows with the same content are counted.
async fn multiset(
    pair: &mut Pair,
    plan: &TablePlan,
    chunk: &Chunk,
    enough: usize,
) -> Result<Compared, Trouble> {
    let sql = [SOURCE, TARGET].map(|side| plan.buckets_sql(side, chunk));
    let both = both(pair, &sql).await?;
    let (rows, apart) = apart([pair.source.side, pair.target.side], both)?;
    let mut settled = Settled::default();
    let mut rechecked = 0;
    for portion in portions(&apart, CONTENTS_ROWS) {
        if settled.differences.len() >= enough {
            settled.unsettled += 1;
            break;
        }
        let sql = [SOURCE, TARGET].map(|side| plan.contents_sql(side, chunk, &portion));
        let mut counts: HashMap<[u8; 16], [u64; 2]> = HashMap::new();
        read(pair, &sql, |side, row| {
            rechecked += u64::from(side == SOURCE);
            counts.entry(digest(&packed(&plan.columns, &row))).or_default()[side] += 1;
            true
        })
        .await?;
        let mut found: Vec<_> = counts.into_iter().filter(|(_, [one, two])| one != two).collect();
        found.sort_unstable();
        settled.differences.extend(found.into_iter().map(|(digest, [on_source, on_target])| {
            let is_missing = on_source > on_target;
            RowDifference {
                kind: if is_missing { RowKind::Missing } else { RowKind::Extra },
                key: Vec::new(),
                row_hash: Some(shown(digest)),
                columns: Vec::new(),
                on_source,
                on_target,
            }
        }));
    }
    Ok(Compared { rows, rechecked, settled })
}

/// How many rows the source has, and the buckets that are not the same on both sides with the number of
/// their rows: of the answers to [`TablePlan::buckets_sql`].
pub(super) fn apart(
    sides: [cutover::Side; 2],
    [here, there]: [Vec<ByteRow>; 2],
) -> Result<(u64, Vec<(String, u64)>), Trouble> {
    let mut rows = 0;
    let mut sizes: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut apart: HashMap<Vec<u8>, ByteRow> = HashMap::new();
    for row in here {
        let (bucket, count) = (name(&row), complete(sides[SOURCE], Some(&row), 1)?);
        rows += count;
        sizes.insert(bucket.clone(), count);
        apart.insert(bucket, row);
    }
    for row in there {
        let (bucket, count) = (name(&row), complete(sides[TARGET], Some(&row), 1)?);
        let size = sizes.entry(bucket.clone()).or_default();
        *size = count.max(*size);
        match apart.remove(&bucket) {
            Some(other) if other == row => {}
            _ => drop(apart.insert(bucket, row)),
        }
    }
    let mut apart: Vec<(String, u64)> = apart
        .into_keys()
        .map(|bucket| {
            let size = sizes.get(&bucket).copied().unwrap_or_default();
            (String::from_utf8_lossy(&bucket).into_owned(), size)
        })
        .collect();
    apart.sort_unstable();
    Ok((rows, apart))
}

fn name(row: &ByteRow) -> Vec<u8> {
    row.first().cloned().flatten().unwrap_or_default()
}

pub(super) fn digest(bytes: &[u8]) -> [u8; 16] {
    let hash = Sha256::digest(bytes);
    std::array::from_fn(|at| hash[at])
}

/// A digest as reports have it.
pub(super) fn shown(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The number of rows, if every one of them has a hash.
fn complete(side: cutover::Side, row: Option<&ByteRow>, at: usize) -> Result<u64, Trouble> {
    let field = |at: usize| row.and_then(|row| row.get(at));
    let (rows, hashes): (u64, u64) = (number(side, field(at))?, number(side, field(at + 1))?);
    if rows != hashes {
        let what = "a value is too long to be hashed: max_allowed_packet has to be larger than the \
                    longest row";
        return Err(Trouble::new(side, what));
    }
    Ok(rows)
}

/// One statement on each side, at the same time.
pub(super) async fn both(pair: &mut Pair, sql: &[String; 2]) -> Result<[Vec<ByteRow>; 2], Trouble> {
    let (here, there) = tokio::try_join!(
        pair.source.rows(DOING, &sql[SOURCE]),
        pair.target.rows(DOING, &sql[TARGET])
    )?;
    Ok([here, there])
}

/// Passes the rows of a statement on each side on, by turns, for as long as more are wanted.
async fn read(
    pair: &mut Pair,
    sql: &[String; 2],
    mut take: impl FnMut(usize, ByteRow) -> bool,
) -> Result<(), Trouble> {
    let (here, mut source) = mpsc::channel(BATCHES_WAITING);
    let (there, mut target) = mpsc::channel(BATCHES_WAITING);
    let meeting = async move {
        loop {
            let batches = [source.recv().await, target.recv().await];
            if batches.iter().all(Option::is_none) {
                return Ok(());
            }
            for (side, batch) in batches.into_iter().enumerate() {
                for row in batch.into_iter().flatten() {
                    if !take(side, row) {
                        return Ok(());
                    }
                }
            }
        }
    };
    tokio::try_join!(
        send(&mut pair.source, &sql[SOURCE], here),
        send(&mut pair.target, &sql[TARGET], there),
        meeting,
    )?;
    Ok(())
}

async fn send(
    reader: &mut Reader,
    sql: &str,
    sender: mpsc::Sender<Vec<ByteRow>>,
) -> Result<(), Trouble> {
    let side = reader.side;
    let wrong = |error| Trouble::of(side, crate::backfill::mysql::failed(DOING, error));
    let mut result = reader.conn.query_iter(sql).await.map_err(wrong)?;
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    while let Some(row) = result.next().await.map_err(wrong)? {
        batch.push(bytes(row));
        if batch.len() == BATCH_ROWS {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_ROWS));
            // Nobody wants the rest; the session throws it away before its next statement.
            if sender.send(full).await.is_err() {
                return Ok(());
            }
        }
    }
    // The same.
    let _ = sender.send(batch).await;
    Ok(())
}
