//! How fast transactions become their net change: one core, no IO, pgbench's TPC-B transactions.
//!
//! `cargo bench -p sinks --bench net_reduce`. The last line is one JSON object.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use decoders::change::{
    ChangeEvent, Column, Lsn, QualifiedName, ReplicaIdentity, Row, RowBuilder, TableId, TableSchema,
};
use sinks::net::{Step, reduce};
use sinks::plan::{Fire, TablePlan};
use sinks::postgres::catalog::{Equality, GreenColumn, GreenTable, TableKind, UniqueKey};

const RUNS: usize = 7;
/// Transactions in a batch: a short queue, and as many as a budget lets in.
const SIZES: [u32; 2] = [1_000, 50_000];
const INT4: u32 = 23;

fn main() {
    let tables = [
        table(1, "pgbench_accounts", &["aid", "bid", "abalance", "filler"], true),
        table(2, "pgbench_tellers", &["tid", "bid", "tbalance", "filler"], true),
        table(3, "pgbench_branches", &["bid", "bbalance", "filler"], true),
        table(4, "pgbench_history", &["tid", "bid", "aid", "delta", "mtime", "filler"], false),
    ];
    let mut last = None;
    for size in SIZES {
        let changes = changes(&tables, size);
        let mut rates: Vec<f64> = (0..RUNS).map(|_| rate(&tables, &changes, size)).collect();
        rates.sort_by(f64::total_cmp);
        let (low, median, high) = (rates[0], rates[RUNS / 2], rates[RUNS - 1]);
        eprintln!("batches of {size} transactions: {:.0} ns a change", 1e9 / median);
        last = Some((median, (high - low) / median));
    }
    if let Some((median, spread)) = last {
        println!(
            "{{\"bench\":\"net_reduce\",\"ours\":{median:.0},\"peer\":null,\"ratio\":null,\
             \"unit\":\"changes/s\",\"runs\":{RUNS},\"spread\":{spread:.3}}}"
        );
    }
}

/// Changes per second, over enough batches to measure.
fn rate(tables: &[Arc<TablePlan>], changes: &[ChangeEvent], size: u32) -> f64 {
    let repeats = (50_000 / size).max(1);
    let start = Instant::now();
    for _ in 0..repeats {
        let numbered = changes.iter().zip(1..).map(|(change, lsn)| (change, Lsn(lsn)));
        let plan = |schema: &Arc<TableSchema>| {
            tables.iter().find(|plan| Arc::ptr_eq(plan.schema(), schema)).cloned()
        };
        let steps = reduce(numbered, plan).expect("the bench's own changes");
        let [Step::Rows(rows)] = steps.as_slice() else { panic!("one stretch") };
        assert_eq!(rows.tables.len(), tables.len());
    }
    changes.len() as f64 * f64::from(repeats) / start.elapsed().as_secs_f64()
}

fn table(id: u32, name: &str, columns: &[&str], keyed: bool) -> Arc<TablePlan> {
    let name = QualifiedName::new("public", name);
    let in_key = |at: usize| keyed && at == 0;
    let schema = TableSchema {
        id: TableId(id),
        name: name.clone(),
        identity: ReplicaIdentity::Default,
        columns: columns
            .iter()
            .enumerate()
            .map(|(at, name)| Column {
                name: (*name).to_owned(),
                type_oid: INT4,
                type_modifier: -1,
                in_key: in_key(at),
            })
            .collect(),
    };
    let green = GreenTable {
        oid: 100_000 + id,
        name,
        kind: TableKind::Plain,
        columns: columns
            .iter()
            .enumerate()
            .map(|(at, name)| GreenColumn {
                name: (*name).to_owned(),
                type_oid: INT4,
                type_modifier: -1,
                type_name: "integer".to_owned(),
                not_null: in_key(at),
                has_default: false,
                generated: None,
                identity: None,
                equality: Equality::Exact { schema: "pg_catalog".to_owned() },
                array: None,
                inner_oids: None,
            })
            .collect(),
        unique_keys: keyed
            .then(|| UniqueKey {
                name: "pkey".to_owned(),
                primary: true,
                columns: vec![columns[0].to_owned()],
            })
            .into_iter()
            .collect(),
        triggers: Vec::new(),
        cascades: Vec::new(),
    };
    Arc::new(TablePlan::new(Arc::new(schema), green, Fire::OnReplica).expect("it fits"))
}

/// pgbench at scale 10: a million accounts, a hundred tellers, ten branches.
fn changes(tables: &[Arc<TablePlan>], transactions: u32) -> Vec<ChangeEvent> {
    let filler = " ".repeat(84);
    let mut changes = Vec::new();
    for number in 0..transactions {
        let random = number.wrapping_mul(2_654_435_761);
        let account = (random % 1_000_000 + 1).to_string();
        let teller = (random / 7 % 100 + 1).to_string();
        let branch = (random / 11 % 10 + 1).to_string();
        let balance = (random % 5_000).to_string();
        let update = |table: usize, values: &[Option<&str>]| ChangeEvent::Update {
            table: tables[table].schema().clone(),
            old: None,
            new: row(values),
        };
        changes.push(update(0, &[Some(&account), Some("1"), Some(&balance), Some(&filler)]));
        changes.push(update(1, &[Some(&teller), Some("1"), Some(&balance), None]));
        changes.push(update(2, &[Some(&branch), Some(&balance), None]));
        let time = Some("2026-11-21 01:50:37.000042");
        let entry = [Some(&*teller), Some(&branch), Some(&account), Some("-4711"), time, None];
        let table = tables[3].schema().clone();
        changes.push(ChangeEvent::Insert { table, new: row(&entry) });
    }
    changes
}

/// A row as it comes out of a frame.
fn row(values: &[Option<&str>]) -> Row {
    let mut frame = BytesMut::new();
    let ranges: Vec<Option<Range<usize>>> = values
        .iter()
        .map(|value| {
            let start = frame.len();
            frame.put_slice(value.as_ref()?.as_bytes());
            Some(start..frame.len())
        })
        .collect();
    let frame: Bytes = frame.freeze();
    let mut row = RowBuilder::new(&frame, values.len());
    for range in ranges {
        match range {
            Some(range) => row.text(range),
            None => row.null(),
        }
    }
    row.finish()
}
