//! A run ends as it was asked to, with everything where it says it is.

use std::collections::VecDeque;
use std::sync::Arc;

use cutover::marker::Token;
use cutover::ports::Epoch;
use decoders::postgres::catalog::TableFilter;
use decoders::{Lsn, Part, Position, Source, SourceError, SourceEvent, TableSchema, Transaction};
use sinks::conflicts::{TableConflicts, TableFacts};
use sinks::{Applied, FlushedByLanes, Flusher, Lane, LaneId, NullLane, NullTarget, Reached, Share};
use tokio::sync::watch;

use super::*;
use crate::engine::frontier::Frontier;
use crate::engine::totals::AppliedTotals;

/// Gives what it was made with, then waits, or hands over.
struct Script {
    events: VecDeque<SourceEvent>,
    acknowledged: Lsn,
}

impl Source for Script {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        match self.events.pop_front() {
            Some(event) => Ok(event),
            None => std::future::pending().await,
        }
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

fn commit(n: u64) -> Lsn {
    Lsn(1000 + 10 * n)
}

fn end(n: u64) -> Lsn {
    Lsn(1008 + 10 * n)
}

fn transaction(n: u64, part: Part) -> SourceEvent {
    SourceEvent::Transaction(Transaction {
        part,
        xid: n as u32,
        commit_lsn: commit(n),
        end_lsn: part.ends().then(|| end(n)),
        committed_at_us: 0,
        origin: None,
        changes: Vec::new(),
        bytes: 100,
    })
}

struct Setup {
    context: StreamContext,
    target: Arc<NullTarget>,
    handover: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    _directory: tempfile::TempDir,
}

impl Setup {
    fn new(lanes: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let handover = watch::Sender::new(false);
        let context = StreamContext {
            store: Store::open(directory.path()).unwrap(),
            positions: None,
            progress: Arc::new(watch::Sender::new(Frontier::default())),
            totals: watch::Sender::new(AppliedTotals::default()),
            touched: Arc::default(),
            tables: TableFilter::default(),
            copied_at: CopiedAt::default(),
            gate: MarkerGate::default(),
            hold: Hold::default(),
            counterpart: Counterpart::believing("shop_back"),
            lanes_open: watch::Sender::new(false),
            budget: Budget::new(1 << 20),
            limits: BatchLimits { bytes: 1 << 18, transactions: 100 },
            lanes,
            applier: Applier::Beside,
            handover: handover.subscribe(),
        };
        let stop = watch::Sender::new(false);
        Self { context, target: Arc::default(), handover, stop, _directory: directory }
    }

    async fn run(&self, source: &mut Script, beyond: &[Lsn]) -> Outcome {
        self.run_to(self.target.clone(), source, beyond).await.unwrap()
    }

    async fn run_to<T: Target + 'static>(
        &self,
        target: Arc<T>,
        source: &mut Script,
        beyond: &[Lsn],
    ) -> Result<Outcome, StreamError> {
        let resume = Resume { from: Lsn(1000), transaction: Lsn(1000), beyond: beyond.to_vec() };
        run(source, target, resume, &self.context, &mut self.stop.subscribe()).await
    }
}

/// Takes nothing: refuses it, or never answers.
struct Bad {
    answers: bool,
}

impl Lane for Bad {
    async fn apply_share(&mut self, _: &[Transaction], _: Share) -> Result<Applied, TargetError> {
        match self.answers {
            true => Err(TargetError::halt("out of order", "nothing to be done")),
            false => std::future::pending().await,
        }
    }

    async fn close(self) {}
}

impl Target for Bad {
    type Lane = Self;
    type Flusher = FlushedByLanes;

    async fn open_lane(&self, _: LaneId) -> Result<Self, TargetError> {
        Ok(Self { answers: self.answers })
    }

    async fn open_flusher(&self) -> Result<FlushedByLanes, TargetError> {
        Ok(FlushedByLanes)
    }

    async fn progress(&self) -> Result<Reached, TargetError> {
        Ok(Reached::default())
    }

    async fn conflicts(&self, table: &Arc<TableSchema>) -> Result<TableConflicts, TargetError> {
        Ok(TableConflicts::new(table, &TableFacts::default()))
    }

    async fn shares_rows(&self, _: &[Arc<TableSchema>]) -> Result<bool, TargetError> {
        Ok(false)
    }
}

/// Takes everything; its log does not answer before it may.
struct SlowLog {
    target: NullTarget,
    may_answer: watch::Sender<Option<Answer>>,
    is_asked: watch::Sender<bool>,
}

/// What a log says.
#[derive(Clone, Copy)]
enum Answer {
    Flushed,
    Gone,
}

impl SlowLog {
    fn new() -> Arc<Self> {
        let (may_answer, is_asked) = (watch::Sender::new(None), watch::Sender::new(false));
        Arc::new(SlowLog { target: NullTarget::default(), may_answer, is_asked })
    }

    /// Waits until somebody waits for the log.
    async fn asked(&self) {
        self.is_asked.subscribe().wait_for(|asked| *asked).await.unwrap();
    }
}

struct SlowFlusher {
    may_answer: watch::Receiver<Option<Answer>>,
    is_asked: watch::Sender<bool>,
}

impl Flusher for SlowFlusher {
    async fn flush(&mut self, _: Lsn) -> Result<(), TargetError> {
        self.is_asked.send_replace(true);
        match self.may_answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Answer::Flushed)) => Ok(()),
            _ => Err(TargetError::retry("green is gone")),
        }
    }
}

impl Target for SlowLog {
    type Lane = NullLane;
    type Flusher = SlowFlusher;

    async fn open_lane(&self, id: LaneId) -> Result<NullLane, TargetError> {
        self.target.open_lane(id).await
    }

    async fn open_flusher(&self) -> Result<SlowFlusher, TargetError> {
        let (may_answer, is_asked) = (self.may_answer.subscribe(), self.is_asked.clone());
        Ok(SlowFlusher { may_answer, is_asked })
    }

    async fn progress(&self) -> Result<Reached, TargetError> {
        self.target.progress().await
    }

    async fn conflicts(&self, table: &Arc<TableSchema>) -> Result<TableConflicts, TargetError> {
        self.target.conflicts(table).await
    }

    async fn shares_rows(&self, tables: &[Arc<TableSchema>]) -> Result<bool, TargetError> {
        self.target.shares_rows(tables).await
    }
}

fn script(events: impl IntoIterator<Item = SourceEvent>) -> Script {
    Script { events: events.into_iter().collect(), acknowledged: Lsn::INVALID }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hands_over_is_acknowledged_up_to_its_end() {
    for (lanes, applier) in [(1, Applier::Beside), (1, Applier::Apart), (4, Applier::Apart)] {
        let mut setup = Setup::new(lanes);
        setup.context.applier = applier;
        let all = (0..500).map(|n| transaction(n, Part::Whole));
        let mut source = script(all.chain([SourceEvent::Handover]));
        assert_eq!(setup.run(&mut source, &[]).await, Outcome::Handover);
        assert_eq!(setup.target.transactions(), 500);
        assert_eq!(source.acknowledged, end(499));
        let checkpoint = setup.context.store.checkpoint().unwrap().unwrap();
        assert_eq!(checkpoint.applied_transaction, end(499));
        assert_eq!(setup.context.totals.borrow().transactions, 500);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handover_that_is_asked_for_waits_for_the_marker_and_for_a_large_transaction() {
    let setup = Setup::new(1);
    let token = Token::draining("abc", Epoch(1));
    setup.context.gate.arm(&token).unwrap();
    setup.handover.send_replace(true);
    let parts = [Part::First, Part::Middle, Part::Last].map(|part| transaction(1, part));
    let mut source = script([transaction(0, Part::Whole)].into_iter().chain(parts));
    let release = async {
        let mut progress = setup.context.progress.subscribe();
        // All of it is taken although the handover was asked for before.
        progress.wait_for(|frontier| frontier.acked() == end(1)).await.unwrap();
        setup.context.gate.release(&token);
    };
    let (outcome, ()) = tokio::join!(setup.run(&mut source, &[]), release);
    assert_eq!(outcome, Outcome::Handover);
    assert_eq!(source.acknowledged, end(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_green_has_from_another_life_is_dropped_whole_or_in_parts() {
    let setup = Setup::new(2);
    let parts = [Part::First, Part::Middle, Part::Last].map(|part| transaction(2, part));
    let wholes = [0, 1, 3].map(|n| transaction(n, Part::Whole));
    let mut events: Vec<SourceEvent> = wholes.into_iter().collect();
    let last = events.pop();
    events.extend(parts);
    events.extend(last);
    let mut source = script(events.into_iter().chain([SourceEvent::Handover]));
    let outcome = setup.run(&mut source, &[commit(1), commit(2)]).await;
    assert_eq!(outcome, Outcome::Handover);
    assert_eq!(setup.target.transactions(), 2);
    assert_eq!(source.acknowledged, end(3));
}

/// No transaction and no keepalive may come behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_green_has_from_another_life_pins_nothing() {
    let setup = Setup::new(2);
    let events = [0, 1].map(|n| transaction(n, Part::Whole)).into_iter();
    let mut source = script(events.chain([SourceEvent::Handover]));
    assert_eq!(setup.run(&mut source, &[commit(1)]).await, Outcome::Handover);
    assert_eq!(setup.target.transactions(), 1);
    assert_eq!(source.acknowledged, end(1));
}

/// What the stream the other way round has written is never applied, and pins nothing: also in
/// parts, and while the gate is closed.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_writes_are_idle_time() {
    let ours = |n, part| match transaction(n, part) {
        SourceEvent::Transaction(transaction) => SourceEvent::Transaction(Transaction {
            origin: part.starts().then(|| "cutover_shop_back".into()),
            ..transaction
        }),
        other => other,
    };
    let setup = Setup::new(1);
    setup.context.gate.close(&Token::draining("abc", Epoch(1)), Lsn(0));
    let parts = [Part::First, Part::Middle, Part::Last].map(|part| ours(1, part));
    let mut source = script([ours(0, Part::Whole)].into_iter().chain(parts));
    let stop = async {
        let mut progress = setup.context.progress.subscribe();
        progress.wait_for(|frontier| frontier.acked() == end(1)).await.unwrap();
        setup.stop.send_replace(true);
    };
    let (outcome, ()) = tokio::join!(setup.run(&mut source, &[]), stop);
    assert_eq!(outcome, Outcome::Stopped);
    assert_eq!(setup.target.transactions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_told_from_a_handover() {
    let setup = Setup::new(3);
    let mut source = script((0..3).map(|n| transaction(n, Part::Whole)));
    let stop = async {
        let mut progress = setup.context.progress.subscribe();
        progress.wait_for(|frontier| frontier.acked() == end(2)).await.unwrap();
        setup.stop.send_replace(true);
    };
    let (outcome, ()) = tokio::join!(setup.run(&mut source, &[]), stop);
    assert_eq!(outcome, Outcome::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_green_is_the_error_of_the_run_wherever_it_is_applied() {
    for (lanes, applier) in [(1, Applier::Beside), (1, Applier::Apart), (2, Applier::Apart)] {
        let mut setup = Setup::new(lanes);
        setup.context.applier = applier;
        let mut source = script([transaction(0, Part::Whole)]);
        let ran = setup.run_to(Arc::new(Bad { answers: true }), &mut source, &[]).await;
        assert_eq!(ran.unwrap_err().to_string(), "out of order", "{lanes} {applier:?}");
    }
}

/// What is in hand is given up after a while, and counts as not applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_green_that_never_answers() {
    for applier in [Applier::Beside, Applier::Apart] {
        let mut setup = Setup::new(1);
        setup.context.applier = applier;
        let mut source = script([transaction(0, Part::Whole)]);
        let stop = async {
            let mut progress = setup.context.progress.subscribe();
            progress.wait_for(|frontier| frontier.received() == end(0)).await.unwrap();
            setup.stop.send_replace(true);
        };
        let run = setup.run_to(Arc::new(Bad { answers: false }), &mut source, &[]);
        let (ran, ()) = tokio::join!(run, stop);
        assert_eq!(ran.unwrap(), Outcome::Stopped);
        assert_eq!(setup.context.progress.borrow().applied(), Lsn(1000));
    }
}

/// A commit that green could still lose is in no checkpoint, and blue is not told of it.
#[tokio::test(flavor = "multi_thread")]
async fn blue_forgets_only_what_is_in_greens_log() {
    let setup = Setup::new(1);
    let target = SlowLog::new();
    let mut source = script([transaction(1, Part::Whole)]);
    let look = async {
        target.asked().await;
        let mut progress = setup.context.progress.subscribe();
        let frontier = *progress.borrow();
        assert_eq!((frontier.applied(), frontier.durable()), (end(1), Lsn(1000)));
        assert_eq!(setup.context.store.checkpoint().unwrap(), None);
        target.may_answer.send_replace(Some(Answer::Flushed));
        progress.wait_for(|frontier| frontier.acked() == end(1)).await.unwrap();
        setup.stop.send_replace(true);
    };
    let run = setup.run_to(Arc::clone(&target), &mut source, &[]);
    let (ran, ()) = tokio::join!(run, look);
    assert_eq!(ran.unwrap(), Outcome::Stopped);
    assert_eq!(source.acknowledged, end(1));
    assert_eq!(setup.context.store.checkpoint().unwrap().unwrap().applied_transaction, end(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_blue_needs_no_log_of_greens() {
    let setup = Setup::new(1);
    let target = SlowLog::new();
    let mut source = script([SourceEvent::Idle(Position::Lsn(Lsn(1001)))]);
    let stop = async {
        let mut progress = setup.context.progress.subscribe();
        progress.wait_for(|frontier| frontier.acked() == Lsn(1001)).await.unwrap();
        setup.stop.send_replace(true);
    };
    let (ran, ()) = tokio::join!(setup.run_to(Arc::clone(&target), &mut source, &[]), stop);
    assert_eq!(ran.unwrap(), Outcome::Stopped);
    assert!(!*target.is_asked.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_log_that_never_answers() {
    let setup = Setup::new(1);
    let target = SlowLog::new();
    let mut source = script([transaction(0, Part::Whole)]);
    let stop = async {
        target.asked().await;
        setup.stop.send_replace(true);
    };
    let (ran, ()) = tokio::join!(setup.run_to(Arc::clone(&target), &mut source, &[]), stop);
    assert_eq!(ran.unwrap(), Outcome::Stopped);
    let frontier = *setup.context.progress.borrow();
    assert_eq!((frontier.applied(), frontier.durable()), (Lsn(1000), Lsn(1000)));
    assert_eq!(setup.context.store.checkpoint().unwrap(), None);
}

/// Green is gone, with what it had committed last: nobody may go on to believe that it is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_log_had_not_confirmed_is_applied_no_more() {
    for applier in [Applier::Beside, Applier::Apart] {
        let mut setup = Setup::new(1);
        setup.context.applier = applier;
        let target = SlowLog::new();
        let mut source = script([transaction(0, Part::Whole)]);
        let crash = async {
            target.asked().await;
            assert_eq!(setup.context.progress.borrow().applied(), end(0));
            target.may_answer.send_replace(Some(Answer::Gone));
        };
        let run = setup.run_to(Arc::clone(&target), &mut source, &[]);
        let (ran, ()) = tokio::join!(run, crash);
        assert_eq!(ran.unwrap_err().to_string(), "green is gone");
        let frontier = *setup.context.progress.borrow();
        assert_eq!((frontier.applied(), frontier.durable()), (Lsn(1000), Lsn(1000)));
        assert_eq!((frontier.in_flight(), source.acknowledged), (0, Lsn::INVALID));
        assert_eq!(setup.context.store.checkpoint().unwrap(), None);
    }
}
