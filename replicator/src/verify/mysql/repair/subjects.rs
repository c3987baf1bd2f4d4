//! The tables that differ, as they are now.

use std::collections::BTreeSet;

use cutover::verify::{Mode, RowDifference, VerifyRequest};
use decoders::QualifiedName;
use decoders::mysql::catalog::TableInfo;
use decoders::postgres::catalog::TablePattern;

use super::super::found::Found;
use super::super::keys::Key;
use super::super::plan::{SOURCE, TARGET, TablePlan};
use super::super::side::End;
use super::images::Images;
use crate::verify::Trouble;

/// A table without a key is read as a whole while the stream waits for it. Bytes.
const NO_KEY_MAX: u64 = 64 << 20;
/// Of one that would take too long.
const NO_KEY: &str = "it has no key and more than 64 MiB: all of it would have to be read while the \
     stream waits; correct it by hand by the counts that cutover verify shows, or give it a key";
/// Of one of which only the number of rows is known.
const COUNTED: &str = "it has no key, and its rows were only counted: nobody knows which of them \
     differ; cutover verify --mode checksum, then again";
const OTHER_KEY: &str =
    "its key is another one than at the verification; cutover verify, then again";
const LONG_KEY: &str =
    "its key has a column of a TEXT or BLOB type, whose values a report does not show whole";

/// Rows that a verification has named.
#[derive(Debug)]
pub(super) enum Suspects {
    Keys(Vec<Key>),
    /// Of a table without a key: hashes of contents, as they are shown.
    Contents(Vec<String>),
}

impl Suspects {
    pub fn len(&self) -> usize {
        match self {
            Suspects::Keys(keys) => keys.len(),
            Suspects::Contents(contents) => contents.len(),
        }
    }
}

/// A table with differences.
pub(super) struct Subject {
    pub name: QualifiedName,
    pub suspects: Suspects,
    /// Rows that differ beyond those.
    pub beyond: u64,
    /// How its rows are read and written, or why they can't be.
    pub table: Result<Table, String>,
}

/// A table as both sides have it.
pub(super) struct Table {
    pub plan: TablePlan,
    pub images: Images,
}

/// The tables that differ and match, by name.
pub(super) async fn subjects(
    found: &Found,
    ends: &[End; 2],
    patterns: &[TablePattern],
) -> Result<Vec<Subject>, Trouble> {
    let database = found.pair.database.as_deref();
    let (here, there) =
        tokio::try_join!(ends[SOURCE].tables(database), ends[TARGET].tables(database))?;
    let of = |tables: &[TableInfo], name: &QualifiedName| {
        tables.iter().find(|table| table.name == *name).cloned()
    };
    let mut subjects = Vec::new();
    for bench in &found.benches {
        let name = &bench.plan.name;
        if !patterns.is_empty() && !patterns.iter().any(|pattern| pattern.matches(name)) {
            continue;
        }
        let differing = bench.report.lock().await.differing();
        if differing == 0 {
            continue;
        }
        let suspects = named(&bench.found.lock().await, bench.plan.key == 0);
        let table = match (of(&here, name), of(&there, name)) {
            (Some(here), Some(there)) => fitted(found, ends, &bench.plan, &here, &there),
            (None, _) => Err(format!("{} does not have it any more", ends[SOURCE].side)),
            (_, None) => Err(format!("{} does not have it", ends[TARGET].side)),
        };
        subjects.push(Subject {
            name: name.clone(),
            beyond: differing.saturating_sub(suspects.len() as u64),
            suspects,
            table,
        });
    }
    subjects.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(subjects)
}

fn named(rows: &[RowDifference], is_loose: bool) -> Suspects {
    match is_loose {
        true => {
            let hashes: BTreeSet<String> =
                rows.iter().filter_map(|row| row.row_hash.clone()).collect();
            Suspects::Contents(hashes.into_iter().collect())
        }
        false => {
            let key = |row: &RowDifference| row.key.iter().map(|part| part.value.clone()).collect();
            let keys: BTreeSet<Key> = rows.iter().map(key).collect();
            Suspects::Keys(keys.into_iter().collect())
        }
    }
}

fn fitted(
    found: &Found,
    ends: &[End; 2],
    before: &TablePlan,
    here: &TableInfo,
    there: &TableInfo,
) -> Result<Table, String> {
    let servers = [&ends[SOURCE].server, &ends[TARGET].server];
    // All columns, whatever the verification has looked at.
    let request = VerifyRequest { mode: Mode::Full, ..found.request.clone() };
    let plan = TablePlan::new(here, there, servers, &request, before.restriction.clone());
    let names = |plan: &TablePlan| -> Vec<String> {
        plan.key().iter().map(|column| column.name.clone()).collect()
    };
    if names(&plan) != names(before) {
        return Err(OTHER_KEY.into());
    }
    if plan.key().iter().any(|column| column.is_long) {
        return Err(LONG_KEY.into());
    }
    if plan.key == 0 && found.request.mode == Mode::Count {
        return Err(COUNTED.into());
    }
    if plan.key == 0 && here.bytes.max(there.bytes) > NO_KEY_MAX {
        return Err(NO_KEY.into());
    }
    let images = Images::new(here, there)?;
    Ok(Table { plan, images })
}
