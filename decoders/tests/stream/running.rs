//! Large transactions that are sent while they run: no consumer sees a difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use decoders::postgres::stream::PgStream;
use decoders::source::Disposition;
use decoders::spool::{Generation, MemorySpool, Spool, SpoolError};
use decoders::{ChangeEvent, Lsn, Part, Source, SourceEvent, Transaction, UNTOLD_ORIGIN};
use tests::postgres::Postgres;

use crate::stage::{DEADLINE, SLOT, Stage, acknowledge, drain, table, transaction};

/// A spool that counts what was put.
#[derive(Debug, Default)]
struct Counting {
    spool: MemorySpool,
    puts: AtomicUsize,
    /// The disk is full from this batch on.
    full_at: Option<usize>,
}

impl Spool for Counting {
    fn begin(&self) -> Result<Generation, SpoolError> {
        self.spool.begin()
    }

    fn put(&self, generation: Generation, number: u64, batch: &[u8]) -> Result<(), SpoolError> {
        let puts = self.puts.fetch_add(1, Ordering::Relaxed);
        if self.full_at.is_some_and(|full_at| puts >= full_at) {
            let (message, remedy) = ("the disk is full".to_owned(), "make room".to_owned());
            return Err(SpoolError { message, remedy });
        }
        self.spool.put(generation, number, batch)
    }

    fn get(&self, generation: Generation, number: u64) -> Result<Vec<u8>, SpoolError> {
        self.spool.get(generation, number)
    }

    fn discard(
        &self,
        generation: Generation,
        numbers: &[std::ops::Range<u64>],
        is_last: bool,
    ) -> Result<(), SpoolError> {
        self.spool.discard(generation, numbers, is_last)
    }

    fn retire(&self) {
        self.spool.retire();
    }
}

impl Counting {
    fn puts(&self) -> usize {
        self.puts.load(Ordering::Relaxed)
    }
}

async fn stage(major: u32) -> Stage {
    let server =
        Postgres::builder(major).setting("logical_decoding_work_mem", "64kB").start().unwrap();
    let stage = Stage::on(server).await;
    stage
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL;
             CREATE TABLE u (id int, v text);
             ALTER TABLE u REPLICA IDENTITY FULL",
        )
        .await;
    stage.publish(&[table("t"), table("u")]).await;
    stage.slot().await;
    stage
}

async fn open(stage: &Stage, spool: &Arc<Counting>, start: Option<Lsn>) -> PgStream {
    let mut options = stage.options();
    options.start = start;
    options.spool = Some(Arc::clone(spool) as Arc<dyn Spool>);
    let stream = PgStream::open(&stage.info, options).await.unwrap();
    assert!(stream.is_streaming_running());
    stream
}

/// Parts put together: where they are cut is nobody's business.
fn whole(parts: Vec<Transaction>) -> Vec<Transaction> {
    let mut whole: Vec<Transaction> = Vec::new();
    for part in parts {
        match whole.last_mut().filter(|_| !part.part.starts()) {
            Some(open) => {
                open.end_lsn = part.end_lsn;
                open.changes.extend(part.changes);
            }
            None => whole.push(Transaction { part: Part::Whole, bytes: 0, ..part }),
        }
    }
    for transaction in &mut whole {
        transaction.bytes = 0;
    }
    whole
}

fn many(table: &str, from: i32, to: i32) -> String {
    format!("INSERT INTO {table} SELECT i, repeat('x', 200) FROM generate_series({from}, {to}) i")
}

async fn streamed_or_not_the_events_are_the_same(major: u32) {
    let stage = stage(major).await;
    stage.sql("SELECT pg_create_logical_replication_slot('committed_only', 'pgoutput')").await;
    let (a, b) = (
        stage.server.connect("postgres").await.unwrap(),
        stage.server.connect("postgres").await.unwrap(),
    );
    let spool = Arc::new(Counting::default());
    let mut stream = open(&stage, &spool, None).await;
    let work = async {
        // Two that interleave, small ones between them, and one that is rolled back.
        let on_a = async |sql: &str| a.batch_execute(sql).await.unwrap();
        let on_b = async |sql: &str| b.batch_execute(sql).await.unwrap();
        on_a("BEGIN").await;
        on_b("BEGIN").await;
        on_a(&many("t", 1, 2_000)).await;
        on_b(&many("u", 1, 1_500)).await;
        stage.sql("INSERT INTO t VALUES (-1, 'small')").await;
        // Released, rolled back, nested, and a rollback over released ones.
        on_a("SAVEPOINT kept").await;
        on_a(&many("t", 2_001, 3_000)).await;
        on_a("RELEASE kept; SAVEPOINT outer_one").await;
        on_a(&many("t", 3_001, 4_000)).await;
        on_a("SAVEPOINT inner_one").await;
        on_a(&many("t", 4_001, 5_000)).await;
        on_b(&many("u", 1_501, 2_500)).await;
        on_a("ROLLBACK TO inner_one").await;
        on_a("INSERT INTO t VALUES (5, 'again') ON CONFLICT (id) DO UPDATE SET v = excluded.v")
            .await;
        stage.sql("INSERT INTO t VALUES (-2, 'small'); DELETE FROM t WHERE id = -1").await;
        on_a("RELEASE inner_one; ROLLBACK TO outer_one").await;
        on_a(&many("t", 6_001, 7_000)).await;
        // TOAST, keys that move, a table that is described by a subtransaction that goes away.
        on_b("SAVEPOINT s; INSERT INTO t VALUES (-7, 'gone')").await;
        on_b(&many("u", 9_001, 9_900)).await;
        on_b("ROLLBACK TO s; INSERT INTO t VALUES (-8, repeat('long', 30000))").await;
        on_b("UPDATE t SET id = -9 WHERE id = -8; UPDATE u SET v = 'y' WHERE id < 900").await;
        on_b("DELETE FROM u WHERE id > 2000").await;
        on_b("SELECT pg_logical_emit_message(true, 'app', 'said')").await;
        on_a("UPDATE t SET v = v || 'z' WHERE id BETWEEN 1 AND 900").await;
        on_b("COMMIT").await;
        stage.sql("INSERT INTO u VALUES (-1, 'between')").await;
        on_a("COMMIT").await;
        on_b("BEGIN").await;
        on_b(&many("t", 20_001, 22_000)).await;
        on_b("ROLLBACK").await;
        // A shape that changes inside for a while, another that does for good; then the tables are
        // emptied.
        on_a("BEGIN").await;
        on_a(&many("t", 30_001, 31_000)).await;
        on_a("SAVEPOINT s; ALTER TABLE t ADD COLUMN w int DEFAULT 7").await;
        on_a("INSERT INTO t SELECT i, repeat('x', 200), i FROM generate_series(32001, 33000) i")
            .await;
        on_a("ROLLBACK TO s").await;
        on_a(&many("t", 33_001, 34_000)).await;
        on_a("COMMIT; BEGIN").await;
        on_a(&many("t", 34_001, 35_000)).await;
        on_a("ALTER TABLE t ADD COLUMN w text").await;
        on_a("INSERT INTO t SELECT i, repeat('x', 200), 'w' FROM generate_series(35001, 36000) i")
            .await;
        on_a("TRUNCATE t, u").await;
        on_a("INSERT INTO t VALUES (1, 'one', 'w')").await;
        on_a(&many("u", 1, 1_000)).await;
        on_a("COMMIT").await;
        stage.sql("INSERT INTO t VALUES (2, 'two', 'w'); INSERT INTO u VALUES (3, 'x')").await;
        stage.head().await
    };
    let reading = async {
        let (head_is_known, head) = tokio::sync::oneshot::channel();
        let work = async {
            head_is_known.send(work.await).unwrap();
        };
        let read = async {
            // While it is written, then up to the end.
            let mut seen = Vec::new();
            let mut head = std::pin::pin!(head);
            let head = loop {
                tokio::select! {
                    biased;
                    event = stream.next() => {
                        if let SourceEvent::Transaction(transaction) = event.unwrap() {
                            seen.push(transaction);
                        }
                    }
                    head = &mut head => break head.unwrap(),
                }
            };
            seen.extend(drain(&mut stream, head).await);
            (seen, head)
        };
        tokio::join!(work, read).1
    };
    let (streamed, head) = tokio::time::timeout(DEADLINE * 2, reading).await.unwrap();
    stage.sql("INSERT INTO u VALUES (4, 'the end')").await;
    let end = stage.head().await;
    drain(&mut stream, end).await;
    assert!(spool.puts() > 20, "only {} batches went through the spool", spool.puts());
    // Batches are discarded on a thread of their own, while the stream goes on.
    let emptied = async {
        while !spool.spool.is_empty() {
            let _idle = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
        }
    };
    let _late = tokio::time::timeout(DEADLINE, emptied).await;
    assert!(spool.spool.is_empty(), "{} batches were forgotten", spool.spool.len());

    let mut options = stage.options();
    options.slot = "committed_only".to_owned();
    let mut committed = PgStream::open(&stage.info, options).await.unwrap();
    assert!(!committed.is_streaming_running());
    let committed = whole(drain(&mut committed, head).await);
    let mut streamed = whole(streamed);
    // A transaction that comes while it runs is not told where it is from until it commits.
    for one in &mut streamed {
        one.origin.take_if(|origin| **origin == *UNTOLD_ORIGIN);
    }
    let shape = |transactions: &[Transaction]| {
        let shape = |one: &Transaction| (one.xid, one.changes.len(), one.commit_lsn, one.end_lsn);
        transactions.iter().map(shape).collect::<Vec<_>>()
    };
    assert_eq!(shape(&streamed), shape(&committed));
    for (one, other) in streamed.iter().zip(&committed) {
        let mut pairs = one.changes.iter().zip(&other.changes).enumerate();
        let different = pairs.find(|(_, (one, other))| one != other);
        assert!(different.is_none(), "transaction {}: {different:?}", one.xid);
        assert_eq!((one.committed_at_us, &one.origin), (other.committed_at_us, &other.origin));
    }
    assert!(streamed == committed, "the same shape and changes, but not the same");
}

#[tokio::test]
async fn streamed_or_not_the_events_are_the_same_14() {
    streamed_or_not_the_events_are_the_same(14).await;
}

#[tokio::test]
async fn streamed_or_not_the_events_are_the_same_15() {
    streamed_or_not_the_events_are_the_same(15).await;
}

#[tokio::test]
async fn streamed_or_not_the_events_are_the_same_17() {
    streamed_or_not_the_events_are_the_same(17).await;
}

#[tokio::test]
async fn streamed_or_not_the_events_are_the_same_18() {
    streamed_or_not_the_events_are_the_same(18).await;
}

/// Reads until the spool has taken `puts` batches.
async fn read_until_put(stream: &mut PgStream, spool: &Counting, puts: usize) {
    let reading = async {
        while spool.puts() < puts {
            let next = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
            if let Ok(Ok(SourceEvent::Transaction(other))) = next {
                panic!("transaction {} came too early", other.xid);
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
}

/// What is acknowledged may lie behind changes of a transaction that still runs: the source keeps
/// its log for it, and sends it whole to the next stream.
async fn a_running_transaction_survives_a_new_stream(major: u32) {
    let stage = stage(major).await;
    let writer = stage.server.connect("postgres").await.unwrap();
    let spool = Arc::new(Counting::default());
    let mut stream = open(&stage, &spool, None).await;
    writer.batch_execute(&format!("BEGIN; {}", many("t", 1, 3_000))).await.unwrap();
    read_until_put(&mut stream, &spool, 3).await;
    stage.sql("INSERT INTO u VALUES (1, 'small')").await;
    let small = transaction(&mut stream).await;
    let behind = small.end_lsn.unwrap();
    acknowledge(&mut stream, behind).await;
    // An idle position further on, beyond more changes of the running transaction.
    writer.batch_execute(&many("t", 3_001, 4_000)).await.unwrap();
    stage.sql("CREATE TABLE unpublished (id int)").await;
    let head = stage.head().await;
    assert!(drain(&mut stream, head).await.is_empty());
    acknowledge(&mut stream, head).await;
    let reported = async {
        while stage.confirmed().await < head {
            let _ = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
        }
    };
    tokio::time::timeout(DEADLINE, reported).await.unwrap();
    drop(stream);

    let mut stream = open(&stage, &spool, Some(head)).await;
    assert!(spool.spool.is_empty(), "the spool of the stream before is gone");
    writer.batch_execute(&many("t", 4_001, 5_000)).await.unwrap();
    writer.batch_execute("COMMIT").await.unwrap();
    let seen = whole(drain(&mut stream, stage.head().await).await);
    let [transaction] = &seen[..] else { panic!("{} transactions", seen.len()) };
    let ids: Vec<String> = transaction
        .changes
        .iter()
        .map(|change| match change {
            ChangeEvent::Insert { new, .. } => {
                let Some(decoders::Value::Binary(id)) = new.value(0) else { panic!("{new:?}") };
                i32::from_be_bytes(id.try_into().unwrap()).to_string()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(ids == (1..=5_000).map(|id| id.to_string()).collect::<Vec<_>>(), "{}", ids.len());
    assert!(transaction.commit_lsn > head);
}

#[tokio::test]
async fn a_running_transaction_survives_a_new_stream_14() {
    a_running_transaction_survives_a_new_stream(14).await;
}

#[tokio::test]
async fn a_running_transaction_survives_a_new_stream_18() {
    a_running_transaction_survives_a_new_stream(18).await;
}

/// The server crashes while a transaction runs: no abort is ever written for it.
#[tokio::test]
async fn a_transaction_that_a_crash_ended_leaves_nothing() {
    let mut stage = stage(17).await;
    let writer = stage.server.connect("postgres").await.unwrap();
    let spool = Arc::new(Counting::default());
    let mut stream = open(&stage, &spool, None).await;
    writer.batch_execute(&format!("BEGIN; {}", many("t", 1, 3_000))).await.unwrap();
    stage.sql("INSERT INTO u VALUES (1, 'small')").await;
    let seen = transaction(&mut stream).await.end_lsn.unwrap();
    stage.server.stop(tests::postgres::Stop::Immediate).unwrap();
    stage.server.start().unwrap();
    let stage = Stage::on(stage.server).await;
    let mut stream = open(&stage, &spool, Some(seen)).await;
    stage.sql("CHECKPOINT; INSERT INTO u VALUES (2, 'after')").await;
    let rest = drain(&mut stream, stage.head().await).await;
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].changes.len(), 1);
}

/// Parts, and `next` dropped at any await, while a transaction comes back from the spool.
#[tokio::test]
async fn dropping_next_loses_nothing_of_a_streamed_transaction() {
    let stage = stage(15).await;
    let spool = Arc::new(Counting::default());
    let mut options = stage.options();
    options.part_bytes = 64 << 10;
    options.spool = Some(Arc::clone(&spool) as Arc<dyn Spool>);
    let mut stream = PgStream::open(&stage.info, options).await.unwrap();
    stage.sql(&many("t", 1, 20_000)).await;
    let read = async {
        let mut parts: Vec<Transaction> = Vec::new();
        while parts.last().is_none_or(|part| !part.part.ends()) {
            let next = tokio::time::timeout(Duration::from_micros(200), stream.next()).await;
            if let Ok(SourceEvent::Transaction(part)) =
                next.unwrap_or(Ok(SourceEvent::Idle(decoders::Position::Lsn(Lsn::INVALID))))
            {
                parts.push(part);
            }
        }
        parts
    };
    let parts = tokio::time::timeout(DEADLINE, read).await.unwrap();
    assert!(parts.len() > 10 && parts.iter().all(|part| part.bytes < (64 << 10) + 1_000));
    let changes: usize = parts.iter().map(|part| part.changes.len()).sum();
    assert_eq!((changes, spool.puts() > 2), (20_000, true));
}

#[tokio::test]
async fn a_spool_that_fails_ends_the_stream_with_its_words() {
    let stage = stage(15).await;
    let spool = Arc::new(Counting { full_at: Some(2), ..Counting::default() });
    let mut stream = open(&stage, &spool, None).await;
    stage.sql(&many("t", 1, 20_000)).await;
    let broken = async {
        loop {
            match stream.next().await {
                Ok(SourceEvent::Transaction(_)) => panic!("it can't be whole"),
                Ok(SourceEvent::Idle(_) | SourceEvent::Handover) => {}
                Err(error) => break error,
            }
        }
    };
    let error = tokio::time::timeout(DEADLINE, broken).await.unwrap();
    assert_eq!((error.disposition, &error.message[..]), (Disposition::Retry, "the disk is full"));
    assert_eq!(error.remedy.as_deref(), Some("make room"));
    let state = decoders::postgres::slot::inspect(&stage.session, SLOT).await.unwrap().unwrap();
    assert!(!state.is_lost());
}

/// A server that can decode a transaction only when it has committed.
async fn what_the_server_cannot_stream_is_read_after_its_commit(major: u32) {
    let stage = stage(major).await;
    let spool = Arc::new(Counting::default());
    stage
        .sql(&format!(
            "BEGIN; {};
             SAVEPOINT s; ALTER TABLE t ADD COLUMN w int;
             INSERT INTO t SELECT i, repeat('x', 200), i FROM generate_series(2001, 3000) i;
             ROLLBACK TO s; {};
             ALTER TABLE t ADD COLUMN w text; INSERT INTO t VALUES (1, 'one', 'w'); COMMIT",
            many("t", 1_001, 2_000),
            many("t", 3_001, 4_000)
        ))
        .await;
    let head = stage.head().await;
    let mut stream = open(&stage, &spool, None).await;
    let failed = async {
        loop {
            match stream.next().await {
                Ok(SourceEvent::Transaction(part)) if part.part.ends() => break None,
                Ok(_) => {}
                Err(error) => break Some(error),
            }
        }
    };
    // A server that has learned it is welcome.
    if let Some(error) = tokio::time::timeout(DEADLINE, failed).await.unwrap() {
        assert_eq!(error.disposition, Disposition::Retry, "{error}");
        assert!(spool.spool.is_retired(), "{error}");
    }
    drop(stream);
    let mut stream = stage.stream().await;
    let changes: usize = drain(&mut stream, head).await.iter().map(|part| part.changes.len()).sum();
    assert_eq!(changes, 2_001);
}

#[tokio::test]
async fn what_the_server_cannot_stream_is_read_after_its_commit_14() {
    what_the_server_cannot_stream_is_read_after_its_commit(14).await;
}

#[tokio::test]
async fn what_the_server_cannot_stream_is_read_after_its_commit_18() {
    what_the_server_cannot_stream_is_read_after_its_commit(18).await;
}

/// Before PostgreSQL 14 there is nothing to stream.
#[tokio::test]
async fn an_older_server_sends_it_after_the_commit() {
    let server = Postgres::start_major(13).unwrap();
    let stage = Stage::on(server).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    let mut options = stage.options();
    options.spool = Some(Arc::new(MemorySpool::default()));
    let mut stream = PgStream::open(&stage.info, options).await.unwrap();
    assert!(!stream.is_streaming_running());
    stage.sql("INSERT INTO t VALUES (1, 'x')").await;
    assert_eq!(transaction(&mut stream).await.changes.len(), 1);
}
