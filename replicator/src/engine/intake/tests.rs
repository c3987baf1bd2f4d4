//! What happens between a look at the gate and the next event.

use cutover::marker::Token;
use cutover::ports::Epoch;
use decoders::postgres::catalog::TableFilter;
use decoders::{
    Cell, ChangeEvent, Column, Part, QualifiedName, ReplicaIdentity, Row, TableId, TableSchema,
};

use super::*;
use crate::engine::own::Counterpart;

/// Gives transactions one after the other, and opens the gate right before the one with this number.
struct Opening {
    next: u64,
    opens_before: u64,
    last: u64,
    part: fn(u64) -> Part,
    open: Box<dyn Fn() + Send>,
}

impl Source for Opening {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        let n = self.next;
        if n > self.last {
            return Ok(SourceEvent::Handover);
        }
        // Whatever is before it has been taken, looked at, and held.
        tokio::task::yield_now().await;
        self.next += 1;
        if n == self.opens_before {
            (self.open)();
        }
        Ok(SourceEvent::Transaction(transaction(n, (self.part)(n))))
    }

    async fn keep_alive(&mut self) -> SourceError {
        std::future::pending().await
    }

    async fn acknowledge(&mut self, _durable: Position) -> Result<(), SourceError> {
        Ok(())
    }
}

fn transaction(n: u64, part: Part) -> Transaction {
    let column = Column { name: "a".into(), type_oid: 25, type_modifier: -1, in_key: true };
    let table = TableSchema {
        id: TableId(1),
        name: QualifiedName::new("public", "t"),
        identity: ReplicaIdentity::Default,
        columns: vec![column],
    };
    let new = Row::from(vec![Cell::text("x")]);
    // All parts of a large transaction have one commit.
    let number = if part == Part::Whole { n } else { 0 };
    Transaction {
        part,
        xid: n as u32,
        commit_lsn: Lsn(100 + 10 * number),
        end_lsn: part.ends().then_some(Lsn(105 + 10 * n)),
        committed_at_us: 0,
        origin: None,
        changes: vec![ChangeEvent::Insert { table: Arc::new(table), new }],
        bytes: 10,
    }
}

/// What goes into the queue when the gate is opened right before the transaction `opens_before`, after it
/// was looked at.
async fn queued(gate: &MarkerGate, mut source: Opening) -> Vec<u32> {
    let (queue, mut queued) = tokio::sync::mpsc::unbounded_channel();
    let (checkpoint, _woken) = crossbeam_channel::bounded(1);
    let (hurry, _hurried) = crossbeam_channel::bounded(1);
    let intake = Intake {
        source: &mut source,
        resume: Lsn(1),
        beyond: Vec::new(),
        queue,
        checkpoint,
        hurry,
        progress: Arc::new(watch::Sender::new(Frontier::resume(Lsn(1), Lsn(1)))),
        own: OwnApply::of(Counterpart::believing("shop_back")),
        written: Arc::default(),
        truncations: Truncations::new(TableFilter::default()),
        copied_at: CopiedAt::default(),
        gate: gate.clone(),
        budget: Budget::new(1 << 20),
        limits: BatchLimits { bytes: 1 << 18, transactions: 100 },
        handover: watch::Sender::new(false).subscribe(),
    };
    let (stop, ended) = (watch::Sender::new(false), watch::Sender::new(false));
    let mut stopped = stop.subscribe();
    let mut downstream = ended.subscribe();
    let running = intake.run(&mut stopped, &mut downstream);
    let mut numbers = Vec::new();
    let taking = async {
        while numbers.len() < 4 {
            match queued.try_recv() {
                Ok(chunk) => numbers.extend(chunk.transactions.iter().map(|one| one.xid)),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::select! {
        ended = running => unreachable!("nothing was applied, so it can't end: {ended:?}"),
        () = taking => {}
    }
    numbers
}

fn four(gate: &MarkerGate, opens_before: u64, part: fn(u64) -> Part) -> Opening {
    let opened = gate.clone();
    Opening { next: 1, opens_before, last: 4, part, open: Box::new(move || opened.open()) }
}

#[tokio::test]
async fn what_was_held_goes_before_what_comes_when_the_gate_opens() {
    for opens_before in 2..=4 {
        let gate = MarkerGate::default();
        gate.close(&Token::draining("abc", Epoch(1)), Lsn(0));
        let source = four(&gate, opens_before, |_| Part::Whole);
        assert_eq!(queued(&gate, source).await, [1, 2, 3, 4], "opened before {opens_before}");
    }
}

#[tokio::test]
async fn the_held_parts_of_a_large_transaction_go_before_the_others() {
    for opens_before in 2..=4 {
        let gate = MarkerGate::default();
        gate.close(&Token::draining("abc", Epoch(1)), Lsn(0));
        let source = four(&gate, opens_before, |n| match n {
            1 => Part::First,
            4 => Part::Last,
            _ => Part::Middle,
        });
        assert_eq!(queued(&gate, source).await, [1, 2, 3, 4], "opened before {opens_before}");
    }
}

#[tokio::test]
async fn a_run_that_lets_go_of_its_marker_lets_what_was_held_go_first() {
    let token = Token::draining("abc", Epoch(1));
    let gate = MarkerGate::default();
    gate.close(&token, Lsn(0));
    let released = gate.clone();
    let source = Opening {
        open: Box::new(move || released.release(&token)),
        ..four(&gate, 3, |_| Part::Whole)
    };
    assert_eq!(queued(&gate, source).await, [1, 2, 3, 4]);
}
