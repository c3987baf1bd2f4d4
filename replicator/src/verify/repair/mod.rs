//! Repair: rows of the target that a verification has found to differ are made equal to the
//! source's, while clients write and the stream applies.
//!
//! # Why it can't lose a newer change, nor fight with the stream
//! A row is written in one transaction of the target, in this order:
//!
//! 1. *before*: the source's row, and the log's position behind it; the stream has applied
//!    everything up to that position;
//! 2. the target's table is locked against writers (`SHARE ROW EXCLUSIVE`): no lane is in the middle
//!    of a transaction that has written to it, and none can write to it before our end;
//! 3. *target*: the target's row; *after*: which transactions of the source are under way, then the
//!    source's row. 1 and 3 together are one look of [`cutover::verify::suspect`];
//! 4. if by the rules there, over this look and an earlier one, the row differs: the source's
//!    values, of the version that *after* has seen, are written, and the transaction commits.
//!
//! Claim: what was written is what the stream has made of the row up to where it stands, and what it
//! still has to bring was committed on the source behind that.
//!
//! - The stream has nothing older to bring: the source's version is the same in *before* and in
//!   *after*, so no visible change lies between the position of *before*, which is applied, and
//!   *after*.
//! - The target has nothing newer: that would be a commit that the stream has applied before the
//!   lock and that *after* does not see, because it is not visible on the source yet. The rule
//!   excludes it (`suspect` has the proof; it needs that the target's version was the same in two
//!   looks, and the lock keeps it the same until we have written).
//! - So a later change of the row waits for our lock, if it comes that soon, and finds on the target
//!   what it found on the source: one row to update or to delete, none where it inserts.
//!
//! The stream's progress is not touched: it has neither more nor less to do than before. What is
//! written bears the pipeline's mark ([`sinks::own`]), so that a stream the other way round leaves
//! it out.
//!
//! **Nobody's own writes are overwritten.** Clients write to a target only once a run has decided to
//! open it. Under the lock, before anything is written, the target's decision rows must be those of
//! the repair's begin; if one is made later, whoever it lets in waits at the lock until we are done,
//! even if this process is stopped in between. And while a run goes on nothing is begun.
//!
//! Rows without a key are taken by their content: the counts of rows with it are the row, and what is
//! written is as many copies more or fewer.
//!
//! The lock is held for a few round trips, `chunk::HELD_MAX` at most.

mod chunk;
mod entry;
mod job;
mod objects;
mod plan;
mod rows;

pub(super) use job::{RepairJob, STOPPED};

use std::sync::Arc;

use cutover::Side;
use cutover::verify::{Mode, RowDifference};
use decoders::postgres::catalog::{self, TablePattern};
use sinks::TargetError;
use sinks::postgres::Repairer;

use super::reader::Trouble;
use super::settle::Suspects;
use super::work::{Bench, Pair, Shop};
use rows::Fitted;

/// Why nothing may be written now; `None`: it may.
pub(super) type Standing = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The table of decisions may not be there yet.
const HAS_DECISIONS: &str = "SELECT (to_regclass('_cutover.decision') IS NOT NULL)::int::int8";
/// A table without a key is read as a whole while the stream waits for it. Bytes.
const NO_KEY_MAX: i64 = 64 << 20;
/// Of one that would take too long.
const NO_KEY: &str = "it has no key and more than 64 MiB: all of it would have to be read while the \
     stream waits; correct it by hand by the counts that cutover verify shows, or give it a key";
/// Of one of which only the number of rows is known.
const COUNTED: &str = "it has no key, and its rows were only counted: nobody knows which of them \
     differ; cutover verify --mode checksum, then again";
/// A side is opened by a row here ([`cutover::decision`]).
const DECIDED: &str =
    "SELECT coalesce(max(epoch), 0) FROM _cutover.decision WHERE verdict = 'commit'";

/// The session that writes, opened anew if it is lost.
struct Pen<'a> {
    shop: &'a Shop,
    repairer: Option<Repairer>,
    /// The last epoch that was decided on the target when the repair began.
    decided: Option<i64>,
}

impl<'a> Pen<'a> {
    fn new(shop: &'a Shop) -> Self {
        Self { shop, repairer: None, decided: None }
    }

    async fn get(&mut self) -> Result<&mut Repairer, Trouble> {
        let (target, side) = &self.shop.target;
        if self.repairer.as_ref().is_none_or(Repairer::is_lost) {
            let config = &self.shop.stream.route.config;
            let entered = self.shop.door.enter(*side).await;
            let _guard = entered.map_err(|error| Trouble::new(&error.place, error.what.clone()))?;
            let opened = Repairer::open(target, &config.name).await;
            let mut repairer = opened.map_err(|error| trouble(*side, &error))?;
            let decided = decided(&mut repairer).await.map_err(|error| trouble(*side, &error))?;
            self.decided.get_or_insert(decided);
            self.repairer = Some(repairer);
        }
        self.repairer.as_mut().ok_or_else(|| Trouble::unexpected(side, "no session"))
    }

    /// The connection ends, and with it whatever it was doing.
    fn lose(&mut self) {
        self.repairer = None;
    }
}

async fn decided(repairer: &mut Repairer) -> Result<i64, TargetError> {
    match repairer.number(HAS_DECISIONS).await? {
        0 => Ok(0),
        _ => repairer.number(DECIDED).await,
    }
}

/// The engine calls its target green.
fn trouble(side: Side, error: &TargetError) -> Trouble {
    Trouble::new(side, error.message.clone())
}

/// A table with differences.
struct Subject {
    bench: Arc<Bench>,
    fitted: Option<Fitted>,
    /// The rows that the verification has named.
    suspects: Suspects,
    /// Rows that differ beyond those.
    beyond: u64,
    /// Why its rows can't be repaired.
    refused: Option<String>,
}

fn values_of(row: &RowDifference) -> Vec<String> {
    row.key.iter().map(|part| part.value.clone()).collect()
}

/// The tables that differ and match, by name.
async fn subjects(
    shop: &Shop,
    pair: &Pair,
    benches: Vec<Arc<Bench>>,
    patterns: &[TablePattern],
) -> Result<Vec<Subject>, Trouble> {
    let filter = &shop.stream.route.config.tables;
    let tables = catalog::tables(pair.source.session(), filter).await;
    let tables = tables.map_err(|error| Trouble::new(pair.source.side, error.to_string()))?;
    let is_wanted = |bench: &Arc<Bench>| {
        let name = &bench.plan.name;
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
    };
    let mut subjects = Vec::new();
    for bench in benches.into_iter().filter(is_wanted) {
        let mut found = bench.found.lock().await.clone();
        found.sort_by(|a, b| (&a.row_hash, values_of(a)).cmp(&(&b.row_hash, values_of(b))));
        found.dedup_by(|a, b| a.row_hash == b.row_hash && values_of(a) == values_of(b));
        let differing = bench.report.lock().await.differing();
        if differing == 0 {
            continue;
        }
        let hash = |row: &RowDifference| {
            let hash = row.row_hash.as_deref().and_then(|text| u64::from_str_radix(text, 16).ok());
            hash.map(u64::cast_signed)
        };
        let suspects = match bench.plan.key.is_empty() {
            true => Suspects::Contents(found.iter().filter_map(hash).collect()),
            false => Suspects::Keys(found.iter().map(values_of).collect()),
        };
        let table = tables.iter().find(|table| table.name == bench.plan.name);
        let refused = match table {
            None => Some(format!("{} does not have it any more", pair.source.side)),
            Some(_) if bench.plan.key.is_empty() && shop.mode == Mode::Count => {
                Some(COUNTED.into())
            }
            Some(table) if bench.plan.key.is_empty() && table.bytes > NO_KEY_MAX => {
                Some(NO_KEY.into())
            }
            Some(_) => None,
        };
        subjects.push(Subject {
            fitted: table.map(|table| Fitted::new(table, &bench.plan)),
            beyond: differing.saturating_sub(suspects.len() as u64),
            suspects,
            refused,
            bench,
        });
    }
    subjects.sort_by(|a, b| a.bench.plan.name.cmp(&b.bench.plan.name));
    Ok(subjects)
}
