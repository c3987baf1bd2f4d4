//! What a repair would write, as statements: read now, and kept nowhere.

use std::sync::Arc;

use cutover::api::SCHEMA_VERSION;
use cutover::verify::repair::{PlannedTable, RepairPlan};
use cutover::verify::suspect::Look;
use decoders::change::ChangeEvent;
use decoders::postgres::catalog::TablePattern;
use sinks::postgres::printed;

use super::super::job::Job;
use super::super::reader::Trouble;
use super::super::settle::{Suspects, look_before, look_on};
use super::super::work::{Bench, Pair};
use super::chunk::count;
use super::job::chunk_rows;
use super::rows::{Act, Fitted, values};
use super::{Subject, objects, subjects, trouble};

/// Rows that a plan shows in all: it is for people.
const SHOWN: usize = 1000;
/// Bytes of statements in all.
const SHOWN_BYTES: usize = 16 << 20;

/// Of the differences that `job` has found, in the tables that match.
///
/// # Errors
/// A server's.
pub(in super::super) async fn plan(
    job: &Job,
    patterns: &[TablePattern],
    database: String,
) -> Result<RepairPlan, Trouble> {
    let Some((shop, benches)) = job.compared() else {
        return Err(Trouble::new("verification", "it has compared nothing"));
    };
    // Nobody governs the verification's gate any more.
    let shop = shop.again(false);
    let mut pair = shop.open().await?;
    let mut tables = Vec::new();
    let mut room = SHOWN;
    let mut bytes = 0;
    for subject in subjects(&shop, &pair, benches, patterns).await? {
        let Subject { bench, fitted, suspects, beyond, refused } = subject;
        let mut planned = PlannedTable {
            table: bench.plan.name.to_string(),
            beyond,
            refused,
            ..PlannedTable::default()
        };
        if let Some(fitted) = fitted.filter(|_| planned.refused.is_none()) {
            pair.set_for(&bench.plan).await?;
            let shown = suspects.len().min(room);
            planned.beyond += (suspects.len() - shown) as u64;
            for numbers in (0..shown).collect::<Vec<_>>().chunks(chunk_rows(&bench.plan)) {
                if bytes > SHOWN_BYTES {
                    planned.beyond += numbers.len() as u64;
                    continue;
                }
                let part = suspects.only(numbers);
                let (before, _) = look_before(&shop, &pair, &bench.plan, &part).await?;
                let looks = look_on(&shop, &pair, &bench.plan, &part, before).await?;
                let side = shop.target.1;
                match changes(&bench, &fitted, &pair, &part, &looks).await? {
                    (equal, Ok(changes)) => {
                        planned.equal += equal;
                        let printed = printed(pair.target.session(), &changes).await;
                        let printed = printed.map_err(|e| trouble(side, &e))?;
                        bytes += printed.iter().map(String::len).sum::<usize>();
                        planned.statements.extend(printed);
                    }
                    (_, Err(why)) => planned.refused = Some(why),
                }
            }
            room -= shown;
        }
        tables.push(planned);
    }
    let report = job.status().report;
    let found = report.map(|report| report.objects).unwrap_or_default();
    Ok(RepairPlan {
        schema_version: SCHEMA_VERSION,
        verification: job.id().to_owned(),
        database,
        source: shop.source.1,
        target: shop.target.1,
        tables,
        objects: objects::planned(&pair, &found).await?,
    })
}

type Changes = Result<Vec<ChangeEvent>, String>;

/// By one look: how many rows are equal, and what to do about the others.
async fn changes(
    bench: &Arc<Bench>,
    fitted: &Fitted,
    pair: &Pair,
    suspects: &Suspects,
    looks: &[Look],
) -> Result<(u64, Changes), Trouble> {
    let here = values(&pair.source, &bench.plan, fitted, suspects).await?;
    let there = match suspects {
        Suspects::Keys(_) => vec![None; looks.len()],
        Suspects::Contents(_) => values(&pair.target, &bench.plan, fitted, suspects).await?,
    };
    let mut equal = 0;
    let mut changes: Vec<(Act, ChangeEvent)> = Vec::new();
    for (at, ((look, here), there)) in looks.iter().zip(here).zip(there).enumerate() {
        if look.is_same() {
            equal += 1;
            continue;
        }
        let Suspects::Keys(keys) = suspects else {
            let more = count(&look.after) - count(&look.target);
            let copy = if more > 0 { here } else { there };
            changes.extend(copy.map(|copy| fitted.copies(&copy.values, more)).unwrap_or_default());
            continue;
        };
        let values = here.as_ref().map(|found| found.values.as_slice());
        match fitted.change(&bench.plan, &keys[at], look, values) {
            Some(change) => changes.push(change),
            None => return Ok((equal, Err("a key is not unique on one of the sides".into()))),
        }
    }
    changes.sort_by_key(|(act, _)| *act);
    Ok((equal, Ok(changes.into_iter().map(|(_, change)| change).collect())))
}
