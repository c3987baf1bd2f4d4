//! What the engine itself costs per transaction: a source in memory, a target that forgets, and
//! everything between them (intake, budget, marker gate, scheduler, lanes, checkpoints).
//!
//! `cargo bench -p replicator --bench engine_null`. The last line is one JSON object: transactions
//! of pgbench's kind per second with one lane; the line before it is the same with four lanes and
//! rows that do not meet.

use std::sync::Arc;
use std::time::Instant;

use decoders::postgres::catalog::TableFilter;
use decoders::{
    Cell, ChangeEvent, Column, Lsn, Part, Position, QualifiedName, ReplicaIdentity, Row, Source,
    SourceError, SourceEvent, TableId, TableSchema, Transaction,
};
use replicator::engine::apply::{Applier, BatchLimits};
use replicator::engine::budget::Budget;
use replicator::engine::copied_at::CopiedAt;
use replicator::engine::frontier::Frontier;
use replicator::engine::hold::Hold;
use replicator::engine::marker::MarkerGate;
use replicator::engine::own::Counterpart;
use replicator::engine::resume::Resume;
use replicator::engine::stream::{self, Outcome, StreamContext};
use replicator::engine::totals::AppliedTotals;
use replicator::store::Store;
use sinks::NullTarget;
use tokio::sync::watch;

const TRANSACTIONS: u64 = 200_000;
const RUNS: usize = 5;
/// Where the stream begins, and how far each transaction's end is from the one before.
const START: u64 = 0x1000;
const STEP: u64 = 0x200;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for lanes in [4, 1] {
        let mut rates: Vec<f64> = (0..RUNS).map(|_| runtime.block_on(rate(lanes))).collect();
        rates.sort_by(f64::total_cmp);
        let (low, median, high) = (rates[0], rates[RUNS / 2], rates[RUNS - 1]);
        eprintln!("{lanes} lanes: {:.0} ns a transaction", 1e9 / median);
        println!(
            "{{\"bench\":\"engine_null_{lanes}\",\"ours\":{median:.0},\"peer\":null,\"ratio\":null,\
             \"unit\":\"transactions/s\",\"runs\":{RUNS},\"spread\":{:.3}}}",
            (high - low) / median
        );
    }
}

/// Transactions per second through one run of the stream.
async fn rate(lanes: u16) -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let context = StreamContext {
        store: Store::open(directory.path()).expect("a store"),
        positions: None,
        progress: Arc::new(watch::Sender::new(Frontier::default())),
        totals: watch::Sender::new(AppliedTotals::default()),
        touched: Arc::default(),
        tables: TableFilter::default(),
        copied_at: CopiedAt::default(),
        gate: MarkerGate::default(),
        hold: Hold::default(),
        counterpart: Counterpart::believing("bench_back"),
        lanes_open: watch::Sender::new(false),
        budget: Budget::new(256 << 20),
        limits: BatchLimits { bytes: 64 << 20, transactions: 50_000 },
        lanes,
        applier: Applier::Apart,
        handover: watch::Sender::new(false).subscribe(),
    };
    let mut source = InMemory::new();
    let resume = Resume { from: Lsn(START), transaction: Lsn(START), beyond: Vec::new() };
    let target = Arc::new(NullTarget::default());
    let stop = watch::Sender::new(false);
    let begun = Instant::now();
    let ran =
        stream::run(&mut source, target.clone(), resume, &context, &mut stop.subscribe()).await;
    let took = begun.elapsed();
    assert_eq!(ran.expect("it runs"), Outcome::Handover);
    assert_eq!(target.transactions(), TRANSACTIONS);
    assert_eq!(source.acknowledged, Lsn(START + STEP * TRANSACTIONS));
    TRANSACTIONS as f64 / took.as_secs_f64()
}

/// Gives its transactions as fast as they are asked for, then hands over.
struct InMemory {
    acknowledged: Lsn,
    /// Made before the clock starts: that is a decoder's work, not the engine's.
    ready: std::vec::IntoIter<Transaction>,
}

impl InMemory {
    fn new() -> Self {
        let table = |id: u32, name: &str| {
            let column = |name: &str, in_key: bool| Column {
                name: name.to_owned(),
                type_oid: 23,
                type_modifier: -1,
                in_key,
            };
            Arc::new(TableSchema {
                id: TableId(id),
                name: QualifiedName::new("public", name),
                identity: ReplicaIdentity::Default,
                columns: vec![column("id", id < 4), column("balance", false), column("f", false)],
            })
        };
        let names = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"];
        let tables = std::array::from_fn(|at| table(at as u32 + 1, names[at]));
        let all: Vec<Transaction> =
            (0..TRANSACTIONS).map(|number| transaction(&tables, number)).collect();
        Self { acknowledged: Lsn::INVALID, ready: all.into_iter() }
    }
}

fn transaction(tables: &[Arc<TableSchema>; 4], number: u64) -> Transaction {
    let key = number.to_be_bytes();
    let new: Row = [Cell::binary(&key), Cell::binary(&key), Cell::NULL].into_iter().collect();
    let [accounts, tellers, branches, history] = tables;
    let update = |table: &Arc<TableSchema>| ChangeEvent::Update {
        table: table.clone(),
        old: None,
        new: new.clone(),
    };
    let end = START + STEP * (number + 1);
    Transaction {
        part: Part::Whole,
        xid: number as u32,
        commit_lsn: Lsn(end - 0x40),
        end_lsn: Some(Lsn(end)),
        committed_at_us: 0,
        origin: None,
        changes: vec![
            update(accounts),
            update(tellers),
            update(branches),
            ChangeEvent::Insert { table: history.clone(), new: new.clone() },
        ],
        bytes: 400,
    }
}

impl Source for InMemory {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        Ok(self.ready.next().map_or(SourceEvent::Handover, SourceEvent::Transaction))
    }

    async fn keep_alive(&mut self) -> SourceError {
        std::future::pending().await
    }

    async fn acknowledge(&mut self, durable: Position) -> Result<(), SourceError> {
        let Position::Lsn(durable) = durable;
        self.acknowledged = durable;
        Ok(())
    }
}
