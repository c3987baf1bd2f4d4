//! Cutting a table into ranges.

use tokio_postgres::Client;

use super::catalog::Size;
use super::hold::is_lock_timeout;
use super::{ChunkError, ChunkRange, database};
use crate::change::QualifiedName;
use crate::postgres::ident::quote_identifier;

/// Most chunks of one table: beyond, they get larger.
const CHUNKS_PER_TABLE_MAX: u64 = 10_000;

/// Smallest and largest chunk that we choose ourselves. A larger one gains nothing: the cost of
/// beginning one is a few milliseconds.
const CHUNK_BYTES_MIN: u64 = 128 << 20;
const CHUNK_BYTES_MAX: u64 = 2 << 30;

/// Chunks that a worker gets of a table that it shares with others: enough for all to end at about
/// the same time.
const CHUNKS_PER_WORKER: u64 = 4;

/// How long reading a table's key range may wait for its lock, milliseconds.
const KEYS_LOCK_MS: u64 = 500;

/// When a table is cut, and into what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cutting {
    /// Tables up to this size stay whole.
    whole_bytes: u64,
    /// Size to aim at.
    chunk_bytes: u64,
}

impl Cutting {
    /// Chunks of a given size.
    pub(super) fn into(chunk_bytes: u64) -> Self {
        let chunk_bytes = chunk_bytes.max(1);
        // One that is barely above the size is not worth two scans.
        Self { whole_bytes: chunk_bytes.saturating_add(chunk_bytes / 2), chunk_bytes }
    }

    /// Whole tables as far as that keeps all workers busy. Rows of a whole table arrive in their
    /// order on the source: indexes on what grew with it sort faster, and the planner's correlation
    /// stays what it was.
    pub(super) fn by_share(total_bytes: u64, workers: usize) -> Self {
        let workers = workers.max(1) as u64;
        let share = total_bytes / workers;
        let chunk_bytes = (share / CHUNKS_PER_WORKER).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let whole_bytes = if workers == 1 { u64::MAX } else { share.max(2 * CHUNK_BYTES_MIN) };
        Self { whole_bytes, chunk_bytes }
    }

    /// Chunks to aim at; below 2 the table stays whole.
    pub(super) fn pieces(self, size: Size) -> u64 {
        if size.bytes <= self.whole_bytes {
            return 1;
        }
        let wanted = size.bytes.div_ceil(self.chunk_bytes);
        wanted.min(size.blocks).min(CHUNKS_PER_TABLE_MAX)
    }
}

/// Equal ranges of blocks.
pub(super) fn block_ranges(blocks: u64, pieces: u64) -> Vec<ChunkRange> {
    let step = blocks.div_ceil(pieces.max(1)).max(1);
    // Block numbers are 32 bits wide (BlockNumber), so this never saturates.
    let block = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
    let starts: Vec<u64> = (0..blocks.max(1)).step_by(step as usize).collect();
    starts
        .iter()
        .enumerate()
        .map(|(at, from)| ChunkRange::Blocks {
            from: block(*from),
            until: starts.get(at + 1).map(|next| block(*next)),
        })
        .collect()
}

/// Equal ranges of key values, open at both ends.
pub(super) async fn key_ranges(
    client: &Client,
    table: &QualifiedName,
    column: &str,
    pieces: u64,
) -> Result<Vec<ChunkRange>, ChunkError> {
    let key = quote_identifier(column);
    let statement = format!("SELECT min({key})::int8, max({key})::int8 FROM ONLY {table}");
    let doing = format!("reading the key range of {table}");
    let failed = database(&doing);
    let begin = format!("SAVEPOINT keys; SET LOCAL lock_timeout = {KEYS_LOCK_MS}");
    client.batch_execute(&begin).await.map_err(&failed)?;
    let row = client.query_one(&statement, &[]).await;
    let end = "ROLLBACK TO SAVEPOINT keys; RELEASE SAVEPOINT keys";
    client.batch_execute(end).await.map_err(&failed)?;
    let row = match row {
        // Whoever has it may be long; in one piece the table can be read later.
        Err(error) if is_lock_timeout(&error) => return Ok(vec![ChunkRange::Whole]),
        row => row.map_err(&failed)?,
    };
    let min: Option<i64> = row.try_get(0).map_err(&failed)?;
    let max: Option<i64> = row.try_get(1).map_err(&failed)?;
    Ok(match (min, max) {
        (Some(min), Some(max)) => split_keys(column, min, max, pieces),
        _ => vec![ChunkRange::Whole],
    })
}

fn split_keys(column: &str, min: i64, max: i64, pieces: u64) -> Vec<ChunkRange> {
    let (low, high) = (i128::from(min), i128::from(max));
    let step = ((high - low) / i128::from(pieces.max(1))).max(1);
    let mut bounds: Vec<i64> = Vec::new();
    for piece in 1..i128::from(pieces) {
        match i64::try_from(low + step * piece) {
            Ok(bound) if bound <= max => bounds.push(bound),
            _ => break,
        }
    }
    if bounds.is_empty() {
        return vec![ChunkRange::Whole];
    }
    let lower = std::iter::once(None).chain(bounds.iter().copied().map(Some));
    let upper = bounds.iter().copied().map(Some).chain(std::iter::once(None));
    lower
        .zip(upper)
        .map(|(from, until)| ChunkRange::Key { column: column.to_owned(), from, until })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(cutting: Cutting, mib: u64) -> u64 {
        cutting.pieces(Size { blocks: mib << 7, bytes: mib << 20, index_bytes: 0 })
    }

    #[test]
    fn only_a_table_that_one_worker_would_be_left_with_is_cut() {
        let even = Cutting::by_share(4_000 << 20, 4);
        assert_eq!([100, 900, 1_000].map(|mib| pieces(even, mib)), [1, 1, 1]);
        assert_eq!(pieces(even, 2_000), 8, "250 MiB each");
        let huge = Cutting::by_share(1 << 40, 4);
        assert_eq!(pieces(huge, 1 << 20), 512, "2 GiB each");
        assert_eq!(pieces(Cutting::by_share(300 << 20, 4), 200), 1, "too small to cut");
        assert_eq!(pieces(Cutting::by_share(1 << 40, 1), 1 << 20), 1, "nobody to share with");
        assert_eq!(pieces(Cutting::into(64 << 20), 90), 1);
        assert_eq!(pieces(Cutting::into(64 << 20), 100), 2);
    }

    proptest! {
        #[test]
        fn block_ranges_meet_and_cover_everything(blocks in 0u64..5_000_000, pieces in 1u64..10_000) {
            let ranges = block_ranges(blocks, pieces);
            prop_assert!(ranges.len() as u64 <= pieces);
            let mut next = Some(0);
            for range in ranges {
                let ChunkRange::Blocks { from, until } = range else { panic!("{range:?}") };
                prop_assert_eq!(next, Some(from));
                prop_assert!(until.is_none_or(|until| until > from));
                next = until;
            }
            prop_assert_eq!(next, None, "the last one is open");
        }

        #[test]
        fn every_key_is_in_exactly_one_range(
            a: i64, b: i64, probe: i64, pieces in 1u64..100,
        ) {
            let ranges = split_keys("k", a.min(b), a.max(b), pieces);
            prop_assert!(ranges.len() as u64 <= pieces);
            let holds = |range: &ChunkRange| match range {
                ChunkRange::Whole => true,
                ChunkRange::Key { from, until, .. } => {
                    from.is_none_or(|from| probe >= from) && until.is_none_or(|until| probe < until)
                }
                ChunkRange::Blocks { .. } => false,
            };
            prop_assert_eq!(ranges.iter().filter(|range| holds(range)).count(), 1);
        }
    }
}
