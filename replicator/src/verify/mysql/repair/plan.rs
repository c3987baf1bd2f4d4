//! What a repair would write, as statements: read now, and kept nowhere.

use std::collections::BTreeSet;

use cutover::api::SCHEMA_VERSION;
use cutover::verify::ObjectFinding;
use cutover::verify::repair::{PlannedTable, RepairPlan};
use decoders::change::ChangeEvent;
use decoders::postgres::catalog::TablePattern;
use sinks::mysql::fitted;

use super::super::found::Found;
use super::super::plan::TARGET;
use super::super::side::close;
use super::super::slices::Pair;
use super::again::{contents_apart, one, rows};
use super::changes::{Act, Manner, Need};
use super::job::group_rows;
use super::keyed::UNDEFINED;
use super::objects;
use super::site::{Site, trouble};
use super::subjects::{Subject, Suspects, Table, subjects};
use crate::schema::mysql::qualified;
use crate::verify::Trouble;
use crate::verify::repair::Standing;

/// Rows that a plan shows in all: it is for people.
const SHOWN: usize = 1000;
/// Bytes of statements in all.
const SHOWN_BYTES: usize = 16 << 20;

/// Of the differences that verification `id` has found, in the tables that match.
///
/// # Errors
/// A server's.
pub(in crate::verify) async fn planned(
    found: &Found,
    id: &str,
    patterns: &[TablePattern],
    findings: &[ObjectFinding],
    standing: Standing,
) -> Result<RepairPlan, Trouble> {
    let site = Site::open(found, standing).await?;
    let mut pair = one(&site).await?;
    let mut room = Room { rows: SHOWN, bytes: SHOWN_BYTES };
    let mut tables = Vec::new();
    for subject in subjects(found, &site.ends, patterns).await? {
        let mut planned = PlannedTable {
            table: qualified(&subject.name),
            beyond: subject.beyond,
            refused: subject.table.as_ref().err().cloned(),
            ..PlannedTable::default()
        };
        if let Ok(table) = &subject.table {
            statements(&site, &mut pair, &subject, table, &mut room, &mut planned).await?;
        }
        tables.push(planned);
    }
    close(pair.source).await;
    close(pair.target).await;
    Ok(RepairPlan {
        schema_version: SCHEMA_VERSION,
        verification: id.to_owned(),
        database: found.pair.named_database(),
        source: found.source(),
        target: found.target(),
        tables,
        objects: objects::planned(found, &site, findings).await?,
    })
}

/// What may still be shown.
struct Room {
    rows: usize,
    bytes: usize,
}

async fn statements(
    site: &Site,
    pair: &mut Pair,
    subject: &Subject,
    table: &Table,
    room: &mut Room,
    planned: &mut PlannedTable,
) -> Result<(), Trouble> {
    let fitted = match fitted(&site.ends[TARGET].url, table.images.schema.clone()).await {
        Ok(fitted) => fitted,
        Err(error) => {
            planned.refused = Some(error.message);
            return Ok(());
        }
    };
    let shown = subject.suspects.len().min(room.rows);
    room.rows -= shown;
    planned.beyond += (subject.suspects.len() - shown) as u64;
    let mut print = |changes: &[ChangeEvent], room: &mut Room| {
        let printed = fitted.printed(changes).map_err(|error| trouble(site.target(), &error))?;
        let bytes = printed.iter().map(String::len).sum();
        room.bytes = room.bytes.saturating_sub(bytes);
        planned.statements.extend(printed);
        Ok::<(), Trouble>(())
    };
    match &subject.suspects {
        Suspects::Keys(keys) => {
            for group in keys[..shown].chunks(group_rows(&table.plan)) {
                if room.bytes == 0 {
                    planned.beyond += group.len() as u64;
                    continue;
                }
                let Some(rows) = rows(pair, table, group).await? else {
                    planned.refused = Some("a key can't be written as one".into());
                    continue;
                };
                let mut changes: Vec<(Act, ChangeEvent)> = Vec::new();
                for key in group {
                    match rows.need(&table.images, key, Manner::Updated) {
                        Need::Equal => planned.equal += 1,
                        Need::Act(_, more) => changes.extend(more),
                        Need::Twice => {
                            let why = "a key is not unique on one of the sides";
                            planned.refused = Some(why.into());
                        }
                        Need::Undefined => planned.refused = Some(UNDEFINED.into()),
                    }
                }
                changes.sort_by_key(|(act, _)| *act);
                let changes: Vec<_> = changes.into_iter().map(|(_, change)| change).collect();
                print(&changes, room)?;
            }
        }
        Suspects::Contents(contents) => {
            let wanted: BTreeSet<&str> = contents[..shown].iter().map(String::as_str).collect();
            let found = contents_apart(pair, table, &wanted).await?;
            planned.equal = (wanted.len() - found.len()) as u64;
            for content in found.values() {
                match content.change(table) {
                    Ok((change, times)) if room.bytes > 0 => {
                        print(&vec![change; times as usize], room)?;
                    }
                    _ => planned.beyond += 1,
                }
            }
        }
    }
    Ok(())
}
