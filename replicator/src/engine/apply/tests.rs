//! What becomes of a window when lanes are refused, fail, or are given up.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use decoders::{
    Cell, ChangeEvent, Column, Part, QualifiedName, ReplicaIdentity, TableId, TableSchema,
};
use sinks::conflicts::TableConflicts;
use sinks::{Applied, FlushedByLanes, Lane, LaneId, Reached};

use super::*;
use crate::engine::budget::{Budget, weight_bytes};
use crate::engine::lanes;

/// What a lane does with a share.
#[derive(Clone, Copy)]
enum Act {
    Apply,
    /// A constraint.
    Refuse,
    Fail,
    Hang,
}

/// Which lane does what: lane, whether it is a share of a window, earlier shares of that lane.
type Acts = fn(u16, bool, usize) -> Act;

struct Scripted {
    acts: Acts,
    /// Transactions that were applied, in order.
    applied: Arc<Mutex<Vec<u32>>>,
    /// What it is asked about this table it never answers.
    silent: Option<&'static str>,
    /// What it says about tables that may share rows.
    shares_rows: bool,
    /// By whom it is held.
    hold: Hold,
    /// How many windows may be unanswered; then all are answered, unless the queue is closed.
    sends: usize,
    /// The most that were.
    unanswered: Arc<Mutex<usize>>,
}

impl Scripted {
    fn new(acts: Acts) -> Self {
        Self {
            acts,
            applied: Arc::default(),
            silent: None,
            shares_rows: false,
            hold: Hold::default(),
            sends: 0,
            unanswered: Arc::default(),
        }
    }

    fn applied(&self) -> Vec<u32> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Target for Scripted {
    type Lane = ScriptedLane;
    type Flusher = FlushedByLanes;

    async fn open_lane(&self, id: LaneId) -> Result<ScriptedLane, TargetError> {
        Ok(ScriptedLane {
            id: id.0,
            acts: self.acts,
            applied: self.applied.clone(),
            calls: 0,
            sends: self.sends,
            sent: VecDeque::new(),
            unanswered: self.unanswered.clone(),
        })
    }

    async fn open_flusher(&self) -> Result<FlushedByLanes, TargetError> {
        Ok(FlushedByLanes)
    }

    async fn progress(&self) -> Result<Reached, TargetError> {
        Ok(Reached::default())
    }

    async fn conflicts(&self, table: &Arc<TableSchema>) -> Result<TableConflicts, TargetError> {
        if self.silent == Some(table.name.name.as_str()) {
            std::future::pending::<()>().await;
        }
        let facts = sinks::conflicts::TableFacts {
            identity: Some(vec![0]),
            is_partitioned: table.name.name == "root",
            ..Default::default()
        };
        Ok(TableConflicts::new(table, &facts))
    }

    async fn shares_rows(&self, _tables: &[Arc<TableSchema>]) -> Result<bool, TargetError> {
        Ok(self.shares_rows)
    }
}

struct ScriptedLane {
    id: u16,
    acts: Acts,
    applied: Arc<Mutex<Vec<u32>>>,
    calls: usize,
    sends: usize,
    sent: VecDeque<Vec<Transaction>>,
    unanswered: Arc<Mutex<usize>>,
}

impl Lane for ScriptedLane {
    async fn apply_share(
        &mut self,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, TargetError> {
        let is_part = matches!(share, Share::Part(_));
        let act = (self.acts)(self.id, is_part, self.calls);
        self.calls += 1;
        match act {
            Act::Apply => {
                let xids = transactions.iter().map(|transaction| transaction.xid);
                self.applied.lock().unwrap_or_else(PoisonError::into_inner).extend(xids);
                let end_lsn = transactions.last().and_then(|last| last.end_lsn);
                let count = transactions.len() as u64;
                Ok(Applied { end_lsn, transactions: count, changes: count })
            }
            Act::Refuse => Err(TargetError {
                conflict: true,
                about_row: true,
                ..TargetError::halt("a constraint", "nothing to be done")
            }),
            Act::Fail => Err(TargetError::halt("out of order", "nothing to be done")),
            Act::Hang => std::future::pending().await,
        }
    }

    fn is_ready_for(&self, transactions: &[Transaction]) -> bool {
        transactions.len() <= self.sends
    }

    async fn send(&mut self, transactions: &[Transaction]) -> Result<(), TargetError> {
        self.sent.push_back(transactions.to_vec());
        let mut most = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        *most = (*most).max(self.sent.len());
        Ok(())
    }

    async fn answer_came(&mut self) {
        let hangs = matches!((self.acts)(self.id, false, self.calls), Act::Hang);
        // What else is sent beside it comes before its answer.
        if hangs || self.sent.len() < 2 {
            std::future::pending::<()>().await;
        }
    }

    async fn answer(&mut self) -> Result<Applied, TargetError> {
        let oldest = self.sent.pop_front().expect("something was sent");
        self.apply_share(&oldest, Share::ALL).await
    }

    async fn close(self) {}
}

fn table(id: u32, name: &str) -> Arc<TableSchema> {
    let column = Column { name: "id".to_owned(), type_oid: 25, type_modifier: -1, in_key: true };
    Arc::new(TableSchema {
        id: TableId(id),
        name: QualifiedName::new("public", name),
        identity: ReplicaIdentity::Default,
        columns: vec![column],
    })
}

fn end(n: u32) -> Lsn {
    Lsn(u64::from(n) * 10 + 8)
}

fn insert(n: u32, table: &Arc<TableSchema>) -> Transaction {
    let key = n.to_string();
    let new = [Cell::text(&key)].into_iter().collect();
    Transaction {
        part: Part::Whole,
        xid: n,
        commit_lsn: Lsn(u64::from(n) * 10),
        end_lsn: Some(end(n)),
        committed_at_us: 0,
        origin: None,
        changes: vec![ChangeEvent::Insert { table: table.clone(), new }],
        bytes: 100,
    }
}

/// Applies `chunks` with two lanes, until the end or until `cancel`.
async fn run(
    target: &Arc<Scripted>,
    chunks: Vec<Vec<Transaction>>,
    cancel: &watch::Sender<bool>,
) -> (Result<(), TargetError>, AppliedTotals) {
    let (ended, totals, _) = run_with(2, 100, target, chunks, cancel).await;
    (ended, totals)
}

/// The same with so many lanes and so many transactions in a window at most; gives the positions too.
async fn run_with(
    lanes: u16,
    transactions: usize,
    target: &Arc<Scripted>,
    chunks: Vec<Vec<Transaction>>,
    cancel: &watch::Sender<bool>,
) -> (Result<(), TargetError>, AppliedTotals, Frontier) {
    let limits = BatchLimits { bytes: 1 << 20, transactions };
    let (queue, queued) = tokio::sync::mpsc::unbounded_channel();
    let mut frontier = Frontier::resume(Lsn(1), Lsn(1));
    let budget = Budget::new(1 << 24);
    for transactions in chunks {
        // Ends are received in order, whatever becomes of them.
        let mut ends: Vec<Lsn> = transactions.iter().filter_map(|t| t.end_lsn).collect();
        ends.sort();
        ends.into_iter().for_each(|end| frontier.transaction_received(end));
        let weight_bytes = transactions.iter().map(weight_bytes).sum();
        let permit = budget.acquire(weight_bytes).await;
        assert!(queue.send(Chunk { transactions, weight_bytes, permit }).is_ok());
    }
    drop(queue);
    let totals = watch::Sender::new(AppliedTotals::default());
    let progress = Arc::new(watch::Sender::new(frontier));
    let applying = Applying {
        target: target.clone(),
        lanes,
        lanes_open: watch::Sender::new(false),
        queue: queued,
        resume: Resume { from: Lsn(1), transaction: Lsn(1), beyond: Vec::new() },
        progress: Arc::clone(&progress),
        checkpoint: crossbeam_channel::bounded(1).0,
        totals: totals.clone(),
        touched: Arc::default(),
        hold: target.hold.clone(),
        limits,
        cancel: cancel.subscribe(),
    };
    let applied = tokio::task::spawn_blocking(move || lanes::runtime().block_on(applying.run()));
    let applied = tokio::time::timeout(Duration::from_secs(30), applied).await;
    let totals = *totals.borrow();
    let frontier = *progress.borrow();
    (applied.expect("it ends by itself").unwrap(), totals, frontier)
}

fn rows(range: std::ops::Range<u32>, name: &str) -> Vec<Transaction> {
    let table = table(1, name);
    range.map(|n| insert(n, &table)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_beside_others_is_applied_alone_after_them() {
    let target = Arc::new(Scripted::new(|lane, is_part, _| match (lane, is_part) {
        (1, true) => Act::Refuse,
        _ => Act::Apply,
    }));
    let never = watch::Sender::new(false);
    let (ended, totals) = run(&target, vec![rows(1..41, "t")], &never).await;
    ended.unwrap();
    assert_eq!((totals.transactions, totals.conflicts, totals.shared_windows), (40, 1, 1));
    let applied = target.applied();
    assert_eq!(applied.len(), 40);
    let (first, refused) = applied.split_at(20);
    assert!(first.is_sorted() && refused.is_sorted(), "each in blue's order: {applied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_alone_too_is_the_error() {
    let target = Arc::new(Scripted::new(|lane, _, calls| match (lane, calls) {
        (1, _) | (0, 1) => Act::Refuse,
        _ => Act::Apply,
    }));
    let never = watch::Sender::new(false);
    let (ended, _) = run(&target, vec![rows(1..41, "t")], &never).await;
    assert_eq!(ended.unwrap_err().message, "a constraint");
    assert_eq!(target.applied().len(), 20, "once, and only once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_one_lane_ends_what_the_others_do() {
    let target = Arc::new(Scripted::new(|lane, _, _| match lane {
        0 => Act::Hang,
        _ => Act::Fail,
    }));
    let never = watch::Sender::new(false);
    let (ended, _) = run(&target, vec![rows(1..41, "t")], &never).await;
    assert_eq!(ended.unwrap_err().message, "out of order");
    assert!(target.applied().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_whose_grouping_was_given_up_is_not_applied() {
    let mut target = Scripted::new(|_, _, _| Act::Apply);
    target.silent = Some("u");
    let target = Arc::new(target);
    let cancel = watch::Sender::new(false);
    let chunks = vec![rows(1..41, "t"), rows(41..61, "u"), rows(61..71, "t")];
    let canceled = async {
        // All that runs before the question is done when the question waits.
        while Arc::strong_count(&target.applied) < 3 {
            tokio::task::yield_now().await;
        }
        cancel.send_replace(true);
    };
    let ((ended, totals), ()) = tokio::join!(run(&target, chunks, &cancel), canceled);
    ended.unwrap();
    assert_eq!((target.applied(), totals.transactions), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_and_its_partition_keep_all_order() {
    for (shares_rows, root, shared_windows) in
        [(true, "root", 0), (false, "root", 1), (true, "plain", 1)]
    {
        let target = Scripted { shares_rows, ..Scripted::new(|_, _, _| Act::Apply) };
        let target = Arc::new(target);
        let both = rows(1..21, "leaf").into_iter().chain(rows(21..41, root)).collect();
        let never = watch::Sender::new(false);
        let (ended, totals) = run(&target, vec![both], &never).await;
        ended.unwrap();
        assert_eq!(totals.shared_windows, shared_windows, "{root} {shares_rows}");
        assert_eq!(target.applied().len(), 40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_target_gets_what_lies_before_a_position_and_nothing_else() {
    let target = Arc::new(Scripted::new(|_, _, _| Act::Apply));
    let held = target.hold.hold().await;
    let never = watch::Sender::new(false);
    let holding = async {
        held.until_waiting_at(Lsn(10)).await;
        assert!(target.applied().is_empty());
        held.let_through(Lsn(255));
        held.until_waiting_at(Lsn(255)).await;
        assert_eq!(target.applied(), (1..26).collect::<Vec<_>>());
        assert_eq!(held.newest(), end(25));
        drop(held);
    };
    let chunks = vec![rows(1..31, "t"), rows(31..41, "t")];
    let ((ended, totals), ()) = tokio::join!(run(&target, chunks, &never), holding);
    ended.unwrap();
    assert_eq!((target.applied().len(), totals.transactions), (40, 40));
    assert_eq!(target.hold.hold().await.newest(), end(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_order_halts_before_it_is_written() {
    let target = Arc::new(Scripted::new(|_, _, _| Act::Apply));
    let never = watch::Sender::new(false);
    let mut chunk = rows(20..60, "t");
    let late = chunk.remove(21);
    chunk.push(late);
    let (ended, totals) = run(&target, vec![chunk], &never).await;
    let error = ended.unwrap_err();
    assert!(error.message.contains("order"), "{error}");
    assert_eq!((target.applied(), totals.transactions), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_given_up_while_it_is_held_ends() {
    let target = Arc::new(Scripted::new(|_, _, _| Act::Apply));
    let held = target.hold.hold().await;
    let cancel = watch::Sender::new(false);
    let canceled = async {
        held.until_waiting_at(Lsn(10)).await;
        cancel.send_replace(true);
    };
    let ((ended, totals), ()) =
        tokio::join!(run(&target, vec![rows(1..31, "t")], &cancel), canceled);
    ended.unwrap();
    assert_eq!((target.applied(), totals.transactions), (Vec::new(), 0));
}

/// What an earlier cut has left has no schedule, and must not get that of what came behind it.
#[tokio::test]
async fn a_window_that_was_cut_twice_is_not_shared_out() {
    let target = Scripted::new(|_, _, _| Act::Apply);
    let budget = Budget::new(1 << 24);
    let mut known = KnownTables::default();
    let mut window = Window::default();
    for range in [1..41, 41..61] {
        let transactions = rows(range, "t");
        let weight_bytes = transactions.iter().map(weight_bytes).sum();
        let permit = budget.acquire(weight_bytes).await;
        let first = window.transactions.len();
        window.push(Chunk { transactions, weight_bytes, permit });
        window.schedule_from(first, &mut known, &target).await.unwrap();
        let cut_at = if first == 0 { Lsn(210) } else { Lsn(410) };
        let rest = window.cut(cut_at).unwrap();
        assert_eq!((window.transactions.len(), window.schedule.count()), (20, 0));
        assert!(window.permits.is_empty() && !rest.permits.is_empty());
        window = rest;
    }
    assert_eq!((window.transactions.len(), window.schedule.count()), (20, 0));
    assert!(window.cut(Lsn(1000)).is_none());
}

/// Chunks of one transaction each.
fn singles(range: std::ops::Range<u32>) -> Vec<Vec<Transaction>> {
    rows(range, "t").into_iter().map(|one| vec![one]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_sent_while_the_one_before_is_unanswered() {
    let target = Arc::new(Scripted { sends: 1, ..Scripted::new(|_, _, _| Act::Apply) });
    let never = watch::Sender::new(false);
    let (ended, totals, frontier) = run_with(1, 1, &target, singles(1..41), &never).await;
    ended.unwrap();
    assert_eq!(target.applied(), (1..41).collect::<Vec<_>>());
    assert_eq!((totals.transactions, totals.batches, totals.inserts), (40, 40, 40));
    assert_eq!((frontier.applied(), frontier.in_flight()), (end(40), 0));
    assert_eq!(*target.unanswered.lock().unwrap(), 2, "so many and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_sent_waits_for_what_was() {
    let target = Arc::new(Scripted { sends: 1, ..Scripted::new(|_, _, _| Act::Apply) });
    let never = watch::Sender::new(false);
    let mut chunks = singles(1..6);
    chunks.push(rows(6..9, "t"));
    chunks.extend(singles(9..12));
    let (ended, totals, frontier) = run_with(1, 3, &target, chunks, &never).await;
    ended.unwrap();
    assert_eq!(target.applied(), (1..12).collect::<Vec<_>>());
    assert_eq!((totals.transactions, frontier.applied()), (11, end(11)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_counts_that_was_sent_behind_a_failure() {
    let target = Scripted::new(|_, _, calls| if calls == 2 { Act::Fail } else { Act::Apply });
    let target = Arc::new(Scripted { sends: 1, ..target });
    let never = watch::Sender::new(false);
    let (ended, totals, frontier) = run_with(1, 1, &target, singles(1..41), &never).await;
    assert_eq!(ended.unwrap_err().message, "out of order");
    assert_eq!((target.applied(), totals.transactions, totals.inserts), (vec![1, 2], 2, 2));
    assert_eq!(frontier.applied(), end(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_green_waits_for_what_was_sent() {
    let target = Arc::new(Scripted { sends: 1, ..Scripted::new(|_, _, _| Act::Apply) });
    let held = target.hold.hold().await;
    held.let_through(Lsn(45));
    let never = watch::Sender::new(false);
    let holding = async {
        held.until_waiting_at(Lsn(45)).await;
        assert_eq!((target.applied(), held.newest()), ((1..5).collect::<Vec<_>>(), end(4)));
        drop(held);
    };
    let running = run_with(1, 1, &target, singles(1..11), &never);
    let ((ended, totals, _), ()) = tokio::join!(running, holding);
    ended.unwrap();
    assert_eq!((target.applied().len(), totals.transactions), (10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_given_up_does_not_wait_for_answers() {
    let target = Arc::new(Scripted { sends: 1, ..Scripted::new(|_, _, _| Act::Hang) });
    let cancel = watch::Sender::new(false);
    let canceled = async {
        while *target.unanswered.lock().unwrap() < 2 {
            tokio::task::yield_now().await;
        }
        cancel.send_replace(true);
    };
    let running = run_with(1, 1, &target, singles(1..6), &cancel);
    let ((ended, totals, _), ()) = tokio::join!(running, canceled);
    ended.unwrap();
    assert_eq!((target.applied(), totals.transactions), (Vec::new(), 0));
}
